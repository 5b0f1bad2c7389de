//! The program in the kernel and the pipeline on the host make the same of the same packets.
//!
//! Each sequence has a seed of its own, which a failure names: `PGLB_SEED=N cargo test -p pglb-tests --test agreement`
//! runs that sequence first.
#![expect(
    clippy::print_stdout,
    reason = "the seed and what the packets met are worth reading"
)]

mod program;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_common::family::V4;
use lb_common::flow::{FlowKey, Tick};
use lb_common::member::{BackendId, Slot};
use lb_common::pipeline::{decide, refuse_odd};
use lb_common::reason::Reason;
use lb_common::refuse::refuse;
use lb_common::service::{Algorithm, ServiceKey};
use lb_common::tables::Tables as _;
use lb_common::wire::{Ethernet, Headers, Ipv4, Tcp};
use lb_userspace::engine::host_tables::HostTables;
use pglb_tests::clock;
use pglb_tests::packets::{ACK, FIN, HEADERS, PSH, RST, SYN, Segment};

use program::random::Random;
use program::{
    Action, INGRESS, Program, add_service, backend, client, endpoint, gateway, slot, timeless, vip,
};

const SEQUENCES: u64 = 1_500;
const STEPS: usize = 60;

/// Clients use both services, and both have the same backends, one of which has no known neighbour.
const SERVICES: u8 = 2;
const CLIENTS: u8 = 3;
const BACKENDS: [u8; 3] = [1, 2, 15];

/// Ages are compared with limits of 200 ms and more; a sequence that took longer than this says nothing.
const LONGEST: Duration = Duration::from_millis(100);
/// Time on the host: it stands still.
const NOW: Tick = Tick(100_000);
/// More than the limit of a repeated SYN, and more than that of an unanswered one.
const AGES: [u32; 2] = [20, 300];

#[test]
fn host_and_kernel_agree_on_random_packets() -> Result<()> {
    let first = Random::seed();
    println!("seed {first}");
    let seen = program::with_program(|program| {
        let mut seen = Seen::new();
        for seed in first..first + SEQUENCES {
            try_until_quick(program, seed, &mut seen)
                .map_err(|error| error.context(format!("PGLB_SEED={seed} shows it again")))?;
        }
        Ok(seen)
    })?;
    // A comparison that never leaves the doorstep would be no comparison.
    for what in seen.keys() {
        println!("{what:?}: {}", seen[what]);
    }
    let reasons = Reason::ALL
        .into_iter()
        .filter(|reason| !NEVER_MET.contains(reason))
        .map(Met::Reason);
    let actions = [Action::Drop, Action::Pass, Action::Tx, Action::Redirect].map(Met::Action);
    for what in reasons.chain(actions).chain([Met::Established, Met::Ended]) {
        let count = seen.get(&what).copied().unwrap_or(0);
        ensure!(count >= 10, "{what:?} was met {count} times only");
    }
    Ok(())
}

/// What the sequences have been through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Met {
    Action(Action),
    Reason(Reason),
    Established,
    Ended,
}

type Seen = BTreeMap<Met, u64>;

/// These depend on bytes that the pipeline never sees, or on broken tables; `packets.rs` and `fuzz.rs` have them.
const NEVER_MET: [Reason; 4] = [
    Reason::NotIp,
    Reason::NotTcp,
    Reason::Truncated,
    Reason::Inconsistent,
];

fn try_until_quick(program: &mut Program, seed: u64, seen: &mut Seen) -> Result<()> {
    for _ in 0..20 {
        let started = clock::now();
        let result = compare(program, seed, seen);
        if started.elapsed() < LONGEST {
            return result;
        }
    }
    anyhow::bail!(
        "a sequence of {STEPS} packets takes longer than {LONGEST:?}: the machine is too busy for this test"
    )
}

