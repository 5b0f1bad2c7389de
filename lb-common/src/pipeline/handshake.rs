//! The first and the last packets of a connection: its flows are in the transient table.

use super::{Arrival, Decision, Forward};
use crate::family::Family;
use crate::flow::{Direction, Flow, FlowKey, Phase};
use crate::limits::SYN_DUPLICATE;
use crate::member::BackendId;
use crate::reason::Reason;
use crate::tables::Tables;
use crate::tally::Milestone;
use crate::wire::Tcp;

impl<F: Family, T: Tables<F>> Arrival<'_, '_, F, T> {
    /// Handles a packet of a half-open or ended connection; `None` when it belongs to it no more.
    #[inline(always)]
    pub(super) fn advance(&mut self, flow: &Flow<F::Address>) -> Option<Result<Forward, Reason>> {
        let Some(generation) = self.tables.generation(flow.slot) else {
            return Some(Err(Reason::Inconsistent));
        };
        if generation != flow.generation {
            return self.supersede(flow).take();
        }
        Some(match flow.direction() {
            Direction::ToBackend => self.take_from_client(flow),
            Direction::ToClient => self.take_from_backend(flow),
        })
    }

    #[inline(always)]
    fn take_from_client(&mut self, flow: &Flow<F::Address>) -> Result<Forward, Reason> {
        if self.is_opening() {
            return self.syn_again(flow);
        }
        let is_reset = self.packet.tcp.has(Tcp::RST);
        match flow.phase() {
            Phase::SynSent | Phase::Refused | Phase::SynReceived if is_reset => self.give_up(flow),
            Phase::SynSent | Phase::Refused => return Err(Reason::UnknownSegment),
            // It took the client so long that another service's connection has the replies.
            Phase::SynReceived if self.collides(flow.slot) => return Err(Reason::ReplyCollision),
            Phase::SynReceived if self.establish(flow, Milestone::Established) => {}
            Phase::SynReceived => return Err(Reason::TableFull),
            Phase::Reset if !is_reset && !self.establish(flow, Milestone::Resumed) => {
                return Err(Reason::TableFull);
            }
            Phase::Ended | Phase::Reset | Phase::Established => {}
        }
        self.pass_on(flow)
    }

    #[inline(always)]
    fn take_from_backend(&mut self, flow: &Flow<F::Address>) -> Result<Forward, Reason> {
        let is_reset = self.packet.tcp.has(Tcp::RST);
        match flow.phase() {
            Phase::SynSent | Phase::Refused if is_reset => {
                if self.withholds_refusal(flow) {
                    return Err(Reason::RefusalWithheld);
                }
                self.give_up(flow);
            }
            Phase::SynSent if self.packet.tcp.has(Tcp::SYN | Tcp::ACK) => {
                return self.answered(flow).made();
            }
            Phase::SynReceived if is_reset => self.give_up(flow),
            Phase::Reset if !is_reset && !self.establish(flow, Milestone::Resumed) => {
                return Err(Reason::TableFull);
            }
            // Among these a challenge ACK to the SYN, from a backend that still has an older
            // connection of the same 4-tuple: the client's RST to it makes room for its next SYN.
            Phase::SynSent | Phase::Refused | Phase::SynReceived => {}
            Phase::Ended | Phase::Reset | Phase::Established => {}
        }
        self.pass_on(flow)
    }

    /// A SYN on a connection that is not established.
    #[inline(always)]
    fn syn_again(&mut self, flow: &Flow<F::Address>) -> Result<Forward, Reason> {
        let tried = match flow.phase() {
            Phase::SynSent if self.now.since(flow.last_seen) < SYN_DUPLICATE.0 => {
                return self.pass_on(flow);
            }
            Phase::SynReceived => return self.pass_on(flow),
            Phase::SynSent => {
                self.tables.suspect(flow.slot);
                flow.tried | flow.slot.bit()
            }
            Phase::Refused => flow.tried | flow.slot.bit(),
            Phase::Established | Phase::Ended | Phase::Reset => 0,
        };
        if tried != 0 {
            self.tables.count(flow.slot, Milestone::HalfClosed);
        }
        self.forget_opposite(flow);
        self.tables.forget(&self.key);
        let service = self.service(self.key.receiver())?;
        self.open(&service, tried)
    }

    /// The other flow of a half-open or ended connection, unless another connection has taken
    /// its place.
    #[inline(always)]
    fn opposite(
        &self,
        key: &FlowKey<F::Address>,
        flow: &Flow<F::Address>,
    ) -> Option<Flow<F::Address>> {
        self.tables
            .transient(key)
            .filter(|opposite| opposite.slot == flow.slot)
    }

