//! From the text of a file to a [`Config`]: each key read once, with its rule and its default.

mod service;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use lb_common::limits::MAX_WEIGHT;

use super::file::{Entry, Findings, Section};
use super::rules;
use super::units::parse_size;
use super::value::{
    BACKEND_ADDRESS, NAME, absolute_path, endpoint, filled, interface_name, listen_address,
    plain_name, socket_path, word,
};
use super::{
    Backend, Cluster, Config, ConfigError, DEFAULT_PIN_DIR, DEFAULT_SOCKET, Gateway, Health,
    PortRange, ProbeKind, Tls, XdpMode,
};

use service::read_service;
pub(crate) use service::{NetworkList, ServiceDraft};

/// Sizes of the connection table. Two flows for each connection, and as many spare ones, must be a
/// number that fits a `u32`.
pub(crate) const CONNECTIONS: RangeInclusive<u32> = 1024..=4_194_304;
const DEFAULT_CONNECTIONS: u32 = 65_536;
const _: () = assert!(*CONNECTIONS.end() <= u32::MAX / 4);
/// What `weight` may be; 0 is no new connections.
pub(crate) const WEIGHTS: RangeInclusive<u32> = 0..=MAX_WEIGHT as u32;
const DEFAULT_WEIGHT: u16 = 100;
const PROBE_TIMES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// A checked value and the entry that it was read from.
#[derive(Clone)]
pub(crate) struct Written<'a, 't, T> {
    pub(crate) value: T,
    pub(crate) entry: Entry<'a, 't>,
}

/// A cluster as far as it could be read.
pub(crate) struct ClusterDraft<'a, 't> {
    pub(crate) name: Written<'a, 't, String>,
    pub(crate) backends: Vec<BackendDraft<'a, 't>>,
    pub(crate) health: HealthDraft<'a, 't>,
}

/// A backend as far as it could be read.
pub(crate) struct BackendDraft<'a, 't> {
    pub(crate) entry: Entry<'a, 't>,
    pub(crate) name: Option<Written<'a, 't, String>>,
    pub(crate) address: Option<Written<'a, 't, SocketAddr>>,
    weight: u16,
    max_connections: Option<u32>,
}

/// The health section, with the entries that rules of more than one key point at.
pub(crate) struct HealthDraft<'a, 't> {
    pub(crate) health: Health,
    pub(crate) fast_interval: Option<Entry<'a, 't>>,
}

/// Checks the text of a configuration file; `path` is only used to name the file in errors.
///
/// All mistakes are reported at once, in the order of their lines. Only a text that is no TOML
/// ends with its first mistake.
pub fn check(path: impl AsRef<Path>, text: &str) -> Result<Config, Vec<ConfigError>> {
    let findings = Findings::new(path.as_ref().display().to_string(), text);
    let config = findings.parse().and_then(|table| {
        read_file(Section::root(&findings, &table)).filter(|_| findings.is_clean())
    });
    config.ok_or_else(|| findings.into_errors())
}

fn read_file(root: Section<'_, '_>) -> Option<Config> {
    let gateway = root
        .required("gateway", "a [gateway] section names the interfaces")
        .and_then(|entry| entry.section("must be a section, write [gateway]"))
        .and_then(read_gateway);
    let clusters: Vec<ClusterDraft<'_, '_>> = root
        .required("cluster", "a [cluster.NAME] section names the backends")
        .and_then(|entry| entry.section("must be sections, write [cluster.NAME]"))
        .map(|names| {
            names
                .entries()
                .into_iter()
                .filter_map(read_cluster)
                .collect()
        })
        .unwrap_or_default();
    let services: Vec<ServiceDraft<'_, '_>> = root
        .required("service", "a [[service]] section names the VIP")
        .and_then(|entry| entry.list("must be sections, write [[service]]"))
        .map(|services| services.iter().filter_map(read_service).collect())
        .unwrap_or_default();
    root.finish();
    rules::judge(&clusters, &services);
    Some(Config {
        gateway: gateway?,
        clusters: clusters
            .into_iter()
            .map(ClusterDraft::finish)
            .collect::<Option<_>>()?,
        services: services
            .into_iter()
            .map(ServiceDraft::finish)
            .collect::<Option<_>>()?,
    })
}

fn read_gateway(section: Section<'_, '_>) -> Option<Gateway> {
    const INTERFACES: &str = "must be a list of interface names, for example [\"eth0\", \"eth1\"]";
    let interfaces = section
        .required("interfaces", INTERFACES)
        .and_then(|entry| entry.list(INTERFACES))
        .map(|interfaces| read_interfaces(&interfaces));
    let gateway = Gateway {
        interfaces: interfaces.unwrap_or_default(),
        xdp_mode: section.or_default("xdp_mode", XdpMode::Auto, word),
        max_connections: section.or_default("max_connections", DEFAULT_CONNECTIONS, |entry| {
            entry.number(CONNECTIONS)
        }),
        control_socket: section.or_default("control_socket", DEFAULT_SOCKET.into(), |entry| {
            entry.parsed(socket_path)
        }),
        metrics: section
            .optional("metrics")
            .and_then(|entry| entry.parsed(listen_address)),
        manage_vip: section.or_default("manage_vip", true, Entry::flag),
        pin_dir: section.or_default("pin_dir", DEFAULT_PIN_DIR.into(), |entry| {
            entry.parsed(absolute_path)
        }),
        full_nat_ports: section.or_default("full_nat_ports", PortRange::DEFAULT, word),
    };
    section.finish();
    Some(gateway)
}

