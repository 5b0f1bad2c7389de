//! The demo's site with everything running: a network of three database hosts, a cluster on them, pglb before them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;

use crate::{
    gateway::{Config, Gateway},
    postgres::{Cluster, Options},
    session::Session,
    topology::{Network, VIP},
    traffic,
};

/// The demo's service for the primary.
pub const RW: &str = "shop-rw";
/// The demo's service for the replicas.
pub const RO: &str = "shop-ro";
/// Where [`RW`] answers.
pub const RW_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(VIP), 5432);
/// Where [`RO`] answers.
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
        let network = Network::build(3)?;
        let cluster = Cluster::start(&network, options)?;
        let gateway = Gateway::start(&network, config)?;
        let site = Self {
            gateway,
            cluster,
            network,
        };
        site.await_all_up()?;
        Ok(site)
    }

    /// Waits until the primary serves [`RW`] and both replicas [`RO`].
    pub fn await_all_up(&self) -> Result<()> {
        self.gateway.await_eligible(RW, &["db1"], PATIENCE)?;
        self.gateway
            .await_eligible(RO, &["db2", "db3"], PATIENCE)
            .map(drop)
    }

    /// Opens sessions from the client that stay.
    pub fn open(&self, service: SocketAddr, count: usize) -> Result<Vec<Session>> {
        traffic::open_sessions(self.network.client(), service, count)
    }
}
