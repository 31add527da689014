//! Finds whole tokens (control and user-defined ones) in text, before anything splits it into words.
//!
//! HuggingFace's rule: leftmost, then longest. Ours on top: a control token counts only where the caller allows it.

use std::ops::Range;

/// A token that is matched by its whole text.
pub(super) struct Special {
    pub text: Box<str>,
    pub id: u32,
    /// Only ever matched in scaffold.
    pub control: bool,
}

/// All of them, sorted by text, so that the tokens beginning with a given prefix are neighbours.
pub(super) struct Specials {
    sorted: Vec<Special>,
    /// Whether any token begins with this byte: most positions of a text are dismissed by one look here.
    first: [bool; 256],
}

impl Specials {
    /// No text may be empty.
    pub fn new(mut sorted: Vec<Special>) -> Specials {
        sorted.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        let mut first = [false; 256];
        for special in &sorted {
            first[usize::from(special.text.as_bytes()[0])] = true;
        }
        Specials { sorted, first }
    }

    /// The token with exactly this text.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        let i = self.sorted.binary_search_by(|s| (*s.text).cmp(text)).ok()?;
        Some(self.sorted[i].id)
    }

    /// The texts of the control tokens.
    pub fn controls(&self) -> impl Iterator<Item = &str> {
        self.sorted.iter().filter(|s| s.control).map(|s| &*s.text)
    }

    /// The first token at or after `from`. `scaffold` says whether a control token may lie in this range.
    pub fn next(
        &self,
        text: &str,
        from: usize,
        mut scaffold: impl FnMut(&Range<usize>) -> bool,
    ) -> Option<(Range<usize>, u32)> {
        let bytes = text.as_bytes();
        (from..bytes.len()).filter(|&at| self.first[usize::from(bytes[at])]).find_map(|at| {
            let found = self.longest(&bytes[at..], |len| scaffold(&(at..at + len)))?;
            Some((at..at + found.text.len(), found.id))
        })
    }

    /// The longest token that `bytes` begins with: the candidates are narrowed byte by byte. Token texts are short
    /// (`limits::CONTROL_TOKEN_BYTES_MAX`), so a hostile vocabulary cannot make this slow.
    fn longest(&self, bytes: &[u8], mut scaffold: impl FnMut(usize) -> bool) -> Option<&Special> {
        let mut candidates = &self.sorted[..];
        let mut best = None;
        for (depth, &byte) in bytes.iter().enumerate() {
            // A candidate that is exhausted sorts before the longer ones: `None < Some(byte)`.
            let at = |s: &Special| s.text.as_bytes().get(depth).copied();
            let start = candidates.partition_point(|s| at(s) < Some(byte));
            let end = candidates.partition_point(|s| at(s) <= Some(byte));
            candidates = &candidates[start..end];
            match candidates.first() {
                None => break,
                Some(s) if s.text.len() == depth + 1 && (!s.control || scaffold(depth + 1)) => best = Some(s),
                Some(_) => {}
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn specials(texts: &[&str]) -> Specials {
        let special =
            |(id, text): (usize, &&str)| Special { text: (*text).into(), id: id as u32, control: id % 2 == 0 };
        Specials::new(texts.iter().enumerate().map(special).collect())
    }

    #[test]
    fn leftmost_then_longest() {
        let s = specials(&["<a>", "<a>b", "a>", "<"]);
        assert_eq!(s.next("x<a>bc", 0, |_| true), Some((1..5, 1)));
        assert_eq!(s.next("x<a>c", 0, |_| true), Some((1..4, 0)));
        // Where control tokens may not be, the user-defined ones still are.
        assert_eq!(s.next("x<a>c", 0, |_| false), Some((1..2, 3)));
        assert_eq!(s.next("xyz", 0, |_| true), None);
        assert_eq!(s.id_of("a>"), Some(2));
        assert_eq!(s.controls().collect::<Vec<_>>(), ["<a>", "a>"]);
    }

    proptest! {
        #[test]
        fn equals_trying_every_token_at_every_position(
            texts in prop::collection::btree_set("[ab<é]{1,4}", 1..12),
            text in "[ab<é]{0,12}",
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let slow = text.char_indices().find_map(|(at, _)| {
                let here = texts.iter().enumerate().filter(|(_, t)| text[at..].starts_with(**t));
                here.max_by_key(|(_, t)| t.len()).map(|(id, t)| (at..at + t.len(), id as u32))
            });
            prop_assert_eq!(specials(&texts).next(&text, 0, |_| true), slow);
        }
    }
}
