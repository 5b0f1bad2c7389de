//! The tables as the pipeline sees them: BPF maps in the kernel, collections on the host.

use core::ops::Deref;

use crate::backend::Backend;
use crate::choose::{self, Choice};
use crate::family::Family;
use crate::flow::{Flow, FlowKey, NextHop, Phase, Tick};
use crate::member::{BackendId, Member, Slot};
use crate::service::{Access, Service, ServiceId, ServiceKey};
use crate::source::SourceKey;
use crate::tally::{Milestone, Tally};

/// The connection table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Everything that a decision reads or writes besides the packet.
///
/// Two connection tables: the *established* one, from which nothing is ever evicted, and the
/// *transient* one for half-open and ended connections, in which a new flow takes the place of an
/// old one when there is no room.
pub trait Tables<F: Family> {
    /// A flow in its table: to be read, and to be noted in.
    type Found: Deref<Target = Flow<F::Address>> + Copy;
    /// A service in its table.
    type Service: Deref<Target = Service> + Copy;

    /// Finds an established flow: the one lookup of an established packet.
    fn recall(&self, key: &FlowKey<F::Address>) -> Option<Self::Found>;
    /// The same, for the other flow of a packet's connection.
    fn established(&self, key: &FlowKey<F::Address>) -> Option<Self::Found> {
        self.recall(key)
    }
    /// The flow as it is now, after what has been noted; in the kernel it is the flow itself.
    fn reread(&self, flow: Self::Found) -> Self::Found;
    /// Notes a packet of the flow.
    fn note(&self, flow: Self::Found, last_ack: u32, now: Tick);
    /// Stores a newly found next hop of the flow.
    fn note_next_hop(&self, flow: Self::Found, next_hop: NextHop);
    /// Notes that the flow has sent its FIN, and the sequence number behind it.
    fn note_fin(&self, flow: Self::Found, behind: u32);
    /// Notes how far the connection of the flow has come, and what that phase needs.
    fn note_phase(&self, flow: Self::Found, phase: Phase, memo: u32);
    /// Gives the flow the generation that no member has: its next packet meets an RST.
    fn disown(&self, flow: Self::Found);
    /// Puts a half-open or ended flow into the established table too, unless another CPU has just
    /// moved it there.
    fn promote(&self, key: &FlowKey<F::Address>) -> Result<(), Full>;
    /// Puts an established flow into the transient table too.
    fn demote(&self, key: &FlowKey<F::Address>);
    /// Inserts or replaces an established flow. It is written where it is needed, here and in the
    /// next two, because the kernel has no room for it on its stack.
    fn establish(
        &self,
        key: &FlowKey<F::Address>,
        flow: impl FnOnce() -> Flow<F::Address>,
    ) -> Result<(), Full>;
    /// Removes an established flow; tells whether it was there.
    fn unestablish(&self, key: &FlowKey<F::Address>) -> bool;

    /// Finds a half-open or ended flow.
    fn transient(&self, key: &FlowKey<F::Address>) -> Option<Self::Found>;
    /// Writes a new flow where only the packet in hand sees it. There is one such place; what it
    /// holds can be noted in and sent by like any other flow, before it is in a table and after.
    fn draft(
        &self,
        key: &FlowKey<F::Address>,
        flow: impl FnOnce() -> Flow<F::Address>,
    ) -> Option<Self::Found>;
    /// Inserts the draft as a half-open flow, or in the place of one; tells whether it did.
    fn remember(&self, draft: Self::Found) -> bool;
    /// Inserts a half-open flow, in the place of `before` if that is still there; tells whether no
    /// other was. Of several CPUs that do this at the same time, one is told so.
    fn claim(
        &self,
        key: &FlowKey<F::Address>,
        before: Option<Self::Found>,
        flow: impl FnOnce() -> Flow<F::Address>,
    ) -> bool;
    /// Writes the flow of the replies beside the draft; tells whether it did.
    fn draft_reply(
        &self,
        key: &FlowKey<F::Address>,
        flow: impl FnOnce() -> Flow<F::Address>,
    ) -> bool;
    /// Inserts the draft and that of the replies, both new, and counts the half-open connection;
    /// `false`, and nothing is done, when one of them is there, or it cannot be done at once. It counts
    /// because in the kernel that waits for all that was written before, and so comes first.
    fn open(&self, draft: Self::Found) -> bool;
    /// Removes a half-open or ended flow; tells whether it was there.
    fn forget(&self, key: &FlowKey<F::Address>) -> bool;
    /// Keeps the gateway's port in `key`, that of a full-nat connection's replies, for the time
    /// that the backend may remember it.
    fn linger(&self, key: &FlowKey<F::Address>, now: Tick);
    /// Whether the gateway's port in `key` is kept.
    fn lingers(&self, key: &FlowKey<F::Address>, now: Tick) -> bool;

