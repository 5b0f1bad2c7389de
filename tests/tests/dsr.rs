//! dsr: backends have the VIP themselves, and answer clients without the gateway.

use anyhow::Result;
use pglb_tests::{
    family::Family,
    gateway::Config,
    listener::{self, Manner},
    plain::PlainSite,
    postgres::Options,
    session::Session,
    site::{PATIENCE, RO, Site},
    topology::{Network, Plan, Returns, VIP},
    traffic::Vigil,
};

pglb_tests::in_both_families!(
    sessions_are_spread_drained_killed_and_counted,
    the_gateway_sees_one_direction_only,
);

fn sessions_are_spread_drained_killed_and_counted(family: Family) -> Result<()> {
    let site = start(family)?;
    let (mut on_db2, mut on_db3) = sort(&site, 20)?;
    assert_eq!((on_db2.len(), on_db3.len()), (10, 10));
    for session in on_db2.iter_mut().chain(&mut on_db3).take(4) {
        assert_eq!(
            session.copy_out("select repeat('x', 999) from generate_series(1, 5000)")?,
            5_000_000
        );
    }
    await_connections(&site, 20)?;

    site.gateway.pglb(&["drain", "db2"])?;
    site.gateway.await_eligible(RO, &["db3"], PATIENCE)?;
    let (new_on_db2, new_on_db3) = sort(&site, 6)?;
    assert_eq!((new_on_db2.len(), new_on_db3.len()), (0, 6));
    for session in &mut on_db2 {
        session.ask("select 1")?;
    }

    // Clients hear of their end at once, though the gateway sees nothing of the servers.
    let idle = Vigil::keep(on_db2, PATIENCE)?;
    site.gateway.pglb(&["kill", "--backend", "db2"])?;
    let ends = idle.finish()?;
    assert!(
        ends.iter().all(|(_, how)| how.contains("reset")),
        "{ends:?}"
    );
    let (first, last) = (ends[0].0, ends[9].0);
    assert!((last - first).as_millis() < 500, "{:?}", last - first);
    for session in on_db3.iter_mut() {
        session.ask("select 1")?;
    }
    on_db3
        .into_iter()
        .chain(new_on_db3)
        .try_for_each(Session::close)?;
    await_connections(&site, 0)
}

fn the_gateway_sees_one_direction_only(family: Family) -> Result<()> {
    let plan = plan(family, 1);
    let site = PlainSite::prepared(plan, Manner::Echo, "forwarding = \"dsr\"", take_vip)?;
    let mut stream = site
        .network
        .client()
        .enter(|| listener::connect(site.target()))??;
    let sent_back = || -> Result<u64> {
        let shown = site.network.client().run("ip -s -j link show dev db1")?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        Ok(shown[0]["stats64"]["rx"]["packets"].as_u64().unwrap_or(0))
    };
    let before = sent_back()?;
    (0..100).try_for_each(|_| listener::echo(&mut stream, b"hello"))?;
    assert!(sent_back()? >= before + 100, "replies take another way");
    site.await_connections(1)?;
    // An abort ends it for the gateway as well as an orderly close.
    listener::abort(stream)?;
    site.await_connections(0)?;
    let stream = site
        .network
        .client()
        .enter(|| listener::connect(site.target()))??;
    site.await_connections(1)?;
    drop(stream);
    site.await_connections(0)
}

/// The replicas' service is dsr, and takes the port on which PostgreSQL listens: nobody translates it.
fn start(family: Family) -> Result<Site> {
    let config = Config::demo()
        .replace("10.71.0.100:5432", "10.71.0.100:5434")?
        .replace(
            "10.71.0.100:5433\"",
            "10.71.0.100:5432\"\nforwarding = \"dsr\"",
        )?;
    Site::prepared(plan(family, 3), Options::default(), &config, take_vip)
}

fn plan(family: Family, hosts: u8) -> Plan {
    Plan {
        family,
        hosts,
        returns: Returns::Directly,
        ..Plan::default()
    }
}

fn take_vip(network: &Network) -> Result<()> {
    let vip = network.address(VIP);
    network
        .hosts()
        .iter()
        .try_for_each(|host| host.answer_for(vip))
}

/// Opens sessions: those with db2, and those with db3. Their own address would be the VIP on both.
fn sort(site: &Site, count: usize) -> Result<(Vec<Session>, Vec<Session>)> {
    let (mut on_db2, mut on_db3) = (Vec::new(), Vec::new());
    for mut session in site.open(site.rw(), count)? {
        if session.ask("show data_directory")?.contains("/db2/") {
            on_db2.push(session);
        } else {
            on_db3.push(session);
        }
    }
    Ok((on_db2, on_db3))
}

fn await_connections(site: &Site, count: u64) -> Result<()> {
    let what = format!("{count} connections in the status");
    let is_it = |status: &pglb_tests::status::Status| {
        let service = status.service(RO);
        service.is_ok_and(|service| service.connections == count)
    };
    site.gateway.await_status(&what, PATIENCE, is_it).map(drop)
}
