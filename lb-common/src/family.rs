//! The address family as a type: everything else is written once, for both.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::{IpHeader, Ipv4, Ipv6, PROTOCOL_ICMP, PROTOCOL_ICMPV6};

/// An address family: how long an address is and what its header looks like.
pub trait Family {
    /// An address, as it stands in the packet.
    type Address: Address + 'static;
    /// The fixed part of the IP header.
    type Header: IpHeader<Address = Self::Address>;

    /// The protocol number of the family's ICMP.
    const ICMP: u8;
    /// Whether the ICMP checksum covers the addresses, by a pseudo-header (RFC 4443, 2.3).
    const ICMP_COVERS_ADDRESSES: bool;
    /// Type and code of the ICMP message that says that a packet was too big for a link.
    const TOO_BIG: [u8; 2];
    /// Whether an ICMP message of this type tells of an error, and quotes the packet behind it.
    fn is_error(kind: u8) -> bool;
}

/// An IP address.
pub trait Address: Copy + Eq {
    /// The sum of its 16-bit words, for checksums.
    fn sum(self) -> u32;
    /// The address mixed into 32 bits, starting from `seed`.
    fn mix(self, seed: u32) -> u32;
    /// Its words in one, each turned by as many bits as comes before it.
    fn fold(self) -> u32;
    /// The address as an IPv6 one: IPv4 becomes `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
    fn widen(self) -> WideAddress;
    /// The address that was [`Address::widen`]ed.
    fn narrow(wide: WideAddress) -> Self;
}

/// An IPv4 address: one 32-bit word as it lies in the packet.
pub type V4Address = [u32; 1];
/// An IPv6 address: four 32-bit words as they lie in the packet.
pub type V6Address = [u32; 4];
/// An address of either family.
pub type WideAddress = V6Address;

impl<const WORDS: usize> Address for [u32; WORDS] {
    #[inline(always)]
    fn sum(self) -> u32 {
        // Two 16-bit words at a time; 18 bits at most for each word, so nothing overflows.
        self.iter().map(|word| (word & 0xffff) + (word >> 16)).sum()
    }

    #[inline(always)]
    fn mix(self, seed: u32) -> u32 {
        self.iter()
            .fold(seed, |hash, word| mix(hash, u32::from_be(*word)))
    }

    #[inline(always)]
    fn fold(self) -> u32 {
        let words = self.into_iter().zip([0, 7, 14, 21]);
        words.fold(0, |folded, (word, turn)| folded ^ word.rotate_left(turn))
    }

    #[inline(always)]
    fn widen(self) -> WideAddress {
        let mut wide = [0, 0, MAPPED, 0];
        wide[4 - WORDS..].copy_from_slice(&self);
        wide
    }

    #[inline(always)]
    fn narrow(wide: WideAddress) -> Self {
        core::array::from_fn(|word| wide[4 - WORDS + word])
    }
}

/// The third word of an IPv4 address in IPv6 form.
const MAPPED: u32 = 0xffff_u32.to_be();

/// An IPv4 address as the tables have it.
pub const fn v4(address: Ipv4Addr) -> V4Address {
    [u32::from_ne_bytes(address.octets())]
}

/// An IPv6 address as the tables have it.
pub const fn v6(address: Ipv6Addr) -> V6Address {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// The address of either family that was [`Address::widen`]ed.
pub fn ip(wide: WideAddress) -> IpAddr {
    let mut octets = [0; 16];
    for (place, word) in octets.chunks_exact_mut(4).zip(wide) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
}

/// The controller and the tests have both families in one type.
impl Address for IpAddr {
    fn sum(self) -> u32 {
        match self {
            Self::V4(address) => v4(address).sum(),
            Self::V6(address) => v6(address).sum(),
        }
    }

    fn mix(self, seed: u32) -> u32 {
        match self {
            Self::V4(address) => v4(address).mix(seed),
            Self::V6(address) => v6(address).mix(seed),
        }
    }

    fn fold(self) -> u32 {
        match self {
            Self::V4(address) => v4(address).fold(),
            Self::V6(address) => v6(address).fold(),
        }
    }

    fn widen(self) -> WideAddress {
        match self {
            Self::V4(address) => v4(address).widen(),
            Self::V6(address) => v6(address),
        }
    }

    fn narrow(wide: WideAddress) -> Self {
        ip(wide)
    }
}

/// IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V4 {}

impl Family for V4 {
    type Address = V4Address;
    type Header = Ipv4;

    const ICMP: u8 = PROTOCOL_ICMP;
    const ICMP_COVERS_ADDRESSES: bool = false;
    /// Destination unreachable: fragmentation needed (RFC 1191).
    const TOO_BIG: [u8; 2] = [3, 4];

    /// Destination unreachable, time exceeded, parameter problem.
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }
}

/// IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V6 {}

impl Family for V6 {
    type Address = V6Address;
    type Header = Ipv6;

    const ICMP: u8 = PROTOCOL_ICMPV6;
    const ICMP_COVERS_ADDRESSES: bool = true;
    /// Packet too big (RFC 4443, 3.2).
    const TOO_BIG: [u8; 2] = [2, 0];

    /// Destination unreachable, packet too big, time exceeded, parameter problem.
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
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
