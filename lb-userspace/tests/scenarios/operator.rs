//! What operators ask for, and what they are answered.

use lb_common::member::Slot;
use lb_userspace::engine::event::Event;
use lb_userspace::protocol::{KillTarget, Request, Response};
use lb_userspace::report::ConnectionReport;

use crate::site::Site;
use crate::story::check;
use crate::traffic::Traffic;
use crate::world::World;

#[test]
fn kill_answers_when_the_connections_are_gone() {
    check(
        "at 3s   4 connections to ro
                 2 connections to rw
                 operator kill backend pg2
                 expect no answer
                 expect reset rw/pg2 ro/pg2
                 expect 0 alive on ro/pg2
                 expect 2 alive on ro/pg3
                 expect ro -> pg2 pg3
         at 4s   expect done 2 connections reset in 1 ms
                 operator kill service rw
                 expect no answer
                 expect reset rw/pg1 rw/pg2 rw/pg3
         at 5s   expect done 2 connections reset
                 expect rw -> pg1
                 expect 2 alive on ro/pg3
                 operator kill client 10.71.0.5:41022
                 expect no answer
         at 6s   expect done 0 connections reset",
    );
}

#[test]
fn killed_connections_are_counted_off() {
    check(
        "at 3s   4 connections to ro
                 expect 2 connections on ro/pg2
                 operator kill service ro
                 expect reset ro/pg1 ro/pg2 ro/pg3
         at 4s   expect 0 connections on ro/pg2
                 1 connections to ro
         at 5s   expect 1 connections on ro/pg2
                 expect 1 alive on ro/pg2",
    );
}

#[test]
fn generations_are_raised_in_the_tables_before_the_walk_and_one_at_a_time() {
    let site = Site::of_three();
    let mut world = World::new(site.config(), Default::default());
    let before = world.generation("ro/pg2");
    let target = KillTarget::Backend("pg2".parse().unwrap());
    let asker = world.ask(Request::Kill { target });
    assert_eq!(world.generation("ro/pg2"), before + 1);
    assert_eq!(world.generation("ro/pg3"), before);
    assert!(world.answers.is_empty());
    world.run_for(std::time::Duration::from_millis(2));
    assert_eq!(world.answers.len(), 1);
    assert_eq!(world.answers[0].0, asker);
    assert_eq!(world.generation("ro/pg2"), before + 1);
}

#[test]
fn a_name_of_nobody_is_refused_with_the_names_there_are() {
    for request in [
        "drain pg9",
        "maint other/pg1",
        "ready pg9",
        "weight pg9 5",
        "kill backend pg9",
    ] {
        let name = if request.contains("other") {
            "other/pg1"
        } else {
            "pg9"
        };
        check(&format!(
            "at 3s operator {request}
                   expect refused there is no backend {name}; there are main/pg1, main/pg2, main/pg3
             at 9s expect reset nobody"
        ));
    }
    check(
        "at 3s operator kill service nope
               expect refused there is no service nope; there are rw, ro",
    );
}

#[test]
fn a_name_of_two_is_refused_until_the_cluster_is_said() {
    const SITE: &str = "backend other/pg1
         service orw primary
         move service orw to other";
    for request in ["drain", "maint", "ready", "kill backend"] {
        check(&format!(
            "{SITE}
             at 3s operator {request} pg1
                   expect refused pg1 is one of main/pg1, other/pg1: say which
                   expect rw -> pg1
                   expect orw -> pg1"
        ));
    }
    check(&format!(
        "{SITE}
         at 3s operator drain other/pg1
               expect done other/pg1 is set to drain
               expect rw -> pg1
               expect orw -> nobody"
    ));
}

#[test]
fn what_is_so_already_or_makes_no_sense_is_said_and_changes_nothing() {
    check(
        "at 3s   operator ready pg1
                 expect done main/pg1 is set to ready already
                 operator weight pg1 1001
                 expect refused weight 1001 is more than 1000
                 expect rw/pg1 weighs 100
                 operator status
                 expect refused this request is a report
                 expect rw -> pg1",
    );
}

/// Whoever resets for another reason at the same time neither takes the answer nor gives it.
#[test]
fn each_asker_gets_one_answer_of_its_own() {
    let site = Site::of_three();
    let mut world = World::new(site.config(), Default::default());
    let kill = |name: &str| Request::Kill {
        target: KillTarget::Backend(name.parse().unwrap()),
    };
    let askers = [
        world.ask(kill("pg1")),
        world.ask(kill("pg2")),
        world.ask(kill("pg1")),
    ];
    world.run_for(std::time::Duration::from_secs(1));
    let answered: Vec<_> = world.answers.iter().map(|(asker, _)| *asker).collect();
    assert_eq!(answered, askers);
    let is_done = |(_, response): &(_, Response)| matches!(response, Response::Done { .. });
    assert!(world.answers.iter().all(is_done));
}

