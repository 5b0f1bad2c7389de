//! Real PostgreSQL: a primary and its streaming replicas, one on each database host.

mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};

pub use self::server::Server;
pub(crate) use self::server::remove_shared_memory;
use crate::{clock, topology::Network};

/// The role pglb's probes log in as; it has `pg_monitor`.
pub const PROBE_USER: &str = "pglb";
/// The password of [`PROBE_USER`], asked for where clients have to log in with one.
pub const PROBE_PASSWORD: &str = "pglb-secret";

/// How a cluster is set up.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `max_connections` of every server.
    pub max_connections: u32,
    /// Must clients log in with a password (SCRAM), or are they trusted?
    pub asks_password: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 600,
            asks_password: false,
        }
    }
}

/// One PostgreSQL primary and its replicas. The first host has the primary.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
}

impl Cluster {
    /// Starts a primary on the first host and a streaming replica on every other one.
    pub fn start(network: &Arc<Network>, options: Options) -> Result<Self> {
        let mut servers = Vec::new();
        for index in 0..network.hosts().len() {
            servers.push(Server::prepare(network, index)?);
        }
        let primary = servers.first().context("a cluster needs a host")?;
        primary.initialize(options)?;
        // Copied before the first start: all begin at the same point, and replicas stream from there.
        for replica in &servers[1..] {
            replica.copy_from(primary)?;
        }
        let mut cluster = Self { servers };
        for server in &mut cluster.servers {
            server.launch()?;
        }
        for server in &cluster.servers {
            server.await_readiness()?;
        }
        cluster.await_streaming()?;
        Ok(cluster)
    }

    /// The server on the host of that index: 0 starts as primary.
    pub fn server(&self, index: usize) -> &Server {
        &self.servers[index]
    }

    /// As [`Self::server`], to start, stop or kill it.
    pub fn server_mut(&mut self, index: usize) -> &mut Server {
        &mut self.servers[index]
    }

    /// Every server, by host.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    fn await_streaming(&self) -> Result<()> {
        let replicas = (self.servers.len() - 1).to_string();
        let streaming = "select count(*) from pg_stat_replication where state = 'streaming'";
        let mut last = String::new();
        clock::wait_for("streaming replication", STARTUP, || {
            last = self.servers[0]
                .sql(streaming)
                .unwrap_or_else(|error| error.to_string());
            last == replicas
        })
        .with_context(|| format!("{last} of {replicas} replicas stream"))
        .map(drop)
    }
}

/// Where the server programs are: the newest version that is installed.
pub fn find_binaries() -> Result<PathBuf> {
    let has_all = |path: &Path| {
        ["postgres", "initdb", "pgbench"]
            .iter()
            .all(|name| path.join(name).exists())
    };
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .filter(|(_, path)| has_all(path))
        .collect();
    found.sort();
    let in_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).find(|directory| has_all(directory))
    };
    found
        .pop()
        .map(|(_, path)| path)
        .or_else(in_path)
        .context("PostgreSQL's server programs are not installed")
}

/// User and group id of the account PostgreSQL runs as.
pub fn find_account() -> Result<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let line = accounts
        .lines()
        .find_map(|line| line.strip_prefix("postgres:"));
    let mut fields = line
        .context("there is no account `postgres`")?
        .split(':')
        .skip(1);
    let mut number = || fields.next().and_then(|field| field.parse().ok());
    number()
        .zip(number())
        .context("the account `postgres` has no ids")
}

/// Limit for anything a server does when it starts or ends; generous, for a busy machine.
const STARTUP: Duration = Duration::from_secs(60);
