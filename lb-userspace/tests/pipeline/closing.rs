//! How a connection ends, and what comes after.

use lb_common::flow::Phase;
use lb_common::limits::SYN_DUPLICATE;
use lb_common::reason::Reason;
use lb_common::tables::Tables as _;
use pglb_tests::packets::{ACK, FIN, RST, SYN, Segment};

use crate::world::{Connection, SECOND, World, backend, client, key, slot, vip};

fn keys(connection: &Connection) -> [lb_common::flow::FlowKey<lb_common::family::V4Address>; 2] {
    [
        key(connection.client, connection.vip),
        key(connection.backend, connection.client),
    ]
}

#[test]
fn a_connection_ends_with_the_second_fin_and_its_last_ack_still_passes() {
    let mut world = World::of(1);
    let connection = world.establish(client(0), vip(0));
    world.send(&connection.up().flags(FIN | ACK)).unwrap();
    assert_eq!(
        world.load(connection.slot),
        (0, 1),
        "one end may still talk"
    );
    assert!(world.send(&connection.down().data(b"last words")).is_ok());
    world.send(&connection.down().flags(FIN | ACK)).unwrap();
    assert_eq!(world.load(connection.slot), (0, 0));
    for key in keys(&connection) {
        assert_eq!(world.phase(&key), Some((Phase::Ended, false)));
    }
    let last = connection.up();
    assert_eq!(world.send(&last).unwrap().segment, last.to(backend(1)));
    // So do repeated FINs, which are not counted again.
    world.send(&connection.up().flags(FIN | ACK)).unwrap();
    world.send(&connection.down().flags(FIN | ACK)).unwrap();
    assert_eq!(world.tally(connection.slot).ended, 1);
}

#[test]
fn a_fin_that_is_repeated_ends_nothing() {
    let mut world = World::of(1);
    let connection = world.establish(client(0), vip(0));
    for _ in 0..3 {
        world.send(&connection.up().flags(FIN | ACK)).unwrap();
    }
    assert_eq!(world.load(connection.slot), (0, 1));
}

#[test]
fn what_cannot_be_sent_on_ends_nothing() {
    let mut world = World::of(1);
    let connection = world.establish(client(0), vip(0));
    for flags in [FIN | ACK, RST] {
        for packet in [connection.up(), connection.down()] {
            let result = world.send(&packet.flags(flags).ttl(1));
            assert_eq!(result.map(drop), Err(Reason::HopLimit));
        }
    }
    for key in keys(&connection) {
        assert_eq!(world.phase(&key), Some((Phase::Established, true)));
    }
    assert_eq!(world.load(connection.slot), (0, 1));
}

#[test]
fn a_backend_that_closes_first_ends_a_connection_the_same_way() {
    let mut world = World::of(1);
    let connection = world.establish(client(0), vip(0));
    world.send(&connection.down().flags(FIN | ACK)).unwrap();
    world.send(&connection.up()).unwrap();
    assert_eq!(world.load(connection.slot), (0, 1));
    world.send(&connection.up().flags(FIN | ACK)).unwrap();
    assert_eq!(world.load(connection.slot), (0, 0));
    assert!(world.send(&connection.down()).is_ok());
}

#[test]
fn ends_that_close_at_the_same_time_both_get_their_last_ack() {
    let mut world = World::of(1);
    let connection = world.establish(client(0), vip(0));
    // Each FIN is on its way before the other has arrived; neither acknowledges the other.
    world.send(&connection.up().flags(FIN | ACK)).unwrap();
    world.send(&connection.down().flags(FIN | ACK)).unwrap();
    assert_eq!(world.tally(connection.slot).ended, 1);
    let (up, down) = (connection.up().ack(7_002), connection.down().ack(1_002));
    assert_eq!(world.send(&up).unwrap().segment, up.to(backend(1)));
    assert_eq!(world.send(&down).unwrap().segment, down.from(vip(0)));
}

#[test]
fn a_fin_on_the_very_first_ack_counts() {
    let mut world = World::of(1);
    let connection = world.open_half(client(0), vip(0));
    world.send(&connection.up().flags(FIN | ACK)).unwrap();
    assert_eq!(world.load(connection.slot), (0, 1));
    world.send(&connection.down().flags(FIN | ACK)).unwrap();
    assert_eq!(world.load(connection.slot), (0, 0));
}

#[test]
fn an_rst_of_either_end_ends_a_connection_and_reaches_the_other() {
    for is_client in [true, false] {
        let mut world = World::of(1);
        let connection = world.establish(client(0), vip(0));
        let (reset, expected) = match is_client {
            true => (
                connection.up().flags(RST),
                connection.up().flags(RST).to(backend(1)),
            ),
            false => (
                connection.down().flags(RST),
                connection.down().flags(RST).from(vip(0)),
            ),
        };
        assert_eq!(world.send(&reset).unwrap().segment, expected);
        assert_eq!(world.load(connection.slot), (0, 0));
        assert_eq!(
            world.send(&reset).unwrap().segment,
            expected,
            "a repeated one passes"
        );
        assert_eq!(world.tally(connection.slot).ended, 1);
    }
}

