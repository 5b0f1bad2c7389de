//! Where a flow lies in its table: a hash table of buckets in an array, made for one thing, that
//! the packet of a known connection costs as little memory as can be.
//!
//! A flow lies in one of two buckets that its key names, in whichever has more room, so that none
//! overflows while the table is half full (Azar, Broder, Karlin and Upfal, *Balanced Allocations*).
//! A bucket has seven [`Entry`]s, and one word of [`Tags`] that tells them apart: a byte of the
//! hash for each. The words of all buckets lie side by side, 8 bytes for seven flows, so that a
//! search touches one small word and then the entry itself; a packet of no connection touches two
//! words and no entry.
//!
//! This module is the arithmetic; `lb_ebpf::maps::flows` has the accesses, and how the CPUs agree.

use crate::family::{Address, V4Address, V6Address};
use crate::flow::{Flow, FlowKey};

/// Entries of a bucket.
pub const WAYS: u32 = 7;
/// Words of tags that the kernel hands out at a time: a memory page of them.
pub const PAGE_WORDS: u32 = 512;

/// A page of tags.
pub type TagPage = [u64; PAGE_WORDS as usize];
/// The flows that share a word of tags.
pub type Bucket<A> = [Entry<A>; WAYS as usize];

/// A flow in its table.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<A> {
    /// What it is found by.
    pub key: FlowKey<A>,
    /// The flow.
    pub flow: Flow<A>,
    reserved: u32,
}

/// The buckets of a table with room for `flows`: twice that, and never none.
pub const fn buckets(flows: u32) -> u32 {
    let buckets = flows.saturating_mul(2).div_ceil(WAYS);
    if buckets == 0 { 1 } else { buckets }
}

/// The pages of tags of a table with so many buckets.
pub const fn pages(buckets: u32) -> u32 {
    buckets.div_ceil(PAGE_WORDS)
}

/// An address of which the keys of flows can be taken as 64-bit words: what a function of the
/// kernel program can be handed, and what a key is compared by.
pub trait Keyed: Address {
    /// The words; the last one has both ports, and nothing above them.
    type Words: Copy + AsRef<[u64]>;

    /// The key in words, as they lie in memory.
    fn words(key: &FlowKey<Self>) -> Self::Words;
}

impl Keyed for V4Address {
    type Words = [u64; 2];

    #[inline(always)]
    fn words(key: &FlowKey<Self>) -> [u64; 2] {
        [word(key.source[0], key.destination[0]), key.port_word()]
    }
}

impl Keyed for V6Address {
    type Words = [u64; 5];

    #[inline(always)]
    fn words(key: &FlowKey<Self>) -> [u64; 5] {
        let ([a, b, c, d], [e, f, g, h]) = (key.source, key.destination);
        [
            word(a, b),
            word(c, d),
            word(e, f),
            word(g, h),
            key.port_word(),
        ]
    }
}

/// Whether the words of two keys are the same: one branch, and not one for each word.
#[inline(always)]
pub fn is_same(one: &impl AsRef<[u64]>, other: &impl AsRef<[u64]>) -> bool {
    let pairs = one.as_ref().iter().zip(other.as_ref());
    pairs.fold(0, |differing, (a, b)| differing | a ^ b) == 0
}

/// Two words of 32 bits as they lie in memory, read as one of 64.
#[inline(always)]
const fn word(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        first as u64 | (second as u64) << 32
    } else {
        (first as u64) << 32 | second as u64
    }
}

/// The buckets in which a flow may lie, and what marks it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// Its two buckets; they may be the same.
    pub buckets: [u32; 2],
    /// Its tag: not [`Tags::FREE`] and not [`Tags::CLAIMED`].
    pub tag: u64,
}

impl Home {
    /// Where the flow whose key has these words lies in a table of so many buckets. The seed is the
    /// gateway's own, so that nobody can choose ports that meet in one bucket.
    #[inline(always)]
    pub fn of(words: &[u64], seed: u64, buckets: u32) -> Self {
        // A sum of products, which a CPU works out side by side; then one step that mixes its
        // upper half, where all bits of the words meet, into the rest.
        let seed = seed | seed << 32;
        let products = words.iter().zip(FACTORS);
        let sum = products.fold(seed, |sum: u64, (word, factor)| {
            sum.wrapping_add((word ^ seed).wrapping_mul(factor))
        });
        let product = (sum ^ sum >> 32).wrapping_mul(FACTORS[0]);
        let hash = product ^ product >> 32;
        // The upper half of a product is as well mixed as the lower one is not; a product of 32
        // bits each spreads evenly over any number of buckets.
        let place = |half: u64| ((half * u64::from(buckets)) >> 32) as u32;
        let (upper, lower) = (hash >> 32, hash & 0xffff_ffff);
        let tag = upper & 0xff;
        Self {
            buckets: [place(upper), place(lower)],
            tag: if tag > Tags::CLAIMED { tag } else { tag + 2 },
        }
    }
}

