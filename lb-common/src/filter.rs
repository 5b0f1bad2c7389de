//! A glance at a packet tells that it cannot be ours: one bit for each VIP and port that a packet
//! may go to, one for each backend that it may come from. Bits may clash, and then the tables
//! tell; a packet of ours always has its bit set.

use crate::family::Address;
use crate::flow::Endpoint;
use crate::limits::FILTER_WORDS;

/// One bit of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilterBit {
    /// The index of the 64-bit word that it is in.
    pub word: u32,
    /// The word with this bit alone.
    pub bit: u64,
}

impl FilterBit {
    const HALF: u32 = FILTER_WORDS / 2;

    /// The bit of packets to a service.
    #[inline(always)]
    pub fn of_service<A: Address>(vip: Endpoint<A>) -> Self {
        Self::at(hash(vip))
    }

    /// The bit of packets from a backend.
    #[inline(always)]
    pub fn of_backend<A: Address>(backend: Endpoint<A>) -> Self {
        let Self { word, bit } = Self::at(hash(backend));
        let word = word + Self::HALF;
        Self { word, bit }
    }

    #[inline(always)]
    fn at(hash: u32) -> Self {
        Self {
            word: (hash >> 6) % Self::HALF,
            bit: 1 << (hash & 63),
        }
    }
}

/// What an endpoint is found by, in 24 bits.
#[inline(always)]
pub(crate) fn hash<A: Address>(endpoint: Endpoint<A>) -> u32 {
    let port = u32::from(u16::from_ne_bytes(endpoint.port));
    // One multiplication: the addresses of a site differ in few bits, and a clash costs a search.
    let folded = u64::from(endpoint.address.fold()) ^ u64::from(port) << 32;
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32
}
