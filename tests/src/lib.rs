//! Test networks, PostgreSQL servers and a running pglb, for the tests that need root, the demo and the lab.
//!
//! Everything here cleans up after itself, also when a test panics, and everything carries the process id of its
//! owner in its name, so that [`topology::sweep`] finds what a killed owner left behind.
//! This library does not use pglb's own code: it starts the binary and reads what that prints, as a user does.

pub mod churn;
pub mod clock;
pub mod command;
pub mod counts;
pub mod family;
pub mod flood;
pub mod frames;
pub mod gateway;
pub mod listener;
pub mod loss;
pub mod namespace;
pub mod packets;
pub mod ping;
pub mod plain;
pub mod postgres;
pub mod process;
pub mod session;
pub mod site;
pub mod status;
pub mod tables;
pub mod topology;
pub mod traffic;

/// May this process create namespaces?
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
