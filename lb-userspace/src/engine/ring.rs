//! The rings: member indices in the order in which a service takes them.

use lb_common::family::mix;
use lb_common::limits::RING_SIZE;

use crate::config::Algorithm;

/// The ring of a service over its eligible members (index and weight, never 0); empty for
/// least-connections, which needs none.
pub fn build(algorithm: Algorithm, shape: &[(u8, u16)]) -> Vec<u8> {
    match algorithm {
        Algorithm::LeastConnections => Vec::new(),
        Algorithm::RoundRobin => take_turns(shape),
        Algorithm::Hash => maglev(shape),
    }
}

/// Smooth weighted round robin, as nginx has it: each turn every member gains its weight, and the
/// one with the most loses the sum. A whole cycle of it is the ring.
fn take_turns(shape: &[(u8, u16)]) -> Vec<u8> {
    let divisor = shape
        .iter()
        .fold(0, |divisor, (_, weight)| gcd(divisor, i64::from(*weight)));
    let mut weights: Vec<(u8, i64)> = shape
        .iter()
        .map(|(index, weight)| (*index, i64::from(*weight) / divisor.max(1)))
        .collect();
    let mut total: i64 = weights.iter().map(|(_, weight)| weight).sum();
    let most = i64::from(RING_SIZE);
    if total > most {
        // A cycle that does not fit is coarsened; every member keeps a turn.
        for (_, weight) in &mut weights {
            *weight = (*weight * (most - 32) / total).max(1);
        }
        total = weights.iter().map(|(_, weight)| weight).sum();
    }
    let mut credit = vec![0_i64; weights.len()];
    (0..total)
        .filter_map(|_| {
            credit
                .iter_mut()
                .zip(&weights)
                .for_each(|(credit, (_, weight))| *credit += weight);
            // The first among equals, so that the order is the configuration's.
            let best = (0..credit.len()).rev().max_by_key(|at| credit[*at])?;
            credit[best] -= total;
            Some(weights[best].0)
        })
        .collect()
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A Maglev table (Eisenbud et al., NSDI 2016, section 3.4): each member walks its own
/// permutation of the positions and takes the next free one, as often as its weight allows.
fn maglev(shape: &[(u8, u16)]) -> Vec<u8> {
    let heaviest = shape
        .iter()
        .map(|(_, weight)| u32::from(*weight))
        .max()
        .unwrap_or(0);
    if heaviest == 0 {
        return Vec::new();
    }
    let mut members: Vec<Walker> = shape.iter().map(Walker::new).collect();
    let mut ring: Vec<Option<u8>> = vec![None; RING_SIZE as usize];
    let mut free = ring.len();
    while free > 0 {
        for member in &mut members {
            member.credit += member.weight;
            if member.credit < heaviest || free == 0 {
                continue;
            }
            member.credit -= heaviest;
            let at = member.next_free(&ring);
            ring[at] = Some(member.index);
            free -= 1;
        }
    }
    ring.into_iter().flatten().collect()
}

/// A member on its way through the positions.
struct Walker {
    index: u8,
    weight: u32,
    credit: u32,
    position: u32,
    skip: u32,
}

impl Walker {
    fn new(&(index, weight): &(u8, u16)) -> Self {
        let seed = u32::from(index) + 1;
        Self {
            index,
            weight: u32::from(weight),
            credit: 0,
            position: mix(0x5eed, seed) % RING_SIZE,
            // Coprime with the prime number of positions, so that the walk sees each of them.
            skip: mix(0xface, seed) % (RING_SIZE - 1) + 1,
        }
    }

    fn next_free(&mut self, ring: &[Option<u8>]) -> usize {
        loop {
            let at = self.position as usize;
            self.position = (self.position + self.skip) % RING_SIZE;
            if ring[at].is_none() {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(ring: &[u8], index: u8) -> f64 {
        let count = ring.iter().filter(|member| **member == index).count();
        f64::from(u32::try_from(count).unwrap()) / f64::from(u32::try_from(ring.len()).unwrap())
    }

    #[test]
    fn turns_are_smooth() {
        assert_eq!(take_turns(&[(0, 100), (1, 100)]), [0, 1]);
        assert_eq!(take_turns(&[(0, 100), (1, 50)]), [0, 1, 0]);
        assert_eq!(take_turns(&[(3, 5), (4, 1), (5, 1)]), [3, 3, 4, 3, 5, 3, 3]);
        assert_eq!(take_turns(&[]), [0_u8; 0]);
    }

    #[test]
    fn a_cycle_that_does_not_fit_keeps_the_shares() {
        let shape: Vec<(u8, u16)> = (0..32)
            .map(|index| (index, 997 + u16::from(index)))
            .collect();
        let ring = take_turns(&shape);
        assert!(ring.len() <= RING_SIZE as usize);
        assert!((share(&ring, 7) - 1.0 / 32.0).abs() < 0.001);
    }

    #[test]
    fn a_maglev_table_is_full_and_fair() {
        let ring = maglev(&[(0, 100), (1, 100), (2, 50)]);
        assert_eq!(ring.len(), RING_SIZE as usize);
        assert!((share(&ring, 0) - 0.4).abs() < 0.004, "{}", share(&ring, 0));
        assert!((share(&ring, 2) - 0.2).abs() < 0.004, "{}", share(&ring, 2));
    }

    #[test]
    fn losing_a_member_moves_few_of_the_others() {
        let all = maglev(&[(0, 100), (1, 100), (2, 100), (3, 100)]);
        let three = maglev(&[(0, 100), (1, 100), (3, 100)]);
        let moved = all
            .iter()
            .zip(&three)
            .filter(|(before, after)| **before != 2 && before != after)
            .count();
        assert!(moved < all.len() / 20, "{moved} of {} moved", all.len());
    }
}
