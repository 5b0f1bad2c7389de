//! IPv4 headers (RFC 791).

use super::{FRESH_HOP_LIMIT, IpHeader, put, set_word, word};
use crate::checksum;
use crate::family::V4Address;

/// An IPv4 header without options: 20 bytes.
#[repr(C, align(2))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4(pub [u8; 20]);

/// What a TTL that is one lower makes of the sum of the header's words.
const ONE_HOP: u16 = u16::from_ne_bytes([0xfe, 0xff]);

impl Ipv4 {
    /// Its length in bytes.
    pub const LENGTH: usize = 20;
    /// The EtherType of IPv4.
    pub const ETHER_TYPE: [u8; 2] = [0x08, 0x00];

    /// IP version: 4, if this is what the frame says it is.
    #[inline(always)]
    pub fn version(&self) -> u8 {
        self.0[0] >> 4
    }

    /// The whole header's length in bytes, options included: 20 to 60, or less in a broken packet.
    #[inline(always)]
    pub fn header_length(&self) -> u8 {
        (self.0[0] & 0x0f) * 4
    }

    /// The protocol number of what follows.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.0[9]
    }

    /// Whether this is a piece of a larger packet, the first or a later one.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.0[6] & 0x3f != 0 || self.0[7] != 0
    }

    /// Whether this is a piece that does not hold the TCP header.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.0[6] & 0x1f != 0 || self.0[7] != 0
    }

    #[inline(always)]
    fn add_to_checksum(&mut self, difference: u16) {
        let checksum = checksum::add(self.checksum(), u32::from(difference));
        put(&mut self.0, 10, checksum);
    }
}

impl IpHeader for Ipv4 {
    type Address = V4Address;
    const LENGTH: usize = 20;

    #[inline(always)]
    fn source(&self) -> V4Address {
        [word(&self.0, 12)]
    }

    #[inline(always)]
    fn destination(&self) -> V4Address {
        [word(&self.0, 16)]
    }

    #[inline(always)]
    fn readdress(&mut self, [source]: V4Address, [destination]: V4Address, difference: u16) {
        set_word(&mut self.0, 12, source);
        set_word(&mut self.0, 16, destination);
        self.add_to_checksum(difference);
    }

    #[inline(always)]
    fn checksum(&self) -> [u8; 2] {
        [self.0[10], self.0[11]]
    }

    #[inline(never)]
    fn sum(&self) -> u32 {
        checksum::sum(&self.0)
    }

    #[inline(always)]
    fn hop_limit(&self) -> u8 {
        self.0[8]
    }

    #[inline(always)]
    fn lower_hop_limit(&mut self) {
        self.0[8] = self.0[8].wrapping_sub(1);
        self.add_to_checksum(ONE_HOP);
    }

    #[inline(always)]
    fn total_length(&self) -> u32 {
        u32::from(u16::from_be_bytes([self.0[2], self.0[3]]))
    }

    #[inline(always)]
    fn payload_length(&self) -> u16 {
        let total = u16::from_be_bytes([self.0[2], self.0[3]]);
        total.saturating_sub(u16::from(self.header_length()))
    }

    #[inline(always)]
    fn write_fresh(
        &mut self,
        [source]: V4Address,
        [destination]: V4Address,
        protocol: u8,
        payload: u16,
    ) {
        let [l0, l1] = payload.wrapping_add(20).to_be_bytes();
        put(&mut self.0, 0, [0x45, 0, l0, l1]);
        // Don't Fragment, and an identification of 0, which RFC 6864 allows for such packets.
        put(&mut self.0, 4, [0, 0, 0x40, 0]);
        put(&mut self.0, 8, [FRESH_HOP_LIMIT, protocol, 0, 0]);
        set_word(&mut self.0, 12, source);
        set_word(&mut self.0, 16, destination);
        let checksum = checksum::finish(checksum::sum(&self.0));
        put(&mut self.0, 10, checksum);
    }
}
