//! The program under test in a network of its own: everything here that knows its tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use lb_common::backend::Backend;
use lb_common::filter::FilterBit;
use lb_common::flow_table::buckets;
use lb_common::gateway::{Gateway, LAYOUT};
use lb_common::member::{BackendId, Member, Slot};
use lb_common::service::{Algorithm, Service, ServiceId, ServiceKey};
use lb_userspace::engine::kernel::{KernelTables, endpoint, wide_endpoint};
use lb_userspace::shell::bpf::places::Places;
use lb_userspace::shell::bpf::{OBJECT, PROGRAM};
use lb_userspace::shell::bpf_tables::Tables;
use lb_userspace::shell::pinning;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use pglb_tests::namespace::Namespace;

use crate::frame::{Content, Family, build, read};

/// `max_connections` unless the configuration says otherwise.
pub(crate) const DEFAULT_CONNECTIONS: u32 = 65_536;
/// What the controller adds to the table of established flows.
const SPARE_FLOWS: u32 = 1024;
/// Backends of the one service.
const BACKENDS: u8 = 3;
/// The XDP action of a packet that leaves by another interface than the one it came from.
const REDIRECT: u32 = 4;

/// The program under test, its tables, and the network that it finds its ways in.
pub(crate) struct World {
    ebpf: Ebpf,
    /// Where its tables are pinned.
    pub(crate) pins: PathBuf,
}

/// An established connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    /// The client.
    pub(crate) client: SocketAddr,
    /// The backend that the program has chosen for it.
    pub(crate) backend: SocketAddr,
}

/// Families that the program serves.
pub(crate) const FAMILIES: &[Family] = &[Family::V4, Family::V6];

/// Where the service of a family is reached.
pub(crate) fn vip(family: Family) -> SocketAddr {
    SocketAddr::new(client_side(family, 0x64), 5432)
}

/// A host that is no service of ours.
pub(crate) fn stranger(family: Family) -> SocketAddr {
    let address = match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into(),
    };
    SocketAddr::new(address, 443)
}

fn backend(family: Family, number: u8) -> SocketAddr {
    SocketAddr::new(backend_side(family, 0x0a + number), 5432)
}

/// An address in the network of the gateway's interface towards the clients.
fn client_side(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 71, 0, host).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x71, 0, 0, 0, 0, host.into()).into(),
    }
}

/// An address in the network of the backends.
fn backend_side(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 72, 0, host).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x72, 0, 0, 0, 0, host.into()).into(),
    }
}

/// Runs `work` with the program loaded and its service set up.
pub(crate) fn enter<T: Send>(
    max_connections: u32,
    work: impl FnOnce(&mut World) -> Result<T> + Send,
) -> Result<T> {
    let name = format!("pglb-{}-bench", std::process::id());
    let namespace = Namespace::create(name.clone())?;
    lay_out(&namespace)?;
    namespace.enter(|| {
        hide_mounts()?;
        let pins = Path::new("/sys/fs/bpf").join(name);
        pinning::prepare(&pins)?;
        work(&mut World::load(pins, max_connections)?)
    })?
}

impl World {
    fn load(pins: PathBuf, max_connections: u32) -> Result<Self> {
        let buckets = buckets(max_connections * 2 + SPARE_FLOWS);
        let places = Places::new(&pins, buckets)?;
        let mut ebpf = places.loader(&pins).load(OBJECT)?;
        places.settle(&mut ebpf, &pins)?;
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM)
            .context("no program")?
            .try_into()?;
        program
            .load()
            .context("the kernel does not accept the program")?;
        set_up(&mut Tables::open(&pins)?, max_connections)?;
        Ok(Self { ebpf, pins })
    }

    /// The program under test.
    pub(crate) fn program(&self) -> Result<ProgramFd> {
        Ok(self.xdp()?.fd()?.try_clone()?)
    }

    /// Lets each client connect, packet by packet.
    pub(crate) fn establish(&self, clients: &[SocketAddr]) -> Result<Vec<Connection>> {
        clients
            .iter()
            .map(|client| self.shake_hands(*client))
            .collect()
    }

    fn shake_hands(&self, client: SocketAddr) -> Result<Connection> {
        let vip = vip(Family::of(client));
        let (_, backend) = self.carry(&build(client, vip, Content::Syn))?;
        self.carry(&build(backend, client, Content::SynAck))?;
        self.carry(&build(client, vip, Content::Ack))?;
        Ok(Connection { client, backend })
    }

    /// Who sends a frame to whom after the program has carried it on.
    fn carry(&self, frame: &[u8]) -> Result<(SocketAddr, SocketAddr)> {
        let mut left = vec![0; frame.len() + 64];
        let result = self.xdp()?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut left),
            ..TestRunOptions::default()
        })?;
        left.truncate(result.data_size_out as usize);
        ensure!(
            result.return_value == REDIRECT,
            "a packet of a handshake was answered by XDP action {}",
            result.return_value
        );
        read(&left)
    }

    fn xdp(&self) -> Result<&Xdp> {
        let program = self.ebpf.program(PROGRAM).context("no program")?;
        Ok(program.try_into()?)
    }
}

