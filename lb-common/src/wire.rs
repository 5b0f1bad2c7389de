//! Headers over fixed arrays: Ethernet, IPv4, IPv6, TCP and ICMP.
//!
//! Arrays, never slices: the verifier accepts constant offsets into a header whose length is a
//! constant, and rejects a parser whose lengths are not. All lie at even addresses (the frame
//! does, and every header's length is even), so that they are read two bytes at a time.

mod ethernet;
mod icmp;
mod ipv4;
mod ipv6;
mod tcp;

pub use ethernet::{EgressTags, Ethernet, Mac, Tag};
pub use icmp::{Icmp, Quote, QuotedChecksum, QuotedPorts};
pub use ipv4::Ipv4;
pub use ipv6::{ExtensionHeader, Ipv6};
pub use tcp::Tcp;

use crate::family::{Address, Family};

/// The IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// The IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// The IP protocol number of ICMP for IPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;
/// The hop limit of a packet that the gateway makes itself.
pub const FRESH_HOP_LIMIT: u8 = 64;

/// The headers of one TCP packet, as they lie in the packet.
pub struct Headers<'p, F: Family> {
    /// The Ethernet header, without VLAN tags.
    pub ethernet: &'p mut Ethernet,
    /// The IP header, without options or extension headers.
    pub ip: &'p mut F::Header,
    /// The TCP header, without options.
    pub tcp: &'p mut Tcp,
    /// What the frame is to be sent with, which the headers themselves do not say.
    pub egress: Egress,
}

/// What a frame is sent with besides its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Egress {
    /// The VLAN tags of a packet that is forwarded.
    pub tags: EgressTags,
    /// The way's MTU in bytes, of a packet that was too big for it.
    pub mtu: u16,
}

impl<F: Family> Headers<'_, F> {
    /// Whether the length fields agree with each other.
    #[inline(always)]
    pub fn is_sound(&self) -> bool {
        let header = self.tcp.header_length();
        usize::from(header) >= Tcp::LENGTH && self.ip.payload_length() >= u16::from(header)
    }

    /// The sequence number behind the packet: its payload counts, and SYN and FIN one each.
    #[inline(always)]
    pub fn next_sequence(&self) -> u32 {
        let header = u16::from(self.tcp.header_length());
        let payload = u32::from(self.ip.payload_length().saturating_sub(header));
        let flags = u32::from(self.tcp.has(Tcp::SYN)) + u32::from(self.tcp.has(Tcp::FIN));
        self.tcp.sequence().wrapping_add(payload + flags)
    }
}

/// What the pipeline needs of an IP header, of either family.
pub trait IpHeader {
    /// An address of this family.
    type Address: Address;
    /// Its length in bytes.
    const LENGTH: usize;

    /// The sender's address.
    fn source(&self) -> Self::Address;
    /// The receiver's address.
    fn destination(&self) -> Self::Address;
    /// Writes both addresses. `difference` is that of the new addresses over the old ones
    /// ([`crate::checksum::difference`]), for the header's own checksum.
    fn readdress(&mut self, source: Self::Address, destination: Self::Address, difference: u16);
    /// The header's own checksum, in network byte order; 0 when it has none.
    fn checksum(&self) -> [u8; 2];
    /// The sum of the header's 16-bit words.
    fn sum(&self) -> u32;
    /// TTL or hop limit.
    fn hop_limit(&self) -> u8;
    /// Takes one from the hop limit, which must not be 0; keeps the header's own checksum right.
    fn lower_hop_limit(&mut self);
    /// The packet's length in bytes with this header, by its own length field.
    fn total_length(&self) -> u32;
    /// Bytes behind this header, by its own length field.
    fn payload_length(&self) -> u16;
    /// Makes this the header of a fresh packet of `payload` bytes of `protocol`.
    fn write_fresh(
        &mut self,
        source: Self::Address,
        destination: Self::Address,
        protocol: u8,
        payload: u16,
    );
}

/// The 16-bit word at an even place of a header, as it lies there.
#[inline(always)]
fn half<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_ne_bytes([header[at], header[at + 1]])
}

/// The 32-bit word at an even place of a header, as it lies there: read in halves, because a
/// header is aligned to two bytes only.
#[inline(always)]
fn word<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    let [a, b] = half(header, at).to_ne_bytes();
    let [c, d] = half(header, at + 2).to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// Writes bytes of a header in one piece: single ones the compiler would write one by one.
#[inline(always)]
fn put<const N: usize, const M: usize>(header: &mut [u8; N], at: usize, bytes: [u8; M]) {
    header[at..at + M].copy_from_slice(&bytes);
}

/// Writes the 32-bit word at an even place of a header.
#[inline(always)]
fn set_word<const N: usize>(header: &mut [u8; N], at: usize, word: u32) {
    put(header, at, word.to_ne_bytes());
}
