//! pglb: a layer-4 load balancer for PostgreSQL.
//!
//! `engine` decides and touches nothing; `shell` touches everything and decides nothing;
//! `config`, `protocol` and `report` are the data between them; `commands` are what a user types.
//! Imports point one way: `engine` and `config` know nothing of `shell`, and `commands` speak
//! `protocol`, except for those that work on the host itself.

#[macro_use]
mod words;

pub mod capture;
pub mod cli;
pub mod commands;
pub mod config;
pub mod doctor;
pub mod engine;
pub mod metrics;
pub mod protocol;
pub mod render;
pub mod report;
pub mod shell;
