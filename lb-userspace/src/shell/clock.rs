//! The only place that asks the machine what time it is.
//!
//! Everything else takes time as an argument, so that a test can make an hour pass in a line.

use std::time::{Instant, SystemTime};

/// This moment on the clock that never goes back: for intervals and deadlines.
#[expect(
    clippy::disallowed_methods,
    reason = "the one reading that all others come from"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// This moment on the clock on the wall: for what a person reads.
#[expect(
    clippy::disallowed_methods,
    reason = "the one reading that all others come from"
)]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
