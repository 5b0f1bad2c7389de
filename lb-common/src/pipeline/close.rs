//! How an established connection ends: by FINs, by RST, or because it was superseded.

use super::{Arrival, Decision};
use crate::family::Family;
use crate::flow::{Direction, Flow, Local, Phase};
use crate::reason::Reason;
use crate::service::Forwarding;
use crate::tables::Tables;
use crate::tally::Milestone;
use crate::wire::Tcp;

impl<F: Family, T: Tables<F>> Arrival<'_, '_, F, T> {
    /// Handles a packet of an established connection that is more than data or an ACK.
    ///
    /// It is sent on first: where the flow lies may be another's as soon as the flow is taken out. A
    /// packet that cannot be sent changes nothing; its receiver does not hear of it either.
    #[inline(never)]
    pub(super) fn turn(&mut self, flow: T::Found) -> Decision {
        let decision = self.pass_on(flow);
        if decision.made().is_err() {
            return decision;
        }
        if self.packet.tcp.has(Tcp::RST) {
            self.end(flow, Phase::Reset);
            // A forged RST leaves the backend's end open.
            self.linger(&flow);
        } else if self.packet.tcp.is_opening() && flow.direction() == Direction::ToBackend {
            // A SYN on a live connection goes to its backend, which answers with a challenge
            // ACK (RFC 5961, section 4): a forged SYN cannot move a session. Nor can a late one end
            // a connection that its client has half closed; if it is a client's that has forgotten
            // all about it, its RST to that answer makes room.
        } else {
            self.note_turn(flow);
        }
        decision
    }

    #[inline(always)]
    fn note_turn(&self, flow: T::Found) {
        let tcp = &self.packet.tcp;
        if tcp.has(Tcp::ACK) {
            self.tables.note(flow, tcp.acknowledgment(), self.now);
        }
        if !tcp.has(Tcp::FIN) {
            return;
        }
        self.tables.note_fin(flow, self.packet.next_sequence());
        if flow.forwarding() == Forwarding::Dsr {
            // The backend's FIN does not come this way.
            self.end(flow, Phase::Ended);
            return;
        }
        let opposite_key = Local(flow.leaving.reversed());
        let Some(opposite) = self.tables.established(&opposite_key) else {
            return;
        };
        if opposite.has_fin == 0 {
            return;
        }
        // Whoever closes first remembers the connection (TIME_WAIT). The client did, if this is
        // the backend's FIN and acknowledges the client's.
        let is_client_first =
            flow.direction() == Direction::ToClient && tcp.acknowledgment() == opposite.memo;
        self.end(flow, Phase::Ended);
        if is_client_first {
            return;
        }
        self.linger(&flow);
    }

    /// Keeps a full-nat connection's port for as long as its backend may remember it.
    #[inline(never)]
    fn linger(&self, flow: &Flow<F::Address>) {
        if flow.forwarding() == Forwarding::FullNat {
            match flow.direction() {
                Direction::ToBackend => self
                    .tables
                    .linger(&Local(flow.leaving.reversed()), self.now),
                Direction::ToClient => self.tables.linger(self.key, self.now),
            }
        }
    }

    /// Handles a packet of a connection that was opened under an older generation of its member:
    /// an RST answers it, but for the SYN that opens the next one.
    #[inline(never)]
    pub(super) fn supersede(&mut self, flow: T::Found) -> Decision {
        if self.packet.tcp.has(Tcp::RST) {
            // In dsr it is how the backend hears of the end: its answers to the reset go to the
            // client, which knows of no connection any more.
            return if flow.forwarding() == Forwarding::Dsr {
                self.pass_on(flow)
            } else {
                Decision::of(Err(Reason::StrayReset))
            };
        }
        if !self.packet.tcp.is_opening() || flow.direction() == Direction::ToClient {
            return Decision::of(Err(Reason::Superseded));
        }
        self.tables.unestablish(self.key);
        self.tables.forget(self.key);
        self.unestablish_own(&flow);
        self.forget_opposite(&flow);
        self.linger(&flow);
        Decision::NONE
    }

    /// Takes the other flow of a superseded connection from the established ones. Such a connection
    /// holds no reply tuple: another service's connection may have it by now, and has another slot.
    #[inline(never)]
    fn unestablish_own(&self, flow: &Flow<F::Address>) {
        let key = Local(flow.leaving.reversed());
        let other = self.tables.established(&key);
        if other.is_some_and(|other| other.slot == flow.slot) {
            self.tables.unestablish(&key);
        }
    }

    /// Moves both flows of a connection out of the established table, and counts its end once
    /// even when both CPUs that serve it see it at the same time.
    #[inline(never)]
    fn end(&self, flow: T::Found, phase: Phase) {
        let opposite_key = Local(flow.leaving.reversed());
        let (slot, direction) = (flow.slot, flow.direction());
        if let Some(opposite) = self.tables.established(&opposite_key) {
            self.tables.note_phase(opposite, phase, 0);
            self.tables.demote(&opposite_key);
        }
        self.tables.note_phase(flow, phase, 0);
        self.tables.demote(self.key);
        let [here, there] = [
            self.tables.unestablish(self.key),
            self.tables.unestablish(&opposite_key),
        ];
        let was_there = match direction {
            Direction::ToBackend => here,
            Direction::ToClient => there,
        };
        if was_there {
            self.tables.count(slot, Milestone::Ended);
            self.discount_source(&flow);
        }
    }
}
