//! Which way packets go, and how seldom that is asked.

use lb_common::family::v4;
use lb_common::limits::KEPT_HOP;
use lb_common::member::BackendId;
use lb_common::service::Algorithm;
use pglb_tests::packets::Segment;

use crate::world::{World, backend, client, slot, vip};

/// A gateway over one backend, whose ways to it do not depend on the client.
fn sharing() -> World {
    let mut world = World::of(1);
    world.route(backend(1), 7);
    world.tables.shares_next_hops = true;
    world
}

/// The interface that the SYN of a new client leaves from, and how many questions that took.
fn open(world: &mut World, number: u8) -> (u32, u64) {
    let before = world.tables.next_hop_lookups();
    let sent = world.send(&Segment::syn(client(number), vip(0))).unwrap();
    (
        sent.forward.interface,
        world.tables.next_hop_lookups() - before,
    )
}

#[test]
fn a_new_connection_goes_where_the_last_one_to_its_member_went() {
    let mut world = sharing();
    assert_eq!(open(&mut world, 0), (7, 1));
    assert_eq!(open(&mut world, 1), (7, 0));
    world.route(backend(1), 9);
    assert_eq!(open(&mut world, 2), (7, 0));
    world.tables.next_hop_generation += 1;
    assert_eq!(open(&mut world, 3), (9, 1));
    assert_eq!(open(&mut world, 4), (9, 0));
}

#[test]
fn no_way_is_kept_for_long_without_a_controller_that_watches_the_routes() {
    let mut world = sharing();
    assert_eq!(open(&mut world, 0), (7, 1));
    world.route(backend(1), 9);
    world.wait(KEPT_HOP.0 - 1);
    assert_eq!(open(&mut world, 1), (7, 0));
    world.wait(1);
    assert_eq!(open(&mut world, 2), (9, 1));
}

#[test]
fn the_way_to_the_backend_that_a_slot_had_before_is_not_taken() {
    let mut world = sharing();
    world.add_service(1, Algorithm::LeastConnections, &[(2, 100)]);
    world.route(backend(2), 8);
    assert_eq!(open(&mut world, 0), (7, 1));
    world.member(slot(0, 0)).backend = BackendId(2);
    world.supersede(slot(0, 0));
    assert_eq!(open(&mut world, 1), (8, 1));
}

#[test]
fn where_the_way_depends_on_the_client_it_is_asked_for_each() {
    let mut world = sharing();
    world.tables.shares_next_hops = false;
    assert_eq!(open(&mut world, 0), (7, 1));
    assert_eq!(open(&mut world, 1), (7, 1));
}

#[test]
fn a_way_by_routers_is_asked_for_each_connection() {
    let mut world = sharing();
    let way = world.route(backend(1), 7).by_router(true);
    world.tables.next_hops.insert(v4(*backend(1).ip()), way);
    assert_eq!(open(&mut world, 0), (7, 1));
    assert_eq!(open(&mut world, 1), (7, 1));
}
