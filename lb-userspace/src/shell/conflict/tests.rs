use etherparse::{ArpOperation, SlicedPacket};

use super::*;
use crate::shell::lone_thread::{ip, with_own_network};

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const VIP: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 100);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x71, 0, 0, 0, 0, 0x12, 0x3456);

#[test]
fn the_arp_probe_asks_for_the_vip_and_claims_nothing() {
    let frame = arp_probe(MAC, VIP);
    assert_eq!(frame.len(), 60);
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(etherparse::NetSlice::Arp(arp)) = packet.net else {
        panic!("no ARP: {packet:?}");
    };
    assert_eq!(arp.operation(), ArpOperation::REQUEST);
    assert_eq!(arp.sender_hw_addr(), MAC);
    assert_eq!(arp.sender_protocol_addr(), [0; 4]);
    assert_eq!(arp.target_protocol_addr(), VIP.octets());
}

#[test]
fn the_solicitation_is_well_formed() {
    let frame = solicitation(MAC, VIP6);
    assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(etherparse::NetSlice::Ipv6(ipv6)) = &packet.net else {
        panic!("no IPv6: {packet:?}");
    };
    let header = ipv6.header();
    assert_eq!((header.hop_limit(), header.source()), (255, [0; 16]));
    let Some(etherparse::TransportSlice::Icmpv6(icmp)) = &packet.transport else {
        panic!("no ICMPv6: {packet:?}");
    };
    assert!(icmp.is_checksum_valid(header.source(), header.destination()));
    assert_eq!(icmp.type_u8(), NEIGHBOUR_SOLICITATION);
}

#[test]
fn only_the_owner_of_the_address_is_taken_for_it() {
    let mut answer = arp_probe(MAC, VIP);
    assert_eq!(arp_sender(&answer, VIP), None, "a probe is no claim");
    answer[28..32].copy_from_slice(&VIP.octets());
    assert_eq!(arp_sender(&answer, VIP), Some(MAC));
    assert_eq!(arp_sender(&answer, Ipv4Addr::new(10, 71, 0, 101)), None);
    for length in 0..32 {
        assert_eq!(arp_sender(&answer[..length], VIP), None, "{length}");
    }

    let mut answer = solicitation(MAC, VIP6);
    assert_eq!(advertiser(&answer, VIP6), None, "a question is no answer");
    answer[54] = NEIGHBOUR_ADVERTISEMENT;
    assert_eq!(advertiser(&answer, VIP6), Some(MAC));
    assert_eq!(advertiser(&answer, Ipv6Addr::LOCALHOST), None);
    for length in 0..answer.len() {
        assert_eq!(advertiser(&answer[..length], VIP6), None, "{length}");
    }
}

/// Waits at the other end of the wire for a frame of this kind and answers from another MAC.
fn answer(ethertype: u16, make: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) {
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    let mut wire = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).unwrap();
    bind(wire.as_raw_fd(), &find_ethernet("there").unwrap().0).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            let length = wire.read(&mut buffer).unwrap();
            if let Some(answer) = make(&buffer[..length]) {
                return wire.write_all(&answer).unwrap();
            }
        }
    });
}

#[test]
#[ignore = "needs root"]
fn another_host_that_has_the_address_is_found() {
    with_own_network(|| async {
        const OTHER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
        ip("link add here address 02:00:00:00:00:01 type veth peer name there");
        ip("link set here up");
        ip("link set there up");
        assert_eq!(find_owner("here", VIP.into()).unwrap(), None);

        answer(ETHERTYPE_ARP, |question| {
            (question[38..42] == VIP.octets()).then(|| {
                let mut answer = arp_probe(OTHER, Ipv4Addr::UNSPECIFIED);
                answer[28..32].copy_from_slice(&VIP.octets());
                answer
            })
        });
        assert_eq!(find_owner("here", VIP.into()).unwrap(), Some(OTHER));

        answer(ETHERTYPE_IPV6, |question| {
            let is_asked = question.get(62..78) == Some(&VIP6.octets());
            is_asked.then(|| {
                let mut answer = solicitation(OTHER, VIP6);
                answer[54] = NEIGHBOUR_ADVERTISEMENT;
                answer
            })
        });
        assert_eq!(find_owner("here", VIP6.into()).unwrap(), Some(OTHER));
    });
}
