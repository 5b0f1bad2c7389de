//! What a service's forwarding asks of the engine: connections that nobody sees end, and the
//! gateway's own addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lb_common::family::{WideAddress, ip};
use lb_common::flow::{Direction, FlowKey};
use lb_common::trunk::Trunk;
use lb_common::wire::EgressTags;
use lb_userspace::engine::Moment;
use lb_userspace::engine::event::Event;
use lb_userspace::engine::kernel::{Address, Surroundings, wide_endpoint};

use crate::server::of_three;
use crate::site::Site;
use crate::world::World;

/// Between two walks; what a walk finds is done within it.
const INTERVAL: Duration = Duration::from_secs(5);

/// One service `db` for all three backends.
fn site(keys: &[&str]) -> Site {
    let mut site = Site::of_three();
    site.remove_service("ro");
    // On the port of the backends, as dsr needs it.
    site.rename_service("rw", "db");
    site.set_service("db", "any", keys);
    // Probes are of no interest here.
    site.set_health(&["interval=10m", "fast_interval=5s"]);
    site
}

/// The site with three connections, one on each backend, and when their last packets came.
fn connected(keys: &[&str]) -> (World, Moment) {
    let site = site(keys);
    let mut world = World::new(site.config(), of_three(&site));
    world.run_until(Moment::from_secs(6));
    for _ in 0..3 {
        world.open("db").unwrap();
    }
    let opened = world.now;
    (world, opened)
}

/// Lets a packet come that belongs to one direction of one connection; tells which connection, by
/// the flow of the client's packets.
fn touch(world: &mut World, direction: Direction) -> FlowKey<Address> {
    let tick = world.tick();
    let flows = world.traffic.established.iter_mut();
    let (key, flow) = flows
        .filter(|(_, flow)| flow.direction() == direction)
        .min_by_key(|(_, flow)| flow.slot)
        .unwrap();
    flow.last_seen = tick;
    match direction {
        Direction::ToBackend => *key,
        Direction::ToClient => flow.leaving.reversed(),
    }
}

/// All connections are reset when the limit has passed, at the next walk, and not before.
#[track_caller]
fn check_limit(keys: &[&str], limit: Duration) {
    let (mut world, opened) = connected(keys);
    world.run_until(opened + limit);
    assert_eq!(world.idle_resets, [], "the limit has not passed");
    assert_eq!(world.service("db").connections, 3);
    world.run_for(INTERVAL * 2);
    let mut reset = world.idle_resets.clone();
    reset.sort_unstable();
    reset.dedup();
    assert_eq!((reset.len(), world.idle_resets.len()), (3, 3), "each once");
    assert_eq!(world.service("db").connections, 0);
    world.run_for(INTERVAL * 2);
    assert_eq!(world.traffic.established.len(), 0, "their flows go");
    assert_eq!(world.idle_resets.len(), 3);
    let told = "3 connections are idle for too long: reset";
    assert!(world.told.iter().any(|text| text == told));
    // No generation was raised for them.
    assert_eq!(world.resets, [""; 0]);
}

#[test]
fn a_connection_through_dsr_has_a_limit_by_default() {
    check_limit(&["forwarding=dsr"], Duration::from_secs(8000));
}

#[test]
fn the_configured_limit_holds_for_every_forwarding() {
    for forwarding in ["forwarding=dsr", "forwarding=nat", "forwarding=full-nat"] {
        let limit = Duration::from_secs(10_000);
        check_limit(&[forwarding, "idle_limit=10000s"], limit);
    }
}

#[test]
fn other_forwardings_have_no_limit_by_default() {
    for forwarding in ["forwarding=nat", "forwarding=full-nat"] {
        let (mut world, _) = connected(&[forwarding]);
        world.run_for(Duration::from_secs(20_000));
        assert_eq!(world.idle_resets, []);
        assert_eq!(world.service("db").connections, 3);
    }
}

/// A connection over which one end alone sends is not idle.
#[test]
fn a_packet_of_either_end_begins_the_time_anew() {
    for (forwarding, direction) in [
        ("forwarding=nat", Direction::ToBackend),
        ("forwarding=nat", Direction::ToClient),
        ("forwarding=full-nat", Direction::ToBackend),
        ("forwarding=full-nat", Direction::ToClient),
        ("forwarding=dsr", Direction::ToBackend),
    ] {
        let (mut world, opened) = connected(&[forwarding, "idle_limit=9000s"]);
        world.run_until(opened + Duration::from_secs(6000));
        let busy = touch(&mut world, direction);
        world.run_until(opened + Duration::from_secs(9000) + INTERVAL * 2);
        let what = format!("{forwarding}, {direction:?}");
        assert_eq!(world.idle_resets.len(), 2, "{what}");
        assert!(!world.idle_resets.contains(&busy), "{what}");
        world.run_until(opened + Duration::from_secs(15_000));
        assert_eq!(world.idle_resets.len(), 2, "{what}");
        world.run_for(INTERVAL * 2);
        assert_eq!(world.idle_resets.len(), 3, "{what}");
        assert!(world.idle_resets.contains(&busy), "{what}");
    }
}

