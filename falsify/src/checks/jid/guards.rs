//! Guards of a running answer: what a sound model does not do is told while it happens, and numbers that break down end
//! the run with the layer in which they began.

use std::path::{Path, PathBuf};

use compute::Format;
use serde_json::Value;

use super::sound;
use crate::ask::{OPEN_PROMPT, PROMPTS, answered, ask};
use crate::checkup::copy;
use crate::child::Output;
use crate::forge::gguf::Data;
use crate::lab::{Setup, open};
use crate::sabotage::evil_input::change;
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Tally, instrument};

/// Prompts of many kinds, among them answers that repeat something because they were asked to.
const HEALTHY: &[&str] = &[
    PROMPTS[0],
    PROMPTS[1],
    PROMPTS[2],
    OPEN_PROMPT,
    "Count from 1 to 40.",
    "Repeat the word apple 20 times.",
    "What is the capital of France?",
    "Write a Python function that checks whether a number is prime.",
    "Give me a JSON object with name Ada and age 36",
    "Is Mars a planet?",
];

/// The forged model with the numbers of one F32 tensor changed.
fn changed(s: &Subject, forged: &str, tensors: &[(&str, f32)]) -> Result<PathBuf, Halt> {
    let mut w = sound(forged)?;
    for (tensor, by) in tensors {
        let t = w.tensor_named(tensor);
        let Data::Bytes(bytes) = &mut t.data else { return Err(instrument(format!("{tensor} has no bytes"))) };
        if Format::from_ggml(t.type_id) != Some(Format::F32) {
            return Err(instrument(format!("{tensor} is not F32")));
        }
        for x in bytes.chunks_exact_mut(4) {
            let new = f32::from_le_bytes([x[0], x[1], x[2], x[3]]) * by;
            x.copy_from_slice(&new.to_le_bytes());
        }
    }
    let file = s.scratch()?.join("model.gguf");
    w.write(&file).map_err(instrument)?;
    Ok(file)
}

/// The main fixture with some scales multiplied by a power of two: `steps` of the exponent of its half floats.
fn scaled(s: &Subject, tensor: &str, steps: i32) -> Result<PathBuf, Halt> {
    let file = copy(s, &s.model()?)?;
    change(&file, |bytes, layout| {
        let Some(t) = layout.tensor(tensor) else { return };
        for block in bytes[t.data.clone()].chunks_exact_mut(t.format.0.block_bytes) {
            let old = u16::from_le_bytes([block[0], block[1]]);
            let exponent = (i32::from(old >> 10 & 31) + steps).clamp(0, 30) as u16;
            block[..2].copy_from_slice(&(old & 0x83ff | exponent << 10).to_le_bytes());
        }
    })
    .map_err(instrument)?;
    Ok(file)
}

/// Stops before a word is printed, and names these.
fn stopped(t: &mut Tally, s: &Subject, file: &Path, words: &[&str]) -> Result<(), Halt> {
    let out = s.apr(["run"]).args([file.as_os_str()]).args(["2+2?", "--raw", "--max-tokens", "8"]).judged()?;
    t.hold(out.stdout.is_empty() && out.code() == Some(1), || {
        out.refute("it stops with code 1 and prints no text", format!("{:?}: {}", out.code(), out.out()), "no text")
    })?;
    for word in words {
        t.hold(out.err().contains(word), || out.refute("the error names it", out.err(), *word))?;
    }
    Ok(())
}

/// Softmax overflow detected.
pub fn f_jid_264(s: &Subject) -> Attempt {
    let mut t = Tally::new("forged models whose queries and keys of one layer multiply to more than f32 can hold");
    for forged in ["llama-f32", "qwen2-f32"] {
        for layer in [0, 1] {
            let (q, k) = (format!("blk.{layer}.attn_q.weight"), format!("blk.{layer}.attn_k.weight"));
            for (by_q, by_k) in [(1e25, 1e25), (1e37, 1e3)] {
                let file = changed(s, forged, &[(&q, by_q), (&k, by_k)])?;
                stopped(&mut t, s, &file, &[&format!("layer {layer}, Attention"), "; attention scores overflow"])?;
            }
        }
    }
    t.done()
}

