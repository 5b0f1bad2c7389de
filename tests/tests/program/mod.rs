//! The XDP program in the kernel, run packet by packet without a wire.
//!
//! It has a network namespace of its own, with routes and neighbours, so that next hops resolve, and a mount namespace
//! with a BPF file system of its own: whatever it makes is gone with it, also when the test is killed.
#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod object;
pub(crate) mod random;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::{ProgramInfo, TestRun as _, TestRunOptions, Xdp};
use lb_common::family::{
    Address as _, Family, V4, V4Address, V6, V6Address, WideAddress, ip, v4, v6,
};
use lb_common::filter::FilterBit;
use lb_common::flow::{Endpoint, Flow, FlowKey, NextHop, Tick};
use lb_common::flow_table::WAYS;
use lb_common::gateway::{Gateway, LAYOUT};
use lb_common::member::{BackendId, Member, Slot};
use lb_common::reason::Reason;
use lb_common::service::{Algorithm, Service, ServiceId, ServiceKey};
use lb_common::source::{Pace, SourceKey};
use lb_common::tally::Tally;
use lb_common::trunk::Trunk;
use lb_userspace::engine::host_tables::HostTables;
use lb_userspace::shell::bpf::places::Places;
use lb_userspace::shell::bpf::{OBJECT, PROGRAM};
use lb_userspace::shell::bpf_tables::Tables;
use lb_userspace::shell::pinning;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use pglb_tests::frames::{icmp, icmp_v6, over_ipv6, twin};
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
/// A table of established flows that is full when its bucket is.
pub(crate) const ONE_BUCKET: u32 = 1;
/// How many flows that one has room for.
pub(crate) const ESTABLISHED_SIZE: u32 = ONE_BUCKET * WAYS;
/// A table of established flows that no test fills.
pub(crate) const MANY_BUCKETS: u32 = 512;
/// Clients and backends whose Ethernet address the kernel knows, of each.
pub(crate) const NEIGHBOURS: u8 = 8;

/// An address family that packets are written in. Everything is told in IPv4; IPv6 has the twins.
pub(crate) trait Side: Family<Address: Ord + Hash + Debug + Send> + Debug {
    /// An address of the test network.
    fn address(address: Ipv4Addr) -> Self::Address;
    /// The frame of a segment.
    fn frame(segment: &Segment) -> Vec<u8>;
    /// The frame of an ICMP message: [`pglb_tests::frames::icmp`].
    fn icmp(around: &Segment, kind: [u8; 2], rest: [u8; 4], quoted: &[u8]) -> Vec<u8>;
}

impl Side for V4 {
    fn address(address: Ipv4Addr) -> V4Address {
        v4(address)
    }

    fn frame(segment: &Segment) -> Vec<u8> {
        segment.bytes()
    }

    fn icmp(around: &Segment, kind: [u8; 2], rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
        icmp(around, kind, rest, quoted)
    }
}

impl Side for V6 {
    fn address(address: Ipv4Addr) -> V6Address {
        v6(twin(address))
    }

    fn frame(segment: &Segment) -> Vec<u8> {
        over_ipv6(segment)
    }

    fn icmp(around: &Segment, kind: [u8; 2], rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
        icmp_v6(around, kind, rest, quoted)
    }
}

/// Segments as frames of a family.
pub(crate) trait Framed {
    fn frame<F: Side>(&self) -> Vec<u8>;
}

impl Framed for Segment {
    fn frame<F: Side>(&self) -> Vec<u8> {
        F::frame(self)
    }
}

/// The MTU of every way but that to [`NARROW`].
pub(crate) const MTU: u16 = 1_500;
/// The backend that is reached by a way of this MTU.
pub(crate) const NARROW: (u8, u16) = (7, 1_400);
/// The gateway's address on the way to the backends, which full-nat connections come from.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 1);

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

pub(crate) fn endpoint<F: Side>(address: SocketAddrV4) -> Endpoint<F::Address> {
    Endpoint {
        address: F::address(*address.ip()),
        port: address.port().to_be_bytes(),
    }
}

/// The key of the flow that carries packets from one end to the other.
pub(crate) fn key<F: Side>(sender: SocketAddrV4, receiver: SocketAddrV4) -> FlowKey<F::Address> {
    FlowKey::between(endpoint::<F>(sender), endpoint::<F>(receiver))
}

/// The way to a client or a backend, as the routes of the namespace have it.
pub(crate) fn way_to(target: SocketAddrV4) -> NextHop {
    let [_, network, ..] = target.ip().octets();
    let (interface, source) = if network == 71 {
        CLIENT_SIDE
    } else {
        BACKEND_SIDE
    };
    let mut way = NextHop::default();
    (way.interface, way.source, way.destination) = (interface, source, neighbour(target));
    way.generation = 1;
    way.mtu = if target.ip() == backend(NARROW.0).ip() {
        NARROW.1
    } else {
        MTU
    };
    way
}

