//! A program on a device: weights, buffers, KV cache, and the steps.

mod attend;
mod product;

use std::collections::HashMap;
use std::sync::Arc;

use attend::query_tiles;
use product::Input;

use super::Cuda;
use super::driver::{Device, Graph, Kernel, Memory, Pinned};
use super::kernels::{self as k, Argument, Kernels, SHARED, Stats};
use super::plan::{Elementwise, Node, Plan, Work};
use super::storage::{PANEL, Room, STEP, Splits, Weights, stats_pieces, upload};
use crate::backend::{Batch, Counters, Interest, Output, RowOutput, Runner, Tap, Want, top_k};
use crate::error::{Error, Result};
use crate::program::{KV_BLOCK, Op, Program, RopeTable, WeightId};

/// Elements of a head that `attend_rows` has threads for.
const HEAD_DIM_MAX: usize = 256;
/// Blocks of the KV cache that are allocated together, and the most there can be.
const SLAB_BLOCKS: usize = 8;
const BLOCKS_MAX: usize = 1 << 16;
/// Larger batches run long enough to hide their launches.
const GRAPH_ROWS_MAX: usize = 64;
/// Rows whose buffers are there at once: a longer batch runs in parts, which costs time and saves memory. As many of these
/// as take a twentieth of what the weights do.
const ROWS_AT_ONCE: std::ops::RangeInclusive<usize> = 256..=512;
const ROWS_SHARE: usize = 20;
/// Graphs that are kept.
const GRAPHS_MAX: usize = 32;

pub(super) struct CudaRunner {
    // Graphs hold addresses of everything below: they go first.
    graphs: HashMap<(usize, usize, usize), Graph>,
    device: Arc<Device>,
    kernels: Arc<Kernels>,
    name: String,
    program: Program,
    plan: Plan,
    weights: Weights,
    room: Option<Room>,
    /// Rows of a part of a long batch. None where it may not run in parts: rows see later ones, or somebody looks at whole
    /// batches.
    rows_at_once: Option<usize>,
    splits: Option<Splits>,
    /// Blocks of threads of one head in this step.
    split: usize,
    /// For each rope table: cos and sin of the positions so far.
    turns: Vec<Memory>,
    positions: usize,
    slabs: Vec<Memory>,
    /// Addresses of the blocks.
    blocks: Vec<u64>,
    /// Blocks that may be used; more are there, since slabs hold several.
    reserved: usize,
    block_bytes: usize,
    /// Where each layer begins in a block, in halves.
    layer_at: Vec<usize>,
    inputs: Memory,
    staging: Pinned,
    wanted: Vec<usize>,
    /// Rows of this step that attend together; none in a step of few.
    tiles: Vec<k::QueryTile>,
    /// Entries of all block tables of this step.
    table_entries: usize,
    counters: Counters,
}

/// Address of memory, 0 for none.
fn at(m: &Memory) -> u64 {
    m.address()
}

impl CudaRunner {
    pub fn new(cuda: &Cuda, program: &Program, interest: &Interest) -> Result<CudaRunner> {
        let device = cuda.device.clone();
        let plan = Plan::new(program, interest);
        for node in &plan.nodes {
            possible(&node.work, program)?;
        }
        let in_parts = plan.visible.iter().all(|op| matches!(op, Op::Attend { causal: true, .. }))
            && plan.nodes.iter().all(|n| n.taps.is_empty());
        let mut layer_at = Vec::new();
        let mut halves = 0;
        for kv in &program.kv {
            layer_at.push(halves);
            halves += 2 * kv.heads * kv.head_dim * KV_BLOCK;
        }
        if let Some(w) = program.weights.iter().find(|w| !is_known(w.format.0.ggml_type)) {
            return Err(Error::Unsupported(format!("{} of {}", w.format, w.name)));
        }
        let weights = upload(&device, program)?;
        let counters = Counters { weight_bytes: weights.memory.bytes() as u64, ..Counters::default() };
        let rows_at_once = in_parts.then(|| rows_at_once(weights.memory.bytes(), Room::row_bytes(program, &plan)));
        Ok(CudaRunner {
            graphs: HashMap::new(),
            kernels: cuda.kernels.clone(),
            name: cuda.describe(),
            turns: plan.ropes.iter().map(|_| device.zeroed(0, "rotations")).collect::<Result<_>>()?,
            positions: 0,
            program: program.clone(),
            plan,
            weights,
            room: None,
            rows_at_once,
            splits: None,
            split: 1,
            slabs: Vec::new(),
            blocks: Vec::new(),
            reserved: 0,
            block_bytes: 2 * halves,
            layer_at,
            inputs: device.zeroed(0, "inputs of a step")?,
            staging: Pinned::new(&device, 0)?,
            wanted: Vec::new(),
            tiles: Vec::new(),
            table_entries: 0,
            counters,
            device,
        })
    }
}

