//! TCP headers (RFC 9293).

use super::{put, set_word, word};
use crate::checksum;

/// A TCP header without options: 20 bytes.
#[repr(C, align(2))]
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
        put(&mut self.0, 0, port);
    }

    /// Writes the receiver's port; the checksum is the caller's.
    #[inline(always)]
    pub fn set_destination(&mut self, port: [u8; 2]) {
        put(&mut self.0, 2, port);
    }

    /// The sequence number.
    #[inline(always)]
    pub fn sequence(&self) -> u32 {
        u32::from_be(word(&self.0, 4))
    }

    /// The acknowledgment number, which counts only with [`Tcp::ACK`].
    #[inline(always)]
    pub fn acknowledgment(&self) -> u32 {
        u32::from_be(word(&self.0, 8))
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

    /// Whether the segment asks for a new connection: a SYN without ACK.
    #[inline(always)]
    pub fn is_opening(&self) -> bool {
        self.flags() & (Self::SYN | Self::FIN | Self::RST | Self::ACK) == Self::SYN
    }

    /// The checksum, in network byte order.
    #[inline(always)]
    pub fn checksum(&self) -> [u8; 2] {
        [self.0[16], self.0[17]]
    }

    /// The sum of the header's 16-bit words.
    #[inline(never)]
    pub fn sum(&self) -> u32 {
        checksum::sum(&self.0)
    }

    /// Writes the checksum.
    #[inline(always)]
    pub fn set_checksum(&mut self, checksum: [u8; 2]) {
        put(&mut self.0, 16, checksum);
    }

    /// Makes this the header of an RST without options; the checksum is the caller's.
    #[inline(always)]
    pub fn write_reset(
        &mut self,
        ports: [[u8; 2]; 2],
        sequence: u32,
        acknowledgment: u32,
        flags: u8,
    ) {
        let [source, destination] = ports;
        self.set_source(source);
        self.set_destination(destination);
        set_word(&mut self.0, 4, sequence.to_be());
        set_word(&mut self.0, 8, acknowledgment.to_be());
        put(&mut self.0, 12, [0x50, flags, 0, 0]);
        put(&mut self.0, 16, [0; 4]);
    }
}
