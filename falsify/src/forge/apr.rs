//! `.apr` files, written by others: `apr-format`, the crate that aprender itself writes them with, and, for realizar's
//! dialect, a few lines after its converter. Nothing of `engine` is used.
//!
//! The models are those that the forge writes as GGUF, so that answers to one hold for the other.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use apr_format::v2::{AprV2Metadata, AprV2Writer, TensorDType};
use compute::Format;
use serde_json::{Value, json};

use super::gguf::{self, Data};
use super::models::{Arch, Model};
use super::random::Random;

/// What a file is made of.
#[derive(Clone, Copy)]
pub enum Bundle {
    /// A model as aprender writes it.
    Aprender(fn() -> Model),
    /// The same with its matrices, given as F32, in aprender's own four-bit or eight-bit numbers.
    Int4(fn() -> Model),
    /// Eight bits.
    Int8(fn() -> Model),
    /// A model as realizar's converter writes it. One of holes takes no room on the disk.
    Realizar(fn() -> Model),
    /// The first with its numbers, F32, rounded to eighths: few different ones, so that it can be compressed.
    Coarse(fn() -> Model),
    /// That, compressed.
    Lz4(fn() -> Model),
    /// That, compressed.
    Zstd(fn() -> Model),
    /// No model: [`TENSORS`].
    Tensors,
    /// For the fuzzer to begin with: [`small`], compressed by this flag if it is not 0.
    Seed(u8),
}

/// HuggingFace's names for GGUF's.
const NAMES: &[(&str, &str)] = &[
    ("token_embd.", "model.embed_tokens."),
    ("output_norm.", "model.norm."),
    ("output.", "lm_head."),
    ("attn_norm.", "input_layernorm."),
    ("ffn_norm.", "post_attention_layernorm."),
    ("attn_q.", "self_attn.q_proj."),
    ("attn_k.", "self_attn.k_proj."),
    ("attn_v.", "self_attn.v_proj."),
    ("attn_output.", "self_attn.o_proj."),
    ("ffn_gate.", "mlp.gate_proj."),
    ("ffn_up.", "mlp.up_proj."),
    ("ffn_down.", "mlp.down_proj."),
];

/// A name as importers to `.apr` write it.
pub fn name_of(gguf: &str) -> String {
    let (layer, rest) = match gguf.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, rest)) => (format!("model.layers.{layer}."), rest),
        None => (String::new(), gguf),
    };
    let found = NAMES.iter().find_map(|(theirs, ours)| Some(format!("{ours}{}", rest.strip_prefix(theirs)?)));
    format!("{layer}{}", found.unwrap_or_else(|| rest.to_string()))
}

/// Tensors of every dtype: name, dtype, shape. Values are those of [`values`].
pub const TENSORS: &[(&str, TensorDType, [usize; 2])] = &[
    ("f32", TensorDType::F32, [3, 7]),
    ("f16", TensorDType::F16, [5, 9]),
    ("bf16", TensorDType::BF16, [2, 33]),
    ("int4", TensorDType::AprQ4, [4, 64]),
    // Blocks run on from one row into the next, and the last one is not full.
    ("int4.uneven", TensorDType::AprQ4, [5, 40 - 3]),
    ("int8", TensorDType::AprQ8, [4, 64]),
    ("int8.uneven", TensorDType::AprQ8, [3, 11]),
];

/// What a tensor of [`TENSORS`] was before it was encoded: a spread of magnitudes, both signs, some zeros.
pub fn values(name: &str, n: usize) -> Vec<f32> {
    let mut random = Random::new(61, name);
    (0..n).map(|i| if i % 13 == 5 { 0.0 } else { random.normal() * [0.02, 1.0, 7.5][i % 3] }).collect()
}

