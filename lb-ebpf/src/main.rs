//! The XDP program: what becomes of each packet.
//!
//! The decision is `lb_common::pipeline`, safe and pure; this crate is what it needs of the kernel:
//! packet pointers (`packet`), VLAN tags (`vlan`), routing (`routing`), tables (`maps`, `tables`), and
//! below the one place where a decision turns into an XDP action.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "the only way to an atomic addition on this target"
)]

mod capture;
mod maps;
mod packet;
mod routing;
mod tables;
mod vlan;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::family::{V4, V6};
use lb_common::member::Slot;
use lb_common::pipeline::{
    Forward, Opening, carry, classify, open_from_port, refuse_odd, translate,
};
use lb_common::reason::Reason;
use lb_common::refuse::{refuse, report_too_big};
use lb_common::wire::{EgressTags, Ethernet, Headers, Icmp, IpHeader, Ipv4, Ipv6, Quote, Tcp};

use crate::maps::{count_reason, count_traffic, now};
use crate::packet::{Readable, at};
use crate::tables::{KernelTables, TabledFamily};

/// No XDP action: the packet belongs to no established connection.
const UNKNOWN: u32 = u32::MAX;
/// No XDP action: the packet may be an ICMP error.
const NO_TCP: u32 = u32::MAX - 1;
/// No XDP action: an RST is to answer the packet.
const ANSWER: u32 = u32::MAX - 2;
/// No XDP action: the packet does not fit the MTU in the lower half.
const REPORT: u32 = 0x4000_0000;
/// No XDP action: a connection waits for a port, its member's slot and those that it has tried are
/// in the lower 48 bits.
const NEEDS_PORT: u64 = 1 << 63;
/// A frame that came without VLAN tags.
const UNTAGGED: u64 = 0;

#[xdp]
fn pglb(ctx: XdpContext) -> u32 {
    let kept = capture::begin(&ctx);
    let action = match packet::kind(&ctx) {
        Ok(Ipv4::ETHER_TYPE) => handle::<V4>(&ctx, UNTAGGED),
        Ok(Ipv6::ETHER_TYPE) => handle::<V6>(&ctx, UNTAGGED),
        Ok(_) => handle_tagged(&ctx),
        Err(reason) => turn_away(&ctx, reason),
    };
    capture::finish(&ctx, kept, action);
    action
}

/// A frame with VLAN tags is handled without them, and gets those that it leaves with at the end.
#[inline(always)]
fn handle_tagged(ctx: &XdpContext) -> u32 {
    match vlan::untag(ctx) {
        Ok((Ipv4::ETHER_TYPE, came)) => handle::<V4>(ctx, came),
        Ok((_, came)) => handle::<V6>(ctx, came),
        Err(reason) => turn_away(ctx, reason),
    }
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is the action"
)]
fn handle<F: Readable + TabledFamily>(ctx: &XdpContext, came: u64) -> u32 {
    let mut action = carry_on::<F>(ctx, came);
    if action == UNKNOWN {
        let result = handle_unknown::<F>(ctx, came);
        action = if result & NEEDS_PORT == 0 {
            result as u32
        } else {
            let port = (F::TAKE_PORT)(u32::from(unpack(result).slot.0));
            open_with::<F>(ctx, came, result, port)
        };
    }
    match action {
        NO_TCP => handle_error::<F>(ctx, came),
        ANSWER => leave(ctx, came, answer::<F>(ctx)),
        report if report & REPORT != 0 => leave(ctx, came, self::report::<F>(ctx, report)),
        action => action,
    }
}

/// The hot path: a packet of an established connection.
#[inline(never)]
fn carry_on<F: Readable + TabledFamily>(ctx: &XdpContext, came: u64) -> u32 {
    let Ok(mut packet) = F::read(ctx) else {
        return UNKNOWN;
    };
    match carry(&KernelTables { ctx: Some(ctx) }, &mut packet, now()) {
        Some(result) => finish(ctx, came, &mut packet, result),
        None => UNKNOWN,
    }
}

/// Everything else. It has a stack of its own, and so reads the packet anew.
#[inline(never)]
fn handle_unknown<F: Readable + TabledFamily>(ctx: &XdpContext, came: u64) -> u64 {
    let action = match F::read(ctx) {
        Ok(mut packet) => match classify(&KernelTables { ctx: Some(ctx) }, &mut packet, now()) {
            Ok(result) => finish(ctx, came, &mut packet, result),
            Err(Opening { slot, tried }) => {
                return NEEDS_PORT | u64::from(slot.0) << 32 | u64::from(tried);
            }
        },
        Err(reason @ (Reason::Fragment | Reason::IpOptions)) => {
            handle_odd::<F>(ctx, came, reason.index())
        }
        Err(Reason::NotTcp) => NO_TCP,
        Err(reason) => leave(ctx, came, turn_away(ctx, reason)),
    };
    u64::from(action)
}

/// Opens a full-nat connection from the port that was taken for it.
#[inline(never)]
#[expect(clippy::cast_possible_truncation, reason = "it is a port")]
fn open_with<F: Readable + TabledFamily>(
    ctx: &XdpContext,
    came: u64,
    opening: u64,
    port: u32,
) -> u32 {
    let Ok(mut packet) = F::read(ctx) else {
        return XDP_DROP;
    };
    let tables = KernelTables { ctx: Some(ctx) };
    let result = open_from_port(&tables, &mut packet, now(), unpack(opening), port as u16);
    finish(ctx, came, &mut packet, result)
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "each part is cut out of the number"
)]
fn unpack(opening: u64) -> Opening {
    Opening {
        slot: Slot((opening >> 32) as u16),
        tried: opening as u32,
    }
}

