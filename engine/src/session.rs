//! A loaded model and one sequence on it: prompt to tokens to text.
//!
//! Knows nothing of terminals or HTTP: what happens is told to an [`Observer`].

use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use compute::backend::{NoTap, Tap};
use compute::program::KV_BLOCK;
use compute::{Backend, Batch, Interest, Output, Program, Row, Runner, Want};

use crate::continuation::Continuation;
pub use crate::continuation::Finish;
use crate::error::{Error, Kind, Place, Result};
use crate::file::{self, Checked};
use crate::grammar::{Course, Grammar, Vocabulary};
use crate::guard;
use crate::model::{self, Model};
use crate::program;
use crate::sample::Sampling;
use crate::speculate::{DraftModel, Drafter, Drafting, PromptLookup};
use crate::text::{ChatTemplate, Message, Tokenizer};

/// Rows of a prompt that are run together unless the caller says otherwise.
pub const PREFILL_CHUNK: usize = 512;

/// What a model means: everything about a loaded one that does not run. Shared by all who need its words.
pub struct Understood {
    /// Hyper-parameters, metadata, tensors.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template, or a built-in one, if it is known to hold conversations. One that cannot be used is an error
    /// of whoever wants a conversation, not of the file: text can be completed without.
    pub template: Result<Option<ChatTemplate>>,
    /// Positions a sequence may have.
    pub context: usize,
    /// Rows of the LM head that stand for no token, ascending: never chosen, whatever their logits.
    pub filler: Vec<u32>,
    /// The tokens as a grammar looks at them, once one does.
    vocabulary: OnceLock<Arc<Vocabulary>>,
}

/// A model with its tokenizer, prepared on a backend.
pub struct Loaded {
    /// What it means; also reached by way of `Deref`.
    pub understood: Arc<Understood>,
    /// What runs.
    pub runner: Box<dyn Runner>,
}

impl Deref for Loaded {
    type Target = Understood;

    fn deref(&self) -> &Understood {
        &self.understood
    }
}

/// What a file means: everything about it that can be checked before numbers are computed.
pub fn understand(file: Checked) -> Result<(Model, Tokenizer, Result<Option<ChatTemplate>>)> {
    let model = Model::new(file)?;
    let explain = |e| model.origins.explain(e);
    let tokenizer = Tokenizer::from_metadata(&model.metadata).map_err(explain)?;
    model::check_vocabulary(tokenizer.vocab_size(), &model)?;
    let template = ChatTemplate::from_metadata(&model.metadata, &tokenizer).map_err(explain);
    Ok((model, tokenizer, template))
}

impl Loaded {
    /// Opens a file or folder and prepares it.
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
        Loaded::prepare(Arc::new(Understood::open(path, context)?), backend, interest, rewrite)
    }

    /// Prepares a model whose meaning is known.
    pub fn prepare(
        understood: Arc<Understood>,
        backend: &dyn Backend,
        interest: &Interest,
        rewrite: impl FnOnce(&mut Program),
    ) -> Result<Loaded> {
        let mut program = program::build(&understood.model);
        rewrite(&mut program);
        let runner = backend.prepare(&program, interest)?;
        understood.model.unchanged()?;
        Ok(Loaded { understood, runner })
    }

    /// What runs: backend, instruction set, threads.
    pub fn backend(&self) -> String {
        self.runner.describe()
    }

    /// Work done so far.
    pub fn counters(&self) -> compute::backend::Counters {
        self.runner.counters()
    }

    /// Runs tokens from position 0 for all their logits, under a tap that may look at the model while it watches. Numbers
    /// that are not finite are no error here: finding them is what this is for.
    pub fn run_watched<'m, T: Tap>(&'m mut self, ids: &[u32], tap: impl FnOnce(&'m Model) -> T) -> Result<(T, Output)> {
        let Loaded { understood, runner } = self;
        understood.model.unchanged()?;
        let table: Vec<u32> = (0..ids.len().div_ceil(KV_BLOCK) as u32).collect();
        runner.reserve_blocks(table.len())?;
        let row = |(i, &token): (usize, &u32)| Row { sequence: 0, position: i as u32, token, want: Want::Logits };
        let rows: Vec<Row> = ids.iter().enumerate().map(row).collect();
        let (mut tap, mut output) = (tap(&understood.model), Output::default());
        runner.step(&Batch { rows: &rows, tables: &[&table] }, &mut output, &mut tap)?;
        Ok((tap, output))
    }
}

