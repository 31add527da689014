//! Families 22 to 29: what the metadata says of a model, against itself and against the tensors.

use std::io;

use engine::Kind::{Malformed, TooLarge, Unsupported};
use engine::Place;

use super::At::{Key, Tensor};
use super::{Bad, Row, files, tiny};
use crate::forge::gguf::{Value, Writer};

const ARCHITECTURE: &str = "general.architecture";
const LAYERS: &str = "qwen2.block_count";
const HEADS: &str = "qwen2.attention.head_count";
const KV_HEADS: &str = "qwen2.attention.head_count_kv";
const WIDTH: &str = "qwen2.embedding_length";
const FFN: &str = "qwen2.feed_forward_length";
const CONTEXT: &str = "qwen2.context_length";
const EPSILON: &str = "qwen2.attention.layer_norm_rms_epsilon";
const BASE: &str = "qwen2.rope.freq_base";
const ROTATED: &str = "qwen2.rope.dimension_count";
const SCALING: &str = "qwen2.rope.scaling.type";
const FACTOR: &str = "qwen2.rope.scaling.factor";
const EMBEDDING: &str = "token_embd.weight";

const ROWS: &[Row] = &[
    ("22: no architecture", Malformed, Key(ARCHITECTURE), |w| w.remove(ARCHITECTURE)),
    ("22: an architecture without a name", Unsupported, Key(ARCHITECTURE), |w| w.replace(ARCHITECTURE, "")),
    ("22: an architecture in capitals", Unsupported, Key(ARCHITECTURE), |w| w.replace(ARCHITECTURE, "QWEN2")),
    ("22: an architecture that is a path", Unsupported, Key(ARCHITECTURE), |w| w.replace(ARCHITECTURE, "../../etc")),
    ("22: an architecture that is a number", Malformed, Key(ARCHITECTURE), |w| w.replace(ARCHITECTURE, 7u32)),
    ("23: no layers", Malformed, Key(LAYERS), |w| w.replace(LAYERS, 0u32)),
    ("23: 513 layers", TooLarge, Key(LAYERS), |w| w.replace(LAYERS, 513u32)),
    ("23: 2^31 layers", TooLarge, Key(LAYERS), |w| w.replace(LAYERS, 1u32 << 31)),
    ("23: 10^18 layers", TooLarge, Key(LAYERS), |w| w.replace(LAYERS, Value::U64(1_000_000_000_000_000_000))),
    ("23: -1 layers", Malformed, Key(LAYERS), |w| w.replace(LAYERS, Value::I32(-1))),
    ("23: layers in words", Malformed, Key(LAYERS), |w| w.replace(LAYERS, "one")),
    ("23: no number of layers", Malformed, Key(LAYERS), |w| w.remove(LAYERS)),
    ("23: one layer more than there are", Malformed, Tensor("blk.1.attn_norm.weight"), |w| w.replace(LAYERS, 2u32)),
    ("24: no heads", Malformed, Key(HEADS), |w| w.replace(HEADS, 0u32)),
    ("24: heads that do not divide the width", Malformed, Key(HEADS), |w| w.replace(HEADS, 7u32)),
    ("24: 4097 heads", TooLarge, Key(HEADS), |w| w.replace(HEADS, 4097u32)),
    ("24: heads layer by layer", Malformed, Key(HEADS), |w| w.replace(HEADS, Value::i32s([2]))),
    ("24: other heads than the tensors have", Malformed, Tensor("blk.0.attn_k.bias"), |w| w.replace(HEADS, 4u32)),
    ("24: heads of an odd width", Malformed, Key(HEADS), |w| {
        w.replace(HEADS, 32u32);
        w.remove(ROTATED);
    }),
    ("24: no K/V heads", Malformed, Key(KV_HEADS), |w| w.replace(KV_HEADS, 0u32)),
    ("24: more K/V heads than heads", Malformed, Key(KV_HEADS), |w| w.replace(KV_HEADS, 4u32)),
    ("24: K/V heads that do not divide the heads", Malformed, Key(KV_HEADS), |w| w.replace(KV_HEADS, 3u32)),
    ("24: K/V heads layer by layer", Malformed, Key(KV_HEADS), |w| w.replace(KV_HEADS, Value::i32s([1]))),
    ("24: other K/V heads than the tensors have", Malformed, Tensor("blk.0.attn_k.bias"), |w| {
        w.replace(KV_HEADS, 2u32);
    }),
    ("25: another width than the tensors have", Malformed, Tensor(EMBEDDING), |w| w.replace(WIDTH, 64u32)),
    ("25: no width", Malformed, Key(WIDTH), |w| w.replace(WIDTH, 0u32)),
    ("25: a width of 2^21", TooLarge, Key(WIDTH), |w| w.replace(WIDTH, 1u32 << 21)),
    ("25: a feed-forward width of 0", Malformed, Key(FFN), |w| w.replace(FFN, 0u32)),
    ("25: a feed-forward width of 2^21", TooLarge, Key(FFN), |w| w.replace(FFN, 1u32 << 21)),
    ("25: another feed-forward width", Malformed, Tensor("blk.0.ffn_gate.weight"), |w| w.replace(FFN, 96u32)),
    ("25: no context", Malformed, Key(CONTEXT), |w| w.replace(CONTEXT, 0u32)),
    ("25: 2^32 - 1 positions", TooLarge, Key(CONTEXT), |w| w.replace(CONTEXT, u32::MAX)),
    ("26: a base of 0", Malformed, Key(BASE), |w| w.replace(BASE, 0f32)),
    ("26: a base of -1", Malformed, Key(BASE), |w| w.replace(BASE, -1f32)),
    ("26: a base that is no number", Malformed, Key(BASE), |w| w.replace(BASE, f32::NAN)),
    ("26: an infinite base", Malformed, Key(BASE), |w| w.replace(BASE, f32::INFINITY)),
    ("26: a base by which angles overflow", Malformed, Key(BASE), |w| w.replace(BASE, Value::F64(1e-300))),
    ("26: 0 rotated elements", Malformed, Key(ROTATED), |w| w.replace(ROTATED, 0u32)),
    ("26: more rotated elements than a head has", Malformed, Key(ROTATED), |w| w.replace(ROTATED, 18u32)),
    ("26: an odd number of rotated elements", Malformed, Key(ROTATED), |w| w.replace(ROTATED, 15u32)),
    ("26: 2^64 - 2 rotated elements", Malformed, Key(ROTATED), |w| w.replace(ROTATED, Value::U64(u64::MAX - 1))),
    ("26: an unknown scaling", Unsupported, Key(SCALING), |w| w.replace(SCALING, "magic")),
    ("26: a factor of 0", Malformed, Key(FACTOR), |w| scaled(w, "linear", 0.0)),
    ("26: a factor of -4", Malformed, Key(FACTOR), |w| scaled(w, "yarn", -4.0)),
    ("26: a factor that is no number", Malformed, Key(FACTOR), |w| scaled(w, "yarn", f64::NAN)),
    ("26: a factor by which angles overflow", Malformed, Key(BASE), |w| scaled(w, "linear", 1e-300)),
    ("27: no epsilon", Malformed, Key(EPSILON), |w| w.remove(EPSILON)),
    ("27: an epsilon of 0", Malformed, Key(EPSILON), |w| w.replace(EPSILON, 0f32)),
    ("27: an epsilon that is 0 in f32", Malformed, Key(EPSILON), |w| w.replace(EPSILON, Value::F64(1e-60))),
    ("27: an epsilon of -1", Malformed, Key(EPSILON), |w| w.replace(EPSILON, -1f32)),
    ("27: an epsilon of 1", Malformed, Key(EPSILON), |w| w.replace(EPSILON, 1f32)),
    ("27: an epsilon that is no number", Malformed, Key(EPSILON), |w| w.replace(EPSILON, f32::NAN)),
    ("28: no embedding table", Malformed, Tensor(EMBEDDING), |w| lose(w, EMBEDDING)),
    ("28: no last norm", Malformed, Tensor("output_norm.weight"), |w| lose(w, "output_norm.weight")),
    ("28: a matrix is missing", Malformed, Tensor("blk.0.ffn_down.weight"), |w| lose(w, "blk.0.ffn_down.weight")),
    ("28: a bias is missing", Malformed, Tensor("blk.0.attn_q.bias"), |w| lose(w, "blk.0.attn_q.bias")),
    ("29: fewer rows than tokens", Malformed, Tensor(EMBEDDING), |w| w.tensor_named(EMBEDDING).dims[1] = 11),
    ("29: one row for all tokens", Malformed, Tensor(EMBEDDING), |w| w.tensor_named(EMBEDDING).dims[1] = 1),
];

fn scaled(w: &mut Writer, kind: &str, factor: f64) {
    w.set(SCALING, kind);
    w.set(FACTOR, Value::F64(factor));
}

fn lose(w: &mut Writer, tensor: &str) {
    w.tensors.retain(|t| t.name != tensor.as_bytes());
}

/// One file for each.
pub fn all() -> io::Result<Vec<Bad>> {
    files("hyper", tiny, ROWS)
}

/// Those of one family, by its number.
pub fn family(number: &str) -> io::Result<Vec<Bad>> {
    let begins = format!("hyper: {number}: ");
    Ok(all()?.into_iter().filter(|bad| bad.what.starts_with(&begins)).collect())
}

/// Whether the refusal is about heads: a family of its own within one.
pub fn about_heads(bad: &Bad) -> bool {
    matches!(&bad.at, Place::Key(key) if key.contains("head_count")) || bad.what.contains("heads")
}
