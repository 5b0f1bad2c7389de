//! The way out: what the kernel's routing tables say, and the calls that send a packet on it.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::programs::XdpContext;
use lb_common::flow::NextHop;
use lb_common::wire::{EgressTags, PROTOCOL_TCP};

use crate::family::TabledFamily;
use crate::maps::rows::{find_trunk, next_hop_generation};
use crate::maps::{is_redirecting_back, routing_query};
use crate::packet;

/// The index of the interface that the packet came from.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the context holds a u32")]
pub(crate) fn ingress(ctx: &XdpContext) -> u32 {
    ctx.ingress_ifindex() as u32
}

/// Asks the kernel's routing tables for the way of a packet, down to the next hop's MAC address.
#[inline(always)]
pub(crate) fn find_next_hop<F: TabledFamily>(
    ctx: &XdpContext,
    source: F::Address,
    destination: F::Address,
    next_hop: &mut NextHop,
) {
    *next_hop = NextHop::default();
    let Some(query) = routing_query() else {
        return;
    };
    query.family = F::NUMBER;
    query.l4_protocol = PROTOCOL_TCP;
    query.ifindex = ingress(ctx);
    F::put_addresses(query, source, destination);
    // Before the question: what changes after the answer must not be taken for known.
    let generation = next_hop_generation();
    let is_found = packet::ask_routing(ctx, query);
    let is_router = !packet::is_addressed::<F>(query, destination);
    if is_found {
        let trunk = find_trunk(query.ifindex);
        next_hop.interface = trunk.map_or(query.ifindex, |trunk| trunk.interface);
        next_hop.tags = trunk.map_or_else(EgressTags::default, |trunk| trunk.tags);
        next_hop.generation = generation;
        next_hop.mtu = packet::mtu(query);
        next_hop.destination = query.dmac;
        next_hop.source = query.smac;
    }
    *next_hop = next_hop.by_router(is_router);
}

/// Sends the packet back out of the interface it came from; returns the XDP action.
#[inline(always)]
pub(crate) fn send_back(ctx: &XdpContext) -> u32 {
    if is_redirecting_back() {
        redirect(ingress(ctx))
    } else {
        XDP_TX
    }
}

/// Hands the packet to the driver of another interface; returns the XDP action.
#[inline(always)]
pub(crate) fn redirect(interface: u32) -> u32 {
    packet::redirect(interface)
}
