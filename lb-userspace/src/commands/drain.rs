//! `pglb drain`: no new connections for a backend, and the wait for the last old one.

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::controller::order;
use super::output::{is_terminal, show};
use super::status::fetch;
use super::{INVALID, output};
use crate::cli::DrainArgs;
use crate::config::units::show_duration;
use crate::protocol::{BackendRef, Request};
use crate::render::plural;
use crate::report::StatusReport;

const POLL: Duration = Duration::from_millis(200);

/// Drains a backend; with `--wait` it returns when the last connection is gone.
pub(super) fn run(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let socket = &args.controller.socket;
    let backend = args.backend.clone();
    order(socket, &Request::Drain { backend })?;
    if !args.wait {
        return Ok(ExitCode::SUCCESS);
    }
    let start = now();
    let mut progress = Progress::default();
    loop {
        let open = open_connections(&fetch(socket)?, &args.backend);
        if open == 0 {
            progress.end()?;
            show(&format!("{} has no connections left\n", args.backend))?;
            return Ok(ExitCode::SUCCESS);
        }
        let waited = now().duration_since(start);
        if waited >= args.timeout {
            progress.end()?;
            output::warn(&format!(
                "pglb: {} still has {} after {}, and keeps draining",
                args.backend,
                plural(open, "connection"),
                show_duration(args.timeout),
            ));
            return Ok(ExitCode::from(INVALID));
        }
        progress.show(&args.backend, open)?;
        sleep(POLL.min(args.timeout - waited));
    }
}

#[expect(clippy::disallowed_methods, reason = "a person waits, in real time")]
fn now() -> Instant {
    Instant::now()
}

/// The connections of all services on one backend.
fn open_connections(report: &StatusReport, backend: &BackendRef) -> u64 {
    let rows = report.services.iter().flat_map(|service| &service.backends);
    rows.filter(|row| backend.names(&row.cluster, &row.name))
        .map(|row| row.connections)
        .sum()
}

/// One line on a terminal that is written over; nothing elsewhere.
#[derive(Default)]
struct Progress {
    shown: Option<u64>,
}

impl Progress {
    fn show(&mut self, backend: &BackendRef, open: u64) -> io::Result<()> {
        if !is_terminal() || self.shown == Some(open) {
            return Ok(());
        }
        self.shown = Some(open);
        let mut stdout = io::stdout().lock();
        let left = plural(open, "connection");
        write!(stdout, "\r\x1b[K{backend}: {left} left")?;
        stdout.flush()
    }

    fn end(&mut self) -> io::Result<()> {
        match self.shown.take() {
            Some(_) => show("\r\x1b[K"),
            None => Ok(()),
        }
    }
}
