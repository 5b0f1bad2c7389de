//! The first and the last packets of a connection: its flows are in the transient table.

use super::revive::ASKED;
use super::{Arrival, Decision, Forward};
use crate::family::Family;
use crate::flow::{Direction, Flow, FlowKey, Local, Phase};
use crate::limits::{ANSWER_WINDOW, SYN_DUPLICATE};
use crate::member::BackendId;
use crate::reason::Reason;
use crate::service::Forwarding;
use crate::tables::Tables;
use crate::tally::Milestone;
use crate::wire::Tcp;

impl<F: Family, T: Tables<F>> Arrival<'_, '_, F, T> {
    /// Handles a packet of a half-open or ended connection, unless it belongs to it no more.
    #[inline(never)]
    pub(super) fn advance(&mut self, flow: T::Found) -> Decision {
        let Some(generation) = self.tables.generation(flow.slot) else {
            return Decision::of(Err(Reason::Inconsistent));
        };
        if generation != flow.generation {
            return self.supersede(flow);
        }
        match flow.direction() {
            Direction::ToBackend if self.packet.tcp.is_opening() => self.syn_again(flow),
            Direction::ToBackend => Decision::of(self.take_from_client(flow)),
            Direction::ToClient => Decision::of(self.take_from_backend(flow)),
        }
    }

    #[inline(always)]
    fn take_from_client(&mut self, flow: T::Found) -> Result<Forward, Reason> {
        let is_reset = self.packet.tcp.has(Tcp::RST);
        let flow = self.with_way(flow);
        match flow.phase() {
            Phase::SynSent | Phase::Refused | Phase::SynReceived if is_reset => {
                if self.withdraws(&flow) {
                    self.give_up(flow);
                }
            }
            // The backend's answer has not come this way, and the client has it.
            Phase::SynSent if flow.forwarding() == Forwarding::Dsr => self.complete(flow)?,
            Phase::SynSent | Phase::Refused => return Err(Reason::UnknownSegment),
            Phase::SynReceived if self.answers(&flow) => self.complete(flow)?,
            // A guess, or an answer to another SYN-ACK (RFC 9293, 3.10.7.4).
            Phase::SynReceived => return Err(Reason::UnknownSegment),
            Phase::Reset if !is_reset => self.resume(flow)?,
            Phase::Ended | Phase::Reset | Phase::Established => {}
        }
        self.send_on(flow).made()
    }

    /// Whether the client's RST is about the half-open connection: it answers what the backend has
    /// acknowledged. Another may be about what the port was used for before, whose late segments
    /// reach a client that is connecting again (RFC 9293, 3.10.7.3).
    #[inline(never)]
    fn withdraws(&self, flow: &Flow<F::Address>) -> bool {
        if flow.forwarding() == Forwarding::Dsr {
            return true;
        }
        let reply = self.opposite(&Local(flow.leaving.reversed()), flow);
        reply.is_none_or(|it| it.last_ack == self.packet.tcp.sequence())
    }

    /// Whether the packet acknowledges the backend's SYN-ACK.
    #[inline(always)]
    fn answers(&self, flow: &Flow<F::Address>) -> bool {
        let tcp = &self.packet.tcp;
        let beyond = tcp.acknowledgment().wrapping_sub(flow.memo);
        tcp.has(Tcp::ACK) && beyond < ANSWER_WINDOW
    }

    #[inline(always)]
    fn take_from_backend(&mut self, flow: T::Found) -> Result<Forward, Reason> {
        let is_reset = self.packet.tcp.has(Tcp::RST);
        if flow.phase() == Phase::Reset && self.packet.tcp.flags() & (Tcp::SYN | Tcp::RST) != 0 {
            self.hear_backend(flow);
        }
        let flow = self.with_way(self.tables.reread(flow));
        match flow.phase() {
            Phase::SynSent | Phase::Refused if is_reset => {
                if self.withholds_refusal(&flow) {
                    return Err(Reason::RefusalWithheld);
                }
                self.give_up(flow);
            }
            Phase::SynSent | Phase::SynReceived if self.packet.tcp.has(Tcp::SYN | Tcp::ACK) => {
                return self.answered(flow).made();
            }
            Phase::SynReceived if is_reset => {
                if self.takes_back(&flow) {
                    self.give_up(flow);
                }
            }
            Phase::Reset if !is_reset => self.resume(flow)?,
            // Among these a challenge ACK to the SYN, from a backend that still has an older
            // connection of the same 4-tuple: the client's RST to it makes room for its next SYN.
            Phase::SynSent | Phase::Refused | Phase::SynReceived => {
                let acknowledgment = self.packet.tcp.acknowledgment();
                self.tables.note(flow, acknowledgment, self.now);
            }
            Phase::Ended | Phase::Reset | Phase::Established => {}
        }
        self.send_on(flow).made()
    }

