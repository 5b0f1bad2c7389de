//! A gateway of tables alone: services, backends, and packets that go through the pipeline.

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::family::{Address, V4, V4Address, v4};
use lb_common::flow::{Direction, Endpoint, Flow, FlowKey, NextHop, Phase, Tick};
use lb_common::member::{BackendId, Member, Slot};
use lb_common::pipeline::{Forward, decide};
use lb_common::reason::Reason;
use lb_common::refuse::refuse;
use lb_common::service::{Algorithm, Service, ServiceId, ServiceKey};
use lb_common::tables::Tables;
use lb_common::tally::{Load, Tally};
use lb_common::wire::{Egress, Ethernet, Headers, Ipv4, Tcp};
use lb_userspace::engine::host_tables::HostTables;
use pglb_tests::packets::{ACK, FIN, HEADERS, RST, Segment};

/// One second, in ticks.
pub(crate) const SECOND: u32 = 60;

/// The address and port of client `number`.
pub(crate) fn client(number: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 71, 0, 10 + number), 40_000)
}

/// Where service `number` is reached.
pub(crate) fn vip(number: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 71, 0, 100 + number), 5432)
}

/// Where backend `number`, from 1, is.
pub(crate) fn backend(number: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 72, 0, 10 + number), 5432)
}

pub(crate) fn slot(service: u8, index: u8) -> Slot {
    Slot::of(ServiceId(u16::from(service)), index)
}

pub(crate) fn endpoint(address: SocketAddrV4) -> Endpoint<V4Address> {
    Endpoint {
        address: v4(*address.ip()),
        port: address.port().to_be_bytes(),
    }
}

/// The key of the flow that carries packets from one end to the other.
pub(crate) fn key(sender: SocketAddrV4, receiver: SocketAddrV4) -> FlowKey<V4Address> {
    FlowKey::between(endpoint(sender), endpoint(receiver))
}

/// Tables, and the time.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) tables: HostTables<V4>,
    pub(crate) now: Tick,
}

/// A packet that was forwarded, as it leaves the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) segment: Segment,
    pub(crate) forward: Forward,
}

/// The two ends of a connection, as the gateway sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    pub(crate) client: SocketAddrV4,
    pub(crate) vip: SocketAddrV4,
    pub(crate) backend: SocketAddrV4,
    pub(crate) slot: Slot,
}

impl Connection {
    /// A segment of the client.
    pub(crate) fn up(&self) -> Segment {
        Segment::between(self.client, self.vip)
            .sequence(1_001)
            .ack(7_001)
    }

    /// A segment of the backend.
    pub(crate) fn down(&self) -> Segment {
        Segment::between(self.backend, self.client)
            .sequence(7_001)
            .ack(1_001)
    }
}

impl World {
    /// A gateway without services, some time after its start.
    pub(crate) fn empty() -> Self {
        Self {
            tables: HostTables::new(),
            now: Tick(10_000),
        }
    }

    /// Service 0, over backends 1 and on with these weights.
    pub(crate) fn with(algorithm: Algorithm, weights: &[u16]) -> Self {
        let mut world = Self::empty();
        let members: Vec<_> = (1..).zip(weights.iter().copied()).collect();
        world.add_service(0, algorithm, &members);
        world
    }

    /// Service 0 with least-connections, over this many backends of equal weight.
    pub(crate) fn of(backends: usize) -> Self {
        Self::with(Algorithm::LeastConnections, &vec![100; backends])
    }

    /// Adds a service over backends, each with its weight there. Its ring names them in turn.
    pub(crate) fn add_service(&mut self, number: u8, algorithm: Algorithm, members: &[(u8, u16)]) {
        let id = ServiceId(u16::from(number));
        let length = u8::try_from(members.len()).unwrap();
        for (index, &(backend, weight)) in (0..).zip(members) {
            let id = BackendId(u16::from(backend));
            let mut member = Member::default().eligible(true).weighing(weight);
            (member.generation, member.backend) = (1, id);
            self.tables.members.insert(slot(number, index), member);
            let row = self.tables.backends.entry(id).or_default();
            row.set_endpoint(endpoint(self::backend(backend)).map(Address::widen));
        }
        self.tables.rings.insert(id, (0..length).collect());
        let service = Service::new(id, length, algorithm, u32::from(length));
        self.tables
            .services
            .insert(ServiceKey::new(endpoint(vip(number))), service);
    }

    pub(crate) fn service(&mut self, number: u8) -> &mut Service {
        self.tables
            .services
            .get_mut(&ServiceKey::new(endpoint(vip(number))))
            .unwrap()
    }

    pub(crate) fn member(&mut self, slot: Slot) -> &mut Member {
        self.tables.members.get_mut(&slot).unwrap()
    }

    pub(crate) fn judge(&mut self, slot: Slot, is_eligible: bool) {
        let member = self.member(slot);
        *member = member.eligible(is_eligible);
    }

    pub(crate) fn limit_backend(&mut self, number: u8, max_connections: u32) {
        let id = BackendId(u16::from(number));
        let backend = self.tables.backends.get_mut(&id).unwrap();
        backend.max_connections = max_connections;
        for member in self.tables.members.values_mut() {
            if member.backend == id {
                *member = member.limited(true);
            }
        }
    }

    /// Ends all connections of a member.
    pub(crate) fn supersede(&mut self, slot: Slot) {
        self.member(slot).generation += 1;
    }

