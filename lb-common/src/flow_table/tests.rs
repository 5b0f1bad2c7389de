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
fn a_new_flow_claims_a_free_way_or_the_oldest_of_a_table_that_forgets() {
    let mut tags = Tags::default();
    for way in 0..WAYS {
        let (claimed, next) = tags.claim(false);
        assert_eq!((claimed, next.of(way)), (way, Tags::CLAIMED));
        assert!(next.is_taken() && !tags.is_taken());
        tags = next.with(way, 9);
    }
    assert_eq!(tags.claim(false), (WAYS, tags), "there is no room");
    let (way, next) = tags.claim(true);
    assert_eq!((way, next.of(0), next.of(1)), (0, Tags::CLAIMED, 9));
    // The one that is next is being written by another CPU.
    let busy = next.with(0, 9).with(1, Tags::CLAIMED);
    assert_eq!(busy.claim(true), (WAYS, busy));
}

#[test]
fn a_bucket_is_taken_while_it_is_locked_or_a_way_is_claimed() {
    let tags = Tags::default().with(3, 2).with(6, 0xff);
    assert!(!tags.is_taken() && !tags.oldest().1.is_taken());
    assert!(Tags(tags.0 | Tags::LOCKED).is_taken());
    assert!(tags.with(6, Tags::CLAIMED).is_taken());
}

#[test]
fn keys_are_the_same_when_all_their_words_are() {
    let words = V6Address::words(&key_v6(7));
    assert!(is_same(&words, &words));
    for word in 0..words.len() {
        let mut other = words;
        other[word] ^= 1 << 63;
        assert!(!is_same(&words, &other), "word {word}");
    }
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
