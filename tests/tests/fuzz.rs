//! Any bytes on the wire: the program never fails, and leaves alone what is not ours.
//!
//! The kernel runs no frame shorter than an Ethernet header, and a network card hands over none.
#![expect(clippy::print_stdout, reason = "the seed is worth reading")]

mod program;

use anyhow::{Context as _, Result, ensure};
use lb_common::family::{Address as _, V4, V6, ip as either};
use lb_common::flow::FlowKey;
use lb_common::service::Algorithm;
use lb_common::wire::IpHeader as _;
use lb_userspace::engine::host_tables::HostTables;
use pglb_tests::frames::{CUSTOMER, IPV6, SERVICE, with_tags};
use pglb_tests::packets::{ACK, FIN, FIRST_FRAGMENT, IPV4, RST, SYN, Segment};

use program::random::Random;
use program::{
    Action, Framed as _, Program, Side, add_service, backend, client, endpoint, gateway, sent, vip,
};

const RANDOM_PACKETS: usize = 10_000;
const ETHERNET: usize = 14;

#[test]
fn random_bytes_and_mutated_packets_harm_nobody() -> Result<()> {
    try_random_bytes_and_mutated_packets::<V4>()?;
    try_random_bytes_and_mutated_packets::<V6>()
}

fn try_random_bytes_and_mutated_packets<F: Side>() -> Result<()> {
    let seed = Random::seed();
    println!("seed {seed}");
    program::with_program(|program| {
        program.fill(&tables::<F>())?;
        let mut random = Random::new(seed);
        for number in 0..RANDOM_PACKETS {
            let frame = random_frame::<F>(&mut random);
            check::<F>(program, &frame)
                .with_context(|| format!("packet {number} of PGLB_SEED={seed}"))?;
        }
        // And it still does its work.
        program.fill(&tables::<F>())?;
        serves::<F>(program)
    })
}

#[test]
fn packets_cut_at_every_length_harm_nobody() -> Result<()> {
    try_packets_cut_at_every_length::<V4>()?;
    try_packets_cut_at_every_length::<V6>()
}

fn try_packets_cut_at_every_length<F: Side>() -> Result<()> {
    program::with_program(|program| {
        program.fill(&tables::<F>())?;
        for whole in specimens::<F>() {
            for length in ETHERNET..=whole.len() {
                check::<F>(program, &whole[..length])
                    .with_context(|| format!("cut to {length} bytes"))?;
            }
        }
        program.fill(&tables::<F>())?;
        serves::<F>(program)
    })
}

#[test]
fn every_value_of_every_header_byte_harms_nobody() -> Result<()> {
    try_every_value_of_every_header_byte::<V4>()?;
    try_every_value_of_every_header_byte::<V6>()
}

fn try_every_value_of_every_header_byte<F: Side>() -> Result<()> {
    program::with_program(|program| {
        for whole in specimens::<F>() {
            program.fill(&tables::<F>())?;
            for at in 0..whole.len().min(86) {
                for value in 0..=u8::MAX {
                    let mut frame = whole.clone();
                    frame[at] = value;
                    check::<F>(program, &frame)
                        .with_context(|| format!("byte {at} is {value:#04x}"))?;
                }
            }
        }
        program.fill(&tables::<F>())?;
        serves::<F>(program)
    })
}

fn tables<F: Side>() -> HostTables<F> {
    let mut tables = gateway();
    add_service(
        &mut tables,
        0,
        Algorithm::LeastConnections,
        &[(1, 100), (2, 100), (15, 100)],
    );
    add_service(&mut tables, 1, Algorithm::Hash, &[(1, 100), (2, 50)]);
    tables
}

/// Runs one frame: the program must know what to do, and must not touch what is not ours.
fn check<F: Side>(program: &Program, frame: &[u8]) -> Result<()> {
    let is_ours = is_ours::<F>(program, frame)?;
    let (action, left) = program.run(frame)?;
    ensure!(
        action != Action::Aborted,
        "the program aborted on {frame:02x?}"
    );
    if !is_ours {
        ensure!(
            action == Action::Pass,
            "{action:?} for what is not ours: {frame:02x?}"
        );
        ensure!(
            left == frame,
            "what is not ours was changed from {frame:02x?} to {left:02x?}"
        );
    } else if action == Action::Drop {
        let tags = frame.len().saturating_sub(left.len());
        ensure!(
            left[12..] == frame[12 + tags..],
            "a dropped packet was changed but for its tags"
        );
    }
    Ok(())
}

