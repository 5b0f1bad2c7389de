//! What this host's own connections go out with: which address, and which ports.
//!
//! A service of full network address translation speaks to its backends with that address, and
//! with other ports.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The address that this host itself would use towards `backend`, by its routes and addresses of
/// this moment; `None` when there is no way to it. Nothing is sent.
pub fn source_address(backend: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match backend {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // A datagram socket that is connected has been given a route and its source, and no more.
    socket.connect(backend).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The first and the last of the ports that the kernel gives to connections of this host, of both
/// families.
pub fn kernel_port_range() -> io::Result<(u16, u16)> {
    let text = fs::read_to_string(PORT_RANGE)
        .map_err(|error| io::Error::new(error.kind(), format!("reading {PORT_RANGE}: {error}")))?;
    read_range(&text).ok_or_else(|| {
        let why = format!("{PORT_RANGE}: {}", text.trim());
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}

fn read_range(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace();
    let (first, last) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (words.next().is_none() && first <= last).then_some((first, last))
}

/// IPv6 has none of its own: its sockets ask this one (`inet_sk_get_local_port_range`).
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::lone_thread::{ip, with_own_network};

    #[test]
    fn a_range_is_two_ports_in_order() {
        assert_eq!(read_range("32768\t60999\n"), Some((32768, 60999)));
        assert_eq!(read_range("7 7"), Some((7, 7)));
        for bad in ["", "1", "2 1", "1 70000", "1 2 3", "one two"] {
            assert_eq!(read_range(bad), None, "{bad}");
        }
    }

    #[track_caller]
    fn check_source(backend: &str, expected: Option<&str>) {
        let source = source_address(backend.parse().unwrap());
        assert_eq!(source.map(|ip| ip.to_string()).as_deref(), expected);
    }

    #[test]
    #[ignore = "needs root"]
    fn the_source_follows_routes_and_addresses() {
        with_own_network(|| async {
            check_source("10.72.0.11:5432", None);
            check_source("[2001:db8:72::11]:5432", None);
            ip("link add here type veth peer name there");
            ip("link set there up");
            ip("link set here up");
            ip("address add 10.72.0.1/24 dev here");
            ip("address add 2001:db8:72::1/64 dev here nodad");
            check_source("10.72.0.11:5432", Some("10.72.0.1"));
            check_source("[2001:db8:72::11]:5432", Some("2001:db8:72::1"));
            check_source("10.73.0.11:5432", None);
            ip("address add 10.72.0.2/32 dev here");
            ip("route add 10.73.0.0/24 via 10.72.0.9 src 10.72.0.2");
            check_source("10.73.0.11:5432", Some("10.72.0.2"));
            ip("address del 2001:db8:72::1/64 dev here");
            check_source("[2001:db8:72::11]:5432", None);
        });
    }

    #[test]
    #[ignore = "needs root"]
    fn the_kernels_range_is_that_of_this_network() {
        with_own_network(|| async {
            fs::write(PORT_RANGE, "20000 20099").unwrap();
            assert_eq!(kernel_port_range().unwrap(), (20000, 20099));
            ip("link set lo up");
            for any in ["127.0.0.1:0", "[::1]:0"] {
                let port = UdpSocket::bind(any).unwrap().local_addr().unwrap().port();
                assert!((20000..=20099).contains(&port), "{port}");
            }
        });
    }
}
