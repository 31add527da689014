//! From a row of output to a token, and from tokens to text: what one request alone and one among many do alike.

use compute::Want;
use compute::backend::RowOutput;

use crate::error::Result;
use crate::grammar::Course;
use crate::sample::{Sampler, Sampling};
use crate::session::Understood;
use crate::text::{StopFinder, Tokenizer, Utf8Stream};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end-of-sequence token.
    Eos,
    /// A stop sequence.
    Stop,
    /// The token limit, or the context is full.
    Length,
    /// The caller asked for it.
    Cancelled,
}

impl Finish {
    /// OpenAI's word for it.
    pub fn reason(self) -> &'static str {
        match self {
            Finish::Eos | Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// The part of an answer that is still to come: how its tokens are chosen, what of its text is held back, and what
/// ends it. Knows nothing of the cache that the sequence stands in.
pub struct Continuation {
    sampler: Sampler,
    utf8: Utf8Stream,
    stops: StopFinder,
    /// What the answer has to be.
    course: Option<Course>,
    made: usize,
    max_tokens: usize,
}

/// What a token did.
#[derive(Debug)]
pub struct Taken {
    /// Text that it made certain: whole characters, never part of a stop sequence.
    pub text: String,
    /// It was the last. An end-of-sequence token is no part of the answer.
    pub finish: Option<Finish>,
}

impl Continuation {
    /// Of an answer that has no token yet.
    pub fn new(tokenizer: &Tokenizer, sampling: Sampling, stops: &[String], max_tokens: usize) -> Result<Continuation> {
        let texts = (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.token_bytes(id).unwrap_or_default());
        let sampler = Sampler::new(sampling, texts);
        let (utf8, stops) = (Utf8Stream::new(), StopFinder::new(stops)?);
        Ok(Continuation { sampler, utf8, stops, course: None, made: 0, max_tokens })
    }

    /// Of an answer that has to follow a grammar, if it has to.
    #[must_use]
    pub fn within(self, course: Option<Course>) -> Continuation {
        Continuation { course, ..self }
    }

    /// What it needs of the row that the next token is chosen from.
    pub fn want(&self) -> Want {
        // Where the best token may not come, another has to be found.
        if self.course.is_some() { Want::Logits } else { self.sampler.want() }
    }

    /// The next token. `history` is the sequence so far; ids of fillers are never chosen. None where the best row
    /// stands for no token and the others were not asked for: the row has to be run again for all its logits.
    pub fn choose(&mut self, row: &mut RowOutput, known: &Understood, history: &[u32]) -> Option<u32> {
        let Understood { filler, tokenizer, .. } = known;
        if self.sampler.want() != Want::Logits {
            let best = row.argmax; //= F-GGUF-060
            let may_come = self.course.as_ref().is_none_or(|course| course.allows(best, tokenizer));
            if filler.binary_search(&best).is_err() && may_come {
                return Some(best);
            }
            if row.values.is_empty() {
                return None;
            }
        }
        //= F-GGUF-054
        for &id in filler {
            if let Some(x) = row.values.get_mut(id as usize) {
                *x = f32::NEG_INFINITY;
            }
        }
        if let Some(course) = &self.course {
            course.mask(&mut row.values, tokenizer);
        }
        Some(self.sampler.choose(&row.values, history))
    }

    /// Takes the chosen token: its text, and whether the answer ends with it.
    pub fn take(&mut self, id: u32, tokenizer: &Tokenizer) -> Taken {
        //= F-PIPE-168
        //= F-PIPE-189
        //= F-MATH-153
        if tokenizer.is_end(id) {
            return Taken { text: String::new(), finish: Some(Finish::Eos) };
        }
        self.made += 1;
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        let over = self.course.as_mut().is_some_and(|course| {
            course.take(bytes);
            course.is_over()
        });
        let text = self.utf8.push(bytes);
        let (text, stopped) = self.stops.push(&text);
        //= F-PIPE-188
        //= F-MATH-154
        let full = self.made == self.max_tokens;
        let finish = if stopped || over { Some(Finish::Stop) } else { full.then_some(Finish::Length) };
        Taken { text, finish }
    }

    /// The end of the answer: what was held back after all. Nothing, if a stop sequence ended it.
    pub fn finish(&mut self) -> String {
        let (mut text, _) = self.stops.push(&self.utf8.finish());
        text.push_str(&self.stops.finish());
        text
    }
}
