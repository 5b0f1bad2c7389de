//! The tables as the pipeline sees them: BPF maps in the kernel, collections on the host.

use crate::backend::Backend;
use crate::choose::{self, Choice};
use crate::family::Family;
use crate::flow::{Flow, FlowKey, NextHop, Tick};
use crate::member::{BackendId, Member, Slot};
use crate::service::{Service, ServiceId, ServiceKey};
use crate::tally::{Milestone, Tally};

/// The connection table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Everything that a decision reads or writes besides the packet.
///
/// Two connection tables: the *established* one, from which nothing is ever evicted, and the
/// *transient* one for half-open and ended connections, which forgets the flow that was used
/// longest ago when it needs room.
pub trait Tables<F: Family> {
    /// Where in the established table a flow was found.
    type Place: Copy;

    /// Finds an established flow: the one lookup of an established packet.
    fn recall(&self, key: &FlowKey<F::Address>) -> Option<(Self::Place, Flow<F::Address>)>;
    /// Notes a packet of the flow at `place`.
    fn note(&self, place: Self::Place, last_ack: u32, now: Tick);
    /// Stores a newly found next hop of the flow at `place`.
    fn note_next_hop(&self, place: Self::Place, next_hop: NextHop);
    /// Notes that the flow at `place` has sent its FIN.
    fn note_fin(&self, place: Self::Place);
    /// Inserts or replaces an established flow.
    fn establish(&self, key: &FlowKey<F::Address>, flow: &Flow<F::Address>) -> Result<(), Full>;
    /// Removes an established flow; tells whether it was there.
    fn unestablish(&self, key: &FlowKey<F::Address>) -> bool;

    /// Finds a half-open or ended flow.
    fn transient(&self, key: &FlowKey<F::Address>) -> Option<Flow<F::Address>>;
    /// Inserts or replaces a half-open or ended flow.
    fn remember(&self, key: &FlowKey<F::Address>, flow: &Flow<F::Address>);
    /// Removes a half-open or ended flow.
    fn forget(&self, key: &FlowKey<F::Address>);

    /// The service at a VIP and port.
    fn service(&self, key: &ServiceKey<F::Address>) -> Option<Service>;
    /// Whether the service's allow list names this client.
    fn is_allowed(&self, service: ServiceId, client: F::Address) -> bool;
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
    /// [`choose::consider`]. This and the next four are part of the trait for the kernel's sake:
    /// there each is a function that the verifier checks once, not at every call.
    fn consider(&self, slot: Slot, tried: u32) -> Choice
    where
        Self: Sized,
    {
        choose::consider(self, slot, tried)
    }
    /// [`choose::turns`].
    fn turns(&self, slot: Slot) -> u64
    where
        Self: Sized,
    {
        choose::turns(self, slot)
    }
    /// [`choose::walk_ring`].
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
}
