//! Prompt lookup (Saxena 2023): what followed the last tokens when they occurred before.

use std::collections::HashMap;

use super::Drafter;
use crate::error::Result;

/// Tokens that must have occurred before, in this order, for what followed them to be drafted.
const GRAM: usize = 3;

/// Where each run of three tokens of a text occurred in it last.
#[derive(Debug, Default)]
pub struct PromptLookup {
    /// Grams to the position after them. The gram at the end of the text is not in it yet.
    after: HashMap<[u32; GRAM], usize>,
    /// Tokens that were read.
    read: usize,
    /// What followed the end of the text when it was there before.
    from: Option<usize>,
}

impl Drafter for PromptLookup {
    fn knows(&mut self, text: &[u32]) -> bool {
        for end in self.read..text.len() {
            if let Some(gram) = text[..end].last_chunk() {
                self.after.insert(*gram, end);
            }
        }
        self.read = text.len();
        self.from = text.last_chunk().and_then(|gram: &[u32; GRAM]| self.after.get(gram).copied());
        self.from.is_some()
    }

    fn draft(&mut self, text: &[u32], most: usize) -> Result<Vec<u32>> {
        self.knows(text);
        let Some(from) = self.from else { return Ok(Vec::new()) };
        // Past the end of the text the draft repeats itself, as the text would.
        let period = text.len() - from;
        Ok((0..most).map(|i| text[from + i % period]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Read a token at a time, as an answer grows.
    fn draft(text: &[u32], most: usize) -> Vec<u32> {
        let mut lookup = PromptLookup::default();
        for end in 0..text.len() {
            lookup.knows(&text[..end]);
        }
        lookup.draft(text, most).unwrap()
    }

    #[test]
    fn what_followed_before_is_drafted_and_the_last_time_counts() {
        assert!(draft(&[1, 2], 4).is_empty());
        assert!(draft(&[1, 2, 3, 9, 8], 4).is_empty());
        assert_eq!(draft(&[1, 2, 3, 9, 8, 1, 2, 3], 3), [9, 8, 1]);
        assert_eq!(draft(&[1, 2, 3, 9, 8, 1, 2, 3, 7, 1, 2, 3], 2), [7, 1]);
    }

    #[test]
    fn a_loop_is_drafted_beyond_its_end() {
        assert_eq!(draft(&[5, 6, 5, 6, 5], 5), [6, 5, 6, 5, 6]);
    }

    proptest! {
        #[test]
        fn the_table_finds_what_a_search_finds(text in prop::collection::vec(0u32..4, 0..60), most in 0usize..9) {
            let len = text.len();
            let from = (GRAM..len).rev().find(|&e| text[e - GRAM..e] == text[len - GRAM..]);
            let want: Vec<u32> = from.map_or(Vec::new(), |from| {
                let mut text = text.clone();
                (0..most).for_each(|i| text.push(text[from + i]));
                text.split_off(len)
            });
            prop_assert_eq!(draft(&text, most), &want[..]);
            prop_assert_eq!(PromptLookup::default().draft(&text, most).unwrap(), want);
        }
    }
}
