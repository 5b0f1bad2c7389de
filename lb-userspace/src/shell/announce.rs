//! Gratuitous ARP: tells the hosts of a network that a VIP is here.
//!
//! In the form of a request (sender and target are the VIP): every implementation updates its
//! neighbour entry from one, which is not true of the reply form (RFC 5227 section 3).

use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockType, bind, socket};

/// Says once on `interface` that `vip` is there.
///
/// A frame can be lost like any other: call it several times, some milliseconds apart.
pub fn announce(interface: &str, vip: Ipv4Addr) -> io::Result<()> {
    let (link, mac) = find_ethernet(interface)?;
    // Without a protocol the socket sends, and is handed no frame of anybody else's.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    bind(socket.as_raw_fd(), &link)?;
    let frame = build_frame(mac, vip);
    let written = File::from(socket).write(&frame)?;
    if written == frame.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// The link-layer address of an interface as the kernel knows it, and its MAC.
fn find_ethernet(interface: &str) -> io::Result<(LinkAddr, [u8; 6])> {
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

fn build_frame(mac: [u8; 6], vip: Ipv4Addr) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
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

/// The shortest frame that Ethernet carries, its check sequence left to the card (bytes).
const FRAME_LEN: usize = 60;
const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Hardware type Ethernet, protocol type IPv4, their address lengths, operation "request".
const ETHERNET_IPV4_REQUEST: [u8; 8] = [0, 1, 0x08, 0x00, 6, 4, 0, 1];

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use etherparse::{ArpHardwareId, ArpOperation, EtherType, SlicedPacket};
    use nix::net::if_::if_nametoindex;
    use nix::sys::socket::{MsgFlags, SockProtocol, recv};

    use super::*;
    use crate::shell::lone_thread;

    const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 100);

    #[track_caller]
    fn check_frame(frame: &[u8]) {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let ethernet = packet
            .link
            .as_ref()
            .unwrap()
            .to_header()
            .unwrap()
            .ethernet2()
            .unwrap();
        assert_eq!(ethernet.source, MAC);
        assert_eq!(ethernet.destination, [0xff; 6]);
        assert_eq!(ethernet.ether_type, EtherType::ARP);
        let Some(etherparse::NetSlice::Arp(arp)) = packet.net else {
            panic!("no ARP: {packet:?}");
        };
        assert_eq!(arp.hw_addr_type(), ArpHardwareId::ETHERNET);
        assert_eq!(arp.proto_addr_type(), EtherType::IPV4);
        assert_eq!(arp.operation(), ArpOperation::REQUEST);
        assert_eq!(arp.sender_hw_addr(), MAC);
        assert_eq!(arp.sender_protocol_addr(), VIP.octets());
        assert_eq!(arp.target_hw_addr(), [0; 6]);
        assert_eq!(arp.target_protocol_addr(), VIP.octets());
    }

    #[test]
    fn the_frame_is_a_request_from_and_for_the_vip() {
        let frame = build_frame(MAC, VIP);
        assert_eq!(frame.len(), 60);
        check_frame(&frame);
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let error = announce("nosuch0", VIP).unwrap_err();
        assert_eq!(error.to_string(), "there is no interface nosuch0");
    }

    #[test]
    fn an_interface_without_a_mac_is_named() {
        let error = announce("lo", VIP).unwrap_err();
        assert_eq!(
            error.to_string(),
            "interface lo has no MAC, nothing can be announced there"
        );
    }

    #[test]
    #[ignore = "needs root"]
    fn the_other_end_of_the_wire_receives_it() {
        lone_thread::with_own_network(|| async {
            lone_thread::ip("link add here address 02:00:00:00:00:01 type veth peer name there");
            lone_thread::ip("link set here up");
            lone_thread::ip("link set there up");
            let flags = SockFlag::SOCK_CLOEXEC;
            let everything = SockProtocol::EthAll;
            let wire = socket(AddressFamily::Packet, SockType::Raw, flags, everything).unwrap();
            let (there, _) = find_ethernet("there").unwrap();
            assert_eq!(there.ifindex(), if_nametoindex("there").unwrap() as usize);
            bind(wire.as_raw_fd(), &there).unwrap();

            announce("here", VIP).unwrap();

            // The kernel's own multicast chatter comes along; the frame is among the first few.
            let mut buffer = [0; 2048];
            for _ in 0..50 {
                let length = recv(wire.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
                if buffer[12..14] == ETHERTYPE_ARP {
                    return check_frame(&buffer[..length]);
                }
            }
            panic!("no ARP among 50 frames");
        });
    }
}
