//! What the program in the kernel does with each kind of packet: a sentence, the tables before, the packets in and out,
//! and what is counted in the end.
#![expect(clippy::print_stdout, reason = "the sentences are worth reading")]

mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use lb_common::family::{Address as _, V4, V6};
use lb_common::flow::{Direction, Flow, FlowKey, NextHop, Phase, Tick};
use lb_common::member::{BackendId, Slot};
use lb_common::reason::Reason;
use lb_common::service::{Access, Algorithm, Forwarding, Service, ServiceId, ServiceKey};
use lb_common::tally::{Tally, Traffic};
use lb_common::trunk::Trunk;
use lb_common::wire::{EgressTags, IpHeader as _};
use lb_userspace::engine::host_tables::HostTables;
use pglb_tests::frames::{CUSTOMER, IPV6, SERVICE, icmp_v6, with_tags};
use pglb_tests::packets::{ACK, FIN, FIRST_FRAGMENT, RST, SYN, Segment};

use program::{
    Action, BACKEND_SIDE, ESTABLISHED_SIZE, Framed as _, GATEWAY, INGRESS, NARROW, Program, Side,
    add_service, backend, client, endpoint, gateway, key, sent, slot, vip, way_to,
};

/// One row of the table.
struct Fixture<F: Side> {
    sentence: &'static str,
    tables: HostTables<F>,
    trunks: BTreeMap<u32, Trunk>,
    packets: Vec<(Vec<u8>, Action, Vec<u8>)>,
    reasons: BTreeMap<Reason, u64>,
    tallies: BTreeMap<Slot, Counts>,
    traffic: BTreeMap<Slot, Traffic>,
}

/// Half-open connections opened and closed, and established ones begun and ended.
type Counts = [u64; 4];

fn it<F: Side>(sentence: &'static str, tables: HostTables<F>) -> Fixture<F> {
    Fixture {
        sentence,
        tables,
        trunks: BTreeMap::new(),
        packets: Vec::new(),
        reasons: BTreeMap::new(),
        tallies: BTreeMap::new(),
        traffic: BTreeMap::new(),
    }
}

impl<F: Side> Fixture<F> {
    /// A packet comes, and leaves as these bytes.
    fn packet(mut self, came: Vec<u8>, action: Action, left: Vec<u8>) -> Self {
        self.packets.push((came, action, left));
        self
    }

    /// A packet goes on by the way that the routes know.
    fn forwards(mut self, came: &Segment, left: Segment) -> Self {
        let (traffic, bytes) = (
            self.traffic.entry(slot(0, 0)).or_default(),
            came.frame::<F>().len() as u64,
        );
        if left.destination == came.destination {
            traffic.packets_to_client += 1;
            traffic.bytes_to_client += bytes;
        } else {
            traffic.packets_to_backend += 1;
            traffic.bytes_to_backend += bytes;
        }
        self.packet(came.frame::<F>(), Action::Redirect, sent(left).frame::<F>())
    }

    /// A packet is answered by an RST.
    fn refuses(self, came: &Segment, reason: Reason) -> Self {
        self.counts_reason(reason)
            .packet(came.frame::<F>(), Action::Tx, came.reset().frame::<F>())
    }

    /// A packet is dropped.
    fn drops(self, came: Vec<u8>, reason: Reason) -> Self {
        self.counts_reason(reason)
            .packet(came.clone(), Action::Drop, came)
    }

    /// A packet is left to the kernel as it came.
    fn passes(self, came: Vec<u8>, reason: Reason) -> Self {
        self.counts_reason(reason)
            .packet(came.clone(), Action::Pass, came)
    }

    /// In the end this is counted for a slot, more than before.
    fn counts(mut self, slot: Slot, counts: Counts) -> Self {
        self.tallies.insert(slot, counts);
        self
    }

    /// A packet that was not forwarded is counted.
    fn counts_reason(mut self, reason: Reason) -> Self {
        *self.reasons.entry(reason).or_default() += 1;
        self
    }

    fn check(&self, program: &mut Program) -> Result<()> {
        program.fill(&self.tables)?;
        program.set_trunks(&self.trunks)?;
        let before: BTreeMap<_, _> = self
            .traffic
            .keys()
            .map(|slot| Ok((*slot, program.tables.traffic(*slot)?)))
            .collect::<Result<_>>()?;
        for (number, (came, action, left)) in self.packets.iter().enumerate() {
            let (did, leaves) = program.run(came)?;
            ensure!(did == *action, "packet {number}: {did:?}, not {action:?}");
            ensure!(
                leaves == *left,
                "packet {number} leaves as {}, not as {}",
                show(&leaves),
                show(left)
            );
        }
        let reasons = program.reasons()?;
        ensure!(
            reasons == self.reasons,
            "counted {reasons:?}, not {:?}",
            self.reasons
        );
        self.check_tallies(program)?;
        for (slot, traffic) in &self.traffic {
            let (now, before) = (program.tables.traffic(*slot)?, before[slot]);
            let counted = Traffic {
                packets_to_backend: now.packets_to_backend - before.packets_to_backend,
                bytes_to_backend: now.bytes_to_backend - before.bytes_to_backend,
                packets_to_client: now.packets_to_client - before.packets_to_client,
                bytes_to_client: now.bytes_to_client - before.bytes_to_client,
            };
            ensure!(
                counted == *traffic,
                "{slot:?} has {counted:?}, not {traffic:?}"
            );
        }
        Ok(())
    }

