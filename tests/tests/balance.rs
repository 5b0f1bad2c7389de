//! New connections are spread as the configuration says.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use pglb_tests::{
    family::Family,
    gateway::Config,
    postgres::{Options, Server},
    session::Session,
    site::{PATIENCE, RO, Site},
    topology::{CLIENT, Plan},
    traffic,
};

const MANY: Options = Options {
    max_connections: 1100,
    asks_password: false,
};

fn a_thousand_open_connections_are_shared_evenly_by_two_replicas(family: Family) -> Result<()> {
    let site = Site::of_plan(Plan::of_family(family), MANY, &Config::demo())?;
    let sessions = site.open(site.ro(), 1000)?;
    let counts = in_postgres(&site)?;
    let total: u64 = counts.values().sum();
    assert_eq!(total, 1000, "{counts:?}");
    assert!(counts["db2"].abs_diff(counts["db3"]) <= 2, "{counts:?}");
    // pglb counts what is there, and counts it down again.
    let status = await_connections(&site, 1000)?;
    for (name, count) in &counts {
        assert_eq!(status.connections(RO, name), *count, "{status:?}");
    }
    sessions.into_iter().try_for_each(Session::close)?;
    await_connections(&site, 0)?;
    Ok(())
}

pglb_tests::in_both_families!(
    a_thousand_open_connections_are_shared_evenly_by_two_replicas,
    hash_on_address_and_port_uses_every_backend,
);

#[test]
fn a_thousand_connections_one_after_the_other_are_shared_evenly() -> Result<()> {
    let site = Site::start(Options::default(), &Config::demo())?;
    let counts = visits(&site, 1000)?;
    assert!(
        counts[&site.host_address(1)].abs_diff(counts[&site.host_address(2)]) <= 2,
        "{counts:?}"
    );
    Ok(())
}

#[test]
fn simultaneous_clients_are_shared_evenly() -> Result<()> {
    // Eight clients at once: their SYNs are chosen for on both CPUs at the same time.
    let site = Site::start(MANY, &Config::demo())?;
    let sessions = thread::scope(|scope| -> Result<Vec<Session>> {
        let openers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| site.open(site.ro(), 100)))
            .collect();
        let mut sessions = Vec::new();
        for opener in openers {
            sessions.extend(
                opener
                    .join()
                    .map_err(|_| anyhow::anyhow!("an opener failed"))??,
            );
        }
        Ok(sessions)
    })?;
    let counts = in_postgres(&site)?;
    assert_eq!(sessions.len(), 800);
    assert!(counts["db2"].abs_diff(counts["db3"]) <= 2, "{counts:?}");
    Ok(())
}

#[test]
fn weights_of_100_and_50_give_two_thirds_and_one_third() -> Result<()> {
    let weighted = "address = \"10.72.0.13:5432\", weight = 50";
    let config = Config::demo().replace("address = \"10.72.0.13:5432\"", weighted)?;
    let site = Site::start(MANY, &config)?;
    let sessions = site.open(site.ro(), 900)?;
    let counts = in_postgres(&site)?;
    assert!(counts["db2"].abs_diff(600) <= 18, "{counts:?}");
    drop(sessions);
    await_connections(&site, 0)?;

    // A weight given by hand counts at once.
    site.gateway.pglb(&["weight", "db2", "50"])?;
    site.gateway.pglb(&["weight", "db3", "100"])?;
    let sessions = site.open(site.ro(), 300)?;
    let counts = in_postgres(&site)?;
    assert_eq!(sessions.len(), 300);
    assert!(counts["db3"].abs_diff(200) <= 6, "{counts:?}");
    Ok(())
}

#[test]
fn round_robin_takes_turns_by_weight() -> Result<()> {
    let config = Config::demo()
        .replace("least-connections", "round-robin")?
        .replace(
            "address = \"10.72.0.13:5432\"",
            "address = \"10.72.0.13:5432\", weight = 50",
        )?;
    let site = Site::start(Options::default(), &config)?;
    let counts = visits(&site, 300)?;
    assert!(
        counts[&site.host_address(1)].abs_diff(200) <= 3,
        "{counts:?}"
    );
    Ok(())
}

#[test]
fn hash_on_the_address_keeps_a_client_on_its_backend() -> Result<()> {
    let hashed = "algorithm = \"hash\"\nhash_on = \"address\"";
    let config = Config::demo().replace("algorithm = \"least-connections\"", hashed)?;
    let site = Site::start(Options::default(), &config)?;
    assert_eq!(visits(&site, 50)?.len(), 1, "one client has one backend");
    Ok(())
}

fn hash_on_address_and_port_uses_every_backend(family: Family) -> Result<()> {
    let config = Config::demo().replace("least-connections", "hash")?;
    let site = Site::of_plan(Plan::of_family(family), Options::default(), &config)?;
    let counts = visits(&site, 300)?;
    assert!(
        counts[&site.host_address(1)].abs_diff(150) <= 50,
        "{counts:?}"
    );
    Ok(())
}

#[test]
fn a_backend_at_its_limit_gets_no_more_connections() -> Result<()> {
    let limited = "address = \"10.72.0.13:5432\", max_connections = 10";
    let config = Config::demo().replace("address = \"10.72.0.13:5432\"", limited)?;
    let site = Site::start(Options::default(), &config)?;
    let sessions = site.open(site.ro(), 60)?;
    let counts = in_postgres(&site)?;
    assert_eq!((sessions.len(), counts["db2"], counts["db3"]), (60, 50, 10));
    Ok(())
}

/// Sessions of clients on each replica, as PostgreSQL counts them.
fn in_postgres(site: &Site) -> Result<BTreeMap<&str, u64>> {
    let clients = site.network.family().subnet(CLIENT);
    let statement =
        format!("select count(*) from pg_stat_activity where client_addr << '{clients}'");
    let replicas = &site.cluster.servers()[1..];
    let count = |server: &Server| -> Result<u64> { Ok(server.sql(&statement)?.parse()?) };
    let named = |server| Ok((Server::host(server).name(), count(server)?));
    replicas.iter().map(named).collect()
}

fn await_connections(site: &Site, count: u64) -> Result<pglb_tests::status::Status> {
    let what = format!("{count} connections in the status");
    site.gateway.await_status(&what, PATIENCE, |status| {
        status
            .service(RO)
            .is_ok_and(|service| service.connections == count)
    })
}

/// How often each backend answered, when clients come one after the other.
fn visits(site: &Site, count: usize) -> Result<BTreeMap<String, u64>> {
    let attempts = site.network.client().enter(|| {
        (0..count)
            .map(|_| traffic::attempt(site.ro()))
            .collect::<Vec<_>>()
    })?;
    let mut counts = BTreeMap::new();
    for attempt in attempts {
        ensure!(
            attempt.took < Duration::from_secs(1),
            "a visit took {:?}",
            attempt.took
        );
        let backend = attempt
            .outcome
            .map_err(anyhow::Error::msg)
            .context("a visit failed")?;
        *counts.entry(backend).or_default() += 1;
    }
    Ok(counts)
}
