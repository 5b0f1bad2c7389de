//! Whose packet it is: service, client and direction, and whether it was asked for.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::headers::{Headers, Payload};
use super::packet::{Outcome, Packet};
use crate::protocol::ClientRef;

/// A service as packets name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// What clients connect to.
    pub vip: SocketAddr,
}

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    ToBackend,
    /// From the backend.
    ToClient,
}

/// Whose packet it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The service's name; nothing for a packet of a connection that was open before the capture
    /// began and that was not forwarded, so that its VIP does not show.
    pub service: Option<String>,
    /// The client.
    pub client: ClientRef,
    /// Which way the packet went.
    pub direction: Direction,
}

/// Tells whose packets are, and leaves out those that nobody asked for.
#[derive(Debug)]
pub struct Filter {
    services: Vec<Service>,
    service: Option<String>,
    client: Option<ClientRef>,
    /// Service and client by backend and by whom the backend answers, which are the client itself
    /// or a port of the gateway: a reply that is not forwarded does not tell them.
    replies: HashMap<(SocketAddr, SocketAddr), (usize, SocketAddr)>,
}

/// Connections that are remembered; then all are forgotten, which costs a name here and there.
const MOST_REPLIES: usize = 100_000;

impl Filter {
    /// Takes packets of these services: all, or of that name, and of that client.
    pub fn new(services: Vec<Service>, service: Option<String>, client: Option<ClientRef>) -> Self {
        Self {
            services,
            service,
            client,
            replies: HashMap::new(),
        }
    }

    /// Whose packet it is; nothing when it was not asked for. A packet that tells too little is
    /// nobody's.
    pub fn sort(&mut self, packet: &Packet) -> Option<Owner> {
        let before = Headers::read(&packet.before.bytes)?;
        let after = match &packet.outcome {
            Outcome::Forwarded(frame) => Headers::read(&frame.bytes),
            Outcome::Answered(_) | Outcome::Dropped => None,
        };
        let owner = match &before.payload {
            Payload::Tcp(_) => self.sort_segment(&before, after.as_ref()),
            Payload::Icmp { .. } | Payload::Other(_) => self.sort_other(&before, after.as_ref()),
        };
        owner.filter(|owner| self.is_wanted(owner))
    }

    fn is_wanted(&self, owner: &Owner) -> bool {
        let is_client = |wanted: &ClientRef| {
            wanted.address == owner.client.address
                && (wanted.port.is_none() || wanted.port == owner.client.port)
        };
        (self.service.is_none() || self.service == owner.service)
            && self.client.as_ref().is_none_or(is_client)
    }

    /// By its client-side form: as it came from the client, or as it left for it.
    fn sort_segment(&mut self, before: &Headers, after: Option<&Headers>) -> Option<Owner> {
        let (source, destination) = before.endpoints()?;
        let left = after.and_then(Headers::endpoints);
        if let Some(service) = self.at(destination) {
            if let Some((facing, backend)) = left {
                self.remember((backend, facing), (service, source));
            }
            return Some(self.owner(Some(service), source, Direction::ToBackend));
        }
        if let Some((vip, client)) = left
            && let Some(service) = self.at(vip)
        {
            return Some(self.owner(Some(service), client, Direction::ToClient));
        }
        let known = self.replies.get(&(source, destination)).copied();
        let (service, client) = known.map_or((None, destination), |(service, client)| {
            (Some(service), client)
        });
        Some(self.owner(service, client, Direction::ToClient))
    }

    /// An ICMP error is its connection's, by the packet that it quotes; anything else is by the
    /// VIP that it was sent to, which may be that of several services: then of the one asked for.
    fn sort_other(&self, before: &Headers, after: Option<&Headers>) -> Option<Owner> {
        if let Some((vip, client)) = about(before)
            && let Some(service) = self.at(vip)
        {
            return Some(self.owner(Some(service), client, Direction::ToBackend));
        }
        if let Some((client, vip)) = after.and_then(about)
            && let Some(service) = self.at(vip)
        {
            return Some(self.owner(Some(service), client, Direction::ToClient));
        }
        if let Some((facing, backend)) = about(before)
            && let Some(&(service, client)) = self.replies.get(&(backend, facing))
        {
            return Some(self.owner(Some(service), client, Direction::ToClient));
        }
        Some(Owner {
            service: self.named_at(before.destination),
            client: ClientRef {
                address: before.source,
                port: None,
            },
            direction: Direction::ToBackend,
        })
    }

