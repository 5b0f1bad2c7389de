//! What a configuration means, in the words of the person who will be asked about it at night.

use std::fmt::Write as _;

use super::plural;
use crate::config::units::{show_duration, show_size};
use crate::config::{
    Algorithm, Cluster, Config, Fallback, Forwarding, Gateway, HashOn, Network, NoBackend, OnDown,
    ProbeKind, Role, Service,
};

/// The gateway, the clusters and the services in a few lines each.
pub fn meaning(config: &Config) -> String {
    let mut text = gateway(&config.gateway);
    for cluster in &config.clusters {
        text.push('\n');
        text.push_str(&describe_cluster(cluster));
    }
    for service in &config.services {
        text.push('\n');
        text.push_str(&describe_service(service, &config.gateway));
    }
    text
}

fn gateway(gateway: &Gateway) -> String {
    let metrics = match gateway.metrics {
        Some(address) => format!("metrics on {address}"),
        None => "no metrics".to_owned(),
    };
    let vips = match gateway.manage_vip {
        true => "pglb adds the VIPs",
        false => "something else adds the VIPs",
    };
    format!(
        "gateway: XDP {} on {}, {} at most, {metrics}, {vips}\n",
        gateway.xdp_mode,
        gateway.interfaces.join(", "),
        plural(gateway.max_connections.into(), "connection"),
    )
}

fn describe_cluster(cluster: &Cluster) -> String {
    let health = &cluster.health;
    let count = u64::try_from(cluster.backends.len()).unwrap_or(u64::MAX);
    let mut text = format!("cluster {}: {}", cluster.name, plural(count, "backend"));
    let probe = match health.kind {
        ProbeKind::Postgres => format!(
            "SQL as {} in database {}, tls {}",
            health.user, health.database, health.tls
        ),
        ProbeKind::Tcp => "a TCP handshake".to_owned(),
        ProbeKind::None => String::new(),
    };
    if health.kind == ProbeKind::None {
        text.push_str(", never probed\n");
    } else {
        let _ = writeln!(
            text,
            ", probed by {probe}\n  every {} ({} while changing), timeout {}; down after {}, up after {}",
            show_duration(health.interval),
            show_duration(health.fast_interval),
            show_duration(health.timeout),
            plural(health.fall.into(), "failure"),
            plural(health.rise.into(), "good probe"),
        );
    }
    if health.kind == ProbeKind::Postgres {
        let lag = show_size(health.max_lag);
        let _ = writeln!(
            text,
            "  a replica more than {lag} behind gets no new connections"
        );
    }
    for backend in &cluster.backends {
        let (name, address, weight) = (&backend.name, backend.address, backend.weight);
        let _ = write!(text, "  {name}  {address}  weight {weight}");
        if let Some(most) = backend.max_connections {
            let _ = write!(text, ", {} at most", plural(most.into(), "connection"));
        }
        text.push('\n');
    }
    text
}

fn describe_service(service: &Service, gateway: &Gateway) -> String {
    let whom = match (service.role, service.fallback) {
        (Role::Primary, _) => "the primary",
        (Role::Replica, Fallback::Primary) => "the replicas, or the primary when none is eligible,",
        (Role::Replica, Fallback::None) => "the replicas",
        (Role::Any, _) => "any backend",
    };
    let how = match (service.algorithm, service.hash_on) {
        (Algorithm::Hash, HashOn::Address) => "hash of the client's address",
        (Algorithm::Hash, HashOn::AddressAndPort) => "hash of the client's address and port",
        (Algorithm::LeastConnections | Algorithm::RoundRobin, _) => service.algorithm.as_str(),
    };
    let lost = match service.on_down {
        OnDown::Reset => "its connections are reset",
        OnDown::Keep => "its connections are kept",
    };
    let none = match service.no_backend {
        NoBackend::Reject => "rejected at once".to_owned(),
        NoBackend::Hold => format!("held for {}", show_duration(service.hold_time)),
    };
    format!(
        "service {}: {} goes to {whom} of {}\n  {how}, for {}\n  {}\n  {}\n  \
         a backend down or in another role: {lost}; no backend eligible: {none}\n",
        service.name,
        service.vip,
        service.cluster,
        clients(service),
        forwarding(service, gateway),
        limits(service),
    )
}

fn clients(service: &Service) -> String {
    let join = |networks: &[Network]| {
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        networks.join(", ")
    };
    let allowed = match &service.allow {
        None => "everyone".to_owned(),
        Some(networks) => join(networks),
    };
    match &service.deny[..] {
        [] => allowed,
        denied => format!("{allowed}, not for {}", join(denied)),
    }
}

fn forwarding(service: &Service, gateway: &Gateway) -> String {
    match service.forwarding {
        Forwarding::Nat => "nat: backends send their replies through the gateway".to_owned(),
        Forwarding::FullNat => format!(
            "full-nat: backends see the gateway as client, with ports {}",
            gateway.full_nat_ports
        ),
        Forwarding::Dsr => format!(
            "dsr: each backend has {} on its loopback and answers clients itself",
            service.vip.ip()
        ),
    }
}

fn limits(service: &Service) -> String {
    let most = service
        .source_max_connections
        .map(|most| format!("{} at most", plural(most.into(), "connection")));
    let rate = service
        .source_max_rate
        .map(|rate| format!("{} a second at most", plural(rate.into(), "new connection")));
    let limits: Vec<String> = most.into_iter().chain(rate).collect();
    let limits = match &limits[..] {
        [] => "no limit".to_owned(),
        limits => limits.join(", "),
    };
    let silent = match service.idle_limit {
        None => "kept".to_owned(),
        Some(limit) => format!("reset after {}", show_duration(limit)),
    };
    format!("a client address: {limits}; a silent connection: {silent}")
}
