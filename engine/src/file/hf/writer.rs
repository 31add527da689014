//! A model's description in the files that stand beside SafeTensors: what [`super`] reads, the other way.
//!
//! Every key of the metadata is said in one of them or, if it changes nothing that is computed, kept as a note in the
//! header of the weights. A key that does and that HuggingFace has no word for is refused by its name.

mod tokenizer;

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::config::{DRAWN, FIELDS, NO_WINDOW};
use crate::error::{Error, Kind, Place, Result};
use crate::file::{Metadata, Value, missing};

/// What is written beside the weights and in their header.
pub struct Description {
    /// Name and content of each file.
    pub files: Vec<(&'static str, Json)>,
    /// For the header.
    pub notes: BTreeMap<String, String>,
}

/// How a model's class and its numbers are called.
#[derive(Clone, Copy)]
pub struct Class<'a> {
    /// `Qwen2ForCausalLM`.
    pub name: &'a str,
    /// `bfloat16`.
    pub dtype: &'a str,
}

/// Keys, after the architecture or as they are, that say what the tensors say too, or how an old file was laid out.
const REDUNDANT: &[&str] = &["attention.value_length", "general.file_type", "general.quantization_version"];

/// How keys begin that are the old container's own.
const OWN: &[&str] = &["split.", "quantization.", "general.alignment"];

/// Keys after the architecture that nothing is computed by.
const REMARKS: &[&str] = &["rope.scaling.finetuned", "tensor_data_layout"];

/// Describes a model. The metadata says everything: nothing is left to defaults that other readers may not have.
pub fn describe(metadata: &Metadata, class: Class<'_>) -> Result<Description> {
    const ARCH: &str = "general.architecture";
    let arch = metadata.string(ARCH)?.ok_or_else(|| missing(ARCH))?;
    let mut unsaid = Unsaid(metadata.entries.clone());
    unsaid.take(ARCH);
    let mut config = config(arch, class, &mut unsaid)?;
    let mut generation = sampling(&mut unsaid)?;
    let (tokenizer, about) = tokenizer::write(metadata, &mut unsaid, &mut config, &mut generation)?;
    let files = vec![
        ("config.json", config),
        ("generation_config.json", generation),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", about),
    ];
    Ok(Description { files, notes: notes(arch, unsaid)? })
}

/// What is left.
struct Unsaid(BTreeMap<String, Value>);

impl Unsaid {
    fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    /// The value as JSON.
    fn json(&mut self, key: &str) -> Result<Option<Json>> {
        self.take(key).map(|value| json_of(&value, key)).transpose()
    }
}

/// A value as JSON. Numbers that came from an F32 are written as short as an F32 needs.
fn json_of(value: &Value, key: &str) -> Result<Json> {
    let wrong = |what: &str| Error::malformed(format!("{what} cannot be written as JSON")).at(Place::Key(key.into()));
    Ok(match value {
        Value::Unsigned(n) => (*n).into(),
        Value::Signed(n) => (*n).into(),
        Value::Float(x) => {
            let short = (*x as f32).to_string().parse().ok().filter(|_| f64::from(*x as f32) == *x);
            serde_json::Number::from_f64(short.unwrap_or(*x))
                .ok_or_else(|| wrong("a number that is not finite"))?
                .into()
        }
        Value::Bool(b) => (*b).into(),
        Value::String(s) => s.as_str().into(),
        Value::RawString(_) => return Err(wrong("text that is not UTF-8")),
        Value::Array(items) => items.iter().map(|item| json_of(item, key)).collect::<Result<Vec<_>>>()?.into(),
    })
}

fn unsayable(key: &str, what: &str) -> Error {
    Error::new(Kind::Unsupported, what).at(Place::Key(key.into()))
}

// ---- config.json

//= F-ST-082
fn config(arch: &str, class: Class<'_>, unsaid: &mut Unsaid) -> Result<Json> {
    let mut config = Map::new();
    config.insert("architectures".into(), json!([class.name]));
    config.insert("model_type".into(), arch.into());
    config.insert("torch_dtype".into(), class.dtype.into());
    for (field, key) in FIELDS {
        if let Some(value) = unsaid.json(&format!("{arch}.{key}"))? {
            config.insert((*field).into(), value);
        }
    }
    let mut config = Json::Object(config);
    rope(arch, &mut config, unsaid)?;
    for key in REDUNDANT {
        unsaid.take(key);
        unsaid.take(&format!("{arch}.{key}"));
    }
    Ok(config)
}

