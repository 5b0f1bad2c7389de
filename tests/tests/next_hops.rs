//! The ways to clients and backends change under traffic, and no connection is lost.
#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use pglb_tests::{
    churn::Churn,
    clock,
    family::Family,
    listener::{self, Manner},
    plain::PlainSite,
    topology::{CLIENT, INSIDE, Plan},
};

pglb_tests::in_both_families!(
    a_backend_with_another_mac_keeps_its_connections,
    neighbours_that_are_forgotten_are_found_again,
    routes_move_to_other_links_and_back,
);

/// Linux sends lost data again after 200 ms, and doubles that.
const PAUSE: Duration = Duration::from_millis(1_500);
const SESSIONS: usize = 20;

fn a_backend_with_another_mac_keeps_its_connections(family: Family) -> Result<()> {
    let site = start(family)?;
    let host = &site.network.hosts()[0];
    keep_talking(&site, || {
        // As when the address moves to another machine or card, which says so itself.
        let gateway = site.network.gateway();
        let mac = "02:00:00:00:77:01";
        host.namespace()
            .run(&format!("ip link set eth0 address {mac}"))?;
        let address = host.address();
        gateway
            .run(&format!(
                "ip neighbour replace {address} dev {} lladdr {mac} nud reachable",
                host.name()
            ))
            .map(drop)
    })
}

fn neighbours_that_are_forgotten_are_found_again(family: Family) -> Result<()> {
    let site = start(family)?;
    keep_talking(&site, || {
        let gateway = site.network.gateway();
        for interface in site.network.interfaces() {
            gateway.run(&format!("ip neighbour flush dev {interface}"))?;
        }
        Ok(())
    })
}

fn routes_move_to_other_links_and_back(family: Family) -> Result<()> {
    let site = start(family)?;
    let gateway = site.network.gateway();
    let (one, client) = (family.address_bits(), family.address(CLIENT));
    let inside = family.address(INSIDE);
    // The spare links: the same addresses again, so that both ends answer for each other there.
    for host in site.network.hosts() {
        let own = host.address();
        gateway.run(&format!(
            "ip address add {inside}/{one} dev {}",
            host.spare()
        ))?;
        host.namespace()
            .run(&format!("ip address add {own}/{one} dev eth1"))?;
    }
    site.network
        .client()
        .run(&format!("ip address add {client}/{one} dev eth1"))?;
    keep_talking(&site, || {
        gateway.run(&format!("ip route replace {client}/{one} dev spare"))?;
        for host in site.network.hosts() {
            let (own, spare) = (host.address(), host.spare());
            gateway.run(&format!(
                "ip route replace {own}/{one} dev {spare} src {inside}"
            ))?;
        }
        Ok(())
    })?;
    let moved = packets_out(&site, &site.network.hosts()[0].spare())?;
    assert!(moved > 100, "only {moved} packets took the new way");
    keep_talking(&site, || {
        gateway.run(&format!("ip route delete {client}/{one} dev spare"))?;
        for host in site.network.hosts() {
            let (own, name) = (host.address(), host.name());
            gateway.run(&format!(
                "ip route replace {own}/{one} dev {name} src {inside}"
            ))?;
        }
        Ok(())
    })
}

fn start(family: Family) -> Result<PlainSite> {
    let plan = Plan {
        family,
        hosts: 2,
        has_spare_links: true,
        ..Plan::default()
    };
    PlainSite::start(plan, Manner::Echo, "")
}

/// Changes something while sessions talk and clients come and go: nobody may fail, and nobody may wait long.
fn keep_talking(site: &PlainSite, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let (client, target) = (site.network.client(), site.target());
    let open = || (0..SESSIONS).map(|_| listener::connect(target));
    let mut sessions = client.enter(|| open().collect::<std::io::Result<Vec<_>>>())??;
    let is_over = AtomicBool::new(false);
    let (slowest, churns) = thread::scope(|scope| -> Result<_> {
        let talk = scope.spawn(|| talk_until(&is_over, &mut sessions));
        let come_and_go = scope.spawn(|| {
            let mut churns = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                churns.push(Churn::run(client, target, Manner::Echo, 2, 200));
            }
            churns
        });
        thread::sleep(PAUSE / 3);
        let changed = change();
        thread::sleep(PAUSE);
        is_over.store(true, Ordering::Relaxed);
        let slowest = talk
            .join()
            .map_err(|_| anyhow!("the sessions' thread failed"))?;
        let churns = come_and_go
            .join()
            .map_err(|_| anyhow!("the clients failed"))?;
        changed?;
        Ok((slowest?, churns))
    })?;
    let (mut tried, mut longest) = (0, Duration::ZERO);
    for churn in churns {
        let churn = churn?;
        assert!(churn.is_flawless(), "{churn}");
        (tried, longest) = (tried + churn.tried, longest.max(churn.slowest));
    }
    println!(
        "{}: {SESSIONS} sessions and {tried} connections, longest silence {} ms, longest connection {} ms",
        site.network.family(),
        slowest.as_millis(),
        longest.as_millis()
    );
    assert!(
        slowest < PAUSE && longest < PAUSE,
        "{slowest:?} {longest:?}"
    );
    drop(sessions);
    site.await_connections(0)
}

/// Has all sessions say something in turn, and returns the longest time that one had to wait.
fn talk_until(is_over: &AtomicBool, sessions: &mut [TcpStream]) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    while !is_over.load(Ordering::Relaxed) {
        for stream in &mut *sessions {
            let started = clock::now();
            listener::echo(stream, b"hello").context("a session was lost")?;
            slowest = slowest.max(started.elapsed());
        }
    }
    Ok(slowest)
}

fn packets_out(site: &PlainSite, interface: &str) -> Result<u64> {
    let line = format!("ip -s -j link show dev {interface}");
    let shown: serde_json::Value = serde_json::from_str(&site.network.gateway().run(&line)?)?;
    Ok(shown[0]["stats64"]["tx"]["packets"].as_u64().unwrap_or(0))
}
