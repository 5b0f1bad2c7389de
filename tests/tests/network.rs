//! The test network and its PostgreSQL servers do what the other tests take for granted, without pglb.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use pglb_tests::{
    clock,
    family::Family,
    listener::{self, Listener, Manner},
    postgres::{Cluster, Options},
    session::Session,
    topology::{self, CLIENT, Network, PORT, Plan, Returns, Shape},
    traffic::{self, Pgbench, Stream, Summary, Vigil},
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_cluster_replicates_and_answers_clients_through_the_gateway() -> Result<()> {
    let network = Network::build(3)?;
    let cluster = Cluster::start(&network, Options::default())?;
    let (primary, replica) = (cluster.server(0), cluster.server(1));
    network.add_client_address(Ipv4Addr::new(10, 71, 0, 11))?;

    let target = replica.host().postgres();
    let (backend, client) = network.client().enter(|| -> Result<_> {
        let mut session = Session::open(target, SECOND)?;
        Ok((
            session.ask_backend()?,
            session.ask("select host(inet_client_addr())")?,
        ))
    })??;
    assert_eq!(
        (backend.as_str(), client.as_str()),
        ("10.72.0.12", "10.71.0.10")
    );
    assert_eq!(primary.sql("select pg_is_in_recovery()")?, "f");
    assert_eq!(replica.sql("select pg_is_in_recovery()")?, "t");

    primary.fill()?;
    let report = Pgbench::start(network.client(), primary.host().postgres(), 4, 1)?.finish()?;
    assert!(report.is_flawless(), "{report}");

    replica.promote()?;
    assert_eq!(replica.sql("select pg_is_in_recovery()")?, "f");
    cluster.server(2).follow(replica)?;
    clock::wait_for("streaming from the new primary", 10 * SECOND, || {
        replica
            .sql("select count(*) from pg_stat_replication")
            .is_ok_and(|count| count == "1")
    })?;
    Ok(())
}

#[test]
fn a_server_can_be_killed_paused_and_lose_its_host() -> Result<()> {
    let network = Network::build(1)?;
    let mut cluster = Cluster::start(&network, Options::default())?;
    let target = network.hosts()[0].postgres();
    let open = |limit| network.client().enter(|| Session::open(target, limit));

    // Killed: its kernel refuses, and open sessions end.
    let idle = Vigil::keep(
        traffic::open_sessions(network.client(), target, 20)?,
        5 * SECOND,
    )?;
    cluster.server_mut(0).kill()?;
    assert_eq!(idle.finish()?.len(), 20);
    let refused = open(SECOND)?.expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    cluster.server_mut(0).start()?;
    assert_eq!(open(SECOND)??.ask("select 1")?, "1");

    // Paused: the kernel accepts, and nothing answers.
    cluster.server(0).pause();
    let silent = open(SECOND / 2)?.expect_err("nobody answers");
    assert_eq!(silent.kind(), std::io::ErrorKind::WouldBlock);
    cluster.server(0).resume();
    assert_eq!(open(SECOND)??.ask("select 1")?, "1");

    // Vanished: no answer to a SYN, not even an ICMP error, and the link is up.
    let stream = Stream::start(network.client(), target, 2, Duration::from_millis(5))?;
    network.hosts()[0].vanish()?;
    let timeout = open(SECOND / 2)?.expect_err("nobody is there");
    assert_eq!(timeout.kind(), std::io::ErrorKind::TimedOut);
    let link = network.gateway().run("ip -o link show dev db1")?;
    assert!(link.contains("LOWER_UP"), "{link}");
    network.hosts()[0].reappear()?;
    clock::wait_for("the host's return", 10 * SECOND, || {
        open(SECOND).is_ok_and(|session| session.is_ok())
    })?;
    let summary = Summary::of(&stream.finish());
    assert!(
        summary.slowest >= SECOND / 2,
        "nobody waited for the host: {summary}"
    );
    Ok(())
}

