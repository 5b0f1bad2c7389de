//! Collects the facts. It changes nothing, and what it may not see it leaves out.

mod network;
mod tables;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::facts::{Backend, Bpffs, Facts, Forwarding, Host, Plan, Reach, Service, Trial};
use crate::config::{Config, DEFAULT_PIN_DIR};
use crate::shell::bpf::trial::{self, Outcome};
use crate::shell::network::Network;
use crate::shell::privileges;

/// Looks at the host, and at everything that the configuration names.
pub async fn look(config: Option<&Config>) -> Result<Facts> {
    let network = Network::open()?;
    let pin_dir = config.map_or_else(
        || Path::new(DEFAULT_PIN_DIR),
        |config| &config.gateway.pin_dir,
    );
    let present = network::read(&network, pin_dir).await?;
    let interfaces = match config {
        Some(config) => network::named(&present, &config.gateway.interfaces),
        None => network::cards(&present),
    };
    let plan = config.map(|config| {
        let is_ours =
            |link: &super::facts::Link| link.attached.is_some() && link.is_ours != Some(false);
        let is_attached = interfaces
            .iter()
            .filter_map(|it| it.link.as_ref())
            .any(is_ours);
        read_plan(config, is_attached)
    });
    // These wait for others, so all of them wait at the same time.
    let (vips, backends) = tokio::join!(network::ask_for_vips(config, &present), async {
        match config {
            Some(config) => look_at_backends(&network, config).await,
            None => Ok(Vec::new()),
        }
    });
    Ok(Facts {
        host: look_at_host(pin_dir)?,
        plan,
        interfaces,
        vips,
        backends: backends?,
    })
}

fn look_at_host(pin_dir: &Path) -> Result<Host> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's release")?;
    let missing_capabilities = privileges::missing();
    let tracked: Option<u64> = setting("/proc/sys/net/netfilter/nf_conntrack_count");
    Ok(Host {
        release: release.trim().to_owned(),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        jit: setting("/proc/sys/net/core/bpf_jit_enable"),
        bpffs: look_for_bpffs(pin_dir),
        trial: try_program(&missing_capabilities),
        missing_capabilities,
        cpus: thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
        tracks_connections: tracked.is_some_and(|count| count > 0),
        local_ports: read_local_ports(),
    })
}

fn look_for_bpffs(pin_dir: &Path) -> Bpffs {
    let existing = pin_dir
        .ancestors()
        .find(|it| it.exists())
        .unwrap_or_else(|| Path::new("/"));
    if statfs(existing).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return Bpffs::Mounted;
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|line| line.split_whitespace().last() == Some("bpf"))
    {
        Bpffs::Mountable
    } else {
        Bpffs::Absent
    }
}

fn try_program(missing_capabilities: &[&str]) -> Trial {
    if !missing_capabilities.is_empty() {
        return Trial::NotTried("this user may not load programs".to_owned());
    }
    match trial::load() {
        Outcome::Accepted => Trial::Accepted,
        Outcome::Rejected(error) => Trial::Rejected(format!("{error:#}")),
        Outcome::NotTried(error) => Trial::NotTried(format!("{error:#}")),
    }
}

/// Whether this process would see the pins if there were any.
fn can_see(pin_dir: &Path) -> bool {
    let seen = fs::read_dir(pin_dir);
    seen.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |_| true)
}

fn read_local_ports() -> Option<(u16, u16)> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ports = text.split_whitespace().map(str::parse);
    Some((ports.next()?.ok()?, ports.next()?.ok()?))
}

/// The value of a file with one word.
fn setting<T: FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_plan(config: &Config, is_attached: bool) -> Plan {
    let services = config.services.iter().map(|service| Service {
        name: service.name.clone(),
        vip: service.vip,
        cluster: service.cluster.clone(),
        forwarding: service
            .forwarding
            .as_str()
            .parse()
            .unwrap_or(Forwarding::Nat),
    });
    let mut backends = config.clusters.iter().flat_map(|cluster| &cluster.backends);
    let has_ipv6 = config.services.iter().any(|service| service.vip.is_ipv6())
        || backends.any(|backend| backend.address.is_ipv6());
    Plan {
        has_ipv6,
        full_nat_ports: (
            config.gateway.full_nat_ports.first,
            config.gateway.full_nat_ports.last,
        ),
        xdp_mode: config.gateway.xdp_mode,
        manages_vip: config.gateway.manage_vip,
        is_attached,
        services: services.collect(),
    }
}

async fn look_at_backends(network: &Network, config: &Config) -> Result<Vec<Backend>> {
    // The tables first: what is waiting there was sent before this command's own connections.
    let members = tables::read(&config.gateway.pin_dir);
    let names = network.interfaces().await?;
    let (members, names) = (&members, &names);
    let looks = config.clusters.iter().flat_map(|cluster| {
        cluster.backends.iter().map(move |backend| async move {
            let address = backend.address;
            let way = network.way_to(address.ip()).await.ok();
            let members = members.as_ref();
            Backend {
                name: format!("{}/{}", cluster.name, backend.name),
                cluster: cluster.name.clone(),
                address,
                reach: connect(address, cluster.health.timeout).await,
                route: way.map(|way| network::name_route(way, names)),
                members: members.map(|all| all.get(&address).cloned().unwrap_or_default()),
            }
        })
    });
    Ok(join_all(looks).await)
}

/// Opens a connection and closes it without a word; PostgreSQL does not log that.
async fn connect(address: SocketAddr, patience: Duration) -> Reach {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, TimedOut};
    match timeout(patience, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Reach::Accepted,
        Ok(Err(error)) if error.kind() == ConnectionRefused => Reach::Refused,
        Ok(Err(error)) if matches!(error.kind(), TimedOut | HostUnreachable) => Reach::Silent,
        Ok(Err(error)) => Reach::Failed(error.to_string()),
        Err(_) => Reach::Silent,
    }
}
