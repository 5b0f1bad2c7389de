//! What each forwarding does to packets and ports, in both families.

use lb_common::family::{Address, V4, V6};
use lb_common::flow::Phase;
use lb_common::limits::{HALF_OPEN_FLOOD, LAST_WORDS, LINGER};
use lb_common::member::BackendId;
use lb_common::reason::Reason;
use lb_common::service::{Access, Forwarding, ServiceId};
use lb_common::source::SourceKey;
use lb_common::tally::Tally;
use pglb_tests::packets::{ACK, FIN, RST, SYN};
use proptest::prelude::*;

use crate::site::{BACKEND, GATEWAY, Kind, SLOT, Site, VIP, at};

fn there_and_back<F: Kind>(forwarding: Forwarding, client: (u16, u16)) {
    let site = Site::<F>::new(forwarding);
    let up = Site::<F>::up(client, ACK);
    let reached = site.establish(client).unwrap();
    assert_eq!(site.load(), (0, 1));
    match forwarding {
        Forwarding::Dsr => assert_eq!(reached.key, up.key, "a dsr packet is left as it is"),
        Forwarding::Nat => {
            assert_eq!(reached.key.sender(), up.key.sender());
            assert_eq!(reached.key.receiver(), at::<F>(BACKEND, 5432));
        }
        Forwarding::FullNat => {
            assert_eq!(reached.key.source, F::host(GATEWAY));
            assert_eq!(reached.key.receiver(), at::<F>(BACKEND, 5432));
        }
    }
    assert_eq!(
        (reached.sequence, reached.acknowledgment),
        (up.sequence, up.acknowledgment)
    );
    if forwarding != Forwarding::Dsr {
        let answer = site.send(Site::<F>::down(&reached, ACK)).unwrap();
        assert_eq!(answer.key, up.key.reversed(), "and back again");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Every packet's checksums are recomputed in full on its way.
    #[test]
    fn there_and_back_is_the_identity(host in 0_u16..64, port in 1_u16..) {
        for forwarding in [Forwarding::Nat, Forwarding::FullNat, Forwarding::Dsr] {
            there_and_back::<V4>(forwarding, (host, port));
            there_and_back::<V6>(forwarding, (host, port));
        }
    }
}

fn ports_are_kept_apart<F: Kind>() {
    let mut site = Site::<F>::new(Forwarding::FullNat);
    site.tables.ports = (2_000, 2_003);
    let port = |key: lb_common::flow::FlowKey<F::Address>| u16::from_be_bytes(key.source_port);
    let first = site.establish((1, 2_001)).unwrap();
    assert_eq!(port(first.key), 2_001, "the client's own");
    let second = site.establish((2, 2_001)).unwrap();
    assert_ne!(port(second.key), 2_001, "is taken");
    assert!((2_000..=2_003).contains(&port(second.key)));
    let outside = site.establish((3, 50_000));
    assert!(outside.is_ok_and(|it| (2_000..=2_003).contains(&port(it.key))));
    for (client, reached) in [((1, 2_001), first), ((2, 2_001), second)] {
        let answer = site.send(Site::<F>::down(&reached, ACK)).unwrap();
        assert_eq!(answer.key, Site::<F>::up(client, ACK).key.reversed());
    }
}

#[test]
fn a_full_nat_port_is_the_clients_if_it_can_be_and_never_shared() {
    ports_are_kept_apart::<V4>();
    ports_are_kept_apart::<V6>();
}

fn neighbours_find_ports<F: Kind>() {
    let mut site = Site::<F>::new(Forwarding::FullNat);
    site.tables.ports = (2_000, 10_191);
    // Ports that differ just as the addresses do, and none that could be kept.
    for host in 0..64 {
        assert!(site.open((host, 40_000 ^ host)).is_ok(), "host {host}");
    }
}

#[test]
fn neighbours_do_not_all_try_the_same_ports() {
    neighbours_find_ports::<V4>();
    neighbours_find_ports::<V6>();
}

/// Has the backend counted so many half-open connections that they can only be a flood.
fn flood<F: Kind>(site: &mut Site<F>) {
    let tally = Tally {
        half_opened: HALF_OPEN_FLOOD + 1,
        ..Tally::default()
    };
    site.tables.set_backend_tally(BackendId(1), tally);
}

fn ports_take_turns<F: Kind>() {
    let mut site = Site::<F>::new(Forwarding::FullNat);
    site.tables.ports = (2_000, 2_099);
    let open = |site: &Site<F>, host| {
        let reached = site.open((host, 2_099 - 2 * host));
        reached.map(|it| u16::from_be_bytes(it.key.source_port))
    };
    assert_eq!(open(&site, 0), Ok(2_099), "the client's own");
    flood(&mut site);
    let turn = u16::try_from((HALF_OPEN_FLOOD + 1) % 100).unwrap();
    for host in 1..20 {
        let port = 2_000 + (turn + host - 1) % 100;
        assert_eq!(open(&site, host), Ok(port), "the one used longest ago");
    }
}

#[test]
fn full_nat_ports_take_turns_under_a_flood() {
    ports_take_turns::<V4>();
    ports_take_turns::<V6>();
}

fn a_port_lingers<F: Kind>(is_backend_first: bool) {
    let mut site = Site::<F>::new(Forwarding::FullNat);
    site.tables.ports = (2_000, 2_000);
    let client = (1, 2_000);
    let reached = site.establish(client).unwrap();
    assert_eq!(site.open((2, 2_000)).unwrap_err(), Reason::NoPort);
    let mut up = Site::<F>::up(client, FIN | ACK);
    let mut down = Site::<F>::down(&reached, FIN | ACK);
    if is_backend_first {
        site.send(down).unwrap();
        up.acknowledgment += 1;
        site.send(up).unwrap();
    } else {
        site.send(up).unwrap();
        down.acknowledgment += 1;
        site.send(down).unwrap();
    }
    assert_eq!(site.load(), (0, 0));
    if !is_backend_first {
        // The backend's FIN may yet have to be sent again.
        site.now.0 += LAST_WORDS.0 - 1;
        assert_eq!(site.open((2, 2_000)).unwrap_err(), Reason::NoPort);
        site.now.0 += 1;
        assert!(site.open((2, 2_000)).is_ok());
        return;
    }
    site.now.0 += LINGER.0 - 1;
    assert_eq!(site.open((2, 2_000)).unwrap_err(), Reason::NoPort);
    site.now.0 += 1;
    assert!(site.open((2, 2_000)).is_ok());
}

#[test]
fn a_port_lingers_after_the_backend_closed_first_and_only_then() {
    for is_backend_first in [true, false] {
        a_port_lingers::<V4>(is_backend_first);
        a_port_lingers::<V6>(is_backend_first);
    }
}

fn dsr_ends<F: Kind>() {
    let mut site = Site::<F>::new(Forwarding::Dsr);
    let client = (1, 2_000);
    site.open(client).unwrap();
    assert_eq!(site.load(), (1, 0));
    site.send(Site::<F>::up(client, ACK)).unwrap();
    assert_eq!(site.load(), (0, 1));
    site.send(Site::<F>::up(client, FIN | ACK)).unwrap();
    assert_eq!(site.load(), (0, 0));
    let flows = site.tables.transient_flows();
    assert!(flows.values().all(|flow| flow.phase() == Phase::Ended));
    assert!(site.send(Site::<F>::up(client, ACK)).is_ok(), "last ACK");

    site.establish(client).unwrap();
    site.tables.members.get_mut(&SLOT).unwrap().generation += 1;
    let data = site.send(Site::<F>::up(client, ACK));
    assert_eq!(data.unwrap_err(), Reason::Superseded);
    assert!(site.send(Site::<F>::up(client, RST)).is_ok());
}

#[test]
fn a_dsr_connection_is_followed_by_its_clients_packets_alone() {
    dsr_ends::<V4>();
    dsr_ends::<V6>();
}

fn limits<F: Kind>() {
    let mut site = Site::<F>::new(Forwarding::Nat);
    site.service().source_connections = 2;
    site.establish((1, 1)).unwrap();
    site.open((1, 3)).unwrap();
    site.establish((1, 2)).unwrap();
    assert_eq!(site.open((1, 4)).unwrap_err(), Reason::SourceLimit);
    assert_eq!(
        site.send(Site::<F>::up((1, 1), RST)).map(|it| it.flags),
        Ok(RST)
    );
    assert!(site.open((1, 4)).is_ok());
    let tally = site
        .tables
        .source_tally(&SourceKey::new(ServiceId(0), F::host(1).widen()));
    assert_eq!((tally.established, tally.ended), (2, 1));

    let mut site = Site::<F>::new(Forwarding::Nat);
    site.service().source_rate = 3;
    let opened = (1..10).filter(|port| site.open((1, *port)).is_ok()).count();
    assert_eq!(opened, 3);
    assert_eq!(site.open((1, 99)).unwrap_err(), Reason::SourceRate);
    assert!(site.open((2, 99)).is_ok(), "another address");

    let mut site = Site::<F>::new(Forwarding::Nat);
    *site.service() = site.service().restricted(Access::Deny);
    let entry = |host: u16, prefix| (ServiceId(0), F::host(host).widen(), prefix);
    site.tables.access.insert(entry(0, 120), Access::Allow);
    site.tables.access.insert(entry(5, 128), Access::Deny);
    assert!(site.open((1, 1)).is_ok());
    assert_eq!(site.open((5, 1)).unwrap_err(), Reason::Denied);
    assert_eq!(site.open((VIP, 1)).unwrap_err(), Reason::Denied);
}

#[test]
fn clients_are_held_to_their_limits_and_lists() {
    limits::<V4>();
    limits::<V6>();
}

fn churn<F: Kind>(forwarding: Forwarding, connections: u32) {
    let mut site = Site::<F>::new(forwarding);
    site.tables.ports = (2_000, 2_255);
    site.tables.resize_transient(512);
    for number in 0..connections {
        let (host, port) = ((number % 8) as u16, 2_000 + (number / 8 % 32) as u16);
        let client = (host, port);
        if number % 16 == 0 {
            site.linger_out();
        }
        let up = |flags| Site::<F>::up(client, flags);
        let syn = site.open(client).expect("a SYN that is forwarded");
        let down = |flags| Site::<F>::down(&syn, flags);
        let has_replies = forwarding != Forwarding::Dsr;
        match number % 9 {
            // Refused, and given up.
            0 if has_replies => drop(site.send(down(RST | ACK)).unwrap()),
            0 | 1 => {
                if has_replies {
                    site.send(down(SYN | ACK)).unwrap();
                }
                site.send(up(RST)).unwrap();
            }
            how => {
                if has_replies {
                    site.send(down(SYN | ACK)).unwrap();
                }
                site.send(up(ACK)).unwrap();
                match how {
                    2 => drop(site.send(up(RST)).unwrap()),
                    3 if has_replies => drop(site.send(down(RST)).unwrap()),
                    // Server first, and a half-close with data after it.
                    4 | 5 if has_replies => {
                        site.send(down(FIN | ACK)).unwrap();
                        site.send(up(ACK)).unwrap();
                        site.send(up(FIN | ACK)).unwrap();
                    }
                    // The port used again behind both FINs.
                    6 if has_replies => {
                        site.send(up(FIN | ACK)).unwrap();
                        site.send(down(FIN | ACK)).unwrap();
                        let again = site.establish(client).unwrap();
                        site.send(up(FIN | ACK)).unwrap();
                        site.send(Site::<F>::down(&again, FIN | ACK)).unwrap();
                    }
                    // Simultaneous: neither FIN acknowledges the other.
                    _ => {
                        site.send(up(FIN | ACK)).unwrap();
                        if has_replies {
                            site.send(down(FIN | ACK)).unwrap();
                        }
                    }
                }
            }
        }
        assert_eq!(site.load(), (0, 0), "{forwarding:?} after {number}");
    }
    assert!(site.tables.established_flows().is_empty());
    site.linger_out();
    if forwarding == Forwarding::FullNat {
        for port in 2_000..2_256 {
            let reached = site.establish((40, port)).unwrap();
            assert_eq!(reached.key.source_port, port.to_be_bytes());
        }
    }
}

#[test]
fn endings_of_every_kind_leave_nothing_behind() {
    // Many more, with losses, are in `churn`; here the counts are looked at after each one.
    for forwarding in [Forwarding::Nat, Forwarding::FullNat, Forwarding::Dsr] {
        churn::<V4>(forwarding, 5_000);
        churn::<V6>(forwarding, 5_000);
    }
}
