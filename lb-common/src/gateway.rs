//! The gateway's own entry: what holds for every packet.

/// The layout of all tables. Raised with every change of an entry's layout or meaning, so that a
/// controller never reads the tables of another one wrongly.
pub const LAYOUT: u32 = 6;

/// The gateway as the kernel sees it. Only the controller writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Gateway {
    /// [`LAYOUT`] of the controller that made the tables.
    pub layout: u32,
    /// Raised at every change of routes, neighbours or links: next hops of another generation are
    /// looked up again. 0 is no generation.
    pub next_hop_generation: u32,
    /// The first port that full-nat connections leave from.
    pub first_port: u16,
    /// The last one.
    pub last_port: u16,
    /// A random number of the one who made the tables, by which the places of flows in them
    /// cannot be foreseen ([`crate::flow_table::Home::of`]). It never changes.
    pub seed: u32,
    /// Whether the next hop of a packet depends on its receiver alone, because no policy rule looks
    /// at anything else: 0 or 1.
    pub shares_next_hops: u32,
}
