//! What is counted for client addresses, held against the flows.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Result;
use lb_common::family::Address as _;
use lb_common::flow::{Flow, FlowKey};
use lb_common::service::ServiceId;
use lb_common::source::{SourceKey, SourceTally};

use super::Walker;
use crate::engine::kernel::{Address, Flows};
use crate::engine::recount::client_side;
use crate::engine::recount::sources::{Correction, settle_sources};

impl Walker {
    /// Takes ended connections from what is counted for their clients' addresses, if it is.
    pub(super) fn release_sources(&mut self, ended: &BTreeMap<SourceKey, u64>) -> Result<()> {
        for (source, connections) in ended {
            if self.tables.counts_source(source)? {
                let reaped = self.tables.source_reaped(source)?;
                self.tables
                    .set_source_reaped(source, reaped.wrapping_add(*connections))?;
            }
        }
        Ok(())
    }

    /// Holds what is counted for client addresses against the flows.
    pub(super) fn recount_sources(
        &mut self,
        counted: &BTreeMap<SourceKey, (SourceTally, u64)>,
        established: &Flows,
    ) -> Result<()> {
        let limited: HashSet<ServiceId> = self.limited_services()?;
        let mut found: BTreeMap<SourceKey, u64> = BTreeMap::new();
        let mut generations = HashMap::new();
        for (key, flow) in client_side(established) {
            if !limited.contains(&flow.slot.service()) {
                continue;
            }
            let generation = match generations.get(&flow.slot) {
                Some(generation) => *generation,
                None => self.tables.member(flow.slot)?.generation,
            };
            generations.insert(flow.slot, generation);
            if flow.generation == generation {
                *found.entry(source_of(key, flow)).or_default() += 1;
            }
        }
        for correction in settle_sources(counted, &found, &mut self.miscounted) {
            match correction {
                Correction::Reaped(source, reaped) => {
                    self.tables.set_source_reaped(&source, reaped)?;
                }
                Correction::Gone(source) => self.tables.remove_source(&source)?,
            }
        }
        Ok(())
    }

    fn limited_services(&self) -> Result<HashSet<ServiceId>> {
        let services = self.tables.services()?.into_iter();
        let limited = services.filter(|(_, service)| service.source_connections != 0);
        Ok(limited.map(|(_, service)| service.id).collect())
    }
}

/// Whose connection a flow to a backend is.
pub(super) fn source_of(key: &FlowKey<Address>, flow: &Flow<Address>) -> SourceKey {
    SourceKey::new(flow.slot.service(), key.source.widen())
}
