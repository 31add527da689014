//! F-PIPE-178: rows and widths of everything that is computed.

use engine::program::Stage;

use crate::formula::Known;
use crate::lab::{open, probe, watch_parts};
use crate::subject::Subject;
use crate::verdict::{Attempt, Refutation, Tally};

/// Layer output shapes correct: every operation writes the rows of the batch, as wide as the hyper-parameters say.
pub fn f_pipe_178(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "every operation of both fixtures and six forged models, watched in batches of 1, 2, 16, 17, 64 and 65 rows",
    );
    let mut models = vec![Known::fixture(s, "q8_0")?, Known::fixture(s, "q4_k_m")?];
    let names =
        ["qwen2-f16", "qwen2-mha-q8_0", "qwen2-gqa4-q4_k", "qwen2-uneven-q8_0", "llama-f32", "llama-head128-q8_0"];
    models.extend(Known::all_forged(s, &names)?);
    for known in &models {
        let mut model = open(s, &known.path, super::WATCHED)?;
        let ids = probe(&model, 165)?;
        let (q, kv) = (known.heads * known.head_dim, known.kv_heads * known.head_dim);
        // In these models the heads make up the width of the stream.
        let stream = q;
        let of_layer = [
            (Stage::AttentionNorm, stream),
            (Stage::Q, q),
            (Stage::K, kv),
            (Stage::V, kv),
            (Stage::RopeQ, q),
            (Stage::RopeK, kv),
            (Stage::Attention, q),
            (Stage::AttentionOutput, stream),
            (Stage::AttentionAdd, stream),
            (Stage::FfnNorm, stream),
            (Stage::FfnGate, known.ffn),
            (Stage::FfnUp, known.ffn),
            (Stage::FfnAct, known.ffn),
            (Stage::FfnDown, stream),
            (Stage::FfnAdd, stream),
        ];
        let of_layers = (0..known.layers).flat_map(|layer| of_layer.map(|(stage, width)| (layer, stage, width)));
        let wanted: Vec<(usize, Stage, usize)> =
            [(0, Stage::Embed, stream), (0, Stage::OutputNorm, stream)].into_iter().chain(of_layers).collect();
        for (start, seen) in watch_parts(&mut model, &ids, &[1, 2, 16, 17, 64, 65])? {
            let rows = seen.rows;
            for &(layer, stage, width) in &wanted {
                let len = seen.of(layer, stage)?.len();
                t.hold(len == rows * width, || {
                    let at = format!("{}, layer {layer}, {stage:?}, rows from {start}", known.name);
                    let observed = format!("{len} values of {rows} rows ({at})");
                    Refutation::new("an operation has the width of its table", observed, format!("{rows} x {width}"))
                })?;
            }
            let widths: Vec<usize> = seen.outputs.iter().map(|row| row.values.len()).collect();
            t.equal(&format!("{}: logits of each row", known.name), &widths, &vec![known.vocab; rows])?;
            let others = seen.values.keys().filter(|(_, stage)| *stage != Stage::Logits as u16).count();
            t.equal(&format!("{}: operations seen", known.name), &others, &wanted.len())?;
        }
        t.number(&format!("{}: operations", known.name), wanted.len() as f64);
    }
    t.done()
}
