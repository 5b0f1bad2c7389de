//! A compact cache before the table of flows: one line of an ARRAY instead of the walk through a
//! HASH, everything else as at the top of the ladder, with jiffies as clock.
//!
//! A slot holds the whole key, so that a hit is never wrong; a miss finds the flow in the HASH and
//! takes the slot over.
#![expect(
    unsafe_code,
    reason = "map values are raw pointers into memory that the kernel shares"
)]

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;

use crate::frame::{Family, Frame, V4};
use crate::ladder::{LADDER, LADDER_GATEWAY, LADDER_MEMBERS, key, redirect};
use crate::prices::mix;
use crate::reference::{apply, count, read, update};

/// Key, row, acknowledgment, time: 32 bytes for each flow.
type Slot = [u32; 8];

#[map]
static CACHE_2_MIB: Array<Slot> = Array::with_max_entries(1 << 16, 0);
#[map]
static CACHE_8_MIB: Array<Slot> = Array::with_max_entries(1 << 18, 0);
/// What is written into packets: one row for each backend, one for the VIP.
#[map]
static CACHE_ROWS: Array<[u32; 6]> = Array::with_max_entries(256, 0);

#[xdp]
fn cache_2_mib(ctx: XdpContext) -> u32 {
    direct(&ctx, &CACHE_2_MIB, (1 << 16) - 1).unwrap_or(XDP_PASS)
}

#[xdp]
fn cache_8_mib(ctx: XdpContext) -> u32 {
    direct(&ctx, &CACHE_8_MIB, (1 << 18) - 1).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn direct(ctx: &XdpContext, cache: &'static Array<Slot>, mask: u32) -> Option<u32> {
    let frame = read::<V4, 54>(ctx)?;
    let key = key(&frame);
    carry(ctx, &frame, key, cache.get_ptr_mut(mix(key) & mask)?)
}

#[inline(always)]
fn carry(ctx: &XdpContext, frame: &Frame, key: [u32; 3], slot: *mut Slot) -> Option<u32> {
    // SAFETY: one thread runs this; on more, a slot would need what keeps its halves together.
    let [x, y, z, row, _, stamp, ..] = unsafe { *slot };
    let row = if [x, y, z] == key {
        row
    } else {
        take_over(slot, key)?
    };
    let [address, rest @ ..] = *CACHE_ROWS.get(row)?;
    if LADDER_MEMBERS.get(row)?[0] != 0 || LADDER_GATEWAY.get(0)?[0] != 0 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it wraps")]
    // SAFETY: the helper has no arguments and no effect.
    let now = (unsafe { bpf_jiffies64() } >> 2) as u32;
    // SAFETY: as above.
    unsafe {
        (*slot)[4] = frame.read(V4::TCP + 8);
        if stamp != now {
            (*slot)[5] = now;
        }
    }
    let hops: u8 = frame.read(22);
    if hops <= 1 {
        return None;
    }
    frame.write(22, hops - 1);
    update(frame, 24, u64::from(!0x0001_u16));
    apply::<V4, 1, 5>(frame, [address], rest);
    count(ctx, row);
    Some(redirect())
}

/// Finds the flow in its table and puts it into the slot; returns its row.
#[inline(always)]
fn take_over(slot: *mut Slot, key: [u32; 3]) -> Option<u32> {
    let entry = LADDER.get_ptr(key)?;
    // SAFETY: the lookup has found it.
    let [address, port, x, y, z, counter, ..] = unsafe { *entry };
    // The last byte of a backend's address: 10, 11, 12; of the VIP's: 100.
    let row = address.to_be() & 0xff;
    CACHE_ROWS
        .set(row, [address, port, x, y, z, counter], 0)
        .ok()?;
    let [a, b, c] = key;
    // SAFETY: the slot is a map value.
    unsafe { *slot = [a, b, c, row, 0, 0, 0, 0] };
    Some(row)
}