/// The segment as it leaves the gateway on its known way.
pub(crate) fn sent(segment: Segment) -> Segment {
    let way = way_to(segment.destination);
    let ttl = segment.ttl - 1;
    segment.macs(way.source, way.destination).ttl(ttl)
}

/// Tables of a gateway with its routes and no service.
pub(crate) fn gateway<F: Side>() -> HostTables<F> {
    let mut tables = HostTables::new();
    tables.established_size = ESTABLISHED_SIZE as usize;
    let known = (0..NEIGHBOURS).flat_map(|number| [client(number), backend(number + 1)]);
    tables.next_hops = known.map(|it| (F::address(*it.ip()), way_to(it))).collect();
    tables
}

/// Adds a service over backends, each with its weight there. Its ring names them in turn.
pub(crate) fn add_service<F: Side>(
    tables: &mut HostTables<F>,
    number: u8,
    algorithm: Algorithm,
    members: &[(u8, u16)],
) {
    let id = ServiceId(u16::from(number));
    let length = u8::try_from(members.len()).expect("at most 32 members");
    for (index, &(backend, weight)) in (0..).zip(members) {
        let id = BackendId(u16::from(backend));
        let mut member = Member::default().eligible(true).weighing(weight);
        (member.generation, member.backend) = (1, id);
        tables.members.insert(slot(number, index), member);
        let row = tables.backends.entry(id).or_default();
        row.set_endpoint(endpoint::<F>(self::backend(backend)).map(|it| it.widen()));
        row.gateway = F::address(GATEWAY).widen();
    }
    tables.rings.insert(id, (0..length).collect());
    let service = Service::new(id, length, algorithm, u32::from(length));
    tables
        .services
        .insert(ServiceKey::new(endpoint::<F>(vip(number))), service);
    let nobody = Service::new(NOBODY, 0, Algorithm::LeastConnections, 0);
    let mut address = endpoint::<F>(vip(number));
    address.port = [0, 0];
    tables.services.insert(ServiceKey::new(address), nobody);
}

/// The number in the entry that tells that an address is a VIP.
pub(crate) const NOBODY: ServiceId = ServiceId(u16::MAX);

/// The loaded program and its tables.
pub(crate) struct Program {
    pub(crate) tables: Tables,
    ebpf: Ebpf,
    slot_tallies: Array<MapData, Tally>,
    backend_tallies: Array<MapData, Tally>,
    turns: Array<MapData, u64>,
    lingering: HashMap<MapData, FlowKey<WideAddress>, Tick>,
    paces: HashMap<MapData, SourceKey, Pace>,
    reasons_before: BTreeMap<Reason, u64>,
    pins: Pins,
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
    with_buckets(ONE_BUCKET, constants, test)
}

/// The same, with so many buckets of established flows.
pub(crate) fn with_buckets<T: Send>(
    buckets: u32,
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
        test(&mut Program::load(pins, buckets, constants)?)
    })?
}

