//! Ctrl-C as something that can be waited for, so that a command ends in order.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Has input when the process was asked to end, by Ctrl-C, `kill` or the terminal's end.
pub struct Interrupt(SignalFd);

impl Interrupt {
    /// From now on these signals do not end the process. To be called while it has one thread.
    pub fn watch() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        signals.thread_block().context("cannot hold signals back")?;
        let file = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
            .context("cannot watch for signals")?;
        Ok(Self(file))
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
