//! What the kernel program and the controller share: the entries of the kernel's tables, and the
//! packet's whole story as safe, pure functions.
//!
//! The story is [`pipeline::decide`]: *recall* (a known flow?), *classify* (one of our services?),
//! *choose* (SYN only), *remember*, *rewrite*, *forward*. It runs in the kernel over BPF maps and on
//! the host over ordinary collections; both implement [`tables::Tables`].
//!
//! # Words
//!
//! - **service**: a VIP and port with a role and an algorithm.
//! - **backend**: one PostgreSQL server; **member**: a backend as one service sees it; a member lives
//!   in a **slot** of the member table.
//! - **connection**: one client TCP connection; **flow**: one direction of it.
//! - **generation**: the number that ends the flows of a member all at once when it is raised.
//! - **half-open**: the client has not yet answered the backend's SYN-ACK.
//! - **suspect**: a backend that refused or ignored a SYN and has not answered a probe since.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod amend;
pub mod backend;
pub mod capture;
pub mod checksum;
pub mod choose;
pub mod family;
pub mod filter;
pub mod flow;
mod flow_key;
pub mod flow_table;
pub mod gateway;
pub mod limits;
pub mod member;
mod next_hop;
pub mod pipeline;
#[cfg(feature = "user")]
mod pod;
pub mod port;
pub mod reason;
pub mod refuse;
pub mod rewrite;
pub mod service;
pub mod service_table;
pub mod source;
pub mod tables;
pub mod tally;
pub mod trunk;
pub mod wire;
