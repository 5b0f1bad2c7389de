//! Ethernet, IPv4 and TCP headers over fixed arrays.
//!
//! Arrays, never slices: the verifier accepts constant offsets into a header whose length is a
//! constant, and rejects a parser whose lengths are not.

use crate::checksum;
use crate::family::{Address, Family};

/// The headers of one TCP packet, as they lie in the packet.
pub struct Headers<'p, F: Family> {
    /// The Ethernet header.
    pub ethernet: &'p mut Ethernet,
    /// The IP header, without options.
    pub ip: &'p mut F::Header,
    /// The TCP header, without options.
    pub tcp: &'p mut Tcp,
}

impl<F: Family> Headers<'_, F> {
    /// Whether the length fields agree with each other.
    #[inline(always)]
    pub fn is_sound(&self) -> bool {
        let header = self.tcp.header_length();
        usize::from(header) >= Tcp::LENGTH && self.ip.payload_length() >= u16::from(header)
    }
}

/// An Ethernet header: 14 bytes.
#[repr(transparent)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ethernet(pub [u8; 14]);

/// An Ethernet (MAC) address.
pub type Mac = [u8; 6];

impl Ethernet {
    /// Its length in bytes.
    pub const LENGTH: usize = 14;

    /// What the frame carries, in network byte order.
    #[inline(always)]
    pub fn kind(&self) -> [u8; 2] {
        [self.0[12], self.0[13]]
    }

    /// Writes both MAC addresses.
    #[inline(always)]
    pub fn address(&mut self, destination: Mac, source: Mac) {
        let [d0, d1, d2, d3, d4, d5] = destination;
        let [s0, s1, s2, s3, s4, s5] = source;
        let [.., k0, k1] = self.0;
        self.0 = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, k0, k1];
    }

    /// Sends the frame back to where it came from.
    #[inline(always)]
    pub fn turn_round(&mut self) {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = self.0;
        self.address([s0, s1, s2, s3, s4, s5], [d0, d1, d2, d3, d4, d5]);
    }
}

/// What the pipeline needs of an IP header, of either family.
pub trait IpHeader {
    /// An address of this family.
    type Address: Address;

    /// The sender's address.
    fn source(&self) -> Self::Address;
    /// The receiver's address.
    fn destination(&self) -> Self::Address;
    /// Writes the sender's address; keeps the header's own checksum right.
    fn set_source(&mut self, address: Self::Address);
    /// Writes the receiver's address; keeps the header's own checksum right.
    fn set_destination(&mut self, address: Self::Address);
    /// TTL or hop limit.
    fn hop_limit(&self) -> u8;
    /// Takes one from the hop limit, which must not be 0; keeps the header's own checksum right.
    fn lower_hop_limit(&mut self);
    /// Bytes behind this header, by its own length field.
    fn payload_length(&self) -> u16;
    /// Makes this the header of a fresh packet of `payload` bytes to where the old one came from.
    fn turn_round(&mut self, payload: u16);
}

/// An IPv4 header without options (RFC 791): 20 bytes.
#[repr(transparent)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4(pub [u8; 20]);

/// The IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;

impl Ipv4 {
    /// Its length in bytes.
    pub const LENGTH: usize = 20;
    /// The EtherType of IPv4.
    pub const ETHER_TYPE: [u8; 2] = [0x08, 0x00];
    /// The TTL of a packet that the gateway makes itself.
    const FRESH_HOP_LIMIT: u8 = 64;

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

    /// The packet's whole length in bytes, by its own field.
    #[inline(always)]
    pub fn total_length(&self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
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
    fn replace<const N: usize>(&mut self, at: usize, new: [u8; N]) {
        let old: [u8; N] = core::array::from_fn(|i| self.0[at + i]);
        let sum = checksum::replace(
            [self.0[10], self.0[11]],
            checksum::sum(&old),
            checksum::sum(&new),
        );
        self.0[at..at + N].copy_from_slice(&new);
        [self.0[10], self.0[11]] = sum;
    }
}

impl IpHeader for Ipv4 {
    type Address = [u8; 4];

