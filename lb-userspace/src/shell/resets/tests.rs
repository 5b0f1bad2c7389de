use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TcpHeader, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::shell::lone_thread::Host;
use crate::shell::{clock, lone_thread};

/// Reads a segment with a parser that is not ours, checks every checksum, and says what it holds.
#[track_caller]
fn read(segment: &Segment) -> (SocketAddr, SocketAddr, TcpHeader) {
    let segment = segment.as_bytes();
    let packet = SlicedPacket::from_ip(segment).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
        panic!("no TCP: {segment:?}");
    };
    let (source, destination, sum): (IpAddr, IpAddr, _) = match packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), segment.len());
            assert!(header.dont_fragment);
            assert_eq!(header.time_to_live, 64);
            let sum = tcp.calc_checksum_ipv4(header.source, header.destination);
            (header.source.into(), header.destination.into(), sum)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            assert_eq!(usize::from(header.payload_length()) + 40, segment.len());
            assert_eq!(header.hop_limit(), 64);
            let sum = tcp.to_header().calc_checksum_ipv6_raw(
                header.source(),
                header.destination(),
                tcp.payload(),
            );
            (header.source().into(), header.destination().into(), sum)
        }
        Some(NetSlice::Arp(_)) | None => panic!("no IP: {segment:?}"),
    };
    assert_eq!(tcp.checksum(), sum.unwrap());
    assert!(tcp.payload().is_empty());
    let source = SocketAddr::new(source, tcp.source_port());
    let destination = SocketAddr::new(destination, tcp.destination_port());
    (source, destination, tcp.to_header())
}

/// Two ends of one family.
fn any_ends() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let ipv4 = any::<[([u8; 4], u16); 2]>().prop_map(|ends| ends.map(SocketAddr::from));
    let ipv6 = any::<[([u8; 16], u16); 2]>().prop_map(|ends| ends.map(SocketAddr::from));
    prop_oneof![ipv4, ipv6].prop_map(|[source, destination]| (source, destination))
}

proptest! {
    #[test]
    fn a_reset_is_an_rst_alone_with_true_checksums(
        (source, destination) in any_ends(), sequence: u32,
    ) {
        let reset = Reset { source, destination, sequence };
        let (from, to, tcp) = read(&reset.segment().unwrap());
        prop_assert_eq!((from, to), (source, destination));
        prop_assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (sequence, 0));
        prop_assert!(tcp.rst && !tcp.ack && !tcp.syn && !tcp.fin && !tcp.psh && !tcp.urg);
    }

    #[test]
    fn a_probe_is_an_ack_of_the_byte_before(
        (source, destination) in any_ends(), sequence: u32, acknowledgment: u32,
    ) {
        let probe = Probe { source, destination, sequence, acknowledgment };
        let (from, to, tcp) = read(&probe.segment().unwrap());
        prop_assert_eq!((from, to), (source, destination));
        prop_assert_eq!(tcp.sequence_number, sequence.wrapping_sub(1));
        prop_assert_eq!(tcp.acknowledgment_number, acknowledgment);
        prop_assert!(tcp.ack && !tcp.rst && !tcp.syn && !tcp.fin && !tcp.psh && !tcp.urg);
        prop_assert!(tcp.window_size > 0);
    }
}

