//! `X-Trace-Level: brick | step | layer`: an answer with the measured events of its stages.
//!
//! A traced request runs alone, through the session that `apr run --trace` uses, on a copy of the model that is prepared
//! for looking into; it is made when the first such request comes. Tokens do not depend on what else is in a batch, so
//! the answer is the same, and no event of another request can get in. They take turns before they take a thread: the
//! threads that may block are few, and everybody's requests are understood on them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::Server;
use super::answer::{Answer, Wanted};
use super::problem::{Answered, Problem};
use crate::api::{InferenceConfig, Options, Silent, TraceStep};
use crate::error::{Error, Kind, Result, quoted};
use crate::limits;
use crate::scheduler::{Timings, Token, Usage};
use crate::session::{Event, Finish, Generation, Loaded, Observer, PREFILL_CHUNK, Session, Understood};
use crate::trace::{self, Digest, Trace, Traced};

/// How deep a trace looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(&'static [TraceStep]);

/// The header.
const HEADER: &str = "x-trace-level";

/// The levels that the header names, and the stages that each shows. Tokenizing is none of them: a request is
/// understood before its turn comes, and what was not measured is not told.
const LEVELS: &[(&str, Level)] = &[
    (
        "brick",
        Level(&[
            TraceStep::Embed,
            TraceStep::Attention,
            TraceStep::Ffn,
            TraceStep::LmHead,
            TraceStep::Sample,
            TraceStep::Decode,
        ]),
    ),
    ("step", Level(&[TraceStep::LmHead, TraceStep::Sample, TraceStep::Decode])),
    ("layer", Level(&[TraceStep::Attention, TraceStep::Ffn])),
];

impl Level {
    /// The level that a request asks for, if it does.
    //= F-SERVE-260
    pub fn asked(headers: &HeaderMap) -> Answered<Option<Level>> {
        let Some(value) = headers.get(HEADER) else { return Ok(None) };
        let level = LEVELS.iter().find(|(name, _)| value.as_bytes().eq_ignore_ascii_case(name.as_bytes()));
        let refused = || {
            let shown = quoted(&String::from_utf8_lossy(value.as_bytes()));
            Problem::field(HEADER, format!("X-Trace-Level is {shown}; brick, step and layer can be had"))
        };
        level.map(|(_, level)| Some(*level)).ok_or_else(refused)
    }
}

/// The copy of the model for traced requests, and the hash of its files. One request at a time.
pub struct Prepared {
    model: Mutex<Option<(Loaded, Digest)>>,
    /// Those that wait for their turn, and the one that has it.
    room: Arc<Semaphore>,
    /// Whose turn it is.
    turn: Arc<Semaphore>,
}

impl Default for Prepared {
    fn default() -> Prepared {
        let places = |n| Arc::new(Semaphore::new(n));
        Prepared { model: Mutex::default(), room: places(1 + limits::TRACED_WAITING_MAX), turn: places(1) }
    }
}

/// Stops the session when the peer goes away.
struct Cancels(Arc<AtomicBool>);