#[test]
fn ends_that_talk_on_after_a_forged_rst_have_their_connection_back() {
    for is_client in [true, false] {
        let mut world = World::of(1);
        let connection = world.establish(client(0), vip(0));
        world.send(&connection.up().flags(RST)).unwrap();
        assert_eq!(world.load(connection.slot), (0, 0));
        let segment = if is_client {
            connection.up()
        } else {
            connection.down()
        };
        assert!(world.send(&segment.data(b"still here")).is_ok());
        assert_eq!(world.load(connection.slot), (0, 1));
        for key in keys(&connection) {
            assert_eq!(world.phase(&key), Some((Phase::Established, true)));
        }
        assert!(world.send(&connection.up()).is_ok());
        assert!(world.send(&connection.down()).is_ok());
        // The next end is the end of this connection, and counted as one.
        world.close(&connection);
        assert_eq!(world.load(connection.slot), (0, 0));
        assert_eq!(world.tally(connection.slot).half_opened, 1);
    }
}

#[test]
fn a_forged_rst_and_a_forged_syn_behind_it_do_not_move_a_session() {
    let mut world = World::of(2);
    let connection = world.establish(client(0), vip(0));
    world.send(&connection.up().flags(RST)).unwrap();
    let syn = Segment::syn(client(0), vip(0));
    let asked = world.send(&syn).unwrap();
    assert_eq!(asked.segment.destination, connection.backend);
    // The backend has the connection still, and says so: a challenge ACK (RFC 5961, section 4).
    world.send(&connection.down()).unwrap();
    assert_eq!(world.load(connection.slot), (0, 1));
    // The next one comes to a live connection.
    world.wait(SYN_DUPLICATE.0);
    world.send(&syn).unwrap();
    world.send(&connection.up().data(b"still here")).unwrap();
    world.close(&connection);
    assert_eq!(world.load(connection.slot), (0, 0));
}

#[test]
fn a_client_that_connects_again_after_its_rst_is_served_by_the_same_backend() {
    let mut world = World::of(2);
    let before = world.establish(client(0), vip(0));
    world.send(&before.up().flags(RST)).unwrap();
    let again = world.establish(client(0), vip(0));
    assert_eq!(again.backend, before.backend);
    assert_eq!(world.load(again.slot), (0, 1));
    assert_eq!(world.tally(again.slot).half_opened, 2);
    world.close(&again);
    assert_eq!(world.load(again.slot), (0, 0));
}

#[test]
fn a_client_that_connects_again_after_an_rst_is_sent_on_if_its_backend_has_gone() {
    for is_refusing in [true, false] {
        let mut world = World::of(2);
        let before = world.establish(client(0), vip(0));
        world.send(&before.down().flags(RST)).unwrap();
        let syn = Segment::syn(client(0), vip(0));
        let asked = world.send(&syn).unwrap();
        assert_eq!(asked.segment.destination, before.backend);
        if is_refusing {
            let refusal = before.down().flags(RST | ACK);
            assert_eq!(world.send(&refusal).unwrap_err(), Reason::RefusalWithheld);
        }
        world.wait(SYN_DUPLICATE.0);
        let elsewhere = world.send(&syn).unwrap();
        assert_ne!(elsewhere.segment.destination, before.backend);
        assert_eq!(world.tally(before.slot).suspicions, 1);
        assert_eq!(world.load(before.slot), (0, 0));
        assert_eq!(world.load(elsewhere.forward.slot), (1, 0));
    }
}

#[test]
fn a_connection_that_comes_back_finds_the_table_full_like_any_other() {
    let mut world = World::of(1);
    world.limit_gateway(1);
    let first = world.establish(client(0), vip(0));
    world.send(&first.up().flags(RST)).unwrap();
    world.establish(client(1), vip(0));
    assert_eq!(world.send(&first.up()).unwrap_err(), Reason::TableFull);
    assert_eq!(world.load(slot(0, 0)), (0, 1));
}

#[test]
fn a_syn_on_a_live_connection_goes_to_its_backend_and_moves_nothing() {
    let mut world = World::of(3);
    let connection = world.establish(client(0), vip(0));
    let before = world.tables.established_flows();
    for _ in 0..5 {
        world.wait(SECOND);
        let syn = Segment::syn(client(0), vip(0)).sequence(4_000_000);
        assert_eq!(
            world.send(&syn).unwrap().segment,
            syn.to(connection.backend)
        );
    }
    assert_eq!(
        world.tables.established_flows(),
        before,
        "not even the numbers"
    );
    // The backend answers with a challenge ACK, which the real client ignores.
    assert!(world.send(&connection.down()).is_ok());
    assert!(world.send(&connection.up().data(b"select 1")).is_ok());
}

#[test]
fn a_syn_of_a_backend_changes_nothing() {
    let mut world = World::of(1);
    let connection = world.establish(client(0), vip(0));
    for flags in [SYN, SYN | ACK] {
        assert!(world.send(&connection.down().flags(flags)).is_ok());
    }
    assert_eq!(world.load(connection.slot), (0, 1));
}

