//! Every access to a kernel table that goes through a raw pointer.
#![expect(
    unsafe_code,
    reason = "map values are raw pointers into memory that the kernel shares"
)]

mod declared;
pub(crate) mod global;

use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::ops::Deref;

use aya_ebpf::bindings::bpf_fib_lookup as FibQuery;
use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray};
use lb_common::choose::is_forgiven;
use lb_common::family::WideAddress;
use lb_common::flow::{Direction, Flow, FlowKey, NextHop, Phase, Tick};
use lb_common::pipeline::Forward;
use lb_common::reason::Reason;
use lb_common::service::{Service, ServiceKey};
use lb_common::source::{Pace, SourceKey, SourceTally};
use lb_common::tally::{Milestone, Tally};
use lb_common::trunk::Trunk;

pub(crate) use declared::*;

/// Insert or replace.
pub(crate) const BPF_ANY: u64 = 0;
/// Insert where nothing is.
pub(crate) const BPF_NOEXIST: u64 = 1;

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

/// A row of a table, for the moment that its caller needs it.
#[inline(always)]
pub(crate) fn row<T>(pointer: Option<*mut T>) -> Option<&'static mut T> {
    // SAFETY: as in `find_established`; no caller asks for a row again while it has it.
    pointer.map(|row| unsafe { &mut *row })
}

/// The coarse clock: as exact as the timer tick. It is read once for each of these and CPU, since
/// the count of ticks is a load and the reading a call.
#[inline(always)]
pub(crate) fn now() -> Tick {
    // SAFETY: the helper has no arguments and no effect.
    let timer = unsafe { bpf_jiffies64() };
    let Some(clock) = row(CLOCK.get_ptr_mut(0)) else {
        return read_clock();
    };
    if clock.timer != timer {
        *clock = Clock {
            timer,
            now: read_clock(),
        };
    }
    clock.now
}

