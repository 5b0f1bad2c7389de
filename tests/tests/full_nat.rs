//! full-nat: backends that do not route through the gateway, and see its address.
#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use pglb_tests::{
    churn::Churn,
    clock,
    family::Family,
    gateway::{Config, Gateway},
    listener::{self, Manner},
    plain::PlainSite,
    postgres::Options,
    session::Session,
    site::{PATIENCE, RO, Site},
    topology::{CLIENT, INSIDE, Network, Plan, Returns},
    traffic::Vigil,
};

const FULL_NAT: &str = "forwarding = \"full-nat\"";

pglb_tests::in_both_families!(
    postgres_knows_the_gateway_and_pglb_the_client,
    clients_that_close_first_never_fail,
    servers_that_close_first_never_fail,
);

fn postgres_knows_the_gateway_and_pglb_the_client(family: Family) -> Result<()> {
    let config = Config::demo().with_service_line(FULL_NAT);
    let site = Site::of_plan(without_return(family, 2), Options::default(), &config)?;
    let mut sessions = site.open(site.ro(), 5)?;
    for session in &mut sessions {
        let known = known_to_postgres(session)?;
        assert_eq!(known.ip(), family.address(INSIDE));
        assert!(
            (1024..=32_767).contains(&known.port()),
            "{known} is a port of the kernel's own"
        );
        let client = session.client()?;
        let connections = site.gateway.connections()?;
        let found = connections.iter().find(|it| it.client == client);
        let found = found.with_context(|| format!("{client} is not in {connections:?}"))?;
        assert_eq!(
            (found.gateway, found.backend.as_str()),
            (Some(known), "shop/db2")
        );
    }

    // One of them, by the client's own address and port; then all.
    let mut rest = sessions.split_off(1);
    let client = sessions[0].client()?.to_string();
    site.gateway.pglb(&["kill", "--client", &client])?;
    let ends = Vigil::keep(sessions, PATIENCE)?.finish()?;
    assert!(ends[0].1.contains("reset"), "{}", ends[0].1);
    for session in &mut rest {
        session.ask_backend()?;
    }
    let idle = Vigil::keep(rest, PATIENCE)?;
    site.gateway.pglb(&["kill", "--backend", "db2"])?;
    assert_eq!(idle.finish()?.len(), 4);
    // The server was told too: what is left are pglb's own probes.
    let clients =
        "select count(*) from pg_stat_activity where client_addr is not null and usename <> 'pglb'";
    clock::wait_for("the end of the server's sessions", PATIENCE, || {
        site.cluster
            .server(1)
            .sql(clients)
            .is_ok_and(|count| count == "0")
    })?;
    let status = site
        .gateway
        .await_status("no connection", PATIENCE, |status| {
            status
                .service(RO)
                .is_ok_and(|service| service.connections == 0)
        })?;
    assert_eq!(status.eligible(RO), ["db2"]);
    Ok(())
}

fn clients_that_close_first_never_fail(family: Family) -> Result<()> {
    survive_churn(family, Manner::Echo)
}

fn servers_that_close_first_never_fail(family: Family) -> Result<()> {
    // The server keeps the gateway's port in TIME_WAIT, for a minute: it must not be somebody else's meanwhile.
    survive_churn(family, Manner::CloseFirst)
}

#[test]
fn the_port_of_the_client_is_kept_when_it_is_free() -> Result<()> {
    let site = PlainSite::start(without_return(Family::V4, 1), Manner::Echo, FULL_NAT)?;
    let other = site.network.add_client_address([10, 71, 0, 11].into())?;
    let own = site.network.address(CLIENT);
    let port_of = |source: SocketAddr| -> Result<(std::net::TcpStream, u16)> {
        let mut stream = site
            .network
            .client()
            .enter(|| listener::connect_from(source, site.target()))??;
        listener::echo(&mut stream, b"hello")?;
        let connections = site.gateway.connections()?;
        let found = connections.iter().find(|it| it.client == source);
        let port = found
            .and_then(|it| it.gateway)
            .context("no such connection")?
            .port();
        Ok((stream, port))
    };
    let (first, kept) = port_of((own, 20_000).into())?;
    // Another client with the same port gets another one, and both go on.
    let (second, changed) = port_of((other, 20_000).into())?;
    assert_eq!(kept, 20_000);
    assert_ne!(changed, 20_000);
    for mut stream in [first, second] {
        listener::echo(&mut stream, b"still here")?;
    }
    Ok(())
}

