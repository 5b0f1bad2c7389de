//! Ports that wait, and what is counted for client addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use aya::maps::MapError;
use lb_common::family::Address as _;
use lb_common::flow::{FlowKey, Tick};
use lb_common::limits::LINGER;
use lb_common::source::{SourceKey, SourceTally};

use super::entries::MOST_STEPS;
use super::{ANY, Tables, gone_is_fine};

impl Tables {
    /// Keeps the port of a full-nat connection's replies from now on, for as long as the backend
    /// may remember it.
    pub fn linger(&mut self, reply_key: FlowKey<IpAddr>, now: Tick) -> Result<()> {
        let key = reply_key.map(IpAddr::widen);
        Ok(self.lingering.insert(key, now, ANY)?)
    }

    /// Frees the ports that no backend remembers any more.
    pub fn free_ports(&mut self, now: Tick) -> Result<()> {
        let mut free = Vec::new();
        for entry in self.lingering.iter().take(MOST_STEPS) {
            let (key, since) = entry?;
            if now.since(since) >= LINGER.0 {
                free.push(key);
            }
        }
        for key in free {
            gone_is_fine(self.lingering.remove(&key))?;
        }
        Ok(())
    }

    /// What is counted for each client address: by the kernel, and by the controller.
    pub fn sources(&self) -> Result<BTreeMap<SourceKey, (SourceTally, u64)>> {
        let mut sources: BTreeMap<SourceKey, (SourceTally, u64)> = BTreeMap::new();
        for entry in self.sources.iter().take(MOST_STEPS) {
            let (key, tally) = entry?;
            sources.entry(key).or_default().0 = tally;
        }
        for entry in self.sources_reaped.iter().take(MOST_STEPS) {
            let (key, reaped) = entry?;
            sources.entry(key).or_default().1 = reaped;
        }
        Ok(sources)
    }

    /// Writes what the controller counts for a client address.
    pub fn set_source_reaped(&mut self, source: &SourceKey, reaped: u64) -> Result<()> {
        Ok(self.sources_reaped.insert(source, reaped, ANY)?)
    }

    /// What the controller counts for a client address.
    pub fn source_reaped(&self, source: &SourceKey) -> Result<u64> {
        match self.sources_reaped.get(source, ANY) {
            Ok(reaped) => Ok(reaped),
            Err(MapError::KeyNotFound) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the kernel counts the connections of a client address.
    pub fn counts_source(&self, source: &SourceKey) -> Result<bool> {
        match self.sources.get(source, ANY) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets a client address.
    pub fn remove_source(&mut self, source: &SourceKey) -> Result<()> {
        gone_is_fine(self.sources.remove(source))?;
        gone_is_fine(self.sources_reaped.remove(source))
    }
}
