//! Rules that need more than one value: what is unique, what must exist, what fits the tables.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use lb_common::limits::{MAX_BACKENDS, MAX_MEMBERS, MAX_NETWORKS, MAX_SERVICES};

use super::check::{BackendDraft, ClusterDraft, NetworkList, ServiceDraft, Written};
use super::file::Entry;
use super::nearest::nearest;
use super::units::show_duration;
use super::value::family;
use super::{Config, Forwarding, Network, ProbeKind, Role};

/// Entry 0 of the backend table is the gateway itself.
const BACKENDS: usize = MAX_BACKENDS as usize - 1;
const BACKENDS_PER_SERVICE: usize = MAX_MEMBERS as usize;
const SERVICES: usize = MAX_SERVICES as usize;
const ALLOWED: usize = MAX_NETWORKS as usize;

type Clusters<'d, 'a, 't> = &'d [ClusterDraft<'a, 't>];
type Services<'d, 'a, 't> = &'d [ServiceDraft<'a, 't>];

/// Holds everything that was read against everything else; mistakes become findings.
pub(crate) fn judge(clusters: Clusters<'_, '_, '_>, services: Services<'_, '_, '_>) {
    refuse_repeated_names(clusters, services);
    refuse_repeated_addresses(clusters, services);
    refuse_loose_ends(clusters, services);
    refuse_roles_without_sql(clusters, services);
    refuse_mixed_families(clusters, services);
    refuse_other_ports(clusters, services);
    refuse_too_many(clusters, services);
    for service in services {
        refuse_networks_of_both_lists(service);
    }
    for cluster in clusters {
        refuse_odd_health(cluster);
    }
}

fn refuse_repeated_names(clusters: Clusters<'_, '_, '_>, services: Services<'_, '_, '_>) {
    let names = services.iter().filter_map(|service| service.name.as_ref());
    refuse_repeated(names, "a service");
    for cluster in clusters {
        let names = cluster
            .backends
            .iter()
            .filter_map(|backend| backend.name.as_ref());
        refuse_repeated(names, "a backend of this cluster");
    }
}

fn refuse_repeated_addresses(clusters: Clusters<'_, '_, '_>, services: Services<'_, '_, '_>) {
    let vips = services.iter().filter_map(|service| service.vip.as_ref());
    refuse_repeated(vips, "a service");
    let backends = || clusters.iter().flat_map(|cluster| &cluster.backends);
    let addresses = || backends().filter_map(|backend| backend.address.as_ref());
    refuse_repeated(addresses(), "a backend");
    let hosts: HashMap<IpAddr, usize> = addresses()
        .map(|address| (address.value.ip(), address.entry.line()))
        .collect();
    for vip in services.iter().filter_map(|service| service.vip.as_ref()) {
        if let Some(line) = hosts.get(&vip.value.ip()) {
            vip.entry.refuse(format!(
                "must not be the address of a backend, line {line} has it"
            ));
        }
    }
}

fn refuse_repeated<'d, 'a: 'd, 't: 'a, T: Eq + Hash + 'd>(
    all: impl Iterator<Item = &'d Written<'a, 't, T>>,
    owner: &str,
) {
    let mut lines: HashMap<&T, usize> = HashMap::new();
    for Written { value, entry } in all {
        match lines.get(value) {
            Some(line) => entry.refuse(format!("is taken, {owner} on line {line} has it")),
            None => {
                lines.insert(value, entry.line());
            }
        }
    }
}

