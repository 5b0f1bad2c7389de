//! The only place that asks the machine what time it is.
//!
//! Everything else takes time as an argument, so that a test can make an hour pass in a line.

use std::time::{Instant, SystemTime};

use lb_common::flow::Tick;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

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

/// This moment on the clock that the kernel program stamps packets with, in nanoseconds.
pub fn monotonic_nanoseconds() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// This moment on the clock that the kernel program stamps flows with.
pub fn kernel_tick() -> Tick {
    Tick::from_nanoseconds(nanoseconds(ClockId::CLOCK_MONOTONIC_COARSE))
}

fn nanoseconds(clock: ClockId) -> u64 {
    // The clocks exist on every Linux; without a reading every flow looks fresh.
    let reading = clock_gettime(clock).unwrap_or(TimeSpec::new(0, 0));
    u64::try_from(reading.tv_sec()).unwrap_or(0) * 1_000_000_000
        + u64::try_from(reading.tv_nsec()).unwrap_or(0)
}
