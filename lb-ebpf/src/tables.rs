//! The pipeline's view of the kernel's tables, while one packet is handled.

use aya_ebpf::programs::XdpContext;
use lb_common::backend::Backend;
use lb_common::choose::Choice;
use lb_common::family::Address;
use lb_common::filter::FilterBit;
use lb_common::flow::{Flow, FlowKey, MemberHop, NextHop, Phase, Tick};
use lb_common::limits::LINGER;
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::{Access, Service, ServiceId, ServiceKey};
use lb_common::source::SourceKey;
use lb_common::tables::{Full, Tables};
use lb_common::tally::{Milestone, Tally};

use crate::family::TabledFamily;
use crate::maps::flows::{
    claim, copy, draft, draft_reply, find, insert, insert_both_drafted, insert_drafted, look_up,
    may_hold, remove,
};
use crate::maps::global::{pglb_count, pglb_has_room, pglb_least_loaded, pglb_walk_ring};
use crate::maps::rows::{self, find_lingering, find_pace, keys};
use crate::maps::{
    BACKEND_TALLIES, BACKENDS, BPF_ANY, FILTER, Keys, LINGERING, MEMBER_HOPS, MEMBERS, PACES,
    Place, RINGS, SLOT_TALLIES, row,
};
use crate::packet;
use crate::routing;

