//! Timelines for the engine: what happens, and what must follow.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "scenarios/invariants.rs"]
mod invariants;
#[path = "scenarios/server.rs"]
mod server;
#[path = "scenarios/site.rs"]
mod site;
#[path = "scenarios/story.rs"]
mod story;
#[path = "scenarios/traffic.rs"]
mod traffic;
#[path = "scenarios/world.rs"]
mod world;

#[path = "scenarios/forwarding.rs"]
mod forwarding;
#[path = "scenarios/health.rs"]
mod health;
#[path = "scenarios/operator.rs"]
mod operator;
#[path = "scenarios/recount.rs"]
mod recount;
#[path = "scenarios/reload.rs"]
mod reload;
#[path = "scenarios/restore.rs"]
mod restore;
#[path = "scenarios/roles.rs"]
mod roles;