impl Understood {
    /// Opens a file or folder: everything that can be refused before a backend is asked. `context` is how many positions
    /// a sequence may have, if that is not what the model was made for.
    pub fn open(path: &Path, context: Option<usize>) -> Result<Understood> {
        let (model, tokenizer, template) = understand(file::open(path)?).map_err(|e| e.in_file(path))?;
        let context = match context {
            None => model.hyper.context,
            Some(n) if n == 0 || n > model.hyper.context => {
                return Err(Error::new(Kind::Usage, format!("a context of {n} positions"))
                    .at(Place::Flag("--ctx-size".into()))
                    .hint(format!("the model was made for 1 to {}", model.hyper.context)));
            }
            Some(n) => n,
        };
        let filler = (0..model.hyper.vocab as u32).filter(|id| tokenizer.is_filler(*id)).collect();
        Ok(Understood { model, tokenizer, template, context, filler, vocabulary: OnceLock::new() })
    }

    /// The beginning of an answer that has to follow a grammar, if it has to.
    pub fn course(&self, grammar: Option<&Arc<Grammar>>) -> Result<Option<Course>> {
        let Some(grammar) = grammar else { return Ok(None) };
        let vocabulary = self.vocabulary.get_or_init(|| Arc::new(Vocabulary::new(&self.tokenizer)));
        Course::new(Arc::clone(grammar), Arc::clone(vocabulary)).map(Some)
    }

    /// How a conversation is laid out, for people.
    pub fn layout(&self) -> String {
        match &self.template {
            Ok(Some(template)) => match template.builtin() {
                Some(name) => format!("the built-in template {name}"),
                None => "the file's own template".into(),
            },
            Ok(None) => "no template, prompts go in as they are".into(),
            Err(e) => format!("a template that cannot be used: {e}"),
        }
    }

    /// Token ids of a conversation, through the chat template, ending where the assistant speaks.
    pub fn encode_messages(&self, messages: &[Message], tools: Option<&serde_json::Value>) -> Result<Vec<u32>> {
        let template = self.template.as_ref().map_err(Clone::clone)?.as_ref();
        let template = template.ok_or_else(|| {
            Error::new(Kind::Unsupported, "the model has no chat template")
                .at(Place::Key("tokenizer.chat_template".into()))
        })?;
        self.tokenizer.encode(&template.render(messages, tools, true)?)
    }

