//! `tokenizer.json` and `tokenizer_config.json`: a vocabulary whose cut of words is spelled out and that has merges.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};

use super::super::tokenizer::{BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED};
use super::{Unsaid, json_of, unsayable};
use crate::error::{Error, Place, Result};
use crate::file::{Metadata, Value, missing};

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const PREFIX: &str = "tokenizer.pre.prefix";

/// Keys that the tokenizer of this kind does not read, or that say what the tokens say by themselves.
const REDUNDANT: &[&str] = &[
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.remove_extra_whitespaces",
    "tokenizer.huggingface.json",
];

/// Whether a key of the tokenizer changes no id: names of tokens for other tasks, and templates beside the first.
pub fn is_remark(key: &str) -> bool {
    key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id") || key.starts_with("tokenizer.chat_template")
}

/// Writes both files, and the ids of beginning and end into those of the model.
//= F-ST-083
pub fn write(
    metadata: &Metadata,
    unsaid: &mut Unsaid,
    config: &mut Json,
    generation: &mut Json,
) -> Result<(Json, Json)> {
    let of_pieces = metadata.string(PREFIX)?;
    let words = Words::new(metadata, of_pieces.is_some())?;
    let mut about = json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false});
    let mut bos = None;
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let Some(id) = metadata.unsigned(&key)? else { continue };
        unsaid.take(&key);
        let text = words.text(id).ok_or_else(|| Error::malformed("there is no such token").at(Place::Key(key)))?;
        about[format!("{name}_token")] = text.into();
        if name != "unk" {
            config[format!("{name}_token_id")] = id.into();
        }
        if name == "bos" {
            bos = Some((id, text));
        }
    }
    let begins = metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(false);
    for name in ["add_bos_token", "add_eos_token"] {
        if let Some(said) = unsaid.json(&format!("tokenizer.ggml.{name}"))? {
            about[name] = said;
        }
    }
    if let Some(template) = unsaid.json("tokenizer.chat_template")? {
        about["chat_template"] = template;
    }
    generation["eos_token_id"] = ends(metadata, unsaid)?;

    let pipeline = match of_pieces {
        None => bytes(metadata)?,
        Some(prefix) => pieces(prefix)?,
    };
    let mut parts = if of_pieces.is_none() { vec![byte_level()] } else { Vec::new() };
    if let Some((id, text)) = bos.filter(|_| begins) {
        parts.push(json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": text, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}},
        }));
    }
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": words.added,
        "normalizer": pipeline.normalizer,
        "pre_tokenizer": pipeline.pre_tokenizer,
        "post_processor": sequence("processors", parts),
        "decoder": pipeline.decoder,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": words.unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": of_pieces.is_some(),
            "byte_fallback": of_pieces.is_some(),
            "ignore_merges": metadata.bool("tokenizer.pre.whole_words")?.unwrap_or(false),
            "vocab": words.vocab,
            "merges": merges(metadata)?,
        },
    });
    let said = ["tokenizer.pre.words", "tokenizer.pre.nfc", "tokenizer.pre.whole_words", "tokenizer.pre.rstrip"];
    for key in said.iter().chain(&[MODEL, TOKENS, TYPES, MERGES, PREFIX]).chain(REDUNDANT) {
        unsaid.take(key);
    }
    Ok((tokenizer, about))
}

/// The vocabulary in its two halves.
struct Words {
    texts: Vec<String>,
    vocab: Map<String, Json>,
    added: Vec<Json>,
    unknown: Option<String>,
}

impl Words {
    fn new(metadata: &Metadata, of_pieces: bool) -> Result<Words> {
        let tokens = metadata.array(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
        let types = metadata.array(TYPES)?.ok_or_else(|| missing(TYPES))?;
        let eaters = metadata.array("tokenizer.pre.rstrip")?.unwrap_or_default();
        // Merges may speak of words that are matched whole too.
        let named = named(metadata)?;
        let mut words = Words { texts: Vec::new(), vocab: Map::new(), added: Vec::new(), unknown: None };
        for (id, (token, kind)) in tokens.iter().zip(types).enumerate() {
            let Value::String(text) = token else {
                return Err(unsayable(TOKENS, &format!("token {id} is not text that JSON could hold")));
            };
            words.texts.push(text.clone());
            let kind = if let Value::Unsigned(kind) = kind { *kind } else { NORMAL };
            match kind {
                // A hole or a filler: there is an id, and nothing is ever encoded as it.
                UNUSED => continue,
                _ if text.is_empty() => continue,
                BYTE if !of_pieces => {
                    return Err(unsayable(TYPES, &format!("token {id} is a byte in a vocabulary that spells bytes")));
                }
                UNKNOWN | CONTROL | USER_DEFINED => words.added.push(json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false,
                    "rstrip": eaters.contains(&Value::Unsigned(id as u64)),
                    "normalized": false, "special": kind != USER_DEFINED,
                })),
                _ => {}
            }
            if kind == UNKNOWN {
                words.unknown = Some(text.clone());
            }
            let whole = matches!(kind, UNKNOWN | CONTROL | USER_DEFINED);
            if of_pieces || !whole || named.contains(text) {
                words.vocab.insert(text.clone(), id.into());
            }
        }
        Ok(words)
    }

    fn text(&self, id: u64) -> Option<&str> {
        self.texts.get(usize::try_from(id).ok()?).map(String::as_str).filter(|text| !text.is_empty())
    }
}

