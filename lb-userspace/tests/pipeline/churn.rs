//! A day's worth of connections: clients and servers whose TCP loses packets, repeats them and has them overtake each
//! other, and who end their connections in every way there is. Nothing of it may stay behind.
#![expect(clippy::print_stdout, reason = "the figures are worth reading")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "most stories go the ordinary way"
)]

mod controller;
mod end;
mod network;

use lb_common::family::{Address, V4, V6};
use lb_common::flow::{Endpoint, Phase};
use lb_common::service::{Forwarding, ServiceId};
use lb_common::source::SourceKey;

use self::network::{HOSTS, Network};
use crate::site::Kind;

/// Of each family and forwarding; a million in all.
const CONNECTIONS: usize = 166_667;
/// Connections that begin in a tick: 300 a second.
const RATE: usize = 5;
/// The controller walks the tables every 5 s, and kills all connections of a backend now and then.
const WALK: u32 = 298;
/// A suspect is probed, and found well, within half a second.
const PROBE: u32 = 30;
const KILL: u32 = 3_900;
/// How long the last ones may take: the idle limit, and what is kept of ended ones.
const AFTERMATH: u32 = 15_000;
/// The ports of full-nat.
const PORTS: (u16, u16) = (2_000, 18_383);

fn churn<F: Kind>(forwarding: Forwarding) {
    let mut network = Network::<F>::new(forwarding, PORTS);
    let mut opened = 0;
    for tick in 1_u32.. {
        if opened < CONNECTIONS {
            let more = RATE.min(CONNECTIONS - opened);
            (0..more).for_each(|_| network.connect());
            opened += more;
            if tick.is_multiple_of(KILL) {
                network.kill(usize::try_from(tick / KILL).unwrap());
            }
        } else if network.is_quiet_for(AFTERMATH) {
            break;
        }
        network.pass_a_tick();
        if tick.is_multiple_of(PROBE) {
            network.forgive();
        }
        if tick.is_multiple_of(WALK) {
            network.walk();
        }
    }
    println!(
        "{forwarding:?}, {}: {}",
        std::any::type_name::<F>(),
        network.figures
    );
    expect_nothing_left(&mut network);
}

fn expect_nothing_left<F: Kind>(network: &mut Network<F>) {
    assert!(network.site.tables.established_flows().is_empty());
    let transient = network.site.tables.transient_flows();
    let is_over = |phase| matches!(phase, Phase::Ended | Phase::Reset);
    assert!(
        transient.values().all(|flow| is_over(flow.phase())),
        "half-open ones"
    );
    network.check_counts();
    for host in 0..HOSTS {
        let source = SourceKey::new(ServiceId(0), F::host(host).widen());
        let tally = network.site.tables.source_tally(&source);
        assert!(tally.established > 0, "nobody counts host {host}");
        let reaped = network.sources_reaped.get(&source).copied().unwrap_or(0);
        assert_eq!(tally.connections(reaped), 0, "host {host}: {tally:?}");
    }
    let figures = &network.figures;
    assert_eq!(figures.opened, CONNECTIONS + figures.reused);
    // What the program and the clients say of the same connections.
    assert_eq!(figures.cut, 0, "connections that nobody wanted to end");
    if network.forwarding == Forwarding::FullNat {
        expect_every_port_free(network);
    }
}

/// Whoever comes with a port of the gateway's gets that very one, from each backend.
fn expect_every_port_free<F: Kind>(network: &mut Network<F>) {
    for backend in 0..network.backends() {
        network.have_only(backend);
        for port in PORTS.0..=PORTS.1 {
            let client = (HOSTS - 1, port);
            let reached = network.site.establish(client).unwrap();
            let taken: Endpoint<F::Address> = reached.key.sender();
            assert_eq!(taken.port, port.to_be_bytes(), "a port is still taken");
        }
        network.clear();
    }
}

macro_rules! churns {
    ($($test:ident: $forwarding:ident, $family:ident;)+) => {
        $(#[test]
        fn $test() {
            churn::<$family>(Forwarding::$forwarding);
        })+
    };
}

churns! {
    nothing_is_left_of_nat_in_ipv4: Nat, V4;
    nothing_is_left_of_nat_in_ipv6: Nat, V6;
    nothing_is_left_of_full_nat_in_ipv4: FullNat, V4;
    nothing_is_left_of_full_nat_in_ipv6: FullNat, V6;
    nothing_is_left_of_dsr_in_ipv4: Dsr, V4;
    nothing_is_left_of_dsr_in_ipv6: Dsr, V6;
}