fn refuse_loose_ends(clusters: Clusters<'_, '_, '_>, services: Services<'_, '_, '_>) {
    // Without one side of the table there is a mistake already, and nothing to hold the other to.
    if clusters.is_empty() || services.is_empty() {
        return;
    }
    let exists = |name: &str| clusters.iter().any(|cluster| cluster.name.value == name);
    let used: Vec<&Written<'_, '_, String>> = services
        .iter()
        .filter_map(|service| service.cluster.as_ref())
        .collect();
    for Written { value, entry } in used.iter().filter(|written| !exists(&written.value)) {
        let names = clusters.iter().map(|cluster| cluster.name.value.as_str());
        entry.refuse(match nearest(value, names) {
            Some(near) => format!("no such cluster, did you mean \"{near}\"?"),
            None => "no such cluster, write [cluster.NAME] with its backends".to_owned(),
        });
    }
    // A service whose cluster is misspelt or missing most likely meant the one that looks unused:
    // that is one mistake, not two.
    let is_certain = used.len() == services.len() && used.iter().all(|name| exists(&name.value));
    if !is_certain {
        return;
    }
    for Written { value, entry } in clusters.iter().map(|cluster| &cluster.name) {
        if !used.iter().any(|name| name.value == *value) {
            entry.refuse_key("no service uses this cluster");
        }
    }
}

fn refuse_roles_without_sql(clusters: Clusters<'_, '_, '_>, services: Services<'_, '_, '_>) {
    for service in services {
        let (Some(role), Some(cluster)) = (&service.role, cluster_of(clusters, service)) else {
            continue;
        };
        if let (Role::Primary | Role::Replica, kind @ (ProbeKind::Tcp | ProbeKind::None)) =
            (role.value, cluster.health.health.kind)
        {
            role.entry.refuse(format!(
                "must be \"any\", because cluster {} has health.kind = \"{kind}\", \
                 which tells no role",
                cluster.name.value
            ));
        }
    }
}

/// A packet keeps its family on the way, so all addresses of a service have the same.
fn refuse_mixed_families(clusters: Clusters<'_, '_, '_>, services: Services<'_, '_, '_>) {
    for cluster in clusters {
        refuse_mixed_backends(cluster);
    }
    for service in services {
        let Some(vip) = &service.vip else {
            continue;
        };
        let cluster = cluster_of(clusters, service);
        let backends = cluster.map_or_else(Vec::new, |cluster| addresses(cluster).collect());
        let is_other = |it: &&Address<'_, '_>| it.value.is_ipv4() != vip.value.is_ipv4();
        // A cluster that is mixed has its sentence, and what the VIP must be is not known yet.
        match backends.iter().copied().find(is_other) {
            Some(backend) if backends.iter().all(is_other) => vip.entry.refuse(format!(
                "must be {}, like the backend on line {}",
                family(backend.value.ip()),
                backend.entry.line()
            )),
            Some(_) => {}
            None => refuse_other_networks(service, vip),
        }
    }
}

type Address<'a, 't> = Written<'a, 't, SocketAddr>;

fn refuse_mixed_backends(cluster: &ClusterDraft<'_, '_>) {
    let mut backends = addresses(cluster);
    let Some(first) = backends.next() else {
        return;
    };
    for backend in backends.filter(|it| it.value.is_ipv4() != first.value.is_ipv4()) {
        backend.entry.refuse(format!(
            "must be {}, like the backend on line {}: a cluster is of one address family",
            family(first.value.ip()),
            first.entry.line()
        ));
    }
}

fn refuse_other_networks(service: &ServiceDraft<'_, '_>, vip: &Address<'_, '_>) {
    for network in networks(&service.allow).chain(networks(&service.deny)) {
        if network.value.address().is_ipv4() != vip.value.is_ipv4() {
            let family = family(vip.value.ip());
            network.entry.refuse(format!(
                "must be an {family} network, because the VIP is {family} and so are its clients"
            ));
        }
    }
}

fn refuse_other_ports(clusters: Clusters<'_, '_, '_>, services: Services<'_, '_, '_>) {
    for service in services {
        let (Some(vip), Some(forwarding)) = (&service.vip, &service.forwarding) else {
            continue;
        };
        match forwarding.value {
            Forwarding::Nat | Forwarding::FullNat => continue,
            Forwarding::Dsr => {}
        }
        let port = vip.value.port();
        let cluster = cluster_of(clusters, service).into_iter();
        let others: Vec<String> = cluster
            .flat_map(addresses)
            .filter(|backend| backend.value.port() != port)
            .map(|it| format!("line {} has {}", it.entry.line(), it.value.port()))
            .collect();
        if !others.is_empty() {
            forwarding.entry.refuse(format!(
                "must have all backends on the VIP's port {port}, because it writes no ports: {}",
                others.join(", ")
            ));
        }
    }
}

