//! What one client address may do to a service: how many connections, and how fast new ones.

use crate::family::WideAddress;
use crate::flow::Tick;
use crate::service::ServiceId;

/// One client address at one service, of either family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceKey {
    /// The client's address, [`crate::family::Address::widen`]ed.
    pub address: WideAddress,
    /// The service.
    pub service: ServiceId,
    reserved: [u8; 2],
}

impl SourceKey {
    /// The key of `address` at `service`.
    #[inline(always)]
    pub const fn new(service: ServiceId, address: WideAddress) -> Self {
        Self {
            address,
            service,
            reserved: [0; 2],
        }
    }
}

/// Established connections of one client address at one service, as the kernel counts them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SourceTally {
    /// Connections established.
    pub established: u64,
    /// Established connections that ended.
    pub ended: u64,
}

impl SourceTally {
    /// The connections that there are, given those that the controller ended or found gone.
    /// That number may go below zero, for connections that nobody had counted: it wraps.
    #[inline(always)]
    pub fn connections(&self, reaped: u64) -> u64 {
        self.established
            .wrapping_sub(self.ended)
            .wrapping_sub(reaped)
    }
}

/// When the next connection of a client address is due, in nanoseconds since boot.
///
/// The generic cell rate algorithm (ITU-T I.371, annex A): one number instead of a bucket and its
/// last filling. A client that has been quiet may open a second's worth at once.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pace(pub u64);

impl Pace {
    const SECOND: u64 = 1_000_000_000;

    /// The pace after one more connection `now`, at most `rate` in a second; `None` when that is
    /// one too many.
    #[inline(always)]
    pub fn step(self, rate: u32, now: Tick) -> Option<Self> {
        let now = u64::from(now.0) << Tick::SHIFT;
        let due = if self.0 > now { self.0 } else { now };
        let next = due + Self::SECOND / u64::from(rate).max(1);
        (next - now <= Self::SECOND).then_some(Self(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the connections that a client tries at these ticks are let in.
    fn admitted(rate: u32, ticks: impl Iterator<Item = u32>) -> usize {
        let mut pace = Pace::default();
        ticks
            .filter(|tick| {
                let next = pace.step(rate, Tick(*tick));
                pace = next.unwrap_or(pace);
                next.is_some()
            })
            .count()
    }

    #[test]
    fn a_quiet_client_may_open_a_seconds_worth_at_once() {
        assert_eq!(admitted(50, std::iter::repeat_n(1_000, 200)), 50);
        assert_eq!(admitted(1, std::iter::repeat_n(1_000, 5)), 1);
    }

    #[test]
    fn a_steady_stream_is_cut_to_the_rate() {
        // Ten connections every tick for 10 s: a second's worth at once, then the rate.
        let ticks = (1_000..1_596).flat_map(|tick| std::iter::repeat_n(tick, 10));
        let admitted = admitted(100, ticks);
        assert!((1_090..=1_100).contains(&admitted), "{admitted}");
    }

    #[test]
    fn a_client_below_the_rate_is_never_refused() {
        assert_eq!(admitted(60, 1_000..9_000), 8_000);
    }
}
