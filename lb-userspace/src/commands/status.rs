//! `pglb status`: services and backends, and an exit code that monitoring understands.

use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use super::controller::{Unreachable, ask, unexpected};
use super::output::{colour, is_terminal, show, show_json};
use crate::cli::StatusArgs;
use crate::protocol::{Request, Response};
use crate::render;
use crate::report::{ServiceState, StatusReport};

const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";

/// Shows the status once, or again and again until it is interrupted.
pub(super) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let socket = &args.controller.socket;
    let Some(seconds) = args.watch else {
        let report = fetch(socket)?;
        show_report(&report, args.json)?;
        return Ok(ExitCode::from(severity(&report)));
    };
    let pause = Duration::from_secs(seconds.into());
    loop {
        // A controller that restarts is what one watches for, not a reason to stop watching.
        let outcome = fetch(socket);
        if is_terminal() && !args.json {
            show(CLEAR_SCREEN)?;
        }
        match outcome {
            Ok(report) => show_report(&report, args.json)?,
            Err(error) if error.is::<Unreachable>() && !args.json => show(&format!("{error:#}\n"))?,
            Err(error) => return Err(error),
        }
        sleep(pause);
    }
}

/// Asks the controller for its status.
pub(super) fn fetch(socket: &Path) -> anyhow::Result<StatusReport> {
    match ask(socket, &Request::Status)? {
        Response::Status(report) => Ok(report),
        Response::Connections(_)
        | Response::Done { .. }
        | Response::Explained(_)
        | Response::Refused { .. } => Err(unexpected(&Request::Status)),
    }
}

fn show_report(report: &StatusReport, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return show_json(report);
    }
    Ok(show(&render::status(report, colour()))?)
}

/// The exit code: that of the service that is worst off.
fn severity(report: &StatusReport) -> u8 {
    let code = |state| match state {
        ServiceState::Ok => 0,
        ServiceState::Degraded => 1,
        ServiceState::NoBackend => 2,
    };
    let codes = report.services.iter().map(|service| code(service.state));
    codes.max().unwrap_or(0)
}
