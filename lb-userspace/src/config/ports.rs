//! A range of ports, and whether the kernel takes ports from it for itself.

use std::fmt;
use std::str::FromStr;

use super::{Config, Forwarding};

/// Ports from `first` to `last`, both included: at least 1,024 of them, none below 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

/// Ports below this belong to privileged programs, and some peers take that for a credential.
const LEAST_PORT: u16 = 1024;
const FEWEST_PORTS: u32 = 1024;

impl PortRange {
    /// The default of `full_nat_ports`: all that lies below Linux's own default range.
    pub const DEFAULT: Self = Self {
        first: LEAST_PORT,
        last: 32_767,
    };

    /// The range from `first` to `last`, or the rule that is broken.
    pub fn new(first: u16, last: u16) -> Result<Self, String> {
        if first < LEAST_PORT {
            return Err(format!(
                "must begin at port {LEAST_PORT} or above, those below are for privileged programs"
            ));
        }
        if first > last {
            return Err("must have its first port before its last".into());
        }
        let range = Self { first, last };
        if range.count() < FEWEST_PORTS {
            return Err(format!("must hold at least {FEWEST_PORTS} ports"));
        }
        Ok(range)
    }

    /// How many ports there are.
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Whether any port is also in the kernel's range for its own connections, given as first and
    /// last port.
    pub fn overlaps(self, kernel: (u16, u16)) -> bool {
        let (first, last) = kernel;
        first <= last && self.first <= last && first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|_| is_number)
        };
        let (first, last) = text
            .split_once('-')
            .and_then(|(first, last)| Some((port(first.trim_end())?, port(last.trim_start())?)))
            .ok_or_else(|| format!("must be FIRST-LAST, for example \"{}\"", Self::DEFAULT))?;
        Self::new(first, last)
    }
}

/// Refuses ports for `full-nat` that the kernel also gives to connections of the host's own:
/// two connections to one backend could then leave from the same port, and their replies could
/// not be told apart. `kernel` is `net.ipv4.ip_local_port_range`, which rules IPv6 as well.
///
/// The error is a sentence for the user; there is none when no service is `full-nat`.
pub fn refuse_shared_ports(config: &Config, kernel: (u16, u16)) -> Result<(), String> {
    let ours = config.gateway.full_nat_ports;
    let mut services = config.services.iter();
    let Some(service) = services.find(|service| service.forwarding == Forwarding::FullNat) else {
        return Ok(());
    };
    if !ours.overlaps(kernel) {
        return Ok(());
    }
    let (first, last) = kernel;
    Err(format!(
        "gateway.full_nat_ports = \"{ours}\": must not overlap the ports that the kernel gives to \
         the host's own connections, {first}-{last} (net.ipv4.ip_local_port_range), because \
         service {} is full-nat; change one of the two",
        service.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_as_they_are_shown() {
        let range: PortRange = "1024-32767".parse().unwrap();
        assert_eq!(range, PortRange::DEFAULT);
        assert_eq!(range.count(), 31_744);
        assert_eq!(range.to_string(), "1024-32767");
        assert_eq!("2000 - 3023".parse(), PortRange::new(2000, 3023));
        assert_eq!(PortRange::new(1024, u16::MAX).unwrap().count(), 64_512);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "",
            "-",
            "1024",
            "1024-",
            "-32767",
            "1024-65536",
            "a-b",
            "+1024-32767",
            "1-2-3",
        ] {
            assert_eq!(
                text.parse::<PortRange>().unwrap_err(),
                "must be FIRST-LAST, for example \"1024-32767\"",
                "{text}"
            );
        }
        for (text, rule) in [
            (
                "1023-32767",
                "must begin at port 1024 or above, those below are for privileged programs",
            ),
            ("4000-3000", "must have its first port before its last"),
            ("4000-5022", "must hold at least 1024 ports"),
        ] {
            assert_eq!(text.parse::<PortRange>().unwrap_err(), rule, "{text}");
        }
        assert!("4000-5023".parse::<PortRange>().is_ok());
    }

    #[test]
    fn one_common_port_is_an_overlap() {
        let range = PortRange::new(10_000, 20_000).unwrap();
        for kernel in [(20_000, 60_999), (1, 10_000), (12_000, 12_000), (1, 65_535)] {
            assert!(range.overlaps(kernel), "{kernel:?}");
        }
        for kernel in [(20_001, 60_999), (1, 9_999), (15_000, 14_000)] {
            assert!(!range.overlaps(kernel), "{kernel:?}");
        }
        assert!(!PortRange::DEFAULT.overlaps((32_768, 60_999)));
    }
}
