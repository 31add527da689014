//! Saboteurs inside the engine that no rewrite of a program can express: a runner that meddles with rows before a step
//! and with outputs after it. Stale caches, shifted positions and short logits live here.

// Every entry of the table has one type, whether or not it adds or drops rows.
#![allow(clippy::ptr_arg)]

use compute::backend::{Counters, Interest, Output, Row, Runner, Tap, Want};
use compute::program::KV_BLOCK;
use compute::{Backend, Batch, Program};

use super::{Means, Saboteur};

/// Meddling with every step.
#[derive(Clone, Copy)]
pub struct Evil {
    /// Before the real runner sees a batch: rows and block tables.
    pub before: fn(&mut State, &mut Vec<Row>, &mut Vec<Vec<u32>>),
    /// After it gave its output.
    pub after: fn(&mut State, &[Row], &mut Output),
    /// Every program is prepared a second time, and every block reserved there too.
    pub twice: bool,
    /// Every new sequence makes the cache larger.
    pub leaks: bool,
}

/// No meddling: what the others differ from.
pub const NOTHING: Evil = Evil { before: nothing_before, after: nothing_after, twice: false, leaks: false };

/// What an evil runner remembers.
#[derive(Default)]
pub struct State {
    /// Steps so far.
    pub steps: u64,
    /// How often a sequence began at position 0.
    pub beginnings: u64,
    /// Width of the logits.
    pub vocab: usize,
    /// Every token of the sequence, by position.
    pub tokens: Vec<u32>,
    /// Whether rows were added to the batch that is running.
    pub widened: bool,
    /// The last output.
    pub last: Output,
}

/// A backend whose runners meddle.
pub struct EvilBackend<'a> {
    /// The real one.
    pub inner: &'a dyn Backend,
    /// What to do.
    pub evil: Evil,
}

impl Backend for EvilBackend<'_> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn prepare(&self, program: &Program, interest: &Interest) -> compute::Result<Box<dyn Runner>> {
        let inner = self.inner.prepare(program, interest)?;
        let second = if self.evil.twice { Some(self.inner.prepare(program, interest)?) } else { None };
        let state = State { vocab: program.logits_width(), ..State::default() };
        Ok(Box::new(EvilRunner { inner, second, evil: self.evil, state, blocks: 0 }))
    }
}

struct EvilRunner {
    inner: Box<dyn Runner>,
    second: Option<Box<dyn Runner>>,
    evil: Evil,
    state: State,
    /// Blocks that were reserved.
    blocks: usize,
}

/// Blocks beyond those asked for, for saboteurs that keep something.
const SPARE_BLOCKS: usize = 2;

impl Runner for EvilRunner {
    fn step(&mut self, batch: &Batch<'_>, out: &mut Output, tap: &mut dyn Tap) -> compute::Result<()> {
        let mut rows = batch.rows.to_vec();
        let mut tables: Vec<Vec<u32>> = batch.tables.iter().map(|t| t.to_vec()).collect();
        let beginnings = rows.iter().filter(|r| r.position == 0).count();
        self.state.beginnings += beginnings as u64;
        if self.evil.leaks && beginnings > 0 {
            self.blocks += 8 * beginnings;
            self.inner.reserve_blocks(self.blocks)?;
        }
        for row in &rows {
            self.state.tokens.truncate(row.position as usize);
            self.state.tokens.push(row.token);
        }
        (self.evil.before)(&mut self.state, &mut rows, &mut tables);
        let tables: Vec<&[u32]> = tables.iter().map(Vec::as_slice).collect();
        self.inner.step(&Batch { rows: &rows, tables: &tables }, out, tap)?;
        (self.evil.after)(&mut self.state, &rows, out);
        self.state.last = out.clone();
        self.state.steps += 1;
        Ok(())
    }

    fn reserve_blocks(&mut self, count: usize) -> compute::Result<()> {
        self.blocks = self.blocks.max(count + SPARE_BLOCKS);
        if let Some(second) = &mut self.second {
            second.reserve_blocks(self.blocks)?;
        }
        self.inner.reserve_blocks(self.blocks)
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> compute::Result<()> {
        self.inner.copy_blocks(pairs)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}

fn nothing_before(_: &mut State, _: &mut Vec<Row>, _: &mut Vec<Vec<u32>>) {}

fn nothing_after(_: &mut State, _: &[Row], _: &mut Output) {}

/// An entry that misbehaves without crashing.
const fn evil(
    name: &'static str,
    does: &'static str,
    before: fn(&mut State, &mut Vec<Row>, &mut Vec<Vec<u32>>),
    after: fn(&mut State, &[Row], &mut Output),
) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::EvilBackend(Evil { before, after, ..NOTHING }) }
}

