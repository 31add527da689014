//! A loaded model and one sequence on it: prompt to tokens to text.
//!
//! Knows nothing of terminals or HTTP: what happens is told to an [`Observer`].

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use compute::backend::{NoTap, Tap};
use compute::program::KV_BLOCK;
use compute::{Backend, Batch, Interest, Output, Program, Row, Runner, Want};

use crate::error::{Error, Kind, Place, Result};
use crate::file;
use crate::guard;
use crate::model::{self, Model};
use crate::program;
use crate::sample::{Sampler, Sampling};
use crate::text::{ChatTemplate, Message, StopFinder, Tokenizer, Utf8Stream};

/// Rows of a prompt that are run together unless the caller says otherwise.
pub const PREFILL_CHUNK: usize = 512;

/// A model with its tokenizer, prepared on a backend.
pub struct Loaded {
    /// Hyper-parameters, metadata, tensors.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template, if it has one.
    pub template: Option<ChatTemplate>,
    /// Positions a sequence may have.
    pub context: usize,
    runner: Box<dyn Runner>,
}

impl Loaded {
    /// Opens a file and prepares it.
    pub fn open(path: &Path, backend: &dyn Backend, context: Option<usize>) -> Result<Loaded> {
        Loaded::open_rewritten(path, backend, context, &Interest::Nothing, |_| {})
    }

    /// The same, with taps and with a rewrite of the program before the backend sees it (what sabotage and sharding
    /// are made of).
    pub fn open_rewritten(
        path: &Path,
        backend: &dyn Backend,
        context: Option<usize>,
        interest: &Interest,
        rewrite: impl FnOnce(&mut Program),
    ) -> Result<Loaded> {
        let model = Model::new(file::open(path)?)?;
        let explain = |e| model.origins.explain(e);
        let tokenizer = Tokenizer::from_metadata(&model.metadata).map_err(explain)?;
        model::check_vocabulary(tokenizer.vocab_size(), &model)?;
        let template = ChatTemplate::from_metadata(&model.metadata, &tokenizer).map_err(explain)?;
        let context = match context {
            None => model.hyper.context,
            Some(n) if n == 0 || n > model.hyper.context => {
                return Err(Error::new(Kind::Usage, format!("a context of {n} positions"))
                    .at(Place::Flag("--ctx-size".into()))
                    .hint(format!("the model was made for 1 to {}", model.hyper.context)));
            }
            Some(n) => n,
        };
        let mut program = program::build(&model);
        rewrite(&mut program);
        let runner = backend.prepare(&program, interest)?;
        Ok(Loaded { model, tokenizer, template, context, runner })
    }

    /// What runs: backend, instruction set, threads.
    pub fn backend(&self) -> String {
        self.runner.describe()
    }

    /// Work done so far.
    pub fn counters(&self) -> compute::backend::Counters {
        self.runner.counters()
    }

    /// Token ids of a prompt: through the chat template, or raw.
    pub fn encode_prompt(&self, prompt: &Prompt<'_>) -> Result<Vec<u32>> {
        let mut ids = match &self.template {
            Some(template) if !prompt.raw => {
                //= F-PIPE-169
                let mut messages = Vec::new();
                if let Some(system) = prompt.system {
                    messages.push(Message::new("system", system));
                }
                //= F-MATH-156
                messages.push(Message::new("user", prompt.text));
                self.tokenizer.encode(&template.render(&messages, None, true)?)?
            }
            _ if prompt.system.is_some() => {
                return Err(Error::new(Kind::Usage, "a system prompt needs a chat template")
                    .at(Place::Flag("--system".into()))
                    .hint("the model has none, or --raw turned it off"));
            }
            _ => self.tokenizer.encode_raw(prompt.text)?,
        };
        if ids.is_empty() {
            //= F-MATH-155
            // An empty raw prompt starts where a document starts.
            ids.push(self.tokenizer.bos().or(self.tokenizer.eos()).unwrap_or(0));
        }
        Ok(ids)
    }
}

/// What the user asked, and how it is to be put to the model.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// The user's words.
    pub text: &'a str,
    /// Instead of the template's own system message.
    pub system: Option<&'a str>,
    /// No template; control tokens in the text are control tokens.
    pub raw: bool,
}

