//! Every transition, and when the next question is due.

use super::*;

const RISE: u32 = 2;
const FALL: u32 = 3;

fn rules() -> config::Health {
    config::Health {
        kind: ProbeKind::Postgres,
        user: "pglb".to_owned(),
        database: "postgres".to_owned(),
        password_file: None,
        tls: config::Tls::Prefer,
        ca_file: None,
        interval: milliseconds(1000),
        fast_interval: milliseconds(250),
        timeout: milliseconds(1000),
        rise: RISE,
        fall: FALL,
        max_lag: 64 << 20,
    }
}

fn milliseconds(number: u64) -> Moment {
    Moment::from_millis(number)
}

fn up() -> Outcome {
    Outcome::Up(Facts::default())
}

fn starting() -> Outcome {
    let message = "57P03 starting up".to_owned();
    Outcome::Starting { message }
}

fn full() -> Outcome {
    let message = "53300 too many clients".to_owned();
    Outcome::Full { message }
}

fn misconfigured() -> Outcome {
    let message = "28P01 password".to_owned();
    Outcome::Misconfigured { message }
}

fn down() -> Outcome {
    let why = "connection refused".to_owned();
    Outcome::Down { why }
}

fn says(in_recovery: bool) -> Outcome {
    Outcome::Up(Facts {
        in_recovery: Some(in_recovery),
        ..Facts::default()
    })
}

/// A backend that is in this state, by the shortest way.
fn backend_that_is(health: Health) -> HealthState {
    let mut state = HealthState::unknown(Moment::ZERO);
    let outcomes = match health {
        Health::Unknown => vec![],
        Health::Up => vec![up()],
        Health::Down => vec![down(); FALL as usize],
        Health::Starting => vec![starting()],
        Health::Full => vec![full()],
    };
    for outcome in outcomes {
        take(&mut state, &outcome);
    }
    assert_eq!(state.health, health);
    state
}

fn take(state: &mut HealthState, outcome: &Outcome) -> Health {
    state.take_round(outcome, Some(outcome), &rules(), Moment::ZERO);
    state.health
}

/// What becomes of a backend, one outcome after the other.
fn states(mut state: HealthState, outcomes: &[Outcome]) -> Vec<Health> {
    let states = outcomes.iter().map(|outcome| take(&mut state, outcome));
    states.collect()
}

#[test]
fn every_outcome_in_every_state() {
    use Health::{Down, Full, Starting, Unknown, Up};
    type Row = (Health, fn() -> Outcome, [Health; 3]);
    // From a state, what three such outcomes in a row make of it.
    let table: [Row; 25] = [
        (Unknown, up, [Up, Up, Up]),
        (Unknown, misconfigured, [Up, Up, Up]),
        (Unknown, starting, [Starting, Starting, Starting]),
        (Unknown, full, [Full, Full, Full]),
        (Unknown, down, [Unknown, Unknown, Down]),
        (Up, up, [Up, Up, Up]),
        (Up, misconfigured, [Up, Up, Up]),
        (Up, starting, [Starting, Starting, Starting]),
        (Up, full, [Full, Full, Full]),
        (Up, down, [Up, Up, Down]),
        (Down, up, [Down, Up, Up]),
        (Down, misconfigured, [Down, Up, Up]),
        (Down, starting, [Starting, Starting, Starting]),
        (Down, full, [Full, Full, Full]),
        (Down, down, [Down, Down, Down]),
        (Starting, up, [Starting, Up, Up]),
        (Starting, misconfigured, [Starting, Up, Up]),
        (Starting, starting, [Starting, Starting, Starting]),
        (Starting, full, [Full, Full, Full]),
        (Starting, down, [Starting, Starting, Down]),
        (Full, up, [Up, Up, Up]),
        (Full, misconfigured, [Up, Up, Up]),
        (Full, starting, [Starting, Starting, Starting]),
        (Full, full, [Full, Full, Full]),
        (Full, down, [Full, Full, Down]),
    ];
    for (from, outcome, expected) in table {
        let outcome = outcome();
        let outcomes = [outcome.clone(), outcome.clone(), outcome.clone()];
        let found = states(backend_that_is(from), &outcomes);
        assert_eq!(found, expected, "{from}, three times {outcome:?}");
    }
}

