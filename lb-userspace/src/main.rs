//! The `pglb` binary: parse, dispatch, complain, exit.

use std::process::ExitCode;

use clap::Parser;
use lb_userspace::cli::Cli;
use lb_userspace::commands;

fn main() -> ExitCode {
    let cli = Cli::parse();
    commands::dispatch(&cli.command).unwrap_or_else(|error| commands::complain(&error))
}
