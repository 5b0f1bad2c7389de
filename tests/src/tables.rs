//! What pglb says of single connections and of its counters.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::gateway::Gateway;

/// A row of `pglb connections --json`, as far as tests look at it.
#[derive(Clone, Debug, Deserialize)]
pub struct Connection {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The backend as `cluster/name`.
    pub backend: String,
    /// The address and port by which the backend knows the client, where it is not the client's own.
    pub gateway: Option<SocketAddr>,
}

impl Gateway {
    /// The connections that are open.
    pub fn connections(&self) -> Result<Vec<Connection>> {
        let text = self.pglb(&["connections", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("these are no connections: {text}"))
    }

    /// Packets of one reason, such as `denied`; 0 before the first.
    pub fn counter(&self, reason: &str) -> Result<u64> {
        let rows = self.dump("counters")?;
        let row = rows.iter().find(|row| row["reason"] == reason);
        Ok(row.map_or(0, |row| row["packets"].as_u64().unwrap_or(0)))
    }

    /// Packets and bytes that were forwarded for services, in both directions, and refused ones by reason except
    /// those that are nobody's.
    pub fn work_done(&self) -> Result<Vec<Value>> {
        let keys = [
            "packets_to_backend",
            "bytes_to_backend",
            "packets_to_client",
            "bytes_to_client",
        ];
        let services = self.dump("services")?;
        let forwarded = services
            .iter()
            .flat_map(|row| keys.map(|key| row[key].clone()));
        let refused = self.dump("counters")?;
        let refused = refused.into_iter().filter(|row| {
            let reason = row["reason"].as_str().unwrap_or_default();
            !matches!(reason, "not_ours" | "not_tcp" | "not_ip")
        });
        Ok(forwarded.chain(refused).collect())
    }

    fn dump(&self, table: &str) -> Result<Vec<Value>> {
        let text = self.pglb(&["dump", table, "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("this is no table: {text}"))
    }
}
