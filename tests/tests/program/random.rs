//! Random numbers that a seed repeats.

use std::env;
use std::hash::{BuildHasher as _, RandomState};

/// SplitMix64: small, and good enough to choose packets.
pub(crate) struct Random(u64);

impl Random {
    /// The seed in the environment variable `PGLB_SEED`, else another one each time.
    pub(crate) fn seed() -> u64 {
        match env::var("PGLB_SEED") {
            Ok(seed) => seed.parse().expect("PGLB_SEED is a number"),
            Err(_) => {
                // The standard library keys its hash tables at random.
                let number = RandomState::new().hash_one(std::process::id());
                number % 1_000_000_000
            }
        }
    }

    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).expect("64 bits");
        usize::try_from(self.next() % limit).expect("below a usize")
    }

    /// The same, of a byte.
    pub(crate) fn small(&mut self, limit: u8) -> u8 {
        u8::try_from(self.below(usize::from(limit))).expect("below a byte")
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// Whether it is this time, one time in `many`.
    pub(crate) fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }
}
