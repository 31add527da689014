//! What somebody may have meant who wrote something else.

/// The candidate that is most like `wanted`, capitals aside, if any is much like it.
pub fn nearest<T: AsRef<str> + Ord>(wanted: &str, candidates: impl IntoIterator<Item = T>) -> Option<T> {
    let wanted = wanted.to_lowercase();
    let measured = candidates.into_iter().map(|c| (edits(&wanted, &c.as_ref().to_lowercase()), c));
    let (distance, best) = measured.min()?;
    (distance <= wanted.len() / 4).then_some(best)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let replace = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
    }

    #[test]
    fn the_nearest_is_near() {
        assert_eq!(nearest("/clean", ["/exit", "/clear"]), Some("/clear"));
        assert_eq!(nearest("/frobnicate", ["/exit", "/clear"]), None);
    }
}
