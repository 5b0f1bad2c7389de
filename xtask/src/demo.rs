//! `cargo xtask demo`: pglb in front of three real PostgreSQL servers, step by step, each with its figure.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use pglb_tests::{
    clock,
    session::Session,
    site::{PATIENCE, RO, RO_ADDRESS, RW, RW_ADDRESS, Site},
    topology::{CLIENT, VIP},
    traffic::{Pgbench, Stream, Summary, Vigil},
};

use crate::{interrupt, lab, setup, stage};

/// Builds and shows; fails if a step did not hold.
pub(crate) fn run() -> Result<()> {
    interrupt::prepare("demo")?;
    setup::run()?;
    lab::build()?;
    show()
}

/// Shows every step with the `pglb` that is built.
pub(crate) fn show() -> Result<()> {
    let started = clock::now();
    let mut lab = lab::start()?;
    let mut steps = Steps::default();
    println!("\n{}", indented(&lab.gateway.table()?));

    steps.show(
        "connections spread over the replicas, by least connections",
        spread(&lab),
    );
    steps.show(
        "PostgreSQL sees the client's own address",
        keep_address(&lab),
    );
    steps.show(
        "drain a replica: old connections stay, new ones go elsewhere",
        drain(&lab),
    );
    steps.show("kill -9 of a replica under load", kill_replica(&mut lab));
    steps.show(
        "promote a replica: the old primary's sessions are told, idle ones too",
        promote(&lab),
    );
    steps.show(
        "kill -9 and restart of the controller under load",
        restart(&mut lab),
    );
    steps.show("detach: nothing is left on the gateway", detach(&mut lab));

    drop(lab);
    println!(
        "\n{} of {} steps held ({})",
        steps.held,
        steps.shown,
        stage::elapsed(started)
    );
    ensure!(
        steps.held == steps.shown,
        "{} steps did not hold",
        steps.shown - steps.held
    );
    Ok(())
}

const SECOND: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Steps {
    shown: usize,
    held: usize,
}

impl Steps {
    /// Prints what a step found: its lines, and whether it held.
    fn show(&mut self, title: &str, outcome: Result<String>) {
        self.shown += 1;
        println!("{}. {title}", self.shown);
        match outcome {
            Ok(found) => {
                self.held += 1;
                println!("{}", indented(&found));
            }
            Err(error) => println!("   DID NOT HOLD: {error:#}\n"),
        }
        stage::flush();
    }
}

fn spread(lab: &Site) -> Result<String> {
    let sessions = lab.open(RO_ADDRESS, 100)?;
    let (db2, db3) = (client_sessions(lab, 1)?, client_sessions(lab, 2)?);
    let table = await_connections(lab, RO, 100)?;
    ensure!(
        db2 + db3 == 100 && db2.abs_diff(db3) <= 2,
        "db2 has {db2} sessions and db3 {db3}"
    );
    end(sessions)?;
    Ok(format!(
        "100 sessions through {RO_ADDRESS}: {db2} on db2, {db3} on db3\n\n{table}"
    ))
}

fn keep_address(lab: &Site) -> Result<String> {
    let mut sessions = lab.open(RW_ADDRESS, 1)?;
    let session = sessions.first_mut().context("no session")?;
    let own = session.client()?;
    let seen = session.ask(
        "select client_addr || ':' || client_port from pg_stat_activity where pid = pg_backend_pid()",
    )?;
    let seen = seen.replace("/32", "");
    ensure!(
        seen == own.to_string() && own.ip() == CLIENT,
        "the client is {own}, PostgreSQL sees {seen}"
    );
    end(sessions)?;
    Ok(format!(
        "client socket {own}, pg_stat_activity on the primary: {seen}\n"
    ))
}

