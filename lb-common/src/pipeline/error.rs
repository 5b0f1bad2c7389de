//! ICMP errors about packets that the gateway has sent: translated back, so that path MTU discovery
//! (RFC 1191, RFC 8201) works through the VIP, and so that "unreachable" reaches who asked.

use super::Forward;
use crate::family::Family;
use crate::flow::{FlowKey, NextHop};
use crate::reason::Reason;
use crate::rewrite::rewrite_error;
use crate::tables::Tables;
use crate::wire::{IpHeader, Quote};

/// The key of the flow that knows where an error belongs: the quoted packet left with a flow's own
/// 4-tuple, and seen from the other end that is the key of the connection's other flow.
#[inline(always)]
pub fn key_of<F: Family>(error: &Quote<'_, F>) -> FlowKey<F::Address> {
    FlowKey {
        source: error.quoted_ip.destination(),
        destination: error.quoted_ip.source(),
        source_port: error.quoted_ports.destination(),
        destination_port: error.quoted_ports.source(),
    }
}

/// Turns an error about a packet that left the gateway into the same error about the packet that
/// had arrived, and sends it to whom that came from. `key` is [`key_of`] the error.
#[inline(always)]
pub fn translate<F: Family, T: Tables<F>>(
    tables: &T,
    error: &mut Quote<'_, F>,
    key: &FlowKey<F::Address>,
) -> Result<Forward, Reason> {
    // Errors go to the quoted packet's sender; anything else is made up.
    if error.ip.destination() != key.destination || !tables.may_be_ours(key) {
        return Err(Reason::NotOurs);
    }
    let Some(flow) = tables.established(key).or_else(|| tables.transient(key)) else {
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
    if next_hop.interface == 0 && flow.leaving == *key {
        return Err(Reason::NoNeighbour);
    }
    if next_hop.interface != 0 {
        error
            .ethernet
            .address(&next_hop.destination, &next_hop.source);
        error.ip.lower_hop_limit();
        error.egress.tags = next_hop.tags;
    }
    rewrite_error(error, key, &flow.leaving);
    Ok(Forward {
        interface: next_hop.interface,
        slot: flow.slot,
        direction: flow.direction(),
    })
}