impl Drop for Cancels {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The answer to the only prompt, and the document of its stages.
pub async fn answer(server: &Arc<Server>, wanted: Wanted, level: Level) -> Answered<(Answer, Value)> {
    if wanted.request.logprobs.is_some() {
        return Err(Problem::field("logprobs", "a traced request tells no log-probabilities; its trace has logits"));
    }
    let asked = Instant::now();
    let busy = |_| Error::new(Kind::Busy, "too many traced requests are waiting");
    let room = Arc::clone(&server.traced.room).try_acquire_owned().map_err(busy)?;
    let turn = Arc::clone(&server.traced.turn).acquire_owned();
    let turn = match wanted.request.deadline {
        Some(deadline) => timeout_at((asked + deadline).into(), turn).await.map_err(|_| late())?,
        None => turn.await,
    };
    let cancel = Arc::new(AtomicBool::new(false));
    let _cancels = Cancels(Arc::clone(&cancel));
    let runs = Arc::clone(server);
    let task = tokio::task::spawn_blocking(move || {
        // Theirs until the work has ended, even where nobody waits for it any more.
        let _held = (room, turn);
        run(&runs, &wanted, level, asked, &cancel)
    });
    match task.await {
        Ok(done) => Ok(done?),
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(e) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
    }
}

fn late() -> Error {
    Error::new(Kind::TimedOut, "the request was not finished in time")
}

fn run(
    server: &Server,
    wanted: &Wanted,
    level: Level,
    asked: Instant,
    cancel: &Arc<AtomicBool>,
) -> Result<(Answer, Value)> {
    let mut kept = server.traced.model.lock().unwrap_or_else(PoisonError::into_inner);
    let options = &server.options;
    if kept.is_none() {
        let interest = Trace::new(None, false).interest();
        let known = || Understood::open(&server.path, options.context);
        let loaded = server.wish.open(&mut |_| Ok(()), known, &interest)?;
        let digest = Digest::begin(&loaded.model, &server.path)?;
        *kept = Some((loaded, digest));
    }
    let (loaded, digest) = kept.as_mut().expect("invariant: it was put there");
    let request = &wanted.request;
    let mut trace = Trace::new(Some(level.0.to_vec()), false);
    let began = Instant::now();
    let deadline = request.deadline.map(|d| asked + d);
    let mut watch = Watch { deadline, cancel };
    let mut traced = Traced { trace: &mut trace, watcher: &mut watch };
    let ids = &wanted.prompts[0];
    traced.event(Event::Sampling(&request.sampling))?;
    let generation = Generation {
        max_tokens: request.max_tokens.min(loaded.context.saturating_sub(ids.len())),
        sampling: request.sampling.clone(),
        stops: request.stops.clone(),
        grammar: request.grammar.clone(),
        prefill_chunk: PREFILL_CHUNK,
        draft_max: 0,
    };
    let ended = Session::new(loaded).generate(ids, &generation, &mut traced, cancel);
    let stopped_us = trace.elapsed_us();
    let config = InferenceConfig {
        max_tokens: request.max_tokens,
        temperature: request.sampling.temperature,
        // Where files lie is nobody's business over HTTP.
        ..InferenceConfig::new(server.path.file_name().unwrap_or_default())
    };
    let shown = Options { stops: request.stops.clone(), threads: options.threads, ..Options::default() };
    let head = trace::Run {
        config: &config,
        options: &shown,
        loaded,
        sha256: digest.get()?,
        load_ms: None,
        stopped_us,
        ended: ended.as_ref(),
    };
    let document = trace::document(&trace, &head);
    let answer = ended?;
    if answer.finish == Finish::Cancelled {
        let in_time = deadline.is_none_or(|d| Instant::now() < d);
        return Err(if in_time { Error { kind: Kind::Interrupted, ..late() } } else { late() });
    }
    answer.tokens.iter().for_each(|_| server.counts.token());
    server.counts.finished(asked.elapsed());
    let usage = Usage { prompt_tokens: answer.prompt_tokens, cached_tokens: 0, completion_tokens: answer.tokens.len() };
    let timings = Timings {
        queued_ms: (began - asked).as_secs_f64() * 1e3,
        prefill_ms: answer.prefill_ms,
        decode_ms: answer.decode_ms,
    };
    let tokens = answer.tokens.iter().map(|&id| Token { id, text: String::new(), logprobs: None }).collect();
    let told = Answer { text: answer.text, tokens, finish: answer.finish, usage, timings, reuse: None };
    Ok((told, document))
}

/// Looks at the clock.
struct Watch<'a> {
    deadline: Option<Instant>,
    cancel: &'a AtomicBool,
}

impl Observer for Watch<'_> {
    fn event(&mut self, event: Event<'_>) -> Result<()> {
        if self.deadline.is_some_and(|d| Instant::now() >= d) {
            self.cancel.store(true, Ordering::Relaxed);
        }
        Silent.event(event)
    }
}
