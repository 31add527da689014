//! The work between two looks at the queue: let requests in, run one step with rows of all of them, tell them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, PoisonError};
use std::time::Duration;

use compute::backend::{NoTap, top_k};
use compute::program::KV_BLOCK;
use compute::{Batch, Output, Row, RowOutput, Want};

use super::blocks::{Blocks, Found};
use super::{
    Alive, Clock, Closing, Done, Door, Event, Handle, Inside, Job, KV_BYTES_DEFAULT, Logprobs, Part, Plan, Reuse, Sink,
    Snapshot, StepRecord, Timings, Token, Usage, Why,
};
use crate::continuation::{Continuation, Finish};
use crate::error::{Error, Kind, Result};
use crate::guard;
use crate::limits;
use crate::session::Loaded;

/// Owns the model and every request that left the queue. [`Scheduler::start`] gives it a thread; a simulation calls
/// [`Scheduler::turn`] itself.
pub struct Scheduler {
    loaded: Loaded,
    door: Arc<Door>,
    blocks: Blocks,
    running: Vec<Sequence>,
    /// Ended in this turn; what they are still to be told is in them.
    ended: Vec<Sequence>,
    counted: Snapshot,
    rows: Vec<Row>,
    output: Output,
}

/// A request that takes part in steps.
struct Sequence {
    id: u64,
    sink: Sink,
    /// For the sink, at the end of the turn.
    events: Vec<Event>,
    cancelled: Arc<AtomicBool>,
    /// On the scheduler's clock.
    deadline: Option<Duration>,
    continuation: Continuation,
    /// Prompt and answer. Those from `fed` on are still to be run, at least one between turns.
    tokens: Vec<u32>,
    /// Positions in the cache.
    fed: usize,
    table: Vec<u32>,
    /// Blocks that were promised and not taken.
    untaken: usize,
    /// Complete blocks at the beginning of `table` that are kept, and the last one's identity.
    kept: (usize, u64),
    cache: bool,
    logprobs: Option<usize>,
    /// The best row stood for no token: the last row runs again, for all logits.
    again: bool,
    usage: Usage,
    arrived: Duration,
    started: Duration,
    /// First and last token.
    spoke: Option<(Duration, Duration)>,
}

/// Index of a request that takes part in a step, and its rows.
type Share = (usize, usize);

/// How a request ended.
enum End {
    Finished(Finish),
    Cancelled,
    Failed(Error),
}

impl Sequence {
    fn pending(&self) -> usize {
        self.tokens.len() - self.fed
    }

    /// The next block of the prompt, if nothing of it is computed yet and all of it can be somebody else's work: the
    /// prompt's last position cannot.
    fn next_block(&self) -> Option<&[u32]> {
        let at = self.kept.0 * KV_BLOCK;
        let whole = self.cache && at + KV_BLOCK < self.tokens.len();
        whole.then(|| &self.tokens[at..at + KV_BLOCK])
    }

    fn want(&self) -> Want {
        if self.again || self.logprobs.is_some() { Want::Logits } else { self.continuation.want() }
    }
}

impl Scheduler {
    /// With a clock of the caller's.
    pub fn new(mut loaded: Loaded, plan: Plan, clock: Clock) -> Result<(Scheduler, Handle)> {
        plan.check()?;
        loaded.runner.reserve_blocks(1)?;
        let counters = loaded.runner.counters();
        let block_bytes = (counters.kv_bytes / counters.kv_blocks.max(1)).max(1);
        let whole = loaded.context.div_ceil(KV_BLOCK);
        let blocks = match plan.kv_bytes {
            Some(bytes) => usize::try_from(bytes / block_bytes).unwrap_or(usize::MAX),
            None => (KV_BYTES_DEFAULT / block_bytes).max(whole as u64).min(4 * whole as u64) as usize,
        };
        if blocks == 0 {
            let what = format!("a KV cache of {} bytes: one block takes {block_bytes}", plan.kv_bytes.unwrap_or(0));
            return Err(Error::new(Kind::Usage, what));
        }
        let blocks = blocks.min(u32::MAX as usize);
        let counted = Snapshot { kv_blocks_total: blocks, kv_block_bytes: block_bytes, ..Snapshot::default() };
        let door = Arc::new(Door {
            understood: Arc::clone(&loaded.understood),
            backend: loaded.backend(),
            plan,
            blocks,
            clock,
            inside: Inside { metrics: counted.clone(), ..Inside::default() }.into(),
            bell: Condvar::new(),
        });
        let handle = Handle { _alive: Arc::new(Alive(Arc::clone(&door))), door: Arc::clone(&door) };
        let scheduler = Scheduler {
            loaded,
            door,
            blocks: Blocks::new(blocks),
            running: Vec::new(),
            ended: Vec::new(),
            counted,
            rows: Vec::new(),
            output: Output::default(),
        };
        Ok((scheduler, handle))
    }

