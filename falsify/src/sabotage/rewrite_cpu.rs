//! Saboteurs of what the CPU backend promises: matrices that are read twice, blocks that decode to something else, rows
//! that get each other's numbers, a softmax that overflows. Rewrites of programs, and meddling runners where a program
//! cannot say it.

use std::collections::HashMap;

use compute::backend::{Output, Row, Want};
use compute::program::{BufferId, Op, Program, WeightId};

use super::evil_backend::{Evil, NOTHING, State};
use super::{Means, Saboteur};
use crate::subject::Rewrite;

/// A rewrite.
const fn rewrite(name: &'static str, does: &'static str, how: Rewrite) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::Rewrite(how) }
}

/// Meddling with outputs.
const fn after(name: &'static str, does: &'static str, after: fn(&mut State, &[Row], &mut Output)) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::EvilBackend(Evil { after, ..NOTHING }) }
}

/// Every one of them.
pub static ALL: &[Saboteur] = &[
    rewrite("weights-copied", "tensors are read into memory instead of staying in the mapping", |p| {
        for w in &mut p.weights {
            w.bytes = w.bytes.to_vec().into();
        }
    }),
    rewrite("gqa-first-head-only", "every query head reads the first K/V head", gqa_first_head_only),
    rewrite("weights-read-twice", "every matrix product is done twice", |p| {
        let twice = |step: compute::program::Step| {
            let again = matches!(step.op, Op::MatMul { .. }).then(|| step.clone());
            [Some(step), again].into_iter().flatten()
        };
        p.steps = std::mem::take(&mut p.steps).into_iter().flat_map(twice).collect();
    }),
    rewrite("q4k-minimum-dropped", "Q4_K blocks decode without their minimum", |p| {
        blocks(p, "Q4_K", |b| b[2..4].fill(0));
    }),
    rewrite("q6k-scales-unsigned", "the scales of Q6_K blocks lose their sign", |p| {
        blocks(p, "Q6_K", |b| b[192..208].iter_mut().for_each(|scale| *scale &= 0x7f));
    }),
    rewrite("f16-subnormals-flushed", "F16 numbers below the normal range are zero", |p| {
        blocks(p, "F16", |b| {
            if b[1] & 0x7c == 0 {
                b[0] = 0;
                b[1] &= 0x80;
            }
        });
    }),
    rewrite("norm-without-eps", "norms divide by the root of the mean square alone", |p| {
        for step in &mut p.steps {
            if let Op::Norm { eps, .. } = &mut step.op {
                *eps = 0.0;
            }
        }
    }),
    rewrite("scores-capped", "attention scores are squashed before the softmax", |p| {
        for step in &mut p.steps {
            if let Op::Attend { softcap, .. } = &mut step.op {
                *softcap = Some(5.0);
            }
        }
    }),
    after("softmax-without-max", "exponentials are summed without taking the maximum away first", |_, _, out| {
        for row in out.rows.iter_mut().filter(|r| !r.values.is_empty()) {
            row.log_sum_exp = row.values.iter().map(|x| x.exp()).sum::<f32>().ln();
        }
    }),
    after("rows-exchanged", "the first two rows of a batch get each other's logits", |_, rows, out| {
        let logits = |i: usize| rows.get(i).is_some_and(|r| r.want == Want::Logits);
        if logits(0) && logits(1) {
            out.rows.swap(0, 1);
        }
    }),
];

/// Changes every block of this format in every tensor.
fn blocks(p: &mut Program, format: &str, how: impl Fn(&mut [u8])) {
    for w in p.weights.iter_mut().filter(|w| w.format.0.name == format) {
        let mut bytes = w.bytes.to_vec();
        bytes.chunks_exact_mut(w.format.0.block_bytes).for_each(&how);
        w.bytes = bytes.into();
    }
}

/// The rows of the first K/V head take the place of those of all others, in the projections and their biases.
fn gqa_first_head_only(p: &mut Program) {
    let cached = p.steps.iter().filter_map(|s| match s.op {
        Op::Attend { k, v, layer, .. } => Some([(k, p.kv[layer].heads), (v, p.kv[layer].heads)]),
        _ => None,
    });
    let heads: HashMap<BufferId, usize> = cached.flatten().collect();
    for i in 0..p.steps.len() {
        let Op::MatMul { weight, bias, dst, .. } = p.steps[i].op else { continue };
        let Some(&heads) = heads.get(&dst) else { continue };
        for WeightId(id) in [Some(weight), bias].into_iter().flatten() {
            // Rows of a matrix and elements of a bias alike: a head is one part of `heads`.
            let bytes = &mut p.weights[id as usize].bytes;
            *bytes = bytes[..bytes.len() / heads].repeat(heads).into();
        }
    }
}
