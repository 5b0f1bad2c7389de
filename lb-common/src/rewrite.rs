//! Writing a packet's new address and port, with the checksums kept right.

use crate::checksum;
use crate::family::{Address, Family};
use crate::flow::{Direction, Endpoint};
use crate::wire::{Headers, IpHeader};

/// Replaces the destination of a packet to the backend, or the source of one to the client.
#[inline(always)]
pub fn rewrite<F: Family>(
    packet: &mut Headers<'_, F>,
    direction: Direction,
    new: Endpoint<F::Address>,
) {
    let old = match direction {
        Direction::ToBackend => {
            let old = Endpoint {
                address: packet.ip.destination(),
                port: packet.tcp.destination(),
            };
            packet.ip.set_destination(new.address);
            packet.tcp.set_destination(new.port);
            old
        }
        Direction::ToClient => {
            let old = Endpoint {
                address: packet.ip.source(),
                port: packet.tcp.source(),
            };
            packet.ip.set_source(new.address);
            packet.tcp.set_source(new.port);
            old
        }
    };
    // The TCP checksum covers the addresses too, through the pseudo-header (RFC 9293, 3.1).
    let sum = checksum::replace(packet.tcp.checksum(), sum(old), sum(new));
    packet.tcp.set_checksum(sum);
}

#[inline(always)]
fn sum<A: Address>(endpoint: Endpoint<A>) -> u32 {
    endpoint.address.sum() + checksum::sum(&endpoint.port)
}
