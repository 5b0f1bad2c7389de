//! The test network: a client, the gateway, and database hosts behind it, each in a namespace of its own.
//!
//! ```text
//!  client  eth0 10.71.0.10/24 ---- client 10.71.0.1/24   gateway   dbN 10.72.0.1/32 ---- eth0 10.72.0.1N/32  dbN
//!          default via 10.71.0.1                                                        default via 10.72.0.1
//! ```
//!
//! The hosts hang on routed links, not on a bridge: XDP cannot redirect to a bridge. Senders compute their TCP
//! checksums and receivers verify them, as on a wire: with offloads on, a wrong checksum would go unnoticed.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result};

use crate::{command, namespace, namespace::Namespace, postgres};

/// The address the client has from the start.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 10);
/// The gateway's address on the client's side, and the client's default route.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 1);
/// Where clients of the services connect to; nobody has it until pglb adds it.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 100);
/// The gateway's address towards the database hosts, and their default route.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 1);
/// Where PostgreSQL listens.
pub const PORT: u16 = 5432;

/// The namespaces and their links; dropping it removes all of them and the directory.
#[derive(Debug)]
pub struct Network {
    client: Namespace,
    gateway: Namespace,
    hosts: Vec<Host>,
    directory: Directory,
    name: String,
    _turn: Turn,
}

impl Network {
    /// Builds a network with `hosts` database hosts, `db1` and on. A process has one at a time, and waits for its
    /// turn: tests measure times, and would disturb each other.
    pub fn build(hosts: u8) -> Result<Arc<Self>> {
        let turn = Turn::take();
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            BUILT.fetch_add(1, Ordering::Relaxed)
        );
        let directory = Directory::create(&name)?;
        let client = Namespace::create(format!("{name}-client"))?;
        let gateway = Namespace::create(format!("{name}-gateway"))?;
        gateway.run("sysctl -qw net.ipv4.ip_forward=1")?;
        connect(&client, &gateway, "client")?;
        gateway.run(&format!("ip address add {GATEWAY}/24 dev client"))?;
        client.run(&format!("ip address add {CLIENT}/24 dev eth0"))?;
        client.run(&format!("ip route add default via {GATEWAY}"))?;
        let hosts = (1..=hosts)
            .map(|number| Host::build(&name, number, &gateway))
            .collect::<Result<_>>()?;
        Ok(Arc::new(Self {
            client,
            gateway,
            hosts,
            directory,
            name,
            _turn: turn,
        }))
    }

    /// Where the clients are.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// Where pglb runs.
    pub fn gateway(&self) -> &Namespace {
        &self.gateway
    }

    /// The database hosts, in the order of their numbers.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The gateway's interfaces: the client's, then the hosts'.
    pub fn interfaces(&self) -> Vec<String> {
        std::iter::once("client".to_owned())
            .chain(self.hosts.iter().map(|host| host.name.clone()))
            .collect()
    }

    /// A directory that lives as long as the network; the `postgres` account may read it.
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// What tells this network from others on the machine, such as `pglb-4711-0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the client one more address, for tests with clients that must differ.
    pub fn add_client_address(&self, address: Ipv4Addr) -> Result<()> {
        self.client
            .run(&format!("ip address add {address}/24 dev eth0"))
            .map(drop)
    }
}

/// A database host.
#[derive(Debug)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
    namespace: Namespace,
}

impl Host {
    /// Its name, which is also that of the gateway's interface towards it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its only address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where its PostgreSQL listens.
    pub fn postgres(&self) -> SocketAddr {
        (self.address, PORT).into()
    }

    /// Where its processes run.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The host goes silent with its link up, as after a power cut behind a switch: it answers no ARP, owns no
    /// address and routes nothing. Its processes and their sockets know nothing of it.
    pub fn vanish(&self) -> Result<()> {
        self.namespace.run("ip link set eth0 arp off")?;
        self.namespace.run("ip address flush dev eth0").map(drop)
    }

