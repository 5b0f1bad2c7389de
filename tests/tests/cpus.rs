//! Several CPUs use the tables of flows at once: no flow is there twice, none is lost, none is left
//! half written, and every connection is counted once.
//!
//! Two threads, each on a CPU of its own, run the program in the kernel on packets that meet at the
//! same moment.
#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

mod program;

use std::collections::BTreeMap;
use std::iter;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::Pod;
use aya::maps::{Array, Map, MapData};
use lb_common::family::{Family, V4, V6};
use lb_common::flow::{Direction, Flow, FlowKey, Phase};
use lb_common::flow_table::{Bucket, Entry, Home, Keyed, TagPage, Tags, WAYS};
use lb_common::limits::TRANSIENT_BUCKETS;
use lb_common::reason::Reason;
use lb_common::service::{Algorithm, Forwarding, ServiceKey};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use pglb_tests::packets::{ACK, FIN, RST, Segment};
use program::random::Random;
use program::{
    Action, Framed as _, GATEWAY, Program, Runner, Side, add_service, backend, client, endpoint,
    gateway, key, slot, vip, with_buckets,
};

/// Buckets in which [`CONNECTIONS`] have room, and meet all the time.
const ROOMY: u32 = 16;
/// Buckets in which they have not.
const NARROW: u32 = 4;
/// Connections of a round: two flows each fill 3 of 7 ways of [`ROOMY`] buckets.
const CONNECTIONS: u16 = 24;
/// How often they are all opened and closed.
const ROUNDS: u16 = 100;
/// In how many rounds the clients have the same ports.
const SAME: u16 = 8;
/// Packets that each CPU runs in no order.
const PACKETS: usize = 20_000;
/// How often two services are asked for the same reply tuple.
const COLLISIONS: u16 = 3_000;

#[test]
fn the_same_packet_comes_to_two_cpus_at_once() -> Result<()> {
    with_cpus(ROOMY, |program| {
        for forwarding in [Forwarding::Nat, Forwarding::FullNat] {
            run_twice::<V4>(program, forwarding).context(format!("{forwarding:?}, IPv4"))?;
            run_twice::<V6>(program, forwarding).context(format!("{forwarding:?}, IPv6"))?;
        }
        Ok(())
    })
}

#[test]
fn connections_that_look_alike_are_opened_at_once() -> Result<()> {
    with_cpus(ROOMY, |program| {
        let seed = u64::from(program.tables.gateway()?.seed);
        run_each_twice::<V4>(program, Forwarding::Nat, &alike::<V4>(seed)).context("IPv4")?;
        run_each_twice::<V6>(program, Forwarding::Nat, &alike::<V6>(seed)).context("IPv6")
    })
}

#[test]
fn both_ends_of_a_connection_speak_at_once() -> Result<()> {
    with_cpus(ROOMY, |program| {
        for forwarding in [Forwarding::Nat, Forwarding::FullNat] {
            cross::<V4>(program, forwarding).context(format!("{forwarding:?}, IPv4"))?;
            cross::<V6>(program, forwarding).context(format!("{forwarding:?}, IPv6"))?;
        }
        Ok(())
    })
}

#[test]
fn any_packets_of_the_same_connections_come_at_once() -> Result<()> {
    for buckets in [ROOMY, NARROW] {
        with_cpus(buckets, |program| {
            mix_up::<V4>(program).context(format!("{buckets} buckets, IPv4"))?;
            mix_up::<V6>(program).context(format!("{buckets} buckets, IPv6"))
        })?;
    }
    Ok(())
}

#[test]
fn two_services_want_the_same_reply_tuple() -> Result<()> {
    with_cpus(ROOMY, |program| {
        for forwarding in [Forwarding::Nat, Forwarding::FullNat] {
            collide::<V4>(program, forwarding).context(format!("{forwarding:?}, IPv4"))?;
            collide::<V6>(program, forwarding).context(format!("{forwarding:?}, IPv6"))?;
        }
        Ok(())
    })
}

/// Every packet of every connection is run by both CPUs at the same moment.
fn run_twice<F: Surveyed>(program: &mut Program, forwarding: Forwarding) -> Result<()> {
    let rounds: Vec<_> = (0..ROUNDS).map(connections).collect();
    run_each_twice::<F>(program, forwarding, &rounds)
}

