//! A SYN opens a connection: allowed, chosen, remembered, sent on.

use super::{Arrival, Decision, Opening};
use crate::choose::{self, Choice, choose};
use crate::family::Family;
use crate::flow::{Direction, Endpoint, Flow, FlowKey, Local};
use crate::member::{BackendId, Slot};
use crate::port::is_own;
use crate::reason::Reason;
use crate::service::{Forwarding, Service};
use crate::tables::Tables;
use crate::tally::Milestone;
use crate::wire::IpHeader;

impl<F: Family, T: Tables<F>> Arrival<'_, '_, F, T> {
    /// Opens a connection for a SYN; `tried` holds the members that have failed it, as bits.
    #[inline(never)]
    pub(super) fn open(&mut self, tried: u32) -> Decision {
        let service = match self.service(self.key.receiver()) {
            Ok(service) => service,
            Err(reason) => return Decision::of(Err(reason)),
        };
        // Before anything is remembered: a SYN that goes nowhere must leave no flow behind.
        if self.packet.ip.hop_limit() <= 1 {
            return Decision::of(Err(Reason::HopLimit));
        }
        if service.is_selective() {
            let refusal = self.admit(&service);
            if refusal != Decision::NONE {
                return refusal;
            }
        }
        if !choose::has_room(self.tables, BackendId::GATEWAY) {
            return Decision::of(Err(Reason::TableFull));
        }
        let first = choose(self.tables, &service, self.key, tried);
        if !first.is_possible() {
            return Decision::of(Err(if service.is_holding() {
                Reason::Held
            } else {
                Reason::NoBackend
            }));
        }
        match service.forwarding() {
            Forwarding::FullNat => {
                return Decision::needing_port(first.slot(), tried);
            }
            Forwarding::Dsr => return self.start(first.slot(), Forwarding::Dsr, 0, tried),
            Forwarding::Nat => {}
        }
        if let Some(draft) = self.draft_both(first.slot(), tried)
            && self.tables.open(draft)
        {
            return self.send_on(draft);
        }
        if self.remember_reply(first.slot()) {
            return self.start(first.slot(), Forwarding::Nat, 0, tried);
        }
        let second = self.choose(&service, self.key, tried | first.slot().bit());
        if second.is_untried() && self.remember_reply(second.slot()) {
            return self.start(second.slot(), Forwarding::Nat, 0, tried);
        }
        Decision::of(Err(Reason::ReplyCollision))
    }

