//! Saboteurs that rewrite the model's program: a dropped rotation, a mask that sees the future, swapped heads. Programs
//! are values, so a broken engine is a list of operations with one of them changed, and any backend runs it.
//!
//! Where an operation is taken out, another of the same tag stands in, so that taps still see every stage and a check
//! has to look at numbers.

use std::sync::Arc;

use compute::Format;
use compute::program::{BufferId, NormKind, Op, Program, RopeLayout, RopeTable, Step, Tag, WeightId, WeightRef};
use engine::program::{Stage, tag, untag};

use super::{Means, Saboteur};
use crate::subject::Rewrite;

/// An entry that misbehaves without crashing.
const fn rewrite(name: &'static str, does: &'static str, how: Rewrite) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::Rewrite(how) }
}

/// Every rewrite.
pub static ALL: &[Saboteur] = &[
    rewrite("embedding-zeroed", "the embedding of one token is all zeros", |p| embedding(p, |rows| rows[42].fill(0))),
    rewrite("embedding-shuffled", "every token gets its neighbour's embedding", |p| {
        embedding(p, |rows| rows.rotate_left(1));
    }),
    rewrite("rope-dropped", "no head is turned", |p| ropes(p, |freqs, _, _| freqs.fill(0.0))),
    rewrite("rope-theta-10k", "the base of the angles is 10000 whatever the file says", |p| {
        ropes(p, |freqs, _, _| {
            let pairs = freqs.len() as f32;
            freqs.iter_mut().enumerate().for_each(|(i, f)| *f = 10_000f32.powf(-(i as f32) / pairs));
        });
    }),
    rewrite("rope-layout-swapped", "heads are paired as in the other architecture", |p| {
        ropes(p, |_, _, layout| {
            *layout = match layout {
                RopeLayout::Split => RopeLayout::Interleaved,
                RopeLayout::Interleaved => RopeLayout::Split,
            };
        });
    }),
    rewrite("rope-mscale-dropped", "YaRN without its attention temperature", |p| {
        ropes(p, |_, mscale, _| *mscale = 1.0)
    }),
    rewrite("mask-non-causal", "a row sees the rows after it", |p| {
        attends(p, |op| {
            if let Op::Attend { causal, .. } = op {
                *causal = false;
            }
        })
    }),
    rewrite("mask-window", "a row sees only the sixteen positions up to its own", |p| {
        attends(p, |op| {
            if let Op::Attend { window, .. } = op {
                *window = Some(16);
            }
        })
    }),
    rewrite("mask-off-by-one", "a row sees the positions before its own, not its own", mask_off_by_one),
    rewrite("window-forgotten", "a row has forgotten what is more than 2048 positions before it", |p| {
        attends(p, |op| {
            if let Op::Attend { window, .. } = op {
                *window = Some(2048);
            }
        })
    }),
    rewrite("rope-scaling-dropped", "angles are not stretched, whatever the file says", |p| {
        ropes(p, |freqs, mscale, layout| {
            // The bases of the forge's two architectures.
            let theta = if *layout == RopeLayout::Split { 1e6f32 } else { 1e4 };
            let pairs = freqs.len() as f32;
            freqs.iter_mut().enumerate().for_each(|(i, f)| *f = theta.powf(-(i as f32) / pairs));
            *mscale = 1.0;
        });
    }),
    rewrite("ffn-narrowed", "feed-forward layers have half their width", ffn_narrowed),
    rewrite("heads-swapped", "query heads read K/V heads in reverse order", heads_swapped),
    rewrite("attention-unnormalised", "attention weights sum to 2", attention_doubled),
    rewrite("ffn-identity", "feed-forward layers add nothing", |p| {
        p.steps.retain(|s| !matches!(untag(s.tag), Some((_, Stage::FfnAdd))));
    }),
    rewrite("qkv-zeroed", "values of the second layer are all zeros", |p| {
        replace(p, |p, step| {
            let Op::MatMul { src, weight, dst, .. } = step.op else { return None };
            if untag(step.tag) != Some((1, Stage::V)) {
                return None;
            }
            let (rows, cols) = (p.w(weight).rows, p.w(weight).cols);
            let weight = tensor(p, rows, cols, &vec![0.0; rows * cols]);
            Some(vec![Step { op: Op::MatMul { src, weight, bias: None, dst }, tag: step.tag }])
        });
    }),
    rewrite("attention-one-hot", "scores are a thousand times as large: every head looks at one place", |p| {
        attends(p, |op| {
            if let Op::Attend { scale, .. } = op {
                *scale *= 1000.0;
            }
        })
    }),
    rewrite("norm-unnormalised", "norms multiply by their weight and do nothing else", norm_dropped),
    rewrite("norm-centred", "norms take the mean away first", |p| {
        for step in &mut p.steps {
            if let Op::Norm { kind, .. } = &mut step.op {
                *kind = NormKind::Layer;
            }
        }
    }),
    rewrite("nan-at-layer-3", "one weight of a norm of layer 3 (or the last) is NaN", |p| poison(p, f32::NAN)),
    rewrite("inf-at-layer-3", "one weight of a norm of layer 3 (or the last) is infinite", |p| {
        poison(p, f32::INFINITY)
    }),
];