fn refuse_networks_of_both_lists(service: &ServiceDraft<'_, '_>) {
    let allowed: HashMap<Network, &Entry<'_, '_>> = networks(&service.allow)
        .map(|allowed| (allowed.value, &allowed.entry))
        .collect();
    for denied in networks(&service.deny) {
        if let Some(allowed) = allowed.get(&denied.value) {
            let line = allowed.line();
            denied
                .entry
                .refuse(format!("must not be in allow as well, line {line} has it"));
        }
    }
}

fn cluster_of<'d, 'a, 't>(
    clusters: Clusters<'d, 'a, 't>,
    service: &ServiceDraft<'_, '_>,
) -> Option<&'d ClusterDraft<'a, 't>> {
    let name = service.cluster.as_ref()?;
    let mut clusters = clusters.iter();
    clusters.find(|cluster| cluster.name.value == name.value)
}

fn addresses<'d, 'a, 't>(
    cluster: &'d ClusterDraft<'a, 't>,
) -> impl Iterator<Item = &'d Address<'a, 't>> {
    let backends: &'d [BackendDraft<'a, 't>] = &cluster.backends;
    backends.iter().filter_map(|it| it.address.as_ref())
}

fn networks<'d, 'a, 't>(
    list: &'d Option<NetworkList<'a, 't>>,
) -> impl Iterator<Item = &'d Written<'a, 't, Network>> {
    list.iter().flat_map(|list| &list.networks)
}

fn refuse_too_many(clusters: Clusters<'_, '_, '_>, services: Services<'_, '_, '_>) {
    if let Some(service) = services.get(SERVICES) {
        service
            .entry
            .refuse_key(format!("must be at most {SERVICES} services"));
    }
    let mut total = 0;
    for cluster in clusters {
        if let Some(backend) = cluster.backends.get(BACKENDS_PER_SERVICE) {
            let most = BACKENDS_PER_SERVICE;
            backend
                .entry
                .refuse_key(format!("must be at most {most} backends in a cluster"));
        }
        let left = BACKENDS.saturating_sub(total);
        if let Some(backend) = cluster.backends.get(left).filter(|_| total <= BACKENDS) {
            backend
                .entry
                .refuse_key(format!("must be at most {BACKENDS} backends in all"));
        }
        total += cluster.backends.len();
    }
    let mut total = 0;
    let lists = services
        .iter()
        .flat_map(|service| [&service.allow, &service.deny]);
    for list in lists.flatten() {
        total += list.networks.len();
        if total > ALLOWED {
            list.entry.refuse_key(format!(
                "must be at most {ALLOWED} networks in all services"
            ));
            break;
        }
    }
}

fn refuse_odd_health(cluster: &ClusterDraft<'_, '_>) {
    let draft = &cluster.health;
    let health = &draft.health;
    if let Some(entry) = draft.fast_interval.as_ref()
        && health.fast_interval > health.interval
    {
        let interval = show_duration(health.interval);
        entry.refuse(format!("must be at most the interval, which is {interval}"));
    }
}

/// What is possible but most likely not meant, one sentence each; looks at the file system.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for cluster in &config.clusters {
        let (name, health) = (&cluster.name, &cluster.health);
        let files = [
            ("password_file", &health.password_file),
            ("ca_file", &health.ca_file),
        ];
        for (key, file) in files {
            if let Some(file) = file.as_deref().filter(|file| !file.exists()) {
                let file = file.display();
                warnings.push(format!(
                    "cluster.{name}.health.{key} = \"{file}\": no such file"
                ));
            }
        }
    }
    warnings
}
