//! Steps that say what they do in one line, and how long it took.

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use pglb_tests::clock;

/// A step whose title is already on the screen; its time follows when it ends.
pub(crate) struct Step {
    started: Instant,
}

impl Step {
    pub(crate) fn begin(title: impl Display) -> Self {
        print!("{title} ... ");
        flush();
        Self {
            started: clock::now(),
        }
    }

    pub(crate) fn end(self) {
        println!("{}", elapsed(self.started));
    }

    /// Runs a quiet command as this step; what it printed is shown only if it failed.
    pub(crate) fn run(self, command: &mut Command) -> Result<()> {
        let output = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        if !output.status.success() {
            println!("failed after {}", elapsed(self.started));
            print!("{}", String::from_utf8_lossy(&output.stdout));
            print!("{}", String::from_utf8_lossy(&output.stderr));
            bail!(
                "{} failed ({})",
                command.get_program().display(),
                output.status
            );
        }
        self.end();
        Ok(())
    }
}

/// Runs a command whose output belongs on the screen.
pub(crate) fn run_visibly(command: &mut Command) -> Result<()> {
    flush();
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        bail!(
            "`{} {}` failed ({status})",
            command.get_program().display(),
            arguments.join(" ")
        );
    }
    Ok(())
}

/// Seconds since `started`, with one decimal.
pub(crate) fn elapsed(started: Instant) -> String {
    format!("{:.1} s", started.elapsed().as_secs_f64())
}

/// A line that is not finished must be seen before the work starts.
pub(crate) fn flush() {
    // A closed pipe is no reason to stop working.
    let _ = io::stdout().flush();
}