/// The mark of an operation that no tap is to take for a stage.
const UNSEEN: Tag = Tag(u16::MAX);

/// A new f32 tensor.
fn tensor(p: &mut Program, rows: usize, cols: usize, values: &[f32]) -> WeightId {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    p.weight(WeightRef { name: Arc::from("sabotage"), bytes: bytes.into(), format: Format::F32, rows, cols })
}

/// A square matrix with `value(row)` in column `column(row)` of each row.
fn sparse(p: &mut Program, n: usize, column: impl Fn(usize) -> usize, value: impl Fn(usize) -> f32) -> WeightId {
    let mut values = vec![0.0; n * n];
    for row in 0..n {
        values[row * n + column(row)] = value(row);
    }
    tensor(p, n, n, &values)
}

/// Changes the rows of the table that tokens are looked up in; the LM head keeps its own.
fn embedding(p: &mut Program, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let Some(at) = p.steps.iter().position(|s| matches!(s.op, Op::Embed { .. })) else { return };
    let Op::Embed { table, .. } = p.steps[at].op else { return };
    let old = p.w(table).clone();
    let mut rows: Vec<Vec<u8>> = old.bytes.chunks_exact(old.bytes.len() / old.rows).map(<[u8]>::to_vec).collect();
    change(&mut rows);
    let new = p.weight(WeightRef { bytes: rows.concat().into(), ..old });
    if let Op::Embed { table, .. } = &mut p.steps[at].op {
        *table = new;
    }
}

/// Changes frequencies, multiplier and layout of every rotation.
fn ropes(p: &mut Program, change: impl Fn(&mut [f32], &mut f32, &mut RopeLayout)) {
    for step in &mut p.steps {
        if let Op::Rope { layout, table, .. } = &mut step.op {
            let mut freqs = table.inv_freq.to_vec();
            change(&mut freqs, &mut table.mscale, layout);
            table.inv_freq = freqs.into();
        }
    }
}

fn attends(p: &mut Program, change: impl Fn(&mut Op)) {
    p.steps.iter_mut().filter(|s| matches!(s.op, Op::Attend { .. })).for_each(|s| change(&mut s.op));
}

/// Replaces every step that `with` has steps for.
fn replace(p: &mut Program, with: impl Fn(&mut Program, &Step) -> Option<Vec<Step>>) {
    let old = std::mem::take(&mut p.steps);
    let mut steps = Vec::with_capacity(old.len());
    for step in old {
        match with(p, &step) {
            Some(new) => steps.extend(new),
            None => steps.push(step),
        }
    }
    p.steps = steps;
}

