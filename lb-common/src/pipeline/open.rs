//! A SYN opens a connection: allowed, chosen, remembered, sent on.

use super::{Arrival, Decision, Forward};
use crate::choose::{Choice, choose};
use crate::family::Family;
use crate::flow::{Direction, Endpoint, Flow, FlowKey, Phase};
use crate::member::{BackendId, Slot};
use crate::reason::Reason;
use crate::service::Service;
use crate::tables::Tables;
use crate::tally::Milestone;
use crate::wire::IpHeader;

/// How long an unanswered SYN keeps its 4-tuple for itself: a few retries of its client, 4 s.
const OPENING_TICKS: u32 = 240;

impl<F: Family, T: Tables<F>> Arrival<'_, '_, F, T> {
    /// Opens a connection for a SYN; `tried` holds the members that have failed it, as bits.
    #[inline(always)]
    pub(super) fn open(&mut self, service: &Service, tried: u32) -> Result<Forward, Reason> {
        self.decide_open(service, tried).made()
    }

    #[inline(never)]
    fn decide_open(&mut self, service: &Service, tried: u32) -> Decision {
        Decision::of(self.try_open(service, tried))
    }

    #[inline(always)]
    fn try_open(&mut self, service: &Service, tried: u32) -> Result<Forward, Reason> {
        // Before anything is remembered: a SYN that goes nowhere must leave no flow behind.
        if self.packet.ip.hop_limit() <= 1 {
            return Err(Reason::HopLimit);
        }
        if service.is_restricted() && !self.tables.is_allowed(service.id, self.key.source) {
            return Err(Reason::Denied);
        }
        if !self.tables.has_room(BackendId::GATEWAY) {
            return Err(Reason::TableFull);
        }
        let first = self.choose(service, &self.key, tried);
        if !first.is_possible() {
            return Err(if service.is_holding() {
                Reason::Held
            } else {
                Reason::NoBackend
            });
        }
        if !self.collides(first.slot()) {
            return self.start(first.slot(), tried);
        }
        let second = self.choose(service, &self.key, tried | first.slot().bit());
        if second.is_untried() && !self.collides(second.slot()) {
            return self.start(second.slot(), tried);
        }
        Err(Reason::ReplyCollision)
    }

    /// Chooses a member for the client in `key`, as [`choose`] does.
    #[inline(never)]
    pub(super) fn choose(
        &self,
        service: &Service,
        key: &FlowKey<F::Address>,
        tried: u32,
    ) -> Choice {
        choose(self.tables, service, key, tried)
    }

    /// Starts the connection on the member in `slot`.
    #[inline(always)]
    fn start(&mut self, slot: Slot, tried: u32) -> Result<Forward, Reason> {
        if !self.remember_reply(slot) {
            return Err(Reason::Inconsistent);
        }
        self.remember(slot, tried).made()
    }

    /// Writes the flow of the client's packets and sends the SYN on.
    #[inline(never)]
    fn remember(&mut self, slot: Slot, tried: u32) -> Decision {
        Decision::of(self.try_remember(slot, tried))
    }

    #[inline(always)]
    fn try_remember(&mut self, slot: Slot, tried: u32) -> Result<Forward, Reason> {
        let generation = self.tables.generation(slot).ok_or(Reason::Inconsistent)?;
        let backend = self.endpoint(slot).ok_or(Reason::Inconsistent)?;
        let mut flow = Flow::new(Direction::ToBackend, backend, slot, generation, self.now);
        flow.tried = tried;
        let mut next_hop = flow.next_hop;
        self.look_up(&flow, &mut next_hop);
        flow.next_hop = next_hop;
        let sent = self.forward(&flow, &next_hop)?;
        self.tables.remember(&self.key, &flow);
        self.tables.count(slot, Milestone::HalfOpened);
        Ok(sent)
    }

    /// Writes the flow of the replies; tells whether there is a backend to reply.
    #[inline(never)]
    fn remember_reply(&self, slot: Slot) -> bool {
        let Some(generation) = self.tables.generation(slot) else {
            return false;
        };
        let Some(backend) = self.endpoint(slot) else {
            return false;
        };
        let key = FlowKey::between(backend, self.key.sender());
        let vip = self.key.receiver();
        // A dead half of an older connection may still lie there.
        self.tables.unestablish(&key);
        let reply = Flow::new(Direction::ToClient, vip, slot, generation, self.now);
        self.tables.remember(&key, &reply);
        true
    }

    #[inline(always)]
    fn endpoint(&self, slot: Slot) -> Option<Endpoint<F::Address>> {
        let member = self.tables.member(slot)?;
        let backend = self.tables.backend(member.backend)?;
        Some(backend.endpoint)
    }

    /// Whether the backend's replies to this client would look like those of a connection that
    /// the same client port has to the same backend through another service.
    #[inline(never)]
    pub(super) fn collides(&self, slot: Slot) -> bool {
        let Some(backend) = self.endpoint(slot) else {
            return true;
        };
        let reply_key = FlowKey::between(backend, self.key.sender());
        let other = match self.tables.recall(&reply_key) {
            Some((_, flow)) => flow,
            None => match self.tables.transient(&reply_key) {
                Some(flow) if self.may_go_on(&flow) => flow,
                _ => return false,
            },
        };
        other.rewritten != self.key.receiver()
            && self.tables.generation(other.slot) == Some(other.generation)
    }

    /// Whether the connection of a transient flow may yet be established.
    #[inline(always)]
    fn may_go_on(&self, flow: &Flow<F::Address>) -> bool {
        match flow.phase() {
            Phase::SynSent | Phase::SynReceived => self.now.since(flow.last_seen) < OPENING_TICKS,
            Phase::Established | Phase::Reset => true,
            Phase::Refused | Phase::Ended => false,
        }
    }
}
