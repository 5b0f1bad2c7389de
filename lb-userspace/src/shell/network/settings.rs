//! The kernel's settings of one interface, `net.ipv4.conf.INTERFACE.*` and `net.ipv6.conf`.
//!
//! Two names are no interfaces: `all` and `default`, the latter for interfaces yet to come. What
//! is written to `all` counts for every interface, and of `net.ipv6.conf.all.forwarding` the
//! kernel makes as many copies as there are interfaces.

use std::fs;
use std::io;
use std::path::PathBuf;

/// A setting of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Whether packets that arrive there for other hosts are passed on (0 or 1).
    Forwarding,
    /// Whether packets may arrive there from an address of this host (0 or 1).
    AcceptLocal,
    /// Whether a packet's sender must be reachable: not asked (0), by the interface that it came
    /// in by (1, strict), or by any (2, loose). The higher of this and of `all` counts.
    ReversePath,
    /// Whether senders are told (ICMP redirect) of a shorter way for packets that leave by where
    /// they came in (0 or 1). The higher of this and of `all` counts.
    SendRedirects,
    /// Whether IPv6 packets for other hosts are passed on (0 or 1). The kernel asks it of the
    /// interface for the routing lookup of an XDP program, and of `all` for what it forwards
    /// itself.
    Ipv6Forwarding,
    /// Whether routers on that link are listened to: never (0), while nothing is forwarded (1), or
    /// always (2).
    AcceptRa,
    /// Whether the interface has no IPv6 at all (0 or 1).
    DisableIpv6,
}

impl Setting {
    /// Its name as `sysctl` has it, for one interface.
    pub fn name(self, interface: &str) -> String {
        let (family, word) = self.place();
        format!("net.{family}.conf.{interface}.{word}")
    }

    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Forwarding => ("ipv4", "forwarding"),
            Self::AcceptLocal => ("ipv4", "accept_local"),
            Self::ReversePath => ("ipv4", "rp_filter"),
            Self::SendRedirects => ("ipv4", "send_redirects"),
            Self::Ipv6Forwarding => ("ipv6", "forwarding"),
            Self::AcceptRa => ("ipv6", "accept_ra"),
            Self::DisableIpv6 => ("ipv6", "disable_ipv6"),
        }
    }
}

/// The value that a setting has.
pub fn read(interface: &str, setting: Setting) -> io::Result<u8> {
    let path = path_of(interface, setting)?;
    let text = fs::read_to_string(&path).map_err(|error| name(error, "reading", &path))?;
    text.trim().parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: {text}", path.display()),
        )
    })
}

/// Gives a setting a value and returns the one that it had. Writes nothing when they are equal.
pub fn set(interface: &str, setting: Setting, value: u8) -> io::Result<u8> {
    let before = read(interface, setting)?;
    if before != value {
        let path = path_of(interface, setting)?;
        fs::write(&path, value.to_string()).map_err(|error| name(error, "writing", &path))?;
    }
    Ok(before)
}

/// Every name that IPv6 has settings of: the interfaces, `all` and `default`.
pub fn names_with_ipv6() -> io::Result<Vec<String>> {
    let path = PathBuf::from("/proc/sys/net/ipv6/conf");
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).map_err(|error| name(error, "reading", &path))? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn path_of(interface: &str, setting: Setting) -> io::Result<PathBuf> {
    // A name of the kernel's never has these, so that no other file can be meant.
    if interface.is_empty() || interface.contains('/') || interface.starts_with('.') {
        let why = format!("{interface:?} is no name of an interface");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let (family, file) = setting.place();
    Ok(PathBuf::from("/proc/sys/net")
        .join(family)
        .join("conf")
        .join(interface)
        .join(file))
}

fn name(error: io::Error, doing: &str, path: &std::path::Path) -> io::Error {
    io::Error::new(error.kind(), format!("{doing} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::lone_thread;

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for bad in ["", "..", "../all", "a/b"] {
            let error = read(bad, Setting::Forwarding).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let error = read("nosuch0", Setting::Forwarding).unwrap_err();
        assert!(
            error.to_string().contains("ipv4/conf/nosuch0/forwarding"),
            "{error}"
        );
        assert_eq!(
            Setting::AcceptRa.name("nosuch0"),
            "net.ipv6.conf.nosuch0.accept_ra"
        );
    }

    #[test]
    #[ignore = "needs root"]
    fn a_setting_is_changed_and_its_old_value_told() {
        lone_thread::with_own_network(|| async {
            lone_thread::ip("link add eth0.7 type veth peer name there");
            use Setting::{AcceptLocal, Forwarding, Ipv6Forwarding};
            for setting in [Forwarding, AcceptLocal, Ipv6Forwarding] {
                assert_eq!(read("eth0.7", setting).unwrap(), 0);
                assert_eq!(set("eth0.7", setting, 1).unwrap(), 0);
                assert_eq!(set("eth0.7", setting, 1).unwrap(), 1);
                assert_eq!(read("eth0.7", setting).unwrap(), 1);
                assert_eq!(read("there", setting).unwrap(), 0);
            }
            assert_eq!(
                names_with_ipv6().unwrap(),
                ["all", "default", "eth0.7", "lo", "there"]
            );
        });
    }
}
