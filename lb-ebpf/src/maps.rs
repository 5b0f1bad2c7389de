//! Every kernel table, and every access to one that goes through a raw pointer.
#![expect(
    unsafe_code,
    reason = "map values are raw pointers into memory that the kernel shares"
)]

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibQuery};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_redirect};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::LpmTrie;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::XdpContext;
use lb_common::backend::Backend;
use lb_common::choose::{self, is_forgiven};
use lb_common::flow::{Direction, Flow, FlowKey, NextHop, Tick};
use lb_common::gateway::Gateway;
use lb_common::limits::{MAX_ALLOWED, MAX_BACKENDS, MAX_SERVICES, MAX_SLOTS, MAX_TRANSIENT_FLOWS};
use lb_common::member::{BackendId, Member, Slot};
use lb_common::pipeline::Forward;
use lb_common::reason::Reason;
use lb_common::service::{Service, ServiceId, ServiceKey};
use lb_common::tally::{Milestone, Tally, Traffic};
use lb_common::wire::PROTOCOL_TCP;

/// The address family that the tables are for.
pub(crate) type Address = [u8; 4];

/// The licence as the kernel reads it: the routing lookup is for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Flags of a map whose entries are allocated as they come: a trie can be no other.
const BPF_F_NO_PREALLOC: u32 = 1;
#[expect(clippy::cast_possible_truncation, reason = "there are 17")]
const REASON_COUNT: u32 = Reason::ALL.len() as u32;

/// Insert or replace.
pub(crate) const BPF_ANY: u64 = 0;

/// Established flows, two for each connection. The controller sets the size when it loads the
/// program; nothing is ever evicted.
#[map]
pub(crate) static ESTABLISHED: HashMap<FlowKey<Address>, Flow<Address>> = HashMap::pinned(2, 0);
/// Half-open and ended flows.
#[map]
pub(crate) static TRANSIENT: LruHashMap<FlowKey<Address>, Flow<Address>> =
    LruHashMap::pinned(MAX_TRANSIENT_FLOWS, 0);
#[map]
pub(crate) static SERVICES: HashMap<ServiceKey<Address>, Service> =
    HashMap::pinned(MAX_SERVICES as u32, 0);
/// The allow lists: networks behind the 16-bit number of their service.
#[map]
pub(crate) static ALLOWED: LpmTrie<[u8; 6], u8> = LpmTrie::pinned(MAX_ALLOWED, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static MEMBERS: Array<Member> = Array::pinned(MAX_SLOTS, 0);
#[map]
pub(crate) static BACKENDS: Array<Backend<Address>> = Array::pinned(MAX_BACKENDS as u32, 0);
/// One ring for each service; the last bytes, from `RING_SIZE` on, are not used.
#[map]
pub(crate) static RINGS: Array<[u8; 16_384]> = Array::pinned(MAX_SERVICES as u32, 0);
#[map]
pub(crate) static TURNS: Array<u64> = Array::pinned(MAX_SERVICES as u32, 0);
#[map]
pub(crate) static SLOT_TALLIES: Array<Tally> = Array::pinned(MAX_SLOTS, 0);
#[map]
pub(crate) static BACKEND_TALLIES: Array<Tally> = Array::pinned(MAX_BACKENDS as u32, 0);
#[map]
static TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::pinned(MAX_SLOTS, 0);
#[map]
static REASONS: PerCpuArray<u64> = PerCpuArray::pinned(REASON_COUNT, 0);
#[map]
static GATEWAY: Array<Gateway> = Array::pinned(1, 0);
/// Slots that have just become suspect, for the controller to probe.
#[map]
static SUSPECTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// Counts a packet that was not forwarded.
#[inline(always)]
pub(crate) fn count_reason(reason: Reason) {
    if let Some(count) = REASONS.get_ptr_mut(reason.index()) {
        // SAFETY: the counter is this CPU's own, and XDP programs do not interrupt each other.
        unsafe { *count += 1 };
    }
}

/// Counts a packet that was forwarded.
#[inline(always)]
pub(crate) fn count_traffic(forward: &Forward, bytes: u64) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(u32::from(forward.slot.0)) {
        // SAFETY: the entry is this CPU's own, and XDP programs do not interrupt each other.
        let traffic = unsafe { &mut *traffic };
        match forward.direction {
            Direction::ToBackend => {
                traffic.packets_to_backend += 1;
                traffic.bytes_to_backend += bytes;
            }
            Direction::ToClient => {
                traffic.packets_to_client += 1;
                traffic.bytes_to_client += bytes;
            }
        }
    }
}

