//! Who speaks to whom: random clients, always the same ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::frame::Family;

/// A small generator of random numbers (SplitMix64): the same numbers in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Puts the items in a random order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = usize::try_from(self.next() % (end as u64 + 1)).unwrap_or(0);
            items.swap(end, other);
        }
    }
}

/// So many different clients of a family, out of a network of their own: 10.128.0.0/9 or
/// 2001:db8:c::/64, ports from 1024 on.
pub(crate) fn clients(family: Family, count: usize, seed: u64) -> Vec<SocketAddr> {
    let mut random = Random(seed);
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < count {
        let number = random.next();
        let [a, b, c, p0, p1, ..] = number.to_le_bytes();
        let port = 1024 + u16::from_le_bytes([p0, p1]) % 64_000;
        let address: IpAddr = match family {
            Family::V4 => Ipv4Addr::new(10, 128 | a, b, c).into(),
            Family::V6 => Ipv6Addr::new(
                0x2001,
                0xdb8,
                0xc,
                0,
                0,
                0,
                u16::from_le_bytes([a, 0]),
                u16::from_le_bytes([b, c]),
            )
            .into(),
        };
        seen.insert(SocketAddr::new(address, port));
    }
    let mut clients: Vec<_> = seen.into_iter().collect();
    random.shuffle(&mut clients);
    clients
}
