//! What pglb changes on its host besides XDP: the VIPs, and a few settings of its interfaces. What
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
use crate::config::{Cluster, Config, Forwarding, Gateway, ProbeKind};
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
/// forwarding is on, and the kernel sends the packets whose next hop it has to resolve first.
/// IPv6 is left as it is where the configuration has none.
pub async fn let_forward(network: &Network, config: &Config) -> Result<()> {
    let gateway = &config.gateway;
    let interfaces = network.with_vlans(&gateway.interfaces).await?;
    let mut before = read_note(&gateway.control_socket)?;
    let outcome = let_forward_ipv4(&interfaces, &mut before).and_then(|()| {
        if has_ipv6(config) {
            let_forward_ipv6(&interfaces, &mut before)
        } else {
            Ok(())
        }
    });
    // What was changed is noted also when something else could not be.
    write_note(&gateway.control_socket, &before)?;
    outcome
}

/// What the settings were before pglb changed them, by `INTERFACE WORD`.
type Note = BTreeMap<String, u8>;

/// To clients go packets from the VIP, an address of this host that lies on another interface, so
/// that they must be accepted from it, and not asked the way back too strictly.
///
/// A backend in one subnet with its clients must not be told of the shorter way to them: its
/// replies would pass this gateway by.
fn let_forward_ipv4(interfaces: &[String], before: &mut Note) -> Result<()> {
    // What `all` says is said for every interface; the others keep their own word.
    if let Some(old) = change(ALL, Setting::SendRedirects, 0, before)? {
        info!("{} is 0 now (was {old})", Setting::SendRedirects.name(ALL));
    }
    for interface in interfaces {
        for (setting, value) in [
            (Setting::Forwarding, 1),
            (Setting::AcceptLocal, 1),
            (Setting::SendRedirects, 0),
            (Setting::ReversePath, LOOSE),
        ] {
            let is_strict = || {
                let read = |name: &str| settings::read(name, setting).unwrap_or(0);
                read("all").max(read(interface)) == STRICT
            };
            if setting == Setting::ReversePath && !is_strict() {
                continue;
            }
            if let Some(old) = change(interface, setting, value, before)? {
                info!("{} is {value} now (was {old})", setting.name(interface));
            }
        }
    }
    Ok(())
}

fn has_ipv6(config: &Config) -> bool {
    let mut backends = config.clusters.iter().flat_map(|cluster| &cluster.backends);
    config.services.iter().any(|service| service.vip.is_ipv6())
        || backends.any(|backend| backend.address.is_ipv6())
}

/// The kernel forwards IPv6 between all interfaces or none: of a single one it asks only the XDP
/// program's lookup. And an interface that forwards no longer listens to routers, not even for the
/// default route that it has from one, unless it is told to; where it did listen, it is told to.
fn let_forward_ipv6(interfaces: &[String], before: &mut Note) -> Result<()> {
    let names = settings::names_with_ipv6()
        .context("this host has no IPv6, and the configuration has IPv6 addresses")?;
    let forwards = |name: &str| settings::read(name, Setting::Ipv6Forwarding);
    let is_all = forwards(ALL)? != 0;
    let is_about_to = |name: &&String| {
        let is_concerned = !is_all || interfaces.contains(name);
        // One that has just been taken off the host is none of our concern.
        *name != ALL
            && *name != LOOPBACK
            && is_concerned
            && forwards(name).is_ok_and(|value| value == 0)
    };
    let mut listeners = Vec::new();
    for name in names.iter().filter(is_about_to) {
        if settings::read(name, Setting::AcceptRa).is_ok_and(|value| value == LISTENS) {
            change(name, Setting::AcceptRa, ALWAYS_LISTENS, before)?;
            listeners.push(name.as_str());
        }
    }
    if !listeners.is_empty() {
        warn!(
            "IPv6 is forwarded from now on, and an interface that forwards ignores router \
             advertisements: net.ipv6.conf.*.accept_ra is {ALWAYS_LISTENS} now (was {LISTENS}) \
             for {}, which go on as before",
            listeners.join(", ")
        );
    }
    if !is_all {
        // To be put back after `all`, which takes every interface with it.
        for name in names.iter().filter(|name| *name != ALL) {
            if forwards(name).is_ok_and(|value| value != 0) {
                let key = note_key(name, Setting::Ipv6Forwarding);
                before.entry(key).or_insert(1);
            }
        }
    }
    let interfaces = interfaces.iter().map(String::as_str);
    for name in std::iter::once(ALL).chain(interfaces) {
        if let Some(old) = change(name, Setting::Ipv6Forwarding, 1, before)? {
            let setting = Setting::Ipv6Forwarding.name(name);
            info!("{setting} is 1 now (was {old})");
        }
    }
    Ok(())
}

/// Gives a setting a value; returns the one that it had, if that was another one.
fn change(interface: &str, setting: Setting, value: u8, before: &mut Note) -> Result<Option<u8>> {
    let old = settings::set(interface, setting, value)
        .with_context(|| format!("cannot set {}", setting.name(interface)))?;
    if old == value {
        return Ok(None);
    }
    before.entry(note_key(interface, setting)).or_insert(old);
    Ok(Some(old))
}

