//! The host's network as rtnetlink shows it: interfaces, the VIP among their addresses, and
//! (in [`changes`]) what changes by itself.

pub mod card;
pub mod changes;
pub mod detail;
mod interface;
mod neighbour;
pub mod outgoing;
mod rules;
pub mod settings;
pub mod vlans;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{AddressMessageBuilder, Handle, IpVersion};
use tokio::task::JoinHandle;

pub use self::interface::{Interface, InterfaceAddress, XdpPlace, XdpProgram};
use self::interface::{mark_as_vip, read_interface};
use self::rules::is_selective;
use self::settings::Setting;
use self::vlans::{Vlan, read_vlans};

/// Where a VIP is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipPlace {
    /// The interface that has it.
    pub interface: String,
    /// Whether pglb put it there, in this run or an earlier one.
    pub is_ours: bool,
    /// Whether it was put there just now.
    pub is_new: bool,
}

/// A connection to rtnetlink. It belongs to the network namespace in which it was opened.
#[derive(Debug)]
pub struct Network {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Network {
    /// Opens the connection; has to be called inside a tokio runtime.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("opening a netlink socket")?;
        let driver = tokio::spawn(connection);
        Ok(Self { handle, driver })
    }

    /// The interface of this name; `None` when there is none.
    pub async fn interface(&self, name: &str) -> Result<Option<Interface>> {
        let interfaces = self.interfaces().await?;
        Ok(interfaces
            .into_iter()
            .find(|interface| interface.name == name))
    }

