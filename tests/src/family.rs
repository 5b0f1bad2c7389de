//! The address family that a test network speaks, and tests that run in both.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The only address family of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// The usual one.
    #[default]
    V4,
    /// The same network, with every address replaced by its twin.
    V6,
}

impl Family {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// An address of the test network in this family: itself, or its twin, which is `2001:db8:72::13` for
    /// `10.72.0.13`.
    pub fn address(self, ipv4: Ipv4Addr) -> IpAddr {
        let [_, net, _, host] = ipv4.octets();
        match self {
            Self::V4 => ipv4.into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, twin(net), 0, 0, 0, 0, twin(host)).into(),
        }
    }

    /// The network of an address: its /24, or the /64 of its twin.
    pub fn subnet(self, ipv4: Ipv4Addr) -> String {
        let [first, net, third, _] = ipv4.octets();
        let base = self.address(Ipv4Addr::new(first, net, third, 0));
        format!("{base}/{}", self.subnet_bits())
    }

    /// Bits of the prefix of a subnet.
    pub fn subnet_bits(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    /// Bits of the prefix of a single address.
    pub fn address_bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// What ends an `ip address add` after which the address is a source at once: without it, the kernel gets to it a
    /// moment later, and refuses a route that names it until then.
    pub fn at_once(self) -> &'static str {
        match self {
            Self::V4 => "",
            Self::V6 => " nodad",
        }
    }

    /// Bytes of the headers of a TCP segment without options.
    pub fn headers(self) -> u16 {
        match self {
            Self::V4 => 40,
            Self::V6 => 60,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Makes two tests of each function `fn(Family) -> Result<()>` that is named: `ipv4::NAME` and `ipv6::NAME`.
#[macro_export]
macro_rules! in_both_families {
    ($($test:ident),+ $(,)?) => {
        mod ipv4 {
            $(#[test]
            fn $test() -> anyhow::Result<()> {
                super::$test($crate::family::Family::V4)
            })+
        }
        mod ipv6 {
            $(#[test]
            fn $test() -> anyhow::Result<()> {
                super::$test($crate::family::Family::V6)
            })+
        }
    };
}

/// The number whose hexadecimal digits are the decimal ones of `byte`, so that twins look alike.
fn twin(byte: u8) -> u16 {
    let byte = u16::from(byte);
    (byte / 100) << 8 | (byte / 10 % 10) << 4 | (byte % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_look_alike() {
        let address = Ipv4Addr::new(10, 71, 0, 100);
        assert_eq!(Family::V6.address(address).to_string(), "2001:db8:71::100");
        assert_eq!(Family::V6.subnet(address), "2001:db8:71::/64");
        assert_eq!(Family::V4.subnet(address), "10.71.0.0/24");
    }
}
