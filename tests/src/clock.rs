//! The clock of the tests, and waiting for a condition instead of sleeping.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Now, on the monotonic clock.
#[expect(
    clippy::disallowed_methods,
    reason = "tests and the demo measure real time"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Looks at `condition` until it holds, and says how long that took; an error names `what` did not happen.
pub fn wait_for(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<Duration> {
    let started = now();
    loop {
        if condition() {
            return Ok(started.elapsed());
        }
        if started.elapsed() > limit {
            bail!("{what} did not happen within {limit:?}");
        }
        thread::sleep(LOOK);
    }
}
