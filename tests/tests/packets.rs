//! What the program in the kernel does with each kind of packet: a sentence, the tables before, the packets in and out,
//! and what is counted in the end.
#![expect(clippy::print_stdout, reason = "the sentences are worth reading")]

mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use lb_common::flow::{Direction, Flow, NextHop, Phase, Tick};
use lb_common::member::{BackendId, Slot};
use lb_common::reason::Reason;
use lb_common::service::{Algorithm, ServiceKey};
use lb_common::tally::{Tally, Traffic};
use lb_userspace::engine::host_tables::HostTables;
use pglb_tests::packets::{ACK, FIN, FIRST_FRAGMENT, RST, SYN, Segment, tagged};

use program::{
    Action, ESTABLISHED_SIZE, INGRESS, Program, add_service, backend, client, endpoint, gateway,
    key, sent, slot, vip, way_to,
};

/// One row of the table.
struct Fixture {
    sentence: &'static str,
    tables: HostTables,
    packets: Vec<(Vec<u8>, Action, Vec<u8>)>,
    reasons: BTreeMap<Reason, u64>,
    tallies: BTreeMap<Slot, Counts>,
    traffic: BTreeMap<Slot, Traffic>,
}

/// Half-open connections opened and closed, and established ones begun and ended.
type Counts = [u64; 4];

fn it(sentence: &'static str, tables: HostTables) -> Fixture {
    Fixture {
        sentence,
        tables,
        packets: Vec::new(),
        reasons: BTreeMap::new(),
        tallies: BTreeMap::new(),
        traffic: BTreeMap::new(),
    }
}

impl Fixture {
    /// A packet comes, and leaves as these bytes.
    fn packet(mut self, came: Vec<u8>, action: Action, left: Vec<u8>) -> Self {
        self.packets.push((came, action, left));
        self
    }

    /// A packet goes on by the way that the routes know.
    fn forwards(mut self, came: &Segment, left: Segment) -> Self {
        let (traffic, bytes) = (
            self.traffic.entry(slot(0, 0)).or_default(),
            came.bytes().len() as u64,
        );
        if left.destination == came.destination {
            traffic.packets_to_client += 1;
            traffic.bytes_to_client += bytes;
        } else {
            traffic.packets_to_backend += 1;
            traffic.bytes_to_backend += bytes;
        }
        self.packet(came.bytes(), Action::Redirect, sent(left).bytes())
    }