    /// Every interface, in the order of the kernel's numbers.
    pub async fn interfaces(&self) -> Result<Vec<Interface>> {
        let links = self.links().await?;
        let addresses: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| explain(error, "reading the addresses"))?;
        Ok(links
            .iter()
            .filter_map(|link| read_interface(link, &addresses))
            .collect())
    }

    /// Every VLAN device by its number in the kernel, and what it stands for.
    pub async fn vlans(&self) -> Result<BTreeMap<u32, Vlan>> {
        Ok(read_vlans(&self.links().await?))
    }

    /// These interfaces, and after them the VLAN devices above them: their packets are the program's too.
    pub async fn with_vlans(&self, names: &[String]) -> Result<Vec<String>> {
        let (present, vlans) = (self.interfaces().await?, self.vlans().await?);
        let is_named = |index| {
            let mut cards = present.iter().filter(|it| names.contains(&it.name));
            cards.any(|card| card.index == index)
        };
        let is_above = |it: &&Interface| vlans.get(&it.index).is_some_and(|it| is_named(it.lower));
        let above = present.iter().filter(is_above).map(|it| it.name.clone());
        Ok(names.iter().cloned().chain(above).collect())
    }

    /// Whether all packets to one receiver go the same way, whoever sends them.
    pub async fn routes_by_receiver(&self) -> Result<bool> {
        for version in [IpVersion::V4, IpVersion::V6] {
            let rules: Vec<_> = self
                .handle
                .rule()
                .get(version)
                .execute()
                .try_collect()
                .await
                .map_err(|error| explain(error, "reading the policy rules"))?;
            if rules.iter().any(is_selective) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn links(&self) -> Result<Vec<LinkMessage>> {
        self.handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| explain(error, "reading the interfaces"))
    }

    /// Makes this host have `vip`.
    ///
    /// Where an interface has it already, nothing is done. Otherwise the one of `interfaces` gets
    /// it whose subnet holds it (the narrowest, if several do), or else the first.
    pub async fn add_vip(&self, vip: IpAddr, interfaces: &[String]) -> Result<VipPlace> {
        let present = self.interfaces().await?;
        if let Some((interface, address)) = find_address(&present, vip) {
            let interface = interface.name.clone();
            return Ok(VipPlace {
                interface,
                is_ours: address.is_ours,
                is_new: false,
            });
        }
        let Some(home) = find_home(&present, vip, interfaces) else {
            bail!("there is no interface {}", interfaces.join(", "));
        };
        if vip.is_ipv6() && settings::read(&home.name, Setting::DisableIpv6).unwrap_or(1) != 0 {
            let setting = Setting::DisableIpv6.name(&home.name);
            bail!(
                "{} has no IPv6, so {vip} cannot be there ({setting} must be 0)",
                home.name
            );
        }
        let mut request = self.handle.address().add(home.index, vip, host_prefix(vip));
        mark_as_vip(request.message_mut(), vip, &home.name);
        let doing = || format!("adding {vip} to {}", home.name);
        request
            .execute()
            .await
            .map_err(|error| explain(error, &doing()))?;
        Ok(VipPlace {
            interface: home.name.clone(),
            is_ours: true,
            is_new: true,
        })
    }

    /// Takes `vip` from `interface`, whoever put it there. False when it was not there.
    pub async fn remove_vip(&self, vip: IpAddr, interface: &str) -> Result<bool> {
        let Some(found) = self.interface(interface).await? else {
            return Ok(false);
        };
        let is_vip =
            |has: &InterfaceAddress| has.address == vip && has.prefix_len == host_prefix(vip);
        if !found.addresses.iter().any(is_vip) {
            return Ok(false);
        }
        let message = match vip {
            IpAddr::V4(vip) => AddressMessageBuilder::<Ipv4Addr>::new()
                .index(found.index)
                .address(vip, IPV4_BITS)
                .build(),
            IpAddr::V6(vip) => AddressMessageBuilder::<Ipv6Addr>::new()
                .index(found.index)
                .address(vip, IPV6_BITS)
                .build(),
        };
        let doing = || format!("removing {vip} from {interface}");
        match self
            .handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(into_io)
        {
            Ok(()) => Ok(true),
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(false),
            Err(error) => Err(error).with_context(doing),
        }
    }

    /// Every address that pglb put on an interface, in this run or an earlier one, with the name
    /// of the interface.
    pub async fn own_vips(&self) -> Result<Vec<(String, IpAddr)>> {
        let mut own = Vec::new();
        for interface in self.interfaces().await? {
            for address in interface.addresses.iter().filter(|address| address.is_ours) {
                own.push((interface.name.clone(), address.address));
            }
        }
        Ok(own)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn find_address(interfaces: &[Interface], vip: IpAddr) -> Option<(&Interface, &InterfaceAddress)> {
    interfaces.iter().find_map(|interface| {
        let mut addresses = interface.addresses.iter();
        Some((interface, addresses.find(|address| address.address == vip)?))
    })
}

fn find_home<'a>(
    present: &'a [Interface],
    vip: IpAddr,
    listed: &[String],
) -> Option<&'a Interface> {
    let candidates = || {
        let find = |name: &String| {
            present
                .iter()
                .find(move |interface| interface.name == *name)
        };
        listed.iter().filter_map(find)
    };
    candidates()
        .flat_map(|interface| {
            interface
                .addresses
                .iter()
                .map(move |address| (interface, address))
        })
        .filter(|(_, address)| address.prefix_len < host_prefix(vip) && holds(address, vip))
        // Of equals the first wins: the order of the list is the operator's.
        .min_by_key(|(_, address)| std::cmp::Reverse(address.prefix_len))
        .map(|(interface, _)| interface)
        .or_else(|| candidates().next())
}

/// Whether `vip` lies in the subnet of `address`.
fn holds(address: &InterfaceAddress, vip: IpAddr) -> bool {
    let host_bits = u32::from(host_prefix(vip).saturating_sub(address.prefix_len));
    match (address.address, vip) {
        (IpAddr::V4(own), IpAddr::V4(vip)) => {
            let differing = u32::from(own) ^ u32::from(vip);
            differing.checked_shr(host_bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(own), IpAddr::V6(vip)) => {
            let differing = u128::from(own) ^ u128::from(vip);
            differing.checked_shr(host_bits).unwrap_or(0) == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn explain(error: rtnetlink::Error, doing: &str) -> anyhow::Error {
    let error = into_io(error);
    if error.kind() == io::ErrorKind::PermissionDenied {
        anyhow::anyhow!("{doing} needs root")
    } else {
        anyhow::Error::new(error).context(doing.to_owned())
    }
}

fn into_io(error: rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(message) = &error {
        message.to_io()
    } else {
        io::Error::other(error)
    }
}

/// The prefix length of an address without a subnet, which every VIP is.
fn host_prefix(vip: IpAddr) -> u8 {
    match vip {
        IpAddr::V4(_) => IPV4_BITS,
        IpAddr::V6(_) => IPV6_BITS,
    }
}

const IPV4_BITS: u8 = 32;
const IPV6_BITS: u8 = 128;

#[cfg(test)]
mod tests;
