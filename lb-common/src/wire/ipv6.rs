//! IPv6 headers (RFC 8200).

use super::{FRESH_HOP_LIMIT, IpHeader, put, set_word, word};
use crate::checksum;
use crate::family::V6Address;

/// An IPv6 header without extension headers: 40 bytes.
#[repr(C, align(2))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv6(pub [u8; 40]);

impl Ipv6 {
    /// Its length in bytes.
    pub const LENGTH: usize = 40;
    /// The EtherType of IPv6.
    pub const ETHER_TYPE: [u8; 2] = [0x86, 0xdd];

    /// IP version: 6, if this is what the frame says it is.
    #[inline(always)]
    pub fn version(&self) -> u8 {
        self.0[0] >> 4
    }

    /// The protocol number of what follows, or of an extension header.
    #[inline(always)]
    pub fn next_header(&self) -> u8 {
        self.0[6]
    }

    #[inline(always)]
    fn address(&self, at: usize) -> V6Address {
        [
            word(&self.0, at),
            word(&self.0, at + 4),
            word(&self.0, at + 8),
            word(&self.0, at + 12),
        ]
    }

    #[inline(always)]
    fn set_address(&mut self, at: usize, [a, b, c, d]: V6Address) {
        set_word(&mut self.0, at, a);
        set_word(&mut self.0, at + 4, b);
        set_word(&mut self.0, at + 8, c);
        set_word(&mut self.0, at + 12, d);
    }
}

impl IpHeader for Ipv6 {
    type Address = V6Address;
    const LENGTH: usize = 40;

    #[inline(always)]
    fn source(&self) -> V6Address {
        self.address(8)
    }

    #[inline(always)]
    fn destination(&self) -> V6Address {
        self.address(24)
    }

    #[inline(always)]
    fn readdress(&mut self, source: V6Address, destination: V6Address, _: u16) {
        self.set_address(8, source);
        self.set_address(24, destination);
    }

    #[inline(always)]
    fn checksum(&self) -> [u8; 2] {
        [0; 2]
    }

    #[inline(never)]
    fn sum(&self) -> u32 {
        checksum::sum(&self.0)
    }

    #[inline(always)]
    fn hop_limit(&self) -> u8 {
        self.0[7]
    }

    #[inline(always)]
    fn lower_hop_limit(&mut self) {
        self.0[7] = self.0[7].wrapping_sub(1);
    }

    #[inline(always)]
    fn total_length(&self) -> u32 {
        u32::from(self.payload_length()) + 40
    }

    #[inline(always)]
    fn payload_length(&self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    #[inline(always)]
    fn write_fresh(
        &mut self,
        source: V6Address,
        destination: V6Address,
        protocol: u8,
        payload: u16,
    ) {
        let [l0, l1] = payload.to_be_bytes();
        put(&mut self.0, 0, [0x60, 0, 0, 0]);
        put(&mut self.0, 4, [l0, l1, protocol, FRESH_HOP_LIMIT]);
        self.set_address(8, source);
        self.set_address(24, destination);
    }
}

/// The first 8 bytes of an extension header (RFC 8200, section 4).
#[repr(C, align(2))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionHeader(pub [u8; 8]);

impl ExtensionHeader {
    /// Its shortest length in bytes.
    pub const LENGTH: usize = 8;
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;

    /// Whether a protocol number is that of an extension header that a router may look past.
    #[inline(always)]
    pub fn is_announced_by(next_header: u8) -> bool {
        matches!(
            next_header,
            Self::HOP_BY_HOP | Self::ROUTING | Self::FRAGMENT | Self::DESTINATION
        )
    }

    /// Whether a protocol number is that of a fragment header.
    #[inline(always)]
    pub fn is_fragment(next_header: u8) -> bool {
        next_header == Self::FRAGMENT
    }

    /// The protocol number of what follows.
    #[inline(always)]
    pub fn next_header(&self) -> u8 {
        self.0[0]
    }

    /// The length in bytes of one that is no fragment header: 8 to 2,048.
    #[inline(always)]
    pub fn length(&self) -> usize {
        (usize::from(self.0[1]) + 1) * 8
    }

    /// Whether this fragment header is of a piece that does not hold the TCP header.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.0[2] != 0 || self.0[3] & 0xf8 != 0
    }
}