/// Limits and choices of one answer.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Most tokens to make.
    pub max_tokens: usize,
    /// How to choose them.
    pub sampling: Sampling,
    /// Texts that end the answer and are not part of it.
    pub stops: Vec<String>,
    /// Rows of the prompt that are run together. Does not change any token.
    pub prefill_chunk: usize,
}

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

/// What happens, in order.
#[derive(Debug)]
pub enum Event<'a> {
    /// A piece of the answer: whole characters, never part of a stop sequence.
    Text(&'a str),
    /// Something the user should know that is not an error.
    Warning(&'a str),
    /// How tokens will be chosen: everything that was asked for and recommended, put together.
    Sampling(&'a Sampling),
    /// The prompt is in the cache.
    Prefilled {
        /// Its tokens.
        tokens: usize,
    },
}

/// Is told what happens. An error it returns ends the run.
pub trait Observer {
    /// One event.
    fn event(&mut self, event: Event<'_>) -> Result<()>;
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Token ids, the end token not among them.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Time for the prompt.
    pub prefill_ms: f64,
    /// Time for the tokens after the first.
    pub decode_ms: f64,
}

impl Answer {
    /// Tokens per second of decoding (the first token belongs to the prompt's time).
    pub fn tokens_per_second(&self) -> f64 {
        let steps = self.tokens.len().saturating_sub(1) as f64;
        if self.decode_ms > 0.0 { steps / self.decode_ms * 1e3 } else { 0.0 }
    }
}

/// One sequence on a loaded model.
pub struct Session<'m> {
    loaded: &'m mut Loaded,
    table: Vec<u32>,
    tokens: Vec<u32>,
    output: Output,
}

impl<'m> Session<'m> {
    /// An empty sequence. Blocks of the KV cache are numbered from 0: one session at a time.
    pub fn new(loaded: &'m mut Loaded) -> Session<'m> {
        //= F-PIPE-174
        Session { loaded, table: Vec::new(), tokens: Vec::new(), output: Output::default() }
    }

    /// Every token in the cache.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The output of the last step.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Forgets everything from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.table.truncate(len.div_ceil(KV_BLOCK));
    }

    /// Runs tokens at the next positions. All rows want `all`, the last one `last`.
    pub fn feed(&mut self, ids: &[u32], all: Want, last: Want, tap: &mut dyn Tap) -> Result<()> {
        let end = self.tokens.len() + ids.len();
        if end > self.loaded.context {
            return Err(Error::new(Kind::Usage, format!("{end} positions in a context of {}", self.loaded.context)));
        }
        let blocks = end.div_ceil(KV_BLOCK);
        self.loaded.runner.reserve_blocks(blocks)?;
        self.table.extend(self.table.len() as u32..blocks as u32);
        //= F-PIPE-177
        let rows: Vec<Row> = ids
            .iter()
            .enumerate()
            .map(|(i, &token)| Row {
                sequence: 0,
                position: (self.tokens.len() + i) as u32,
                token,
                want: if i + 1 == ids.len() { last } else { all },
            })
            .collect();
        let batch = Batch { rows: &rows, tables: &[&self.table] };
        self.loaded.runner.step(&batch, &mut self.output, tap)?;
        guard::finite(&self.output, self.tokens.len())?;
        self.tokens.extend_from_slice(ids);
        Ok(())
    }

    /// Puts a prompt into the cache in chunks; the last row's output is what the first token is chosen from.
    pub fn prefill(&mut self, ids: &[u32], chunk: usize, want: Want, cancel: &AtomicBool) -> Result<()> {
        //= F-CPU-103
        //= F-PIPE-172
        let chunks: Vec<&[u32]> = ids.chunks(chunk.max(1)).collect();
        for (i, part) in chunks.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Interrupted, "interrupted"));
            }
            let last = if i + 1 == chunks.len() { want } else { Want::Nothing };
            self.feed(part, Want::Nothing, last, &mut NoTap)?;
        }
        Ok(())
    }

    /// Answers a prompt that is already token ids.
    //= F-MATH-141
    //= F-PIPE-190
    pub fn generate(
        &mut self,
        prompt: &[u32],
        generation: &Generation,
        observer: &mut dyn Observer,
        cancel: &AtomicBool,
    ) -> Result<Answer> {
        let prompt = self.fit(prompt, generation.max_tokens, observer)?;
        let tokenizer = &self.loaded.tokenizer;
        let texts = (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.token_bytes(id).unwrap_or_default());
        let mut sampler = Sampler::new(generation.sampling.clone(), texts);
        let mut text = TextOut::new(&generation.stops)?;
        let mut answer = Answer {
            text: String::new(),
            tokens: Vec::new(),
            finish: Finish::Length,
            prompt_tokens: prompt.len(),
            prefill_ms: 0.0,
            decode_ms: 0.0,
        };
        if generation.max_tokens == 0 {
            return Ok(answer);
        }
        let start = Instant::now();
        self.prefill(&prompt, generation.prefill_chunk, sampler.want(), cancel)?;
        observer.event(Event::Prefilled { tokens: prompt.len() })?;
        answer.prefill_ms = start.elapsed().as_secs_f64() * 1e3;
        let decode = Instant::now();
        answer.finish = loop {
            if cancel.load(Ordering::Relaxed) {
                break Finish::Cancelled;
            }
            let id = self.choose(&mut sampler);
            //= F-PIPE-168
            //= F-PIPE-189
            //= F-MATH-153
            if self.loaded.tokenizer.is_end(id) {
                break Finish::Eos;
            }
            answer.tokens.push(id);
            let bytes = self.loaded.tokenizer.token_bytes(id).unwrap_or_default();
            if text.push(bytes, &mut answer.text, observer)? {
                break Finish::Stop;
            }
            //= F-PIPE-188
            //= F-MATH-154
            if answer.tokens.len() == generation.max_tokens {
                break Finish::Length;
            }
            if self.tokens.len() == self.loaded.context {
                let full = format!("the context of {} positions is full; the answer ends here", self.loaded.context);
                observer.event(Event::Warning(&full))?;
                break Finish::Length;
            }
            //= F-CPU-104
            //= F-PIPE-173
            self.feed(&[id], Want::Nothing, sampler.want(), &mut NoTap)?;
        };
        answer.decode_ms = decode.elapsed().as_secs_f64() * 1e3;
        if answer.finish != Finish::Stop {
            text.finish(&mut answer.text, observer)?;
        }
        Ok(answer)
    }

    fn choose(&self, sampler: &mut Sampler) -> u32 {
        let row = self.output.rows.last().expect("invariant: a step gives a row of output for each row of the batch");
        match sampler.want() {
            Want::Logits => sampler.choose(&row.values, &self.tokens),
            _ => row.argmax, //= F-GGUF-060
        }
    }

    /// Cuts a prompt that does not fit: the middle goes, since the ends hold the template's frame.
    fn fit(&self, prompt: &[u32], max_tokens: usize, observer: &mut dyn Observer) -> Result<Vec<u32>> {
        let room = self.loaded.context - self.tokens.len();
        if prompt.len() < room {
            return Ok(prompt.to_vec());
        }
        let keep = (room - max_tokens.min(room / 4).max(1)).max(1);
        let (head, tail) = (keep / 4, keep - keep / 4);
        let dropped = prompt.len() - keep;
        let warning = format!(
            "the prompt has {} tokens and the context {} positions; {dropped} tokens of its middle were dropped",
            prompt.len(),
            self.loaded.context
        );
        observer.event(Event::Warning(&warning))?;
        Ok([&prompt[..head], &prompt[prompt.len() - tail..]].concat())
    }
}

/// Bytes of tokens to text: whole characters, with stop sequences held back.
struct TextOut {
    utf8: Utf8Stream,
    stops: StopFinder,
}

impl TextOut {
    fn new(stops: &[String]) -> Result<TextOut> {
        Ok(TextOut { utf8: Utf8Stream::new(), stops: StopFinder::new(stops)? })
    }

    /// True when a stop sequence is complete.
    fn push(&mut self, bytes: &[u8], all: &mut String, observer: &mut dyn Observer) -> Result<bool> {
        let text = self.utf8.push(bytes);
        let (emit, stopped) = self.stops.push(&text);
        emit_text(&emit, all, observer)?;
        Ok(stopped)
    }

    fn finish(&mut self, all: &mut String, observer: &mut dyn Observer) -> Result<()> {
        let rest = self.utf8.finish();
        let (emit, stopped) = self.stops.push(&rest);
        emit_text(&emit, all, observer)?;
        if !stopped {
            emit_text(&self.stops.finish(), all, observer)?;
        }
        Ok(())
    }
}

fn emit_text(text: &str, all: &mut String, observer: &mut dyn Observer) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    all.push_str(text);
    observer.event(Event::Text(text)) //= F-UX-039
}
