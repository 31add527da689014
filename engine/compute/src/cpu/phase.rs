//! The plan of a program on the CPU: phases, each begun when the one before is done, and the row-by-row operations.

use super::rows::{Gate, Norm};
use super::{Shared, acts, attend};
use crate::backend::{Batch, Interest};
use crate::program::{Act, BufferId, NormKind, Op, Program, RopeLayout, RopeTable, Tag, WeightId};

/// Something all workers do together. The next one begins when all of it is done.
pub(super) struct Phase {
    pub work: Work,
    /// What a tap is shown afterwards.
    pub taps: Vec<Tapped>,
}

/// An operation that a tap wants to see.
pub(super) struct Tapped {
    pub index: usize,
    pub tag: Tag,
    pub buffer: usize,
}

/// The work of a phase.
pub(super) enum Work {
    /// Rows are shared out; each goes through all of these.
    Rows(Vec<RowOp>),
    /// Products over one input; tiles are shared out.
    Product { src: usize, parts: Vec<Part> },
    /// Attention; (rows, K/V head) pairs are shared out.
    Attend { op: Op, layer: usize },
    /// The rows that want logits, gathered for the product with `weight`.
    Gather { src: usize, weight: WeightId },
    /// The LM head over the gathered rows; tiles are shared out.
    Logits { weight: WeightId },
    /// Logits times a number.
    Scale { by: f32 },
}

/// One product of a [`Work::Product`].
pub(super) struct Part {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    pub dst: usize,
}

/// An operation on one row. Buffers by index.
pub(super) enum RowOp {
    Embed {
        table: WeightId,
        dst: usize,
        scale: f32,
    },
    Norm {
        kind: NormKind,
        src: usize,
        dst: usize,
        weight: Option<WeightId>,
        bias: Option<WeightId>,
        eps: f32,
        over: usize,
    },
    Rope {
        buf: usize,
        head_dim: usize,
        layout: RopeLayout,
        table: usize,
    },
    Append {
        layer: usize,
        k: usize,
        v: usize,
    },
    Gate {
        gate: usize,
        up: usize,
        dst: usize,
        act: Act,
    },
    Add {
        src: usize,
        dst: usize,
    },
    Quantise {
        buf: usize,
    },
}

/// Groups a program's steps into phases.
pub(super) fn plan(
    program: &Program,
    interest: &Interest,
    ropes: &[RopeTable],
    packed: impl Fn(WeightId) -> bool,
) -> Vec<Phase> {
    let mut phases: Vec<Phase> = Vec::new();
    let mut rows: Vec<RowOp> = Vec::new();
    let flush = |rows: &mut Vec<RowOp>, phases: &mut Vec<Phase>| {
        if !rows.is_empty() {
            phases.push(Phase { work: Work::Rows(std::mem::take(rows)), taps: Vec::new() });
        }
    };
    let id = |b: BufferId| b.0 as usize;
    for (index, step) in program.steps.iter().enumerate() {
        match &step.op {
            Op::MatMul { src, weight, bias, dst } => {
                let part = Part { weight: *weight, bias: *bias, dst: id(*dst) };
                let joins = rows.is_empty()
                    && phases.last().is_some_and(|p| {
                        let no_taps = p.taps.is_empty();
                        matches!(&p.work, Work::Product { src: s, parts } if no_taps && *s == id(*src)
                            // A part must not overwrite the input of its neighbours, nor need what one of them quantised.
                            && parts.iter().all(|q| q.dst != id(*src) && packed(q.weight) == packed(*weight)))
                    });
                if joins {
                    if let Some(Phase { work: Work::Product { parts, .. }, .. }) = phases.last_mut() {
                        parts.push(part);
                    }
                } else {
                    if packed(*weight) {
                        rows.push(RowOp::Quantise { buf: id(*src) });
                    }
                    flush(&mut rows, &mut phases);
                    phases.push(Phase { work: Work::Product { src: id(*src), parts: vec![part] }, taps: Vec::new() });
                }
            }
            Op::Attend { k, v, layer, .. } => {
                rows.push(RowOp::Append { layer: *layer, k: id(*k), v: id(*v) });
                flush(&mut rows, &mut phases);
                phases.push(Phase { work: Work::Attend { op: step.op.clone(), layer: *layer }, taps: Vec::new() });
            }
            Op::Logits { src, weight, scale } => {
                flush(&mut rows, &mut phases);
                let scale = (*scale != 1.0).then_some(Work::Scale { by: *scale });
                let head = [Work::Gather { src: id(*src), weight: *weight }, Work::Logits { weight: *weight }];
                phases.extend(head.into_iter().chain(scale).map(|work| Phase { work, taps: Vec::new() }));
            }
            Op::Embed { table, dst, scale } => rows.push(RowOp::Embed { table: *table, dst: id(*dst), scale: *scale }),
            Op::Norm { kind, src, dst, weight, bias, eps, per_head, .. } => rows.push(RowOp::Norm {
                kind: *kind,
                src: id(*src),
                dst: id(*dst),
                weight: *weight,
                bias: *bias,
                eps: *eps,
                over: per_head.unwrap_or(program.width(*src)),
            }),
            Op::Rope { buf, head_dim, layout, table, .. } => rows.push(RowOp::Rope {
                buf: id(*buf),
                head_dim: *head_dim,
                layout: *layout,
                table: ropes.iter().position(|t| t == table).expect("invariant: every rope table is listed"),
            }),
            Op::Gate { gate, up, dst, act } => {
                rows.push(RowOp::Gate { gate: id(*gate), up: id(*up), dst: id(*dst), act: *act });
            }
            Op::Add { src, dst } => rows.push(RowOp::Add { src: id(*src), dst: id(*dst) }),
        }
        if interest.covers(step.tag)
            && let Some(buffer) = program.output_of(&step.op)
        {
            flush(&mut rows, &mut phases);
            let last = phases.last_mut().expect("invariant: the operation itself is in a phase");
            last.taps.push(Tapped { index, tag: step.tag, buffer: id(buffer) });
        }
    }
    phases
}

