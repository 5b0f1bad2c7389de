//! Endings that are odd but right, between real kernels: nothing is cut, and nothing stays behind.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Barrier,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use pglb_tests::{
    clock,
    family::Family,
    flood::Forger,
    listener::{self, Ending, Manner},
    packets::{ACK, PSH, RST, SYN},
    plain::{PLAIN, PlainSite},
    site::PATIENCE,
    status::Status,
    topology::{CLIENT, PORT, Plan},
};

pglb_tests::in_both_families!(
    both_ends_close_at_the_same_time,
    a_half_closed_connection_is_not_cut,
    a_port_is_used_again_at_once,
    forged_segments_end_nothing,
);

const NAT: &str = "forwarding = \"nat\"";
const FULL_NAT: &str = "forwarding = \"full-nat\"";
/// Longer than what is half-open keeps its place, than a port is kept behind a close, and than the controller waits
/// before it walks through the tables again.
const LONG: Duration = Duration::from_secs(6);
const SECOND: Duration = Duration::from_secs(1);

fn both_ends_close_at_the_same_time(family: Family) -> Result<()> {
    for lines in [NAT, FULL_NAT] {
        let site = start(family, lines)?;
        let server = listen(&site)?;
        for number in 0..50 {
            let (mut client, mut backend) = connect(&site, &server)?;
            // Each has sent its FIN before it can have seen the other's.
            let together = Barrier::new(2);
            thread::scope(|scope| {
                for end in [&client, &backend] {
                    let together = &together;
                    scope.spawn(move || {
                        together.wait();
                        end.shutdown(Shutdown::Write)
                    });
                }
            });
            for end in [&mut client, &mut backend] {
                let length = end.read_to_end(&mut Vec::new());
                let length = length.with_context(|| format!("{lines}, connection {number}"))?;
                assert_eq!(length, 0, "{lines}, connection {number}");
            }
        }
        expect_all_ended(&site, 50)?;
        // The last ACKs of both were let through, though the connection was over.
        assert_eq!(site.gateway.counter("unknown_segment")?, 0);
    }
    Ok(())
}

fn a_half_closed_connection_is_not_cut(family: Family) -> Result<()> {
    for lines in [NAT, FULL_NAT] {
        let site = start(family, lines)?;
        let server = listen(&site)?;
        let (mut client, mut backend) = connect(&site, &server)?;
        let (mut other_client, mut other_backend) = connect(&site, &server)?;
        client.shutdown(Shutdown::Write)?;
        other_backend.shutdown(Shutdown::Write)?;
        assert_eq!(backend.read(&mut [0; 9])?, 0);
        assert_eq!(other_client.read(&mut [0; 9])?, 0);

        let started = clock::now();
        let (mut said, mut text) = (0, [0; 5]);
        while started.elapsed() < LONG {
            for (from, to) in [
                (&mut backend, &mut client),
                (&mut other_client, &mut other_backend),
            ] {
                from.write_all(b"still")
                    .with_context(|| format!("{lines} after {:?}", started.elapsed()))?;
                to.read_exact(&mut text)
                    .with_context(|| format!("{lines} after {:?}", started.elapsed()))?;
            }
            said += 1;
            // Silence, and then more: with pauses of up to most of the time.
            thread::sleep(if said < 5 { SECOND / 10 } else { LONG - SECOND });
        }
        ensure!(said >= 6, "they talked {said} times only");
        site.await_connections(2)?;
        drop((client, backend, other_client, other_backend));
        expect_all_ended(&site, 2)?;
    }
    Ok(())
}

fn a_port_is_used_again_at_once(family: Family) -> Result<()> {
    // Most of these use up a port of full-nat for a while, of the sixteen that are tried for one of a client's.
    const TIMES: u64 = 12;
    for lines in [NAT, FULL_NAT] {
        let plan = plan(family);
        let site = PlainSite::start(plan, Manner::AsAsked, lines)?;
        // One that full-nat can keep, and one that it cannot.
        for port in [20_000, 50_000] {
            let source = SocketAddr::new(site.network.address(CLIENT), port);
            for number in 0..TIMES {
                let ending = Ending::ALL[usize::try_from(number)? % Ending::ALL.len()];
                let started = clock::now();
                let stream = connect_again(&site, source);
                let context = || format!("{lines}, port {port}, {ending:?}, number {number}");
                let stream = stream.with_context(context)?;
                ending.play(stream).with_context(context)?;
                assert!(
                    started.elapsed() < SECOND * 5 / 2,
                    "{lines}, {ending:?}: {:?}",
                    started.elapsed()
                );
            }
        }
        expect_all_ended(&site, 2 * TIMES)?;
    }
    Ok(())
}