    /// Whether the backend's RST is about the SYN-ACK that it has sent, and not about what the port was used for
    /// before.
    #[inline(never)]
    fn takes_back(&self, flow: &Flow<F::Address>) -> bool {
        let client = self.opposite(&Local(flow.leaving.reversed()), flow);
        client.is_none_or(|it| it.memo == self.packet.tcp.sequence())
    }

    /// A SYN on a connection that is not established: it may be sent on, or open another one.
    #[inline(always)]
    fn syn_again(&mut self, flow: T::Found) -> Decision {
        if self.asks_backend(flow) {
            return self.pass_on(flow);
        }
        let tried = match flow.phase() {
            Phase::SynSent if self.now.since(flow.last_seen) < SYN_DUPLICATE.0 => {
                return self.pass_on(flow);
            }
            // The backend answers it, or takes it for a duplicate. `Established` is what another CPU is
            // moving just now.
            Phase::SynReceived | Phase::Established => return self.pass_on(flow),
            Phase::SynSent => {
                self.tables.suspect(flow.slot);
                flow.memo | flow.slot.bit()
            }
            Phase::Refused => flow.memo | flow.slot.bit(),
            Phase::Reset if flow.memo == ASKED => {
                self.tables.suspect(flow.slot);
                flow.slot.bit()
            }
            Phase::Ended | Phase::Reset => 0,
        };
        if matches!(flow.phase(), Phase::SynSent | Phase::Refused) {
            self.tables.count(flow.slot, Milestone::HalfClosed);
        }
        self.forget_opposite(&flow);
        self.tables.forget(self.key);
        Decision::none_after(tried)
    }

    /// The other flow of a half-open or ended connection, unless another connection has taken
    /// its place.
    #[inline(always)]
    pub(super) fn opposite(
        &self,
        key: &FlowKey<F::Address>,
        flow: &Flow<F::Address>,
    ) -> Option<T::Found> {
        self.tables
            .transient(key)
            .filter(|it| self.is_opposite(it, flow))
    }

    /// Whether a flow under the key of the other one is of the same connection.
    #[inline(always)]
    pub(super) fn is_opposite(&self, other: &Flow<F::Address>, flow: &Flow<F::Address>) -> bool {
        other.leaving == self.key.reversed() && other.slot == flow.slot
    }

    /// Forgets the other flow of a half-open or ended connection.
    #[inline(never)]
    pub(super) fn forget_opposite(&self, flow: &Flow<F::Address>) {
        let key = Local(flow.leaving.reversed());
        if self.opposite(&key, flow).is_some() {
            self.tables.forget(&key);
        }
    }

    /// The backend has answered the SYN by SYN-ACK.
    #[inline(never)]
    fn answered(&mut self, flow: T::Found) -> Decision {
        let expected = self.packet.tcp.sequence().wrapping_add(1);
        if let Some(client) = self.tables.transient(&Local(flow.leaving.reversed())) {
            self.tables.note_phase(client, Phase::SynReceived, expected);
        }
        self.tables.note_phase(flow, Phase::SynReceived, 0);
        self.tables
            .note(flow, self.packet.tcp.acknowledgment(), self.now);
        self.send_on(flow)
    }

    /// Makes the backend that refused the SYN suspect, and tells whether its RST is kept from
    /// the client, because another member is left for the client's next SYN: the packet-level
    /// form of a proxy's redispatch.
    #[inline(never)]
    fn withholds_refusal(&self, flow: &Flow<F::Address>) -> bool {
        self.tables.suspect(flow.slot);
        let client_key = Local(flow.leaving.reversed());
        let Some(opening) = self.tables.transient(&client_key) else {
            return false;
        };
        let Ok(service) = self.service(client_key.receiver()) else {
            return false;
        };
        let tried = opening.memo | flow.slot.bit();
        let is_another_left = self.choose(&service, &client_key, tried).is_untried();
        if is_another_left {
            self.tables
                .note_phase(opening, Phase::Refused, opening.memo);
        }
        is_another_left
    }

    /// One end has given a half-open connection up.
    #[inline(never)]
    fn give_up(&self, flow: T::Found) {
        let opposite_key = Local(flow.leaving.reversed());
        if let Some(opposite) = self.opposite(&opposite_key, &flow) {
            self.tables.note_phase(opposite, Phase::Ended, 0);
        }
        self.tables.note_phase(flow, Phase::Ended, 0);
        self.tables.count(flow.slot, Milestone::HalfClosed);
    }

    /// The client has answered the backend's SYN-ACK: the connection is established, or refused to
    /// both ends.
    #[inline(always)]
    fn complete(&self, flow: T::Found) -> Result<(), Reason> {
        let refusal = if self.is_overtaken(&flow) {
            Some(Reason::ReplyCollision)
        } else if self.exceeds_source() {
            Some(Reason::SourceLimit)
        } else if self.establish(flow, Milestone::Established) {
            None
        } else {
            Some(Reason::TableFull)
        };
        match refusal {
            Some(reason) => {
                self.disown(&flow);
                Err(reason)
            }
            None => Ok(()),
        }
    }

