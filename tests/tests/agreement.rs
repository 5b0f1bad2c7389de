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
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_common::family::{Address as _, V4, V6, ip as either};
use lb_common::flow::{Endpoint, Flow, FlowKey, Tick};
use lb_common::member::{BackendId, Slot};
use lb_common::pipeline::{decide, refuse_odd};
use lb_common::reason::Reason;
use lb_common::refuse::{refuse, report_too_big};
use lb_common::service::{Access, Algorithm, Forwarding, ServiceId, ServiceKey};
use lb_common::tables::Tables as _;
use lb_common::wire::{Egress, Ethernet, Headers, Icmp, IpHeader as _, Ipv4, Ipv6, Tcp};
use lb_userspace::engine::host_tables::HostTables;
use pglb_tests::clock;
use pglb_tests::frames::{CUSTOMER, SERVICE, with_tags};
use pglb_tests::packets::{ACK, FIN, PSH, RST, SYN, Segment};

use program::random::Random;
use program::{
    Action, Framed as _, INGRESS, MANY_BUCKETS, NARROW, NOBODY, ONE_BUCKET, Program, Side,
    add_service, backend, client, endpoint, gateway, key, slot, timeless, vip,
};

const SEQUENCES: u64 = 2_000;
const STEPS: usize = 60;

/// Clients use both services, and both have the same backends: one behind a narrow way, one without a known neighbour.
const SERVICES: u8 = 2;
const CLIENTS: u8 = 3;
const BACKENDS: [u8; 3] = [1, NARROW.0, 15];

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
    let mut seen = Seen::new();
    for buckets in [ONE_BUCKET, MANY_BUCKETS] {
        let seeds = first..first + SEQUENCES;
        seen = run(buckets, seeds.filter(|seed| size(*seed) == buckets), seen)?;
    }
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

/// The table of a sequence: one that is soon full, or one that never is.
fn size(seed: u64) -> u32 {
    if seed % 8 < 2 {
        ONE_BUCKET
    } else {
        MANY_BUCKETS
    }
}

