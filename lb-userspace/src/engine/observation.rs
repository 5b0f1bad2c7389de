//! What one look at a backend told: data, never an error.
//!
//! The probe fills these in and judges nothing; a value that it could not learn is `None`.

use std::time::Duration;

/// How a backend answered one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It serves connections; what it said of itself is in the facts.
    Up(Facts),
    /// It is alive and takes no connections yet, or no more: starting, recovering, shutting down
    /// (SQLSTATE 57P03).
    Starting {
        /// The server's own sentence, its SQLSTATE in front.
        message: String,
    },
    /// It is alive and every connection slot is taken (SQLSTATE 53300).
    Full {
        /// The server's own sentence, its SQLSTATE in front.
        message: String,
    },
    /// It is alive, and will not have this probe: role, password, database, `pg_hba.conf`, TLS.
    Misconfigured {
        /// What has to be put right, in the server's words where it said so.
        message: String,
    },
    /// No usable answer came.
    Down {
        /// A short reason, such as `connection refused` or `timeout after 1s`.
        why: String,
    },
}

/// What a backend said of itself. All unknown, except the latency, after a mere handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// How long the backend took to answer: for a handshake from the first packet until it was
    /// ready for a query, for a session the round trip of its query.
    pub latency: Duration,
    /// Whether the server is in recovery, and so no primary.
    pub in_recovery: Option<bool>,
    /// The timeline that is being written, or received.
    pub timeline: Option<u32>,
    /// The number that all servers of one cluster share.
    pub system_identifier: Option<u64>,
    /// Bytes of WAL written (primary) or replayed (replica), counted from the cluster's beginning.
    pub lsn: Option<u64>,
    /// Bytes of WAL received and flushed by a replica; unknown on a primary that never was one.
    pub receive_lsn: Option<u64>,
    /// Whether the replica's WAL receiver is streaming; unknown on a primary.
    pub is_streaming: Option<bool>,
    /// Client backends that run a statement at this moment, the probe's own left out.
    pub active_backends: Option<u32>,
    /// Client backends, idle ones and the probe's own included: slots in use.
    pub used_connections: Option<u32>,
    /// The server's `max_connections`.
    pub max_connections: Option<u32>,
    /// How many of `max_connections` ordinary roles cannot have.
    pub reserved_connections: Option<u32>,
    /// Whether new transactions are read-only unless they ask otherwise.
    pub default_transaction_read_only: Option<bool>,
}
