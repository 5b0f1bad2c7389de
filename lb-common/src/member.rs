//! Members: backends as one service sees them. Only the controller writes these entries.

use crate::limits::{MAX_MEMBERS, MAX_SLOTS};
use crate::service::ServiceId;

/// A place in the member table: the service's row and the member's index in it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot of member `index` of `service`.
    #[inline(always)]
    pub const fn of(service: ServiceId, index: u8) -> Self {
        Self(
            service
                .0
                .wrapping_mul(MAX_MEMBERS as u16)
                .wrapping_add(index as u16),
        )
    }

    /// The service whose row it is in.
    #[inline(always)]
    pub const fn service(self) -> ServiceId {
        ServiceId(self.0 / MAX_MEMBERS as u16)
    }

    /// The member's index in its service.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "less than MAX_MEMBERS, itself a u8"
    )]
    pub const fn index(self) -> u8 {
        (self.0 % MAX_MEMBERS as u16) as u8
    }

    /// The member's bit among those that a connection has tried.
    #[inline(always)]
    pub const fn bit(self) -> u32 {
        1 << self.index()
    }

    /// Every slot there is.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_SLOTS)
            .filter_map(|slot| u16::try_from(slot).ok())
            .map(Self)
    }
}

/// A backend's number: its row of the backend table. Number 0 is the gateway itself.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BackendId(pub u16);

impl BackendId {
    /// The gateway itself, whose limit is the size of the connection table.
    pub const GATEWAY: Self = Self(0);
}

/// A member as the kernel sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Member {
    /// Flows of another generation are superseded. It only ever grows, also when the slot gets
    /// another backend; 0 is no generation.
    pub generation: u32,
    /// How many of the slot's suspicions ([`crate::tally::Tally::suspicions`]) a probe has cleared.
    pub forgiven: u32,
    /// The backend.
    pub backend: BackendId,
    weight: u16,
    is_eligible: u8,
    is_limited: u8,
    reserved: [u8; 2],
    /// Connections that the slot had been given when the service's choice was last reshaped; the
    /// turns of least-connections count from here.
    pub baseline: u64,
    /// Half-open connections that the controller found gone.
    pub half_reaped: u64,
    /// Established connections that the controller ended or found gone.
    pub reaped: u64,
}

impl Member {
    /// The same member with this share of new connections; 0 is none.
    pub const fn weighing(self, weight: u16) -> Self {
        Self { weight, ..self }
    }

    /// Its share of new connections; 0 is none.
    #[inline(always)]
    pub const fn weight(&self) -> u16 {
        self.weight
    }

    /// The same member, taking new connections or not.
    pub const fn eligible(self, is_eligible: bool) -> Self {
        Self {
            is_eligible: is_eligible as u8,
            ..self
        }
    }

    /// The same member, its backend having a limit of connections or not.
    pub const fn limited(self, is_limited: bool) -> Self {
        Self {
            is_limited: is_limited as u8,
            ..self
        }
    }

    /// Whether its backend has a limit of connections.
    #[inline(always)]
    pub const fn is_limited(&self) -> bool {
        self.is_limited != 0
    }

    /// Whether it takes new connections.
    #[inline(always)]
    pub const fn is_eligible(&self) -> bool {
        self.is_eligible != 0 && self.weight != 0
    }
}
