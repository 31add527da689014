//! Many requests on one model: they join and leave between steps.
//!
//! One thread owns the runner. [`Handle`]s give it requests from any thread; what happens to a request is told to its
//! sink, on the scheduler's thread. A sink is any `FnMut(Event) + Send`: an asynchronous caller sends into a channel of
//! its own runtime, so nothing polls and the engine knows no runtime.
//!
//! ```no_run
//! # fn main() -> engine::Result<()> {
//! use engine::scheduler::{Event, Plan, Request, Scheduler};
//! # let loaded: engine::session::Loaded = unreachable!();
//!
//! let handle = Scheduler::start(loaded, Plan::default())?;
//! let prompt = handle.model().tokenizer.encode_raw("Once upon a time")?;
//! let (sender, events) = std::sync::mpsc::channel();
//! // Dropping the ticket cancels the request.
//! let ticket = handle.submit(Request::new(prompt), move |event| drop(sender.send(event)))?;
//! for event in events {
//!     if let Event::Token(token) = event {
//!         assert!(token.text.is_empty() || token.id > 0);
//!     }
//! }
//! # drop(ticket);
//! # Ok(())
//! # }
//! ```

mod blocks;
mod metrics;
mod request;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use compute::program::KV_BLOCK;

use crate::error::{Error, Kind, Place, Result};
use crate::limits;
use crate::session::{Loaded, PREFILL_CHUNK, Understood};
use crate::text::StopFinder;

pub use metrics::{Ended, Histogram, Snapshot};
pub use request::{Done, Event, Logprobs, Request, Reuse, Timings, Token, Usage, Why};
pub use turn::Scheduler;

/// How much is done at once, and in how much memory. Changes no token of any request.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Requests that take part in steps at the same time.
    pub running_max: usize,
    /// Requests that wait; one more is refused.
    pub queue_max: usize,
    /// Memory for the KV cache. None is room for four whole contexts, but at most [`KV_BYTES_DEFAULT`] unless one context
    /// needs more.
    pub kv_bytes: Option<u64>,
    /// Rows of a step while nobody waits for a next token.
    pub prefill_rows: usize,
    /// Rows of prompts in a step that also gives somebody a next token: short steps keep that one's text flowing.
    pub prefill_rows_beside: usize,
    /// Keep what was computed for prompts that begin alike.
    pub cache: bool,
}

/// What the KV cache takes where nobody says.
pub const KV_BYTES_DEFAULT: u64 = 2 << 30;

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            running_max: 64,
            queue_max: 512,
            kv_bytes: None,
            prefill_rows: PREFILL_CHUNK,
            prefill_rows_beside: 64,
            cache: true,
        }
    }
}

impl Plan {
    /// Refuses what no scheduler can do, whatever the model.
    pub fn check(&self) -> Result<()> {
        let (running, queue) = (self.running_max, self.queue_max);
        if running == 0 || running > limits::RUNNING_MAX {
            let what = format!("{running} requests together; 1 to {} are possible", limits::RUNNING_MAX);
            return Err(Error::new(Kind::Usage, what));
        }
        if queue > limits::QUEUE_MAX {
            let what = format!("a queue of {queue}; at most {} may wait", limits::QUEUE_MAX);
            return Err(Error::new(Kind::Usage, what));
        }
        Ok(())
    }
}

/// What time it is, since some fixed moment. A simulation has its own.
pub type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// Is told what happens to a request. Called between steps: must not block.
pub type Sink = Box<dyn FnMut(Event) + Send>;

/// The scheduler as its callers see it. Clones are the same scheduler.
#[derive(Clone)]
pub struct Handle {
    door: Arc<Door>,
    /// Shared by all clones.
    _alive: Arc<Alive>,
}

/// Goes with the last handle; then nobody can submit any more.
struct Alive(Arc<Door>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.close(Closing::Drain);
    }
}

/// A request that was taken. Dropping it cancels the request, wherever it is.
#[must_use = "dropping a ticket cancels its request"]
pub struct Ticket {
    id: u64,
    cancelled: Arc<AtomicBool>,
    door: Arc<Door>,
}

impl Ticket {
    /// The request's number: 1 for the first that was taken.
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.door.bell.notify_all();
    }
}

