//! What is not for a service passes through the gateway as if pglb were not there; the VIP answers an echo.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};
use pglb_tests::{
    family::Family,
    listener::{self, Listener, Manner},
    ping::ping,
    plain::PlainSite,
    topology::{CLIENT, PORT, Plan, VIP},
};

pglb_tests::in_both_families!(
    the_vip_answers_an_echo,
    a_backend_can_be_reached_directly,
    other_servers_and_protocols_pass,
);

fn the_vip_answers_an_echo(family: Family) -> Result<()> {
    let site = start(family)?;
    for size in [0, 56, 1400] {
        ping(site.network.client(), family.address(VIP), size)?;
        ping(
            site.network.hosts()[0].namespace(),
            family.address(VIP),
            size,
        )?;
    }
    Ok(())
}

fn a_backend_can_be_reached_directly(family: Family) -> Result<()> {
    let site = start(family)?;
    // A connection through the VIP beside it, to the same server.
    let mut via_vip = site
        .network
        .client()
        .enter(|| listener::connect(site.target()))??;
    listener::echo(&mut via_vip, b"hello")?;
    let before = site.gateway.work_done()?;
    let backend = (site.network.hosts()[0].address(), PORT).into();
    send_and_receive(&site, backend)?;
    assert_eq!(site.gateway.work_done()?, before);
    assert_eq!(site.gateway.connections()?.len(), 1);
    // The counters do count what is a service's.
    listener::echo(&mut via_vip, b"hello")?;
    assert_ne!(site.gateway.work_done()?, before);
    Ok(())
}

fn other_servers_and_protocols_pass(family: Family) -> Result<()> {
    let site = start(family)?;
    let host = &site.network.hosts()[0];
    let before = site.gateway.work_done()?;
    let _other = Listener::start(host.namespace(), 7777, Manner::Echo)?;
    send_and_receive(&site, (host.address(), 7777).into())?;
    // And the way round: a client of ours that is a server, for a backend.
    let _back = Listener::start(site.network.client(), PORT, Manner::Echo)?;
    let client = (family.address(CLIENT), PORT).into();
    let mut stream = host.namespace().enter(|| listener::connect(client))??;
    listener::echo(&mut stream, &[7; 10_000])?;

    ping(site.network.client(), host.address(), 56)?;
    let bind = |address| move || UdpSocket::bind(SocketAddr::new(address, PORT));
    let near = site
        .network
        .client()
        .enter(bind(family.address(CLIENT)))??;
    let far = host.namespace().enter(bind(host.address()))??;
    near.send_to(b"a datagram", (host.address(), PORT))?;
    far.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let mut buffer = [0; 64];
    let (length, from) = far.recv_from(&mut buffer).context("the datagram is lost")?;
    assert_eq!(
        (&buffer[..length], from.ip()),
        (&b"a datagram"[..], family.address(CLIENT))
    );
    assert_eq!(site.gateway.work_done()?, before);
    Ok(())
}

fn start(family: Family) -> Result<PlainSite> {
    let plan = Plan {
        hosts: 1,
        ..Plan::of_family(family)
    };
    PlainSite::start(plan, Manner::Echo, "")
}

/// A conversation of short and long messages; every byte comes back.
fn send_and_receive(site: &PlainSite, target: SocketAddr) -> Result<()> {
    site.network.client().enter(|| {
        let mut stream = listener::connect(target)?;
        listener::echo(&mut stream, b"short")?;
        (0..100).try_for_each(|_| listener::echo(&mut stream, &[7; 10_000]))?;
        Ok(())
    })?
}