    /// Opens a full-nat connection from the port that has been taken for it; 0 is none.
    #[inline(always)]
    pub(super) fn open_from_port(&mut self, opening: Opening, port: u16) -> Decision {
        let Opening { slot, tried } = opening;
        if port == 0 {
            return Decision::of(Err(Reason::NoPort));
        }
        self.start(slot, Forwarding::FullNat, port, tried)
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

    /// Starts the connection on the member in `slot`, whose replies have their flow; `port` is the
    /// gateway's in full-nat.
    #[inline(never)]
    fn start(&mut self, slot: Slot, forwarding: Forwarding, port: u16, tried: u32) -> Decision {
        match self.remember(slot, forwarding, port, tried) {
            Some(draft) => self.send_first(draft),
            None => Decision::of(Err(Reason::Inconsistent)),
        }
    }

    /// Drafts both flows of a nat connection, if nothing is in their way, nor in that of the SYN, since
    /// it is counted when they are inserted; returns the draft of the client's. It does not insert
    /// them, because the kernel's stack has no room for that function below this one.
    #[inline(never)]
    fn draft_both(&self, slot: Slot, tried: u32) -> Option<T::Found> {
        let member = self.tables.member(slot)?;
        let backend = self.tables.backend(member.backend)?.endpoint();
        let reply_key = Local(FlowKey::between(backend, self.key.sender()));
        if self.tables.may_be_known(&reply_key) && self.tables.established(&reply_key).is_some() {
            return None;
        }
        let flow = || {
            let leaving = FlowKey::between(self.key.sender(), backend);
            Flow::new(Direction::ToBackend, self.key, leaving, slot, self.now)
                .of_generation(member.generation)
                .with_memo(tried)
        };
        let draft = self.with_way(self.tables.draft(self.key, flow)?);
        let mtu = u32::from(draft.next_hop.mtu);
        if mtu != 0 && self.packet.ip.total_length() > mtu {
            return None;
        }
        let reply = || self.reply(&reply_key, slot, member.generation);
        self.tables.draft_reply(&reply_key, reply).then_some(draft)
    }

    /// Writes the flow of the client's packets, if there is a backend to send them to; returns its
    /// draft. `port` is the gateway's in full-nat.
    #[inline(always)]
    fn remember(
        &self,
        slot: Slot,
        forwarding: Forwarding,
        port: u16,
        tried: u32,
    ) -> Option<T::Found> {
        let member = self.tables.member(slot)?;
        let backend = self.tables.backend(member.backend)?;
        let draft = self.tables.draft(self.key, || {
            let leaving = match forwarding {
                Forwarding::Nat => FlowKey::between(self.key.sender(), backend.endpoint()),
                Forwarding::FullNat => {
                    let gateway = Endpoint {
                        address: backend.gateway,
                        port: port.to_be_bytes(),
                    };
                    FlowKey::between(gateway, backend.endpoint())
                }
                Forwarding::Dsr => *self.key,
            };
            Flow::new(Direction::ToBackend, self.key, leaving, slot, self.now)
                .of_generation(member.generation)
                .forwarded(forwarding)
                .with_memo(tried)
        })?;
        let draft = self.with_way(draft);
        self.tables.remember(draft).then_some(draft)
    }

    /// Sends the SYN of the flow that was just written, by its draft: its entry, in memory that no
    /// cache holds, is waited for by whoever reads it. A SYN that cannot be sent leaves no flow of the
    /// client's behind.
    #[inline(always)]
    fn send_first(&mut self, draft: T::Found) -> Decision {
        let decision = self.send_on(draft);
        if decision.made().is_ok() {
            self.tables.count(draft.slot, Milestone::HalfOpened);
        } else {
            self.tables.forget(self.key);
        }
        decision
    }

    /// Writes the flow of the replies of a nat connection; tells whether they can be told from
    /// those of another one.
    #[inline(never)]
    fn remember_reply(&self, slot: Slot) -> bool {
        let Some(backend) = self.endpoint(slot) else {
            return false;
        };
        let reply_key = Local(FlowKey::between(backend, self.key.sender()));
        if self.is_reply_established(&reply_key) {
            return false;
        }
        self.write_reply(&reply_key, slot)
    }

    #[inline(never)]
    fn write_reply(&self, reply_key: &FlowKey<F::Address>, slot: Slot) -> bool {
        let Some(generation) = self.tables.generation(slot) else {
            return false;
        };
        let before = self.tables.transient(reply_key);
        if before.is_some_and(|before| self.is_awaited(&before)) {
            return false;
        }
        let reply = || self.reply(reply_key, slot, generation);
        self.tables.claim(reply_key, before, reply) || is_own(self.tables, self.key, reply_key)
    }

    /// The flow of the replies of a nat connection.
    #[inline(always)]
    fn reply(
        &self,
        reply_key: &FlowKey<F::Address>,
        slot: Slot,
        generation: u32,
    ) -> Flow<F::Address> {
        let leaving = self.key.reversed();
        Flow::new(Direction::ToClient, reply_key, leaving, slot, self.now).of_generation(generation)
    }

    /// Whether replies under `reply_key` would look like those of another connection of the same
    /// client port to the same backend, which it has through another service.
    #[inline(never)]
    pub(super) fn collides(&self, reply_key: &FlowKey<F::Address>) -> bool {
        // Another CPU may just have established this very connection: nothing is removed here.
        self.tables
            .established(reply_key)
            .is_some_and(|other| self.is_held(&other))
            || self
                .tables
                .transient(reply_key)
                .is_some_and(|other| self.is_awaited(&other))
    }

    /// Whether the other connection is established. The dead half of an older one that still lies
    /// there is removed.
    #[inline(never)]
    fn is_reply_established(&self, reply_key: &FlowKey<F::Address>) -> bool {
        let Some(other) = self.tables.established(reply_key) else {
            return false;
        };
        let is_held = self.is_held(&other);
        if !is_held {
            self.tables.unestablish(reply_key);
        }
        is_held
    }

    /// Whether the replies that this half-open or ended flow is for may yet come, to another
    /// connection.
    #[inline(always)]
    fn is_awaited(&self, other: &Flow<F::Address>) -> bool {
        other.may_go_on(self.now) && self.is_held(other)
    }

    /// Whether the replies that this flow is for are those of a living connection, and not of the
    /// packet's own.
    #[inline(always)]
    fn is_held(&self, other: &Flow<F::Address>) -> bool {
        let generation = self.tables.generation(other.slot);
        other.leaving != self.key.reversed() && generation.is_some_and(|it| it == other.generation)
    }
}