#[test]
fn nothing_is_left_behind_even_when_a_test_panics() -> Result<()> {
    let network = Network::build(1)?;
    let name = network.name().to_owned();
    let directory = network.directory().to_owned();
    let outcome = std::thread::spawn(move || {
        let _cluster = Cluster::start(&network, Options::default()).expect("a cluster");
        panic!("on purpose");
    })
    .join();
    assert!(outcome.is_err());
    assert!(
        !directory.exists(),
        "{} is still there",
        directory.display()
    );
    assert!(!Path::new(&format!("/run/netns/{name}-gateway")).exists());

    // An owner that was killed drops nothing; the next one sweeps. No process has this id.
    let orphan = "pglb-4194305-0-client";
    pglb_tests::command::run(std::process::Command::new("ip").args(["netns", "add", orphan]))?;
    let directory = std::env::temp_dir().join("pglb-4194305-0");
    fs::create_dir_all(&directory)?;
    topology::sweep();
    assert!(!Path::new("/run/netns").join(orphan).exists());
    assert!(!directory.exists());
    Ok(())
}

#[test]
fn every_network_carries_short_and_long_connections() -> Result<()> {
    let shapes = [
        Shape::Routed,
        Shape::RouterToClient,
        Shape::RouterToHosts,
        Shape::Segment,
    ];
    for (family, shape) in Family::ALL
        .into_iter()
        .flat_map(|it| shapes.map(|shape| (it, shape)))
    {
        let network = Network::of_plan(Plan {
            family,
            hosts: 1,
            shape,
            has_spare_links: true,
            ..Plan::default()
        })?;
        let host = &network.hosts()[0];
        let _listener = Listener::start(host.namespace(), PORT, Manner::Echo)?;
        let sent = network.client().enter(|| -> Result<()> {
            let mut stream = listener::connect(host.postgres())?;
            // More than a packet, at once: a router with a narrow link has to say so.
            (0..50).try_for_each(|_| Ok(listener::echo(&mut stream, &[7; 16_000])?))
        })?;
        sent.with_context(|| format!("{family} {shape:?}"))?;
        let is_narrow = matches!(shape, Shape::RouterToClient | Shape::RouterToHosts);
        let end = if shape == Shape::RouterToHosts {
            network.client()
        } else {
            host.namespace()
        };
        let other = if shape == Shape::RouterToHosts {
            host.address()
        } else {
            network.address(CLIENT)
        };
        let route = end.run(&format!("ip route get {other}"))?;
        assert_eq!(
            route.contains("mtu 1400"),
            is_narrow,
            "{family} {shape:?}: {route}"
        );
    }
    Ok(())
}

#[test]
fn hosts_that_do_not_return_through_the_gateway_are_what_they_are_called() -> Result<()> {
    for (family, shape, returns) in [
        (Family::V4, Shape::Routed, Returns::Nowhere),
        (Family::V6, Shape::Segment, Returns::Nowhere),
        (Family::V4, Shape::Routed, Returns::Directly),
        (Family::V6, Shape::Routed, Returns::Directly),
    ] {
        let network = Network::of_plan(Plan {
            family,
            hosts: 1,
            shape,
            returns,
            ..Plan::default()
        })?;
        let host = &network.hosts()[0];
        let _listener = Listener::start(host.namespace(), PORT, Manner::Echo)?;
        let connect = || TcpStream::connect_timeout(&host.postgres(), SECOND / 2).map(drop);
        network.gateway().enter(connect)??;
        network.gateway().run("ip link set client down")?;
        let is_reached = network.client().enter(connect)?.is_ok();
        assert!(!is_reached, "{family} {returns:?}");
        // Only the way there leads through the gateway, where there is a way back at all.
        let route = host
            .namespace()
            .run(&format!("ip route get {}", network.address(CLIENT)));
        assert_eq!(
            route.is_ok_and(|route| route.contains("dev out")),
            returns == Returns::Directly
        );
    }
    Ok(())
}
