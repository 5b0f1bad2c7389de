//! Keeping the counts of client addresses true.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::source::{SourceKey, SourceTally};

/// What is to be written for a client address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// Its connections that the controller ended or found gone. It wraps below zero.
    Reaped(SourceKey, u64),
    /// It has none, and is forgotten.
    Gone(SourceKey),
}

/// Holds what is `counted` for client addresses, by the kernel and by the controller, against the
/// connections `found`. Connections open and close meanwhile, so only an error that was there at
/// the last recount as well is believed; `miscounted` keeps it from one recount to the next.
pub fn settle_sources(
    counted: &BTreeMap<SourceKey, (SourceTally, u64)>,
    found: &BTreeMap<SourceKey, u64>,
    miscounted: &mut BTreeMap<SourceKey, i64>,
) -> Vec<Correction> {
    let last = std::mem::take(miscounted);
    let keys: BTreeSet<&SourceKey> = counted.keys().chain(found.keys()).collect();
    let mut corrections = Vec::new();
    for key in keys {
        let (tally, reaped) = counted.get(key).copied().unwrap_or_default();
        let found = found.get(key).copied().unwrap_or(0);
        let now = tally.connections(reaped).wrapping_sub(found).cast_signed();
        let before = last.get(key).copied();
        if now == 0 {
            // Idle for two recounts: whoever comes back is counted from nothing.
            if found == 0 && before == Some(0) {
                corrections.push(Correction::Gone(*key));
            } else if found == 0 {
                miscounted.insert(*key, 0);
            }
            continue;
        }
        let believed = common(now, before.unwrap_or(0));
        if believed == 0 {
            miscounted.insert(*key, now);
        } else {
            let reaped = reaped.wrapping_add_signed(believed);
            corrections.push(Correction::Reaped(*key, reaped));
        }
    }
    corrections
}

/// The part of an error that was there before.
fn common(now: i64, before: i64) -> i64 {
    if now.signum() == before.signum() {
        now.signum() * now.abs().min(before.abs())
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use lb_common::service::ServiceId;

    use super::*;

    fn key() -> SourceKey {
        SourceKey::new(ServiceId(1), [1, 2, 3, 4])
    }

    /// Recounts as often as there are findings, and returns what was written.
    fn recount(established: u64, ended: u64, mut reaped: u64, found: &[u64]) -> Vec<Correction> {
        let tally = SourceTally { established, ended };
        let mut miscounted = BTreeMap::new();
        let mut all = Vec::new();
        for found in found {
            let counted = [(key(), (tally, reaped))].into();
            let found = [(key(), *found)].into_iter().filter(|(_, n)| *n > 0);
            let corrections = settle_sources(&counted, &found.collect(), &mut miscounted);
            if let Some(Correction::Reaped(_, new)) = corrections.first() {
                reaped = *new;
            }
            all.extend(corrections);
        }
        all
    }

    #[test]
    fn a_count_that_is_right_stays() {
        assert_eq!(recount(5, 2, 1, &[2, 2, 2]), []);
    }

    #[test]
    fn an_error_is_believed_when_it_stays() {
        assert_eq!(recount(5, 0, 0, &[3]), []);
        assert_eq!(recount(5, 0, 0, &[3, 5]), []);
        assert_eq!(recount(5, 0, 0, &[3, 3]), [Correction::Reaped(key(), 2)]);
    }

    #[test]
    fn connections_that_nobody_counted_are_found() {
        let missing = 0_u64.wrapping_sub(4);
        assert_eq!(
            recount(0, 0, 0, &[4, 4, 4]),
            [Correction::Reaped(key(), missing)]
        );
        // Their ends are counted then.
        assert_eq!(recount(0, 4, missing, &[0, 0]), [Correction::Gone(key())]);
    }

    #[test]
    fn an_address_without_connections_is_forgotten() {
        assert_eq!(recount(5, 3, 2, &[0]), []);
        assert_eq!(recount(5, 3, 2, &[0, 0]), [Correction::Gone(key())]);
    }
}
