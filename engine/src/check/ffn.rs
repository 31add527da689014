//! Stage 6: the feed-forward layer adds something, and it is not linear.

use compute::program::Act;

use super::inspect::Layer;
use super::numbers::{FORMULA_APART, apart, compare_products, rms};
use super::{FFN, Fault, Notes};
use crate::model::Model;
use crate::program::Stage;

pub fn layer(layer: &Layer<'_>, model: &Model, notes: &mut Notes) {
    let block = &model.weights.blocks[layer.index];
    let fault = |what: String, hint| Fault::new(what, hint).layer(layer.index);
    let stages = [Stage::AttentionAdd, Stage::FfnNorm, Stage::FfnGate, Stage::FfnUp, Stage::FfnAct, Stage::FfnDown];
    let seen: Vec<&[f32]> = stages.iter().filter_map(|s| layer.of(*s)).collect();
    let [before, normed, gate, up, act, delta] = seen[..] else {
        return notes.fail(FFN, fault("a part of it did not run".into(), "the program lacks an operation"));
    };
    for (linear, input, output) in [(&block.gate, normed, gate), (&block.up, normed, up), (&block.down, act, delta)] {
        if let Some(fault) = compare_products(&linear.weight, None, input, output, layer.rows) {
            notes.fail(FFN, fault.layer(layer.index));
        }
    }
    let expected: Vec<f32> = gate.iter().zip(up).map(|(&g, &u)| activation(model.arch.act, g) * u).collect();
    let off = apart(act, &expected);
    notes.hold(FFN, off < FORMULA_APART, || {
        let what = format!("the activation is {:.1} % off {:?}(gate) * up", off * 100.0, model.arch.act);
        fault(what, "another activation than the architecture's, or none")
    });
    // A gate that is the same multiple of its input everywhere would be no gate. Both signs give different slopes.
    let slope = |keep: fn(&f32) -> bool| {
        let kept: Vec<(f64, f64)> = gate
            .iter()
            .zip(up)
            .zip(act)
            .filter(|((g, _), _)| keep(g))
            .map(|((g, u), a)| (f64::from(g * u), f64::from(*a)))
            .collect();
        kept.iter().map(|(x, y)| x * y).sum::<f64>() / kept.iter().map(|(x, _)| x * x).sum::<f64>().max(1e-30)
    };
    let bend = slope(|g| *g > 0.0) - slope(|g| *g < 0.0);
    notes.hold(FFN, bend > 1e-4, || {
        let what = format!("positive and negative gates differ by {bend:.1e}: the layer is linear");
        fault(what, "the gate is zero or damaged").tensor(&block.gate.weight.name)
    });
    let share = rms(delta) / rms(before).max(1e-30);
    notes.hold(FFN, share > 1e-5, || {
        fault(format!("it adds {share:.1e} of its input: output = input"), "the tensor is zero or damaged")
            .tensor(&block.down.weight.name)
    });
    let added: Vec<f32> = before.iter().zip(delta).map(|(x, d)| x + d).collect();
    let sum = layer.of(Stage::FfnAdd);
    notes.hold(FFN, sum.is_some_and(|sum| apart(sum, &added) < 1e-3), || {
        fault(
            "output = input: what it computes is not added to the stream".into(),
            "the feed-forward layer is bypassed",
        )
        .tensor(&block.down.weight.name)
    });
    layer.least(FFN, share);
}

fn activation(act: Act, x: f32) -> f32 {
    match act {
        Act::Silu => x / (1.0 + (-x).exp()),
        Act::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
    }
}
