//! What the tables must know of the host's network besides routes and neighbours.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use lb_common::trunk::Trunk;
use lb_common::wire::EgressTags;
use log::warn;

use super::network::Network;
use super::network::outgoing::{kernel_port_range, source_address};
use super::network::vlans::{Tag, Vlan};
use crate::config::{self, Config, Forwarding};
use crate::engine::kernel::Surroundings;

/// The tag protocol of a provider's outer tag (802.1ad).
const SERVICE_TAG: u16 = 0x88a8;

/// Refuses a configuration whose full-nat ports the kernel gives to others.
pub fn check_ports(config: &Config) -> Result<()> {
    let kernel = kernel_port_range().context("cannot read net.ipv4.ip_local_port_range")?;
    config::refuse_shared_ports(config, kernel).map_err(anyhow::Error::msg)
}

/// Looks at VLAN devices, at policy rules, and at the host's own addresses towards the backends of
/// full-nat services.
pub async fn look_round(network: &Network, config: &Config) -> Surroundings {
    let trunks = match read_trunks(network).await {
        Ok(trunks) => trunks,
        Err(error) => {
            warn!("cannot read the VLAN devices: {error:#}");
            BTreeMap::new()
        }
    };
    let is_full_nat = |cluster: &str| {
        let mut services = config.services.iter();
        services.any(|it| it.cluster == cluster && it.forwarding == Forwarding::FullNat)
    };
    let clusters = config.clusters.iter().filter(|it| is_full_nat(&it.name));
    let backends = clusters.flat_map(|cluster| &cluster.backends);
    let source = |address| source_address(address).map(|source| (address.ip(), source));
    let sources = backends.filter_map(|backend| source(backend.address));
    let shares_next_hops = network.routes_by_receiver().await.unwrap_or_else(|error| {
        warn!("cannot read the policy rules: {error:#}");
        false
    });
    Surroundings {
        trunks,
        sources: sources.collect(),
        shares_next_hops,
    }
}

async fn read_trunks(network: &Network) -> Result<BTreeMap<u32, Trunk>> {
    let vlans = network.vlans().await?;
    Ok(vlans
        .into_iter()
        .map(|(interface, vlan)| (interface, trunk(&vlan)))
        .collect())
}

fn trunk(vlan: &Vlan) -> Trunk {
    let mut tags = EgressTags::default();
    for (place, tag) in tags.0.iter_mut().zip(&vlan.tags) {
        *place = number(tag);
    }
    Trunk {
        interface: vlan.lower,
        tags,
    }
}

fn number(tag: &Tag) -> u16 {
    if tag.protocol == SERVICE_TAG {
        EgressTags::SERVICE | tag.id
    } else {
        tag.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_outermost_first_and_a_providers_one_is_marked() {
        let tag = |protocol, id| Tag { protocol, id };
        let vlan = Vlan {
            lower: 7,
            tags: vec![tag(SERVICE_TAG, 100), tag(0x8100, 200)],
        };
        let trunk = trunk(&vlan);
        assert_eq!(trunk.interface, 7);
        assert_eq!(trunk.tags, EgressTags([0x8064, 200]));
    }
}
