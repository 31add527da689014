//! Lossless speculation: what may come next is drafted, and verified in one step with the token that was chosen. Each
//! row's token is then chosen as it always is, by the same sampler from the same logits and history, so a draft changes
//! when a token is computed and never which, greedy or drawn, whoever drafts.

mod lookup;
mod model;

use std::time::{Duration, Instant};

use crate::error::Result;
pub use lookup::PromptLookup;
pub use model::DraftModel;

/// Most tokens drafted for one step: with the chosen one these are the columns that one pass over the weights serves.
pub const DRAFT_MAX: usize = 7;

/// Who has an idea of what comes next. It may be wrong: that costs time and changes no token.
pub trait Drafter {
    /// Whether it has anything to say after `text`, which begins with what it was before. Costs next to nothing.
    fn knows(&mut self, text: &[u32]) -> bool;

    /// At most `most` tokens that may follow. With none wanted it only reads the text.
    fn draft(&mut self, text: &[u32], most: usize) -> Result<Vec<u32>>;
}

/// The drafts of one answer.
pub struct Drafting<'d> {
    most: usize,
    text: Vec<u32>,
    /// In the order in which they are asked, each with its own pace.
    drafters: Vec<(&'d mut dyn Drafter, Pace)>,
    /// Seconds of a step without a draft.
    plain: Mean,
    step: Option<Step>,
    /// Tokens chosen since the last step began.
    chosen: usize,
    /// Tokens drafted in all, and how many of them were right.
    pub counts: (usize, usize),
}

/// A step that is being timed, from before its drafts were made.
struct Step {
    began: Instant,
    drafted: usize,
    /// Whose they are.
    by: Option<usize>,
}

impl<'d> Drafting<'d> {
    /// Of an answer to `prompt`, at most `most` tokens at a time.
    pub fn new(prompt: &[u32], most: usize, drafters: Vec<&'d mut dyn Drafter>) -> Drafting<'d> {
        let drafters = drafters.into_iter().map(|d| (d, Pace::new())).collect();
        let text = if most > 0 { prompt.to_vec() } else { Vec::new() };
        let most = most.min(DRAFT_MAX);
        Drafting { most, text, drafters, plain: Mean::default(), step: None, chosen: 0, counts: (0, 0) }
    }

    /// A token was chosen.
    pub fn chosen(&mut self, id: u32) {
        if self.most > 0 {
            self.text.push(id);
            self.chosen += 1;
        }
    }

    /// Tokens to run after the one chosen last, in a step that begins now; `room` is how many are of any use.
    pub fn next(&mut self, room: usize) -> Result<Vec<u32>> {
        if self.most == 0 {
            return Ok(Vec::new());
        }
        match self.step.take() {
            // Reading the prompt belongs to no step.
            None => self.drafters.iter_mut().try_for_each(|(d, _)| d.draft(&self.text, 0).map(drop))?,
            Some(Step { began, drafted, by }) => {
                let (time, right) = (began.elapsed(), self.chosen - 1);
                self.counts = (self.counts.0 + drafted, self.counts.1 + right);
                match by {
                    Some(who) => self.drafters[who].1.took(time, drafted, right),
                    None => self.plain.add(time.as_secs_f64()),
                }
            }
        }
        let (began, mut by, mut draft) = (Instant::now(), None, Vec::new());
        for (who, (drafter, pace)) in self.drafters.iter_mut().enumerate() {
            let most = if room > 0 && drafter.knows(&self.text) { pace.draft(&self.plain) } else { 0 };
            if most > 0 {
                draft = drafter.draft(&self.text, most.min(self.most).min(room))?;
            }
            if !draft.is_empty() {
                by = Some(who);
                break;
            }
        }
        self.step = Some(Step { began, drafted: draft.len(), by });
        self.chosen = 0;
        Ok(draft)
    }
}

/// Whether drafting pays, by the clock: tokens a second with drafts and without. It decides how fast an answer comes,
/// not what it is.
#[derive(Debug)]
struct Pace {
    /// Seconds of a step with a draft, and of making it.
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
        Pace { drafted: Mean(None), gained: Mean(None), next: 3, passed: 0, patience: Pace::PATIENCE }
    }

    /// How many tokens to draft now, at most, where a step without a draft takes so many seconds.
    fn draft(&mut self, plain: &Mean) -> usize {
        // Without a step to compare with there is nothing to decide by.
        let Some(plain) = plain.0 else { return 0 };
        let (Some(drafted), Some(gained)) = (self.drafted.0, self.gained.0) else { return self.next };
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
        self.drafted.add(time.as_secs_f64());
        self.gained.add((right + 1) as f64);
        self.next = if right == drafted { 2 * drafted + 1 } else { right + 1 }.clamp(2, DRAFT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn drafts_that_do_not_pay_become_rare() {
        let (mut pace, plain) = (Pace::new(), Mean(Some(0.010)));
        assert_eq!(pace.draft(&Mean::default()), 0, "nothing to compare with yet");
        let mut drafts = 0;
        for _ in 0..1000 {
            let n = pace.draft(&plain);
            if n > 0 {
                drafts += 1;
                pace.took(MS(15), n, 0);
            }
        }
        assert!((2..20).contains(&drafts), "{drafts} drafts in 1000 steps");
    }

    #[test]
    fn drafts_that_pay_grow() {
        let (mut pace, plain) = (Pace::new(), Mean(Some(0.010)));
        for _ in 0..4 {
            let n = pace.draft(&plain);
            pace.took(MS(12), n, n);
        }
        assert_eq!(pace.draft(&plain), DRAFT_MAX);
    }

    /// Drafts what it was given, whenever it is asked.
    struct Says(Vec<u32>, usize);

    impl Drafter for Says {
        fn knows(&mut self, _: &[u32]) -> bool {
            !self.0.is_empty()
        }
        fn draft(&mut self, text: &[u32], most: usize) -> Result<Vec<u32>> {
            self.1 = text.len();
            Ok(self.0.iter().take(most).copied().collect())
        }
    }

    #[test]
    fn the_first_who_knows_anything_drafts() {
        let (mut silent, mut one, mut two) = (Says(vec![], 0), Says(vec![7, 8], 0), Says(vec![9], 0));
        let mut drafting = Drafting::new(&[1, 2], 5, vec![&mut silent, &mut one, &mut two]);
        drafting.chosen(3);
        assert!(drafting.next(4).unwrap().is_empty(), "a step to compare with comes first");
        drafting.chosen(4);
        assert_eq!(drafting.next(4).unwrap(), [7, 8]);
        // One of them was right, and the token after it is chosen from the same step.
        drafting.chosen(7);
        drafting.chosen(5);
        assert!(drafting.next(0).unwrap().is_empty(), "there is no room");
        assert_eq!(drafting.counts, (2, 1));
        drop(drafting);
        assert_eq!((silent.1, one.1, two.1), (3, 4, 3), "all read the prompt, one drafted");
        let mut off = Drafting::new(&[1, 2], 0, vec![&mut one]);
        off.chosen(3);
        assert!(off.next(4).unwrap().is_empty());
    }
}
