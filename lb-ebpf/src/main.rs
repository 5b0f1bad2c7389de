//! The XDP program: what becomes of each packet.
//!
//! The decision is `lb_common::pipeline::decide`, safe and pure; this crate is what it needs
//! of the kernel: packet pointers (`packet`), tables (`maps`, `tables`), and below the one place where a
//! decision turns into an XDP action.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "the only way to an atomic addition on this target"
)]

mod maps;
mod packet;
mod tables;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::family::V4;
use lb_common::pipeline::{Forward, carry, classify, refuse_odd};
use lb_common::reason::Reason;
use lb_common::refuse::refuse;
use lb_common::wire::Headers;

use crate::maps::{count_reason, count_traffic, now};
use crate::packet::{Packet, cut_to_headers, read};
use crate::tables::KernelTables;

/// No XDP action: the packet belongs to no established connection.
const UNKNOWN: u32 = u32::MAX;

#[xdp]
fn pglb(ctx: XdpContext) -> u32 {
    match carry_on(&ctx) {
        UNKNOWN => handle_unknown(&ctx),
        action => action,
    }
}

/// The hot path: a packet of an established connection.
#[inline(never)]
fn carry_on(ctx: &XdpContext) -> u32 {
    let mut packet = match read(ctx) {
        Ok(Packet::Plain(packet)) => packet,
        Ok(Packet::Odd(receiver, reason)) => {
            let tables = KernelTables { ctx: Some(ctx) };
            return turn_away(ctx, refuse_odd(&tables, receiver, reason));
        }
        Err(reason) => return turn_away(ctx, reason),
    };
    match carry(&KernelTables { ctx: Some(ctx) }, &mut packet, now()) {
        Some(result) => finish(ctx, &mut packet, result),
        None => UNKNOWN,
    }
}

/// Everything else. It has a stack of its own, and so reads the packet anew.
#[inline(never)]
fn handle_unknown(ctx: &XdpContext) -> u32 {
    match read(ctx) {
        Ok(Packet::Plain(mut packet)) => {
            let result = classify(&KernelTables { ctx: Some(ctx) }, &mut packet, now());
            finish(ctx, &mut packet, result)
        }
        Ok(Packet::Odd(_, reason)) | Err(reason) => turn_away(ctx, reason),
    }
}

#[inline(always)]
fn finish(ctx: &XdpContext, packet: &mut Headers<'_, V4>, result: Result<Forward, Reason>) -> u32 {
    match result {
        Ok(forward) => send(ctx, &forward),
        Err(reason) => match turn_away(ctx, reason) {
            XDP_TX => answer(ctx, packet),
            action => action,
        },
    }
}

/// Turns the packet into the RST that answers it.
#[inline(never)]
fn answer(ctx: &XdpContext, packet: &mut Headers<'_, V4>) -> u32 {
    refuse(packet);
    if cut_to_headers(ctx) {
        maps::send_back(ctx)
    } else {
        XDP_DROP
    }
}

/// Sends a rewritten packet.
#[inline(always)]
fn send(ctx: &XdpContext, forward: &Forward) -> u32 {
    count_traffic(forward, packet::length(ctx));
    match forward.interface {
        0 => XDP_PASS,
        interface if interface as usize == ctx.ingress_ifindex() => maps::send_back(ctx),
        interface => maps::redirect(interface),
    }
}

/// Turns a reason into what happens to the packet: not ours, pass; ours and an RST helps, TX (the
/// caller makes the RST); else drop.
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
        | Reason::Superseded => {
            log_refusal(ctx, reason);
            XDP_TX
        }
        Reason::Fragment
        | Reason::IpOptions
        | Reason::HopLimit
        | Reason::Held
        | Reason::StrayReset
        | Reason::RefusalWithheld
        | Reason::Inconsistent => XDP_DROP,
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
