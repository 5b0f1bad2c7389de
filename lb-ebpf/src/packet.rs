//! From the raw frame to bounds-checked headers: the only arithmetic on packet pointers.
#![expect(
    unsafe_code,
    reason = "packet pointers can only be read after a comparison with the end"
)]

use aya_ebpf::helpers::bpf_xdp_adjust_tail;
use aya_ebpf::programs::XdpContext;
use lb_common::family::V4;
use lb_common::flow::Endpoint;
use lb_common::reason::Reason;
use lb_common::wire::{Ethernet, Headers, Ipv4, PROTOCOL_TCP, Tcp};

/// A TCP packet over IPv4.
pub(crate) enum Packet<'p> {
    /// An ordinary one.
    Plain(Headers<'p, V4>),
    /// One that no service takes: where it wants to go, and why a service would refuse it.
    Odd(Endpoint<[u8; 4]>, Reason),
}

/// Reads the headers of the frame; an error for one that is no TCP packet over IPv4.
///
/// The checks stand one behind the other: gathered in one expression the compiler makes shifts
/// of packet pointers out of them, which the verifier rejects.
#[inline(always)]
pub(crate) fn read(ctx: &XdpContext) -> Result<Packet<'_>, Reason> {
    let ethernet = at::<Ethernet>(ctx, 0).ok_or(Reason::Truncated)?;
    if ethernet.kind() != Ipv4::ETHER_TYPE {
        return Err(Reason::NotIp);
    }
    let ip = at::<Ipv4>(ctx, Ethernet::LENGTH).ok_or(Reason::Truncated)?;
    let ip_length = usize::from(ip.header_length());
    if ip.version() != 4 || ip_length < Ipv4::LENGTH {
        return Err(Reason::Truncated);
    }
    if ip.protocol() != PROTOCOL_TCP {
        return Err(Reason::NotTcp);
    }
    if ip.is_later_fragment() {
        return Err(Reason::NotOurs);
    }
    if ip_length > Ipv4::LENGTH {
        let ports = at::<[u8; 4]>(ctx, Ethernet::LENGTH + ip_length).ok_or(Reason::Truncated)?;
        return Ok(Packet::Odd(
            receiver(ip, [ports[2], ports[3]]),
            Reason::IpOptions,
        ));
    }
    let tcp = at::<Tcp>(ctx, Ethernet::LENGTH + Ipv4::LENGTH).ok_or(Reason::Truncated)?;
    if ip.is_fragment() {
        return Ok(Packet::Odd(
            receiver(ip, tcp.destination()),
            Reason::Fragment,
        ));
    }
    let headers = Headers { ethernet, ip, tcp };
    if headers.is_sound() {
        Ok(Packet::Plain(headers))
    } else {
        Err(Reason::Truncated)
    }
}

/// Cuts off what follows the headers of a [`lb_common::refuse`]d packet; tells whether it worked.
/// The headers must not be used after it.
#[inline(always)]
pub(crate) fn cut_to_headers(ctx: &XdpContext) -> bool {
    const HEADERS: usize = Ethernet::LENGTH + Ipv4::LENGTH + Tcp::LENGTH;
    let length = ctx.data_end() - ctx.data();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a frame is shorter than 2 GiB"
    )]
    let surplus = (length - HEADERS) as i32;
    // SAFETY: the context is the one that the kernel handed to the program.
    surplus == 0 || unsafe { bpf_xdp_adjust_tail(ctx.ctx, -surplus) } == 0
}

/// The frame's length in bytes.
#[inline(always)]
pub(crate) fn length(ctx: &XdpContext) -> u64 {
    (ctx.data_end() - ctx.data()) as u64
}

#[inline(always)]
fn receiver(ip: &Ipv4, port: [u8; 2]) -> Endpoint<[u8; 4]> {
    use lb_common::wire::IpHeader;
    Endpoint {
        address: ip.destination(),
        port,
    }
}

/// The header at `offset`, if the frame is long enough for it.
#[inline(always)]
#[expect(
    clippy::mut_from_ref,
    reason = "the context is a pointer to the frame, not the frame"
)]
fn at<H: Header>(ctx: &XdpContext, offset: usize) -> Option<&mut H> {
    let start = ctx.data() + offset;
    if start + size_of::<H>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie inside the frame by the comparison above; every `Header` is a byte
    // array, valid for any bytes and without alignment; `read` asks for each offset once.
    Some(unsafe { &mut *(start as *mut H) })
}

/// A header that is nothing but an array of bytes.
trait Header {}
impl Header for Ethernet {}
impl Header for Ipv4 {}
impl Header for Tcp {}
impl Header for [u8; 4] {}