/// What the kernels cannot do is refused before anything is uploaded.
fn possible(work: &Work, program: &Program) -> Result<()> {
    match work {
        Work::Norm { over, .. } if 4 * over > SHARED as usize => {
            Err(Error::Unsupported(format!("a norm over {over} elements")))
        }
        Work::Attend { op: Op::Attend { layer, .. }, .. }
            if program.kv[*layer].head_dim > HEAD_DIM_MAX || program.kv[*layer].head_dim % 2 == 1 =>
        {
            Err(Error::Unsupported(format!("heads of {} elements", program.kv[*layer].head_dim)))
        }
        _ => Ok(()),
    }
}

impl Runner for CudaRunner {
    fn step(&mut self, batch: &Batch<'_>, out: &mut Output, tap: &mut dyn Tap) -> Result<()> {
        batch.validate(&self.program, self.reserved)?;
        self.device.enter()?;
        match self.rows_at_once {
            Some(most) if batch.rows.len() > most => self.parts(batch, most, out, tap)?,
            _ => self.part(batch, out, tap)?,
        }
        self.counters.steps += 1;
        Ok(())
    }

    fn reserve_blocks(&mut self, count: usize) -> Result<()> {
        if count > BLOCKS_MAX {
            return Err(Error::Unsupported(format!("{count} K/V blocks, {BLOCKS_MAX} are possible")));
        }
        self.reserved = self.reserved.max(count.min(self.blocks.len()));
        if count <= self.blocks.len() {
            return Ok(());
        }
        self.device.enter()?;
        let more = (count - self.blocks.len()).next_multiple_of(SLAB_BLOCKS).min(BLOCKS_MAX - self.blocks.len());
        //= F-GPU-129
        let slab = self.device.zeroed(more * self.block_bytes, "the KV cache")?;
        self.blocks.extend((0..more).map(|i| slab.address() + (i * self.block_bytes) as u64));
        self.slabs.push(slab);
        self.reserved = count;
        self.counters.kv_blocks = self.blocks.len() as u64;
        self.counters.kv_bytes = (self.blocks.len() * self.block_bytes) as u64;
        Ok(())
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        self.device.enter()?;
        for &(from, to) in pairs {
            if from as usize >= self.reserved || to as usize >= self.reserved {
                return Err(Error::Invalid(format!("K/V block {from} or {to} of {}", self.reserved)));
            }
            if from != to {
                let ((a, a_at), (b, b_at)) = (self.slab_of(from), self.slab_of(to));
                a.copy_range(a_at, b, b_at, self.block_bytes)?;
            }
        }
        self.device.wait()
    }