    /// What must hold between turns, or what does not: no block is lost, none is promised twice.
    pub fn audit(&self) -> std::result::Result<(), &'static str> {
        let tables: Vec<&[u32]> = self.running.iter().map(|s| &s.table[..]).collect();
        let last_kept = |s: &Sequence| s.kept.0.checked_sub(1).map_or(Some(0), |n| self.blocks.identity(s.table[n]));
        if self.running.iter().any(|s| last_kept(s) != Some(s.kept.1)) {
            return Err("a request follows a block that is not its own");
        }
        self.blocks.audit(&tables, self.running.iter().map(|s| s.untaken).sum())
    }

    /// One round: who is gone goes, who fits comes, one step runs. False when there was nothing to run.
    pub fn turn(&mut self) -> bool {
        let now = self.door.now();
        let stopped = self.door.lock().closing == Closing::Stop;
        self.sweep(now, stopped);
        self.admit(now, stopped);
        self.adopt();
        let shares = self.compose();
        let part =
            |&(index, rows): &Share| Part { id: self.running[index].id, position: self.running[index].fed, rows };
        let parts: Vec<Part> = shares.iter().map(part).collect();
        if !shares.is_empty() {
            self.step(&shares);
        }
        self.tell(parts);
        !shares.is_empty()
    }

    /// Waits for something to do. False when there will never be anything.
    pub(super) fn sleep(&self) -> bool {
        let mut inside = self.door.lock();
        while inside.queue.is_empty() && self.running.is_empty() {
            if inside.closing != Closing::No {
                return false;
            }
            inside = self.door.bell.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Requests that nobody wants any more, or whose time is over, leave: those that wait and those that run.
    fn sweep(&mut self, now: Duration, stopped: bool) {
        let over = |cancelled: &AtomicBool, deadline: Option<Duration>| match deadline {
            _ if cancelled.load(Ordering::Relaxed) => Some(End::Cancelled),
            _ if stopped => Some(End::Failed(Error::new(Kind::Interrupted, "the server is shutting down"))),
            Some(t) if now >= t => Some(End::Failed(Error::new(Kind::TimedOut, "the request's time is over"))),
            _ => None,
        };
        let mut index = 0;
        while index < self.running.len() {
            let s = &self.running[index];
            match over(&s.cancelled, s.deadline) {
                Some(end) => self.end(index, end, now),
                None => index += 1,
            }
        }
        let mut gone = Vec::new();
        {
            let mut inside = self.door.lock();
            let waiting = std::mem::take(&mut inside.queue);
            for job in waiting {
                match over(&job.cancelled, job.deadline()) {
                    Some(end) => gone.push((job, end)),
                    None => inside.queue.push_back(job),
                }
            }
        }
        // The lock is open again: a sink may ask the scheduler something.
        for (job, end) in gone {
            self.dismiss(job, end);
        }
    }

    /// Ends a request that never ran.
    fn dismiss(&mut self, mut job: Job, end: End) {
        self.count(&end);
        if let End::Failed(e) = end {
            (job.sink)(Event::Failed(e));
        }
    }

    fn count(&mut self, end: &End) {
        let ended = &mut self.counted.ended;
        *match end {
            End::Finished(Finish::Eos | Finish::Stop) => &mut ended.stop,
            End::Finished(Finish::Length) => &mut ended.length,
            End::Cancelled | End::Finished(Finish::Cancelled) => &mut ended.cancelled,
            End::Failed(e) if e.kind == Kind::TimedOut => &mut ended.timed_out,
            End::Failed(_) => &mut ended.failed,
        } += 1;
    }

    /// Lets requests in, first come, first served: nobody overtakes one that waits for memory.
    fn admit(&mut self, now: Duration, stopped: bool) {
        while !stopped && self.running.len() < self.door.plan.running_max {
            let mut inside = self.door.lock();
            let Some(job) = inside.queue.front() else { return };
            let positions = self.door.positions(&job.request);
            let found = match job.request.cache && self.door.plan.cache {
                true => self.blocks.find(&job.request.prompt),
                false => Found::nothing(Why::Off),
            };
            let Some(untaken) = self.blocks.promise(&found, positions) else { return };
            let Some(job) = inside.queue.pop_front() else { return };
            drop(inside);
            if let Err(end) = self.start_sequence(job, found, untaken, now) {
                let (job, table, untaken, error) = *end;
                self.blocks.release(&table, untaken);
                self.dismiss(job, End::Failed(error));
            }
        }
    }

    /// A request that was promised its blocks begins with those that it found.
    fn start_sequence(
        &mut self,
        job: Job,
        found: Found,
        mut untaken: usize,
        now: Duration,
    ) -> std::result::Result<(), Box<(Job, Vec<u32>, usize, Error)>> {
        let cached_tokens = found.positions();
        let mut table = found.shared;
        // What was promised exists, or the request fails here and not in the middle of its answer.
        if let Err(e) = self.loaded.runner.reserve_blocks(self.blocks.needed()) {
            return Err(Box::new((job, table, untaken, e.into())));
        }
        let kept = (table.len(), found.identity);
        if let Some((source, _)) = found.tail {
            let runner = &mut self.loaded.runner;
            let block = self.blocks.take(&mut |n| runner.reserve_blocks(n).is_ok());
            untaken -= 1;
            table.push(block);
            // Where memory is short the block that was taken is the source itself.
            if let Err(e) = runner.copy_blocks(&[(source, block)]) {
                return Err(Box::new((job, table, untaken, e.into())));
            }
        }
        let r = &job.request;
        let made = Continuation::new(&self.loaded.tokenizer, r.sampling.clone(), &r.stops, r.max_tokens);
        let continuation = match (made, self.loaded.course(r.grammar.as_ref())) {
            (Ok(continuation), Ok(course)) => continuation.within(course),
            (Err(e), _) | (_, Err(e)) => return Err(Box::new((job, table, untaken, e))),
        };
        self.counted.prompt_tokens += r.prompt.len() as u64;
        self.counted.cached_tokens += cached_tokens as u64;
        self.counted.queue_time.observe(now.saturating_sub(job.arrived).as_secs_f64());
        let deadline = job.deadline();
        let Job { id, request, sink, cancelled, arrived } = job;
        self.running.push(Sequence {
            id,
            sink,
            events: vec![Event::Started(Reuse { cached_tokens, why: found.why })],
            cancelled,
            deadline,
            continuation,
            usage: Usage { prompt_tokens: request.prompt.len(), cached_tokens, completion_tokens: 0 },
            tokens: request.prompt,
            fed: cached_tokens,
            table,
            untaken,
            kept,
            cache: request.cache && self.door.plan.cache,
            logprobs: request.logprobs,
            again: false,
            arrived,
            started: now,
            spoke: None,
        });
        Ok(())
    }

    /// Prompts go on with blocks that others completed since.
    fn adopt(&mut self) {
        for s in &mut self.running {
            while let (n, identity) = s.kept
                && n * KV_BLOCK == s.fed
                && let Some(tokens) = s.next_block()
                && let Some((block, identity)) = self.blocks.adopt(identity, tokens)
            {
                s.table.push(block);
                s.untaken -= 1;
                s.kept = (n + 1, identity);
                s.fed += KV_BLOCK;
                s.usage.cached_tokens += KV_BLOCK;
                self.counted.cached_tokens += KV_BLOCK as u64;
            }
        }
    }

    /// Who takes part in the next step, and with how many rows. A next token takes one. Prompts share what a step has
    /// room for beside: in the order in which they came each takes half of what is left, and what remains goes to the
    /// first. So prompts are finished one after the other, many of them in half the mean time of even shares, and a short
    /// one waits for no long one. Who would compute a block that another is computing waits for it.
    fn compose(&self) -> Vec<Share> {
        let plan = &self.door.plan;
        let answering = self.running.iter().any(|s| s.usage.completion_tokens > 0);
        let mut room = if answering { plan.prefill_rows_beside } else { plan.prefill_rows }.max(1);
        let mut begun = BTreeSet::new();
        let mut shares: Vec<Share> = Vec::new();
        for (index, s) in self.running.iter().enumerate() {
            let first = s.next_block().is_none_or(|tokens| begun.insert((s.kept.1, tokens)));
            if first || s.fed > s.kept.0 * KV_BLOCK {
                let rows = if s.pending() > 1 { s.pending().min(room.div_ceil(2)) } else { 1 };
                room -= if s.pending() > 1 { rows } else { 0 };
                shares.push((index, rows));
            }
        }
        for (index, rows) in &mut shares {
            let more = (self.running[*index].pending() - *rows).min(room);
            *rows += more;
            room -= more;
        }
        shares.retain(|share| share.1 > 0);
        shares
    }

    /// Runs the step. A failure of the whole step ends everybody in it; a failure in a row ends its request.
    fn step(&mut self, shares: &[Share]) {
        let ran = self.run(shares);
        let now = self.door.now();
        // From the last to the first, so that who ends here moves nobody who is still to be looked at.
        if let Err(e) = ran {
            for &(index, _) in shares.iter().rev() {
                self.end(index, End::Failed(e.clone()), now);
            }
            return;
        }
        self.counted.steps += 1;
        self.counted.shared_steps += u64::from(shares.len() > 1);
        self.counted.rows += self.rows.len() as u64;
        let mut output = std::mem::take(&mut self.output);
        let mut end = self.rows.len();
        for &(index, rows) in shares.iter().rev() {
            let of_request = &mut output.rows[end - rows..end];
            end -= rows;
            if let Some(how) = self.advance(index, of_request, now) {
                self.end(index, how, now);
            }
        }
        self.output = output;
    }

    /// Rows of all who take part, through the model.
    //= F-PIPE-183
    fn run(&mut self, shares: &[Share]) -> Result<()> {
        self.loaded.model.unchanged()?;
        self.rows.clear();
        for (sequence, &(index, rows)) in shares.iter().enumerate() {
            let s = &mut self.running[index];
            while s.table.len() * KV_BLOCK < s.fed + rows {
                let runner = &mut self.loaded.runner;
                s.table.push(self.blocks.take(&mut |n| runner.reserve_blocks(n).is_ok()));
                s.untaken -= 1;
            }
            let want = |at: usize| if at + 1 == s.tokens.len() { s.want() } else { Want::Nothing };
            self.rows.extend((s.fed..s.fed + rows).map(|at| Row {
                sequence,
                position: at as u32,
                token: s.tokens[at],
                want: want(at),
            }));
        }
        let tables: Vec<&[u32]> = shares.iter().map(|s| &self.running[s.0].table[..]).collect();
        let batch = Batch { rows: &self.rows, tables: &tables };
        Ok(self.loaded.runner.step(&batch, &mut self.output, &mut NoTap)?)
    }

    /// What the step did for one request: its rows are in the cache, and if they were the last there is a token.
    fn advance(&mut self, index: usize, rows: &mut [RowOutput], now: Duration) -> Option<End> {
        let known = &self.loaded.understood;
        let s = &mut self.running[index];
        if let Err(e) = guard::finite(rows, s.fed) {
            return Some(End::Failed(e));
        }
        s.fed += rows.len();
        if s.pending() > 0 {
            self.keep(index);
            return None;
        }
        let row = rows.last_mut()?;
        let Some(id) = s.continuation.choose(row, known, &s.tokens) else {
            s.again = true;
            s.fed -= 1;
            return None;
        };
        s.again = false;
        let taken = s.continuation.take(id, &known.tokenizer);
        if taken.finish != Some(Finish::Eos) {
            let logprob = |x: f32| x - row.log_sum_exp;
            let logprobs = s.logprobs.map(|n| Logprobs {
                chosen: row.values.get(id as usize).map_or(f32::NEG_INFINITY, |&x| logprob(x)),
                // What may not come has no probability to tell.
                top: top_k(&row.values, n)
                    .into_iter()
                    .filter(|(_, x)| x.is_finite())
                    .map(|(id, x)| (id, logprob(x)))
                    .collect(),
            });
            s.usage.completion_tokens += 1;
            s.tokens.push(id);
            s.events.push(Event::Token(Token { id, text: taken.text, logprobs }));
            self.counted.generated_tokens += 1;
            match &mut s.spoke {
                Some((_, last)) => {
                    self.counted.inter_token.observe((now - *last).as_secs_f64());
                    *last = now;
                }
                None => {
                    self.counted.time_to_first_token.observe((now.saturating_sub(s.arrived)).as_secs_f64());
                    s.spoke = Some((now, now));
                }
            }
        }
        let full = (s.fed == known.context).then_some(Finish::Length);
        let finish = taken.finish.or(full);
        self.keep(index);
        finish.map(End::Finished)
    }

    /// Keeps the blocks that became complete.
    fn keep(&mut self, index: usize) {
        let s = &mut self.running[index];
        while s.cache && (s.kept.0 + 1) * KV_BLOCK <= s.fed {
            let (n, identity) = s.kept;
            let tokens = &s.tokens[n * KV_BLOCK..(n + 1) * KV_BLOCK];
            let (block, identity) = self.blocks.keep(s.table[n], identity, tokens);
            s.table[n] = block;
            s.kept = (n + 1, identity);
        }
    }

    /// A running request leaves; what it computed stays as long as nobody needs the room.
    fn end(&mut self, index: usize, how: End, now: Duration) {
        let mut s = self.running.remove(index);
        if s.cache {
            let (n, identity) = s.kept;
            if let Some(&block) = s.table.get(n) {
                self.blocks.keep_tail(block, identity, &s.tokens[n * KV_BLOCK..s.fed]);
            }
        }
        self.blocks.release(&s.table, s.untaken);
        self.count(&how);
        match how {
            End::Cancelled => {}
            End::Failed(e) => s.events.push(Event::Failed(e)),
            End::Finished(finish) => {
                let ms = |from: Duration, to: Duration| (to.saturating_sub(from)).as_secs_f64() * 1e3;
                let (first, last) = s.spoke.unwrap_or((now, now));
                self.counted.request_duration.observe((now.saturating_sub(s.arrived)).as_secs_f64());
                s.events.push(Event::Done(Done {
                    finish,
                    text: s.continuation.finish(),
                    usage: s.usage,
                    timings: Timings {
                        queued_ms: ms(s.arrived, s.started),
                        prefill_ms: ms(s.started, first),
                        decode_ms: ms(first, last),
                    },
                }));
            }
        }
        self.ended.push(s);
    }

    /// Publishes what was counted, and only then tells everybody: who sees an answer's end finds it counted.
    fn tell(&mut self, parts: Vec<Part>) {
        self.counted.running = self.running.len();
        self.counted.kv_blocks_used = self.blocks.held();
        self.counted.kv_blocks_cached = self.blocks.idle();
        self.counted.evictions = self.blocks.evictions;
        {
            let mut inside = self.door.lock();
            self.counted.waiting = inside.queue.len();
            self.counted.ended.refused = inside.metrics.ended.refused;
            inside.metrics.clone_from(&self.counted);
            if !parts.is_empty() {
                if inside.log.len() == limits::STEP_LOG {
                    inside.log.pop_front();
                }
                inside.log.push_back(StepRecord { step: self.counted.steps, parts });
            }
        }
        for s in self.running.iter_mut().chain(&mut self.ended) {
            for event in s.events.drain(..) {
                (s.sink)(event);
            }
        }
        self.ended.clear();
    }
}
