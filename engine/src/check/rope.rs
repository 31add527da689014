//! Stage 3: the angles are those of the file, and queries and keys are turned by them.

use compute::program::{RopeLayout, RopeTable};

use super::inspect::Layer;
use super::numbers::{FORMULA_APART, apart, rms};
use super::{Fault, Notes, POSITION};
use crate::model::Model;
use crate::program::Stage;

const HINT: &str = "the rotation is missing, of another base, or of the other pairing of elements";

/// The angles against the definition, `theta^(-2i/d)`, where the file asks for no scaling.
pub fn angles(model: &Model, notes: &mut Notes) {
    let (hyper, table) = (&model.hyper, &model.hyper.rope);
    let said = model.metadata.float(&format!("{}.rope.freq_base", model.arch.name)).ok().flatten();
    let theta = said.unwrap_or(model.arch.rope_theta);
    let pairs = table.inv_freq.len();
    let key = if said.is_some() { "the file's" } else { "the default" };
    notes.hold(POSITION, table.inv_freq.iter().all(|f| f.is_finite() && *f > 0.0), || {
        Fault::new("an angle is zero or not finite", "rope_freqs or rope.freq_base is damaged")
    });
    notes.hold(POSITION, theta == hyper.rope_theta, || {
        Fault::new(format!("theta is {} and should be {theta}", hyper.rope_theta), HINT)
    });
    if hyper.rope_scaling == "none" {
        let expected: Vec<f32> = (0..pairs).map(|i| theta.powf(-2.0 * i as f64 / (2 * pairs) as f64) as f32).collect();
        notes.hold(POSITION, apart(&table.inv_freq, &expected) < 1e-5, || {
            Fault::new(format!("the angles are not those of theta {theta}"), HINT)
        });
    }
    //= F-CHECK-214
    notes.say(
        POSITION,
        format!("theta {theta} ({key}), {pairs} pairs of {}, scaling {}", hyper.head_dim, hyper.rope_scaling),
    );
}

/// Queries and keys of one layer.
pub fn layer(layer: &Layer<'_>, model: &Model, notes: &mut Notes) {
    let weights = &model.weights.blocks[layer.index];
    for (before, after, tensor) in
        [(Stage::Q, Stage::RopeQ, &weights.q.weight.name), (Stage::K, Stage::RopeK, &weights.k.weight.name)]
    {
        let fault = |what: String| Fault::new(what, HINT).layer(layer.index).tensor(tensor);
        let (Some(x), Some(turned)) = (layer.of(before), layer.of(after)) else {
            notes.fail(POSITION, fault("no rotation ran".into()));
            continue;
        };
        let width = x.len() / layer.rows;
        let mut expected = x.to_vec();
        for (position, row) in expected.chunks_exact_mut(width).enumerate() {
            row.chunks_exact_mut(model.hyper.head_dim)
                .for_each(|head| turn(head, position as u32, model.layout.rope, &model.hyper.rope));
        }
        let off = apart(turned, &expected);
        notes.hold(POSITION, off < FORMULA_APART, || {
            fault(format!("the turned vectors are {:.1} % off the formula", off * 100.0))
        });
        // The formula itself: a turn keeps lengths, and position 1 is turned.
        let kept = rms(turned) / (rms(x) * f64::from(model.hyper.rope.mscale)).max(1e-30);
        let partial = 2 * model.hyper.rope.inv_freq.len() < model.hyper.head_dim;
        notes.hold(POSITION, partial || (kept - 1.0).abs() < FORMULA_APART, || {
            fault(format!("lengths change by a factor of {kept:.3}"))
        });
        let second = width..2 * width;
        let moved = apart(&turned[second.clone()], &x[second]);
        notes.hold(POSITION, moved > 1e-3, || fault("position 1 is not turned against position 0".into()));
    }
}

/// Turns one head in place.
fn turn(head: &mut [f32], position: u32, layout: RopeLayout, table: &RopeTable) {
    let n = table.inv_freq.len();
    for (i, &freq) in table.inv_freq.iter().enumerate() {
        let angle = f64::from(position) * f64::from(freq);
        let (sin, cos) = (angle.sin() * f64::from(table.mscale), angle.cos() * f64::from(table.mscale));
        let (a, b) = match layout {
            RopeLayout::Split => (i, i + n),
            RopeLayout::Interleaved => (2 * i, 2 * i + 1),
        };
        let (x, y) = (f64::from(head[a]), f64::from(head[b]));
        (head[a], head[b]) = ((x * cos - y * sin) as f32, (x * sin + y * cos) as f32);
    }
}