/// Whether a frame is TCP to a service, or of a flow that is known. Whatever else is wrong with it, it may be dealt with.
fn is_ours<F: Side>(program: &Program, frame: &[u8]) -> Result<bool> {
    let mut kind = 12;
    let has_tag = |at: usize| {
        let kind = frame.get(at..at + 2);
        [CUSTOMER, SERVICE].iter().any(|tag| kind == Some(tag))
    };
    while kind < 20 && has_tag(kind) {
        kind += 4;
    }
    let header = F::Header::LENGTH;
    let is_v4 = header == 20;
    let Some(ip) = frame.get(kind + 2..).filter(|ip| ip.len() >= header) else {
        return Ok(false);
    };
    let family = if is_v4 { IPV4 } else { IPV6 };
    if frame[kind..kind + 2] != family || ip[0] >> 4 != if is_v4 { 4 } else { 6 } {
        return Ok(false);
    }
    let (protocol, length, is_later_fragment) = if is_v4 {
        let is_later = ip[6] & 0x1f != 0 || ip[7] != 0;
        (ip[9], usize::from(ip[0] & 0x0f) * 4, is_later)
    } else if let (0 | 43 | 44 | 60, Some(more)) = (ip[6], ip[header..].first_chunk::<8>()) {
        let is_fragment = ip[6] == 44;
        let length = if is_fragment { 0 } else { usize::from(more[1]) };
        let is_later = is_fragment && (more[2] != 0 || more[3] & 0xf8 != 0);
        (more[0], header + length * 8 + 8, is_later)
    } else {
        (ip[6], header, false)
    };
    let address = |at: usize| {
        let mut wide = [0; 16];
        if is_v4 {
            wide[10..12].fill(0xff);
            wide[12..].copy_from_slice(&ip[at..at + 4]);
        } else {
            wide.copy_from_slice(&ip[at..at + 16]);
        }
        lb_common::family::v6(wide.into())
    };
    let narrow = |at| lb_common::family::Address::narrow(address(at));
    let (source, destination): (F::Address, F::Address) = if is_v4 {
        (narrow(12), narrow(16))
    } else {
        (narrow(8), narrow(24))
    };
    if protocol == F::ICMP && ip.get(length).is_some_and(|kind| F::is_error(*kind)) {
        // It may be about one of ours.
        return Ok(true);
    }
    if protocol != 6 {
        return Ok(false);
    }
    if is_later_fragment {
        let vips = [vip(0), vip(1)].map(|vip| F::address(*vip.ip()));
        return Ok(vips.contains(&destination));
    }
    let Some(&[s0, s1, d0, d1]) = ip.get(length..).and_then(|tcp| tcp.first_chunk()) else {
        return Ok(false);
    };
    let key = FlowKey {
        source,
        destination,
        source_port: [s0, s1],
        destination_port: [d0, d1],
    };
    // Port 0 at a VIP is nobody's: the tables have it for fragments without a port.
    let is_nobody = |vip| endpoint::<F>(vip).address == destination && [d0, d1] == [0, 0];
    let is_service = [vip(0), vip(1)].into_iter().any(is_nobody)
        || [vip(0), vip(1)]
            .map(endpoint::<F>)
            .contains(&key.receiver());
    let is_reply = [1, 2, 15]
        .map(|number| endpoint::<F>(backend(number)))
        .contains(&key.sender());
    let wide = key.map(|address| either(address.widen()));
    let is_known = || {
        Ok::<_, anyhow::Error>(
            program.tables.established()?.contains_key(&wide)
                || program.tables.transient()?.contains_key(&wide),
        )
    };
    Ok(is_service || is_reply && is_known()?)
}

