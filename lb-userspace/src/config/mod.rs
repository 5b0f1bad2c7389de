//! The checked configuration: plain data in which every value is already known to be possible.
//!
//! [`check`] turns the text of a file into a [`Config`] or into every reason why it is none;
//! [`load`] does the same for a file on disk.

mod check;
mod error;
mod file;
mod nearest;
mod network;
mod ports;
mod rules;
pub mod units;
mod value;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use check::check;
pub use error::{ConfigError, LoadError};
pub use network::Network;
pub use ports::{PortRange, refuse_shared_ports};
pub use rules::warnings;

/// Where the configuration is looked for when no `-c` is given.
pub const DEFAULT_FILE: &str = "/etc/pglb/pglb.toml";
/// Where the controller listens when the configuration does not say otherwise.
pub const DEFAULT_SOCKET: &str = "/run/pglb/pglb.sock";
/// Where maps and links are pinned when the configuration does not say otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/pglb";

/// A whole configuration that has passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The host that runs pglb.
    pub gateway: Gateway,
    /// The PostgreSQL clusters, in the order of the file; each is used by at least one service.
    pub clusters: Vec<Cluster>,
    /// The services, in the order of the file; each names a cluster that exists.
    pub services: Vec<Service>,
}

impl Config {
    /// The cluster of this name.
    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.name == name)
    }
}

/// What concerns the host: interfaces, tables, sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// XDP is attached to each of these interfaces and to no other; never empty.
    pub interfaces: Vec<String>,
    /// How XDP is attached.
    pub xdp_mode: XdpMode,
    /// Size of the connection table (connections). The default is 65,536: PostgreSQL has clients in
    /// the thousands, and an entry that is not in the CPU's cache costs a packet more time than all
    /// instructions of the program, so a table that is much too large makes every packet slower.
    pub max_connections: u32,
    /// The Unix socket on which the controller takes requests.
    pub control_socket: PathBuf,
    /// Where Prometheus metrics are served; `None` turns them off.
    pub metrics: Option<SocketAddr>,
    /// Whether pglb adds the VIPs to the interface and announces them.
    pub manage_vip: bool,
    /// The bpffs directory for pinned maps and links.
    pub pin_dir: PathBuf,
    /// The gateway's own ports, from which `full-nat` connections reach their backends.
    pub full_nat_ports: PortRange,
}

words! {
    /// How XDP is attached to an interface.
    pub enum XdpMode {
        /// Native, and generic with a loud warning where the driver has no XDP.
        Auto = "auto",
        /// In the driver, or not at all.
        Native = "native",
        /// In the kernel's generic path: works everywhere, slower.
        Generic = "generic",
    }
}

/// One PostgreSQL primary and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Unique among clusters.
    pub name: String,
    /// Never empty; names are unique within the cluster, addresses within the file.
    pub backends: Vec<Backend>,
    /// How the backends are probed.
    pub health: Health,
}

/// One server of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique within its cluster.
    pub name: String,
    /// Where the server listens; the backends of a cluster are of one address family.
    pub address: SocketAddr,
    /// Share of new connections relative to the others, 0 to 1000; 0 is no new connections.
    pub weight: u16,
    /// No new connection is sent beyond this many open ones; `None` is no limit.
    pub max_connections: Option<u32>,
}

/// How the backends of a cluster are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What a probe is.
    pub kind: ProbeKind,
    /// The PostgreSQL role that the probe logs in as.
    pub user: String,
    /// The database that the probe connects to.
    pub database: String,
    /// A file whose first line is the password; read when the controller starts, not by the check.
    pub password_file: Option<PathBuf>,
    /// Encryption of the probe's own connection.
    pub tls: Tls,
    /// Certificates that `verify-full` trusts (PEM); `None` is those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// Time between two probes of one backend.
    pub interval: Duration,
    /// The same while the backend is changing state; at most `interval`.
    pub fast_interval: Duration,
    /// A probe that takes longer has failed.
    pub timeout: Duration,
    /// Good probes in a row that make a backend `up`.
    pub rise: u32,
    /// Failed probes in a row that make a backend `down`.
    pub fall: u32,
    /// A replica further behind the primary gets no new connections (bytes of WAL).
    pub max_lag: u64,
}

words! {
    /// What a probe is.
    pub enum ProbeKind {
        /// A SQL session: role, timeline, lag.
        Postgres = "postgres",
        /// A TCP handshake.
        Tcp = "tcp",
        /// None: the backend counts as up.
        None = "none",
    }
}