    /// Every slot that is not named has counted nothing; backends and the gateway sum their slots up.
    fn check_tallies(&self, program: &Program) -> Result<()> {
        let mut of_backends: BTreeMap<BackendId, Counts> = BTreeMap::new();
        for (slot, member) in &self.tables.members {
            let before =
                lb_common::tables::Tables::<F>::slot_tally(&self.tables, *slot).unwrap_or_default();
            let counted = since(program.tables.slot_tally(*slot)?, before);
            let expected = self.tallies.get(slot).copied().unwrap_or_default();
            ensure!(
                counted == expected,
                "{slot:?} has counted {counted:?}, not {expected:?}"
            );
            for id in [member.backend, BackendId::GATEWAY] {
                let sums = of_backends.entry(id).or_default();
                sums.iter_mut()
                    .zip(counted)
                    .for_each(|(sum, count)| *sum += count);
            }
        }
        for (id, expected) in of_backends {
            let before =
                lb_common::tables::Tables::<F>::backend_tally(&self.tables, id).unwrap_or_default();
            let counted = since(program.tables.backend_tally(id)?, before);
            ensure!(
                counted == expected,
                "{id:?} has counted {counted:?}, not {expected:?}"
            );
        }
        Ok(())
    }
}

fn since(now: Tally, before: Tally) -> Counts {
    [
        now.half_opened - before.half_opened,
        now.half_closed - before.half_closed,
        now.established - before.established,
        now.ended - before.ended,
    ]
}

fn show(frame: &[u8]) -> String {
    match Segment::read(frame) {
        Ok(segment) => format!("{segment:?}"),
        Err(error) => format!("{frame:02x?} ({error})"),
    }
}

/// A gateway with one service over this many backends.
fn of<F: Side>(backends: u8) -> HostTables<F> {
    let mut tables = gateway();
    let members: Vec<_> = (1..=backends).map(|number| (number, 100)).collect();
    add_service(&mut tables, 0, Algorithm::LeastConnections, &members);
    tables
}

/// Lets client 0 have a connection to backend 1 through service 0.
fn established<F: Side>() -> HostTables<F> {
    with_connection(of(1), Phase::Established)
}

fn with_connection<F: Side>(mut tables: HostTables<F>, phase: Phase) -> HostTables<F> {
    let (up, down) = flows::<F>(phase);
    for (key, flow) in [
        (key::<F>(client(0), vip(0)), up),
        (key::<F>(backend(1), client(0)), down),
    ] {
        if phase == Phase::Established {
            tables.set_established(key, flow);
        } else {
            tables.set_transient(key, flow);
        }
    }
    let mut tally = Tally {
        half_opened: 1,
        ..Tally::default()
    };
    if phase == Phase::Established {
        (tally.half_closed, tally.established) = (1, 1);
    }
    tables.set_slot_tally(slot(0, 0), tally);
    tables.set_backend_tally(BackendId(1), tally);
    tables.set_backend_tally(BackendId::GATEWAY, tally);
    tables
}

fn flows<F: Side>(phase: Phase) -> (Flow<F::Address>, Flow<F::Address>) {
    let (up, down) = (key::<F>(client(0), vip(0)), key::<F>(backend(1), client(0)));
    let flow = |direction, key: &FlowKey<F::Address>, leaving, to| {
        let mut flow = Flow::new(direction, key, leaving, slot(0, 0), Tick(0))
            .of_generation(1)
            .in_phase(phase);
        flow.next_hop = way_to(to);
        // What the client has to acknowledge.
        if phase == Phase::SynReceived {
            flow.memo = 7_001;
        }
        flow
    };
    (
        flow(Direction::ToBackend, &up, down.reversed(), backend(1)),
        flow(Direction::ToClient, &down, up.reversed(), client(0)),
    )
}

/// Changes the flows of the connection.
fn changed<F: Side>(
    mut tables: HostTables<F>,
    change: impl Fn(&mut Flow<F::Address>),
) -> HostTables<F> {
    for (key, mut flow) in tables.established_flows() {
        change(&mut flow);
        tables.set_established(key, flow);
    }
    for (key, mut flow) in tables.transient_flows() {
        change(&mut flow);
        tables.set_transient(key, flow);
    }
    tables
}

fn syn() -> Segment {
    Segment::syn(client(0), vip(0))
}

/// A segment of the client of the connection, and one of its backend.
fn up() -> Segment {
    Segment::between(client(0), vip(0))
        .sequence(1_001)
        .ack(7_001)
}

fn down() -> Segment {
    Segment::between(backend(1), client(0))
        .sequence(7_001)
        .ack(1_001)
}