/// The coarse clock: as exact as the timer tick, at a tenth of the cost of the exact one.
#[inline(always)]
pub(crate) fn now() -> Tick {
    // SAFETY: the helper has no arguments and no effect.
    Tick::from_nanoseconds(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Hands the packet to the driver of another interface; returns the XDP action.
#[inline(always)]
pub(crate) fn redirect(interface: u32) -> u32 {
    // SAFETY: the helper takes numbers and checks them.
    let action = unsafe { bpf_redirect(interface, 0) };
    #[expect(clippy::cast_possible_truncation, reason = "an XDP action")]
    let action = action as u32;
    action
}

/// Whether rare events are logged. The controller sets it before the program is loaded.
#[unsafe(no_mangle)]
static DEBUG_DATAPATH: u32 = 0;

/// Whether packets go back out of the interface they came from by redirection. The controller
/// sets it where an interface is a veth: that one drops what `XDP_TX` sends unless its peer runs
/// XDP too, while a redirected packet arrives where the peer has GRO on as well.
#[unsafe(no_mangle)]
static REDIRECT_BACK: u32 = 0;

/// Whether rare events are logged.
#[inline(always)]
pub(crate) fn is_debugging() -> bool {
    read_constant(&raw const DEBUG_DATAPATH)
}

/// The index of the interface that the packet came from.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the context holds a u32")]
fn ingress(ctx: &XdpContext) -> u32 {
    ctx.ingress_ifindex() as u32
}

/// Sends the packet back out of the interface it came from; returns the XDP action.
#[inline(always)]
pub(crate) fn send_back(ctx: &XdpContext) -> u32 {
    if read_constant(&raw const REDIRECT_BACK) {
        redirect(ingress(ctx))
    } else {
        XDP_TX
    }
}

/// Reads a constant. To the compiler it is a variable; the verifier knows its value, and removes
/// the branch that is not taken.
#[inline(always)]
fn read_constant(constant: *const u32) -> bool {
    // SAFETY: every caller hands the address of a static.
    unsafe { core::ptr::read_volatile(constant) != 0 }
}

/// Adds one to a counter that all CPUs share. The target has no compare-and-swap, so
/// `core::sync::atomic` does not offer the addition that it does have.
#[inline(always)]
fn add_one(counter: *mut u64) {
    // SAFETY: the pointer is to an aligned `u64` in a map value, which is never freed while the
    // program runs, and which the kernel side only changes atomically.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
}

#[inline(always)]
fn count_in(tally: Option<*mut Tally>, milestone: u32) {
    let Some(tally) = tally else { return };
    // SAFETY: taking addresses of fields of a map value that is there.
    let (half_opened, half_closed, established, ended) = unsafe {
        (
            &raw mut (*tally).half_opened,
            &raw mut (*tally).half_closed,
            &raw mut (*tally).established,
            &raw mut (*tally).ended,
        )
    };
    const HALF_OPENED: u32 = Milestone::HalfOpened as u32;
    const HALF_CLOSED: u32 = Milestone::HalfClosed as u32;
    const ESTABLISHED: u32 = Milestone::Established as u32;
    const RESUMED: u32 = Milestone::Resumed as u32;
    match milestone {
        HALF_OPENED => add_one(half_opened),
        HALF_CLOSED => add_one(half_closed),
        ESTABLISHED => {
            add_one(half_closed);
            add_one(established);
        }
        RESUMED => add_one(established),
        _ => add_one(ended),
    }
}

/// Where an established flow lies in its table, and what it was when it was found.
#[inline(always)]
pub(crate) fn find_established(key: &FlowKey<Address>) -> Option<(Place, Flow<Address>)> {
    let place = ESTABLISHED.get_ptr_mut(key)?;
    // SAFETY: the lookup has found the entry, whose memory stays an entry of this map while the
    // program runs. Another CPU may write it at the same time; every field is a word of its own,
    // and no decision joins two fields that change.
    Some((Place(place), unsafe { *place }))
}

/// Where an established flow lies in its table.
#[derive(Clone, Copy)]
pub(crate) struct Place(*mut Flow<Address>);

impl Place {
    /// Notes a packet of the flow.
    #[inline(always)]
    pub(crate) fn note(self, last_ack: u32, now: Tick) {
        // SAFETY: as in `find_established`.
        unsafe {
            (*self.0).last_ack = last_ack;
            // The stamp changes 60 times a second at most; a store that changes nothing would
            // still take the cache line from the other CPU.
            if (*self.0).last_seen != now {
                (*self.0).last_seen = now;
            }
        }
    }

    /// Notes where the flow's packets go.
    #[inline(always)]
    pub(crate) fn note_next_hop(self, next_hop: NextHop) {
        // SAFETY: as in `find_established`.
        unsafe { (*self.0).next_hop = next_hop };
    }

    /// Notes the flow's FIN.
    #[inline(always)]
    pub(crate) fn note_fin(self) {
        // SAFETY: as in `find_established`.
        unsafe { (*self.0).has_fin = 1 };
    }
}

/// Finds a half-open or ended flow.
#[inline(always)]
pub(crate) fn find_transient(key: &FlowKey<Address>) -> Option<Flow<Address>> {
    // SAFETY: as in `find_established`; an evicted entry is read once more at worst.
    TRANSIENT.get_ptr(key).map(|flow| unsafe { *flow })
}

/// Finds a service.
#[inline(always)]
pub(crate) fn find_service(key: &ServiceKey<Address>) -> Option<Service> {
    // SAFETY: as in `find_established`; the controller replaces entries whole.
    SERVICES.get_ptr(key).map(|service| unsafe { *service })
}

/// Takes a turn of a service. Two CPUs may take the same one: they choose the same member, once.
#[inline(always)]
pub(crate) fn take_turn(service: u32) -> u64 {
    let Some(turns) = TURNS.get_ptr_mut(service) else {
        return 0;
    };
    // SAFETY: as in `find_established`.
    let turn = unsafe { *turns };
    add_one(turns);
    turn
}

/// Makes a slot suspect and tells the controller, unless it is suspect already.
#[inline(always)]
pub(crate) fn suspect(slot: u32) {
    let (Some(member), Some(tally)) = (MEMBERS.get(slot), SLOT_TALLIES.get_ptr_mut(slot)) else {
        return;
    };
    // SAFETY: as in `count_in`.
    let suspicions = unsafe { &raw mut (*tally).suspicions };
    // SAFETY: as in `find_established`.
    if is_forgiven(unsafe { *suspicions }, member.forgiven) {
        add_one(suspicions);
        // The controller also sees it in the tally; the record only makes it quick.
        let _ = SUSPECTS.output::<u32>(slot, 0);
    }
}

/// Asks the kernel's routing tables for the way of a packet; tells whether they know it whole,
/// down to the next hop's MAC address. The addresses are in network byte order, as numbers: the
/// kernel does not take the type information of a function with an array as argument.
#[inline(never)]
pub(crate) fn ask_routing(
    ctx: &XdpContext,
    source: u32,
    destination: u32,
    next_hop: &mut NextHop,
) -> bool {
    const AF_INET: u8 = 2;
    // SAFETY: integers and unions of integers, for all of which zeros are valid.
    let mut query: FibQuery = unsafe { core::mem::zeroed() };
    query.family = AF_INET;
    query.l4_protocol = PROTOCOL_TCP;
    query.ifindex = ingress(ctx);
    query.__bindgen_anon_3.ipv4_src = source;
    query.__bindgen_anon_4.ipv4_dst = destination;
    const SIZE: i32 = 64;
    const _: () = assert!(size_of::<FibQuery>() == SIZE as usize);
    // SAFETY: the query lives on the stack and its size is told.
    let answer = unsafe { bpf_fib_lookup(ctx.as_ptr(), (&raw mut query).cast(), SIZE, 0) };
    let is_found = answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS);
    next_hop.interface = if is_found { query.ifindex } else { 0 };
    next_hop.generation = if is_found { next_hop_generation() } else { 0 };
    next_hop.destination = query.dmac;
    next_hop.source = query.smac;
    is_found
}

#[inline(always)]
pub(crate) fn next_hop_generation() -> u32 {
    GATEWAY
        .get(0)
        .map_or(0, |gateway| gateway.next_hop_generation)
}

/// The functions that the verifier checks once, by themselves, and not at every call: that takes
/// numbers as arguments and as result.
pub(crate) mod global {
    #![expect(
        clippy::cast_possible_truncation,
        reason = "every caller widens a `u8` or a `u16`"
    )]

    use super::*;
    use crate::tables::KernelTables;

    const TABLES: KernelTables<'_> = KernelTables { ctx: None };

    #[unsafe(no_mangle)]
    #[inline(never)]
    pub(crate) extern "C" fn pglb_consider(slot: u32, tried: u32) -> u64 {
        choose::consider(&TABLES, Slot(slot as u16), tried).0
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    pub(crate) extern "C" fn pglb_turns(slot: u32) -> u64 {
        choose::turns(&TABLES, Slot(slot as u16))
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    pub(crate) extern "C" fn pglb_walk_ring(
        service: u32,
        length: u32,
        start: u32,
        tried: u32,
    ) -> u64 {
        choose::walk_ring(&TABLES, ServiceId(service as u16), length, start, tried).0
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    pub(crate) extern "C" fn pglb_least_loaded(service: u32, members: u32, tried: u32) -> u64 {
        choose::least_loaded(&TABLES, ServiceId(service as u16), members as u8, tried).0
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    pub(crate) extern "C" fn pglb_has_room(backend: u32) -> u32 {
        u32::from(choose::has_room(&TABLES, BackendId(backend as u16)))
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    pub(crate) extern "C" fn pglb_count(slot: u32, milestone: u32) -> u32 {
        count_in(SLOT_TALLIES.get_ptr_mut(slot), milestone);
        if let Some(member) = MEMBERS.get(slot) {
            count_in(
                BACKEND_TALLIES.get_ptr_mut(u32::from(member.backend.0)),
                milestone,
            );
        }
        count_in(
            BACKEND_TALLIES.get_ptr_mut(u32::from(BackendId::GATEWAY.0)),
            milestone,
        );
        0
    }
}
