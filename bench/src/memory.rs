//! What the tables cost, as the kernel counts it.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use serde::{Deserialize, Serialize};

use crate::world::{self, DEFAULT_CONNECTIONS};

/// The memory of pglb's tables, in bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// What one more connection costs when the tables are made: the difference of two sizes,
    /// divided by the difference in connections.
    pub(crate) for_a_connection: f64,
    /// The size of the connection table below.
    pub(crate) connections: u32,
    /// Every table, the largest first.
    pub(crate) tables: Vec<Table>,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) entries: u32,
    pub(crate) bytes: u64,
}

impl Memory {
    /// All tables together.
    pub(crate) fn total(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes).sum()
    }
}

/// Makes the tables in two sizes.
pub(crate) fn measure() -> Result<Memory> {
    let small = DEFAULT_CONNECTIONS / 4;
    let few = world::enter(small, |world| tables(&world.pins))?;
    let many = world::enter(DEFAULT_CONNECTIONS, |world| tables(&world.pins))?;
    let total = |tables: &[Table]| tables.iter().map(|table| table.bytes).sum::<u64>() as f64;
    let more = total(&many) - total(&few);
    Ok(Memory {
        for_a_connection: more / f64::from(DEFAULT_CONNECTIONS - small),
        connections: DEFAULT_CONNECTIONS,
        tables: many,
    })
}

fn tables(pins: &Path) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for entry in fs::read_dir(pins).context("cannot read the pins")? {
        let path = entry?.path();
        let map = MapData::from_pin(&path)
            .with_context(|| format!("cannot open the table {}", path.display()))?;
        tables.push(Table {
            name: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            entries: map.info()?.max_entries(),
            bytes: locked(&map)?,
        });
    }
    tables.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    Ok(tables)
}

/// What the kernel has set aside for a table.
fn locked(map: &MapData) -> Result<u64> {
    let path = format!("/proc/thread-self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes = line.with_context(|| format!("{path} tells nothing of memory"))?;
    Ok(bytes.trim().parse()?)
}
