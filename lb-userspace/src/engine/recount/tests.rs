//! What one walk can say of a count, and what two can.

use super::*;

fn of(half_open: i64, established: i64) -> Error {
    Error {
        half_open,
        established,
    }
}

#[test]
fn a_difference_is_what_movement_cannot_explain() {
    // counted before, came, went, found, and the error.
    let table = [
        (10, 0, 0, 10, 0),
        (10, 0, 0, 7, 3),
        (10, 0, 0, 12, -2),
        // Three went during the walk: each may have been seen or not.
        (10, 0, 3, 10, 0),
        (10, 0, 3, 8, 0),
        (10, 0, 3, 7, 0),
        (10, 0, 3, 5, 2),
        (10, 0, 3, 11, -1),
        // Three came during the walk.
        (10, 3, 0, 10, 0),
        (10, 3, 0, 13, 0),
        (10, 3, 0, 14, -1),
        (10, 3, 0, 9, 1),
        // Both.
        (10, 5, 5, 5, 0),
        (10, 5, 5, 15, 0),
        (10, 5, 5, 16, -1),
        (10, 5, 5, 4, 1),
        (0, 0, 0, 0, 0),
        (0, 0, 0, 4, -4),
        (u64::MAX, 0, 0, 0, i64::MAX),
    ];
    for (counted, came, went, found, expected) in table {
        let error = error(counted, came, went, found);
        assert_eq!(error, expected, "{counted} +{came} -{went}, found {found}");
    }
}

#[test]
fn two_walks_agree_on_the_smaller_part_in_the_same_direction() {
    let table = [
        (of(0, 3), of(0, 3), of(0, 3)),
        (of(0, 5), of(0, 3), of(0, 3)),
        (of(0, 3), of(0, 5), of(0, 3)),
        (of(0, -3), of(0, -1), of(0, -1)),
        (of(0, 3), of(0, -3), of(0, 0)),
        (of(0, 3), of(0, 0), of(0, 0)),
        (of(0, 0), of(0, 3), of(0, 0)),
        (of(2, -3), of(1, -4), of(1, -3)),
        (of(2, 3), of(-1, 4), of(0, 3)),
    ];
    for (now, last, expected) in table {
        assert_eq!(now.common_with(last), expected, "{now:?} and {last:?}");
    }
}
