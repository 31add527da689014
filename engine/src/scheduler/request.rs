//! What is asked of the scheduler and what it tells: plain data.

use std::sync::Arc;
use std::time::Duration;

use crate::continuation::Finish;
use crate::error::Error;
use crate::grammar::Grammar;
use crate::sample::Sampling;

/// One answer that is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids, template and all. Not empty.
    pub prompt: Vec<u32>,
    /// How tokens are chosen: seed and logit bias are in here.
    pub sampling: Sampling,
    /// Most tokens to make. What the context has no room for is not made.
    pub max_tokens: usize,
    /// Texts that end the answer and are not part of it.
    pub stops: Vec<String>,
    /// What the answer has to be.
    pub grammar: Option<Arc<Grammar>>,
    /// Log-probabilities of the chosen tokens, with those of so many most likely ones beside each.
    pub logprobs: Option<usize>,
    /// From submission to the last token; then the request fails with [`crate::Kind::TimedOut`].
    pub deadline: Option<Duration>,
    /// Positions that earlier requests computed may be used again, and this one's are kept for later ones.
    pub cache: bool,
}

impl Request {
    /// A prompt, with everything else at its default: greedy, 512 tokens, no deadline.
    pub fn new(prompt: Vec<u32>) -> Request {
        Request {
            prompt,
            sampling: Sampling::default(),
            max_tokens: 512,
            stops: Vec::new(),
            grammar: None,
            logprobs: None,
            deadline: None,
            cache: true,
        }
    }
}

/// What happens to a request, in order: `Started`, any number of `Token`s, then exactly one of `Done` and `Failed`.
/// `Failed` may come first. After a cancellation nothing comes.
#[derive(Clone, Debug)]
pub enum Event {
    /// It left the queue. More of its prompt may be computed by others while it runs: [`Usage`] counts that too.
    Started(Reuse),
    /// A token was chosen. The end-of-sequence token is none of the answer's.
    Token(Token),
    /// The answer is complete.
    Done(Done),
    /// There will be no more: numbers that are not finite, a deadline that passed, a server that stopped.
    Failed(Error),
}

/// A token of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that it made certain, which may be none: whole characters, never part of a stop sequence.
    pub text: String,
    /// If asked for.
    pub logprobs: Option<Logprobs>,
}

/// Natural logarithms of the model's own probabilities, before anything that sampling does to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// The most likely tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// The end of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// Why it ended.
    pub finish: Finish,
    /// Text that was held back after all.
    pub text: String,
    /// Tokens.
    pub usage: Usage,
    /// Time.
    pub timings: Timings,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt, cached ones among them.
    pub prompt_tokens: usize,
    /// Of the prompt that were not computed for this request.
    pub cached_tokens: usize,
    /// Of the answer; an end-of-sequence token is not counted.
    pub completion_tokens: usize,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// In the queue.
    pub queued_ms: f64,
    /// From leaving the queue to the first token.
    pub prefill_ms: f64,
    /// From the first token to the last.
    pub decode_ms: f64,
}

/// How much of a prompt was there already, and why not more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// Positions of the prompt that are not computed again.
    pub cached_tokens: usize,
    /// Why these and no more.
    pub why: Why,
}

/// Why a prompt is not found in the cache beyond a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// All of it is there. The last position is computed all the same: the first token is chosen from it.
    Whole,
    /// What is there goes on differently, or ends.
    Diverges,
    /// Nothing that is there begins like it.
    Unknown,
    /// The request or the server does not want it.
    Off,
}

impl Why {
    /// A word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Why::Whole => "whole",
            Why::Diverges => "diverges",
            Why::Unknown => "unknown",
            Why::Off => "off",
        }
    }
}
