//! Another configuration over what is there.

use std::time::Duration;

use lb_common::member::BackendId;
use lb_userspace::engine::Moment;
use lb_userspace::report::Health;

use crate::server::{Server, of_three};
use crate::site::Site;
use crate::story::check;
use crate::world::World;

#[test]
fn the_same_configuration_again_writes_nothing() {
    check(
        "service turns any algorithm=round-robin
         service some replica algorithm=hash allow=[\"10.71.0.0/24\"]
         at 3s   5 connections to rw
                 4 connections to ro
                 expect writes
                 reload
                 expect no writes
                 expect rw -> pg1
                 expect rw/pg1 is up
                 expect told the configuration was read again
                 operator drain pg2
                 operator weight pg3 0
                 expect writes
                 reload
                 expect no writes
                 expect ro/pg2 is drain
         at 9s   expect reset nobody
                 expect 2 alive on ro/pg2",
    );
}

#[test]
fn a_backend_that_is_added_waits_for_its_probes_and_disturbs_nobody() {
    check(
        "at 3s   5 connections to rw
                 4 connections to ro
                 backend pg4
                 pg4 replica
                 reload
                 expect rw -> pg1
                 expect ro -> pg2 pg3
                 expect ro/pg4 says not probed yet
         at 5s   expect ro -> pg2 pg3 pg4
                 expect 2 alive on ro/pg2
                 expect 5 alive on rw/pg1
                 expect 0 connections on ro/pg4",
    );
}

#[test]
fn a_limit_of_connections_comes_and_goes_with_the_configuration() {
    check(
        "backend pg2 max_connections=10
         at 3s   expect ro -> pg2 pg3
                 backend pg2 max_connections=20
                 backend pg3 max_connections=10
                 reload
                 expect writes
                 expect ro -> pg2 pg3
                 remove backend pg3
                 backend pg3
                 pg3 replica
                 reload
                 expect reset rw/pg3 ro/pg3
         at 6s   expect ro -> pg2 pg3",
    );
}

#[test]
fn a_backend_that_is_removed_is_reset_and_leaves_the_others_alone() {
    check(
        "at 3s   5 connections to rw
                 4 connections to ro
                 remove backend pg2
                 reload
                 expect ro -> pg3
                 expect rw -> pg1
                 expect reset rw/pg2 ro/pg2
         at 4s   expect told 2 connections reset
                 expect 2 alive on ro/pg3
                 expect 5 alive on rw/pg1
         at 60s  expect reset nobody
                 expect 2 connections on ro/pg3
                 reload
                 expect reset nobody",
    );
}

#[test]
fn a_backend_that_was_first_and_goes_takes_nobody_elses_slot_with_it() {
    check(
        "at 3s   4 connections to ro
                 remove backend pg1
                 reload
                 expect reset rw/pg1 ro/pg1
                 expect ro -> pg2 pg3
                 expect rw -> nobody
                 expect 2 alive on ro/pg2
                 expect 2 alive on ro/pg3
                 pg2 primary timeline 2
                 pg3 replica timeline 2
         at 5s   expect rw -> pg2
                 expect reset ro/pg2",
    );
}

#[test]
fn another_server_behind_the_same_name_is_another_backend() {
    check(
        "at 3s   4 connections to ro
                 operator weight pg2 7
                 move backend pg2
                 pg2 silent
                 reload
                 expect ro -> pg3
                 expect ro/pg2 is unknown
                 expect ro/pg2 weighs 100
                 expect reset rw/pg2 ro/pg2
         at 4s   expect told 2 connections reset
                 expect 0 connections on ro/pg2
         at 20s  expect ro -> pg3
                 expect ro/pg2 is down
                 pg2 replica
         at 25s  expect ro -> pg2 pg3
                 2 connections to ro
                 expect 2 connections on ro/pg2
                 expect 2 alive on ro/pg2",
    );
}

#[test]
fn new_names_change_nothing_else() {
    check(
        "at 3s   4 connections to ro
                 operator drain pg2
                 rename backend pg2 standby
                 rename service ro reads
                 reload
                 expect reads -> pg3
                 expect reads/standby is drain
                 expect reads/standby is up
                 expect 2 alive on reads/standby
                 expect 2 alive on reads/pg3
         at 9s   expect reset nobody
                 operator ready standby
                 expect reads -> standby pg3",
    );
}

#[test]
fn a_service_that_is_removed_ends_and_its_row_serves_again() {
    check(
        "at 3s   4 connections to ro
                 5 connections to rw
                 remove service ro
                 service all any
                 reload
                 expect reset ro/pg1 ro/pg2 ro/pg3
                 expect rw -> pg1
                 expect all -> pg1 pg2 pg3
                 expect 5 alive on rw/pg1
         at 4s   expect told 4 connections reset
                 expect 0 connections on all/pg2
                 remove service all
                 service ro2 replica
                 reload
                 expect ro2 -> pg2 pg3
                 expect reset all/pg1 all/pg2 all/pg3
         at 9s   expect 0 connections on ro2/pg2
                 2 connections to ro2
                 expect 1 connections on ro2/pg2",
    );
}

#[test]
fn a_service_at_another_vip_is_another_service() {
    check(
        "at 3s   5 connections to rw
                 move service rw
                 reload
                 expect rw -> pg1
                 expect reset rw/pg1 rw/pg2 rw/pg3
         at 5s   expect 0 connections on rw/pg1
                 1 connections to rw
                 expect 1 connections on rw/pg1",
    );
}

#[test]
fn a_service_before_another_cluster_leaves_the_old_one() {
    check(
        "backend other/pg1
         service orw primary
         move service orw to other
         at 3s   5 connections to rw
                 move service rw to other
                 service ro replica
                 reload
                 expect rw -> pg1
                 expect reset rw/pg1 rw/pg2 rw/pg3
         at 9s   expect 0 alive on orw/pg1
                 1 connections to rw
                 expect 1 connections on rw/pg1",
    );
}

#[test]
fn other_rules_hold_at_once() {
    check(
        "at 3s   pg2 replica lag 1MB
         at 5s   expect ro -> pg2 pg3
                 health max_lag=512kB
                 backend pg3 weight=0
                 reload
                 expect ro -> pg1
                 expect ro/pg2 says more than max_lag 524288
                 expect ro/pg3 says weight 0
                 service ro replica fallback=none
                 reload
                 expect ro -> nobody
                 service ro any
                 reload
                 expect ro -> pg1 pg2
         at 9s   expect reset nobody",
    );
}

/// Rows are given to others in time, and what was open in them is not the new one's.
#[test]
fn rows_go_from_hand_to_hand_without_a_trace() {
    let mut site = Site::of_three();
    let mut world = World::new(site.config(), of_three(&site));
    world.run_until(Moment::from_secs(3));
    for round in 0..40 {
        for _ in 0..4 {
            world.open("ro").unwrap();
            world.open("rw").unwrap();
        }
        let name = ["pg2", "pg3"][round % 2];
        site.move_backend(name);
        world
            .servers
            .insert(site.address(name), Server::replica(1, 0, true));
        world.reload(site.config());
        world.run_for(Duration::from_secs(3));
        world.resets.clear();
        let (slots, backends) = world.engine.counted();
        for slot in slots {
            let alive = world.traffic.alive(&world.kernel, slot);
            assert_eq!(
                world.traffic.load(&world.kernel, slot).active(),
                alive,
                "{slot:?}, round {round}"
            );
        }
        for id in backends {
            let alive: u64 = world
                .kernel
                .members
                .iter()
                .filter(|(_, row)| row.backend == id || id == BackendId::GATEWAY)
                .map(|(slot, _)| world.traffic.alive(&world.kernel, *slot))
                .sum();
            let load = world.traffic.backend_load(&world.kernel, id);
            assert_eq!(load.active(), alive, "{id:?}, round {round}");
        }
    }
    assert!(world.kernel.members.keys().all(|slot| slot.index() < 5));
    assert!(world.kernel.backends.keys().all(|id| id.0 < 6));
}

/// With every slot and row taken, others still get theirs.
#[test]
fn a_full_cluster_can_be_replaced_at_once() {
    let mut site = Site::empty();
    for number in 0..32 {
        site.set_backend(&format!("pg{number}"), &[]);
    }
    site.set_service("all", "any", &[]);
    let mut world = World::new(site.config(), std::collections::BTreeMap::new());
    for number in 0..32 {
        let address = site.address(&format!("pg{number}"));
        world.servers.insert(address, Server::replica(1, 0, true));
    }
    world.run_until(Moment::from_secs(5));
    assert_eq!(world.eligible("all").len(), 32);
    for number in 0..32 {
        site.move_backend(&format!("pg{number}"));
    }
    world.reload(site.config());
    assert!(world.eligible("all").is_empty());
    assert_eq!(world.resets.len(), 32);
    world.run_for(Duration::from_secs(5));
    assert!(world.eligible("all").is_empty());
}

/// An answer that was under way when another server took the name is not the new one's.
#[test]
fn a_late_answer_is_nobody_elses() {
    let mut site = Site::of_three();
    let mut world = World::new(site.config(), of_three(&site));
    // The round of pg2 started a third of a millisecond ago.
    world.run_until(Moment::from_micros(3_083_666));
    site.move_backend("pg2");
    world.reload(site.config());
    world.run_for(Duration::from_millis(2));
    assert_eq!(world.member("ro/pg2").health, Health::Unknown);
    world.resets.clear();
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.member("ro/pg2").health, Health::Down);
}

