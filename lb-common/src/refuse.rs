//! Turning a packet round into the RST that answers it.

use crate::checksum;
use crate::family::{Address, Family};
use crate::wire::{Headers, IpHeader, PROTOCOL_TCP, Tcp};

/// Makes the packet an RST to its sender, as RFC 9293, 3.10.7.1 has it for a connection that does
/// not exist. With the sender's own ACK number as sequence number it is exact, so that a peer
/// which follows RFC 5961 takes it at once.
///
/// Only the headers are written: the caller cuts off what follows the TCP header, which is
/// without options then. A packet that is an RST itself must not come here.
#[inline(always)]
pub fn refuse<F: Family>(packet: &mut Headers<'_, F>) {
    let tcp = &packet.tcp;
    let [sequence, acknowledgment, flags] = if tcp.has(Tcp::ACK) {
        [tcp.acknowledgment(), 0, u32::from(Tcp::RST)]
    } else {
        [
            0,
            tcp.sequence().wrapping_add(sequence_length(packet)),
            u32::from(Tcp::RST | Tcp::ACK),
        ]
    };
    let [s0, s1] = tcp.source();
    let [d0, d1] = tcp.destination();
    let [q0, q1, q2, q3] = sequence.to_be_bytes();
    let [a0, a1, a2, a3] = acknowledgment.to_be_bytes();
    let [.., flags] = flags.to_be_bytes();
    let mut reset = Tcp([
        d0, d1, s0, s1, q0, q1, q2, q3, a0, a1, a2, a3, 0x50, flags, 0, 0, 0, 0, 0, 0,
    ]);
    let length = [0, 20];
    let pseudo_header = packet.ip.source().sum()
        + packet.ip.destination().sum()
        + checksum::sum(&[0, PROTOCOL_TCP])
        + checksum::sum(&length);
    reset.set_checksum(checksum::finish(pseudo_header + checksum::sum(&reset.0)));
    *packet.tcp = reset;
    packet.ip.turn_round(u16::from_be_bytes(length));
    packet.ethernet.turn_round();
}

/// How far the packet moves the sequence number: its payload, and one each for SYN and FIN.
#[inline(always)]
fn sequence_length<F: Family>(packet: &Headers<'_, F>) -> u32 {
    let header = u16::from(packet.tcp.header_length());
    let payload = packet.ip.payload_length().saturating_sub(header);
    u32::from(payload) + u32::from(packet.tcp.has(Tcp::SYN)) + u32::from(packet.tcp.has(Tcp::FIN))
}