/// The two halves of every merge.
fn merges(metadata: &Metadata) -> Result<Vec<(&str, &str)>> {
    let merges = metadata.array(MERGES)?.ok_or_else(|| missing(MERGES))?;
    fn pair(merge: &Value) -> Option<(&str, &str)> {
        match merge {
            Value::String(merge) => merge.split_once(' '),
            _ => None,
        }
    }
    let merges: Option<Vec<_>> = merges.iter().map(pair).collect();
    merges.ok_or_else(|| Error::malformed("a merge is not two tokens").at(Place::Key(MERGES.into())))
}

/// Every token that a merge takes or makes.
fn named(metadata: &Metadata) -> Result<BTreeSet<String>> {
    let merges = merges(metadata)?;
    Ok(merges.iter().flat_map(|(a, b)| [a.to_string(), b.to_string(), format!("{a}{b}")]).collect())
}

/// Every token that ends an answer, that of the model first.
fn ends(metadata: &Metadata, unsaid: &mut Unsaid) -> Result<Json> {
    const LISTED: &str = "tokenizer.end_token_ids";
    let mut ends: Vec<u64> = Vec::new();
    for key in ["eos", "eot", "eom"] {
        ends.extend(metadata.unsigned(&format!("tokenizer.ggml.{key}_token_id"))?);
    }
    for id in metadata.array(LISTED)?.unwrap_or_default() {
        ends.extend(if let Value::Unsigned(id) = id { Some(*id) } else { None });
    }
    unsaid.take(LISTED);
    let mut seen = BTreeSet::new();
    ends.retain(|id| seen.insert(*id));
    Ok(ends.into())
}

// ---- the pipeline

/// What happens to a text before and after merging.
struct Pipeline {
    normalizer: Json,
    pre_tokenizer: Json,
    decoder: Json,
}

/// Parts one after the other.
fn sequence(name: &str, mut parts: Vec<Json>) -> Json {
    match parts.len() {
        0 => Json::Null,
        1 => parts.remove(0),
        _ => json!({"type": "Sequence", name: parts}),
    }
}

fn byte_level() -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false})
}

/// Byte-level: cut into words, spelled in bytes.
fn bytes(metadata: &Metadata) -> Result<Pipeline> {
    const WORDS: &str = "tokenizer.pre.words";
    let words = metadata.array(WORDS)?.ok_or_else(|| missing(WORDS))?;
    let split = |words: &Value| -> Result<Json> {
        let expression = json_of(words, WORDS)?;
        Ok(json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false}))
    };
    let mut cuts = words.iter().map(split).collect::<Result<Vec<_>>>()?;
    cuts.push(byte_level());
    let composed = metadata.bool("tokenizer.pre.nfc")?.unwrap_or(false);
    Ok(Pipeline {
        normalizer: if composed { json!({"type": "NFC"}) } else { Json::Null },
        pre_tokenizer: sequence("pretokenizers", cuts),
        decoder: byte_level(),
    })
}

/// Of pieces: spaces become U+2581, and one may be put in front.
fn pieces(prefix: &str) -> Result<Pipeline> {
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut back = vec![replace(SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if prefix != "never" {
        back.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    let (normalizer, pre_tokenizer) = match prefix {
        "prepend" => (sequence("normalizers", vec![prepend, replace(" ", SPACE)]), Json::Null),
        "never" => (replace(" ", SPACE), Json::Null),
        "always" | "first" => {
            (Json::Null, json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prefix, "split": false}))
        }
        _ => return Err(unsayable(PREFIX, "there is no such prefix")),
    };
    Ok(Pipeline { normalizer, pre_tokenizer, decoder: sequence("decoders", back) })
}
