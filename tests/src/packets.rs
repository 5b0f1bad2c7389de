//! TCP packets over IPv4, built and read byte by byte.
//!
//! Built packets have right lengths and right checksums, computed over everything; read packets must have them.
//! Nothing here knows the code under test, so that the two cannot be wrong in the same way.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The sender has sent its last byte.
pub const FIN: u8 = 0x01;
/// The sender opens the connection.
pub const SYN: u8 = 0x02;
/// The sender ends the connection at once.
pub const RST: u8 = 0x04;
/// What was sent shall be handed over without delay.
pub const PSH: u8 = 0x08;
/// The acknowledgment number counts.
pub const ACK: u8 = 0x10;

/// Where a packet comes from unless it says otherwise.
pub const FAR: Mac = [0x02, 0, 0, 0, 0, 0xfa];
/// Where a packet goes to unless it says otherwise.
pub const NEAR: Mac = [0x02, 0, 0, 0, 0, 0x01];

/// Bytes of the three headers, without options.
pub const HEADERS: usize = ETHERNET + IP + TCP;
const ETHERNET: usize = 14;
const IP: usize = 20;
const TCP: usize = 20;
/// The protocol number of TCP.
const PROTOCOL: u8 = 6;

/// One TCP segment in its packet in its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The frame's sender.
    pub source_mac: Mac,
    /// The frame's receiver.
    pub destination_mac: Mac,
    /// The sender's address and port.
    pub source: SocketAddrV4,
    /// The receiver's address and port.
    pub destination: SocketAddrV4,
    /// The packet's identification.
    pub identification: u16,
    /// The packet's fragment field: flags in the upper 3 bits, the offset in units of 8 bytes below.
    pub fragment: u16,
    /// How many hops it may go.
    pub ttl: u8,
    /// IP options: 0 to 40 bytes, a multiple of 4.
    pub ip_options: Vec<u8>,
    /// The sequence number.
    pub sequence: u32,
    /// The acknowledgment number.
    pub acknowledgment: u32,
    /// The flags, or'ed.
    pub flags: u8,
    /// The window.
    pub window: u16,
    /// TCP options: 0 to 40 bytes, a multiple of 4.
    pub tcp_options: Vec<u8>,
    /// What the segment carries.
    pub payload: Vec<u8>,
}

impl Segment {
    /// A segment with no flags and nothing in it.
    pub fn between(source: SocketAddrV4, destination: SocketAddrV4) -> Self {
        Self {
            source_mac: FAR,
            destination_mac: NEAR,
            source,
            destination,
            identification: 0x1234,
            fragment: DONT_FRAGMENT,
            ttl: 64,
            ip_options: Vec::new(),
            sequence: 1_000,
            acknowledgment: 0,
            flags: 0,
            window: 0xfaf0,
            tcp_options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// A SYN with the options that Linux sends.
    pub fn syn(source: SocketAddrV4, destination: SocketAddrV4) -> Self {
        let mut syn = Self::between(source, destination).flags(SYN);
        // Maximum segment size 1460, SACK permitted, timestamps, window scale 7.
        syn.tcp_options = vec![
            2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        syn
    }

    /// The SYN-ACK that answers this SYN.
    pub fn syn_ack(&self) -> Self {
        let mut answer = Self::between(self.destination, self.source).flags(SYN | ACK);
        answer.sequence = 7_000;
        answer.acknowledgment = self.sequence.wrapping_add(1);
        answer.tcp_options = self.tcp_options.clone();
        answer
    }

    /// The same segment with these flags alone.
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// The same segment with ACK among its flags, and this acknowledgment number.
    pub fn ack(mut self, acknowledgment: u32) -> Self {
        self.flags |= ACK;
        self.acknowledgment = acknowledgment;
        self
    }

    /// The same segment with another sequence number.
    pub fn sequence(mut self, sequence: u32) -> Self {
        self.sequence = sequence;
        self
    }

    /// The same segment with something in it.
    pub fn data(mut self, payload: &[u8]) -> Self {
        self.flags |= PSH;
        self.payload = payload.to_vec();
        self
    }

    /// The same segment with so many hops left.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// The same segment between other Ethernet addresses.
    pub fn macs(mut self, source: Mac, destination: Mac) -> Self {
        self.source_mac = source;
        self.destination_mac = destination;
        self
    }

    /// The same segment to another receiver.
    pub fn to(mut self, destination: SocketAddrV4) -> Self {
        self.destination = destination;
        self
    }

    /// The same segment from another sender.
    pub fn from(mut self, source: SocketAddrV4) -> Self {
        self.source = source;
        self
    }

    /// The RST that a host without this connection answers, by RFC 9293, 3.10.7.1. No IP stack of a host would set its
    /// identification to anything but 0, nor its window.
    pub fn reset(&self) -> Self {
        let mut reset = Self::between(self.destination, self.source)
            .macs(self.destination_mac, self.source_mac);
        reset.identification = 0;
        reset.window = 0;
        if self.flags & ACK != 0 {
            reset.flags = RST;
            reset.sequence = self.acknowledgment;
        } else {
            reset.flags = RST | ACK;
            reset.sequence = 0;
            reset.acknowledgment = self.sequence.wrapping_add(self.length());
        }
        reset
    }

    /// The whole frame.
    ///
    /// # Panics
    ///
    /// When options are no multiple of 4 bytes or more than 40, or the payload does not fit a packet.
    pub fn bytes(&self) -> Vec<u8> {
        let tcp = self.tcp_bytes();
        let header = IP + self.ip_options.len();
        let mut ip = Vec::with_capacity(header);
        ip.push(0x40 | quarter(header));
        ip.push(0);
        ip.extend(
            u16::try_from(header + tcp.len())
                .expect("a packet of at most 65,535 bytes")
                .to_be_bytes(),
        );
        ip.extend(self.identification.to_be_bytes());
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.ttl, PROTOCOL, 0, 0]);
        ip.extend(self.source.ip().octets());
        ip.extend(self.destination.ip().octets());
        ip.extend(&self.ip_options);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum);

        let mut frame = Vec::with_capacity(ETHERNET + ip.len() + tcp.len());
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        frame.extend(IPV4);
        frame.extend(ip);
        frame.extend(tcp);
        frame
    }

