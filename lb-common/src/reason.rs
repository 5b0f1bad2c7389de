//! Why a packet was not forwarded: error, counter index, metric label and documentation row in one.

/// Every reason for which a packet is not forwarded to a backend or a client.
///
/// `lb-ebpf/src/main.rs` has the one `match` that turns a reason into what happens to the packet,
/// and `docs/reasons.md` the table for operators.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The frame does not carry IP.
    NotIp = 0,
    /// The packet does not carry TCP.
    NotTcp = 1,
    /// The frame ends before its headers do, or its length fields contradict each other.
    Truncated = 2,
    /// TCP that belongs to no service and no connection of ours.
    NotOurs = 3,
    /// A fragment of a packet to a service.
    Fragment = 4,
    /// A packet to a service with IP options or extension headers.
    IpOptions = 5,
    /// A packet of ours whose TTL does not allow another hop.
    HopLimit = 6,
    /// A SYN from a client that the service's access lists do not let in.
    Denied = 7,
    /// A SYN to a service without an eligible backend.
    NoBackend = 8,
    /// A SYN to a service without an eligible backend, dropped so that the client tries again.
    Held = 9,
    /// A connection for which the connection table has no room.
    TableFull = 10,
    /// A SYN whose replies could not be told from those of another service's connection.
    ReplyCollision = 11,
    /// A segment to a service that belongs to no connection.
    UnknownSegment = 12,
    /// An RST that belongs to no connection, or to one that is reset already.
    StrayReset = 13,
    /// A segment of a connection that was ended: its backend is down, lost its role or was taken out.
    Superseded = 14,
    /// A backend's RST that answers a SYN, kept from the client while another backend is left.
    RefusalWithheld = 15,
    /// The tables contradict each other, as they may for an instant while they are changed.
    Inconsistent = 16,
    /// A connection of a client address that has as many as the service allows.
    SourceLimit = 17,
    /// A SYN of a client address that opens connections faster than the service allows.
    SourceRate = 18,
    /// A full-nat connection for which the gateway has no port left towards the backend.
    NoPort = 19,
    /// A dsr packet to a backend whose MAC address is not known yet; TCP sends it again.
    NoNeighbour = 20,
    /// A dsr packet to a backend that is reached through a router only.
    NotOnLink = 21,
    /// A packet that does not fit the way out; its sender is told the MTU.
    TooBig = 22,
    /// An ICMP error about a connection that was ended.
    StrayError = 23,
    /// A packet whose VLAN tags could not be changed, for want of room in front of it.
    VlanTags = 24,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 25] = [
        Self::NotIp,
        Self::NotTcp,
        Self::Truncated,
        Self::NotOurs,
        Self::Fragment,
        Self::IpOptions,
        Self::HopLimit,
        Self::Denied,
        Self::NoBackend,
        Self::Held,
        Self::TableFull,
        Self::ReplyCollision,
        Self::UnknownSegment,
        Self::StrayReset,
        Self::Superseded,
        Self::RefusalWithheld,
        Self::Inconsistent,
        Self::SourceLimit,
        Self::SourceRate,
        Self::NoPort,
        Self::NoNeighbour,
        Self::NotOnLink,
        Self::TooBig,
        Self::StrayError,
        Self::VlanTags,
    ];

    /// The index of its counter.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The reason whose counter has this index.
    #[inline(always)]
    pub fn at(index: u32) -> Self {
        Self::ALL
            .get(index as usize)
            .copied()
            .unwrap_or(Self::Inconsistent)
    }

    /// Its name in metrics, in `pglb dump counters` and in the documentation.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::NotTcp => "not_tcp",
            Self::Truncated => "truncated",
            Self::NotOurs => "not_ours",
            Self::Fragment => "fragment",
            Self::IpOptions => "ip_options",
            Self::HopLimit => "hop_limit",
            Self::Denied => "denied",
            Self::NoBackend => "no_backend",
            Self::Held => "held",
            Self::TableFull => "table_full",
            Self::ReplyCollision => "reply_collision",
            Self::UnknownSegment => "unknown_segment",
            Self::StrayReset => "stray_reset",
            Self::Superseded => "superseded",
            Self::RefusalWithheld => "refusal_withheld",
            Self::Inconsistent => "inconsistent",
            Self::SourceLimit => "source_limit",
            Self::SourceRate => "source_rate",
            Self::NoPort => "no_port",
            Self::NoNeighbour => "no_neighbour",
            Self::NotOnLink => "not_on_link",
            Self::TooBig => "too_big",
            Self::StrayError => "stray_error",
            Self::VlanTags => "vlan_tags",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_own_index() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index() as usize, index, "{reason:?}");
            assert_eq!(Reason::at(reason.index()), reason);
        }
    }
}
