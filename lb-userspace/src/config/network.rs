//! A network in CIDR notation, of either address family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network, for example `10.71.0.0/24` or `2001:db8::/32`; all bits after the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of `address` and the first `prefix` bits (0 to 32, or to 128 for IPv6), or the
    /// rule that is broken.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, String> {
        let width = width(address);
        if prefix > width {
            return Err(format!("must have a prefix length of 0 to {width}"));
        }
        let network = first_of(address, prefix);
        if network != address {
            return Err(format!(
                "must have no bits set after the prefix, write \"{network}/{prefix}\""
            ));
        }
        if let Some(short) = unmapped(address, prefix) {
            return Err(format!(
                "must not be an IPv4 network written as IPv6, write \"{short}\""
            ));
        }
        Ok(Self { address, prefix })
    }

    /// The first address of the network.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that all its addresses share: 0 to 32, or to 128 for IPv6.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether the address is in the network; one of the other family never is.
    pub fn contains(self, address: IpAddr) -> bool {
        first_of(address, self.prefix) == self.address
    }
}

/// The bits of an address.
fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address with all bits after the prefix zero.
fn first_of(address: IpAddr, prefix: u8) -> IpAddr {
    let cleared = u32::from(width(address).saturating_sub(prefix));
    // A shift by the whole width is none at all to the processor.
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(cleared).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(cleared).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

/// The IPv4 network that is meant, if all addresses are IPv4-mapped: no packet ever has one.
fn unmapped(address: IpAddr, prefix: u8) -> Option<String> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let address = address.to_ipv4_mapped()?;
    Some(format!("{address}/{}", prefix.checked_sub(96)?))
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = String;

    /// A bare address is a network of one.
    fn from_str(text: &str) -> Result<Self, String> {
        const RULE: &str =
            "must be ADDRESS/PREFIX, for example \"10.71.0.0/24\" or \"2001:db8::/32\"";
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| RULE.to_owned())?;
        let Some(prefix) = prefix else {
            return Self::new(address, width(address));
        };
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(RULE.into());
        }
        Self::new(address, prefix.parse().unwrap_or(u8::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn holds(text: &str, address: &str) -> bool {
        network(text).contains(address.parse().unwrap())
    }

    #[test]
    fn networks_contain_their_addresses_and_no_other() {
        assert!(holds("10.71.0.0/24", "10.71.0.0"));
        assert!(holds("10.71.0.0/24", "10.71.0.255"));
        assert!(!holds("10.71.0.0/24", "10.71.1.0"));
        assert!(holds("0.0.0.0/0", "255.1.2.3"));
        assert_eq!(network("10.71.0.7").to_string(), "10.71.0.7/32");
        assert!(!holds("10.71.0.7", "10.71.0.6"));

        assert!(holds("2001:db8::/33", "2001:db8:7fff::1"));
        assert!(!holds("2001:db8::/33", "2001:db8:8000::1"));
        assert!(holds("::/0", "2001:db8::1"));
        assert_eq!(network("2001:db8:0::7").to_string(), "2001:db8::7/128");
        assert!(!holds("2001:db8::7", "2001:db8::6"));
    }

    #[test]
    fn networks_contain_no_address_of_the_other_family() {
        assert!(!holds("0.0.0.0/0", "::1"));
        assert!(!holds("::/0", "0.0.0.0"));
        assert!(!holds("10.0.0.0/8", "::ffff:10.0.0.1"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::/",
            "[::]/0",
            "fe80::1%eth0/128",
        ] {
            assert_eq!(
                text.parse::<Network>().unwrap_err(),
                "must be ADDRESS/PREFIX, for example \"10.71.0.0/24\" or \"2001:db8::/32\"",
                "{text}"
            );
        }
        for (text, rule) in [
            ("10.0.0.0/33", "must have a prefix length of 0 to 32"),
            ("2001:db8::/129", "must have a prefix length of 0 to 128"),
            (
                "2001:db8::/4294967296",
                "must have a prefix length of 0 to 128",
            ),
            (
                "10.71.0.9/24",
                "must have no bits set after the prefix, write \"10.71.0.0/24\"",
            ),
            (
                "2001:db8::9/64",
                "must have no bits set after the prefix, write \"2001:db8::/64\"",
            ),
            (
                "::ffff:10.71.0.0/120",
                "must not be an IPv4 network written as IPv6, write \"10.71.0.0/24\"",
            ),
            (
                "::ffff:10.71.0.9",
                "must not be an IPv4 network written as IPv6, write \"10.71.0.9/32\"",
            ),
        ] {
            assert_eq!(text.parse::<Network>().unwrap_err(), rule, "{text}");
        }
    }

    proptest! {
        /// Two addresses share a network exactly when they share that many leading bits.
        #[test]
        fn a_network_is_what_shares_its_leading_bits(
            bits: u128,
            same in 0..=128u32,
            prefix in 0..=128u8,
            is_v4: bool,
        ) {
            let flip = 1u128.checked_shl(127 - same.min(127)).unwrap_or(0);
            let other = if same == 128 { bits } else { bits ^ flip };
            let address = |bits: u128| match is_v4 {
                true => IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32)),
                false => IpAddr::V6(Ipv6Addr::from_bits(bits)),
            };
            let prefix = if is_v4 { prefix / 4 } else { prefix };
            let Ok(network) = Network::new(first_of(address(bits), prefix), prefix) else {
                // An IPv4-mapped one.
                return Ok(());
            };
            prop_assert!(network.contains(address(bits)));
            prop_assert_eq!(network.contains(address(other)), same >= u32::from(prefix));
            prop_assert_eq!(network.to_string().parse(), Ok(network));
        }
    }
}
