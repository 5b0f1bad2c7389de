//! The address family as a type: everything else is written once, for both.

use crate::checksum;
use crate::wire::{IpHeader, Ipv4};

/// An address family: how long an address is and what its header looks like.
pub trait Family {
    /// An address, as it stands in the packet.
    type Address: Address;
    /// The fixed part of the IP header.
    type Header: IpHeader<Address = Self::Address>;
}

/// An IP address in network byte order.
pub trait Address: Copy + Eq {
    /// The sum of its 16-bit words, for checksums.
    fn sum(self) -> u32;
    /// The address mixed into 32 bits, starting from `seed`.
    fn mix(self, seed: u32) -> u32;
}

/// IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V4 {}

impl Family for V4 {
    type Address = [u8; 4];
    type Header = Ipv4;
}

impl Address for [u8; 4] {
    #[inline(always)]
    fn sum(self) -> u32 {
        checksum::sum(&self)
    }

    #[inline(always)]
    fn mix(self, seed: u32) -> u32 {
        mix(seed, u32::from_be_bytes(self))
    }
}

/// One step of a 32-bit mixing function: the same on every gateway, so that two of them agree.
/// The constants are those of MurmurHash3's finaliser.
#[inline(always)]
pub fn mix(seed: u32, word: u32) -> u32 {
    let mut hash = seed ^ word;
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}
