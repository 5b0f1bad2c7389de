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

    /// The bit of a bucket in which a CPU is putting a flow that has it as its first.
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

    /// The way that makes room next, and the tags after it has: the ways take turns, so that the
    /// flow that came first goes first.
    #[inline(always)]
    pub const fn oldest(self) -> (u32, Self) {
        let way = (self.0 >> Self::NEXT) as u32 & 7;
        let way = if way < WAYS { way } else { 0 };
        let next = if way + 1 < WAYS { way as u64 + 1 } else { 0 };
        let tags = self.0 & !(7 << Self::NEXT) | next << Self::NEXT;
        (way, Self(tags))
    }
}

/// Ways of a bucket: the highest bit of the byte of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matches(u64);

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
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::family::{v4, v6};

    fn key(number: u32) -> FlowKey<[u32; 1]> {
        // One client address after the other, each with ports in a row, as they are.
        let [a, b, port @ ..] = number.to_be_bytes();
        FlowKey {
            source: v4([10, 1, a, b].into()),
            destination: v4([10, 0, 0, 100].into()),
            source_port: port,
            destination_port: 5432_u16.to_be_bytes(),
        }
    }

    fn key_v6(number: u32) -> FlowKey<[u32; 4]> {
        let [a, b, port @ ..] = number.to_be_bytes();
        let host = u16::from_be_bytes([a, b]);
        FlowKey {
            source: v6([0x2001, 0xdb8, 1, 0, 0, 0, 0, host].into()),
            destination: v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100].into()),
            source_port: port,
            destination_port: 5432_u16.to_be_bytes(),
        }
    }

    /// The fill of every bucket after these flows have come.
    fn fill<A: Keyed>(keys: impl Iterator<Item = FlowKey<A>>, buckets: u32) -> Vec<u32> {
        let mut fill = vec![0; buckets as usize];
        for key in keys {
            let [first, second] = Home::of(A::words(&key).as_ref(), 0x1234_5678, buckets).buckets;
            let (first, second) = (first as usize, second as usize);
            let place = if fill[first] <= fill[second] {
                first
            } else {
                second
            };
            fill[place] += 1;
        }
        fill
    }

    #[test]
    fn no_bucket_overflows_in_a_table_that_is_as_full_as_it_may_be() {
        for flows in [64, 1_000, 30_000, 132_096] {
            let step = 977;
            let fullest = fill((0..flows).map(|it| key(it * step)), buckets(flows));
            assert!(fullest.iter().max() <= Some(&WAYS), "IPv4, {flows} flows");
            let fullest = fill((0..flows).map(|it| key_v6(it * step)), buckets(flows));
            assert!(fullest.iter().max() <= Some(&WAYS), "IPv6, {flows} flows");
            let in_a_row = fill((0..flows).map(key), buckets(flows));
            assert!(
                in_a_row.iter().max() <= Some(&WAYS),
                "in a row, {flows} flows"
            );
        }
    }

    #[test]
    fn a_tag_marks_neither_a_free_nor_a_claimed_way() {
        for number in 0..10_000 {
            let home = Home::of(&V4Address::words(&key(number)), 7, 100);
            assert!(home.tag > Tags::CLAIMED && home.tag < 256);
            assert!(home.buckets.iter().all(|bucket| *bucket < 100));
        }
    }

    #[test]
    fn ways_are_found_by_their_tag() {
        let mut tags = Tags::default();
        assert_eq!((tags.free().first(), tags.free().count()), (0, 7));
        for way in 0..WAYS {
            tags = tags.with(way, 0x80 + u64::from(way));
            assert_eq!(tags.free().count(), u64::from(WAYS - way - 1));
        }
        assert_eq!(tags.free().first(), WAYS);
        for way in 0..WAYS {
            assert_eq!(tags.of(way), 0x80 + u64::from(way));
            let found = tags.matching(0x80 + u64::from(way));
            assert_eq!((found.first(), found.count()), (way, 1));
        }
        let twice = tags.with(2, 0xff).with(5, 0xff).matching(0xff);
        assert_eq!((twice.first(), twice.rest().first()), (2, 5));
        assert_eq!(twice.rest().rest().first(), WAYS);
    }

    #[test]
    fn what_is_next_to_a_match_is_no_match() {
        let tags = Tags::default().with(0, 4).with(1, 5).with(2, 4).with(3, 3);
        let found = tags.matching(4);
        assert_eq!(
            (found.first(), found.rest().first(), found.count()),
            (0, 2, 2)
        );
    }

    #[test]
    fn the_ways_take_turns_to_make_room() {
        let mut tags = Tags(Tags::LOCKED).with(6, 9);
        for turn in 0..20 {
            let (way, next) = tags.oldest();
            assert_eq!(way, turn % WAYS);
            assert_eq!((next.of(6), next.0 >> 63), (9, 1));
            tags = next;
        }
    }
}
