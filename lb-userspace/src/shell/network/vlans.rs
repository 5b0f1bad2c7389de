//! Which VLAN device stands for which tags on which real interface.
//!
//! Routes lead to VLAN devices, and XDP runs on the interface below them: whoever sends a packet
//! there has to know the interface and the tags.

use std::collections::{BTreeMap, HashMap};

use rtnetlink::packet_route::link::{InfoData, InfoVlan, LinkAttribute, LinkInfo, LinkMessage};

/// What a VLAN device stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The number of the real interface below: the first that is no VLAN device itself.
    pub lower: u32,
    /// One tag, or two in stacked devices, in the order of the frame: the outermost first.
    pub tags: Vec<Tag>,
}

/// A VLAN tag of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The tag protocol identifier: 0x8100 (IEEE 802.1Q) or 0x88a8 (IEEE 802.1ad).
    pub protocol: u16,
    /// The number of the VLAN (0 to 4095).
    pub id: u16,
}

/// Every VLAN device of `links` by its number in the kernel.
///
/// Left out are those that cannot be told whole: of more than [`MAX_TAGS`] tags, or above an
/// interface of another network namespace.
pub(super) fn read_vlans(links: &[LinkMessage]) -> BTreeMap<u32, Vlan> {
    let storeys: HashMap<u32, Storey> = links.iter().filter_map(read_storey).collect();
    storeys
        .keys()
        .filter_map(|index| Some((*index, descend(*index, &storeys)?)))
        .collect()
}

/// A VLAN device by itself: its one tag, and what is directly below.
struct Storey {
    below: u32,
    tag: Tag,
}

fn descend(top: u32, storeys: &HashMap<u32, Storey>) -> Option<Vlan> {
    let mut lower = top;
    let mut tags = Vec::new();
    while let Some(storey) = storeys.get(&lower) {
        if tags.len() == MAX_TAGS {
            return None;
        }
        // Each storey further down puts its tag before those of the ones above.
        tags.insert(0, storey.tag);
        lower = storey.below;
    }
    Some(Vlan { lower, tags })
}

fn read_storey(link: &LinkMessage) -> Option<(u32, Storey)> {
    let mut below = None;
    let mut tag = None;
    for attribute in &link.attributes {
        if let LinkAttribute::Link(index) = attribute {
            below = Some(*index);
        } else if let LinkAttribute::LinkInfo(facts) = attribute {
            tag = read_tag(facts);
        } else if let LinkAttribute::LinkNetNsId(_) = attribute {
            // The number of what is below is one of another namespace, and means nothing here.
            return None;
        }
    }
    let storey = Storey {
        below: below?,
        tag: tag?,
    };
    Some((link.header.index, storey))
}

fn read_tag(facts: &[LinkInfo]) -> Option<Tag> {
    let vlan = facts.iter().find_map(|fact| {
        if let LinkInfo::Data(InfoData::Vlan(vlan)) = fact {
            Some(vlan)
        } else {
            None
        }
    })?;
    let mut id = None;
    // What a device has that names no protocol.
    let mut protocol = IEEE_802_1Q;
    for fact in vlan {
        if let InfoVlan::Id(number) = fact {
            id = Some(*number);
        } else if let InfoVlan::Protocol(identifier) = fact {
            protocol = u16::from(*identifier);
        }
    }
    Some(Tag { protocol, id: id? })
}

/// How many tags the data plane reads through.
pub const MAX_TAGS: usize = 2;
const IEEE_802_1Q: u16 = 0x8100;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rtnetlink::packet_route::link::{InfoKind, VlanProtocol};

    use super::*;
    use crate::shell::lone_thread::{Host, ip, with_own_network};
    use crate::shell::network::Network;

    fn plain(index: u32) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link
    }

    fn vlan(index: u32, below: u32, protocol: VlanProtocol, id: u16) -> LinkMessage {
        let mut link = plain(index);
        let facts = vec![InfoVlan::Id(id), InfoVlan::Protocol(protocol)];
        let facts = vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(facts)),
        ];
        link.attributes = vec![LinkAttribute::Link(below), LinkAttribute::LinkInfo(facts)];
        link
    }

    fn stands_for(lower: u32, tags: &[(u16, u16)]) -> Vlan {
        let tags = tags.iter().map(|&(protocol, id)| Tag { protocol, id });
        Vlan {
            lower,
            tags: tags.collect(),
        }
    }

    const CUSTOMER: VlanProtocol = VlanProtocol::Ieee8021Q;
    const PROVIDER: VlanProtocol = VlanProtocol::Ieee8021Ad;

    #[test]
    fn devices_are_followed_down_to_what_is_real() {
        let mut veth = plain(3);
        veth.attributes.push(LinkAttribute::Link(2));
        let links = [
            // The order of the kernel's numbers is not that of the storeys.
            vlan(1, 5, CUSTOMER, 200),
            plain(2),
            veth,
            vlan(4, 3, CUSTOMER, 7),
            vlan(5, 2, PROVIDER, 100),
            vlan(6, 1, CUSTOMER, 300),
        ];
        let expected = [
            (1, stands_for(2, &[(0x88a8, 100), (0x8100, 200)])),
            (4, stands_for(3, &[(0x8100, 7)])),
            (5, stands_for(2, &[(0x88a8, 100)])),
        ];
        assert_eq!(read_vlans(&links), BTreeMap::from(expected), "three tags");
    }

    #[test]
    fn what_is_below_in_another_namespace_is_not_named() {
        let mut link = vlan(4, 3, CUSTOMER, 7);
        link.attributes.push(LinkAttribute::LinkNetNsId(0));
        assert_eq!(read_vlans(&[plain(3), link]), BTreeMap::new());
    }

    #[test]
    #[ignore = "needs root, and a kernel with VLAN devices"]
    fn the_kernels_vlan_devices_are_listed() {
        with_own_network(|| async {
            ip("link add eth0 type veth peer name there");
            ip("link add link eth0 name eth0.100 type vlan id 100");
            ip("link add link eth0.100 name eth0.100.200 type vlan id 200");
            ip("link add link eth0 name outer type vlan protocol 802.1ad id 4094");
            ip("link add link outer name inner type vlan id 1");
            ip("link add link inner name innermost type vlan id 2");
            let elsewhere = Host::new();
            ip("link add link eth0 name moved type vlan id 5");
            elsewhere.take("moved");

            let network = Network::open().unwrap();
            let number = async |name| network.interface(name).await.unwrap().unwrap().index;
            let eth0 = number("eth0").await;
            let expected = [
                (number("eth0.100").await, stands_for(eth0, &[(0x8100, 100)])),
                (
                    number("eth0.100.200").await,
                    stands_for(eth0, &[(0x8100, 100), (0x8100, 200)]),
                ),
                (number("outer").await, stands_for(eth0, &[(0x88a8, 4094)])),
                (
                    number("inner").await,
                    stands_for(eth0, &[(0x88a8, 4094), (0x8100, 1)]),
                ),
            ];
            assert_eq!(network.vlans().await.unwrap(), BTreeMap::from(expected));
            let names = ["there", "eth0"].map(str::to_owned);
            let served = network.with_vlans(&names).await.unwrap();
            let (named, above) = served.split_at(2);
            assert_eq!(named, names);
            let above: BTreeSet<&str> = above.iter().map(String::as_str).collect();
            let expected = ["eth0.100", "eth0.100.200", "inner", "outer"];
            assert_eq!(above, BTreeSet::from(expected));
            let moved = elsewhere.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async { Network::open().unwrap().vlans().await.unwrap() })
            });
            assert_eq!(moved, BTreeMap::new());
        });
    }
}
