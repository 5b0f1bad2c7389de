//! Ctrl-C and SIGTERM: what was built is removed before the process ends.

use std::{process, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use pglb_tests::{clock, process::children_of, topology};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// Asks for root, removes what killed runs left behind, and from now on cleans up when a signal ends this process.
pub(crate) fn prepare(task: &str) -> Result<()> {
    ensure!(
        pglb_tests::is_root(),
        "`cargo xtask {task}` creates network namespaces, which needs root: run it as root"
    );
    topology::sweep();
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot watch for signals")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            println!("\ncleaning up");
            topology::abandon();
            // A test's network belongs to the test's process, which the same Ctrl-C ends.
            let ended = || children_of(process::id()).is_empty();
            let _ = clock::wait_for("the end of all tests", Duration::from_secs(5), ended);
            topology::sweep();
            process::exit(128 + signal);
        }
    });
    Ok(())
}