fn run_each_twice<F: Surveyed>(
    program: &mut Program,
    forwarding: Forwarding,
    rounds: &[Vec<Connection>],
) -> Result<()> {
    with_site::<F>(program, 1, forwarding, |site| {
        for (round, connections) in rounds.iter().enumerate() {
            let said = || format!("round {round}");
            let mut connections = connections.clone();
            let open = |site: &Site<'_>, steps: &[Step], connections: &[Connection]| {
                site.together(|runner, _, meeting| {
                    for connection in connections {
                        for step in steps {
                            meeting.meet()?;
                            runner.run(&connection.frame::<F>(*step))?;
                        }
                    }
                    Ok(())
                })
            };
            open(site, &[Step::Syn], &connections)?;
            site.learn::<F>(&mut connections).with_context(said)?;
            open(site, &[Step::SynAck, Step::Ack], &connections)?;
            site.check_open::<F>(&connections).with_context(said)?;
            site.together(|runner, _, meeting| {
                for (number, connection) in connections.iter().enumerate() {
                    for step in ENDINGS[(number + round) % ENDINGS.len()] {
                        meeting.meet()?;
                        runner.run(&connection.frame::<F>(*step))?;
                    }
                }
                Ok(())
            })?;
            site.check_closed::<F>().with_context(said)?;
        }
        Ok(())
    })
}

/// How a connection ends, if its packets come one after the other.
const ENDINGS: [&[Step]; 4] = [
    &[Step::ClientFin, Step::BackendFin],
    &[Step::BackendFin, Step::ClientFin],
    &[Step::ClientRst],
    &[Step::BackendRst],
];

/// What the client's answer to the SYN-ACK meets: what the backend says next, or the client's own SYN,
/// which was thought to be lost and sent again.
const OPENINGS: [[Option<Step>; 2]; 2] = [
    [Some(Step::Ack), Some(Step::Answer)],
    [Some(Step::Ack), Some(Step::Syn)],
];

/// What two CPUs run at the same moment, one packet of each end; none where a CPU has to wait for
/// the other.
const CROSSINGS: [[Option<Step>; 2]; 3] = [
    // The ends go on after a forged RST.
    [Some(Step::ClientRst), None],
    [Some(Step::Data), Some(Step::Answer)],
    [Some(Step::Data), Some(Step::Answer)],
];

/// How a connection ends when both ends end it. A segment after an RST would make it go
/// on. FINs that pass each other unseen are rare, and so come twice as often.
const CROSSED_ENDINGS: [[[Option<Step>; 2]; 2]; 5] = [
    [[Some(Step::ClientFin), Some(Step::BackendFin)], [None; 2]],
    [[Some(Step::ClientFin), Some(Step::BackendFin)], [None; 2]],
    [[Some(Step::ClientRst), Some(Step::BackendRst)], [None; 2]],
    [
        [Some(Step::ClientFin), Some(Step::BackendRst)],
        [Some(Step::ClientRst), None],
    ],
    [
        [Some(Step::ClientRst), Some(Step::BackendFin)],
        [None, Some(Step::BackendRst)],
    ],
];

/// One CPU has what the clients send, the other what the backend sends.
fn cross<F: Surveyed>(program: &mut Program, forwarding: Forwarding) -> Result<()> {
    with_site::<F>(program, 1, forwarding, |site| {
        for round in 0..ROUNDS {
            let said = || format!("round {round}");
            let mut connections = connections(round);
            for connection in &connections {
                site.runner.run(&connection.frame::<F>(Step::Syn))?;
            }
            site.learn::<F>(&mut connections).with_context(said)?;
            for connection in &connections {
                site.runner.run(&connection.frame::<F>(Step::SynAck))?;
            }
            site.together(|runner, cpu, meeting| {
                for (number, connection) in connections.iter().enumerate() {
                    let opening = OPENINGS[(number + usize::from(round)) % OPENINGS.len()];
                    for steps in iter::once(opening).chain(CROSSINGS) {
                        meeting.meet()?;
                        if let Some(step) = steps[cpu] {
                            runner.run(&connection.frame::<F>(step))?;
                        }
                    }
                }
                Ok(())
            })?;
            site.check_open::<F>(&connections).with_context(said)?;
            site.together(|runner, cpu, meeting| {
                for (number, connection) in connections.iter().enumerate() {
                    let ending =
                        CROSSED_ENDINGS[(number + usize::from(round)) % CROSSED_ENDINGS.len()];
                    for steps in ending {
                        meeting.meet()?;
                        if let Some(step) = steps[cpu] {
                            runner.run(&connection.frame::<F>(step))?;
                        }
                    }
                }
                Ok(())
            })?;
            site.check_closed::<F>().with_context(said)?;
        }
        Ok(())
    })
}