    /// Reads a whole frame, whose lengths and checksums must be right.
    pub fn read(frame: &[u8]) -> Result<Self> {
        ensure!(
            frame.len() >= ETHERNET + IP,
            "{} bytes are no IPv4 packet",
            frame.len()
        );
        let (ethernet, ip) = frame.split_at(ETHERNET);
        ensure!(
            ethernet[12..] == IPV4,
            "the frame carries no IPv4 but {:02x?}",
            &ethernet[12..]
        );
        let header = usize::from(ip[0] & 0x0f) * 4;
        ensure!(
            ip[0] >> 4 == 4 && header >= IP,
            "the IP header begins with {:#04x}",
            ip[0]
        );
        let total = usize::from(word(ip, 2));
        ensure!(
            total == ip.len(),
            "the IP length is {total}, of {} bytes",
            ip.len()
        );
        ensure!(
            header <= total,
            "an IP header of {header} bytes in a packet of {total}"
        );
        let (ip, tcp) = ip.split_at(header);
        ensure!(checksum(ip) == [0, 0], "the IP checksum is wrong");
        ensure!(ip[9] == PROTOCOL, "the protocol is {}, not TCP", ip[9]);
        ensure!(tcp.len() >= TCP, "{} bytes are no TCP header", tcp.len());
        let header = usize::from(tcp[12] >> 4) * 4;
        ensure!(
            header >= TCP && header <= tcp.len(),
            "a TCP header of {header} bytes in {}",
            tcp.len()
        );
        let pseudo = pseudo_header(&ip[12..20], tcp.len());
        ensure!(
            checksum(&[&pseudo, tcp].concat()) == [0, 0],
            "the TCP checksum is wrong"
        );
        let endpoint = |address: &[u8], port: usize| {
            let octets: [u8; 4] = address.try_into().context("four bytes are an address")?;
            Ok::<_, anyhow::Error>(SocketAddrV4::new(octets.into(), word(tcp, port)))
        };
        Ok(Self {
            destination_mac: ethernet[..6].try_into()?,
            source_mac: ethernet[6..12].try_into()?,
            source: endpoint(&ip[12..16], 0)?,
            destination: endpoint(&ip[16..20], 2)?,
            identification: word(ip, 4),
            fragment: word(ip, 6),
            ttl: ip[8],
            ip_options: ip[IP..].to_vec(),
            sequence: u32::from_be_bytes(tcp[4..8].try_into()?),
            acknowledgment: u32::from_be_bytes(tcp[8..12].try_into()?),
            flags: tcp[13],
            window: word(tcp, 14),
            tcp_options: tcp[TCP..header].to_vec(),
            payload: tcp[header..].to_vec(),
        })
    }

