//! From probes to health, and how soon.

use std::time::Duration;

use lb_userspace::engine::Moment;
use lb_userspace::engine::event::Event;
use lb_userspace::engine::observation::Outcome;
use lb_userspace::report::Health;

use crate::server::Server;
use crate::site::Site;
use crate::story::check;
use crate::world::World;

#[test]
fn a_service_starts_with_its_first_good_probes() {
    check(
        "at 0s   expect rw -> nobody
                 expect rw/pg1 says not probed yet
         at 1s   expect rw -> pg1
                 expect ro -> pg2 pg3
                 expect rw/pg2 says standby
                 expect ro/pg1 says primary
                 expect rw is in state ok
                 expect ro is in state ok",
    );
}

#[test]
fn a_server_that_refuses_is_down_in_a_moment_although_its_next_round_is_far() {
    check(
        "health interval=10s
         at 3s   expect rw -> pg1
                 5 connections to rw
                 pg1 refuses
         at 4s   expect rw -> nobody
                 expect rw/pg1 is down
                 expect rw/pg1 says down: connection refused
                 expect rw is in state no_backend
                 expect reset rw/pg1
                 expect 0 alive on rw/pg1
         at 20s  expect reset nobody
                 pg1 primary
         at 31s  expect rw -> pg1",
    );
}

#[test]
fn a_server_that_starts_up_gets_nothing_new_and_loses_nothing() {
    check(
        "at 3s   5 connections to rw
                 pg1 starting
         at 5s   expect rw -> nobody
                 expect rw/pg1 is starting
                 expect rw/pg1 says 57P03
         at 60s  expect reset nobody
                 expect 5 alive on rw/pg1
                 pg1 primary
         at 61s  expect rw -> pg1
                 expect 5 alive on rw/pg1",
    );
}

#[test]
fn a_full_server_gets_nothing_new_and_keeps_what_it_has() {
    check(
        "at 3s   5 connections to rw
                 pg1 full
         at 5s   expect rw -> nobody
                 expect rw/pg1 is full
                 expect rw/pg1 is primary
                 expect rw/pg1 says 53300
         at 60s  expect reset nobody
                 expect 5 alive on rw/pg1
                 pg1 primary
         at 61s  expect rw -> pg1",
    );
}

#[test]
fn a_probe_that_is_not_let_in_is_loud_and_takes_nobody_down() {
    check(
        "at 3s   pg1 misconfigured
         at 60s  expect rw -> pg1
                 expect rw/pg1 is up
                 expect rw/pg1 checks 28000
                 expect told the probe of main/pg1 is misconfigured
                 expect reset nobody",
    );
}

#[test]
fn a_server_whose_role_was_never_told_serves_nobody() {
    check(
        "pg1 misconfigured
         at 5s   expect rw -> nobody
                 expect rw/pg1 is up
                 expect rw/pg1 says role unknown: 28000
                 pg1 primary
         at 7s   expect rw -> pg1",
    );
}

#[test]
fn a_promotion_does_not_wait_for_the_next_round() {
    check(
        "health interval=1m
         at 30s  expect rw -> pg1
                 pg2 primary timeline 2
                 pg3 replica timeline 2
         at 30260ms expect rw -> pg2
                 expect ro -> pg3
                 expect reset rw/pg1 ro/pg2",
    );
}

#[test]
fn a_lost_session_or_a_refused_connection_brings_the_next_round_forward() {
    for event in ["pg1 loses its session", "suspect rw/pg1"] {
        check(&format!(
            "health interval=1m fast_interval=20s rise=1 fall=1
             at 21s  expect rw -> pg1
                     pg1 refuses
             at 22s  {event}
             at 22010ms expect rw -> nobody
                     expect reset rw/pg1"
        ));
    }
}

#[test]
fn a_suspicion_lasts_until_a_round_goes_well() {
    check(
        "at 3s   pg2 refuses
                 suspect ro/pg2
         at 3100ms expect ro/pg2 is still suspect
                 expect told main/pg2 did not take a connection: probing it now
                 pg2 replica
         at 4s   expect ro/pg2 is not suspect
                 expect ro -> pg2 pg3",
    );
}

#[test]
fn a_suspicion_survives_a_failed_round_that_the_controller_hears_of_first() {
    let mut site = Site::of_three();
    site.remove_backend("pg3");
    let servers = servers(&site);
    let mut world = World::new(site.config(), servers);
    world.run_until(Moment::from_secs(3));
    // The kernel has marked the slot, and its message is still on its way.
    let slot = world.slot("ro/pg2");
    world.traffic.suspect(slot);
    let failed = Outcome::Down {
        why: "connection refused".to_owned(),
    };
    world.step(Event::Probed {
        backend: world.kernel.members[&slot].backend,
        handshake: failed.clone(),
        session: Some(failed),
    });
    assert_eq!(world.eligible("ro"), ["pg2"], "it is not down yet");
    assert!(world.traffic.is_suspect(&world.kernel, slot));
}

/// However a server falls silent, it is down within `fall` intervals and a timeout.
#[test]
fn a_silent_server_is_down_in_time() {
    for kind in ["postgres", "tcp"] {
        for offset in (0..1000).step_by(37) {
            let mut site = Site::empty();
            ["pg1", "pg2"]
                .into_iter()
                .for_each(|name| site.set_backend(name, &[]));
            site.set_health(&[&format!("kind={kind}")]);
            site.set_service("all", "any", &[]);
            let mut world = World::new(site.config(), servers(&site));
            world.run_until(Moment::from_millis(5000 + offset));
            world.servers.insert(site.address("pg1"), Server::Silent);
            world.run_for(Duration::from_secs(4));
            assert_eq!(
                world.member("all/pg1").health,
                Health::Down,
                "{kind} at {offset} ms"
            );
            assert_eq!(world.eligible("all"), ["pg2"]);
        }
    }
}

/// A primary, and a replica behind it.
fn servers(site: &Site) -> std::collections::BTreeMap<std::net::SocketAddr, Server> {
    [
        ("pg1", Server::primary(1)),
        ("pg2", Server::replica(1, 0, true)),
    ]
    .into_iter()
    .map(|(name, server)| (site.address(name), server))
    .collect()
}