fn opening<F: Side>() -> Vec<Fixture<F>> {
    let answer = Segment::syn(client(0), backend(1)).syn_ack();
    vec![
        it(
            "a SYN goes to a backend, with the client's address kept",
            of(1),
        )
        .forwards(&syn(), syn().to(backend(1)))
        .counts(slot(0, 0), [1, 0, 0, 0]),
        it(
            "a handshake goes there and back, and makes a connection",
            of(1),
        )
        .forwards(&syn(), syn().to(backend(1)))
        .forwards(&answer, answer.clone().from(vip(0)))
        .forwards(&up(), up().to(backend(1)))
        .forwards(
            &up().data(b"select 1"),
            up().data(b"select 1").to(backend(1)),
        )
        .forwards(&down().data(b"1"), down().data(b"1").from(vip(0)))
        .counts(slot(0, 0), [1, 1, 1, 0]),
        it(
            "a SYN whose backend has no known neighbour is rewritten and left to the kernel",
            {
                let mut tables = gateway();
                add_service(&mut tables, 0, Algorithm::LeastConnections, &[(15, 100)]);
                tables
            },
        )
        .packet(
            syn().frame::<F>(),
            Action::Pass,
            syn().to(backend(15)).frame::<F>(),
        )
        .counts(slot(0, 0), [1, 0, 0, 0]),
        it("the second connection goes to the other backend", of(2))
            .forwards(&syn(), syn().to(backend(1)))
            .packet(
                syn().from(client(1)).frame::<F>(),
                Action::Redirect,
                sent(syn().from(client(1)).to(backend(2))).frame::<F>(),
            )
            .counts(slot(0, 0), [1, 0, 0, 0])
            .counts(slot(0, 1), [1, 0, 0, 0]),
        it(
            "a SYN repeated to a silent backend goes to another",
            with_connection(of(2), Phase::SynSent),
        )
        .packet(
            syn().frame::<F>(),
            Action::Redirect,
            sent(syn().to(backend(2))).frame::<F>(),
        )
        .counts(slot(0, 0), [0, 1, 0, 0])
        .counts(slot(0, 1), [1, 0, 0, 0]),
        it(
            "a refusal is kept from the client, whose next SYN goes elsewhere",
            of(2),
        )
        .packet(
            syn().frame::<F>(),
            Action::Redirect,
            sent(syn().to(backend(1))).frame::<F>(),
        )
        .drops(
            down().flags(RST | ACK).frame::<F>(),
            Reason::RefusalWithheld,
        )
        .packet(
            syn().frame::<F>(),
            Action::Redirect,
            sent(syn().to(backend(2))).frame::<F>(),
        )
        .counts(slot(0, 0), [1, 1, 0, 0])
        .counts(slot(0, 1), [1, 0, 0, 0]),
        it("a lone backend's refusal reaches the client", of(1))
            .forwards(&syn(), syn().to(backend(1)))
            .forwards(
                &down().flags(RST | ACK),
                down().flags(RST | ACK).from(vip(0)),
            )
            .counts(slot(0, 0), [1, 1, 0, 0]),
        it(
            "a challenge ACK to a SYN reaches the client, and its reset the backend",
            of(1),
        )
        .forwards(&syn(), syn().to(backend(1)))
        .forwards(&down(), down().from(vip(0)))
        .forwards(&up().flags(RST), up().flags(RST).to(backend(1)))
        .counts(slot(0, 0), [1, 1, 0, 0]),
        it(
            "a client that gives up after the SYN-ACK is counted out",
            with_connection(of(1), Phase::SynReceived),
        )
        .forwards(&answer, answer.clone().from(vip(0)))
        .forwards(&up().flags(RST), up().flags(RST).to(backend(1)))
        .counts(slot(0, 0), [0, 1, 0, 0]),
        it(
            "a SYN that was answered keeps its backend",
            with_connection(of(2), Phase::SynReceived),
        )
        .forwards(&syn(), syn().to(backend(1))),
        it("round-robin takes turns", {
            let mut tables = gateway();
            add_service(&mut tables, 0, Algorithm::RoundRobin, &[(1, 100), (2, 100)]);
            tables.set_turn(ServiceId(0), 0);
            tables
        })
        .packet(
            syn().frame::<F>(),
            Action::Redirect,
            sent(syn().to(backend(1))).frame::<F>(),
        )
        .packet(
            syn().from(client(1)).frame::<F>(),
            Action::Redirect,
            sent(syn().from(client(1)).to(backend(2))).frame::<F>(),
        )
        .counts(slot(0, 0), [1, 0, 0, 0])
        .counts(slot(0, 1), [1, 0, 0, 0]),
        it("a member that is out gets nothing new", {
            let mut tables = of(2);
            let member = tables.members.get_mut(&slot(0, 0)).expect("a member");
            *member = member.eligible(false);
            tables
        })
        .packet(
            syn().frame::<F>(),
            Action::Redirect,
            sent(syn().to(backend(2))).frame::<F>(),
        )
        .counts(slot(0, 1), [1, 0, 0, 0]),
        it("a client that the allow list names is served", {
            let mut tables = restricted();
            allow(&mut tables, [10, 71, 0, 0], 24, Access::Allow);
            tables
        })
        .forwards(&syn(), syn().to(backend(1)))
        .counts(slot(0, 0), [1, 0, 0, 0]),
    ]
}

fn restricted<F: Side>() -> HostTables<F> {
    let mut tables = of(1);
    change_service(&mut tables, |service| service.restricted(Access::Deny));
    tables
}

fn change_service<F: Side>(tables: &mut HostTables<F>, change: impl Fn(Service) -> Service) {
    let service = tables
        .services
        .get_mut(&ServiceKey::new(endpoint::<F>(vip(0))))
        .expect("a service");
    *service = change(*service);
}

fn going_on<F: Side>() -> Vec<Fixture<F>> {
    let long = vec![0x5a; 1_400];
    let mut odd_window = up().data(b"x");
    odd_window.window = 0;
    odd_window.tcp_options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    vec![
        it("data goes both ways by the known ways", established())
            .forwards(&up().data(&long), up().data(&long).to(backend(1)))
            .forwards(&down().data(&long), down().data(&long).from(vip(0))),
        it(
            "options, windows and odd lengths stay as they are",
            established(),
        )
        .forwards(&odd_window, odd_window.clone().to(backend(1))),
        it(
            "a packet goes back out of the interface that it came from",
            changed(established(), |flow| {
                flow.next_hop.interface = INGRESS;
            }),
        )
        .packet(
            up().frame::<F>(),
            Action::Tx,
            sent(up().to(backend(1))).frame::<F>(),
        ),
        it(
            "a flow whose way was not known yet finds it",
            changed(established(), |flow| {
                flow.next_hop = NextHop::default();
            }),
        )
        .forwards(&up(), up().to(backend(1)))
        .forwards(&down(), down().from(vip(0))),
        it("a flow looks its way up again after a change of routes", {
            let mut stale = changed(established(), |flow| flow.next_hop.interface = 99);
            stale.next_hop_generation = 2;
            stale
        })
        .forwards(&up(), up().to(backend(1))),
        it("a SYN on a live connection goes to its backend", {
            let mut tables = with_connection(of(2), Phase::Established);
            let member = tables.members.get_mut(&slot(0, 0)).expect("a member");
            *member = member.eligible(false);
            tables
        })
        .forwards(&syn(), syn().to(backend(1)))
        .forwards(&up(), up().to(backend(1))),
    ]
}