fn read_interfaces(entries: &[Entry<'_, '_>]) -> Vec<String> {
    let mut interfaces: Vec<String> = Vec::new();
    for entry in entries {
        let Some(name) = entry.parsed(interface_name) else {
            continue;
        };
        if interfaces.contains(&name) {
            entry.refuse("must be named once");
        }
        interfaces.push(name);
    }
    interfaces
}

fn read_cluster<'a, 't>((name, entry): (String, Entry<'a, 't>)) -> Option<ClusterDraft<'a, 't>> {
    const BACKENDS: &str = "must be a list of backends, for example \
        [{ name = \"pg1\", address = \"10.72.0.11:5432\" }]";
    if let Err(rule) = plain_name(&name) {
        entry.refuse_key(rule);
    }
    let section = entry.section("must be a section, write [cluster.NAME]")?;
    let backends = section
        .required("backends", BACKENDS)
        .and_then(|entry| entry.list(BACKENDS))
        .map(|backends| backends.iter().filter_map(read_backend).collect())
        .unwrap_or_default();
    let health = section.optional("health");
    let health = match health.and_then(|entry| entry.section("must be a section of its own")) {
        Some(health) => read_health(health),
        None => HealthDraft::default(),
    };
    section.finish();
    Some(ClusterDraft {
        name: Written { value: name, entry },
        backends,
        health,
    })
}

fn read_backend<'a, 't>(entry: &Entry<'a, 't>) -> Option<BackendDraft<'a, 't>> {
    let section = entry.section("must be { name = \"...\", address = \"ADDRESS:PORT\" }")?;
    let draft = BackendDraft {
        entry: entry.clone(),
        name: section
            .required("name", NAME)
            .and_then(|entry| written(entry, plain_name)),
        address: section
            .required("address", BACKEND_ADDRESS)
            .and_then(|entry| written(entry, |text| endpoint(text, BACKEND_ADDRESS))),
        weight: section.or_default("weight", DEFAULT_WEIGHT, |entry| {
            entry
                .number(WEIGHTS)
                .and_then(|weight| u16::try_from(weight).ok())
        }),
        max_connections: section
            .optional("max_connections")
            .and_then(|entry| entry.number(1..=*CONNECTIONS.end())),
    };
    section.finish();
    Some(draft)
}

fn read_health<'a, 't>(section: Section<'a, 't>) -> HealthDraft<'a, 't> {
    let default = HealthDraft::default().health;
    let time = |entry: &Entry<'_, '_>| entry.duration(PROBE_TIMES);
    let interval = section.or_default("interval", default.interval, time);
    let draft = HealthDraft {
        fast_interval: section.optional("fast_interval"),
        health: Health {
            kind: section.or_default("kind", default.kind, word),
            user: section.or_default("user", default.user, |entry| entry.parsed(filled)),
            database: section
                .or_default("database", default.database, |entry| entry.parsed(filled)),
            password_file: section
                .optional("password_file")
                .and_then(|entry| entry.parsed(absolute_path)),
            tls: section.or_default("tls", default.tls, word),
            ca_file: section
                .optional("ca_file")
                .and_then(|entry| entry.parsed(absolute_path)),
            interval,
            // A short interval without a fast one of its own is fast enough.
            fast_interval: section.or_default(
                "fast_interval",
                default.fast_interval.min(interval),
                time,
            ),
            timeout: section.or_default("timeout", default.timeout, time),
            rise: section.or_default("rise", default.rise, |entry| entry.number(1..=100)),
            fall: section.or_default("fall", default.fall, |entry| entry.number(1..=100)),
            max_lag: section
                .or_default("max_lag", default.max_lag, |entry| entry.parsed(parse_size)),
        },
    };
    section.finish();
    draft
}

impl Default for HealthDraft<'_, '_> {
    fn default() -> Self {
        Self {
            fast_interval: None,
            health: Health {
                kind: ProbeKind::Postgres,
                user: "pglb".into(),
                database: "postgres".into(),
                password_file: None,
                tls: Tls::Prefer,
                ca_file: None,
                interval: Duration::from_secs(1),
                fast_interval: Duration::from_millis(250),
                timeout: Duration::from_secs(1),
                rise: 2,
                fall: 3,
                max_lag: 64 << 20,
            },
        }
    }
}

fn written<'a, 't, T>(
    entry: Entry<'a, 't>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<Written<'a, 't, T>> {
    let value = entry.parsed(parse)?;
    Some(Written { value, entry })
}

impl ClusterDraft<'_, '_> {
    fn finish(self) -> Option<Cluster> {
        Some(Cluster {
            name: self.name.value,
            backends: self
                .backends
                .into_iter()
                .map(BackendDraft::finish)
                .collect::<Option<_>>()?,
            health: self.health.health,
        })
    }
}

impl BackendDraft<'_, '_> {
    fn finish(self) -> Option<Backend> {
        Some(Backend {
            name: self.name?.value,
            address: self.address?.value,
            weight: self.weight,
            max_connections: self.max_connections,
        })
    }
}

#[cfg(test)]
mod tests;
