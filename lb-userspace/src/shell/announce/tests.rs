use std::os::fd::AsRawFd;
use std::time::Duration;

use etherparse::icmpv6::NeighborAdvertisementHeader;
use etherparse::{
    ArpHardwareId, ArpOperation, EtherType, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice,
};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, SockProtocol, recv};

use super::*;
use crate::shell::{clock, lone_thread};

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const VIP: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 100);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x71, 0, 0, 0, 0, 0x100);

#[track_caller]
fn check_ethernet(packet: &SlicedPacket<'_>, destination: [u8; 6], ether_type: EtherType) {
    let link = packet.link.as_ref().unwrap().to_header().unwrap();
    let ethernet = link.ethernet2().unwrap();
    assert_eq!(ethernet.source, MAC);
    assert_eq!(ethernet.destination, destination);
    assert_eq!(ethernet.ether_type, ether_type);
}

#[track_caller]
fn check_arp(frame: &[u8]) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    check_ethernet(&packet, [0xff; 6], EtherType::ARP);
    let Some(NetSlice::Arp(arp)) = packet.net else {
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
fn the_arp_frame_is_a_request_from_and_for_the_vip() {
    let frame = build_arp(MAC, VIP);
    assert_eq!(frame.len(), 60);
    check_arp(&frame);
}

#[test]
fn the_advertisement_is_one_to_all_that_overrides() {
    for is_router in [false, true] {
        let frame = build_advertisement(MAC, VIP6, is_router);
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        check_ethernet(&packet, [0x33, 0x33, 0, 0, 0, 1], EtherType::IPV6);
        let Some(NetSlice::Ipv6(ip)) = &packet.net else {
            panic!("no IPv6: {packet:?}");
        };
        let ip = ip.header();
        assert_eq!(ip.hop_limit(), 255);
        assert_eq!(ip.source_addr(), VIP6);
        assert_eq!(ip.destination_addr().to_string(), "ff02::1");
        let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else {
            panic!("no ICMPv6: {packet:?}");
        };
        assert!(icmp.is_checksum_valid(ip.source(), ip.destination()));
        let header = NeighborAdvertisementHeader {
            router: is_router,
            solicited: false,
            r#override: true,
        };
        assert_eq!(icmp.icmp_type(), Icmpv6Type::NeighborAdvertisement(header));
        let payload = icmp.payload();
        assert_eq!(payload[..16], VIP6.octets());
        assert_eq!(payload[16..], [2, 1, 2, 0, 0, 0, 0, 1]);
    }
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    for vip in [VIP.into(), VIP6.into()] {
        let error = announce("nosuch0", vip).unwrap_err();
        assert_eq!(error.to_string(), "there is no interface nosuch0");
    }
}

#[test]
fn an_interface_without_a_mac_is_named() {
    for vip in [VIP.into(), VIP6.into()] {
        let error = announce("lo", vip).unwrap_err();
        assert_eq!(
            error.to_string(),
            "interface lo has no MAC, nothing can be announced there"
        );
    }
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

        announce("here", VIP.into()).unwrap();

        // The kernel's own multicast chatter comes along; the frame is among the first few.
        let mut buffer = [0; 2048];
        for _ in 0..50 {
            let length = recv(wire.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
            if buffer[12..14] == ETHERTYPE_ARP {
                return check_arp(&buffer[..length]);
            }
        }
        panic!("no ARP among 50 frames");
    });
}

#[test]
#[ignore = "needs root"]
fn a_neighbour_that_knew_another_mac_takes_the_new_one() {
    lone_thread::with_own_network(|| async {
        let neighbour = lone_thread::Host::new();
        lone_thread::ip("link add here address 02:00:00:00:00:01 type veth peer name there");
        neighbour.take("there");
        lone_thread::ip("link set here up");
        neighbour.ip("link set there up");
        for vip in [IpAddr::from(VIP), IpAddr::from(VIP6)] {
            neighbour.ip(&format!(
                "neighbour replace {vip} dev there lladdr 02:00:00:00:00:99 nud stale"
            ));
            let begin = clock::now();
            loop {
                // The wire takes a moment until it carries anything.
                announce("here", vip).unwrap();
                let known = neighbour.run(move || {
                    std::process::Command::new("ip")
                        .args(["neighbour", "show", &vip.to_string()])
                        .output()
                });
                let known = String::from_utf8(known.unwrap().stdout).unwrap();
                if known.contains("lladdr 02:00:00:00:00:01") {
                    break;
                }
                assert!(begin.elapsed() < Duration::from_secs(5), "{known}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
}