fn closing<F: Side>() -> Vec<Fixture<F>> {
    let (up_fin, down_fin) = (up().flags(FIN | ACK), down().flags(FIN | ACK));
    vec![
        it(
            "two FINs end a connection, and the last ACK passes",
            established(),
        )
        .forwards(&up_fin, up_fin.clone().to(backend(1)))
        .forwards(
            &down().data(b"last words"),
            down().data(b"last words").from(vip(0)),
        )
        .forwards(&down_fin, down_fin.clone().from(vip(0)))
        .forwards(&up(), up().to(backend(1)))
        .counts(slot(0, 0), [0, 0, 0, 1]),
        it(
            "an RST ends a connection, and one more is not counted",
            established(),
        )
        .forwards(&down().flags(RST), down().flags(RST).from(vip(0)))
        .forwards(&down().flags(RST), down().flags(RST).from(vip(0)))
        .counts(slot(0, 0), [0, 0, 0, 1]),
        it(
            "ends that talk on after an RST have their connection back",
            established(),
        )
        .forwards(&up().flags(RST), up().flags(RST).to(backend(1)))
        .forwards(&down().data(b"1"), down().data(b"1").from(vip(0)))
        .forwards(&up(), up().to(backend(1)))
        .counts(slot(0, 0), [0, 0, 1, 1]),
        it("a SYN after the client's FIN ends nothing", {
            with_connection(of(1), Phase::Established)
        })
        .forwards(&up_fin, up_fin.clone().to(backend(1)))
        .forwards(&syn(), syn().to(backend(1)))
        .forwards(&down(), down().from(vip(0)))
        .counts(slot(0, 0), [0, 0, 0, 0]),
        it(
            "a SYN on an ended connection opens the next one",
            with_connection(of(1), Phase::Ended),
        )
        .forwards(&syn(), syn().to(backend(1)))
        .counts(slot(0, 0), [1, 0, 0, 0]),
        it(
            "a SYN on a superseded connection opens the next one",
            superseded(),
        )
        .forwards(&syn(), syn().to(backend(1)))
        .counts(slot(0, 0), [1, 0, 0, 0]),
    ]
}

/// The connection was ended by its member's generation.
fn superseded<F: Side>() -> HostTables<F> {
    let mut tables = established();
    tables
        .members
        .get_mut(&slot(0, 0))
        .expect("a member")
        .generation = 2;
    tables
}

fn refusing<F: Side>() -> Vec<Fixture<F>> {
    let strange = Segment::between(client(3), vip(0))
        .ack(4_242)
        .data(b"who is there?");
    let out = |is_holding| {
        let mut tables = of(1);
        let member = tables.members.get_mut(&slot(0, 0)).expect("a member");
        *member = member.eligible(false);
        change_service(&mut tables, |service| service.holding(is_holding));
        tables
    };
    vec![
        it(
            "a segment of no connection is answered by an exact RST",
            of(1),
        )
        .refuses(&strange, Reason::UnknownSegment)
        .refuses(
            &Segment::between(client(3), vip(0)).flags(FIN),
            Reason::UnknownSegment,
        ),
        it(
            "data before the SYN-ACK is refused",
            with_connection(of(1), Phase::SynSent),
        )
        .refuses(&up().data(b"early"), Reason::UnknownSegment),
        it("an RST of no connection is dropped", of(1)).drops(
            Segment::between(client(3), vip(0)).flags(RST).frame::<F>(),
            Reason::StrayReset,
        ),
        it(
            "both ends of a superseded connection get an exact RST",
            superseded(),
        )
        .refuses(&up().data(b"select 1"), Reason::Superseded)
        .refuses(&down().data(b"1"), Reason::Superseded)
        .drops(up().flags(RST).frame::<F>(), Reason::StrayReset),
        it("a SYN that nobody can serve is refused", out(false)).refuses(&syn(), Reason::NoBackend),
        it("a SYN that nobody can serve is held", out(true))
            .drops(syn().frame::<F>(), Reason::Held),
        it(
            "a client that the allow list does not name is refused",
            restricted(),
        )
        .refuses(&syn(), Reason::Denied),
        it(
            "a SYN is refused when the gateway is full, and the others go on",
            {
                let mut tables = established();
                tables
                    .backends
                    .entry(BackendId::GATEWAY)
                    .or_default()
                    .max_connections = 1;
                tables
            },
        )
        .refuses(&syn().from(client(1)), Reason::TableFull)
        .forwards(&up(), up().to(backend(1))),
        it("an ACK is refused when the table is full", {
            let mut tables = with_connection(of(1), Phase::SynReceived);
            let (up, _) = flows::<F>(Phase::Established);
            for number in 0..ESTABLISHED_SIZE {
                let mut other = key::<F>(client(7), vip(0));
                other.source_port = u16::try_from(number).expect("a port").to_be_bytes();
                tables.set_established(other, up);
            }
            tables
        })
        .refuses(&up(), Reason::TableFull)
        .counts(slot(0, 0), [0, 1, 0, 0]),
        it(
            "a SYN whose replies would be another connection's is refused",
            {
                let mut tables = established();
                add_service(&mut tables, 1, Algorithm::LeastConnections, &[(1, 100)]);
                tables
            },
        )
        .refuses(&syn().to(vip(1)), Reason::ReplyCollision)
        .forwards(&down(), down().from(vip(0))),
        it("a packet with no hop left goes nowhere", established())
            .drops(syn().from(client(1)).ttl(1).frame::<F>(), Reason::HopLimit)
            .drops(up().ttl(1).frame::<F>(), Reason::HopLimit)
            .drops(down().ttl(0).frame::<F>(), Reason::HopLimit),
        it(
            "a flow of a slot that does not exist is dropped",
            changed(established(), |flow| {
                flow.slot = Slot(u16::MAX);
            }),
        )
        .drops(up().frame::<F>(), Reason::Inconsistent),
    ]
}

