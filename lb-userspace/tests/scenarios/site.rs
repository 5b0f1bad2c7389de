//! The configuration of a scenario: clusters, backends and services by name, with addresses made up.

use std::net::SocketAddr;

use lb_userspace::config::{Config, check};

/// One entry of the configuration: what it is called, where it is, and its other keys as TOML.
#[derive(Clone, Debug)]
struct Entry {
    cluster: String,
    name: String,
    address: String,
    keys: Vec<String>,
}

/// What is written in the configuration file at this moment.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    health: Vec<String>,
    backends: Vec<Entry>,
    services: Vec<Entry>,
    last_backend: u16,
    last_service: u16,
}

impl Site {
    /// Neither backends nor services.
    pub(crate) fn empty() -> Self {
        Self {
            health: Vec::new(),
            backends: Vec::new(),
            services: Vec::new(),
            last_backend: 10,
            last_service: 5431,
        }
    }

    /// Cluster `main` of `pg1`, `pg2` and `pg3`, with a service `rw` for its primary and a service
    /// `ro` for its replicas.
    pub(crate) fn of_three() -> Self {
        let mut site = Self::empty();
        ["pg1", "pg2", "pg3"]
            .into_iter()
            .for_each(|name| site.set_backend(name, &[]));
        site.set_service("rw", "primary", &[]);
        site.set_service("ro", "replica", &[]);
        site
    }

    /// Sets keys of every cluster's health section: `interval=1s`.
    pub(crate) fn set_health(&mut self, keys: &[&str]) {
        set(&mut self.health, keys);
    }

    /// Adds a backend, or sets keys of one that is there. Its name is `pg1`, or `other/pg1` in
    /// another cluster than `main`.
    pub(crate) fn set_backend(&mut self, name: &str, keys: &[&str]) {
        if self.find_backend(name).is_none() {
            let (cluster, name) = name.split_once('/').unwrap_or(("main", name));
            self.last_backend += 1;
            self.backends.push(Entry {
                cluster: cluster.to_owned(),
                name: name.to_owned(),
                address: self.backend_address(),
                keys: Vec::new(),
            });
        }
        let place = self.find_backend(name).unwrap();
        set(&mut self.backends[place].keys, keys);
    }

    /// Adds a service over cluster `main`, or sets keys of one that is there.
    pub(crate) fn set_service(&mut self, name: &str, role: &str, keys: &[&str]) {
        if self.find_service(name).is_none() {
            self.last_service += 1;
            self.services.push(Entry {
                cluster: "main".to_owned(),
                name: name.to_owned(),
                address: format!("10.71.0.100:{}", self.last_service),
                keys: Vec::new(),
            });
        }
        self.set_keys(name, &[&format!("role={role}")]);
        self.set_keys(name, keys);
    }

    /// Sets keys of a service that is there.
    pub(crate) fn set_keys(&mut self, service: &str, keys: &[&str]) {
        let place = self.find_service(service).unwrap();
        set(&mut self.services[place].keys, keys);
    }

    /// Lets a service stand before another cluster.
    pub(crate) fn set_cluster(&mut self, service: &str, cluster: &str) {
        let place = self.find_service(service).unwrap();
        self.services[place].cluster = cluster.to_owned();
    }

    pub(crate) fn remove_backend(&mut self, name: &str) {
        let place = self.find_backend(name).unwrap();
        self.backends.remove(place);
    }

    pub(crate) fn remove_service(&mut self, name: &str) {
        let place = self.find_service(name).unwrap();
        self.services.remove(place);
    }

    pub(crate) fn rename_backend(&mut self, name: &str, new: &str) {
        let place = self.find_backend(name).unwrap();
        self.backends[place].name = new.to_owned();
    }

    pub(crate) fn rename_service(&mut self, name: &str, new: &str) {
        let place = self.find_service(name).unwrap();
        self.services[place].name = new.to_owned();
    }

    /// Gives a backend an address that no other has had: another server behind the same name.
    pub(crate) fn move_backend(&mut self, name: &str) {
        let place = self.find_backend(name).unwrap();
        self.last_backend += 1;
        self.backends[place].address = self.backend_address();
    }

    /// Gives a service a VIP that no other has had.
    pub(crate) fn move_service(&mut self, name: &str) {
        let place = self.find_service(name).unwrap();
        self.last_service += 1;
        self.services[place].address = format!("10.71.0.100:{}", self.last_service);
    }

    fn backend_address(&self) -> String {
        let [high, low] = self.last_backend.to_be_bytes();
        format!("10.72.{high}.{low}:5432")
    }

    /// Where a backend is.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let place = self
            .find_backend(name)
            .unwrap_or_else(|| panic!("the scenario has no backend {name}"));
        self.backends[place].address.parse().unwrap()
    }

    /// The configuration, by way of its text.
    pub(crate) fn config(&self) -> Config {
        let text = self.text();
        check("scenario.toml", &text).unwrap_or_else(|errors| panic!("{errors:?} in\n{text}"))
    }

    fn text(&self) -> String {
        let mut text = "[gateway]\ninterfaces = [\"eth0\"]\n".to_owned();
        let mut clusters: Vec<&str> = self.backends.iter().map(|b| b.cluster.as_str()).collect();
        clusters.sort_unstable();
        clusters.dedup();
        for cluster in clusters {
            text += &format!("[cluster.{cluster}]\nbackends = [\n");
            for backend in self.backends.iter().filter(|b| b.cluster == cluster) {
                text += &format!(
                    "  {{ name = \"{}\", address = \"{}\"",
                    backend.name, backend.address
                );
                text.extend(backend.keys.iter().map(|key| format!(", {}", toml(key))));
                text += " },\n";
            }
            text += &format!("]\n[cluster.{cluster}.health]\n");
            text.extend(self.health.iter().map(|key| toml(key) + "\n"));
        }
        for service in &self.services {
            text += &format!(
                "[[service]]\nname = \"{}\"\nvip = \"{}\"\ncluster = \"{}\"\n",
                service.name, service.address, service.cluster
            );
            text.extend(service.keys.iter().map(|key| toml(key) + "\n"));
        }
        text
    }

    fn find_backend(&self, name: &str) -> Option<usize> {
        let (cluster, name) = name.split_once('/').unwrap_or(("main", name));
        let is_it = |entry: &Entry| entry.cluster == cluster && entry.name == name;
        self.backends.iter().position(is_it)
    }

    fn find_service(&self, name: &str) -> Option<usize> {
        self.services.iter().position(|entry| entry.name == name)
    }
}

/// Sets keys (`weight=0`) among those that are set.
fn set(keys: &mut Vec<String>, new: &[&str]) {
    for key in new {
        let name = key.split('=').next().unwrap_or(key);
        keys.retain(|known| known.split('=').next() != Some(name));
        keys.push((*key).to_owned());
    }
}

/// `weight=0` as TOML: numbers and lists as they are, everything else as a string.
fn toml(key: &str) -> String {
    let (name, value) = key.split_once('=').unwrap_or((key, ""));
    if value.starts_with('[') || value.parse::<u64>().is_ok() {
        format!("{name} = {value}")
    } else {
        format!("{name} = \"{value}\"")
    }
}