#[inline(always)]
fn read_clock() -> Tick {
    // SAFETY: the helper has no arguments and no effect.
    Tick::from_nanoseconds(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Whether rare events are logged.
#[inline(always)]
pub(crate) fn is_debugging() -> bool {
    read_constant(&raw const DEBUG_DATAPATH)
}

/// Whether packets go back out of the interface they came from by redirection.
#[inline(always)]
pub(crate) fn is_redirecting_back() -> bool {
    read_constant(&raw const REDIRECT_BACK)
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

/// Where an established flow lies in its table.
#[inline(always)]
pub(crate) fn find_established<A: Copy>(
    table: &HashMap<FlowKey<A>, Flow<A>>,
    key: &FlowKey<A>,
) -> Option<Place<A>> {
    table.get_ptr_mut(key).map(Place)
}

/// Where a half-open or ended flow lies in its table.
#[inline(always)]
pub(crate) fn find_transient<A: Copy>(
    table: &LruHashMap<FlowKey<A>, Flow<A>>,
    key: &FlowKey<A>,
) -> Option<Place<A>> {
    table.get_ptr_mut(key).map(Place)
}

/// Where a flow lies in its table.
pub(crate) struct Place<A>(*mut Flow<A>);

impl<A> Clone for Place<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Place<A> {}

impl<A> Deref for Place<A> {
    type Target = Flow<A>;

    #[inline(always)]
    fn deref(&self) -> &Flow<A> {
        // SAFETY: a lookup has found the entry, whose memory stays an entry of this map while the
        // program runs. Another CPU may write it at the same time; every field is a word of its
        // own, and no decision joins two fields that change.
        unsafe { &*self.0 }
    }
}

impl<A> Place<A> {
    /// Notes a packet of the flow.
    #[inline(always)]
    pub(crate) fn note(self, last_ack: u32, now: Tick) {
        // SAFETY: as in `Place::deref`.
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
        // SAFETY: as in `Place::deref`.
        unsafe { (*self.0).next_hop = next_hop };
    }

    /// Notes the flow's FIN.
    #[inline(always)]
    pub(crate) fn note_fin(self, behind: u32) {
        // SAFETY: as in `Place::deref`.
        unsafe {
            (*self.0).has_fin = 1;
            (*self.0).memo = behind;
        }
    }

    /// Takes the flow's generation from it.
    #[inline(always)]
    pub(crate) fn disown(self) {
        // SAFETY: as in `Place::deref`.
        unsafe { (*self.0).generation = 0 };
    }

    /// Notes how far the flow's connection has come.
    #[inline(always)]
    pub(crate) fn note_phase(self, phase: Phase, memo: u32) {
        // SAFETY: as in `Place::deref`; nothing else refers to the entry meanwhile.
        unsafe { (*self.0).enter(phase, memo) };
    }
}

/// Finds a service.
#[inline(always)]
pub(crate) fn find_service<A>(
    table: &HashMap<ServiceKey<A>, Service>,
    key: &ServiceKey<A>,
) -> Option<&'static Service> {
    // SAFETY: as in `Place::deref`; the controller replaces entries whole, and one that is read is
    // not used again before the program ends.
    table.get_ptr(key).map(|service| unsafe { &*service })
}

/// How frames of an interface leave, if it is a VLAN device.
#[inline(always)]
pub(crate) fn find_trunk(interface: u32) -> Option<Trunk> {
    // SAFETY: as in `find_service`.
    TRUNKS.get_ptr(interface).map(|trunk| unsafe { *trunk })
}

/// When a port began to linger.
#[inline(always)]
pub(crate) fn find_lingering(key: &FlowKey<WideAddress>) -> Option<Tick> {
    // SAFETY: as in `find_service`.
    LINGERING.get_ptr(key).map(|since| unsafe { *since })
}

/// When the next connection of a client address is due.
#[inline(always)]
pub(crate) fn find_pace(source: &SourceKey) -> Pace {
    // SAFETY: as in `Place::deref`.
    let pace = PACES.get_ptr(source).map(|pace| unsafe { *pace });
    pace.unwrap_or_default()
}

/// The established connections of a client address.
#[inline(always)]
pub(crate) fn count_connections(source: &SourceKey) -> u64 {
    // SAFETY: as in `find_service`.
    let tally = SOURCES.get_ptr(source).map(|tally| unsafe { *tally });
    // SAFETY: as in `find_service`.
    let reaped = SOURCES_REAPED
        .get_ptr(source)
        .map(|reaped| unsafe { *reaped });
    tally.unwrap_or_default().connections(reaped.unwrap_or(0))
}

/// Counts a connection of a client address as established.
#[inline(always)]
pub(crate) fn count_source(source: &SourceKey) {
    if SOURCES.get_ptr(source).is_none() {
        // Another CPU may have been quicker; in a full table the address is not limited.
        let _ = SOURCES.insert(source, SourceTally::default(), BPF_NOEXIST);
    }
    if let Some(tally) = SOURCES.get_ptr_mut(source) {
        // SAFETY: as in `count_in`.
        add_one(unsafe { &raw mut (*tally).established });
    }
}

/// Counts a connection of a client address as ended, if those of this address are counted.
#[inline(always)]
pub(crate) fn discount_source(source: &SourceKey) {
    if let Some(tally) = SOURCES.get_ptr_mut(source) {
        // SAFETY: as in `count_in`.
        add_one(unsafe { &raw mut (*tally).ended });
    }
}

/// An empty question to the routing tables. There is one for each CPU.
#[inline(always)]
pub(crate) fn routing_query() -> Option<&'static mut FibQuery> {
    let query = ROUTING.get_ptr_mut(0)?;
    // SAFETY: integers and unions of integers, for all of which zeros are valid; the entry is this
    // CPU's own, and whoever asks is done with it before anybody asks again.
    unsafe {
        *query = core::mem::zeroed();
        Some(&mut *query)
    }
}

/// Takes a turn of a service. Two CPUs may take the same one: they choose the same member, once.
#[inline(always)]
pub(crate) fn take_turn(service: u32) -> u64 {
    let Some(turns) = TURNS.get_ptr_mut(service) else {
        return 0;
    };
    // SAFETY: as in `Place::deref`.
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
    // SAFETY: as in `Place::deref`.
    if is_forgiven(unsafe { *suspicions }, member.forgiven) {
        add_one(suspicions);
        // The controller also sees it in the tally; the record only makes it quick.
        let _ = SUSPECTS.output::<u32>(slot, 0);
    }
}

#[inline(always)]
pub(crate) fn next_hop_generation() -> u32 {
    GATEWAY
        .get(0)
        .map_or(0, |gateway| gateway.next_hop_generation)
}

/// Writes a flow where it is to be copied into a table from.
#[inline(always)]
pub(crate) fn draft<A>(
    drafts: &PerCpuArray<Flow<A>>,
    flow: impl FnOnce() -> Flow<A>,
) -> Option<Place<A>> {
    let place = drafts.get_ptr_mut(0)?;
    // SAFETY: the entry is this CPU's own, and whoever drafts is done with it before anybody drafts
    // again.
    unsafe { *place = flow() };
    Some(Place(place))
}

/// Keeps the 4-tuple of a connection for the function that takes a port for it.
#[inline(always)]
pub(crate) fn keep_opening(key: FlowKey<WideAddress>) {
    if let Some(place) = OPENING.get_ptr_mut(0) {
        // SAFETY: the entry is this CPU's own.
        unsafe { *place = key };
    }
}

/// The 4-tuple that was kept last.
#[inline(always)]
pub(crate) fn kept_opening() -> Option<&'static FlowKey<WideAddress>> {
    OPENING.get(0)
}

/// The first and the last port that full-nat connections leave from.
#[inline(always)]
pub(crate) fn ports() -> (u16, u16) {
    GATEWAY
        .get(0)
        .map_or((0, 0), |gateway| (gateway.first_port, gateway.last_port))
}
