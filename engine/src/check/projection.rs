//! Stage 4: queries, keys and values are there, differ, and are the products of the file's weights.

use super::inspect::Layer;
use super::numbers::{compare_products, deviation};
use super::{Fault, Notes, QKV};
use crate::model::Model;
use crate::program::Stage;

/// Below this, relative to the input of length 1 per element, a projection has collapsed.
const COLLAPSED: f64 = 1e-5;

pub fn layer(layer: &Layer<'_>, model: &Model, notes: &mut Notes) {
    let block = &model.weights.blocks[layer.index];
    let input = layer.of(Stage::AttentionNorm);
    for (stage, linear) in [(Stage::Q, &block.q), (Stage::K, &block.k), (Stage::V, &block.v)] {
        let name = &linear.weight.name;
        let fault = |what: String, hint| Fault::new(what, hint).layer(layer.index).tensor(name);
        let (Some(x), Some(input)) = (layer.of(stage), input) else {
            notes.fail(QKV, fault(format!("{stage:?} was not computed"), "the program lacks the projection"));
            continue;
        };
        let spread = deviation(x);
        notes.hold(QKV, spread > COLLAPSED, || {
            fault(format!("standard deviation {spread:.1e}: {stage:?} has collapsed"), "the tensor is zero or damaged")
        });
        // The bias alone would give the same vector at every position.
        let width = x.len() / layer.rows;
        let over_rows = x.chunks_exact(width).map(|row| super::numbers::apart(row, &x[..width])).fold(0.0, f64::max);
        notes.hold(QKV, over_rows > 1e-4, || {
            fault(format!("{stage:?} is the same at every position"), "the weight is zero and only the bias is left")
        });
        if let Some(fault) = compare_products(&linear.weight, linear.bias.as_ref(), input, x, layer.rows) {
            notes.fail(QKV, fault.layer(layer.index));
        }
        layer.least(QKV, spread);
    }
}
