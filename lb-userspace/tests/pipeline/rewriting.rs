//! What the pipeline writes into a packet: all of it right, and nothing else.

use lb_common::family::V4Address;
use lb_common::flow::{Direction, Endpoint, Flow, FlowKey, Tick};
use lb_common::member::Slot;
use lb_common::rewrite::rewrite;
use pglb_tests::packets::Segment;
use proptest::prelude::*;

use crate::world::{World, backend, client, on_headers, vip};

fn endpoints() -> impl Strategy<Value = std::net::SocketAddrV4> {
    (any::<[u8; 4]>(), any::<u16>())
        .prop_map(|(address, port)| std::net::SocketAddrV4::new(address.into(), port))
}

fn segments() -> impl Strategy<Value = Segment> {
    let numbers = (
        any::<u32>(),
        any::<u32>(),
        any::<u16>(),
        any::<u16>(),
        any::<u8>(),
        2_u8..,
    );
    let payload = prop::collection::vec(any::<u8>(), 0..100);
    (endpoints(), endpoints(), numbers, payload, 0_usize..=10).prop_map(
        |(source, destination, numbers, payload, options)| {
            let (sequence, acknowledgment, window, identification, flags, ttl) = numbers;
            Segment {
                sequence,
                acknowledgment,
                window,
                identification,
                flags,
                ttl,
                payload,
                tcp_options: vec![1; options * 4],
                ..Segment::between(source, destination)
            }
        },
    )
}

fn rewritten(segment: &Segment, direction: Direction, new: Endpoint<V4Address>) -> Vec<u8> {
    let mut frame = segment.bytes();
    rewrite_frame(&mut frame, direction, new);
    frame
}

/// Gives a frame another receiver, or another sender.
fn rewrite_frame(frame: &mut [u8], direction: Direction, new: Endpoint<V4Address>) {
    on_headers(frame, |packet| {
        let key = FlowKey::of(packet);
        let leaving = match direction {
            Direction::ToBackend => FlowKey::between(key.sender(), new),
            Direction::ToClient => FlowKey::between(new, key.receiver()),
        };
        let flow = Flow::new(direction, &key, leaving, Slot(0), Tick(0));
        rewrite(packet, &flow);
    });
}

proptest! {
    /// The incremental checksums equal those of a packet built anew with the other address.
    #[test]
    fn a_rewritten_packet_is_the_packet_that_would_have_been_sent(
        segment in segments(),
        new in endpoints(),
    ) {
        let to_backend = rewritten(&segment, Direction::ToBackend, crate::world::endpoint(new));
        prop_assert_eq!(&to_backend, &segment.clone().to(new).bytes());
        let to_client = rewritten(&segment, Direction::ToClient, crate::world::endpoint(new));
        prop_assert_eq!(&to_client, &segment.clone().from(new).bytes());

        // A second opinion on the checksums.
        let packet = etherparse::PacketHeaders::from_ethernet_slice(&to_backend).unwrap();
        let (Some(etherparse::NetHeaders::Ipv4(ip, _)), Some(etherparse::TransportHeader::Tcp(tcp))) =
            (packet.net, packet.transport)
        else {
            panic!("no TCP over IPv4");
        };
        prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        prop_assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, packet.payload.slice()).unwrap());
    }

    #[test]
    fn there_and_back_is_the_identity(segment in segments(), new in endpoints()) {
        for direction in [Direction::ToBackend, Direction::ToClient] {
            let old = match direction {
                Direction::ToBackend => segment.destination,
                Direction::ToClient => segment.source,
            };
            let mut frame = rewritten(&segment, direction, crate::world::endpoint(new));
            rewrite_frame(&mut frame, direction, crate::world::endpoint(old));
            prop_assert_eq!(frame, segment.bytes());
        }
    }

    /// Whatever the segment carries, a connection changes addresses, hops and nothing else.
    #[test]
    fn a_forwarded_segment_is_otherwise_the_same(segment in segments(), is_known in any::<bool>()) {
        let mut world = World::of(1);
        if is_known {
            world.route(backend(1), 7);
        }
        world.establish(client(0), vip(0));
        let flags = segment.flags & !0x07 | 0x10;
        let segment = Segment { flags, source: client(0), destination: vip(0), ..segment };
        let sent = world.send(&segment).unwrap().segment;
        let mut expected = segment.to(backend(1));
        if is_known {
            let way = world.tables.next_hops[&lb_common::family::v4(*backend(1).ip())];
            let ttl = expected.ttl - 1;
            expected = expected.macs(way.source, way.destination).ttl(ttl);
        }
        prop_assert_eq!(sent, expected);
    }
}
