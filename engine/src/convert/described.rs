//! The description of a model in the words of the container that it goes to, with nothing left to its readers' defaults.

use std::collections::BTreeMap;

use compute::Format;
use serde_json::{Value as Json, json};

use super::atomic::Folder;
use super::rows::Rows;
use crate::arch::Presence;
use crate::error::{Error, Kind, Place, Result};
use crate::file::hf::writer::Description;
use crate::file::outgoing::{Data, Outgoing, unwritten};
use crate::file::safetensors::writer;
use crate::file::{Metadata, Tensor, Value};
use crate::model::Model;
use crate::rope;
use crate::text::{Tokenizer, exchange};

/// Keys, after the architecture or as they are, whose values llama.cpp wants as F32 and JSON has as decimals of any kind.
const SINGLES: &[&str] = &[
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "general.sampling.temp",
    "general.sampling.top_p",
    "general.sampling.min_p",
    "general.sampling.penalty_repeat",
];

/// For llama.cpp: RoPE's llama3 scaling is a tensor there, the pre-tokeniser has a name, and every row a token.
pub fn for_gguf(metadata: &mut Metadata, model: &Model) -> Result<Option<(String, Tensor)>> {
    exchange::for_gguf(metadata, model.hyper.vocab)?;
    for key in SINGLES.iter().flat_map(|key| [key.to_string(), format!("{}.{key}", model.arch.name)]) {
        if let Some(number) = metadata.float(&key)? {
            metadata.entries.insert(key, Value::Float(f64::from(number as f32)));
        }
    }
    let key = |suffix: &str| format!("{}.rope.scaling.{suffix}", model.arch.name);
    if metadata.string(&key("type"))? != Some("llama3") {
        return Ok(None);
    }
    let plain = rope::plain(model.hyper.rope_theta, 2 * model.hyper.rope.inv_freq.len());
    let scaled = model.hyper.rope.inv_freq.iter();
    let divisors: Vec<f32> = plain.iter().zip(scaled).map(|(f, scaled)| (f / f64::from(*scaled)) as f32).collect();
    // Its numbers are in the tensor now; a reader of both would scale twice.
    metadata.entries.retain(|k, _| !k.starts_with(&key("")));
    let Some(name) = model.arch.gguf.names.rope_freqs else {
        return Err(Error::new(Kind::Unsupported, "GGUF has no place for this scaling").at(Place::Key(key("type"))));
    };
    let bytes: Vec<u8> = divisors.iter().flat_map(|x| x.to_le_bytes()).collect();
    let tensor = Tensor { format: Format::F32, shape: vec![divisors.len()], bytes: bytes.into() };
    Ok(Some((name.into(), tensor)))
}

/// For HuggingFace's readers: what GGUF leaves to its readers is said, and the tokenizer is spelled out.
pub fn for_huggingface(metadata: &mut Metadata, model: &Model) -> Result<()> {
    let (h, arch) = (&model.hyper, model.arch);
    let key = |suffix: &str| format!("{}.{suffix}", arch.name);
    let mut put = |key: String, value: Value| drop(metadata.entries.insert(key, value));
    put(key("vocab_size"), Value::Unsigned(h.vocab as u64));
    put(key("attention.head_count_kv"), Value::Unsigned(h.kv_heads as u64));
    put(key("rope.freq_base"), Value::Float(h.rope_theta));
    put(key("tie_word_embeddings"), Value::Bool(model.weights.tied));
    put(key("hidden_activation"), Value::String(crate::model::act_names(arch.act)[0].into()));
    if h.heads * h.head_dim != h.hidden {
        put(key("attention.key_length"), Value::Unsigned(h.head_dim as u64));
    }
    if arch.qkv_bias == Presence::Optional {
        let biased = model.weights.blocks.iter().any(|b| [&b.q, &b.k, &b.v].iter().any(|l| l.bias.is_some()));
        if biased {
            let what = "biases of q, k and v without one of the output: HuggingFace's code has all four or none";
            return Err(
                Error::new(Kind::Unsupported, what).at(Place::Tensor(arch.gguf.names.q_bias.replace("{}", "0")))
            );
        }
        put(key("attention.bias"), Value::Bool(false));
    }
    divisors_as_numbers(metadata, model)?;
    words(metadata)
}

