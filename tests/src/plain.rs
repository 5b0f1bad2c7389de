//! A site without PostgreSQL: a network, a small TCP server on each host, pglb before them.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Result;

use crate::{
    gateway::{Config, Gateway},
    listener::{Listener, Manner},
    site::PATIENCE,
    topology::{Host, Network, PORT, Plan, VIP},
};

/// The only service.
pub const PLAIN: &str = "plain";

/// Network, servers and pglb. Fields are in the order in which they must end.
#[derive(Debug)]
pub struct PlainSite {
    /// pglb, with every backend eligible.
    pub gateway: Gateway,
    /// The servers, by host.
    pub listeners: Vec<Listener>,
    /// The namespaces.
    pub network: Arc<Network>,
}

impl PlainSite {
    /// A network of this plan, servers of this manner, and pglb with [`Config::plain`] and these lines more in its
    /// service.
    pub fn start(plan: Plan, manner: Manner, lines: &str) -> Result<Self> {
        Self::prepared(plan, manner, lines, |_| Ok(()))
    }

    /// As [`Self::start`], with something done to the network before pglb starts.
    pub fn prepared(
        plan: Plan,
        manner: Manner,
        lines: &str,
        prepare: impl FnOnce(&Network) -> Result<()>,
    ) -> Result<Self> {
        let network = Network::of_plan(plan)?;
        prepare(&network)?;
        let listen = |host: &Host| Listener::start(host.namespace(), PORT, manner);
        let listeners = network.hosts().iter().map(listen).collect::<Result<_>>()?;
        let config = Config::plain().with_service_line(lines);
        let site = Self {
            gateway: Gateway::start(&network, &config.fitted_to(&network))?,
            listeners,
            network,
        };
        let hosts: Vec<&str> = site.network.hosts().iter().map(Host::name).collect();
        site.gateway.await_eligible(PLAIN, &hosts, PATIENCE)?;
        Ok(site)
    }

    /// Where the service answers.
    pub fn target(&self) -> SocketAddr {
        (self.network.address(VIP), PORT).into()
    }

    /// Waits until pglb counts so many connections.
    pub fn await_connections(&self, count: u64) -> Result<()> {
        let what = format!("{count} connections in the status");
        let is_it = |status: &crate::status::Status| {
            let service = status.service(PLAIN);
            service.is_ok_and(|service| service.connections == count)
        };
        self.gateway.await_status(&what, PATIENCE, is_it).map(drop)
    }
}
