//! The XDP program: what becomes of each packet.
//!
//! The decision is `lb_common::pipeline`, safe and pure; this crate is what it needs of the kernel:
//! packet pointers (`packet`), VLAN tags (`vlan`), routing (`routing`), tables (`maps`, `tables`, `family`), and
//! below the one place where a decision turns into an XDP action.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "the only way to an atomic addition on this target"
)]

mod amend;
mod capture;
mod family;
mod maps;
mod packet;
mod routing;
mod tables;
mod vlan;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::family::{V4, V6};
use lb_common::flow::FlowKey;
use lb_common::pipeline::{
    Carried, Decision, Forward, Left, carry, classify, key_of, open_from_port, refuse_odd,
    translate,
};
use lb_common::reason::Reason;
use lb_common::refuse::{refuse, report_too_big};
use lb_common::wire::{Egress, EgressTags, Ethernet, Icmp, IpHeader, Ipv4, Ipv6, Quote, Tag, Tcp};

use crate::family::TabledFamily;
use crate::maps::row;
use crate::maps::rows::{count_reason, count_traffic, keep_egress, kept_egress, now};
use crate::packet::{Readable, at};
use crate::tables::KernelTables;

/// No XDP action: the packet belongs to no established connection.
const UNKNOWN: u32 = u32::MAX;
/// No XDP action: the packet is a SYN that belongs to no connection.
const NEW: u32 = u32::MAX - 5;
/// No XDP action: the packet is more than data or an ACK of an established connection.
const ESTABLISHED: u32 = u32::MAX - 4;
/// No XDP action: the packet may be an ICMP error.
const NO_TCP: u32 = u32::MAX - 1;
/// No XDP action: a TCP packet in fragments or with IP options.
const ODD: u32 = u32::MAX - 3;
/// No XDP action: an RST is to answer the packet.
const ANSWER: u32 = u32::MAX - 2;
/// No XDP action: the packet does not fit the MTU in the lower half.
const REPORT: u32 = 0x4000_0000;
/// A frame that came without VLAN tags.
const UNTAGGED: u64 = 0;

#[xdp]
fn pglb(ctx: XdpContext) -> u32 {
    let kept = capture::begin(&ctx);
    let mut came = UNTAGGED;
    let mut kind = packet::kind(&ctx);
    // A frame with VLAN tags is handled without them, and gets those that it leaves with at the end.
    if kind.is_ok_and(Tag::is_announced_by) {
        came = vlan::untag(&ctx);
        kind = vlan::reason(came).map_or_else(|| packet::kind(&ctx), Err);
    }
    let action = match kind {
        Ok(Ipv4::ETHER_TYPE) => handle::<V4>(&ctx, came),
        Ok(Ipv6::ETHER_TYPE) => handle::<V6>(&ctx, came),
        Ok(_) => turn_away(Reason::NotIp),
        Err(reason) => turn_away(reason),
    };
    capture::finish(&ctx, kept, action);
    action
}

#[inline(always)]
fn handle<F: Readable + TabledFamily>(ctx: &XdpContext, came: u64) -> u32 {
    let mut action = carry_on::<F>(ctx, came);
    if matches!(action, UNKNOWN | ESTABLISHED | NEW) {
        let mut decision = Decision(handle_left::<F>(ctx, action));
        if let Some(opening) = decision.opening() {
            let port = (F::TAKE_PORT)(u32::from(opening.slot.0));
            decision = Decision(open_with::<F>(ctx, decision.0, port));
        }
        action = conclude(ctx, came, decision.0);
    }
    match action {
        ODD => handle_odd::<F>(ctx, came),
        NO_TCP => handle_error::<F>(ctx, came),
        ANSWER => leave(ctx, came, answer::<F>(ctx)),
        report if report & REPORT != 0 => leave(ctx, came, self::report::<F>(ctx, report)),
        action => action,
    }
}

/// The hot path: a packet of an established connection.
#[inline(never)]
fn carry_on<F: Readable + TabledFamily>(ctx: &XdpContext, came: u64) -> u32 {
    let mut packet = match F::read(ctx) {
        Ok(packet) => packet,
        Err(Reason::NotTcp) => return NO_TCP,
        Err(Reason::Fragment | Reason::IpOptions) => return ODD,
        Err(reason) => return leave(ctx, came, turn_away(reason)),
    };
    match carry(&KernelTables { ctx: Some(ctx) }, &mut packet, now()) {
        Carried::Sent(forward) => send(ctx, came, &forward, packet.egress.tags),
        Carried::Refused(reason) => hold_back(ctx, came, &packet.egress, reason),
        Carried::Left(Left::Established) => ESTABLISHED,
        Carried::Left(Left::Unknown) => UNKNOWN,
        Carried::Left(Left::New) => NEW,
    }
}

