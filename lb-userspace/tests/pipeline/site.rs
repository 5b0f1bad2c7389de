//! A gateway of tables alone for either family and any forwarding: one service, one backend.

use lb_common::backend::Backend;
use lb_common::family::{Address, Family, V4, V6, v4, v6};
use lb_common::flow::{Endpoint, FlowKey, NextHop, Tick};
use lb_common::limits::LINGER;
use lb_common::member::{BackendId, Member, Slot};
use lb_common::pipeline::decide;
use lb_common::reason::Reason;
use lb_common::service::{Algorithm, Forwarding, Service, ServiceId, ServiceKey};
use lb_common::tables::Tables;
use lb_common::wire::{Egress, Ethernet, Headers, IpHeader, Ipv4, Ipv6, Tcp};
use lb_userspace::engine::host_tables::HostTables;
use pglb_tests::packets::{ACK, SYN, checksum};

/// What the tests need of a family besides what the pipeline does.
pub(crate) trait Kind:
    Family<Address: Ord + std::hash::Hash + std::fmt::Debug> + Sized
{
    /// A host's address.
    fn host(number: u16) -> Self::Address;
    /// An IP header of zeros, to be written fresh.
    fn blank() -> Self::Header;
    /// A header's bytes.
    fn octets(header: &Self::Header) -> Vec<u8>;
}

impl Kind for V4 {
    fn host(number: u16) -> Self::Address {
        let [high, low] = number.to_be_bytes();
        v4([10, 71, high, low].into())
    }

    fn blank() -> Ipv4 {
        Ipv4([0; 20])
    }

    fn octets(header: &Ipv4) -> Vec<u8> {
        header.0.to_vec()
    }
}

impl Kind for V6 {
    fn host(number: u16) -> Self::Address {
        v6([0x2001, 0xdb8, 0, 0, 0, 0, 0x71, number].into())
    }

    fn blank() -> Ipv6 {
        Ipv6([0; 40])
    }

    fn octets(header: &Ipv6) -> Vec<u8> {
        header.0.to_vec()
    }
}

/// The VIP, the backend and the gateway's own address.
pub(crate) const VIP: u16 = 0x100;
pub(crate) const BACKEND: u16 = 0x200;
pub(crate) const GATEWAY: u16 = 0x300;
pub(crate) const SLOT: Slot = Slot(0);

/// A segment without payload; the packet around it is made when it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Small<A> {
    pub(crate) key: FlowKey<A>,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) flags: u8,
    /// Bytes that the IP header counts behind the TCP header.
    pub(crate) payload: u16,
}

pub(crate) struct Site<F: Family> {
    pub(crate) tables: HostTables<F>,
    pub(crate) now: Tick,
}

pub(crate) fn at<F: Kind>(host: u16, port: u16) -> Endpoint<F::Address> {
    Endpoint {
        address: F::host(host),
        port: port.to_be_bytes(),
    }
}

/// The sum of all that the TCP checksum covers, as far as there are headers; 0 if it is right.
pub(crate) fn tcp_check<F: Kind>(ip: &F::Header, tcp: &Tcp) -> [u8; 2] {
    let octets = F::octets(ip);
    let addresses = &octets[if octets.len() == 20 { 12 } else { 8 }..];
    // The payload is zeros, which add nothing.
    let length = ip.payload_length().to_be_bytes();
    checksum(&[addresses, &[0, 6], &length, &tcp.0].concat())
}

/// The IPv4 header checksum; IPv6 has none, which is as good as right.
pub(crate) fn ip_check<F: Kind>(ip: &F::Header) -> [u8; 2] {
    let octets = F::octets(ip);
    if octets.len() == 20 {
        checksum(&octets)
    } else {
        [0, 0]
    }
}

impl<F: Kind> Site<F> {
    pub(crate) fn new(forwarding: Forwarding) -> Self {
        let mut tables = HostTables::<F>::new();
        let mut member = Member::default().eligible(true).weighing(100);
        (member.generation, member.backend) = (1, BackendId(1));
        tables.members.insert(SLOT, member);
        let mut backend = Backend::default();
        backend.set_endpoint(at::<F>(BACKEND, 5432).map(Address::widen));
        backend.gateway = F::host(GATEWAY).widen();
        tables.backends.insert(BackendId(1), backend);
        let service =
            Service::new(ServiceId(0), 1, Algorithm::LeastConnections, 0).forwarded(forwarding);
        tables
            .services
            .insert(ServiceKey::new(at::<F>(VIP, 5432)), service);
        let mut site = Self {
            tables,
            now: Tick(10_000),
        };
        (0..64).chain([BACKEND]).for_each(|host| site.route(host));
        site
    }

