//! The feeder: the kernel does not restore the packet between two repetitions of a test run, so
//! this program does, and makes it one of the next flow.
//!
//! Its own time, with a program behind it that only returns `XDP_TX`, is the floor of every figure.
#![expect(
    unsafe_code,
    reason = "map values are raw pointers into memory that the kernel shares"
)]

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::XdpContext;

use crate::frame::{Family, Frame, V4, V6};

/// What is fed: the number of the next repetition, the number of flows less one (flows are a
/// power of two), where they begin in `FLOWS`, and which template they are made of.
#[map]
static FEED: Array<[u64; 4]> = Array::with_max_entries(1, 0);
/// Frames as they arrive.
#[map]
static TEMPLATES: Array<[u64; 12]> = Array::with_max_entries(32, 0);
/// What makes a template one of a flow: the last words of both addresses, both ports, and both
/// checksums. A list in the order of repetition, so that reading it costs little.
#[map]
static FLOWS: Array<[u32; 4]> = Array::with_max_entries(1 << 20, 0);
/// The program that is measured.
#[map]
static MEASURED: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Adding to it atomically waits until all stores are done.
#[map]
static FENCE: Array<u64> = Array::with_max_entries(1, 0);

#[xdp]
fn feed_v4(ctx: XdpContext) -> u32 {
    let _ = feed::<V4, 56>(&ctx);
    run(&ctx)
}

#[xdp]
fn feed_v6(ctx: XdpContext) -> u32 {
    let _ = feed::<V6, 80>(&ctx);
    run(&ctx)
}

#[inline(always)]
fn feed<F: Family, const RESTORED: usize>(ctx: &XdpContext) -> Option<()> {
    let feed = FEED.get_ptr_mut(0)?;
    // SAFETY: one thread runs this, and the map is written between runs only.
    let [next, mask, base, template] = unsafe { *feed };
    // SAFETY: as above.
    unsafe { (*feed)[0] = next + 1 };
    #[expect(clippy::cast_possible_truncation, reason = "there are 2^20 of them")]
    let place = (base + (next & mask)) as u32;
    #[expect(clippy::cast_possible_truncation, reason = "there are a few")]
    let words = TEMPLATES.get(template as u32)?;
    let [source, destination, ports, checksums] = *FLOWS.get(place)?;

    let frame = Frame::of::<RESTORED>(ctx)?;
    for (index, word) in words.iter().enumerate().take(RESTORED / 8) {
        frame.write(index * 8, *word);
    }
    frame.write(F::SOURCE + F::LAST_WORD, source);
    frame.write(F::SOURCE + F::WORDS * 4 + F::LAST_WORD, destination);
    frame.write(F::TCP, ports);
    let [i0, i1, t0, t1] = checksums.to_ne_bytes();
    if let Some(offset) = F::IP_CHECKSUM {
        frame.write(offset, u16::from_ne_bytes([i0, i1]));
    }
    frame.write(F::TCP + 16, u16::from_ne_bytes([t0, t1]));
    if let Some(fence) = FENCE.get_ptr_mut(0) {
        // SAFETY: an aligned `u64` in a map value.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(fence, 1) };
    }
    Some(())
}

/// Runs the program that is measured. It does not come back unless there is none.
#[inline(always)]
fn run(ctx: &XdpContext) -> u32 {
    // SAFETY: nothing here is left undone by a jump.
    unsafe { MEASURED.tail_call(ctx, 0) };
    XDP_ABORTED
}
