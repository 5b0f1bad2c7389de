//! Next hops: where the packets of a flow go.

use crate::flow::Tick;
use crate::limits::KEPT_HOP;
use crate::wire::{EgressTags, Mac};

/// Where the next hop of a flow is, and since which state of the routing tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NextHop {
    /// The interface to send from, or 0 when the kernel has to resolve the neighbour first.
    pub interface: u32,
    /// The [`crate::gateway::Gateway::next_hop_generation`] under which it was looked up; 0 is
    /// never current.
    pub generation: u32,
    /// The next hop's MAC address.
    pub destination: Mac,
    /// The sending interface's MAC address.
    pub source: Mac,
    /// The VLAN tags to send with.
    pub tags: EgressTags,
    /// The largest IP packet in bytes that fits the way; 0 when it is not known.
    pub mtu: u16,
    /// Of the packet's own receiver (0), or of a router on the way to it (1).
    is_router: u8,
    reserved: u8,
}

/// The next hop to the member in a slot, as it was found last.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MemberHop {
    /// Where it is.
    pub next_hop: NextHop,
    /// The member's generation then: the slot may have another backend since.
    pub generation: u32,
    /// When that was.
    pub found: Tick,
}

impl MemberHop {
    /// Whether it is the one of a flow of this generation of the member, under this generation of
    /// the next hops; without a controller to raise that, it holds for [`KEPT_HOP`].
    #[inline(always)]
    pub fn is_current(&self, member: u32, next_hops: u32, now: Tick) -> bool {
        self.generation == member
            && self.next_hop.generation == next_hops
            && now.since(self.found) < KEPT_HOP.0
    }
}

impl NextHop {
    /// The same next hop, being a router or the receiver itself.
    #[inline(always)]
    pub fn by_router(self, is_router: bool) -> Self {
        Self {
            is_router: u8::from(is_router),
            ..self
        }
    }

    /// Whether it is a router, and not the packet's receiver.
    #[inline(always)]
    pub fn is_router(&self) -> bool {
        self.is_router != 0
    }
}