/// Between the callers and the scheduler's thread.
struct Door {
    understood: Arc<Understood>,
    plan: Plan,
    backend: String,
    /// Blocks that the KV cache may have.
    blocks: usize,
    clock: Clock,
    inside: Mutex<Inside>,
    /// Rung when there is something to do, and when the scheduler has ended.
    bell: Condvar,
}

#[derive(Default)]
struct Inside {
    queue: VecDeque<Job>,
    last_id: u64,
    closing: Closing,
    /// The scheduler's thread is gone.
    ended: bool,
    metrics: Snapshot,
    log: VecDeque<StepRecord>,
}

/// How far the end has come.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd)]
enum Closing {
    /// Requests are taken.
    #[default]
    No,
    /// No new ones; those that were taken are answered.
    Drain,
    /// Nothing is answered any more.
    Stop,
}

/// A request in the queue.
struct Job {
    id: u64,
    request: Request,
    sink: Sink,
    cancelled: Arc<AtomicBool>,
    arrived: Duration,
}

impl Job {
    /// On the scheduler's clock. None is never.
    fn deadline(&self) -> Option<Duration> {
        self.request.deadline.and_then(|most| self.arrived.checked_add(most))
    }
}

/// One step of the runner: who took part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// Its number, from 1.
    pub step: u64,
    /// One entry for each request.
    pub parts: Vec<Part>,
}

/// The rows of one request in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The request.
    pub id: u64,
    /// Of the first row.
    pub position: usize,
    /// Rows, at this position and after.
    pub rows: usize,
}

impl Door {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        // What stands inside is whole after every statement: a thread that died holding the lock spoiled nothing.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        (self.clock)()
    }

    fn close(&self, how: Closing) {
        let mut inside = self.lock();
        if inside.closing < how {
            inside.closing = how;
        }
        drop(inside);
        self.bell.notify_all();
    }

    /// Positions that a request may come to write: its last token is never fed.
    fn positions(&self, request: &Request) -> usize {
        (request.prompt.len().saturating_add(request.max_tokens) - 1).min(self.understood.context)
    }

    /// Refuses what could never be answered.
    fn check(&self, request: &Request) -> Result<()> {
        let usage = |what: String| Err(Error::new(Kind::Usage, what));
        let vocab = self.understood.tokenizer.vocab_size();
        let context = self.understood.context;
        if request.prompt.is_empty() {
            return usage("a prompt without tokens".into());
        }
        if request.max_tokens == 0 {
            return usage("an answer without tokens".into());
        }
        if let Some(&id) = request.prompt.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::new(Kind::Usage, format!("no token {id}")).at(Place::Token(id)));
        }
        if let Some((id, _)) = request.sampling.logit_bias.iter().find(|(id, _)| *id as usize >= vocab) {
            return Err(Error::new(Kind::Usage, format!("a bias on token {id}"))
                .hint(format!("the vocabulary has {vocab} tokens")));
        }
        if request.logprobs.is_some_and(|n| n > limits::LOGPROBS_MAX) {
            return usage(format!("more than {} log-probabilities a token", limits::LOGPROBS_MAX));
        }
        StopFinder::new(&request.stops)?;
        if request.prompt.len() > context {
            let n = request.prompt.len();
            return Err(Error::new(Kind::TooLarge, format!("the prompt has {n} tokens"))
                .hint(format!("the maximum context length is {context} tokens")));
        }
        let blocks = self.positions(request).div_ceil(KV_BLOCK);
        if blocks > self.blocks {
            let (has, needs) = (self.blocks * KV_BLOCK, blocks * KV_BLOCK);
            return Err(Error::new(Kind::TooLarge, format!("the request needs {needs} positions of the KV cache"))
                .hint(format!("it has {has}: ask for fewer tokens, or give the cache more memory")));
        }
        Ok(())
    }
}