fn drain(lab: &Site) -> Result<String> {
    let mut old = lab.open(RO_ADDRESS, 20)?;
    let before = count_on(&mut old, "10.72.0.12")?;
    lab.gateway.pglb(&["drain", "db2"])?;
    lab.gateway.await_eligible(RO, &["db3"], PATIENCE)?;
    let mut new = lab.open(RO_ADDRESS, 20)?;
    let table = await_connections(lab, RO, 40)?;
    let (kept, added) = (
        count_on(&mut old, "10.72.0.12")?,
        count_on(&mut new, "10.72.0.12")?,
    );
    lab.gateway.pglb(&["ready", "db2"])?;
    lab.gateway.await_eligible(RO, &["db2", "db3"], PATIENCE)?;
    ensure!(
        before > 0 && kept == before && added == 0,
        "db2 had {before}, kept {kept}, and got {added} new"
    );
    end(old)?;
    end(new)?;
    Ok(format!(
        "all {kept} old sessions on db2 still answer; of 20 new ones {added} went there\n\n{table}"
    ))
}

fn kill_replica(lab: &mut Site) -> Result<String> {
    let stream = Stream::start(
        lab.network.client(),
        RO_ADDRESS,
        8,
        Duration::from_millis(2),
    )?;
    thread::sleep(SECOND);
    let before = clock::now();
    lab.cluster.server_mut(2).kill()?;
    let dead = clock::now();
    lab.gateway.await_eligible(RO, &["db2"], PATIENCE)?;
    let noticed = before.elapsed();
    thread::sleep(SECOND);
    let table = lab.gateway.table()?;
    let attempts = stream.finish();
    lab.cluster.server_mut(2).start()?;
    lab.gateway.await_eligible(RO, &["db2", "db3"], PATIENCE)?;

    let (earlier, later): (Vec<_>, Vec<_>) = attempts.into_iter().partition(|it| it.started < dead);
    let (earlier, later) = (Summary::of(&earlier), Summary::of(&later));
    ensure!(earlier.refused.is_empty(), "until the kill: {earlier}");
    ensure!(later.is_flawless(), "after the kill: {later}");
    Ok(format!(
        "until the kill: {} new connections, {} failed; {} were open on db3 and died with it\n\
         after it: {later}\n\
         db3 out of service {} ms after the kill, and back in it after its restart\n\n{table}",
        earlier.tried,
        earlier.refused.len(),
        earlier.cut.len(),
        noticed.as_millis()
    ))
}

fn promote(lab: &Site) -> Result<String> {
    const SESSIONS: usize = 100;
    let (old, new) = (lab.cluster.server(0), lab.cluster.server(1));
    old.sql("create table orders (at timestamptz default now())")?;
    // Replication is asynchronous: a replica that is promoted before it has the table never gets it.
    clock::wait_for("the table on the replica", PATIENCE, || {
        new.sql("select from orders").is_ok()
    })?;
    let idle = Vigil::keep(lab.open(RW_ADDRESS, SESSIONS)?, PATIENCE)?;

    let visible = thread::scope(|scope| -> Result<Instant> {
        let watcher = scope.spawn(|| await_primary(lab, new.host().postgres()));
        new.promote()?;
        watcher
            .join()
            .map_err(|_| anyhow::anyhow!("the watcher failed"))?
    })?;
    let ends = idle.finish()?;
    let last = ends.last().context("no session ended")?;
    let told = last.0.saturating_duration_since(visible);

    let written = || -> Result<String> {
        let mut session = lab
            .network
            .client()
            .enter(|| Session::open(RW_ADDRESS, SECOND))??;
        session.ask("insert into orders default values")?;
        Ok(session.ask_backend()?)
    };
    let mut writer = String::new();
    clock::wait_for("a write through the same address", PATIENCE, || {
        written().map(|backend| writer = backend).is_ok()
    })?;
    let writes = visible.elapsed();
    lab.cluster.server(2).follow(new)?;
    lab.gateway.await_eligible(RO, &["db3"], PATIENCE)?;
    let table = lab.gateway.table()?;
    ensure!(
        told < SECOND,
        "the last session was told {} ms after the promotion",
        told.as_millis()
    );
    ensure!(writer == "10.72.0.12", "{writer} accepted the write");
    Ok(format!(
        "{SESSIONS} idle sessions ended ({}), the last one {} ms after the promotion was visible in SQL\n\
         db2 accepts writes at the same address, seen {} ms after the promotion\n\n{table}",
        last.1,
        told.as_millis(),
        writes.as_millis()
    ))
}