fn not_ours() -> Vec<Fixture<V4>> {
    type F = V4;
    let elsewhere = |port| SocketAddrV4::new(*vip(0).ip(), port);
    let changed = |at: usize, value: u8| {
        let mut frame = syn().frame::<F>();
        frame[at] = value;
        frame
    };
    let mut fixtures = vec![
        it("what is no IPv4 is not ours", of(1))
            .passes(changed(13, 0x06), Reason::NotIp)
            .passes(changed(12, 0x86), Reason::NotIp)
            .passes(with_tags(&changed(13, 0x06), &TWO_TAGS[1..]), Reason::NotIp)
            .passes(with_tags(&changed(13, 0x06), &TWO_TAGS), Reason::NotIp),
        it("what is no TCP is not ours", of(1))
            .passes(changed(23, 17), Reason::NotTcp)
            .passes(changed(23, 1), Reason::NotTcp),
        it(
            "lengths that contradict each other are the kernel's to judge",
            of(1),
        )
        .passes(changed(14, 0x65), Reason::Truncated)
        .passes(changed(14, 0x44), Reason::Truncated)
        .passes(changed(46, 0x40), Reason::Truncated)
        .passes(changed(46, 0xf0), Reason::Truncated)
        .passes(changed(17, 39), Reason::Truncated)
        .passes(changed(17, 10), Reason::Truncated)
        .passes(changed(17, 0), Reason::Truncated),
        it("other addresses and ports are not ours", established())
            .passes(syn().to(elsewhere(5433)).frame::<F>(), Reason::NotOurs)
            .passes(syn().to(vip(1)).frame::<F>(), Reason::NotOurs)
            .passes(up().to(backend(1)).frame::<F>(), Reason::NotOurs)
            .passes(down().from(backend(2)).frame::<F>(), Reason::NotOurs)
            .passes(
                down().to(client(1)).flags(SYN | ACK).frame::<F>(),
                Reason::NotOurs,
            ),
    ];
    let whole = syn().frame::<F>();
    let cut = it(
        "a frame that ends within its headers is the kernel's to judge",
        of(1),
    );
    fixtures.push((14..54).fold(cut, |fixture, length| {
        fixture.passes(whole[..length].to_vec(), Reason::Truncated)
    }));
    fixtures
}

/// A provider's tag, and a customer's behind it.
const TWO_TAGS: [([u8; 2], u16); 2] = [(SERVICE, 100), (CUSTOMER, 0x6007)];

fn allow<F: Side>(tables: &mut HostTables<F>, network: [u8; 4], prefix: u8, access: Access) {
    let network = F::address(network.into()).widen();
    let key = (ServiceId(0), network, 96 + prefix);
    tables.access.insert(key, access);
}

fn forwarded<F: Side>(forwarding: Forwarding) -> HostTables<F> {
    let mut tables = of(1);
    change_service(&mut tables, |service| service.forwarded(forwarding));
    // The client's own port, and no other.
    tables.ports = (40_000, 40_000);
    tables
}

fn forwarding_otherwise<F: Side>() -> Vec<Fixture<F>> {
    let gateway = SocketAddrV4::new(GATEWAY, 40_000);
    let answer = Segment::syn(gateway, backend(1)).syn_ack();
    let down = || {
        Segment::between(backend(1), gateway)
            .sequence(7_001)
            .ack(1_001)
    };
    let across = |segment: Segment| segment.from(gateway).to(backend(1));
    let back = |segment: Segment| segment.from(vip(0)).to(client(0));
    let redirected = |segment: Segment| sent(segment).frame::<F>();
    let direct = |segment: Segment| {
        let way = way_to(backend(1));
        let frame = segment.macs(way.source, way.destination).ttl(63);
        frame.frame::<F>()
    };
    let behind_router = || {
        let mut tables = forwarded::<F>(Forwarding::Dsr);
        let mut far = backend(1);
        far.set_ip([10, 74, 0, 11].into());
        let row = tables.backends.get_mut(&BackendId(1)).expect("a backend");
        row.set_endpoint(endpoint::<F>(far).map(|address| address.widen()));
        tables
    };
    vec![
        it(
            "a full-nat connection comes from the gateway, and its replies go through it",
            forwarded(Forwarding::FullNat),
        )
        .packet(
            syn().frame::<F>(),
            Action::Redirect,
            redirected(across(syn())),
        )
        .packet(
            answer.frame::<F>(),
            Action::Redirect,
            redirected(back(answer.clone())),
        )
        .packet(
            up().data(b"select 1").frame::<F>(),
            Action::Redirect,
            redirected(across(up().data(b"select 1"))),
        )
        .packet(
            down().data(b"1").frame::<F>(),
            Action::Redirect,
            redirected(back(down().data(b"1"))),
        )
        .counts(slot(0, 0), [1, 1, 1, 0]),
        it(
            "a full-nat connection without a free port is refused",
            forwarded(Forwarding::FullNat),
        )
        .packet(
            syn().frame::<F>(),
            Action::Redirect,
            redirected(across(syn())),
        )
        .refuses(&syn().from(client(1)), Reason::NoPort)
        .counts(slot(0, 0), [1, 0, 0, 0]),
        it(
            "a dsr packet goes to its backend as it came",
            forwarded(Forwarding::Dsr),
        )
        .packet(syn().frame::<F>(), Action::Redirect, direct(syn()))
        .packet(up().frame::<F>(), Action::Redirect, direct(up()))
        .packet(
            up().data(b"select 1").frame::<F>(),
            Action::Redirect,
            direct(up().data(b"select 1")),
        )
        .counts(slot(0, 0), [1, 1, 1, 0]),
        it(
            "a dsr packet to a backend without a known neighbour waits",
            {
                let mut tables = gateway_over(15);
                change_service(&mut tables, |service| service.forwarded(Forwarding::Dsr));
                tables
            },
        )
        .drops(syn().frame::<F>(), Reason::NoNeighbour),
        it(
            "a dsr packet never goes to a backend behind a router",
            behind_router(),
        )
        .drops(syn().frame::<F>(), Reason::NotOnLink),
    ]
}