impl Handle {
    /// Takes a request. Refused at once, and never later: what could not be answered ([`Kind::Usage`],
    /// [`Kind::TooLarge`]), what finds the queue full ([`Kind::Busy`]), what comes after [`Handle::drain`]
    /// ([`Kind::Interrupted`]).
    pub fn submit(&self, request: Request, sink: impl FnMut(Event) + Send + 'static) -> Result<Ticket> {
        let checked = self.door.check(&request);
        let mut inside = self.door.lock();
        let taken =
            checked.and_then(|()| match inside.closing {
                _ if inside.ended => Err(Error::new(Kind::Internal, "the scheduler has ended")),
                Closing::No if inside.queue.len() < self.door.plan.queue_max => Ok(()),
                Closing::No => Err(Error::new(Kind::Busy, format!("{} requests are waiting", inside.queue.len()))
                    .hint("try again later")),
                _ => Err(Error::new(Kind::Interrupted, "the server is shutting down")),
            });
        if let Err(e) = taken {
            inside.metrics.ended.refused += 1;
            return Err(e);
        }
        inside.last_id += 1;
        let (id, cancelled) = (inside.last_id, Arc::default());
        let ticket = Ticket { id, cancelled: Arc::clone(&cancelled), door: Arc::clone(&self.door) };
        inside.queue.push_back(Job { id, request, sink: Box::new(sink), cancelled, arrived: self.door.now() });
        inside.metrics.waiting = inside.queue.len();
        drop(inside);
        self.door.bell.notify_all();
        Ok(ticket)
    }

    /// The model's words: tokenizer, chat template, context, metadata.
    pub fn model(&self) -> &Arc<Understood> {
        &self.door.understood
    }

    /// What runs: backend, instruction set, threads.
    pub fn backend(&self) -> &str {
        &self.door.backend
    }

    /// How much is done at once.
    pub fn plan(&self) -> &Plan {
        &self.door.plan
    }

    /// The longest prompt with its answer, in positions, that can be taken.
    pub fn positions_max(&self) -> usize {
        self.door.understood.context.min(self.door.blocks * KV_BLOCK)
    }

    /// The moment's state and everything counted so far. Cheap.
    pub fn metrics(&self) -> Snapshot {
        self.door.lock().metrics.clone()
    }

    /// The last steps, oldest first: at most [`limits::STEP_LOG`].
    pub fn steps(&self) -> Vec<StepRecord> {
        self.door.lock().log.iter().cloned().collect()
    }

    /// Takes no more requests. Those that were taken are answered, then the thread ends.
    pub fn drain(&self) {
        self.door.close(Closing::Drain);
    }

    /// Takes no more requests; those that were taken fail with [`Kind::Interrupted`] before the next step. Then the
    /// thread ends.
    pub fn stop(&self) {
        self.door.close(Closing::Stop);
    }

    /// Whether it takes requests.
    pub fn is_open(&self) -> bool {
        let inside = self.door.lock();
        inside.closing == Closing::No && !inside.ended
    }

    /// Waits for the thread to end. False if it has not after this time.
    pub fn wait(&self, most: Duration) -> bool {
        let start = Instant::now();
        let mut inside = self.door.lock();
        while !inside.ended {
            let Some(left) = most.checked_sub(start.elapsed()) else { return false };
            inside = self.door.bell.wait_timeout(inside, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Scheduler {
    /// Gives the model a thread of its own.
    pub fn start(loaded: Loaded, plan: Plan) -> Result<Handle> {
        let start = Instant::now();
        let (mut scheduler, handle) = Scheduler::new(loaded, plan, Box::new(move || start.elapsed()))?;
        let door = Arc::clone(&handle.door);
        let spawned = thread::Builder::new().name("scheduler".into()).spawn(move || {
            let _ends = Ends(Arc::clone(&door));
            while scheduler.turn() || scheduler.sleep() {}
        });
        match spawned {
            Ok(_) => Ok(handle),
            Err(e) => Err(Error::new(Kind::TooLarge, format!("no thread for the scheduler: {e}"))),
        }
    }
}

/// However the thread ends, a panic among the ways: whoever waits is told, and requests that still wait lose their
/// sinks.
struct Ends(Arc<Door>);

impl Drop for Ends {
    fn drop(&mut self) {
        let mut inside = self.0.lock();
        inside.ended = true;
        let left = std::mem::take(&mut inside.queue);
        drop(inside);
        drop(left);
        self.0.bell.notify_all();
    }
}