/// Everything else. It has a stack of its own, and so reads the packet anew.
#[inline(never)]
fn handle_left<F: Readable + TabledFamily>(ctx: &XdpContext, action: u32) -> u64 {
    let mut packet = match F::read(ctx) {
        Ok(packet) => packet,
        Err(reason) => return Decision::of(Err(reason)).0,
    };
    let Some(key) = row(F::KEY.get_ptr_mut(0)) else {
        return Decision::of(Err(Reason::Inconsistent)).0;
    };
    *key = FlowKey::of(&packet);
    let left = match action {
        NEW => Left::New,
        ESTABLISHED => Left::Established,
        _ => Left::Unknown,
    };
    let tables = KernelTables { ctx: Some(ctx) };
    let decision = classify(&tables, &mut packet, key, now(), left);
    keep_egress(packet.egress);
    decision.0
}

/// Opens a full-nat connection from the port that was taken for it.
#[inline(never)]
#[expect(clippy::cast_possible_truncation, reason = "it is a port")]
fn open_with<F: Readable + TabledFamily>(ctx: &XdpContext, decision: u64, port: u32) -> u64 {
    let (Ok(mut packet), Some(key)) = (F::read(ctx), F::KEY.get(0)) else {
        return Decision::of(Err(Reason::Inconsistent)).0;
    };
    let Some(opening) = Decision(decision).opening() else {
        return Decision::of(Err(Reason::Inconsistent)).0;
    };
    let tables = KernelTables { ctx: Some(ctx) };
    let decision = open_from_port(&tables, &mut packet, key, now(), opening, port as u16);
    keep_egress(packet.egress);
    decision.0
}

/// Does what was decided about a packet of no established connection.
#[inline(never)]
fn conclude(ctx: &XdpContext, came: u64, decision: u64) -> u32 {
    finish(ctx, came, &kept_egress(), Decision(decision).made())
}

/// A TCP packet that no service takes.
#[inline(never)]
fn handle_odd<F: Readable + TabledFamily>(ctx: &XdpContext, came: u64) -> u32 {
    let reason = match (F::read(ctx), F::receiver(ctx)) {
        (Err(reason), Some(receiver)) => {
            refuse_odd::<F, _>(&KernelTables { ctx: Some(ctx) }, receiver, reason)
        }
        _ => Reason::Truncated,
    };
    leave(ctx, came, turn_away(reason))
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
        Err(reason) => leave(ctx, came, turn_away(reason)),
    }
}

#[inline(always)]
fn translate_error<F: TabledFamily>(
    ctx: &XdpContext,
    error: &mut Quote<'_, F>,
) -> Result<(Forward, EgressTags), Reason> {
    let key = row(F::KEY.get_ptr_mut(0)).ok_or(Reason::Inconsistent)?;
    *key = key_of(error);
    let forward = translate(&KernelTables { ctx: Some(ctx) }, error, key)?;
    Ok((forward, error.egress.tags))
}

#[inline(always)]
fn finish(ctx: &XdpContext, came: u64, egress: &Egress, result: Result<Forward, Reason>) -> u32 {
    match result {
        Ok(forward) => send(ctx, came, &forward, egress.tags),
        Err(reason) => hold_back(ctx, came, egress, reason),
    }
}

/// Does not forward the packet.
#[inline(always)]
fn hold_back(ctx: &XdpContext, came: u64, egress: &Egress, reason: Reason) -> u32 {
    match turn_away(reason) {
        XDP_TX if reason == Reason::TooBig => REPORT | u32::from(egress.mtu),
        XDP_TX => ANSWER,
        action => leave(ctx, came, action),
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
        return turn_away(Reason::VlanTags);
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
        return turn_away(Reason::VlanTags);
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
fn turn_away(reason: Reason) -> u32 {
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
            if maps::is_debugging() {
                maps::global::pglb_log_refusal(reason.index());
            }
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

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