/// A gateway with one service over this backend.
fn gateway_over<F: Side>(backend: u8) -> HostTables<F> {
    let mut tables = gateway();
    add_service(
        &mut tables,
        0,
        Algorithm::LeastConnections,
        &[(backend, 100)],
    );
    tables
}

fn limiting<F: Side>() -> Vec<Fixture<F>> {
    let with_port = |segment: Segment, port| {
        let source = SocketAddrV4::new(*segment.source.ip(), port);
        segment.from(source)
    };
    let other = || with_port(syn(), 40_001);
    let limited = |change: fn(&mut Service)| {
        let mut tables = of(1);
        change_service(&mut tables, |mut service| {
            change(&mut service);
            service
        });
        tables
    };
    let answer = Segment::syn(client(0), backend(1)).syn_ack();
    let lists = |otherwise, networks: [(u8, Access); 2]| {
        let mut tables = of(1);
        change_service(&mut tables, |service| service.restricted(otherwise));
        for (prefix, access) in networks {
            let host = if prefix == 32 { 10 } else { 0 };
            allow(&mut tables, [10, 71, 0, host], prefix, access);
        }
        tables
    };
    vec![
        it(
            "the longest network that holds a client allows it",
            lists(Access::Deny, [(24, Access::Deny), (32, Access::Allow)]),
        )
        .forwards(&syn(), syn().to(backend(1)))
        .refuses(&syn().from(client(1)), Reason::Denied)
        .counts(slot(0, 0), [1, 0, 0, 0]),
        it(
            "the longest network that holds a client denies it",
            lists(Access::Allow, [(24, Access::Allow), (32, Access::Deny)]),
        )
        .refuses(&syn(), Reason::Denied)
        .packet(
            syn().from(client(1)).frame::<F>(),
            Action::Redirect,
            sent(syn().from(client(1)).to(backend(1))).frame::<F>(),
        )
        .counts(slot(0, 0), [1, 0, 0, 0]),
        it(
            "a client that opens connections too fast waits, and nobody else",
            limited(|service| service.source_rate = 1),
        )
        .forwards(&syn(), syn().to(backend(1)))
        .drops(other().frame::<F>(), Reason::SourceRate)
        .forwards(&syn().from(client(1)), syn().from(client(1)).to(backend(1)))
        .counts(slot(0, 0), [2, 0, 0, 0]),
        it(
            "a client that has its connections gets no more until one ends",
            limited(|service| service.source_connections = 1),
        )
        .forwards(&syn(), syn().to(backend(1)))
        .forwards(&answer, answer.clone().from(vip(0)))
        .forwards(&up(), up().to(backend(1)))
        .refuses(&other(), Reason::SourceLimit)
        .forwards(&syn().from(client(1)), syn().from(client(1)).to(backend(1)))
        .forwards(&up().flags(RST), up().flags(RST).to(backend(1)))
        .forwards(&other(), other().to(backend(1)))
        .counts(slot(0, 0), [3, 1, 1, 1]),
    ]
}

fn tagging<F: Side>() -> Vec<Fixture<F>> {
    let [provider, customer] = TWO_TAGS;
    let one = [customer];
    let with_egress = |tags| changed(established::<F>(), |flow| flow.next_hop.tags = tags);
    let strange = Segment::between(client(3), vip(0)).ack(4_242);
    let foreign = syn().to(vip(1)).frame::<F>();
    let mut arp = foreign.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let data = || up().data(b"select 1");
    let left = || sent(data().to(backend(1))).frame::<F>();
    let on_trunk = |tags| {
        let tables = changed(established::<F>(), |flow| {
            flow.next_hop = NextHop::default()
        });
        let mut fixture = it(
            "a VLAN device's frames leave by the one below it, tagged",
            tables,
        );
        let (interface, _) = BACKEND_SIDE;
        fixture.trunks.insert(interface, Trunk { interface, tags });
        fixture
    };
    vec![
        it("a forwarded packet loses its tags", established())
            .packet(
                with_tags(&data().frame::<F>(), &one),
                Action::Redirect,
                left(),
            )
            .packet(
                with_tags(&data().frame::<F>(), &TWO_TAGS),
                Action::Redirect,
                left(),
            ),
        it(
            "a forwarded packet gets the tag of its way",
            with_egress(EgressTags([9, 0])),
        )
        .packet(
            data().frame::<F>(),
            Action::Redirect,
            with_tags(&left(), &[(CUSTOMER, 9)]),
        )
        .packet(
            with_tags(&data().frame::<F>(), &TWO_TAGS),
            Action::Redirect,
            with_tags(&left(), &[(CUSTOMER, 9)]),
        ),
        it(
            "a forwarded packet gets both tags of its way",
            with_egress(EgressTags([EgressTags::SERVICE | 200, 9])),
        )
        .packet(
            data().frame::<F>(),
            Action::Redirect,
            with_tags(&left(), &[(SERVICE, 200), (CUSTOMER, 9)]),
        )
        .packet(
            with_tags(&data().frame::<F>(), &one),
            Action::Redirect,
            with_tags(&left(), &[(SERVICE, 200), (CUSTOMER, 9)]),
        ),
        on_trunk(EgressTags([9, 0])).packet(
            data().frame::<F>(),
            Action::Redirect,
            with_tags(&left(), &[(CUSTOMER, 9)]),
        ),
        on_trunk(EgressTags([EgressTags::SERVICE | 200, 9])).packet(
            with_tags(&data().frame::<F>(), &one),
            Action::Redirect,
            with_tags(&left(), &[(SERVICE, 200), (CUSTOMER, 9)]),
        ),
        it("a refused packet keeps its tags", of(1))
            .counts_reason(Reason::UnknownSegment)
            .packet(
                with_tags(&strange.frame::<F>(), &one),
                Action::Tx,
                with_tags(&strange.reset().frame::<F>(), &one),
            )
            .counts_reason(Reason::UnknownSegment)
            .packet(
                with_tags(&strange.frame::<F>(), &TWO_TAGS),
                Action::Tx,
                with_tags(&strange.reset().frame::<F>(), &TWO_TAGS),
            ),
        it("what is not ours keeps its tags", of(1))
            .passes(with_tags(&foreign, &[provider]), Reason::NotOurs)
            .passes(with_tags(&foreign, &one), Reason::NotOurs)
            .passes(with_tags(&foreign, &TWO_TAGS), Reason::NotOurs)
            .passes(
                with_tags(&foreign, &[provider, provider, customer]),
                Reason::NotIp,
            )
            .passes(with_tags(&arp, &one), Reason::NotIp)
            .passes(with_tags(&arp, &TWO_TAGS), Reason::NotIp),
    ]
}

