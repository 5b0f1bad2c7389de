//! What `pglb capture` shows: packets as they came and as they leave, which no tool on the host
//! can see. Nobody looks most of the time: then it costs one read of one word.

#![expect(
    clippy::cast_possible_truncation,
    reason = "a frame is shorter than 4 GiB"
)]

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray, PerfEventArray};
use aya_ebpf::programs::XdpContext;
use lb_common::capture::{Capture, MOST_BYTES, Record};
use lb_common::reason::Reason;

use crate::maps::row;
use crate::maps::rows::now;
use crate::packet::{arrival, copy_start, length};
use crate::routing::ingress;

/// Whether somebody looks. The command writes it.
#[map]
static CAPTURE: Array<Capture> = Array::pinned(1, 0);
/// What the command reads. A perf buffer, and no ring buffer: its helper appends bytes of the
/// packet by itself, as many as a number says that the verifier need not know.
#[map]
static CAPTURES: PerfEventArray<Record> = PerfEventArray::pinned(0);
/// The packet that this CPU is at, as it came.
#[map]
static IN_HAND: PerCpuArray<Record> = PerCpuArray::with_max_entries(1, 0);

/// Keeps the packet as it came, when somebody looks; returns its length, or 0 when nobody does.
///
/// The black box keeps the compiler from making a truth value of the length, for which the
/// verifier would follow the packet's whole story twice. A length is any number to it.
#[inline(always)]
pub(crate) fn begin(ctx: &XdpContext) -> u32 {
    core::hint::black_box(if is_looked_for() { keep(ctx) } else { 0 })
}

/// Shows the packet as it came and as it leaves, when [`begin`] has kept it. One that is passed to
/// the host is left out: the host's own tools see it.
#[inline(always)]
pub(crate) fn finish(ctx: &XdpContext, kept: u32, action: u32) {
    if kept != 0 && action != XDP_PASS {
        show(ctx, action);
    }
}

/// Notes why the packet in hand is not forwarded.
#[inline(always)]
pub(crate) fn note_refusal(reason: Reason) {
    if is_looked_for()
        && let Some(record) = row(IN_HAND.get_ptr_mut(0))
    {
        record.refusal = reason.index() + 1;
    }
}

#[inline(always)]
fn is_looked_for() -> bool {
    CAPTURE.get(0).is_some_and(Capture::is_set)
}

#[inline(never)]
fn keep(ctx: &XdpContext) -> u32 {
    if let Some(capture) = row(CAPTURE.get_ptr_mut(0))
        && !capture.is_on(now())
    {
        // The command was killed. This packet is shown to nobody, and the next costs nothing.
        capture.until.0 = 0;
    }
    let length = length(ctx) as u32;
    if let Some(record) = row(IN_HAND.get_ptr_mut(0)) {
        record.nanoseconds = arrival();
        record.length_before = length;
        record.ingress = ingress(ctx);
        record.refusal = 0;
        copy_start(ctx, &mut record.header);
    }
    length
}

#[inline(never)]
fn show(ctx: &XdpContext, action: u32) {
    let (Some(record), Some(capture)) = (row(IN_HAND.get_ptr_mut(0)), CAPTURE.get(0)) else {
        return;
    };
    let length = length(ctx) as u32;
    record.length_after = length;
    record.captured = length.min(capture.snap).min(MOST_BYTES);
    record.action = action;
    // By reference: a copy would lie on the stack.
    let record: &Record = record;
    CAPTURES.output(ctx, record, record.captured);
}