/// Runs one sequence through both.
fn compare(program: &mut Program, seed: u64, seen: &mut Seen) -> Result<()> {
    let mut random = Random::new(seed);
    let mut host = tables(&mut random);
    program.fill(&host)?;
    let mut reasons: BTreeMap<Reason, u64> = BTreeMap::new();
    let mut story = String::new();
    for _ in 0..STEPS {
        if random.one_in(6) {
            let change = change(&mut random, &mut host, program)?;
            writeln!(story, "{change}")?;
            continue;
        }
        let segment = segment(&mut random, &host);
        let mut frame = segment.bytes();
        let (action, left) = program.run(&frame)?;
        let (expected, reason) = on_host(&host, &mut frame);
        writeln!(story, "{segment:?}: {expected:?} {reason:?}")?;
        ensure!(
            action == expected,
            "the kernel says {action:?} at the end of\n{story}"
        );
        ensure!(
            left == frame,
            "the kernel sends {left:02x?}, the host {frame:02x?} at the end of\n{story}"
        );
        *seen.entry(Met::Action(action)).or_default() += 1;
        if let Some(reason) = reason {
            *reasons.entry(reason).or_default() += 1;
            *seen.entry(Met::Reason(reason)).or_default() += 1;
        }
    }
    let tally = host.backend_tally(BackendId::GATEWAY).unwrap_or_default();
    *seen.entry(Met::Established).or_default() += tally.established;
    *seen.entry(Met::Ended).or_default() += tally.ended;
    let counted = program.reasons()?;
    ensure!(
        counted == reasons,
        "the kernel counts {counted:?}, the host {reasons:?} after\n{story}"
    );
    compare_tables(program, &host).map_err(|error| error.context(format!("after\n{story}")))
}

/// Two services over the same backends, each thing about them at random.
fn tables(random: &mut Random) -> HostTables {
    let mut tables = gateway();
    let algorithms = [
        Algorithm::LeastConnections,
        Algorithm::LeastConnections,
        Algorithm::RoundRobin,
        Algorithm::Hash,
        Algorithm::HashAddress,
    ];
    for service in 0..SERVICES {
        let weights = [1, 50, 100, 100, 100];
        let members = BACKENDS.map(|backend| (backend, random.pick(&weights)));
        add_service(&mut tables, service, random.pick(&algorithms), &members);
        let key = ServiceKey::new(endpoint(vip(service)));
        let (is_holding, is_restricted) = (random.one_in(4), random.one_in(4));
        if let Some(service) = tables.services.get_mut(&key) {
            *service = service.holding(is_holding).restricted(is_restricted);
        }
    }
    for member in tables.members.values_mut() {
        *member = member.eligible(!random.one_in(3));
    }
    for number in 0..CLIENTS {
        let [a, b, c, d] = client(number).ip().octets();
        if random.one_in(2) {
            tables
                .allowed
                .insert(([0, random.small(SERVICES), a, b, c, d], 48));
        }
    }
    let mut limit = |id: u16, limits: &[u32]| {
        let limit = random.pick(limits);
        tables
            .backends
            .entry(BackendId(id))
            .or_default()
            .max_connections = limit;
    };
    limit(0, &[0, 0, 1, 2]);
    BACKENDS
        .iter()
        .for_each(|backend| limit(u16::from(*backend), &[0, 0, 1]));
    tables
}

