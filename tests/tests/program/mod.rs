//! The XDP program in the kernel, run packet by packet without a wire.
//!
//! It has a network namespace of its own, with routes and neighbours, so that next hops resolve, and a mount namespace
//! with a BPF file system of its own: whatever it makes is gone with it, also when the test is killed.
#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod object;
pub(crate) mod random;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use aya::programs::{ProgramInfo, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::flow::{Endpoint, Flow, FlowKey, NextHop, Tick};
use lb_common::gateway::{Gateway, LAYOUT};
use lb_common::member::{BackendId, Member, Slot};
use lb_common::reason::Reason;
use lb_common::service::{Algorithm, Service, ServiceId, ServiceKey};
use lb_common::tally::Tally;
use lb_userspace::engine::host_tables::HostTables;
use lb_userspace::shell::bpf::{OBJECT, PROGRAM};
use lb_userspace::shell::bpf_tables::Tables;
use lb_userspace::shell::pinning;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use pglb_tests::namespace::Namespace;
use pglb_tests::packets::{Mac, Segment};

/// What the program wants done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
}

/// The interface that a test run comes in from: loopback.
pub(crate) const INGRESS: u32 = 1;
/// The interface towards the clients, and its address.
pub(crate) const CLIENT_SIDE: (u32, Mac) = (10, [0x02, 0, 0, 0, 0, 0x10]);
/// The interface towards the backends, and its address.
pub(crate) const BACKEND_SIDE: (u32, Mac) = (20, [0x02, 0, 0, 0, 0, 0x20]);
/// How many flows the established table has room for.
pub(crate) const ESTABLISHED_SIZE: u32 = 32;
/// Clients and backends whose Ethernet address the kernel knows, of each.
pub(crate) const NEIGHBOURS: u8 = 8;

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

/// The Ethernet address of a client or a backend.
pub(crate) fn neighbour(of: SocketAddrV4) -> Mac {
    let [_, network, _, host] = of.ip().octets();
    [0x02, 0, 0, 0, network, host]
}

pub(crate) fn slot(service: u8, index: u8) -> Slot {
    Slot::of(ServiceId(u16::from(service)), index)
}

pub(crate) fn endpoint(address: SocketAddrV4) -> Endpoint<[u8; 4]> {
    Endpoint {
        address: address.ip().octets(),
        port: address.port().to_be_bytes(),
    }
}

/// The key of the flow that carries packets from one end to the other.
pub(crate) fn key(sender: SocketAddrV4, receiver: SocketAddrV4) -> FlowKey<[u8; 4]> {
    FlowKey::between(endpoint(sender), endpoint(receiver))
}

/// The way to a client or a backend, as the routes of the namespace have it.
pub(crate) fn way_to(target: SocketAddrV4) -> NextHop {
    let [_, network, ..] = target.ip().octets();
    let (interface, source) = if network == 71 {
        CLIENT_SIDE
    } else {
        BACKEND_SIDE
    };
    NextHop {
        interface,
        destination: neighbour(target),
        source,
        generation: 1,
    }
}

/// The segment as it leaves the gateway on its known way.
pub(crate) fn sent(segment: Segment) -> Segment {
    let way = way_to(segment.destination);
    let ttl = segment.ttl - 1;
    segment.macs(way.source, way.destination).ttl(ttl)
}

/// Tables of a gateway with its routes and no service.
pub(crate) fn gateway() -> HostTables {
    let mut tables = HostTables::new();
    tables.established_size = ESTABLISHED_SIZE as usize;
    let known = (0..NEIGHBOURS).flat_map(|number| [client(number), backend(number + 1)]);
    tables.next_hops = known.map(|it| (it.ip().octets(), way_to(it))).collect();
    tables
}

/// Adds a service over backends, each with its weight there. Its ring names them in turn.
pub(crate) fn add_service(
    tables: &mut HostTables,
    number: u8,
    algorithm: Algorithm,
    members: &[(u8, u16)],
) {
    let id = ServiceId(u16::from(number));
    let length = u8::try_from(members.len()).expect("at most 32 members");
    for (index, &(backend, weight)) in (0..).zip(members) {
        let id = BackendId(u16::from(backend));
        let mut member = Member::default().eligible(true);
        (member.generation, member.backend, member.weight) = (1, id, weight);
        tables.members.insert(slot(number, index), member);
        tables.backends.entry(id).or_default().endpoint = endpoint(self::backend(backend));
    }
    tables.rings.insert(id, (0..length).collect());
    let service = Service::new(id, length, algorithm, u32::from(length));
    tables
        .services
        .insert(ServiceKey::new(endpoint(vip(number))), service);
}

