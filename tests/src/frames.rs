//! The same segments over IPv6, ICMP errors of both families, and VLAN tags: built byte by byte.
//!
//! As in [`crate::packets`], nothing here knows the code under test.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::packets::{DONT_FRAGMENT, IPV4, Segment, checksum};

/// The frame type of IPv6.
pub const IPV6: [u8; 2] = [0x86, 0xdd];
/// The frame type of an ordinary VLAN tag.
pub const CUSTOMER: [u8; 2] = [0x81, 0x00];
/// The frame type of a provider's VLAN tag.
pub const SERVICE: [u8; 2] = [0x88, 0xa8];

const ETHERNET: usize = 14;
const TCP: u8 = 6;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;

/// The IPv6 twin of a test network's IPv4 address: `10.71.0.12` is `fd00:0:0:47::c`.
pub fn twin(address: Ipv4Addr) -> Ipv6Addr {
    let [_, network, _, host] = address.octets().map(u16::from);
    Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, 0, host)
}

/// The frame of a segment between the twins of its addresses.
///
/// The identification is the flow label; IP options become a header of destination options, and a
/// fragment gets a fragment header.
pub fn over_ipv6(segment: &Segment) -> Vec<u8> {
    let [source, destination] = [segment.source, segment.destination].map(|it| twin(*it.ip()));
    between_ipv6(source, destination, segment)
}

/// As [`over_ipv6`], between other addresses.
pub fn between_ipv6(source: Ipv6Addr, destination: Ipv6Addr, segment: &Segment) -> Vec<u8> {
    let mut tcp = segment.bytes()[ETHERNET + 20 + segment.ip_options.len()..].to_vec();
    tcp[16..18].fill(0);
    let sum = checksum(&[&pseudo_header(source, destination, tcp.len(), TCP), &*tcp].concat());
    tcp[16..18].copy_from_slice(&sum);
    let mut next = TCP;
    let mut behind = tcp;
    if segment.fragment & !DONT_FRAGMENT != 0 {
        let [h, l] = (segment.fragment << 3 | segment.fragment >> 13 & 1).to_be_bytes();
        behind.splice(..0, [next, 0, h, l, 0, 0, 0, 7]);
        next = FRAGMENT;
    } else if !segment.ip_options.is_empty() {
        behind.splice(..0, [next, 0, 1, 4, 0, 0, 0, 0]);
        next = DESTINATION_OPTIONS;
    }
    let packet = ipv6(
        source,
        destination,
        segment.identification,
        next,
        segment.ttl,
        &behind,
    );
    [
        &segment.destination_mac[..],
        &segment.source_mac,
        &IPV6,
        &packet,
    ]
    .concat()
}

/// An ICMP message in its packet, in the frame of `around`, from and to whom that one is.
///
/// Of `around` only the MAC and IP addresses, the identification and the TTL count.
pub fn icmp(around: &Segment, kind: [u8; 2], rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let mut message = [&kind[..], &[0, 0], &rest, quoted].concat();
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    let length = u16::try_from(20 + message.len()).expect("a packet of at most 65,535 bytes");
    let mut ip = vec![0x45, 0];
    ip.extend(length.to_be_bytes());
    ip.extend(around.identification.to_be_bytes());
    ip.extend(around.fragment.to_be_bytes());
    ip.extend([around.ttl, 1, 0, 0]);
    ip.extend(around.source.ip().octets());
    ip.extend(around.destination.ip().octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    [
        &around.destination_mac[..],
        &around.source_mac,
        &IPV4,
        &ip,
        &message,
    ]
    .concat()
}

/// The same in IPv6, between the twins.
pub fn icmp_v6(around: &Segment, kind: [u8; 2], rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    const ICMP: u8 = 58;
    let [source, destination] = [around.source, around.destination].map(|it| twin(*it.ip()));
    let mut message = [&kind[..], &[0, 0], &rest, quoted].concat();
    let pseudo = pseudo_header(source, destination, message.len(), ICMP);
    let sum = checksum(&[&pseudo, &*message].concat());
    message[2..4].copy_from_slice(&sum);
    let packet = ipv6(
        source,
        destination,
        around.identification,
        ICMP,
        around.ttl,
        &message,
    );
    [
        &around.destination_mac[..],
        &around.source_mac,
        &IPV6,
        &packet,
    ]
    .concat()
}

/// Puts VLAN tags, outermost first, in front of what a frame carries.
pub fn with_tags(frame: &[u8], tags: &[([u8; 2], u16)]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let mut tagged = addresses.to_vec();
    for (kind, control) in tags {
        tagged.extend(kind);
        tagged.extend(control.to_be_bytes());
    }
    tagged.extend(rest);
    tagged
}

fn ipv6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    label: u16,
    next: u8,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a packet of at most 65,535 bytes");
    let mut ip = vec![0x60, 0];
    ip.extend(label.to_be_bytes());
    ip.extend(length.to_be_bytes());
    ip.extend([next, hop_limit]);
    ip.extend(source.octets());
    ip.extend(destination.octets());
    ip.extend(payload);
    ip
}

fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, length: usize, next: u8) -> Vec<u8> {
    let length = u32::try_from(length).expect("a packet of at most 65,535 bytes");
    [
        &source.octets()[..],
        &destination.octets(),
        &length.to_be_bytes(),
        &[0, 0, 0, next],
    ]
    .concat()
}
