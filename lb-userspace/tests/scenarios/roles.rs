//! Who serves what, by role, lag and the operator's wish, and whose connections are reset.

use crate::story::check;

#[test]
fn the_highest_timeline_is_the_primary_and_the_old_one_is_reset_once() {
    check(
        "at 3s   7 connections to rw
                 4 connections to ro
                 pg2 primary timeline 2
                 pg3 replica timeline 2
         at 4s   expect rw -> pg2
                 expect ro -> pg3
                 expect rw/pg1 says superseded by pg2 on timeline 2
                 expect told main/pg2 is not eligible for ro: was promoted
                 expect reset rw/pg1 ro/pg2
                 expect 0 alive on rw/pg1
                 expect 2 alive on ro/pg3
         at 60s  expect reset nobody
                 pg1 replica timeline 2
         at 62s  expect rw -> pg2
                 expect ro -> pg1 pg3
                 expect rw/pg1 says standby",
    );
}

#[test]
fn a_primary_that_becomes_a_replica_is_reset_although_nobody_takes_over() {
    check(
        "at 3s   3 connections to rw
                 pg1 replica
         at 4s   expect rw -> nobody
                 expect told main/pg1 is not eligible for rw: lost the primary role
                 expect ro -> pg1 pg2 pg3
                 expect reset rw/pg1",
    );
}

#[test]
fn a_drained_primary_that_loses_its_role_is_reset() {
    check(
        "at 3s   3 connections to rw
                 operator drain pg1
         at 5s   expect rw -> nobody
                 expect reset nobody
                 pg1 replica
         at 6s   expect reset rw/pg1",
    );
}

#[test]
fn two_primaries_on_one_timeline_freeze_the_service() {
    check(
        "at 3s   3 connections to rw
                 pg2 primary timeline 1
         at 4s   expect rw -> nobody
                 expect rw/pg1 says frozen: pg1 and pg2 are all primary
                 expect rw/pg2 says frozen
                 expect rw is in state no_backend
         at 60s  expect reset ro/pg2
                 expect 3 alive on rw/pg1
                 pg2 refuses
         at 65s  expect rw -> pg1
                 expect reset nobody
                 expect 3 alive on rw/pg1",
    );
}

#[test]
fn primaries_of_different_origin_freeze_the_service_whatever_their_timelines() {
    check(
        "at 3s   pg2 primary timeline 9 system 8
         at 4s   expect rw -> nobody
                 expect rw/pg1 says frozen
                 expect reset ro/pg2",
    );
}

#[test]
fn a_promoted_replica_goes_on_for_as_long_as_no_other_is_eligible() {
    check(
        "at 3s   4 connections to ro
                 pg1 refuses
                 pg2 primary timeline 2
         at 5s   expect rw -> pg2
                 expect ro -> pg2
                 expect ro/pg3 says follows timeline 1, and pg2 is on 2
                 expect ro is in state degraded
                 expect reset rw/pg1
                 expect 2 alive on ro/pg2
                 pg3 replica timeline 2
         at 6s   expect ro -> pg3
                 expect reset ro/pg2",
    );
}

#[test]
fn a_replica_far_behind_gets_nothing_new_and_keeps_what_it_has() {
    check(
        "at 3s   4 connections to ro
                 pg2 replica lag 64MB
         at 5s   expect ro -> pg2 pg3
                 pg2 replica lag 65MB
         at 7s   expect ro -> pg3
                 expect ro/pg2 says more than max_lag 67108864
                 expect reset nobody
                 expect 2 alive on ro/pg2
                 pg2 replica lag 1MB
         at 9s   expect ro -> pg2 pg3",
    );
}

#[test]
fn a_replica_that_does_not_stream_loses_its_place_after_the_time_a_primary_takes_to_be_down() {
    check(
        "at 3s   pg2 replica detached
         at 5s   expect ro -> pg2 pg3
         at 7s   expect ro -> pg3
                 expect ro/pg2 says does not stream
                 expect reset nobody
                 pg2 replica
         at 8s   expect ro -> pg2 pg3",
    );
}

#[test]
fn replicas_that_lose_their_stream_because_the_primary_dies_never_lose_their_place() {
    let silent_or_refusing = ["refuses", "silent"];
    for state in silent_or_refusing {
        let mut story = format!(
            "at 3s pg1 {state}
                   pg2 pg3 replica detached\n"
        );
        for moment in (3000..9000).step_by(50) {
            story += &format!("at {moment}ms expect ro -> pg2 pg3\n");
        }
        story += "expect rw/pg1 is down\n expect reset rw/pg1";
        check(&story);
    }
}

#[test]
fn a_primary_that_misses_a_probe_opens_no_door_to_a_replica_far_behind() {
    let mut story = "health fall=6
         at 3s pg2 replica lag 1GB
         at 5s   expect ro -> pg3
                 pg1 silent\n"
        .to_owned();
    for moment in (5000..8100).step_by(50) {
        story += &format!("at {moment}ms expect ro -> pg3\n");
    }
    story += "expect rw -> pg1
              expect ro/pg2 says pg1 has missed a probe
              pg1 primary
     at 10s   expect ro -> pg3
              pg1 refuses
     at 12s   expect ro -> pg2 pg3
              expect reset rw/pg1";
    check(&story);
}

#[test]
fn a_replica_that_comes_without_a_stream_gets_no_place() {
    check(
        "pg2 replica detached
         at 1s   expect ro -> pg3",
    );
}