/// Attention over K and V that are one position late: row p finds those of 0, 0, 1 .. p - 1.
fn mask_off_by_one(p: &mut Program) {
    replace(p, |p, step| {
        let Op::Attend { q, k, v, layer, .. } = step.op else { return None };
        let mut steps = Vec::new();
        let (late_k, late_v) = (late(p, &mut steps, layer, q, k), late(p, &mut steps, layer, q, v));
        let mut attend = step.op.clone();
        if let Op::Attend { k, v, .. } = &mut attend {
            (*k, *v) = (late_k, late_v);
        }
        steps.push(Step { op: attend, tag: step.tag });
        Some(steps)
    });
}

/// A buffer with the rows of `x` one position later; position 0 keeps its own. No operation moves rows, but attention
/// does: in a window of two positions, scores of -64 for a row's own position and +64 for the one before it, which are
/// a constant vector that turns by half a circle per position, times itself.
fn late(p: &mut Program, steps: &mut Vec<Step>, layer: usize, any: BufferId, x: BufferId) -> BufferId {
    let kv = p.kv[layer];
    let width = kv.heads * kv.head_dim;
    let (turning, dst) = (p.buffer(width), p.buffer(width));
    let nothing = tensor(p, width, p.width(any), &vec![0.0; width * p.width(any)]);
    let firsts: Vec<f32> = (0..width).map(|i| if i % kv.head_dim == 0 { 8.0 } else { 0.0 }).collect();
    let firsts = tensor(p, 1, width, &firsts);
    p.kv.push(kv);
    let table = RopeTable { inv_freq: Arc::from([std::f32::consts::PI]), mscale: 1.0 };
    let (heads, head_dim, layout) = (kv.heads, kv.head_dim, RopeLayout::Interleaved);
    let ops = [
        Op::MatMul { src: any, weight: nothing, bias: Some(firsts), dst: turning },
        Op::Rope { buf: turning, heads, head_dim, layout, table },
        Op::Attend {
            q: turning,
            k: turning,
            v: x,
            dst,
            layer: p.kv.len() - 1,
            heads,
            scale: -1.0,
            window: Some(2),
            softcap: None,
            causal: true,
        },
    ];
    steps.extend(ops.map(|op| Step { op, tag: UNSEEN }));
    dst
}

/// The heads of q change places before attention, and back after it: only the K/V head that each reads is another.
fn heads_swapped(p: &mut Program) {
    replace(p, |p, step| {
        let Op::Attend { q, dst, heads, .. } = step.op else { return None };
        let width = p.width(q);
        let dim = width / heads;
        let (turned, mixed) = (p.buffer(width), p.buffer(width));
        let reverse = sparse(p, width, |row| (heads - 1 - row / dim) * dim + row % dim, |_| 1.0);
        let mut attend = step.op.clone();
        if let Op::Attend { q, dst, .. } = &mut attend {
            (*q, *dst) = (turned, mixed);
        }
        Some(vec![
            Step { op: Op::MatMul { src: q, weight: reverse, bias: None, dst: turned }, tag: UNSEEN },
            Step { op: attend, tag: UNSEEN },
            Step { op: Op::MatMul { src: mixed, weight: reverse, bias: None, dst }, tag: step.tag },
        ])
    });
}

fn attention_doubled(p: &mut Program) {
    replace(p, |p, step| {
        let Op::Attend { dst, .. } = step.op else { return None };
        let width = p.width(dst);
        let mixed = p.buffer(width);
        let twice = sparse(p, width, |row| row, |_| 2.0);
        let mut attend = step.op.clone();
        if let Op::Attend { dst, .. } = &mut attend {
            *dst = mixed;
        }
        Some(vec![
            Step { op: attend, tag: UNSEEN },
            Step { op: Op::MatMul { src: mixed, weight: twice, bias: None, dst }, tag: step.tag },
        ])
    });
}