/// Odd numbers without a pattern: 2^64 divided by the golden ratio (Knuth, volume 3, 6.4), and the
/// first 64 bits of the fractions of the square roots of 2, 3, 5 and 7 (FIPS 180-4).
const FACTORS: [u64; 5] = [
    0x9e37_79b9_7f4a_7c15,
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
];

/// The tags of a bucket: a byte for each way, the first in the lowest; the highest byte tells
/// which way makes room next in a table that forgets, and whether the bucket is [`Tags::LOCKED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tags(pub u64);

impl Tags {
    /// The tag of a way that nobody uses.
    pub const FREE: u64 = 0;
    /// The tag of a way that is being written.
    pub const CLAIMED: u64 = 1;

    /// The bit of a bucket that a CPU has for itself: it changes a flow that has it as its first.
    pub const LOCKED: u64 = 1 << 63;

    const ONES: u64 = 0x0001_0101_0101_0101;
    const SEVENS: u64 = 0x007f_7f7f_7f7f_7f7f;
    const NEXT: u32 = 56;

    /// The ways that have this tag.
    #[inline(always)]
    pub const fn matching(self, tag: u64) -> Matches {
        let zero_where_equal = self.0 ^ tag.wrapping_mul(Self::ONES);
        let sum = (zero_where_equal & Self::SEVENS) + Self::SEVENS;
        Matches(!(sum | zero_where_equal | Self::SEVENS) & !Self::SEVENS & !(0xff << Self::NEXT))
    }

    /// The ways that nobody uses.
    #[inline(always)]
    pub const fn free(self) -> Matches {
        self.matching(Self::FREE)
    }

    /// The tag of a way.
    #[inline(always)]
    pub const fn of(self, way: u32) -> u64 {
        self.0 >> (way * 8) & 0xff
    }

    /// The same tags with another one for this way.
    #[inline(always)]
    pub const fn with(self, way: u32, tag: u64) -> Self {
        Self(self.0 & !(0xff << (way * 8)) | tag << (way * 8))
    }

    /// Whether a CPU is changing the bucket, or putting a flow into it.
    #[inline(always)]
    pub const fn is_taken(self) -> bool {
        (self.0 & Self::LOCKED | self.matching(Self::CLAIMED).0) != 0
    }

    /// Whether a way has this tag.
    #[inline(always)]
    pub const fn has(self, tag: u64) -> bool {
        self.matching(tag).0 != 0
    }

    /// Whether a new flow goes here, and not into that other bucket: one with more free ways.
    #[inline(always)]
    pub const fn is_as_roomy_as(self, other: Self) -> bool {
        self.free().count() >= other.free().count()
    }

    /// Claims a way for a new flow: a free one, or else, in a table that forgets, the oldest one. The
    /// way is [`WAYS`] when there is none.
    #[inline(always)]
    pub const fn claim(self, forgets: bool) -> (u32, Self) {
        let free = self.free().first();
        let (way, tags) = if free < WAYS {
            (free, self)
        } else if forgets {
            self.oldest()
        } else {
            return (WAYS, self);
        };
        if self.of(way) == Self::CLAIMED {
            return (WAYS, self);
        }
        (way, tags.with(way, Self::CLAIMED))
    }

    /// The way that makes room next, and the tags after it has: the ways take turns, so that the
    /// flow that came first goes first.
    #[inline(always)]
    const fn oldest(self) -> (u32, Self) {
        let way = (self.0 >> Self::NEXT) as u32 & 7;
        let way = if way < WAYS { way } else { 0 };
        let next = if way + 1 < WAYS { way as u64 + 1 } else { 0 };
        let tags = self.0 & !(7 << Self::NEXT) | next << Self::NEXT;
        (way, Self(tags))
    }
}

/// Ways of a bucket: the highest bit of the byte of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matches(pub u64);

impl Matches {
    /// The first of them; at least [`WAYS`] when there is none.
    #[inline(always)]
    pub const fn first(self) -> u32 {
        if self.0 == 0 {
            return WAYS;
        }
        // The lowest bit, as a power of 256, moves the byte that holds its number to the top.
        let lowest = (self.0 & self.0.wrapping_neg()) >> 7;
        (lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
    }

    /// All but the first.
    #[inline(always)]
    pub const fn rest(self) -> Self {
        Self(self.0 & self.0.wrapping_sub(1))
    }

    /// How many.
    #[inline(always)]
    pub const fn count(self) -> u64 {
        (self.0 >> 7).wrapping_mul(0x0101_0101_0101_0101) >> 56
    }
}

impl<A> Entry<A> {
    /// The flow that is found by `key`.
    pub const fn new(key: FlowKey<A>, flow: Flow<A>) -> Self {
        Self {
            key,
            flow,
            reserved: 0,
        }
    }
}

impl<A: Address> Entry<A> {
    /// Works out anew what the flow knows of its key. The kernel does this from where the entry
    /// lies: it has no room for the addresses of both on its stack.
    #[inline(always)]
    pub fn settle(&mut self) {
        self.flow.settle(&self.key);
    }
}

#[cfg(test)]
mod tests;