    /// Whether it took the client so long that another service's connection has its replies.
    #[inline(never)]
    fn is_overtaken(&self, flow: &Flow<F::Address>) -> bool {
        flow.forwarding() != Forwarding::Dsr && self.collides(&Local(flow.leaving.reversed()))
    }

    /// Whether the client's address has got its last connection while this one was half-open.
    #[inline(never)]
    fn exceeds_source(&self) -> bool {
        let Ok(service) = self.service(self.key.receiver()) else {
            return false;
        };
        self.admit_one_more(&service).take().is_some()
    }

    /// Takes a half-open connection that cannot be established from both its ends: the client's
    /// packet is answered by an RST, and so is the backend's next SYN-ACK.
    #[inline(never)]
    fn disown(&self, flow: &Flow<F::Address>) {
        let opposite_key = Local(flow.leaving.reversed());
        if let Some(opposite) = self.opposite(&opposite_key, flow) {
            self.tables.disown(opposite);
        }
        self.tables.forget(self.key);
        self.tables.count(flow.slot, Milestone::HalfClosed);
    }

    /// Moves both flows of a connection to the established table; tells whether there was room.
    /// Both ends may go on after a forged RST at the same time: then two CPUs come here at once,
    /// and the one that takes the client's flow away from where it was counts the connection.
    #[inline(never)]
    pub(super) fn establish(&self, flow: T::Found, milestone: Milestone) -> bool {
        if !self.tables.has_room(BackendId::GATEWAY) {
            return false;
        }
        let mut opposite = Move::Before;
        if flow.forwarding() != Forwarding::Dsr {
            opposite = self.establish_opposite(flow);
        }
        if opposite == Move::Missing {
            opposite = if self.is_opposite_moved(&flow) {
                Move::Before
            } else if self.establish_mirrored(flow) {
                Move::Now
            } else {
                Move::Full
            };
        }
        if opposite == Move::Full {
            return false;
        }
        let tcp = &self.packet.tcp;
        self.tables.note_phase(flow, Phase::Established, 0);
        self.tables.note(flow, tcp.acknowledgment(), self.now);
        if tcp.has(Tcp::FIN) {
            self.tables.note_fin(flow, self.packet.next_sequence());
        }
        if self.tables.promote(self.key).is_err() {
            self.unestablish_opposite(&flow);
            return false;
        }
        let is_moved = self.tables.forget(self.key);
        let is_counted = match flow.direction() {
            Direction::ToBackend => is_moved,
            Direction::ToClient => opposite == Move::Now,
        };
        if is_counted {
            self.tables.count(flow.slot, milestone);
            self.count_source(&flow);
        }
        true
    }

    #[inline(never)]
    fn unestablish_opposite(&self, flow: &Flow<F::Address>) {
        self.tables.unestablish(&Local(flow.leaving.reversed()));
    }

    /// Moves the other flow of the packet's connection to the established table.
    #[inline(never)]
    fn establish_opposite(&self, flow: T::Found) -> Move {
        let key = Local(flow.leaving.reversed());
        let Some(opposite) = self.opposite(&key, &flow) else {
            return Move::Missing;
        };
        self.tables.note_phase(opposite, Phase::Established, 0);
        let is_there = self.tables.promote(&key).is_ok();
        let is_moved = self.tables.forget(&key);
        match (is_there, is_moved) {
            (false, _) => Move::Full,
            (true, false) => Move::Before,
            (true, true) => Move::Now,
        }
    }

    /// Whether the other flow is no longer where it was because another CPU has moved it.
    #[inline(never)]
    fn is_opposite_moved(&self, flow: &Flow<F::Address>) -> bool {
        let other = self.tables.established(&Local(flow.leaving.reversed()));
        other.is_some_and(|it| self.is_opposite(&it, flow))
    }

    /// Writes the other flow when it was pushed out of the transient table: all but its next hop
    /// follows from this one. Tells whether there was room.
    #[inline(never)]
    fn establish_mirrored(&self, flow: T::Found) -> bool {
        let key = Local(flow.leaving.reversed());
        let direction = match flow.direction() {
            Direction::ToBackend => Direction::ToClient,
            Direction::ToClient => Direction::ToBackend,
        };
        let mirrored = self.tables.establish(&key, || {
            Flow::new(direction, &key, self.key.reversed(), flow.slot, self.now)
                .of_generation(flow.generation)
                .forwarded(flow.forwarding())
                .in_phase(Phase::Established)
        });
        mirrored.is_ok()
    }
}

/// What becomes of a flow that is to be established.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Move {
    /// There is no room for it.
    Full,
    /// It is not in the transient table.
    Missing,
    /// It was established already, by another CPU.
    Before,
    /// It is established now.
    Now,
}