impl Bundle {
    /// Writes the file.
    pub fn write(self, path: &Path) -> io::Result<()> {
        let Bundle::Realizar(model) = self else { return std::fs::write(path, self.bytes()?) };
        let (front, tensors, end) = realizar(&model())?;
        let mut file = File::create(path)?;
        file.write_all(&front)?;
        for (at, data) in tensors {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&data)?;
        }
        file.set_len(end)
    }

    /// The file, if it is one of aprender's.
    pub fn bytes(self) -> io::Result<Vec<u8>> {
        match self {
            Bundle::Aprender(model) => aprender(&model(), None),
            Bundle::Int4(model) => aprender(&model(), Some(TensorDType::AprQ4)),
            Bundle::Int8(model) => aprender(&model(), Some(TensorDType::AprQ8)),
            Bundle::Realizar(_) => Err(io::Error::other("realizar's files are only written")),
            Bundle::Coarse(model) => aprender(&model(), Some(TensorDType::F32)),
            Bundle::Lz4(model) => Ok(compressed(&Bundle::Coarse(model).bytes()?, 1)),
            Bundle::Zstd(model) => Ok(compressed(&Bundle::Coarse(model).bytes()?, 2)),
            Bundle::Tensors => tensors(),
            Bundle::Seed(0) => small(),
            Bundle::Seed(flag) => Ok(compressed(&small()?, flag)),
        }
    }
}

/// Every key of a model, as aprender's importer of GGUF files has it.
fn describe(model: &Model) -> AprV2Metadata {
    let words = (model.words)().padded_to(model.padded);
    let mut m = AprV2Metadata::new(model.arch.name());
    m.name = Some(model.name.clone());
    m.original_format = Some("gguf".into());
    m.architecture = Some(model.arch.name().into());
    m.hidden_size = Some(model.hidden);
    m.num_layers = Some(model.layers);
    m.num_heads = Some(model.heads);
    m.num_kv_heads = Some(model.kv_heads);
    m.vocab_size = Some(model.rows);
    m.intermediate_size = Some(model.ffn);
    m.max_position_embeddings = Some(model.context as usize);
    m.rope_theta = Some(model.theta);
    m.rope_type = Some(if model.arch == Arch::Qwen2 { 2 } else { 0 });
    m.rms_norm_eps = Some(1e-6);
    m.chat_template = Some(words.template.into());
    for (key, value) in [
        ("vocabulary", json!(words.tokens)),
        ("vocab_size", json!(words.tokens.len())),
        ("merges", json!(words.merges())),
        ("token_type", json!(words.types)),
        ("model", json!("gpt2")),
        ("pre_type", json!(words.pre)),
        ("bos_token_id", json!(words.bos)),
        ("eos_token_id", json!(words.eos)),
        ("padding_token_id", json!(words.pad)),
        ("add_bos_token", json!(words.add_bos)),
    ] {
        m.custom.insert(format!("tokenizer.{key}"), value);
    }
    m
}

fn aprender(model: &Model, quantised: Option<TensorDType>) -> io::Result<Vec<u8>> {
    let mut w = AprV2Writer::new(describe(model));
    for t in model.file()?.tensors {
        let (name, shape, bytes) = taken(t.name, &t.dims, t.data)?;
        let name = name_of(&name);
        match quantised.filter(|_| shape.len() > 1) {
            Some(TensorDType::AprQ4) => w.add_q4_tensor(name, shape, &floats(&bytes)),
            Some(TensorDType::AprQ8) => w.add_q8_tensor(name, shape, &floats(&bytes)),
            Some(_) => {
                let coarse: Vec<f32> = floats(&bytes).iter().map(|x| (x * 8.0).round() / 8.0).collect();
                w.add_f32_tensor(name, shape, &coarse);
            }
            None => {
                let dtype = TensorDType::from_u8(t.type_id as u8).filter(|d| *d as u32 == t.type_id);
                let dtype = dtype.ok_or_else(|| io::Error::other(format!("apr-format has no type {}", t.type_id)))?;
                w.add_tensor(name, dtype, shape, bytes);
            }
        }
    }
    w.write().map_err(io::Error::other)
}

/// Name, extents slowest first, and bytes.
fn taken(name: Vec<u8>, dims: &[u64], data: Data) -> io::Result<(String, Vec<usize>, Vec<u8>)> {
    let Data::Bytes(bytes) = data else { return Err(io::Error::other("a tensor of holes")) };
    let name = String::from_utf8(name).map_err(io::Error::other)?;
    Ok((name, dims.iter().rev().map(|&d| d as usize).collect(), bytes))
}