    #[inline(always)]
    fn source(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    #[inline(always)]
    fn destination(&self) -> [u8; 4] {
        [self.0[16], self.0[17], self.0[18], self.0[19]]
    }

    #[inline(always)]
    fn set_source(&mut self, address: [u8; 4]) {
        self.replace(12, address);
    }

    #[inline(always)]
    fn set_destination(&mut self, address: [u8; 4]) {
        self.replace(16, address);
    }

    #[inline(always)]
    fn hop_limit(&self) -> u8 {
        self.0[8]
    }

    #[inline(always)]
    fn lower_hop_limit(&mut self) {
        self.replace(8, [self.0[8].wrapping_sub(1), self.0[9]]);
    }

    #[inline(always)]
    fn payload_length(&self) -> u16 {
        self.total_length()
            .saturating_sub(u16::from(self.header_length()))
    }

    #[inline(always)]
    fn turn_round(&mut self, payload: u16) {
        let [s0, s1, s2, s3] = self.source();
        let [d0, d1, d2, d3] = self.destination();
        let [l0, l1] = (payload.wrapping_add(20)).to_be_bytes();
        // Don't Fragment, and an identification of 0, which RFC 6864 allows for such packets.
        let mut fresh = [
            0x45,
            0,
            l0,
            l1,
            0,
            0,
            0x40,
            0,
            Self::FRESH_HOP_LIMIT,
            PROTOCOL_TCP,
            0,
            0, //
            d0,
            d1,
            d2,
            d3,
            s0,
            s1,
            s2,
            s3,
        ];
        [fresh[10], fresh[11]] = checksum::finish(checksum::sum(&fresh));
        self.0 = fresh;
    }
}

/// A TCP header without options (RFC 9293): 20 bytes.
#[repr(transparent)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp(pub [u8; 20]);

impl Tcp {
    /// Its length in bytes.
    pub const LENGTH: usize = 20;
    /// The sender has sent its last byte.
    pub const FIN: u8 = 0x01;
    /// The sender opens the connection.
    pub const SYN: u8 = 0x02;
    /// The sender ends the connection at once.
    pub const RST: u8 = 0x04;
    /// The acknowledgment number counts.
    pub const ACK: u8 = 0x10;

    /// The sender's port, in network byte order.
    #[inline(always)]
    pub fn source(&self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }

    /// The receiver's port, in network byte order.
    #[inline(always)]
    pub fn destination(&self) -> [u8; 2] {
        [self.0[2], self.0[3]]
    }

    /// Writes the sender's port; the checksum is the caller's.
    #[inline(always)]
    pub fn set_source(&mut self, port: [u8; 2]) {
        [self.0[0], self.0[1]] = port;
    }

    /// Writes the receiver's port; the checksum is the caller's.
    #[inline(always)]
    pub fn set_destination(&mut self, port: [u8; 2]) {
        [self.0[2], self.0[3]] = port;
    }

    /// The sequence number.
    #[inline(always)]
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    /// The acknowledgment number, which counts only with [`Tcp::ACK`].
    #[inline(always)]
    pub fn acknowledgment(&self) -> u32 {
        u32::from_be_bytes([self.0[8], self.0[9], self.0[10], self.0[11]])
    }

    /// The header's length in bytes, options included: 20 to 60, or less in a broken packet.
    #[inline(always)]
    pub fn header_length(&self) -> u8 {
        (self.0[12] >> 4) * 4
    }

    /// The flags: [`Tcp::FIN`] and its like, or'ed.
    #[inline(always)]
    pub fn flags(&self) -> u8 {
        self.0[13]
    }

    /// Whether all of `flags` are set.
    #[inline(always)]
    pub fn has(&self, flags: u8) -> bool {
        self.0[13] & flags == flags
    }

    /// The checksum, in network byte order.
    #[inline(always)]
    pub fn checksum(&self) -> [u8; 2] {
        [self.0[16], self.0[17]]
    }

    /// Writes the checksum.
    #[inline(always)]
    pub fn set_checksum(&mut self, checksum: [u8; 2]) {
        [self.0[16], self.0[17]] = checksum;
    }
}
