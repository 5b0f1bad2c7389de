//! Set-up, checks, demo and lab of pglb: `cargo xtask COMMAND`.
#![allow(clippy::print_stdout, reason = "a tool for the terminal")]

mod bench;
mod ci;
mod demo;
mod interrupt;
mod kernels;
mod lab;
mod setup;
mod stage;
mod tests;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing pglb needs and this machine lacks
    Setup,
    /// Watch pglb balance and fail over three PostgreSQL servers; two minutes, needs root
    Demo,
    /// Bring the demo's network up to play with; needs root
    Lab,
    /// Build and run every test; needs root
    Test,
    /// Measure the XDP program against reference programs; needs root
    #[command(disable_help_flag = true)]
    Bench {
        /// What the bench is told; `--help` lists it
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Try the XDP program in older kernels, under emulation; needs root and Debian
    Kernels {
        /// Which of them, as 5.15; all if none is named
        versions: Vec<String>,
        /// A test program to run there in place of loading and packets; may be given again
        #[arg(long = "test", value_name = "NAME")]
        tests: Vec<String>,
    },
    /// Everything that must hold before a change is accepted; needs root
    Ci,
    /// Check the rules of the source layout
    Tidy,
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::run(),
        Task::Demo => demo::run(),
        Task::Lab => lab::run(),
        Task::Test => tests::run(),
        Task::Bench { arguments } => bench::run(&arguments),
        Task::Kernels { versions, tests } => kernels::run(&versions, &tests),
        Task::Ci => ci::run(),
        Task::Tidy => tidy::run(),
    }
}
