//! ICMP (RFC 792) and ICMP for IPv6 (RFC 4443), as far as they tell of errors.

use super::{Egress, Ethernet};
use crate::family::Family;

/// The fixed part of an ICMP message: 8 bytes.
#[repr(C, align(2))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icmp(pub [u8; 8]);

impl Icmp {
    /// Its length in bytes.
    pub const LENGTH: usize = 8;

    /// The kind of message.
    #[inline(always)]
    pub fn kind(&self) -> u8 {
        self.0[0]
    }

    /// The checksum, in network byte order.
    #[inline(always)]
    pub fn checksum(&self) -> [u8; 2] {
        [self.0[2], self.0[3]]
    }

    /// Writes the checksum.
    #[inline(always)]
    pub fn set_checksum(&mut self, checksum: [u8; 2]) {
        [self.0[2], self.0[3]] = checksum;
    }

    /// The report that a packet was too big for the next link, whose MTU it tells; without its
    /// checksum. Both families have the MTU in the same place (RFC 1191 and RFC 4443, 3.2).
    #[inline(always)]
    pub fn too_big<F: Family>(mtu: u16) -> Self {
        let [kind, code] = F::TOO_BIG;
        let [m0, m1] = mtu.to_be_bytes();
        Self([kind, code, 0, 0, 0, 0, m0, m1])
    }
}

/// What every error quotes of the packet that caused it: its IP header, and of its TCP header at
/// least the ports (RFC 792 promises 8 bytes, and most senders give more).
pub struct Quote<'p, F: Family> {
    /// The Ethernet header of the error, without VLAN tags.
    pub ethernet: &'p mut Ethernet,
    /// The IP header of the error.
    pub ip: &'p mut F::Header,
    /// The error.
    pub icmp: &'p mut Icmp,
    /// The IP header of the packet that it is about, as it left the gateway.
    pub quoted_ip: &'p mut F::Header,
    /// The ports of that packet: source, then destination, each in network byte order.
    pub quoted_ports: &'p mut QuotedPorts,
    /// The TCP checksum of that packet, if the quotation goes so far.
    pub quoted_checksum: Option<&'p mut QuotedChecksum>,
    /// What the frame is to be sent with.
    pub egress: Egress,
}

/// The first 8 bytes of a quoted TCP header: the ports and the sequence number.
#[repr(C, align(2))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotedPorts(pub [u8; 8]);

impl QuotedPorts {
    /// Its length in bytes.
    pub const LENGTH: usize = 8;

    /// The port of the quoted packet's sender.
    #[inline(always)]
    pub fn source(&self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }

    /// The port of the quoted packet's receiver.
    #[inline(always)]
    pub fn destination(&self) -> [u8; 2] {
        [self.0[2], self.0[3]]
    }

    /// Writes both ports.
    #[inline(always)]
    pub fn set(&mut self, source: [u8; 2], destination: [u8; 2]) {
        [self.0[0], self.0[1]] = source;
        [self.0[2], self.0[3]] = destination;
    }
}

/// The checksum of a quoted TCP header.
#[repr(C, align(2))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotedChecksum(pub [u8; 2]);

impl QuotedChecksum {
    /// Where it stands behind the quoted IP header.
    pub const OFFSET: usize = 16;
}