/// A connection is opened and carried as on the first day.
fn serves<F: Side>(program: &Program) -> Result<()> {
    let (client, vip) = (client(6), vip(0));
    let syn = Segment::syn(client, vip);
    let (action, left) = program.run(&syn.frame::<F>())?;
    let backend = [1, 2, 15]
        .map(backend)
        .into_iter()
        .find(|backend| left == sent(syn.clone().to(*backend)).frame::<F>());
    ensure!(action == Action::Redirect, "a SYN: {action:?}");
    let backend = backend.context("a SYN goes to no backend")?;
    let answer = Segment::syn(client, backend).syn_ack();
    let (action, left) = program.run(&answer.frame::<F>())?;
    ensure!(
        action == Action::Redirect && left == sent(answer.from(vip)).frame::<F>(),
        "a SYN-ACK: {action:?}"
    );
    let ack = Segment::between(client, vip).ack(7_001).data(b"select 1");
    let (action, left) = program.run(&ack.frame::<F>())?;
    ensure!(
        action == Action::Redirect && left == sent(ack.to(backend)).frame::<F>(),
        "an ACK: {action:?}"
    );
    Ok(())
}

/// Right packets of many kinds, to break.
fn specimens<F: Side>() -> Vec<Vec<u8>> {
    let syn = Segment::syn(client(0), vip(0));
    let answer = Segment::syn(client(0), backend(1)).syn_ack();
    let data = Segment::between(client(0), vip(0))
        .ack(7_001)
        .data(b"select 1");
    let reply = Segment::between(backend(1), client(0))
        .ack(1_001)
        .data(b"1");
    let mut optional = Segment::syn(client(1), vip(1));
    optional.ip_options = vec![148, 4, 0, 0];
    let mut fragment = Segment::syn(client(1), vip(1));
    fragment.fragment = FIRST_FRAGMENT;
    let reset = Segment::between(client(0), vip(0)).flags(RST);
    let fin = Segment::between(backend(1), client(0)).flags(FIN | ACK);
    let stranger = Segment::between(client(2), backend(1)).flags(SYN);
    let segments = [
        syn, answer, data, reply, optional, fragment, reset, fin, stranger,
    ];
    let mut frames: Vec<_> = segments.iter().map(F::frame).collect();
    // A report about the SYN, as it left for the backend.
    let quoted = Segment::syn(client(0), backend(1)).frame::<F>();
    let around = Segment::between(backend(8), client(0));
    frames.push(F::icmp(
        &around,
        F::TOO_BIG,
        [0, 0, 5, 20],
        &quoted[ETHERNET..],
    ));
    frames.push(with_tags(&frames[0], &[(CUSTOMER, 7)]));
    frames.push(with_tags(&frames[2], &[(SERVICE, 7), (CUSTOMER, 8)]));
    frames
}

fn random_frame<F: Side>(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        // Noise, some of it claiming to be IPv4, and TCP.
        0 => {
            let length = ETHERNET + random.below(1_500);
            let mut frame = random.bytes(length);
            if random.one_in(2) {
                frame[12..14].copy_from_slice(&random.pick(&[IPV4, IPV6, CUSTOMER, SERVICE]));
            }
            if frame.len() > 34 && random.one_in(2) {
                (frame[14], frame[23]) = (0x40 | random.byte() & 0x0f, 6);
            }
            frame
        }
        // A specimen with a few bytes changed.
        1 => {
            let specimens = specimens::<F>();
            let mut frame = specimens[random.below(specimens.len())].clone();
            for _ in 0..=random.below(6) {
                let at = random.below(frame.len());
                frame[at] = random.byte();
            }
            frame
        }
        // A specimen with a few bytes changed, cut or prolonged.
        2 => {
            let specimens = specimens::<F>();
            let mut frame = specimens[random.below(specimens.len())].clone();
            let at = random.below(frame.len());
            frame[at] = random.byte();
            let length = ETHERNET + random.below(200);
            let more = random.bytes(length.saturating_sub(frame.len()));
            frame.extend(more);
            frame.truncate(length);
            frame
        }
        // A right packet between any two that know each other.
        _ => {
            let (client, vip) = (client(random.small(4)), vip(random.small(2)));
            let backend = backend(random.pick(&[1, 2, 15]));
            let (source, destination) =
                random.pick(&[(client, vip), (client, vip), (backend, client)]);
            let mut segment = Segment::between(source, destination).flags(random.byte());
            segment.ttl = random.byte();
            let length = random.below(100);
            segment.payload = random.bytes(length);
            segment.frame::<F>()
        }
    }
}
