//! Counts that have gone wrong are put right by walks that agree, and by nothing less.

use std::time::Duration;

use lb_common::member::{BackendId, Slot};
use lb_common::tally::Tally;
use lb_userspace::engine::Moment;
use lb_userspace::engine::event::Event;
use lb_userspace::protocol::{KillTarget, Request};

use crate::server::of_three;
use crate::site::Site;
use crate::world::World;

/// Between two walks.
const INTERVAL: Duration = Duration::from_secs(5);

/// Ten connections on each replica, at a moment between two walks.
fn world() -> World {
    let mut site = Site::of_three();
    // Probes are of no interest here.
    site.set_health(&["interval=10m", "fast_interval=5s"]);
    let mut world = World::new(site.config(), of_three(&site));
    world.run_until(Moment::from_secs(6));
    for _ in 0..20 {
        world.open("ro").unwrap();
    }
    world.run_for(INTERVAL);
    assert_eq!(counts(&world), [10; 2]);
    world
}

/// What the kernel believes of `ro/pg2`: its member, and its backend.
fn counts(world: &World) -> [u64; 2] {
    let slot = world.slot("ro/pg2");
    let id = world.kernel.members[&slot].backend;
    let traffic = &world.traffic;
    [
        traffic.load(&world.kernel, slot).active(),
        traffic.backend_load(&world.kernel, id).active(),
    ]
}

fn gateway(world: &World) -> u64 {
    let traffic = &world.traffic;
    traffic
        .backend_load(&world.kernel, BackendId::GATEWAY)
        .active()
}

fn miscount(world: &mut World, wrong: impl Fn(&mut Tally)) {
    let slot = world.slot("ro/pg2");
    world.traffic.miscount(&world.kernel, slot, wrong);
}

#[test]
fn what_is_right_stays_so() {
    let mut world = world();
    world.run_for(INTERVAL * 10);
    assert_eq!(counts(&world), [10; 2]);
    assert_eq!(gateway(&world), 20);
}

#[test]
fn connections_that_are_not_there_are_counted_off_by_the_second_walk() {
    let mut world = world();
    miscount(&mut world, |tally| tally.established += 3);
    world.run_for(INTERVAL);
    assert_eq!(counts(&world), [13; 2], "one walk is not believed");
    world.run_for(INTERVAL);
    assert_eq!(counts(&world), [10; 2]);
    assert_eq!(gateway(&world), 20);
    world.run_for(INTERVAL * 4);
    assert_eq!(counts(&world), [10; 2], "once");
}

#[test]
fn connections_that_are_there_are_counted_again_by_the_second_walk() {
    let mut world = world();
    // The controller has counted ten off, as it can put back no more than that.
    let target = KillTarget::Backend("pg2".parse().unwrap());
    world.ask(Request::Kill { target });
    world.run_for(Duration::from_millis(10));
    for _ in 0..10 {
        world.open("ro").unwrap();
    }
    world.run_for(INTERVAL);
    assert_eq!(counts(&world), [10; 2]);
    miscount(&mut world, |tally| tally.ended += 3);
    world.run_for(INTERVAL);
    assert_eq!(counts(&world), [7; 2], "one walk is not believed");
    world.run_for(INTERVAL);
    assert_eq!(counts(&world), [10; 2]);
    assert_eq!(gateway(&world), 20);
}

#[test]
fn half_open_connections_that_the_kernel_forgot_are_counted_off() {
    let mut world = world();
    miscount(&mut world, |tally| tally.half_opened += 4);
    world.run_for(INTERVAL);
    assert_eq!(counts(&world), [14; 2]);
    world.run_for(INTERVAL);
    assert_eq!(counts(&world), [10; 2]);
    assert_eq!(gateway(&world), 20);
}

#[test]
fn a_difference_that_comes_and_goes_is_not_believed() {
    let mut world = world();
    for _ in 0..6 {
        miscount(&mut world, |tally| tally.established += 3);
        world.run_for(INTERVAL);
        miscount(&mut world, |tally| tally.ended += 3);
        world.run_for(INTERVAL);
        assert_eq!(counts(&world), [10; 2]);
    }
}

