//! What is measured: which packets, of how many flows, against which bar.

use serde::{Deserialize, Serialize};

use crate::frame::Family;

/// What the packets of a case are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Traffic {
    /// Established connections: queries of clients.
    ToBackend,
    /// Established connections: answers of backends.
    ToClient,
    /// SYNs, each of another client, so that the table of half-open flows is always full.
    Opening,
    /// TCP between hosts that are none of ours.
    Stranger,
    /// No TCP.
    Datagram,
}

impl Traffic {
    /// What a reader of the table sees.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ToBackend => "client to backend",
            Self::ToClient => "backend to client",
            Self::Opening => "SYN of a new flow",
            Self::Stranger => "not ours, TCP",
            Self::Datagram => "not ours, UDP",
        }
    }

    /// Whether a service has these packets: the reference programs know what to do with them too.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::ToBackend | Self::ToClient | Self::Opening)
    }
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) family: Family,
    pub(crate) traffic: Traffic,
    pub(crate) flows: usize,
}

/// What pglb is to stay under, net.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bar {
    /// So many nanoseconds.
    Nanoseconds(f64),
    /// Half of what a HASH lookup with DNAT takes for the same flows.
    HalfOfRewrite,
}

impl Case {
    pub(crate) fn bar(self) -> Option<Bar> {
        match (self.traffic, self.flows) {
            (Traffic::ToBackend | Traffic::ToClient, 1) => Some(Bar::Nanoseconds(45.0)),
            (Traffic::ToBackend | Traffic::ToClient, 8_192) => Some(Bar::Nanoseconds(90.0)),
            (Traffic::ToBackend | Traffic::ToClient, 65_536) => Some(Bar::HalfOfRewrite),
            (Traffic::ToBackend | Traffic::ToClient, _) => None,
            (Traffic::Opening, _) => Some(Bar::Nanoseconds(300.0)),
            (Traffic::Stranger | Traffic::Datagram, _) => Some(Bar::Nanoseconds(35.0)),
        }
    }
}

/// How many flows the cases have; each number is a power of two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Of established connections, ascending.
    pub(crate) established: &'static [usize],
    /// Of SYNs: many times what the table of half-open flows holds.
    pub(crate) opening: usize,
    /// Of what is not ours.
    pub(crate) strangers: &'static [usize],
}

impl Extent {
    /// What is reported.
    pub(crate) const FULL: Self = Self {
        established: &[1, 1_024, 8_192, 65_536],
        opening: 262_144,
        strangers: &[1, 8_192],
    };

    /// Just enough to see that everything works.
    pub(crate) const QUICK: Self = Self {
        established: &[1, 64],
        opening: 256,
        strangers: &[1, 64],
    };

    /// The most established connections.
    pub(crate) fn connections(self) -> usize {
        self.established.iter().copied().max().unwrap_or(1)
    }

    /// Every case of a family.
    pub(crate) fn cases(self, family: Family) -> Vec<Case> {
        let case = |traffic, flows| Case {
            family,
            traffic,
            flows,
        };
        let mut cases = Vec::new();
        for traffic in [Traffic::ToBackend, Traffic::ToClient] {
            cases.extend(self.established.iter().map(|flows| case(traffic, *flows)));
        }
        cases.push(case(Traffic::Opening, self.opening));
        cases.extend(
            self.strangers
                .iter()
                .map(|flows| case(Traffic::Stranger, *flows)),
        );
        cases.push(case(Traffic::Datagram, 1));
        cases
    }
}
