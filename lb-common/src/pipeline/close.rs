//! How an established connection ends: by FINs, by RST, or because it was superseded.

use super::{Arrival, Decision};
use crate::family::Family;
use crate::flow::{Direction, Flow, Phase};
use crate::reason::Reason;
use crate::tables::Tables;
use crate::tally::Milestone;
use crate::wire::Tcp;

impl<F: Family, T: Tables<F>> Arrival<'_, '_, F, T> {
    /// Handles a packet of an established connection that is more than data or an ACK.
    #[inline(never)]
    pub(super) fn turn(&mut self, place: T::Place, flow: &Flow<F::Address>) -> Decision {
        if self.packet.tcp.has(Tcp::RST) {
            self.end(flow, Phase::Reset);
        } else if self.is_opening() && flow.direction() == Direction::ToBackend {
            // A SYN on a live connection goes to its backend, which answers with a challenge
            // ACK (RFC 5961, section 4): a forged SYN cannot move a session.
            if flow.has_fin != 0 {
                // This client has closed the connection, and uses its port again.
                self.end(flow, Phase::Ended);
                return Decision::NONE;
            }
        } else {
            self.note_turn(place, flow);
        }
        Decision::of(self.pass_on(flow))
    }

    #[inline(always)]
    fn note_turn(&self, place: T::Place, flow: &Flow<F::Address>) {
        if self.packet.tcp.has(Tcp::ACK) {
            self.tables
                .note(place, self.packet.tcp.acknowledgment(), self.now);
        }
        if self.packet.tcp.has(Tcp::FIN) {
            self.tables.note_fin(place);
            let opposite = self.tables.recall(&self.key.opposite(flow));
            if opposite.is_some_and(|(_, opposite)| opposite.has_fin != 0) {
                self.end(&flow.with_fin(), Phase::Ended);
            }
        }
    }

    /// Handles a packet of a connection that was opened under an older generation of its member:
    /// an RST answers it, but for the SYN that opens the next one.
    #[inline(never)]
    pub(super) fn supersede(&mut self, flow: &Flow<F::Address>) -> Decision {
        if self.packet.tcp.has(Tcp::RST) {
            return Decision::of(Err(Reason::StrayReset));
        }
        if !self.is_opening() || flow.direction() == Direction::ToClient {
            return Decision::of(Err(Reason::Superseded));
        }
        let opposite_key = self.key.opposite(flow);
        self.tables.unestablish(&self.key);
        self.tables.forget(&self.key);
        // A superseded connection holds no reply tuple: another service's connection may have it
        // by now, and has another slot.
        if self
            .tables
            .recall(&opposite_key)
            .is_some_and(|(_, other)| other.slot == flow.slot)
        {
            self.tables.unestablish(&opposite_key);
        }
        self.forget_opposite(flow);
        Decision::NONE
    }

    /// Moves both flows of a connection out of the established table, and counts its end once
    /// even when both CPUs that serve it see it at the same time.
    #[inline(never)]
    fn end(&self, flow: &Flow<F::Address>, phase: Phase) {
        let opposite_key = self.key.opposite(flow);
        if let Some((_, opposite)) = self.tables.recall(&opposite_key) {
            self.tables
                .remember(&opposite_key, &opposite.in_phase(phase));
        }
        self.tables.remember(&self.key, &flow.in_phase(phase));
        let [here, there] = [
            self.tables.unestablish(&self.key),
            self.tables.unestablish(&opposite_key),
        ];
        let was_there = match flow.direction() {
            Direction::ToBackend => here,
            Direction::ToClient => there,
        };
        if was_there {
            self.tables.count(flow.slot, Milestone::Ended);
        }
    }
}
