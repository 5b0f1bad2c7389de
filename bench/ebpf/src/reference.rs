//! The reference programs: from nothing but the answer to a whole rewrite, for both families.
#![expect(
    unsafe_code,
    reason = "map values are raw pointers into memory that the kernel shares"
)]

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{HashMap, PerCpuArray};
use aya_ebpf::programs::XdpContext;

use crate::frame::{Family, Frame, V4, V6};

/// A million flows of IPv4 by a key of 16 bytes: addresses, ports, protocol.
#[map]
static REFERENCE_V4: HashMap<[u32; 4], [u32; 6]> = HashMap::with_max_entries(1 << 20, 0);
/// A million flows of IPv6 by a key of 40 bytes.
#[map]
static REFERENCE_V6: HashMap<[u32; 10], [u32; 9]> = HashMap::with_max_entries(1 << 20, 0);
/// Packets and bytes.
#[map]
static REFERENCE_TRAFFIC: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(256, 0);

/// Bytes of Ethernet, IP and TCP headers.
pub(crate) const HEADERS_V4: usize = 54;
pub(crate) const HEADERS_V6: usize = 74;

/// (a): the answer alone.
#[xdp]
fn answer(_: XdpContext) -> u32 {
    XDP_TX
}

/// (b): three headers are read and found good.
#[xdp]
fn parse_v4(ctx: XdpContext) -> u32 {
    read::<V4, HEADERS_V4>(&ctx).map_or(XDP_PASS, |_| XDP_TX)
}

/// (b) for IPv6.
#[xdp]
fn parse_v6(ctx: XdpContext) -> u32 {
    read::<V6, HEADERS_V6>(&ctx).map_or(XDP_PASS, |_| XDP_TX)
}

/// (c): the flow is found.
#[xdp]
fn find_v4(ctx: XdpContext) -> u32 {
    read::<V4, HEADERS_V4>(&ctx)
        .and_then(|frame| REFERENCE_V4.get_ptr(key_v4(&frame)))
        .map_or(XDP_PASS, |_| XDP_TX)
}

/// (c) for IPv6.
#[xdp]
fn find_v6(ctx: XdpContext) -> u32 {
    read::<V6, HEADERS_V6>(&ctx)
        .and_then(|frame| REFERENCE_V6.get_ptr(key_v6(&frame)))
        .map_or(XDP_PASS, |_| XDP_TX)
}

/// (d): one address and port are replaced, checksums kept right, MAC addresses written, counted.
#[xdp]
fn rewrite_v4(ctx: XdpContext) -> u32 {
    try_rewrite_v4(&ctx).unwrap_or(XDP_PASS)
}

/// (d) for IPv6.
#[xdp]
fn rewrite_v6(ctx: XdpContext) -> u32 {
    try_rewrite_v6(&ctx).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn try_rewrite_v4(ctx: &XdpContext) -> Option<u32> {
    let frame = read::<V4, HEADERS_V4>(ctx)?;
    let entry = REFERENCE_V4.get_ptr(key_v4(&frame))?;
    // SAFETY: the lookup has found it. Copied once, so that it is not read again after each store.
    let [address, rest @ ..] = unsafe { *entry };
    apply::<V4, 1, 5>(&frame, [address], rest);
    count(ctx, rest[4]);
    Some(XDP_TX)
}

#[inline(always)]
fn try_rewrite_v6(ctx: &XdpContext) -> Option<u32> {
    let frame = read::<V6, HEADERS_V6>(ctx)?;
    let entry = REFERENCE_V6.get_ptr(key_v6(&frame))?;
    // SAFETY: as above.
    let [a, b, c, d, rest @ ..] = unsafe { *entry };
    apply::<V6, 4, 5>(&frame, [a, b, c, d], rest);
    count(ctx, rest[4]);
    Some(XDP_TX)
}

/// Reads and checks the headers.
#[inline(always)]
pub(crate) fn read<F: Family, const HEADERS: usize>(ctx: &XdpContext) -> Option<Frame> {
    let frame = Frame::of::<HEADERS>(ctx)?;
    let kind: u16 = frame.read(12);
    let tcp_length: u8 = frame.read(F::TCP + 12);
    (kind == F::KIND && F::is_plain(&frame) && tcp_length >= 0x50).then_some(frame)
}

#[inline(always)]
pub(crate) fn key_v4(frame: &Frame) -> [u32; 4] {
    [
        frame.read(V4::SOURCE),
        frame.read(V4::SOURCE + 4),
        frame.read(V4::TCP),
        6,
    ]
}

#[inline(always)]
pub(crate) fn key_v6(frame: &Frame) -> [u32; 10] {
    let mut key = [6; 10];
    for (index, word) in key.iter_mut().enumerate().take(8) {
        *word = frame.read(V6::SOURCE + index * 4);
    }
    key[8] = frame.read(V6::TCP);
    key
}

/// Writes the new address and port and the MAC addresses. An entry holds behind the address: the
/// port and whether it is the source's, and both MAC addresses.
#[inline(always)]
pub(crate) fn apply<F: Family, const WORDS: usize, const REST: usize>(
    frame: &Frame,
    address: [u32; WORDS],
    rest: [u32; REST],
) {
    let [p0, p1, is_source, _] = rest[0].to_ne_bytes();
    let port = u16::from_ne_bytes([p0, p1]);
    let (address_at, port_at) = if is_source != 0 {
        (F::SOURCE, F::TCP)
    } else {
        (F::SOURCE + WORDS * 4, F::TCP + 2)
    };
    let mut change: u64 = 0;
    for (index, word) in address.into_iter().enumerate() {
        let old: u32 = frame.read(address_at + index * 4);
        change += u64::from(!old) + u64::from(word);
        frame.write(address_at + index * 4, word);
    }
    if let Some(offset) = F::IP_CHECKSUM {
        update(frame, offset, change);
    }
    let old: u16 = frame.read(port_at);
    change += u64::from(!old) + u64::from(port);
    frame.write(port_at, port);
    update(frame, F::TCP + 16, change);
    frame.write(0, rest[1]);
    frame.write(4, rest[2]);
    frame.write(8, rest[3]);
}

/// The checksum at `offset` after words have changed by `change` (RFC 1624, equation 3).
#[inline(always)]
pub(crate) fn update(frame: &Frame, offset: usize, change: u64) {
    let old: u16 = frame.read(offset);
    let mut sum = change + u64::from(!old);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "the folds leave 16 bits")]
    frame.write(offset, !(sum as u16));
}

#[inline(always)]
pub(crate) fn count(ctx: &XdpContext, index: u32) {
    if let Some(traffic) = REFERENCE_TRAFFIC.get_ptr_mut(index) {
        // SAFETY: this CPU's own entry.
        let [packets, bytes] = unsafe { &mut *traffic };
        *packets += 1;
        *bytes += (ctx.data_end() - ctx.data()) as u64;
    }
}
