//! A controller that is killed and started again, over the tables that the other one has left.

use std::time::Duration;

use lb_userspace::engine::Moment;
use lb_userspace::engine::effect::Effect;
use lb_userspace::engine::event::Event;
use lb_userspace::engine::kernel::KernelTables;
use lb_userspace::protocol::{KillTarget, Request};

use crate::invariants::{apply, check_restart};
use crate::site::Site;
use crate::story::check;
use crate::world::World;

#[test]
fn a_restart_changes_nothing_before_the_first_answer() {
    check(
        "at 3s   5 connections to rw
                 4 connections to ro
                 restart
                 expect rw -> pg1
                 expect ro -> pg2 pg3
                 expect rw/pg1 says not probed yet, eligible as before
                 expect rw/pg1 is unknown
         at 9s   expect rw -> pg1
                 expect ro -> pg2 pg3
                 expect rw/pg1 is up
                 expect 5 alive on rw/pg1
                 expect 5 connections on rw/pg1
                 expect reset nobody",
    );
}

/// In every state that a scenario can reach, another engine over the same tables agrees.
#[test]
fn every_state_survives_a_restart() {
    let mut site = Site::of_three();
    site.set_service("all", "any", &["algorithm=round-robin", "no_backend=hold"]);
    site.set_service(
        "some",
        "replica",
        &["algorithm=hash", "allow=[\"10.71.0.0/24\"]"],
    );
    let mut world = World::new(site.config(), crate::server::of_three(&site));
    check_restart(&world.engine, &world.kernel, world.now);
    world.run_until(Moment::from_secs(3));
    let pg = |name: &str| name.parse().unwrap();
    let requests = [
        Request::Drain { backend: pg("pg2") },
        Request::Weight {
            backend: pg("pg3"),
            weight: 7,
        },
        Request::Kill {
            target: KillTarget::Service("all".to_owned()),
        },
        Request::Maint { backend: pg("pg2") },
        Request::Ready { backend: pg("pg2") },
        Request::Maint { backend: pg("pg3") },
        Request::Weight {
            backend: pg("pg1"),
            weight: 0,
        },
    ];
    for request in requests {
        world.open("all");
        world.open("some");
        world.ask(request);
        check_restart(&world.engine, &world.kernel, world.now);
        world.run_for(Duration::from_secs(1));
        check_restart(&world.engine, &world.kernel, world.now);
    }
    for state in crate::server::every_state() {
        world.servers.insert(site.address("pg1"), state.clone());
        world.servers.insert(site.address("pg2"), state);
        for _ in 0..20 {
            world.run_for(Duration::from_millis(333));
            check_restart(&world.engine, &world.kernel, world.now);
        }
    }
}

#[test]
fn what_the_operator_wants_survives_a_restart() {
    check(
        "at 3s   4 connections to ro
                 operator drain pg2
                 operator weight pg3 7
                 restart
                 expect ro -> pg3
                 expect ro/pg2 is drain
                 expect ro/pg3 weighs 7
                 expect 2 alive on ro/pg2
         at 9s   expect ro -> pg3
                 expect ro/pg2 says drain
                 operator ready pg2
                 operator maint pg3
                 expect ro -> pg2
                 expect reset rw/pg3 ro/pg3
         at 10s  restart
                 expect ro -> pg2
                 expect ro/pg3 is maint
                 expect ro/pg3 weighs 7
         at 20s  expect reset nobody
                 operator ready pg3
                 operator weight pg3 100
         at 21s  restart
                 expect ro -> pg2 pg3
                 expect ro/pg3 is ready
                 expect ro/pg3 weighs 100",
    );
}

#[test]
fn the_operator_need_not_wait_for_the_first_answer() {
    check(
        "at 3s   restart
                 expect ro -> pg2 pg3
                 operator drain pg2
                 expect ro -> pg3
                 operator weight pg3 0
                 expect ro -> nobody
                 expect ro/pg3 is unknown
                 expect reset nobody
                 operator ready pg2
         at 4s   expect ro -> pg2",
    );
}

#[test]
fn a_backend_that_has_gone_meanwhile_is_judged_as_usual() {
    check(
        "at 3s   5 connections to rw
                 pg1 refuses
                 restart
                 expect rw -> pg1
         at 3100ms expect rw -> pg1
                 expect rw/pg1 is unknown
         at 4s   expect rw -> nobody
                 expect rw/pg1 is down
                 expect reset rw/pg1 ro/pg1   # what those had is not known after a restart
                 expect 0 alive on rw/pg1",
    );
}