#[test]
fn a_syn_after_one_fin_goes_to_the_backend_whose_answer_has_the_client_make_room() {
    let mut world = World::of(2);
    let old = world.establish(client(0), vip(0));
    world.send(&old.up().flags(FIN | ACK)).unwrap();
    // A late one, or a forged one, which the backend answers by a challenge ACK.
    assert_eq!(world.open(client(0), vip(0)).backend, old.backend);
    assert!(world.send(&old.down()).is_ok());
    assert!(world.send(&old.down().data(b"last words")).is_ok());
    assert_eq!(world.load(old.slot), (0, 1));
    // A client that knows nothing of the connection any more refuses that, and connects again.
    world.send(&old.up().flags(RST)).unwrap();
    let new = world.establish(client(0), vip(0));
    assert_eq!(world.load(slot(0, 0)).1 + world.load(slot(0, 1)).1, 1);
    assert_eq!(world.tally(old.slot).ended, 1);
    let answer = new.down().data(b"1");
    assert_eq!(world.send(&answer).unwrap().segment, answer.from(vip(0)));
}

#[test]
fn a_syn_after_the_backends_fin_alone_still_goes_to_the_backend() {
    let mut world = World::of(2);
    let connection = world.establish(client(0), vip(0));
    world.send(&connection.down().flags(FIN | ACK)).unwrap();
    assert_eq!(world.open(client(0), vip(0)).backend, connection.backend);
    assert_eq!(world.load(connection.slot), (0, 1));
}

#[test]
fn a_port_is_used_again_after_an_end_of_any_kind() {
    type End = fn(&mut World, &Connection);
    let ends: [(&str, End); 4] = [
        ("FINs", |world, connection| world.close(connection)),
        ("the client's RST", |world, it| {
            drop(world.send(&it.up().flags(RST)).unwrap())
        }),
        ("the backend's RST", |world, it| {
            drop(world.send(&it.down().flags(RST)).unwrap())
        }),
        ("a raised generation", |world, connection| {
            world.supersede(connection.slot)
        }),
    ];
    for (what, end) in ends {
        let mut world = World::of(2);
        for _ in 0..4 {
            let connection = world.establish(client(0), vip(0));
            for segment in [
                connection.up().data(b"ping"),
                connection.down().data(b"pong"),
            ] {
                assert!(world.send(&segment).is_ok(), "after {what}");
            }
            end(&mut world, &connection);
        }
        let opened: u64 = [0, 1]
            .map(|index| world.tally(slot(0, index)).established)
            .iter()
            .sum();
        assert_eq!(opened, 4, "after {what}");
        assert!(world.tables.established_flows().len() <= 2, "after {what}");
    }
}

#[test]
fn a_port_is_used_again_while_its_connection_was_half_open_and_superseded() {
    let mut world = World::of(2);
    let old = world.open(client(0), vip(0));
    world.supersede(old.slot);
    let new = world.establish(client(0), vip(0));
    assert_eq!(world.load(new.slot).1, 1);
}

#[test]
fn a_half_left_in_the_table_does_not_harm_the_next_connection() {
    // As when the controller has removed one flow of a connection and not yet the other.
    let mut world = World::of(1);
    let old = world.establish(client(0), vip(0));
    world.supersede(old.slot);
    let mut tables = world.tables.clone();
    tables.established_size = 0;
    let left = world.tables.established_flows();
    world = World {
        tables: World::of(1).tables,
        now: world.now,
    };
    world.supersede(old.slot);
    let [_, down] = keys(&old);
    world.tables.set_established(down, left[&down]);

    let new = world.establish(client(0), vip(0));
    let answer = new.down().data(b"1");
    assert_eq!(world.send(&answer).unwrap().segment, answer.from(vip(0)));
}

#[test]
fn an_end_that_never_heard_of_a_reset_does_not_take_its_place_back() {
    let mut world = World::of(2);
    let old = world.establish(client(0), vip(0));
    world.send(&old.up().flags(RST)).unwrap();
    // The client's flow has been pushed out meanwhile, and the backend's has not.
    let [of_client, _] = keys(&old);
    world.tables.forget(&of_client);
    world.judge(old.slot, false);
    let new = world.establish(client(0), vip(0));
    assert_ne!(new.backend, old.backend);
    assert_eq!(world.send(&old.down()).unwrap_err(), Reason::Superseded);
    let up = new.up().data(b"1");
    assert_eq!(world.send(&up).unwrap().segment, up.to(new.backend));
}

#[test]
fn a_late_rst_of_an_older_connection_does_not_end_a_half_open_one() {
    for is_client in [true, false] {
        let mut world = World::of(1);
        let connection = world.open_half(client(0), vip(0));
        let late = match is_client {
            true => connection.up(),
            false => connection.down(),
        };
        assert!(world.send(&late.sequence(4_000_000).flags(RST)).is_ok());
        assert_eq!(world.load(connection.slot), (1, 0));
        assert!(world.send(&connection.up()).is_ok());
        assert_eq!(world.load(connection.slot), (0, 1));
    }
}
