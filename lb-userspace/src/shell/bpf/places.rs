//! The tables as they are made or found again.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::Path;

use anyhow::Result;
use aya::{Ebpf, EbpfLoader};
use lb_common::flow_table::pages;
use lb_common::gateway::Gateway;

use super::{ESTABLISHED, explain_rejection, has_tables, program, remove};
use crate::shell::bpf_tables::{AMEND_PIN, Tables};

/// What the places of flows in their tables depend on: it must be the same for as long as the
/// tables exist.
pub struct Places {
    buckets: u32,
    seed: u32,
}

impl Places {
    /// Those of the tables that are pinned, or of new ones; with so many buckets of established
    /// flows of each family.
    pub fn new(pin_dir: &Path, buckets: u32) -> Result<Self> {
        let mut seed = 0;
        if has_tables(pin_dir) {
            seed = Tables::open(pin_dir)?.gateway()?.seed;
        }
        // A controller that was killed before its first write leaves 0.
        if seed == 0 {
            seed = random_number();
        }
        Ok(Self { buckets, seed })
    }

    /// What reads the object and makes or reopens its tables.
    pub fn loader(&self, pin_dir: &Path) -> EbpfLoader<'_> {
        let mut loader = EbpfLoader::new();
        loader
            .default_map_pin_directory(pin_dir)
            .override_global("ESTABLISHED_BUCKETS", &self.buckets, true)
            .override_global("SEED", &self.seed, true);
        for (table, tags) in ESTABLISHED.into_iter().zip(ESTABLISHED_TAGS) {
            loader
                .map_max_entries(table, self.buckets)
                .map_max_entries(tags, pages(self.buckets));
        }
        loader
    }

    /// Keeps the seed with the tables, and loads and pins the program that changes flows.
    pub fn settle(&self, ebpf: &mut Ebpf, pin_dir: &Path) -> Result<()> {
        let mut tables = Tables::open(pin_dir)?;
        let gateway = tables.gateway()?;
        tables.set_gateway(Gateway {
            seed: self.seed,
            ..gateway
        })?;
        let amend = program(ebpf, AMEND)?;
        amend.load().map_err(explain_rejection)?;
        let pin = pin_dir.join(AMEND_PIN);
        if pin.exists() {
            remove(&pin)?;
        }
        Ok(amend.pin(&pin)?)
    }
}

/// A number that nobody can foresee, and not 0: the standard library keys its hash tables so.
fn random_number() -> u32 {
    let [_, _, _, _, number @ ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    u32::from_ne_bytes(number).max(1)
}

/// The name of the program that changes flows for the controller.
const AMEND: &str = "pglb_amend";
/// The tags of their buckets.
const ESTABLISHED_TAGS: [&str; 2] = ["ESTABLISHED_TAGS_V4", "ESTABLISHED_TAGS_V6"];
