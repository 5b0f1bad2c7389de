//! Flows: the entries of the connection table.

use crate::family::{Address, Family};
use crate::member::Slot;
use crate::wire::{Headers, IpHeader, Mac};

/// An address and a port, in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint<A> {
    /// The IP address.
    pub address: A,
    /// The TCP port.
    pub port: [u8; 2],
}

/// The 4-tuple of a packet as it arrives: what a flow is found by.
///
/// Both directions of a connection lie in the same table, the client's packets under
/// (client, VIP) and the backend's under (backend, client). The layout has no padding, because
/// the kernel hashes every byte of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey<A> {
    /// The sender's address.
    pub source: A,
    /// The receiver's address.
    pub destination: A,
    /// The sender's port, in network byte order.
    pub source_port: [u8; 2],
    /// The receiver's port, in network byte order.
    pub destination_port: [u8; 2],
}

impl<A: Address> FlowKey<A> {
    /// The key of the flow that `packet` belongs to.
    #[inline(always)]
    pub fn of<F: Family<Address = A>>(packet: &Headers<'_, F>) -> Self {
        Self {
            source: packet.ip.source(),
            destination: packet.ip.destination(),
            source_port: packet.tcp.source(),
            destination_port: packet.tcp.destination(),
        }
    }

    /// The flow's sender.
    #[inline(always)]
    pub fn sender(&self) -> Endpoint<A> {
        Endpoint {
            address: self.source,
            port: self.source_port,
        }
    }

    /// The flow's receiver.
    #[inline(always)]
    pub fn receiver(&self) -> Endpoint<A> {
        Endpoint {
            address: self.destination,
            port: self.destination_port,
        }
    }

    /// The key of a flow from `sender` to `receiver`.
    #[inline(always)]
    pub fn between(sender: Endpoint<A>, receiver: Endpoint<A>) -> Self {
        Self {
            source: sender.address,
            destination: receiver.address,
            source_port: sender.port,
            destination_port: receiver.port,
        }
    }

    /// The key of the other direction of this flow's connection.
    #[inline(always)]
    pub fn opposite(&self, flow: &Flow<A>) -> Self {
        match flow.direction() {
            Direction::ToBackend => Self::between(flow.rewritten, self.sender()),
            Direction::ToClient => Self::between(self.receiver(), flow.rewritten),
        }
    }
}

/// Which way a flow goes.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the client: the destination is rewritten to the backend.
    ToBackend = 0,
    /// From the backend: the source is rewritten to the VIP.
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
    /// segment makes the connection established again.
    Reset = 5,
}

/// Coarse monotonic time: units of 2^24 ns, 16.8 ms, since boot. Wraps after 2.3 years.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tick(pub u32);

impl Tick {
    /// The tick of a kernel clock reading in nanoseconds.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "ticks wrap, and ages are differences"
    )]
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self((nanoseconds >> 24) as u32)
    }

    /// Ticks since `earlier`.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// This many ticks, in milliseconds.
    pub const fn milliseconds(ticks: u32) -> u64 {
        ((ticks as u64) << 24) / 1_000_000
    }
}

/// Where the next hop of a flow is, and since which state of the routing tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NextHop {
    /// The interface to send from, or 0 when the kernel has to resolve the neighbour first.
    pub interface: u32,
    /// The next hop's MAC address.
    pub destination: Mac,
    /// The sending interface's MAC address.
    pub source: Mac,
    /// The [`crate::gateway::Gateway::next_hop_generation`] under which it was looked up; 0 is
    /// never current.
    pub generation: u32,
}

/// One direction of a connection, as both connection tables hold it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// What is written into the packet: the backend as destination, or the VIP as source.
    pub rewritten: Endpoint<A>,
    direction: u8,
    phase: u8,
    /// The member that serves the connection.
    pub slot: Slot,
    /// Whether this end has sent its FIN: 0 or 1.
    pub has_fin: u8,
    reserved: u8,
    /// The member's generation when the connection was opened.
    pub generation: u32,
    /// The members that this connection has tried, as bits.
    pub tried: u32,
    /// Where its packets go.
    pub next_hop: NextHop,
    /// The last acknowledgment number seen: what the sender takes as the next sequence number,
    /// and so the sequence number of the RST that ends it.
    pub last_ack: u32,
    /// When the last packet came.
    pub last_seen: Tick,
}

impl<A> Flow<A> {
    /// A new flow, just sent to its backend.
    #[inline(always)]
    pub fn new(
        direction: Direction,
        rewritten: Endpoint<A>,
        slot: Slot,
        generation: u32,
        now: Tick,
    ) -> Self {
        Self {
            rewritten,
            direction: direction as u8,
            phase: Phase::SynSent as u8,
            slot,
            has_fin: 0,
            reserved: 0,
            generation,
            tried: 0,
            next_hop: NextHop {
                interface: 0,
                destination: [0; 6],
                source: [0; 6],
                generation: 0,
            },
            last_ack: 0,
            last_seen: now,
        }
    }

    /// Which way it goes.
    #[inline(always)]
    pub fn direction(&self) -> Direction {
        Direction::of(self.direction)
    }

    /// How far its connection has come.
    #[inline(always)]
    pub fn phase(&self) -> Phase {
        match self.phase {
            0 => Phase::SynSent,
            1 => Phase::Refused,
            2 => Phase::SynReceived,
            3 => Phase::Established,
            4 => Phase::Ended,
            _ => Phase::Reset,
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
}
