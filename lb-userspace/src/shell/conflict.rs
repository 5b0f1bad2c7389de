//! Asks a network whether somebody else has an address, without claiming it: an ARP probe
//! (RFC 5227 section 2.1.1), or a neighbour solicitation as duplicate address detection sends it
//! (RFC 4862 section 5.4.2). Neither changes anybody's neighbour table.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::bind;
use socket2::{Domain, Protocol, Socket, Type};

use super::announce::find_ethernet;
use super::clock;

/// The MAC of another host that has `address` on the network of `interface`; `None` when nobody
/// answers within a second.
pub fn find_owner(interface: &str, address: IpAddr) -> io::Result<Option<[u8; 6]>> {
    let (link, mac) = find_ethernet(interface)?;
    let own = own_macs()?;
    let (ethertype, question) = match address {
        IpAddr::V4(address) => (ETHERTYPE_ARP, arp_probe(mac, address)),
        IpAddr::V6(address) => (ETHERTYPE_IPV6, solicitation(mac, address)),
    };
    let protocol = i32::from(ethertype.to_be());
    let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol)))?;
    // The protocol is the socket's, also when the address that it is bound to names none.
    bind(socket.as_raw_fd(), &link)?;
    let begin = clock::now();
    let mut buffer = [0; 2048];
    for round in 1..=ROUNDS {
        socket.write_all(&question)?;
        let end = begin + WAIT * round / ROUNDS;
        while let Some(length) = receive(&mut socket, &mut buffer, end)? {
            let frame = &buffer[..length];
            let owner = match address {
                IpAddr::V4(address) => arp_sender(frame, address),
                IpAddr::V6(address) => advertiser(frame, address),
            };
            if let Some(owner) = owner.filter(|owner| !own.contains(owner)) {
                return Ok(Some(owner));
            }
        }
    }
    Ok(None)
}

/// The next frame, or `None` when the time is up.
fn receive(socket: &mut Socket, buffer: &mut [u8], end: Instant) -> io::Result<Option<usize>> {
    let left = end.saturating_duration_since(clock::now());
    if left.is_zero() {
        return Ok(None);
    }
    socket.set_read_timeout(Some(left))?;
    match socket.read(buffer) {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn own_macs() -> io::Result<Vec<[u8; 6]>> {
    let links = getifaddrs()?.filter_map(|entry| entry.address?.as_link_addr()?.addr());
    Ok(links.collect())
}

/// A request for the address from nobody: a sender of zeros claims nothing.
fn arp_probe(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], mac, ETHERTYPE_ARP);
    frame.extend(ETHERNET_IPV4);
    frame.extend(1_u16.to_be_bytes());
    frame.extend(mac);
    frame.extend([0; 4]);
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame.resize(SHORTEST_FRAME, 0);
    frame
}

/// Whose ARP packet this is, if its sender has `address`.
fn arp_sender(frame: &[u8], address: Ipv4Addr) -> Option<[u8; 6]> {
    let arp = frame.get(ETHERNET_HEADER..)?;
    let is_about_ipv4 =
        frame[12..14] == ETHERTYPE_ARP.to_be_bytes() && arp.starts_with(&ETHERNET_IPV4);
    (is_about_ipv4 && arp.get(14..18)? == address.octets()).then(|| arp[8..14].try_into().ok())?
}

/// A neighbour solicitation from the unspecified address.
fn solicitation(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = address.octets();
    let group = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from_be_bytes([b, c]),
    );
    let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address.octets());
    let sum = icmp_checksum(Ipv6Addr::UNSPECIFIED, group, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet([0x33, 0x33, 0xff, a, b, c], mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(Ipv6Addr::UNSPECIFIED.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

/// Whose neighbour advertisement this is, if it is about `address`.
fn advertiser(frame: &[u8], address: Ipv6Addr) -> Option<[u8; 6]> {
    let is_icmp = frame.get(12..14)? == ETHERTYPE_IPV6.to_be_bytes() && *frame.get(20)? == ICMPV6;
    let message = frame.get(ETHERNET_HEADER + IPV6_HEADER..)?;
    let is_answer = *message.first()? == NEIGHBOUR_ADVERTISEMENT;
    let is_about = message.get(8..24)? == address.octets();
    (is_icmp && is_answer && is_about).then(|| frame[6..12].try_into().ok())?
}

fn ethernet(destination: [u8; 6], source: [u8; 6], ethertype: u16) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes()].concat()
}

/// The checksum of an ICMPv6 message with its pseudo-header (RFC 8200 section 8.1).
fn icmp_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u16::try_from(message.len()).unwrap_or(0);
    let pseudo = [
        &source.octets()[..],
        &destination.octets(),
        &u32::from(length).to_be_bytes(),
        &[0, 0, 0, ICMPV6],
        message,
    ]
    .concat();
    let words = pseudo.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// How long an answer is waited for, all rounds together.
const WAIT: Duration = Duration::from_secs(1);
/// How often the question is sent: a frame can be lost.
const ROUNDS: u32 = 3;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// The shortest frame that Ethernet carries, and its header (bytes).
const SHORTEST_FRAME: usize = 60;
const ETHERNET_HEADER: usize = 14;
const IPV6_HEADER: usize = 40;
/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

#[cfg(test)]
mod tests;
