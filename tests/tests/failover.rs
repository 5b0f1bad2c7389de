//! Servers die, vanish, stall and change their role, and clients hear of it in time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use pglb_tests::{
    clock,
    family::Family,
    gateway::Config,
    postgres::Options,
    session::Session,
    site::{PATIENCE, RO, RW, Site},
    topology::{CLIENT, Plan},
    traffic::{self, Attempt, Stream, Summary, Vigil},
};

const SECOND: Duration = Duration::from_secs(1);
/// The demo's configuration, which is the default: fall x interval + timeout, three failed probes a second apart, the
/// last one given a second.
const DETECTION: Duration = Duration::from_secs(3 + 1);
/// A busy machine is not punctual.
const MARGIN: Duration = Duration::from_millis(500);

pglb_tests::in_both_families!(
    a_killed_server_costs_no_new_connection,
    a_promotion_ends_every_session_with_the_old_primary,
);

fn a_killed_server_costs_no_new_connection(family: Family) -> Result<()> {
    let mut site = Site::of_plan(Plan::of_family(family), Options::default(), &Config::demo())?;
    let stream = begin_stream(&site)?;
    site.cluster.server_mut(2).kill()?;
    let dead = clock::now();
    site.gateway.await_eligible(RO, &["db2"], PATIENCE)?;
    thread::sleep(SECOND);
    let (earlier, later) = split(stream.finish(), dead);
    // What was open on the server died with it; nobody was refused.
    assert!(earlier.refused.is_empty(), "{earlier}");
    assert!(later.is_flawless(), "{later}");
    assert!(later.slowest_connect < SECOND + MARGIN, "{later}");

    site.cluster.server_mut(2).start()?;
    site.gateway.await_eligible(RO, &["db2", "db3"], PATIENCE)?;
    let attempts = visit(&site, 20)?;
    assert!(
        attempts
            .iter()
            .any(|it| it.outcome == Ok(site.host_address(2))),
        "{attempts:?}"
    );
    Ok(())
}

#[test]
fn a_vanished_host_costs_a_new_connection_one_retry() -> Result<()> {
    let site = Site::start(Options::default(), &Config::demo())?;
    let host = &site.network.hosts()[2];
    let idle = site.open(site.ro(), 20)?;
    let stream = begin_stream(&site)?;
    host.vanish()?;
    let gone = clock::now();
    site.gateway.await_eligible(RO, &["db2"], PATIENCE)?;
    thread::sleep(SECOND);
    let (earlier, later) = split(stream.finish(), gone);
    assert!(earlier.refused.is_empty(), "{earlier}");
    assert!(later.is_flawless(), "{later}");
    assert!(
        later.slowest_connect < SECOND + MARGIN,
        "more than one retry: {later}"
    );
    // Whoever waited for an answer of the vanished host was told, and did not wait for TCP to give up.
    assert!(earlier.slowest < DETECTION + SECOND + MARGIN, "{earlier}");

    // Idle sessions as well: half of them were on that host.
    let (mut kept, mut told) = (0, 0);
    for mut session in idle {
        match session.await_end(Duration::from_millis(20)) {
            Ok(_) => told += 1,
            Err(_) => kept += 1,
        }
    }
    assert_eq!((kept, told), (10, 10));

    host.reappear()?;
    site.gateway.await_eligible(RO, &["db2", "db3"], PATIENCE)?;
    Ok(())
}

#[test]
fn what_landed_on_a_stopped_server_is_reset_and_nothing_new_goes_there() -> Result<()> {
    let site = Site::start(Options::default(), &Config::demo())?;
    let on_db3 = |session: &mut Session| {
        session
            .ask_backend()
            .is_ok_and(|it| it == site.host_address(2))
    };
    let mut idle = site.open(site.ro(), 20)?;
    idle.retain_mut(on_db3);
    let idle = Vigil::keep(idle, PATIENCE)?;
    let stream = begin_stream(&site)?;
    // Its kernel still accepts connections, and nobody answers them.
    site.cluster.server(2).pause();
    let stopped = clock::now();
    site.gateway.await_eligible(RO, &["db2"], PATIENCE)?;
    let noticed = clock::now();
    thread::sleep(SECOND);
    let attempts = stream.finish();

    assert!(
        noticed - stopped < DETECTION + MARGIN,
        "noticed after {:?}",
        noticed - stopped
    );
    let summary = Summary::of(&attempts);
    assert!(summary.refused.is_empty(), "{summary}");
    assert!(summary.slowest < DETECTION + MARGIN, "{summary}");
    let (_, later) = split(attempts, noticed);
    assert!(later.is_flawless(), "{later}");
    let ends = idle.finish()?;
    assert_eq!(ends.len(), 10);
    assert!(
        ends.iter()
            .all(|(when, _)| *when - stopped < DETECTION + MARGIN),
        "{ends:?}"
    );

    site.cluster.server(2).resume();
    site.gateway.await_eligible(RO, &["db2", "db3"], PATIENCE)?;
    Ok(())
}

