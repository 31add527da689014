//! The CPU backend: int8-activation matrix products over repacked weights, paged half-precision KV, own thread pool.
//!
//! `prepare` repacks the matrices ([`tile`]) and turns the program into phases: runs of operations that work on one
//! row at a time become one phase (norm, rope, cache append, gate, quantisation of the next product's input), and
//! matrix products over the same input become one phase (q, k and v; gate and up). A phase begins when all units of the
//! one before are done ([`share`]). Any valid program runs: fusion only groups what stands side by side.

pub mod acts;
pub mod attend;
pub mod isa;
pub mod kv;
mod phase;
pub mod planes;
pub mod pool;
pub mod product;
pub mod rows;
mod share;
pub mod shared;
pub mod simd;
#[cfg(test)]
pub(crate) mod tests;
pub mod tile;

use std::ops::Range;
use std::sync::Mutex;

use crate::backend::{Backend, Batch, Counters, Interest, Output, RowOutput, Runner, Tap, Want, top_k};
use crate::error::Result;
use crate::program::{Op, Program, RopeTable, WeightId};
use acts::Acts;
use isa::Isa;
use kv::KvCache;
use phase::{Phase, Work};
use pool::{Pool, Worker};
use product::{Matrix, repack};
use share::Share;
use shared::SharedMatrix;

/// The backend.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// Instruction set of the kernels.
    pub isa: Isa,
    /// Workers, the calling thread among them.
    pub threads: usize,
}

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn prepare(&self, program: &Program, interest: &Interest) -> Result<Box<dyn Runner>> {
        program.validate()?;
        Ok(Box::new(CpuRunner::new(*self, program, interest)?))
    }
}

/// Everything that workers share during a step.
struct Shared {
    isa: Isa,
    program: Program,
    /// By weight id; `None` for weights that are not multiplied by.
    matrices: Vec<Option<Matrix>>,
    /// By weight id: norm weights and biases as f32.
    vectors: Vec<Option<Vec<f32>>>,
    ropes: Vec<RopeTable>,
    /// By buffer id.
    buffers: Vec<SharedMatrix>,
    /// By buffer id: the buffer as a product reads it.
    acts: Vec<Acts>,
    /// Cos and sin of each row: `[rows, 2 * pairs]` for each rope table.
    turns: Vec<Vec<f32>>,
    kv: KvCache,
    /// Rows that want logits, gathered: `[wanted, width]`.
    head: SharedMatrix,
    head_acts: Acts,
    logits: SharedMatrix,
    wanted: Vec<usize>,
    /// Runs of rows of one sequence, short enough for one unit of attention.
    groups: Vec<Range<usize>>,
    scratch: Vec<Mutex<Vec<f32>>>,
}

struct CpuRunner {
    pool: Pool,
    phases: Vec<Phase>,
    /// One per phase: who does which units.
    shares: Vec<Share>,
    shared: Shared,
    counters: Counters,
}

/// Queries that one unit of attention takes.
const QUERIES_PER_UNIT: usize = 32;

impl CpuRunner {
    fn new(cpu: Cpu, program: &Program, interest: &Interest) -> Result<CpuRunner> {
        let pool = Pool::new(cpu.threads)?;
        let matrices = repack(program, cpu.threads)?;
        let vectors = vectors(program);
        let mut ropes: Vec<RopeTable> = Vec::new();
        for step in &program.steps {
            if let Op::Rope { table, .. } = &step.op
                && !ropes.contains(table)
            {
                ropes.push(table.clone());
            }
        }
        let phases = phase::plan(program, interest, &ropes, |w: WeightId| {
            matrices[w.0 as usize].as_ref().is_some_and(Matrix::is_packed)
        });
        let (hidden, vocab) = match program.steps.last() {
            Some(s) => match s.op {
                Op::Logits { src, weight, .. } => (program.width(src), program.w(weight).rows),
                _ => (0, 0),
            },
            None => (0, 0),
        };
        let weight_bytes = matrices.iter().flatten().filter(|m| m.is_packed()).map(|m| m.bytes().len() as u64).sum();
        let shared = Shared {
            isa: cpu.isa,
            kv: KvCache::new(&program.kv),
            buffers: program.buffers.iter().map(|&w| SharedMatrix::new(0, w)).collect(),
            acts: program.buffers.iter().map(|_| Acts::new(cpu.isa)).collect(),
            turns: vec![Vec::new(); ropes.len()],
            head: SharedMatrix::new(0, hidden),
            head_acts: Acts::new(cpu.isa),
            logits: SharedMatrix::new(0, vocab),
            wanted: Vec::new(),
            groups: Vec::new(),
            scratch: (0..pool.count()).map(|_| Mutex::default()).collect(),
            program: program.clone(),
            matrices,
            vectors,
            ropes,
        };
        let shares = phases.iter().map(|_| Share::new(pool.count())).collect();
        Ok(CpuRunner { pool, phases, shares, shared, counters: Counters { weight_bytes, ..Counters::default() } })
    }
}

