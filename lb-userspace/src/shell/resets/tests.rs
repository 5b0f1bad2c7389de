use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TcpHeader, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::shell::{clock, lone_thread};

/// Reads a segment with a parser that is not ours, checks both checksums, and says what it holds.
#[track_caller]
fn read(segment: &[u8]) -> (SocketAddrV4, SocketAddrV4, TcpHeader) {
    let packet = SlicedPacket::from_ip(segment).unwrap();
    let Some(NetSlice::Ipv4(ip)) = packet.net else {
        panic!("no IPv4: {segment:?}");
    };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(usize::from(header.total_len), segment.len());
    assert!(header.dont_fragment);
    assert_eq!(header.time_to_live, 64);
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        panic!("no TCP: {segment:?}");
    };
    let sum = tcp
        .calc_checksum_ipv4(header.source, header.destination)
        .unwrap();
    assert_eq!(tcp.checksum(), sum);
    assert!(tcp.payload().is_empty());
    let source = SocketAddrV4::new(Ipv4Addr::from(header.source), tcp.source_port());
    let destination = SocketAddrV4::new(Ipv4Addr::from(header.destination), tcp.destination_port());
    (source, destination, tcp.to_header())
}

fn any_address() -> impl Strategy<Value = SocketAddrV4> {
    (any::<u32>(), any::<u16>()).prop_map(|(ip, port)| SocketAddrV4::new(Ipv4Addr::from(ip), port))
}

proptest! {
    #[test]
    fn a_reset_is_an_rst_alone_with_true_checksums(
        source in any_address(), destination in any_address(), sequence: u32,
    ) {
        let (from, to, tcp) = read(&Reset { source, destination, sequence }.segment());
        prop_assert_eq!((from, to), (source, destination));
        prop_assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (sequence, 0));
        prop_assert!(tcp.rst && !tcp.ack && !tcp.syn && !tcp.fin && !tcp.psh && !tcp.urg);
    }

    #[test]
    fn a_probe_is_an_ack_of_the_byte_before(
        source in any_address(), destination in any_address(), sequence: u32, acknowledgment: u32,
    ) {
        let probe = Probe { source, destination, sequence, acknowledgment };
        let (from, to, tcp) = read(&probe.segment());
        prop_assert_eq!((from, to), (source, destination));
        prop_assert_eq!(tcp.sequence_number, sequence.wrapping_sub(1));
        prop_assert_eq!(tcp.acknowledgment_number, acknowledgment);
        prop_assert!(tcp.ack && !tcp.rst && !tcp.syn && !tcp.fin && !tcp.psh && !tcp.urg);
        prop_assert!(tcp.window_size > 0);
    }
}

#[test]
fn failures_are_counted_and_the_first_is_kept() {
    let refused = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
    let unreachable = || Err(io::Error::from(io::ErrorKind::HostUnreachable));
    let tally: Tally = [Ok(()), unreachable(), Ok(()), refused()]
        .into_iter()
        .collect();
    assert_eq!((tally.sent, tally.failed), (2, 2));
    assert_eq!(
        tally.first_error.unwrap().kind(),
        io::ErrorKind::HostUnreachable
    );
}

/// An idle connection over the loopback of an empty network, and everything that passes there.
struct Scene {
    wire: Socket,
    client: TcpStream,
    server: TcpStream,
    client_address: SocketAddrV4,
    server_address: SocketAddrV4,
    /// What the server expects next of the client.
    client_next: u32,
    /// What the client expects next of the server.
    server_next: u32,
}

impl Scene {
    fn set() -> Self {
        lone_thread::ip("link set lo up");
        let everything = Protocol::from(i32::from(0x0003_u16.to_be()));
        let wire = Socket::new(Domain::PACKET, Type::RAW, Some(everything)).unwrap();
        wire.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        let v4 = |address| match address {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(address) => panic!("{address}"),
        };
        let mut scene = Self {
            client_address: v4(client.local_addr().unwrap()),
            server_address: v4(server.local_addr().unwrap()),
            wire,
            client,
            server,
            client_next: 0,
            server_next: 0,
        };
        let answer = scene.await_segment(|from, tcp| from == scene.server_address && tcp.syn);
        scene.client_next = answer.acknowledgment_number;
        scene.server_next = answer.sequence_number.wrapping_add(1);
        scene
    }