/// One service over three equal backends, by the fewest connections, in each family.
fn set_up(tables: &mut Tables, max_connections: u32) -> Result<()> {
    tables.set_gateway(Gateway {
        seed: tables.gateway()?.seed,
        layout: LAYOUT,
        next_hop_generation: 1,
        first_port: 1024,
        last_port: 32_767,
        shares_next_hops: 1,
    })?;
    let mut filter = KernelTables::default();
    let mut whole = Backend::default();
    // Each family fills its own table, and then new ones are to be opened still.
    whole.max_connections = max_connections * 16;
    tables.set_backend(BackendId::GATEWAY, whole)?;
    for (service, family) in (0..).map(ServiceId).zip(FAMILIES) {
        for number in 0..BACKENDS {
            let id = BackendId(1 + service.0 * u16::from(BACKENDS) + u16::from(number));
            let mut row = Backend::default();
            let address = backend(*family, number);
            row.set_endpoint(wide_endpoint(address));
            tables.set_backend(id, row)?;
            filter.set(FilterBit::of_backend(endpoint(address)));
            let mut member = Member::default().eligible(true).weighing(100);
            (member.generation, member.backend) = (1, id);
            tables.set_member(Slot::of(service, number), member)?;
        }
        let row = Service::new(service, BACKENDS, Algorithm::LeastConnections, 0);
        let vip = endpoint(vip(*family));
        tables.set_service(ServiceKey::new(vip), row)?;
        filter.set(FilterBit::of_service(vip));
    }
    for (word, bits) in filter.filter {
        tables.set_filter(word, bits)?;
    }
    Ok(())
}

/// A link to each side, whose far ends nobody uses; clients are behind a router, backends are
/// neighbours.
fn lay_out(namespace: &Namespace) -> Result<()> {
    namespace.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
    for (name, index) in [("client", 10), ("backend", 20)] {
        namespace.run(&format!(
            "ip link add name {name} index {index} address 02:00:00:00:00:{index} type veth peer name {name}-far"
        ))?;
        namespace.run(&format!("ip link set {name}-far up"))?;
        namespace.run(&format!("ip link set {name} up"))?;
    }
    for (family, prefix, clients) in [
        (Family::V4, 24, "10.128.0.0/9"),
        (Family::V6, 64, "2001:db8:c::/64"),
    ] {
        let address = |address: IpAddr, name: &str| {
            let line = format!("ip address add {address}/{prefix} dev {name}");
            // Nobody else is there who could have the address already.
            let unasked = if family == Family::V6 { " nodad" } else { "" };
            namespace.run(&(line + unasked))
        };
        let neighbour = |address: IpAddr, name: &str| {
            namespace.run(&format!(
                "ip neighbour add {address} lladdr 02:00:00:00:01:01 dev {name} nud permanent"
            ))
        };
        address(client_side(family, 1), "client")?;
        address(backend_side(family, 1), "backend")?;
        let router = client_side(family, 0xfe);
        neighbour(router, "client")?;
        namespace.run(&format!("ip route add {clients} via {router}"))?;
        for number in 0..BACKENDS {
            neighbour(backend(family, number).ip(), "backend")?;
        }
    }
    Ok(())
}

/// Gives this thread mounts that nobody else sees, and a BPF file system among them: whatever is
/// pinned is gone with the thread.
fn hide_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("private mounts")?;
    let none = MsFlags::empty();
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), none, None::<&str>).context("a BPF file system")
}
