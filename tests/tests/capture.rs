//! `pglb capture` shows what XDP forwards, before and after, and nothing stays on.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::{SocketAddr, SocketAddrV4},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::capture::Capture;
use lb_common::flow::Tick;
use lb_userspace::shell::clock::kernel_tick;
use pglb_tests::{
    clock, command,
    family::Family,
    frames::IPV6,
    gateway::{Config, Gateway},
    listener::{self, Manner},
    packets::{ACK, FIN, IPV4, SYN, Segment, checksum},
    plain::{PLAIN, PlainSite},
    postgres::Options,
    process::{self, Signal},
    session::Session,
    site::{PATIENCE, RO, RO_ADDRESS, RW, RW_ADDRESS, Site},
    topology::{CLIENT, INSIDE, Network, Plan, Returns, VIP},
};

pglb_tests::in_both_families!(nat_is_shown, full_nat_is_shown, dsr_is_shown);

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_file_holds_each_packet_before_and_after_and_no_other() -> Result<()> {
    let mut site = Site::start(Options::default(), &Config::demo())?;
    // It needs no controller.
    site.gateway.kill()?;
    let file = site.network.directory().join("out.pcapng");
    let name = file.display().to_string();
    let capturing = Capturing::start(&site.gateway, &["-w", &name, "--service", RO])?;
    let client = talk(&site, RO_ADDRESS, "select 'a question'")?;
    talk(&site, RW_ADDRESS, "select 'another one'")?;
    let summary = capturing.interrupt()?;
    assert!(!row(&site.gateway)?.is_set(), "it is off afterwards");

    let frames = read(&file)?;
    assert_eq!(summary, format!("{} packets, 0 lost", frames.len() / 2));
    let is_of = |frame: &Captured, end: SocketAddrV4| {
        frame.segment.source == end || frame.segment.destination == end
    };
    assert!(frames.iter().all(|frame| is_of(frame, client)));
    assert!(frames.is_sorted_by_key(|frame| frame.nanoseconds));

    for pair in frames.chunks(2) {
        let [before, after] = pair else {
            bail!("{} frames are no pairs", frames.len())
        };
        assert_eq!((before.flags, after.flags), (1, 2), "in, and out");
        assert_eq!(before.nanoseconds, after.nanoseconds);
        assert_eq!(before.comment, format!("{RO}, before"));
        assert_eq!(before.segment.ttl, after.segment.ttl + 1);
        assert_eq!(before.segment.payload, after.segment.payload);
        assert_eq!(before.segment.sequence, after.segment.sequence);
        assert_eq!(before.segment.flags, after.segment.flags);
    }

    let vip = v4(RO_ADDRESS);
    let [syn, syn_sent, syn_ack, syn_ack_sent, ..] = frames.as_slice() else {
        bail!("{} frames are no handshake", frames.len())
    };
    let backend = syn_sent.segment.destination;
    let server = if backend.ip().octets()[3] == 12 {
        "db2"
    } else {
        "db3"
    };
    let told = |frame: &Captured| (frame.segment.source, frame.segment.destination);
    assert_eq!(syn.segment.flags, SYN);
    assert_eq!(told(syn), (client, vip));
    assert_eq!(told(syn_sent), (client, backend));
    assert_eq!(syn_ack.segment.flags, SYN | ACK);
    assert_eq!(told(syn_ack), (backend, client));
    assert_eq!(told(syn_ack_sent), (vip, client));
    let interfaces = [syn, syn_sent, syn_ack, syn_ack_sent].map(|it| it.interface.as_str());
    assert_eq!(interfaces, ["client", server, server, "client"]);
    assert_eq!(syn_sent.comment, format!("{RO}, after, to {server}"));
    assert_eq!(syn_ack_sent.comment, format!("{RO}, after, to client"));

    let holds = |what: &[u8]| {
        let payloads = frames.iter().map(|frame| &frame.segment.payload);
        payloads
            .filter(|it| it.windows(what.len()).any(|part| part == what))
            .count()
    };
    assert!(holds(b"a question") >= 2, "the question and its answer");
    assert_eq!(holds(b"another one"), 0);
    assert!(frames.iter().any(|frame| frame.segment.flags & FIN != 0));

    // tcpdump, where it is installed, reads as many.
    if let Ok(output) = Command::new("tcpdump").args(["-nr", &name]).output() {
        let lines = String::from_utf8(output.stdout)?.lines().count();
        assert_eq!(
            lines,
            frames.len(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[test]
fn lines_tell_what_became_of_packets_and_nothing_stays_on() -> Result<()> {
    let site = Site::start(Options::default(), &Config::demo())?;
    let other = "10.71.0.77";
    let nobody = Capturing::start(&site.gateway, &["--client", other])?;
    talk(&site, RO_ADDRESS, "select 1")?;
    assert_eq!(nobody.interrupt()?, "0 packets, 0 lost");

    // What only passes through the gateway, and the probes, the host's own tools can see.
    let mut all = Capturing::start(&site.gateway, &[])?;
    talk(&site, site.network.hosts()[0].postgres(), "select 1")?;
    let from = talk(&site, RO_ADDRESS, "select 1")?;
    process::send(all.child.id(), Signal::INT);
    let lines = all.lines()?;
    let is_its = |line: &&String| line.contains(&format!(" {RO} {from} to "));
    assert!(lines.len() > 6, "{lines:?}");
    assert_eq!(lines.iter().find(|line| !is_its(line)), None);

    // A second one would take the packets from the first.
    let client = CLIENT.to_string();
    let mut capturing = Capturing::start(&site.gateway, &["--client", &client, "--count", "2"])?;
    let second = site.gateway.observe(&["capture"])?;
    assert_eq!(
        command::text_of(&second.stderr).trim(),
        "pglb: another `pglb capture` runs here already"
    );
    let from = talk(&site, RO_ADDRESS, "select 1")?;
    let lines = capturing.lines()?;
    let [syn, syn_ack] = lines.as_slice() else {
        bail!("{lines:?}")
    };
    let about = format!(" {RO} {from} to backend SYN seq ");
    assert!(syn.contains(&about), "{syn}");
    let came = format!(" len 0: {from} > {RO_ADDRESS} => {from} > 10.72.0.1");
    assert!(syn.contains(&came), "{syn}");
    let about = format!(" {RO} {from} to client SYN+ACK seq ");
    assert!(syn_ack.contains(&about), "{syn_ack}");
    let left = format!(" => {RO_ADDRESS} > {from}");
    assert!(syn_ack.ends_with(&left), "{syn_ack}");
    assert!(!row(&site.gateway)?.is_set(), "it is off afterwards");

    // What is refused.
    site.gateway.pglb(&["maint", "db1"])?;
    site.gateway.await_eligible(RW, &[], PATIENCE)?;
    let mut capturing = Capturing::start(&site.gateway, &["--service", RW, "--count", "1"])?;
    assert!(talk(&site, RW_ADDRESS, "select 1").is_err());
    let lines = capturing.lines()?;
    assert!(
        lines[0].ends_with(" => refused by RST (no_backend)"),
        "{lines:?}"
    );

    // What comes while nobody reads is counted. A slow machine may not fill the buffers, 8 MiB a
    // CPU, within the two seconds that capturing then lasts.
    ensure!(
        (0..5).any(|_| lose(&site).is_ok_and(|lost| lost > 0)),
        "nothing was lost"
    );

    // A command that is killed has capturing end by itself, and the next packet sees to the rest.
    let killed = Capturing::start(&site.gateway, &[])?;
    let gateway = &site.gateway;
    ensure!(row(gateway)?.is_on(kernel_tick()), "it is on");
    killed.kill()?;
    clock::wait_for("the end of capturing", 3 * SECOND, || {
        row(gateway).is_ok_and(|row| !row.is_on(kernel_tick()))
    })?;
    talk(&site, RO_ADDRESS, "select 1")?;
    assert_eq!(row(gateway)?.until, Tick(0));
    Ok(())
}

fn nat_is_shown(family: Family) -> Result<()> {
    let (site, client, pairs) = capture_one(family, "nat", Returns::ThroughGateway)?;
    let (vip, backend) = (site.target(), site.network.hosts()[0].postgres());
    let up = [(client, vip), (client, backend)];
    let down = [(backend, client), (vip, client)];
    expect_pairs(&pairs, &[up, down], &[(SYN, up), (SYN | ACK, down)])
}

fn full_nat_is_shown(family: Family) -> Result<()> {
    let (site, client, pairs) = capture_one(family, "full-nat", Returns::Nowhere)?;
    let (vip, backend) = (site.target(), site.network.hosts()[0].postgres());
    let gateway = pairs[0][1].0;
    assert_eq!(gateway.ip(), family.address(INSIDE));
    let up = [(client, vip), (gateway, backend)];
    let down = [(backend, gateway), (vip, client)];
    expect_pairs(&pairs, &[up, down], &[(SYN, up), (SYN | ACK, down)])
}

fn dsr_is_shown(family: Family) -> Result<()> {
    let (site, client, pairs) = capture_one(family, "dsr", Returns::Directly)?;
    // Answers do not come this way.
    let up = [(client, site.target()); 2];
    expect_pairs(&pairs, &[up], &[(SYN, up), (ACK, up)])
}

/// Before and after: whom a packet is from, whom it is to, and its flags.
type Pair = [(SocketAddr, SocketAddr, u8); 2];
type Ways = [(SocketAddr, SocketAddr); 2];

/// Each pair is one of the ways, the first ones are these, and there is a FIN of each way.
fn expect_pairs(pairs: &[Pair], ways: &[Ways], first: &[(u8, Ways)]) -> Result<()> {
    let way = |pair: &Pair| pair.map(|(from, to, _)| (from, to));
    for pair in pairs {
        ensure!(ways.contains(&way(pair)), "{pair:?} is none of {ways:?}");
        ensure!(pair[0].2 == pair[1].2, "{pair:?}");
    }
    for (pair, (flags, expected)) in pairs.iter().zip(first) {
        ensure!((pair[0].2, way(pair)) == (*flags, *expected), "{pair:?}");
    }
    for of in ways {
        let is_fin = |pair: &&Pair| way(pair) == *of && pair[0].2 & FIN != 0;
        ensure!(pairs.iter().any(|pair| is_fin(&pair)), "no FIN of {of:?}");
    }
    Ok(())
}

/// Captures a connection to a site of one host, into a file and as lines; returns it from the file, with its client.
fn capture_one(
    family: Family,
    forwarding: &str,
    returns: Returns,
) -> Result<(PlainSite, SocketAddr, Vec<Pair>)> {
    let plan = Plan {
        family,
        hosts: 1,
        returns,
        ..Plan::default()
    };
    let lines = format!("forwarding = \"{forwarding}\"");
    let site = PlainSite::prepared(plan, Manner::Echo, &lines, |network| match forwarding {
        "dsr" => network.hosts()[0].answer_for(network.address(VIP)),
        _ => Ok(()),
    })?;
    let visit = || -> Result<SocketAddr> {
        let mut stream = site
            .network
            .client()
            .enter(|| listener::connect(site.target()))??;
        listener::echo(&mut stream, b"hello")?;
        let client = stream.local_addr()?;
        drop(stream);
        site.await_connections(0)?;
        Ok(client)
    };
    // The gateway's kernel forwards a first packet itself, until it knows its neighbour.
    visit()?;
    let host = &site.network.hosts()[0];
    let link = host.namespace().run("ip -j link show dev eth0")?;
    let link: serde_json::Value = serde_json::from_str(&link)?;
    let link = link[0]["address"]
        .as_str()
        .context("eth0 has a MAC address")?;
    let file = site.network.directory().join("out.pcapng");
    let name = file.display().to_string();
    let capturing = Capturing::start(&site.gateway, &["-w", &name, "--service", PLAIN])?;
    let client = visit()?;
    let summary = capturing.interrupt()?;
    let frames = read_frames(&file)?;
    assert_eq!(summary, format!("{} packets, 0 lost", frames.len() / 2));
    let mut pairs = Vec::new();
    for pair in frames.chunks(2) {
        let [before, after] = pair else {
            bail!("{} frames are no pairs", frames.len())
        };
        assert_eq!((before.flags, after.flags), (1, 2), "in, and out");
        let is_up = before.interface == "client";
        let interface = if is_up { "db1" } else { "client" };
        assert_eq!(after.interface, interface);
        // A dsr packet goes to the VIP before and after: its MAC address tells where.
        let receiver = match forwarding {
            "dsr" => link,
            _ => interface,
        };
        assert_eq!(before.comment, format!("{PLAIN}, before"));
        assert_eq!(after.comment, format!("{PLAIN}, after, to {receiver}"));
        assert_ne!(before.bytes[..12], after.bytes[..12], "the MAC addresses");
        pairs.push([before.ends()?, after.ends()?]);
    }
    ensure!(!pairs.is_empty(), "nothing was captured");

    let mut capturing = Capturing::start(&site.gateway, &["--service", PLAIN, "--count", "2"])?;
    let from = visit()?;
    let shown = capturing.lines()?;
    let about = format!(" {PLAIN} {from} to backend SYN seq ");
    let came = format!(" len 0: {from} > {} => ", site.target());
    ensure!(
        shown.len() == 2 && shown[0].contains(&about) && shown[0].contains(&came),
        "{shown:?}"
    );
    Ok((site, client, pairs))
}

#[test]
fn mistakes_get_one_sentence() -> Result<()> {
    let network = Network::build(3)?;
    let gateway = Gateway::start(&network, &Config::demo())?;
    let file = gateway.config_file().display();
    let sentence = |command: &mut Command| -> Result<String> {
        let output = command::observe(command)?;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        Ok(command::text_of(&output.stderr).trim().to_owned())
    };
    assert_eq!(
        sentence(&mut gateway.command(&["capture", "--service", "shop"]))?,
        format!("pglb: there is no service shop in {file}; there are shop-rw, shop-ro")
    );
    let mut powerless = Command::new("setpriv");
    powerless
        .args(["--bounding-set", "-all", "--inh-caps", "-all"])
        .arg(pglb_tests::gateway::find_binary()?)
        .args(["capture", "-c"])
        .arg(gateway.config_file());
    assert_eq!(
        sentence(&mut powerless)?,
        "pglb: `pglb capture` needs root, or the capabilities CAP_NET_ADMIN, CAP_NET_RAW, \
         CAP_PERFMON, CAP_BPF"
    );
    fs::remove_file(gateway.pins().join("CAPTURE"))?;
    assert_eq!(
        sentence(&mut gateway.command(&["capture"]))?,
        "pglb: the program that runs here is older than `pglb capture`: restart the controller \
         with this version"
    );
    let pins = gateway.pins().to_owned();
    let mut gateway = gateway;
    gateway.terminate()?;
    gateway.pglb(&["detach"])?;
    assert_eq!(
        sentence(&mut gateway.command(&["capture"]))?,
        format!(
            "pglb: there are no tables in {}: pglb does not run here, or was detached",
            pins.display()
        )
    );
    Ok(())
}

/// A `pglb capture` that has begun; dropping it ends it.
struct Capturing {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Capturing {
    fn start(gateway: &Gateway, arguments: &[&str]) -> Result<Self> {
        let mut command = gateway.command(&[&["capture"], arguments].concat());
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().context("stderr is a pipe")?;
        let mut capturing = Self {
            child,
            stderr: BufReader::new(stderr),
        };
        let mut line = String::new();
        capturing.stderr.read_line(&mut line)?;
        let hosts = line
            .strip_prefix("capturing what pglb forwards on client, ")
            .and_then(|rest| rest.strip_suffix("; Ctrl-C ends it\n"));
        ensure!(matches!(hosts, Some("db1" | "db1, db2, db3")), "{line}");
        Ok(capturing)
    }

    /// Ends it as Ctrl-C does; returns its last line.
    fn interrupt(mut self) -> Result<String> {
        process::send(self.child.id(), Signal::INT);
        self.summary()
    }

    /// What it shows until it ends by itself.
    fn lines(&mut self) -> Result<Vec<String>> {
        let status = process::wait(&mut self.child, PATIENCE);
        ensure!(status?.success(), "{}", self.summary()?);
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().context("stdout is a pipe")?;
        stdout.read_to_string(&mut text)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn kill(mut self) -> Result<()> {
        process::send(self.child.id(), Signal::KILL);
        process::wait(&mut self.child, PATIENCE).map(drop)
    }

    fn summary(&mut self) -> Result<String> {
        process::wait(&mut self.child, PATIENCE)?;
        let mut text = String::new();
        self.stderr.read_to_string(&mut text)?;
        Ok(text.trim().to_owned())
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        process::send(self.child.id(), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Has a capture sleep while much passes; returns how many packets it says it has lost.
fn lose(site: &Site) -> Result<u32> {
    let sleeper = Capturing::start(&site.gateway, &["-w", "/dev/null"])?;
    process::send(sleeper.child.id(), Signal::STOP);
    talk(site, RO_ADDRESS, "select repeat('x', 40000000)")?;
    process::send(sleeper.child.id(), Signal::CONT);
    talk(site, RO_ADDRESS, "select 1")?;
    let summary = sleeper.interrupt()?;
    let lost = summary
        .strip_suffix(" lost")
        .and_then(|it| it.rsplit(' ').next());
    Ok(lost.with_context(|| summary.clone())?.parse()?)
}

/// One session with a question; returns whose it was.
fn talk(site: &Site, service: SocketAddr, question: &str) -> Result<SocketAddrV4> {
    site.network.client().enter(|| -> Result<SocketAddrV4> {
        let mut session = Session::open(service, SECOND)?;
        let client = session.client()?;
        session.ask(question)?;
        session.close()?;
        Ok(v4(client))
    })?
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => panic!("{address} is no IPv4 address"),
    }
}

fn row(gateway: &Gateway) -> Result<Capture> {
    let map = Map::Array(MapData::from_pin(gateway.pins().join("CAPTURE"))?);
    Ok(Array::<_, Capture>::try_from(map)?.get(&0, 0)?)
}

/// A packet of a file, whole and with right checksums.
#[derive(Debug)]
struct Captured {
    segment: Segment,
    interface: String,
    nanoseconds: u64,
    flags: u32,
    comment: String,
}

fn read(file: &Path) -> Result<Vec<Captured>> {
    let of_frame = |frame: Frame| {
        Ok(Captured {
            segment: Segment::read(&frame.bytes)?,
            interface: frame.interface,
            nanoseconds: frame.nanoseconds,
            flags: frame.flags,
            comment: frame.comment,
        })
    };
    read_frames(file)?.into_iter().map(of_frame).collect()
}

/// As [`Captured`], of any family.
struct Frame {
    bytes: Vec<u8>,
    interface: String,
    nanoseconds: u64,
    flags: u32,
    comment: String,
}

impl Frame {
    /// Whom it is from, whom it is to, and the flags of its segment, whose checksums must be right.
    fn ends(&self) -> Result<(SocketAddr, SocketAddr, u8)> {
        if self.bytes[12..14] == IPV4 {
            let segment = Segment::read(&self.bytes)?;
            return Ok((
                segment.source.into(),
                segment.destination.into(),
                segment.flags,
            ));
        }
        ensure!(self.bytes[12..14] == IPV6, "no IP: {:02x?}", self.bytes);
        let (ip, tcp) = self.bytes[14..].split_at(40);
        let length = u16::try_from(tcp.len())?;
        ensure!(
            ip[4..7] == [&length.to_be_bytes()[..], &[6]].concat(),
            "{ip:02x?}"
        );
        let covered = [&ip[8..], &[0, 6], &length.to_be_bytes(), tcp].concat();
        ensure!(checksum(&covered) == [0, 0], "the TCP checksum is wrong");
        let end = |address: usize, port: usize| -> Result<SocketAddr> {
            let octets: [u8; 16] = ip[address..address + 16].try_into()?;
            Ok((octets, u16::from_be_bytes([tcp[port], tcp[port + 1]])).into())
        };
        Ok((end(8, 0)?, end(24, 2)?, tcp[13]))
    }
}

fn read_frames(file: &Path) -> Result<Vec<Frame>> {
    let bytes = fs::read(file)?;
    let mut rest = bytes.as_slice();
    let mut interfaces = Vec::new();
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = word(rest, 4) as usize;
        let (kind, body) = (word(rest, 0), &rest[8..length - 4]);
        match kind {
            0x0a0d_0d0a => assert!(frames.is_empty(), "one section"),
            1 => {
                let names = options(&body[8..])
                    .into_iter()
                    .filter(|(number, _)| *number == 2);
                interfaces
                    .extend(names.map(|(_, name)| String::from_utf8_lossy(name).into_owned()));
            }
            6 => {
                let captured = word(body, 12) as usize;
                ensure!(word(body, 16) as usize == captured, "a packet is cut");
                let options = options(&body[20 + captured.next_multiple_of(4)..]);
                let option = |number| {
                    let found = options.iter().find(|(it, _)| *it == number);
                    found
                        .map(|(_, value)| *value)
                        .context("an option is missing")
                };
                frames.push(Frame {
                    bytes: body[20..20 + captured].to_vec(),
                    interface: interfaces[word(body, 0) as usize].clone(),
                    nanoseconds: u64::from(word(body, 4)) << 32 | u64::from(word(body, 8)),
                    flags: word(option(2)?, 0),
                    comment: String::from_utf8(option(1)?.to_vec())?,
                });
            }
            other => bail!("a block of type {other}"),
        }
        rest = &rest[length..];
    }
    let unique: BTreeSet<&String> = interfaces.iter().collect();
    ensure!(unique.len() == interfaces.len(), "{interfaces:?}");
    Ok(frames)
}

/// Number and value of each option.
fn options(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut options = Vec::new();
    while let [a, b, c, d, rest @ ..] = bytes {
        let length = usize::from(u16::from_ne_bytes([*c, *d]));
        options.push((u16::from_ne_bytes([*a, *b]), &rest[..length]));
        bytes = &rest[length.next_multiple_of(4)..];
    }
    options
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