/// NaN logits hint provided.
pub fn f_jid_274(s: &Subject) -> Attempt {
    let mut t = Tally::new("forged models with one tensor of NaN or of infinite numbers");
    for (tensor, place) in [
        ("blk.0.ffn_down.weight", "layer 0, FfnDown"),
        ("blk.1.attn_v.weight", "layer 1, V"),
        ("blk.1.ffn_norm.weight", "layer 1, FfnNorm"),
        ("output_norm.weight", "OutputNorm"),
    ] {
        for by in [f32::NAN, f32::INFINITY] {
            let file = changed(s, "llama-f32", &[(tensor, by)])?;
            stopped(&mut t, s, &file, &["NaN or infinite logits", &format!("began in {place}"), "; ", "apr check"])?;
        }
    }
    t.done()
}

/// Warnings of a run, as lines and as JSON says them.
fn warnings(out: &Output) -> Vec<String> {
    out.err().lines().filter_map(|l| l.strip_prefix("warning: ")).map(String::from).collect()
}

/// Sound answers without a warning.
fn no_alarm(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    for prompt in HEALTHY {
        for flags in [&["--max-tokens", "120"][..], &["--max-tokens", "120", "--temperature", "0.8", "--seed", "3"]] {
            let out = answered(ask(s, prompt, flags)?)?;
            t.hold(out.stderr.is_empty(), || out.refute("no alarm on a sound model", out.err(), "no word"))?;
        }
    }
    t.number("sound answers", (2 * HEALTHY.len()) as f64);
    t.number("false alarms", 0.0);
    Ok(())
}

/// High perplexity spike detected.
pub fn f_jid_269(s: &Subject) -> Attempt {
    let mut t = Tally::new("the fixture with flattened logits (scales of its table divided by 8), and as it is");
    let file = scaled(s, "token_embd.weight", -3)?;
    let mut told = 0;
    for prompt in HEALTHY {
        let out = answered(s.apr(["run"]).args([file.as_os_str()]).args([*prompt, "--max-tokens", "60"]))?;
        told += u32::from(warnings(&out).iter().any(|w| w.contains("perplexity") && w.contains("up to position ")));
    }
    t.hold(told >= 3, || {
        crate::verdict::Refutation::new("a model that guesses is told", format!("in {told} of 10 answers"), "in some")
    })?;
    t.number("answers of the broken model that warned", f64::from(told));
    no_alarm(&mut t, s)?;
    t.done()
}

/// Repeated token loop detected.
pub fn f_jid_270(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("a forced token, a fixture that loops (a feed-forward layer gone), and the fixture as it is");
    let loops = |t: &mut Tally, out: &Output, period: &str| -> Result<(), Halt> {
        let all = warnings(out);
        let told = all.iter().filter(|w| w.contains("in a loop of ")).count() == 1;
        t.hold(told && all.iter().any(|w| w.contains(period)), || {
            out.refute("the loop is told once, with its period", out.err(), period)
        })
    };
    for token in ["300", "999"] {
        let bias = format!("{token}=100");
        let out = answered(ask(s, PROMPTS[2], &["--logit-bias", &bias, "--max-tokens", "100"])?)?;
        loops(&mut t, &out, "a loop of 1 token ")?;
        let short = answered(ask(s, PROMPTS[2], &["--logit-bias", &bias, "--max-tokens", "30"])?)?;
        t.hold(short.stderr.is_empty(), || short.refute("thirty times may be meant", short.err(), ""))?;
    }
    let file = copy(s, &s.model()?)?;
    change(&file, |bytes, layout| {
        if let Some(t) = layout.tensor("blk.3.ffn_down.weight") {
            bytes[t.data.clone()].fill(0);
        }
    })
    .map_err(instrument)?;
    let run = s.apr(["run"]).args([file.as_os_str()]).args([PROMPTS[1], "--max-tokens", "120", "--temperature", "0"]);
    loops(&mut t, &answered(run)?, " token")?;
    no_alarm(&mut t, s)?;
    t.done()
}