    /// The host is back as it was before [`Self::vanish`].
    pub fn reappear(&self) -> Result<()> {
        self.namespace.run("ip link set eth0 arp on")?;
        self.address_itself()
    }

    fn build(network: &str, number: u8, gateway: &Namespace) -> Result<Self> {
        let name = format!("db{number}");
        let namespace = Namespace::create(format!("{network}-{name}"))?;
        let address = Ipv4Addr::new(10, 72, 0, 10 + number);
        let host = Self {
            name,
            address,
            namespace,
        };
        connect(&host.namespace, gateway, &host.name)?;
        gateway.run(&format!("ip address add {INSIDE}/32 dev {}", host.name))?;
        gateway.run(&format!(
            "ip route add {address}/32 dev {} src {INSIDE}",
            host.name
        ))?;
        host.address_itself()?;
        Ok(host)
    }

    fn address_itself(&self) -> Result<()> {
        self.namespace
            .run(&format!("ip address add {}/32 dev eth0", self.address))?;
        self.namespace
            .run(&format!("ip route add {INSIDE}/32 dev eth0"))?;
        self.namespace
            .run(&format!("ip route add default via {INSIDE}"))
            .map(drop)
    }
}

/// Removes what owners that no longer run have left behind: a killed test leaves its network.
pub fn sweep() {
    sweep_owners(|owner| !Path::new(&format!("/proc/{owner}")).exists());
}

/// Removes everything of this process, when it must end without dropping what it owns.
pub fn abandon() {
    sweep_owners(|owner| owner == std::process::id());
}

/// What all names begin with; the owner's process id follows.
pub(crate) const PREFIX: &str = "pglb-";
/// Where the tests' pins are, one directory a gateway.
pub(crate) const PINS: &str = "/sys/fs/bpf";

/// A link between `eth0` of a host and the gateway's interface of the given name.
fn connect(host: &Namespace, gateway: &Namespace, interface: &str) -> Result<()> {
    let (near, far) = (host.name(), gateway.name());
    command::run(
        Command::new("ip")
            .args(["link", "add", "name", "eth0", "netns", near, "type", "veth"])
            .args(["peer", "name", interface, "netns", far]),
    )?;
    // Receive offload makes the far end poll, without which XDP cannot transmit into it. The rest goes, so that
    // whole packets with whole checksums travel.
    host.run("ethtool -K eth0 tx off tso off gso off gro on")?;
    host.run("ip link set eth0 up")?;
    gateway
        .run(&format!("ip link set {interface} up"))
        .map(drop)
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn create(name: &str) -> Result<Self> {
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The right to have a network.
#[derive(Debug)]
struct Turn;

static IS_TAKEN: Mutex<bool> = Mutex::new(false);
static GIVEN_BACK: Condvar = Condvar::new();

impl Turn {
    fn take() -> Self {
        // A panic elsewhere leaves the flag as true as it was.
        let is_taken = IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = GIVEN_BACK.wait_while(is_taken, |is_taken| *is_taken);
        *waited.unwrap_or_else(PoisonError::into_inner) = true;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        GIVEN_BACK.notify_one();
    }
}

fn sweep_owners(is_swept: impl Fn(u32) -> bool) {
    let swept = |name: &str, prefix: &str| -> bool {
        let owner = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        owner.is_some_and(&is_swept)
    };
    for name in names_in(Path::new("/run/netns")).filter(|name| swept(name, PREFIX)) {
        namespace::remove(&name);
    }
    for name in names_in(Path::new(PINS)).filter(|name| swept(name, "pglb-test-")) {
        let _ = fs::remove_dir_all(Path::new(PINS).join(name));
    }
    for name in names_in(&env::temp_dir()).filter(|name| swept(name, PREFIX)) {
        let directory = env::temp_dir().join(name);
        names_in(&directory).for_each(|host| postgres::remove_shared_memory(&directory.join(host)));
        let _ = fs::remove_dir_all(directory);
    }
}

fn names_in(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}
