//! What a single value may be: text in, checked value or the rule it breaks out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::str::FromStr;

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

/// The address and port of a VIP or a backend.
pub(crate) fn endpoint(text: &str, rule: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| match is_bare_ipv6(text) {
        true => "must be [ADDRESS]:PORT, for example \"[2001:db8::100]:5432\"".to_owned(),
        false => rule.to_owned(),
    })?;
    if address.port() == 0 {
        return Err("must have a port from 1 to 65535".into());
    }
    match address {
        SocketAddr::V4(address) => refuse_odd_ipv4(*address.ip())?,
        SocketAddr::V6(address) => refuse_odd_ipv6(address)?,
    }
    Ok(address)
}

/// Whether a text is an IPv6 address in which the brackets or the port are missing.
fn is_bare_ipv6(text: &str) -> bool {
    text.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok()
}

fn refuse_odd_ipv4(address: Ipv4Addr) -> Result<(), String> {
    if address.is_link_local() {
        return Err(
            "must not be link-local (169.254.0.0/16), such packets are not forwarded".into(),
        );
    }
    let [first, ..] = address.octets();
    // 0.0.0.0/8 is "this network", 240.0.0.0/4 is reserved and ends in the broadcast address.
    let is_odd = first == 0 || first >= 240 || address.is_loopback() || address.is_multicast();
    if is_odd {
        return Err("must be the address of one host on the network, \
            not loopback, multicast, broadcast or 0.0.0.0"
            .into());
    }
    Ok(())
}

fn refuse_odd_ipv6(address: SocketAddrV6) -> Result<(), String> {
    let ip = address.ip();
    if let Some(mapped) = ip.to_ipv4_mapped() {
        // On the wire such a connection is an IPv4 one, and the packets hold no such address.
        let port = address.port();
        return Err(format!(
            "must not be an IPv4 address written as IPv6, write \"{mapped}:{port}\""
        ));
    }
    if ip.is_unicast_link_local() {
        return Err("must not be link-local (fe80::/10), such packets are not forwarded".into());
    }
    if address.scope_id() != 0 {
        return Err("must have no zone (\"%\"), only link-local addresses need one".into());
    }
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        return Err("must be the address of one host on the network, \
            not loopback, multicast or ::"
            .into());
    }
    Ok(())
}

/// The family of an address, as it stands in sentences.
pub(crate) fn family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_hosts_on_the_network() {
        for text in [
            "10.71.0.100:5432",
            "[2001:db8::100]:5432",
            "[fd00::100]:5432",
            "[64:ff9b::10.71.0.100]:5432",
        ] {
            assert_eq!(endpoint(text, VIP), Ok(text.parse().unwrap()));
        }
        for text in [
            "",
            "10.71.0.100",
            "10.71.0.100:65536",
            "db1:5432",
            " 10.71.0.100:5432",
            "[10.71.0.100]:5432",
            "[fe80::1%eth0]:5432",
        ] {
            assert_eq!(endpoint(text, VIP).unwrap_err(), VIP, "{text}");
        }
        for text in ["10.71.0.100:0", "[2001:db8::100]:0"] {
            assert_eq!(
                endpoint(text, VIP).unwrap_err(),
                "must have a port from 1 to 65535",
                "{text}"
            );
        }
        for text in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"] {
            assert_eq!(
                endpoint(&format!("{text}:5432"), VIP).unwrap_err(),
                "must be the address of one host on the network, \
                 not loopback, multicast, broadcast or 0.0.0.0",
                "{text}"
            );
        }
        for text in ["::1", "::", "ff02::1", "ff0e::1"] {
            assert_eq!(
                endpoint(&format!("[{text}]:5432"), VIP).unwrap_err(),
                "must be the address of one host on the network, not loopback, multicast or ::",
                "{text}"
            );
        }
    }

    #[test]
    fn ipv6_is_written_in_brackets() {
        for text in [
            "2001:db8::100",
            "[2001:db8::100]",
            "2001:db8::100:5432",
            "::",
        ] {
            assert_eq!(
                endpoint(text, VIP).unwrap_err(),
                "must be [ADDRESS]:PORT, for example \"[2001:db8::100]:5432\"",
                "{text}"
            );
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
