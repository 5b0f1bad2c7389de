//! Frames of both families, built whole and checked whole; nothing here knows the code under test.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail, ensure};

/// Where every frame comes from.
const FAR: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfa];
/// Where every frame goes to.
const NEAR: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// `SELECT 1` as a client of PostgreSQL sends it: 14 bytes.
const QUERY: &[u8] = b"Q\0\0\0\x0dSELECT 1\0";

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub(crate) fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// Its name, as a reader knows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// Bytes of its header without options.
    fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A client opens a connection.
    Syn,
    /// A backend answers.
    SynAck,
    /// A client answers that.
    Ack,
    /// A query, or as many bytes of an answer.
    Data,
    /// No TCP at all.
    Datagram,
}

/// A frame from one end to the other, with right lengths and checksums.
pub(crate) fn build(source: SocketAddr, destination: SocketAddr, content: Content) -> Vec<u8> {
    let (protocol, mut segment) = match content {
        Content::Datagram => (UDP, datagram(source, destination)),
        Content::Syn | Content::SynAck | Content::Ack | Content::Data => {
            (TCP, segment(source, destination, content))
        }
    };
    let sum = checksum(
        &[
            pseudo_header(source, destination, protocol, &segment),
            segment.clone(),
        ]
        .concat(),
    );
    let at = if protocol == TCP { 16 } else { 6 };
    segment[at..at + 2].copy_from_slice(&sum);
    let mut frame = [NEAR, FAR].concat();
    frame.extend(ip_header(source, destination, protocol, segment.len()));
    frame.extend(segment);
    frame
}

fn segment(source: SocketAddr, destination: SocketAddr, content: Content) -> Vec<u8> {
    let (sequence, acknowledgment, flags, payload): (u32, u32, u8, &[u8]) = match content {
        Content::Syn => (1_000, 0, 0x02, &[]),
        Content::SynAck => (7_000, 1_001, 0x12, &[]),
        Content::Ack => (1_001, 7_001, 0x10, &[]),
        Content::Data | Content::Datagram => (1_001, 7_001, 0x18, QUERY),
    };
    let mut tcp = [
        source.port().to_be_bytes(),
        destination.port().to_be_bytes(),
    ]
    .concat();
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledgment.to_be_bytes());
    // 32 bytes with the timestamps, window 64,240, checksum and urgent pointer.
    tcp.extend([0x80, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    tcp.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    tcp.extend(payload);
    tcp
}

fn datagram(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut udp = [
        source.port().to_be_bytes(),
        destination.port().to_be_bytes(),
    ]
    .concat();
    udp.extend([0, 8 + 40, 0, 0]);
    udp.extend([0x55; 40]);
    udp
}

fn ip_header(source: SocketAddr, destination: SocketAddr, protocol: u8, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [l0, l1] = (length + 20).to_be_bytes();
            let mut ip = vec![0x45, 0, l0, l1, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
            ip.extend(source.octets());
            ip.extend(destination.octets());
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum);
            [&[0x08, 0x00], ip.as_slice()].concat()
        }
        (source, destination) => {
            let [l0, l1] = length.to_be_bytes();
            let mut ip = vec![0x86, 0xdd, 0x60, 0, 0, 0, l0, l1, protocol, 64];
            ip.extend(octets(source));
            ip.extend(octets(destination));
            ip
        }
    }
}

/// What makes one flow's frame of another's: the last words of both addresses, both ports, and
/// both checksums, as they lie in memory.
pub(crate) fn patch(frame: &[u8]) -> [u32; 4] {
    let family = kind(frame);
    let (address, source, segment) = match family {
        Family::V4 => (4, 26, 34),
        Family::V6 => (16, 22, 54),
    };
    let word = |at: usize| std::array::from_fn(|index| frame[at + index]);
    let ip_sum: [u8; 2] = std::array::from_fn(|index| frame[24 + index]);
    // Where TCP has its checksum; for anything else the bytes that stand there.
    let sum: [u8; 2] = std::array::from_fn(|index| frame[segment + 16 + index]);
    [
        u32::from_ne_bytes(word(source + address - 4)),
        u32::from_ne_bytes(word(source + 2 * address - 4)),
        u32::from_ne_bytes(word(segment)),
        u32::from_ne_bytes([ip_sum[0], ip_sum[1], sum[0], sum[1]]),
    ]
}

/// Who sends a TCP frame to whom; its checksums must be right.
pub(crate) fn read(frame: &[u8]) -> Result<(SocketAddr, SocketAddr)> {
    let family = kind(frame);
    let ip = &frame[ETHERNET..];
    let (header, segment) = ip.split_at(family.header());
    let (source, destination): (IpAddr, IpAddr) = match family {
        Family::V4 => {
            ensure!(checksum(header) == [0, 0], "the IP checksum is wrong");
            ensure!(header[9] == TCP, "the protocol is {}", header[9]);
            let address = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]);
            (address(12)?.into(), address(16)?.into())
        }
        Family::V6 => {
            ensure!(header[6] == TCP, "the next header is {}", header[6]);
            let address = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]);
            (address(8)?.into(), address(24)?.into())
        }
    };
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let source = SocketAddr::new(source, port(0));
    let destination = SocketAddr::new(destination, port(2));
    let pseudo = pseudo_header(source, destination, TCP, segment);
    if checksum(&[pseudo.as_slice(), segment].concat()) != [0, 0] {
        bail!("the TCP checksum is wrong");
    }
    Ok((source, destination))
}

/// The family of a frame.
pub(crate) fn kind(frame: &[u8]) -> Family {
    if frame[12..14] == [0x08, 0x00] {
        Family::V4
    } else {
        Family::V6
    }
}

fn pseudo_header(
    source: SocketAddr,
    destination: SocketAddr,
    protocol: u8,
    segment: &[u8],
) -> Vec<u8> {
    let [.., l0, l1] = segment.len().to_be_bytes();
    let mut pseudo = octets(source.ip());
    pseudo.extend(octets(destination.ip()));
    pseudo.extend([0, protocol, l0, l1]);
    pseudo
}

/// The bytes of an address.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071), added up the plain way.
fn checksum(data: &[u8]) -> [u8; 2] {
    let words = data
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low)));
    let mut total: u64 = words.sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    let [.., high, low] = (!total).to_be_bytes();
    [high, low]
}
