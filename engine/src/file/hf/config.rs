//! `config.json` and `generation_config.json` as metadata.
//!
//! The names that HuggingFace's models share are a table. What a field means for the computation and this build does
//! not compute is refused here by file and field; what no model of this build reads is left alone.

use super::Description;
use crate::error::{Place, Result, quoted};
use crate::file::Value;
use crate::file::json::{Document, Field};

/// Fields of `config.json`, and the keys that GGUF has for them after the architecture's name.
pub(super) const FIELDS: &[(&str, &str)] = &[
    ("num_hidden_layers", "block_count"),
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("max_position_embeddings", "context_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("hidden_act", "hidden_activation"),
    ("vocab_size", "vocab_size"),
    // GGUF has no key for these two: its files have the tensors or not.
    ("attention_bias", "attention.bias"),
    ("tie_word_embeddings", "tie_word_embeddings"),
];

/// Describes the model; gives what its user should know.
//= F-ST-082
pub(super) fn describe(config: &Document, d: &mut Description<'_>) -> Result<Vec<String>> {
    let model = config.need("model_type")?;
    let arch = model.text()?;
    d.put("general.architecture", Value::String(arch.into()), "config.json: model_type");
    refuse_what_is_not_built(config)?;
    for (field, key) in FIELDS {
        let key = format!("{arch}.{key}");
        d.comes_from(&key, format!("config.json: {field}"));
        if let Some(value) = config.get(field) {
            d.metadata.entries.insert(key, value.scalar()?);
        }
    }
    rope(config, arch, d)?;
    let mut warnings = Vec::new();
    if config.get("auto_map").is_some() {
        warnings.push(format!("the model brings code of its own (auto_map); apr runs its own {}", quoted(arch)));
    }
    Ok(warnings)
}

/// Fields that change what a model computes into something that no program here does.
fn refuse_what_is_not_built(config: &Document) -> Result<()> {
    if let Some(classes) = config.get("architectures") {
        let names: Vec<&str> = classes.items()?.iter().map(Field::text).collect::<Result<_>>()?;
        if !names.is_empty() && !names.iter().any(|n| n.ends_with("ForCausalLM")) {
            return Err(classes.unsupported(format!("{} is not a language model", quoted(names[0]))));
        }
    }
    if let Some(quantized) = config.get("quantization_config") {
        let method = quantized.get("quant_method")?.and_then(|m| m.json.as_str().map(quoted));
        let what = format!("weights quantised by {} are not supported", method.unwrap_or("an unnamed method".into()));
        return Err(quantized.unsupported(what).hint("F32, F16 and BF16 weights are; or a GGUF file of the model"));
    }
    if let Some(kinds) = config.get("layer_types") {
        for kind in kinds.items()? {
            if kind.text()? != "full_attention" {
                return Err(kind.unsupported(format!("layers of type {} are not supported", quoted(kind.text()?))));
            }
        }
    }
    if let Some(factor) = config.get("partial_rotary_factor")
        && factor.float()? != 1.0
    {
        return Err(factor.unsupported("heads that are rotated in part are not supported"));
    }
    sliding_window(config)
}

/// A window that is as wide as the context hides nothing.
fn sliding_window(config: &Document) -> Result<()> {
    let off = match config.get("use_sliding_window") {
        Some(used) => !used.bool()?,
        None => false,
    };
    let Some(window) = config.get("sliding_window").filter(|_| !off) else { return Ok(()) };
    match config.need("max_position_embeddings")?.unsigned()? {
        context if window.unsigned()? < context => Err(window.unsupported("sliding windows are not supported")),
        _ => Ok(()),
    }
}

// ---- rope

/// Base and scaling, as transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`) write them.
fn rope(config: &Document, arch: &str, d: &mut Description<'_>) -> Result<()> {
    let key = |suffix: &str| format!("{arch}.rope.{suffix}");
    let parameters = match (config.get("rope_parameters"), config.get("rope_scaling")) {
        (Some(a), Some(b)) if a.json != b.json => {
            return Err(b.malformed("it differs from rope_parameters"));
        }
        (a, b) => a.or(b),
    };
    let inner = |field: &str| parameters.as_ref().map_or(Ok(None), |p| p.get(field));
    for theta in [config.get("rope_theta"), inner("rope_theta")?].into_iter().flatten() {
        d.put(&key("freq_base"), theta.scalar()?, origin(&theta));
    }
    if let Some(factor) = inner("partial_rotary_factor")?
        && factor.float()? != 1.0
    {
        return Err(factor.unsupported("heads that are rotated in part are not supported"));
    }
    let Some(parameters) = &parameters else { return Ok(()) };
    if let Some(nested) = parameters.object()?.iter().find(|(_, v)| v.is_object()) {
        let what = format!("angles of their own for {} are not supported", quoted(nested.0));
        return Err(parameters.unsupported(what));
    }
    let Some(kind) = inner("rope_type")?.or(inner("type")?) else { return Ok(()) };
    if kind.text()? == "default" {
        return Ok(());
    }
    d.put(&key("scaling.type"), kind.scalar()?, origin(&kind));
    // The length of the first training stands outside in some models, and is the context where it stands nowhere.
    let original = config.get("original_max_position_embeddings").or(inner("original_max_position_embeddings")?);
    let original = original.or(config.get("max_position_embeddings"));
    for (field, suffix) in [
        (original, "original_context_length"),
        (inner("factor")?, "factor"),
        (inner("beta_fast")?, "yarn_beta_fast"),
        (inner("beta_slow")?, "yarn_beta_slow"),
        (inner("low_freq_factor")?, "low_freq_factor"),
        (inner("high_freq_factor")?, "high_freq_factor"),
    ] {
        if let Some(field) = field {
            d.put(&key(&format!("scaling.{suffix}")), field.scalar()?, origin(&field));
        }
    }
    if kind.text()? == "yarn" {
        yarn(parameters, &key("scaling.yarn_attn_factor"), d)?;
    }
    Ok(())
}

/// YaRN's multiplier of attention. GGUF's key is a factor on `1 + 0.1 ln(factor)`, HuggingFace's is the whole.
fn yarn(parameters: &Field<'_>, key: &str, d: &mut Description<'_>) -> Result<()> {
    if let Some(truncate) = parameters.get("truncate")?
        && !truncate.bool()?
    {
        return Err(truncate.unsupported("YaRN without truncation is not supported"));
    }
    let factor = parameters.need("factor")?;
    let scale = factor.float()?;
    if scale < 1.0 {
        return Err(factor.malformed(format!("YaRN shrinks nothing: a factor of {scale}")));
    }
    let multiplier = |by: f64| 1.0 + 0.1 * by * scale.ln();
    let number = |field: &str| parameters.get(field)?.map(|f| f.float()).transpose();
    let whole = match (number("attention_factor")?, number("mscale")?, number("mscale_all_dim")?) {
        (Some(whole), ..) => whole,
        (None, Some(a), Some(b)) if a != 0.0 && b != 0.0 => multiplier(a) / multiplier(b),
        _ => multiplier(1.0),
    };
    d.put(key, Value::Float(whole / multiplier(1.0)), origin(parameters));
    Ok(())
}

fn origin(field: &Field<'_>) -> String {
    match field.place() {
        Place::Key(key) => key,
        _ => String::new(),
    }
}

// ---- sampling

/// Numbers of `generation_config.json` that only matter where tokens are drawn, and their keys.
pub(super) const DRAWN: &[(&str, &str)] =
    &[("temperature", "temp"), ("top_k", "top_k"), ("top_p", "top_p"), ("min_p", "min_p")];

/// How many tokens a penalty looks back where HuggingFace's looks at the whole text.
pub(super) const NO_WINDOW: Value = Value::Unsigned(1 << 24);

/// What the model recommends.
pub(super) fn sampling(generation: Option<&Document>, d: &mut Description<'_>) -> Result<()> {
    let Some(generation) = generation else { return Ok(()) };
    let put = |d: &mut Description<'_>, field: &Field<'_>, key: &str| -> Result<()> {
        field.float()?;
        d.put(&format!("general.sampling.{key}"), field.scalar()?, origin(field));
        Ok(())
    };
    let drawn = match generation.get("do_sample") {
        Some(drawn) => drawn.bool()?,
        None => false,
    };
    for (field, key) in DRAWN {
        if let Some(field) = generation.get(field).filter(|_| drawn) {
            put(d, &field, key)?;
        }
    }
    if let Some(penalty) = generation.get("repetition_penalty") {
        put(d, &penalty, "penalty_repeat")?;
        // HuggingFace's looks at the whole text.
        if penalty.float()? != 1.0 {
            d.put("general.sampling.penalty_last_n", NO_WINDOW, origin(&penalty));
        }
    }
    Ok(())
}
