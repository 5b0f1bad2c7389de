//! What an interface is made of, which only a diagnosis asks, and the way to an address.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::link::{LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::{Network, explain, into_io};

/// What an interface is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkDetail {
    /// Its number in the kernel.
    pub index: u32,
    /// What kind of virtual interface it is, as `ip -d link` says; `None` for a card.
    pub kind: Option<String>,
    /// The interface that it lies on, such as a VLAN's; a virtual cable's other end.
    pub lower: Option<u32>,
    /// The bridge or bond that it belongs to.
    pub controller: Option<u32>,
    /// Its driver; `None` when it cannot be told.
    pub driver: Option<String>,
}

/// The way that this host takes to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The address is this host's own.
    Local,
    /// There is no route.
    None,
    /// Out of an interface, by number, and by a router where there is one.
    Out {
        /// The interface's number.
        interface: u32,
        /// The next router; `None` when the address is on the link.
        router: Option<IpAddr>,
    },
}

impl Network {
    /// What each interface is made of.
    pub async fn link_details(&self) -> Result<Vec<LinkDetail>> {
        let links: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| explain(error, "reading the interfaces"))?;
        Ok(links.iter().map(read_detail).collect())
    }

    /// The way to an address, as the kernel would take it now.
    pub async fn way_to(&self, address: IpAddr) -> Result<Way> {
        let question = match address {
            IpAddr::V4(address) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(address, 32)
                .build(),
            IpAddr::V6(address) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(address, 128)
                .build(),
        };
        let answer = self.handle.route().get(question).execute().try_next().await;
        match answer.map_err(into_io) {
            Ok(Some(route)) => Ok(read_way(&route)),
            Ok(None) => Ok(Way::None),
            Err(error) if is_no_route(&error) => Ok(Way::None),
            Err(error) => Err(error).with_context(|| format!("asking for the way to {address}")),
        }
    }
}

/// What the kernel answers where a route is missing, or refuses to carry anything.
fn is_no_route(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::InvalidInput
    )
}

fn read_way(route: &RouteMessage) -> Way {
    if route.header.kind == RouteType::Local {
        return Way::Local;
    }
    let mut out = None;
    let mut router = None;
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            out = Some(*index);
        } else if let RouteAttribute::Gateway(RouteAddress::Inet(address)) = attribute {
            router = Some(IpAddr::V4(*address));
        } else if let RouteAttribute::Gateway(RouteAddress::Inet6(address)) = attribute {
            router = Some(IpAddr::V6(*address));
        }
    }
    out.map_or(Way::None, |interface| Way::Out { interface, router })
}

fn read_detail(link: &LinkMessage) -> LinkDetail {
    let mut detail = LinkDetail {
        index: link.header.index,
        ..LinkDetail::default()
    };
    let (mut name, mut bus, mut device) = ("", "", "");
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(text) = attribute {
            name = text;
        } else if let LinkAttribute::Link(index) = attribute {
            detail.lower = Some(*index);
        } else if let LinkAttribute::Controller(index) = attribute {
            detail.controller = Some(*index);
        } else if let LinkAttribute::ParentDevBusName(text) = attribute {
            bus = text;
        } else if let LinkAttribute::ParentDevName(text) = attribute {
            device = text;
        } else if let LinkAttribute::LinkInfo(facts) = attribute {
            for fact in facts {
                if let LinkInfo::Kind(kind) = fact {
                    detail.kind = Some(kind.to_string());
                }
            }
        }
    }
    detail.driver = detail
        .kind
        .clone()
        .or_else(|| read_driver(Path::new("/sys/bus").join(bus).join("devices").join(device)))
        // Kernels before 5.14 do not name the device; this directory shows it, though only in the
        // network namespace that /sys was mounted for.
        .or_else(|| read_driver(Path::new("/sys/class/net").join(name).join("device")));
    detail
}

fn read_driver(device: impl AsRef<Path>) -> Option<String> {
    let driver = fs::read_link(device.as_ref().join("driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::lone_thread::{ip, with_own_network};

    #[test]
    #[ignore = "needs root"]
    fn interfaces_and_ways_are_told() {
        with_own_network(|| async {
            ip("link add here index 77 type veth peer name there");
            ip("link add link here name above index 78 type macvlan");
            ip("link set lo up");
            ip("link set there up");
            ip("link set here up");
            ip("address add 10.71.0.1/24 dev here");
            ip("route add 10.9.0.0/16 via 10.71.0.7");
            ip("route add unreachable 10.8.0.0/16");
            let network = Network::open().unwrap();
            let details = network.link_details().await.unwrap();
            let detail = |index| details.iter().find(|detail| detail.index == index).unwrap();
            assert_eq!(detail(77).kind.as_deref(), Some("veth"));
            assert_eq!(detail(77).driver.as_deref(), Some("veth"));
            assert_eq!(detail(78).kind.as_deref(), Some("macvlan"));
            assert_eq!(detail(78).lower, Some(77));
            for (address, expected) in [
                ("10.71.0.1", Way::Local),
                ("10.8.0.1", Way::None),
                ("192.0.2.1", Way::None),
                ("2001:db8::1", Way::None),
                (
                    "10.71.0.9",
                    Way::Out {
                        interface: 77,
                        router: None,
                    },
                ),
                (
                    "10.9.0.1",
                    Way::Out {
                        interface: 77,
                        router: Some("10.71.0.7".parse().unwrap()),
                    },
                ),
            ] {
                let way = network.way_to(address.parse().unwrap()).await.unwrap();
                assert_eq!(way, expected, "{address}");
            }
        });
    }
}
