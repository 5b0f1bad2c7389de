//! Long packets find a way through a link that takes only 1,400 bytes: whoever sends them is told.

use anyhow::{Context as _, Result};
use pglb_tests::{
    family::Family,
    gateway::Config,
    namespace::Namespace,
    postgres::Options,
    site::Site,
    topology::{CLIENT, INSIDE, Plan, Shape, VIP},
};

pglb_tests::in_both_families!(
    a_router_before_the_client_tells_the_backend,
    a_router_before_the_backend_tells_the_client,
    the_gateway_itself_tells_the_backend,
    the_gateway_itself_tells_the_client,
);

fn a_router_before_the_client_tells_the_backend(family: Family) -> Result<()> {
    let site = start(family, Shape::RouterToClient)?;
    copy(&site)?;
    assert!(has_heard(&site, Side::Backend)?);
    Ok(())
}

fn a_router_before_the_backend_tells_the_client(family: Family) -> Result<()> {
    let site = start(family, Shape::RouterToHosts)?;
    copy(&site)?;
    assert!(has_heard(&site, Side::Client)?);
    Ok(())
}

fn the_gateway_itself_tells_the_backend(family: Family) -> Result<()> {
    let site = start(family, Shape::Routed)?;
    // A narrow link to a client that asks for whole segments, as if the narrow part were further away.
    narrow(&site, (site.network.client(), "client"))?;
    let (vip, bits) = (site.network.address(VIP), family.address_bits());
    let whole = 1500 - family.headers();
    let route = format!("ip route replace {vip}/{bits} dev eth0 advmss {whole}");
    site.network.client().run(&route)?;
    copy(&site)?;
    assert!(has_heard(&site, Side::Backend)?);
    assert!(site.gateway.counter("too_big")? > 0);
    Ok(())
}

fn the_gateway_itself_tells_the_client(family: Family) -> Result<()> {
    let site = start(family, Shape::Routed)?;
    let host = site.network.hosts()[0].namespace();
    narrow(&site, (host, "db1"))?;
    let (inside, whole) = (family.address(INSIDE), 1500 - family.headers());
    host.run(&format!(
        "ip route replace default via {inside} advmss {whole}"
    ))?;
    copy(&site)?;
    assert!(has_heard(&site, Side::Client)?);
    assert!(site.gateway.counter("too_big")? > 0);
    Ok(())
}

/// Makes both ends of a link of the gateway narrow.
fn narrow(site: &Site, (end, interface): (&Namespace, &str)) -> Result<()> {
    let gateway = site.network.gateway();
    gateway.run(&format!("ip link set {interface} mtu 1400"))?;
    end.run("ip link set eth0 mtu 1400").map(drop)
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Backend,
}

fn start(family: Family, shape: Shape) -> Result<Site> {
    let plan = Plan {
        family,
        hosts: 1,
        shape,
        ..Plan::default()
    };
    Site::of_plan(plan, Options::default(), &Config::demo())
}

/// 20 MB out and 20 MB in, in one session.
fn copy(site: &Site) -> Result<()> {
    const ROWS: usize = 20_000;
    let mut session = site.open(site.rw(), 1)?.pop().context("no session")?;
    session.ask("create unlogged table cargo (load text)")?;
    let query = format!("select repeat('x', 999) from generate_series(1, {ROWS})");
    let out = session.copy_out(&query).context("the copy out failed")?;
    assert_eq!(out, 1000 * ROWS as u64);
    // Rows longer than a packet: each is sent on its own.
    let row = "y".repeat(9_999);
    session
        .copy_in("cargo", &row, ROWS / 10)
        .context("the copy in failed")?;
    let count = session.ask("select count(*) from cargo")?;
    assert_eq!(count, (ROWS / 10).to_string());
    Ok(())
}

/// Does the kernel there know how long a packet to the other side may be?
fn has_heard(site: &Site, side: Side) -> Result<bool> {
    let (namespace, other) = match side {
        Side::Client => (site.network.client(), VIP),
        Side::Backend => (site.network.hosts()[0].namespace(), CLIENT),
    };
    let route = namespace.run(&format!("ip route get {}", site.network.address(other)))?;
    Ok(route.contains("mtu 1400"))
}
