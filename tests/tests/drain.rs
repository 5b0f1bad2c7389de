//! What an operator can do to a backend while clients use it.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};
use pglb_tests::{
    family::Family,
    gateway::Config,
    postgres::Options,
    session::Session,
    site::{PATIENCE, RO, Site},
    topology::{CLIENT, Plan},
    traffic::Vigil,
};

fn a_drained_backend_keeps_its_connections_and_gets_no_new_ones(family: Family) -> Result<()> {
    let site = Site::of_plan(Plan::of_family(family), Options::default(), &Config::demo())?;
    let (mut on_db2, on_db3) = sort(&site, 20)?;
    site.gateway.pglb(&["drain", "db2"])?;
    site.gateway.await_eligible(RO, &["db3"], PATIENCE)?;
    let status = site.gateway.status()?;
    assert_eq!(status.backend(RO, "db2")?.admin, "drain");
    assert_eq!(status.backend(RO, "db2")?.health, "up");
    let (new_on_db2, _) = sort(&site, 20)?;
    assert_eq!((on_db2.len(), on_db3.len(), new_on_db2.len()), (10, 10, 0));
    for session in &mut on_db2 {
        assert_eq!(session.ask_backend()?, site.host_address(1));
    }

    // With --wait it returns when the last one is gone, and says when it is not.
    let late = site
        .gateway
        .observe(&["drain", "db2", "--wait", "--timeout", "300ms"])?;
    assert_eq!(late.status.code(), Some(2), "{late:?}");
    on_db2.into_iter().try_for_each(Session::close)?;
    site.gateway
        .pglb(&["drain", "db2", "--wait", "--timeout", "5s"])?;

    site.gateway.pglb(&["ready", "shop/db2"])?;
    site.gateway.await_eligible(RO, &["db2", "db3"], PATIENCE)?;
    let (back, _) = sort(&site, 10)?;
    assert!(!back.is_empty(), "nobody comes back");
    Ok(())
}

pglb_tests::in_both_families!(
    a_drained_backend_keeps_its_connections_and_gets_no_new_ones,
    kill_resets_what_it_names_and_nothing_else,
);

#[test]
fn a_backend_in_maintenance_gets_no_new_connections() -> Result<()> {
    let site = Site::start(Options::default(), &Config::demo())?;
    site.gateway.pglb(&["maint", "db2"])?;
    site.gateway.await_eligible(RO, &["db3"], PATIENCE)?;
    assert_eq!(site.gateway.status()?.backend(RO, "db2")?.admin, "maint");
    let (on_db2, on_db3) = sort(&site, 10)?;
    assert_eq!((on_db2.len(), on_db3.len()), (0, 10));
    site.gateway.pglb(&["ready", "db2"])?;
    site.gateway.await_eligible(RO, &["db2", "db3"], PATIENCE)?;
    Ok(())
}

fn kill_resets_what_it_names_and_nothing_else(family: Family) -> Result<()> {
    let site = Site::of_plan(Plan::of_family(family), Options::default(), &Config::demo())?;
    site.network
        .add_client_address(Ipv4Addr::new(10, 71, 0, 11))?;
    let (on_db2, mut on_db3) = sort(&site, 20)?;

    // One connection, by the client's address and port.
    let (one, others) = on_db2.split_first().context("no session on db2")?;
    let address = one.client()?.to_string();
    assert!(!others.is_empty());
    site.gateway.pglb(&["kill", "--client", &address])?;
    let mut on_db2 = on_db2.into_iter();
    let ends = Vigil::keep(on_db2.by_ref().take(1).collect(), PATIENCE)?.finish()?;
    assert!(ends[0].1.contains("reset"), "{}", ends[0].1);
    let mut on_db2: Vec<Session> = on_db2.collect();
    for session in &mut on_db2 {
        assert_eq!(session.ask_backend()?, site.host_address(1));
    }

    // Everything on a backend. The server has heard of it as well: its sessions are gone.
    let idle = Vigil::keep(on_db2, PATIENCE)?;
    site.gateway.pglb(&["kill", "--backend", "db2"])?;
    assert_eq!(idle.finish()?.len(), 9);
    for session in &mut on_db3 {
        assert_ne!(session.ask_backend()?, site.host_address(1));
    }
    let clients = family.subnet(CLIENT);
    let count = format!("select count(*) from pg_stat_activity where client_addr << '{clients}'");
    pglb_tests::clock::wait_for(
        "the end of the server's sessions",
        Duration::from_secs(2),
        || {
            site.cluster
                .server(1)
                .sql(&count)
                .is_ok_and(|count| count == "0")
        },
    )?;

    // A service: what is left of it. The backend itself was never out of service.
    let idle = Vigil::keep(on_db3, PATIENCE)?;
    site.gateway.pglb(&["kill", "--service", RO])?;
    assert_eq!(idle.finish()?.len(), 10);
    let (on_db2, on_db3) = sort(&site, 20)?;
    assert_eq!((on_db2.len(), on_db3.len()), (10, 10));
    Ok(())
}

#[test]
fn an_order_about_an_unknown_backend_is_refused() -> Result<()> {
    let site = Site::start(Options::default(), &Config::demo())?;
    let refused = site.gateway.observe(&["drain", "db9"])?;
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("db9"), "{text}");
    assert_eq!(text.trim().lines().count(), 1, "one sentence: {text}");
    Ok(())
}

/// Opens sessions with the read-only service: those with db2, and the others.
fn sort(site: &Site, count: usize) -> Result<(Vec<Session>, Vec<Session>)> {
    let (mut on_db2, mut elsewhere) = (Vec::new(), Vec::new());
    for mut session in site.open(site.ro(), count)? {
        if session.ask_backend()? == site.host_address(1) {
            on_db2.push(session)
        } else {
            elsewhere.push(session)
        }
    }
    Ok((on_db2, elsewhere))
}
