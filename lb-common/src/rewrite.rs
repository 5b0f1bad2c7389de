//! Writing a packet's new addresses and ports, with the checksums kept right.

use crate::checksum;
use crate::family::{Address, Family};
use crate::flow::{Flow, FlowKey};
use crate::wire::{Headers, IpHeader, Quote};

/// Gives a packet the 4-tuple that its flow leaves with.
#[inline(always)]
pub fn rewrite<F: Family>(packet: &mut Headers<'_, F>, flow: &Flow<F::Address>) {
    let Headers { ip, tcp, .. } = packet;
    let leaving = &flow.leaving;
    let ports = checksum::change(
        [tcp.source(), tcp.destination()],
        [leaving.source_port, leaving.destination_port],
    );
    let addresses = flow.address_difference();
    ip.readdress(leaving.source, leaving.destination, addresses);
    tcp.set_source(leaving.source_port);
    tcp.set_destination(leaving.destination_port);
    // The TCP checksum covers the addresses too, through the pseudo-header (RFC 9293, 3.1).
    let both = u32::from(addresses) + ports;
    tcp.set_checksum(checksum::add(tcp.checksum(), both));
}

/// Turns an ICMP error about a packet that left the gateway into the error about the packet that had
/// arrived, and addresses it to that one's sender.
///
/// Seen from the other end, `key` is the 4-tuple that the packet left with, and `leaving` the one
/// that it had arrived with: they are those of the connection's other flow.
#[inline(always)]
pub fn rewrite_error<F: Family>(
    error: &mut Quote<'_, F>,
    key: &FlowKey<F::Address>,
    leaving: &FlowKey<F::Address>,
) {
    let quoted = rewrite_quotation(error, key, leaving);
    readdress_error(error, key, leaving, quoted);
}

/// Rewrites the quoted headers; returns what that adds to the sum of the message.
#[inline(never)]
fn rewrite_quotation<F: Family>(
    error: &mut Quote<'_, F>,
    key: &FlowKey<F::Address>,
    leaving: &FlowKey<F::Address>,
) -> u16 {
    let addresses = checksum::difference(key.address_sum(), leaving.address_sum());
    let ports = checksum::difference(key.port_sum(), leaving.port_sum());
    let both = checksum::fold(u32::from(addresses) + u32::from(ports));
    let mut total = u32::from(both);
    let before = checksum::sum(&error.quoted_ip.checksum());
    error
        .quoted_ip
        .readdress(leaving.destination, leaving.source, addresses);
    let after = checksum::sum(&error.quoted_ip.checksum());
    total += u32::from(checksum::difference(before, after));
    error
        .quoted_ports
        .set(leaving.destination_port, leaving.source_port);
    if let Some(tcp) = &mut error.quoted_checksum {
        let before = checksum::sum(&tcp.0);
        tcp.0 = checksum::add(tcp.0, u32::from(both));
        total += u32::from(checksum::difference(before, checksum::sum(&tcp.0)));
    }
    checksum::fold(total)
}

/// Addresses the error to the quoted packet's sender, and writes its checksums. One of the quoted
/// packet's own receiver comes from whom the sender takes for it.
#[inline(never)]
fn readdress_error<F: Family>(
    error: &mut Quote<'_, F>,
    key: &FlowKey<F::Address>,
    leaving: &FlowKey<F::Address>,
    quoted: u16,
) {
    let reporter = error.ip.source();
    let source = if reporter == key.source {
        leaving.source
    } else {
        reporter
    };
    let addresses = checksum::difference(
        reporter.sum() + key.destination.sum(),
        source.sum() + leaving.destination.sum(),
    );
    let mut total = u32::from(quoted);
    if F::ICMP_COVERS_ADDRESSES {
        total += u32::from(addresses);
    }
    let sum = checksum::add(error.icmp.checksum(), total);
    error.icmp.set_checksum(sum);
    error.ip.readdress(source, leaving.destination, addresses);
}
