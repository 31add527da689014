//! What a backend is: something that prepares a [`Program`] once and then runs batches of rows through it.
//!
//! Prefill, decode, continuous batching, speculative verification and embeddings are all [`Runner::step`].

use crate::error::{Error, Result};
use crate::program::{KV_BLOCK, Op, Program, Tag};

/// Makes runners. One value per backend; see `plain::Plain` and `cpu::Cpu`.
pub trait Backend {
    /// A short name for messages and evidence: `plain`, `cpu`.
    fn name(&self) -> &'static str;

    /// Checks, uploads, repacks and fuses. `interest` says which operations a [`Tap`] will want to see.
    fn prepare(&self, program: &Program, interest: &Interest) -> Result<Box<dyn Runner>>;
}

/// A prepared program with its KV cache.
///
/// The KV cache is a pool of blocks of [`crate::program::KV_BLOCK`] positions. The runner owns the storage; the
/// engine owns block numbers and says in each row's block table which block holds which positions. Lowering a
/// sequence's length undoes what was written past it.
pub trait Runner: Send {
    /// Runs every row of `batch` through the program and fills one [`RowOutput`] per row.
    fn step(&mut self, batch: &Batch<'_>, out: &mut Output, tap: &mut dyn Tap) -> Result<()>;

    /// Makes blocks `0..count` usable. Storage grows here and nowhere else, so a step never allocates KV memory.
    fn reserve_blocks(&mut self, count: usize) -> Result<()>;

    /// Copies whole blocks, all layers (copy-on-write of a shared prefix).
    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()>;

    /// What really runs: backend, instruction set, threads.
    fn describe(&self) -> String;

    /// Work done since `prepare`.
    fn counters(&self) -> Counters;
}

/// Work done by a runner, counted where it happens. Evidence, not telemetry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of `step`.
    pub steps: u64,
    /// Rows run through the program.
    pub rows: u64,
    /// How often some matrix was read from end to end.
    pub weight_passes: u64,
    /// Bytes of KV cache in use.
    pub kv_bytes: u64,
    /// Blocks of KV cache that these bytes are.
    pub kv_blocks: u64,
    /// Bytes of weights the runner holds in its own layout.
    pub weight_bytes: u64,
    /// Kernels that a GPU was asked to run.
    pub kernels: u64,
    /// Bytes copied to and from a GPU in steps.
    pub copied_bytes: u64,
}

/// One token of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index into [`Batch::tables`].
    pub sequence: usize,
    /// Absolute position in the sequence, from 0.
    pub position: u32,
    /// Token id, below [`Program::vocab`].
    pub token: u32,
    /// What to compute of the logits.
    pub want: Want,
}

/// Rows to run together. Rows of one sequence stand in ascending order of position.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The rows.
    pub rows: &'a [Row],
    /// Block table of each sequence: entry `i` holds positions `i * KV_BLOCK ..`.
    pub tables: &'a [&'a [u32]],
}

impl Batch<'_> {
    /// Checks tokens, positions and tables against a program and a cache of `blocks` blocks.
    pub fn validate(&self, program: &Program, blocks: usize) -> Result<()> {
        let bad = |what: String| Err(Error::Invalid(what));
        if self.rows.is_empty() {
            return bad("an empty batch".into());
        }
        for (r, row) in self.rows.iter().enumerate() {
            let Some(table) = self.tables.get(row.sequence) else {
                return bad(format!("row {r} is of sequence {} of {}", row.sequence, self.tables.len()));
            };
            if row.token as usize >= program.vocab {
                return bad(format!("token {} of row {r} is outside the vocabulary of {}", row.token, program.vocab));
            }
            if row.position as usize / KV_BLOCK >= table.len() {
                return bad(format!("position {} of row {r} has no K/V block", row.position));
            }
            if let Some(before) = self.rows[..r].iter().rev().find(|b| b.sequence == row.sequence)
                && before.position >= row.position
            {
                return bad(format!("rows of sequence {} are out of order at row {r}", row.sequence));
            }
        }
        if let Some(b) = self.tables.iter().flat_map(|t| t.iter()).find(|&&b| b as usize >= blocks) {
            return bad(format!("K/V block {b} of {blocks}"));
        }
        // Rows are computed side by side: each writes a place of its own.
        let mut places: Vec<_> = self.rows.iter().map(|row| self.place(row)).collect();
        places.sort_unstable();
        match places.windows(2).find(|p| p[0] == p[1]) {
            Some(p) => bad(format!("two rows write slot {} of K/V block {}", p[0].1, p[0].0)),
            None => Ok(()),
        }
    }

    /// K/V block and slot of a row.
    pub fn place(&self, row: &Row) -> (u32, usize) {
        let position = row.position as usize;
        (self.tables[row.sequence][position / KV_BLOCK], position % KV_BLOCK)
    }

    /// Positions that row `r` attends to, as the [`Op::Attend`] says.
    pub fn visible(&self, op: &Op, r: usize) -> (usize, usize) {
        let Op::Attend { window, causal, .. } = op else { return (0, 0) };
        let row = &self.rows[r];
        let position = row.position as usize;
        let from = window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
        //= F-PIPE-175
        let last = if *causal {
            position
        } else {
            let of_sequence = self.rows.iter().filter(|o| o.sequence == row.sequence);
            of_sequence.map(|o| o.position as usize).max().unwrap_or(position)
        };
        (from, last + 1)
    }
}