#[test]
fn rise_and_fall_count_results_in_a_row() {
    use Health::{Down, Starting, Up};
    let found = states(
        backend_that_is(Up),
        &[
            down(),
            down(),
            up(),
            down(),
            down(),
            misconfigured(),
            down(),
        ],
    );
    assert_eq!(found, [Up; 7]);
    let found = states(backend_that_is(Down), &[up(), down(), up(), up()]);
    assert_eq!(found, [Down, Down, Down, Up]);
    let found = states(backend_that_is(Starting), &[up(), starting(), up(), up()]);
    assert_eq!(found, [Starting, Starting, Starting, Up]);
    let found = states(
        backend_that_is(Up),
        &[down(), down(), starting(), down(), down()],
    );
    assert_eq!(found, [Up, Up, Starting, Starting, Starting]);
}

#[test]
fn the_worse_of_connection_and_session_counts() {
    let rising = [up(), misconfigured(), full(), starting(), down()];
    for (place, worst) in rising.iter().enumerate() {
        for other in &rising[..=place] {
            for (handshake, session) in [(worst, other), (other, worst)] {
                let mut state = backend_that_is(Health::Up);
                state.take_round(handshake, Some(session), &rules(), Moment::ZERO);
                let expected = states(backend_that_is(Health::Up), std::slice::from_ref(worst));
                assert_eq!([state.health][..], expected, "{handshake:?}, {session:?}");
                assert_eq!(state.falls > 0, matches!(worst, Outcome::Down { .. }));
            }
        }
    }
}

#[test]
fn a_change_is_told_once_and_dated() {
    let mut state = HealthState::unknown(Moment::ZERO);
    let mut take = |outcome: Outcome, at: u64| {
        let has_changed = state.take_round(&outcome, None, &rules(), milliseconds(at));
        (has_changed, state.since)
    };
    assert_eq!(take(up(), 10), (true, milliseconds(10)));
    assert_eq!(take(up(), 20), (false, milliseconds(10)));
    assert_eq!(take(starting(), 30), (true, milliseconds(30)));
    assert_eq!(take(down(), 40), (false, milliseconds(30)));
}

#[test]
fn a_role_is_kept_until_another_is_told() {
    let mut state = backend_that_is(Health::Up);
    assert_eq!(state.role, None);
    take(&mut state, &says(true));
    assert_eq!(state.role, Some(BackendRole::Replica));
    for silent in [
        down(),
        down(),
        down(),
        starting(),
        full(),
        misconfigured(),
        up(),
    ] {
        take(&mut state, &silent);
        assert_eq!(state.role, Some(BackendRole::Replica), "{silent:?}");
    }
    state.take_watch(&says(false), &rules(), Moment::ZERO);
    assert_eq!(state.role, Some(BackendRole::Primary));
}

#[test]
fn a_stream_is_lost_from_the_first_time_it_is_told() {
    let streams = |is_streaming: Option<bool>| {
        Outcome::Up(Facts {
            is_streaming,
            ..Facts::default()
        })
    };
    let mut state = backend_that_is(Health::Up);
    let mut watch = |outcome: Outcome, at: u64| {
        state.take_watch(&outcome, &rules(), milliseconds(at));
        state.detached_since
    };
    assert_eq!(watch(streams(Some(true)), 1), None);
    assert_eq!(watch(streams(Some(false)), 2), Some(milliseconds(2)));
    assert_eq!(watch(down(), 3), Some(milliseconds(2)));
    assert_eq!(watch(streams(Some(false)), 4), Some(milliseconds(2)));
    assert_eq!(watch(streams(Some(true)), 5), None);
    assert_eq!(watch(streams(Some(false)), 6), Some(milliseconds(6)));
    assert_eq!(watch(streams(None), 7), None);
}

#[test]
fn a_suspicion_ends_with_a_round_that_goes_well() {
    let cleared = [(up(), true), (misconfigured(), true), (full(), true)];
    let kept = [(starting(), false), (down(), false)];
    for (outcome, is_cleared) in cleared.into_iter().chain(kept) {
        let mut state = backend_that_is(Health::Up);
        state.is_suspect = true;
        assert!(!state.is_sound());
        take(&mut state, &outcome);
        assert_eq!(!state.is_suspect, is_cleared, "{outcome:?}");
    }
}