/// A count for a slot that has no member any more is not lost on the gateway's own count.
#[test]
fn connections_reset_in_a_retired_slot_are_counted_off_the_gateway() {
    let mut site = Site::of_three();
    let mut world = World::new(site.config(), crate::server::of_three(&site));
    world.run_for(std::time::Duration::from_secs(3));
    let slots: Vec<Slot> = (0..4).filter_map(|_| world.open("ro")).collect();
    assert_eq!(slots.len(), 4);
    site.remove_backend("pg2");
    world.reload(site.config());
    world.run_for(std::time::Duration::from_secs(1));
    let gateway = lb_common::member::BackendId::GATEWAY;
    assert_eq!(
        world.traffic.backend_load(&world.kernel, gateway).active(),
        2
    );
}

#[test]
fn explain_asks_the_kernels_own_choice() {
    let mut site = Site::of_three();
    site.set_service("ro", "replica", &["allow=[\"10.71.0.0/24\"]"]);
    let mut world = World::new(site.config(), crate::server::of_three(&site));
    world.run_for(std::time::Duration::from_secs(3));
    let explain = |world: &World, client: &str| {
        let client = client.parse().unwrap();
        world.engine.explain("ro", client, 0).unwrap()
    };
    let friend = "10.71.0.5:41022";
    // The one with fewer connections is next.
    for _ in 0..4 {
        world.step(Event::Tick);
        let report = explain(&world, friend);
        let slot = world.open("ro").unwrap();
        let chosen = report.chosen.unwrap();
        let name = chosen.replace("main/", "ro/");
        assert_eq!(slot, world.slot(&name));
        let candidate = report
            .candidates
            .iter()
            .find(|it| it.backend == chosen)
            .unwrap();
        assert_eq!(candidate.reason, "chosen: replica");
    }
    // Nobody is eligible for those who may not come.
    let report = explain(&world, "10.99.0.5:41022");
    assert_eq!(report.chosen, None);
    assert!(
        report
            .candidates
            .iter()
            .all(|it| !it.eligible && it.reason.contains("allow list"))
    );
    // A suspect is taken only when nobody else is left.
    let slot = world.slot("ro/pg2");
    world.traffic.suspect(slot);
    world.step(Event::Tick);
    let report = explain(&world, friend);
    assert_eq!(report.chosen.as_deref(), Some("main/pg3"));
    assert!(
        report.candidates[1].reason.contains("suspect"),
        "{report:?}"
    );
    world.ask(Request::Drain {
        backend: "pg3".parse().unwrap(),
    });
    assert_eq!(explain(&world, friend).chosen.as_deref(), Some("main/pg2"));
    assert!(
        world
            .engine
            .explain("nope", friend.parse().unwrap(), 0)
            .is_none()
    );
}

#[test]
fn connections_are_listed_by_service_and_backend() {
    let site = Site::of_three();
    let mut world = World::new(site.config(), crate::server::of_three(&site));
    world.run_for(std::time::Duration::from_secs(3));
    for service in ["rw", "ro", "ro"] {
        world.open(service).unwrap();
    }
    world.half_open("ro").unwrap();
    world.run_for(std::time::Duration::from_millis(2_500));
    let list = |world: &World, service: Option<&str>, backend: Option<&str>| {
        let backend = backend.map(|name| name.parse().unwrap());
        let Traffic {
            established,
            transient,
            ..
        } = &world.traffic;
        let now = world.tick();
        let reports =
            world
                .engine
                .connections(established, transient, now, service, backend.as_ref());
        let line = |it: &ConnectionReport| {
            format!(
                "{} {} {} {}s",
                it.service, it.backend, it.state, it.idle_seconds
            )
        };
        reports.iter().map(line).collect::<Vec<_>>()
    };
    let all = [
        "ro main/pg2 established 2s",
        "ro main/pg2 half-open 2s",
        "ro main/pg3 established 2s",
        "rw main/pg1 established 2s",
    ];
    assert_eq!(list(&world, None, None), all);
    assert_eq!(list(&world, Some("rw"), None), all[3..]);
    assert_eq!(list(&world, None, Some("main/pg2")), all[..2]);
    assert_eq!(list(&world, Some("rw"), Some("pg2")), [""; 0]);
    // One that has been ended is none, though its flow is still there.
    world.ask(Request::Kill {
        target: KillTarget::Service("rw".to_owned()),
    });
    assert_eq!(list(&world, Some("rw"), None), [""; 0]);
}
