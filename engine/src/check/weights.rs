//! Damage that shows in the weights themselves: numbers that are none, groups of them that are far too large or gone,
//! a tensor that is out of all proportion to the same tensor of the other layers.
//!
//! Groups are of 32 values, the smallest block of the block formats. A group is measured by its upper quartile, so that
//! the few huge single weights that trained models have do not count, and a broken scale does. A group that is damaged
//! is only told from a healthy one by its size: small changes of single weights show nowhere but in a checksum.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use compute::WeightRef;

use super::{ATTENTION, EMBEDDING, FFN, Fault, HEAD, NORM, Notes, QKV};
use crate::model::Model;

const GROUP: usize = 32;
/// A group is too large from this multiple of the median group on.
const LARGE: f32 = 32.0;
/// One such group is enough from this multiple on.
const HUGE: f32 = 1000.0;
/// How many of the groups may be too large or zero.
const SHARE_MOST: f64 = 1e-3;
/// Zero groups beyond this share are a design (pruned weights), not damage.
const SHARE_PRUNED: f64 = 0.25;
/// How much larger or smaller a matrix may be than the median of its role in the other layers.
const PROPORTION: f64 = 25.0;
/// Rows of weights that were drawn at random differ in length as chance has it (1); those of trained ones, by far more.
const CHANCE: f64 = 1.6;

const HINT: &str = "the file is damaged: fetch it again, or compare its checksum";

/// What a matrix looks like.
#[derive(Clone, Default)]
struct Look {
    fault: Option<String>,
    rms: f64,
    /// Variance of the rows' lengths over what independent draws would have.
    dispersion: f64,
}

/// Looks at every tensor. Tells whether the model was trained: weights that are drawn at random have learned nothing.
pub fn check(model: &Model, notes: &mut Notes) -> bool {
    let tensors = tensors(model);
    let looks = looks(&tensors);
    let mut dispersions: Vec<f64> = Vec::new();
    for (tensor, look) in tensors.iter().zip(&looks) {
        let fault = |what: String| Fault { layer: tensor.layer, ..Fault::new(what, HINT).tensor(&tensor.weight.name) };
        if let Some(what) = &look.fault {
            notes.fail(tensor.stage, fault(what.clone()));
        }
        if tensor.layer.is_some() && tensor.weight.rows > 1 {
            dispersions.push(look.dispersion);
            let mut same: Vec<f64> =
                tensors.iter().zip(&looks).filter(|(t, _)| t.role == tensor.role).map(|(_, l)| l.rms).collect();
            same.sort_by(f64::total_cmp);
            let median = same[same.len() / 2];
            let off = look.rms / median.max(1e-30);
            notes.hold(tensor.stage, same.len() < 3 || off < PROPORTION && off > 1.0 / PROPORTION, || {
                fault(format!("its numbers are {off:.1e} times as large as in the other layers"))
            });
        }
    }
    dispersions.sort_by(f64::total_cmp);
    dispersions.get(dispersions.len() / 2).is_none_or(|middle| *middle >= CHANCE || middle.is_nan())
}

struct Tensor<'a> {
    stage: usize,
    layer: Option<usize>,
    /// The same in every layer.
    role: usize,
    weight: &'a WeightRef,
}

fn tensors(model: &Model) -> Vec<Tensor<'_>> {
    let w = &model.weights;
    let mut all = vec![
        Tensor { stage: EMBEDDING, layer: None, role: 0, weight: &w.token_embedding },
        Tensor { stage: NORM, layer: None, role: 1, weight: &w.output_norm },
    ];
    if !w.tied {
        all.push(Tensor { stage: HEAD, layer: None, role: 2, weight: &w.output });
    }
    for (layer, b) in w.blocks.iter().enumerate() {
        let linears = [
            (QKV, &b.q),
            (QKV, &b.k),
            (QKV, &b.v),
            (ATTENTION, &b.attention_output),
            (FFN, &b.gate),
            (FFN, &b.up),
            (FFN, &b.down),
        ];
        let matrices = linears.iter().map(|(stage, l)| (*stage, Some(&l.weight)));
        let biases = linears.iter().map(|(stage, l)| (*stage, l.bias.as_ref()));
        let norms = [(NORM, Some(&b.attention_norm)), (NORM, Some(&b.ffn_norm))];
        for (role, (stage, weight)) in matrices.chain(biases).chain(norms).enumerate() {
            all.extend(weight.map(|weight| Tensor { stage, layer: Some(layer), role: 3 + role, weight }));
        }
    }
    all
}

