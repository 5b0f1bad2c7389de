//! The packet's story on the host: what becomes of each kind of packet, and what no sequence of packets can break.
#![expect(clippy::unwrap_used, reason = "what is missing fails the test")]

mod accounting;
mod choosing;
mod churn;
mod closing;
mod errors;
mod forwarding;
mod opening;
mod refusing;
mod rewriting;
mod site;
mod ways;
mod world;
