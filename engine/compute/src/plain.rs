//! The oracle: interprets a program operation by operation in f32, scalar, on one thread. Never optimised.
//!
//! Everything that another backend computes cleverly is written here the obvious way, to be read and compared with.
//! Weights are decoded row by row with the format's definition; the KV cache is f32; softmax takes two passes.

use crate::backend::{Backend, Batch, Counters, Interest, Output, Runner, Tap, Want};
use crate::error::{Error, Result};
use crate::program::{Act, BufferId, KV_BLOCK, NormKind, Op, Program, RopeLayout, RopeTable, WeightId};

/// The backend.
pub struct Plain;

impl Backend for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn prepare(&self, program: &Program, interest: &Interest) -> Result<Box<dyn Runner>> {
        program.validate()?;
        Ok(Box::new(PlainRunner {
            program: program.clone(),
            interest: interest.clone(),
            blocks: Vec::new(),
            counters: Counters::default(),
        }))
    }
}

struct PlainRunner {
    program: Program,
    interest: Interest,
    /// `blocks[block][layer]`: K then V, each `[64, kv_heads * head_dim]`.
    blocks: Vec<Vec<[Vec<f32>; 2]>>,
    counters: Counters,
}

/// `[rows, width]` for each buffer of the program.
type Buffers = Vec<Vec<Vec<f32>>>;

impl Runner for PlainRunner {
    fn step(&mut self, batch: &Batch<'_>, out: &mut Output, tap: &mut dyn Tap) -> Result<()> {
        batch.validate(&self.program, self.blocks.len())?;
        let mut bufs: Buffers = self.program.buffers.iter().map(|&w| vec![vec![0.0; w]; batch.rows.len()]).collect();
        out.rows.resize_with(batch.rows.len(), Default::default);
        for index in 0..self.program.steps.len() {
            let step = self.program.steps[index].clone();
            self.execute(&step.op, batch, &mut bufs, out);
            if self.interest.covers(step.tag)
                && let Some(b) = self.program.output_of(&step.op)
            {
                let values: Vec<f32> = bufs[b.0 as usize].concat();
                tap.observe(index, step.tag, batch.rows.len(), &values);
            }
        }
        self.counters.steps += 1;
        self.counters.rows += batch.rows.len() as u64;
        Ok(())
    }

    fn reserve_blocks(&mut self, count: usize) -> Result<()> {
        while self.blocks.len() < count {
            let layers = self.program.kv.iter().map(|kv| {
                let n = KV_BLOCK * kv.heads * kv.head_dim;
                [vec![0.0; n], vec![0.0; n]]
            });
            self.blocks.push(layers.collect());
        }
        let numbers = self.program.kv.iter().map(|kv| 2 * KV_BLOCK * kv.heads * kv.head_dim).sum::<usize>();
        self.counters.kv_blocks = self.blocks.len() as u64;
        self.counters.kv_bytes = self.counters.kv_blocks * 4 * numbers as u64;
        Ok(())
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        for &(from, to) in pairs {
            let (from, to) = (from as usize, to as usize);
            if from >= self.blocks.len() || to >= self.blocks.len() {
                return Err(Error::Invalid(format!("K/V block {from} or {to} of {}", self.blocks.len())));
            }
            self.blocks[to] = self.blocks[from].clone();
        }
        Ok(())
    }

