use std::net::Ipv4Addr;

use lb_common::family::{V4, V4Address, v4};
use lb_common::flow::Direction;

use super::*;

fn key(port: u8) -> FlowKey<V4Address> {
    FlowKey {
        source: v4(Ipv4Addr::new(10, 0, 0, 1)),
        destination: v4(Ipv4Addr::new(10, 0, 0, 2)),
        source_port: [0, port],
        destination_port: [0, 1],
    }
}

fn flow(port: u8) -> Flow<V4Address> {
    Flow::new(Direction::ToBackend, &key(port), key(100), Slot(0), Tick(0))
}

fn remember(tables: &HostTables<V4>, port: u8) {
    let draft = tables.draft(&key(port), || flow(port));
    assert!(draft.is_some_and(|draft| tables.remember(draft)));
}

#[test]
fn the_flow_used_longest_ago_makes_room() {
    let mut tables = HostTables::<V4>::new();
    tables.resize_transient(2);
    remember(&tables, 1);
    remember(&tables, 2);
    assert!(tables.transient(&key(1)).is_some(), "a look is a use");
    remember(&tables, 3);
    let left: Vec<_> = tables.transient_flows().into_keys().collect();
    assert_eq!(left, [key(1), key(3)]);
    tables.forget(&key(1));
    remember(&tables, 2);
    assert_eq!(tables.transient_flows().len(), 2);
}

#[test]
fn a_full_table_still_takes_what_it_holds_already() {
    let mut tables = HostTables::<V4>::new();
    tables.established_size = 1;
    assert_eq!(tables.establish(&key(1), || flow(1)), Ok(()));
    assert_eq!(tables.establish(&key(2), || flow(2)), Err(Full));
    let found = tables.recall(&key(1)).unwrap();
    tables.note_fin(found, 7);
    let found = tables.reread(found);
    assert_eq!(tables.establish(&key(1), || *found), Ok(()));
    assert_eq!(tables.established_flows()[&key(1)].has_fin, 1);
}

#[test]
fn the_longest_network_of_the_services_own_lists_decides() {
    let mut tables = HostTables::<V4>::new();
    let network = |a, b, c, d| v4(Ipv4Addr::new(a, b, c, d)).widen();
    let mut list = |network, prefix: u8, access| {
        tables
            .access
            .insert((ServiceId(7), network, 96 + prefix), access)
    };
    list(network(10, 71, 0, 0), 24, Access::Allow);
    list(network(10, 71, 0, 128), 25, Access::Deny);
    list(network(10, 71, 0, 255), 32, Access::Allow);
    let access = |service, last| {
        let client = v4(Ipv4Addr::new(10, 71, 0, last));
        Tables::<V4>::access(&tables, ServiceId(service), client)
    };
    assert_eq!(access(7, 5), Some(Access::Allow));
    assert_eq!(access(7, 200), Some(Access::Deny));
    assert_eq!(access(7, 255), Some(Access::Allow));
    assert_eq!(access(6, 5), None);
    let other = v4(Ipv4Addr::new(10, 71, 1, 0));
    assert_eq!(Tables::<V4>::access(&tables, ServiceId(7), other), None);
}

#[test]
fn what_was_never_written_is_zero_and_what_is_beyond_the_end_is_not_there() {
    let tables = HostTables::<V4>::new();
    assert_eq!(tables.generation(Slot(2047)), Some(0));
    assert_eq!(tables.generation(Slot(2048)), None);
    assert_eq!(tables.ring(ServiceId(63), 16_383), Some(0));
    assert_eq!(tables.ring(ServiceId(64), 0), None);
    assert_eq!(tables.ring(ServiceId(63), 16_384), None);
    assert!(tables.backend(BackendId(255)).is_some());
    assert!(tables.backend(BackendId(256)).is_none());
}
