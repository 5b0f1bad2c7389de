//! `pglb capture`: the packets that XDP forwards, before and after, which tcpdump cannot see.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use lb_common::capture::{HEADER_BYTES, MOST_BYTES};

use super::output;
use crate::capture::filter::{Filter, Owner, Service};
use crate::capture::headers::Headers;
use crate::capture::line::{self, Names};
use crate::capture::order::{HELD_BACK, Order};
use crate::capture::packet::{Outcome, Packet};
use crate::capture::pcapng::{Way, Writer};
use crate::cli::CaptureArgs;
use crate::config::{self, Config};
use crate::shell::bpf_capture::{Captures, RENEWED_EVERY};
use crate::shell::interrupt::Interrupt;
use crate::shell::links::{Link, links};
use crate::shell::{bpf, clock, privileges};

/// Captures until Ctrl-C, or until there are as many packets as were asked for.
pub(super) fn run(args: &CaptureArgs) -> anyhow::Result<ExitCode> {
    let config = config::load(&args.host.config)?;
    let mut filter = filter(args, &config)?;
    privileges::require("capture")?;
    let pin_dir = &config.gateway.pin_dir;
    anyhow::ensure!(
        bpf::has_tables(pin_dir),
        "there are no tables in {}: pglb does not run here, or was detached",
        pin_dir.display()
    );
    let interrupt = Interrupt::watch()?;
    let snap = if args.write.is_some() {
        MOST_BYTES
    } else {
        HEADER_BYTES
    };
    let mut captures = Captures::open(pin_dir, snap)?;
    let mut sink = Sink::open(args.write.as_deref(), &config)?;
    captures.renew()?;
    output::warn(&format!(
        "capturing what pglb forwards on {}; Ctrl-C ends it",
        config.gateway.interfaces.join(", ")
    ));

    let mut order = Order::default();
    let mut left = args.count.unwrap_or(u64::MAX);
    let (mut packets, mut lost) = (0_u64, 0_u64);
    let mut renewed = clock::now();
    let mut is_over = false;
    while !is_over {
        let mut age = clock::now() - renewed;
        if age >= RENEWED_EVERY {
            captures.renew()?;
            renewed = clock::now();
            age = Duration::ZERO;
        }
        let patience = if order.is_holding() {
            Duration::from_nanos(HELD_BACK)
        } else {
            RENEWED_EVERY - age
        };
        is_over = captures.wait(interrupt.as_fd(), patience)?;
        let read_at = clock::monotonic_nanoseconds();
        lost += captures.drain(|record, after| {
            order.take_in(record.nanoseconds, Packet::of(record, after));
        });
        // When it is over nothing can come before what is there.
        for packet in order.give_out(if is_over { u64::MAX } else { read_at }) {
            let Some(owner) = filter.sort(&packet) else {
                continue;
            };
            if left == 0 {
                break;
            }
            sink.put(&packet, &owner)?;
            packets += 1;
            left -= 1;
        }
        sink.flush()?;
        is_over |= left == 0;
    }
    let plural = if packets == 1 { "" } else { "s" };
    output::warn(&format!("{packets} packet{plural}, {lost} lost"));
    Ok(ExitCode::SUCCESS)
}

fn filter(args: &CaptureArgs, config: &Config) -> anyhow::Result<Filter> {
    let services = config.services.iter().map(|service| Service {
        name: service.name.clone(),
        vip: service.vip,
    });
    let services: Vec<Service> = services.collect();
    if let Some(wanted) = &args.service {
        let names: Vec<&str> = services.iter().map(|it| it.name.as_str()).collect();
        anyhow::ensure!(
            names.contains(&wanted.as_str()),
            "there is no service {wanted} in {}; there are {}",
            args.host.config.display(),
            names.join(", ")
        );
    }
    Ok(Filter::new(services, args.service.clone(), args.client))
}

/// Where packets go.
enum Sink {
    /// Lines on stdout; those of one round are kept together.
    Lines { lines: String, booted: SystemTime },
    /// A file.
    File {
        writer: Writer<BufWriter<Box<dyn Write>>>,
        booted: SystemTime,
        links: Vec<Link>,
        names: Names,
    },
}

impl Sink {
    fn open(file: Option<&Path>, config: &Config) -> anyhow::Result<Self> {
        // What the kernel's times count from.
        let since_boot = Duration::from_nanos(clock::monotonic_nanoseconds());
        let booted = clock::wall().checked_sub(since_boot).unwrap_or(UNIX_EPOCH);
        let Some(path) = file else {
            let lines = String::new();
            return Ok(Self::Lines { lines, booted });
        };
        let mut links = links()?;
        // An interface of the configuration comes before another of the same address, such as
        // a VLAN's over it.
        links.sort_by_key(|link| !config.gateway.interfaces.contains(&link.name));
        let backends = config.clusters.iter().flat_map(|cluster| &cluster.backends);
        let names = backends.map(|backend| (backend.address, backend.name.clone()));
        Ok(Self::File {
            writer: Writer::begin(BufWriter::new(create(path)?))?,
            booted,
            links,
            names: names.collect(),
        })
    }

    fn put(&mut self, packet: &Packet, owner: &Owner) -> io::Result<()> {
        let since_boot = Duration::from_nanos(packet.nanoseconds);
        match self {
            Self::Lines { lines, booted } => {
                lines.push_str(&line::line(packet, owner, *booted + since_boot));
                lines.push('\n');
            }
            Self::File {
                writer,
                booted,
                links,
                names,
            } => {
                let at = *booted + since_boot;
                let by_index = |link: &&Link| link.index == packet.ingress;
                let ingress = links.iter().find(by_index).map_or("?", |link| &link.name);
                let (before, after) = line::comments(packet, owner, names);
                writer.frame(&packet.before, at, ingress, Way::In, &before)?;
                let frame = match &packet.outcome {
                    Outcome::Forwarded(frame) | Outcome::Answered(frame) => frame,
                    Outcome::Dropped => return Ok(()),
                };
                // Out of which interface it went the packet itself tells, as its sender.
                let mac = Headers::read(&frame.bytes).map(|headers| headers.source_mac);
                let by_mac = |link: &&Link| Some(link.mac) == mac;
                let egress = links.iter().find(by_mac).map_or("?", |link| &link.name);
                writer.frame(frame, at, egress, Way::Out, &after)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Lines { lines, .. } => {
                let shown = output::show(lines);
                lines.clear();
                shown
            }
            Self::File { writer, .. } => writer.flush(),
        }
    }
}

/// A file for its owner alone, because packets hold what nobody else may read; `-` is stdout.
fn create(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        anyhow::ensure!(
            !output::is_terminal(),
            "a pcapng file is no text: name a file, or pass it on by a pipe"
        );
        return Ok(Box::new(io::stdout()));
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Box::new(file))
}