/// The loaded program and its tables.
pub(crate) struct Program {
    pub(crate) tables: Tables,
    ebpf: Ebpf,
    slot_tallies: Array<MapData, Tally>,
    backend_tallies: Array<MapData, Tally>,
    turns: Array<MapData, u64>,
    reasons_before: BTreeMap<Reason, u64>,
    _pins: Pins,
}

/// Loads the program and runs a test with it.
pub(crate) fn with_program<T: Send>(
    test: impl FnOnce(&mut Program) -> Result<T> + Send,
) -> Result<T> {
    with_constants(&[], test)
}

/// The same, with constants of the program set.
pub(crate) fn with_constants<T: Send>(
    constants: &[(&str, u32)],
    test: impl FnOnce(&mut Program) -> Result<T> + Send,
) -> Result<T> {
    ensure!(
        pglb_tests::is_root(),
        "this test loads a program into the kernel, which needs root"
    );
    let name = unique_name();
    let namespace = Namespace::create(name.clone())?;
    lay_out(&namespace)?;
    namespace.enter(|| {
        hide_mounts()?;
        let pins = Pins::make(Path::new("/sys/fs/bpf").join(name))?;
        test(&mut Program::load(pins, constants)?)
    })?
}

impl Program {
    fn load(pins: Pins, constants: &[(&str, u32)]) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader
            .default_map_pin_directory(&pins.directory)
            .map_max_entries("ESTABLISHED", ESTABLISHED_SIZE);
        for (name, value) in constants {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(OBJECT)?;
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM)
            .context("no program")?
            .try_into()?;
        program
            .load()
            .context("the kernel does not accept the program")?;
        let array = |name: &str| {
            Ok::<_, anyhow::Error>(Map::Array(MapData::from_pin(pins.directory.join(name))?))
        };
        Ok(Self {
            tables: Tables::open(&pins.directory)?,
            slot_tallies: array("SLOT_TALLIES")?.try_into()?,
            backend_tallies: array("BACKEND_TALLIES")?.try_into()?,
            turns: array("TURNS")?.try_into()?,
            reasons_before: BTreeMap::new(),
            ebpf,
            _pins: pins,
        })
    }

    /// What the kernel says about the loaded program.
    pub(crate) fn info(&self) -> Result<ProgramInfo> {
        Ok(self.xdp()?.info()?)
    }

    /// Makes the kernel's tables those, with nothing left of what was there before.
    pub(crate) fn fill(&mut self, wanted: &HostTables) -> Result<()> {
        self.clear()?;
        let tables = &mut self.tables;
        tables.set_gateway(Gateway {
            layout: LAYOUT,
            next_hop_generation: wanted.next_hop_generation,
        })?;
        for (key, service) in &wanted.services {
            tables.set_service(*key, *service)?;
        }
        for (network, prefix) in &wanted.allowed {
            tables.allow(*network, *prefix)?;
        }
        for (slot, member) in &wanted.members {
            tables.set_member(*slot, *member)?;
        }
        for (id, backend) in &wanted.backends {
            tables.set_backend(*id, *backend)?;
        }
        for (id, ring) in &wanted.rings {
            tables.set_ring(*id, ring)?;
        }
        for (key, flow) in wanted.established_flows() {
            tables.set_established(key, flow)?;
        }
        for (key, flow) in wanted.transient_flows() {
            tables.set_transient(key, flow)?;
        }
        for slot in used_slots() {
            let tally = lb_common::tables::Tables::slot_tally(wanted, slot).unwrap_or_default();
            self.slot_tallies.set(u32::from(slot.0), tally, 0)?;
        }
        for id in used_backends() {
            let tally = lb_common::tables::Tables::backend_tally(wanted, id).unwrap_or_default();
            self.backend_tallies.set(u32::from(id.0), tally, 0)?;
        }
        self.reasons_before = self.tables.reasons()?.into_iter().collect();
        Ok(())
    }

    /// Packets that were not forwarded since the tables were filled, by reason.
    pub(crate) fn reasons(&self) -> Result<BTreeMap<Reason, u64>> {
        let now = self.tables.reasons()?.into_iter();
        let since = now.map(|(reason, count)| (reason, count - self.reasons_before[&reason]));
        Ok(since.filter(|(_, count)| *count > 0).collect())
    }

    /// Runs the program on a frame of at least 14 bytes: what it wants done, and the frame that it leaves.
    pub(crate) fn run(&self, frame: &[u8]) -> Result<(Action, Vec<u8>)> {
        let mut left = vec![0; frame.len() + 64];
        let result = self.xdp()?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut left),
            ..TestRunOptions::default()
        })?;
        left.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            0 => Action::Aborted,
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Tx,
            4 => Action::Redirect,
            other => anyhow::bail!("{other} is no XDP action"),
        };
        Ok((action, left))
    }

    fn xdp(&self) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program(PROGRAM)
            .context("no program")?
            .try_into()?)
    }

    fn clear(&mut self) -> Result<()> {
        for key in self.tables.established()?.keys() {
            self.tables.remove_established(key)?;
        }
        for key in self.tables.transient()?.keys() {
            self.tables.remove_transient(key)?;
        }
        for (key, _) in self.tables.services()? {
            self.tables.remove_service(key)?;
        }
        for (network, prefix) in self.tables.allowed()? {
            self.tables.disallow(network, prefix)?;
        }
        for slot in used_slots() {
            self.tables.set_member(slot, Member::default())?;
        }
        for id in used_backends() {
            self.tables
                .set_backend(id, lb_common::backend::Backend::default())?;
        }
        for id in 0..USED_SERVICES {
            self.turns.set(u32::from(id), 0, 0)?;
            self.tables.set_ring(ServiceId(id), &[])?;
        }
        Ok(())
    }
}