/// Runs a round from one moment to another; tells when the next is due.
fn run_round(state: &mut HealthState, outcome: &Outcome, start: u64, end: u64) -> Moment {
    assert!(state.start_round(milliseconds(start)), "no round is due");
    state.take_round(outcome, None, &rules(), milliseconds(end));
    state.round.due
}

#[test]
fn a_settled_backend_is_asked_at_the_interval_and_others_faster() {
    type Case = (Health, fn() -> Outcome, u64);
    let cases: [Case; 9] = [
        (Health::Up, up, 1000),
        (Health::Up, misconfigured, 1000),
        (Health::Up, down, 250),
        (Health::Down, down, 1000),
        (Health::Down, up, 250),
        (Health::Unknown, up, 1000),
        (Health::Unknown, down, 250),
        (Health::Starting, starting, 250),
        (Health::Full, full, 250),
    ];
    for (health, outcome, pause) in cases {
        let mut state = backend_that_is(health);
        let (start, end) = (10_000, 10_007);
        let due = run_round(&mut state, &outcome(), start, end);
        assert_eq!(
            due,
            milliseconds(start + pause),
            "{health}, {:?}",
            outcome()
        );
    }
}

#[test]
fn a_slow_round_is_followed_by_the_next_at_once() {
    let mut state = backend_that_is(Health::Up);
    let due = run_round(&mut state, &down(), 10_000, 11_000);
    assert_eq!(due, milliseconds(11_000));
    // Fall after fall takes a timeout each, and no pause.
    assert_eq!(
        run_round(&mut state, &down(), 11_000, 12_000),
        milliseconds(12_000)
    );
    run_round(&mut state, &down(), 12_000, 13_000);
    assert_eq!(state.health, Health::Down);
}

#[test]
fn one_round_at_a_time() {
    let mut state = HealthState::unknown(milliseconds(100));
    assert_eq!(state.next_deadline(&rules()), Some(milliseconds(100)));
    assert!(!state.start_round(milliseconds(99)));
    assert!(state.start_round(milliseconds(100)));
    assert!(!state.start_round(milliseconds(5000)));
    assert_eq!(state.next_deadline(&rules()), None);
    state.hurry(milliseconds(5000));
    assert!(
        !state.start_round(milliseconds(5000)),
        "it is under way still"
    );
}

#[test]
fn only_a_server_that_is_up_is_watched() {
    let now = milliseconds(10_000);
    for health in Health::ALL {
        let mut state = backend_that_is(*health);
        // The round is done, so that the watch alone could be due.
        state.round.due = milliseconds(20_000);
        let is_watched = *health == Health::Up;
        assert_eq!(state.start_watch(&rules(), now), is_watched, "{health}");
        assert!(!state.start_watch(&rules(), now), "it is under way");
    }
    let tcp = config::Health {
        kind: ProbeKind::Tcp,
        ..rules()
    };
    assert!(!backend_that_is(Health::Up).start_watch(&tcp, now));
}

#[test]
fn a_watch_repeats_at_the_fast_interval_and_rests_during_a_round() {
    let mut state = backend_that_is(Health::Up);
    state.round.due = milliseconds(20_000);
    assert!(state.start_watch(&rules(), milliseconds(10_000)));
    assert_eq!(state.next_deadline(&rules()), Some(milliseconds(20_000)));
    state.take_watch(&up(), &rules(), milliseconds(10_003));
    assert_eq!(state.next_deadline(&rules()), Some(milliseconds(10_250)));
    assert!(!state.start_watch(&rules(), milliseconds(10_249)));
    assert!(state.start_round(milliseconds(20_000)));
    assert!(!state.start_watch(&rules(), milliseconds(20_000)));
    assert_eq!(state.next_deadline(&rules()), None);
}

#[test]
fn a_watch_that_fails_is_no_fall_and_brings_the_round_forward() {
    for outcome in [down(), starting(), full(), misconfigured()] {
        let mut state = backend_that_is(Health::Up);
        state.round.due = milliseconds(20_000);
        assert!(state.start_watch(&rules(), milliseconds(10_000)));
        state.take_watch(&outcome, &rules(), milliseconds(10_100));
        assert_eq!((state.health, state.falls), (Health::Up, 0), "{outcome:?}");
        assert!(state.start_round(milliseconds(10_100)), "{outcome:?}");
    }
}