    fn describe(&self) -> String {
        self.name.clone()
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl CudaRunner {
    /// Runs a batch that has room.
    fn part(&mut self, batch: &Batch<'_>, out: &mut Output, tap: &mut dyn Tap) -> Result<()> {
        let rows = batch.rows.len();
        self.wanted.clear();
        self.wanted.extend((0..rows).filter(|&r| !matches!(batch.rows[r].want, Want::Nothing | Want::Hidden)));
        self.tiles.clear();
        self.table_entries = table_entries(batch);
        if rows > GRAPH_ROWS_MAX {
            self.tiles.extend(query_tiles(batch.rows));
        }
        self.make_room(batch)?;
        let uploaded = self.write_inputs(batch)?;
        let (wanted, taps) = (self.wanted.len(), self.plan.nodes.iter().any(|n| !n.taps.is_empty()));
        if taps || rows > GRAPH_ROWS_MAX {
            for (i, node) in self.plan.nodes.iter().enumerate() {
                self.issue(i, rows)?;
                for t in &node.taps {
                    let values = self.buffer_values(t.buffer, 0, rows)?;
                    tap.observe(t.index, t.tag, rows, &values);
                }
            }
        } else {
            let key = (rows, wanted, self.split);
            if !self.graphs.contains_key(&key) {
                if self.graphs.len() == GRAPHS_MAX {
                    self.graphs.clear();
                }
                let graph = self.device.record(|| (0..self.plan.nodes.len()).try_for_each(|i| self.issue(i, rows)))?;
                self.graphs.insert(key, graph);
            }
            //= F-GPU-120 F-GPU-121 F-GPU-122 F-GPU-123 F-GPU-124 F-CRIT-003
            // SAFETY: what was recorded uses weights, buffers, tables and cache of this runner, which live; whoever
            // replaces one of them clears the graphs first.
            unsafe { self.graphs[&key].launch()? };
        }
        let downloaded = self.finish(batch, out)?;
        self.counters.rows += rows as u64;
        self.counters.kernels += self.plan.nodes.iter().filter(|n| rows > 1 || !n.joined).count() as u64;
        self.counters.copied_bytes += (uploaded + downloaded) as u64;
        self.counters.weight_passes += self.passes(rows, wanted);
        Ok(())
    }

    /// Runs a long batch in parts of about the same length.
    //= F-GPU-125
    fn parts(&mut self, batch: &Batch<'_>, most: usize, out: &mut Output, tap: &mut dyn Tap) -> Result<()> {
        let mut rows = Vec::with_capacity(batch.rows.len());
        let each = batch.rows.len().div_ceil(batch.rows.len().div_ceil(most));
        for part in batch.rows.chunks(each) {
            self.part(&Batch { rows: part, tables: batch.tables }, out, tap)?;
            rows.append(&mut out.rows);
        }
        out.rows = rows;
        Ok(())
    }

    /// The slab that holds a block, and where.
    fn slab_of(&self, block: u32) -> (&Memory, usize) {
        let address = self.blocks[block as usize];
        let inside = |s: &&Memory| (s.address()..s.address() + s.bytes() as u64).contains(&address);
        let slab = self.slabs.iter().find(inside).expect("invariant: every block is in a slab");
        (slab, (address - slab.address()) as usize)
    }

    /// Grows whatever is too small for this batch.
    fn make_room(&mut self, batch: &Batch<'_>) -> Result<()> {
        let (rows, wanted) = (batch.rows.len(), self.wanted.len());
        let fits = self.room.as_ref().is_some_and(|r| r.rows >= rows && r.wanted >= wanted);
        if !fits {
            let before = self.room.as_ref().map_or((0, 0), |r| (r.rows, r.wanted));
            self.graphs.clear();
            self.room = None;
            let (rows, wanted) = (rows.max(before.0).next_multiple_of(PANEL), wanted.max(before.1).max(1));
            self.room = Some(Room::new(&self.device, &self.program, &self.plan, rows, wanted)?);
        }
        let positions = batch.rows.iter().map(|r| r.position as usize + 1).max().unwrap_or(0);
        if positions > self.positions {
            let count = positions.max(2 * self.positions).max(1024);
            self.graphs.clear();
            for (memory, table) in self.turns.iter_mut().zip(&self.plan.ropes) {
                *memory = self.device.uploaded(&turns(table, count), "rotations")?;
            }
            self.positions = count;
        }
        self.make_splits(batch)?;
        let bytes = input_bytes(batch, self.plan.visible.len(), wanted, self.tiles.len());
        if bytes > self.staging.bytes() {
            self.graphs.clear();
            self.inputs = self.device.zeroed(2 * bytes, "inputs of a step")?;
            self.staging = Pinned::new(&self.device, 2 * bytes)?;
        }
        Ok(())
    }

    /// Rows, visible ranges, rows that want logits, block tables: in this order, so that a graph finds them again. Then tiles.
    fn write_inputs(&mut self, batch: &Batch<'_>) -> Result<usize> {
        let mut words: Vec<u32> = Vec::new();
        let starts: Vec<u32> = batch
            .tables
            .iter()
            .scan(0, |next, table| {
                let start = *next;
                *next += table.len() as u32;
                Some(start)
            })
            .collect();
        for row in batch.rows {
            words.extend([row.token, row.position, starts[row.sequence], 0]);
        }
        for op in &self.plan.visible {
            for r in 0..batch.rows.len() {
                let (from, to) = batch.visible(op, r);
                words.extend([from as u32, to as u32]);
            }
        }
        words.extend(self.wanted.iter().map(|&r| r as u32));
        words.resize(words.len().next_multiple_of(2), 0);
        for &block in batch.tables.iter().copied().flatten() {
            let address = self.blocks[block as usize];
            words.extend([address as u32, (address >> 32) as u32]);
        }
        words.extend(self.tiles.iter().flat_map(|t| [t.first, t.count]));
        let bytes = 4 * words.len();
        for (to, word) in self.staging.bytes_mut().chunks_exact_mut(4).zip(&words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        self.inputs.write_pinned(&self.staging, bytes)?;
        Ok(bytes)
    }

    /// Where [`CudaRunner::write_inputs`] puts things.
    fn input_places(&self, rows: usize) -> k::Inputs {
        let visible = at(&self.inputs) + 16 * rows as u64;
        let wanted = visible + (8 * rows * self.plan.visible.len()) as u64;
        k::Inputs {
            rows: at(&self.inputs),
            visible,
            wanted,
            tables: wanted + 4 * self.wanted.len().next_multiple_of(2) as u64,
        }
    }

    fn room(&self) -> &Room {
        self.room.as_ref().expect("invariant: a step makes room first")
    }

    fn buf(&self, id: usize) -> u64 {
        at(&self.room().buffers[id])
    }

    /// The quantised form of a buffer, if somebody is to write or read it.
    fn acts(&self, id: usize, wanted: bool) -> k::Acts {
        match &self.room().acts[id] {
            Some(acts) if wanted => quantised(acts, self.program.buffers[id]),
            _ => k::Acts::default(),
        }
    }

    fn launch(
        &self,
        kernel: &Kernel,
        grid: [usize; 2],
        block: usize,
        shared: usize,
        arguments: &[&[u8]],
    ) -> Result<()> {
        if grid[0] * grid[1] == 0 {
            return Ok(());
        }
        // SAFETY: `issue`, the only caller, passes each kernel the arguments of its name (their sizes are asserted in
        // `kernels`); addresses are of this runner's memory, sized by `Room::new`, `upload`, `make_room` and
        // `reserve_blocks` from the shapes that `Program::validate` and `Batch::validate` have checked.
        unsafe { self.device.launch(kernel, grid.map(|n| n as u32), block as u32, shared as u32, arguments) }
    }

    /// Asks the stream for one node.
    fn issue(&self, index: usize, rows: usize) -> Result<()> {
        let node = &self.plan.nodes[index];
        if node.joined && rows == 1 {
            return Ok(());
        }
        let inputs = self.input_places(rows);
        let ks = &*self.kernels;
        let width = |id: usize| self.program.buffers[id];
        let vector = |id: &Option<WeightId>| id.and_then(|w| self.weights.vectors[w.0 as usize]).unwrap_or(0);
        match &node.work {
            Work::Embed { table, dst, scale } => {
                let (kind, w) = (self.program.w(*table).format.0.ggml_type as i32, width(*dst));
                let (table, dst) = (self.matrix(*table), self.buf(*dst));
                let p = k::Embed { table, dst, kind, width: w as i32, scale: *scale, unused: 0 };
                self.launch(&ks.embed_rows, [rows, w.div_ceil(256)], 256, 0, &[p.bytes(), inputs.bytes()])
            }
            Work::Norm { add, src, dst, weight, bias, layer, eps, over, quantise } => {
                let p = k::Norm {
                    add: add.map_or(0, |b| self.buf(b)),
                    src: self.buf(*src),
                    dst: self.buf(*dst),
                    weight: vector(weight),
                    bias: vector(bias),
                    width: width(*src) as i32,
                    over: *over as i32,
                    layer: i32::from(*layer),
                    eps: *eps,
                    acts: self.acts(*dst, *quantise),
                };
                let block = over.next_multiple_of(32).min(512);
                self.launch(&ks.norm_rows, [rows, width(*src) / over], block, 4 * over, &[p.bytes()])
            }
            Work::Map { op, src, other, dst, quantise } => {
                let p = k::Map {
                    src: self.buf(*src),
                    other: self.buf(*other),
                    dst: dst.map_or(0, |b| self.buf(b)),
                    width: width(*src) as i32,
                    op: *op as i32,
                    gather: 0,
                    scale: 1.0,
                    acts: self.acts(dst.unwrap_or(*src), *quantise),
                };
                self.launch(&ks.map_rows, [rows, width(*src).div_ceil(256)], 256, 0, &[p.bytes(), inputs.bytes()])
            }
            Work::Rope(turn) => {
                let (turns_q, pairs_q, interleaved_q) = self.turn(Some(turn));
                let (heads, head_dim) = (turn.heads as i32, turn.head_dim as i32);
                let q = self.buf(turn.buf);
                let p = k::Rope { q, turns_q, heads, head_dim, pairs_q, interleaved_q, ..k::Rope::default() };
                self.launch(&ks.rope_rows, [rows, turn.heads], 64, 0, &[p.bytes(), inputs.bytes()])
            }
            Work::Attend { op, q, k, visible, quantise, whole } => {
                let whole = *whole && rows == 1;
                self.attend(op, [q.as_ref(), k.as_ref()], *visible, *quantise, rows, &inputs, whole)
            }
            Work::Product { src, packed, parts, norm, gate } => {
                let list = parts.iter().map(|p| {
                    let part = k::Part { bias: vector(&p.bias), out: self.buf(p.dst), ..k::Part::default() };
                    (p.weight, k::Part { add: p.add.map_or(0, |b| self.buf(b)), ..part })
                });
                let before = match &self.plan.nodes[index.saturating_sub(1)].work {
                    Work::Norm { src, weight, eps, .. } if *norm => {
                        k::Before { x: self.buf(*src), weight: vector(weight), eps: *eps, unused: 0 }
                    }
                    _ => k::Before::default(),
                };
                let after = match self.plan.nodes.get(index + 1).map(|n| &n.work) {
                    Some(Work::Map { op, dst: Some(dst), .. }) if *gate => {
                        Some(k::After { dst: self.buf(*dst), acts: self.acts(*dst, true), op: *op as i32, unused: 0 })
                    }
                    _ => None,
                };
                let input = Input { acts: self.acts(*src, true), x: self.buf(*src), packed: *packed, columns: rows };
                self.product(list, &input, before, after)
            }
            Work::Logits { src, weight, scale } => self.logits(*src, *weight, *scale, &inputs),
        }
    }

    fn matrix(&self, id: WeightId) -> u64 {
        self.weights.matrices[id.0 as usize].expect("invariant: every matrix was uploaded")
    }

    fn logits(&self, src: usize, weight: WeightId, scale: f32, inputs: &k::Inputs) -> Result<()> {
        let (room, wanted, ks) = (self.room(), self.wanted.len(), &*self.kernels);
        let (hidden, vocab) = (self.program.buffers[src], self.program.w(weight).rows);
        let acts = room.head_acts.as_ref().map_or(k::Acts::default(), |a| quantised(a, hidden));
        let gather = k::Map {
            src: self.buf(src),
            other: 0,
            dst: at(&room.head),
            width: hidden as i32,
            op: Elementwise::Copy as i32,
            gather: 1,
            scale: 1.0,
            acts,
        };
        self.launch(&ks.map_rows, [wanted, hidden.div_ceil(256)], 256, 0, &[gather.bytes(), inputs.bytes()])?;
        let list = [(weight, k::Part { out: at(&room.logits), ..k::Part::default() })].into_iter();
        let input = Input { acts, x: at(&room.head), packed: room.head_acts.is_some(), columns: wanted };
        self.product(list, &input, k::Before::default(), None)?;
        if scale != 1.0 {
            let (src, width, op) = (at(&room.logits), vocab as i32, Elementwise::Scale as i32);
            let p = k::Map { src, dst: src, width, op, scale, ..k::Map::default() };
            self.launch(&ks.map_rows, [wanted, vocab.div_ceil(256)], 256, 0, &[p.bytes(), inputs.bytes()])?;
        }
        let pieces = stats_pieces(vocab);
        let (logits, part, all) = (at(&room.logits), at(&room.pieces), room.stats.address());
        let arguments = [logits.bytes(), part.bytes(), &(vocab as i32).to_le_bytes()];
        self.launch(&ks.stats, [wanted, pieces], 256, 0, &arguments)?;
        let arguments = [part.bytes(), all.bytes(), &(pieces as i32).to_le_bytes()];
        self.launch(&ks.stats_merge, [wanted, 1], 128, 0, &arguments)
    }

    /// Rows `from .. from + count` of a buffer.
    fn buffer_values(&self, buffer: usize, from: usize, count: usize) -> Result<Vec<f32>> {
        let width = self.program.buffers[buffer];
        floats(&self.room().buffers[buffer], from * width, count * width)
    }

    /// Waits, and fills the caller's output. Returns the bytes that came back.
    fn finish(&self, batch: &Batch<'_>, out: &mut Output) -> Result<usize> {
        self.device.wait()?;
        out.rows.resize_with(batch.rows.len(), RowOutput::default);
        let Some(Node { work: Work::Logits { src, weight, .. }, .. }) = self.plan.nodes.last() else {
            return Ok(0);
        };
        let (room, vocab) = (self.room(), self.program.w(*weight).rows);
        let bytes = &room.stats.as_bytes()[..size_of::<Stats>() * self.wanted.len()];
        let mut copied = bytes.len();
        let mut stats = bytes.chunks_exact(size_of::<Stats>()).enumerate();
        for (r, row) in batch.rows.iter().enumerate() {
            let o = &mut out.rows[r];
            o.clear();
            match row.want {
                Want::Nothing => {}
                Want::Hidden => {
                    o.values = self.buffer_values(*src, r, 1)?;
                    o.finite = o.values.iter().all(|x| x.is_finite());
                    copied += 4 * o.values.len();
                }
                want => {
                    let Some((i, s)) = stats.next() else { continue };
                    let word = |i: usize| u32::from_le_bytes([s[i], s[i + 1], s[i + 2], s[i + 3]]);
                    o.max = f32::from_bits(word(0));
                    o.argmax = word(4);
                    o.log_sum_exp = o.max + f32::from_bits(word(8)).ln();
                    o.finite = word(12) != 0;
                    if !matches!(want, Want::Argmax) {
                        let values = floats(&room.logits, i * vocab, vocab)?;
                        copied += 4 * vocab;
                        match want {
                            Want::TopK(n) => o.top = top_k(&values, n),
                            _ => o.values = values,
                        }
                    }
                }
            }
        }
        Ok(copied)
    }

    /// How often some matrix is read from end to end in a step.
    fn passes(&self, rows: usize, wanted: usize) -> u64 {
        let each = |columns: usize| columns.div_ceil(4 * PANEL);
        let of = |n: &Node| match &n.work {
            Work::Product { parts, .. } => parts.len() * each(rows),
            Work::Logits { .. } => each(wanted),
            _ => 0,
        };
        self.plan.nodes.iter().map(of).sum::<usize>() as u64
    }
}

/// How many rows have buffers at once, where a row's take so many bytes.
fn rows_at_once(weights: usize, row: usize) -> usize {
    (weights / ROWS_SHARE / row.max(1)).clamp(*ROWS_AT_ONCE.start(), *ROWS_AT_ONCE.end())
}

fn quantised([quants, meta]: &[Memory; 2], width: usize) -> k::Acts {
    k::Acts { quants: at(quants), meta: at(meta), steps: (width / STEP) as i32, unused: 0 }
}

fn floats(memory: &Memory, from: usize, count: usize) -> Result<Vec<f32>> {
    let mut bytes = vec![0; 4 * count];
    memory.read(4 * from, &mut bytes)?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn input_bytes(batch: &Batch<'_>, sets: usize, wanted: usize, tiles: usize) -> usize {
    4 * (batch.rows.len() * (4 + 2 * sets) + wanted.next_multiple_of(2) + 2 * table_entries(batch) + 2 * tiles)
}

fn table_entries(batch: &Batch<'_>) -> usize {
    batch.tables.iter().map(|t| t.len()).sum()
}

/// Cos and sin of each pair at positions `0..count`.
fn turns(table: &RopeTable, count: usize) -> Vec<u8> {
    use rayon::prelude::*;
    (0..count as u32)
        .into_par_iter()
        .flat_map_iter(|position| {
            let of = move |f: &f32| <[f32; 2]>::from(table.turn(position, *f));
            table.inv_freq.iter().flat_map(of).flat_map(f32::to_le_bytes)
        })
        .collect()
}

/// Whether the kernels read this format: F32, F16, BF16, and what `kernels/formats.cuh` has.
fn is_known(kind: u32) -> bool {
    matches!(kind, 0 | 1 | 30 | 2 | 3 | 6 | 7 | 8 | 10..=14 | 20 | 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest of models, 1.5B in Q4_K_M, and 7B.
    #[test]
    fn buffers_are_small_beside_weights() {
        let seen =
            [(4 << 20, 8 << 10), (996 << 20, 122_496), (4400 << 20, 280_000)].map(|(w, row)| rows_at_once(w, row));
        assert_eq!(seen, [256, 426, 512]);
    }

    #[test]
    fn every_format_is_known() {
        assert!(crate::quant::ALL.iter().all(|spec| is_known(spec.ggml_type)));
    }
}
