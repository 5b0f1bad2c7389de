//! What one client address may do to a service: whether it may connect, how often, and how many connections it has.
#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use pglb_tests::{
    clock,
    family::Family,
    listener::{self, Manner},
    plain::PlainSite,
    topology::{CLIENT, Plan},
};

pglb_tests::in_both_families!(
    an_address_has_no_more_connections_than_it_may,
    an_address_opens_no_more_in_a_second_than_it_may,
    the_longest_prefix_says_who_may_connect,
);

/// Another address of the clients.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 11);
const SECOND: Duration = Duration::from_secs(1);

fn an_address_has_no_more_connections_than_it_may(family: Family) -> Result<()> {
    let site = start(family, "source_max_connections = 5")?;
    let (own, other) = addresses(&site)?;
    let mut open = (0..5)
        .map(|_| visit(&site, own))
        .collect::<io::Result<Vec<_>>>()?;
    let started = clock::now();
    expect_refusal(visit(&site, own))?;
    assert!(started.elapsed() < SECOND / 2, "{:?}", started.elapsed());
    assert!(site.gateway.counter("source_limit")? >= 1);
    // Another address has its own five, and those that were there go on.
    visit(&site, other)?;
    for stream in &mut open {
        listener::echo(stream, b"still here")?;
    }

    // One that ends, in whatever way, makes room at once: by a close,
    drop(open.pop());
    open.push(await_room(&site, own, "a close")?);
    expect_refusal(visit(&site, own))?;
    // by an abort,
    open.pop().map_or(Ok(()), listener::abort)?;
    open.push(await_room(&site, own, "an abort")?);
    expect_refusal(visit(&site, own))?;
    // and by the operator.
    let killed = open.pop().context("no connection is left")?;
    let client = killed.local_addr()?.to_string();
    site.gateway.pglb(&["kill", "--client", &client])?;
    open.push(await_room(&site, own, "`pglb kill` of one")?);
    expect_refusal(visit(&site, own))?;
    site.gateway.pglb(&["kill", "--client", &own.to_string()])?;
    let again = await_room(&site, own, "`pglb kill` of all")?;
    let more = (0..4)
        .map(|_| visit(&site, own))
        .collect::<io::Result<Vec<_>>>()?;
    expect_refusal(visit(&site, own))?;
    drop((again, more, open));
    site.await_connections(0)
}

fn an_address_opens_no_more_in_a_second_than_it_may(family: Family) -> Result<()> {
    let site = start(family, "source_max_rate = 20")?;
    let (own, other) = addresses(&site)?;
    // A second's worth goes in at once. The first one too many is not refused: its SYN is dropped, and TCP sends it
    // again after a second.
    let (started, mut opened) = (clock::now(), 0);
    let mut waited = Duration::ZERO;
    while waited < SECOND / 2 {
        let visited = clock::now();
        visit(&site, own)?;
        waited = visited.elapsed();
        opened += 1;
        assert!(opened < 200, "nobody was slowed down");
    }
    let due = (started.elapsed() - waited).as_millis() / 50;
    assert!(
        (20..=22 + due).contains(&(opened - 1)),
        "{opened}, {due} were due"
    );
    assert!(waited < SECOND * 3 / 2, "{waited:?}");
    assert!(site.gateway.counter("source_rate")? > 0);
    // Another address does not wait, nor does this one after a pause.
    let visited = clock::now();
    visit(&site, other)?;
    visit(&site, own)?;
    assert!(visited.elapsed() < SECOND / 2, "{:?}", visited.elapsed());
    Ok(())
}

fn the_longest_prefix_says_who_may_connect(family: Family) -> Result<()> {
    let net = family.subnet(CLIENT);
    let bits = family.address_bits();
    let denied = family.address(CLIENT);
    let lines = format!("allow = [\"{net}\"]\ndeny = [\"{denied}/{bits}\"]");
    let site = start(family, &lines)?;
    let (own, other) = addresses(&site)?;
    let before = site.gateway.counter("denied")?;
    expect_refusal(visit(&site, own))?;
    assert!(site.gateway.counter("denied")? > before);
    visit(&site, other)?;
    // Who is in no list at all: the gateway forwards nothing for it either.
    let stranger = site.network.add_client_address([10, 73, 0, 1].into())?;
    expect_refusal(visit(&site, stranger))?;
    assert_eq!(
        site.listeners.iter().map(|it| it.accepted()).sum::<u64>(),
        1
    );
    Ok(())
}

fn start(family: Family, lines: &str) -> Result<PlainSite> {
    let plan = Plan {
        family,
        hosts: 2,
        ..Plan::default()
    };
    PlainSite::start(plan, Manner::Echo, lines)
}

/// Two addresses of the client.
fn addresses(site: &PlainSite) -> Result<(IpAddr, IpAddr)> {
    let other = site.network.add_client_address(OTHER)?;
    Ok((site.network.address(CLIENT), other))
}

/// Connects from an address, and says something.
fn visit(site: &PlainSite, source: IpAddr) -> io::Result<TcpStream> {
    let (source, target) = (SocketAddr::new(source, 0), site.target());
    let visit = || {
        let mut stream = listener::connect_from(source, target)?;
        listener::echo(&mut stream, b"hello")?;
        Ok(stream)
    };
    let result = site.network.client().enter(visit);
    result.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// The client must have been told at once.
fn expect_refusal(result: io::Result<TcpStream>) -> Result<()> {
    let error = result.err().context("it was let in")?;
    let is_told = matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
    );
    anyhow::ensure!(is_told, "{error}");
    Ok(())
}

/// Connects as soon as that is possible, which must be within a second.
fn await_room(site: &PlainSite, source: IpAddr, after: &str) -> Result<TcpStream> {
    let mut found = None;
    let took = clock::wait_for(&format!("room after {after}"), SECOND, || {
        found = visit(site, source).ok();
        found.is_some()
    })?;
    println!("room after {after}: {} ms", took.as_millis());
    found.context("nobody connected")
}
