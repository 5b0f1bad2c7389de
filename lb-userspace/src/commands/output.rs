//! Where text goes, and whether it may carry colour.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::render::Colour;

/// Prints text on stdout.
pub(super) fn show(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints a value on stdout as one line of JSON.
pub(super) fn show_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    Ok(show(&line)?)
}

/// Prints one line on stderr; when even that fails there is nobody left to tell.
pub(super) fn warn(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether stdout is a terminal.
pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Colour on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
pub(super) fn colour() -> Colour {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if is_terminal() && !is_unwanted {
        Colour::On
    } else {
        Colour::Off
    }
}