/// What a row needs of its logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing: the row only fills the cache. The LM head is skipped.
    Nothing,
    /// The most likely token (and the guard's numbers).
    Argmax,
    /// The `n` most likely tokens, best first.
    TopK(usize),
    /// All logits.
    Logits,
    /// The LM head's input vector (embeddings); no logits.
    Hidden,
}

/// Results of a step, one entry per row of the batch. Reused between steps so that decode does not allocate.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// In batch order.
    pub rows: Vec<RowOutput>,
}

/// What one row gave. Fields beyond the guard's numbers are filled as its [`Want`] says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowOutput {
    /// Whether every logit (or hidden value) was finite. True for [`Want::Nothing`].
    pub finite: bool,
    /// The largest logit.
    pub max: f32,
    /// `ln(sum(exp(logit)))`.
    pub log_sum_exp: f32,
    /// The token with the largest logit; the lowest id wins a tie.
    pub argmax: u32,
    /// For [`Want::TopK`]: `(token, logit)`, best first, ties by lower id.
    pub top: Vec<(u32, f32)>,
    /// For [`Want::Logits`]: `[vocab]`; for [`Want::Hidden`]: `[width]`.
    pub values: Vec<f32>,
}

impl RowOutput {
    /// Empties the row for reuse.
    pub fn clear(&mut self) {
        self.finite = true;
        self.max = f32::NEG_INFINITY;
        self.log_sum_exp = f32::NEG_INFINITY;
        self.argmax = 0;
        self.top.clear();
        self.values.clear();
    }

    /// Fills the row from its logits, as `want` asks. One definition for every backend that has them in memory.
    pub fn fill(&mut self, logits: &[f32], want: Want) {
        self.clear();
        self.finite = logits.iter().all(|x| x.is_finite());
        for (i, &x) in logits.iter().enumerate() {
            if x > self.max {
                self.max = x;
                self.argmax = i as u32;
            }
        }
        let sum: f64 = logits.iter().map(|&x| f64::from(x - self.max).exp()).sum();
        //= F-MATH-161
        self.log_sum_exp = (f64::from(self.max) + sum.ln()) as f32;
        match want {
            Want::TopK(n) => self.top = top_k(logits, n),
            Want::Logits => self.values.extend_from_slice(logits),
            Want::Nothing | Want::Argmax | Want::Hidden => {}
        }
    }
}

/// The `n` largest logits, best first; ties go to the lower id. NaN sorts last.
pub fn top_k(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let better = |a: &(u32, f32), b: &(u32, f32)| {
        let key = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
        key(b.1).total_cmp(&key(a.1)).then(a.0.cmp(&b.0))
    };
    let mut all: Vec<(u32, f32)> = logits.iter().enumerate().map(|(i, &x)| (i as u32, x)).collect();
    let n = n.min(all.len());
    if n > 0 && n < all.len() {
        all.select_nth_unstable_by(n - 1, better);
    }
    all.truncate(n);
    all.sort_by(better);
    all
}

/// Watches operations. The only way to see inside a run: tracing, `apr check` and the guards are taps.
///
/// A tapped run executes the same kernels as an untapped one, with reads added.
pub trait Tap {
    /// Called after operation `index` (its position in [`Program::steps`]) with the buffer it wrote, `[rows, width]`.
    fn observe(&mut self, index: usize, tag: Tag, rows: usize, values: &[f32]);
}

/// A tap that looks at nothing.
pub struct NoTap;

impl Tap for NoTap {
    fn observe(&mut self, _: usize, _: Tag, _: usize, _: &[f32]) {}
}

/// Which operations a tap wants to see, declared before the run so that a backend may fuse the others.
#[derive(Clone, Debug, Default)]
pub enum Interest {
    /// No operation.
    #[default]
    Nothing,
    /// Every operation.
    Everything,
    /// Operations with one of these tags.
    Tags(Vec<Tag>),
}

impl Interest {
    /// Whether an operation with this tag is to be shown.
    pub fn covers(&self, tag: Tag) -> bool {
        match self {
            Interest::Nothing => false,
            Interest::Everything => true,
            Interest::Tags(tags) => tags.contains(&tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_finds_the_first_of_equal_maxima_and_normalises() {
        let mut r = RowOutput::default();
        r.fill(&[0.0, 2.0, 2.0, -1.0], Want::TopK(3));
        assert_eq!((r.argmax, r.max), (1, 2.0));
        assert_eq!(r.top, vec![(1, 2.0), (2, 2.0), (0, 0.0)]);
        let p: f32 = [0.0f32, 2.0, 2.0, -1.0].iter().map(|x| (x - r.log_sum_exp).exp()).sum();
        assert!((p - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_nan_is_not_finite() {
        let mut r = RowOutput::default();
        r.fill(&[1.0, f32::NAN], Want::Argmax);
        assert!(!r.finite);
        assert_eq!(r.argmax, 0);
    }
}