    /// The first segment on the wire that `is_it`, which is told who sent it.
    #[track_caller]
    fn await_segment(&self, is_it: impl Fn(SocketAddrV4, &TcpHeader) -> bool) -> TcpHeader {
        let mut buffer = [0; 256];
        loop {
            let length = (&self.wire)
                .read(&mut buffer)
                .expect("the segment within 5 s");
            let packet = SlicedPacket::from_ethernet(&buffer[..length]).unwrap();
            if let Some(NetSlice::Ipv4(ip)) = packet.net
                && let Some(TransportSlice::Tcp(tcp)) = packet.transport
            {
                let from = SocketAddrV4::new(ip.header().source_addr(), tcp.source_port());
                if is_it(from, &tcp.to_header()) {
                    return tcp.to_header();
                }
            }
        }
    }

    fn reset_of_server(&self) -> Reset {
        Reset {
            source: self.client_address,
            destination: self.server_address,
            sequence: self.client_next,
        }
    }

    fn reset_of_client(&self) -> Reset {
        Reset {
            source: self.server_address,
            destination: self.client_address,
            sequence: self.server_next,
        }
    }
}

#[test]
#[ignore = "needs root"]
fn both_idle_ends_of_a_connection_are_told() {
    lone_thread::with_own_network(|| async {
        let mut scene = Scene::set();
        let sender = ResetSender::open().unwrap();
        let tally = sender.send_all([scene.reset_of_server(), scene.reset_of_client()]);
        assert_eq!((tally.sent, tally.failed), (2, 0));
        for end in [&mut scene.server, &mut scene.client] {
            let error = end.read(&mut [0; 1]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_reset_that_is_one_byte_off_ends_nothing_and_is_challenged() {
    lone_thread::with_own_network(|| async {
        let mut scene = Scene::set();
        let sender = ResetSender::open().unwrap();
        let exact = scene.reset_of_server();
        let near = Reset {
            sequence: exact.sequence.wrapping_add(1),
            ..exact
        };
        sender.send(&near).unwrap();
        let server = scene.server_address;
        let challenge = scene.await_segment(|from, tcp| from == server && tcp.ack && !tcp.syn);
        assert_eq!(challenge.acknowledgment_number, scene.client_next);
        scene.client.write_all(b"still here").unwrap();
        let mut heard = [0; 10];
        scene.server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"still here");
    });
}

#[test]
#[ignore = "needs root"]
fn a_probe_is_answered_with_what_the_receiver_expects_next() {
    lone_thread::with_own_network(|| async {
        let scene = Scene::set();
        let sender = ResetSender::open().unwrap();
        let probe = Probe {
            source: scene.client_address,
            destination: scene.server_address,
            sequence: scene.client_next,
            acknowledgment: scene.server_next,
        };
        sender.probe(&probe).unwrap();
        let server = scene.server_address;
        let answer = scene.await_segment(|from, tcp| from == server && tcp.ack && !tcp.syn);
        assert_eq!(answer.acknowledgment_number, scene.client_next);
        assert_eq!(answer.sequence_number, scene.server_next);
    });
}

#[test]
#[ignore = "needs root"]
fn twenty_thousand_resets_take_less_than_a_second() {
    lone_thread::with_own_network(|| async {
        let scene = Scene::set();
        let sender = ResetSender::open().unwrap();
        let one = scene.reset_of_client();
        let many = (0..20_000_u16).map(|n| Reset {
            destination: SocketAddrV4::new(Ipv4Addr::new(127, 9, 9, 9), n),
            ..one
        });
        let begin = clock::now();
        let tally = sender.send_all(many);
        let taken = begin.elapsed();
        assert_eq!((tally.sent, tally.failed), (20_000, 0));
        assert!(taken < Duration::from_secs(1), "{taken:?}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_destination_without_a_route_is_a_failure_like_any_other() {
    lone_thread::with_own_network(|| async {
        let sender = ResetSender::open().unwrap();
        let address = |last| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), 5432);
        let tally = sender.send_all([Reset {
            source: address(1),
            destination: address(2),
            sequence: 7,
        }]);
        assert_eq!((tally.sent, tally.failed), (0, 1));
        let kind = tally.first_error.unwrap().kind();
        assert_eq!(kind, io::ErrorKind::NetworkUnreachable);
    });
}
