//! Tallies: what the kernel counts at each milestone of a connection.
//!
//! Each number only grows, and each has one writer, so that none can drift by a lost decrement:
//! the kernel counts what it sees, the controller counts (in [`crate::member::Member`] and
//! [`crate::backend::Backend`]) what it ended itself or found gone.

use crate::limits::{HALF_OPEN_DISCOUNT, HALF_OPEN_FLOOD, HALF_OPEN_RUSH};

/// What the kernel has counted for a slot or a backend, since the tables were made.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tally {
    /// SYNs sent to it, each the start of a half-open connection.
    pub half_opened: u64,
    /// Half-open connections that became established, went elsewhere or were given up.
    pub half_closed: u64,
    /// Connections established.
    pub established: u64,
    /// Established connections that ended.
    pub ended: u64,
    /// How often a slot became suspect.
    pub suspicions: u64,
}

/// What happens to a connection, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// A SYN went to the backend.
    HalfOpened,
    /// A half-open connection went elsewhere or was given up.
    HalfClosed,
    /// A half-open connection was established.
    Established,
    /// A connection that had been reset by a forged RST goes on.
    Resumed,
    /// An established connection ended.
    Ended,
}

/// Packets and bytes through one slot, counted on each CPU by itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets from clients to the backend.
    pub packets_to_backend: u64,
    /// Their bytes, Ethernet headers included.
    pub bytes_to_backend: u64,
    /// Packets from the backend to clients.
    pub packets_to_client: u64,
    /// Their bytes, Ethernet headers included.
    pub bytes_to_client: u64,
}

/// The connections that a slot or a backend has at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Load {
    /// Half-open connections.
    pub half_open: u64,
    /// Established connections.
    pub established: u64,
    /// Connections ever given to it.
    pub given: u64,
}

impl Load {
    /// The load by the kernel's tally and the controller's own numbers.
    #[inline(always)]
    pub fn of(tally: &Tally, half_reaped: u64, reaped: u64) -> Self {
        Self {
            half_open: tally
                .half_opened
                .saturating_sub(tally.half_closed + half_reaped),
            established: tally.established.saturating_sub(tally.ended + reaped),
            given: tally.half_opened,
        }
    }

    /// The connections to show: half-open ones included, unless there are so many that they can
    /// only be a flood.
    #[inline(always)]
    pub fn active(&self) -> u64 {
        if self.is_flooded() {
            self.established
        } else {
            self.established + self.half_open
        }
    }

    /// Whether there are more half-open connections than a rush of clients makes.
    #[inline(always)]
    pub fn is_flooded(&self) -> bool {
        self.half_open > HALF_OPEN_FLOOD
    }

    /// What the connections weigh on a member of this weight, before they are divided by it: an
    /// established one weighs [`HALF_OPEN_DISCOUNT`].
    ///
    /// A half-open one weighs as much as an established one, up to [`HALF_OPEN_RUSH`], and little
    /// beyond that: a flood can make a member look as loaded as a rush of clients does, and not
    /// much more. But it never weighs nothing, or all of the flood would go where most of it is.
    #[inline(always)]
    pub fn weight_on(&self, weight: u16) -> u64 {
        let rush = self.half_open.min(u64::from(weight) * HALF_OPEN_RUSH);
        let flood = self.half_open - rush;
        (self.established + rush).wrapping_mul(HALF_OPEN_DISCOUNT) + flood
    }

    /// How many of a backend's `most` connections are taken: all of a rush, so that many clients at
    /// the same moment do not exceed the limit; but a flood takes a quarter of them at the most.
    #[inline(always)]
    pub fn taken(&self, most: u64) -> u64 {
        let half_open = if self.is_flooded() {
            self.half_open.min(most.div_ceil(4))
        } else {
            self.half_open
        };
        self.established + half_open
    }
}
