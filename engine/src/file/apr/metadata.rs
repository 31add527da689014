//! What an `.apr` file says about its model, in the words that `model` and `text` read, and back again.
//!
//! Those words are GGUF's: `qwen2.block_count`, `tokenizer.ggml.tokens`. [`WORDS`] is the dictionary. A key that it has
//! not and that has a dot stays as it is, so whatever a GGUF file said survives; one without a dot becomes `apr.KEY`.
//! Reading knows every spelling that was ever written and takes none on trust: two of them that disagree are an error.
//! Writing uses one spelling each and no nulls, because aprender-serve drops all metadata when it meets two.

use super::json::Entries;
use crate::error::{Error, Place, Result, quoted};
use crate::file::{Metadata, Origins, Value};

/// Where a word stands in our metadata.
enum Ours {
    /// Behind the architecture: `qwen2.block_count`.
    OfArch(&'static str),
    /// As it is.
    Key(&'static str),
    /// Nowhere: it says again what tensors or other words say.
    Redundant,
}
use Ours::{Key, OfArch, Redundant};

/// A word: ours, and theirs in every spelling, that of aprender 0.72 first.
struct Word {
    ours: Ours,
    theirs: &'static [&'static str],
    required: bool,
}

const fn need(ours: Ours, theirs: &'static [&'static str]) -> Word {
    Word { ours, theirs, required: true }
}

const fn may(ours: Ours, theirs: &'static [&'static str]) -> Word {
    Word { ours, theirs, required: false }
}

const ARCHITECTURE: &str = "general.architecture";
const PRE: &str = "tokenizer.ggml.pre";
const MODEL: &str = "tokenizer.ggml.model";
/// How q and k pair their elements: 0 adjacent ones, 2 halves.
pub const ROPE_TYPE: &str = "apr.rope_type";

/// The dictionary. Spellings are those of apr-format's `AprV2Metadata`, of aprender-serve's `AprMetadata` and of both
/// importers.
static WORDS: &[Word] = &[
    need(Key(ARCHITECTURE), &["architecture", "model.architecture", "hf_model_type"]),
    may(Key("general.name"), &["name"]),
    need(OfArch("embedding_length"), &["hidden_size", "hidden_dim", "d_model", "n_embd", "model.hidden_size"]),
    need(OfArch("block_count"), &["num_layers", "n_layers", "num_hidden_layers", "n_layer", "model.num_layers"]),
    need(OfArch("attention.head_count"), &["num_heads", "n_heads", "num_attention_heads", "n_head", "model.num_heads"]),
    may(
        OfArch("attention.head_count_kv"),
        &["num_kv_heads", "n_kv_heads", "num_key_value_heads", "model.num_kv_heads"],
    ),
    need(
        OfArch("feed_forward_length"),
        &["intermediate_size", "ffn_dim", "intermediate_dim", "n_inner", "model.intermediate_size"],
    ),
    need(
        OfArch("context_length"),
        &["max_position_embeddings", "max_seq_len", "context_length", "n_ctx", "model.max_position_embeddings"],
    ),
    need(
        OfArch("attention.layer_norm_rms_epsilon"),
        &["rms_norm_eps", "layer_norm_eps", "norm_eps", "model.rms_norm_eps"],
    ),
    may(OfArch("rope.freq_base"), &["rope_theta", "model.rope_theta"]),
    may(OfArch("vocab_size"), &["vocab_size", "n_vocab", "model.vocab_size"]),
    may(OfArch("attention.key_length"), &["head_dim", "model.head_dim"]),
    may(Key(ROPE_TYPE), &["rope_type", "model.rope_type"]),
    may(Key("tokenizer.ggml.tokens"), &["tokenizer.vocabulary"]),
    may(Key("tokenizer.ggml.merges"), &["tokenizer.merges"]),
    may(Key("tokenizer.ggml.scores"), &["tokenizer.scores"]),
    may(Key("tokenizer.ggml.token_type"), &["tokenizer.token_type"]),
    may(Key(MODEL), &["tokenizer.model_type", "tokenizer.model"]),
    may(Key(PRE), &["tokenizer.pre_type"]),
    may(Key("tokenizer.ggml.bos_token_id"), &["tokenizer.bos_token_id"]),
    may(Key("tokenizer.ggml.eos_token_id"), &["tokenizer.eos_token_id"]),
    may(Key("tokenizer.ggml.padding_token_id"), &["tokenizer.padding_token_id"]),
    may(Key("tokenizer.ggml.add_bos_token"), &["tokenizer.add_bos_token"]),
    may(Key("tokenizer.chat_template"), &["chat_template", "tokenizer.chat_template"]),
    may(Key("split.count"), &["sharding.shard_count"]),
    may(Key("split.no"), &["sharding.shard_index"]),
    may(Redundant, &["tokenizer.vocab_size", "sharding.total_size", "sharding.pattern"]),
];