/// Each CPU runs packets of the same connections in an order of its own.
fn mix_up<F: Surveyed>(program: &mut Program) -> Result<()> {
    let seed = Random::seed();
    let result = with_site::<F>(program, 1, Forwarding::Nat, |site| {
        let connections = connections(0);
        site.together(|runner, cpu, _| {
            let mut random = Random::new(seed.wrapping_add(u64::try_from(cpu)?));
            for _ in 0..PACKETS {
                let connection = &connections[random.below(connections.len())];
                runner.run(&connection.frame::<F>(random.pick(&Step::ALL)))?;
            }
            Ok(())
        })?;
        site.check_tables::<F>().map(drop)
    });
    result.with_context(|| format!("PGLB_SEED={seed} may show it again"))
}

/// Two services are asked at the same moment for a connection of the same client port to the same
/// backend.
fn collide<F: Surveyed>(program: &mut Program, forwarding: Forwarding) -> Result<()> {
    with_site::<F>(program, 2, forwarding, |site| {
        let opened = |service: u8, number: u16| Connection::new(number, service);
        let done = site.together(|runner, cpu, meeting| {
            let service = u8::try_from(cpu)?;
            (0..COLLISIONS)
                .map(|number| {
                    let syn = opened(service, number).frame::<F>(Step::Syn);
                    meeting.meet()?;
                    Ok(runner.run(&syn)?.0)
                })
                .collect::<Result<Vec<_>>>()
        })?;
        let transient = site.survey::<F>("TRANSIENT")?;
        let mut forwarded = [0; 3];
        for number in 0..COLLISIONS {
            let did = done.each_ref().map(|it| it[usize::from(number)]);
            let count = did.iter().filter(|it| **it == Action::Redirect).count();
            forwarded[count] += 1;
            if forwarding == Forwarding::FullNat {
                ensure!(count == 2, "port {number}: {did:?}");
            } else {
                ensure!(count < 2, "both have the reply tuple of port {number}");
            }
            let mut leaving = Vec::new();
            for (service, did) in (0..).zip(did) {
                let connection = opened(service, number);
                let flow = transient.get(&connection.key::<F>());
                if did != Action::Redirect {
                    ensure!(
                        flow.is_none(),
                        "{connection:?} was refused and is remembered"
                    );
                    continue;
                }
                let flow = flow.with_context(|| format!("{connection:?} is forgotten"))?;
                let replies = transient.get(&flow.leaving.reversed());
                let replies = replies.with_context(|| format!("{connection:?} has no replies"))?;
                ensure!(
                    replies.leaving == connection.key::<F>().reversed(),
                    "the replies of {connection:?} go elsewhere"
                );
                leaving.push(flow.leaving);
            }
            leaving.sort_unstable();
            leaving.dedup();
            ensure!(
                leaving.len() == count,
                "port {number} leaves twice as {leaving:?}"
            );
        }
        println!("{forwarding:?}: ports with 0, 1 and 2 connections: {forwarded:?}");
        ensure!(
            forwarding == Forwarding::FullNat || forwarded[1] > usize::from(COLLISIONS) / 2,
            "nearly nobody was served"
        );
        let reasons = site.program.reasons()?;
        let refused = u64::from(COLLISIONS) * 2 - u64::try_from(forwarded[1] + 2 * forwarded[2])?;
        ensure!(
            reasons.get(&Reason::ReplyCollision).copied().unwrap_or(0) == refused,
            "{refused} were refused: {reasons:?}"
        );
        site.check_counts::<F>()
    })
}

/// A packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Syn,
    SynAck,
    Ack,
    Data,
    Answer,
    ClientFin,
    BackendFin,
    ClientRst,
    BackendRst,
}

impl Step {
    const ALL: [Self; 9] = [
        Self::Syn,
        Self::SynAck,
        Self::Ack,
        Self::Data,
        Self::Answer,
        Self::ClientFin,
        Self::BackendFin,
        Self::ClientRst,
        Self::BackendRst,
    ];
}

