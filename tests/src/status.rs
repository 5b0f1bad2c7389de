//! What `pglb status --json` prints, as far as tests look at it.

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// The state of every service.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// In the order of the configuration.
    pub services: Vec<Service>,
}

/// One service and the backends of its cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    /// Its name in the configuration.
    pub name: String,
    /// Connections that are open now.
    pub connections: u64,
    /// In the order of the configuration.
    pub backends: Vec<Backend>,
}

/// One backend, as one service sees it.
#[derive(Clone, Debug, Deserialize)]
pub struct Backend {
    /// Its name within the cluster.
    pub name: String,
    /// `ready`, `drain` or `maint`.
    pub admin: String,
    /// `unknown`, `up`, `down`, `starting` or `full`.
    pub health: String,
    /// `primary` or `replica`, once it is known.
    pub role: Option<String>,
    /// Does this service give it new connections?
    pub eligible: bool,
    /// Connections of this service that are open now.
    pub connections: u64,
    /// Why it is as it is.
    pub reason: Option<String>,
}

impl Status {
    /// Reads the JSON text.
    pub fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json)
            .with_context(|| format!("this is not the status that was expected: {json}"))
    }

    /// The service of that name.
    pub fn service(&self, name: &str) -> Result<&Service> {
        let found = self.services.iter().find(|service| service.name == name);
        found.with_context(|| format!("status shows no service {name}"))
    }

    /// A backend as a service sees it.
    pub fn backend(&self, service: &str, name: &str) -> Result<&Backend> {
        let found = self
            .service(service)?
            .backends
            .iter()
            .find(|backend| backend.name == name);
        found.with_context(|| format!("status shows no backend {name} in {service}"))
    }

    /// Names of the backends that a service gives new connections.
    pub fn eligible(&self, service: &str) -> Vec<&str> {
        let service = self.service(service);
        let backends = service
            .map(|service| service.backends.as_slice())
            .unwrap_or_default();
        backends
            .iter()
            .filter(|backend| backend.eligible)
            .map(|backend| backend.name.as_str())
            .collect()
    }

    /// Open connections of a service on a backend; 0 if either is unknown.
    pub fn connections(&self, service: &str, backend: &str) -> u64 {
        self.backend(service, backend)
            .map_or(0, |backend| backend.connections)
    }
}