/// A TCP packet that no service takes.
#[inline(never)]
fn handle_odd<F: Readable + TabledFamily>(ctx: &XdpContext, came: u64, reason: u32) -> u32 {
    let reason = match F::receiver(ctx) {
        Some(receiver) => refuse_odd::<F, _>(
            &KernelTables { ctx: Some(ctx) },
            receiver,
            Reason::at(reason),
        ),
        None => Reason::Truncated,
    };
    leave(ctx, came, turn_away(ctx, reason))
}

/// An ICMP error, perhaps about a packet of ours.
#[inline(never)]
fn handle_error<F: Readable + TabledFamily>(ctx: &XdpContext, came: u64) -> u32 {
    let result = match F::read_error(ctx) {
        Ok(mut error) => translate_error(ctx, &mut error),
        Err(reason) => Err(reason),
    };
    match result {
        Ok((forward, tags)) => send(ctx, came, &forward, tags),
        Err(reason) => leave(ctx, came, turn_away(ctx, reason)),
    }
}

#[inline(always)]
fn translate_error<F: TabledFamily>(
    ctx: &XdpContext,
    error: &mut Quote<'_, F>,
) -> Result<(Forward, EgressTags), Reason> {
    let forward = translate(&KernelTables { ctx: Some(ctx) }, error)?;
    Ok((forward, error.egress.tags))
}

#[inline(always)]
fn finish<F: Readable>(
    ctx: &XdpContext,
    came: u64,
    packet: &mut Headers<'_, F>,
    result: Result<Forward, Reason>,
) -> u32 {
    match result {
        Ok(forward) => send(ctx, came, &forward, packet.egress.tags),
        Err(reason) => match turn_away(ctx, reason) {
            XDP_TX if reason == Reason::TooBig => REPORT | u32::from(packet.egress.mtu),
            XDP_TX => ANSWER,
            action => leave(ctx, came, action),
        },
    }
}

/// Turns the packet into the RST that answers it.
#[inline(never)]
fn answer<F: Readable>(ctx: &XdpContext) -> u32 {
    let Ok(mut packet) = F::read(ctx) else {
        return XDP_DROP;
    };
    refuse(&mut packet);
    if packet::cut_to_headers::<F>(ctx) {
        XDP_TX
    } else {
        XDP_DROP
    }
}

/// Turns the packet into the report that it is too big for the way out.
#[inline(never)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is an MTU")]
fn report<F: Readable>(ctx: &XdpContext, report: u32) -> u32 {
    if packet::make_room::<F>(ctx) && write_report::<F>(ctx, report as u16).is_some() {
        XDP_TX
    } else {
        XDP_DROP
    }
}

#[inline(always)]
fn write_report<F: Readable>(ctx: &XdpContext, mtu: u16) -> Option<()> {
    let quoted = Ethernet::LENGTH + F::Header::LENGTH + Icmp::LENGTH;
    let ip = at::<F::Header>(ctx, Ethernet::LENGTH)?;
    let icmp = at::<Icmp>(ctx, Ethernet::LENGTH + F::Header::LENGTH)?;
    let quoted_ip = at::<F::Header>(ctx, quoted)?;
    let quoted_tcp = at::<Tcp>(ctx, quoted + F::Header::LENGTH)?;
    report_too_big::<F>(ip, icmp, quoted_ip, quoted_tcp, mtu);
    Some(())
}

/// Sends a rewritten packet.
#[inline(always)]
fn send(ctx: &XdpContext, came: u64, forward: &Forward, tags: EgressTags) -> u32 {
    count_traffic(forward, packet::length(ctx));
    if forward.interface == 0 {
        return leave(ctx, came, XDP_PASS);
    }
    if !tags.is_empty() && !vlan::tag(ctx, vlan::packed(tags.in_frame())) {
        return turn_away(ctx, Reason::VlanTags);
    }
    if forward.interface == routing::ingress(ctx) {
        routing::send_back(ctx)
    } else {
        routing::redirect(forward.interface)
    }
}

/// Lets a packet go that is not forwarded, with the tags that it came with.
#[inline(always)]
fn leave(ctx: &XdpContext, came: u64, action: u32) -> u32 {
    if came != UNTAGGED && action != XDP_DROP && !vlan::tag(ctx, came) {
        return turn_away(ctx, Reason::VlanTags);
    }
    if action == XDP_TX {
        routing::send_back(ctx)
    } else {
        action
    }
}

/// Turns a reason into what happens to the packet: not ours, pass; ours and an answer helps, TX (the
/// caller makes it: an RST, or that the packet is too big); else drop.
#[inline(always)]
fn turn_away(ctx: &XdpContext, reason: Reason) -> u32 {
    count_reason(reason);
    match reason {
        Reason::NotIp | Reason::NotTcp | Reason::Truncated | Reason::NotOurs => XDP_PASS,
        Reason::Denied
        | Reason::NoBackend
        | Reason::TableFull
        | Reason::ReplyCollision
        | Reason::UnknownSegment
        | Reason::Superseded
        | Reason::SourceLimit
        | Reason::NoPort
        | Reason::TooBig => {
            capture::note_refusal(reason);
            log_refusal(ctx, reason);
            XDP_TX
        }
        Reason::Fragment
        | Reason::IpOptions
        | Reason::HopLimit
        | Reason::Held
        | Reason::StrayReset
        | Reason::RefusalWithheld
        | Reason::Inconsistent
        | Reason::SourceRate
        | Reason::NoNeighbour
        | Reason::NotOnLink
        | Reason::StrayError
        | Reason::VlanTags => {
            capture::note_refusal(reason);
            XDP_DROP
        }
    }
}

#[inline(never)]
fn log_refusal(ctx: &XdpContext, reason: Reason) {
    if maps::is_debugging() {
        aya_log_ebpf::debug!(ctx, "refused: {}", reason.label());
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
