//! Tells the hosts of a network that a VIP is here.
//!
//! IPv4: gratuitous ARP in the form of a request (sender and target are the VIP): every
//! implementation updates its neighbour entry from one, which is not true of the reply form
//! (RFC 5227 section 3). IPv6: an unsolicited neighbour advertisement with the override flag
//! (RFC 4861 section 7.2.6).

use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockType, bind, socket};

use super::checksum::{checksum, sum_words};
use super::network::settings::{self, Setting};

/// Says once on `interface` that `vip` is there.
///
/// A frame can be lost like any other: call it several times, some milliseconds apart.
pub fn announce(interface: &str, vip: IpAddr) -> io::Result<()> {
    let (link, mac) = find_ethernet(interface)?;
    match vip {
        IpAddr::V4(vip) => send(&link, &build_arp(mac, vip)),
        IpAddr::V6(vip) => {
            // Whoever asks the kernel for the same address is told this as well.
            let is_router = settings::read(interface, Setting::Ipv6Forwarding)? != 0;
            send(&link, &build_advertisement(mac, vip, is_router))
        }
    }
}

fn send(link: &LinkAddr, frame: &[u8]) -> io::Result<()> {
    // Without a protocol the socket sends, and is handed no frame of anybody else's.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    bind(socket.as_raw_fd(), link)?;
    let written = File::from(socket).write(frame)?;
    if written == frame.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// The link-layer address of an interface as the kernel knows it, and its MAC.
pub(super) fn find_ethernet(interface: &str) -> io::Result<(LinkAddr, [u8; 6])> {
    let links = getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| entry.address?.as_link_addr().copied());
    let mut exists = false;
    for link in links {
        exists = true;
        if let Some(mac) = link.addr()
            && link.halen() == mac.len()
            && mac != [0; 6]
        {
            return Ok((link, mac));
        }
    }
    Err(if exists {
        let why = format!("interface {interface} has no MAC, nothing can be announced there");
        io::Error::new(io::ErrorKind::Unsupported, why)
    } else {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no interface {interface}"),
        )
    })
}

fn build_arp(mac: [u8; 6], vip: Ipv4Addr) -> [u8; ARP_FRAME_LEN] {
    let mut frame = [0; ARP_FRAME_LEN];
    frame[0..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP);
    frame[14..22].copy_from_slice(&ETHERNET_IPV4_REQUEST);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&vip.octets());
    // The target's MAC stays zero: it is what a request asks for.
    frame[38..42].copy_from_slice(&vip.octets());
    frame
}

fn build_advertisement(
    mac: [u8; 6],
    vip: Ipv6Addr,
    is_router: bool,
) -> [u8; ADVERTISEMENT_FRAME_LEN] {
    let mut frame = [0; ADVERTISEMENT_FRAME_LEN];
    frame[0..6].copy_from_slice(&ALL_NODES_MAC);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_IPV6);

    let (ip, message) = frame[14..].split_at_mut(40);
    ip[0] = 0x60;
    ip[5] = ADVERTISEMENT_LEN;
    ip[6] = PROTOCOL_ICMPV6;
    ip[7] = HOP_LIMIT;
    ip[8..24].copy_from_slice(&vip.octets());
    ip[24..40].copy_from_slice(&ALL_NODES.octets());

    message[0] = NEIGHBOUR_ADVERTISEMENT;
    message[4] = FLAG_OVERRIDE | if is_router { FLAG_ROUTER } else { 0 };
    message[8..24].copy_from_slice(&vip.octets());
    message[24..26].copy_from_slice(&TARGET_LINK_LAYER);
    message[26..32].copy_from_slice(&mac);
    // The pseudo-header (RFC 8200 section 8.1): both addresses, length, protocol.
    let pseudo = sum_words(&ip[8..40]) + u32::from(ADVERTISEMENT_LEN) + u32::from(PROTOCOL_ICMPV6);
    let sum = checksum(pseudo + sum_words(message));
    message[2..4].copy_from_slice(&sum);
    frame
}

/// The shortest frame that Ethernet carries, its check sequence left to the card (bytes).
const ARP_FRAME_LEN: usize = 60;
const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Hardware type Ethernet, protocol type IPv4, their address lengths, operation "request".
const ETHERNET_IPV4_REQUEST: [u8; 8] = [0, 1, 0x08, 0x00, 6, 4, 0, 1];

/// The message with its one option (bytes).
const ADVERTISEMENT_LEN: u8 = 24 + 8;
const ADVERTISEMENT_FRAME_LEN: usize = 14 + 40 + ADVERTISEMENT_LEN as usize;
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Where Ethernet carries `ALL_NODES` (RFC 2464 section 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const PROTOCOL_ICMPV6: u8 = 58;
/// A receiver takes no other: a router would have lowered it (RFC 4861 section 7.1.2).
const HOP_LIMIT: u8 = 255;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const FLAG_ROUTER: u8 = 0x80;
const FLAG_OVERRIDE: u8 = 0x20;
/// The option "target link-layer address", 8 bytes long.
const TARGET_LINK_LAYER: [u8; 2] = [2, 1];

#[cfg(test)]
mod tests;
