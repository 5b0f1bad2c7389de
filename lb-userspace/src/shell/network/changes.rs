//! Tells when a next hop may have changed: links, addresses, routes, rules, and MACs of neighbours,
//! all of both families.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteFlags, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::sleep;

/// Sends a signal for every burst of changes, and one when the watch begins, since what happened
/// before is unknown. A signal that has not been taken yet stands for later ones too.
///
/// Ends when the receiver is gone, or with an error when the kernel says no more.
pub async fn watch_changes(sender: Sender<()>) -> Result<()> {
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ])
    .context("subscribing to the network's changes")?;
    let mut known = Known::default();
    let watch = async {
        // Changes that happen meanwhile wait in `messages`.
        let links = handle.link().get().execute();
        let mut links = pin!(links);
        while let Some(link) = links.try_next().await? {
            known.note_link(&link);
        }
        let addresses = handle.address().get().execute();
        let mut addresses = pin!(addresses);
        while let Some(address) = addresses.try_next().await? {
            known.note_address(&address);
        }
        let neighbours = handle.neighbours().get().execute();
        let mut neighbours = pin!(neighbours);
        while let Some(neighbour) = neighbours.try_next().await? {
            known.note_neighbour(&neighbour);
        }
        let mut has_changed = true;
        loop {
            if has_changed {
                match sender.try_send(()) {
                    Ok(()) | Err(TrySendError::Full(())) => {}
                    Err(TrySendError::Closed(())) => return Ok(()),
                }
            }
            tokio::select! {
                message = messages.next() => match message {
                    Some((message, _)) => has_changed = known.note(&message.payload),
                    None => bail!("the network's changes are told no more"),
                },
                () = sender.closed() => return Ok(()),
            }
            if has_changed {
                // The first of a burst: let the others come, but not forever.
                let mut limit = pin!(sleep(BURST_LIMIT));
                loop {
                    tokio::select! {
                        () = &mut limit => break,
                        () = sleep(BURST_GAP) => break,
                        message = messages.next() => match message {
                            Some((message, _)) => _ = known.note(&message.payload),
                            None => break,
                        },
                    }
                }
            }
        }
    };
    tokio::select! {
        outcome = watch => outcome,
        () = connection => bail!("the netlink socket was closed"),
    }
}

/// What was last heard of links, addresses and neighbours, so that mere repetitions are not taken
/// for news: each router advertisement repeats addresses, each look at a neighbour its MAC.
#[derive(Default)]
struct Known {
    links: HashMap<u32, LinkState>,
    addresses: HashMap<Place, Usability>,
    /// Their MACs.
    neighbours: HashMap<Place, Vec<u8>>,
}

/// Interface and address.
type Place = (u32, IpAddr);

/// What of an address decides whether it is chosen as a source.
#[derive(PartialEq, Eq)]
struct Usability {
    is_deprecated: bool,
    is_tentative: bool,
}

/// What of a link can change a next hop.
#[derive(Default, PartialEq, Eq)]
struct LinkState {
    is_up: bool,
    has_carrier: bool,
    mac: Vec<u8>,
    mtu: u32,
    controller: u32,
}

impl Known {
    /// Takes note of a message; tells whether a next hop may be another one now.
    fn note(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
        if let NetlinkPayload::InnerMessage(message) = payload {
            self.note_message(message)
        } else {
            // The kernel had more to say than there was room for.
            matches!(payload, NetlinkPayload::Overrun(_))
        }
    }

    fn note_message(&mut self, message: &RouteNetlinkMessage) -> bool {
        use RouteNetlinkMessage as Message;
        if let Message::NewLink(link) = message {
            self.note_link(link)
        } else if let Message::DelLink(link) = message {
            self.forget_link(link)
        } else if let Message::NewAddress(address) = message {
            self.note_address(address)
        } else if let Message::DelAddress(address) = message {
            read_address(address).is_some_and(|(place, _)| self.addresses.remove(&place).is_some())
        } else if let Message::NewNeighbour(neighbour) = message {
            self.note_neighbour(neighbour)
        } else if let Message::DelNeighbour(neighbour) = message {
            self.forget_neighbour(neighbour)
        } else if let Message::NewRoute(route) | Message::DelRoute(route) = message {
            is_table_entry(route)
        } else {
            matches!(message, Message::NewRule(_) | Message::DelRule(_))
        }
    }

