//! A link between two namespaces.

use std::process::Command;

use anyhow::Result;

use super::NARROW;
use crate::{command, namespace::Namespace};

/// A veth pair, both ends of which are up.
pub(super) struct Link<'a> {
    ends: [(&'a Namespace, &'a str); 2],
}

impl<'a> Link<'a> {
    /// Creates a link between a host's interface and one of the gateway, or of what stands in its place.
    pub(super) fn between(
        host: (&'a Namespace, &'a str),
        gateway: (&'a Namespace, &'a str),
    ) -> Result<Self> {
        let ((near, near_interface), (far, far_interface)) = (host, gateway);
        command::run(
            Command::new("ip")
                .args(["link", "add", "name", near_interface, "netns", near.name()])
                .args([
                    "type",
                    "veth",
                    "peer",
                    "name",
                    far_interface,
                    "netns",
                    far.name(),
                ]),
        )?;
        // Receive offload makes the far end poll, without which XDP cannot transmit into it. The rest goes, so that
        // whole packets with whole checksums travel.
        near.run(&format!(
            "ethtool -K {near_interface} tx off tso off gso off gro on"
        ))?;
        for (namespace, interface) in [host, gateway] {
            namespace.run(&format!("ip link set {interface} up"))?;
        }
        Ok(Self {
            ends: [host, gateway],
        })
    }

    /// Lets no packet longer than [`NARROW`] over it.
    pub(super) fn narrow(&self) -> Result<()> {
        for (namespace, interface) in self.ends {
            namespace.run(&format!("ip link set {interface} mtu {NARROW}"))?;
        }
        Ok(())
    }
}