/// Puts the interfaces' settings back as they were.
pub fn restore_settings(gateway: &Gateway) -> Result<()> {
    let note = read_note(&gateway.control_socket)?;
    // What `all` says of a setting goes for every interface, so it comes first; and who listened to
    // routers must not be told to stop before it stops forwarding.
    for setting in WORDS.map(|(setting, _)| setting) {
        let mut noted: Vec<_> = note
            .iter()
            .filter_map(|(key, old)| {
                Some((key.strip_suffix(note_key("", setting).as_str())?, *old))
            })
            .collect();
        noted.sort_by_key(|(interface, _)| *interface != ALL);
        for (interface, old) in noted {
            if let Err(error) = settings::set(interface, setting, old) {
                let setting = setting.name(interface);
                warn!("cannot put {setting} back to {old}: {error}");
            }
        }
    }
    match fs::remove_file(note_path(&gateway.control_socket)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn note_key(interface: &str, setting: Setting) -> String {
    let known = WORDS.iter().find(|(known, _)| *known == setting);
    let word = known.map_or("", |(_, word)| word);
    format!("{interface} {word}")
}

/// The settings that are changed, and put back in this order, as the note has them.
const WORDS: [(Setting, &str); 6] = [
    (Setting::Forwarding, "forwarding"),
    (Setting::AcceptLocal, "accept_local"),
    (Setting::SendRedirects, "send_redirects"),
    (Setting::ReversePath, "rp_filter"),
    (Setting::Ipv6Forwarding, "ipv6/forwarding"),
    (Setting::AcceptRa, "ipv6/accept_ra"),
];
/// The name under which a setting of every interface goes.
const ALL: &str = "all";
const LOOPBACK: &str = "lo";
/// Of [`Setting::ReversePath`].
const STRICT: u8 = 1;
const LOOSE: u8 = 2;
/// Of [`Setting::AcceptRa`].
const LISTENS: u8 = 1;
const ALWAYS_LISTENS: u8 = 2;

/// Adds the VIPs to this host and announces them; takes away those of services that are gone.
pub async fn take_vips(network: &Network, config: &Config) -> Result<()> {
    let vips = vips_of(config);
    let interfaces = network.with_vlans(&config.gateway.interfaces).await?;
    if config.gateway.manage_vip {
        for (interface, vip) in network.own_vips().await? {
            if interfaces.contains(&interface) && !vips.contains(&vip) {
                network.remove_vip(vip, &interface).await?;
                info!("{vip} is taken off {interface}: no service uses it any more");
            }
        }
    }
    for vip in vips {
        let place = network.add_vip(vip, &interfaces).await?;
        if place.is_new {
            info!("{vip} is on {} now", place.interface);
        }
        announce_often(place.interface, vip);
    }
    Ok(())
}

/// Adds and announces the VIPs that have vanished from this host: an interface that is switched
/// off loses its IPv6 addresses, and what manages interfaces may tidy away what is not its own.
pub async fn keep_vips(network: &Network, config: &Config) {
    if let Err(error) = add_vanished_vips(network, config).await {
        warn!("a VIP has vanished, and cannot be added again: {error:#}");
    }
}

async fn add_vanished_vips(network: &Network, config: &Config) -> Result<()> {
    let mut vips = vips_of(config);
    for interface in network.interfaces().await? {
        for has in interface.addresses {
            vips.remove(&has.address);
        }
    }
    if vips.is_empty() {
        return Ok(());
    }
    let interfaces = network.with_vlans(&config.gateway.interfaces).await?;
    for vip in vips {
        let place = network.add_vip(vip, &interfaces).await?;
        warn!("{vip} had vanished; it is on {} again", place.interface);
        announce_often(place.interface, vip);
    }
    Ok(())
}

/// The VIPs that pglb has to care for.
fn vips_of(config: &Config) -> BTreeSet<IpAddr> {
    if !config.gateway.manage_vip {
        return BTreeSet::new();
    }
    let services = config.services.iter();
    services.map(|service| service.vip.ip()).collect()
}

fn announce_often(interface: String, vip: IpAddr) {
    tokio::spawn(async move {
        for _ in 0..ANNOUNCEMENTS {
            if let Err(error) = announce(&interface, vip) {
                warn!("cannot announce {vip} on {interface}: {error}");
                return;
            }
            tokio::time::sleep(BETWEEN_ANNOUNCEMENTS).await;
        }
    });
}

/// Has the kernel find the MAC addresses of backends that nobody on this host speaks to. It asks for
/// that of any other packet's next hop by itself; but one of `dsr` still has the VIP as its
/// destination, which is the kernel's own address, and probes, for which it asks too, there may be none.
pub async fn ask_for_neighbours(network: &Network, config: &Config) {
    let is_dsr = |cluster: &Cluster| {
        let mut services = config.services.iter();
        services.any(|it| it.cluster == cluster.name && it.forwarding == Forwarding::Dsr)
    };
    let is_unprobed = |it: &&Cluster| it.health.kind == ProbeKind::None && is_dsr(it);
    let unprobed = config.clusters.iter().filter(is_unprobed);
    for backend in unprobed.flat_map(|cluster| &cluster.backends) {
        if let Err(error) = network.ask_for_neighbour(backend.address.ip()).await {
            warn!("{error:#}");
        }
    }
}

/// How often the kernel is asked to look after them.
pub const BETWEEN_QUESTIONS: Duration = Duration::from_secs(5);

/// Takes the VIPs that pglb has added off this gateway's interfaces; returns what was taken.
pub async fn drop_vips(network: &Network, gateway: &Gateway) -> Result<Vec<(String, IpAddr)>> {
    let interfaces = network.with_vlans(&gateway.interfaces).await?;
    let mut own = network.own_vips().await?;
    own.retain(|(interface, _)| interfaces.contains(interface));
    for (interface, vip) in &own {
        network.remove_vip(*vip, interface).await?;
    }
    Ok(own)
}

fn note_path(control_socket: &Path) -> PathBuf {
    control_socket.with_extension("settings.json")
}

fn read_note(control_socket: &Path) -> Result<Note> {
    let path = note_path(control_socket);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged; remove it", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn write_note(control_socket: &Path, note: &Note) -> Result<()> {
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

#[cfg(test)]
mod tests;
