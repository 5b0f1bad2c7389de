//! `pglb doctor`: is this host, its cards and the network fit for pglb, and what to change.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::styling::{AnsiColor, Style};

use super::output::{colour, show, show_json};
use crate::cli::DoctorArgs;
use crate::config::{self, Config, DEFAULT_FILE};
use crate::doctor::look::look;
use crate::doctor::{Diagnosis, Finding, Level, judge};
use crate::render::table::{Align, Cell, Column, line, widths};
use crate::render::{Colour, plural};

/// Looks, judges and prints; the exit code is that of the worst finding.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let config = read_config(args.config.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let facts = runtime.block_on(look(config.as_ref()))?;
    let diagnosis = judge(&facts);
    if args.json {
        show_json(&diagnosis)?;
    } else {
        show(&render(&diagnosis, config.is_some(), colour()))?;
    }
    Ok(ExitCode::from(match diagnosis.level {
        Level::Ok | Level::Advice => 0,
        Level::Warning => 1,
        Level::Problem => 2,
    }))
}

/// The configuration that was named, or the one in the usual place if it is there.
fn read_config(named: Option<&Path>) -> anyhow::Result<Option<Config>> {
    let usual = Path::new(DEFAULT_FILE);
    match named {
        Some(path) => Ok(Some(config::load(path)?)),
        None if usual.exists() => Ok(Some(config::load(usual)?)),
        None => Ok(None),
    }
}

const COLUMNS: [Column<'_>; 3] = [
    ("LEVEL", Align::Left),
    ("SUBJECT", Align::Left),
    ("FINDING", Align::Left),
];

/// One line for each finding, and one below it for what to do.
fn render(diagnosis: &Diagnosis, has_config: bool, colour: Colour) -> String {
    let row = |finding: &Finding| {
        vec![
            Cell::styled(finding.level, style(finding.level, colour)),
            Cell::plain(&finding.subject),
            Cell::plain(&finding.what),
        ]
    };
    let rows: Vec<Vec<Cell>> = diagnosis.findings.iter().map(row).collect();
    let widths = widths(&COLUMNS, rows.iter());
    let mut text = String::new();
    for (finding, row) in diagnosis.findings.iter().zip(&rows) {
        text.push_str(&line(&COLUMNS, &widths, row));
        text.push('\n');
        if let Some(remedy) = &finding.remedy {
            let margin = " ".repeat(widths[0] + widths[1] + 4);
            text.push_str(&format!("{margin}-> {remedy}\n"));
        }
    }
    text.push_str(&format!("\n{}\n", summary(diagnosis)));
    if !has_config {
        text.push_str(&format!(
            "there is no {DEFAULT_FILE}: VIPs and backends were not looked at; name a configuration with -c\n"
        ));
    }
    text
}

fn summary(diagnosis: &Diagnosis) -> String {
    let count = |level| {
        let of_level = diagnosis.findings.iter().filter(|it| it.level == level);
        u64::try_from(of_level.count()).unwrap_or(u64::MAX)
    };
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    if problems + warnings == 0 {
        return "no problem was found".to_owned();
    }
    format!(
        "{}, {}",
        plural(problems, "problem"),
        plural(warnings, "warning")
    )
}

fn style(level: Level, colour: Colour) -> Style {
    let shade = match level {
        Level::Ok => AnsiColor::Green,
        Level::Advice => AnsiColor::Cyan,
        Level::Warning => AnsiColor::Yellow,
        Level::Problem => AnsiColor::Red,
    };
    match colour {
        Colour::On => shade.on_default(),
        Colour::Off => Style::new(),
    }
}