/// Tests use these services and backends, from 0, and no others.
const USED_SERVICES: u16 = 3;
const USED_BACKENDS: u16 = 16;

fn used_slots() -> impl Iterator<Item = Slot> {
    Slot::all().take_while(|slot| slot.service().0 < USED_SERVICES)
}

fn used_backends() -> impl Iterator<Item = BackendId> {
    (0..USED_BACKENDS).map(BackendId)
}

/// A flow without what differs from run to run: the time, and addresses of a way that is not known.
pub(crate) fn timeless(mut flow: Flow<[u8; 4]>) -> Flow<[u8; 4]> {
    flow.last_seen = Tick(0);
    if flow.next_hop.interface == 0 {
        flow.next_hop = NextHop::default();
    }
    flow
}

/// A name that [`pglb_tests::topology::sweep`] knows the owner of.
fn unique_name() -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    format!("pglb-{}-packets{number}", std::process::id())
}

/// A gateway with a link to each side, whose far ends nobody uses.
fn lay_out(namespace: &Namespace) -> Result<()> {
    namespace.run("sysctl -qw net.ipv4.ip_forward=1")?;
    let sides = [
        ("client", CLIENT_SIDE, "10.71.0.1/24", 71),
        ("backend", BACKEND_SIDE, "10.72.0.1/24", 72),
    ];
    for (name, (index, mac), address, network) in sides {
        let mac = written(mac);
        namespace.run(&format!(
            "ip link add name {name} index {index} address {mac} type veth peer name {name}-far"
        ))?;
        namespace.run(&format!("ip link set {name}-far up"))?;
        namespace.run(&format!("ip link set {name} up"))?;
        namespace.run(&format!("ip address add {address} dev {name}"))?;
        for number in 0..NEIGHBOURS {
            let it = if network == 71 {
                client(number)
            } else {
                backend(number + 1)
            };
            let mac = written(neighbour(it));
            namespace.run(&format!(
                "ip neighbour add {} lladdr {mac} dev {name} nud permanent",
                it.ip()
            ))?;
        }
    }
    Ok(())
}

fn written(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Gives this thread mounts that nobody else sees, and a BPF file system among them.
fn hide_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("private mounts")?;
    mount(
        Some("bpf"),
        "/sys/fs/bpf",
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context("a BPF file system")
}

/// A directory of pins; dropping it removes them.
struct Pins {
    directory: PathBuf,
}

impl Pins {
    fn make(directory: PathBuf) -> Result<Self> {
        pinning::prepare(&directory)?;
        Ok(Self { directory })
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = std::fs::remove_file(entry.path());
        }
        let _ = pinning::release(&self.directory);
    }
}