/// Premature EOS detected.
pub fn f_jid_271(s: &Subject) -> Attempt {
    let mut t = Tally::new("the end token forced as the first one, in a conversation and raw; and sound answers");
    let model = open(s, &s.model()?, Setup::default())?;
    let end = model.tokenizer.eos().ok_or_else(|| instrument("the fixture has no end token"))?;
    let bias = format!("{end}=1000");
    for prompt in PROMPTS {
        let out = answered(ask(s, prompt, &["--logit-bias", &bias])?)?;
        let told = warnings(&out).iter().any(|w| w.contains("before the first token"));
        t.hold(told, || out.refute("an empty answer is told", out.err(), "a warning"))?;
        let json = answered(ask(s, prompt, &["--logit-bias", &bias, "--json"])?)?;
        let object: Value = serde_json::from_slice(&json.stdout).unwrap_or_default();
        t.hold(object["warnings"].as_array().is_some_and(|w| w.len() == 1), || {
            json.refute("--json has it too", json.out(), "one warning")
        })?;
        // A text that is complete may end where it ends.
        let raw = answered(ask(s, prompt, &["--logit-bias", &bias, "--raw"])?)?;
        t.hold(warnings(&raw).is_empty(), || raw.refute("no warning for a raw text", raw.err(), ""))?;
    }
    no_alarm(&mut t, s)?;
    t.done()
}

/// CPU fallback logged, with the reason.
pub fn f_jid_275(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run with --verbose, without, and with --gpu");
    for prompt in PROMPTS {
        let out = answered(ask(s, prompt, &["--verbose", "--max-tokens", "4"])?)?;
        let text = out.err();
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("Device: CPU, because ")).collect();
        t.hold(lines.len() == 1 && lines[0].contains("GPU"), || {
            out.refute("one line says that the CPU runs, and why", &*text, "Device: CPU, because ..")
        })?;
        let plain = answered(ask(s, prompt, &["--max-tokens", "4"])?)?;
        t.hold(plain.stderr.is_empty(), || plain.refute("no word unasked", plain.err(), ""))?;
        let out = ask(s, prompt, &["--gpu"])?.judged()?;
        t.hold(out.code() != Some(0) && out.err().contains("GPU") && out.stdout.is_empty(), || {
            out.refute("no silent fall back where a GPU was asked for", out.err(), "refused")
        })?;
    }
    t.done()
}

/// Summary of errors and warnings at the end.
pub fn f_jid_280(s: &Subject) -> Attempt {
    let mut t = Tally::new("runs with no, one and several warnings, quiet, as JSON, and a warning before an error");
    for (flags, count) in [
        (&["--temperature", "3"][..], 1),
        (&["--temperature", "3", "--top-p", "7"], 2),
        (&["--temperature", "3", "--top-p", "7", "--min-p", "9"], 3),
    ] {
        let flags = [flags, &["--max-tokens", "4"]].concat();
        let out = answered(ask(s, PROMPTS[0], &flags)?)?;
        let want = format!("summary: {count} warning{}, 0 errors", if count == 1 { "" } else { "s" });
        let text = out.err();
        t.hold(text.lines().last() == Some(&*want) && text.matches("summary: ").count() == 1, || {
            out.refute("the last line sums up", &*text, &*want)
        })?;
        t.hold(warnings(&out).len() == count, || out.refute("every warning is there too", &*text, count.to_string()))?;
        let json = answered(ask(s, PROMPTS[0], &[&flags[..], &["--json"]].concat())?)?;
        let object: Value = serde_json::from_slice(&json.stdout).unwrap_or_default();
        t.hold(object["summary"]["warnings"] == count && object["summary"]["errors"] == 0, || {
            json.refute("--json sums up", object["summary"].to_string(), count.to_string())
        })?;
        let quiet = answered(ask(s, PROMPTS[0], &[&flags[..], &["--quiet"]].concat())?)?;
        t.hold(quiet.stderr.is_empty(), || quiet.refute("--quiet says nothing", quiet.err(), ""))?;
    }
    for prompt in PROMPTS {
        let out = answered(ask(s, prompt, &["--max-tokens", "4"])?)?;
        t.hold(out.stderr.is_empty(), || out.refute("a clean run has no summary", out.err(), ""))?;
    }
    let broken = changed(s, "llama-f32", &[("output_norm.weight", f32::NAN)])?;
    let out = s.apr(["run"]).args([broken.as_os_str()]).args(["x", "--raw", "--temperature", "3"]).judged()?;
    let want = "summary: 1 warning, 1 error";
    t.hold(out.err().lines().last() == Some(want), || out.refute("the error is counted", out.err(), want))?;
    t.done()
}