    /// Token ids of a prompt: through the chat template, or raw.
    pub fn encode_prompt(&self, prompt: &Prompt<'_>) -> Result<Vec<u32>> {
        let raw_works =
            |e: Error| if e.hint.is_some() { e } else { e.hint("--raw completes a text without the template") };
        //= F-GGUF-051
        let template =
            if prompt.raw { None } else { self.template.as_ref().map_err(|e| raw_works(e.clone()))?.as_ref() };
        let mut ids = match template {
            Some(_) => {
                //= F-PIPE-169
                let mut messages = Vec::new();
                //= F-PIPE-170
                if let Some(system) = prompt.system {
                    messages.push(Message::new("system", system));
                }
                //= F-MATH-156
                messages.push(Message::new("user", prompt.text));
                self.encode_messages(&messages, None).map_err(raw_works)?
            }
            None if prompt.system.is_some() => {
                return Err(Error::new(Kind::Usage, "a system prompt needs a chat template")
                    .at(Place::Flag("--system".into()))
                    .hint("the model has none, or --raw turned it off"));
            }
            None => self.tokenizer.encode_raw(prompt.text)?,
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
    /// What the answer has to be.
    pub grammar: Option<Arc<Grammar>>,
    /// Rows of the prompt that are run together. Does not change any token.
    pub prefill_chunk: usize,
    /// Most tokens drafted for one step ([`crate::speculate`]); 0 is none. Does not change any token.
    pub draft_max: usize,
}

/// What happens, in order.
pub enum Event<'a> {
    /// A piece of the answer: whole characters, never part of a stop sequence.
    Text(&'a str),
    /// Something the user should know that is not an error.
    Warning(&'a str),
    /// How tokens will be chosen: everything that was asked for and recommended, put together.
    Sampling(&'a Sampling),
    /// The model is ready; the number is how long that took, in milliseconds.
    Loaded(&'a Loaded, f64),
    /// The model that drafts is ready.
    Draft(&'a Loaded),
    /// A recorded trace that is to be written nowhere else.
    Trace(&'a serde_json::Value),
    /// The prompt as token ids, template and all.
    Tokenized {
        /// What was encoded.
        text: &'a str,
        /// What it became.
        ids: &'a [u32],
    },
    /// Rows are about to run.
    Step {
        /// Of the first row.
        position: usize,
        /// One per row.
        ids: &'a [u32],
    },
    /// They ran.
    Stepped(&'a Output),
    /// The next token.
    Chosen(u32),
    /// The text that the token chosen last made certain, which may be none; after the last token, what was held back.
    Decoded(&'a str),
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

    /// Who looks into the steps, if somebody does: all logits of the last row are computed then. What may be seen was
    /// declared when the model was prepared.
    fn tap(&mut self) -> Option<&mut dyn Tap> {
        None
    }
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
    /// Tokens drafted, and how many of them were right.
    pub drafted: (usize, usize),
}

impl Answer {
    /// Decoding steps: the first token belongs to the prompt, and an end token takes a step too.
    pub fn steps(&self) -> usize {
        match self.finish {
            Finish::Eos | Finish::Cancelled => self.tokens.len(),
            Finish::Stop | Finish::Length => self.tokens.len().saturating_sub(1),
        }
    }

    /// Decoding steps per second.
    pub fn tokens_per_second(&self) -> f64 {
        if self.decode_ms > 0.0 { self.steps() as f64 / self.decode_ms * 1e3 } else { 0.0 }
    }
}

/// One sequence on a loaded model.
pub struct Session<'m> {
    loaded: &'m mut Loaded,
    table: Vec<u32>,
    tokens: Vec<u32>,
    output: Output,
    /// Who drafts what nobody looked up.
    drafter: Option<Box<DraftModel<'m>>>,
}

impl<'m> Session<'m> {
    /// An empty sequence. Blocks of the KV cache are numbered from 0: one session at a time.
    pub fn new(loaded: &'m mut Loaded) -> Session<'m> {
        //= F-PIPE-174
        Session { loaded, table: Vec::new(), tokens: Vec::new(), output: Output::default(), drafter: None }
    }

    /// From now on another model drafts; it has to have the same vocabulary.
    pub fn drafted_by(&mut self, draft: &'m mut Loaded) -> Result<()> {
        self.drafter = Some(Box::new(DraftModel::new(draft, &self.loaded.understood)?));
        Ok(())
    }

    /// What the model means.
    pub fn known(&self) -> &Understood {
        &self.loaded.understood
    }

    /// Positions it may have.
    pub fn context(&self) -> usize {
        self.loaded.context
    }

    /// Work done so far by what runs it.
    pub fn counters(&self) -> compute::backend::Counters {
        self.loaded.counters()
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
        let start = self.tokens.len();
        self.run(ids, all, last, tap)?;
        guard::finite(&self.output.rows, start)
    }

    /// [`Session::feed`] without a look at what came out.
    fn run(&mut self, ids: &[u32], all: Want, last: Want, tap: &mut dyn Tap) -> Result<()> {
        let end = self.tokens.len() + ids.len();
        if end > self.loaded.context {
            return Err(Error::new(Kind::Usage, format!("{end} positions in a context of {}", self.loaded.context)));
        }
        self.loaded.model.unchanged()?;
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
        self.tokens.extend_from_slice(ids);
        Ok(())
    }

    /// Puts a prompt into the cache in chunks; the last row's output is what the first token is chosen from.
    pub fn prefill(
        &mut self,
        ids: &[u32],
        chunk: usize,
        want: Want,
        observer: &mut dyn Observer,
        cancel: &AtomicBool,
    ) -> Result<()> {
        //= F-CPU-103
        //= F-PIPE-172
        let chunks: Vec<&[u32]> = ids.chunks(chunk.max(1)).collect();
        for (i, part) in chunks.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Interrupted, "interrupted"));
            }
            let last = if i + 1 == chunks.len() { want } else { Want::Nothing };
            self.step(part, &[], last, observer)?;
        }
        Ok(())
    }

    /// Runs tokens, and drafts of what may follow them, under the eyes of an observer.
    fn step(&mut self, ids: &[u32], drafts: &[u32], want: Want, observer: &mut dyn Observer) -> Result<()> {
        let start = self.tokens.len();
        let (ids, sure) = ([ids, drafts].concat(), ids.len());
        observer.event(Event::Step { position: start, ids: &ids })?;
        let all = if drafts.is_empty() { Want::Nothing } else { want };
        match observer.tap() {
            Some(tap) if want == Want::Argmax => self.run(&ids, all, Want::Logits, tap),
            Some(tap) => self.run(&ids, all, want, tap),
            None => self.run(&ids, all, want, &mut NoTap),
        }?;
        // What follows a wrong draft may be anything; it is looked at when the draft proves right.
        guard::finite(&self.output.rows[..sure], start)?;
        observer.event(Event::Stepped(&self.output))
    }

    /// Answers a prompt that is already token ids.
    //= F-MATH-141
    //= F-MATH-142
    //= F-MATH-143
    //= F-MATH-144
    //= F-MATH-145
    //= F-PIPE-184
    //= F-PIPE-190
    pub fn generate(
        &mut self,
        prompt: &[u32],
        generation: &Generation,
        observer: &mut dyn Observer,
        cancel: &AtomicBool,
    ) -> Result<Answer> {
        // It has a cache of its own, and is lent to this answer.
        let mut drafter = self.drafter.take();
        let answer = self.answer(prompt, generation, drafter.as_deref_mut(), observer, cancel);
        self.drafter = drafter;
        answer
    }

    fn answer(
        &mut self,
        prompt: &[u32],
        generation: &Generation,
        model: Option<&mut DraftModel<'m>>,
        observer: &mut dyn Observer,
        cancel: &AtomicBool,
    ) -> Result<Answer> {
        let prompt = self.fit(prompt, self.tokens.len(), generation.max_tokens, observer)?;
        let known = Arc::clone(&self.loaded.understood);
        let Generation { sampling, stops, grammar, max_tokens, .. } = generation;
        let continuation = Continuation::new(&known.tokenizer, sampling.clone(), stops, *max_tokens)?;
        let mut continuation = continuation.within(known.course(grammar.as_ref())?);
        let mut answer = Answer {
            text: String::new(),
            tokens: Vec::new(),
            finish: Finish::Length,
            prompt_tokens: prompt.len(),
            prefill_ms: 0.0,
            decode_ms: 0.0,
            drafted: (0, 0),
        };
        if generation.max_tokens == 0 {
            return Ok(answer);
        }
        let start = Instant::now();
        self.prefill(&prompt, generation.prefill_chunk, continuation.want(), observer, cancel)?;
        observer.event(Event::Prefilled { tokens: prompt.len() })?;
        answer.prefill_ms = start.elapsed().as_secs_f64() * 1e3;
        let decode = Instant::now();
        let mut watch = guard::Watch::default();
        // A tap sees every token in a step of its own.
        let draft_max = if observer.tap().is_some() { 0 } else { generation.draft_max };
        let mut lookup = PromptLookup::default();
        let model = model.map(|m| m as &mut dyn Drafter);
        let drafters = std::iter::once(&mut lookup as &mut dyn Drafter).chain(model).collect();
        let mut drafting = Drafting::new(&self.tokens, draft_max, drafters);
        // Tokens at the end of the sequence that were drafted: they have their rows of output, and are no part of the
        // answer yet.
        let mut open = 0;
        answer.finish = loop {
            if cancel.load(Ordering::Relaxed) {
                break Finish::Cancelled;
            }
            let id = self.choose(&mut open, &mut continuation)?;
            observer.event(Event::Chosen(id))?;
            let row = &self.output.rows[self.output.rows.len() - 1 - open];
            if let Some(warning) = watch.token(id, row, self.tokens.len() - open) {
                observer.event(Event::Warning(&warning))?;
            }
            let taken = continuation.take(id, &known.tokenizer);
            if taken.finish == Some(Finish::Eos) {
                break Finish::Eos;
            }
            answer.tokens.push(id);
            emit(&taken.text, &mut answer.text, observer)?;
            observer.event(Event::Decoded(&taken.text))?;
            if let Some(finish) = taken.finish {
                break finish;
            }
            drafting.chosen(id);
            if open > 0 && self.tokens[self.tokens.len() - open] == id {
                open -= 1;
                continue;
            }
            self.truncate(self.tokens.len() - open);
            //= F-PIPE-186
            if self.tokens.len() == self.loaded.context {
                let full = format!("the context of {} positions is full; the answer ends here", self.loaded.context);
                observer.event(Event::Warning(&full))?;
                break Finish::Length;
            }
            //= F-CPU-104
            //= F-PIPE-173
            let room = (self.loaded.context - self.tokens.len()).min(*max_tokens - answer.tokens.len());
            let drafts = drafting.next(room - 1)?;
            self.step(&[id], &drafts, continuation.want(), observer)?;
            open = drafts.len();
        };
        self.truncate(self.tokens.len() - open);
        answer.drafted = drafting.counts;
        answer.decode_ms = decode.elapsed().as_secs_f64() * 1e3;
        let rest = continuation.finish();
        if !rest.is_empty() {
            emit(&rest, &mut answer.text, observer)?;
            observer.event(Event::Decoded(&rest))?;
        }
        Ok(answer)
    }

    /// The next token, from the output of the last step. `open` drafts stand behind the token that it follows.
    fn choose(&mut self, open: &mut usize, continuation: &mut Continuation) -> Result<u32> {
        loop {
            let known = &self.loaded.understood;
            let (row, end) = (self.output.rows.len() - 1 - *open, self.tokens.len() - *open);
            guard::finite(&self.output.rows[row..=row], end - 1)?;
            if let Some(id) = continuation.choose(&mut self.output.rows[row], known, &self.tokens[..end]) {
                return Ok(id);
            }
            // The best row stands for no token: the same step once more, for all logits.
            let last = self.tokens[end - 1];
            self.truncate(end - 1);
            self.feed(&[last], Want::Nothing, Want::Logits, &mut NoTap)?;
            *open = 0;
        }
    }

    /// Cuts a prompt that does not fit behind so many tokens: the middle goes, since the ends hold the template's frame.
    pub fn fit(
        &self,
        prompt: &[u32],
        behind: usize,
        max_tokens: usize,
        observer: &mut dyn Observer,
    ) -> Result<Vec<u32>> {
        //= F-MATH-157
        let room = self.loaded.context.saturating_sub(behind);
        if prompt.len() < room {
            return Ok(prompt.to_vec());
        }
        let keep = room.saturating_sub(max_tokens.min(room / 4).max(1)).max(1);
        if prompt.len() <= keep {
            return Ok(prompt.to_vec());
        }
        let (head, tail) = (keep / 4, keep - keep / 4);
        let dropped = prompt.len() - keep;
        let warning = format!(
            "the prompt has {} tokens and the context {} positions; {dropped} tokens of its middle were dropped",
            prompt.len(),
            self.loaded.context
        );
        observer.event(Event::Warning(&warning))?; //= F-PIPE-187
        Ok([&prompt[..head], &prompt[prompt.len() - tail..]].concat())
    }
}

fn emit(text: &str, all: &mut String, observer: &mut dyn Observer) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    all.push_str(text);
    observer.event(Event::Text(text)) //= F-UX-039 F-PIPE-182
}