/// Numbers of little-endian F32.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn tensors() -> io::Result<Vec<u8>> {
    let mut m = describe(&Model::qwen2(Format::F32));
    m.custom.clear();
    let mut w = AprV2Writer::new(m);
    for &(name, dtype, shape) in TENSORS {
        let values = values(name, shape.iter().product());
        let shape = shape.to_vec();
        match dtype {
            TensorDType::F32 => w.add_f32_tensor(name, shape, &values),
            TensorDType::F16 => w.add_f16_tensor(name, shape, &values),
            TensorDType::AprQ4 => w.add_q4_tensor(name, shape, &values),
            TensorDType::AprQ8 => w.add_q8_tensor(name, shape, &values),
            // The upper half of an F32, cut off: BF16 without rounding.
            _ => w.add_tensor(
                name,
                dtype,
                shape,
                values.iter().flat_map(|x| x.to_bits().to_le_bytes()[2..].to_vec()).collect(),
            ),
        }
    }
    w.write().map_err(io::Error::other)
}

/// What `GgufToAprQ4KConverter` of realizar writes: GGUF's names and type numbers, HuggingFace's names for sizes, one bit
/// in the flags, no pre-tokenizer, no checksum at the end. Gives everything before the data, what of the data is no hole
/// with its place, and the length of the file.
fn realizar(model: &Model) -> io::Result<Realizar> {
    let file = model.file()?;
    let words = (model.words)().padded_to(model.padded);
    let metadata: Value = json!({
        "model_type": "transformer_lm_q4k",
        "architecture": model.arch.name(),
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "vocab_size": model.rows,
        "intermediate_size": model.ffn,
        "max_position_embeddings": model.context,
        "rope_theta": model.theta,
        "rope_type": 2,
        "rms_norm_eps": 1e-6f32,
        "quantization": {"quant_type": "Q4_K", "bits": 4, "block_size": 256, "symmetric": true},
        "tokenizer.vocab_size": words.tokens.len(),
        "tokenizer.vocabulary": words.tokens,
        "tokenizer.merges": words.merges(),
        "tokenizer.bos_token_id": words.bos,
        "tokenizer.eos_token_id": words.eos,
        "tokenizer.model": "gpt2",
        "chat_template": words.template,
    });
    let mut tensors = file.tensors;
    tensors.sort_by(|a: &gguf::Tensor, b| a.name.cmp(&b.name));
    let (mut index, mut data, mut end) = (Vec::new(), Vec::new(), 0u64);
    let count = tensors.len() as u32;
    for t in tensors {
        let name = String::from_utf8(t.name).map_err(io::Error::other)?;
        index.extend((name.len() as u16).to_le_bytes());
        index.extend(name.bytes());
        index.extend([t.type_id as u8, t.dims.len() as u8]);
        t.dims.iter().rev().for_each(|d| index.extend(d.to_le_bytes()));
        index.extend(end.to_le_bytes());
        let len = match t.data {
            Data::Bytes(bytes) => {
                let len = bytes.len() as u64;
                data.push((end, bytes));
                len
            }
            Data::Hole(len) | Data::Made(len, _) => len,
        };
        index.extend(len.to_le_bytes());
        end += len.next_multiple_of(64);
    }
    let json = metadata.to_string().into_bytes();
    let mut out = vec![0; 64];
    out.extend(&json);
    pad(&mut out);
    let index_at = out.len() as u64;
    out.extend(index);
    pad(&mut out);
    let data_at = out.len() as u64;
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"APR\0\x02\0\x20\0");
    put(8, &count.to_le_bytes());
    put(12, &64u64.to_le_bytes());
    put(20, &(json.len() as u32).to_le_bytes());
    put(24, &index_at.to_le_bytes());
    put(32, &data_at.to_le_bytes());
    sum_header(&mut out);
    Ok((out, data.into_iter().map(|(at, bytes)| (data_at + at, bytes)).collect(), data_at + end))
}

/// Front, pieces of data with their places, length.
type Realizar = (Vec<u8>, Vec<(u64, Vec<u8>)>, u64);