/// The key of a client address where the kernel takes it from.
#[inline(always)]
fn in_hand(source: &SourceKey) -> Option<&'static SourceKey> {
    let place = &mut keys()?.source;
    *place = *source;
    Some(place)
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
    fn recall(&self, key: &FlowKey<F::Address>) -> Option<Self::Found> {
        find::<F::Established>(key)
    }

    #[inline(always)]
    fn established(&self, key: &FlowKey<F::Address>) -> Option<Self::Found> {
        look_up::<F::Established>(key)
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
    fn promote(&self, key: &FlowKey<F::Address>) -> Result<(), Full> {
        if copy::<F::Transient, F::Established>(key) {
            Ok(())
        } else {
            Err(Full)
        }
    }

    #[inline(always)]
    fn demote(&self, key: &FlowKey<F::Address>) {
        copy::<F::Established, F::Transient>(key);
    }

    #[inline(always)]
    fn establish(
        &self,
        key: &FlowKey<F::Address>,
        flow: impl FnOnce() -> Flow<F::Address>,
    ) -> Result<(), Full> {
        if insert::<F::Established>(key, flow) {
            Ok(())
        } else {
            Err(Full)
        }
    }

    #[inline(always)]
    fn unestablish(&self, key: &FlowKey<F::Address>) -> bool {
        remove::<F::Established>(key)
    }

    #[inline(always)]
    fn transient(&self, key: &FlowKey<F::Address>) -> Option<Self::Found> {
        look_up::<F::Transient>(key)
    }

    #[inline(always)]
    fn draft(
        &self,
        key: &FlowKey<F::Address>,
        flow: impl FnOnce() -> Flow<F::Address>,
    ) -> Option<Self::Found> {
        draft::<F::Transient>(key, flow)
    }

    #[inline(always)]
    fn remember(&self, _: Self::Found) -> bool {
        insert_drafted::<F::Transient>()
    }

    #[inline(always)]
    fn draft_reply(
        &self,
        key: &FlowKey<F::Address>,
        flow: impl FnOnce() -> Flow<F::Address>,
    ) -> bool {
        draft_reply::<F::Transient>(key, flow)
    }

    #[inline(always)]
    fn open(&self, _: Self::Found) -> bool {
        insert_both_drafted::<F::Transient>()
    }

    #[inline(always)]
    fn forget(&self, key: &FlowKey<F::Address>) -> bool {
        remove::<F::Transient>(key)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey<F::Address>) -> Option<&'static Service> {
        F::service(key)
    }

    #[inline(always)]
    fn claim(
        &self,
        key: &FlowKey<F::Address>,
        before: Option<Self::Found>,
        flow: impl FnOnce() -> Flow<F::Address>,
    ) -> bool {
        claim::<F::Transient>(key, before, flow)
    }

    #[inline(always)]
    fn linger(&self, key: &FlowKey<F::Address>, now: Tick) {
        // In a full table the port is free at once: the backend refuses a SYN that it takes for
        // an old one, and the client's next SYN finds another port.
        if let Some(Keys { lingering, .. }) = keys() {
            *lingering = key.map(Address::widen);
            let _ = LINGERING.insert(*lingering, now, BPF_ANY);
        }
    }

    #[inline(always)]
    fn lingers(&self, key: &FlowKey<F::Address>, now: Tick) -> bool {
        let since = keys().and_then(|Keys { lingering, .. }| {
            *lingering = key.map(Address::widen);
            find_lingering(lingering)
        });
        since.is_some_and(|since| now.since(since) < LINGER.0)
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
    fn may_be_known(&self, key: &FlowKey<F::Address>) -> bool {
        may_hold::<F::Transient, F::Established>(key)
    }

    #[inline(always)]
    fn access(&self, service: ServiceId, client: F::Address) -> Option<Access> {
        F::access(service, client)
    }

    #[inline(always)]
    fn keeps_pace(&self, source: &SourceKey, rate: u32, now: Tick) -> bool {
        let Some(source) = in_hand(source) else {
            return true;
        };
        let Some(pace) = find_pace(source).step(rate, now) else {
            return false;
        };
        // An LRU table always makes room.
        let _ = PACES.insert(source, pace, BPF_ANY);
        true
    }

    #[inline(always)]
    fn source_connections(&self, source: &SourceKey) -> u64 {
        in_hand(source).map_or(0, rows::count_connections)
    }

    #[inline(always)]
    fn count_source(&self, source: &SourceKey) {
        if let Some(source) = in_hand(source) {
            rows::count_source(source);
        }
    }

    #[inline(always)]
    fn discount_source(&self, source: &SourceKey) {
        if let Some(source) = in_hand(source) {
            rows::discount_source(source);
        }
    }

    #[inline(always)]
    fn ports(&self) -> (u16, u16) {
        rows::ports()
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
        rows::take_turn(u32::from(service.0)) as u32
    }

    #[inline(always)]
    fn unfollowed(&self, number: u64) -> u64 {
        rows::unfollowed(number)
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
        rows::suspect(u32::from(slot.0));
    }

    #[inline(always)]
    fn next_hop_generation(&self) -> u32 {
        rows::next_hop_generation()
    }

    #[inline(always)]
    fn find_next_hop(&self, source: F::Address, destination: F::Address, next_hop: &mut NextHop) {
        if let Some(ctx) = self.ctx {
            routing::find_next_hop::<F>(ctx, source, destination, next_hop);
        }
    }

    #[inline(always)]
    fn shares_next_hops(&self) -> bool {
        rows::shares_next_hops()
    }

    #[inline(always)]
    fn reuse_next_hop(&self, flow: Self::Found, now: Tick) -> bool {
        let kept = MEMBER_HOPS.get(u32::from(flow.slot.0));
        let kept =
            kept.filter(|it| it.is_current(flow.generation, rows::next_hop_generation(), now));
        if let Some(kept) = kept {
            flow.note_next_hop(kept.next_hop);
        }
        kept.is_some()
    }

    #[inline(always)]
    fn keep_next_hop(&self, flow: Self::Found, now: Tick) {
        if let Some(kept) = row(MEMBER_HOPS.get_ptr_mut(u32::from(flow.slot.0))) {
            *kept = MemberHop {
                next_hop: flow.next_hop,
                generation: flow.generation,
                found: now,
            };
        }
    }

    #[inline(always)]
    fn is_aggregated(&self) -> bool {
        self.ctx.is_some_and(packet::exceeds_ingress)
    }
}