/// Norm weights (with their offset) and biases, decoded.
fn vectors(program: &Program) -> Vec<Option<Vec<f32>>> {
    let mut out: Vec<Option<Vec<f32>>> = vec![None; program.weights.len()];
    for step in &program.steps {
        let mut decode = |id: Option<WeightId>, offset: f32| {
            if let Some(id) = id {
                let values = program.w(id).to_f32().into_iter().map(|x| x + offset).collect();
                out[id.0 as usize] = Some(values);
            }
        };
        match step.op {
            Op::Norm { weight, bias, offset, .. } => {
                decode(weight, offset);
                decode(bias, 0.0);
            }
            Op::MatMul { bias, .. } => decode(bias, 0.0),
            _ => {}
        }
    }
    out
}

impl Runner for CpuRunner {
    //= F-CPU-098 F-CPU-099 F-CPU-100
    fn step(&mut self, batch: &Batch<'_>, out: &mut Output, tap: &mut dyn Tap) -> Result<()> {
        batch.validate(&self.shared.program, self.shared.kv.blocks())?;
        //= F-CPU-106
        self.shared.begin(batch);
        for (share, phase) in self.shares.iter_mut().zip(&self.phases) {
            share.reset(self.shared.units(&phase.work, batch));
        }
        let mut start = 0;
        while start < self.phases.len() {
            // Without taps this is the whole program in one go.
            let tapped = self.phases[start..].iter().position(|p| !p.taps.is_empty());
            let end = tapped.map_or(self.phases.len(), |n| start + n + 1);
            let (phases, shares, shared) = (&self.phases[..end], &self.shares[..end], &self.shared);
            self.pool.run(&|worker| {
                let mut early = Early::new(batch);
                for i in start..end {
                    let unit = |units| shared.execute(&phases[i].work, batch, worker, units);
                    shares[i].run(worker, unit, || early.step(shared, phases, shares, worker, i));
                }
            });
            for t in &self.phases[end - 1].taps {
                let rows = batch.rows.len();
                tap.observe(t.index, t.tag, rows, self.shared.buffers[t.buffer].values());
            }
            start = end;
        }
        self.shared.finish(batch, out);
        self.count(batch.rows.len());
        Ok(())
    }

    fn reserve_blocks(&mut self, count: usize) -> Result<()> {
        self.shared.kv.reserve(count)?;
        self.counters.kv_blocks = self.shared.kv.blocks() as u64;
        self.counters.kv_bytes = self.counters.kv_blocks * self.shared.kv.block_bytes() as u64;
        Ok(())
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        pairs.iter().try_for_each(|&(from, to)| self.shared.kv.copy(from, to))
    }