/// Reading the configuration again is enough for another limit.
#[test]
fn a_new_limit_holds_for_connections_that_are_open() {
    let (mut world, opened) = connected(&["forwarding=nat"]);
    world.run_until(opened + Duration::from_secs(9000));
    assert_eq!(world.idle_resets, []);
    world.reload(site(&["forwarding=nat", "idle_limit=8000s"]).config());
    world.run_for(INTERVAL * 2);
    assert_eq!(world.idle_resets.len(), 3);
}

/// The host's network with the gateway at this address towards `pg1` and `pg2`.
fn surroundings(site: &Site, last: u8) -> Surroundings {
    let source = IpAddr::V4(Ipv4Addr::new(10, 72, 255, last));
    let tags = EgressTags([20, 0]);
    Surroundings {
        trunks: [(7, Trunk { interface: 2, tags })].into(),
        sources: ["pg1", "pg2"]
            .map(|name| (site.address(name).ip(), source))
            .into(),
        shares_next_hops: false,
    }
}

/// What the backend rows of `pg1`, `pg2` and `pg3` have as the gateway's own address.
fn gateways(world: &World, site: &Site) -> [Option<String>; 3] {
    ["pg1", "pg2", "pg3"].map(|name| {
        let wanted = wide_endpoint(site.address(name));
        let mut rows = world.kernel.backends.values();
        let row = rows.find(|row| row.endpoint() == wanted).unwrap();
        let is_known = row.gateway != WideAddress::default();
        is_known.then(|| ip(row.gateway).to_string())
    })
}

#[test]
fn a_backend_row_has_the_gateways_own_address_towards_it() {
    let site = site(&["forwarding=full-nat"]);
    let mut world = World::new(site.config(), of_three(&site));
    assert_eq!(gateways(&world, &site), [None, None, None]);
    let generation = world.kernel.gateway.next_hop_generation;
    for last in [1, 2] {
        world.step(Event::NextHopsChanged(surroundings(&site, last)));
        let gateway = Some(format!("10.72.255.{last}"));
        let expected = [gateway.clone(), gateway, None];
        assert_eq!(gateways(&world, &site), expected);
    }
    assert_eq!(world.kernel.trunks, surroundings(&site, 2).trunks);
    assert_eq!(
        world.kernel.gateway.next_hop_generation,
        generation + 2,
        "each change has every next hop looked up again"
    );
    // An address that is no more is taken back.
    world.step(Event::NextHopsChanged(Surroundings::default()));
    assert_eq!(gateways(&world, &site), [None, None, None]);
    assert!(world.kernel.trunks.is_empty());
}

#[test]
fn connections_through_full_nat_are_listed_with_the_gateways_end() {
    let site = site(&["forwarding=full-nat"]);
    let mut world = World::new(site.config(), of_three(&site));
    world.step(Event::NextHopsChanged(surroundings(&site, 1)));
    world.run_until(Moment::from_secs(3));
    world.open("db").unwrap();
    let traffic = &world.traffic;
    let (established, transient) = (&traffic.established, &traffic.transient);
    let reports = world
        .engine
        .connections(established, transient, world.tick(), None, None);
    let ends = reports.iter().map(|it| (it.client, it.gateway));
    let [client, gateway] = ["10.71.1.1:1", "10.72.255.1:1"].map(|it| it.parse().unwrap());
    assert_eq!(ends.collect::<Vec<_>>(), [(client, Some(gateway))]);
}

#[test]
fn next_hops_are_shared_while_no_rule_is_known_to_look_at_the_sender() {
    let site = site(&["forwarding=nat"]);
    let mut world = World::new(site.config(), of_three(&site));
    assert_eq!(world.kernel.gateway.shares_next_hops, 0, "nothing is known");
    for shares_next_hops in [true, false, true] {
        world.step(Event::NextHopsChanged(Surroundings {
            shares_next_hops,
            ..surroundings(&site, 1)
        }));
        assert_eq!(
            world.kernel.gateway.shares_next_hops,
            u32::from(shares_next_hops)
        );
    }
    world.restart(site.config());
    assert_eq!(
        world.kernel.gateway.shares_next_hops, 0,
        "rules may have come"
    );
}

/// A controller that has not looked round yet leaves connections the address that they come from.
#[test]
fn the_gateways_own_addresses_survive_a_restart() {
    let site = site(&["forwarding=full-nat"]);
    let mut world = World::new(site.config(), of_three(&site));
    world.step(Event::NextHopsChanged(surroundings(&site, 1)));
    let (before, trunks) = (gateways(&world, &site), world.kernel.trunks.clone());
    world.restart(site.config());
    assert_eq!(gateways(&world, &site), before);
    assert_eq!(world.kernel.trunks, trunks);
    world.step(Event::NextHopsChanged(surroundings(&site, 2)));
    assert_eq!(gateways(&world, &site)[0].as_deref(), Some("10.72.255.2"));
}
