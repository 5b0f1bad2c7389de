//! The pipeline's view of the kernel's tables, while one packet is handled.

use aya_ebpf::bindings::bpf_fib_lookup as FibQuery;
use aya_ebpf::maps::lpm_trie::Key as Network;
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use lb_common::backend::Backend;
use lb_common::choose::Choice;
use lb_common::family::{Address, Family, V4, V4Address, V6, V6Address};
use lb_common::filter::FilterBit;
use lb_common::flow::{Flow, FlowKey, NextHop, Phase, Tick};
use lb_common::limits::LINGER;
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::{Access, Service, ServiceId, ServiceKey};
use lb_common::source::SourceKey;
use lb_common::tables::{Full, Tables};
use lb_common::tally::{Milestone, Tally};

use crate::maps::global::{
    pglb_consider, pglb_count, pglb_has_room, pglb_least_loaded, pglb_take_port_v4,
    pglb_take_port_v6, pglb_turns, pglb_walk_ring,
};
use crate::maps::{
    self, ACCESS_V4, ACCESS_V6, BACKEND_TALLIES, BACKENDS, BPF_ANY, BPF_NOEXIST, DRAFT_V4,
    DRAFT_V6, ESTABLISHED_V4, ESTABLISHED_V6, FILTER, LINGERING, MEMBERS, PACES, Place, RINGS,
    SERVICES_V4, SERVICES_V6, SLOT_TALLIES, TRANSIENT_V4, TRANSIENT_V6, draft, find_established,
    find_lingering, find_pace, find_service, find_transient,
};
use crate::packet;
use crate::routing;

/// A family with tables of its own.
pub(crate) trait TabledFamily: Family + Sized {
    /// The family's number: `AF_INET` or `AF_INET6`.
    const NUMBER: u8;
    /// Its established flows.
    const ESTABLISHED: &'static HashMap<FlowKey<Self::Address>, Flow<Self::Address>>;
    /// Its half-open and ended flows.
    const TRANSIENT: &'static LruHashMap<FlowKey<Self::Address>, Flow<Self::Address>>;
    /// Where its flows are drafted.
    const DRAFT: &'static PerCpuArray<Flow<Self::Address>>;
    /// Its services.
    const SERVICES: &'static HashMap<ServiceKey<Self::Address>, Service>;
    /// The function that takes a port for the connection that was kept ([`maps::keep_opening`]).
    const TAKE_PORT: extern "C" fn(u32) -> u32;
    /// What the longest network of a service's access lists that holds this client says.
    fn access(service: ServiceId, client: Self::Address) -> Option<Access>;
    /// Writes both addresses into a question to the routing tables.
    fn put_addresses(query: &mut FibQuery, source: Self::Address, destination: Self::Address);
    /// Whether the receiver in a routing query is this address.
    fn is_address(words: [u32; 4], address: Self::Address) -> bool;
}

impl TabledFamily for V4 {
    const NUMBER: u8 = 2;
    const ESTABLISHED: &'static HashMap<FlowKey<V4Address>, Flow<V4Address>> = &ESTABLISHED_V4;
    const TRANSIENT: &'static LruHashMap<FlowKey<V4Address>, Flow<V4Address>> = &TRANSIENT_V4;
    const DRAFT: &'static PerCpuArray<Flow<V4Address>> = &DRAFT_V4;
    const SERVICES: &'static HashMap<ServiceKey<V4Address>, Service> = &SERVICES_V4;
    const TAKE_PORT: extern "C" fn(u32) -> u32 = pglb_take_port_v4;

    #[inline(always)]
    fn access(service: ServiceId, client: V4Address) -> Option<Access> {
        let mut data = [0; 6];
        data[..2].copy_from_slice(&service.0.to_be_bytes());
        data[2..].copy_from_slice(&client[0].to_ne_bytes());
        ACCESS_V4
            .get(Network::new(48, data))
            .copied()
            .map(Access::of)
    }

    #[inline(always)]
    fn put_addresses(query: &mut FibQuery, source: V4Address, destination: V4Address) {
        query.__bindgen_anon_3.ipv4_src = source[0];
        query.__bindgen_anon_4.ipv4_dst = destination[0];
    }

    #[inline(always)]
    fn is_address(words: [u32; 4], address: V4Address) -> bool {
        words[0] == address[0]
    }
}

impl TabledFamily for V6 {
    const NUMBER: u8 = 10;
    const ESTABLISHED: &'static HashMap<FlowKey<V6Address>, Flow<V6Address>> = &ESTABLISHED_V6;
    const TRANSIENT: &'static LruHashMap<FlowKey<V6Address>, Flow<V6Address>> = &TRANSIENT_V6;
    const DRAFT: &'static PerCpuArray<Flow<V6Address>> = &DRAFT_V6;
    const SERVICES: &'static HashMap<ServiceKey<V6Address>, Service> = &SERVICES_V6;
    const TAKE_PORT: extern "C" fn(u32) -> u32 = pglb_take_port_v6;

    #[inline(always)]
    fn access(service: ServiceId, client: V6Address) -> Option<Access> {
        let mut data = [0; 18];
        data[..2].copy_from_slice(&service.0.to_be_bytes());
        for (place, word) in data[2..].chunks_exact_mut(4).zip(client) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        ACCESS_V6
            .get(Network::new(144, data))
            .copied()
            .map(Access::of)
    }

    #[inline(always)]
    fn put_addresses(query: &mut FibQuery, source: V6Address, destination: V6Address) {
        query.__bindgen_anon_3.ipv6_src = source;
        query.__bindgen_anon_4.ipv6_dst = destination;
    }

    #[inline(always)]
    fn is_address(found: [u32; 4], address: V6Address) -> bool {
        found == address
    }
}

