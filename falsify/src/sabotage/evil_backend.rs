//! Saboteurs inside the engine that no rewrite of a program can express: a runner that meddles with rows before a step
//! and with outputs after it. Stale caches, shifted positions and short logits live here.

use compute::backend::{Counters, Interest, Output, Row, Runner, Tap};
use compute::{Backend, Batch, Program};

use super::{Means, Saboteur};

/// Meddling with every step.
#[derive(Clone, Copy)]
pub struct Evil {
    /// Before the real runner sees a batch: rows and block tables.
    pub before: fn(&mut State, &mut Vec<Row>, &mut Vec<Vec<u32>>),
    /// After it gave its output.
    pub after: fn(&mut State, &[Row], &mut Output),
}

/// What an evil runner remembers.
#[derive(Default)]
pub struct State {
    /// Steps so far.
    pub steps: u64,
    /// How often a sequence began at position 0.
    pub beginnings: u64,
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
        Ok(Box::new(EvilRunner { inner, evil: self.evil, state: State::default() }))
    }
}

struct EvilRunner {
    inner: Box<dyn Runner>,
    evil: Evil,
    state: State,
}

/// Blocks beyond those asked for, for saboteurs that keep something.
const SPARE_BLOCKS: usize = 2;

impl Runner for EvilRunner {
    fn step(&mut self, batch: &Batch<'_>, out: &mut Output, tap: &mut dyn Tap) -> compute::Result<()> {
        let mut rows = batch.rows.to_vec();
        let mut tables: Vec<Vec<u32>> = batch.tables.iter().map(|t| t.to_vec()).collect();
        self.state.beginnings += rows.iter().filter(|r| r.position == 0).count() as u64;
        (self.evil.before)(&mut self.state, &mut rows, &mut tables);
        let tables: Vec<&[u32]> = tables.iter().map(Vec::as_slice).collect();
        self.inner.step(&Batch { rows: &rows, tables: &tables }, out, tap)?;
        (self.evil.after)(&mut self.state, &rows, out);
        self.state.last = out.clone();
        self.state.steps += 1;
        Ok(())
    }

    fn reserve_blocks(&mut self, count: usize) -> compute::Result<()> {
        self.inner.reserve_blocks(count + SPARE_BLOCKS)
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

/// Every evil backend.
pub static ALL: &[Saboteur] = &[
    Saboteur {
        name: "kv-not-cleared",
        does: "from the second sequence on, the first block of the one before is still in sight",
        by_crash: false,
        means: Means::EvilBackend(Evil { before: keep_the_first_block, after: nothing_after }),
    },
    Saboteur {
        name: "logits-short",
        does: "the last logit is missing",
        by_crash: false,
        means: Means::EvilBackend(Evil { before: nothing_before, after: drop_a_logit }),
    },
];

fn keep_the_first_block(state: &mut State, rows: &mut Vec<Row>, tables: &mut Vec<Vec<u32>>) {
    if state.beginnings > 1 {
        for row in rows {
            row.position += compute::program::KV_BLOCK as u32;
        }
        for table in tables {
            // Block 0 keeps what the first sequence wrote; everything else moves up by one.
            *table = std::iter::once(0).chain(table.iter().map(|b| b + 1)).collect();
        }
    }
}

fn drop_a_logit(_: &mut State, _: &[Row], out: &mut Output) {
    for row in &mut out.rows {
        row.values.pop();
    }
}
