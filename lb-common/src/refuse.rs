//! What the gateway answers itself: an RST, or that a packet is too big.

use crate::checksum;
use crate::family::{Address, Family};
use crate::wire::{Headers, Icmp, IpHeader, PROTOCOL_TCP, Tcp};

/// Makes the packet an RST to its sender, as RFC 9293, 3.10.7.1 has it for a connection that does
/// not exist. With the sender's own ACK number as sequence number it is exact, so that a peer
/// which follows RFC 5961 takes it at once.
///
/// Only the headers are written: the caller cuts off what follows the TCP header, which is
/// without options then. A packet that is an RST itself must not come here.
#[inline(always)]
pub fn refuse<F: Family>(packet: &mut Headers<'_, F>) {
    /// An RST is a TCP header and nothing else.
    const LENGTH: u16 = 20;

    let tcp = &packet.tcp;
    let [sequence, acknowledgment, flags] = if tcp.has(Tcp::ACK) {
        [tcp.acknowledgment(), 0, u32::from(Tcp::RST)]
    } else {
        [0, packet.next_sequence(), u32::from(Tcp::RST | Tcp::ACK)]
    };
    let [.., flags] = flags.to_be_bytes();
    let ports = [tcp.destination(), tcp.source()];
    packet
        .tcp
        .write_reset(ports, sequence, acknowledgment, flags);
    let (sender, receiver) = (packet.ip.source(), packet.ip.destination());
    let pseudo_header = sender.sum()
        + receiver.sum()
        + checksum::sum(&[0, PROTOCOL_TCP])
        + checksum::sum(&LENGTH.to_be_bytes());
    let sum = checksum::finish(pseudo_header + packet.tcp.sum());
    packet.tcp.set_checksum(sum);
    packet
        .ip
        .write_fresh(receiver, sender, PROTOCOL_TCP, LENGTH);
    packet.ethernet.turn_round();
}

/// Writes the ICMP message that tells a packet's sender that it is too big for a link of `mtu`
/// bytes: `ip` and `icmp` stand in front of the packet's own IP and TCP headers, behind which the
/// message ends. It comes from the packet's receiver, the VIP or the backend: senders do not look.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "headers are shorter than 100 bytes"
)]
pub fn report_too_big<F: Family>(
    ip: &mut F::Header,
    icmp: &mut Icmp,
    quoted_ip: &F::Header,
    quoted_tcp: &Tcp,
    mtu: u16,
) {
    let (sender, receiver) = (quoted_ip.source(), quoted_ip.destination());
    let length = (Icmp::LENGTH + F::Header::LENGTH + Tcp::LENGTH) as u16;
    *icmp = Icmp::too_big::<F>(mtu);
    let mut sum = checksum::sum(&icmp.0) + quoted_ip.sum() + quoted_tcp.sum();
    if F::ICMP_COVERS_ADDRESSES {
        sum += sender.sum()
            + receiver.sum()
            + checksum::sum(&[0, F::ICMP])
            + checksum::sum(&length.to_be_bytes());
    }
    icmp.set_checksum(checksum::finish(sum));
    ip.write_fresh(receiver, sender, F::ICMP, length);
}
