//! The demo's site with everything running: a network of three database hosts, a cluster on them, pglb before them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;

use crate::{
    gateway::{Config, Gateway},
    postgres::{Cluster, Options},
    session::Session,
    topology::{Host, Network, Plan, VIP},
    traffic,
};

/// The demo's service for the primary.
pub const RW: &str = "shop-rw";
/// The demo's service for the replicas.
pub const RO: &str = "shop-ro";
/// Where [`RW`] answers, over IPv4.
pub const RW_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(VIP), 5432);
/// Where [`RO`] answers, over IPv4.
pub const RO_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(VIP), 5433);
/// Limit for anything that should take a second or two.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Network, servers and pglb. Fields are in the order in which they must end.
#[derive(Debug)]
pub struct Site {
    /// pglb, with the services of its configuration ready.
    pub gateway: Gateway,
    /// The servers: the first is the primary.
    pub cluster: Cluster,
    /// The namespaces.
    pub network: Arc<Network>,
}

impl Site {
    /// A network of three hosts, a cluster with these options, and pglb with this configuration, which has the
    /// demo's services; all backends are up.
    pub fn start(options: Options, config: &Config) -> Result<Self> {
        Self::of_plan(Plan::default(), options, config)
    }

    /// As [`Self::start`] with another network, to which the configuration is fitted.
    pub fn of_plan(plan: Plan, options: Options, config: &Config) -> Result<Self> {
        Self::prepared(plan, options, config, |_| Ok(()))
    }

    /// As [`Self::of_plan`], with something done to the network before pglb starts.
    pub fn prepared(
        plan: Plan,
        options: Options,
        config: &Config,
        prepare: impl FnOnce(&Network) -> Result<()>,
    ) -> Result<Self> {
        let network = Network::of_plan(plan)?;
        prepare(&network)?;
        let cluster = Cluster::start(&network, options)?;
        let gateway = Gateway::start(&network, &config.fitted_to(&network))?;
        let site = Self {
            gateway,
            cluster,
            network,
        };
        site.await_all_up()?;
        Ok(site)
    }

    /// Waits until the primary serves [`RW`] and every replica [`RO`], or the primary where there is none.
    pub fn await_all_up(&self) -> Result<()> {
        let hosts: Vec<&str> = self.network.hosts().iter().map(Host::name).collect();
        let (primary, replicas) = hosts.split_at(1);
        self.gateway.await_eligible(RW, primary, PATIENCE)?;
        let readers = if replicas.is_empty() {
            primary
        } else {
            replicas
        };
        self.gateway.await_eligible(RO, readers, PATIENCE).map(drop)
    }

    /// Where [`RW`] answers, in the network's family.
    pub fn rw(&self) -> SocketAddr {
        (self.network.address(VIP), RW_ADDRESS.port()).into()
    }

    /// Where [`RO`] answers, in the network's family.
    pub fn ro(&self) -> SocketAddr {
        (self.network.address(VIP), RO_ADDRESS.port()).into()
    }

    /// Has pglb take another configuration, fitted to the network.
    pub fn reload(&self, config: &Config) -> Result<()> {
        self.gateway.reload(&config.fitted_to(&self.network))
    }

    /// The address of a database host, as it says itself.
    pub fn host_address(&self, index: usize) -> String {
        self.network.hosts()[index].address().to_string()
    }

    /// Opens sessions from the client that stay.
    pub fn open(&self, service: SocketAddr, count: usize) -> Result<Vec<Session>> {
        traffic::open_sessions(self.network.client(), service, count)
    }
}
