//! ICMP errors: translated back to whom they are for, and written by the gateway itself.

use lb_common::family::{Family, V4, V6};
use lb_common::flow::FlowKey;
use lb_common::pipeline::{key_of, translate};
use lb_common::reason::Reason;
use lb_common::refuse::report_too_big;
use lb_common::service::Forwarding;
use lb_common::wire::{Egress, Ethernet, Icmp, IpHeader, Quote, QuotedChecksum, QuotedPorts, Tcp};
use pglb_tests::packets::{ACK, checksum};

use crate::site::{Kind, Site, Small, ip_check, tcp_check};

/// The sum over an ICMP message; 0 if its checksum is right.
fn icmp_check<F: Kind>(ip: &F::Header, message: &[u8]) -> [u8; 2] {
    if !F::ICMP_COVERS_ADDRESSES {
        return checksum(message);
    }
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    let octets = F::octets(ip);
    checksum(&[&octets[8..], &[0, F::ICMP], &length, message].concat())
}

/// Sends an error of `reporter` about a packet that left the gateway as `sent`, and checks that it
/// is about the packet `original` when it leaves.
fn check<F: Kind>(
    site: &Site<F>,
    reporter: F::Address,
    sent: &Small<F::Address>,
    original: &FlowKey<F::Address>,
    has_checksum: bool,
) {
    let mut quoted_ip = F::blank();
    quoted_ip.write_fresh(sent.key.source, sent.key.destination, 6, 20);
    let mut tcp = Tcp([0; 20]);
    let ports = [sent.key.source_port, sent.key.destination_port];
    tcp.write_reset(ports, sent.sequence, sent.acknowledgment, sent.flags);
    tcp.set_checksum(tcp_check::<F>(&quoted_ip, &tcp));

    let quoted_length = if has_checksum { 20 } else { 8 };
    let message = |icmp: &Icmp, ip: &F::Header, tcp: &[u8]| {
        [&icmp.0[..], &F::octets(ip), &tcp[..quoted_length]].concat()
    };
    let mut icmp = Icmp::too_big::<F>(1_400);
    let length = u16::try_from(8 + F::Header::LENGTH + quoted_length).unwrap();
    let mut ip = F::blank();
    ip.write_fresh(reporter, sent.key.source, F::ICMP, length);
    let sum = icmp_check::<F>(&ip, &message(&icmp, &quoted_ip, &tcp.0));
    icmp.set_checksum(sum);

    let mut ethernet = Ethernet {
        destination: [2; 6],
        source: [4; 6],
        kind: [8, 0],
    };
    let mut ports = QuotedPorts(tcp.0[..8].try_into().unwrap());
    let mut quoted_checksum = QuotedChecksum(tcp.checksum());
    let mut error = Quote::<F> {
        ethernet: &mut ethernet,
        ip: &mut ip,
        icmp: &mut icmp,
        quoted_ip: &mut quoted_ip,
        quoted_ports: &mut ports,
        quoted_checksum: has_checksum.then_some(&mut quoted_checksum),
        egress: Egress::default(),
    };
    let key = key_of(&error);
    translate(&site.tables, &mut error, &key).unwrap();
    tcp.0[..8].copy_from_slice(&ports.0);
    tcp.set_checksum(quoted_checksum.0);

    assert!(ip.destination() == original.source, "to the sender");
    let is_end = reporter == sent.key.destination;
    let source = if is_end {
        original.destination
    } else {
        reporter
    };
    assert!(ip.source() == source, "from whom the sender knows");
    assert_eq!(ip.hop_limit(), 63);
    let quoted = FlowKey {
        source: quoted_ip.source(),
        destination: quoted_ip.destination(),
        source_port: tcp.source(),
        destination_port: tcp.destination(),
    };
    assert_eq!(quoted, *original, "about the sender's own packet");
    assert_eq!(ip_check::<F>(&ip), [0, 0], "the IP checksum");
    assert_eq!(ip_check::<F>(&quoted_ip), [0, 0], "the quoted IP checksum");
    let message = message(&icmp, &quoted_ip, &tcp.0);
    assert_eq!(icmp_check::<F>(&ip, &message), [0, 0], "the ICMP checksum");
    if has_checksum {
        let sum = tcp_check::<F>(&quoted_ip, &tcp);
        assert_eq!(sum, [0, 0], "the quoted TCP checksum");
    }
}

fn both_directions<F: Kind>(forwarding: Forwarding) {
    let site = Site::<F>::new(forwarding);
    // Two clients with one port, so that in full-nat the second leaves from another.
    site.establish((2, 2_000)).unwrap();
    let up = Site::<F>::up((1, 2_000), ACK);
    let reached = site.establish((1, 2_000)).unwrap();
    let down = Site::<F>::down(&reached, ACK);
    let answer = site.send(down).unwrap();
    for has_checksum in [true, false] {
        for (sent, original) in [(&reached, &up.key), (&answer, &down.key)] {
            check(&site, F::host(60), sent, original, has_checksum);
            check(&site, sent.key.destination, sent, original, has_checksum);
        }
    }
}

#[test]
fn an_error_about_a_packet_that_was_sent_is_about_the_one_that_came() {
    for forwarding in [Forwarding::Nat, Forwarding::FullNat] {
        both_directions::<V4>(forwarding);
        both_directions::<V6>(forwarding);
    }
}

fn too_big<F: Kind>() {
    let site = Site::<F>::new(Forwarding::Nat);
    site.establish((1, 1)).unwrap();
    let mut up = Site::<F>::up((1, 1), ACK);
    let room = 1500 - 20 - u16::try_from(F::Header::LENGTH).unwrap();
    up.payload = room;
    assert!(site.send(up).is_ok());
    up.payload = room + 1;
    assert_eq!(site.send(up), Err(Reason::TooBig));

    let mut quoted_ip = F::blank();
    quoted_ip.write_fresh(up.key.source, up.key.destination, 6, 21 + room);
    let tcp = Tcp(std::array::from_fn(|at| u8::try_from(at * 11).unwrap()));
    let (mut ip, mut icmp) = (F::blank(), Icmp([0xff; 8]));
    report_too_big::<F>(&mut ip, &mut icmp, &quoted_ip, &tcp, 1_400);
    let message = [&icmp.0[..], &F::octets(&quoted_ip), &tcp.0].concat();
    assert_eq!(icmp_check::<F>(&ip, &message), [0, 0], "the ICMP checksum");
    assert_eq!(ip_check::<F>(&ip), [0, 0], "the IP checksum");
    assert_eq!(icmp.0[..2], <F as Family>::TOO_BIG);
    assert_eq!(icmp.0[4..], [0, 0, 5, 0x78]);
    assert!(ip.destination() == up.key.source && ip.source() == up.key.destination);
    assert_eq!(usize::from(ip.payload_length()), message.len());
}

#[test]
fn what_does_not_fit_the_way_is_reported_with_the_mtu() {
    too_big::<V4>();
    too_big::<V6>();
}