/// A bundle of a few tensors, small enough to be damaged everywhere.
pub fn small() -> io::Result<Vec<u8>> {
    let mut m = AprV2Metadata::new("x");
    m.architecture = Some("qwen2".into());
    (m.hidden_size, m.num_layers, m.num_heads) = (Some(8), Some(1), Some(1));
    (m.intermediate_size, m.max_position_embeddings, m.rms_norm_eps) = (Some(8), Some(8), Some(1e-6));
    let mut w = AprV2Writer::new(m);
    w.add_f32_tensor("a", vec![2, 3], &[1.0; 6]);
    w.add_q4_tensor("b", vec![3, 5], &[0.5; 15]);
    w.add_q8_tensor("c", vec![4], &[0.5; 4]);
    w.write().map_err(io::Error::other)
}

/// Everything before the data of a bundle of one F32 tensor of `n` numbers, which may be more than memory holds: the
/// data and nothing else has to follow.
pub fn front_of(n: usize) -> io::Result<Vec<u8>> {
    let mut w = AprV2Writer::new(describe(&Model::qwen2(Format::F32)));
    w.add_tensor("t", TensorDType::F32, vec![n], vec![0; 4]);
    let mut bytes = w.write().map_err(io::Error::other)?;
    let size = bytes.windows(8).rposition(|w| w == 4u64.to_le_bytes()).ok_or_else(|| io::Error::other("no size"))?;
    bytes[size..size + 8].copy_from_slice(&(4 * n as u64).to_le_bytes());
    // Realizar's flags: no checksum at the end.
    bytes[6..8].copy_from_slice(&0x20u16.to_le_bytes());
    sum_header(&mut bytes);
    // The padded data and the checksum.
    bytes.truncate(bytes.len() - 64 - 4);
    Ok(bytes)
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(64), 0);
}

/// A file compressed as realizar reads it: `flag` 1 is LZ4, 2 is Zstandard.
pub fn compressed(plain: &[u8], flag: u8) -> Vec<u8> {
    let mut head = plain[..64].to_vec();
    head[6] |= flag;
    sum_header(&mut head);
    // The checksum at the end is of the file as it was, with this header.
    let mut image = [&head, &plain[64..]].concat();
    sum_end(&mut image);
    let rest = match flag {
        1 => lz4_flex::block::compress_prepend_size(&image[64..]),
        _ => ruzstd::encoding::compress_to_vec(&image[64..], ruzstd::encoding::CompressionLevel::Fastest),
    };
    [head, rest].concat()
}

/// Makes the checksum of the header right.
pub fn sum_header(file: &mut [u8]) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&file[..40]);
    crc.update(&file[44..64]);
    let sum = crc.finalize();
    file[40..44].copy_from_slice(&sum.to_le_bytes());
}

/// Makes the checksum at the end right.
pub fn sum_end(file: &mut [u8]) {
    let body = file.len() - 4;
    let sum = crc32fast::hash(&file[..body]);
    file[body..].copy_from_slice(&sum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_importers() {
        for (theirs, ours) in [
            ("blk.12.attn_q.bias", "model.layers.12.self_attn.q_proj.bias"),
            ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
            ("output_norm.weight", "model.norm.weight"),
            ("output.weight", "lm_head.weight"),
            ("rope_freqs.weight", "rope_freqs.weight"),
        ] {
            assert_eq!(name_of(theirs), ours);
        }
    }

    #[test]
    fn the_fuzzer_begins_with_these() {
        let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/apr"));
        for (name, flag) in [("plain", 0), ("lz4", 1), ("zstd", 2)] {
            let kept = std::fs::read(folder.join(format!("seed-{name}.apr"))).unwrap();
            assert_eq!(kept, Bundle::Seed(flag).bytes().unwrap(), "falsify forge apr-seed-{name} makes it again");
        }
    }

    #[test]
    fn sums_are_those_of_the_crate() {
        let file = tensors().unwrap();
        let mut again = file.clone();
        sum_header(&mut again);
        sum_end(&mut again);
        assert_eq!(again, file);
    }
}
