//! The controller is killed, stopped and started, and no client notices.

use std::{thread, time::Duration};

use anyhow::Result;
use pglb_tests::{
    family::Family,
    gateway::Config,
    postgres::Options,
    site::{PATIENCE, RO, RW, Site},
    topology::Plan,
    traffic::{Pgbench, Stream, Summary},
};

const SECOND: Duration = Duration::from_secs(1);

pglb_tests::in_both_families!(pgbench_has_no_error_across_a_kill_and_a_restart,);

fn pgbench_has_no_error_across_a_kill_and_a_restart(family: Family) -> Result<()> {
    let mut site = Site::of_plan(Plan::of_family(family), Options::default(), &Config::demo())?;
    site.cluster.server(0).fill()?;
    // Longer than the controller takes to start beside it: the kernel checks the program again, for seconds on a busy CPU.
    let pgbench = Pgbench::start(site.network.client(), site.rw(), 32, 15)?;
    let shown = |count| {
        let what = format!("{count} connections in the status");
        site.gateway.await_status(&what, PATIENCE, move |status| {
            status.connections(RW, "db1") == count
        })
    };
    shown(32)?;
    let stream = Stream::start(
        site.network.client(),
        site.ro(),
        2,
        Duration::from_millis(5),
    )?;
    thread::sleep(SECOND);
    site.gateway.kill()?;
    thread::sleep(SECOND);
    site.gateway.launch()?;
    // What was open before is still counted.
    site.gateway
        .await_status("the same 32 connections", PATIENCE, |status| {
            status.connections(RW, "db1") == 32
        })?;
    thread::sleep(SECOND);
    let summary = Summary::of(&stream.finish());
    let report = pgbench.finish()?;
    assert!(report.is_flawless(), "{report}");
    assert!(summary.is_flawless(), "{summary}");
    Ok(())
}

#[test]
fn a_stopped_controller_leaves_the_data_plane_forwarding() -> Result<()> {
    let mut site = Site::start(Options::default(), &Config::demo())?;
    let mut sessions = site.open(site.ro(), 10)?;
    let status = site.gateway.terminate()?;
    assert!(status.success(), "SIGTERM is an orderly end: {status}");
    assert_eq!(
        site.gateway.observe(&["status"])?.status.code(),
        Some(3),
        "unreachable"
    );
    for session in &mut sessions {
        session.ask_backend()?;
    }
    // New connections are still spread.
    let new = site.open(site.ro(), 10)?;
    assert_eq!(new.len(), 10);
    site.gateway.launch()?;
    site.gateway
        .await_status("all 20 connections", PATIENCE, |status| {
            status.connections(RO, "db2") == 10 && status.connections(RO, "db3") == 10
        })?;
    for session in &mut sessions {
        session.ask_backend()?;
    }
    Ok(())
}

#[test]
fn what_an_operator_wants_outlives_the_controller() -> Result<()> {
    let mut site = Site::start(Options::default(), &Config::demo())?;
    site.gateway.pglb(&["drain", "db2"])?;
    site.gateway.await_eligible(RO, &["db3"], PATIENCE)?;
    site.gateway.kill()?;
    site.gateway.launch()?;
    let status = site.gateway.await_eligible(RO, &["db3"], PATIENCE)?;
    assert_eq!(status.backend(RO, "db2")?.admin, "drain");
    Ok(())
}

#[test]
fn a_failure_while_the_controller_was_away_is_found_at_its_start() -> Result<()> {
    let mut site = Site::start(Options::default(), &Config::demo())?;
    site.gateway.kill()?;
    site.cluster.server_mut(2).kill()?;
    // Nobody probes, and still no client is refused: a refused SYN goes to another backend.
    let attempts = site.network.client().enter(|| {
        (0..20)
            .map(|_| pglb_tests::traffic::attempt(site.ro()))
            .collect::<Vec<_>>()
    })?;
    let summary = Summary::of(&attempts);
    assert!(summary.is_flawless(), "{summary}");
    site.gateway.launch()?;
    site.gateway.await_eligible(RO, &["db2"], PATIENCE)?;
    Ok(())
}