/// Connections that open and close during every walk look like errors, of either sign.
#[test]
fn movement_during_the_walk_is_no_error() {
    let mut world = world();
    let slot = world.slot("ro/pg2");
    for _ in 0..20 {
        // The next walk comes soon, and takes a millisecond.
        world.run_for(INTERVAL - Duration::from_millis(30));
        for _ in 0..30 {
            for _ in 0..3 {
                world.open("ro").unwrap();
            }
            world.traffic.close(&world.kernel, slot, 2);
            world.run_for(Duration::from_millis(1));
        }
    }
    let [member, _] = counts(&world);
    assert_eq!(member, world.traffic.alive(&world.kernel, slot));
    let alive: u64 = world
        .kernel
        .members
        .keys()
        .map(|slot| world.traffic.alive(&world.kernel, *slot))
        .sum();
    assert_eq!(gateway(&world), alive);
}

#[test]
fn a_syn_that_nobody_answers_is_given_up_after_its_last_retry() {
    let mut world = world();
    let slots: Vec<Slot> = (0..2).map(|_| world.half_open("ro").unwrap()).collect();
    assert_eq!(slots.len(), 2);
    assert_eq!(world.traffic.transient.len(), 2);
    world.run_for(Duration::from_secs(39));
    assert_eq!(
        world.traffic.transient.len(),
        2,
        "the client may still retry"
    );
    assert_eq!(counts(&world), [11; 2]);
    world.run_for(INTERVAL * 2);
    assert_eq!(world.traffic.transient.len(), 0);
    world.run_for(INTERVAL);
    assert_eq!(counts(&world), [10; 2]);
    assert_eq!(gateway(&world), 20);
}

#[test]
fn superseded_flows_stay_for_late_packets_and_then_go() {
    let mut world = world();
    assert_eq!(world.traffic.established.len(), 40);
    let target = KillTarget::Backend("pg2".parse().unwrap());
    world.ask(Request::Kill { target });
    // Their last packet may have come in this moment.
    let tick = world.tick();
    for flow in world.traffic.established.values_mut() {
        flow.last_seen = tick;
    }
    world.run_for(Duration::from_secs(9));
    assert_eq!(world.traffic.established.len(), 40);
    world.run_for(INTERVAL * 2);
    assert_eq!(world.traffic.established.len(), 20);
    world.run_for(INTERVAL * 2);
    assert_eq!(counts(&world), [0; 2]);
    assert_eq!(gateway(&world), 10);
}

#[test]
fn idle_connections_are_nobodys_to_remove() {
    let mut world = world();
    world.run_for(Duration::from_secs(9000));
    assert_eq!(world.traffic.established.len(), 40);
    assert_eq!(counts(&world), [10; 2]);
}

#[test]
fn opened_is_closed_in_the_end() {
    let mut world = world();
    for name in ["ro/pg2", "ro/pg3"] {
        world.half_open("ro").unwrap();
        let slot = world.slot(name);
        world.traffic.close(&world.kernel, slot, 4);
    }
    miscount(&mut world, |tally| tally.established += 2);
    world.ask(Request::Kill {
        target: KillTarget::Service("ro".to_owned()),
    });
    world.run_for(Duration::from_secs(70));
    assert_eq!(counts(&world), [0; 2]);
    assert_eq!(gateway(&world), 0);
    assert!(world.traffic.established.is_empty());
    assert!(world.traffic.transient.is_empty());
}

/// Tallies that are read late may be older than those before the walk.
#[test]
fn stale_tallies_correct_nothing() {
    let mut world = world();
    let (slots, backends) = world.engine.counted();
    let stale = world.traffic.tallies(&slots, &backends);
    for _ in 0..4 {
        world.open("ro").unwrap();
    }
    let fresh = world.traffic.tallies(&slots, &backends);
    for _ in 0..3 {
        world.engine.step(Event::Counted(stale.clone()), world.now);
        let event = Event::Walked {
            established: world.traffic.established.clone(),
            transient: world.traffic.transient.clone(),
            now: world.tick(),
            before: fresh.clone(),
        };
        world.engine.step(event, world.now);
    }
    world.step(Event::Tick);
    assert_eq!(world.member("ro/pg2").connections, 12);
}
