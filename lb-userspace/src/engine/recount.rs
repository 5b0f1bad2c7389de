//! Keeping the counts true: what a walk of the tables finds is held against the tallies, and
//! flows that no packet will ever end are removed.

use std::collections::BTreeMap;

use lb_common::flow::{Direction, Flow, FlowKey, Phase, Tick};
use lb_common::member::{BackendId, Slot};
use lb_common::tally::{Load, Tally};

use super::Engine;
use super::effect::{Effect, Weight};
use super::event::Tallies;
use super::kernel::{Address, Flows};
use super::model::Reaped;

/// A half-open connection whose client has been silent for this long is given up: longer than
/// the pause before any but the last of Linux's six SYN retries. 40 s.
const OPENING_PATIENCE: u64 = 40_000;
/// A flow that was superseded is kept this long, so that late packets get their RST. 10 s.
const SUPERSEDED_PATIENCE: u64 = 10_000;

impl Engine {
    /// Corrects the counts by a walk, and removes what is dead.
    ///
    /// Connections open and close while the walk goes on, so only a difference that was there at
    /// the last walk as well is believed.
    pub(super) fn recount(
        &mut self,
        established: &Flows,
        transient: &Flows,
        now: Tick,
        before: &Tallies,
        effects: &mut Vec<Effect>,
    ) {
        let generations: BTreeMap<Slot, u32> = self
            .services
            .iter()
            .flat_map(|service| &service.members)
            .map(|member| (member.slot, member.generation))
            .collect();
        let is_current =
            |flow: &Flow<Address>| generations.get(&flow.slot) == Some(&flow.generation);
        let mut found: BTreeMap<Slot, (u64, u64)> = BTreeMap::new();
        let mut dead = Vec::new();
        for (key, flow) in client_side(transient) {
            let age = Tick::milliseconds(now.since(flow.last_seen));
            let is_opening = match flow.phase() {
                Phase::SynSent | Phase::Refused | Phase::SynReceived => true,
                Phase::Established | Phase::Ended | Phase::Reset => false,
            };
            if is_opening && age > OPENING_PATIENCE {
                dead.extend([*key, flow.leaving.reversed()]);
            } else if is_opening && is_current(flow) {
                found.entry(flow.slot).or_default().0 += 1;
            }
        }
        let (mut superseded, mut idle) = (Vec::new(), Vec::new());
        for (key, flow) in established {
            if !is_current(flow) {
                let age = Tick::milliseconds(now.since(flow.last_seen));
                if age > SUPERSEDED_PATIENCE {
                    superseded.push((*key, flow.forwarding()));
                }
            } else if flow.direction() == Direction::ToBackend {
                found.entry(flow.slot).or_default().1 += 1;
                if self.is_idle(key, flow, established, now) {
                    idle.push(*key);
                }
            }
        }
        self.correct(&found, before);
        self.balance();
        if !idle.is_empty() {
            let text = format!("{} connections are idle for too long: reset", idle.len());
            effects.push(Effect::Tell(Weight::Info, text));
            effects.push(Effect::ResetFlows(idle));
        }
        if !dead.is_empty() || !superseded.is_empty() {
            effects.push(Effect::Remove {
                established: superseded,
                transient: dead,
            });
        }
    }

    /// Whether both ends of a connection have been silent for longer than its service allows.
    fn is_idle(
        &self,
        key: &FlowKey<Address>,
        flow: &Flow<Address>,
        established: &Flows,
        now: Tick,
    ) -> bool {
        let id = flow.slot.service();
        let service = self.services.iter().find(|service| service.id == id);
        let Some(limit) = service.and_then(|service| service.config.idle_limit) else {
            return false;
        };
        let silence = |flow: &Flow<Address>| Tick::milliseconds(now.since(flow.last_seen));
        let opposite = established.get(&flow.leaving.reversed());
        let opposite = opposite.filter(|_| flow.leaving != *key);
        let shortest = silence(flow).min(opposite.map_or(u64::MAX, silence));
        u128::from(shortest) > limit.as_millis()
    }

    /// Lets the counts of rows that have just been taken over begin at nothing: what is open in
    /// them by the tally was somebody else's.
    pub(super) fn count_from_here(&mut self) {
        let open = |tally: &Tally| Reaped {
            half_open: tally.half_opened.saturating_sub(tally.half_closed),
            established: tally.established.saturating_sub(tally.ended),
        };
        for backend in self.backends.iter_mut().filter(|backend| backend.is_fresh) {
            if let Some(tally) = self.tallies.backends.get(&backend.id) {
                backend.reaped = open(tally);
                backend.is_fresh = false;
            }
        }
        let members = self.services.iter_mut().flat_map(|it| &mut it.members);
        for member in members.filter(|member| member.is_fresh) {
            if let Some(tally) = self.tallies.slots.get(&member.slot) {
                member.reaped = open(tally);
                member.is_fresh = false;
            }
        }
    }

