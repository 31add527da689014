//! For the tests of this floor: a real vocabulary, and what the reference implementations answer (`golden/text`).

use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::Value as Json;

use super::Tokenizer;
use crate::file::{Metadata, Value};

fn read(path: &str) -> Json {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A file of golden answers.
pub fn golden(name: &str) -> Json {
    read(&format!("golden/text/{name}.json"))
}

/// A list of ids in a golden file.
pub fn ids(value: &Json) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A tokenizer of 4,096 entries, trained for this project, as a GGUF file would carry it.
pub static METADATA: LazyLock<Metadata> = LazyLock::new(metadata);

/// Made from [`METADATA`].
pub static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_metadata(&METADATA).unwrap());

fn metadata() -> Metadata {
    let file = read("scripts/fixture/tok/tokenizer.json");
    let size = 4096;
    let mut tokens: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![5_u64; size];
    for (text, id) in file["model"]["vocab"].as_object().unwrap() {
        let id = id.as_u64().unwrap() as usize;
        (tokens[id], types[id]) = (text.clone(), 1);
    }
    for token in file["added_tokens"].as_array().unwrap() {
        let (id, text) = (token["id"].as_u64().unwrap() as usize, token["content"].as_str().unwrap());
        (tokens[id], types[id]) = (text.into(), if text.starts_with("<|") { 3 } else { 4 });
    }
    let pair = |m: &Json| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap());
    let merges = file["model"]["merges"].as_array().unwrap().iter().map(pair);
    let id = |text: &str| Value::Unsigned(tokens.iter().position(|t| t == text).unwrap() as u64);
    let (eos, bos) = (id("<|im_end|>"), id("<|endoftext|>"));
    let config = read("scripts/fixture/tok/tokenizer_config.json");
    let text = |s: &str| Value::String(s.into());
    let entries = [
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("qwen2")),
        ("tokenizer.ggml.merges", Value::Array(merges.map(Value::String).collect())),
        ("tokenizer.ggml.tokens", Value::Array(tokens.into_iter().map(Value::String).collect())),
        ("tokenizer.ggml.token_type", Value::Array(types.into_iter().map(Value::Unsigned).collect())),
        ("tokenizer.ggml.eos_token_id", eos),
        ("tokenizer.ggml.bos_token_id", bos),
        ("tokenizer.chat_template", text(config["chat_template"].as_str().unwrap())),
    ];
    Metadata { entries: entries.map(|(key, value)| (key.to_string(), value)).into() }
}

/// A vocabulary of one's own: the 256 bytes, then `extra` with their types. No merges.
pub fn small(extra: &[(&str, u64)]) -> Metadata {
    let bytes = super::bpe::alphabet().map(|c| (c.to_string(), 1));
    let extra = extra.iter().map(|(text, kind)| (text.to_string(), *kind));
    let (tokens, types): (Vec<_>, Vec<_>) = bytes.into_iter().chain(extra).unzip();
    let entries = [
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("qwen2".into())),
        ("tokenizer.ggml.merges", Value::Array(Vec::new())),
        ("tokenizer.ggml.tokens", Value::Array(tokens.into_iter().map(Value::String).collect())),
        ("tokenizer.ggml.token_type", Value::Array(types.into_iter().map(Value::Unsigned).collect())),
    ];
    Metadata { entries: entries.map(|(key, value)| (key.to_string(), value)).into() }
}

/// A SentencePiece vocabulary of one's own: `<unk>`, `<s>`, `</s>`, the 256 bytes from id 3 on, then `extra` from id 259
/// on with their types and scores.
pub fn pieces(extra: &[(&str, u64, f64)]) -> Metadata {
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let first = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0)];
    let tokens = first.into_iter().chain(bytes.iter().map(|b| (b.as_str(), 6, 0.0))).chain(extra.iter().copied());
    let tokens: Vec<_> = tokens.collect();
    let text = |s: &str| Value::String(s.into());
    let entries = [
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.tokens", Value::Array(tokens.iter().map(|t| text(t.0)).collect())),
        ("tokenizer.ggml.token_type", Value::Array(tokens.iter().map(|t| Value::Unsigned(t.1)).collect())),
        ("tokenizer.ggml.scores", Value::Array(tokens.iter().map(|t| Value::Float(t.2)).collect())),
    ];
    Metadata { entries: entries.map(|(key, value)| (key.to_string(), value)).into() }
}

/// With another value under a key.
pub fn with(mut metadata: Metadata, key: &str, value: Value) -> Metadata {
    metadata.entries.insert(format!("tokenizer.ggml.{key}"), value);
    metadata
}