fn fragments<F: Side>() -> Vec<Fixture<F>> {
    let fragment = |target, field| {
        let mut segment = Segment::syn(client(0), target);
        segment.fragment = field;
        segment.frame::<F>()
    };
    let with_options = |target| {
        let mut segment = Segment::syn(client(0), target);
        segment.ip_options = vec![1; 4];
        segment.frame::<F>()
    };
    vec![
        it(
            "fragments and options are dropped when a service is meant, and passed when not",
            of(1),
        )
        .drops(fragment(vip(0), FIRST_FRAGMENT), Reason::Fragment)
        .drops(fragment(vip(0), FIRST_FRAGMENT | 100), Reason::Fragment)
        .drops(fragment(vip(0), 100), Reason::Fragment)
        .passes(fragment(vip(1), FIRST_FRAGMENT), Reason::NotOurs)
        .passes(fragment(vip(1), 100), Reason::NotOurs)
        .drops(with_options(vip(0)), Reason::IpOptions)
        .passes(with_options(vip(1)), Reason::NotOurs),
    ]
}

/// Where the packet begins in its frame.
const PACKET: usize = 14;
const UNREACHABLE_MTU: [u8; 4] = [0, 0, 0x05, 0x14];

fn reporting<F: Side>() -> Vec<Fixture<F>> {
    let [client_router, backend_router] = [client(7), backend(8)];
    // As it left the gateway and was too big for somebody behind it.
    let quoted = |segment: Segment, length: usize| {
        let mut packet = segment.ttl(61).frame::<F>()[PACKET..].to_vec();
        packet.truncate(length);
        packet
    };
    let long = || up().data(&[0x5a; 333]);
    let reply = || down().data(&[0xa5; 222]);
    let error = |from: SocketAddrV4, to: SocketAddrV4, kind, quote: Vec<u8>| {
        let around = Segment::between(from, to).ttl(60);
        (
            around.clone(),
            F::icmp(&around, kind, UNREACHABLE_MTU, &quote),
        )
    };
    let arrived = |from, to, quote| error(from, to, F::TOO_BIG, quote).1;
    let left = |from, to, quote: Vec<u8>| {
        let (around, _) = error(from, to, F::TOO_BIG, quote.clone());
        F::icmp(&sent(around), F::TOO_BIG, UNREACHABLE_MTU, &quote)
    };
    let header = F::Header::LENGTH;
    let whole = header + 20 + 333;
    let mut fixtures = vec![];
    for length in [whole, header + 20, header + 8] {
        fixtures.push(
            it(
                "a router's report about the client's packet reaches the client",
                established(),
            )
            .packet(
                arrived(
                    backend_router,
                    client(0),
                    quoted(long().to(backend(1)), length),
                ),
                Action::Redirect,
                left(backend_router, client(0), quoted(long(), length)),
            ),
        );
        fixtures.push(
            it(
                "a router's report about the backend's packet reaches the backend",
                established(),
            )
            .packet(
                arrived(client_router, vip(0), quoted(reply().from(vip(0)), length)),
                Action::Redirect,
                left(client_router, backend(1), quoted(reply(), length)),
            ),
        );
    }
    fixtures.push(
        it("a backend's own report comes from the VIP", established()).packet(
            arrived(backend(1), client(0), quoted(long().to(backend(1)), whole)),
            Action::Redirect,
            left(vip(0), client(0), quoted(long(), whole)),
        ),
    );
    let foreign = quoted(long().to(backend(2)), whole);
    let to_vip = quoted(reply().from(vip(1)), whole);
    let (echo, _) = error(client(0), vip(0), [8, 0], vec![]);
    let kind = if F::ICMP == 1 { [8, 0] } else { [128, 0] };
    fixtures.extend([
        it("reports about what is not ours pass", established())
            .passes(arrived(backend_router, client(0), foreign), Reason::NotOurs)
            .passes(arrived(client_router, vip(1), to_vip), Reason::NotOurs)
            .passes(
                arrived(client_router, vip(1), quoted(reply().from(vip(0)), whole)),
                Reason::NotOurs,
            ),
        it("an echo request to the VIP is not ours", established()).passes(
            F::icmp(&echo, kind, [0, 1, 0, 1], b"are you there?"),
            Reason::NotTcp,
        ),
        it(
            "a report about a superseded connection is dropped",
            superseded(),
        )
        .drops(
            arrived(
                backend_router,
                client(0),
                quoted(long().to(backend(1)), whole),
            ),
            Reason::StrayError,
        ),
    ]);
    fixtures
}

