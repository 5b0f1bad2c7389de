//! The ways to clients and backends change under traffic, and no connection is lost.
#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use pglb_tests::{
    churn::Churn,
    clock,
    counts::Packets,
    family::Family,
    listener::{self, Manner},
    namespace::Namespace,
    plain::PlainSite,
    site::PATIENCE,
    topology::{CLIENT, Host, INSIDE, Plan, Shape, VIP},
};

pglb_tests::in_both_families!(
    a_backend_with_another_mac_keeps_its_connections,
    neighbours_that_are_forgotten_are_found_again,
    routes_move_to_other_links_and_back,
    the_default_route_moves_to_another_router_and_back,
    replies_leave_by_other_interfaces_than_requests_came_in_by,
    the_gateway_is_one_hop_and_says_whose_limit_was_too_low,
);

/// Linux sends lost data again after 200 ms, and doubles that.
const PAUSE: Duration = Duration::from_millis(1_500);
const SESSIONS: usize = 20;
/// Packets of the kernel's own: neighbours are asked for, and what waits for the answer is sent.
const FEW: u64 = 30;

fn a_backend_with_another_mac_keeps_its_connections(family: Family) -> Result<()> {
    let site = start(family)?;
    let host = &site.network.hosts()[0];
    keep_talking(&site, &[], || {
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
    keep_talking(&site, &[], || {
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
            "ip address add {inside}/{one} dev {}{}",
            host.spare(),
            family.at_once()
        ))?;
        host.namespace()
            .run(&format!("ip address add {own}/{one} dev eth1"))?;
    }
    site.network
        .client()
        .run(&format!("ip address add {client}/{one} dev eth1"))?;
    let names = site.network.interfaces();
    let (usual, spare) = names.split_at(names.len() / 2);
    keep_talking(&site, usual, || {
        gateway.run(&format!("ip route replace {client}/{one} dev spare"))?;
        for host in site.network.hosts() {
            let (own, spare) = (host.address(), host.spare());
            gateway.run(&format!(
                "ip route replace {own}/{one} dev {spare} src {inside}"
            ))?;
        }
        Ok(())
    })?;
    keep_talking(&site, spare, || {
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

fn the_default_route_moves_to_another_router_and_back(family: Family) -> Result<()> {
    let site = start(family)?;
    let (gateway, client) = (site.network.gateway(), site.network.client());
    let (one, bits) = (family.address_bits(), family.subnet_bits());
    let [far, first, second, own, vip] = [
        Ipv4Addr::new(10, 90, 0, 10),
        CLIENT,
        Ipv4Addr::new(10, 73, 0, 10),
        Ipv4Addr::new(10, 73, 0, 1),
        VIP,
    ]
    .map(|address| family.address(address));
    // Clients of another network, behind either of two routers: the client's namespace is all three.
    client.run(&format!("ip address add {far}/{one} dev lo"))?;
    client.run(&format!("ip route add {vip}/{one} dev eth0 src {far}"))?;
    client.run(&format!("ip address add {second}/{bits} dev eth1"))?;
    gateway.run(&format!("ip address add {own}/{bits} dev spare"))?;
    gateway.run(&format!("ip route add default via {first} dev client"))?;
    keep_talking(&site, &["client".to_owned()], || {
        let set = format!("ip route replace default via {second} dev spare");
        gateway.run(&set).map(drop)
    })?;
    keep_talking(&site, &["spare".to_owned()], || {
        let set = format!("ip route replace default via {first} dev client");
        gateway.run(&set).map(drop)
    })
}

fn replies_leave_by_other_interfaces_than_requests_came_in_by(family: Family) -> Result<()> {
    const CONNECTIONS: usize = 1_000;
    let site = start(family)?;
    let (gateway, client) = (site.network.gateway(), site.network.client());
    let (one, address) = (family.address_bits(), family.address(CLIENT));
    let inside = family.address(INSIDE);
    client.run(&format!("ip address add {address}/{one} dev eth1"))?;
    gateway.run(&format!("ip route add {address}/{one} dev spare"))?;
    for host in site.network.hosts() {
        let (own, spare, host) = (host.address(), host.spare(), host.namespace());
        host.run(&format!("ip address add {own}/{one} dev eth1"))?;
        gateway.run(&format!("ip address add {inside}/{one} dev {spare}"))?;
        host.run(&format!("ip route replace {inside}/{one} dev eth1"))?;
        host.run(&format!("ip route replace default via {inside} dev eth1"))?;
    }
    let hosts = || site.network.hosts().iter().map(Host::namespace);
    let ends = || std::iter::once(client).chain(hosts());
    let count = || -> Result<Vec<[Packets; 2]>> {
        let both = |end: &Namespace| Ok([end.packets("eth0")?, end.packets("eth1")?]);
        ends().map(both).collect()
    };
    let (before, passed) = (count()?, gateway.forwarded(family)?);
    let churn = Churn::run(client, site.target(), Manner::Echo, 2, CONNECTIONS)?;
    println!("{family}: {churn}");
    assert!(churn.is_flawless() && churn.slowest < PAUSE, "{churn}");
    // Each direction has many packets, at each end, and an interface to itself.
    const MANY: u64 = 500;
    let counts = before.into_iter().zip(count()?);
    let mut counts = counts.map(|(before, after)| [0, 1].map(|it| after[it].since(before[it])));
    let [requests, replies] = counts.next().context("the client has no packets")?;
    let is_apart = |[hears, says]: [Packets; 2]| {
        hears.received > MANY && hears.sent < FEW && says.received < FEW && says.sent > MANY
    };
    assert!(is_apart([replies, requests]), "{requests:?} {replies:?}");
    for [requests, replies] in counts {
        assert!(is_apart([requests, replies]), "{requests:?} {replies:?}");
    }
    let passed = gateway.forwarded(family)? - passed;
    assert!(passed < FEW, "the kernel has forwarded {passed} packets");
    site.await_connections(0)
}

fn the_gateway_is_one_hop_and_says_whose_limit_was_too_low(family: Family) -> Result<()> {
    // There are two routers between the client and the host: the gateway is the first.
    let plan = Plan {
        hosts: 1,
        shape: Shape::RouterToHosts,
        ..Plan::of_family(family)
    };
    let site = PlainSite::start(plan, Manner::Echo, "")?;
    let (client, host) = (site.network.client(), site.network.hosts()[0].namespace());
    let one = family.address_bits();
    let [vip, own, router] =
        [VIP, CLIENT, Ipv4Addr::new(10, 72, 0, 201)].map(|address| family.address(address));
    let connect = |there: u8, back: u8| -> Result<std::io::Result<()>> {
        client.run(&format!(
            "ip route replace {vip}/{one} dev eth0 hoplimit {there}"
        ))?;
        host.run(&format!(
            "ip route replace {own}/{one} via {router} hoplimit {back}"
        ))?;
        // A client that is still busy with its first SYN hears of the error at its second, after a second.
        let limit = Duration::from_millis(1_500);
        client.enter(|| TcpStream::connect_timeout(&site.target(), limit).map(drop))
    };
    let fails = |there, back| -> Result<ErrorKind> {
        let outcome = connect(there, back)?;
        let error = outcome.expect_err("the last router has no hop left");
        Ok(error.kind())
    };
    connect(3, 3)??;
    // The second router says so, of a packet that the client has never sent: its error is translated.
    assert_eq!(fails(2, 3)?, ErrorKind::HostUnreachable);
    // The gateway drops in silence.
    assert_eq!(fails(1, 3)?, ErrorKind::TimedOut);
    let before = site.gateway.counter("hop_limit")?;
    assert_eq!(fails(3, 2)?, ErrorKind::TimedOut);
    assert!(site.gateway.counter("hop_limit")? > before);
    connect(3, 3)?.map_err(Into::into)
}

fn start(family: Family) -> Result<PlainSite> {
    let plan = Plan {
        family,
        hosts: 2,
        has_spare_links: true,
        ..Plan::default()
    };
    let site = PlainSite::start(plan, Manner::Echo, "")?;
    // The last thing that a new link does by itself: what pglb hears after that, the test has done.
    let settled = site.network.interfaces().len();
    clock::wait_for("link-local addresses", PATIENCE, || {
        let list = site
            .network
            .gateway()
            .run("ip -6 -o address show scope link");
        list.is_ok_and(|list| list.lines().count() == settled)
    })?;
    Ok(site)
}

/// Changes something while sessions talk and clients come and go: nobody may fail, nobody may wait long, and then
/// nothing may leave any more by the interfaces that were `left`.
fn keep_talking(
    site: &PlainSite,
    left: &[String],
    change: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (client, target) = (site.network.client(), site.target());
    let (gateway, family) = (site.network.gateway(), site.network.family());
    let passed = gateway.forwarded(family)?;
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
    let passed = gateway.forwarded(family)? - passed;
    println!(
        "{family}: {SESSIONS} sessions and {tried} connections, longest silence {} ms, longest connection {} ms, {passed} by the kernel",
        slowest.as_millis(),
        longest.as_millis()
    );
    assert!(
        slowest < PAUSE && longest < PAUSE,
        "{slowest:?} {longest:?}"
    );
    assert!(passed < FEW, "the kernel has forwarded {passed} packets");
    let sent = || -> Result<Vec<u64>> {
        let sent = |interface: &String| Ok(gateway.packets(interface)?.sent);
        left.iter().map(sent).collect()
    };
    let before = sent()?;
    for _ in 0..10 {
        sessions
            .iter_mut()
            .try_for_each(|stream| listener::echo(stream, b"hello"))?;
    }
    for ((interface, before), after) in left.iter().zip(before).zip(sent()?) {
        let sent = after - before;
        assert!(sent < FEW, "{sent} packets still leave by {interface}");
    }
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
