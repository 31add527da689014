//! One run of a short text under a tap. A layer is looked at as soon as it is complete and then forgotten, so that the
//! check of a large model needs the memory of one layer's activations.

use std::cell::Cell;
use std::collections::BTreeMap;

use compute::Tag;
use compute::backend::Tap;

use super::embedding::Buffers;
use super::{
    ATTENTION, EMBEDDING, FFN, Fault, HEAD, NORM, Notes, QKV, STAGES, attention, embedding, ffn, head, norm,
    projection, rope,
};
use crate::error::Result;
use crate::model::Model;
use crate::program::{Stage, untag};
use crate::session::Loaded;

/// What is run. Nothing about it matters but that it is text.
const TEXT: &str = "In the morning the old ferry leaves the harbour at 7:45, crosses the bay and comes back before noon. \
    def area(w, h): return w * h";
/// Its length in tokens. Attention is judged from position 8 on.
const POSITIONS: usize = 32;

/// One layer's activations.
pub struct Layer<'a> {
    /// From 0.
    pub index: usize,
    /// Positions.
    pub rows: usize,
    /// The residual stream before it, `[rows, hidden]`.
    pub input: &'a [f32],
    /// The output of each stage.
    pub buffers: &'a Buffers,
    /// Sum of the layers' entropies.
    pub entropy: &'a Cell<f64>,
    least: &'a Cell<[f64; STAGES.len()]>,
}

impl Layer<'_> {
    /// Remembers the smallest measurement of a stage.
    pub fn least(&self, stage: usize, value: f64) {
        let mut all = self.least.get();
        all[stage] = all[stage].min(value);
        self.least.set(all);
    }
}

/// Runs the text and lets every stage look.
pub fn run(loaded: &mut Loaded, notes: &mut Notes) -> Result<()> {
    let ids = loaded.tokenizer.encode_text(TEXT)?;
    let (vocab, count) = (loaded.model.hyper.vocab, POSITIONS.min(loaded.context));
    let ids: Vec<u32> = ids.into_iter().filter(|id| (*id as usize) < vocab).cycle().take(count).collect();
    let (mut watch, output) = loaded.run_watched(&ids, |model| Watch::new(model, &ids, notes))?;
    watch.complete();
    let (last, layers) = (watch.last.take(), watch.layers);
    let (entropy, least) = (watch.entropy.get() / layers.max(1) as f64, watch.least.get());
    if layers > 0 {
        attention::overall(entropy, least[ATTENTION], notes);
    }
    //= F-CHECK-215
    notes.say(QKV, format!("{layers} layers, standard deviation from {:.2}", least[QKV]));
    //= F-CHECK-217
    notes.say(FFN, format!("{layers} layers, each adds at least {:.1e} of its input", least[FFN]));
    //= F-CHECK-218
    notes.say(NORM, format!("RMS 1 before the weight in {} norms", 2 * layers + 1));
    head::check(&loaded.model, last.as_deref(), &output.rows, notes);
    Ok(())
}

/// The tap.
struct Watch<'a> {
    model: &'a Model,
    ids: &'a [u32],
    notes: &'a mut Notes,
    rows: usize,
    /// The residual stream before the layer that runs.
    stream: Vec<f32>,
    index: usize,
    buffers: Buffers,
    /// Complete ones.
    layers: usize,
    /// After the last norm.
    last: Option<Vec<f32>>,
    entropy: Cell<f64>,
    least: Cell<[f64; STAGES.len()]>,
}