/// Reading a large model takes seconds: all cores do it.
fn looks(tensors: &[Tensor<'_>]) -> Vec<Look> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(vec![Look::default(); tensors.len()]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let looking = || {
                while let Some(tensor) = tensors.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let look = look(tensor.weight);
                    let at = tensors.iter().position(|t| std::ptr::eq(t, tensor)).unwrap_or_default();
                    found.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[at] = look;
                }
            };
            // Fewer threads look for longer; this one looks in any case.
            if std::thread::Builder::new().spawn_scoped(scope, looking).is_err() {
                looking();
            }
        }
    });
    found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn look(weight: &WeightRef) -> Look {
    let row_bytes = weight.bytes.len() / weight.rows.max(1);
    let mut row = vec![0f32; weight.cols];
    let (mut groups, mut zeros, mut lengths) = (Vec::new(), 0usize, Vec::with_capacity(weight.rows));
    let (mut fourth, mut count) = (0f64, 0f64);
    for (r, bytes) in weight.bytes.chunks_exact(row_bytes.max(1)).enumerate() {
        weight.format.decode_row(bytes, &mut row);
        if let Some(at) = row.iter().position(|x| !x.is_finite()) {
            return Look { fault: Some(format!("{} in row {r}, column {at}", row[at])), ..Look::default() };
        }
        let square = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        lengths.push(square / weight.cols as f64);
        if square == 0.0 {
            continue; // a padding row
        }
        fourth += row.iter().map(|&x| f64::from(x).powi(4)).sum::<f64>();
        count += weight.cols as f64;
        for group in row.chunks_exact_mut(GROUP) {
            group.iter_mut().for_each(|x| *x = x.abs());
            let (_, quartile, rest) = group.select_nth_unstable_by(GROUP * 3 / 4, f32::total_cmp);
            match (*quartile, rest.iter().any(|x| *x > 0.0)) {
                (0.0, false) => zeros += 1,
                (0.0, true) => {}
                (q, _) => groups.push(q),
            }
        }
    }
    let mean = lengths.iter().sum::<f64>() / lengths.len().max(1) as f64;
    if mean == 0.0 {
        return Look { fault: Some("every number is zero".into()), ..Look::default() };
    }
    let variance = lengths.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / lengths.len() as f64;
    let by_chance = (fourth / count.max(1.0) - mean * mean) / weight.cols as f64;
    let fault = if weight.rows > 1 { out_of_proportion(&mut groups, zeros) } else { None };
    Look { fault, rms: mean.sqrt(), dispersion: variance / by_chance.max(1e-30) }
}

/// What is wrong with the sizes of the groups.
fn out_of_proportion(groups: &mut [f32], zeros: usize) -> Option<String> {
    if groups.is_empty() {
        return None;
    }
    let total = (groups.len() + zeros) as f64;
    let middle = groups.len() / 2;
    let median = *groups.select_nth_unstable_by(middle, f32::total_cmp).1;
    let large = groups.iter().filter(|g| **g > LARGE * median).count();
    let most = groups.iter().copied().fold(0.0, f32::max) / median;
    if most > HUGE || large as f64 > SHARE_MOST * total {
        return Some(format!(
            "{large} of {total} groups of {GROUP} numbers are more than {LARGE} times as large as the median, one {most:.0} times"
        ));
    }
    let share = zeros as f64 / total;
    (share > SHARE_MOST && share < SHARE_PRUNED)
        .then(|| format!("{zeros} of {total} groups of {GROUP} numbers are all zero"))
}