/// Gate and up lose the second half of their rows, down that of its columns.
fn ffn_narrowed(p: &mut Program) {
    replace(p, |p, step| {
        let stage = untag(step.tag)?.1;
        let Op::MatMul { src, weight, bias, dst } = step.op else { return None };
        let old = p.w(weight).clone();
        let narrow = match stage {
            Stage::FfnGate | Stage::FfnUp => {
                p.buffers[dst.0 as usize] = old.rows / 2;
                WeightRef { rows: old.rows / 2, bytes: old.bytes[..old.bytes.len() / 2].to_vec().into(), ..old }
            }
            Stage::FfnDown => {
                let row = old.bytes.len() / old.rows;
                let bytes: Vec<u8> = old.bytes.chunks_exact(row).flat_map(|r| r[..row / 2].to_vec()).collect();
                WeightRef { cols: old.cols / 2, bytes: bytes.into(), ..old }
            }
            _ => return None,
        };
        let weight = p.weight(narrow);
        Some(vec![Step { op: Op::MatMul { src, weight, bias, dst }, tag: step.tag }])
    });
}

fn norm_dropped(p: &mut Program) {
    replace(p, |p, step| {
        let Op::Norm { src, dst, weight: Some(weight), .. } = step.op else { return None };
        let scale = p.w(weight).to_f32();
        let weight = sparse(p, scale.len(), |row| row, |row| scale[row]);
        Some(vec![Step { op: Op::MatMul { src, weight, bias: None, dst }, tag: step.tag }])
    });
}

/// One weight of the norm before the feed-forward part of layer 3, or of the last layer there is.
fn poison(p: &mut Program, value: f32) {
    let layer = 3.min(p.kv.len().saturating_sub(1));
    let is_norm = |s: &&Step| s.tag == tag(layer, Stage::FfnNorm);
    let Some(Op::Norm { weight: Some(id), .. }) = p.steps.iter().find(is_norm).map(|s| s.op.clone()) else { return };
    let (rows, cols) = (p.w(id).rows, p.w(id).cols);
    let mut values = p.w(id).to_f32();
    values[5] = value;
    let poisoned = tensor(p, rows, cols, &values);
    for step in &mut p.steps {
        match &mut step.op {
            Op::Norm { weight: Some(w), .. } if *w == id => *w = poisoned,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use compute::backend::{Interest, NoTap, Output, Row, Want};
    use compute::plain::Plain;
    use compute::{Backend, Batch};

    use super::*;

    /// Logits that are the rows of `late` over the embeddings `(1, 10)`, `(2, 20)`, ...
    #[test]
    fn late_rows_are_those_of_the_position_before() {
        const ROWS: usize = 140;
        let mut p = Program { vocab: ROWS, ..Program::default() };
        let x = p.buffer(2);
        let values: Vec<f32> = (1..=ROWS).flat_map(|i| [i as f32, 10.0 * i as f32]).collect();
        let table = tensor(&mut p, ROWS, 2, &values);
        let identity = tensor(&mut p, 2, 2, &[1.0, 0.0, 0.0, 1.0]);
        p.kv.push(compute::program::KvSpec { heads: 1, head_dim: 2 });
        p.push(UNSEEN, Op::Embed { table, dst: x, scale: 1.0 });
        let mut steps = Vec::new();
        let shifted = late(&mut p, &mut steps, 0, x, x);
        p.steps.extend(steps);
        p.push(UNSEEN, Op::Logits { src: shifted, weight: identity, scale: 1.0 });
        let mut runner = Plain.prepare(&p, &Interest::Nothing).unwrap();
        runner.reserve_blocks(3).unwrap();
        let row = |i: usize| Row { sequence: 0, position: i as u32, token: i as u32, want: Want::Logits };
        let rows: Vec<Row> = (0..ROWS).map(row).collect();
        let mut out = Output::default();
        runner.step(&Batch { rows: &rows, tables: &[&[0, 1, 2]] }, &mut out, &mut NoTap).unwrap();
        for (i, row) in out.rows.iter().enumerate() {
            let before = i.max(1) as f32;
            assert_eq!(row.values, [before, 10.0 * before], "row {i}");
        }
    }
}
