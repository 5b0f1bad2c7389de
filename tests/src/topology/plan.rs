//! What a test network looks like.

use crate::family::Family;

/// What to build; the default is the network of the demo.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The only family of addresses.
    pub family: Family,
    /// How many database hosts.
    pub hosts: u8,
    /// How the namespaces are connected.
    pub shape: Shape,
    /// Which way the hosts send what is for clients.
    pub returns: Returns,
    /// Is there a second link between the gateway and everyone else? It is up, has no address and no route leads
    /// over it: `eth1` there, [`super::Host::spare`] or `spare` on the gateway.
    pub has_spare_links: bool,
}

/// How the namespaces are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// Each host on a routed link of the gateway, and the client on another one.
    #[default]
    Routed,
    /// As [`Self::Routed`], with a router before the client, whose link to it takes packets of 1,400 bytes.
    RouterToClient,
    /// As [`Self::Routed`], with a router before each host, whose link to it takes packets of 1,400 bytes.
    RouterToHosts,
    /// Client, hosts and gateway in one subnet, on one bridge: the gateway has one interface.
    Segment,
}

/// Which way a host sends what is for clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Returns {
    /// Through the gateway, whatever the shape.
    #[default]
    ThroughGateway,
    /// To the client itself: over a link of their own, or over the segment.
    Directly,
    /// It has no route to clients.
    Nowhere,
}

impl Plan {
    /// The usual network with another number of hosts.
    pub fn with_hosts(hosts: u8) -> Self {
        Self {
            hosts,
            ..Self::default()
        }
    }

    /// The usual network in this family.
    pub fn of_family(family: Family) -> Self {
        Self {
            family,
            ..Self::default()
        }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            family: Family::V4,
            hosts: 3,
            shape: Shape::Routed,
            returns: Returns::ThroughGateway,
            has_spare_links: false,
        }
    }
}

/// The longest packet on a narrow link (bytes).
pub(super) const NARROW: u16 = 1400;
