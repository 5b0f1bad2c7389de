//! A connection that was reset: it may be over, or the RST was a forged one.

use super::Arrival;
use crate::family::Family;
use crate::flow::{Flow, Local, Phase};
use crate::limits::SYN_DUPLICATE;
use crate::reason::Reason;
use crate::service::Forwarding;
use crate::tables::Tables;
use crate::tally::Milestone;

/// The memo of a client's flow that was reset, when a SYN has gone to its backend since.
pub(super) const ASKED: u32 = 1;

impl<F: Family, T: Tables<F>> Arrival<'_, '_, F, T> {
    /// Whether a SYN after an RST goes to the backend of the connection that was reset: only that
    /// one knows whether the RST was forged, and then answers by a challenge ACK, with which the
    /// connection goes on (RFC 5961, section 4). If it was not, it answers by SYN-ACK.
    #[inline(never)]
    pub(super) fn asks_backend(&self, flow: T::Found) -> bool {
        if flow.phase() != Phase::Reset || flow.forwarding() == Forwarding::Dsr {
            return false;
        }
        if flow.memo == ASKED {
            // The client's SYN once more: there was no answer.
            return self.now.since(flow.last_seen) < SYN_DUPLICATE.0;
        }
        let member = self.tables.member(flow.slot);
        if !member.is_some_and(|member| member.is_eligible()) {
            return false;
        }
        self.tables.note_phase(flow, Phase::Reset, ASKED);
        self.tables.note(flow, flow.last_ack, self.now);
        true
    }

    /// The backend of a connection that was reset has been asked, and takes the SYN for that of a
    /// new one: it is half-open from now on.
    #[inline(never)]
    pub(super) fn hear_backend(&self, flow: T::Found) {
        let client = self.opposite(&Local(flow.leaving.reversed()), &flow);
        if let Some(client) = client
            && client.phase() == Phase::Reset
            && client.memo == ASKED
        {
            self.tables.note_phase(client, Phase::SynSent, 0);
            self.tables.note_phase(flow, Phase::SynSent, 0);
            self.tables.count(flow.slot, Milestone::HalfOpened);
        }
    }

    /// The ends talk on after an RST, which was a forged one; or one of them has not heard it, and
    /// the other's port belongs to another connection by now.
    #[inline(always)]
    pub(super) fn resume(&self, flow: T::Found) -> Result<(), Reason> {
        if self.is_replaced(&flow) {
            return Err(Reason::Superseded);
        }
        if self.establish(flow, Milestone::Resumed) {
            Ok(())
        } else {
            Err(Reason::TableFull)
        }
    }

    /// Whether another connection has the place of this one's other flow.
    #[inline(never)]
    fn is_replaced(&self, flow: &Flow<F::Address>) -> bool {
        let key = Local(flow.leaving.reversed());
        let other = match self.tables.established(&key) {
            Some(flow) => flow,
            None => match self.tables.transient(&key) {
                Some(flow) => flow,
                None => return false,
            },
        };
        flow.forwarding() != Forwarding::Dsr && !self.is_opposite(&other, flow)
    }
}