    fn describe(&self) -> String {
        let n = self.pool.count();
        format!("cpu ({}, {n} thread{})", self.shared.isa.name(), if n == 1 { "" } else { "s" })
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl CpuRunner {
    fn count(&mut self, rows: usize) {
        let columns = self.shared.isa.columns();
        for phase in &self.phases {
            self.counters.weight_passes += match &phase.work {
                Work::Product { parts, .. } => (parts.len() * rows.div_ceil(columns)) as u64,
                Work::Logits { .. } => self.shared.wanted.len().div_ceil(columns) as u64,
                _ => 0,
            };
        }
        self.counters.steps += 1;
        self.counters.rows += rows as u64;
    }
}

impl Shared {
    /// Sizes the buffers, binds the activations to them, and computes what depends on positions only.
    fn begin(&mut self, batch: &Batch<'_>) {
        let rows = batch.rows.len();
        for (buffer, acts) in self.buffers.iter_mut().zip(&mut self.acts) {
            buffer.resize(rows);
            acts.reserve(rows, buffer.width());
        }
        let wanted = |w: Want| !matches!(w, Want::Nothing | Want::Hidden);
        self.wanted.clear();
        self.wanted.extend((0..rows).filter(|&r| wanted(batch.rows[r].want)));
        self.head.resize(self.wanted.len());
        self.head_acts.reserve(self.wanted.len(), self.head.width());
        self.logits.resize(self.wanted.len());
        // SAFETY: buffers and acts live side by side in this struct; nothing resizes or moves them until the next
        // `begin`, and products only run inside `step`.
        unsafe {
            for (buffer, acts) in self.buffers.iter().zip(&mut self.acts) {
                acts.bind(buffer);
            }
            self.head_acts.bind(&self.head);
        }
        for (table, turns) in self.ropes.iter().zip(&mut self.turns) {
            turns.clear();
            for row in batch.rows {
                turns.extend(table.inv_freq.iter().flat_map(|&f| <[f32; 2]>::from(table.turn(row.position, f))));
            }
        }
        self.group(batch);
    }

    /// Cuts the batch into runs of rows of one sequence.
    fn group(&mut self, batch: &Batch<'_>) {
        let heads_per_kv = self.program.steps.iter().find_map(|s| match s.op {
            Op::Attend { heads, layer, .. } => Some(heads / self.program.kv[layer].heads),
            _ => None,
        });
        let rows_per_unit = (QUERIES_PER_UNIT / heads_per_kv.unwrap_or(1)).max(1);
        self.groups.clear();
        let mut start = 0;
        for r in 1..=batch.rows.len() {
            let cut = r == batch.rows.len()
                || batch.rows[r].sequence != batch.rows[start].sequence
                || r - start == rows_per_unit;
            if cut {
                self.groups.push(start..r);
                start = r;
            }
        }
    }

    /// Units of work in a phase.
    fn units(&self, work: &Work, batch: &Batch<'_>) -> usize {
        match work {
            Work::Rows(_) => batch.rows.len(),
            Work::Product { parts, .. } => parts.iter().map(|p| self.matrix(p.weight).tiles()).sum(),
            Work::Attend { layer, .. } => self.groups.len() * self.program.kv[*layer].heads,
            Work::Gather { .. } | Work::Scale { .. } => self.wanted.len(),
            Work::Logits { .. } if self.wanted.is_empty() => 0,
            Work::Logits { weight } => self.matrix(*weight).tiles(),
        }
    }

    /// Does some units of a phase.
    fn execute(&self, work: &Work, batch: &Batch<'_>, worker: Worker, units: Range<usize>) {
        match work {
            Work::Rows(ops) => {
                for row in units {
                    for op in ops {
                        // SAFETY: rows are shared out, so this worker alone has row `row` until the phase ends; that each
                        // writes a place of its own in the cache is what `Batch::validate` saw to.
                        unsafe { self.row_op(op, batch, row) };
                    }
                }
            }
            Work::Product { src, parts } => {
                let mut first = 0;
                for p in parts {
                    let count = self.matrix(p.weight).tiles();
                    let tiles = units.start.max(first)..units.end.min(first + count);
                    if !tiles.is_empty() {
                        let bias = p.bias.and_then(|b| self.vectors[b.0 as usize].as_deref());
                        let tiles = tiles.start - first..tiles.end - first;
                        self.multiply(p.weight, &self.acts[*src], bias, &self.buffers[p.dst], tiles);
                    }
                    first += count;
                }
            }
            Work::Attend { op, layer } => {
                let heads = self.program.kv[*layer].heads;
                for unit in units {
                    self.attend(op, batch, self.groups[unit / heads].clone(), unit % heads, worker);
                }
            }
            Work::Gather { src, weight } => {
                for i in units {
                    // SAFETY: row i of `head` is this worker's; the source was written in an earlier phase.
                    unsafe {
                        self.head.row_mut(i).copy_from_slice(self.buffers[*src].row(self.wanted[i]));
                        if self.matrix(*weight).is_packed() {
                            self.head_acts.quantise(self.isa, i);
                        }
                    }
                }
            }
            Work::Logits { weight } => self.multiply(*weight, &self.head_acts, None, &self.logits, units),
            Work::Scale { by } => {
                for i in units {
                    // SAFETY: all products are done; row i is this worker's.
                    unsafe { self.logits.row_mut(i) }.iter_mut().for_each(|x| *x *= by);
                }
            }
        }
    }

    fn matrix(&self, id: WeightId) -> &Matrix {
        self.matrices[id.0 as usize].as_ref().expect("invariant: every multiplied weight was prepared")
    }

    fn multiply(&self, id: WeightId, acts: &Acts, bias: Option<&[f32]>, out: &SharedMatrix, tiles: Range<usize>) {
        let m = self.matrix(id);
        let job = tile::Job { weights: m.bytes(), rows: m.rows, cols: m.cols, acts, bias, out, tiles };
        (m.format.0.kernels.multiply)(self.isa, &job);
    }

    /// Fills the caller's output from logits and hidden rows.
    fn finish(&mut self, batch: &Batch<'_>, out: &mut Output) {
        out.rows.resize_with(batch.rows.len(), RowOutput::default);
        let src = match self.program.steps.last().map(|s| &s.op) {
            Some(Op::Logits { src, .. }) => src.0 as usize,
            _ => return,
        };
        let mut logits = 0;
        for (r, row) in batch.rows.iter().enumerate() {
            let o = &mut out.rows[r];
            o.clear();
            let (matrix, at) = match row.want {
                Want::Nothing => continue,
                Want::Hidden => (&self.buffers[src], r),
                _ => {
                    logits += 1;
                    (&self.logits, logits - 1)
                }
            };
            // SAFETY: the step is over; no worker is running.
            let values = unsafe { matrix.row(at) };
            let stats = self.isa.run(rows::Stats(values));
            o.finite = stats.finite;
            match row.want {
                Want::Hidden => o.values.extend_from_slice(values),
                want => {
                    (o.max, o.argmax, o.log_sum_exp) = (stats.max, stats.argmax, stats.log_sum_exp);
                    match want {
                        Want::TopK(n) => o.top = top_k(values, n),
                        Want::Logits => o.values.extend_from_slice(values),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// Weights of a product to come, fetched into the cache while a worker waits for others: one row of activations is
/// little work between products, and the memory would lie idle.
struct Early {
    on: bool,
    /// The phase whose weights are being fetched, and bytes of this worker's part that are.
    phase: usize,
    fetched: usize,
}

impl Early {
    /// Bytes fetched for one product: a part of a core's second-level cache.
    const MOST: usize = 256 << 10;
    /// Bytes fetched between two looks at the phase.
    const STRIDE: usize = 256;

    fn new(batch: &Batch<'_>) -> Early {
        // Many rows keep the memory waiting, not the other way round.
        Early { on: batch.rows.len() <= 4, phase: 0, fetched: 0 }
    }

    /// Fetches a little of what this worker will read first in the next product after phase `now`.
    fn step(&mut self, shared: &Shared, phases: &[Phase], shares: &[Share], worker: Worker, now: usize) {
        if !self.on {
            return;
        }
        if self.phase <= now {
            let product = |p: &Phase| matches!(p.work, Work::Product { .. } | Work::Logits { .. });
            let Some(next) = phases[now + 1..].iter().position(product) else { return };
            (self.phase, self.fetched) = (now + 1 + next, 0);
        }
        let first = shares[self.phase].part(worker.index).start;
        let (matrix, tile) = match &phases[self.phase].work {
            Work::Product { parts, .. } => {
                let mut tile = first;
                let mut of = parts.iter().map(|p| shared.matrix(p.weight));
                let Some(m) = of.find(|m| {
                    let here = tile < m.tiles();
                    tile -= if here { 0 } else { m.tiles() };
                    here
                }) else {
                    return;
                };
                (m, tile)
            }
            Work::Logits { weight } => (shared.matrix(*weight), first),
            _ => return,
        };
        let bytes = matrix.bytes();
        let from = tile * (bytes.len() / matrix.tiles()) + self.fetched;
        if self.fetched < Early::MOST && from < bytes.len() {
            let to = (from + Early::STRIDE).min(bytes.len());
            isa::fetch(&bytes[from..to]);
            self.fetched += Early::STRIDE;
        }
    }
}
