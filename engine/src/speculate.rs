//! Lossless speculation by prompt lookup (Saxena 2023): what followed the last tokens when they occurred before is
//! drafted, and verified in one step with the token that was chosen. Each row's token is then chosen as it always is,
//! by the same sampler from the same logits and history, so a draft changes when a token is computed and never which.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Most tokens drafted for one step: with the chosen one these are the columns that one pass over the weights serves.
pub const DRAFT_MAX: usize = 7;

/// Tokens that must have occurred before, in this order, for what followed them to be drafted.
const GRAM: usize = 3;

/// The drafts of one answer.
#[derive(Debug)]
pub struct Drafting {
    most: usize,
    lookup: PromptLookup,
    pace: Pace,
    /// When the last step began, and how many tokens were drafted for it.
    began: Option<(Instant, usize)>,
    /// Tokens chosen since.
    chosen: usize,
    /// Tokens drafted in all, and how many of them were right.
    pub counts: (usize, usize),
}

impl Drafting {
    /// Of an answer to `prompt`, at most `most` tokens at a time.
    pub fn new(prompt: &[u32], most: usize) -> Drafting {
        let mut lookup = PromptLookup::default();
        if most > 0 {
            prompt.iter().for_each(|&id| lookup.push(id));
        }
        Drafting { most: most.min(DRAFT_MAX), lookup, pace: Pace::new(), began: None, chosen: 0, counts: (0, 0) }
    }

    /// A token was chosen.
    pub fn chosen(&mut self, id: u32) {
        if self.most > 0 {
            self.lookup.push(id);
            self.chosen += 1;
        }
    }

    /// Tokens to run after the one chosen last, in a step that begins now; `room` is how many are of any use.
    pub fn next(&mut self, room: usize) -> Vec<u32> {
        if self.most == 0 {
            return Vec::new();
        }
        if let Some((at, drafted)) = self.began {
            let right = self.chosen - 1;
            self.pace.took(at.elapsed(), drafted, right);
            self.counts = (self.counts.0 + drafted, self.counts.1 + right);
        }
        let mut draft = self.lookup.draft(self.most.min(room));
        if !draft.is_empty() {
            draft.truncate(self.pace.draft());
        }
        self.began = Some((Instant::now(), draft.len()));
        self.chosen = 0;
        draft
    }
}

/// A text, and where each run of three tokens occurred in it last.
#[derive(Debug, Default)]
struct PromptLookup {
    text: Vec<u32>,
    /// Grams to the position after them. The gram at the end of the text is not in it yet.
    after: HashMap<[u32; GRAM], usize>,
}

impl PromptLookup {
    fn push(&mut self, id: u32) {
        if let Some(gram) = self.text.last_chunk() {
            self.after.insert(*gram, self.text.len());
        }
        self.text.push(id);
    }

    /// At most `most` tokens that may come next.
    fn draft(&self, most: usize) -> Vec<u32> {
        let from = self.text.last_chunk().and_then(|gram: &[u32; GRAM]| self.after.get(gram));
        let Some(&from) = from else { return Vec::new() };
        // Past the end of the text the draft repeats itself, as the text would.
        let period = self.text.len() - from;
        (0..most).map(|i| self.text[from + i % period]).collect()
    }
}

/// Whether drafting pays, by the clock: tokens a second with drafts and without. It decides how fast an answer comes,
/// not what it is.
#[derive(Debug)]
struct Pace {
    /// Seconds of a step without a draft.
    plain: Mean,
    /// Seconds of a step with one.
    drafted: Mean,
    /// Tokens that such a step gave.
    gained: Mean,
    /// Tokens to draft next.
    next: usize,
    /// Drafts passed by since the last one, and how many are to be passed by before another try.
    passed: usize,
    patience: usize,
}

/// A mean that forgets.
#[derive(Debug, Default)]
struct Mean(Option<f64>);

impl Mean {
    fn add(&mut self, x: f64) {
        self.0 = Some(self.0.map_or(x, |m| m + (x - m) / 8.0));
    }
}

impl Pace {
    const PATIENCE: usize = 16;

    /// Nothing is known.
    fn new() -> Pace {
        let (plain, drafted, gained) = Default::default();
        Pace { plain, drafted, gained, next: 3, passed: 0, patience: Pace::PATIENCE }
    }

    /// How many tokens to draft now, at most.
    fn draft(&mut self) -> usize {
        let (Some(plain), Some(drafted), Some(gained)) = (self.plain.0, self.drafted.0, self.gained.0) else {
            // Without a step to compare with there is nothing to decide by.
            return if self.plain.0.is_some() { self.next } else { 0 };
        };
        if gained * plain >= drafted {
            self.patience = Pace::PATIENCE;
            return self.next;
        }
        self.passed += 1;
        if self.passed < self.patience {
            return 0;
        }
        (self.passed, self.patience) = (0, (self.patience * 2).min(512));
        self.next
    }

    /// A step took so long with so many drafted tokens, of which so many were right.
    fn took(&mut self, time: Duration, drafted: usize, right: usize) {
        if drafted == 0 {
            return self.plain.add(time.as_secs_f64());
        }
        self.drafted.add(time.as_secs_f64());
        self.gained.add((right + 1) as f64);
        self.next = if right == drafted { 2 * drafted + 1 } else { right + 1 }.clamp(2, DRAFT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn draft(text: &[u32], most: usize) -> Vec<u32> {
        let mut lookup = PromptLookup::default();
        text.iter().for_each(|&id| lookup.push(id));
        lookup.draft(most)
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
            prop_assert_eq!(draft(&text, most), want);
        }
    }

    #[test]
    fn drafts_that_do_not_pay_become_rare() {
        let mut pace = Pace::new();
        assert_eq!(pace.draft(), 0, "nothing to compare with yet");
        let (mut drafts, ms) = (0, Duration::from_millis);
        for _ in 0..1000 {
            let n = pace.draft();
            drafts += usize::from(n > 0);
            pace.took(if n > 0 { ms(15) } else { ms(10) }, n, 0);
        }
        assert!((2..20).contains(&drafts), "{drafts} drafts in 1000 steps");
    }

    #[test]
    fn drafts_that_pay_grow() {
        let mut pace = Pace::new();
        pace.took(Duration::from_millis(10), 0, 0);
        for _ in 0..4 {
            let n = pace.draft();
            pace.took(Duration::from_millis(12), n, n);
        }
        assert_eq!(pace.draft(), DRAFT_MAX);
    }
}