words! {
    /// Encryption of the probe's own connection; client connections are passed through untouched.
    pub enum Tls {
        /// Never encrypted.
        Disable = "disable",
        /// Encrypted when the server offers it.
        Prefer = "prefer",
        /// Encrypted, or the probe fails.
        Require = "require",
        /// Encrypted, with the server's certificate and name verified.
        VerifyFull = "verify-full",
    }
}

/// A VIP and port with a role and an algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique among services.
    pub name: String,
    /// What clients connect to; unique among services, never a backend's address, and of the same
    /// address family as the backends of the cluster.
    pub vip: SocketAddr,
    /// The cluster behind it; it exists.
    pub cluster: String,
    /// Which backends may serve it.
    pub role: Role,
    /// How one of them is chosen for a new connection.
    pub algorithm: Algorithm,
    /// What `hash` is taken of.
    pub hash_on: HashOn,
    /// How packets are forwarded.
    pub forwarding: Forwarding,
    /// Clients that may connect; `None` is everyone, never an empty list. Of the VIP's family.
    pub allow: Option<Vec<Network>>,
    /// Clients that may not; empty is nobody. Of the VIP's family, and no network of `allow`: the
    /// longest prefix of both lists decides.
    pub deny: Vec<Network>,
    /// Open connections that one client address may have; `None` is no limit, never 0.
    pub source_max_connections: Option<u32>,
    /// New connections per second that one client address may open; `None` is no limit, never 0.
    pub source_max_rate: Option<u32>,
    /// A connection that is silent for longer is reset; `None` is never. Above 7,875 s, and always
    /// there for `dsr`.
    pub idle_limit: Option<Duration>,
    /// What happens to the connections of a backend that is down or lost its role.
    pub on_down: OnDown,
    /// What a new connection meets while no backend is eligible.
    pub no_backend: NoBackend,
    /// How long `no_backend = "hold"` drops SYNs before it rejects them.
    pub hold_time: Duration,
    /// Who serves a `replica` service that has no eligible replica.
    pub fallback: Fallback,
}

impl Service {
    /// Whether this client may connect: the longest prefix of both lists decides, and a client that
    /// neither names may unless there is an `allow` list.
    pub fn admits(&self, client: IpAddr) -> bool {
        let longest = |networks: &[Network]| {
            let holders = networks.iter().filter(|network| network.contains(client));
            holders.map(|network| network.prefix()).max()
        };
        let denied = longest(&self.deny);
        match &self.allow {
            None => denied.is_none(),
            // No network is in both lists, so that two of the same length never hold one client.
            Some(allow) => longest(allow) > denied,
        }
    }
}

words! {
    /// Which backends may serve a service.
    pub enum Role {
        /// The server that is not in recovery.
        Primary = "primary",
        /// Streaming replicas within `max_lag`.
        Replica = "replica",
        /// All of them.
        Any = "any",
    }
}

words! {
    /// How a backend is chosen for a new connection.
    pub enum Algorithm {
        /// The fewest connections for the weight, in turn among equals.
        LeastConnections = "least-connections",
        /// In turn, smoothly weighted.
        RoundRobin = "round-robin",
        /// By a consistent hash of the client.
        Hash = "hash",
    }
}

words! {
    /// What `algorithm = "hash"` is taken of.
    pub enum HashOn {
        /// Client address and port: spreads the connections of one client.
        AddressAndPort = "address-and-port",
        /// Client address alone: one client stays on one backend.
        Address = "address",
    }
}

words! {
    /// How packets are forwarded.
    pub enum Forwarding {
        /// Destination rewritten, client address kept; replies come back through the gateway.
        Nat = "nat",
        /// Source rewritten as well, to the gateway's; backends need no route to the clients.
        FullNat = "full-nat",
        /// Only the MAC address rewritten; backends hold the VIP and answer the clients themselves.
        Dsr = "dsr",
    }
}

words! {
    /// What happens to the connections of a backend that is down or lost its role.
    pub enum OnDown {
        /// They are ended by RST to both ends.
        Reset = "reset",
        /// They are left alone.
        Keep = "keep",
    }
}

words! {
    /// What a new connection meets while no backend is eligible.
    pub enum NoBackend {
        /// RST at once.
        Reject = "reject",
        /// The SYN is dropped so that TCP retries, for `hold_time`.
        Hold = "hold",
    }
}

words! {
    /// Who serves a `replica` service that has no eligible replica.
    pub enum Fallback {
        /// The primary.
        Primary = "primary",
        /// Nobody.
        None = "none",
    }
}

/// Reads and checks a configuration file.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let unreadable = |reason: String| LoadError::Unreadable {
        path: path.to_path_buf(),
        reason,
    };
    let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".into()))?;
    check(path, &text).map_err(LoadError::Invalid)
}