    /// Forgets the other flow of a half-open or ended connection.
    #[inline(never)]
    pub(super) fn forget_opposite(&self, flow: &Flow<F::Address>) {
        let key = self.key.opposite(flow);
        if self.opposite(&key, flow).is_some() {
            self.tables.forget(&key);
        }
    }

    /// The backend has answered the SYN by SYN-ACK.
    #[inline(never)]
    fn answered(&mut self, flow: &Flow<F::Address>) -> Decision {
        let client_key = self.key.opposite(flow);
        if let Some(opposite) = self.tables.transient(&client_key) {
            self.tables
                .remember(&client_key, &opposite.in_phase(Phase::SynReceived));
        }
        let mut flow = flow.in_phase(Phase::SynReceived);
        flow.last_ack = self.packet.tcp.acknowledgment();
        flow.last_seen = self.now;
        let mut next_hop = flow.next_hop;
        self.look_up(&flow, &mut next_hop);
        flow.next_hop = next_hop;
        self.tables.remember(&self.key, &flow);
        Decision::of(self.forward(&flow, &next_hop))
    }

    /// Makes the backend that refused the SYN suspect, and tells whether its RST is kept from
    /// the client, because another member is left for the client's next SYN: the packet-level
    /// form of a proxy's redispatch.
    #[inline(never)]
    fn withholds_refusal(&self, flow: &Flow<F::Address>) -> bool {
        self.tables.suspect(flow.slot);
        let client_key = self.key.opposite(flow);
        let Some(opening) = self.tables.transient(&client_key) else {
            return false;
        };
        let Ok(service) = self.service(flow.rewritten) else {
            return false;
        };
        let tried = opening.tried | flow.slot.bit();
        let is_another_left = self.choose(&service, &client_key, tried).is_untried();
        if is_another_left {
            self.tables
                .remember(&client_key, &opening.in_phase(Phase::Refused));
        }
        is_another_left
    }

    /// One end has given a half-open connection up.
    #[inline(never)]
    fn give_up(&self, flow: &Flow<F::Address>) {
        let opposite_key = self.key.opposite(flow);
        if let Some(opposite) = self.opposite(&opposite_key, flow) {
            self.tables
                .remember(&opposite_key, &opposite.in_phase(Phase::Ended));
        }
        self.tables
            .remember(&self.key, &flow.in_phase(Phase::Ended));
        self.tables.count(flow.slot, Milestone::HalfClosed);
    }

    /// Moves both flows of a connection to the established table; tells whether there was room.
    #[inline(never)]
    fn establish(&self, flow: &Flow<F::Address>, milestone: Milestone) -> bool {
        if !self.tables.has_room(BackendId::GATEWAY) {
            return false;
        }
        if !self.establish_opposite(flow) {
            return false;
        }
        let mut flow = flow.in_phase(Phase::Established);
        flow.last_ack = self.packet.tcp.acknowledgment();
        flow.last_seen = self.now;
        if self.packet.tcp.has(Tcp::FIN) {
            flow = flow.with_fin();
        }
        if self.tables.establish(&self.key, &flow).is_err() {
            self.tables.unestablish(&self.key.opposite(&flow));
            return false;
        }
        self.tables.forget(&self.key);
        self.tables.count(flow.slot, milestone);
        true
    }

    /// Moves the other flow of the packet's connection to the established table.
    #[inline(never)]
    fn establish_opposite(&self, flow: &Flow<F::Address>) -> bool {
        let key = self.key.opposite(flow);
        let opposite = match self.opposite(&key, flow) {
            Some(opposite) => opposite,
            // It was pushed out of the table; all but its next hop follows from this flow.
            None => self.mirror(flow),
        };
        let has_room = self
            .tables
            .establish(&key, &opposite.in_phase(Phase::Established))
            .is_ok();
        self.tables.forget(&key);
        has_room
    }

    /// The other direction of a flow, as far as it follows from this one.
    #[inline(always)]
    pub(super) fn mirror(&self, flow: &Flow<F::Address>) -> Flow<F::Address> {
        let (direction, rewritten) = match flow.direction() {
            Direction::ToBackend => (Direction::ToClient, self.key.receiver()),
            Direction::ToClient => (Direction::ToBackend, self.key.sender()),
        };
        Flow::new(direction, rewritten, flow.slot, flow.generation, self.now)
    }
}
