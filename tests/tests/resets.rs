//! Idle clients hear at once that their connection is over, however many they are.
#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use std::{
    io::{self, ErrorKind, Read as _},
    net::TcpStream,
};

use anyhow::{Result, ensure};
use pglb_tests::{
    clock,
    family::Family,
    listener::{self, Manner, QUEUE},
    plain::PlainSite,
    site::PATIENCE,
    topology::Plan,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit, setrlimit};

pglb_tests::in_both_families!(ten_thousand_idle_clients_hear_of_a_reset);

const CLIENTS: usize = 10_000;

fn ten_thousand_idle_clients_hear_of_a_reset(family: Family) -> Result<()> {
    allow_files(CLIENTS as u64 + 1_000)?;
    let plan = Plan {
        family,
        hosts: 1,
        ..Plan::default()
    };
    // The server's ends wait in its queue, or they would be as many files again.
    let site = PlainSite::prepared(plan, Manner::Hold, "", |network| {
        let host = network.hosts()[0].namespace();
        host.run(&format!("sysctl -qw net.core.somaxconn={QUEUE}"))
            .map(drop)
    })?;
    let target = site.target();
    let clients = site.network.client().enter(|| {
        (0..CLIENTS)
            .map(|_| listener::connect(target))
            .collect::<io::Result<Vec<_>>>()
    })??;
    site.await_connections(CLIENTS as u64)?;

    let asked = clock::now();
    site.gateway
        .pglb(&["maint", site.network.hosts()[0].name()])?;
    let answered = asked.elapsed();
    await_ends(&clients)?;
    println!(
        "{family}: {CLIENTS} idle clients were reset within {:.0} ms of the command, which took {:.0} ms",
        asked.elapsed().as_secs_f64() * 1e3,
        answered.as_secs_f64() * 1e3,
    );
    for mut client in clients {
        let end = client.read(&mut [0]).map_err(|error| error.kind());
        ensure!(end == Err(ErrorKind::ConnectionReset), "{end:?}");
    }
    site.await_connections(0)
}

/// Waits until no connection is left that nothing was heard of.
fn await_ends(clients: &[TcpStream]) -> Result<()> {
    let limit = Timespec::try_from(PATIENCE)?;
    let mut left: Vec<PollFd<'_>> = clients
        .iter()
        .map(|client| PollFd::new(client, PollFlags::IN))
        .collect();
    while !left.is_empty() {
        let heard = poll(&mut left, Some(&limit))?;
        ensure!(heard > 0, "{} clients have heard nothing", left.len());
        left.retain(|client| client.revents().is_empty());
    }
    Ok(())
}

/// Raises the limit of open files to what this needs, or as far as it goes.
fn allow_files(count: u64) -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(count);
    limit.current = limit.current.map(|current| current.max(count).min(most));
    Ok(setrlimit(Resource::Nofile, limit)?)
}