fn run(buckets: u32, seeds: impl Iterator<Item = u64> + Send, mut seen: Seen) -> Result<Seen> {
    program::with_buckets(buckets, &[], |program| {
        for seed in seeds {
            let result = if seed % 2 == 0 {
                try_until_quick::<V4>(program, seed, &mut seen)
            } else {
                try_until_quick::<V6>(program, seed, &mut seen)
            };
            result.map_err(|error| error.context(format!("PGLB_SEED={seed} shows it again")))?;
        }
        Ok(seen)
    })
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
const NEVER_MET: [Reason; 8] = [
    Reason::SourceRate,
    Reason::NotOnLink,
    Reason::StrayError,
    Reason::VlanTags,
    Reason::NotIp,
    Reason::NotTcp,
    Reason::Truncated,
    Reason::Inconsistent,
];

fn try_until_quick<F: Host>(program: &mut Program, seed: u64, seen: &mut Seen) -> Result<()> {
    for _ in 0..20 {
        let started = clock::now();
        let result = compare::<F>(program, seed, seen);
        if started.elapsed() < LONGEST {
            return result;
        }
    }
    anyhow::bail!(
        "a sequence of {STEPS} packets takes longer than {LONGEST:?}: the machine is too busy for this test"
    )
}

/// Runs one sequence through both.
fn compare<F: Host>(program: &mut Program, seed: u64, seen: &mut Seen) -> Result<()> {
    let mut random = Random::new(seed);
    let mut host = tables::<F>(&mut random);
    if size(seed) == MANY_BUCKETS {
        host.established_size = usize::MAX;
    }
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
        let mut frame = segment.frame::<F>();
        let tags = random.pick(&TAGS);
        let arrived = with_tags(&frame, tags);
        let (action, left) = program.run(&arrived)?;
        let (expected, reason) = on_host(&host, &mut frame);
        // What is not forwarded keeps its tags; what is dropped is not looked at any more.
        if reason.is_some() && expected != Action::Drop || expected == Action::Pass {
            frame = with_tags(&frame, tags);
        }
        writeln!(story, "{tags:?} {segment:?}: {expected:?} {reason:?}")?;
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
fn tables<F: Host>(random: &mut Random) -> HostTables<F> {
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
        let key = ServiceKey::new(endpoint::<F>(vip(service)));
        let is_holding = random.one_in(4);
        let restriction = random.pick(&[None, None, Some(Access::Allow), Some(Access::Deny)]);
        let forwarding = random.pick(&[
            Forwarding::Nat,
            Forwarding::Nat,
            Forwarding::FullNat,
            Forwarding::Dsr,
        ]);
        let most = random.pick(&[0, 0, 1, 2]);
        if let Some(service) = tables.services.get_mut(&key) {
            *service = service.holding(is_holding).forwarded(forwarding);
            if let Some(otherwise) = restriction {
                *service = service.restricted(otherwise);
            }
            service.source_connections = most;
        }
    }
    for member in tables.members.values_mut() {
        *member = member.eligible(!random.one_in(3)).limited(true);
    }
    for number in 0..CLIENTS {
        if random.one_in(2) {
            let network = F::address(*client(number).ip()).widen();
            let key = (ServiceId(u16::from(random.small(SERVICES))), network, 128);
            let access = random.pick(&[Access::Allow, Access::Deny]);
            tables.access.insert(key, access);
        }
    }
    tables.shares_next_hops = random.one_in(2);
    // So few that they run out.
    tables.ports = (40_000, 40_001);
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
fn segment<F: Host>(random: &mut Random, host: &HostTables<F>) -> Segment {
    let known: Vec<_> = host
        .transient_flows()
        .into_keys()
        .chain(host.established_flows().into_keys())
        .collect();
    let mut client = client(random.small(CLIENTS));
    if random.one_in(8) {
        client.set_port(40_001);
    }
    let (source, destination) = if !known.is_empty() && !random.one_in(3) {
        let known = random.pick(&known);
        let ends = [known.sender(), known.receiver()];
        ends.map(|it| SocketAddrV4::new(told(it.address.widen()), u16::from_be_bytes(it.port)))
            .into()
    } else if random.one_in(3) {
        (backend(random.pick(&BACKENDS)), client)
    } else {
        (client, vip(random.small(SERVICES + 1)))
    };
    let is_known = known.iter().any(|it| {
        it.sender() == endpoint::<F>(source) && it.receiver() == endpoint::<F>(destination)
    });
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
    let half_open = host.transient_flows();
    if let Some(flow) = half_open.get(&key::<F>(source, destination))
        && !random.one_in(3)
    {
        segment.acknowledgment = flow.memo;
    }
    segment.ttl = if random.one_in(20) {
        random.small(3)
    } else {
        64
    };
    segment.tcp_options = some_bytes(random, 4);
    segment.payload = some_bytes(random, 7);
    if random.one_in(10) {
        segment.payload = random.bytes(1_380);
    }
    if random.one_in(30) {
        segment.ip_options = vec![1; 4];
    }
    if random.one_in(30) {
        segment.fragment = random.pick(&[0x2000, 0x0010, 0x2010, 0x8000, 0x6000]);
    }
    segment
}

/// The address of the story whose twin, or which itself, this is.
fn told(wide: lb_common::family::WideAddress) -> Ipv4Addr {
    match either(wide) {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => {
            let [.., network, _, _, _, host] = address.segments();
            let byte = |number| u8::try_from(number).expect("a twin has bytes");
            Ipv4Addr::new(10, byte(network), 0, byte(host))
        }
    }
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
fn change<F: Host>(
    random: &mut Random,
    host: &mut HostTables<F>,
    program: &mut Program,
) -> Result<String> {
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
fn age<F: Host>(host: &mut HostTables<F>, program: &mut Program, ticks: u32) -> Result<()> {
    let older = |tick: Tick| Tick(tick.0.wrapping_sub(ticks));
    for (key, mut flow) in host.transient_flows() {
        flow.last_seen = older(flow.last_seen);
        host.set_transient(key, flow);
    }
    for (key, mut flow) in program.tables.transient()? {
        flow.last_seen = older(flow.last_seen);
        program.tables.put_transient(key, flow)?;
    }
    Ok(())
}

/// A family whose headers the host reads as `lb-ebpf` does.
trait Host: Side {
    fn header(bytes: &[u8]) -> Self::Header;
    fn put(header: &Self::Header, bytes: &mut [u8]);
    /// Where the ports of a TCP packet are, if they are in it, and why a service would not take it.
    fn look(frame: &[u8]) -> (Option<usize>, Option<Reason>);
}

impl Host for V4 {
    fn header(bytes: &[u8]) -> Ipv4 {
        Ipv4(std::array::from_fn(|at| bytes[at]))
    }

    fn put(header: &Ipv4, bytes: &mut [u8]) {
        bytes[..20].copy_from_slice(&header.0);
    }

    fn look(frame: &[u8]) -> (Option<usize>, Option<Reason>) {
        let fragment = u16::from_be_bytes([frame[20], frame[21]]);
        let options = usize::from(frame[14] & 0x0f) * 4 - 20;
        if fragment & 0x1fff != 0 {
            (None, Some(Reason::Fragment))
        } else if fragment & 0x2000 != 0 {
            (Some(34 + options), Some(Reason::Fragment))
        } else if options > 0 {
            (Some(34 + options), Some(Reason::IpOptions))
        } else {
            (Some(34), None)
        }
    }
}

impl Host for V6 {
    fn header(bytes: &[u8]) -> Ipv6 {
        Ipv6(std::array::from_fn(|at| bytes[at]))
    }

    fn put(header: &Ipv6, bytes: &mut [u8]) {
        bytes[..40].copy_from_slice(&header.0);
    }

    fn look(frame: &[u8]) -> (Option<usize>, Option<Reason>) {
        match frame[20] {
            44 if frame[56] != 0 || frame[57] & 0xf8 != 0 => (None, Some(Reason::Fragment)),
            44 => (Some(62), Some(Reason::Fragment)),
            60 => (Some(62), Some(Reason::IpOptions)),
            _ => (Some(54), None),
        }
    }
}

/// The tags that a frame comes with.
const TAGS: [&[([u8; 2], u16)]; 4] = [&[], &[], &[(CUSTOMER, 7)], &[(SERVICE, 100), (CUSTOMER, 7)]];

/// What `lb-ebpf` does around the pipeline: reads the headers, and turns a reason into an action.
fn on_host<F: Host>(tables: &HostTables<F>, frame: &mut Vec<u8>) -> (Action, Option<Reason>) {
    let behind = 14 + F::Header::LENGTH;
    let mut ip = F::header(&frame[14..]);
    if let (ports, Some(reason)) = F::look(frame) {
        let port = ports.map_or([0, 0], |at| [frame[at + 2], frame[at + 3]]);
        let receiver = Endpoint {
            address: ip.destination(),
            port,
        };
        let reason = refuse_odd(tables, receiver, reason);
        return (act(reason), Some(reason));
    }
    let mut ethernet = Ethernet {
        destination: std::array::from_fn(|at| frame[at]),
        source: std::array::from_fn(|at| frame[6 + at]),
        kind: [frame[12], frame[13]],
    };
    let mut tcp = Tcp(std::array::from_fn(|at| frame[behind + at]));
    let mut headers: Headers<'_, F> = Headers {
        ethernet: &mut ethernet,
        ip: &mut ip,
        tcp: &mut tcp,
        egress: Egress::default(),
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
    let mtu = headers.egress.mtu;
    if result == Err(Reason::TooBig) {
        let (mut around, mut icmp) = (F::header(&frame[14..]), Icmp([0; 8]));
        report_too_big::<F>(&mut around, &mut icmp, &ip, &tcp, mtu);
        ethernet.turn_round();
        let mut packet = vec![0; F::Header::LENGTH];
        F::put(&around, &mut packet);
        packet.extend(icmp.0);
        packet.extend(&frame[14..behind + 20]);
        frame.truncate(14);
        frame.extend(packet);
    } else {
        if result.is_err() && action == Action::Tx {
            refuse(&mut headers);
            frame.truncate(behind + 20);
        }
        F::put(&ip, &mut frame[14..]);
        frame[behind..behind + 20].copy_from_slice(&tcp.0);
    }
    frame[..6].copy_from_slice(&ethernet.destination);
    frame[6..12].copy_from_slice(&ethernet.source);
    (action, result.err())
}

fn act(reason: Reason) -> Action {
    match reason {
        Reason::NotIp | Reason::NotTcp | Reason::Truncated | Reason::NotOurs => Action::Pass,
        Reason::Denied
        | Reason::NoBackend
        | Reason::TableFull
        | Reason::ReplyCollision
        | Reason::UnknownSegment
        | Reason::Superseded
        | Reason::SourceLimit
        | Reason::NoPort
        | Reason::TooBig => Action::Tx,
        Reason::Fragment
        | Reason::IpOptions
        | Reason::HopLimit
        | Reason::Held
        | Reason::StrayReset
        | Reason::RefusalWithheld
        | Reason::Inconsistent
        | Reason::SourceRate
        | Reason::NoNeighbour
        | Reason::NotOnLink
        | Reason::StrayError
        | Reason::VlanTags => Action::Drop,
    }
}

fn compare_tables<F: Host>(program: &Program, host: &HostTables<F>) -> Result<()> {
    let same = |of_kernel: lb_userspace::engine::kernel::Flows,
                of_host: BTreeMap<FlowKey<F::Address>, Flow<F::Address>>| {
        let wide = |address: F::Address| either(address.widen());
        let of_kernel: BTreeMap<_, _> = of_kernel
            .into_iter()
            .map(|(key, flow)| (key, timeless(flow)))
            .collect();
        let of_host: BTreeMap<_, _> = of_host
            .into_iter()
            .map(|(key, flow)| (key.map(wide), timeless(flow.map(wide))))
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
    let services = host.services.values();
    for service in services.filter(|service| service.id != NOBODY) {
        let (of_kernel, of_host) = (program.tables.turn(service.id)?, host.take_turn(service.id));
        ensure!(
            of_kernel == u64::from(of_host),
            "{of_kernel} turns in the kernel, {of_host} on the host"
        );
    }
    Ok(())
}
