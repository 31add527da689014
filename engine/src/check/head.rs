//! Stages 8 and 9: hidden states to a logit for every row of the vocabulary, logits to probabilities.

use compute::backend::RowOutput;

use super::numbers::{compare_products, deviation};
use super::{Fault, HEAD, Notes, SOFTMAX};
use crate::model::Model;

/// From the specification, section 3.2.
const SUM_APART: f64 = 1e-5;

pub fn check(model: &Model, hidden: Option<&[f32]>, rows: &[RowOutput], notes: &mut Notes) {
    let (weight, vocab) = (&model.weights.output, model.hyper.vocab);
    let fault = |what: String, hint| Fault::new(what, hint).tensor(&weight.name);
    let (mut spread, mut worst) = (f64::INFINITY, 0f64);
    for (position, row) in rows.iter().enumerate() {
        let n = row.values.len();
        notes.hold(HEAD, n == vocab, || {
            fault(format!("{n} logits at position {position}, for a vocabulary of {vocab}"), "rows are missing")
        });
        notes.hold(HEAD, row.finite && row.values.iter().all(|x| x.is_finite()), || {
            fault(format!("NaN or infinite logits at position {position}"), "the stages above say where it began")
        });
        spread = spread.min(deviation(&row.values));
        // In f64, with the sum that the backend made in passing: the probabilities that everybody after it uses.
        let sum: f64 = row.values.iter().map(|&x| (f64::from(x) - f64::from(row.log_sum_exp)).exp()).sum();
        // The logarithm of the sum is kept as f32: that much it cannot say better.
        let room = SUM_APART + f64::from(row.log_sum_exp.abs()) * f64::from(f32::EPSILON);
        worst = worst.max((sum - 1.0).abs());
        notes.hold(SOFTMAX, (sum - 1.0).abs() <= room, || {
            Fault::new(
                format!("the probabilities at position {position} sum to {sum:.6}, expected 1 within {SUM_APART:.0e}"),
                "the softmax leaves something out, or overflows",
            )
        });
        let best = compute::backend::top_k(&row.values, 1).first().copied();
        notes.hold(SOFTMAX, best.is_some_and(|(id, x)| id == row.argmax && x == row.max), || {
            Fault::new(
                format!("token {} is told as the best at position {position}, which is {best:?}", row.argmax),
                "the backend's maximum is not that of its logits",
            )
        });
    }
    notes.hold(HEAD, spread > 1e-4, || {
        fault(format!("logits have a standard deviation of {spread:.1e}"), "the tensor is zero or damaged")
    });
    let logits: Vec<f32> = rows.iter().flat_map(|r| r.values.iter().copied()).collect();
    match hidden {
        Some(hidden) if logits.len() == rows.len() * vocab && !rows.is_empty() => {
            if let Some(fault) = compare_products(weight, None, hidden, &logits, rows.len()) {
                notes.fail(HEAD, fault);
            }
        }
        Some(_) => {}
        None => notes.fail(HEAD, fault("the last norm did not run".into(), "the program lacks an operation")),
    }
    //= F-CHECK-219
    notes.say(HEAD, format!("{vocab} logits at each of {} positions, standard deviation from {spread:.2}", rows.len()));
    //= F-CHECK-220
    notes.say(SOFTMAX, format!("probabilities sum to 1 within {worst:.0e}"));
}
