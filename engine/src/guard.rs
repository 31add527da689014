//! Looks at every step's output: stops on what cannot be right, and warns of what a healthy model does not do.
//!
//! The limits of all warnings are one table, [`LIMITS`], set so that a sound model raises none of them; each is told once
//! in an answer.

use compute::Tag;
use compute::backend::{RowOutput, Tap};

use crate::error::{Error, Kind, Result};
use crate::program::{Stage, untag};

/// From where on something is told.
pub struct Limits {
    /// A loop is this many tokens of one repetition ...
    pub loop_tokens: usize,
    /// ... and this many turns of it ...
    pub loop_turns: usize,
    /// ... of at most this many tokens.
    pub loop_period: usize,
    /// Tokens whose surprise is averaged.
    pub window: usize,
    /// Nats that the best token of each may cost on average. One in eleven is a guess, not a choice.
    pub surprise: f64,
    /// How many times the average of all tokens before.
    pub spike: f64,
}

/// The table.
pub const LIMITS: Limits =
    Limits { loop_tokens: 48, loop_turns: 8, loop_period: 32, window: 8, surprise: 2.4, spike: 3.0 };

/// What is said of an answer whose first token is the end.
pub const ENDED_AT_ONCE: &str = "the model ended its answer before the first token; the prompt format may be wrong (see \
    --verbose), or the model is damaged (see `apr check`)";

/// Refuses non-finite logits. `position` is that of the first row.
pub fn finite(rows: &[RowOutput], position: usize) -> Result<()> {
    //= F-MATH-162
    //= F-MATH-163
    match rows.iter().position(|r| !r.finite) {
        None => Ok(()),
        Some(r) => Err(Error::new(
            Kind::Inference,
            format!("the model gave NaN or infinite logits at position {}", position + r),
        )
        .hint("the weights are damaged, or activations overflow in this format")),
    }
}

/// A tap that remembers the first operation whose output is not finite.
#[derive(Default)]
pub struct Beginning {
    found: Option<(usize, Stage, f32)>,
}

impl Tap for Beginning {
    fn observe(&mut self, _: usize, tag: Tag, _: usize, values: &[f32]) {
        if self.found.is_none()
            && let Some(x) = values.iter().find(|x| !x.is_finite())
            && let Some((layer, stage)) = untag(tag)
        {
            self.found = Some((layer, stage, *x));
        }
    }
}

impl Beginning {
    /// The error with the place where it began.
    pub fn explain(&self, mut error: Error) -> Error {
        let Some((layer, stage, x)) = self.found else { return error };
        //= F-JID-264
        //= F-JID-274
        let place = match stage {
            Stage::Embed | Stage::OutputNorm | Stage::Logits => format!("{stage:?}"),
            _ => format!("layer {layer}, {stage:?}"),
        };
        error.what = format!("{}; it began in {place} with {x}", error.what);
        let cause = match stage {
            Stage::Attention => "attention scores overflow: q or k is out of proportion",
            _ => "the tensor used there is damaged, or activations overflow in this format",
        };
        error.hint(format!("{cause}; `apr check` says more"))
    }
}

/// Watches one answer.
#[derive(Default)]
pub struct Watch {
    tokens: Vec<u32>,
    surprises: Vec<f64>,
    looped: bool,
    spiked: bool,
}

impl Watch {
    /// The token that was chosen, the output that it was chosen from, and its position. Gives what the user should know.
    pub fn token(&mut self, id: u32, row: &RowOutput, position: usize) -> Option<String> {
        self.tokens.push(id);
        // Of the best token and not of the one drawn: a high temperature is no illness.
        self.surprises.push(f64::from(row.log_sum_exp) - f64::from(row.max));
        self.in_a_loop(position).or_else(|| self.spike(position))
    }

    //= F-JID-270
    fn in_a_loop(&mut self, position: usize) -> Option<String> {
        if self.looped {
            return None;
        }
        let t = &self.tokens;
        let turns = |period: usize| {
            let same = t.iter().rev().zip(t.iter().rev().skip(period)).take_while(|(a, b)| a == b).count();
            same + period >= LIMITS.loop_tokens.max(LIMITS.loop_turns * period)
        };
        // Only an end that came round just now can be new; the shortest period is the one to tell.
        let period = (1..=LIMITS.loop_period).find(|p| turns(*p))?;
        self.looped = true;
        Some(format!(
            "the answer runs in a loop of {period} token{} up to position {position}; --repeat-penalty or \
             --dry-multiplier may help, and `apr check` tells whether the model is sound",
            if period == 1 { "" } else { "s" }
        ))
    }

    //= F-JID-269
    fn spike(&mut self, position: usize) -> Option<String> {
        let n = LIMITS.window;
        if self.spiked || self.surprises.len() < n {
            return None;
        }
        let (before, window) = self.surprises.split_at(self.surprises.len() - n);
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len().max(1) as f64;
        let (usual, now) = (mean(before), mean(window));
        // An answer that begins with guesses has no band yet that it could leave.
        if now <= LIMITS.surprise || now <= LIMITS.spike * usual && !before.is_empty() {
            return None;
        }
        self.spiked = true;
        Some(format!(
            "the model is guessing: perplexity {:.0} over the {n} tokens up to position {position} ({:.1} before); the \
             weights or the prompt format may be wrong, `apr check` tells",
            now.exp(),
            usual.exp()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tokens: impl IntoIterator<Item = (u32, f32)>) -> Vec<(usize, String)> {
        let mut watch = Watch::default();
        let row = |s: f32| RowOutput { max: 1.0, log_sum_exp: 1.0 + s, ..RowOutput::default() };
        let each = tokens.into_iter().enumerate();
        each.filter_map(|(i, (id, s))| Some((i, watch.token(id, &row(s), i)?))).collect()
    }

    #[test]
    fn a_loop_is_told_once_with_its_period() {
        let loops = told((0..200).map(|i| (i % 3, 0.1)));
        assert_eq!(loops.len(), 1);
        assert!(loops[0].1.contains("loop of 3 tokens") && loops[0].0 == 47, "{loops:?}");
        assert!(told((0..40).map(|_| (7, 0.1))).is_empty(), "what was asked for ends");
        assert!(told((0..200).map(|i| (i, 0.1))).is_empty());
        // Thirty tokens long: eight turns are needed.
        assert_eq!(told((0..400).map(|i| (i % 30, 0.1)))[0].0, 239);
    }

    #[test]
    fn guessing_is_told_from_the_start_and_later() {
        assert_eq!(told((0..20).map(|i| (i, 3.0)))[0].0, 7);
        let later = told((0..60).map(|i| (i, if i < 30 { 0.2 } else { 3.0 })));
        assert!(later.len() == 1 && later[0].0 > 30 && later[0].0 <= 37, "{later:?}");
        // A model that is unsure throughout, and one that is unsure for a moment.
        assert!(told((0..60).map(|i| (i, 1.5))).is_empty());
        assert!(told((0..60).map(|i| (i, if i % 9 == 0 { 6.0 } else { 0.2 }))).is_empty());
    }
}
