//! Every access to a kernel table that goes through a raw pointer.
#![expect(
    unsafe_code,
    reason = "map values are raw pointers into memory that the kernel shares"
)]

mod changes;
mod declared;
pub(crate) mod flows;
pub(crate) mod global;
mod position;
pub(crate) mod rows;

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};
use core::ops::Deref;

use aya_ebpf::bindings::bpf_fib_lookup as FibQuery;
use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use lb_common::flow::{Flow, NextHop, Phase, Tick};
use lb_common::flow_table::Entry;

pub(crate) use declared::*;

/// Insert or replace.
pub(crate) const BPF_ANY: u64 = 0;
/// Insert where nothing is.
pub(crate) const BPF_NOEXIST: u64 = 1;

/// A row of a table, for the moment that its caller needs it.
#[inline(always)]
pub(crate) fn row<T>(pointer: Option<*mut T>) -> Option<&'static mut T> {
    // SAFETY: as in `Place::deref`; no caller asks for a row again while it has it.
    pointer.map(|row| unsafe { &mut *row })
}

/// Timer ticks since boot: a load.
#[inline(always)]
fn timer() -> u64 {
    // SAFETY: the helper has no arguments and no effect.
    unsafe { bpf_jiffies64() }
}

/// Lets two microseconds pass: asking for the exact time costs some 40 ns.
#[inline(always)]
fn pass_time() {
    for _ in 0..48 {
        // SAFETY: the helper has no arguments and no effect.
        core::hint::black_box(unsafe { bpf_ktime_get_ns() });
    }
}

/// The coarse clock: a call.
#[inline(always)]
fn read_clock() -> Tick {
    // SAFETY: the helper has no arguments and no effect.
    Tick::from_nanoseconds(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Whether rare events are logged.
#[inline(always)]
pub(crate) fn is_debugging() -> bool {
    read_constant(&raw const DEBUG_DATAPATH) != 0
}

/// Whether packets go back out of the interface they came from by redirection.
#[inline(always)]
pub(crate) fn is_redirecting_back() -> bool {
    read_constant(&raw const REDIRECT_BACK) != 0
}

/// The buckets of a table of established flows.
#[inline(always)]
fn established_buckets() -> u32 {
    read_constant(&raw const ESTABLISHED_BUCKETS)
}

/// What the places of flows in their tables depend on besides their keys.
#[inline(always)]
fn seed() -> u64 {
    u64::from(read_constant(&raw const SEED))
}

/// Reads a constant. To the compiler it is a variable; the verifier knows its value, and removes
/// the branch that is not taken.
#[inline(always)]
fn read_constant(constant: *const u32) -> u32 {
    // SAFETY: every caller hands the address of a static.
    unsafe { core::ptr::read_volatile(constant) }
}

/// Adds one to a counter that all CPUs share. `core::sync::atomic` offers no compare-and-swap for
/// this target, and so none of the rest either.
#[inline(always)]
fn add_one(counter: &mut u64) {
    // SAFETY: the reference is to a `u64` in a map value, which is never freed while the program
    // runs, and which the kernel side only changes atomically.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
}

/// The word as it is now: other CPUs write it.
#[inline(always)]
fn load(word: &mut u64) -> u64 {
    // SAFETY: it is a reference; volatile, because it is read again when it was another's.
    unsafe { core::ptr::read_volatile(word) }
}

/// Writes the word if it is still what it was; tells whether it was.
#[inline(always)]
fn swap(word: &mut u64, was: u64, becomes: u64) -> bool {
    // SAFETY: as in `add_one`.
    let (_, is_swapped) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(
            word, was, becomes,
        )
    };
    is_swapped
}

/// Adds to the word; whoever sees that also sees all that was written before.
#[inline(always)]
fn add_last(word: &mut u64, difference: u64) {
    // SAFETY: as in `add_one`.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(word, difference) };
}

/// Writes a byte of the word that nobody else writes; whoever sees it also sees all that was written
/// before.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it is a byte")]
fn write_last(word: &mut u64, byte: u32, was: u64, becomes: u64) {
    if cfg!(bpf_target_arch = "x86_64") {
        // Every store of these CPUs is such a one, and need not be waited for.
        let bytes = (&raw mut *word).cast::<u8>();
        // SAFETY: it is one of the eight bytes of the word; volatile, so that it stays the last.
        unsafe { bytes.add(byte as usize & 7).write_volatile(becomes as u8) };
    } else {
        add_last(word, becomes.wrapping_sub(was) << (byte * 8));
    }
}

/// Shows what this CPU has written to the others before it reads on: an atomic addition of nothing,
/// to what nobody else has.
#[inline(always)]
fn show_stores() {
    if let Some(clock) = row(CLOCK.get_ptr_mut(0)) {
        add_last(&mut clock.timer, 0);
    }
}

/// Copies an entry, word by word: the compiler would put all of it on the stack between.
#[inline(always)]
fn overwrite<A>(entry: &mut Entry<A>, with: &Entry<A>) {
    let (place, from) = (
        (&raw mut *entry).cast::<u64>(),
        (&raw const *with).cast::<u64>(),
    );
    for word in 0..size_of::<Entry<A>>() / size_of::<u64>() {
        // SAFETY: as in `Place::deref`; an entry is a whole number of words, and aligned to them.
        unsafe {
            place
                .add(word)
                .write_volatile(from.add(word).read_volatile())
        };
    }
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
        // Both ends may close at the same time: each must see the other's FIN, or show its own.
        show_stores();
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