fn forged_segments_end_nothing(family: Family) -> Result<()> {
    for lines in [NAT, FULL_NAT] {
        let site = start(family, lines)?;
        let server = listen(&site)?;
        let (mut client, mut backend) = connect(&site, &server)?;
        let (mut idle, mut idle_backend) = connect(&site, &server)?;
        let (mut half, mut half_backend) = connect(&site, &server)?;
        half.shutdown(Shutdown::Write)?;
        assert_eq!(half_backend.read(&mut [0; 9])?, 0);
        let forger = Forger::new(site.network.client())?;
        for flags in [RST, RST | ACK, SYN, SYN | ACK, ACK, PSH | ACK] {
            let context = || format!("{lines}, after forged segments with flags {flags:#04x}");
            for number in 0..20_u32 {
                let sequence = number.wrapping_mul(0x2345_6789);
                for victim in [&client, &idle, &half] {
                    forger.send(victim.local_addr()?, site.target(), flags, sequence)?;
                }
                // Both ends go on, as if nothing had been.
                talk(&mut client, &mut backend).with_context(context)?;
            }
            // This one's program does not talk between two of them, and the other's only one way.
            talk(&mut idle, &mut idle_backend).with_context(context)?;
            let mut text = [0; 4];
            half_backend.write_all(b"more").with_context(context)?;
            half.read_exact(&mut text).with_context(context)?;
            site.await_connections(3).with_context(context)?;
        }
        drop((client, backend, idle, idle_backend, half, half_backend));
        let is_it = |status: &Status| status.service(PLAIN).is_ok_and(|it| it.connections == 0);
        site.gateway
            .await_status("no connection", PATIENCE, is_it)?;
    }
    Ok(())
}

fn plan(family: Family) -> Plan {
    Plan {
        family,
        hosts: 1,
        ..Plan::default()
    }
}

/// A site whose servers are the test's own.
fn start(family: Family, lines: &str) -> Result<PlainSite> {
    let mut site = PlainSite::start(plan(family), Manner::Echo, lines)?;
    site.listeners.clear();
    Ok(site)
}

fn listen(site: &PlainSite) -> Result<TcpListener> {
    let host = &site.network.hosts()[0];
    let address = SocketAddr::new(host.address(), PORT);
    let listener = host.namespace().enter(|| TcpListener::bind(address))?;
    listener.with_context(|| format!("cannot listen at {address}"))
}

/// Both ends of a new connection, after something was said each way.
fn connect(site: &PlainSite, server: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let mut client = site
        .network
        .client()
        .enter(|| listener::connect(site.target()))??;
    let (mut backend, _) = server.accept()?;
    backend.set_nodelay(true)?;
    backend.set_read_timeout(Some(PATIENCE))?;
    talk(&mut client, &mut backend)?;
    Ok((client, backend))
}

fn talk(one: &mut TcpStream, other: &mut TcpStream) -> io::Result<()> {
    let mut text = [0; 5];
    one.write_all(b"hello")?;
    other.read_exact(&mut text)?;
    other.write_all(b"there")?;
    one.read_exact(&mut text)
}

/// Connects from a port as soon as the client's own kernel lets go of it.
fn connect_again(site: &PlainSite, source: SocketAddr) -> Result<TcpStream> {
    let mut last = None;
    clock::wait_for("the client's port to be free", PATIENCE, || {
        let client = site.network.client();
        let connected = client.enter(|| listener::connect_from(source, site.target()));
        last = connected.ok();
        // Only the kernel of the client itself says this, of a port that is in TIME_WAIT.
        !matches!(&last, Some(Err(error)) if error.kind() == io::ErrorKind::AddrNotAvailable)
    })?;
    last.context("nobody connected")?
        .with_context(|| format!("from {source}"))
}

/// Waits until nothing is open, and looks that as many connections ended as were opened.
fn expect_all_ended(site: &PlainSite, opened: u64) -> Result<()> {
    site.await_connections(0)?;
    let rows = site.gateway.pglb(&["dump", "connections", "--json"])?;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&rows)?;
    let open = rows
        .iter()
        .find(|row| row["phase"] != "Ended" && row["phase"] != "Reset");
    assert_eq!(open, None);
    let backends = site.gateway.pglb(&["dump", "backends", "--json"])?;
    let backends: Vec<serde_json::Value> = serde_json::from_str(&backends)?;
    for row in &backends {
        assert_eq!(
            (row["established"].as_u64(), row["half_open"].as_u64()),
            (Some(0), Some(0)),
            "{row}"
        );
        assert!(row["given"].as_u64() >= Some(opened), "{row}");
    }
    Ok(())
}
