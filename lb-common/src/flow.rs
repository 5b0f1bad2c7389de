//! Flows: the entries of the connection table.

use crate::checksum;
use crate::family::Address;
use crate::limits::OPENING;
use crate::member::Slot;
use crate::service::Forwarding;

pub(crate) use crate::flow_key::Local;
pub use crate::flow_key::{Endpoint, FlowKey};
pub use crate::next_hop::{MemberHop, NextHop};

/// Which way a flow goes.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the client.
    ToBackend = 0,
    /// From the backend.
    ToClient = 1,
}

impl Direction {
    #[inline(always)]
    pub(crate) fn of(number: u8) -> Self {
        if number == Self::ToBackend as u8 {
            Self::ToBackend
        } else {
            Self::ToClient
        }
    }
}

/// How far a connection has come. Both of its flows say the same.
///
/// ```text
///             SYN-ACK               client's segment             both FINs
///  SynSent ------------> SynReceived ----------------> Established ------> Ended
///   |   ^                     |                          |     ^
///   |   | SYN again           | RST                  RST |     | any other segment
///   v   |                     v                          v     |
///  Refused                  Ended                        Reset
/// ```
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The client's SYN has gone to a backend, which has not answered.
    SynSent = 0,
    /// The backend answered the SYN by an RST that the client was not shown: the client's next
    /// SYN goes elsewhere.
    Refused = 1,
    /// The backend has answered by SYN-ACK, the client has not answered that.
    SynReceived = 2,
    /// Both ends have answered.
    Established = 3,
    /// Both ends have closed, or one has given up before the connection was open.
    Ended = 4,
    /// One end has sent an RST. A spoofed one leaves the ends talking (RFC 5961): their next
    /// segment makes the connection established again. A SYN asks the backend which it was.
    Reset = 5,
}

impl Phase {
    #[inline(always)]
    fn of(number: u8) -> Self {
        match number {
            0 => Self::SynSent,
            1 => Self::Refused,
            2 => Self::SynReceived,
            3 => Self::Established,
            4 => Self::Ended,
            _ => Self::Reset,
        }
    }
}

/// Coarse monotonic time: units of 2^24 ns, 16.8 ms, since boot. Wraps after 2.3 years.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tick(pub u32);

impl Tick {
    /// A tick is 2 to the power of this many nanoseconds.
    pub const SHIFT: u32 = 24;

    /// The tick of a kernel clock reading in nanoseconds.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "ticks wrap, and ages are differences"
    )]
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self((nanoseconds >> Self::SHIFT) as u32)
    }

    /// Ticks since `earlier`; none if that is a little ahead, because another CPU, whose clock has
    /// just moved on, has noted it.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        let ticks = self.0.wrapping_sub(earlier.0);
        if ticks > u32::MAX - Self::AHEAD {
            0
        } else {
            ticks
        }
    }

    /// CPUs read their clocks at most this many ticks apart: a second.
    const AHEAD: u32 = 60;

    /// This many ticks, in milliseconds.
    pub const fn milliseconds(ticks: u32) -> u64 {
        ((ticks as u64) << Self::SHIFT) / 1_000_000
    }
}

/// One direction of a connection, as both connection tables hold it: what arrives under its key
/// leaves under another 4-tuple, by a next hop.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// The 4-tuple that its packets leave with: in nat another destination for the client's ones
    /// and another source for the backend's, in full-nat both, in dsr none.
    pub leaving: FlowKey<A>,
    /// Where its packets go.
    pub next_hop: NextHop,
    /// The member's generation when the connection was opened.
    pub generation: u32,
    /// The last acknowledgment number seen: what the sender takes as the next sequence number,
    /// and so the sequence number of the RST that ends it.
    pub last_ack: u32,
    /// When the last packet came.
    pub last_seen: Tick,
    /// What the phase needs: while the SYN is unanswered, the members that the connection has
    /// tried, as bits; while the client's answer is awaited, the acknowledgment number that it
    /// must have; after a FIN, the sequence number behind it.
    pub memo: u32,
    /// The member that serves the connection.
    pub slot: Slot,
    direction: u8,
    phase: u8,
    /// Whether this end has sent its FIN: 0 or 1.
    pub has_fin: u8,
    forwarding: u8,
    /// What the addresses of `leaving` add to a checksum over those of the key.
    address_difference: u16,
}

