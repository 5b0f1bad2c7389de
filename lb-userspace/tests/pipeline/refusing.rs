//! What is ours and cannot be served, and what is not ours.

use lb_common::family::{Address, v4};
use lb_common::member::BackendId;
use lb_common::reason::Reason;
use lb_common::service::{Access, ServiceId};
use pglb_tests::packets::{ACK, FIN, PSH, RST, SYN, Segment};
use proptest::prelude::*;

use crate::world::{World, backend, client, key, refusal, slot, vip};

#[test]
fn what_belongs_to_no_service_is_not_ours() {
    let mut world = World::of(1);
    let other_port = std::net::SocketAddrV4::new(*vip(0).ip(), 5433);
    for target in [vip(1), other_port, backend(1)] {
        for flags in [SYN, ACK, SYN | ACK, FIN | ACK, RST, 0] {
            let segment = Segment::between(client(0), target).flags(flags);
            assert_eq!(world.send(&segment).unwrap_err(), Reason::NotOurs);
        }
    }
    assert!(world.tables.transient_flows().is_empty());
}

#[test]
fn a_segment_of_no_connection_is_refused_and_an_rst_of_none_is_dropped() {
    let mut world = World::of(1);
    for flags in [ACK, PSH | ACK, FIN | ACK, SYN | ACK, FIN, 0] {
        let segment = Segment::between(client(0), vip(0)).flags(flags);
        assert_eq!(world.send(&segment).unwrap_err(), Reason::UnknownSegment);
    }
    let reset = Segment::between(client(0), vip(0)).flags(RST | ACK);
    assert_eq!(world.send(&reset).unwrap_err(), Reason::StrayReset);
}

#[test]
fn a_client_that_the_allow_list_does_not_name_is_denied() {
    let mut world = World::of(1);
    *world.service(0) = world.service(0).restricted(Access::Deny);
    let syn = Segment::syn(client(0), vip(0));
    assert_eq!(world.send(&syn).unwrap_err(), Reason::Denied);
    let network = v4([10, 71, 0, 0].into()).widen();
    let entry = (ServiceId(0), network, 96 + 24);
    world.tables.access.insert(entry, Access::Allow);
    assert!(world.send(&syn).is_ok());
    let stranger = Segment::syn("10.71.1.1:40000".parse().unwrap(), vip(0));
    assert_eq!(world.send(&stranger).unwrap_err(), Reason::Denied);
}

#[test]
fn a_narrower_allow_list_leaves_open_connections_alone() {
    let mut world = World::of(1);
    let connection = world.establish(client(0), vip(0));
    *world.service(0) = world.service(0).restricted(Access::Deny);
    assert!(world.send(&connection.up()).is_ok());
}

#[test]
fn without_an_eligible_backend_a_syn_is_rejected_or_held() {
    let mut world = World::of(2);
    for index in [0, 1] {
        world.judge(slot(0, index), false);
    }
    let syn = Segment::syn(client(0), vip(0));
    assert_eq!(world.send(&syn).unwrap_err(), Reason::NoBackend);
    *world.service(0) = world.service(0).holding(true);
    assert_eq!(world.send(&syn).unwrap_err(), Reason::Held);
    assert!(world.tables.transient_flows().is_empty());

    world.judge(slot(0, 1), true);
    assert_eq!(world.open(client(0), vip(0)).slot, slot(0, 1));
}

#[test]
fn a_backend_that_is_out_keeps_its_open_connections() {
    let mut world = World::of(2);
    let connection = world.establish(client(0), vip(0));
    let half = world.open_half(client(1), vip(0));
    for index in [0, 1] {
        world.judge(slot(0, index), false);
    }
    assert!(world.send(&connection.up()).is_ok());
    assert!(world.send(&connection.down()).is_ok());
    assert!(world.send(&half.up()).is_ok());
}

#[test]
fn a_backend_at_its_limit_is_passed_over() {
    let mut world = World::of(2);
    world.limit_backend(1, 3);
    let connections: Vec<_> = (0..10)
        .map(|n| world.establish(client(n), vip(0)))
        .collect();
    assert_eq!(world.load(slot(0, 0)), (0, 3));
    assert_eq!(world.load(slot(0, 1)), (0, 7));
    // Another service counts as well: the limit is the server's.
    let first = connections
        .iter()
        .find(|connection| connection.slot == slot(0, 0))
        .unwrap();
    world.close(first);
    assert_eq!(world.open(client(20), vip(0)).slot, slot(0, 0));
    assert_eq!(world.open(client(21), vip(0)).slot, slot(0, 1));
}

#[test]
fn a_limit_is_of_all_services_together() {
    let mut world = World::of(1);
    world.add_service(
        1,
        lb_common::service::Algorithm::LeastConnections,
        &[(1, 100)],
    );
    world.limit_backend(1, 2);
    world.establish(client(0), vip(0));
    world.establish(client(1), vip(1));
    let syn = Segment::syn(client(2), vip(0));
    assert_eq!(world.send(&syn).unwrap_err(), Reason::NoBackend);
}