/// Base and scaling, as transformers 4 writes them and 5 reads them.
fn rope(arch: &str, config: &mut Json, unsaid: &mut Unsaid) -> Result<()> {
    let key = |suffix: &str| format!("{arch}.rope.{suffix}");
    let mut scaling = |suffix: &str| unsaid.json(&key(&format!("scaling.{suffix}")));
    let (kind, factor) = (scaling("type")?, scaling("factor")?);
    let original = scaling("original_context_length")?;
    let (fast, slow) = (scaling("yarn_beta_fast")?, scaling("yarn_beta_slow")?);
    let (low, high) = (scaling("low_freq_factor")?, scaling("high_freq_factor")?);
    let attention = (scaling("yarn_attn_factor")?, scaling("attn_factor")?);
    let (strength, log) = (scaling("yarn_ext_factor")?, scaling("yarn_log_multiplier")?);
    let number = |x: &Option<Json>| x.as_ref().and_then(Json::as_f64);
    config["rope_theta"] = unsaid.json(&key("freq_base"))?.unwrap_or_default();
    let head = config["head_dim"].as_u64().unwrap_or_else(|| {
        let size = |field: &str| config[field].as_u64().unwrap_or(0);
        size("hidden_size") / size("num_attention_heads").max(1)
    });
    if let Some(rotated) = unsaid.json(&key("dimension_count"))?
        && rotated.as_u64() != Some(head)
    {
        return Err(unsayable(&key("dimension_count"), "heads that are rotated in part are not supported"));
    }
    let legacy = unsaid.json(&key("scale_linear"))?;
    let mut parameters = Map::new();
    let mut put = |name: &str, value: Option<Json>| drop(value.map(|value| parameters.insert(name.into(), value)));
    match kind.as_ref().and_then(Json::as_str).unwrap_or("none") {
        "none" if number(&legacy).is_none_or(|x| x == 1.0) => return Ok(()),
        "none" => {
            put("rope_type", Some("linear".into()));
            put("factor", legacy);
        }
        "linear" => {
            put("rope_type", kind);
            put("factor", factor.or(legacy));
        }
        "yarn" => {
            if number(&strength).is_some_and(|x| x != 1.0) || number(&log).is_some_and(|x| x != 0.0) {
                return Err(unsayable(&key("scaling.type"), "this kind of YaRN cannot be said in a config.json"));
            }
            let factor_is = number(&factor).unwrap_or(1.0);
            put("rope_type", kind);
            // HuggingFace has the whole multiplier, GGUF a factor on the usual one.
            let by = number(&attention.0).or(number(&attention.1)).filter(|x| *x != 1.0);
            put("attention_factor", by.map(|by| json!(by * (1.0 + 0.1 * factor_is.ln()))));
            put("factor", factor.or(Some(json!(1.0))));
            put("original_max_position_embeddings", original);
            put("beta_fast", fast);
            put("beta_slow", slow);
        }
        "llama3" => {
            put("rope_type", kind);
            put("factor", factor);
            put("original_max_position_embeddings", original);
            put("low_freq_factor", low);
            put("high_freq_factor", high);
        }
        _ => return Err(unsayable(&key("scaling.type"), "this scaling of RoPE cannot be said in a config.json")),
    }
    config["rope_scaling"] = Json::Object(parameters);
    Ok(())
}

// ---- generation_config.json

/// What the model recommends.
fn sampling(unsaid: &mut Unsaid) -> Result<Json> {
    let mut generation = json!({});
    for (field, key) in DRAWN {
        if let Some(value) = unsaid.json(&format!("general.sampling.{key}"))? {
            generation[field] = value;
            generation["do_sample"] = true.into();
        }
    }
    if let Some(penalty) = unsaid.json("general.sampling.penalty_repeat")? {
        generation["repetition_penalty"] = penalty;
        // HuggingFace's looks at the whole text; a smaller window is a remark.
        const WINDOW: &str = "general.sampling.penalty_last_n";
        if unsaid.0.get(WINDOW) == Some(&NO_WINDOW) {
            unsaid.take(WINDOW);
        }
    }
    Ok(generation)
}

// ---- notes

/// What is left, as text. Nothing that is computed or encoded by may be among it.
fn notes(arch: &str, unsaid: Unsaid) -> Result<BTreeMap<String, String>> {
    // Readers of the other kind want to know whose tensors these are.
    let mut notes = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    for (key, value) in unsaid.0 {
        if OWN.iter().any(|own| key.starts_with(own)) {
            continue;
        }
        let remark = key.strip_prefix(arch).and_then(|k| k.strip_prefix('.')).map(|k| REMARKS.contains(&k));
        let remark = remark.unwrap_or(!key.starts_with("tokenizer.") || tokenizer::is_remark(&key));
        if !remark {
            return Err(unsayable(&key, "HuggingFace's files have no word for it"));
        }
        let text = match json_of(&value, &key)? {
            Json::String(text) => text,
            other => other.to_string(),
        };
        notes.insert(key.strip_prefix("safetensors.").unwrap_or(&key).into(), text);
    }
    Ok(notes)
}