    fn route(&mut self, host: u16) {
        let mut way = NextHop::default();
        way.interface = 7;
        way.mtu = 1500;
        way.destination = [2, 0, 0, 0, 1, 1];
        way.source = [2, 0, 0, 0, 2, 2];
        self.tables.next_hops.insert(F::host(host), way);
    }

    pub(crate) fn service(&mut self) -> &mut Service {
        self.tables.services.values_mut().next().unwrap()
    }

    /// Sends a segment; as it leaves, if it is forwarded. Its checksums are right then.
    pub(crate) fn send(&self, came: Small<F::Address>) -> Result<Small<F::Address>, Reason> {
        let mut ethernet = Ethernet {
            destination: [2; 6],
            source: [4; 6],
            kind: [8, 0],
        };
        let mut ip = F::blank();
        ip.write_fresh(came.key.source, came.key.destination, 6, 20 + came.payload);
        let mut tcp = Tcp([0; 20]);
        let ports = [came.key.source_port, came.key.destination_port];
        tcp.write_reset(ports, came.sequence, came.acknowledgment, came.flags);
        tcp.set_checksum(tcp_check::<F>(&ip, &tcp));
        let before = tcp.clone();
        let mut packet = Headers::<F> {
            ethernet: &mut ethernet,
            ip: &mut ip,
            tcp: &mut tcp,
            egress: Egress::default(),
        };
        let result = decide(&self.tables, &mut packet, self.now);
        let key = FlowKey::of(&packet);
        if let Err(reason) = result {
            assert_eq!((key, tcp), (came.key, before), "{reason:?}");
            return Err(reason);
        }
        assert_eq!(ethernet.destination, [2, 0, 0, 0, 1, 1]);
        assert_eq!(ethernet.source, [2, 0, 0, 0, 2, 2]);
        assert_eq!(ip.hop_limit(), 63);
        assert_eq!(tcp_check::<F>(&ip, &tcp), [0, 0], "the TCP checksum");
        assert_eq!(ip_check::<F>(&ip), [0, 0], "the IP checksum");
        Ok(Small {
            key,
            sequence: tcp.sequence(),
            acknowledgment: tcp.acknowledgment(),
            flags: tcp.flags(),
            ..came
        })
    }

    /// A segment of a client to the VIP, behind the handshake.
    pub(crate) fn up(client: (u16, u16), flags: u8) -> Small<F::Address> {
        Small {
            key: FlowKey::between(at::<F>(client.0, client.1), at::<F>(VIP, 5432)),
            sequence: 1_001,
            acknowledgment: 7_001,
            flags,
            payload: 0,
        }
    }

    /// A segment of the backend that answers one which reached it.
    pub(crate) fn down(reached: &Small<F::Address>, flags: u8) -> Small<F::Address> {
        Small {
            key: reached.key.reversed(),
            sequence: if flags & SYN == 0 { 7_001 } else { 7_000 },
            acknowledgment: 1_001,
            flags,
            payload: 0,
        }
    }

    /// Sends a SYN.
    pub(crate) fn open(&self, client: (u16, u16)) -> Result<Small<F::Address>, Reason> {
        let mut syn = Self::up(client, SYN);
        (syn.sequence, syn.acknowledgment) = (1_000, 0);
        self.send(syn)
    }

    /// Opens a connection; its client's last packet as the backend got it.
    pub(crate) fn establish(&self, client: (u16, u16)) -> Result<Small<F::Address>, Reason> {
        let syn = self.open(client)?;
        if syn.key != Self::up(client, SYN).key {
            self.send(Self::down(&syn, SYN | ACK))?;
        }
        self.send(Self::up(client, ACK))
    }

    /// Half-open and established connections by the tallies of slot, backend and gateway, which
    /// must agree.
    pub(crate) fn load(&self) -> (i64, i64) {
        let tallies = [
            self.tables.slot_tally(SLOT).unwrap(),
            self.tables.backend_tally(BackendId(1)).unwrap(),
            self.tables.backend_tally(BackendId::GATEWAY).unwrap(),
        ];
        let [slot, backend, gateway] = tallies.map(|it| {
            let half = it.half_opened.cast_signed() - it.half_closed.cast_signed();
            (half, it.established.cast_signed() - it.ended.cast_signed())
        });
        assert_eq!((slot, slot), (backend, gateway));
        slot
    }

    pub(crate) fn linger_out(&mut self) {
        self.now = Tick(self.now.0.wrapping_add(LINGER.0));
    }
}
