//! A table that forgets.

use std::collections::BTreeMap;

use lb_common::flow::{Flow, FlowKey};

/// A table that makes room by dropping the flow that was used longest ago.
#[derive(Clone, Debug)]
pub(super) struct Recent<A> {
    pub(super) flows: BTreeMap<FlowKey<A>, (Flow<A>, u64)>,
    /// The keys by the number of their last use.
    uses: BTreeMap<u64, FlowKey<A>>,
    last_use: u64,
    size: usize,
}

impl<A: Copy + Ord> Recent<A> {
    pub(super) fn with_size(size: usize) -> Self {
        Self {
            flows: BTreeMap::new(),
            uses: BTreeMap::new(),
            last_use: 0,
            size,
        }
    }

    pub(super) fn find(&mut self, key: &FlowKey<A>) -> Option<Flow<A>> {
        let (flow, _) = *self.flows.get(key)?;
        self.insert(*key, flow);
        Some(flow)
    }

    pub(super) fn has(&self, key: &FlowKey<A>) -> bool {
        self.flows.contains_key(key)
    }

    pub(super) fn insert(&mut self, key: FlowKey<A>, flow: Flow<A>) {
        self.remove(&key);
        while self.flows.len() >= self.size
            && let Some((_, oldest)) = self.uses.pop_first()
        {
            self.flows.remove(&oldest);
        }
        self.last_use += 1;
        self.uses.insert(self.last_use, key);
        self.flows.insert(key, (flow, self.last_use));
    }

    /// Removes a flow; tells whether it was there.
    pub(super) fn remove(&mut self, key: &FlowKey<A>) -> bool {
        let removed = self.flows.remove(key);
        if let Some((_, last_use)) = removed {
            self.uses.remove(&last_use);
        }
        removed.is_some()
    }
}
