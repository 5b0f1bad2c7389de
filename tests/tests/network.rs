//! The test network and its PostgreSQL servers do what the other tests take for granted, without pglb.

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::Result;
use pglb_tests::{
    clock,
    postgres::{Cluster, Options},
    session::Session,
    topology::{self, Network},
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