    /// Whether a packet with this key can be to a service or from a backend. `true` is a maybe.
    fn may_be_ours(&self, key: &FlowKey<F::Address>) -> bool;
    /// Whether a flow of either table can have this key: what a SYN asks for is most likely in neither.
    /// `true` is a maybe.
    fn may_be_known(&self, key: &FlowKey<F::Address>) -> bool;
    /// The service at a VIP and port; at port 0, one that only tells that the address is a VIP.
    fn service(&self, key: &ServiceKey<F::Address>) -> Option<Self::Service>;
    /// What the longest network of a service's access lists that holds this client says.
    fn access(&self, service: ServiceId, client: F::Address) -> Option<Access>;
    /// Counts a new connection of a client address; tells whether it stays within `rate`.
    fn keeps_pace(&self, source: &SourceKey, rate: u32, now: Tick) -> bool;
    /// The established connections of a client address.
    fn source_connections(&self, source: &SourceKey) -> u64;
    /// Counts a connection of a client address as established.
    fn count_source(&self, source: &SourceKey);
    /// Counts a connection of a client address as ended, if those of this address are counted.
    fn discount_source(&self, source: &SourceKey);
    /// The first and the last port that full-nat connections leave from.
    fn ports(&self) -> (u16, u16);
    /// The member in a slot.
    fn member(&self, slot: Slot) -> Option<Member>;
    /// The generation of the member in a slot.
    fn generation(&self, slot: Slot) -> Option<u32>;
    /// A backend, or the gateway itself.
    fn backend(&self, id: BackendId) -> Option<Backend<F::Address>>;
    /// What the kernel has counted for a slot.
    fn slot_tally(&self, slot: Slot) -> Option<Tally>;
    /// What the kernel has counted for a backend, or for the whole gateway.
    fn backend_tally(&self, id: BackendId) -> Option<Tally>;
    /// The member index at a position of a service's ring.
    fn ring(&self, service: ServiceId, position: u32) -> Option<u8>;
    /// The number of this turn of a round-robin service; each call is another turn.
    fn take_turn(&self, service: ServiceId) -> u32;
    /// The same number. The kernel's verifier knows nothing about it any more: it would follow every
    /// value that a branch has fixed from one member to the next.
    fn unfollowed(&self, number: u64) -> u64 {
        number
    }
    /// [`choose::walk_ring`]. This and the next two are part of the trait for the kernel's sake: there
    /// each is a function that the verifier checks once, not at every call.
    fn walk_ring(&self, service: ServiceId, length: u32, start: u32, tried: u32) -> Choice
    where
        Self: Sized,
    {
        choose::walk_ring(self, service, length, start, tried)
    }
    /// [`choose::least_loaded`].
    fn least_loaded(&self, service: ServiceId, members: u8, tried: u32) -> Choice
    where
        Self: Sized,
    {
        choose::least_loaded(self, service, members, tried)
    }
    /// [`choose::has_room`].
    fn has_room(&self, id: BackendId) -> bool
    where
        Self: Sized,
    {
        choose::has_room(self, id)
    }

    /// Counts a milestone of a connection for its slot, its backend and the gateway.
    fn count(&self, slot: Slot, milestone: Milestone);
    /// Makes a slot suspect and tells the controller, unless it is suspect already.
    fn suspect(&self, slot: Slot);

    /// The generation under which next hops are valid.
    fn next_hop_generation(&self) -> u32;
    /// Looks up the next hop from `source` to `destination` in the routing tables; without an
    /// interface when only the kernel can resolve it.
    fn find_next_hop(&self, source: F::Address, destination: F::Address, next_hop: &mut NextHop);
    /// Whether all packets to one receiver have the same next hop.
    fn shares_next_hops(&self) -> bool;
    /// Gives the flow the next hop of its member that is kept, if that still holds.
    fn reuse_next_hop(&self, flow: Self::Found, now: Tick) -> bool;
    /// Keeps the flow's next hop as that of its member.
    fn keep_next_hop(&self, flow: Self::Found, now: Tick);
    /// Whether the packet is several that were put together on arrival, and will be taken apart
    /// when it is sent: larger than what its own interface carries.
    fn is_aggregated(&self) -> bool;
}
