//! Facts about the interfaces, and about VIPs on the networks behind them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use futures_util::future::join_all;

use super::super::backend::is_within;
use super::super::facts::{Elsewhere, Interface, Link, Route, Settings, Vip};
use super::{can_see, setting};
use crate::config::Config;
use crate::report::AttachedMode;
use crate::shell::network::detail::Way;
use crate::shell::network::{self, Network, XdpPlace, card};
use crate::shell::{bpf, conflict};

/// Every interface of this host.
pub(super) async fn read(network: &Network, pin_dir: &Path) -> Result<Vec<Interface>> {
    let present = network.interfaces().await?;
    let details = network.link_details().await?;
    let vlans = network.vlans().await?;
    let can_see_pins = can_see(pin_dir);
    let name_of = |index: u32| {
        let interface = present.iter().find(|it| it.index == index)?;
        Some(interface.name.clone())
    };
    let read = |interface: &network::Interface| {
        let detail = details.iter().find(|it| it.index == interface.index);
        let detail = detail.cloned().unwrap_or_default();
        let above = vlans.iter().filter(|(_, it)| it.lower == interface.index);
        let link = Link {
            is_up: interface.is_up,
            lower: detail.lower.and_then(name_of),
            controller: detail.controller.and_then(name_of),
            kind: detail.kind,
            driver: detail.driver,
            vlans: above.filter_map(|(index, _)| name_of(*index)).collect(),
            mtu: interface.mtu,
            addresses: interface.addresses.clone(),
            card: card::read(&interface.name, interface.index),
            attached: interface.xdp.first().map(|program| match program.mode {
                XdpPlace::Generic => AttachedMode::Generic,
                XdpPlace::Native | XdpPlace::Hardware => AttachedMode::Native,
            }),
            is_ours: can_see_pins.then(|| bpf::has_link(pin_dir, &interface.name)),
            settings: read_settings(&interface.name),
        };
        Interface {
            name: interface.name.clone(),
            link: Some(link),
        }
    };
    Ok(present.iter().map(read).collect())
}

fn read_settings(name: &str) -> Settings {
    let read = |family: &str, place: &str, key: &str| -> Option<u8> {
        setting(&format!("/proc/sys/net/{family}/conf/{place}/{key}"))
    };
    let either = |key: &str| Some(read("ipv4", "all", key)?.max(read("ipv4", name, key)?));
    let both_v6 = || {
        let key = "forwarding";
        Some(read("ipv6", "all", key)?.min(read("ipv6", name, key)?))
    };
    Settings {
        forwarding: read("ipv4", name, "forwarding"),
        reverse_path: either("rp_filter"),
        accept_local: either("accept_local"),
        send_redirects: either("send_redirects"),
        forwarding_v6: both_v6(),
    }
}

/// The interfaces of these names, whether they exist or not.
pub(super) fn named(present: &[Interface], names: &[String]) -> Vec<Interface> {
    let find = |name: &String| {
        let found = present.iter().find(|it| it.name == *name).cloned();
        found.unwrap_or_else(|| Interface {
            name: name.clone(),
            link: None,
        })
    };
    names.iter().map(find).collect()
}

/// The cards that are up: what could be named in a configuration.
pub(super) fn cards(present: &[Interface]) -> Vec<Interface> {
    let is_card = |it: &&Interface| {
        let link = it.link.as_ref();
        link.is_some_and(|link| link.is_up && link.kind.is_none() && it.name != "lo")
    };
    present.iter().filter(is_card).cloned().collect()
}

/// A way with the interface's name in it.
pub(super) fn name_route(way: Way, present: &[network::Interface]) -> Route {
    match way {
        Way::Local => Route::Local,
        Way::None => Route::None,
        Way::Out { interface, router } => {
            let found = present.iter().find(|it| it.index == interface);
            Route::Out {
                interface: found
                    .map_or_else(|| format!("number {interface}"), |it| it.name.clone()),
                router,
            }
        }
    }
}

/// Asks the networks of the configured interfaces for each VIP.
pub(super) async fn ask_for_vips(config: Option<&Config>, present: &[Interface]) -> Vec<Vip> {
    let Some(config) = config else {
        return Vec::new();
    };
    let mut services: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for service in &config.services {
        let names = services.entry(service.vip.ip()).or_default();
        names.push(service.name.clone());
    }
    let configured = named(present, &config.gateway.interfaces);
    let is_carried = |it: &&Interface| configured.iter().any(|card| card.carries(&it.name));
    let carried = present.iter().filter(is_carried);
    let places: Vec<&Interface> = configured.iter().chain(carried).collect();
    let asks = services.into_iter().map(|(address, services)| {
        let here = present.iter().find(|it| has_address(it, address));
        let here = here.map(|it| it.name.clone());
        let home = places.iter().find(|it| has_subnet_of(it, address));
        let home = home.map(|it| it.name.clone());
        async move {
            Vip {
                address,
                services,
                here,
                elsewhere: ask_for_vip(home, address).await,
            }
        }
    });
    join_all(asks).await
}

async fn ask_for_vip(home: Option<String>, address: IpAddr) -> Elsewhere {
    let Some(interface) = home else {
        return Elsewhere::Routed;
    };
    let place = interface.clone();
    let asked = tokio::task::spawn_blocking(move || conflict::find_owner(&place, address)).await;
    match asked {
        Ok(Ok(None)) => Elsewhere::Nobody(interface),
        Ok(Ok(Some(mac))) => Elsewhere::Owner(interface, mac),
        Ok(Err(error)) => Elsewhere::Unknown(error.to_string()),
        Err(error) => Elsewhere::Unknown(error.to_string()),
    }
}

fn has_address(interface: &Interface, address: IpAddr) -> bool {
    let link = interface.link.as_ref();
    link.is_some_and(|link| link.addresses.iter().any(|it| it.address == address))
}

fn has_subnet_of(interface: &Interface, address: IpAddr) -> bool {
    let link = interface.link.as_ref();
    let subnets = link.into_iter().flat_map(|link| &link.addresses);
    subnets
        .into_iter()
        .any(|it| is_within(address, it.address, it.prefix_len))
}
