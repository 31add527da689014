//! Stage 5: attention looks somewhere, but not at one place only, and its output is the weighted mean that the scores
//! say.
//!
//! Scores are not stored by any backend: they are computed here a second time from the queries and keys that were seen.
//! Position 0 has one key and entropy 0, and many heads of a trained model rest on the first position; so what must be
//! above the limit is the mean over heads, at positions from 8 on.

use super::inspect::Layer;
use super::numbers::{PRODUCT_APART, apart, compare_products, rms};
use super::{ATTENTION, Fault, Notes};
use crate::model::Model;
use crate::program::Stage;

/// Nats. From the specification, section 3.2.
const ENTROPY_LEAST: f64 = 0.1;
/// The first position whose entropy counts.
const FROM: usize = 8;

pub fn layer(layer: &Layer<'_>, model: &Model, notes: &mut Notes) {
    let (h, block) = (&model.hyper, &model.weights.blocks[layer.index]);
    let name = &block.attention_output.weight.name;
    let fault = |what: String, hint| Fault::new(what, hint).layer(layer.index);
    let stages = [Stage::RopeQ, Stage::RopeK, Stage::V, Stage::Attention, Stage::AttentionOutput, Stage::AttentionAdd];
    let seen: Vec<&[f32]> = stages.iter().filter_map(|s| layer.of(*s)).collect();
    let [q, k, v, attended, delta, sum] = seen[..] else {
        return notes.fail(ATTENTION, fault("a part of it did not run".into(), "the program lacks an operation"));
    };
    let (wide, narrow, d) = (h.heads * h.head_dim, h.kv_heads * h.head_dim, h.head_dim);
    let mut expected = vec![0f32; attended.len()];
    let (mut entropy, mut counted) = (0.0, 0u32);
    for p in 0..layer.rows {
        for head in 0..h.heads {
            let shared = head / (h.heads / h.kv_heads) * d;
            let q = &q[p * wide + head * d..][..d];
            let score = |j: usize| -> f64 {
                let k = &k[j * narrow + shared..][..d];
                q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / (d as f64).sqrt()
            };
            let weights = softmax(&(0..=p).map(score).collect::<Vec<_>>());
            if p >= FROM {
                entropy -= weights.iter().filter(|w| **w > 0.0).map(|w| w * w.ln()).sum::<f64>();
                counted += 1;
            }
            let out = &mut expected[p * wide + head * d..][..d];
            for (j, w) in weights.iter().enumerate() {
                let v = &v[j * narrow + shared..][..d];
                out.iter_mut().zip(v).for_each(|(o, v)| *o += (w * f64::from(*v)) as f32);
            }
        }
    }
    let mean = entropy / f64::from(counted.max(1));
    layer.least(ATTENTION, mean);
    layer.entropy.set(layer.entropy.get() + mean);
    // A single layer may look at one place by training; the mean of all layers is judged at the end. None at all is
    // damage.
    notes.hold(ATTENTION, mean.is_finite() && mean > 1e-4, || {
        fault(format!("entropy {mean:.1e}: every head looks at one place"), "scores overflow: q or k is too large")
            .tensor(&block.q.weight.name)
    });
    let off = apart(attended, &expected);
    notes.hold(ATTENTION, off < PRODUCT_APART, || {
        let what = format!("the output is {:.1} % off softmax(q k) v", off * 100.0);
        fault(what, "mask, heads or normalisation are not the model's")
    });
    if let Some(fault) = compare_products(&block.attention_output.weight, None, attended, delta, layer.rows) {
        notes.fail(ATTENTION, fault.layer(layer.index));
    }
    notes.hold(ATTENTION, rms(delta) > 1e-6 * rms(layer.input), || {
        fault("attention adds nothing".into(), "the tensor is zero or damaged").tensor(name)
    });
    let added: Vec<f32> = layer.input.iter().zip(delta).map(|(x, d)| x + d).collect();
    notes.hold(ATTENTION, apart(sum, &added) < 1e-3, || {
        fault("its output is not added to the stream".into(), "the program lacks the residual")
    });
}

/// Judges the mean over all heads of all layers.
pub fn overall(mean: f64, least: f64, notes: &mut Notes) {
    notes.hold(ATTENTION, mean > ENTROPY_LEAST, || {
        let what = format!("mean entropy {mean:.3} over all heads, at most {ENTROPY_LEAST}: attention is degenerate");
        Fault::new(what, "q or k is too large: scales are damaged, or norms are missing")
    });
    //= F-CHECK-216
    notes.say(ATTENTION, format!("mean entropy {mean:.2} nats, {least:.2} in the narrowest layer"));
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}
