//! Services: the VIPs and ports that are ours.

use crate::flow::Endpoint;

/// What a service is found by: its VIP and port, padded to 4 bytes for the kernel's hash.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey<A> {
    /// VIP and port.
    pub vip: Endpoint<A>,
    reserved: [u8; 2],
}

impl<A> ServiceKey<A> {
    /// The key of the service at `vip`.
    #[inline(always)]
    pub const fn new(vip: Endpoint<A>) -> Self {
        Self {
            vip,
            reserved: [0; 2],
        }
    }
}

/// A service's number: its row of the member table.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServiceId(pub u16);

/// How a service chooses a backend.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The member with the fewest connections for its weight.
    LeastConnections = 0,
    /// Smoothly in turn, by weight.
    RoundRobin = 1,
    /// By a Maglev table over the client's address and port.
    Hash = 2,
    /// By a Maglev table over the client's address alone.
    HashAddress = 3,
}

/// A service as the kernel sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its number.
    pub id: ServiceId,
    /// One more than its highest member index.
    pub members: u8,
    algorithm: u8,
    is_holding: u8,
    is_restricted: u8,
    reserved: [u8; 2],
    /// Positions of its ring that are in use, from 0; the ring serves all but least-connections.
    pub ring_length: u32,
}

impl Service {
    /// A service that everyone may use and that rejects when no backend is eligible.
    pub const fn new(id: ServiceId, members: u8, algorithm: Algorithm, ring_length: u32) -> Self {
        Self {
            id,
            members,
            algorithm: algorithm as u8,
            is_holding: 0,
            is_restricted: 0,
            reserved: [0; 2],
            ring_length,
        }
    }

    /// The same service, with SYNs held (dropped, so that TCP retries) while no backend is eligible.
    pub const fn holding(self, is_holding: bool) -> Self {
        Self {
            is_holding: is_holding as u8,
            ..self
        }
    }

    /// The same service, for the clients of its allow list only.
    pub const fn restricted(self, is_restricted: bool) -> Self {
        Self {
            is_restricted: is_restricted as u8,
            ..self
        }
    }

    /// How it chooses.
    #[inline(always)]
    pub const fn algorithm(&self) -> Algorithm {
        match self.algorithm {
            0 => Algorithm::LeastConnections,
            1 => Algorithm::RoundRobin,
            2 => Algorithm::Hash,
            _ => Algorithm::HashAddress,
        }
    }

    /// Whether SYNs are dropped, not rejected, while no backend is eligible.
    #[inline(always)]
    pub const fn is_holding(&self) -> bool {
        self.is_holding != 0
    }

    /// Whether only the clients of its allow list may use it.
    #[inline(always)]
    pub const fn is_restricted(&self) -> bool {
        self.is_restricted != 0
    }
}
