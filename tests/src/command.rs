//! Running a command and caring about how it ended.

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command that must succeed, and returns what it printed; its error text becomes the error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = observe(command)?;
    if !output.status.success() {
        bail!(
            "`{}` failed ({}): {}",
            line_of(command),
            output.status,
            text_of(&output.stderr).trim()
        );
    }
    Ok(text_of(&output.stdout))
}

/// Runs a command whose failure is a result like any other.
pub fn observe(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", line_of(command)))
}

/// What a program wrote, with anything that is not UTF-8 replaced.
pub fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The command as a user would type it.
pub fn line_of(command: &Command) -> String {
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy());
    std::iter::once(command.get_program().to_string_lossy())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}
