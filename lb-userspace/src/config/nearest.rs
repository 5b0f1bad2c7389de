//! What a misspelt word most likely was meant to be.

/// The candidate that the text most likely was meant to be, if one is near enough.
pub(crate) fn nearest<'c>(
    text: &str,
    candidates: impl Iterator<Item = &'c str>,
) -> Option<&'c str> {
    // Nobody means a key by a text many times its length; this bounds the work as well.
    if text.len() > 64 {
        return None;
    }
    candidates
        .map(|candidate| (distance(text, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements between two texts (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.chars().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        for (to, cell) in right.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = *cell;
            before = replaced.min(diagonal + 1).min(before + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("interface", "interfaces"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("vip", "vip"), 0);
    }

    #[test]
    fn nearest_is_near() {
        let keys = ["interval", "fast_interval", "timeout"];
        assert_eq!(nearest("intervall", keys.into_iter()), Some("interval"));
        assert_eq!(nearest("time_out", keys.into_iter()), Some("timeout"));
        assert_eq!(nearest("password", keys.into_iter()), None);
    }
}