impl<'a> Watch<'a> {
    fn new(model: &'a Model, ids: &'a [u32], notes: &'a mut Notes) -> Watch<'a> {
        Watch {
            model,
            ids,
            notes,
            rows: ids.len(),
            stream: Vec::new(),
            index: 0,
            buffers: BTreeMap::new(),
            layers: 0,
            last: None,
            entropy: Cell::new(0.0),
            least: Cell::new([f64::INFINITY; STAGES.len()]),
        }
    }

    /// The layer is over: its stages look at it.
    fn complete(&mut self) {
        let buffers = std::mem::take(&mut self.buffers);
        if buffers.is_empty() || self.index >= self.model.weights.blocks.len() || self.stream.is_empty() {
            return;
        }
        self.layers += 1;
        let (model, notes) = (self.model, &mut *self.notes);
        let layer = Layer {
            index: self.index,
            rows: self.rows,
            input: &self.stream,
            buffers: &buffers,
            entropy: &self.entropy,
            least: &self.least,
        };
        let block = &model.weights.blocks[self.index];
        let after = layer.of(Stage::AttentionAdd).unwrap_or(layer.input);
        for (stage, before, weight) in
            [(Stage::AttentionNorm, layer.input, &block.attention_norm), (Stage::FfnNorm, after, &block.ffn_norm)]
        {
            match layer.of(stage) {
                Some(normed) => norm::check(model, Some(self.index), weight, before, normed, notes),
                None => notes.fail(NORM, Fault::new("a norm did not run", "the program lacks it").layer(self.index)),
            }
        }
        projection::layer(&layer, model, notes);
        rope::layer(&layer, model, notes);
        attention::layer(&layer, model, notes);
        ffn::layer(&layer, model, notes);
        let next = layer.of(Stage::FfnAdd).unwrap_or(after).to_vec();
        self.stream = next;
    }

    /// Names the first operation whose output is not finite, under the stage it belongs to.
    fn finite(&mut self, layer: usize, stage: Stage, values: &[f32]) {
        let Some(at) = values.iter().position(|x| !x.is_finite()) else { return };
        let w = &self.model.weights;
        let Some(block) = w.blocks.get(layer) else { return };
        let (number, tensor) = match stage {
            Stage::Embed => (EMBEDDING, &w.token_embedding),
            Stage::AttentionNorm => (NORM, &block.attention_norm),
            Stage::FfnNorm => (NORM, &block.ffn_norm),
            Stage::OutputNorm => (NORM, &w.output_norm),
            Stage::Q | Stage::RopeQ => (QKV, &block.q.weight),
            Stage::K | Stage::RopeK => (QKV, &block.k.weight),
            Stage::V => (QKV, &block.v.weight),
            Stage::Attention | Stage::AttentionOutput | Stage::AttentionAdd => {
                (ATTENTION, &block.attention_output.weight)
            }
            Stage::FfnGate => (FFN, &block.gate.weight),
            Stage::FfnUp => (FFN, &block.up.weight),
            Stage::FfnAct | Stage::FfnDown | Stage::FfnAdd => (FFN, &block.down.weight),
            Stage::Logits => (HEAD, &w.output),
        };
        let what =
            format!("{} at position {} after {stage:?}", values[at], at / (values.len() / self.rows.max(1)).max(1));
        let fault = Fault::new(what, "the tensor is damaged, or its numbers overflow").tensor(&tensor.name);
        let fault = if matches!(stage, Stage::Embed | Stage::OutputNorm) { fault } else { fault.layer(layer) };
        // What comes after it is not finite either, and says nothing more.
        if !self.notes.failed() {
            self.notes.fail(number, fault);
        }
    }
}

impl Tap for Watch<'_> {
    fn observe(&mut self, _: usize, tag: Tag, rows: usize, values: &[f32]) {
        let Some((layer, stage)) = untag(tag) else { return };
        self.rows = rows;
        self.finite(layer, stage, values);
        match stage {
            Stage::Embed => {
                embedding::lookup(self.model, self.ids, values, self.notes);
                self.stream = values.to_vec();
            }
            Stage::OutputNorm => {
                self.complete();
                norm::check(self.model, None, &self.model.weights.output_norm, &self.stream, values, self.notes);
                self.last = Some(values.to_vec());
            }
            _ => {
                if layer != self.index {
                    self.complete();
                    self.index = layer;
                }
                self.buffers.insert(stage as u16, values.to_vec());
            }
        }
    }
}