impl Shared {
    /// Runs one operation on one row.
    ///
    /// # Safety
    /// Until the phase ends no other worker touches row `row` of any buffer, its activations or its cache slot.
    pub(super) unsafe fn row_op(&self, op: &RowOp, batch: &Batch<'_>, row: usize) {
        let buf = &self.buffers;
        // SAFETY: (for the whole body) the caller gave this row to this worker alone; where two rows are held at once
        // they are of different buffers, or copied first.
        unsafe {
            match op {
                RowOp::Embed { table, dst, scale } => {
                    let w = self.program.w(*table);
                    let out = buf[*dst].row_mut(row);
                    let bytes = w.bytes.len() / w.rows;
                    w.format.decode_row(&w.bytes[batch.rows[row].token as usize * bytes..][..bytes], out);
                    if *scale != 1.0 {
                        out.iter_mut().for_each(|x| *x *= scale);
                    }
                }
                RowOp::Norm { kind, src, dst, weight, bias, eps, over } => {
                    if src != dst {
                        buf[*dst].row_mut(row).copy_from_slice(buf[*src].row(row));
                    }
                    let vector = |w: &Option<WeightId>| w.and_then(|w| self.vectors[w.0 as usize].as_deref());
                    for x in buf[*dst].row_mut(row).chunks_exact_mut(*over) {
                        self.isa.run(Norm { kind: *kind, x, weight: vector(weight), bias: vector(bias), eps: *eps });
                    }
                }
                RowOp::Rope { buf: b, head_dim, layout, table } => {
                    let pairs = self.ropes[*table].inv_freq.len();
                    let turns = &self.turns[*table][row * 2 * pairs..(row + 1) * 2 * pairs];
                    for head in buf[*b].row_mut(row).chunks_exact_mut(*head_dim) {
                        rope(head, turns, *layout);
                    }
                }
                RowOp::Append { layer, k, v } => {
                    let (block, slot) = batch.place(&batch.rows[row]);
                    self.kv.append(*layer, block, slot, buf[*k].row(row), buf[*v].row(row));
                }
                RowOp::Gate { gate, up, dst, act } => {
                    if gate == dst {
                        self.isa.run(Gate { act: *act, gate: buf[*gate].row_mut(row), up: buf[*up].row(row) });
                    } else {
                        let mut g = buf[*gate].row(row).to_vec();
                        self.isa.run(Gate { act: *act, gate: &mut g, up: buf[*up].row(row) });
                        buf[*dst].row_mut(row).copy_from_slice(&g);
                    }
                }
                RowOp::Add { src, dst } => {
                    if src == dst {
                        buf[*dst].row_mut(row).iter_mut().for_each(|x| *x += *x);
                    } else {
                        let (x, y) = (buf[*src].row(row), buf[*dst].row_mut(row));
                        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
                    }
                }
                RowOp::Quantise { buf } => {
                    if self.buffers[*buf].width().is_multiple_of(acts::BLOCK) {
                        self.acts[*buf].quantise(self.isa, row);
                    }
                }
            }
        }
    }

    /// One K/V head for the rows of one group.
    pub(super) fn attend(
        &self,
        op: &Op,
        batch: &Batch<'_>,
        rows: std::ops::Range<usize>,
        kv_head: usize,
        worker: super::Worker,
    ) {
        let Op::Attend { q, dst, layer, heads, scale, softcap, .. } = op else { return };
        let kv = self.program.kv[*layer];
        let per_kv = heads / kv.heads;
        let table = batch.tables[batch.rows[rows.start].sequence];
        let mut queries = Vec::with_capacity(rows.len() * per_kv);
        for r in rows {
            let (from, to) = batch.visible(op, r);
            for h in kv_head * per_kv..(kv_head + 1) * per_kv {
                // SAFETY: q was written in an earlier phase; this head of this row of the output belongs to this
                // unit alone.
                let (q, out) = unsafe {
                    let at = h * kv.head_dim;
                    (self.buffers[q.0 as usize].at(r, at), self.buffers[dst.0 as usize].at(r, at))
                };
                queries.push(attend::Query::new(from, to, q, out));
            }
        }
        let mut scratch = self.scratch[worker.index].lock().unwrap_or_else(|e| e.into_inner());
        let need = attend::scratch_len(queries.len(), self.kv.dim(*layer));
        if scratch.len() < need {
            scratch.resize(need, 0.0);
        }
        self.isa.run(attend::Attend {
            kv: &self.kv,
            layer: *layer,
            kv_head,
            head_dim: kv.head_dim,
            table,
            scale: *scale,
            softcap: *softcap,
            queries: &mut queries,
            scratch: &mut scratch,
        });
    }
}

/// Turns one head: `turns` holds cos and sin for each pair.
fn rope(head: &mut [f32], turns: &[f32], layout: RopeLayout) {
    let n = turns.len() / 2;
    for (i, t) in turns.chunks_exact(2).enumerate() {
        let (a, b) = match layout {
            RopeLayout::Split => (i, i + n),
            RopeLayout::Interleaved => (2 * i, 2 * i + 1),
        };
        (head[a], head[b]) = (head[a] * t[0] - head[b] * t[1], head[a] * t[1] + head[b] * t[0]);
    }
}