/// Objects that say again what the index says.
const REDUNDANT_OBJECTS: &[&str] = &["tensor_shapes.", "special_tokens.", "quantization."];

impl Word {
    fn ours(&self, arch: &str) -> Option<String> {
        match self.ours {
            OfArch(suffix) => Some(format!("{arch}.{suffix}")),
            Key(key) => Some(key.to_string()),
            Redundant => None,
        }
    }

    /// The value under any spelling, and the spelling. Two that disagree are an error.
    fn take(&self, entries: &mut Entries) -> Result<Option<(&'static str, Value)>> {
        let mut found: Option<(&'static str, Value)> = None;
        for &spelling in self.theirs {
            match (entries.remove(spelling), &found) {
                (None, _) => {}
                (Some(value), None) => found = Some((spelling, value)),
                (Some(value), Some((first, other))) if !agree(&value, other) && !matches!(self.ours, Redundant) => {
                    let what = format!("{} says something else than {}", quoted(spelling), quoted(first));
                    return Err(Error::malformed(what).at(Place::Key(spelling.into())));
                }
                (Some(_), Some(_)) => {}
            }
        }
        Ok(found)
    }
}

/// Whether two values are the same thing: numbers by value, in the f32 that the format has.
fn agree(a: &Value, b: &Value) -> bool {
    let number = |v: &Value| match v {
        Value::Unsigned(n) => Some(*n as f32),
        Value::Signed(n) => Some(*n as f32),
        Value::Float(x) => Some(*x as f32),
        _ => None,
    };
    a == b || number(a).is_some() && number(a) == number(b)
}

/// Their words in ours, and where each stood.
//= F-APR-066
pub fn read(mut entries: Entries) -> Result<(Metadata, Origins)> {
    let mut metadata = Metadata::default();
    let mut origins = Origins::default();
    // Of a model in several files only the first has to describe it.
    let first_part = entries.get("sharding.shard_index").is_none_or(|no| *no == Value::Unsigned(0));
    let architecture = &WORDS[0];
    let arch = match architecture.take(&mut entries)? {
        Some((_, Value::String(name))) => name,
        Some((spelling, other)) => {
            let what = format!("expected a string, found {}", other.kind());
            return Err(Error::malformed(what).at(Place::Key(spelling.into())));
        }
        None if first_part => return Err(missing(architecture)),
        None => String::new(),
    };
    for word in &WORDS[1..] {
        match (word.take(&mut entries)?, word.ours(&arch)) {
            (Some((spelling, value)), Some(key)) => {
                origins.0.insert(key.clone(), spelling.into());
                metadata.entries.insert(key, value);
            }
            (None, Some(key)) if !word.required => {
                origins.0.insert(key, word.theirs[0].into());
            }
            (None, _) if word.required && first_part => return Err(missing(word)),
            _ => {}
        }
    }
    entries.retain(|key, _| !REDUNDANT_OBJECTS.iter().any(|object| key.starts_with(object)));
    // Writers that have nothing to say here say the architecture again.
    if entries.get("model_type").is_some_and(|said| *said == Value::String(arch.clone())) {
        entries.remove("model_type");
    }
    for (key, value) in entries {
        let key = if key.contains('.') { key } else { format!("apr.{key}") };
        if metadata.entries.contains_key(&key) {
            return Err(Error::malformed("the metadata says it twice, in two spellings").at(Place::Key(key)));
        }
        metadata.entries.insert(key, value);
    }
    complete_tokenizer(&mut metadata, &arch);
    if !arch.is_empty() {
        metadata.entries.insert(ARCHITECTURE.into(), Value::String(arch));
        origins.0.insert(ARCHITECTURE.into(), architecture.theirs[0].into());
    }
    Ok((metadata, origins))
}

fn missing(word: &Word) -> Error {
    let others = word.theirs[1..].join(", ");
    Error::malformed("required metadata is missing")
        .at(Place::Key(word.theirs[0].into()))
        .hint(format!("it may also be called {others}"))
}

/// Two things that importers do not write down although their files are clear about them: that merges mean a byte-pair
/// encoder (SafeTensors imports say `BPE`, which is GGUF's `gpt2`), and that Qwen2 splits text as Qwen2 does. Anything
/// else that is missing stays missing, and the tokenizer says what it wants.
fn complete_tokenizer(metadata: &mut Metadata, arch: &str) {
    let bpe = match metadata.get(MODEL) {
        Some(Value::String(name)) => name.eq_ignore_ascii_case("bpe"),
        Some(_) => false,
        None => metadata.get("tokenizer.ggml.merges").is_some(),
    };
    if bpe {
        metadata.entries.insert(MODEL.into(), Value::String("gpt2".into()));
    }
    if metadata.get(PRE).is_none() && metadata.get("tokenizer.ggml.tokens").is_some() && arch == "qwen2" {
        metadata.entries.insert(PRE.into(), Value::String("qwen2".into()));
    }
}

/// Our words in theirs, for the JSON object of a file that we write.
pub fn write(metadata: &Metadata) -> Result<serde_json::Map<String, serde_json::Value>> {
    let arch = metadata.string(ARCHITECTURE)?.ok_or_else(|| crate::file::missing(ARCHITECTURE))?;
    let mut entries = metadata.entries.clone();
    // A part of a split model is whole again by now.
    entries.retain(|key, _| !key.starts_with("split."));
    let mut object = serde_json::Map::new();
    // Every reader of theirs wants a model type; what the model itself says of it comes below and replaces this.
    object.insert("model_type".into(), arch.into());
    for word in WORDS {
        let value = word.ours(arch).and_then(|key| entries.remove(&key));
        if let Some(value) = value {
            object.insert(word.theirs[0].into(), json(&value, word.theirs[0])?);
        }
    }
    for (key, value) in &entries {
        let theirs = key.strip_prefix("apr.").filter(|rest| !rest.contains('.')).unwrap_or(key);
        object.insert(theirs.into(), json(value, key)?);
    }
    Ok(object)
}

fn json(value: &Value, key: &str) -> Result<serde_json::Value> {
    let wrong = |what: &str| Error::malformed(format!("{what} cannot be written as JSON")).at(Place::Key(key.into()));
    Ok(match value {
        Value::Unsigned(n) => (*n).into(),
        Value::Signed(n) => (*n).into(),
        Value::Float(x) => serde_json::Number::from_f64(*x).ok_or_else(|| wrong("a number that is not finite"))?.into(),
        Value::Bool(b) => (*b).into(),
        Value::String(s) => s.as_str().into(),
        Value::RawString(_) => return Err(wrong("text that is not UTF-8")),
        Value::Array(items) => items.iter().map(|item| json(item, key)).collect::<Result<Vec<_>>>()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::json::parse;
    use super::*;

    /// What both importers have in common, with `more` behind it.
    fn with(more: &str) -> Result<Metadata> {
        let text = format!(
            r#"{{"architecture":"qwen2","hidden_size":8,"num_layers":1,"num_heads":2,"intermediate_size":16,
                "max_position_embeddings":32,"rms_norm_eps":1e-6{more}}}"#
        );
        Ok(read(parse(text.as_bytes(), 0)?)?.0)
    }

    #[test]
    fn spellings_are_one_word() {
        for (ours, theirs) in WORDS.iter().filter_map(|w| Some((w.ours("qwen2")?, w.theirs))) {
            assert_eq!(WORDS.iter().filter(|w| w.theirs.contains(&theirs[0])).count(), 1, "{ours}");
        }
        let serve = r#"{"model_type":"transformer_lm_q4k","architecture":"qwen2","hidden_size":8,"num_hidden_layers":1,
            "num_attention_heads":2,"num_key_value_heads":1,"intermediate_size":16,"max_position_embeddings":32,
            "rms_norm_eps":1e-6,"rope_theta":1000000.0,"rope_type":2,"quantization":{"bits":4}}"#;
        let (m, origins) = read(parse(serve.as_bytes(), 0).unwrap()).unwrap();
        assert_eq!(origins.0["qwen2.block_count"], "num_hidden_layers");
        assert_eq!(m.unsigned("qwen2.block_count").unwrap(), Some(1));
        assert_eq!(m.unsigned("qwen2.attention.head_count_kv").unwrap(), Some(1));
        assert_eq!(m.string("apr.model_type").unwrap(), Some("transformer_lm_q4k"));
        assert_eq!(m.get("quantization.bits"), None);
    }

