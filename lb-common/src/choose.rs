//! Choosing a member for a new connection.

use crate::family::{Address, Family, mix};
use crate::flow::FlowKey;
use crate::limits::{MAX_MEMBERS, MAX_WEIGHT, RING_STEPS};
use crate::member::{BackendId, Slot};
use crate::service::{Algorithm, Service, ServiceId};
use crate::tables::Tables;
use crate::tally::Load;

/// How good a choice a member is; less is better.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing speaks against it.
    Good = 0,
    /// It refused or ignored a SYN and has not answered a probe since.
    Suspect = 1,
    /// This very connection has tried it already.
    Tried = 2,
    /// It is down, drained, full, of weight 0 or of the wrong role: never chosen.
    Ineligible = 3,
}

/// A member as a choice for one connection: its [`Standing`], the weight of its connections, its own
/// weight, and its slot. The best standing is chosen, and of those the least of the one weight for
/// the other.
///
/// One number, because the verifier follows every value that a branch has fixed, and must find
/// nothing to follow from one member to the next (see [`Tables::unfollowed`]). Nothing is divided:
/// that would take longer than all the rest, and equal shares would no longer be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice(pub u64);

impl Choice {
    const STANDING_SHIFT: u32 = 62;
    const LOAD_SHIFT: u32 = 26;
    const MOST_LOAD: u64 = (1 << (Self::STANDING_SHIFT - Self::LOAD_SHIFT)) - 1;
    const WEIGHT_SHIFT: u32 = 16;
    const MOST_WEIGHT: u64 = (1 << (Self::LOAD_SHIFT - Self::WEIGHT_SHIFT)) - 1;

    /// What is never chosen.
    pub const NONE: Self = Self((Standing::Ineligible as u64) << Self::STANDING_SHIFT);

    #[inline(always)]
    fn new(standing: Standing, load: &Load, weight: u16, slot: Slot) -> Self {
        let load = load.weight_on(weight).min(Self::MOST_LOAD) << Self::LOAD_SHIFT;
        let weight = u64::from(weight).min(Self::MOST_WEIGHT) << Self::WEIGHT_SHIFT;
        Self((standing as u64) << Self::STANDING_SHIFT | load | weight | u64::from(slot.0))
    }

    #[inline(always)]
    fn load(self) -> u64 {
        self.0 >> Self::LOAD_SHIFT & Self::MOST_LOAD
    }

    #[inline(always)]
    fn weight(self) -> u64 {
        self.0 >> Self::WEIGHT_SHIFT & Self::MOST_WEIGHT
    }

    /// Where the member lives.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the slot is in the lowest bits"
    )]
    pub fn slot(self) -> Slot {
        Slot(self.0 as u16)
    }

    /// Whether the member may be chosen at all.
    #[inline(always)]
    pub fn is_possible(self) -> bool {
        self.0 < Self::NONE.0
    }

    /// Whether the connection has not tried it yet.
    #[inline(always)]
    pub fn is_untried(self) -> bool {
        self.0 < (Standing::Tried as u64) << Self::STANDING_SHIFT
    }

    /// Whether nothing speaks against it.
    #[inline(always)]
    fn is_good(self) -> bool {
        self.0 < (Standing::Suspect as u64) << Self::STANDING_SHIFT
    }

    /// How good a choice it is.
    pub fn standing(self) -> Standing {
        match self.0 >> Self::STANDING_SHIFT {
            0 => Standing::Good,
            1 => Standing::Suspect,
            2 => Standing::Tried,
            _ => Standing::Ineligible,
        }
    }
}

const _: () = assert!(
    MAX_WEIGHT as u64 <= Choice::MOST_WEIGHT,
    "a weight fits a choice"
);

/// Chooses the member for a new connection from the client in `key`; `tried` holds the members
/// that it has tried, as bits.
#[inline(always)]
pub fn choose<F: Family, T: Tables<F>>(
    tables: &T,
    service: &Service,
    key: &FlowKey<F::Address>,
    tried: u32,
) -> Choice {
    let start = match service.algorithm() {
        Algorithm::LeastConnections => {
            return tables.least_loaded(service.id, service.members, tried);
        }
        Algorithm::RoundRobin => tables.take_turn(service.id),
        Algorithm::Hash => mix(
            key.source.mix(0),
            u32::from(u16::from_be_bytes(key.source_port)),
        ),
        Algorithm::HashAddress => key.source.mix(0),
    };
    let choice = tables.walk_ring(service.id, service.ring_length, start, tried);
    if choice.is_possible() {
        choice
    } else {
        tables.least_loaded(service.id, service.members, tried)
    }
}