    /// Lets at most this many connections be established on the gateway.
    pub(crate) fn limit_gateway(&mut self, max_connections: u32) {
        let gateway = self.tables.backends.entry(BackendId::GATEWAY).or_default();
        gateway.max_connections = max_connections;
    }

    pub(crate) fn wait(&mut self, ticks: u32) {
        self.now = Tick(self.now.0.wrapping_add(ticks));
    }

    /// Sends a packet through. One that is forwarded has right checksums; one that is not leaves
    /// the pipeline as it came.
    pub(crate) fn send(&mut self, segment: &Segment) -> Result<Sent, Reason> {
        let came = segment.bytes();
        let mut frame = came.clone();
        let result = on_headers(&mut frame, |packet| decide(&self.tables, packet, self.now));
        match result {
            Ok(forward) => {
                let segment = Segment::read(&frame).expect("a forwarded packet is a right one");
                Ok(Sent { segment, forward })
            }
            Err(reason) => {
                assert_eq!(frame, came, "{reason:?} changed the packet");
                Err(reason)
            }
        }
    }

    /// Opens a connection up to the client's SYN.
    pub(crate) fn open(&mut self, client: SocketAddrV4, vip: SocketAddrV4) -> Connection {
        let sent = self
            .send(&Segment::syn(client, vip))
            .expect("a SYN that is forwarded");
        assert_eq!(sent.forward.direction, Direction::ToBackend);
        Connection {
            client,
            vip,
            backend: sent.segment.destination,
            slot: sent.forward.slot,
        }
    }

    /// Opens a connection up to the backend's SYN-ACK.
    pub(crate) fn open_half(&mut self, client: SocketAddrV4, vip: SocketAddrV4) -> Connection {
        let connection = self.open(client, vip);
        self.send(&Segment::syn(client, connection.backend).syn_ack())
            .expect("a SYN-ACK");
        connection
    }

    /// Opens a connection.
    pub(crate) fn establish(&mut self, client: SocketAddrV4, vip: SocketAddrV4) -> Connection {
        let connection = self.open_half(client, vip);
        self.send(&connection.up()).expect("an ACK");
        connection
    }

    /// Closes a connection by the FINs of both ends, and the last ACK.
    pub(crate) fn close(&mut self, connection: &Connection) {
        self.send(&connection.up().flags(FIN | ACK)).expect("a FIN");
        self.send(&connection.down().flags(FIN | ACK))
            .expect("a FIN");
        self.send(&connection.up()).expect("the last ACK");
    }

    /// The connections of a slot, as counted.
    pub(crate) fn load(&self, slot: Slot) -> (u64, u64) {
        let load = Load::of(&self.tally(slot), 0, 0);
        (load.half_open, load.established)
    }

    pub(crate) fn tally(&self, slot: Slot) -> Tally {
        self.tables.slot_tally(slot).unwrap()
    }

    /// The phase of a flow, and whether it is in the established table.
    pub(crate) fn phase(&self, key: &FlowKey<V4Address>) -> Option<(Phase, bool)> {
        let established = self
            .tables
            .established_flows()
            .get(key)
            .map(|flow| (flow.phase(), true));
        let transient = self
            .tables
            .transient_flows()
            .get(key)
            .map(|flow| (flow.phase(), false));
        assert!(
            established.is_none() || transient.is_none(),
            "the flow is in both tables"
        );
        established.or(transient)
    }

    pub(crate) fn flow(&self, key: &FlowKey<V4Address>) -> Flow<V4Address> {
        let established = self.tables.established_flows().get(key).copied();
        established
            .or_else(|| self.tables.transient_flows().get(key).copied())
            .unwrap()
    }

    /// Tells the routing tables the whole way to an address.
    pub(crate) fn route(&mut self, address: SocketAddrV4, interface: u32) -> NextHop {
        let [.., last] = address.ip().octets();
        let mut way = NextHop::default();
        way.interface = interface;
        way.destination = [0x02, 0, 0, 0, 1, last];
        way.source = [0x02, 0, 0, 0, 2, last];
        self.tables.next_hops.insert(v4(*address.ip()), way);
        way
    }
}

/// The RST that answers a packet, as it leaves the gateway.
pub(crate) fn refusal(segment: &Segment) -> Segment {
    let mut frame = segment.bytes();
    on_headers(&mut frame, refuse);
    frame.truncate(HEADERS);
    let reset = Segment::read(&frame).expect("an RST is a right packet");
    assert_ne!(reset.flags & RST, 0);
    reset
}

/// Works on the headers of a frame, as the kernel program does: on fixed arrays.
pub(crate) fn on_headers<R>(frame: &mut [u8], work: impl FnOnce(&mut Headers<'_, V4>) -> R) -> R {
    let mut ethernet = Ethernet {
        destination: frame[..6].try_into().unwrap(),
        source: frame[6..12].try_into().unwrap(),
        kind: frame[12..14].try_into().unwrap(),
    };
    let mut ip = Ipv4(frame[14..34].try_into().unwrap());
    let mut tcp = Tcp(frame[34..54].try_into().unwrap());
    let result = work(&mut Headers {
        ethernet: &mut ethernet,
        ip: &mut ip,
        tcp: &mut tcp,
        egress: Egress::default(),
    });
    frame[..6].copy_from_slice(&ethernet.destination);
    frame[6..12].copy_from_slice(&ethernet.source);
    frame[14..34].copy_from_slice(&ip.0);
    frame[34..54].copy_from_slice(&tcp.0);
    result
}
