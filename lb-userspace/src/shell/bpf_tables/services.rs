//! The tables of services, row by row.

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{Array, Map, MapData};
use lb_common::family::Address;
use lb_common::service::{Service, ServiceKey};
use lb_common::service_table::{SERVICE_ROWS, ServiceRow, row_for, rows};

use super::ANY;

/// The services of one family.
pub(super) struct ServiceTable<A>(Array<MapData, ServiceRow<A>>)
where
    ServiceRow<A>: Pod;

impl<A: Address> ServiceTable<A>
where
    ServiceRow<A>: Pod,
{
    pub(super) fn new(rows: Map) -> Result<Self> {
        Ok(Self(rows.try_into()?))
    }

    /// Every service.
    pub(super) fn entries(&self) -> Result<Vec<(ServiceKey<A>, Service)>> {
        let mut entries = Vec::new();
        for row in 0..SERVICE_ROWS {
            let row = self.0.get(&row, ANY)?;
            if row.is_used() {
                entries.push((row.key, row.service));
            }
        }
        Ok(entries)
    }

    /// Writes a service. A new one is seen when all of it is there.
    pub(super) fn set(&mut self, key: ServiceKey<A>, service: Service) -> Result<()> {
        let named = self.named(&key)?;
        let (number, before) = row_for(&key, named.iter().copied())
            .context("no row of the table of services is free for it")?;
        let row = ServiceRow::new(key, service);
        if !before.is_used() {
            self.0.set(number, row.hidden(), ANY)?;
        }
        Ok(self.0.set(number, row, ANY)?)
    }

    /// Removes a service, if it is there.
    pub(super) fn remove(&mut self, key: &ServiceKey<A>) -> Result<()> {
        for (number, row) in self.named(key)? {
            if row.is_of(key) {
                self.0.set(number, row.hidden(), ANY)?;
            }
        }
        Ok(())
    }

    /// The rows in which a service may lie.
    fn named(&self, key: &ServiceKey<A>) -> Result<Vec<(u32, ServiceRow<A>)>> {
        rows(key)
            .map(|row| Ok((row, self.0.get(&row, ANY)?)))
            .collect()
    }
}
