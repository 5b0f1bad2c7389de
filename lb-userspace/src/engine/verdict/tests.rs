//! Who is the primary of a cluster. What follows for the services is told in the scenarios.

use super::*;
use crate::config::{Health as Rules, ProbeKind, Tls};
use crate::engine::health::HealthState;
use crate::engine::model::Reaped;
use crate::engine::observation::{Facts, Outcome};
use crate::engine::recount::Error;
use lb_common::member::BackendId;
use std::time::Duration;

fn rules() -> Rules {
    Rules {
        kind: ProbeKind::Postgres,
        user: "pglb".to_owned(),
        database: "postgres".to_owned(),
        password_file: None,
        tls: Tls::Disable,
        ca_file: None,
        interval: Duration::from_secs(1),
        fast_interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        rise: 1,
        fall: 1,
        max_lag: 0,
    }
}

fn backend(name: &str) -> Backend {
    Backend {
        id: BackendId(1),
        cluster: "main".to_owned(),
        config: config::Backend {
            name: name.to_owned(),
            address: "10.72.0.11:5432".parse().unwrap(),
            weight: 100,
            max_connections: None,
        },
        rules: rules(),
        admin: Admin::Ready,
        weight: None,
        health: HealthState::unknown(Moment::ZERO),
        reaped: Reaped::default(),
        miscounted: Error::default(),
        is_fresh: false,
    }
}

/// One that has said that it is a primary or a replica, on this timeline, of this origin.
fn known(name: &str, is_primary: bool, timeline: Option<u32>, system: u64) -> Backend {
    let session = Outcome::Up(Facts {
        in_recovery: Some(!is_primary),
        timeline,
        system_identifier: Some(system),
        ..Facts::default()
    });
    after(backend(name), &session)
}

fn primary(name: &str, timeline: u32) -> Backend {
    known(name, true, Some(timeline), 7)
}

fn after(mut backend: Backend, outcome: &Outcome) -> Backend {
    let rules = backend.rules.clone();
    let health = &mut backend.health;
    health.take_round(outcome, Some(outcome), &rules, Moment::ZERO);
    backend
}

fn down() -> Outcome {
    let why = "timeout".to_owned();
    Outcome::Down { why }
}

#[track_caller]
fn check(cluster: &[Backend], expected: &Primary) {
    let cluster: Vec<(usize, &Backend)> = cluster.iter().enumerate().collect();
    assert_eq!(find_primary(&cluster), *expected);
    // The order in the configuration decides nothing.
    let turned: Vec<_> = cluster.into_iter().rev().collect();
    match (find_primary(&turned), expected) {
        (Primary::Conflict(_), Primary::Conflict(_)) => {}
        (found, expected) => assert_eq!(found, *expected),
    }
}

#[test]
fn the_one_primary_is_it_whatever_its_timeline() {
    let replica = known("pg2", false, Some(9), 7);
    check(&[primary("pg1", 3), replica.clone()], &Primary::One(0));
    check(&[replica.clone(), replica], &Primary::Nobody);
    check(&[], &Primary::Nobody);
}

#[test]
fn the_highest_timeline_wins() {
    let cluster = [primary("pg1", 3), primary("pg2", 5), primary("pg3", 4)];
    check(&cluster, &Primary::One(1));
    // A timeline that is not known is none.
    let cluster = [known("pg1", true, None, 7), primary("pg2", 1)];
    check(&cluster, &Primary::One(1));
}

#[test]
fn a_tie_is_a_conflict() {
    let conflict = Primary::Conflict("pg1 and pg2".to_owned());
    check(&[primary("pg1", 3), primary("pg2", 3)], &conflict);
    let conflict = Primary::Conflict("pg1 and pg2 and pg3".to_owned());
    check(
        &[primary("pg1", 3), primary("pg2", 3), primary("pg3", 1)],
        &conflict,
    );
}

#[test]
fn servers_of_different_origin_are_a_conflict() {
    let stranger = known("pg2", true, Some(9), 8);
    let conflict = Primary::Conflict("pg1 and pg2".to_owned());
    check(&[primary("pg1", 3), stranger.clone()], &conflict);
    // As a replica it claims nothing.
    let stranger = known("pg2", false, Some(9), 8);
    check(&[primary("pg1", 3), stranger], &Primary::One(0));
}

#[test]
fn a_primary_that_is_down_is_none() {
    let dead = after(primary("pg1", 9), &down());
    check(std::slice::from_ref(&dead), &Primary::Nobody);
    check(&[dead, primary("pg2", 1)], &Primary::One(1));
}

#[test]
fn a_primary_that_is_full_or_starting_still_is_it() {
    let message = || "busy".to_owned();
    let full = Outcome::Full { message: message() };
    let starting = Outcome::Starting { message: message() };
    for outcome in [full, starting] {
        check(
            &[after(primary("pg1", 2), &outcome), primary("pg2", 1)],
            &Primary::One(0),
        );
    }
}

#[test]
fn before_everybody_was_asked_nothing_is_settled() {
    let unsettled = Primary::Unsettled("pg2".to_owned());
    check(&[primary("pg1", 2), backend("pg2")], &unsettled);
    // One that has not answered yet was asked all the same.
    let mut patient = backend("pg2");
    patient.rules.fall = 3;
    let asked = after(patient, &down());
    assert_eq!(asked.health.health, Health::Unknown);
    check(&[primary("pg1", 2), asked], &Primary::One(0));
}