impl Program {
    fn load(pins: Pins, buckets: u32, constants: &[(&str, u32)]) -> Result<Self> {
        let places = Places::new(&pins.directory, buckets)?;
        let mut loader = places.loader(&pins.directory);
        for (name, value) in constants {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(OBJECT)?;
        places.settle(&mut ebpf, &pins.directory)?;
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
        let pinned = |name: &str| MapData::from_pin(pins.directory.join(name));
        Ok(Self {
            lingering: Map::HashMap(pinned("LINGERING")?).try_into()?,
            paces: Map::LruHashMap(pinned("PACES")?).try_into()?,
            tables: Tables::open(&pins.directory)?,
            slot_tallies: array("SLOT_TALLIES")?.try_into()?,
            backend_tallies: array("BACKEND_TALLIES")?.try_into()?,
            turns: array("TURNS")?.try_into()?,
            reasons_before: BTreeMap::new(),
            ebpf,
            pins,
        })
    }

    /// What the kernel says about the loaded program.
    pub(crate) fn info(&self) -> Result<ProgramInfo> {
        Ok(self.xdp()?.info()?)
    }

    /// Makes the kernel's tables those, with nothing left of what was there before.
    pub(crate) fn fill<F: Side>(&mut self, wanted: &HostTables<F>) -> Result<()> {
        self.clear()?;
        let tables = &mut self.tables;
        tables.set_gateway(Gateway {
            seed: tables.gateway()?.seed,
            layout: LAYOUT,
            next_hop_generation: wanted.next_hop_generation,
            first_port: wanted.ports.0,
            last_port: wanted.ports.1,
            shares_next_hops: wanted.shares_next_hops.into(),
        })?;
        let either = |address: F::Address| ip(address.widen());
        let mut filter: BTreeMap<u32, u64> = BTreeMap::new();
        for (key, service) in &wanted.services {
            tables.set_service(ServiceKey::new(key.vip().map(either)), *service)?;
            if service.id != NOBODY {
                let FilterBit { word, bit } = FilterBit::of_service(key.vip());
                *filter.entry(word).or_default() |= bit;
            }
        }
        for ((service, network, prefix), access) in &wanted.access {
            let network = ip(*network);
            let prefix = if network.is_ipv4() {
                prefix - 96
            } else {
                *prefix
            };
            tables.set_access(*service, network, prefix, *access)?;
        }
        for (slot, member) in &wanted.members {
            tables.set_member(*slot, *member)?;
        }
        for (id, backend) in &wanted.backends {
            tables.set_backend(*id, *backend)?;
            let endpoint = backend.endpoint().map(F::Address::narrow);
            let FilterBit { word, bit } = FilterBit::of_backend(endpoint);
            *filter.entry(word).or_default() |= bit;
        }
        for (word, bits) in filter {
            tables.set_filter(word, bits)?;
        }
        for (id, ring) in &wanted.rings {
            tables.set_ring(*id, ring)?;
        }
        for (key, flow) in wanted.established_flows() {
            let has_room = tables.put_established(key.map(either), flow.map(either))?;
            ensure!(has_room, "the table is full");
        }
        for (key, flow) in wanted.transient_flows() {
            tables.put_transient(key.map(either), flow.map(either))?;
        }
        for slot in used_slots() {
            let tally =
                lb_common::tables::Tables::<F>::slot_tally(wanted, slot).unwrap_or_default();
            self.slot_tallies.set(u32::from(slot.0), tally, 0)?;
        }
        for id in used_backends() {
            let tally =
                lb_common::tables::Tables::<F>::backend_tally(wanted, id).unwrap_or_default();
            self.backend_tallies.set(u32::from(id.0), tally, 0)?;
        }
        self.reasons_before = self.tables.reasons()?.into_iter().collect();
        Ok(())
    }

    /// Makes frames of some interfaces leave by others, with VLAN tags.
    pub(crate) fn set_trunks(&mut self, trunks: &BTreeMap<u32, Trunk>) -> Result<()> {
        for interface in self.tables.trunks()?.into_keys() {
            self.tables.remove_trunk(interface)?;
        }
        for (interface, trunk) in trunks {
            self.tables.set_trunk(*interface, *trunk)?;
        }
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
        self.runner()?.run(frame)
    }

    /// The program alone, for several threads at once.
    pub(crate) fn runner(&self) -> Result<Runner<'_>> {
        Ok(Runner(self.xdp()?))
    }

    /// Where the tables are pinned.
    pub(crate) fn pin_dir(&self) -> &Path {
        &self.pins.directory
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
        for vip in self.tables.vips()? {
            self.tables.remove_vip(vip)?;
        }
        for (service, network, prefix) in self.tables.access()?.into_keys() {
            self.tables.remove_access(service, network, prefix)?;
        }
        for word in self.tables.filter()?.into_keys() {
            self.tables.set_filter(word, 0)?;
        }
        for source in self.tables.sources()?.into_keys() {
            self.tables.remove_source(&source)?;
        }
        let lingering: Vec<_> = self.lingering.keys().collect::<Result<_, _>>()?;
        for key in lingering {
            self.lingering.remove(&key)?;
        }
        let paces: Vec<_> = self.paces.keys().collect::<Result<_, _>>()?;
        for key in paces {
            self.paces.remove(&key)?;
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

/// The loaded program without its tables, whose handles are for one thread at a time.
#[derive(Clone, Copy)]
pub(crate) struct Runner<'p>(&'p Xdp);

impl Runner<'_> {
    /// [`Program::run`].
    pub(crate) fn run(&self, frame: &[u8]) -> Result<(Action, Vec<u8>)> {
        let mut left = vec![0; frame.len() + 64];
        let result = self.0.test_run(TestRunOptions {
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
pub(crate) fn timeless<A>(mut flow: Flow<A>) -> Flow<A> {
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
    namespace.run("ip link set lo up")?;
    namespace.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
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
        let address_v6 = twin(if network == 71 {
            Ipv4Addr::new(10, 71, 0, 1)
        } else {
            GATEWAY
        });
        namespace.run(&format!("ip address add {address_v6}/64 dev {name} nodad"))?;
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
            namespace.run(&format!(
                "ip neighbour add {} lladdr {mac} dev {name} nud permanent",
                twin(*it.ip())
            ))?;
        }
    }
    // What lies behind a router, which is one of the backends.
    let router = *backend(2).ip();
    namespace.run(&format!("ip route add 10.74.0.0/24 via {router}"))?;
    let router = twin(router);
    let network = twin(Ipv4Addr::new(10, 74, 0, 0));
    namespace.run(&format!("ip route add {network}/64 via {router}"))?;
    let (narrow, mtu) = (backend(NARROW.0), NARROW.1);
    for address in [narrow.ip().to_string(), twin(*narrow.ip()).to_string()] {
        namespace.run(&format!(
            "ip route add {address} dev backend mtu lock {mtu}"
        ))?;
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