fn a_promotion_ends_every_session_with_the_old_primary(family: Family) -> Result<()> {
    let site = Site::of_plan(Plan::of_family(family), Options::default(), &Config::demo())?;
    let (old, new) = (site.cluster.server(0), site.cluster.server(1));
    old.sql("create table ledger (id int)")?;
    let idle = Vigil::keep(site.open(site.rw(), 200)?, PATIENCE)?;

    let visible = thread::scope(|scope| {
        let watcher = scope.spawn(|| await_primary(&site));
        new.promote()?;
        watcher.join().map_err(|_| anyhow!("the watcher failed"))?
    })?;
    let ends = idle.finish()?;
    let (last, how) = ends.last().context("no session ended")?;
    assert_eq!(ends.len(), 200);
    assert!(
        last.saturating_duration_since(visible) < SECOND,
        "{:?} {how}",
        *last - visible
    );
    assert!(how.contains("reset"), "the last one was {how}");

    // The same address accepts writes, on the new primary.
    site.gateway.await_eligible(RW, &["db2"], PATIENCE)?;
    let mut session = site.open(site.rw(), 1)?.pop().context("no session")?;
    session.ask("insert into ledger values (1)")?;
    assert_eq!(session.ask_backend()?, site.host_address(1));
    // The old one has heard of it as well, and gets nothing more, although it still believes itself to be the primary.
    let clients = family.subnet(CLIENT);
    let count = format!("select count(*) from pg_stat_activity where client_addr << '{clients}'");
    clock::wait_for("the end of the old primary's sessions", SECOND * 2, || {
        old.sql(&count).is_ok_and(|count| count == "0")
    })?;
    let status = site.gateway.status()?;
    assert!(!status.backend(RW, "db1")?.eligible, "{status:?}");
    Ok(())
}

#[test]
fn without_a_primary_a_client_is_refused_at_once() -> Result<()> {
    let mut site = Site::start(Options::default(), &Config::demo())?;
    let idle = Vigil::keep(site.open(site.rw(), 10)?, PATIENCE)?;
    site.cluster.server_mut(0).kill()?;
    assert_eq!(idle.finish()?.len(), 10);
    site.gateway.await_eligible(RW, &[], PATIENCE)?;
    let refused = site
        .network
        .client()
        .enter(|| traffic::attempt(site.rw()))?;
    let error = refused.outcome.expect_err("nobody may answer");
    assert!(error.contains("refused"), "{error}");
    assert!(
        refused.took < Duration::from_millis(100),
        "{:?}",
        refused.took
    );
    // Exit status 2: a service has no backend.
    assert_eq!(site.gateway.observe(&["status"])?.status.code(), Some(2));

    site.cluster.server_mut(0).start()?;
    site.await_all_up()?;
    assert!(site.open(site.rw(), 1).is_ok());
    Ok(())
}

#[test]
fn without_replicas_the_primary_reads_too() -> Result<()> {
    let mut site = Site::start(Options::default(), &Config::demo())?;
    for replica in [1, 2] {
        site.cluster.server_mut(replica).kill()?;
    }
    site.gateway.await_eligible(RO, &["db1"], PATIENCE)?;
    let mut session = site.open(site.ro(), 1)?.pop().context("no session")?;
    assert_eq!(session.ask_backend()?, site.host_address(0));
    Ok(())
}

/// Clients that come and go on the read-only service, some of which have already been there.
fn begin_stream(site: &Site) -> Result<Stream> {
    let stream = Stream::start(
        site.network.client(),
        site.ro(),
        8,
        Duration::from_millis(5),
    )?;
    thread::sleep(SECOND);
    Ok(stream)
}

fn visit(site: &Site, count: usize) -> Result<Vec<Attempt>> {
    site.network
        .client()
        .enter(|| (0..count).map(|_| traffic::attempt(site.ro())).collect())
}

/// What was begun before and after a moment.
fn split(attempts: Vec<Attempt>, moment: Instant) -> (Summary, Summary) {
    let (earlier, later): (Vec<_>, Vec<_>) =
        attempts.into_iter().partition(|it| it.started < moment);
    assert!(
        !earlier.is_empty() && !later.is_empty(),
        "the stream ran dry"
    );
    (Summary::of(&earlier), Summary::of(&later))
}

/// When the new primary began to say so in SQL.
fn await_primary(site: &Site) -> Result<Instant> {
    let server = site.cluster.server(1).host().postgres();
    let mut session = site
        .network
        .gateway()
        .enter(|| Session::open(server, SECOND))??;
    let started = clock::now();
    while session.ask("select pg_is_in_recovery()")? != "f" {
        assert!(started.elapsed() < PATIENCE, "the promotion did not happen");
    }
    Ok(clock::now())
}