    fn describe(&self) -> String {
        "plain (scalar f32 oracle, 1 thread)".into()
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl PlainRunner {
    fn execute(&mut self, op: &Op, batch: &Batch<'_>, bufs: &mut Buffers, out: &mut Output) {
        let rows = batch.rows.len();
        let id = |b: BufferId| b.0 as usize;
        match op {
            Op::Embed { table, dst, scale } => {
                for (r, row) in batch.rows.iter().enumerate() {
                    let x = self.weight_row(*table, row.token as usize);
                    bufs[id(*dst)][r] = x.iter().map(|x| x * scale).collect();
                }
            }
            Op::Norm { kind, src, dst, weight, bias, offset, eps, per_head } => {
                let weight = weight.map(|w| self.program.w(w).to_f32());
                let bias = bias.map(|w| self.program.w(w).to_f32());
                for r in 0..rows {
                    let mut x = bufs[id(*src)][r].clone();
                    let n = per_head.unwrap_or(x.len());
                    for x in x.chunks_exact_mut(n) {
                        norm(*kind, x, weight.as_deref(), bias.as_deref(), *offset, *eps);
                    }
                    bufs[id(*dst)][r] = x;
                }
            }
            Op::MatMul { src, weight, bias, dst } => {
                let bias = bias.map(|b| self.program.w(b).to_f32());
                for o in 0..self.program.w(*weight).rows {
                    let w = self.weight_row(*weight, o);
                    for r in 0..rows {
                        bufs[id(*dst)][r][o] = dot(&w, &bufs[id(*src)][r]) + bias.as_ref().map_or(0.0, |b| b[o]);
                    }
                }
                self.counters.weight_passes += 1;
            }
            Op::Rope { buf, head_dim, layout, table, .. } => {
                for (r, row) in batch.rows.iter().enumerate() {
                    for head in bufs[id(*buf)][r].chunks_exact_mut(*head_dim) {
                        rope(head, row.position, *layout, table);
                    }
                }
            }
            Op::Attend { q, k, v, dst, .. } => {
                self.append(op, batch, &bufs[id(*k)], &bufs[id(*v)]);
                for r in 0..rows {
                    bufs[id(*dst)][r] = self.attend(op, batch, r, &bufs[id(*q)][r]);
                }
            }
            Op::Gate { gate, up, dst, act } => {
                for r in 0..rows {
                    let (g, u) = (&bufs[id(*gate)][r], &bufs[id(*up)][r]);
                    bufs[id(*dst)][r] = g.iter().zip(u).map(|(&g, &u)| activate(*act, g) * u).collect();
                }
            }
            Op::Add { src, dst } => {
                for r in 0..rows {
                    let src = bufs[id(*src)][r].clone();
                    bufs[id(*dst)][r].iter_mut().zip(src).for_each(|(d, s)| *d += s);
                }
            }
            Op::Logits { src, weight, scale } => {
                for (r, row) in batch.rows.iter().enumerate() {
                    let hidden = &bufs[id(*src)][r];
                    match row.want {
                        Want::Nothing => out.rows[r].clear(),
                        Want::Hidden => {
                            out.rows[r].clear();
                            out.rows[r].finite = hidden.iter().all(|x| x.is_finite());
                            out.rows[r].values.extend_from_slice(hidden);
                        }
                        want => {
                            let n = self.program.w(*weight).rows;
                            let logits: Vec<f32> =
                                (0..n).map(|o| dot(&self.weight_row(*weight, o), hidden) * scale).collect();
                            out.rows[r].fill(&logits, want);
                        }
                    }
                }
            }
        }
    }

    fn weight_row(&self, id: WeightId, row: usize) -> Vec<f32> {
        let w = self.program.w(id);
        let mut out = vec![0.0; w.cols];
        let bytes = w.bytes.len() / w.rows;
        w.format.decode_row(&w.bytes[row * bytes..(row + 1) * bytes], &mut out);
        out
    }

    fn append(&mut self, op: &Op, batch: &Batch<'_>, k: &[Vec<f32>], v: &[Vec<f32>]) {
        let Op::Attend { layer, .. } = op else { return };
        for (r, row) in batch.rows.iter().enumerate() {
            let (block, slot) = batch.place(row);
            for (which, x) in [&k[r], &v[r]].into_iter().enumerate() {
                let store = &mut self.blocks[block as usize][*layer][which];
                store[slot * x.len()..(slot + 1) * x.len()].copy_from_slice(x);
            }
        }
    }

    /// All heads of one row: `[heads * head_dim]`.
    fn attend(&self, op: &Op, batch: &Batch<'_>, r: usize, q: &[f32]) -> Vec<f32> {
        let Op::Attend { layer, heads, scale, softcap, .. } = op else { return Vec::new() };
        let kv = self.program.kv[*layer];
        let (from, to) = batch.visible(op, r);
        let table = batch.tables[batch.rows[r].sequence];
        let mut out = vec![0.0; q.len()];
        for head in 0..*heads {
            let kv_head = head / (heads / kv.heads);
            let q = &q[head * kv.head_dim..(head + 1) * kv.head_dim];
            let at = |which: usize, position: usize| {
                let block = &self.blocks[table[position / KV_BLOCK] as usize][*layer][which];
                let start = (position % KV_BLOCK * kv.heads + kv_head) * kv.head_dim;
                &block[start..start + kv.head_dim]
            };
            let mut p: Vec<f32> = (from..to).map(|j| dot(q, at(0, j)) * scale).collect();
            if let Some(cap) = softcap {
                p.iter_mut().for_each(|s| *s = cap * (*s / cap).tanh());
            }
            softmax(&mut p);
            for (j, p) in (from..to).zip(p) {
                let o = &mut out[head * kv.head_dim..(head + 1) * kv.head_dim];
                o.iter_mut().zip(at(1, j)).for_each(|(o, v)| *o += p * v);
            }
        }
        out
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `exp(x - max) / sum`, in place.
pub fn softmax(x: &mut [f32]) {
    let max = x.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    let mut sum = 0.0;
    for v in x.iter_mut() {
        *v = (*v - max).exp();
        sum += *v;
    }
    for v in x.iter_mut() {
        *v /= sum;
    }
}

fn norm(kind: NormKind, x: &mut [f32], weight: Option<&[f32]>, bias: Option<&[f32]>, offset: f32, eps: f32) {
    let n = x.len() as f64;
    if kind == NormKind::Layer {
        let mean = (x.iter().map(|&v| f64::from(v)).sum::<f64>() / n) as f32;
        x.iter_mut().for_each(|v| *v -= mean);
    }
    let square = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / n;
    let scale = (1.0 / (square + f64::from(eps)).sqrt()) as f32;
    for (i, v) in x.iter_mut().enumerate() {
        *v = *v * scale * weight.map_or(1.0, |w| w[i] + offset) + bias.map_or(0.0, |b| b[i]);
    }
}

fn activate(act: Act, x: f32) -> f32 {
    match act {
        Act::Silu => x / (1.0 + (-x).exp()),
        Act::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
    }
}

/// Turns one head in place.
fn rope(head: &mut [f32], position: u32, layout: RopeLayout, table: &RopeTable) {
    let n = table.inv_freq.len();
    for (i, &freq) in table.inv_freq.iter().enumerate() {
        let (cos, sin) = table.turn(position, freq);
        let (a, b) = match layout {
            RopeLayout::Split => (i, i + n),
            RopeLayout::Interleaved => (2 * i, 2 * i + 1),
        };
        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
    }
}