    fn note_link(&mut self, link: &LinkMessage) -> bool {
        // A bridge tells of its ports in messages of its own, which lack most of the attributes.
        if link.header.interface_family != AddressFamily::Unspec {
            return false;
        }
        let state = LinkState::of(link);
        let before = self.links.insert(link.header.index, state);
        before.as_ref() != self.links.get(&link.header.index)
    }

    fn forget_link(&mut self, link: &LinkMessage) -> bool {
        if link.header.interface_family != AddressFamily::Unspec {
            return false;
        }
        self.addresses
            .retain(|(index, _), _| *index != link.header.index);
        self.neighbours
            .retain(|(index, _), _| *index != link.header.index);
        self.links.remove(&link.header.index).is_some()
    }

    fn note_address(&mut self, address: &AddressMessage) -> bool {
        let Some((place, usability)) = read_address(address) else {
            return false;
        };
        let before = self.addresses.insert(place, usability);
        before.as_ref() != self.addresses.get(&place)
    }

    /// A neighbour that nobody knew before changes nothing: no flow can have used it.
    fn note_neighbour(&mut self, neighbour: &NeighbourMessage) -> bool {
        let Some((key, mac)) = read_neighbour(neighbour) else {
            return false;
        };
        let before = match mac {
            Some(mac) => self.neighbours.insert(key, mac.to_vec()),
            None => self.neighbours.remove(&key),
        };
        before.is_some_and(|before| mac != Some(&before[..]))
    }

    fn forget_neighbour(&mut self, neighbour: &NeighbourMessage) -> bool {
        read_neighbour(neighbour).is_some_and(|(key, _)| self.neighbours.remove(&key).is_some())
    }
}

impl LinkState {
    fn of(link: &LinkMessage) -> Self {
        let flags = link.header.flags;
        let mut state = Self {
            is_up: flags.contains(LinkFlags::Up),
            has_carrier: flags.contains(LinkFlags::LowerUp),
            ..Self::default()
        };
        for attribute in &link.attributes {
            if let LinkAttribute::Address(mac) = attribute {
                state.mac.clone_from(mac);
            } else if let LinkAttribute::Mtu(mtu) = attribute {
                state.mtu = *mtu;
            } else if let LinkAttribute::Controller(index) = attribute {
                state.controller = *index;
            }
        }
        state
    }
}

fn read_address(message: &AddressMessage) -> Option<(Place, Usability)> {
    let mut own = None;
    let mut peer = None;
    let mut flags = AddressFlags::empty();
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            own = Some(*address);
        } else if let AddressAttribute::Address(address) = attribute {
            peer = Some(*address);
        } else if let AddressAttribute::Flags(set) = attribute {
            flags = *set;
        }
    }
    let usability = Usability {
        is_deprecated: flags.contains(AddressFlags::Deprecated),
        is_tentative: flags.contains(AddressFlags::Tentative),
    };
    Some(((message.header.index, own.or(peer)?), usability))
}

/// The interface and address of a neighbour and its MAC, which is absent while it is unknown.
/// `None` for entries of a bridge's forwarding table, which come in the same messages.
fn read_neighbour(neighbour: &NeighbourMessage) -> Option<(Place, Option<&[u8]>)> {
    let mut address = None;
    let mut mac = None;
    for attribute in &neighbour.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) = attribute {
            address = Some(IpAddr::V4(*ip));
        } else if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) = attribute {
            address = Some(IpAddr::V6(*ip));
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            mac = Some(bytes.as_slice());
        }
    }
    Some(((neighbour.header.ifindex, address?), mac))
}

/// Whether it is an entry of a routing table, and not one of the cache beside it.
fn is_table_entry(route: &RouteMessage) -> bool {
    !route.header.flags.contains(RouteFlags::Cloned)
}

/// A burst is over when nothing came for this long.
const BURST_GAP: Duration = Duration::from_millis(10);
/// A burst that does not end is told of after this long.
const BURST_LIMIT: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
