//! The `[[service]]` sections.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::{CONNECTIONS, Written, written};
use crate::config::file::{Entry, Section};
use crate::config::units::{parse_duration, show_duration};
use crate::config::value::{NAME, VIP, endpoint, filled, plain_name, word};
use crate::config::{
    Algorithm, Fallback, Forwarding, HashOn, Network, NoBackend, OnDown, Role, Service,
};

const HOLD_TIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);
const SOURCE_RATES: RangeInclusive<u32> = 1..=1_000_000;
/// What Linux needs by default to find out that a silent peer is gone: `tcp_keepalive_time` and
/// nine times `tcp_keepalive_intvl`. Who ends a connection sooner ends one that is alive.
const KEEPALIVE: Duration = Duration::from_secs(7200 + 9 * 75);
/// The data plane's clock wraps after 2.3 years.
const LONGEST_IDLE_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);
/// pglb does not see what the server says under `dsr`, so a connection that the server has reset
/// would otherwise stay in the table for ever.
const DSR_IDLE_LIMIT: Duration = Duration::from_secs(8000);

/// A service as far as it could be read.
pub(crate) struct ServiceDraft<'a, 't> {
    pub(crate) entry: Entry<'a, 't>,
    pub(crate) name: Option<Written<'a, 't, String>>,
    pub(crate) vip: Option<Written<'a, 't, SocketAddr>>,
    pub(crate) cluster: Option<Written<'a, 't, String>>,
    pub(crate) role: Option<Written<'a, 't, Role>>,
    pub(crate) forwarding: Option<Written<'a, 't, Forwarding>>,
    pub(crate) allow: Option<NetworkList<'a, 't>>,
    pub(crate) deny: Option<NetworkList<'a, 't>>,
    rest: ServiceRest,
}

/// An `allow` or `deny` list.
pub(crate) struct NetworkList<'a, 't> {
    pub(crate) entry: Entry<'a, 't>,
    pub(crate) networks: Vec<Written<'a, 't, Network>>,
}

struct ServiceRest {
    algorithm: Algorithm,
    hash_on: HashOn,
    source_max_connections: Option<u32>,
    source_max_rate: Option<u32>,
    idle_limit: Option<Duration>,
    on_down: OnDown,
    no_backend: NoBackend,
    hold_time: Duration,
    fallback: Fallback,
}

/// Reads one `[[service]]`.
pub(super) fn read_service<'a, 't>(entry: &Entry<'a, 't>) -> Option<ServiceDraft<'a, 't>> {
    const ALLOW: &str = "must be a list of networks, for example [\"10.71.0.0/24\"]; \
        leave it out to allow everyone";
    const DENY: &str = "must be a list of networks, for example [\"10.71.0.66/32\"]; \
        leave it out to deny nobody";
    let section = entry.section("must be a section, write [[service]]")?;
    let draft = ServiceDraft {
        name: section
            .required("name", NAME)
            .and_then(|entry| written(entry, plain_name)),
        vip: section
            .required("vip", VIP)
            .and_then(|entry| written(entry, |text| endpoint(text, VIP))),
        cluster: section
            .required("cluster", "must be the name of a cluster")
            .and_then(|entry| written(entry, filled)),
        role: section
            .required("role", &Role::rule())
            .and_then(|entry| written(entry, Role::from_str)),
        forwarding: section
            .optional("forwarding")
            .and_then(|entry| written(entry, Forwarding::from_str)),
        allow: section
            .optional("allow")
            .and_then(|entry| read_networks(entry, ALLOW)),
        deny: section
            .optional("deny")
            .and_then(|entry| read_networks(entry, DENY)),
        rest: read_rest(&section),
        entry: entry.clone(),
    };
    section.finish();
    Some(draft)
}

fn read_networks<'a, 't>(entry: Entry<'a, 't>, rule: &str) -> Option<NetworkList<'a, 't>> {
    let networks = entry
        .list(rule)?
        .into_iter()
        .filter_map(|entry| written(entry, Network::from_str))
        .collect();
    Some(NetworkList { entry, networks })
}

fn read_rest(section: &Section<'_, '_>) -> ServiceRest {
    ServiceRest {
        algorithm: section.or_default("algorithm", Algorithm::LeastConnections, word),
        hash_on: section.or_default("hash_on", HashOn::AddressAndPort, word),
        source_max_connections: section
            .optional("source_max_connections")
            .and_then(|entry| entry.number(1..=*CONNECTIONS.end())),
        source_max_rate: section
            .optional("source_max_rate")
            .and_then(|entry| entry.number(SOURCE_RATES)),
        idle_limit: section
            .optional("idle_limit")
            .and_then(|entry| entry.parsed(idle_limit)),
        on_down: section.or_default("on_down", OnDown::Reset, word),
        no_backend: section.or_default("no_backend", NoBackend::Reject, word),
        hold_time: section.or_default("hold_time", Duration::from_secs(5), |entry| {
            entry.duration(HOLD_TIMES)
        }),
        fallback: section.or_default("fallback", Fallback::Primary, word),
    }
}

fn idle_limit(text: &str) -> Result<Duration, String> {
    let limit = parse_duration(text)?;
    if limit <= KEEPALIVE {
        return Err(format!(
            "must be over {}, the time in which Linux's keepalive finds that a peer is gone \
             (7200 s and 9 probes 75 s apart)",
            show_duration(KEEPALIVE)
        ));
    }
    if limit > LONGEST_IDLE_LIMIT {
        let longest = show_duration(LONGEST_IDLE_LIMIT);
        return Err(format!("must be at most {longest}"));
    }
    Ok(limit)
}

impl ServiceDraft<'_, '_> {
    /// The service, if nothing is missing.
    pub(super) fn finish(self) -> Option<Service> {
        let forwarding = self.forwarding();
        let networks = |list: NetworkList<'_, '_>| -> Vec<Network> {
            list.networks.into_iter().map(|it| it.value).collect()
        };
        Some(Service {
            name: self.name?.value,
            vip: self.vip?.value,
            cluster: self.cluster?.value,
            role: self.role?.value,
            algorithm: self.rest.algorithm,
            hash_on: self.rest.hash_on,
            forwarding,
            allow: self.allow.map(networks),
            deny: self.deny.map(networks).unwrap_or_default(),
            source_max_connections: self.rest.source_max_connections,
            source_max_rate: self.rest.source_max_rate,
            idle_limit: self.rest.idle_limit.or(match forwarding {
                Forwarding::Nat | Forwarding::FullNat => None,
                Forwarding::Dsr => Some(DSR_IDLE_LIMIT),
            }),
            on_down: self.rest.on_down,
            no_backend: self.rest.no_backend,
            hold_time: self.rest.hold_time,
            fallback: self.rest.fallback,
        })
    }

    fn forwarding(&self) -> Forwarding {
        let written = self.forwarding.as_ref();
        written.map_or(Forwarding::Nat, |forwarding| forwarding.value)
    }
}
