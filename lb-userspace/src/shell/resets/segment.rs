//! One TCP segment without data in its IPv4 or IPv6 header, as it goes out by a raw socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::shell::checksum::{checksum, sum_words};

/// The header fields that differ between segments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    pub(super) flags: u8,
}

/// The bytes of a packet of either family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    bytes: [u8; IPV6_HEADER_LEN + TCP_LEN],
    length: usize,
}

impl Segment {
    /// Writes the packet; an error when its two ends are not of one family.
    pub(super) fn build(fields: &Fields) -> io::Result<Self> {
        let Fields {
            source,
            destination,
            ..
        } = fields;
        let mut bytes = [0; IPV6_HEADER_LEN + TCP_LEN];
        let header_len = match (source.ip(), destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes[..IPV4_HEADER_LEN].copy_from_slice(&ipv4_header(source, destination));
                IPV4_HEADER_LEN
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes[..IPV6_HEADER_LEN].copy_from_slice(&ipv6_header(source, destination));
                IPV6_HEADER_LEN
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                let why = format!("{source} and {destination} are of two address families");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
        };
        let length = header_len + TCP_LEN;
        bytes[header_len..length].copy_from_slice(&tcp_header(fields));
        Ok(Self { bytes, length })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr) -> [u8; IPV4_HEADER_LEN] {
    let mut header = [0; IPV4_HEADER_LEN];
    header[0] = 0x45;
    header[3] = IPV4_TOTAL_LENGTH;
    header[6] = DO_NOT_FRAGMENT;
    header[8] = HOP_LIMIT;
    header[9] = PROTOCOL_TCP;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let sum = checksum(sum_words(&header));
    header[10..12].copy_from_slice(&sum);
    header
}

fn ipv6_header(source: Ipv6Addr, destination: Ipv6Addr) -> [u8; IPV6_HEADER_LEN] {
    let mut header = [0; IPV6_HEADER_LEN];
    header[0] = 0x60;
    header[5] = TCP_LENGTH;
    header[6] = PROTOCOL_TCP;
    header[7] = HOP_LIMIT;
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
    header
}

fn tcp_header(fields: &Fields) -> [u8; TCP_LEN] {
    let mut header = [0; TCP_LEN];
    header[0..2].copy_from_slice(&fields.source.port().to_be_bytes());
    header[2..4].copy_from_slice(&fields.destination.port().to_be_bytes());
    header[4..8].copy_from_slice(&fields.sequence.to_be_bytes());
    header[8..12].copy_from_slice(&fields.acknowledgment.to_be_bytes());
    header[12] = 5 << 4;
    header[13] = fields.flags;
    if fields.flags & FLAG_ACK != 0 {
        // A closed window would stop the receiver where it takes the segment at its word.
        header[14..16].copy_from_slice(&[0xff; 2]);
    }
    // The pseudo-header: both addresses, the protocol and the length of the TCP part. Where they
    // stand in it differs between the families, which a sum does not notice (RFC 8200 section 8.1).
    let pseudo = sum_address(fields.source.ip())
        + sum_address(fields.destination.ip())
        + u32::from(PROTOCOL_TCP)
        + u32::from(TCP_LENGTH);
    let sum = checksum(pseudo + sum_words(&header));
    header[16..18].copy_from_slice(&sum);
    header
}

fn sum_address(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => sum_words(&address.octets()),
        IpAddr::V6(address) => sum_words(&address.octets()),
    }
}

/// Headers, none of them with options (bytes).
const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
const TCP_LEN: usize = TCP_LENGTH as usize;
/// The same, as length fields hold them; every one of them fits one byte.
const TCP_LENGTH: u8 = 20;
const IPV4_TOTAL_LENGTH: u8 = 40;
const PROTOCOL_TCP: u8 = 6;
const DO_NOT_FRAGMENT: u8 = 0x40;
const HOP_LIMIT: u8 = 64;
pub(super) const FLAG_RST: u8 = 0x04;
pub(super) const FLAG_ACK: u8 = 0x10;