    fn correct(&mut self, found: &BTreeMap<Slot, (u64, u64)>, before: &Tallies) {
        let mut corrections = Vec::new();
        for member in self
            .services
            .iter_mut()
            .flat_map(|service| &mut service.members)
        {
            let slot = member.slot;
            let (Some(before), Some(after)) =
                (before.slots.get(&slot), self.tallies.slots.get(&slot))
            else {
                continue;
            };
            let (half_open, established) = found.get(&slot).copied().unwrap_or_default();
            let Reaped {
                half_open: half_reaped,
                established: reaped,
            } = member.reaped;
            let now = Error {
                half_open: error(
                    before
                        .half_opened
                        .saturating_sub(before.half_closed + half_reaped),
                    after.half_opened.saturating_sub(before.half_opened),
                    after.half_closed.saturating_sub(before.half_closed),
                    half_open,
                ),
                established: error(
                    before.established.saturating_sub(before.ended + reaped),
                    after.established.saturating_sub(before.established),
                    after.ended.saturating_sub(before.ended),
                    established,
                ),
            };
            let believed = now.common_with(member.miscounted);
            member.miscounted = now;
            if believed != Error::default() {
                member.miscounted = Error::default();
                corrections.push((slot, believed));
            }
        }
        for (slot, error) in corrections {
            self.reap(slot, error);
        }
    }

    /// Corrects the counts of backends and of the gateway by those of their slots, which have been
    /// held against the flows themselves.
    fn balance(&mut self) {
        let members = self.services.iter().flat_map(|service| &service.members);
        let loads: Vec<(usize, Load)> = members.map(|it| (it.backend, self.load(it))).collect();
        for (place, backend) in self.backends.iter_mut().enumerate() {
            if let Some(tally) = self.tallies.backends.get(&backend.id) {
                let own = loads
                    .iter()
                    .filter(|(of, _)| *of == place)
                    .map(|(_, load)| load);
                settle(tally, own, &mut backend.reaped, &mut backend.miscounted);
            }
        }
        if let Some(tally) = self.tallies.backends.get(&BackendId::GATEWAY) {
            let all = loads.iter().map(|(_, load)| load);
            settle(tally, all, &mut self.reaped, &mut self.miscounted);
        }
    }
}

/// Takes what a count has too many by the loads it consists of, as it had at the last walk.
fn settle<'l>(
    tally: &Tally,
    parts: impl Iterator<Item = &'l Load> + Clone,
    reaped: &mut Reaped,
    miscounted: &mut Error,
) {
    let whole = Load::of(tally, reaped.half_open, reaped.established);
    let now = Error {
        half_open: surplus(whole.half_open, parts.clone().map(|it| it.half_open).sum()),
        established: surplus(whole.established, parts.map(|it| it.established).sum()),
    };
    let believed = now.common_with(*miscounted);
    reaped.add(believed);
    *miscounted = if believed == Error::default() {
        now
    } else {
        Error::default()
    };
}

/// How many connections the tallies have too many, negative for too few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Error {
    /// Half-open ones.
    pub half_open: i64,
    /// Established ones.
    pub established: i64,
}

impl Error {
    /// The part of the error that was there at the last walk as well.
    fn common_with(self, last: Self) -> Self {
        let common = |now: i64, last: i64| {
            if now.signum() == last.signum() {
                now.signum() * now.abs().min(last.abs())
            } else {
                0
            }
        };
        Self {
            half_open: common(self.half_open, last.half_open),
            established: common(self.established, last.established),
        }
    }
}

/// The part of the difference between the count and what was found that connections which came
/// or went during the walk cannot explain.
fn error(counted: u64, came: u64, went: u64, found: u64) -> i64 {
    surplus(counted.saturating_sub(found.saturating_add(went)), 0)
        - surplus(found.saturating_sub(counted.saturating_add(came)), 0)
}

/// By how much a number is larger than another.
fn surplus(whole: u64, parts: u64) -> i64 {
    i64::try_from(i128::from(whole) - i128::from(parts)).unwrap_or(i64::MAX)
}

/// The flows of a table that go to a backend: one for each connection.
pub fn client_side(flows: &Flows) -> impl Iterator<Item = (&FlowKey<Address>, &Flow<Address>)> {
    flows
        .iter()
        .filter(|(_, flow)| flow.direction() == Direction::ToBackend)
}

pub mod sources;
#[cfg(test)]
mod tests;