#[test]
fn a_client_is_refused_at_once_when_no_port_is_left() -> Result<()> {
    // The servers close first, so that each connection uses up a port for a while.
    let network = Network::of_plan(without_return(Family::V4, 1))?;
    let listener =
        listener::Listener::start(network.hosts()[0].namespace(), 5432, Manner::CloseFirst)?;
    let config = Config::plain()
        .with_service_line(FULL_NAT)
        .replace("[gateway]", "[gateway]\nfull_nat_ports = \"20000-21023\"")?;
    let gateway = Gateway::start(&network, &config.fitted_to(&network))?;
    let target = (network.address(pglb_tests::topology::VIP), 5432).into();
    let churn = Churn::run(network.client(), target, Manner::CloseFirst, 4, 1100)?;
    assert!(churn.slowest < Duration::from_secs(1), "{churn}");
    let failed = churn.failed.len() as u64;
    assert_eq!(listener.accepted() + failed, 1100, "{churn}");
    assert!(
        failed >= 1100 - 1024,
        "a port was used again at once: {churn}"
    );
    assert!(
        listener.accepted() <= 1024,
        "{} ports were used",
        listener.accepted()
    );
    assert!(
        churn.failed.iter().all(|error| error.contains("refused")),
        "{churn}"
    );
    assert!(gateway.counter("no_port")? >= failed, "nobody counts it");
    // And for longer than a port is kept that its client closed first.
    let started = clock::now();
    while started.elapsed() < Duration::from_secs(2) {
        Churn::run(network.client(), target, Manner::CloseFirst, 4, 20)?;
    }
    assert!(listener.accepted() <= 1024, "ports were used again");
    Ok(())
}

#[test]
fn ports_that_the_kernel_uses_itself_are_refused_at_the_start() -> Result<()> {
    let network = Network::build(1)?;
    let config = Config::plain()
        .with_service_line(FULL_NAT)
        .replace("[gateway]", "[gateway]\nfull_nat_ports = \"30000-40000\"")?;
    let refused = Gateway::start(&network, &config.fitted_to(&network));
    let error = format!("{:#}", refused.err().context("it started")?);
    let rule = "gateway.full_nat_ports = \"30000-40000\": must not overlap the ports that the kernel gives to the \
                host's own connections, 32768-60999";
    assert!(error.contains(rule), "{error}");
    Ok(())
}

/// Hosts that could not answer a client whose own address they saw.
fn without_return(family: Family, hosts: u8) -> Plan {
    Plan {
        family,
        hosts,
        returns: Returns::Nowhere,
        ..Plan::default()
    }
}

fn survive_churn(family: Family, manner: Manner) -> Result<()> {
    let site = PlainSite::start(without_return(family, 2), manner, FULL_NAT)?;
    let churn = Churn::run(site.network.client(), site.target(), manner, 8, 10_000)?;
    println!("{family} full-nat, {manner:?}: {churn}");
    assert!(churn.is_flawless(), "{churn}");
    assert!(
        churn.slowest < Duration::from_millis(900),
        "a SYN was lost: {churn}"
    );
    site.await_connections(0)
}

/// The client's address and port, as the server sees them.
fn known_to_postgres(session: &mut Session) -> Result<SocketAddr> {
    let address = session.ask("select host(inet_client_addr())")?;
    let port = session.ask("select inet_client_port()")?;
    Ok(SocketAddr::new(address.parse()?, port.parse()?))
}
