//! `cargo xtask bench`: what the XDP program costs, measured against reference programs.

use std::process::Command;

use anyhow::Result;

use crate::{interrupt, setup, stage};

/// Builds the bench and runs it with these arguments.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    interrupt::prepare("bench")?;
    setup::run()?;
    // What is measured runs in the kernel, and is built optimised always; the profile of what
    // starts it does not matter.
    let mut bench = Command::new("cargo");
    bench.args(["run", "--quiet", "--package", "pglb-bench", "--"]);
    stage::run_visibly(bench.args(arguments))
}