/// A connection as its ends see it.
#[derive(Clone, Copy, Debug)]
struct Connection {
    client: SocketAddrV4,
    vip: SocketAddrV4,
    /// Where the backend takes the client to be.
    seen: SocketAddrV4,
}

impl Connection {
    /// One of a client port that no other number has, to a service.
    fn new(number: u16, service: u8) -> Self {
        let host = client(0);
        let client = SocketAddrV4::new(*host.ip(), 2_000 + number);
        Self {
            client,
            vip: vip(service),
            seen: client,
        }
    }

    /// The key of the flow of the client's packets.
    fn key<F: Side>(&self) -> FlowKey<F::Address> {
        key::<F>(self.client, self.vip)
    }

    /// The key of the flow of the backend's packets.
    fn reply_key<F: Side>(&self) -> FlowKey<F::Address> {
        key::<F>(backend(1), self.seen)
    }

    fn frame<F: Side>(&self, step: Step) -> Vec<u8> {
        let from_client = Segment::between(self.client, self.vip).sequence(1_001);
        let from_backend = Segment::between(backend(1), self.seen).sequence(7_001);
        let segment = match step {
            Step::Syn => Segment::syn(self.client, self.vip),
            Step::SynAck => Segment::syn(self.seen, backend(1)).syn_ack(),
            Step::Ack => from_client.ack(7_001),
            Step::Data => from_client.ack(7_001).data(b"select 1"),
            Step::Answer => from_backend.ack(1_001).data(b"1"),
            Step::ClientFin => from_client.flags(FIN | ACK).ack(7_001),
            Step::BackendFin => from_backend.flags(FIN | ACK).ack(1_002),
            Step::ClientRst => from_client.flags(RST),
            Step::BackendRst => from_backend.flags(RST),
        };
        segment.frame::<F>()
    }
}

/// The connections of a round. The same client ports come again and again, but no more often than
/// the gateway has ports for each of them that do not linger.
fn connections(round: u16) -> Vec<Connection> {
    let first = round / SAME * CONNECTIONS;
    (first..first + CONNECTIONS)
        .map(|number| Connection::new(number, 0))
        .collect()
}

/// Rounds of connections whose clients' half-open flows cannot be told from another one's of the
/// round by their bucket and their tag.
fn alike<F: Surveyed>(seed: u64) -> Vec<Vec<Connection>> {
    let mut homes = BTreeMap::<_, Vec<_>>::new();
    for number in 0..60_000 {
        let connection = Connection::new(number, 0);
        let words = F::Address::words(&connection.key::<F>());
        let home = Home::of(words.as_ref(), seed, TRANSIENT_BUCKETS);
        // By tag first: neighbours in the order of buckets share one of the few established ones.
        let alike = homes.entry((home.tag, home.buckets[0])).or_default();
        alike.push(connection);
    }
    homes.retain(|_, alike| alike.len() > 1);
    let connections: Vec<_> = homes.into_values().flatten().collect();
    let rounds = connections.chunks_exact(CONNECTIONS.into());
    rounds.take(ROUNDS.into()).map(<[_]>::to_vec).collect()
}

/// A family whose tables can be read as they lie.
trait Surveyed: Side<Address: Keyed> {
    /// How the names of its tables end.
    const SUFFIX: &'static str;

    /// Reads all of a table, and checks it.
    fn survey(pin_dir: &Path, table: &str, seed: u32) -> Result<Flows<Self>>;
}

type Flows<F> = BTreeMap<FlowKey<<F as Family>::Address>, Flow<<F as Family>::Address>>;

impl Surveyed for V4 {
    const SUFFIX: &'static str = "V4";

    fn survey(pin_dir: &Path, table: &str, seed: u32) -> Result<Flows<Self>> {
        survey::<Self>(pin_dir, table, seed)
    }
}

impl Surveyed for V6 {
    const SUFFIX: &'static str = "V6";

    fn survey(pin_dir: &Path, table: &str, seed: u32) -> Result<Flows<Self>> {
        survey::<Self>(pin_dir, table, seed)
    }
}

