//! What is known of network drivers: which have native XDP, and what they want for it. That of
//! veth has been tried, the rest is by the drivers' sources; one that is not here may have native
//! XDP all the same, and newer kernels say so themselves.

/// A driver that has native XDP.
#[derive(Debug)]
pub(super) struct Driver {
    name: &'static str,
    /// The largest MTU with a program that reads packets of one buffer (bytes, pages of 4096).
    pub(super) largest_mtu: u32,
    pub(super) queues: Queues,
}

/// What a driver wants of its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queues {
    /// Nothing in particular.
    Any,
    /// At most half of those that it could have, or no program is attached.
    AtMostHalf,
    /// One for each CPU, or packets that are redirected on the other CPUs are lost.
    OnePerCpu,
    /// As many free ones as there are CPUs, or sending takes a lock.
    SparePerCpu,
}

/// What is known of a driver; `None` when it is not known to have native XDP.
pub(super) fn find(name: &str) -> Option<&'static Driver> {
    KNOWN.iter().find(|driver| driver.name == name)
}

/// One page less the headroom of 256 bytes, the tail of 320, and 22 of Ethernet with a VLAN tag.
pub(super) const USUAL_LARGEST_MTU: u32 = 3498;

const fn usual(name: &'static str) -> Driver {
    Driver {
        name,
        largest_mtu: USUAL_LARGEST_MTU,
        queues: Queues::Any,
    }
}

const KNOWN: [Driver; 28] = [
    Driver {
        queues: Queues::AtMostHalf,
        ..usual("ena")
    },
    Driver {
        largest_mtu: 2032,
        queues: Queues::AtMostHalf,
        ..usual("gve")
    },
    Driver {
        largest_mtu: 3506,
        queues: Queues::SparePerCpu,
        ..usual("virtio_net")
    },
    Driver {
        largest_mtu: 3046,
        queues: Queues::OnePerCpu,
        ..usual("i40e")
    },
    Driver {
        largest_mtu: 3046,
        ..usual("ice")
    },
    Driver {
        largest_mtu: 3050,
        ..usual("ixgbe")
    },
    Driver {
        largest_mtu: 3050,
        ..usual("ixgbevf")
    },
    Driver {
        largest_mtu: 3502,
        ..usual("bnxt_en")
    },
    Driver {
        largest_mtu: 3506,
        ..usual("veth")
    },
    Driver {
        largest_mtu: 1500,
        ..usual("igc")
    },
    usual("igb"),
    usual("mlx4_en"),
    usual("mlx4_core"),
    usual("mlx5_core"),
    usual("nfp"),
    usual("qede"),
    usual("sfc"),
    usual("hv_netvsc"),
    usual("mana"),
    usual("vmxnet3"),
    usual("xen_netfront"),
    usual("vif"),
    usual("tun"),
    usual("bond"),
    usual("mvneta"),
    usual("mvpp2"),
    usual("fsl_dpaa2_eth"),
    usual("stmmac"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_driver_is_named_once_and_takes_ordinary_packets() {
        for (place, driver) in KNOWN.iter().enumerate() {
            let is_same = |other: &Driver| other.name == driver.name;
            assert_eq!(KNOWN.iter().position(is_same), Some(place), "{driver:?}");
            assert!(driver.largest_mtu >= 1500, "{driver:?}");
        }
        assert!(find("e1000e").is_none());
    }
}
