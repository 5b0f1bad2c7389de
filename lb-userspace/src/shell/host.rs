//! What pglb changes on its host besides XDP: the VIPs, and two settings of its interfaces. What
//! was there before is noted beside the control socket, so that `pglb detach` puts it back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use log::{info, warn};

use super::announce::announce;
use super::network::settings::{self, Setting};
use super::network::{Network, XdpPlace};
use crate::config::{Config, Gateway};
use crate::report::AttachedMode;

/// How often a VIP is announced, and the pause between two times.
const ANNOUNCEMENTS: u32 = 3;
const BETWEEN_ANNOUNCEMENTS: Duration = Duration::from_millis(200);

/// What the data plane has to know of the configured interfaces.
#[derive(Debug, Default)]
pub struct Interfaces {
    /// How the XDP programs that are there already are attached.
    pub attached: BTreeMap<String, AttachedMode>,
    /// Whether one of them is a virtual Ethernet cable.
    pub has_veth: bool,
}

/// Looks the configured interfaces up; an error for one that is missing.
pub async fn look_at_interfaces(network: &Network, gateway: &Gateway) -> Result<Interfaces> {
    let mut found = Interfaces::default();
    for name in &gateway.interfaces {
        let Some(interface) = network.interface(name).await? else {
            bail!("gateway.interfaces names {name}, and there is no such interface");
        };
        if !interface.is_up {
            warn!("{name} is down, or has no carrier");
        }
        found.has_veth |= interface.is_veth;
        for program in interface.xdp {
            let mode = match program.mode {
                XdpPlace::Generic => AttachedMode::Generic,
                XdpPlace::Native | XdpPlace::Hardware => AttachedMode::Native,
            };
            found.attached.insert(name.clone(), mode);
        }
    }
    Ok(found)
}

/// Lets the interfaces forward. The routing lookup of the XDP program answers only where
/// forwarding is on, and the kernel sends the packets whose next hop it has to resolve first;
/// those to a client come from the VIP, an address of this host that lies on another interface,
/// so that they must be accepted from it, and not asked the way back too strictly.
pub fn let_forward(gateway: &Gateway) -> Result<()> {
    let mut before = read_note(&gateway.control_socket)?;
    for interface in &gateway.interfaces {
        for (setting, word, value) in SETTINGS {
            let is_strict = || {
                let read = |name: &str| settings::read(name, setting).unwrap_or(0);
                read("all").max(read(interface)) == STRICT
            };
            if setting == Setting::ReversePath && !is_strict() {
                continue;
            }
            let old = settings::set(interface, setting, value)
                .with_context(|| format!("cannot set {word} on {interface}"))?;
            if old != value {
                info!("net.ipv4.conf.{interface}.{word} is {value} now (was {old})");
                before.entry(format!("{interface} {word}")).or_insert(old);
            }
        }
    }
    write_note(&gateway.control_socket, &before)
}

/// What is set on each interface. The way back is asked loosely where it was asked strictly.
const SETTINGS: [(Setting, &str, u8); 3] = [
    (Setting::Forwarding, "forwarding", 1),
    (Setting::AcceptLocal, "accept_local", 1),
    (Setting::ReversePath, "rp_filter", 2),
];
const STRICT: u8 = 1;

/// Puts the interfaces' settings back as they were.
pub fn restore_settings(gateway: &Gateway) -> Result<()> {
    for (place, old) in read_note(&gateway.control_socket)? {
        let Some((interface, word)) = place.split_once(' ') else {
            continue;
        };
        let setting = SETTINGS.into_iter().find(|(_, known, _)| *known == word);
        if let Some((setting, ..)) = setting
            && let Err(error) = settings::set(interface, setting, old)
        {
            warn!("cannot put net.ipv4.conf.{interface}.{word} back to {old}: {error}");
        }
    }
    match fs::remove_file(note_path(&gateway.control_socket)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Adds the VIPs to this host and announces them; takes away those of services that are gone.
pub async fn take_vips(network: &Network, config: &Config) -> Result<()> {
    if !config.gateway.manage_vip {
        return Ok(());
    }
    let vips: BTreeSet<IpAddr> = config
        .services
        .iter()
        .map(|service| service.vip.ip())
        .collect();
    for (interface, vip) in network.own_vips().await? {
        if config.gateway.interfaces.contains(&interface) && !vips.contains(&vip) {
            network.remove_vip(vip, &interface).await?;
            info!("{vip} is taken off {interface}: no service uses it any more");
        }
    }
    for vip in vips {
        let place = network.add_vip(vip, &config.gateway.interfaces).await?;
        if place.is_new {
            info!("{vip} is on {} now", place.interface);
        }
        tokio::spawn(async move {
            for _ in 0..ANNOUNCEMENTS {
                if let Err(error) = announce(&place.interface, vip) {
                    warn!("cannot announce {vip} on {}: {error}", place.interface);
                    return;
                }
                tokio::time::sleep(BETWEEN_ANNOUNCEMENTS).await;
            }
        });
    }
    Ok(())
}

/// Takes the VIPs that pglb has added off this gateway's interfaces; returns what was taken.
pub async fn drop_vips(network: &Network, gateway: &Gateway) -> Result<Vec<(String, IpAddr)>> {
    let mut own = network.own_vips().await?;
    own.retain(|(interface, _)| gateway.interfaces.contains(interface));
    for (interface, vip) in &own {
        network.remove_vip(*vip, interface).await?;
    }
    Ok(own)
}

fn note_path(control_socket: &Path) -> PathBuf {
    control_socket.with_extension("settings.json")
}

fn read_note(control_socket: &Path) -> Result<BTreeMap<String, u8>> {
    let path = note_path(control_socket);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged; remove it", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn write_note(control_socket: &Path, note: &BTreeMap<String, u8>) -> Result<()> {
    if note.is_empty() {
        return Ok(());
    }
    let path = note_path(control_socket);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&path, serde_json::to_vec(note)?)
        .with_context(|| format!("cannot write {}", path.display()))
}