#[test]
fn two_families_in_one_segment_are_refused() {
    let mixed = Reset {
        source: "10.71.0.100:5432".parse().unwrap(),
        destination: "[2001:db8::1]:40000".parse().unwrap(),
        sequence: 7,
    };
    assert_eq!(
        mixed.segment().unwrap_err().to_string(),
        "10.71.0.100:5432 and [2001:db8::1]:40000 are of two address families"
    );
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

/// An idle connection, and everything that passes on the wire where it is watched.
struct Scene {
    wire: Socket,
    client: TcpStream,
    server: TcpStream,
    client_address: SocketAddr,
    server_address: SocketAddr,
    /// What the server expects next of the client.
    client_next: u32,
    /// What the client expects next of the server.
    server_next: u32,
}

/// The loopback addresses that a scene can be set on.
const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

impl Scene {
    /// A connection over the loopback of an empty network.
    fn set(loopback: &str) -> Self {
        lone_thread::ip("link set lo up");
        let wire = watch();
        let listener = TcpListener::bind(loopback).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        Self::of(wire, client, server)
    }

    /// A connection between two other hosts, which this one merely routes.
    fn routed() -> Self {
        let hosts = [(1, Host::new()), (2, Host::new())];
        for (number, host) in &hosts {
            let net = format!("2001:db8:{number}:");
            lone_thread::ip(&format!(
                "link add to{number} type veth peer name from{number}"
            ));
            host.take(&format!("from{number}"));
            lone_thread::ip(&format!("address add {net}:1/64 dev to{number} nodad"));
            lone_thread::ip(&format!("link set to{number} up"));
            host.ip(&format!("address add {net}:2/64 dev from{number} nodad"));
            host.ip(&format!("link set from{number} up"));
            host.ip(&format!("route add default via {net}:1"));
        }
        // Of the thread's own network: in `/proc/sys/net` a thread sees its own.
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let wire = watch();
        let [(_, near), (_, far)] = &hosts;
        let listener = far.run(|| TcpListener::bind("[2001:db8:2::2]:5432").unwrap());
        let client = near.run(|| TcpStream::connect("[2001:db8:2::2]:5432").unwrap());
        let (server, _) = listener.accept().unwrap();
        Self::of(wire, client, server)
    }

    fn of(wire: Socket, client: TcpStream, server: TcpStream) -> Self {
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut scene = Self {
            client_address: client.local_addr().unwrap(),
            server_address: server.local_addr().unwrap(),
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
    fn await_segment(&self, is_it: impl Fn(SocketAddr, &TcpHeader) -> bool) -> TcpHeader {
        let mut buffer = [0; 256];
        loop {
            let length = (&self.wire)
                .read(&mut buffer)
                .expect("the segment within 5 s");
            let Ok(packet) = SlicedPacket::from_ethernet(&buffer[..length]) else {
                continue;
            };
            let source: IpAddr = match &packet.net {
                Some(NetSlice::Ipv4(ip)) => ip.header().source().into(),
                Some(NetSlice::Ipv6(ip)) => ip.header().source().into(),
                Some(NetSlice::Arp(_)) | None => continue,
            };
            if let Some(TransportSlice::Tcp(tcp)) = packet.transport
                && is_it(SocketAddr::new(source, tcp.source_port()), &tcp.to_header())
            {
                return tcp.to_header();
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

    #[track_caller]
    fn check_that_both_ends_are_told(&mut self) {
        let sender = ResetSender::open().unwrap();
        let tally = sender.send_all([self.reset_of_server(), self.reset_of_client()]);
        assert_eq!((tally.sent, tally.failed), (2, 0), "{tally:?}");
        for end in [&mut self.server, &mut self.client] {
            let error = end.read(&mut [0; 1]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(5);

/// Everything that passes any interface of this network.
fn watch() -> Socket {
    let everything = Protocol::from(i32::from(0x0003_u16.to_be()));
    let wire = Socket::new(Domain::PACKET, Type::RAW, Some(everything)).unwrap();
    wire.set_read_timeout(Some(PATIENCE)).unwrap();
    wire
}

#[test]
#[ignore = "needs root"]
fn both_idle_ends_of_a_connection_are_told() {
    for loopback in LOOPBACKS {
        lone_thread::with_own_network(|| async {
            Scene::set(loopback).check_that_both_ends_are_told();
        });
    }
}

#[test]
#[ignore = "needs root"]
fn ends_on_other_hosts_take_a_reset_in_the_name_of_each_other() {
    lone_thread::with_own_network(|| async {
        Scene::routed().check_that_both_ends_are_told();
    });
}

#[test]
#[ignore = "needs root"]
fn a_reset_that_is_one_byte_off_ends_nothing_and_is_challenged() {
    for loopback in LOOPBACKS {
        lone_thread::with_own_network(|| async {
            let mut scene = Scene::set(loopback);
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
}

#[test]
#[ignore = "needs root"]
fn a_probe_is_answered_with_what_the_receiver_expects_next() {
    for loopback in LOOPBACKS {
        lone_thread::with_own_network(|| async {
            let scene = Scene::set(loopback);
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
}

#[test]
#[ignore = "needs root"]
fn twenty_thousand_resets_take_less_than_a_second() {
    for (loopback, other) in LOOPBACKS.into_iter().zip(["127.9.9.9", "::1"]) {
        lone_thread::with_own_network(|| async {
            let scene = Scene::set(loopback);
            let sender = ResetSender::open().unwrap();
            let one = scene.reset_of_client();
            let other: IpAddr = other.parse().unwrap();
            // The lower ports: none of them is the client's.
            let many = (0..20_000_u16).map(|n| Reset {
                destination: SocketAddr::new(other, n),
                ..one
            });
            let begin = clock::now();
            let tally = sender.send_all(many);
            let taken = begin.elapsed();
            assert_eq!((tally.sent, tally.failed), (20_000, 0));
            assert!(taken < Duration::from_secs(1), "{taken:?}");
        });
    }
}

#[test]
#[ignore = "needs root"]
fn a_destination_without_a_route_is_a_failure_like_any_other() {
    lone_thread::with_own_network(|| async {
        // A host with no IPv6 address at all is told so before it is told of the route.
        lone_thread::ip("link set lo up");
        let sender = ResetSender::open().unwrap();
        for network in ["192.0.2.", "2001:db8::"] {
            let address = |last| {
                let ip: IpAddr = format!("{network}{last}").parse().unwrap();
                SocketAddr::new(ip, 5432)
            };
            let tally = sender.send_all([Reset {
                source: address(1),
                destination: address(2),
                sequence: 7,
            }]);
            assert_eq!((tally.sent, tally.failed), (0, 1));
            let kind = tally.first_error.unwrap().kind();
            assert_eq!(kind, io::ErrorKind::NetworkUnreachable);
        }
    });
}