    fn at(&self, vip: SocketAddr) -> Option<usize> {
        self.services.iter().position(|service| service.vip == vip)
    }

    fn named_at(&self, address: IpAddr) -> Option<String> {
        let here = |service: &&Service| service.vip.ip() == address;
        let is_asked_for = |service: &&Service| Some(&service.name) == self.service.as_ref();
        let mut services = self.services.iter().filter(here);
        let asked_for = services.clone().find(is_asked_for);
        let service = asked_for.or_else(|| services.next())?;
        Some(service.name.clone())
    }

    fn owner(&self, service: Option<usize>, client: SocketAddr, direction: Direction) -> Owner {
        let service = service.and_then(|index| self.services.get(index));
        Owner {
            service: service.map(|service| service.name.clone()),
            client: ClientRef {
                address: client.ip(),
                port: Some(client.port()),
            },
            direction,
        }
    }

    fn remember(&mut self, reply: (SocketAddr, SocketAddr), owner: (usize, SocketAddr)) {
        if self.replies.len() >= MOST_REPLIES {
            self.replies.clear();
        }
        self.replies.insert(reply, owner);
    }
}

fn about(headers: &Headers) -> Option<(SocketAddr, SocketAddr)> {
    match headers.payload {
        Payload::Icmp { about, .. } => about,
        Payload::Tcp(_) | Payload::Other(_) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::headers::tests::{frame, tagged};
    use super::super::packet::tests::{DROP, REDIRECT, TX, record};
    use super::*;

    pub(crate) const CLIENT: &str = "10.71.0.10:41022";
    pub(crate) const RO: &str = "10.71.0.100:5433";
    pub(crate) const PG2: &str = "10.72.0.12:5432";

    pub(crate) fn services() -> Vec<Service> {
        let service = |name: &str, vip: &str| Service {
            name: name.into(),
            vip: vip.parse().unwrap(),
        };
        vec![
            service("orders-rw", "10.71.0.100:5432"),
            service("orders-ro", RO),
            service("orders-six", "[fd71::100]:5432"),
        ]
    }

    pub(crate) fn packet(before: &[u8], after: &[u8], action: u32) -> Packet {
        Packet::of(&record(before, after, action), after)
    }

    fn forwarded(before: (&str, &str), after: (&str, &str)) -> Packet {
        packet(
            &frame(before.0, before.1, "A", b""),
            &frame(after.0, after.1, "A", b""),
            REDIRECT,
        )
    }

    fn filter(service: Option<&str>, client: Option<&str>) -> Filter {
        let client = client.map(|client| client.parse().unwrap());
        Filter::new(services(), service.map(str::to_owned), client)
    }

    fn sorted(filter: &mut Filter, packet: &Packet) -> Option<(String, String, Direction)> {
        filter.sort(packet).map(|owner| {
            let service = owner.service.unwrap_or_else(|| "?".into());
            (service, owner.client.to_string(), owner.direction)
        })
    }

    #[track_caller]
    fn assert_owner(
        filter: &mut Filter,
        packet: &Packet,
        service: &str,
        client: &str,
        to: Direction,
    ) {
        let expected = (service.to_owned(), client.to_owned(), to);
        assert_eq!(sorted(filter, packet), Some(expected));
    }

    #[test]
    fn packets_are_sorted_by_their_client_side() {
        use Direction::{ToBackend, ToClient};
        let mut all = filter(None, None);
        // nat
        let there = forwarded((CLIENT, RO), (CLIENT, PG2));
        assert_owner(&mut all, &there, "orders-ro", CLIENT, ToBackend);
        let back = forwarded((PG2, CLIENT), (RO, CLIENT));
        assert_owner(&mut all, &back, "orders-ro", CLIENT, ToClient);
        // full-nat
        let there = forwarded((CLIENT, RO), ("10.72.0.1:20000", PG2));
        assert_owner(&mut all, &there, "orders-ro", CLIENT, ToBackend);
        let back = forwarded((PG2, "10.72.0.1:20000"), (RO, CLIENT));
        assert_owner(&mut all, &back, "orders-ro", CLIENT, ToClient);
        // dsr
        let there = forwarded((CLIENT, RO), (CLIENT, RO));
        assert_owner(&mut all, &there, "orders-ro", CLIENT, ToBackend);
        // IPv6 behind two tags
        let (client, vip) = ("[fd71::10]:41022", "[fd71::100]:5432");
        let there = packet(
            &tagged(&[1, 2], client, vip, "S", b""),
            &tagged(&[3, 4], client, "[fd72::11]:5432", "S", b""),
            TX,
        );
        assert_owner(&mut all, &there, "orders-six", client, ToBackend);
    }

    #[test]
    fn others_are_left_out() {
        let there = forwarded((CLIENT, RO), (CLIENT, PG2));
        let back = forwarded((PG2, CLIENT), (RO, CLIENT));
        for (service, client, is_wanted) in [
            (Some("orders-ro"), None, true),
            (Some("orders-rw"), None, false),
            (None, Some("10.71.0.10"), true),
            (None, Some(CLIENT), true),
            (None, Some("10.71.0.10:41023"), false),
            (None, Some("10.71.0.11"), false),
            (Some("orders-ro"), Some(CLIENT), true),
            (Some("orders-rw"), Some(CLIENT), false),
        ] {
            let mut filter = filter(service, client);
            for packet in [&there, &back] {
                let owner = filter.sort(packet);
                assert_eq!(owner.is_some(), is_wanted, "{service:?} {client:?}");
            }
        }
    }

    #[test]
    fn a_reply_that_is_not_forwarded_is_known_by_what_went_there() {
        let refusal = frame(PG2, "10.72.0.1:20000", "R", b"");
        let refusal = packet(&refusal, &refusal, DROP);
        let mut all = filter(None, None);
        let nobody = sorted(&mut all, &refusal).unwrap();
        assert_eq!(nobody.0, "?");

        let syn = forwarded((CLIENT, RO), ("10.72.0.1:20000", PG2));
        let mut asked = filter(Some("orders-ro"), Some(CLIENT));
        assert!(asked.sort(&refusal).is_none());
        assert!(asked.sort(&syn).is_some());
        assert_owner(
            &mut asked,
            &refusal,
            "orders-ro",
            CLIENT,
            Direction::ToClient,
        );
    }

    #[test]
    fn what_is_refused_or_dropped_is_the_services_too() {
        let syn = frame(CLIENT, RO, "S", b"");
        let answer = frame(RO, CLIENT, "RA", b"");
        let mut all = filter(Some("orders-ro"), None);
        for packet in [packet(&syn, &answer, TX), packet(&syn, &syn, DROP)] {
            assert_owner(&mut all, &packet, "orders-ro", CLIENT, Direction::ToBackend);
        }
    }

    #[test]
    fn icmp_is_its_connections_or_its_vips() {
        let error = |to: [u8; 4], from: &str, for_: &str| {
            let about = frame(from, for_, "A", b"");
            let mut error = Vec::new();
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 9, 9, 9], to, 64)
                .icmpv4_raw(3, 4, [0, 0, 5, 0x78])
                .write(&mut error, &about[14..])
                .unwrap();
            error
        };
        let mut asked = filter(Some("orders-ro"), Some(CLIENT));
        let there = packet(
            &error([10, 71, 0, 100], RO, CLIENT),
            &error([10, 72, 0, 12], PG2, CLIENT),
            REDIRECT,
        );
        assert_owner(
            &mut asked,
            &there,
            "orders-ro",
            CLIENT,
            Direction::ToBackend,
        );
        let back = packet(
            &error([10, 71, 0, 10], CLIENT, PG2),
            &error([10, 71, 0, 10], CLIENT, RO),
            REDIRECT,
        );
        assert_owner(&mut asked, &back, "orders-ro", CLIENT, Direction::ToClient);

        let mut echo = Vec::new();
        etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 71, 0, 10], [10, 71, 0, 100], 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut echo, &[])
            .unwrap();
        let echo = packet(&echo, &echo, DROP);
        for service in ["orders-rw", "orders-ro"] {
            let mut asked = filter(Some(service), None);
            assert_owner(
                &mut asked,
                &echo,
                service,
                "10.71.0.10",
                Direction::ToBackend,
            );
        }
    }
}