    /// A packet is answered by an RST.
    fn refuses(self, came: &Segment, reason: Reason) -> Self {
        self.counts_reason(reason)
            .packet(came.bytes(), Action::Tx, came.reset().bytes())
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
                lb_common::tables::Tables::slot_tally(&self.tables, *slot).unwrap_or_default();
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
                lb_common::tables::Tables::backend_tally(&self.tables, id).unwrap_or_default();
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
fn of(backends: u8) -> HostTables {
    let mut tables = gateway();
    let members: Vec<_> = (1..=backends).map(|number| (number, 100)).collect();
    add_service(&mut tables, 0, Algorithm::LeastConnections, &members);
    tables
}

/// Lets client 0 have a connection to backend 1 through service 0.
fn established() -> HostTables {
    with_connection(of(1), Phase::Established)
}

fn with_connection(mut tables: HostTables, phase: Phase) -> HostTables {
    let (up, down) = flows(phase);
    for (key, flow) in [
        (key(client(0), vip(0)), up),
        (key(backend(1), client(0)), down),
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

fn flows(phase: Phase) -> (Flow<[u8; 4]>, Flow<[u8; 4]>) {
    let flow = |direction, rewritten: SocketAddrV4, to| {
        let mut flow =
            Flow::new(direction, endpoint(rewritten), slot(0, 0), 1, Tick(0)).in_phase(phase);
        flow.next_hop = way_to(to);
        flow
    };
    (
        flow(Direction::ToBackend, backend(1), backend(1)),
        flow(Direction::ToClient, vip(0), client(0)),
    )
}

/// Changes the flows of the connection.
fn changed(mut tables: HostTables, change: impl Fn(&mut Flow<[u8; 4]>)) -> HostTables {
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

fn opening() -> Vec<Fixture> {
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
        .packet(syn().bytes(), Action::Pass, syn().to(backend(15)).bytes())
        .counts(slot(0, 0), [1, 0, 0, 0]),
        it("the second connection goes to the other backend", of(2))
            .forwards(&syn(), syn().to(backend(1)))
            .packet(
                syn().from(client(1)).bytes(),
                Action::Redirect,
                sent(syn().from(client(1)).to(backend(2))).bytes(),
            )
            .counts(slot(0, 0), [1, 0, 0, 0])
            .counts(slot(0, 1), [1, 0, 0, 0]),
        it(
            "a SYN repeated to a silent backend goes to another",
            with_connection(of(2), Phase::SynSent),
        )
        .packet(
            syn().bytes(),
            Action::Redirect,
            sent(syn().to(backend(2))).bytes(),
        )
        .counts(slot(0, 0), [0, 1, 0, 0])
        .counts(slot(0, 1), [1, 0, 0, 0]),
        it(
            "a refusal is kept from the client, whose next SYN goes elsewhere",
            of(2),
        )
        .packet(
            syn().bytes(),
            Action::Redirect,
            sent(syn().to(backend(1))).bytes(),
        )
        .drops(down().flags(RST | ACK).bytes(), Reason::RefusalWithheld)
        .packet(
            syn().bytes(),
            Action::Redirect,
            sent(syn().to(backend(2))).bytes(),
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
            tables.set_turn(lb_common::service::ServiceId(0), 0);
            tables
        })
        .packet(
            syn().bytes(),
            Action::Redirect,
            sent(syn().to(backend(1))).bytes(),
        )
        .packet(
            syn().from(client(1)).bytes(),
            Action::Redirect,
            sent(syn().from(client(1)).to(backend(2))).bytes(),
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
            syn().bytes(),
            Action::Redirect,
            sent(syn().to(backend(2))).bytes(),
        )
        .counts(slot(0, 1), [1, 0, 0, 0]),
        it("a client that the allow list names is served", {
            let mut tables = restricted();
            tables.allowed.insert(([0, 0, 10, 71, 0, 0], 16 + 24));
            tables
        })
        .forwards(&syn(), syn().to(backend(1)))
        .counts(slot(0, 0), [1, 0, 0, 0]),
    ]
}

fn restricted() -> HostTables {
    let mut tables = of(1);
    change_service(&mut tables, |service| service.restricted(true));
    tables
}

fn change_service(
    tables: &mut HostTables,
    change: impl Fn(lb_common::service::Service) -> lb_common::service::Service,
) {
    let service = tables
        .services
        .get_mut(&ServiceKey::new(endpoint(vip(0))))
        .expect("a service");
    *service = change(*service);
}

fn going_on() -> Vec<Fixture> {
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
        .packet(up().bytes(), Action::Tx, sent(up().to(backend(1))).bytes()),
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

fn closing() -> Vec<Fixture> {
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
        it("a SYN after the client's FIN opens the next connection", {
            with_connection(of(1), Phase::Established)
        })
        .forwards(&up_fin, up_fin.clone().to(backend(1)))
        .forwards(&syn(), syn().to(backend(1)))
        .counts(slot(0, 0), [1, 0, 0, 1]),
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
fn superseded() -> HostTables {
    let mut tables = established();
    tables
        .members
        .get_mut(&slot(0, 0))
        .expect("a member")
        .generation = 2;
    tables
}

fn refusing() -> Vec<Fixture> {
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
            Segment::between(client(3), vip(0)).flags(RST).bytes(),
            Reason::StrayReset,
        ),
        it(
            "both ends of a superseded connection get an exact RST",
            superseded(),
        )
        .refuses(&up().data(b"select 1"), Reason::Superseded)
        .refuses(&down().data(b"1"), Reason::Superseded)
        .drops(up().flags(RST).bytes(), Reason::StrayReset),
        it("a SYN that nobody can serve is refused", out(false)).refuses(&syn(), Reason::NoBackend),
        it("a SYN that nobody can serve is held", out(true)).drops(syn().bytes(), Reason::Held),
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
            let (up, _) = flows(Phase::Established);
            for number in 0..ESTABLISHED_SIZE {
                let mut other = key(client(7), vip(0));
                other.source_port = u16::try_from(number).expect("a port").to_be_bytes();
                tables.set_established(other, up);
            }
            tables
        })
        .refuses(&up(), Reason::TableFull),
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
            .drops(syn().from(client(1)).ttl(1).bytes(), Reason::HopLimit)
            .drops(up().ttl(1).bytes(), Reason::HopLimit)
            .drops(down().ttl(0).bytes(), Reason::HopLimit),
        it(
            "a flow of a slot that does not exist is dropped",
            changed(established(), |flow| {
                flow.slot = Slot(u16::MAX);
            }),
        )
        .drops(up().bytes(), Reason::Inconsistent),
    ]
}

fn not_ours() -> Vec<Fixture> {
    let elsewhere = |port| SocketAddrV4::new(*vip(0).ip(), port);
    let changed = |at: usize, value: u8| {
        let mut frame = syn().bytes();
        frame[at] = value;
        frame
    };
    let with_options = |target| {
        let mut segment = Segment::syn(client(0), target);
        segment.ip_options = vec![148, 4, 0, 0];
        segment.bytes()
    };
    let fragment = |target, offset| {
        let mut segment = Segment::syn(client(0), target);
        segment.fragment = offset;
        segment.bytes()
    };
    let mut fixtures = vec![
        it("what is no IPv4 is not ours", of(1))
            .passes(changed(13, 0x06), Reason::NotIp)
            .passes(changed(12, 0x86), Reason::NotIp)
            .passes(tagged(&syn().bytes(), 7), Reason::NotIp)
            .passes(tagged(&tagged(&syn().bytes(), 7), 8), Reason::NotIp),
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
            .passes(syn().to(elsewhere(5433)).bytes(), Reason::NotOurs)
            .passes(syn().to(vip(1)).bytes(), Reason::NotOurs)
            .passes(up().to(backend(1)).bytes(), Reason::NotOurs)
            .passes(down().from(backend(2)).bytes(), Reason::NotOurs)
            .passes(
                down().to(client(1)).flags(SYN | ACK).bytes(),
                Reason::NotOurs,
            ),
        it(
            "fragments and options are dropped when a service is meant, and passed when not",
            of(1),
        )
        .drops(fragment(vip(0), FIRST_FRAGMENT), Reason::Fragment)
        .passes(fragment(vip(1), FIRST_FRAGMENT), Reason::NotOurs)
        .passes(fragment(vip(0), 100), Reason::NotOurs)
        .drops(with_options(vip(0)), Reason::IpOptions)
        .passes(with_options(vip(1)), Reason::NotOurs),
    ];
    let whole = syn().bytes();
    let cut = it(
        "a frame that ends within its headers is the kernel's to judge",
        of(1),
    );
    fixtures.push((14..54).fold(cut, |fixture, length| {
        fixture.passes(whole[..length].to_vec(), Reason::Truncated)
    }));
    fixtures
}

fn every_fixture() -> Vec<Fixture> {
    [opening(), going_on(), closing(), refusing(), not_ours()]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn every_sentence_holds_in_the_kernel() -> Result<()> {
    program::with_program(|program| {
        let mut broken = Vec::new();
        for fixture in every_fixture() {
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
fn every_reason_has_a_sentence() {
    let fixtures = every_fixture();
    let covered: BTreeSet<_> = fixtures
        .iter()
        .flat_map(|fixture| fixture.reasons.keys())
        .collect();
    let missing: Vec<_> = Reason::ALL
        .iter()
        .filter(|reason| !covered.contains(reason))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// A veth drops what `XDP_TX` sends unless its peer runs XDP too.
#[test]
fn on_a_veth_packets_go_back_by_redirection() -> Result<()> {
    program::with_constants(&[("REDIRECT_BACK", 1)], |program| {
        let back = changed(established(), |flow| flow.next_hop.interface = INGRESS);
        it("an RST and a forwarded packet", back)
            .packet(
                up().bytes(),
                Action::Redirect,
                sent(up().to(backend(1))).bytes(),
            )
            .packet(
                up().from(client(1)).bytes(),
                Action::Redirect,
                up().from(client(1)).reset().bytes(),
            )
            .counts_reason(Reason::UnknownSegment)
            .check(program)
    })
}
