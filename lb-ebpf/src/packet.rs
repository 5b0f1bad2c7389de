//! From the raw frame to bounds-checked headers: the only arithmetic on packet pointers; and the
//! calls that take the packet's context.
#![expect(
    unsafe_code,
    reason = "packet pointers can only be read after a comparison with the end"
)]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibQuery};
use aya_ebpf::helpers::{
    bpf_check_mtu, bpf_fib_lookup, bpf_ktime_get_ns, bpf_redirect, bpf_xdp_adjust_head,
    bpf_xdp_adjust_tail,
};
use aya_ebpf::programs::XdpContext;
use lb_common::capture::Header as Start;
use lb_common::family::{Family, V4, V4Address, V6, V6Address};
use lb_common::flow::Endpoint;
use lb_common::reason::Reason;
use lb_common::wire::{
    Egress, Ethernet, ExtensionHeader, Headers, Icmp, IpHeader, Ipv4, Ipv6, PROTOCOL_TCP, Quote,
    QuotedChecksum, QuotedPorts, Tag, Tcp,
};

use crate::family::TabledFamily;

/// What the frame carries: an EtherType, in network byte order.
#[inline(always)]
pub(crate) fn kind(ctx: &XdpContext) -> Result<[u8; 2], Reason> {
    let ethernet = at::<Ethernet>(ctx, 0).ok_or(Reason::Truncated)?;
    Ok(ethernet.kind)
}

/// A family whose packets can be read.
///
/// The checks stand one behind the other: gathered in one expression the compiler makes shifts
/// of packet pointers out of them, which the verifier rejects.
pub(crate) trait Readable: Family<Header: Header> {
    /// Reads the headers of a TCP packet of this family. [`Reason::NotTcp`] may be an ICMP error;
    /// [`Reason::IpOptions`] and [`Reason::Fragment`] are for who [`Readable::receiver`] tells.
    fn read(ctx: &XdpContext) -> Result<Headers<'_, Self>, Reason>
    where
        Self: Sized;

    /// The receiver of a TCP packet with IP options or extension headers, or of a fragment; port 0
    /// where the port is in another fragment.
    fn receiver(ctx: &XdpContext) -> Option<Endpoint<Self::Address>>;

    /// Whether an IP header is a plain one, with `protocol` behind it.
    fn is_plain(ip: &Self::Header, protocol: u8) -> bool;

    /// Reads the headers of an ICMP error, and of the TCP packet that it quotes.
    #[inline(always)]
    fn read_error(ctx: &XdpContext) -> Result<Quote<'_, Self>, Reason>
    where
        Self: Sized,
    {
        let behind = Ethernet::LENGTH + Self::Header::LENGTH;
        let quoted = behind + Icmp::LENGTH;
        let quoted_tcp = quoted + Self::Header::LENGTH;
        let ethernet = at::<Ethernet>(ctx, 0).ok_or(Reason::Truncated)?;
        let ip = at::<Self::Header>(ctx, Ethernet::LENGTH).ok_or(Reason::Truncated)?;
        let icmp = at::<Icmp>(ctx, behind).ok_or(Reason::Truncated)?;
        if !Self::is_plain(ip, Self::ICMP) || !Self::is_error(icmp.kind()) {
            return Err(Reason::NotTcp);
        }
        let quoted_ip = at::<Self::Header>(ctx, quoted).ok_or(Reason::NotOurs)?;
        if !Self::is_plain(quoted_ip, PROTOCOL_TCP) {
            return Err(Reason::NotOurs);
        }
        let quoted_ports = at::<QuotedPorts>(ctx, quoted_tcp).ok_or(Reason::NotOurs)?;
        let quoted_checksum = at::<QuotedChecksum>(ctx, quoted_tcp + QuotedChecksum::OFFSET);
        Ok(Quote {
            ethernet,
            ip,
            icmp,
            quoted_ip,
            quoted_ports,
            quoted_checksum,
            egress: Egress::default(),
        })
    }
}

impl Readable for V4 {
    #[inline(always)]
    fn read(ctx: &XdpContext) -> Result<Headers<'_, Self>, Reason> {
        let ip = at::<Ipv4>(ctx, Ethernet::LENGTH).ok_or(Reason::Truncated)?;
        let ip_length = usize::from(ip.header_length());
        if ip.version() != 4 || ip_length < Ipv4::LENGTH {
            return Err(Reason::Truncated);
        }
        if ip.protocol() != PROTOCOL_TCP {
            return Err(Reason::NotTcp);
        }
        if ip.is_fragment() {
            return Err(Reason::Fragment);
        }
        if ip_length > Ipv4::LENGTH {
            return Err(Reason::IpOptions);
        }
        plain(ctx, ip)
    }

    #[inline(always)]
    fn receiver(ctx: &XdpContext) -> Option<Endpoint<V4Address>> {
        let ip = at::<Ipv4>(ctx, Ethernet::LENGTH)?;
        let mut port = [0; 2];
        if !ip.is_later_fragment() {
            let behind = Ethernet::LENGTH + usize::from(ip.header_length());
            let ports = at::<[u8; 4]>(ctx, behind)?;
            port = [ports[2], ports[3]];
        }
        let address = ip.destination();
        Some(Endpoint { address, port })
    }

    #[inline(always)]
    fn is_plain(ip: &Ipv4, protocol: u8) -> bool {
        usize::from(ip.header_length()) == Ipv4::LENGTH
            && ip.protocol() == protocol
            && !ip.is_later_fragment()
    }
}

