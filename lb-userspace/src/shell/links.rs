//! The host's interfaces by name, index and MAC address, asked for once.

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its MAC address; zeros where it has none.
    pub mac: [u8; 6],
}

/// Every interface of the network namespace that this process is in.
pub fn links() -> Result<Vec<Link>> {
    let addresses = getifaddrs().context("cannot list the interfaces")?;
    Ok(addresses
        .filter_map(|entry| {
            let address = entry.address?;
            let link = address.as_link_addr()?;
            Some(Link {
                name: entry.interface_name,
                index: u32::try_from(link.ifindex()).ok()?,
                mac: link.addr().unwrap_or_default(),
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there() {
        let links = links().unwrap();
        let loopback = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((loopback.index, loopback.mac), (1, [0; 6]));
    }
}
