//! `pglb check`: is this configuration valid, and what does it mean.

use std::process::ExitCode;

use super::output::{show, warn};
use crate::cli::CheckArgs;
use crate::config::{load, warnings};
use crate::render::meaning;

/// Explains a valid configuration; an invalid one is an error that names every mistake.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let config = load(&args.file)?;
    let file = args.file.display();
    for warning in warnings(&config) {
        warn(&format!("pglb: warning: {file}: {warning}"));
    }
    show(&format!("{file} is valid\n\n{}", meaning(&config)))?;
    Ok(ExitCode::SUCCESS)
}
