//! Writing a packet's new addresses and ports, with the checksums kept right.

use crate::checksum;
use crate::family::{Address, Family};
use crate::flow::{Flow, FlowKey};
use crate::wire::{Headers, IpHeader, Quote};

/// Gives a packet that arrived as `key` the 4-tuple that its flow leaves with.
#[inline(always)]
pub fn rewrite<F: Family>(
    packet: &mut Headers<'_, F>,
    key: &FlowKey<F::Address>,
    flow: &Flow<F::Address>,
) {
    let Headers { ip, tcp, .. } = packet;
    let leaving = &flow.leaving;
    let addresses = flow.address_difference();
    ip.readdress(leaving.source, leaving.destination, addresses);
    tcp.set_source(leaving.source_port);
    tcp.set_destination(leaving.destination_port);
    // The TCP checksum covers the addresses too, through the pseudo-header (RFC 9293, 3.1).
    let ports = checksum::difference(key.port_sum(), leaving.port_sum());
    let both = checksum::fold(u32::from(addresses) + u32::from(ports));
    tcp.set_checksum(checksum::add(tcp.checksum(), both));
}

/// Turns an ICMP error about a packet that left the gateway as `sent` into the error about the
/// packet `original` that had arrived, and addresses it to that one's sender.
#[inline(always)]
pub fn rewrite_error<F: Family>(
    error: &mut Quote<'_, F>,
    sent: &FlowKey<F::Address>,
    original: &FlowKey<F::Address>,
) {
    let quoted = rewrite_quotation(error, sent, original);
    readdress_error(error, sent, original, quoted);
}

/// Rewrites the quoted headers; returns what that adds to the sum of the message.
#[inline(never)]
fn rewrite_quotation<F: Family>(
    error: &mut Quote<'_, F>,
    sent: &FlowKey<F::Address>,
    original: &FlowKey<F::Address>,
) -> u16 {
    let addresses = checksum::difference(sent.address_sum(), original.address_sum());
    let ports = checksum::difference(sent.port_sum(), original.port_sum());
    let both = checksum::fold(u32::from(addresses) + u32::from(ports));
    let mut total = u32::from(both);
    let before = checksum::sum(&error.quoted_ip.checksum());
    error
        .quoted_ip
        .readdress(original.source, original.destination, addresses);
    let after = checksum::sum(&error.quoted_ip.checksum());
    total += u32::from(checksum::difference(before, after));
    error
        .quoted_ports
        .set(original.source_port, original.destination_port);
    if let Some(tcp) = &mut error.quoted_checksum {
        let before = checksum::sum(&tcp.0);
        tcp.0 = checksum::add(tcp.0, both);
        total += u32::from(checksum::difference(before, checksum::sum(&tcp.0)));
    }
    checksum::fold(total)
}

/// Addresses the error to the quoted packet's sender, and writes its checksums. One of the quoted
/// packet's own receiver comes from whom the sender takes for it.
#[inline(never)]
fn readdress_error<F: Family>(
    error: &mut Quote<'_, F>,
    sent: &FlowKey<F::Address>,
    original: &FlowKey<F::Address>,
    quoted: u16,
) {
    let reporter = error.ip.source();
    let source = if reporter == sent.destination {
        original.destination
    } else {
        reporter
    };
    let addresses = checksum::difference(
        reporter.sum() + sent.source.sum(),
        source.sum() + original.source.sum(),
    );
    let mut total = u32::from(quoted);
    if F::ICMP_COVERS_ADDRESSES {
        total += u32::from(addresses);
    }
    let sum = checksum::add(error.icmp.checksum(), checksum::fold(total));
    error.icmp.set_checksum(sum);
    error.ip.readdress(source, original.source, addresses);
}
