//! The way of a packet whose flow does not know it, or knew it before routes changed.

use super::{Arrival, Decision, forward};
use crate::family::Family;
use crate::flow::{Direction, NextHop};
use crate::service::Forwarding;
use crate::tables::Tables;

impl<F: Family, T: Tables<F>> Arrival<'_, '_, F, T> {
    /// Sends the packet on as one of `flow`, which stays as it is.
    #[inline(always)]
    pub(super) fn pass_on(&mut self, flow: T::Found) -> Decision {
        let flow = self.with_way(flow);
        self.send_on(flow)
    }

    /// The flow, with its way. It is still in its table, or not yet in one: a place that it has left
    /// may be another's, whose way this must not become.
    #[inline(always)]
    pub(super) fn with_way(&self, flow: T::Found) -> T::Found {
        if flow.next_hop.generation == self.tables.next_hop_generation() {
            flow
        } else {
            if !self.takes_kept_way(flow) {
                self.look_up(flow);
            }
            self.tables.reread(flow)
        }
    }

    /// Gives the flow the way that another one to the same member has, if that is kept.
    #[inline(always)]
    fn takes_kept_way(&self, flow: T::Found) -> bool {
        self.shares_ways(flow) && self.tables.reuse_next_hop(flow, self.now)
    }

    /// Whether the flow goes the same way as all others to its member.
    #[inline(always)]
    fn shares_ways(&self, flow: T::Found) -> bool {
        flow.direction() == Direction::ToBackend && self.tables.shares_next_hops()
    }

    #[inline(never)]
    pub(super) fn send_on(&mut self, flow: T::Found) -> Decision {
        Decision::of(forward(self.tables, self.packet, &flow, &flow.next_hop))
    }

    /// Finds the next hop of the flow's packets, as the routing tables have it now.
    #[inline(never)]
    fn look_up(&self, flow: T::Found) {
        let mut receiver = flow.leaving.destination;
        if flow.forwarding() == Forwarding::Dsr
            && let Some(backend) = self.endpoint(flow.slot)
        {
            receiver = backend.address;
        }
        let mut next_hop = NextHop::default();
        self.tables
            .find_next_hop(flow.leaving.source, receiver, &mut next_hop);
        // A router would send the packet to the VIP, back to here.
        if flow.forwarding() == Forwarding::Dsr && next_hop.is_router() {
            next_hop.interface = 0;
        }
        self.tables.note_next_hop(flow, next_hop);
        // Routers may share the work by whose packets they are (ECMP).
        if self.shares_ways(flow) && !next_hop.is_router() {
            self.tables.keep_next_hop(flow, self.now);
        }
    }
}
