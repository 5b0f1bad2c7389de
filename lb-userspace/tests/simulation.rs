//! Random events against a virtual clock: whatever happens, the promises hold after every step,
//! and once the weather has calmed down everything is as it should be.
//!
//! A run that fails names its seed; `PGLB_SEED=17 cargo test --test simulation` runs it alone, and
//! `PGLB_SEEDS=5000` runs more of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "scenarios/invariants.rs"]
#[allow(dead_code, reason = "shared with the scenarios")]
mod invariants;
#[path = "scenarios/server.rs"]
#[allow(dead_code, reason = "shared with the scenarios")]
mod server;
#[path = "scenarios/site.rs"]
#[allow(dead_code, reason = "shared with the scenarios")]
mod site;
#[path = "scenarios/traffic.rs"]
#[allow(dead_code, reason = "shared with the scenarios")]
mod traffic;
#[path = "scenarios/weather.rs"]
mod weather;
#[path = "scenarios/world.rs"]
#[allow(dead_code, reason = "shared with the scenarios")]
mod world;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use lb_common::member::BackendId;
use lb_userspace::config::{Fallback, Role};

use weather::Weather;

/// Things that happen in one run.
const EVENTS: usize = 150;
/// Runs, unless told otherwise.
const SEEDS: u64 = 30;

#[test]
fn whatever_happens_the_promises_hold() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let seeds = match number("PGLB_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PGLB_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let mut log = Vec::new();
        let run = catch_unwind(AssertUnwindSafe(|| simulate(seed, &mut log)));
        if let Err(panic) = run {
            let last = log.len().saturating_sub(30);
            panic!(
                "PGLB_SEED={seed}: {}\nafter:\n{}",
                reason(panic.as_ref()),
                log[last..].join("\n")
            );
        }
    }
}

fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

fn simulate(seed: u64, log: &mut Vec<String>) {
    let mut weather = Weather::new(seed);
    for _ in 0..EVENTS {
        let what = weather.happen();
        log.push(format!("{:?} {what}", weather.world.now));
        let world = &weather.world;
        invariants::check_restart(&world.engine, &world.kernel, world.now);
    }
    log.push("calm".to_owned());
    let primary = weather.calm_down();
    weather.world.run_for(Duration::from_secs(80));
    check_services(&weather, &primary);
    check_answers(&weather);
    check_counts(&weather);
}

/// Everybody who should be eligible is, and nobody else.
fn check_services(weather: &Weather, primary: &str) {
    let config = weather.world.engine.config().clone();
    for (service, rules) in weather
        .world
        .status()
        .services
        .into_iter()
        .zip(config.services)
    {
        let falls_back = rules.fallback == Fallback::Primary && service.backends.len() == 1;
        let expected: Vec<&str> = service
            .backends
            .iter()
            .map(|backend| backend.name.as_str())
            .filter(|name| match service.role {
                Role::Any => true,
                Role::Primary => *name == primary,
                Role::Replica => *name != primary || falls_back,
            })
            .collect();
        let mut eligible = weather.world.eligible(&service.name);
        eligible.sort_by_key(|name| service.backends.iter().position(|it| it.name == *name));
        assert_eq!(eligible, expected, "{service:#?}");
    }
}

/// Each request was answered, once.
fn check_answers(weather: &Weather) {
    let mut answered: Vec<_> = weather
        .world
        .answers
        .iter()
        .map(|(asker, _)| *asker)
        .collect();
    answered.sort_unstable();
    let mut asked = weather.asked.clone();
    asked.sort_unstable();
    assert_eq!(answered, asked);
}

/// The counts are those of the connections that there are.
fn check_counts(weather: &Weather) {
    let world = &weather.world;
    let alive = |id: Option<BackendId>| -> u64 {
        let rows = world.kernel.members.iter();
        let rows = rows.filter(|(_, row)| id.is_none_or(|id| row.backend == id));
        rows.map(|(slot, _)| world.traffic.alive(&world.kernel, *slot))
            .sum()
    };
    let (slots, backends) = world.engine.counted();
    for slot in slots {
        let load = world.traffic.load(&world.kernel, slot);
        let alive = world.traffic.alive(&world.kernel, slot);
        assert_eq!((load.half_open, load.established), (0, alive), "{slot:?}");
    }
    for id in backends {
        let load = world.traffic.backend_load(&world.kernel, id);
        let of = (id != BackendId::GATEWAY).then_some(id);
        assert_eq!((load.half_open, load.established), (0, alive(of)), "{id:?}");
    }
}
