//! What a single value may be: text in, checked value or the rule it breaks out.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Forwarding;
use super::file::Entry;

/// The rule for names of services and backends.
pub(crate) const NAME: &str = "must be a name of 1 to 63 letters, digits, \"-\", \"_\" or \".\"";
/// The rule for VIPs.
pub(crate) const VIP: &str = "must be ADDRESS:PORT, for example \"10.71.0.100:5432\"";
/// The rule for addresses of backends.
pub(crate) const BACKEND_ADDRESS: &str = "must be ADDRESS:PORT, for example \"10.72.0.11:5432\"";

const LONGEST_NAME: usize = 63;
// The kernel's limits for a socket's path and an interface's name, without the closing zero.
const LONGEST_SOCKET_PATH: usize = 107;
const LONGEST_INTERFACE_NAME: usize = 15;

/// A value that is a word, a network or anything else that reads itself.
pub(crate) fn word<T: FromStr<Err = String>>(entry: &Entry<'_, '_>) -> Option<T> {
    entry.parsed(T::from_str)
}

/// A name that can stand in a command, in `cluster/name` and in a metric label.
pub(crate) fn plain_name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || text.len() > LONGEST_NAME || !text.bytes().all(is_plain) {
        return Err(NAME.into());
    }
    Ok(text.into())
}

/// A text that is not empty.
pub(crate) fn filled(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("must be a name that is not empty".into());
    }
    Ok(text.into())
}

/// The IPv4 address and port of a VIP or a backend.
pub(crate) fn endpoint(text: &str, rule: &str) -> Result<SocketAddr, String> {
    let is_v6 = text.parse::<SocketAddrV6>().is_ok()
        || text.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok();
    if is_v6 {
        return Err("IPv6 is not built yet, must be an IPv4 ADDRESS:PORT".into());
    }
    let address: SocketAddrV4 = text.parse().map_err(|_| rule.to_owned())?;
    if address.port() == 0 {
        return Err("must have a port from 1 to 65535".into());
    }
    if !is_unicast(*address.ip()) {
        return Err("must be the address of one host on the network, \
            not loopback, multicast, broadcast or 0.0.0.0"
            .into());
    }
    Ok(SocketAddr::V4(address))
}

fn is_unicast(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    // 0.0.0.0/8 is "this network", 240.0.0.0/4 is reserved and ends in the broadcast address.
    first != 0 && first < 240 && !address.is_loopback() && !address.is_multicast()
}

/// An address of this host to listen on.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .ok()
        .filter(|address: &SocketAddr| address.port() != 0)
        .ok_or_else(|| "must be ADDRESS:PORT, for example \"127.0.0.1:9632\"".to_owned())
}

/// A path that does not depend on where pglb was started.
pub(crate) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    if !Path::new(text).is_absolute() || text.contains('\0') {
        return Err("must be an absolute path, one that begins with \"/\"".into());
    }
    Ok(text.into())
}

/// A path that a Unix socket can have.
pub(crate) fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.len() > LONGEST_SOCKET_PATH {
        return Err(format!(
            "must be at most {LONGEST_SOCKET_PATH} bytes long, the kernel's limit for a socket"
        ));
    }
    absolute_path(text)
}

/// A name that a network interface can have.
pub(crate) fn interface_name(text: &str) -> Result<String, String> {
    let is_possible = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    let is_name = !text.is_empty()
        && text.len() <= LONGEST_INTERFACE_NAME
        && text.bytes().all(is_possible)
        && text != "."
        && text != "..";
    if is_name {
        Ok(text.into())
    } else {
        Err("must be the name of an interface, for example \"eth0\"".into())
    }
}

/// The forwardings that are built, and a word of its own for those that are not.
pub(crate) fn forwarding(text: &str) -> Result<Forwarding, String> {
    match text {
        "full-nat" | "dsr" => Err("is not built yet, only \"nat\" is".into()),
        _ => text.parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_ipv4_unicast() {
        assert!(endpoint("10.71.0.100:5432", VIP).is_ok());
        for text in [
            "",
            "10.71.0.100",
            "10.71.0.100:0",
            "10.71.0.100:65536",
            "db1:5432",
            "127.0.0.1:5432",
            "0.0.0.0:5432",
            "224.0.0.1:5432",
            "255.255.255.255:5432",
            " 10.71.0.100:5432",
        ] {
            assert!(endpoint(text, VIP).is_err(), "{text}");
        }
        for text in ["[fd00::1]:5432", "fd00::1", "[fd00::1]"] {
            let rule = endpoint(text, VIP).unwrap_err();
            assert!(rule.starts_with("IPv6 is not built yet"), "{text}: {rule}");
        }
    }

    #[test]
    fn names_are_plain() {
        assert!(plain_name("pg-1.example_2").is_ok());
        assert!(plain_name(&"a".repeat(63)).is_ok());
        for text in ["", "a/b", "a b", "ä", &"a".repeat(64)] {
            assert!(plain_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn interfaces_are_names() {
        assert!(interface_name("eth0.100").is_ok());
        for text in ["", "a/b", "..", "eth 0", "sixteen-letters-"] {
            assert!(interface_name(text).is_err(), "{text}");
        }
    }
}
