//! An IPv4 network in CIDR notation.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IPv4 network, for example `10.71.0.0/24`; all bits after the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: Ipv4Addr,
    prefix: u8,
}

impl Network {
    /// The network of `address` and the first `prefix` bits (0 to 32), or the rule that is broken.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self, String> {
        if prefix > 32 {
            return Err("must have a prefix length of 0 to 32".into());
        }
        let network = Ipv4Addr::from_bits(address.to_bits() & mask(prefix));
        if network != address {
            return Err(format!(
                "must have no bits set after the prefix, write \"{network}/{prefix}\""
            ));
        }
        Ok(Self { address, prefix })
    }

    /// The first address of the network.
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The number of leading bits that all its addresses share, 0 to 32.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether the address is in the network.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.address.to_bits()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
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
        const RULE: &str = "must be ADDRESS/PREFIX, for example \"10.71.0.0/24\"";
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        if address.parse::<Ipv6Addr>().is_ok() {
            return Err("IPv6 is not built yet, must be an IPv4 network".into());
        }
        let address: Ipv4Addr = address.parse().map_err(|_| RULE.to_owned())?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(RULE.into());
        }
        Self::new(address, prefix.parse().unwrap_or(u8::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses_and_no_other() {
        let network: Network = "10.71.0.0/24".parse().unwrap();
        assert!(network.contains(Ipv4Addr::new(10, 71, 0, 0)));
        assert!(network.contains(Ipv4Addr::new(10, 71, 0, 255)));
        assert!(!network.contains(Ipv4Addr::new(10, 71, 1, 0)));
        let everyone: Network = "0.0.0.0/0".parse().unwrap();
        assert!(everyone.contains(Ipv4Addr::new(255, 1, 2, 3)));
        let one: Network = "10.71.0.7".parse().unwrap();
        assert_eq!(one.to_string(), "10.71.0.7/32");
        assert!(!one.contains(Ipv4Addr::new(10, 71, 0, 6)));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "10.0.0.0/33",
            "::/0",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        assert_eq!(
            "10.71.0.9/24".parse::<Network>().unwrap_err(),
            "must have no bits set after the prefix, write \"10.71.0.0/24\""
        );
    }
}