    /// How far the segment moves the sequence number.
    fn length(&self) -> u32 {
        let payload = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        payload + u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0)
    }

    fn tcp_bytes(&self) -> Vec<u8> {
        let header = TCP + self.tcp_options.len();
        let mut tcp = Vec::with_capacity(header + self.payload.len());
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.destination.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgment.to_be_bytes());
        tcp.extend([quarter(header) << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.tcp_options);
        tcp.extend(&self.payload);
        let addresses = [self.source.ip().octets(), self.destination.ip().octets()].concat();
        let sum = checksum(&[&pseudo_header(&addresses, tcp.len()), tcp.as_slice()].concat());
        tcp[16..18].copy_from_slice(&sum);
        tcp
    }
}

/// The fragment field of an ordinary packet.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// The fragment field of a first fragment.
pub const FIRST_FRAGMENT: u16 = 0x2000;
/// The frame type of IPv4.
pub const IPV4: [u8; 2] = [0x08, 0x00];

/// Puts a VLAN tag of this number in front of what a frame carries.
pub fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &[0x81, 0x00], &vlan.to_be_bytes(), rest].concat()
}

/// The Internet checksum (RFC 1071), added up the plain way; 0 over data that holds its own right checksum.
pub fn checksum(data: &[u8]) -> [u8; 2] {
    let mut total: u64 = 0;
    for pair in data.chunks(2) {
        total += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    let [.., high, low] = (!total).to_be_bytes();
    [high, low]
}

fn pseudo_header(addresses: &[u8], length: usize) -> Vec<u8> {
    let length = u16::try_from(length)
        .expect("a segment of at most 65,535 bytes")
        .to_be_bytes();
    [addresses, &[0, PROTOCOL], &length].concat()
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// A header's length as it is written: in units of 4 bytes.
fn quarter(length: usize) -> u8 {
    assert!(
        length.is_multiple_of(4) && length <= 60,
        "a header of {length} bytes"
    );
    u8::try_from(length / 4).expect("at most 15")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `hello`, as Linux sent it over a link without offloads: every checksum is its own.
    #[rustfmt::skip]
    const HELLO: [u8; 71] = [
        0x3a, 0xff, 0x2a, 0x1f, 0xe2, 0x66, 0xa2, 0xef, 0xbb, 0x94, 0x58, 0xb5, 0x08, 0x00, //
        0x45, 0x00, 0x00, 0x39, 0xc7, 0x64, 0x40, 0x00, 0x40, 0x06, 0xef, 0x56, 0xc0, 0x00, 0x02, 0x01, 0xc0, 0x00, 0x02, 0x02, //
        0xbd, 0xaa, 0x15, 0x38, 0xcb, 0xcc, 0x00, 0x05, 0xe6, 0x69, 0x06, 0xf7, 0x80, 0x18, 0x00, 0x3f, 0xd5, 0xfb, 0x00, 0x00, 0x01, 0x01, 0x08, 0x0a, 0x01, 0x5b, 0x81, 0xd2, 0xbd, 0xee, 0x0b, 0x6e, //
        0x68, 0x65, 0x6c, 0x6c, 0x6f, //
    ];

    #[test]
    fn what_linux_sent_is_read_and_built_again_byte_by_byte() {
        let hello = Segment::read(&HELLO).unwrap();
        assert_eq!(hello.source, "192.0.2.1:48554".parse().unwrap());
        assert_eq!(hello.destination, "192.0.2.2:5432".parse().unwrap());
        assert_eq!((hello.flags, hello.ttl), (PSH | ACK, 64));
        assert_eq!(hello.payload, b"hello");
        assert_eq!(hello.bytes(), HELLO);
    }

    #[test]
    fn one_wrong_bit_behind_the_ethernet_header_is_noticed() {
        for bit in 14 * 8..HELLO.len() * 8 {
            let mut frame = HELLO;
            frame[bit / 8] ^= 1 << (bit % 8);
            assert!(Segment::read(&frame).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_cut_frame_is_no_packet() {
        for length in 0..HELLO.len() {
            assert!(Segment::read(&HELLO[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn options_and_tags_stand_where_they_belong() {
        let mut segment =
            Segment::syn("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        segment.ip_options = vec![148, 4, 0, 0];
        let frame = segment.bytes();
        assert_eq!(frame.len(), HEADERS + 4 + 20);
        assert_eq!(Segment::read(&frame).unwrap(), segment);
        let tagged = tagged(&frame, 7);
        assert_eq!(tagged[12..18], [0x81, 0, 0, 7, 8, 0]);
        assert_eq!(tagged[18..], frame[14..]);
    }
}
