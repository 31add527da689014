//! Stage 10, second half: does the model know what every language model knows?
//!
//! Three probes, none of them about facts. *Perplexity* of sequences that anybody can continue, after the first items:
//! numbers, tens, weekdays, months. *Copying*: a word that is repeated, or asked for, comes back. *Sums* of one digit.
//! A model whose tensors look healthy and that was put together wrongly (another vocabulary, transposed or permuted
//! weights, heads or angles of another layout) fails at least one; on a sound one these numbers are near 0, all, all.
//! What a model cannot be blamed for is counted generously: a bare completion or a chat answer will do.

use std::sync::atomic::AtomicBool;

use compute::Want;
use compute::backend::NoTap;

use super::{Fault, Notes, SAMPLER};
use crate::api::Silent;
use crate::error::Result;
use crate::sample::Sampling;
use crate::session::{Generation, Loaded, PREFILL_CHUNK, Prompt, Session};

/// Sequences; the first part of each is not judged.
const SEQUENCES: &[&str] = &[
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24",
    "10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 150",
    "2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32",
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    "January, February, March, April, May, June, July, August, September, October, November, December",
];
/// Which part.
const WARM_UP: usize = 3;
/// Nats a token, mean of the sequences.
const SURPRISE_MOST: f64 = 0.5;
/// Nats a token, of any one sequence.
const SURPRISE_OF_ONE_MOST: f64 = 1.5;

const COPIED: &[&str] = &["apple", "river", "seven", "window", "green"];
const COPIED_LEAST: usize = 2;

const SUMS: &[(u32, u32)] = &[(3, 4), (5, 1), (6, 2), (2, 7), (8, 5), (4, 9)];
const SUMS_LEAST: usize = 4;

/// Tokens of an answer.
const ANSWER_TOKENS: usize = 20;

/// What was found out.
pub struct Known {
    /// Nats a token, of each sequence.
    surprise: Vec<f64>,
    copied: usize,
    added: usize,
    /// `ln(vocabulary)`: what knowing nothing would cost.
    guessing: f64,
}

/// Asks.
pub fn ask(loaded: &mut Loaded) -> Result<Known> {
    let surprise = SEQUENCES.iter().map(|text| surprise(loaded, text)).collect::<Result<_>>()?;
    let mut copied = 0;
    for word in COPIED {
        let bare = format!("{word}, {word}, {word}, {word},");
        copied += usize::from(answers(loaded, &bare, &format!("Repeat this word: {word}"), word)?);
    }
    let mut added = 0;
    for (a, b) in SUMS {
        let bare = format!("1 + 1 = 2\n3 + 2 = 5\n7 + 1 = 8\n{a} + {b} =");
        added += usize::from(answers(loaded, &bare, &format!("What is {a} + {b}?"), &(a + b).to_string())?);
    }
    Ok(Known { surprise, copied, added, guessing: (loaded.model.hyper.vocab as f64).ln() })
}

impl Known {
    pub fn judge(&self, notes: &mut Notes) {
        let mean = self.surprise.iter().sum::<f64>() / self.surprise.len() as f64;
        let (worst, most) =
            self.surprise.iter().enumerate().fold((0, 0f64), |m, (i, s)| if *s > m.1 { (i, *s) } else { m });
        let hint = "weights, vocabulary or layout are not those of the trained model; one that was never taught this \
            cannot be checked";
        notes.hold(SAMPLER, mean <= SURPRISE_MOST && most <= SURPRISE_OF_ONE_MOST, || {
            let what = format!(
                "it cannot go on with {:?}: {most:.2} nats a token, mean {mean:.2}, at most {SURPRISE_MOST} (guessing: {:.2})",
                SEQUENCES[worst].split_at(14).0,
                self.guessing
            );
            Fault::new(what, hint)
        });
        notes.hold(SAMPLER, self.copied >= COPIED_LEAST, || {
            let what =
                format!("it repeats {} of {} words, at least {COPIED_LEAST} expected", self.copied, COPIED.len());
            Fault::new(what, hint)
        });
        notes.hold(SAMPLER, self.added >= SUMS_LEAST, || {
            let what =
                format!("it adds {} of {} pairs of digits, at least {SUMS_LEAST} expected", self.added, SUMS.len());
            Fault::new(what, hint)
        });
        //= F-CRIT-005
        notes.say(
            SAMPLER,
            format!(
                "sequences {mean:.2} nats a token (perplexity {:.2}, worst {most:.2} nats), {} of {} words repeated, {} of {} sums",
                mean.exp(),
                self.copied,
                COPIED.len(),
                self.added,
                SUMS.len()
            ),
        );
    }
}

/// Mean negative log likelihood of a text after its first part, in nats a token.
fn surprise(loaded: &mut Loaded, text: &str) -> Result<f64> {
    let ids = loaded.tokenizer.encode_raw(text)?;
    let ids = &ids[..ids.len().min(loaded.context)];
    let mut session = Session::new(loaded);
    session.feed(ids, Want::Logits, Want::Logits, &mut NoTap)?;
    let rows = &session.output().rows;
    let of = |p: usize| -> f64 {
        let row = &rows[p];
        f64::from(row.log_sum_exp)
            - f64::from(row.values.get(ids[p + 1] as usize).copied().unwrap_or(f32::NEG_INFINITY))
    };
    let judged = ids.len() / WARM_UP..ids.len() - 1;
    let count = judged.len().max(1) as f64;
    Ok(judged.map(of).sum::<f64>() / count)
}

/// Whether the model says `wanted`, as the continuation of a text or as the answer to a question.
fn answers(loaded: &mut Loaded, bare: &str, question: &str, wanted: &str) -> Result<bool> {
    let ids = loaded.tokenizer.encode_raw(bare)?;
    // A completion goes on and on: only its beginning counts.
    let said = answer(loaded, &ids, 4)?;
    if said.trim_start().starts_with(wanted) {
        return Ok(true);
    }
    if !matches!(loaded.template, Ok(Some(_))) {
        return Ok(false);
    }
    let ids = loaded.encode_prompt(&Prompt { text: question, system: None, raw: false })?;
    let said = answer(loaded, &ids, ANSWER_TOKENS)?.to_lowercase();
    // "7" is no answer in "17", and the digits of the question count for nothing.
    let numbers = said.rsplit('=').next().unwrap_or(&said);
    let words = numbers.split(|c: char| !c.is_alphanumeric());
    Ok(words.into_iter().any(|word| word == wanted))
}

fn answer(loaded: &mut Loaded, ids: &[u32], max_tokens: usize) -> Result<String> {
    let generation = Generation {
        max_tokens,
        sampling: Sampling::default(),
        stops: Vec::new(),
        grammar: None,
        prefill_chunk: PREFILL_CHUNK,
        draft_max: 0,
    };
    Ok(Session::new(loaded).generate(ids, &generation, &mut Silent, &AtomicBool::new(false))?.text)
}
