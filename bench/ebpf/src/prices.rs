//! Prices: one thing alone, after the headers of IPv4 have been read.
#![expect(
    unsafe_code,
    reason = "map values are raw pointers into memory that the kernel shares"
)]

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_fib_lookup as FibQuery;
use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, LruHashMap};
use aya_ebpf::programs::XdpContext;

use crate::frame::{Family, Frame, V4};
use crate::ladder::{LADDER, key};
use crate::reference::read;

/// `BPF_F_NO_COMMON_LRU`: each CPU forgets by itself.
const NO_COMMON_LRU: u32 = 2;
/// An entry as half-open flows have it.
const ENTRY: [u32; 12] = [7; 12];

#[map]
static PRICE_LRU: LruHashMap<[u32; 3], [u32; 12]> = LruHashMap::with_max_entries(32_768, 0);
#[map]
static PRICE_LRU_PER_CPU: LruHashMap<[u32; 3], [u32; 12]> =
    LruHashMap::with_max_entries(32_768, NO_COMMON_LRU);
#[map]
static PRICE_SLOTS: Array<[u32; 16]> = Array::with_max_entries(65_536, 0);
#[map]
static PRICE_FILTER: Array<u32> = Array::with_max_entries(1_024, 0);
#[map]
static PRICE_COUNTERS: Array<u64> = Array::with_max_entries(3, 0);

#[xdp]
fn price_jiffies(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        // SAFETY: the helper has no arguments and no effect.
        let now = unsafe { bpf_jiffies64() };
        frame.write(0, now);
    })
}

#[xdp]
fn price_coarse(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        // SAFETY: as above.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        frame.write(0, now);
    })
}

#[xdp]
fn price_exact(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        // SAFETY: as above.
        let now = unsafe { bpf_ktime_get_ns() };
        frame.write(0, now);
    })
}

#[xdp]
fn price_filter(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        let ports: [u16; 2] = frame.read(V4::TCP);
        let [source, destination] = ports.map(u32::from);
        let from = mix([frame.read(V4::SOURCE), source, 0]) % 1_024;
        let to = mix([frame.read(V4::SOURCE + 4), destination, 0]) % 1_024;
        if let (Some(from), Some(to)) = (PRICE_FILTER.get(from), PRICE_FILTER.get(to)) {
            frame.write(0, *from | *to);
        }
    })
}

#[xdp]
fn price_calls(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        let number: u64 = frame.read(V4::SOURCE);
        frame.write(0, (0..10).fold(number, |number, _| called(number)));
    })
}

#[inline(never)]
fn called(number: u64) -> u64 {
    number.wrapping_mul(3) ^ number >> 1
}

#[xdp]
fn price_adds(ctx: XdpContext) -> u32 {
    of(&ctx, |_| {
        for index in 0..3 {
            if let Some(counter) = PRICE_COUNTERS.get_ptr_mut(index) {
                // SAFETY: an aligned `u64` in a map value.
                unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) };
            }
        }
    })
}

#[xdp]
fn price_slot(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        let [a, b, c] = key(frame);
        if let Some(slot) = PRICE_SLOTS.get_ptr_mut(mix([a, b, c]) % 65_536) {
            // SAFETY: nobody else writes it.
            unsafe { *slot = [a, b, c, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7] };
        }
    })
}

#[xdp]
fn price_find_missing(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        let found = LADDER.get_ptr(unknown(frame)).is_some();
        frame.write(0, u8::from(found));
    })
}

#[xdp]
fn price_remove_missing(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        let _ = LADDER.remove(unknown(frame));
    })
}

#[xdp]
fn price_insert_remove(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        let _ = LADDER.insert(unknown(frame), ENTRY, 0);
        let _ = LADDER.remove(unknown(frame));
    })
}

#[xdp]
fn price_lru(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        let _ = PRICE_LRU.insert(key(frame), ENTRY, 0);
    })
}

#[xdp]
fn price_lru_per_cpu(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        let _ = PRICE_LRU_PER_CPU.insert(key(frame), ENTRY, 0);
    })
}

#[xdp]
fn price_lru_twice(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        let _ = PRICE_LRU.insert(key(frame), ENTRY, 0);
        let _ = PRICE_LRU.insert(unknown(frame), ENTRY, 0);
    })
}

#[xdp]
fn price_routing(ctx: XdpContext) -> u32 {
    of(&ctx, |frame| {
        const AF_INET: u8 = 2;
        const SIZE: i32 = 64;
        // SAFETY: integers and unions of integers, for all of which zeros are valid.
        let mut query: FibQuery = unsafe { core::mem::zeroed() };
        query.family = AF_INET;
        query.l4_protocol = 6;
        query.ifindex = 1;
        query.__bindgen_anon_3.ipv4_src = frame.read(V4::SOURCE);
        query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes([10, 72, 0, 10]);
        // SAFETY: the query lives on the stack and its size is told.
        unsafe { bpf_fib_lookup(ctx.as_ptr(), (&raw mut query).cast(), SIZE, 0) };
        frame.write(0, query.dmac);
    })
}

/// Does one thing with a packet whose headers have been read.
#[inline(always)]
fn of(ctx: &XdpContext, work: impl FnOnce(&Frame)) -> u32 {
    match read::<V4, 54>(ctx) {
        Some(frame) => {
            work(&frame);
            XDP_TX
        }
        None => XDP_PASS,
    }
}

/// A key that no table has.
#[inline(always)]
fn unknown(frame: &Frame) -> [u32; 3] {
    let [source, destination, ports] = key(frame);
    [destination, source, !ports]
}

/// A hash of one's own (the steps are those of MurmurHash3's finaliser).
#[inline(always)]
pub(crate) fn mix([a, b, c]: [u32; 3]) -> u32 {
    let mut hash = a;
    for word in [b, c] {
        hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b) ^ word;
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}
