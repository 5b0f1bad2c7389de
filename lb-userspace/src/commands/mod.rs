//! One file per command, each thin: arguments in, a request or a file, text and an exit code out.

mod backend;
mod capture;
mod check;
mod connections;
mod controller;
pub mod detach;
pub mod doctor;
mod drain;
pub mod dump;
mod explain;
mod kill;
mod output;
pub mod run;
mod status;

use std::io;
use std::process::ExitCode;

use crate::cli::Command;
use crate::config::LoadError;

use controller::Unreachable;

/// Something went wrong that has no exit code of its own.
const FAILED: u8 = 1;
/// A configuration that cannot be used; also `status` without a backend and `drain` out of time.
const INVALID: u8 = 2;
/// No controller answers.
const UNREACHABLE: u8 = 3;

/// Does what was typed; the exit code is the answer for scripts.
pub fn dispatch(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Status(args) => status::run(args),
        Command::Connections(args) => connections::run(args),
        Command::Drain(args) => drain::run(args),
        Command::Maint(args) => backend::maint(args),
        Command::Ready(args) => backend::ready(args),
        Command::Weight(args) => backend::weight(args),
        Command::Kill(args) => kill::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Capture(args) => capture::run(args),
        Command::Detach(args) => detach::run(args),
    }
}

/// Prints what went wrong on stderr and tells the exit code for it.
pub fn complain(error: &anyhow::Error) -> ExitCode {
    // Whoever closed the pipe has seen enough: `pglb connections | head` did not fail.
    let is_broken_pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    if error.downcast_ref().is_some_and(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    if let Some(LoadError::Invalid(errors)) = error.downcast_ref() {
        for error in errors {
            output::warn(&error.to_string());
        }
        return ExitCode::from(INVALID);
    }
    output::warn(&format!("pglb: {error:#}"));
    if error.is::<LoadError>() {
        ExitCode::from(INVALID)
    } else if error.is::<Unreachable>() {
        ExitCode::from(UNREACHABLE)
    } else {
        ExitCode::from(FAILED)
    }
}
