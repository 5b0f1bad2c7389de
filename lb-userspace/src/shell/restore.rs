//! What the pinned tables hold, read before anything is changed.

use anyhow::Result;
use lb_common::limits::MAX_BACKENDS;
use lb_common::member::{BackendId, Slot};

use super::bpf_tables::Tables;
use crate::engine::event::Tallies;
use crate::engine::kernel::KernelTables;

/// Reads everything that an earlier controller has written.
pub fn read(tables: &Tables) -> Result<KernelTables> {
    let mut found = KernelTables {
        gateway: tables.gateway()?,
        ..KernelTables::default()
    };
    for slot in Slot::all() {
        let member = tables.member(slot)?;
        if member.generation > 0 {
            found.members.insert(slot, member);
        }
    }
    for id in (0..MAX_BACKENDS).map(BackendId) {
        let backend = tables.backend(id)?;
        if backend != lb_common::backend::Backend::default() {
            found.backends.insert(id, backend);
        }
    }
    for (key, service) in tables.services()? {
        found
            .rings
            .insert(service.id, tables.ring(service.id, service.ring_length)?);
        found.services.insert(key, service);
    }
    found.access = tables.access()?;
    found.vips.extend(tables.vips()?);
    found.filter = tables.filter()?;
    found.trunks = tables.trunks()?;
    Ok(found)
}

/// Reads what the kernel has counted for these slots and backends.
pub fn count(tables: &Tables, slots: &[Slot], backends: &[BackendId]) -> Result<Tallies> {
    let mut tallies = Tallies::default();
    for slot in slots {
        tallies.slots.insert(*slot, tables.slot_tally(*slot)?);
    }
    for id in backends {
        tallies.backends.insert(*id, tables.backend_tally(*id)?);
    }
    Ok(tallies)
}
