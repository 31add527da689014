//! Stage 7: before its weight multiplies, a normalised vector has RMS 1.
//!
//! RMSNorm does not centre, so the standard deviation of the specification is read as the root mean square. Epsilon
//! takes something away from short vectors: `sqrt(m / (m + eps))` is what is left of a mean square `m`.

use compute::WeightRef;
use compute::program::NormKind;

use super::numbers::{apart, rms};
use super::{Fault, NORM, Notes};
use crate::model::Model;

/// How far the RMS may be from 1.
const APART: f64 = 1e-3;

/// One norm of one layer (none for the last): `[rows, hidden]` before and after.
pub fn check(
    model: &Model,
    layer: Option<usize>,
    weight: &WeightRef,
    before: &[f32],
    after: &[f32],
    notes: &mut Notes,
) {
    let place = |fault: Fault| Fault { layer, ..fault.tensor(&weight.name) };
    let scale = weight.to_f32();
    for (x, y) in before.chunks_exact(scale.len()).zip(after.chunks_exact(scale.len())) {
        let n = x.len() as f64;
        let mean = match model.arch.norm {
            NormKind::Rms => 0.0,
            NormKind::Layer => x.iter().map(|&v| f64::from(v)).sum::<f64>() / n,
        };
        let square = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        let left = (square / (square + f64::from(model.hyper.norm_eps))).sqrt();
        // Where the weight is next to nothing, dividing by it would measure rounding.
        let large = scale.iter().fold(0f32, |m, w| m.max(w.abs())) * 1e-3;
        let kept: Vec<(f32, f32, f32)> =
            x.iter().zip(y).zip(&scale).map(|((x, y), w)| (*x, *y, *w)).filter(|t| t.2.abs() > large).collect();
        let unit: Vec<f32> = kept.iter().map(|(_, y, w)| y / w).collect();
        let expected: Vec<f32> = kept
            .iter()
            .map(|(x, ..)| ((f64::from(*x) - mean) / (square + f64::from(model.hyper.norm_eps)).sqrt()) as f32)
            .collect();
        // All elements are there in nearly every model, and then this is the RMS of the whole vector.
        let seen = rms(&unit) / rms(&expected).max(1e-30) * left;
        notes.hold(NORM, (seen - left).abs() < APART, || {
            let what = format!("RMS {seen:.4} before the weight, expected {left:.4} within {APART}");
            place(Fault::new(what, "the norm does not normalise, or its weight is not the file's"))
        });
        notes.hold(NORM, apart(&unit, &expected) < 2e-3, || {
            place(Fault::new(
                "the normalised vector points elsewhere",
                "the norm centres, or its weight is not the file's",
            ))
        });
    }
}