#[test]
fn a_full_table_refuses_new_connections_and_keeps_the_old() {
    let mut world = World::of(1);
    world.limit_gateway(2);
    let waiting = world.open_half(client(9), vip(0));
    let connections = [0, 1].map(|number| world.establish(client(number), vip(0)));
    let syn = Segment::syn(client(2), vip(0));
    assert_eq!(world.send(&syn).unwrap_err(), Reason::TableFull);
    assert_eq!(world.send(&waiting.up()).unwrap_err(), Reason::TableFull);
    for connection in &connections {
        assert!(world.send(&connection.up()).is_ok());
        assert!(world.send(&connection.down()).is_ok());
    }
    world.close(&connections[0]);
    assert!(world.send(&syn).is_ok());
    // Who was refused is told so on both sides, and may come again.
    assert_eq!(
        world.send(&waiting.up()).unwrap_err(),
        Reason::UnknownSegment
    );
    let answer = Segment::syn(client(9), backend(1)).syn_ack();
    assert_eq!(world.send(&answer).unwrap_err(), Reason::Superseded);
    world.establish(client(9), vip(0));
    assert_eq!(world.load(slot(0, 0)), (1, 2));
}

#[test]
fn a_table_that_is_fuller_than_the_counts_say_leaves_no_half_connection() {
    let mut world = World::of(1);
    let connection = world.open_half(client(0), vip(0));
    world.tables.established_size = 1;
    assert_eq!(world.send(&connection.up()).unwrap_err(), Reason::TableFull);
    assert!(world.tables.established_flows().is_empty());
    assert_eq!(world.tally(slot(0, 0)).established, 0);
}

#[test]
fn a_flood_of_half_open_connections_does_not_fill_the_gateway_or_a_backend() {
    let mut world = World::of(1);
    world.limit_gateway(10);
    world.limit_backend(1, 10);
    let mut tally = world.tally(slot(0, 0));
    tally.half_opened = 1_000_000;
    world.tables.set_slot_tally(slot(0, 0), tally);
    world.tables.set_backend_tally(BackendId(1), tally);
    world.tables.set_backend_tally(BackendId::GATEWAY, tally);
    world.establish(client(0), vip(0));
}

#[test]
fn a_packet_with_no_hop_left_is_not_forwarded_either_way() {
    let mut world = World::of(1);
    let connection = world.establish(client(0), vip(0));
    assert_eq!(
        world.send(&connection.up().ttl(1)).unwrap_err(),
        Reason::HopLimit
    );
    assert_eq!(
        world.send(&connection.down().ttl(0)).unwrap_err(),
        Reason::HopLimit
    );
    assert!(world.send(&connection.up().ttl(2)).is_ok());
}

#[test]
fn a_superseded_connection_is_told_by_an_exact_rst() {
    let mut world = World::of(1);
    let connection = world.establish(client(0), vip(0));
    world.supersede(connection.slot);
    for segment in [
        connection.up().data(b"select 1"),
        connection.down().data(b"1"),
    ] {
        assert_eq!(world.send(&segment).unwrap_err(), Reason::Superseded);
        let reset = refusal(&segment);
        assert_eq!(reset.sequence, segment.acknowledgment);
    }
    let reset = connection.up().flags(RST);
    assert_eq!(
        world.send(&reset).unwrap_err(),
        Reason::StrayReset,
        "no RST answers an RST"
    );
}

#[test]
fn a_superseded_half_open_connection_is_told_too() {
    let mut world = World::of(1);
    let connection = world.open_half(client(0), vip(0));
    world.supersede(connection.slot);
    assert_eq!(
        world.send(&connection.up()).unwrap_err(),
        Reason::Superseded
    );
    let answer = Segment::syn(client(0), backend(1)).syn_ack();
    assert_eq!(world.send(&answer).unwrap_err(), Reason::Superseded);
}

#[test]
fn a_flow_whose_slot_does_not_exist_is_dropped() {
    let mut world = World::of(1);
    let connection = world.establish(client(0), vip(0));
    let half = world.open_half(client(1), vip(0));
    for connection in [connection, half] {
        let key = key(connection.client, vip(0));
        let mut flow = world.flow(&key);
        flow.slot = lb_common::member::Slot(u16::MAX);
        match world.tables.established_flows().contains_key(&key) {
            true => world.tables.set_established(key, flow),
            false => world.tables.set_transient(key, flow),
        }
        assert_eq!(
            world.send(&connection.up()).unwrap_err(),
            Reason::Inconsistent
        );
    }
}

proptest! {
    /// RFC 9293, 3.10.7.1, and RFC 5961, 3.2: the peer takes the RST only with the very number
    /// that it expects next, which is the number that it has acknowledged; a SYN is answered by an
    /// acknowledgment of all that it carries. The checksums are verified by the reader.
    #[test]
    fn an_rst_has_right_checksums_and_acceptable_numbers(
        sequence in any::<u32>(),
        acknowledgment in any::<u32>(),
        flags in (0_u8..64).prop_filter("an RST is never answered", |flags| flags & RST == 0),
        payload in prop::collection::vec(any::<u8>(), 0..200),
        options in 0_usize..=10,
        ttl in any::<u8>(),
        from in any::<[u8; 6]>(),
        to in any::<[u8; 6]>(),
    ) {
        let mut segment = Segment::between(endpoint(from), endpoint(to)).sequence(sequence).ttl(ttl);
        segment.acknowledgment = acknowledgment;
        segment.flags = flags;
        segment.payload = payload;
        segment.tcp_options = vec![1; options * 4];
        prop_assert_eq!(refusal(&segment), segment.reset());
    }
}

fn endpoint([a, b, c, d, e, f]: [u8; 6]) -> std::net::SocketAddrV4 {
    std::net::SocketAddrV4::new([a, b, c, d].into(), u16::from_be_bytes([e, f]))
}
