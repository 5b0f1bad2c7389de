//! What the controller reports: plain data with exactly the keys of `pglb status --json`.
//!
//! Keys are stable; new ones may be added.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::{Algorithm, Forwarding, Role};

/// The whole state of a gateway, as `pglb status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The host and the controller.
    pub gateway: GatewayReport,
    /// The services, in the order of the configuration.
    pub services: Vec<ServiceReport>,
}

/// The host and the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayReport {
    /// The interfaces that XDP is attached to.
    pub interfaces: Vec<InterfaceReport>,
    /// How long the controller has been running (seconds).
    pub uptime_seconds: u64,
    /// The controller's version.
    pub version: String,
    /// Open connections of all services.
    pub connections: u64,
    /// Size of the connection table (connections).
    pub max_connections: u32,
    /// The controller's process id.
    pub pid: u32,
}

/// One interface that XDP is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceReport {
    /// Its name.
    pub name: String,
    /// How XDP is attached to it.
    pub xdp_mode: AttachedMode,
}

words! {
    /// How XDP is attached, as opposed to how it was asked for.
    pub enum AttachedMode {
        /// In the driver.
        Native = "native",
        /// In the kernel's generic path.
        Generic = "generic",
    }
}

/// One service and the backends of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// The service's name.
    pub name: String,
    /// What clients connect to.
    pub vip: SocketAddr,
    /// Which backends may serve it.
    pub role: Role,
    /// How one of them is chosen.
    pub algorithm: Algorithm,
    /// How packets are forwarded.
    pub forwarding: Forwarding,
    /// Whether it serves as it should.
    pub state: ServiceState,
    /// Open connections.
    pub connections: u64,
    /// The backends of its cluster, in the order of the configuration.
    pub backends: Vec<BackendReport>,
}

words! {
    /// Whether a service serves as it should.
    pub enum ServiceState {
        /// Every backend that should serve it does, or rests on an operator's wish.
        Ok = "ok",
        /// It serves, with fewer backends than it should, or with a fallback.
        Degraded = "degraded",
        /// No backend is eligible.
        NoBackend = "no_backend",
    }
}

/// One backend as one service sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendReport {
    /// The backend's name, unique in its cluster.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// Where the server listens.
    pub address: SocketAddr,
    /// What the operator wants of it.
    pub admin: Admin,
    /// What the probes found.
    pub health: Health,
    /// The role that the probes found; `None` while it is not known.
    pub role: Option<BackendRole>,
    /// Whether new connections of this service may go to it.
    pub eligible: bool,
    /// The weight in force; 0 is no new connections.
    pub weight: u16,
    /// Open connections of this service on it.
    pub connections: u64,
    /// How far it is behind the primary (bytes of WAL); `None` when unknown or on a primary.
    pub lag_bytes: Option<u64>,
    /// The PostgreSQL timeline it is on.
    pub timeline: Option<u32>,
    /// The last probe in a few words, for example `sql ok 0.4 ms`.
    pub check: String,
    /// Why it is, or is not, eligible.
    pub reason: String,
}

words! {
    /// What the operator wants of a backend.
    pub enum Admin {
        /// It may serve.
        Ready = "ready",
        /// No new connections; the old ones may finish.
        Drain = "drain",
        /// No new connections, and the old ones are reset.
        Maint = "maint",
    }
}

words! {
    /// What the probes found about a backend.
    pub enum Health {
        /// Not probed yet.
        Unknown = "unknown",
        /// It answers.
        Up = "up",
        /// It does not.
        Down = "down",
        /// It answers that it is starting up (57P03).
        Starting = "starting",
        /// It answers that it has no connection left (53300).
        Full = "full",
    }
}

words! {
    /// What a server says that it is.
    pub enum BackendRole {
        /// Not in recovery.
        Primary = "primary",
        /// In recovery.
        Replica = "replica",
    }
}

/// One open connection, a row of `pglb connections`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// The service's name.
    pub service: String,
    /// The backend as `cluster/name`.
    pub backend: String,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The gateway's address and port that the backend sees, if the service is full-nat.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gateway: Option<SocketAddr>,
    /// Where the TCP connection is in its life, for example `established`.
    pub state: String,
    /// Time since the last packet of either side (seconds).
    pub idle_seconds: u64,
}

/// Which backend a new connection would get, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReport {
    /// The service's name.
    pub service: String,
    /// The client asked about.
    pub client: SocketAddr,
    /// The backend that it would get, as `cluster/name`; `None` when it would be refused.
    pub chosen: Option<String>,
    /// Every backend of the service's cluster.
    pub candidates: Vec<CandidateReport>,
}

/// One backend in an [`ExplainReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateReport {
    /// The backend as `cluster/name`.
    pub backend: String,
    /// Whether the connection may go to it.
    pub eligible: bool,
    /// Why it is chosen, or is not.
    pub reason: String,
    /// Open connections of this service on it.
    pub connections: u64,
    /// The weight in force.
    pub weight: u16,
}