/// The first good member on the ring, from `start` on. With a member out, the next position
/// takes over, so that its connections spread over all the others.
#[inline(always)]
pub fn walk_ring<F: Family, T: Tables<F>>(
    tables: &T,
    service: ServiceId,
    length: u32,
    start: u32,
    tried: u32,
) -> Choice {
    if length == 0 {
        return Choice::NONE;
    }
    for step in 0..RING_STEPS {
        let position = start.wrapping_add(step) % length;
        let Some(index) = tables.ring(service, position) else {
            break;
        };
        let choice = consider(tables, Slot::of(service, index), tried);
        if choice.is_good() {
            return choice;
        }
    }
    Choice::NONE
}

/// The best member of all.
#[inline(always)]
pub fn least_loaded<F: Family, T: Tables<F>>(
    tables: &T,
    service: ServiceId,
    members: u8,
    tried: u32,
) -> Choice {
    let mut best = Choice::NONE;
    for index in 0..MAX_MEMBERS {
        if index >= members {
            break;
        }
        let slot = Slot::of(service, index);
        best = Choice(tables.unfollowed(better(tables, best, slot, tried).0));
    }
    best
}

/// The better choice of `best` and the member in a slot, for a connection that has tried the members
/// `tried`; among equals the one with the fewest turns for its weight.
///
/// The turns are what spreads connections that come one after the other, each closed before the
/// next: there the members are always level.
#[inline(always)]
fn better<F: Family, T: Tables<F>>(tables: &T, best: Choice, slot: Slot, tried: u32) -> Choice {
    let choice = consider(tables, slot, tried);
    let (standing, best_standing) = (
        choice.0 >> Choice::STANDING_SHIFT,
        best.0 >> Choice::STANDING_SHIFT,
    );
    if standing != best_standing {
        return if standing < best_standing {
            choice
        } else {
            best
        };
    }
    // One share is less than another if it is so after both are multiplied by both weights.
    let mut share = choice.load() * best.weight();
    let mut best_share = best.load() * choice.weight();
    if share == best_share {
        share = turns(tables, slot).wrapping_mul(best.weight());
        best_share = turns(tables, best.slot()).wrapping_mul(choice.weight());
    }
    if share < best_share { choice } else { best }
}

/// The member in a slot as a choice for a connection that has tried the members `tried`.
#[inline(always)]
pub fn consider<F: Family, T: Tables<F>>(tables: &T, slot: Slot, tried: u32) -> Choice {
    let (Some(member), Some(tally)) = (tables.member(slot), tables.slot_tally(slot)) else {
        return Choice::NONE;
    };
    let load = Load::of(&tally, member.half_reaped, member.reaped);
    if !member.is_eligible() || member.is_limited() && !tables.has_room(member.backend) {
        return Choice::NONE;
    }
    let standing = if tried & slot.bit() != 0 {
        Standing::Tried
    } else if !is_forgiven(tally.suspicions, member.forgiven) {
        Standing::Suspect
    } else {
        Standing::Good
    };
    Choice::new(standing, &load, member.weight(), slot)
}

/// The turns that the member in a slot has had since its service was last reshaped.
#[inline(always)]
fn turns<F: Family, T: Tables<F>>(tables: &T, slot: Slot) -> u64 {
    let (Some(member), Some(tally)) = (tables.member(slot), tables.slot_tally(slot)) else {
        return 0;
    };
    tally.half_opened.saturating_sub(member.baseline)
}

/// Whether a probe has cleared every suspicion of a slot.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the controller copies the lower 32 bits"
)]
pub fn is_forgiven(suspicions: u64, forgiven: u32) -> bool {
    suspicions as u32 == forgiven
}

/// Whether a backend, or the gateway's connection table, has room for another connection.
#[inline(always)]
pub fn has_room<F: Family, T: Tables<F>>(tables: &T, id: BackendId) -> bool {
    let Some(backend) = tables.backend(id) else {
        return false;
    };
    if backend.max_connections == 0 {
        return true;
    }
    let Some(tally) = tables.backend_tally(id) else {
        return false;
    };
    let load = Load::of(&tally, backend.half_reaped, backend.reaped);
    // Half-open connections take no room in the table of the established ones.
    let most = u64::from(backend.max_connections);
    let taken = if id == BackendId::GATEWAY {
        load.established
    } else {
        load.taken(most)
    };
    taken < most
}
