//! What the controller does to the tables while packets come: it counts, removes what is dead, resets what is idle or
//! was killed, and forgives suspects. As the walker and `engine::recount` do it.

use std::collections::BTreeMap;

use lb_common::family::Address;
use lb_common::flow::{Direction, Flow, FlowKey, Phase, Tick};
use lb_common::member::{BackendId, Slot};
use lb_common::service::{Forwarding, ServiceId};
use lb_common::source::SourceKey;
use lb_common::tables::Tables as _;
use pglb_tests::packets::{ACK, RST};

use super::end::Bare;
use super::network::{Network, slot};
use crate::site::Kind;

/// In ticks: 40 s, 10 s and 120 s, and the 200 ms after which those are called again who may not have heard.
const OPENING_PATIENCE: u32 = 2_384;
const SUPERSEDED_PATIENCE: u32 = 596;
const IDLE_LIMIT: u32 = 7_152;
const SECOND_CALL: u32 = 12;

impl<F: Kind> Network<F> {
    /// Holds the counts against the flows, and removes and resets what no packet will end.
    pub(super) fn walk(&mut self) {
        let now = self.site.now;
        self.settle_half_open();
        for (key, flow) in self.site.tables.established_flows() {
            if !self.is_current(&flow) && now.since(flow.last_seen) > SUPERSEDED_PATIENCE {
                // The backend may not have heard of the end.
                if flow.forwarding() == Forwarding::FullNat {
                    self.site.tables.linger(&key, now);
                }
                self.site.tables.unestablish(&key);
                self.figures.removed += 1;
            }
        }
        let flows = self.site.tables.established_flows();
        let silence = |flow: &Flow<F::Address>| now.since(flow.last_seen);
        let idle = flows.iter().filter(|(key, flow)| {
            let opposite = flows.get(&flow.leaving.reversed());
            let opposite = opposite.filter(|_| flow.leaving != **key);
            flow.direction() == Direction::ToBackend
                && self.is_current(flow)
                && silence(flow).min(opposite.map_or(u32::MAX, silence)) > IDLE_LIMIT
        });
        let idle: Vec<FlowKey<F::Address>> = idle.map(|(key, _)| *key).collect();
        self.reset(&flows, &idle);
        self.check_counts();
    }

    /// A probe has found every backend well.
    pub(super) fn forgive(&mut self) {
        for number in 0..self.backends() {
            let suspicions = self
                .site
                .tables
                .slot_tally(slot(number))
                .unwrap()
                .suspicions;
            let member = self.site.tables.members.get_mut(&slot(number)).unwrap();
            member.forgiven = u32::try_from(suspicions).unwrap();
        }
    }

    /// Ends all connections of one of the backends.
    pub(super) fn kill(&mut self, number: usize) {
        let slot = slot(number % self.backends());
        self.killed = self.site.now.0;
        let flows = self.site.tables.established_flows();
        let meant = flows.iter().filter(|(_, flow)| {
            flow.slot == slot && flow.direction() == Direction::ToBackend && self.is_current(flow)
        });
        let meant: Vec<_> = meant.map(|(key, _)| *key).collect();
        self.site.tables.members.get_mut(&slot).unwrap().generation += 1;
        self.reset(&flows, &meant);
    }

    /// What is counted is what is in the tables: of each slot, each backend and the gateway.
    pub(super) fn check_counts(&self) {
        let mut found: BTreeMap<Slot, u64> = BTreeMap::new();
        for flow in self.site.tables.established_flows().values() {
            if flow.direction() == Direction::ToBackend && self.is_current(flow) {
                *found.entry(flow.slot).or_default() += 1;
            }
        }
        let mut all = 0;
        for (number, (half_open, _)) in self.half_open().into_iter().enumerate() {
            let slot = slot(number);
            let tally = self.site.tables.slot_tally(slot).unwrap();
            let member = self.site.tables.members[&slot];
            let established = tally.established - tally.ended - member.reaped;
            let expected = found.get(&slot).copied().unwrap_or(0);
            assert_eq!(established, expected, "{slot:?}: {tally:?}");
            let counted = tally.half_opened - tally.half_closed - member.half_reaped;
            assert_eq!(counted, half_open, "{slot:?}: {tally:?}");
            let of_backend = self.site.tables.backend_tally(member.backend).unwrap();
            assert_eq!(
                (of_backend.established, of_backend.ended),
                (tally.established, tally.ended)
            );
            all += tally.ended;
        }
        let gateway = self.site.tables.backend_tally(BackendId::GATEWAY).unwrap();
        assert_eq!(gateway.ended, all);
    }

