//! The pipeline's view of the kernel's tables, while one packet is handled.

use aya_ebpf::maps::lpm_trie::Key as Network;
use aya_ebpf::programs::XdpContext;
use lb_common::backend::Backend;
use lb_common::choose::Choice;
use lb_common::family::V4;
use lb_common::flow::{Flow, FlowKey, NextHop, Tick};
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::{Service, ServiceId, ServiceKey};
use lb_common::tables::{Full, Tables};
use lb_common::tally::{Milestone, Tally};

use crate::maps::global::{
    pglb_consider, pglb_count, pglb_has_room, pglb_least_loaded, pglb_turns, pglb_walk_ring,
};
use crate::maps::{
    self, ALLOWED, Address, BACKEND_TALLIES, BACKENDS, BPF_ANY, ESTABLISHED, MEMBERS, Place, RINGS,
    SLOT_TALLIES, TRANSIENT, ask_routing, find_established, find_service, find_transient,
};

/// The kernel's tables.
pub(crate) struct KernelTables<'p> {
    /// The packet's context, which only the routing lookup needs.
    pub(crate) ctx: Option<&'p XdpContext>,
}

impl Tables<V4> for KernelTables<'_> {
    type Place = Place;

    #[inline(always)]
    fn recall(&self, key: &FlowKey<Address>) -> Option<(Self::Place, Flow<Address>)> {
        find_established(key)
    }

    #[inline(always)]
    fn note(&self, place: Self::Place, last_ack: u32, now: Tick) {
        place.note(last_ack, now);
    }

    #[inline(always)]
    fn note_next_hop(&self, place: Self::Place, next_hop: NextHop) {
        place.note_next_hop(next_hop);
    }

    #[inline(always)]
    fn note_fin(&self, place: Self::Place) {
        place.note_fin();
    }

    #[inline(always)]
    fn establish(&self, key: &FlowKey<Address>, flow: &Flow<Address>) -> Result<(), Full> {
        ESTABLISHED.insert(key, flow, BPF_ANY).map_err(|_| Full)
    }

    #[inline(always)]
    fn unestablish(&self, key: &FlowKey<Address>) -> bool {
        ESTABLISHED.remove(key).is_ok()
    }

    #[inline(always)]
    fn transient(&self, key: &FlowKey<Address>) -> Option<Flow<Address>> {
        find_transient(key)
    }

    #[inline(always)]
    fn remember(&self, key: &FlowKey<Address>, flow: &Flow<Address>) {
        // An LRU table always makes room; when it cannot, the client's next SYN finds nothing.
        let _ = TRANSIENT.insert(key, flow, BPF_ANY);
    }

    #[inline(always)]
    fn forget(&self, key: &FlowKey<Address>) {
        // Nothing to remove is what was wanted.
        let _ = TRANSIENT.remove(key);
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey<Address>) -> Option<Service> {
        find_service(key)
    }

    #[inline(always)]
    fn is_allowed(&self, service: ServiceId, client: Address) -> bool {
        let [s0, s1] = service.0.to_be_bytes();
        let [c0, c1, c2, c3] = client;
        ALLOWED
            .get(Network::new(48, [s0, s1, c0, c1, c2, c3]))
            .is_some()
    }

    #[inline(always)]
    fn member(&self, slot: Slot) -> Option<Member> {
        MEMBERS.get(u32::from(slot.0)).copied()
    }

    #[inline(always)]
    fn generation(&self, slot: Slot) -> Option<u32> {
        MEMBERS
            .get(u32::from(slot.0))
            .map(|member| member.generation)
    }

    #[inline(always)]
    fn backend(&self, id: BackendId) -> Option<Backend<Address>> {
        BACKENDS.get(u32::from(id.0)).copied()
    }

    #[inline(always)]
    fn slot_tally(&self, slot: Slot) -> Option<Tally> {
        SLOT_TALLIES.get(u32::from(slot.0)).copied()
    }

    #[inline(always)]
    fn backend_tally(&self, id: BackendId) -> Option<Tally> {
        BACKEND_TALLIES.get(u32::from(id.0)).copied()
    }

    #[inline(always)]
    fn ring(&self, service: ServiceId, position: u32) -> Option<u8> {
        RINGS
            .get(u32::from(service.0))?
            .get(position as usize)
            .copied()
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "turns wrap")]
    fn take_turn(&self, service: ServiceId) -> u32 {
        maps::take_turn(u32::from(service.0)) as u32
    }

    #[inline(always)]
    fn consider(&self, slot: Slot, tried: u32) -> Choice {
        Choice(pglb_consider(u32::from(slot.0), tried))
    }

    #[inline(always)]
    fn turns(&self, slot: Slot) -> u64 {
        pglb_turns(u32::from(slot.0))
    }

    #[inline(always)]
    fn walk_ring(&self, service: ServiceId, length: u32, start: u32, tried: u32) -> Choice {
        Choice(pglb_walk_ring(u32::from(service.0), length, start, tried))
    }

    #[inline(always)]
    fn least_loaded(&self, service: ServiceId, members: u8, tried: u32) -> Choice {
        Choice(pglb_least_loaded(
            u32::from(service.0),
            u32::from(members),
            tried,
        ))
    }

    #[inline(always)]
    fn has_room(&self, id: BackendId) -> bool {
        pglb_has_room(u32::from(id.0)) != 0
    }

    #[inline(always)]
    fn count(&self, slot: Slot, milestone: Milestone) {
        pglb_count(u32::from(slot.0), milestone as u32);
    }

    #[inline(always)]
    fn suspect(&self, slot: Slot) {
        maps::suspect(u32::from(slot.0));
    }

    #[inline(always)]
    fn next_hop_generation(&self) -> u32 {
        maps::next_hop_generation()
    }

    #[inline(always)]
    fn find_next_hop(&self, source: Address, destination: Address, next_hop: &mut NextHop) {
        if let Some(ctx) = self.ctx {
            let [source, destination] = [source, destination].map(u32::from_ne_bytes);
            ask_routing(ctx, source, destination, next_hop);
        }
    }
}