impl Readable for V6 {
    #[inline(always)]
    fn read(ctx: &XdpContext) -> Result<Headers<'_, Self>, Reason> {
        let ip = at::<Ipv6>(ctx, Ethernet::LENGTH).ok_or(Reason::Truncated)?;
        if ip.version() != 6 {
            return Err(Reason::Truncated);
        }
        if ip.next_header() == PROTOCOL_TCP {
            return plain(ctx, ip);
        }
        if !ExtensionHeader::is_announced_by(ip.next_header()) {
            return Err(Reason::NotTcp);
        }
        // One extension header is looked past; whoever sends more of them does not send TCP.
        let behind = Ethernet::LENGTH + Ipv6::LENGTH;
        let header = at::<ExtensionHeader>(ctx, behind).ok_or(Reason::Truncated)?;
        if header.next_header() != PROTOCOL_TCP {
            return Err(Reason::NotTcp);
        }
        Err(if ExtensionHeader::is_fragment(ip.next_header()) {
            Reason::Fragment
        } else {
            Reason::IpOptions
        })
    }

    #[inline(always)]
    fn receiver(ctx: &XdpContext) -> Option<Endpoint<V6Address>> {
        let ip = at::<Ipv6>(ctx, Ethernet::LENGTH)?;
        let behind = Ethernet::LENGTH + Ipv6::LENGTH;
        let header = at::<ExtensionHeader>(ctx, behind)?;
        let is_fragment = ExtensionHeader::is_fragment(ip.next_header());
        let length = if is_fragment {
            ExtensionHeader::LENGTH
        } else {
            header.length()
        };
        let mut port = [0; 2];
        if !(is_fragment && header.is_later_fragment()) {
            let ports = at::<[u8; 4]>(ctx, behind + length)?;
            port = [ports[2], ports[3]];
        }
        let address = ip.destination();
        Some(Endpoint { address, port })
    }

    #[inline(always)]
    fn is_plain(ip: &Ipv6, protocol: u8) -> bool {
        ip.next_header() == protocol
    }
}

#[inline(always)]
fn plain<'p, F: Readable>(
    ctx: &'p XdpContext,
    ip: &'p mut F::Header,
) -> Result<Headers<'p, F>, Reason> {
    let ethernet = at::<Ethernet>(ctx, 0).ok_or(Reason::Truncated)?;
    let tcp = at::<Tcp>(ctx, Ethernet::LENGTH + F::Header::LENGTH).ok_or(Reason::Truncated)?;
    let headers = Headers {
        ethernet,
        ip,
        tcp,
        egress: Egress::default(),
    };
    if headers.is_sound() {
        Ok(headers)
    } else {
        Err(Reason::Truncated)
    }
}

/// Cuts off what follows the headers of a packet; tells whether it worked. Headers that were read
/// before must not be used after it.
#[inline(always)]
pub(crate) fn cut_to_headers<F: Family>(ctx: &XdpContext) -> bool {
    let headers = Ethernet::LENGTH + F::Header::LENGTH + Tcp::LENGTH;
    let length = measured(ctx);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a frame is shorter than 2 GiB"
    )]
    let surplus = (length - headers) as i32;
    // SAFETY: the context is the one that the kernel handed to the program.
    surplus == 0 || unsafe { bpf_xdp_adjust_tail(ctx.ctx, -surplus) } == 0
}

/// Cuts a packet off behind its headers and makes room before its IP header for another one and
/// an ICMP header; the frame is addressed to its sender then. Tells whether it worked. Headers that
/// were read before must not be used after it.
#[inline(always)]
pub(crate) fn make_room<F: Family>(ctx: &XdpContext) -> bool {
    let Some(ethernet) = at::<[u16; 7]>(ctx, 0) else {
        return false;
    };
    let [a, b, c, d, e, f, kind] = in_hand(ethernet);
    #[expect(clippy::cast_possible_truncation, reason = "48 bytes at most")]
    let room = -((F::Header::LENGTH + Icmp::LENGTH) as i32);
    if !cut_to_headers::<F>(ctx) || !move_head(ctx, room) {
        return false;
    }
    let Some(place) = at::<[u16; 7]>(ctx, 0) else {
        return false;
    };
    *place = [d, e, f, a, b, c, kind];
    true
}

/// A header by value, pair by pair. The compiler must not read it in larger pieces: it would put
/// them on the stack as they lie in the packet, unaligned, which the verifier rejects.
#[inline(always)]
pub(crate) fn in_hand<const PAIRS: usize>(header: &[u16; PAIRS]) -> [u16; PAIRS] {
    // SAFETY: the pointers are references.
    core::array::from_fn(|pair| unsafe { core::ptr::read_volatile(&raw const header[pair]) })
}