#[test]
fn every_service_can_move_at_once() {
    let mut site = Site::empty();
    site.set_backend("pg1", &[]);
    site.set_backend("pg2", &[]);
    site.set_health(&["kind=tcp"]);
    let names: Vec<String> = (0..64).map(|number| format!("s{number}")).collect();
    for name in &names {
        site.set_service(name, "any", &[]);
    }
    let up = |name: &str| (site.address(name), Server::primary(1));
    let mut world = World::new(site.config(), [up("pg1"), up("pg2")].into());
    world.run_until(Moment::from_secs(1));
    for name in &names {
        world.open(name).unwrap();
        site.move_service(name);
    }
    world.reload(site.config());
    assert_eq!(world.resets.len(), 128);
    world.run_for(Duration::from_secs(1));
    assert!(
        world
            .traffic
            .established
            .values()
            .all(|flow| flow.generation == 0)
    );
    for name in &names {
        assert_eq!(world.eligible(name), ["pg1", "pg2"]);
    }
}

#[test]
fn every_backend_can_be_replaced_at_once() {
    let mut site = Site::empty();
    site.set_health(&["kind=tcp", "interval=1m", "fast_interval=10ms"]);
    // With the gateway's own, every row of the backend table is taken.
    let names: Vec<String> = (0..255).map(|n| format!("c{}/pg{n}", n / 32)).collect();
    for name in &names {
        site.set_backend(name, &[]);
    }
    for cluster in 0..8 {
        let name = format!("s{cluster}");
        site.set_service(&name, "any", &[]);
        site.set_cluster(&name, &format!("c{cluster}"));
    }
    let up = |name: &String| (site.address(name), Server::primary(1));
    let mut world = World::new(site.config(), names.iter().map(up).collect());
    world.run_until(Moment::from_millis(20));
    assert_eq!(world.eligible("s3").len(), 32);
    for name in &names {
        site.move_backend(name);
    }
    world.reload(site.config());
    assert_eq!(world.resets.len(), 255);
    for cluster in 0..8 {
        let eligible = world.eligible(&format!("s{cluster}"));
        assert!(
            eligible.is_empty(),
            "nobody knows the new servers: {eligible:?}"
        );
    }
}

#[test]
fn what_was_eligible_in_another_role_is_not_so_as_before() {
    check(
        "at 3s   operator drain pg3
                 restart
                 expect ro -> pg2
                 service ro primary
                 reload
                 expect ro/pg2 is unknown
                 expect ro -> nobody
         at 5s   expect ro -> pg1",
    );
}