/// GGUF has RoPE's divisors as a tensor, of which `config.json` has no numbers.
fn divisors_as_numbers(metadata: &mut Metadata, model: &Model) -> Result<()> {
    let key = |suffix: &str| format!("{}.rope.scaling.{suffix}", model.arch.name);
    if !model.hyper.rope_scaling.contains("llama3") || metadata.string(&key("type"))? == Some("llama3") {
        return Ok(());
    }
    let name = model.layout.names.rope_freqs.unwrap_or_default();
    let Some(numbers) = rope::llama3_numbers(&model.hyper.rope, model.hyper.rope_theta, model.hyper.context) else {
        return Err(Error::new(Kind::Unsupported, "these divisors of RoPE are not those of any config.json")
            .at(Place::Tensor(name.into())));
    };
    let mut put = |suffix: &str, value: Value| drop(metadata.entries.insert(key(suffix), value));
    put("type", Value::String("llama3".into()));
    put("factor", Value::Float(numbers.factor));
    put("low_freq_factor", Value::Float(numbers.low));
    put("high_freq_factor", Value::Float(numbers.high));
    put("original_context_length", Value::Unsigned(numbers.original));
    Ok(())
}

/// Which tokens begin and end a text is said by id, and what each token is for.
fn words(metadata: &mut Metadata) -> Result<()> {
    let tokenizer = Tokenizer::from_metadata(metadata)?;
    let ids = [("bos", tokenizer.bos()), ("eos", tokenizer.eos()), ("padding", tokenizer.pad())];
    for (name, id) in ids {
        if let Some(id) = id {
            metadata.entries.insert(format!("tokenizer.ggml.{name}_token_id"), Value::Unsigned(id.into()));
        }
    }
    metadata.entries.insert("tokenizer.ggml.add_bos_token".into(), Value::Bool(tokenizer.add_bos()));
    // Old files leave it to their readers.
    let kinds = || {
        let kind = |id| Value::Unsigned(if tokenizer.is_control(id) { 3 } else { 1 });
        Value::Array((0..tokenizer.vocab_size() as u32).map(kind).collect())
    };
    metadata.entries.entry("tokenizer.ggml.token_type".into()).or_insert_with(kinds);
    exchange::for_huggingface(metadata)
}

/// What HuggingFace calls the numbers that most of the weights have.
pub fn dtype(tensors: &[(String, Rows)]) -> &'static str {
    let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, rows) in tensors {
        *bytes.entry(rows.encoding.name(rows.tensor.format)).or_default() += rows.bytes();
    }
    match bytes.into_iter().max_by_key(|(_, bytes)| *bytes) {
        Some(("F16", _)) => "float16",
        Some(("BF16", _)) => "bfloat16",
        _ => "float32",
    }
}

/// Writes the files of a folder: the description, and the weights in as many files as they need.
pub fn write(
    folder: &mut Folder,
    description: &Description,
    tensors: &[Outgoing<'_>],
    shard_bytes: u64,
    data: Data<'_>,
) -> Result<()> {
    for (name, json) in &description.files {
        put(folder, name, json)?;
    }
    let shards = shards(tensors, shard_bytes);
    let name = |i: usize| match shards.len() {
        1 => "model.safetensors".to_string(),
        n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
    };
    let mut map = serde_json::Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let theirs: Vec<Outgoing<'_>> = shard.iter().map(|&no| tensors[no].clone()).collect();
        map.extend(theirs.iter().map(|t| (t.name.to_string(), Json::from(name(i)))));
        let mut data = |no: usize, out: &mut dyn std::io::Write| data(shard[no], out);
        folder.write(&name(i), |out| writer::write(out, &description.notes, &theirs, &mut data))?;
    }
    if shards.len() > 1 {
        let total: u64 = tensors.iter().map(|t| t.bytes).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        put(folder, "model.safetensors.index.json", &index)?;
    }
    Ok(())
}

fn put(folder: &mut Folder, name: &str, json: &Json) -> Result<()> {
    folder.write(name, |out| {
        serde_json::to_writer_pretty(&mut *out, json).map_err(|e| unwritten(&e.into()))?;
        out.write_all(b"\n").map_err(|e| unwritten(&e))
    })
}

/// Tensors in order, as many in a file as fit.
fn shards(tensors: &[Outgoing<'_>], most: u64) -> Vec<Vec<usize>> {
    let mut shards = vec![Vec::new()];
    let mut bytes = 0;
    for (no, tensor) in tensors.iter().enumerate() {
        if bytes > 0 && bytes + tensor.bytes > most {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes += tensor.bytes;
        if let Some(last) = shards.last_mut() {
            last.push(no);
        }
    }
    shards
}
