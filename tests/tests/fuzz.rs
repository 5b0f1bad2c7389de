//! Any bytes on the wire: the program never fails, and leaves alone what is not ours.
//!
//! The kernel runs no frame shorter than an Ethernet header, and a network card hands over none.
#![expect(clippy::print_stdout, reason = "the seed is worth reading")]

mod program;

use anyhow::{Context as _, Result, ensure};
use lb_common::flow::FlowKey;
use lb_common::service::Algorithm;
use lb_userspace::engine::host_tables::HostTables;
use pglb_tests::packets::{ACK, FIN, FIRST_FRAGMENT, IPV4, RST, SYN, Segment, tagged};

use program::random::Random;
use program::{Action, Program, add_service, backend, client, endpoint, gateway, sent, vip};

const RANDOM_PACKETS: usize = 10_000;
const ETHERNET: usize = 14;

#[test]
fn random_bytes_and_mutated_packets_harm_nobody() -> Result<()> {
    let seed = Random::seed();
    println!("seed {seed}");
    program::with_program(|program| {
        program.fill(&tables())?;
        let mut random = Random::new(seed);
        for number in 0..RANDOM_PACKETS {
            let frame = random_frame(&mut random);
            check(program, &frame)
                .with_context(|| format!("packet {number} of PGLB_SEED={seed}"))?;
        }
        // And it still does its work.
        program.fill(&tables())?;
        serves(program)
    })
}

#[test]
fn packets_cut_at_every_length_harm_nobody() -> Result<()> {
    program::with_program(|program| {
        program.fill(&tables())?;
        for whole in specimens() {
            for length in ETHERNET..=whole.len() {
                check(program, &whole[..length])
                    .with_context(|| format!("cut to {length} bytes"))?;
            }
        }
        program.fill(&tables())?;
        serves(program)
    })
}

#[test]
fn every_value_of_every_header_byte_harms_nobody() -> Result<()> {
    program::with_program(|program| {
        for whole in specimens() {
            program.fill(&tables())?;
            for at in 0..whole.len().min(66) {
                for value in 0..=u8::MAX {
                    let mut frame = whole.clone();
                    frame[at] = value;
                    check(program, &frame).with_context(|| format!("byte {at} is {value:#04x}"))?;
                }
            }
        }
        program.fill(&tables())?;
        serves(program)
    })
}

fn tables() -> HostTables {
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
fn check(program: &Program, frame: &[u8]) -> Result<()> {
    let is_ours = is_ours(program, frame)?;
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
        ensure!(left == frame, "a dropped packet was changed");
    }
    Ok(())
}

/// Whether a frame is TCP to a service, or of a flow that is known. Whatever else is wrong with it, it may be dealt with.
fn is_ours(program: &Program, frame: &[u8]) -> Result<bool> {
    let (ethernet, ip) = frame.split_at(ETHERNET);
    if ethernet[12..] != IPV4 || ip.len() < 20 || ip[0] >> 4 != 4 || ip[9] != 6 {
        return Ok(false);
    }
    let is_later_fragment = ip[6] & 0x1f != 0 || ip[7] != 0;
    let Some(&[s0, s1, d0, d1]) = ip
        .get(usize::from(ip[0] & 0x0f) * 4..)
        .and_then(|tcp| tcp.first_chunk())
    else {
        return Ok(false);
    };
    let key = FlowKey {
        source: [ip[12], ip[13], ip[14], ip[15]],
        destination: [ip[16], ip[17], ip[18], ip[19]],
        source_port: [s0, s1],
        destination_port: [d0, d1],
    };
    let is_service = [vip(0), vip(1)].map(endpoint).contains(&key.receiver());
    let is_reply = [1, 2, 15]
        .map(|number| endpoint(backend(number)))
        .contains(&key.sender());
    let is_known = || {
        Ok::<_, anyhow::Error>(
            program.tables.established()?.contains_key(&key)
                || program.tables.transient()?.contains_key(&key),
        )
    };
    Ok(!is_later_fragment && (is_service || is_reply && is_known()?))
}

/// A connection is opened and carried as on the first day.
fn serves(program: &Program) -> Result<()> {
    let (client, vip) = (client(6), vip(0));
    let syn = Segment::syn(client, vip);
    let (action, left) = program.run(&syn.bytes())?;
    let backend = Segment::read(&left)?.destination;
    ensure!(
        action == Action::Redirect && left == sent(syn.clone().to(backend)).bytes(),
        "a SYN: {action:?}"
    );
    let answer = Segment::syn(client, backend).syn_ack();
    let (action, left) = program.run(&answer.bytes())?;
    ensure!(
        action == Action::Redirect && left == sent(answer.from(vip)).bytes(),
        "a SYN-ACK: {action:?}"
    );
    let ack = Segment::between(client, vip).ack(7_001).data(b"select 1");
    let (action, left) = program.run(&ack.bytes())?;
    ensure!(
        action == Action::Redirect && left == sent(ack.to(backend)).bytes(),
        "an ACK: {action:?}"
    );
    Ok(())
}

/// Right packets of many kinds, to break.
fn specimens() -> Vec<Vec<u8>> {
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
    let mut frames: Vec<_> = segments.iter().map(Segment::bytes).collect();
    frames.push(tagged(&frames[0], 7));
    frames
}

fn random_frame(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        // Noise, some of it claiming to be IPv4, and TCP.
        0 => {
            let length = ETHERNET + random.below(1_500);
            let mut frame = random.bytes(length);
            if random.one_in(2) {
                frame[12..14].copy_from_slice(&IPV4);
            }
            if frame.len() > 34 && random.one_in(2) {
                (frame[14], frame[23]) = (0x40 | random.byte() & 0x0f, 6);
            }
            frame
        }
        // A specimen with a few bytes changed.
        1 => {
            let specimens = specimens();
            let mut frame = specimens[random.below(specimens.len())].clone();
            for _ in 0..=random.below(6) {
                let at = random.below(frame.len());
                frame[at] = random.byte();
            }
            frame
        }
        // A specimen with a few bytes changed, cut or prolonged.
        2 => {
            let specimens = specimens();
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
            segment.bytes()
        }
    }
}
