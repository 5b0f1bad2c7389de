//! What the headers of a frame say, as far as a captured packet is read.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, LinkSlice, TcpHeaderSlice};

/// A MAC address.
pub type Mac = [u8; 6];

/// The headers of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The sender's MAC address.
    pub source_mac: Mac,
    /// The receiver's MAC address.
    pub destination_mac: Mac,
    /// The numbers of its VLAN tags, the outer one first.
    pub vlans: Vec<u16>,
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
    /// What the packet carries.
    pub payload: Payload,
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A TCP segment.
    Tcp(Segment),
    /// ICMP or ICMPv6.
    Icmp {
        /// Its type.
        kind: u8,
        /// Sender and receiver of the packet that it is about, when it quotes one.
        about: Option<(SocketAddr, SocketAddr)>,
    },
    /// Anything else, or too little to tell: the protocol's number.
    Other(u8),
}

/// The header of a TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The sender's port.
    pub source: u16,
    /// The receiver's port.
    pub destination: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Window, not scaled.
    pub window: u16,
    /// Flags, as in the header's 14th byte.
    pub flags: u8,
    /// Bytes of payload.
    pub length: usize,
}

impl Headers {
    /// Reads the headers of a frame that may be cut behind them; nothing when it is not IP.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
        let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else {
            return None;
        };
        let net = packet.net.as_ref()?;
        let (source, destination) = addresses(net)?;
        Some(Self {
            source_mac: ethernet.source(),
            destination_mac: ethernet.destination(),
            vlans: packet.vlan_ids().iter().map(|id| id.value()).collect(),
            source,
            destination,
            payload: payload(net)?,
        })
    }

    /// Sender and receiver with their ports; nothing for what is not TCP.
    pub fn endpoints(&self) -> Option<(SocketAddr, SocketAddr)> {
        let Payload::Tcp(segment) = &self.payload else {
            return None;
        };
        Some((
            SocketAddr::new(self.source, segment.source),
            SocketAddr::new(self.destination, segment.destination),
        ))
    }
}

fn addresses(net: &LaxNetSlice<'_>) -> Option<(IpAddr, IpAddr)> {
    match net {
        LaxNetSlice::Ipv4(ip) => Some((
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        )),
        LaxNetSlice::Ipv6(ip) => Some((
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        )),
        LaxNetSlice::Arp(_) => None,
    }
}

fn payload(net: &LaxNetSlice<'_>) -> Option<Payload> {
    let ip = net.ip_payload_ref()?;
    let number = ip.ip_number;
    Some(
        match number {
            IpNumber::TCP => segment(net, ip.payload).map(Payload::Tcp),
            IpNumber::ICMP | IpNumber::IPV6_ICMP => ip.payload.first().map(|&kind| Payload::Icmp {
                kind,
                about: quoted(number, ip.payload),
            }),
            _ => None,
        }
        .unwrap_or(Payload::Other(number.0)),
    )
}

fn segment(net: &LaxNetSlice<'_>, bytes: &[u8]) -> Option<Segment> {
    let header = TcpHeaderSlice::from_slice(bytes).ok()?;
    // By the IP header, because what is captured may be cut, and short frames are filled up.
    let carried = match net {
        LaxNetSlice::Ipv4(ip) => {
            usize::from(ip.header().total_len()).checked_sub(ip.header().slice().len())?
        }
        LaxNetSlice::Ipv6(ip) => usize::from(ip.header().payload_length()),
        LaxNetSlice::Arp(_) => return None,
    };
    Some(Segment {
        source: header.source_port(),
        destination: header.destination_port(),
        sequence: header.sequence_number(),
        acknowledgment: header.acknowledgment_number(),
        window: header.window_size(),
        flags: header.slice()[13],
        length: carried.saturating_sub(header.slice().len()),
    })
}