/// Reads a table while nobody writes it: every way is free or has one flow, which lies where its
/// key belongs, with the tag that it is found by, and nowhere else.
fn survey<F: Surveyed>(pin_dir: &Path, table: &str, seed: u32) -> Result<Flows<F>>
where
    Entry<F::Address>: Pod,
{
    let pinned =
        |name: String| Ok::<_, anyhow::Error>(Map::Array(MapData::from_pin(pin_dir.join(name))?));
    let pages: Array<_, TagPage> = pinned(format!("{table}_TAGS_{}", F::SUFFIX))?.try_into()?;
    let buckets: Array<_, Bucket<F::Address>> =
        pinned(format!("{table}_{}", F::SUFFIX))?.try_into()?;
    let mut flows = BTreeMap::new();
    let words = (0..pages.len()).map(|page| pages.get(&page, 0));
    let words = words.collect::<Result<Vec<_>, _>>()?;
    for (index, tags) in (0..buckets.len()).zip(words.concat()) {
        let tags = Tags(tags);
        if tags.free().count() == u64::from(WAYS) {
            continue;
        }
        for (way, entry) in (0..WAYS).zip(buckets.get(&index, 0)?) {
            let tag = tags.of(way);
            if tag == Tags::FREE {
                continue;
            }
            let said = || format!("{table}, bucket {index}, way {way}, tag {tag}: {entry:?}");
            ensure!(tag != Tags::CLAIMED, "still claimed: {}", said());
            let home = Home::of(
                F::Address::words(&entry.key).as_ref(),
                seed.into(),
                buckets.len(),
            );
            ensure!(home.buckets.contains(&index), "not at home: {}", said());
            ensure!(home.tag == tag, "another tag than {}: {}", home.tag, said());
            ensure!(
                flows.insert(entry.key, entry.flow).is_none(),
                "twice: {}",
                said()
            );
        }
    }
    Ok(flows)
}

/// A gateway with services over one backend.
struct Site<'p> {
    program: &'p Program,
    runner: Runner<'p>,
    seed: u32,
}

/// Runs a test with a table of so many buckets. The tests of this file take turns: two at a time
/// would share the CPUs.
fn with_cpus(buckets: u32, test: impl FnOnce(&mut Program) -> Result<()> + Send) -> Result<()> {
    static CPUS: Mutex<()> = Mutex::new(());
    let _cpus = CPUS.lock().unwrap_or_else(PoisonError::into_inner);
    with_buckets(buckets, &[], test)
}