fn restart(lab: &mut Site) -> Result<String> {
    lab.cluster.server(1).fill()?;
    // Long enough for a start of the controller beside it: the kernel checks the program again, for seconds on a busy CPU.
    let pgbench = Pgbench::start(lab.network.client(), RW_ADDRESS, 16, 12)?;
    await_connections(lab, RW, 16)?;
    let stream = Stream::start(
        lab.network.client(),
        RW_ADDRESS,
        2,
        Duration::from_millis(5),
    )?;
    lab.gateway.kill()?;
    let killed = clock::now();
    thread::sleep(2 * SECOND);
    lab.gateway.launch()?;
    let away = killed.elapsed();
    let table = await_connections(lab, RW, 16)?;
    let (report, summary) = (pgbench.finish()?, Summary::of(&stream.finish()));
    ensure!(
        report.is_flawless() && summary.is_flawless(),
        "pgbench: {report}; new clients: {summary}"
    );
    Ok(format!(
        "pgbench -S -c 16 across the restart: {report}\n\
         new clients meanwhile: {summary}; the controller was away for {:.1} s\n\n{table}",
        away.as_secs_f64()
    ))
}

fn detach(lab: &mut Site) -> Result<String> {
    lab.gateway.terminate()?;
    lab.gateway.pglb(&["detach"])?;
    let links = lab.network.gateway().run("ip -o link show")?;
    let addresses = lab.network.gateway().run("ip -o address show")?;
    ensure!(
        !links.contains("xdp"),
        "a program is still attached: {links}"
    );
    ensure!(
        !addresses.contains(&format!("{VIP}/")),
        "the VIP is still there: {addresses}"
    );
    ensure!(
        !lab.gateway.pins().exists(),
        "{} is still there",
        lab.gateway.pins().display()
    );
    Ok("no program on the interfaces, no pin, and the VIP is gone\n".to_owned())
}

/// How many sessions of clients a server has.
fn client_sessions(lab: &Site, server: usize) -> Result<u32> {
    let statement = format!("select count(*) from pg_stat_activity where client_addr = '{CLIENT}'");
    Ok(lab.cluster.server(server).sql(&statement)?.parse()?)
}

/// The table, as soon as it shows at least that many connections of a service.
fn await_connections(lab: &Site, service: &str, count: u64) -> Result<String> {
    let shown = format!("{count} connections of {service}");
    lab.gateway.await_status(&shown, PATIENCE, |status| {
        status
            .service(service)
            .is_ok_and(|service| service.connections >= count)
    })?;
    lab.gateway.table()
}

fn count_on(sessions: &mut [Session], address: &str) -> Result<usize> {
    let mut count = 0;
    for session in sessions {
        count += usize::from(session.ask_backend()? == address);
    }
    Ok(count)
}

fn end(sessions: Vec<Session>) -> Result<()> {
    sessions
        .into_iter()
        .try_for_each(|session| session.close().context("cannot close a session"))
}

/// When a server began to say in SQL that it is the primary.
fn await_primary(lab: &Site, server: SocketAddr) -> Result<Instant> {
    let mut session = lab
        .network
        .gateway()
        .enter(|| Session::open(server, SECOND))??;
    let started = clock::now();
    while session.ask("select pg_is_in_recovery()")? != "f" {
        ensure!(started.elapsed() < PATIENCE, "the promotion did not happen");
    }
    Ok(clock::now())
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| {
            if line.is_empty() {
                "\n".to_owned()
            } else {
                format!("   {line}\n")
            }
        })
        .collect()
}