/// The ends of the packet that an ICMP error quotes: 8 bytes behind it lies its IP header, and of
/// TCP the ports at least (RFC 792, RFC 4443).
fn quoted(number: IpNumber, bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let is_error = match number {
        IpNumber::ICMP => matches!(bytes.first()?, 3..=5 | 11 | 12),
        _ => *bytes.first()? < 128,
    };
    if !is_error {
        return None;
    }
    let packet = LaxSlicedPacket::from_ip(bytes.get(8..)?).ok()?;
    let net = packet.net.as_ref()?;
    let (source, destination) = addresses(net)?;
    let [a, b, c, d] = *net.ip_payload_ref()?.payload.first_chunk()?;
    Some((
        SocketAddr::new(source, u16::from_be_bytes([a, b])),
        SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use etherparse::{PacketBuilder, TcpHeader};

    use super::*;

    /// A TCP frame between two ends of one family, with these flags (`S`, `A`, `R`, `F`, `P`).
    pub(crate) fn frame(source: &str, destination: &str, flags: &str, payload: &[u8]) -> Vec<u8> {
        tagged(&[], source, destination, flags, payload)
    }

    /// The same behind VLAN tags.
    pub(crate) fn tagged(
        vlans: &[u16],
        source: &str,
        destination: &str,
        flags: &str,
        payload: &[u8],
    ) -> Vec<u8> {
        let (source, destination): (SocketAddr, SocketAddr) =
            (source.parse().unwrap(), destination.parse().unwrap());
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut tcp = TcpHeader::new(source.port(), destination.port(), 1000, 64_240);
        tcp.acknowledgment_number = 77;
        tcp.syn = flags.contains('S');
        tcp.ack = flags.contains('A');
        tcp.rst = flags.contains('R');
        tcp.fin = flags.contains('F');
        tcp.psh = flags.contains('P');
        let mut frame = Vec::new();
        let (from, to) = (source.ip(), destination.ip());
        let ip = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
            _ => panic!("one family"),
        };
        ip.tcp_header(tcp).write(&mut frame, payload).unwrap();
        for vlan in vlans.iter().rev() {
            let [high, low] = vlan.to_be_bytes();
            frame.splice(12..12, [0x81, 0x00, high, low]);
        }
        frame
    }

    #[test]
    fn both_families_and_tags_are_read() {
        for (source, destination) in [
            ("10.71.0.10:41022", "10.71.0.100:5432"),
            ("[fd71::10]:41022", "[fd71::100]:5432"),
        ] {
            for vlans in [&[][..], &[7], &[7, 4094]] {
                let frame = tagged(vlans, source, destination, "PA", b"hello");
                let headers = Headers::read(&frame).unwrap();
                assert_eq!(headers.vlans, vlans);
                assert_eq!(headers.source_mac, [2, 0, 0, 0, 0, 1]);
                assert_eq!(
                    headers.endpoints().unwrap(),
                    (source.parse().unwrap(), destination.parse().unwrap())
                );
                let Payload::Tcp(segment) = &headers.payload else {
                    panic!("{headers:?}");
                };
                assert_eq!((segment.sequence, segment.acknowledgment), (1000, 77));
                assert_eq!((segment.flags, segment.length), (0x18, 5));
                // The payload is cut, and its length still known.
                assert_eq!(Headers::read(&frame[..frame.len() - 5]), Some(headers));
            }
        }
    }

    #[test]
    fn a_frame_that_is_cut_anywhere_is_read_as_far_as_it_goes() {
        let frame = tagged(&[1, 2], "[fd71::10]:1", "[fd71::100]:2", "S", b"");
        for length in 0..frame.len() {
            let is_tcp = Headers::read(&frame[..length])
                .is_some_and(|headers| matches!(headers.payload, Payload::Tcp(_)));
            assert!(!is_tcp, "{length} bytes are no TCP header");
        }
    }

    #[test]
    fn an_icmp_error_tells_whose_packet_it_is_about() {
        let about = frame("10.71.0.100:5432", "10.71.0.10:41022", "A", b"data");
        let mut error = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 71, 0, 1], [10, 71, 0, 100], 64)
            .icmpv4_raw(3, 4, [0, 0, 5, 0x78])
            .write(&mut error, &about[14..14 + 28])
            .unwrap();
        let headers = Headers::read(&error).unwrap();
        let ends = (
            "10.71.0.100:5432".parse().unwrap(),
            "10.71.0.10:41022".parse().unwrap(),
        );
        assert_eq!(
            headers.payload,
            Payload::Icmp {
                kind: 3,
                about: Some(ends)
            }
        );
        assert_eq!(headers.endpoints(), None);
    }

    #[test]
    fn an_echo_is_about_nothing() {
        let mut echo = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 71, 0, 10], [10, 71, 0, 100], 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut echo, &[0x45; 40])
            .unwrap();
        let payload = Headers::read(&echo).unwrap().payload;
        let expected = Payload::Icmp {
            kind: 8,
            about: None,
        };
        assert_eq!(payload, expected);
    }
}