/// Runs a test, and checks in the end that the tables can be emptied.
fn with_site<F: Surveyed>(
    program: &mut Program,
    services: u8,
    forwarding: Forwarding,
    test: impl FnOnce(&Site<'_>) -> Result<()>,
) -> Result<()> {
    let mut tables = gateway::<F>();
    for number in 0..services {
        add_service(
            &mut tables,
            number,
            Algorithm::LeastConnections,
            &[(1, 100)],
        );
        let key = ServiceKey::new(endpoint::<F>(vip(number)));
        let service = tables.services.get_mut(&key).context("no service")?;
        *service = service.forwarded(forwarding);
    }
    program.fill(&tables)?;
    let site = Site {
        runner: program.runner()?,
        seed: program.tables.gateway()?.seed,
        program,
    };
    test(&site)?;
    check_removal::<F>(program)
}

/// Removes every flow: then every way is free.
fn check_removal<F: Surveyed>(program: &mut Program) -> Result<()> {
    let tables = &mut program.tables;
    for key in tables.established()?.keys() {
        ensure!(tables.remove_established(key)?, "{key:?} is not there");
    }
    for key in tables.transient()?.keys() {
        ensure!(tables.remove_transient(key)?, "{key:?} is not there");
    }
    let seed = tables.gateway()?.seed;
    for table in ["ESTABLISHED", "TRANSIENT"] {
        let left = F::survey(program.pin_dir(), table, seed)?;
        ensure!(left.is_empty(), "{table} still has {left:?}");
    }
    Ok(())
}

impl Site<'_> {
    /// Has two CPUs do something at the same time.
    fn together<T: Send>(
        &self,
        act: impl Fn(Runner<'_>, usize, &Meeting) -> Result<T> + Sync,
    ) -> Result<[T; 2]> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut allowed = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
        let cpus = [allowed.next(), allowed.next()];
        let meeting = Meeting::default();
        let (act, meeting, runner) = (&act, &meeting, self.runner);
        let run = move |number: usize| {
            let mut only = CpuSet::new();
            only.set(cpus[number].context("this test needs two CPUs")?)?;
            sched_setaffinity(Pid::from_raw(0), &only)?;
            act(runner, number, meeting)
        };
        thread::scope(|scope| {
            let threads = [0, 1].map(|number| {
                scope.spawn(move || {
                    let _leaving = Leaving(meeting);
                    run(number)
                })
            });
            let [first, second] =
                threads.map(|it| it.join().map_err(|_| anyhow!("a thread failed"))?);
            Ok([first?, second?])
        })
    }

    fn survey<F: Surveyed>(&self, table: &str) -> Result<Flows<F>> {
        F::survey(self.program.pin_dir(), table, self.seed)
    }

    /// Finds out where the backend takes the clients to be.
    fn learn<F: Surveyed>(&self, connections: &mut [Connection]) -> Result<()> {
        let transient = self.survey::<F>("TRANSIENT")?;
        for connection in connections {
            let flow = transient.get(&connection.key::<F>());
            let flow = flow.with_context(|| format!("{connection:?} is not remembered"))?;
            let port = u16::from_be_bytes(flow.leaving.source_port);
            let client = flow.leaving.source == F::address(*connection.client.ip());
            let address = if client {
                *connection.client.ip()
            } else {
                GATEWAY
            };
            connection.seen = SocketAddrV4::new(address, port);
            let replies = transient.get(&connection.reply_key::<F>());
            let replies = replies.with_context(|| format!("{connection:?} has no replies"))?;
            ensure!(
                replies.leaving == connection.key::<F>().reversed(),
                "the replies of {connection:?} go elsewhere"
            );
        }
        Ok(())
    }

    /// Checks that these connections are established, and no others.
    fn check_open<F: Surveyed>(&self, connections: &[Connection]) -> Result<()> {
        let established = self.survey::<F>("ESTABLISHED")?;
        for connection in connections {
            for key in [connection.key::<F>(), connection.reply_key::<F>()] {
                let flow = established.get(&key);
                let flow = flow.with_context(|| format!("{key:?} is not established"))?;
                ensure!(flow.phase() == Phase::Established, "{key:?} is {flow:?}");
            }
        }
        ensure!(
            established.len() == 2 * connections.len(),
            "there are others"
        );
        self.check_counts::<F>()
    }

    /// Checks that no connection is established.
    fn check_closed<F: Surveyed>(&self) -> Result<()> {
        let established = self.survey::<F>("ESTABLISHED")?;
        for (key, flow) in &established {
            println!("{key:?}: {:?}, FIN {}", flow.phase(), flow.has_fin);
        }
        ensure!(
            established.is_empty(),
            "not closed: {:?}",
            established.keys()
        );
        self.check_counts::<F>()
    }

    /// Checks that the tables are whole, and that the controller sees what is there.
    fn check_tables<F: Surveyed>(&self) -> Result<Flows<F>> {
        let established = self.survey::<F>("ESTABLISHED")?;
        self.survey::<F>("TRANSIENT")?;
        let seen = self.program.tables.established()?;
        ensure!(
            seen.len() == established.len(),
            "the controller sees {}",
            seen.len()
        );
        Ok(established)
    }

    /// Checks besides that as many connections are counted as are there.
    fn check_counts<F: Surveyed>(&self) -> Result<()> {
        let established = self.check_tables::<F>()?;
        let flows = established.values();
        let there = flows
            .filter(|it| it.direction() == Direction::ToBackend)
            .count();
        let tally = self.program.tables.slot_tally(slot(0, 0))?;
        let counted = tally.established.checked_sub(tally.ended);
        ensure!(
            counted == Some(u64::try_from(there)?),
            "{there} connections are there, and counted are {tally:?}"
        );
        Ok(())
    }
}

/// Where two threads wait for each other, so that what they do next they do at the same moment.
#[derive(Default)]
struct Meeting {
    came: AtomicUsize,
    is_over: AtomicBool,
}

impl Meeting {
    fn meet(&self) -> Result<()> {
        let number = self.came.fetch_add(1, Ordering::AcqRel);
        let both = (number / 2 + 1) * 2;
        for turn in 1_u32.. {
            // Whoever leaves has come before.
            let is_over = self.is_over.load(Ordering::Acquire);
            if self.came.load(Ordering::Acquire) >= both {
                break;
            }
            ensure!(!is_over, "the other thread is gone");
            // The other one may have been put off its CPU, and by a third.
            if turn.is_multiple_of(1 << 12) {
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
        Ok(())
    }
}

/// Tells whoever waits that this thread does not come any more.
struct Leaving<'m>(&'m Meeting);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
    }
}