    #[test]
    fn nothing_is_defaulted_and_nothing_contradicts_itself() {
        let m = with(r#","num_kv_heads":null,"n_embd":8,"qwen2.rope.scaling.type":"yarn""#).unwrap();
        assert_eq!(m.get("qwen2.attention.head_count_kv"), None);
        assert_eq!(m.string("qwen2.rope.scaling.type").unwrap(), Some("yarn"));
        let e = with(r#","n_embd":9"#).unwrap_err();
        assert_eq!(e.at, Some(Place::Key("n_embd".into())));
        let e = with(r#","general.name":"a","name":"b""#).unwrap_err();
        assert_eq!(e.at, Some(Place::Key("general.name".into())));
        for word in WORDS.iter().filter(|w| w.required) {
            let text = r#"{"architecture":"a","hidden_size":8,"num_layers":1,"num_heads":2,"intermediate_size":16,
                "max_position_embeddings":32,"rms_norm_eps":1e-6}"#;
            let mut entries = parse(text.as_bytes(), 0).unwrap();
            entries.remove(word.theirs[0]).unwrap();
            assert_eq!(read(entries).unwrap_err().at, Some(Place::Key(word.theirs[0].into())));
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let m = with(
            r#","name":"x","rope_type":2,"param_count":7,"tokenizer.vocabulary":["a","b"],"tokenizer.merges":["a b"],
               "tokenizer.pre_type":"qwen2","tokenizer.model_type":"gpt2","qwen2.rope.scaling.factor":4.5,
               "tokenizer.ggml.eot_token_id":1,"a.list":[-1,2]"#,
        )
        .unwrap();
        let object = serde_json::Value::Object(write(&m).unwrap());
        assert_eq!(object["num_layers"], 1);
        assert_eq!(object["param_count"], 7);
        assert!(object.get("n_layers").is_none() && object["model_type"] == "qwen2");
        let again = read(parse(object.to_string().as_bytes(), 0).unwrap()).unwrap().0;
        assert_eq!(again.entries, m.entries);
    }

    #[test]
    fn what_importers_leave_out_is_completed_where_it_is_certain() {
        let m = with(r#","tokenizer.vocabulary":["a"],"tokenizer.merges":[]"#).unwrap();
        assert_eq!((m.string(MODEL).unwrap(), m.string(PRE).unwrap()), (Some("gpt2"), Some("qwen2")));
        let m = with(r#","tokenizer.vocabulary":["a"],"tokenizer.model_type":"BPE","tokenizer.pre_type":"llama-bpe""#);
        let m = m.unwrap();
        assert_eq!((m.string(MODEL).unwrap(), m.string(PRE).unwrap()), (Some("gpt2"), Some("llama-bpe")));
        let m = with(r#","tokenizer.vocabulary":["a"],"tokenizer.model_type":"unigram""#).unwrap();
        assert_eq!(m.string(MODEL).unwrap(), Some("unigram"));
    }
}