/// Moves the frame's start by so many bytes, towards its end if they are positive; tells whether
/// it worked. Headers that were read before must not be used after it.
#[inline(always)]
pub(crate) fn move_head(ctx: &XdpContext, by: i32) -> bool {
    // SAFETY: the context is the one that the kernel handed to the program.
    unsafe { bpf_xdp_adjust_head(ctx.ctx, by) == 0 }
}

/// The frame's length in bytes, to calculate with. The detour through memory keeps the compiler
/// from calculating with the pointer to the end, which the verifier rejects.
#[inline(always)]
fn measured(ctx: &XdpContext) -> usize {
    let length = ctx.data_end() - ctx.data();
    // SAFETY: it points to the variable above.
    unsafe { core::ptr::read_volatile(&raw const length) }
}

/// The frame's length in bytes.
#[inline(always)]
pub(crate) fn length(ctx: &XdpContext) -> u64 {
    (ctx.data_end() - ctx.data()) as u64
}

/// The exact time, in nanoseconds of `CLOCK_MONOTONIC`: for packets that are shown, because it
/// costs as much as forwarding one.
#[inline(always)]
pub(crate) fn arrival() -> u64 {
    // SAFETY: the helper has no arguments and no effect.
    unsafe { bpf_ktime_get_ns() }
}

/// Copies the frame's first bytes, as many pairs as there are and `into` has room for. (A check
/// for one byte more becomes a check for "not at the end", which not every kernel understands.)
#[inline(always)]
pub(crate) fn copy_start(ctx: &XdpContext, into: &mut Start) {
    for (index, pair) in into.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let Some(bytes) = at::<[u8; 2]>(ctx, index * 2) else {
            return;
        };
        // SAFETY: the pointer is a reference. Read as volatile, or the compiler makes one copy of
        // unknown length of the loop, which the verifier rejects.
        *pair = unsafe { core::ptr::read_volatile(bytes) };
    }
}

/// The header at `offset`, if the frame is long enough for it.
#[inline(always)]
#[expect(
    clippy::mut_from_ref,
    reason = "the context is a pointer to the frame, not the frame"
)]
pub(crate) fn at<H: Header>(ctx: &XdpContext, offset: usize) -> Option<&mut H> {
    let start = ctx.data() + offset;
    if start + size_of::<H>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie inside the frame by the comparison above; every `Header` is bytes,
    // valid whatever they are, and aligned to two at most, as frames and all lengths in them are;
    // nobody asks for the same bytes twice and uses both.
    Some(unsafe { &mut *(start as *mut H) })
}

/// A header that is nothing but bytes, aligned to two at most.
pub(crate) trait Header {}
impl Header for [u8; 2] {}
impl Header for Ethernet {}
impl Header for Ipv4 {}
impl Header for Ipv6 {}
impl Header for ExtensionHeader {}
impl Header for Tcp {}
impl Header for Icmp {}
impl Header for QuotedPorts {}
impl Header for QuotedChecksum {}
impl Header for Tag {}
impl Header for MacAddresses {}
impl Header for [u16; 7] {}
impl Header for [u8; 4] {}

/// Both MAC addresses, in front of the VLAN tags.
pub(crate) type MacAddresses = [u16; 6];

/// Hands the packet to the driver of another interface; returns the XDP action.
#[inline(always)]
pub(crate) fn redirect(interface: u32) -> u32 {
    // SAFETY: the helper takes numbers and checks them.
    let action = unsafe { bpf_redirect(interface, 0) };
    #[expect(clippy::cast_possible_truncation, reason = "an XDP action")]
    let action = action as u32;
    action
}

/// Asks the kernel's routing tables; tells whether they know the way whole, down to the next hop's
/// MAC address.
#[inline(always)]
pub(crate) fn ask_routing(ctx: &XdpContext, query: &mut FibQuery) -> bool {
    const SIZE: i32 = 64;
    const _: () = assert!(size_of::<FibQuery>() == SIZE as usize);
    // SAFETY: the query is a whole one and its size is told.
    let answer = unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut *query, SIZE, 0) };
    answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS)
}

/// Whether the routing tables' answer is about `destination` itself, and not about a router that
/// they put in its place.
#[inline(always)]
pub(crate) fn is_addressed<F: TabledFamily>(query: &FibQuery, destination: F::Address) -> bool {
    // SAFETY: integers, all of whose forms are valid.
    let words = unsafe { query.__bindgen_anon_4.ipv6_dst };
    F::is_address(words, destination)
}

/// The MTU of the way that the routing tables found, in bytes; 0 when they do not say.
#[inline(always)]
pub(crate) fn mtu(query: &FibQuery) -> u16 {
    // SAFETY: integers, all of whose forms are valid.
    unsafe { query.__bindgen_anon_1.mtu_result }
}

/// Whether the packet is larger than what the interface that it came from carries.
#[inline(always)]
pub(crate) fn exceeds_ingress(ctx: &XdpContext) -> bool {
    let mut mtu = 0;
    // SAFETY: the context is the one that the kernel handed to the program; interface 0 is its own.
    unsafe { bpf_check_mtu(ctx.as_ptr(), 0, &raw mut mtu, 0, 0) != 0 }
}