    /// Has only one backend take new connections.
    pub(super) fn have_only(&mut self, backend: usize) {
        for (slot, member) in &mut self.site.tables.members {
            *member = member.eligible(usize::from(slot.index()) == backend);
        }
    }

    /// Takes what [`Self::have_only`] has let in out of the tables.
    pub(super) fn clear(&mut self) {
        for key in self.site.tables.established_flows().keys() {
            self.site.tables.unestablish(key);
        }
    }

    fn is_current(&self, flow: &Flow<F::Address>) -> bool {
        self.site.tables.generation(flow.slot) == Some(flow.generation)
    }

    /// Of each slot, the half-open connections that are alive, and the keys of those that are given up.
    fn half_open(&self) -> Vec<(u64, Vec<FlowKey<F::Address>>)> {
        let mut found = vec![(0, Vec::new()); self.backends()];
        for (key, flow) in self.site.tables.transient_flows() {
            let is_opening = match flow.phase() {
                Phase::SynSent | Phase::Refused | Phase::SynReceived => true,
                Phase::Established | Phase::Ended | Phase::Reset => false,
            };
            if !is_opening || flow.direction() == Direction::ToClient {
                continue;
            }
            let (alive, dead) = &mut found[usize::from(flow.slot.index())];
            if self.site.now.since(flow.last_seen) > OPENING_PATIENCE {
                dead.extend([key, flow.leaving.reversed()]);
            } else if self.is_current(&flow) {
                *alive += 1;
            }
        }
        found
    }

    fn settle_half_open(&mut self) {
        for (number, (alive, dead)) in self.half_open().into_iter().enumerate() {
            let slot = slot(number);
            let tally = self.site.tables.slot_tally(slot).unwrap();
            let member = self.site.tables.members.get_mut(&slot).unwrap();
            let counted = tally.half_opened - tally.half_closed - member.half_reaped;
            assert!(counted >= alive, "{slot:?}: {alive} are there, {tally:?}");
            let gone = counted - alive;
            // A kill leaves half-open ones of the older generation, which others may take the place of.
            if self.site.now.since(Tick(self.killed)) > 2 * OPENING_PATIENCE {
                assert_eq!(2 * gone, dead.len() as u64, "{slot:?}");
            }
            member.half_reaped += gone;
            let id = member.backend;
            self.reap(id, gone, 0);
            for key in &dead {
                self.site.tables.forget(key);
            }
            self.figures.removed += dead.len();
        }
    }

    fn reap(&mut self, id: BackendId, half_open: u64, established: u64) {
        for id in [id, BackendId::GATEWAY] {
            let backend = self.site.tables.backends.get_mut(&id).unwrap();
            backend.half_reaped += half_open;
            backend.reaped += established;
        }
    }

    /// Ends connections, named by their clients' flows, with an RST to each end that is known.
    fn reset(
        &mut self,
        flows: &BTreeMap<FlowKey<F::Address>, Flow<F::Address>>,
        meant: &[FlowKey<F::Address>],
    ) {
        for key in meant {
            let flow = flows[key];
            let opposite_key = flow.leaving.reversed();
            let opposite = flows.get(&opposite_key).copied();
            let member = self.site.tables.members.get_mut(&flow.slot).unwrap();
            member.reaped += 1;
            let id = member.backend;
            self.reap(id, 0, 1);
            let source = SourceKey::new(ServiceId(0), key.source.widen());
            *self.sources_reaped.entry(source).or_default() += 1;
            self.figures.reset += 1;
            self.site.tables.set_established(*key, flow.disowned());
            if let Some(opposite) = opposite {
                self.site
                    .tables
                    .set_established(opposite_key, opposite.disowned());
            }
            let answered = opposite.map_or(0, |it| it.last_ack);
            self.tell(*key, key.reversed(), flow.last_ack, answered);
            if let Some(opposite) = opposite {
                self.tell(*key, flow.leaving, opposite.last_ack, flow.last_ack);
            }
        }
    }

    /// An RST, once more, and then a question whose answer meets one.
    fn tell(
        &mut self,
        of: FlowKey<F::Address>,
        key: FlowKey<F::Address>,
        sequence: u32,
        acknowledgment: u32,
    ) {
        let owner = self.owners[&of.sender()];
        let reset = Bare {
            sequence,
            acknowledgment: 0,
            flags: RST,
            payload: 0,
        };
        let probe = Bare {
            sequence: sequence.wrapping_sub(1),
            acknowledgment,
            flags: ACK,
            payload: 0,
        };
        self.send_from_gateway(1, key, &reset, owner);
        self.send_from_gateway(SECOND_CALL, key, &reset, owner);
        self.send_from_gateway(SECOND_CALL, key, &probe, owner);
    }
}