impl<A: Address> Flow<A> {
    /// A new flow, just sent to its backend: what arrives as `key` leaves as `leaving`.
    #[inline(always)]
    pub fn new(
        direction: Direction,
        key: &FlowKey<A>,
        leaving: FlowKey<A>,
        slot: Slot,
        now: Tick,
    ) -> Self {
        Self {
            leaving,
            next_hop: NextHop::default(),
            generation: 0,
            last_ack: 0,
            last_seen: now,
            memo: 0,
            slot,
            direction: direction as u8,
            phase: Phase::SynSent as u8,
            has_fin: 0,
            forwarding: Forwarding::Nat as u8,
            address_difference: checksum::difference(key.address_sum(), leaving.address_sum()),
        }
    }
}

impl<A: Address> Flow<A> {
    /// Works out what the addresses that its packets leave with add to a checksum, if they arrive
    /// as `key`.
    #[inline(always)]
    pub(crate) fn settle(&mut self, key: &FlowKey<A>) {
        self.address_difference =
            checksum::difference(key.address_sum(), self.leaving.address_sum());
    }
}

impl<A> Flow<A> {
    /// Which way it goes.
    #[inline(always)]
    pub fn direction(&self) -> Direction {
        Direction::of(self.direction)
    }

    /// How far its connection has come.
    #[inline(always)]
    pub fn phase(&self) -> Phase {
        Phase::of(self.phase)
    }

    /// How its connection is forwarded.
    #[inline(always)]
    pub fn forwarding(&self) -> Forwarding {
        Forwarding::of(self.forwarding)
    }

    /// What tells it from the flow that comes after it under the same key: how far its connection
    /// had come, and when.
    #[inline(always)]
    pub fn mark(&self) -> u64 {
        u64::from(self.phase) << 32 | u64::from(self.last_seen.0)
    }

    /// What the addresses that its packets leave with add to a checksum over those that they
    /// arrive with.
    #[inline(always)]
    pub fn address_difference(&self) -> u16 {
        self.address_difference
    }

    /// The same flow, forwarded so.
    #[inline(always)]
    pub fn forwarded(self, forwarding: Forwarding) -> Self {
        Self {
            forwarding: forwarding as u8,
            ..self
        }
    }

    /// Whether the connection of a half-open or ended flow may yet be established.
    #[inline(always)]
    pub fn may_go_on(&self, now: Tick) -> bool {
        match self.phase() {
            Phase::SynSent | Phase::SynReceived => now.since(self.last_seen) < OPENING.0,
            Phase::Established | Phase::Reset => true,
            Phase::Refused | Phase::Ended => false,
        }
    }

    /// The same flow with what its phase needs.
    #[inline(always)]
    pub fn with_memo(self, memo: u32) -> Self {
        Self { memo, ..self }
    }

    /// The same flow, of this generation of its member.
    #[inline(always)]
    pub fn of_generation(self, generation: u32) -> Self {
        Self { generation, ..self }
    }

    /// Puts the flow into another phase, with what that phase needs.
    #[inline(always)]
    pub fn enter(&mut self, phase: Phase, memo: u32) {
        self.phase = phase as u8;
        self.memo = memo;
    }

    /// Puts the flow into the phase of the table of established flows, if it is not in it yet.
    #[inline(always)]
    pub fn establish(&mut self) {
        if self.phase() != Phase::Established {
            self.enter(Phase::Established, 0);
        }
    }

    /// The same flow, after its FIN.
    #[inline(always)]
    pub fn with_fin(self) -> Self {
        Self { has_fin: 1, ..self }
    }

    /// The same flow with the generation that no member has: its next packet meets an RST.
    pub fn disowned(self) -> Self {
        Self {
            generation: 0,
            ..self
        }
    }

    /// The same flow in another phase.
    #[inline(always)]
    pub fn in_phase(self, phase: Phase) -> Self {
        Self {
            phase: phase as u8,
            ..self
        }
    }

    /// The same flow with addresses of another form.
    pub fn map<B>(self, form: impl Fn(A) -> B) -> Flow<B> {
        Flow {
            leaving: self.leaving.map(form),
            next_hop: self.next_hop,
            generation: self.generation,
            last_ack: self.last_ack,
            last_seen: self.last_seen,
            memo: self.memo,
            slot: self.slot,
            direction: self.direction,
            phase: self.phase,
            has_fin: self.has_fin,
            forwarding: self.forwarding,
            address_difference: self.address_difference,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_cpu_noted_a_tick_ahead_is_not_ages_ago() {
        assert_eq!(Tick(7).since(Tick(8)), 0);
        assert_eq!(Tick(8).since(Tick(7)), 1);
        assert_eq!(Tick(1).since(Tick(u32::MAX)), 2);
        assert_eq!(Tick(0).since(Tick(1 << 31)), 1 << 31);
    }
}