/// A segment that fits what is going on, or one that does not.
fn segment(random: &mut Random, host: &HostTables) -> Segment {
    let known: Vec<_> = host
        .transient_flows()
        .into_keys()
        .chain(host.established_flows().into_keys())
        .collect();
    let client = client(random.small(CLIENTS));
    let (source, destination) = if !known.is_empty() && !random.one_in(3) {
        let key = random.pick(&known);
        let ends = [key.sender(), key.receiver()];
        ends.map(|it| SocketAddrV4::new(it.address.into(), u16::from_be_bytes(it.port)))
            .into()
    } else if random.one_in(3) {
        (backend(random.pick(&BACKENDS)), client)
    } else {
        (client, vip(random.small(SERVICES + 1)))
    };
    let is_known = known
        .iter()
        .any(|it| it.sender() == endpoint(source) && it.receiver() == endpoint(destination));
    let is_client = source.ip().octets()[1] == 71;
    let flags = match (is_client, is_known) {
        (true, true) => [SYN, SYN, ACK, ACK, ACK, PSH | ACK, FIN | ACK, RST],
        (true, false) => [SYN, SYN, SYN, SYN, SYN, SYN, ACK, RST],
        (false, _) => [
            SYN | ACK,
            SYN | ACK,
            SYN | ACK,
            ACK,
            PSH | ACK,
            FIN | ACK,
            FIN | ACK,
            RST | ACK,
        ],
    };
    let flags = if random.one_in(20) {
        random.byte()
    } else {
        random.pick(&flags)
    };
    let mut segment = Segment::between(source, destination).flags(flags);
    segment.sequence = u32::try_from(random.next() >> 32).unwrap_or(0);
    segment.acknowledgment = u32::try_from(random.next() >> 32).unwrap_or(0);
    segment.ttl = if random.one_in(20) {
        random.small(3)
    } else {
        64
    };
    segment.tcp_options = some_bytes(random, 4);
    segment.payload = some_bytes(random, 7);
    if random.one_in(30) {
        segment.ip_options = vec![1; 4];
    }
    if random.one_in(30) {
        segment.fragment = random.pick(&[0x2000, 0x0010, 0x2010, 0x8000, 0x6000]);
    }
    segment
}

/// None, or up to ten times so many.
fn some_bytes(random: &mut Random, unit: usize) -> Vec<u8> {
    let count = if random.one_in(2) {
        0
    } else {
        random.below(11)
    };
    random.bytes(count * unit)
}

/// What a controller, or time, does to both.
fn change(random: &mut Random, host: &mut HostTables, program: &mut Program) -> Result<String> {
    let slot = slot(random.small(SERVICES), random.small(3));
    if random.one_in(3) {
        let ticks = random.pick(&AGES);
        age(host, program, ticks)?;
        return Ok(format!("{ticks} ticks pass"));
    }
    if random.one_in(4) {
        host.next_hop_generation += 1;
        let mut gateway = program.tables.gateway()?;
        gateway.next_hop_generation = host.next_hop_generation;
        program.tables.set_gateway(gateway)?;
        return Ok("routes change".to_owned());
    }
    let tally = host.slot_tally(slot).unwrap_or_default();
    let member = host.members.entry(slot).or_default();
    match random.below(4) {
        0 => member.generation += 1,
        1 => *member = member.eligible(!member.is_eligible()),
        2 => member.forgiven = u32::try_from(tally.suspicions)?,
        _ => member.reaped = tally.established - tally.ended,
    }
    program.tables.set_member(slot, *member)?;
    Ok(format!("{slot:?} is now {member:?}"))
}

/// Makes all flows older.
fn age(host: &mut HostTables, program: &mut Program, ticks: u32) -> Result<()> {
    let older = |tick: Tick| Tick(tick.0.wrapping_sub(ticks));
    for (key, mut flow) in host.transient_flows() {
        flow.last_seen = older(flow.last_seen);
        host.set_transient(key, flow);
    }
    for (key, mut flow) in program.tables.transient()? {
        flow.last_seen = older(flow.last_seen);
        program.tables.set_transient(key, flow)?;
    }
    Ok(())
}

