//! Services: the VIPs and ports that are ours.

use crate::flow::Endpoint;

/// What a service is found by: its VIP and port, in words of 4 bytes for the kernel's hash. They are
/// also written as words: reading one back that lies in parts, just written, takes a CPU long.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey<A> {
    address: A,
    /// The port in network byte order, and two zeros.
    port: u32,
}

impl<A: Copy> ServiceKey<A> {
    /// The key of the service at `vip`.
    #[inline(always)]
    pub const fn new(vip: Endpoint<A>) -> Self {
        Self {
            address: vip.address,
            port: u32::from_ne_bytes([vip.port[0], vip.port[1], 0, 0]),
        }
    }

    /// VIP and port.
    #[inline(always)]
    pub const fn vip(&self) -> Endpoint<A> {
        let [first, second, ..] = self.port.to_ne_bytes();
        Endpoint {
            address: self.address,
            port: [first, second],
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

/// How the packets of a service's connections reach a backend.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Forwarding {
    /// With another destination; replies come back through the gateway.
    Nat = 0,
    /// With another destination, and from an address and port of the gateway.
    FullNat = 1,
    /// As they are, to the backend's MAC address; replies do not pass the gateway.
    Dsr = 2,
}

impl Forwarding {
    #[inline(always)]
    pub(crate) const fn of(number: u8) -> Self {
        match number {
            0 => Self::Nat,
            1 => Self::FullNat,
            _ => Self::Dsr,
        }
    }
}

/// What an access list says of a client.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// It may connect.
    Allow = 1,
    /// It may not.
    Deny = 2,
}

impl Access {
    /// The entry of an access list that has this number.
    #[inline(always)]
    pub const fn of(number: u8) -> Self {
        match number {
            1 => Self::Allow,
            _ => Self::Deny,
        }
    }
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
    /// 0: no access list, 1: clients in no list may connect, 2: they may not.
    restriction: u8,
    forwarding: u8,
    reserved: u8,
    /// Positions of its ring that are in use, from 0; the ring serves all but least-connections.
    pub ring_length: u32,
    /// The most connections of one client address; 0 is no limit.
    pub source_connections: u32,
    /// The most new connections of one client address in a second; 0 is no limit.
    pub source_rate: u32,
}

impl Service {
    /// A service that everyone may use and that rejects when no backend is eligible.
    pub const fn new(id: ServiceId, members: u8, algorithm: Algorithm, ring_length: u32) -> Self {
        Self {
            id,
            members,
            algorithm: algorithm as u8,
            is_holding: 0,
            restriction: 0,
            forwarding: Forwarding::Nat as u8,
            reserved: 0,
            ring_length,
            source_connections: 0,
            source_rate: 0,
        }
    }

    /// The same service, with SYNs held (dropped, so that TCP retries) while no backend is eligible.
    pub const fn holding(self, is_holding: bool) -> Self {
        Self {
            is_holding: is_holding as u8,
            ..self
        }
    }

    /// The same service with access lists. Who is in none of them may connect, unless `otherwise`
    /// denies it.
    pub const fn restricted(self, otherwise: Access) -> Self {
        Self {
            restriction: otherwise as u8,
            ..self
        }
    }

    /// The same service, forwarded so.
    pub const fn forwarded(self, forwarding: Forwarding) -> Self {
        Self {
            forwarding: forwarding as u8,
            ..self
        }
    }

    /// How its packets are forwarded.
    #[inline(always)]
    pub const fn forwarding(&self) -> Forwarding {
        Forwarding::of(self.forwarding)
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

    /// Whether there are clients that may not connect, or not as often as they like.
    #[inline(always)]
    pub const fn is_selective(&self) -> bool {
        self.restriction != 0 || self.source_connections | self.source_rate != 0
    }

    /// What holds for clients that no access list names; `None` when there is no list.
    #[inline(always)]
    pub const fn restriction(&self) -> Option<Access> {
        match self.restriction {
            0 => None,
            number => Some(Access::of(number)),
        }
    }
}
