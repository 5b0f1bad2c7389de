//! ICMP errors about packets that the gateway has sent: translated back, so that path MTU discovery
//! (RFC 1191, RFC 8201) works through the VIP, and so that "unreachable" reaches who asked.

use super::Forward;
use crate::family::Family;
use crate::flow::{FlowKey, NextHop};
use crate::reason::Reason;
use crate::rewrite::rewrite_error;
use crate::tables::Tables;
use crate::wire::{IpHeader, Quote};

/// Turns an error about a packet that left the gateway into the same error about the packet that
/// had arrived, and sends it to whom that came from.
///
/// The quoted packet left with a flow's own 4-tuple; seen from the other end that is the key of the
/// connection's other flow, which knows both the other end and the way there.
#[inline(always)]
pub fn translate<F: Family, T: Tables<F>>(
    tables: &T,
    error: &mut Quote<'_, F>,
) -> Result<Forward, Reason> {
    let sent = FlowKey {
        source: error.quoted_ip.source(),
        destination: error.quoted_ip.destination(),
        source_port: error.quoted_ports.source(),
        destination_port: error.quoted_ports.destination(),
    };
    // Errors go to the quoted packet's sender; anything else is made up.
    if error.ip.destination() != sent.source || !tables.may_be_ours(&sent.reversed()) {
        return Err(Reason::NotOurs);
    }
    let key = sent.reversed();
    let Some(flow) = tables.recall(&key).or_else(|| tables.transient(&key)) else {
        return Err(Reason::NotOurs);
    };
    if tables.generation(flow.slot) != Some(flow.generation) {
        return Err(Reason::StrayError);
    }
    if error.ip.hop_limit() <= 1 {
        return Err(Reason::HopLimit);
    }
    let mut next_hop = NextHop::default();
    if flow.next_hop.generation == tables.next_hop_generation() {
        next_hop = flow.next_hop;
    } else {
        tables.find_next_hop(flow.leaving.source, flow.leaving.destination, &mut next_hop);
    }
    // One that arrives for the VIP itself would stay with the kernel.
    if next_hop.interface == 0 && flow.leaving == key {
        return Err(Reason::NoNeighbour);
    }
    if next_hop.interface != 0 {
        error
            .ethernet
            .address(next_hop.destination, next_hop.source);
        error.ip.lower_hop_limit();
        error.egress.tags = next_hop.tags;
    }
    rewrite_error(error, &sent, &flow.leaving.reversed());
    Ok(Forward {
        interface: next_hop.interface,
        slot: flow.slot,
        direction: flow.direction(),
    })
}