/// The kernel's tables.
pub(crate) struct KernelTables<'p> {
    /// The packet's context, which only the routing lookup needs.
    pub(crate) ctx: Option<&'p XdpContext>,
}

impl<F: TabledFamily> Tables<F> for KernelTables<'_> {
    type Found = Place<F::Address>;
    type Service = &'static Service;

    #[inline(always)]
    fn draft(&self, flow: impl FnOnce() -> Flow<F::Address>) -> Option<Self::Found> {
        draft(F::DRAFT, flow)
    }

    #[inline(always)]
    fn recall(&self, key: &FlowKey<F::Address>) -> Option<Self::Found> {
        find_established(F::ESTABLISHED, key)
    }

    #[inline(always)]
    fn reread(&self, flow: Self::Found) -> Self::Found {
        flow
    }

    #[inline(always)]
    fn note(&self, flow: Self::Found, last_ack: u32, now: Tick) {
        flow.note(last_ack, now);
    }

    #[inline(always)]
    fn note_next_hop(&self, flow: Self::Found, next_hop: NextHop) {
        flow.note_next_hop(next_hop);
    }

    #[inline(always)]
    fn note_fin(&self, flow: Self::Found, behind: u32) {
        flow.note_fin(behind);
    }

    #[inline(always)]
    fn note_phase(&self, flow: Self::Found, phase: Phase, memo: u32) {
        flow.note_phase(phase, memo);
    }

    #[inline(always)]
    fn disown(&self, flow: Self::Found) {
        flow.disown();
    }

    #[inline(always)]
    fn establish(&self, key: &FlowKey<F::Address>, flow: &Flow<F::Address>) -> Result<(), Full> {
        F::ESTABLISHED.insert(key, flow, BPF_ANY).map_err(|_| Full)
    }

    #[inline(always)]
    fn unestablish(&self, key: &FlowKey<F::Address>) -> bool {
        F::ESTABLISHED.remove(key).is_ok()
    }

    #[inline(always)]
    fn transient(&self, key: &FlowKey<F::Address>) -> Option<Self::Found> {
        find_transient(F::TRANSIENT, key)
    }

    #[inline(always)]
    fn remember(&self, key: &FlowKey<F::Address>, flow: &Flow<F::Address>) {
        // An LRU table always makes room; when it cannot, the client's next SYN finds nothing.
        let _ = F::TRANSIENT.insert(key, flow, BPF_ANY);
    }

    #[inline(always)]
    fn forget(&self, key: &FlowKey<F::Address>) {
        // Nothing to remove is what was wanted.
        let _ = F::TRANSIENT.remove(key);
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey<F::Address>) -> Option<&'static Service> {
        find_service(F::SERVICES, key)
    }

    #[inline(always)]
    fn claim(&self, key: &FlowKey<F::Address>, flow: &Flow<F::Address>) -> bool {
        F::TRANSIENT.insert(key, flow, BPF_NOEXIST).is_ok()
    }

    #[inline(always)]
    fn linger(&self, key: &FlowKey<F::Address>, now: Tick) {
        // In a full table the port is free at once: the backend refuses a SYN that it takes for
        // an old one, and the client's next SYN finds another port.
        let _ = LINGERING.insert(key.map(Address::widen), now, BPF_ANY);
    }

    #[inline(always)]
    fn lingers(&self, key: &FlowKey<F::Address>, now: Tick) -> bool {
        find_lingering(&key.map(Address::widen)).is_some_and(|since| now.since(since) < LINGER.0)
    }

    #[inline(always)]
    fn may_be_ours(&self, key: &FlowKey<F::Address>) -> bool {
        let has = |bit: FilterBit| {
            let word = FILTER.get(bit.word);
            word.is_none_or(|word| word & bit.bit != 0)
        };
        has(FilterBit::of_service(key.receiver())) || has(FilterBit::of_backend(key.sender()))
    }

    #[inline(always)]
    fn access(&self, service: ServiceId, client: F::Address) -> Option<Access> {
        F::access(service, client)
    }

    #[inline(always)]
    fn keeps_pace(&self, source: &SourceKey, rate: u32, now: Tick) -> bool {
        let Some(pace) = find_pace(source).step(rate, now) else {
            return false;
        };
        // An LRU table always makes room.
        let _ = PACES.insert(source, pace, BPF_ANY);
        true
    }

    #[inline(always)]
    fn source_connections(&self, source: &SourceKey) -> u64 {
        maps::count_connections(source)
    }

    #[inline(always)]
    fn count_source(&self, source: &SourceKey) {
        maps::count_source(source);
    }

    #[inline(always)]
    fn discount_source(&self, source: &SourceKey) {
        maps::discount_source(source);
    }

    #[inline(always)]
    fn ports(&self) -> (u16, u16) {
        maps::ports()
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
    fn backend(&self, id: BackendId) -> Option<Backend<F::Address>> {
        BACKENDS
            .get(u32::from(id.0))
            .map(|backend| backend.map(Address::narrow))
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
    fn keep_opening(&self, key: &FlowKey<F::Address>) {
        maps::keep_opening(key.map(Address::widen));
    }

    #[inline(always)]
    fn kept_opening(&self) -> Option<FlowKey<F::Address>> {
        maps::kept_opening().map(|key| key.map(Address::narrow))
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
    fn find_next_hop(&self, source: F::Address, destination: F::Address, next_hop: &mut NextHop) {
        if let Some(ctx) = self.ctx {
            routing::find_next_hop::<F>(ctx, source, destination, next_hop);
        }
    }

    #[inline(always)]
    fn is_aggregated(&self) -> bool {
        self.ctx.is_some_and(packet::exceeds_ingress)
    }
}