fn too_big<F: Side>() -> Vec<Fixture<F>> {
    let length = usize::from(NARROW.1) - F::Header::LENGTH - 20;
    let fits = || up().data(&vec![0x5a; length]);
    let longer = || up().data(&vec![0x5a; length + 1]);
    let narrow = backend(NARROW.0);
    let report = |segment: &Segment| {
        let mut around = Segment::between(segment.destination, segment.source)
            .macs(segment.destination_mac, segment.source_mac);
        around.identification = 0;
        let [high, low] = NARROW.1.to_be_bytes();
        let packet = &segment.frame::<F>()[PACKET..];
        let quoted = &packet[..F::Header::LENGTH + 20];
        F::icmp(&around, F::TOO_BIG, [0, 0, high, low], quoted)
    };
    let one = [TWO_TAGS[1]];
    let answer = Segment::syn(client(0), narrow).syn_ack();
    vec![
        it(
            "a packet that is too big for its way is reported to its sender",
            gateway_over(NARROW.0),
        )
        .forwards(&syn(), syn().to(narrow))
        .forwards(&answer, answer.clone().from(vip(0)))
        .forwards(&up(), up().to(narrow))
        .forwards(&fits(), fits().to(narrow))
        .counts_reason(Reason::TooBig)
        .packet(longer().frame::<F>(), Action::Tx, report(&longer()))
        .counts_reason(Reason::TooBig)
        .packet(
            with_tags(&longer().frame::<F>(), &one),
            Action::Tx,
            with_tags(&report(&longer()), &one),
        )
        .counts(slot(0, 0), [1, 1, 1, 0]),
    ]
}

fn not_ours_v6() -> Vec<Fixture<V6>> {
    type F = V6;
    let changed = |at: usize, value: u8| {
        let mut frame = syn().frame::<F>();
        frame[at] = value;
        frame
    };
    let around = Segment::between(client(0), client(1)).ttl(255);
    let target = sought();
    let whole = syn().frame::<F>();
    let cut = it(
        "an IPv6 frame that ends within its headers is the kernel's",
        of(1),
    );
    let cut = (14..74).fold(cut, |fixture, length| {
        fixture.passes(whole[..length].to_vec(), Reason::Truncated)
    });
    vec![
        it("neighbour discovery is the kernel's", of(1))
            .passes(icmp_v6(&around, [135, 0], [0; 4], &target), Reason::NotTcp)
            .passes(
                icmp_v6(&around, [136, 0], [0x60, 0, 0, 0], &target),
                Reason::NotTcp,
            ),
        it("what is no TCP over IPv6 is not ours", of(1))
            .passes(changed(20, 17), Reason::NotTcp)
            .passes(changed(14, 0x40), Reason::Truncated)
            .passes(changed(19, 19), Reason::Truncated)
            .passes([&[0; 12], &IPV6[..], &[0; 10]].concat(), Reason::Truncated),
        cut,
    ]
}

/// What neighbour discovery asks for.
fn sought() -> Vec<u8> {
    pglb_tests::frames::twin(*vip(0).ip()).octets().to_vec()
}

fn every_fixture<F: Side>() -> Vec<Fixture<F>> {
    [
        opening(),
        going_on(),
        closing(),
        refusing(),
        forwarding_otherwise(),
        limiting(),
        tagging(),
        fragments(),
        reporting(),
        too_big(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn check_all<F: Side>(fixtures: Vec<Fixture<F>>) -> Result<()> {
    program::with_program(move |program| {
        let mut broken = Vec::new();
        for fixture in fixtures {
            match fixture.check(program) {
                Ok(()) => println!("holds: {}", fixture.sentence),
                Err(error) => broken.push(format!("{}: {error:#}", fixture.sentence)),
            }
        }
        ensure!(
            broken.is_empty(),
            "{} sentences do not hold:\n{}",
            broken.len(),
            broken.join("\n")
        );
        Ok(())
    })
}

#[test]
fn every_sentence_holds_in_the_kernel() -> Result<()> {
    check_all::<V4>(
        every_fixture()
            .into_iter()
            .chain(not_ours())
            .collect::<Vec<_>>(),
    )
}

#[test]
fn every_sentence_holds_in_the_kernel_over_ipv6() -> Result<()> {
    check_all::<V6>(
        every_fixture()
            .into_iter()
            .chain(not_ours_v6())
            .collect::<Vec<_>>(),
    )
}

/// A frame always has room in front of it for two tags.
const NO_SENTENCE: [Reason; 1] = [Reason::VlanTags];

#[test]
fn every_reason_has_a_sentence() {
    let fixtures: Vec<_> = every_fixture::<V4>()
        .into_iter()
        .chain(not_ours())
        .collect();
    let covered: BTreeSet<_> = fixtures
        .iter()
        .flat_map(|fixture| fixture.reasons.keys())
        .collect();
    let missing: Vec<_> = Reason::ALL
        .iter()
        .filter(|reason| !covered.contains(reason) && !NO_SENTENCE.contains(reason))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// A veth drops what `XDP_TX` sends unless its peer runs XDP too.
#[test]
fn on_a_veth_packets_go_back_by_redirection() -> Result<()> {
    program::with_constants(&[("REDIRECT_BACK", 1)], |program| {
        type F = V4;
        let back = changed(established::<F>(), |flow| flow.next_hop.interface = INGRESS);
        it("an RST and a forwarded packet", back)
            .packet(
                up().frame::<F>(),
                Action::Redirect,
                sent(up().to(backend(1))).frame::<F>(),
            )
            .packet(
                up().from(client(1)).frame::<F>(),
                Action::Redirect,
                up().from(client(1)).reset().frame::<F>(),
            )
            .counts_reason(Reason::UnknownSegment)
            .check(program)
    })
}