#[test]
fn a_primary_that_has_changed_meanwhile_is_reset_like_any_other() {
    check(
        "at 3s   5 connections to rw
                 pg1 replica timeline 2
                 pg2 primary timeline 2
                 pg3 replica timeline 2
                 restart
                 expect rw -> pg1
         at 5s   expect rw -> pg2
                 expect reset rw/pg1
                 expect 0 alive on rw/pg1
                 expect ro -> pg1 pg3",
    );
}

#[test]
fn an_old_primary_that_answers_first_does_not_take_the_service() {
    check(
        "at 3s   pg1 refuses
                 pg2 primary timeline 2
                 pg3 replica timeline 2
         at 9s   expect rw -> pg2
                 expect reset rw/pg1 ro/pg2
                 pg1 primary timeline 1
                 pg2 silent
                 restart
         at 9500ms expect rw -> pg2
         at 11s  expect rw -> pg2
                 pg2 primary timeline 2
         at 15s  expect rw -> pg2
                 expect rw/pg1 says superseded by pg2
                 expect reset rw/pg1",
    );
}

#[test]
fn the_primary_that_serves_reads_goes_on_while_the_replicas_are_asked() {
    let mut story = "pg2 pg3 silent
         at 5s   expect ro -> pg1
                 4 connections to ro
                 restart\n"
        .to_owned();
    for moment in (5000..12_000).step_by(100) {
        story += &format!("at {moment}ms expect ro -> pg1\n");
    }
    story += "expect 4 alive on ro/pg1
              expect reset rw/pg2 rw/pg3 ro/pg2 ro/pg3";
    check(&story);
}

#[test]
fn a_service_that_was_for_replicas_has_no_two_primaries_for_a_moment() {
    check(
        "remove service rw
         at 3s   expect ro -> pg2 pg3
                 service ro primary
                 restart
                 expect ro -> nobody
         at 5s   expect ro -> pg1",
    );
}

#[test]
fn a_restart_with_another_configuration_retires_what_is_gone() {
    check(
        "at 3s   4 connections to ro
                 expect 2 alive on ro/pg2
                 remove backend pg2
                 restart
                 expect ro -> pg3
                 expect reset ro/pg2 rw/pg2
         at 9s   expect 2 connections on ro/pg3
                 restart
                 expect reset nobody",
    );
}

#[test]
fn counts_survive_a_restart() {
    check(
        "at 3s   4 connections to ro
                 operator kill backend pg2
                 expect reset rw/pg2 ro/pg2
         at 4s   2 connections to ro
                 expect 2 connections on ro/pg2
                 restart
                 expect 2 connections on ro/pg2
                 expect 2 connections on ro/pg3
         at 60s  expect 2 connections on ro/pg2
                 expect 2 alive on ro/pg2",
    );
}

/// A write that failed leaves the tables unknown: everything is written again, and no generation
/// is forgotten, not even of a slot that nobody has.
#[test]
fn after_a_failed_write_everything_is_written_again() {
    let mut site = Site::of_three();
    let mut world = World::new(site.config(), crate::server::of_three(&site));
    world.run_until(Moment::from_secs(3));
    let slot = world.slot("ro/pg2");
    site.remove_backend("pg2");
    world.reload(site.config());
    let whole = world.kernel.clone();
    let mut empty = KernelTables::default();
    for effect in world.engine.step(Event::WriteFailed, world.now) {
        if let Effect::Write(write) = effect {
            apply(&mut empty, &write);
        }
    }
    assert_eq!(empty.services, whole.services);
    assert_eq!(empty.members, whole.members);
    assert!(
        empty.members.contains_key(&slot),
        "the retired slot as well"
    );
    for (id, row) in &empty.backends {
        assert_eq!(whole.backends.get(id), Some(row));
    }
    assert_eq!(empty.backends.len(), 3, "the gateway, pg1 and pg3");
    let effects = world.engine.step(Event::Tick, world.now);
    let is_write = |effect: &Effect| matches!(effect, Effect::Write(_));
    assert!(!effects.iter().any(is_write), "once: {effects:?}");
}
