//! The imperative shell: the hands of a pure engine. What lives here reads, writes, sends and
//! waits; it decides nothing, so there is no threshold, no weight and no choice of a backend here.

pub mod announce;
pub mod bpf;
pub mod bpf_capture;
pub mod bpf_tables;
mod checksum;
pub mod clock;
pub mod conflict;
pub mod control;
pub mod generic_netlink;
pub mod host;
pub mod interrupt;
pub mod links;
#[cfg(test)]
mod lone_thread;
pub mod metrics_http;
pub mod network;
pub mod pinning;
pub mod privileges;
pub mod probe;
pub mod prober;
pub mod resets;
pub mod restore;
pub mod run;
pub mod surroundings;
pub mod walker;
