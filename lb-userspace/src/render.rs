//! Reports as text for people: tables that fit 100 columns, colour only where it helps.

mod meaning;
pub(crate) mod table;

use std::fmt::Write as _;

use clap::builder::styling::{AnsiColor, Style};

use self::table::{Align, Cell, Column};
use crate::config::Role;
use crate::report::{
    Admin, BackendReport, BackendRole, ConnectionReport, ExplainReport, GatewayReport, Health,
    ServiceReport, ServiceState, StatusReport,
};

pub use meaning::meaning;

/// Whether text may carry colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// For a terminal.
    On,
    /// For a pipe, a file, or a user who set `NO_COLOR`.
    Off,
}

impl Colour {
    fn of(self, colour: AnsiColor) -> Style {
        self.style(colour.on_default())
    }

    fn bold(self) -> Style {
        self.style(Style::new().bold())
    }

    fn dim(self) -> Style {
        self.style(Style::new().dimmed())
    }

    fn style(self, style: Style) -> Style {
        match self {
            Self::On => style,
            Self::Off => Style::new(),
        }
    }
}

const BACKEND_COLUMNS: [Column<'_>; 10] = [
    ("BACKEND", Align::Left),
    ("ADDRESS", Align::Left),
    ("ADMIN", Align::Left),
    ("HEALTH", Align::Left),
    ("ROLE", Align::Left),
    ("ELIGIBLE", Align::Left),
    ("WEIGHT", Align::Right),
    ("CONNS", Align::Right),
    ("LAG", Align::Right),
    ("CHECK", Align::Left),
];

/// `pglb status`: each service with its backends, and below them why any of them does not serve.
pub fn status(report: &StatusReport, colour: Colour) -> String {
    let rows: Vec<Vec<Vec<Cell>>> = report
        .services
        .iter()
        .map(|service| {
            let row = |backend| backend_row(service, backend, colour);
            service.backends.iter().map(row).collect()
        })
        .collect();
    let widths = table::widths(&BACKEND_COLUMNS, rows.iter().flatten());
    let headings = table::headings(&BACKEND_COLUMNS, colour.dim());

    let mut text = gateway_line(&report.gateway);
    for (service, rows) in report.services.iter().zip(&rows) {
        text.push('\n');
        text.push_str(&service_line(service, colour));
        for row in std::iter::once(&headings).chain(rows) {
            text.push_str(&table::line(&BACKEND_COLUMNS, &widths, row));
            text.push('\n');
        }
        for backend in service.backends.iter().filter(|b| needs_a_word(service, b)) {
            let _ = writeln!(text, "  {}: {}", backend.name, backend.reason);
        }
    }
    text
}

fn gateway_line(gateway: &GatewayReport) -> String {
    let interfaces: Vec<String> = gateway
        .interfaces
        .iter()
        .map(|interface| format!("{} ({})", interface.name, interface.xdp_mode))
        .collect();
    format!(
        "pglb {} on {}, up {}, {} of {} connections\n",
        gateway.version,
        interfaces.join(", "),
        elapsed(gateway.uptime_seconds),
        gateway.connections,
        gateway.max_connections,
    )
}

fn service_line(service: &ServiceReport, colour: Colour) -> String {
    let bold = colour.bold();
    let state = match service.state {
        ServiceState::Ok => colour.of(AnsiColor::Green),
        ServiceState::Degraded => colour.of(AnsiColor::Yellow),
        ServiceState::NoBackend => colour.of(AnsiColor::Red),
    };
    let cluster = match service.backends.first() {
        Some(backend) => format!("{} of {}", service.role, backend.cluster),
        None => service.role.to_string(),
    };
    format!(
        "{bold}{}{bold:#}  {}  {cluster}  {}  {}  {state}{}{state:#}  {}\n",
        service.name,
        service.vip,
        service.algorithm,
        service.forwarding,
        service.state,
        plural(service.connections, "connection"),
    )
}

fn backend_row(service: &ServiceReport, backend: &BackendReport, colour: Colour) -> Vec<Cell> {
    let admin = match backend.admin {
        Admin::Ready => Style::new(),
        Admin::Drain | Admin::Maint => colour.of(AnsiColor::Yellow),
    };
    let health = match backend.health {
        Health::Up => colour.of(AnsiColor::Green),
        Health::Unknown | Health::Starting | Health::Full => colour.of(AnsiColor::Yellow),
        Health::Down => colour.of(AnsiColor::Red),
    };
    let role = match (backend.role, backend.timeline) {
        (Some(role), Some(timeline)) => format!("{role}/{timeline}"),
        (Some(role), None) => role.to_string(),
        (None, _) => "-".to_owned(),
    };
    let eligible = match (backend.eligible, is_standby(service, backend)) {
        (true, _) => Cell::plain("yes"),
        (false, true) => Cell::styled("standby", colour.dim()),
        (false, false) => Cell::styled("no", colour.of(AnsiColor::Yellow)),
    };
    vec![
        Cell::plain(&backend.name),
        Cell::plain(backend.address),
        Cell::styled(backend.admin, admin),
        Cell::styled(backend.health, health),
        Cell::plain(role),
        eligible,
        Cell::plain(backend.weight),
        Cell::plain(backend.connections),
        Cell::plain(backend.lag_bytes.map_or_else(|| "-".to_owned(), size)),
        Cell::plain(&backend.check),
    ]
}