#[test]
fn without_a_primary_reads_go_on() {
    check(
        "pg1 refuses
         at 5s   expect ro -> pg2 pg3
                 expect rw -> nobody
                 expect ro/pg2 says replica",
    );
}

#[test]
fn the_primary_serves_reads_only_after_every_replica_was_asked() {
    check(
        "pg2 pg3 silent
         at 2s   expect rw -> pg1
                 expect ro -> nobody
                 expect ro/pg2 is unknown
         at 5s   expect ro -> pg1
                 expect ro/pg1 says primary, as no replica is eligible
                 expect ro is in state degraded
                 3 connections to ro
                 pg2 replica
         at 8s   expect ro -> pg2
                 expect 3 alive on ro/pg1",
    );
}

#[test]
fn the_primary_serves_no_reads_when_it_may_not() {
    let cases = [
        ("service ro replica fallback=none", "", "nobody"),
        ("", "operator drain pg1", "nobody"),
        ("", "operator maint pg1", "rw/pg1 ro/pg1"),
        ("", "operator weight pg1 0", "nobody"),
        ("", "pg1 full", "nobody"),
    ];
    for (configured, done, reset) in cases {
        check(&format!(
            "{configured}
             pg2 pg3 refuses
             at 5s   {done}
             at 9s   expect ro -> nobody
                     expect reset {reset}"
        ));
    }
}

#[test]
fn keep_leaves_the_connections_of_a_backend_that_is_down_alone() {
    check(
        "service rw primary on_down=keep
         service ro replica on_down=keep
         at 3s   3 connections to rw
                 4 connections to ro
                 pg1 pg2 refuses
         at 9s   expect rw -> nobody
                 expect ro -> pg3
                 expect reset nobody
                 expect 3 alive on rw/pg1
                 operator maint pg3
                 expect reset ro/pg3
                 expect 0 alive on ro/pg3
                 expect 2 alive on ro/pg2",
    );
}

#[test]
fn maint_resets_what_keep_has_kept() {
    check(
        "service rw primary on_down=keep
         at 3s   3 connections to rw
                 pg1 refuses
         at 9s   expect rw/pg1 is down
                 expect 3 alive on rw/pg1
                 operator maint pg1
                 expect reset rw/pg1
                 expect 0 alive on rw/pg1",
    );
}

#[test]
fn drain_keeps_the_old_and_maint_does_not() {
    check(
        "at 3s   4 connections to ro
                 operator drain pg2
                 expect done main/pg2 is set to drain
                 expect ro -> pg3
                 expect ro/pg2 is drain
                 expect ro/pg2 says drain
                 expect 2 alive on ro/pg2
                 expect reset nobody
                 operator maint pg2
                 expect ro -> pg3
                 expect ro/pg2 says maint
                 expect reset ro/pg2
                 expect 0 alive on ro/pg2
                 operator ready pg2
                 expect ro -> pg2 pg3
                 expect ro/pg2 is up",
    );
}

#[test]
fn a_backend_in_maint_is_judged_no_more() {
    check(
        "at 3s   operator maint pg2
                 expect reset ro/pg2
                 pg2 refuses
         at 9s   expect reset nobody
                 expect ro/pg2 says maint
                 expect ro is in state ok
                 operator ready pg2
                 expect ro -> pg3
                 expect ro/pg2 says down",
    );
}

#[test]
fn a_weight_is_a_share_and_none_is_nothing_new() {
    check(
        "at 3s   4 connections to ro
                 operator weight pg2 0
                 expect ro -> pg3
                 expect ro/pg2 says weight 0
                 expect 2 alive on ro/pg2
                 operator weight pg2 50
                 expect done main/pg2 has weight 50 now (was 0)
                 expect ro -> pg2 pg3
                 expect ro/pg2 weighs 50
         at 9s   expect reset nobody",
    );
}

#[test]
fn a_service_for_any_role_asks_for_health_alone() {
    check(
        "service all any
         at 1s   expect all -> pg1 pg2 pg3
                 pg2 primary timeline 2
                 pg3 refuses
         at 9s   expect all -> pg1 pg2
                 expect reset rw/pg1 ro/pg3 all/pg3",
    );
}

#[test]
fn every_algorithm_follows_the_eligible_members() {
    check(
        "service turns any algorithm=round-robin
         service hashed any algorithm=hash
         at 1s   expect turns -> pg1 pg2 pg3
                 expect hashed -> pg1 pg2 pg3
                 operator drain pg2
                 expect turns -> pg1 pg3
                 expect hashed -> pg1 pg3
                 operator weight pg1 7
                 operator maint pg3
                 expect turns -> pg1
                 expect reset ro/pg3 turns/pg3 hashed/pg3",
    );
}

#[test]
fn syns_are_held_for_the_hold_time_and_then_rejected() {
    check(
        "service rw primary no_backend=hold hold_time=10s
         at 3s   expect rw rejects
                 expect ro rejects
                 pg1 refuses
         at 4s   expect rw holds
                 expect ro rejects
                 expect reset rw/pg1
         at 13s  expect rw holds
         at 15s  expect rw rejects
         at 60s  expect rw rejects
                 pg1 primary
         at 62s  expect rw -> pg1
                 pg1 refuses
         at 66s  expect rw holds
                 expect reset rw/pg1",
    );
}
