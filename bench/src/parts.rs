//! What the parts of handling a packet cost: where pglb's time goes, and what another way would
//! save.

use anyhow::{Context as _, Result};

use crate::cases::{Case, Extent, Traffic};
use crate::feeder::Feeder;
use crate::flows::clients;
use crate::frame::Family;
use crate::measure::{self, Effort};
use crate::references;
use crate::subjects::{Subject, frames};
use crate::world::World;

/// An established packet, each program with one part more than the one before; at last the same
/// parts with a cache before the table.
const LADDER: [(&str, &str); 11] = [
    ("ladder_1_find", "find it, by 12 bytes, entry of 48"),
    (
        "ladder_2_rewrite",
        "... and rewrite address, port, checksums, MAC addresses",
    ),
    ("ladder_3_count", "... and count"),
    ("ladder_4_hops", "... and lower the hop limit"),
    ("ladder_5_member", "... and look at the member"),
    ("ladder_6_gateway", "... and look at the gateway's entry"),
    ("ladder_7_clock", "... and ask the coarse clock"),
    ("ladder_8_note", "... and note time and acknowledgment"),
    ("ladder_9_redirect", "... and redirect"),
    (
        "cache_2_mib",
        "all that, jiffies, before it a cache of 65,536 slots of 32 bytes",
    ),
    (
        "cache_8_mib",
        "all that, jiffies, before it a cache of 262,144 slots",
    ),
];

/// One thing alone, after parsing.
const PRICES: [(&str, &str); 14] = [
    ("price_jiffies", "bpf_jiffies64"),
    ("price_coarse", "bpf_ktime_get_coarse_ns"),
    ("price_exact", "bpf_ktime_get_ns"),
    (
        "price_filter",
        "look two endpoints up in a filter of 1,024 words",
    ),
    ("price_calls", "ten calls of a small function"),
    ("price_adds", "three atomic additions"),
    (
        "price_slot",
        "write a slot of 64 bytes in an ARRAY of 65,536",
    ),
    ("price_find_missing", "HASH lookup that finds nothing"),
    ("price_remove_missing", "HASH removal that finds nothing"),
    ("price_insert_remove", "HASH insertion and removal"),
    ("price_lru", "LRU_HASH insertion"),
    ("price_lru_per_cpu", "LRU_HASH insertion, NO_COMMON_LRU"),
    ("price_lru_twice", "two LRU_HASH insertions"),
    ("price_routing", "bpf_fib_lookup"),
];

/// What one part costs.
#[derive(Clone, Debug)]
pub(crate) struct Price {
    pub(crate) what: &'static str,
    pub(crate) flows: usize,
    /// Nanoseconds over `return XDP_TX`.
    pub(crate) net: f64,
    pub(crate) gross_p10: f64,
    pub(crate) gross_p90: f64,
}

/// Measures every part over one flow, and over as many as there are.
pub(crate) fn measure(
    feeder: &mut Feeder,
    world: &World,
    extent: Extent,
    effort: Effort,
) -> Result<Vec<Price>> {
    let family = Family::V4;
    let clients = clients(family, extent.connections() * 2, 1);
    let (known, new) = clients.split_at(extent.connections());
    let connections = world.establish(known)?;
    references::fill_ladder(feeder, &connections)?;
    let mut subjects = Vec::new();
    let mut names = Vec::new();
    for flows in extent.established.iter().copied() {
        for (traffic, parts) in [
            (Traffic::ToBackend, &LADDER[..]),
            (Traffic::Opening, &PRICES[..]),
        ] {
            let case = Case {
                family,
                traffic,
                flows,
            };
            let feed = feeder.prepare(&frames(case, &connections, new).0)?;
            for (name, what) in [("answer", "")].iter().chain(parts) {
                let code = feeder.reference(name)?;
                subjects.push(Subject::free(case, feed.clone(), code));
                names.push(*what);
            }
            if traffic == Traffic::ToBackend {
                subjects.push(Subject::free(case, feed, world.program()?));
                names.push("pglb");
            }
        }
    }
    let samples = measure::in_turn(feeder, &subjects, effort)?;
    let measured = || subjects.iter().zip(&names).zip(&samples);
    let mut prices = Vec::new();
    for ((subject, what), samples) in measured().filter(|((_, what), _)| !what.is_empty()) {
        let floor =
            measured().find(|((other, what), _)| other.case == subject.case && what.is_empty());
        let (_, floor) = floor.context("no floor was measured")?;
        prices.push(Price {
            what,
            flows: subject.case.flows,
            net: samples.median() - floor.median(),
            gross_p10: samples.quantile(1),
            gross_p90: samples.quantile(9),
        });
    }
    Ok(prices)
}