/// A healthy replica behind a primary service is where it should be: nothing is wrong with it.
fn is_standby(service: &ServiceReport, backend: &BackendReport) -> bool {
    service.role == Role::Primary
        && backend.role == Some(BackendRole::Replica)
        && backend.admin == Admin::Ready
        && backend.health == Health::Up
        && !backend.eligible
}

/// Whether the row alone leaves the reader asking why.
fn needs_a_word(service: &ServiceReport, backend: &BackendReport) -> bool {
    let is_fallback = service.role == Role::Replica
        && backend.role == Some(BackendRole::Primary)
        && backend.eligible;
    let is_idle = !backend.eligible && !is_standby(service, backend);
    (is_fallback || is_idle) && !backend.reason.is_empty()
}

const CONNECTION_COLUMNS: [Column<'_>; 5] = [
    ("SERVICE", Align::Left),
    ("BACKEND", Align::Left),
    ("CLIENT", Align::Left),
    ("STATE", Align::Left),
    ("IDLE", Align::Right),
];

/// `pglb connections`: one line each, and how many there are.
pub fn connections(connections: &[ConnectionReport], colour: Colour) -> String {
    let row = |connection: &ConnectionReport| {
        vec![
            Cell::plain(&connection.service),
            Cell::plain(&connection.backend),
            Cell::plain(connection.client),
            Cell::plain(&connection.state),
            Cell::plain(elapsed(connection.idle_seconds)),
        ]
    };
    let rows: Vec<Vec<Cell>> = connections.iter().map(row).collect();
    let mut text = String::new();
    if !rows.is_empty() {
        let widths = table::widths(&CONNECTION_COLUMNS, rows.iter());
        let headings = table::headings(&CONNECTION_COLUMNS, colour.dim());
        for row in std::iter::once(&headings).chain(&rows) {
            text.push_str(&table::line(&CONNECTION_COLUMNS, &widths, row));
            text.push('\n');
        }
    }
    let count = u64::try_from(connections.len()).unwrap_or(u64::MAX);
    let _ = writeln!(text, "{}", plural(count, "connection"));
    text
}

const CANDIDATE_COLUMNS: [Column<'_>; 5] = [
    ("BACKEND", Align::Left),
    ("ELIGIBLE", Align::Left),
    ("CONNS", Align::Right),
    ("WEIGHT", Align::Right),
    ("REASON", Align::Left),
];

/// `pglb explain`: the answer in one sentence, then every candidate.
pub fn explain(report: &ExplainReport, colour: Colour) -> String {
    let (client, service) = (report.client, &report.service);
    let mut text = match &report.chosen {
        Some(backend) => {
            let bold = colour.bold();
            format!("a new connection from {client} to {service} goes to {bold}{backend}{bold:#}\n")
        }
        None => format!("a new connection from {client} to {service} finds no backend\n"),
    };
    let rows: Vec<Vec<Cell>> = report
        .candidates
        .iter()
        .map(|candidate| {
            vec![
                Cell::plain(&candidate.backend),
                Cell::plain(if candidate.eligible { "yes" } else { "no" }),
                Cell::plain(candidate.connections),
                Cell::plain(candidate.weight),
                Cell::plain(&candidate.reason),
            ]
        })
        .collect();
    let widths = table::widths(&CANDIDATE_COLUMNS, rows.iter());
    let headings = table::headings(&CANDIDATE_COLUMNS, colour.dim());
    text.push('\n');
    for row in std::iter::once(&headings).chain(&rows) {
        let line = table::line(&CANDIDATE_COLUMNS, &widths, row);
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// "1 connection", "2 connections".
pub fn plural(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// Seconds as the two largest units: `42s`, `3m 12s`, `4d 3h`.
fn elapsed(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        (_, _, _) => format!("{days}d {}h", hours % 24),
    }
}

/// Bytes in PostgreSQL's units, rounded down: `0B`, `12kB`, `212MB`.
fn size(bytes: u64) -> String {
    let units = [(40, "TB"), (30, "GB"), (20, "MB"), (10, "kB")];
    let unit = units.into_iter().find(|(shift, _)| bytes >> shift > 0);
    unit.map_or_else(
        || format!("{bytes}B"),
        |(shift, unit)| format!("{}{unit}", bytes >> shift),
    )
}

#[cfg(test)]
mod tests;
