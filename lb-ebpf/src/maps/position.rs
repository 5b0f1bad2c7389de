//! What the functions about tables of flows are told and tell, as numbers.

/// Where a flow lies: a bucket, a way and the tag there; in one number, which a function can
/// return.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position(pub(super) u64);

#[expect(
    clippy::cast_possible_truncation,
    reason = "each part is cut out of the number"
)]
impl Position {
    /// No way of any bucket.
    pub(super) const NONE: Self = Self(u64::MAX);

    #[inline(always)]
    pub(super) fn new(bucket: u32, way: u32, tag: u64) -> Self {
        Self(u64::from(way) << 32 | tag << 40 | u64::from(bucket))
    }

    /// The same position, claimed for a flow that may be in the table already, or not.
    #[inline(always)]
    pub(super) fn doubted(self, is_doubted: bool) -> Self {
        Self(self.0 | u64::from(is_doubted) << 48)
    }

    /// Whether it was claimed for a flow that may be in the table already.
    #[inline(always)]
    pub(super) fn is_doubted(self) -> bool {
        self.0 >> 48 & 1 != 0
    }

    #[inline(always)]
    pub(super) fn bucket(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub(super) fn way(self) -> u32 {
        (self.0 >> 32) as u32 & 0xff
    }

    #[inline(always)]
    pub(super) fn tag(self) -> u64 {
        self.0 >> 40 & 0xff
    }
}

/// What becomes of a flow that has the key of the one that is put in: it is replaced if it has this
/// mark ([`Flow::mark`]), and otherwise nothing is put in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode(pub(super) u64);

impl Mode {
    /// Whatever its mark is, it is replaced.
    pub(super) const REPLACE: Self = Self(u64::MAX);
    /// No flow has this mark.
    pub(super) const CLAIM: Self = Self(u64::MAX - 1);
}
