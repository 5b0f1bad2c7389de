//! The ladder: an established packet of IPv4, one more part of its handling in each program, so
//! that the difference of two is the price of a part.
#![expect(
    unsafe_code,
    reason = "map values are raw pointers into memory that the kernel shares"
)]

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_redirect};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::XdpContext;

use crate::frame::{Family, Frame, V4};
use crate::reference::{apply, count, read, update};

/// Flows as pglb keeps them: key of 12 bytes, entry of 48.
#[map]
pub(crate) static LADDER: HashMap<[u32; 3], [u32; 12]> = HashMap::with_max_entries(525_312, 0);
/// Stands for members: 40 bytes each.
#[map]
pub(crate) static LADDER_MEMBERS: Array<[u64; 5]> = Array::with_max_entries(2048, 0);
/// Stands for the gateway's own entry.
#[map]
pub(crate) static LADDER_GATEWAY: Array<[u32; 2]> = Array::with_max_entries(1, 0);

const COUNT: u32 = 1;
const HOPS: u32 = 2;
const MEMBER: u32 = 4;
const GATEWAY: u32 = 8;
const CLOCK: u32 = 16;
const NOTE: u32 = 32;
const REDIRECT: u32 = 64;

#[xdp]
fn ladder_1_find(ctx: XdpContext) -> u32 {
    let found = read::<V4, 54>(&ctx).and_then(|frame| LADDER.get_ptr(key(&frame)));
    found.map_or(XDP_PASS, |_| XDP_TX)
}

#[xdp]
fn ladder_2_rewrite(ctx: XdpContext) -> u32 {
    climb::<0>(&ctx).unwrap_or(XDP_PASS)
}

#[xdp]
fn ladder_3_count(ctx: XdpContext) -> u32 {
    climb::<COUNT>(&ctx).unwrap_or(XDP_PASS)
}

#[xdp]
fn ladder_4_hops(ctx: XdpContext) -> u32 {
    climb::<{ COUNT | HOPS }>(&ctx).unwrap_or(XDP_PASS)
}

#[xdp]
fn ladder_5_member(ctx: XdpContext) -> u32 {
    climb::<{ COUNT | HOPS | MEMBER }>(&ctx).unwrap_or(XDP_PASS)
}

#[xdp]
fn ladder_6_gateway(ctx: XdpContext) -> u32 {
    climb::<{ COUNT | HOPS | MEMBER | GATEWAY }>(&ctx).unwrap_or(XDP_PASS)
}

#[xdp]
fn ladder_7_clock(ctx: XdpContext) -> u32 {
    climb::<{ COUNT | HOPS | MEMBER | GATEWAY | CLOCK }>(&ctx).unwrap_or(XDP_PASS)
}

#[xdp]
fn ladder_8_note(ctx: XdpContext) -> u32 {
    climb::<{ COUNT | HOPS | MEMBER | GATEWAY | CLOCK | NOTE }>(&ctx).unwrap_or(XDP_PASS)
}

#[xdp]
fn ladder_9_redirect(ctx: XdpContext) -> u32 {
    climb::<{ COUNT | HOPS | MEMBER | GATEWAY | CLOCK | NOTE | REDIRECT }>(&ctx).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn climb<const PARTS: u32>(ctx: &XdpContext) -> Option<u32> {
    let frame = read::<V4, 54>(ctx)?;
    let entry = LADDER.get_ptr_mut(key(&frame))?;
    // SAFETY: the lookup has found it.
    let [address, a, b, c, d, index, stamp, ..] = unsafe { *entry };
    let rest = [a, b, c, d, index];
    if PARTS & MEMBER != 0 && LADDER_MEMBERS.get(index)?[0] != 0 {
        return None;
    }
    if PARTS & CLOCK != 0 {
        let now = coarse_time();
        if PARTS & NOTE != 0 && stamp != now {
            // SAFETY: as above.
            unsafe { (*entry)[6] = now };
        }
        if PARTS & NOTE == 0 && now == 0 {
            return None;
        }
    }
    if PARTS & NOTE != 0 {
        let acknowledgment: u32 = frame.read(V4::TCP + 8);
        // SAFETY: as above.
        unsafe { (*entry)[7] = acknowledgment };
    }
    if PARTS & GATEWAY != 0 && LADDER_GATEWAY.get(0)?[0] != 0 {
        return None;
    }
    if PARTS & HOPS != 0 {
        let hops: u8 = frame.read(22);
        if hops <= 1 {
            return None;
        }
        frame.write(22, hops - 1);
        update(&frame, 24, u64::from(!0x0001_u16));
    }
    apply::<V4, 1, 5>(&frame, [address], rest);
    if PARTS & COUNT != 0 {
        count(ctx, index);
    }
    if PARTS & REDIRECT != 0 {
        return Some(redirect());
    }
    Some(XDP_TX)
}

/// Units of 2^24 ns.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it wraps")]
fn coarse_time() -> u32 {
    // SAFETY: the helper has no arguments and no effect.
    (unsafe { bpf_ktime_get_coarse_ns() } >> 24) as u32
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "an XDP action")]
pub(crate) fn redirect() -> u32 {
    // SAFETY: the helper takes numbers and checks them.
    unsafe { bpf_redirect(20, 0) as u32 }
}

/// Addresses and ports.
#[inline(always)]
pub(crate) fn key(frame: &Frame) -> [u32; 3] {
    [
        frame.read(V4::SOURCE),
        frame.read(V4::SOURCE + 4),
        frame.read(V4::TCP),
    ]
}