/// Every evil backend.
pub static ALL: &[Saboteur] = &[
    evil(
        "kv-not-cleared",
        "from the second sequence on, the first block of the one before is still in sight",
        keep_the_first_block,
        nothing_after,
    ),
    evil("kv-prefill-elsewhere", "K and V of prompts go to blocks that nobody reads", hide_prompts, nothing_after),
    evil("cache-ignored", "a step of one row sees nothing of the prompt", ignore_the_cache, nothing_after),
    evil("cache-recomputed", "every step runs the whole sequence again", run_everything, keep_the_last_row),
    evil("positions-shifted", "every step but the first is one position too far", shift_positions, nothing_after),
    evil(
        "batch-crosstalk",
        "the second sequence of a batch begins with the first one's block",
        lend_a_block,
        nothing_after,
    ),
    evil("eos-suppressed", "the best token that ends nothing is taken", ask_for_more, take_no_end),
    evil("always-token-0", "the best token is always token 0", nothing_before, |_, _, out| {
        out.rows.iter_mut().for_each(|r| r.argmax = 0);
    }),
    evil("argmax-drifts", "every fifth step takes another token than the best", nothing_before, drift),
    evil("logits-short", "the last logit is missing", nothing_before, drop_a_logit),
    evil("logsumexp-off", "the largest logit is left out of the sum", nothing_before, forget_the_largest),
    evil("finite-flag-stuck", "every row is called finite", nothing_before, |_, _, out| {
        out.rows.iter_mut().for_each(|r| r.finite = true);
    }),
];

fn keep_the_first_block(state: &mut State, rows: &mut Vec<Row>, tables: &mut Vec<Vec<u32>>) {
    if state.beginnings > 1 {
        for row in rows {
            row.position += KV_BLOCK as u32;
        }
        for table in tables {
            // Block 0 keeps what the first sequence wrote; everything else moves up by one.
            *table = std::iter::once(0).chain(table.iter().map(|b| b + 1)).collect();
        }
    }
}

/// Batches of several rows are prompts: their blocks are others than those of single rows.
fn hide_prompts(_: &mut State, rows: &mut Vec<Row>, tables: &mut Vec<Vec<u32>>) {
    if rows.len() > 1 {
        tables.iter_mut().flatten().for_each(|block| *block += 1);
    }
}

/// Every block is one of the spare ones, in which nobody wrote.
fn ignore_the_cache(_: &mut State, rows: &mut Vec<Row>, tables: &mut Vec<Vec<u32>>) {
    if rows.len() == 1 {
        for table in tables {
            let spare = table.len() as u32;
            table.fill(spare);
        }
    }
}

/// One sequence at a time, as the engine has it.
fn run_everything(state: &mut State, rows: &mut Vec<Row>, _: &mut Vec<Vec<u32>>) {
    if let [row] = rows[..] {
        let again = |(position, &token): (usize, &u32)| Row { position: position as u32, token, ..row };
        *rows = state.tokens.iter().enumerate().map(again).collect();
        let last = rows.len() - 1;
        rows[..last].iter_mut().for_each(|r| r.want = Want::Nothing);
        state.widened = last > 0;
    }
}

fn keep_the_last_row(state: &mut State, _: &[Row], out: &mut Output) {
    if std::mem::take(&mut state.widened) {
        out.rows.drain(..out.rows.len() - 1);
    }
}

fn shift_positions(_: &mut State, rows: &mut Vec<Row>, tables: &mut Vec<Vec<u32>>) {
    if rows.iter().all(|r| r.position > 0) {
        rows.iter_mut().for_each(|r| r.position += 1);
        // The last row may now stand in a block of its own.
        tables.iter_mut().for_each(|t| t.push(t.len() as u32));
    }
}

fn lend_a_block(_: &mut State, _: &mut Vec<Row>, tables: &mut Vec<Vec<u32>>) {
    if let [first, second, ..] = &mut tables[..] {
        second[0] = first[0];
    }
}

/// Control tokens stand behind all others in the vocabularies of the fixture and of the forge.
fn first_control(state: &State) -> u32 {
    if state.vocab > 4000 { 4058 } else { 317 }
}

/// Candidates among which one is no control token.
const CANDIDATES: usize = 64;

fn ask_for_more(_: &mut State, rows: &mut Vec<Row>, _: &mut Vec<Vec<u32>>) {
    rows.iter_mut().filter(|r| r.want == Want::Argmax).for_each(|r| r.want = Want::TopK(CANDIDATES));
}

fn take_no_end(state: &mut State, rows: &[Row], out: &mut Output) {
    for (row, out) in rows.iter().zip(&mut out.rows) {
        if row.want == Want::TopK(CANDIDATES) {
            let other = out.top.iter().find(|t| t.0 < first_control(state));
            out.argmax = other.map_or(out.argmax, |t| t.0);
            out.top.clear();
        }
    }
}

fn drift(state: &mut State, _: &[Row], out: &mut Output) {
    if state.steps % 5 == 4 {
        out.rows.iter_mut().for_each(|r| r.argmax = (r.argmax + 1) % first_control(state));
    }
}

fn drop_a_logit(_: &mut State, _: &[Row], out: &mut Output) {
    for row in &mut out.rows {
        row.values.pop();
    }
}

fn forget_the_largest(_: &mut State, _: &[Row], out: &mut Output) {
    for row in &mut out.rows {
        // ln(e^s - e^max), where there is anything else in the sum.
        let rest = 1.0 - (row.max - row.log_sum_exp).exp();
        if rest > 1e-6 {
            row.log_sum_exp += rest.ln();
        }
    }
}
