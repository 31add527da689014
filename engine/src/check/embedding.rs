//! Stage 2: every token has a vector, and the lookup finds it.

use std::collections::BTreeMap;

use super::inspect::Layer;
use super::numbers::{apart, rms};
use super::{EMBEDDING, Fault, Notes};
use crate::model::Model;
use crate::program::Stage;
use crate::session::Loaded;

/// Rows of words are finite and not zero. Padding rows may be zero, and so may control tokens that no text has.
pub fn rows(loaded: &Loaded, notes: &mut Notes) {
    let (table, tokenizer) = (&loaded.model.weights.token_embedding, &loaded.tokenizer);
    let mut lengths = Vec::new();
    for id in 0..tokenizer.vocab_size().min(table.rows) as u32 {
        let Some(row) = table.row_slice(id as usize, 1) else { continue };
        if tokenizer.is_filler(id) || tokenizer.is_control(id) {
            continue;
        }
        let length = rms(&row.to_f32());
        if length == 0.0 || !length.is_finite() {
            let what = format!("the vector of token {id} has length {length}");
            notes.fail(EMBEDDING, Fault::new(what, "the embedding table is damaged").tensor(&table.name));
            break;
        }
        lengths.push(length);
    }
    lengths.sort_by(f64::total_cmp);
    let middle = lengths.get(lengths.len() / 2).copied().unwrap_or_default();
    //= F-CHECK-213
    notes.say(EMBEDDING, format!("{} vectors, none of them zero, median RMS {middle:.3}", lengths.len()));
}

/// What the backend looked up is what the file has there.
pub fn lookup(model: &Model, ids: &[u32], seen: &[f32], notes: &mut Notes) {
    let table = &model.weights.token_embedding;
    for (&id, x) in ids.iter().zip(seen.chunks_exact(model.hyper.hidden)) {
        let expected = table.row_slice(id as usize, 1).map(|r| r.to_f32()).unwrap_or_default();
        notes.hold(EMBEDDING, apart(x, &expected) < 1e-3, || {
            Fault::new(
                format!("token {id} gets another vector than the file has for it"),
                "the backend looks up another row, or changes it",
            )
            .tensor(&table.name)
        });
    }
}

/// Buffers of one layer by stage.
pub type Buffers = BTreeMap<u16, Vec<f32>>;

impl Layer<'_> {
    /// The output of a stage, if it ran.
    pub fn of(&self, stage: Stage) -> Option<&[f32]> {
        self.buffers.get(&(stage as u16)).map(Vec::as_slice)
    }
}
