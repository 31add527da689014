//! What HuggingFace's own code makes of a model: numbers by the package `safetensors`, tokens, logits and the parts of a
//! layer by `transformers`, and how the engine is held against them. `golden/transformers/` has what they said.

use std::path::PathBuf;

use engine::file;
use engine::program::Stage;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::lab::{self, Setup, running};
use crate::oracle;
use crate::stamp;
use crate::subject::Subject;
use crate::verdict::{Halt, Reason, Refutation, Tally, instrument};

/// The folder in which the trained fixture was saved.
pub fn trained(s: &Subject) -> PathBuf {
    s.fixtures.join("qwen2-tiny")
}

/// The SafeTensors file behind a name of golden/transformers/tensors.json.
pub fn weights_of(s: &Subject, name: &str) -> Result<PathBuf, Halt> {
    let path = if name == "qwen2-tiny" { trained(s) } else { s.forged(name)? };
    Ok(if path.is_dir() { path.join("model.safetensors") } else { path })
}

// ---- numbers

/// Every tensor of these files against the golden reading of `safetensors`; of one type if that is given.
pub fn numbers(t: &mut Tally, s: &Subject, files: &[&str], dtype: Option<&str>) -> Result<(), Halt> {
    let golden: Json = serde_json::from_str(&s.golden_text("transformers/tensors.json")?).map_err(instrument)?;
    let mut compared = 0;
    for name in files {
        let path = weights_of(s, name)?;
        let golden = &golden["files"][name];
        let sound = s.spoil.is_none() && !s.fixtures.starts_with(s.scratch_root());
        if sound && stamp::sha256_of(&path).as_deref() != golden["sha256"].as_str() {
            return Err(Halt::NotAttempted(Reason::Stale(format!("golden numbers of another {name}"))));
        }
        let bytes = std::fs::read(&path).map_err(instrument)?;
        let read = running("a SafeTensors file is read", file::safetensors::parse(bytes.into()))?;
        let tensors =
            golden["tensors"].as_object().ok_or_else(|| instrument(format!("no golden numbers of {name}")))?;
        t.equal("as many tensors as the package finds", &(read.tensors.len() + read.others.len()), &tensors.len())?;
        for (key, theirs) in tensors.iter().filter(|(_, v)| dtype.is_none_or(|d| v[0] == d)) {
            let shape: Vec<usize> = serde_json::from_value(theirs[1].clone()).map_err(instrument)?;
            let float = theirs[0].as_str().is_some_and(|d| d.starts_with("float") && d != "float64" || d == "bfloat16");
            if !float || shape.contains(&0) {
                t.hold(read.others.contains_key(key), || {
                    Refutation::new(
                        format!("{key} of {name} is no weight"),
                        "a weight",
                        "set aside, and named when asked for",
                    )
                })?;
                continue;
            }
            let ours =
                read.tensors.get(key).ok_or_else(|| Refutation::new(format!("{key} of {name}"), "none", "there"))?;
            // One number is a vector of one.
            let shape = if shape.is_empty() { vec![1] } else { shape };
            t.equal(&format!("{name}: the shape of {key}"), &ours.shape, &shape)?;
            t.equal(&format!("{name}: every number of {key}"), &Some(&*digest(ours, key)), &theirs[2].as_str())?;
            compared += shape.iter().product::<usize>();
        }
    }
    if compared == 0 {
        return Err(instrument(format!("no golden numbers of type {dtype:?}")));
    }
    t.number("numbers compared with the package safetensors, bit for bit", compared as f64);
    Ok(())
}

/// SHA-256 of the values as little-endian F32, all NaNs alike: half of it.
fn digest(tensor: &file::Tensor, name: &str) -> String {
    let mut hash = Sha256::new();
    for value in tensor.as_weight(name).to_f32() {
        let bits = if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() };
        hash.update(bits.to_le_bytes());
    }
    hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
}

// ---- answers

/// Golden tokens given and free, and exact logits.
pub fn answers(t: &mut Tally, s: &Subject, name: &str) -> Result<(), Halt> {
    let golden = oracle::transformers(s, name)?;
    let path = golden.model(s)?;
    let mut model = lab::open(s, &path, Setup::default())?;
    oracle::teacher_forced(t, &mut model, &golden, golden.epsilon)?;
    oracle::free_running(t, &mut model, &golden, golden.epsilon)?;
    t.note(format!("{name}: {}", model.backend()));
    let mut plain = lab::open(s, &path, Setup { oracle: true, ..Setup::default() })?;
    oracle::exact(t, &mut plain, &golden)
}

/// How far a value of a stage may be from its golden one, relative to the norm of the row.
const STAGE_BOUND: f64 = 1e-4;

/// What each part of the last layer gives at the last position of a prompt.
pub fn stages(t: &mut Tally, s: &Subject, name: &str) -> Result<(), Halt> {
    let golden = oracle::transformers(s, name)?;
    let text = s.golden_text(&format!("transformers/{name}.json"))?;
    let stored: Json = serde_json::from_str(&text).map_err(instrument)?;
    let case = golden.cases.iter().find(|c| stored["stages"]["case"] == *c.name);
    let case = case.ok_or_else(|| instrument(format!("{name}: stages of no case")))?;
    let mut model = lab::open(s, &golden.model(s)?, Setup { oracle: true, watched: true, ..Setup::default() })?;
    let seen = lab::watch(&mut model, &case.prompt)?;
    for stage in stored["stages"]["values"].as_array().into_iter().flatten() {
        let label = stage[1].as_str().unwrap_or_default();
        let which = stage_named(label).ok_or_else(|| instrument(format!("no stage {label}")))?;
        let row = seen.row(stage[0].as_u64().unwrap_or(0) as usize, which, seen.rows - 1)?;
        let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let want = stage[2].as_f64().unwrap_or(f64::NAN);
        let values: Vec<f64> = stage[3].as_array().into_iter().flatten().filter_map(Json::as_f64).collect();
        t.at_most("norm of a stage's row, off by (relative)", (norm / want - 1.0).abs(), STAGE_BOUND)?;
        for (ours, theirs) in row.iter().zip(&values) {
            let off = (f64::from(*ours) - theirs).abs() / want;
            t.at_most("value of a stage, off by (relative to the row)", off, STAGE_BOUND)?;
        }
    }
    Ok(())
}

fn stage_named(name: &str) -> Option<Stage> {
    use Stage::*;
    let all = [Embed, AttentionNorm, Q, K, V, AttentionOutput, FfnNorm, FfnGate, FfnUp, FfnDown, OutputNorm];
    all.into_iter().find(|stage| format!("{stage:?}") == name)
}
