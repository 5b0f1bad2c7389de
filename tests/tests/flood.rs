//! A flood of SYNs: established connections do not notice, and new clients still get in.
#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use pglb_tests::{
    churn::Churn,
    clock,
    flood::Flood,
    listener::{self, Manner},
    plain::PlainSite,
    topology::Plan,
};

/// SYNs a second: the table of half-open connections is full within a second.
const RATE: u32 = 50_000;
const CLIENTS: usize = 2_000;
const SESSIONS: usize = 200;

#[test]
fn established_and_new_clients_go_on_under_a_flood() -> Result<()> {
    go_on_under_flood("forwarding = \"nat\"")
}

#[test]
fn established_and_new_clients_go_on_under_a_flood_of_full_nat() -> Result<()> {
    go_on_under_flood("forwarding = \"full-nat\"")
}

fn go_on_under_flood(lines: &str) -> Result<()> {
    let site = PlainSite::start(Plan::with_hosts(2), Manner::Echo, lines)?;
    let (client, target) = (site.network.client(), site.target());
    let mut sessions = client.enter(|| {
        (0..SESSIONS)
            .map(|_| listener::connect(target))
            .collect::<io::Result<Vec<_>>>()
    })??;
    let churn = || Churn::run(client, target, Manner::Echo, 4, CLIENTS);
    let calm = churn()?;
    println!("{lines}, calm: {calm}");
    assert!(calm.is_flawless(), "{calm}");

    let flood = Flood::start(client, ipv4(target)?, RATE)?;
    let started = clock::now();
    let is_over = AtomicBool::new(false);
    let (flooded, echoes) = thread::scope(|scope| -> Result<_> {
        let talk = scope.spawn(|| talk_until(&is_over, &mut sessions));
        // The flood has filled what it can fill when these come.
        thread::sleep(Duration::from_secs(2));
        let flooded = churn();
        is_over.store(true, Ordering::Relaxed);
        let echoes = talk
            .join()
            .map_err(|_| anyhow!("the sessions' thread failed"))?;
        Ok((flooded?, echoes?))
    })?;
    let took = started.elapsed().as_secs_f64();
    let syns = flood.finish() as f64 / took;
    println!("{lines}, {syns:.0} SYNs a second beside: {flooded}");
    println!(
        "{lines}, {SESSIONS} established sessions: {:.0} answers a second, 0 failed",
        echoes as f64 / took
    );
    assert!(syns > 1_000.0, "that was no flood");
    // The flood pushes half-open flows out after a third of a second; a busy machine keeps a client waiting for longer,
    // now and then.
    assert!(flooded.failed.len() * 500 < flooded.tried, "{flooded}");
    let least = u64::try_from(2 * SESSIONS)?;
    assert!(echoes > least, "only {echoes} answers");
    // Idle or not, each of them is still there, and nothing of the flood is counted as a connection.
    for stream in &mut sessions {
        listener::echo(stream, b"still here")?;
    }
    site.await_connections(SESSIONS as u64)
}

/// Has all sessions say something in turn; the first that fails ends it.
fn talk_until(is_over: &AtomicBool, sessions: &mut [TcpStream]) -> Result<u64> {
    let mut answers = 0;
    while !is_over.load(Ordering::Relaxed) {
        for stream in &mut *sessions {
            listener::echo(stream, b"hello").context("an established session failed")?;
            answers += 1;
        }
    }
    Ok(answers)
}

fn ipv4(target: SocketAddr) -> Result<SocketAddrV4> {
    match target.ip() {
        IpAddr::V4(address) => Ok(SocketAddrV4::new(address, target.port())),
        IpAddr::V6(_) => Err(anyhow!("{target} is no IPv4")),
    }
}