/// What `lb-ebpf` does around the pipeline: reads the headers, and turns a reason into an action.
fn on_host(tables: &HostTables, frame: &mut Vec<u8>) -> (Action, Option<Reason>) {
    let Some((ports, odd)) = look(frame) else {
        return (Action::Pass, Some(Reason::NotOurs));
    };
    if let Some(reason) = odd {
        let destination = [frame[30], frame[31], frame[32], frame[33]];
        let port = [frame[ports + 2], frame[ports + 3]];
        let receiver = lb_common::flow::Endpoint {
            address: destination,
            port,
        };
        let reason = refuse_odd(tables, receiver, reason);
        let action = if reason == Reason::NotOurs {
            Action::Pass
        } else {
            Action::Drop
        };
        return (action, Some(reason));
    }
    let mut ethernet = Ethernet(std::array::from_fn(|at| frame[at]));
    let mut ip = Ipv4(std::array::from_fn(|at| frame[14 + at]));
    let mut tcp = Tcp(std::array::from_fn(|at| frame[34 + at]));
    let mut headers: Headers<'_, V4> = Headers {
        ethernet: &mut ethernet,
        ip: &mut ip,
        tcp: &mut tcp,
    };
    let result = decide(tables, &mut headers, NOW);
    let action = match result {
        Ok(forward) => match forward.interface {
            0 => Action::Pass,
            INGRESS => Action::Tx,
            _ => Action::Redirect,
        },
        Err(reason) => act(reason),
    };
    if result.is_err() && action == Action::Tx {
        refuse(&mut headers);
        frame.truncate(HEADERS);
    }
    frame[..14].copy_from_slice(&ethernet.0);
    frame[14..34].copy_from_slice(&ip.0);
    frame[34..54].copy_from_slice(&tcp.0);
    (action, result.err())
}

/// Where the ports of a TCP packet are, and why a service would not take it; `None` for a later fragment.
fn look(frame: &[u8]) -> Option<(usize, Option<Reason>)> {
    let fragment = u16::from_be_bytes([frame[20], frame[21]]);
    let options = usize::from(frame[14] & 0x0f) * 4 - 20;
    if fragment & 0x1fff != 0 {
        None
    } else if options > 0 {
        Some((34 + options, Some(Reason::IpOptions)))
    } else if fragment & 0x2000 != 0 {
        Some((34, Some(Reason::Fragment)))
    } else {
        Some((34, None))
    }
}

fn act(reason: Reason) -> Action {
    match reason {
        Reason::NotIp | Reason::NotTcp | Reason::Truncated | Reason::NotOurs => Action::Pass,
        Reason::Denied
        | Reason::NoBackend
        | Reason::TableFull
        | Reason::ReplyCollision
        | Reason::UnknownSegment
        | Reason::Superseded => Action::Tx,
        Reason::Fragment
        | Reason::IpOptions
        | Reason::HopLimit
        | Reason::Held
        | Reason::StrayReset
        | Reason::RefusalWithheld
        | Reason::Inconsistent => Action::Drop,
    }
}

fn compare_tables(program: &Program, host: &HostTables) -> Result<()> {
    let same = |of_kernel: lb_userspace::shell::bpf_tables::Flows,
                of_host: BTreeMap<FlowKey<[u8; 4]>, _>| {
        let of_kernel: BTreeMap<_, _> = of_kernel
            .into_iter()
            .map(|(key, flow)| (key, timeless(flow)))
            .collect();
        let of_host: BTreeMap<_, _> = of_host
            .into_iter()
            .map(|(key, flow)| (key, timeless(flow)))
            .collect();
        ensure!(
            of_kernel == of_host,
            "the kernel has {of_kernel:#?}, the host {of_host:#?}"
        );
        Ok(())
    };
    same(program.tables.established()?, host.established_flows())?;
    same(program.tables.transient()?, host.transient_flows())?;
    let slots: Vec<Slot> = host.members.keys().copied().collect();
    for slot in slots {
        let (of_kernel, of_host) = (program.tables.slot_tally(slot)?, host.slot_tally(slot));
        ensure!(
            Some(of_kernel) == of_host,
            "{slot:?}: the kernel has {of_kernel:?}, the host {of_host:?}"
        );
    }
    for id in host.backends.keys() {
        let (of_kernel, of_host) = (program.tables.backend_tally(*id)?, host.backend_tally(*id));
        ensure!(
            Some(of_kernel) == of_host,
            "{id:?}: the kernel has {of_kernel:?}, the host {of_host:?}"
        );
    }
    for service in host.services.values() {
        let (of_kernel, of_host) = (program.tables.turn(service.id)?, host.take_turn(service.id));
        ensure!(
            of_kernel == u64::from(of_host),
            "{of_kernel} turns in the kernel, {of_host} on the host"
        );
    }
    Ok(())
}
