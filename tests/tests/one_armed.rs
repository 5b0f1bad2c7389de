//! A gateway with one interface, in one subnet with clients and backends: packets leave by where they came in.
#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use std::{io, net::TcpStream, time::Duration};

use anyhow::Result;
use pglb_tests::{
    churn::Churn,
    clock, command,
    family::Family,
    listener::{self, Manner},
    ping::ping,
    plain::PlainSite,
    topology::{Plan, Returns, Shape},
};

pglb_tests::in_both_families!(
    nat_serves_where_replies_go_through_the_gateway,
    nat_serves_a_client_that_also_speaks_to_the_backends,
    nat_cannot_serve_where_replies_go_directly,
    full_nat_serves_where_replies_go_directly,
    full_nat_serves_where_replies_go_through_the_gateway,
);

const NAT: &str = "forwarding = \"nat\"";
const FULL_NAT: &str = "forwarding = \"full-nat\"";

fn nat_serves_where_replies_go_through_the_gateway(family: Family) -> Result<()> {
    serve_well(&start(family, Returns::ThroughGateway, NAT)?)
}

fn full_nat_serves_where_replies_go_directly(family: Family) -> Result<()> {
    serve_well(&start(family, Returns::Directly, FULL_NAT)?)
}

fn full_nat_serves_where_replies_go_through_the_gateway(family: Family) -> Result<()> {
    serve_well(&start(family, Returns::ThroughGateway, FULL_NAT)?)
}

/// A backend that learns of a shorter way to the client would answer past the gateway from then on.
fn nat_serves_a_client_that_also_speaks_to_the_backends(family: Family) -> Result<()> {
    let site = start(family, Returns::ThroughGateway, NAT)?;
    let gateway = site.network.gateway();
    for host in site.network.hosts() {
        if family == Family::V6 {
            // The gateway's kernel always tells it, which is for the backend to ignore.
            let ignore = "sysctl -qw net.ipv6.conf.eth0.accept_redirects=0";
            host.namespace().run(ignore)?;
        }
        // Its answers take the way through the gateway, whose kernel forwards them. Linux believes the second word.
        let before = gateway.forwarded(family)?;
        let started = clock::now();
        while started.elapsed() < Duration::from_millis(300) {
            ping(site.network.client(), host.address(), 56)?;
        }
        assert!(gateway.forwarded(family)? > before);
    }
    serve_well(&site)
}

fn nat_cannot_serve_where_replies_go_directly(family: Family) -> Result<()> {
    let site = start(family, Returns::Directly, NAT)?;
    let connect = || TcpStream::connect_timeout(&site.target(), Duration::from_millis(500));
    let tried = site.network.client().enter(connect)?;
    let error = tried.expect_err("nobody answers that the client knows");
    // The client does not know the backend that answers it, and tells that one; nobody tells the client.
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(
        site.listeners[0].accepted() + site.listeners[1].accepted(),
        0
    );

    let output = site.gateway.observe(&["doctor", "--json"])?;
    let said = command::text_of(&output.stdout);
    for sentence in [
        "it answers clients of that subnet directly",
        "its replies to clients do not come back through this gateway",
        "set forwarding = \\\"full-nat\\\" for service plain",
    ] {
        assert!(said.contains(sentence), "not {sentence:?}: {said}");
    }
    Ok(())
}

fn start(family: Family, returns: Returns, lines: &str) -> Result<PlainSite> {
    let plan = Plan {
        family,
        hosts: 2,
        shape: Shape::Segment,
        returns,
        ..Plan::default()
    };
    let site = PlainSite::start(plan, Manner::Echo, lines)?;
    assert_eq!(site.network.interfaces().len(), 1);
    Ok(site)
}

/// Clients come and go, and one says long things, all of it by XDP.
fn serve_well(site: &PlainSite) -> Result<()> {
    const CONNECTIONS: usize = 1_000;
    let (client, family) = (site.network.client(), site.network.family());
    let before = site.network.gateway().forwarded(family)?;
    client.enter(|| -> io::Result<()> {
        let mut stream = listener::connect(site.target())?;
        (0..100).try_for_each(|_| listener::echo(&mut stream, &[7; 16_000]))
    })??;
    let churn = Churn::run(client, site.target(), Manner::Echo, 4, CONNECTIONS)?;
    println!("{family}: {churn}");
    assert!(churn.is_flawless(), "{churn}");
    assert!(churn.slowest < Duration::from_millis(900), "{churn}");
    for listener in &site.listeners {
        assert!(listener.accepted() >= 400, "{}", listener.accepted());
    }
    // The kernel sends what has no next hop yet.
    let passed = site.network.gateway().forwarded(family)? - before;
    assert!(passed < 20, "the kernel has forwarded {passed} packets");
    site.await_connections(0)
}
