//! F-CHECK: `apr check`. Each stage passes on sound models and fails, before any other, on a model that is broken there.
//!
//! Broken models are what saboteurs make: a rewritten program, a runner that meddles, a changed file. A stage that a
//! broken file can show is also tried through `apr` itself.

use std::path::{Path, PathBuf};

use engine::check::Verdict;
use engine::convert::{Target, convert};
use serde_json::Value;

use super::Check;
use crate::checkup::{broken, checked, copy, examine, first_failure, told, verdicts};
use crate::child::Output;
use crate::lab::running;
use crate::sabotage::evil_input::change;
use crate::screen::borders;
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-CHECK-211", f_check_211),
    ("F-CHECK-212", f_check_212),
    ("F-CHECK-213", f_check_213),
    ("F-CHECK-214", f_check_214),
    ("F-CHECK-215", f_check_215),
    ("F-CHECK-216", f_check_216),
    ("F-CHECK-217", f_check_217),
    ("F-CHECK-218", f_check_218),
    ("F-CHECK-219", f_check_219),
    ("F-CHECK-220", f_check_220),
    ("F-CHECK-221", f_check_221),
    ("F-CHECK-222", f_check_222),
    ("F-CHECK-223", f_check_223),
    ("F-CHECK-224", f_check_224),
    ("F-CHECK-225", f_check_225),
    ("F-CHECK-226", f_check_226),
    ("F-CHECK-227", f_check_227),
    ("F-CHECK-228", f_check_228),
    ("F-CHECK-229", f_check_229),
    ("F-CHECK-230", f_check_230),
];

/// Components and explanations, as section 3.1 of the specification has them.
pub const TABLE: [(&str, &str); 10] = [
    ("Tokenizer", "Words → numbers"),
    ("Embedding", "Numbers → vectors"),
    ("Positional Encoding", "\"You are word #3\""),
    ("Q/K/V Projection", "Make 3 question copies"),
    ("Attention Scores", "\"Who to look at?\""),
    ("Feed-Forward (MLP)", "\"Think about it\""),
    ("Layer Norm", "Keep numbers stable"),
    ("LM Head", "Vector → vocab scores"),
    ("Logits → Probs", "Scores → percentages"),
    ("Sampler/Decode", "Pick word, return"),
];

/// Models of random weights, sound in every stage but the last, which cannot be tried on them.
const UNTRAINED: &[&str] = &["llama-yarn-f32", "qwen2-gqa4-q4_k"];

/// What is said of one stage of the subject's model, in this process and through `apr`.
fn stage(s: &Subject, number: usize, ways: &[&str], files: &[&str]) -> Attempt {
    let mut t = Tally::new(format!(
        "stage {number} on the fixture here and through apr, on {} models of random weights, and on models broken there: {}",
        UNTRAINED.len(),
        ways.join(", ")
    ));
    let name = TABLE[number - 1].0;
    let passes = |t: &mut Tally, path: &Path, what: &str| -> Result<(), Halt> {
        let result = examine(s, path)?;
        let found = &result.stages[number - 1];
        t.hold(found.verdict == Verdict::Passed && found.stage.component == name, || {
            Refutation::new(format!("{name} passes on {what}"), format!("{:?}", found.verdict), "passed")
        })?;
        t.hold(found.measured.contains(|c: char| c.is_ascii_digit()), || {
            Refutation::new("it says what was measured", found.measured.clone(), "numbers")
        })
    };
    passes(&mut t, &s.model()?, "the fixture")?;
    for forged in UNTRAINED.iter().filter(|_| number < 10) {
        passes(&mut t, &s.forged(forged)?, forged)?;
    }
    let (out, object) = told(s, &s.fixture("q4_k_m")?, &[])?;
    t.hold(verdicts(&object).get(number - 1).is_some_and(|v| v == "passed"), || {
        out.refute(&format!("{name} passes through apr"), object["stages"][number - 1].to_string(), "passed")
    })?;
    for way in ways {
        let b = broken(s, way)?;
        let result = examine(&b, &b.model()?)?;
        let first = first_failure(&result);
        t.hold(first.is_some_and(|(n, fault)| n == number && !fault.hint.is_empty()), || {
            Refutation::new(format!("with {way}, stage {number} is the first to fail"), format!("{first:?}"), name)
        })?;
    }
    for way in files {
        let b = broken(s, way)?;
        let (out, object) = told(&b, &b.model()?, &[])?;
        let failed = verdicts(&object).iter().position(|v| v == "failed").map(|i| i + 1);
        t.hold(failed == Some(number) && out.code() == Some(1), || {
            out.refute(
                &format!("with {way}, apr check fails stage {number} first"),
                format!("{failed:?}"),
                number.to_string(),
            )
        })?;
    }
    t.done()
}

/// Tokenizer: text comes back as it was.
pub fn f_check_212(s: &Subject) -> Attempt {
    stage(s, 1, &["letter-made-control"], &["letter-made-control"])
}

/// Embedding: every word has a vector, and it is the file's.
pub fn f_check_213(s: &Subject) -> Attempt {
    stage(s, 2, &["embedding-row-zeroed", "embedding-shuffled"], &["embedding-row-zeroed"])
}

/// RoPE: the angles are the file's, and heads are turned by them.
pub fn f_check_214(s: &Subject) -> Attempt {
    stage(s, 3, &["rope-dropped", "rope-theta-10k", "rope-layout-swapped"], &[])
}

/// QKV: projections that have not collapsed.
pub fn f_check_215(s: &Subject) -> Attempt {
    stage(s, 4, &["qkv-zeroed"], &[])
}

/// Attention: it looks somewhere, and its output is what the scores say.
pub fn f_check_216(s: &Subject) -> Attempt {
    stage(s, 5, &["attention-one-hot", "heads-swapped", "mask-non-causal", "attention-unnormalised"], &[])
}

/// FFN: it adds something that is not linear.
pub fn f_check_217(s: &Subject) -> Attempt {
    stage(s, 6, &["ffn-identity"], &[])
}

/// LayerNorm: RMS 1 before the weight.
pub fn f_check_218(s: &Subject) -> Attempt {
    stage(s, 7, &["norm-unnormalised", "norm-centred"], &[])
}

/// LM Head: a logit for every row of the vocabulary.
pub fn f_check_219(s: &Subject) -> Attempt {
    stage(s, 8, &["logits-short"], &[])
}

/// Softmax: probabilities sum to 1.
pub fn f_check_220(s: &Subject) -> Attempt {
    stage(s, 9, &["logsumexp-off"], &[])
}

/// Sampler: the same tokens again, and no garbage.
pub fn f_check_221(s: &Subject) -> Attempt {
    stage(s, 10, &["embedding-rotated", "merges-reversed"], &["embedding-rotated"])
}

/// The main fixture with one tensor zeroed.
fn zeroed(s: &Subject, tensor: &str) -> Result<PathBuf, Halt> {
    let file = copy(s, &s.model()?)?;
    change(&file, |bytes, layout| {
        if let Some(t) = layout.tensor(tensor) {
            bytes[t.data.clone()].fill(0);
        }
    })
    .map_err(instrument)?;
    Ok(file)
}

/// Runs without crash: on whatever it is given it ends with a verdict or an error, and it answers no prompt.
pub fn f_check_211(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr check on sound, untrained, broken, truncated, foreign and absent models");
    let folder = s.scratch()?;
    let model = s.model()?;
    let whole = std::fs::read(&model).map_err(instrument)?;
    let mut bad: Vec<(PathBuf, &[i32])> = vec![
        (model.clone(), &[0]),
        (s.fixture("q4_k_m")?, &[0]),
        (s.forged("llama-spm-f16")?, &[1]),
        (zeroed(s, "blk.0.attn_v.weight")?, &[1]),
        (zeroed(s, "output_norm.weight")?, &[1]),
        (folder.join("absent.gguf"), &[3]),
        (folder.clone(), &[3, 4, 5]),
    ];
    for (name, bytes) in [("empty", &b""[..]), ("text", b"hello"), ("cut", &whole[..whole.len() / 2])] {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(instrument)?;
        bad.push((path, &[4, 5]));
    }
    for (path, codes) in bad {
        let out = checked(s, &path, &[])?;
        let code = out.code();
        t.hold(code.is_some_and(|c| codes.contains(&c)), || {
            out.refute(
                "it ends with an exit code that says so",
                format!("{code:?}: {}", out.err()),
                format!("{codes:?}"),
            )
        })?;
        let text = out.out();
        let about =
            |l: &str| l.starts_with(['┌', '│', '├', '└']) || l.starts_with("stage ") || l.ends_with("STAGES PASSED");
        t.hold(text.lines().all(about), || out.refute("it prints its table and no answer", &*text, "the table"))?;
    }
    t.done()
}

const PASSED: &str = "10/10 STAGES PASSED";

/// The message: on sound models, and on no other.
pub fn f_check_222(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr check on the fixtures, on broken copies, and on models of random weights");
    for q in ["q8_0", "q4_k_m"] {
        let out = checked(s, &s.fixture(q)?, &[])?;
        t.hold(out.out().lines().last() == Some(PASSED), || out.refute("the last line says it", out.out(), PASSED))?;
    }
    let mut bad: Vec<PathBuf> = vec![zeroed(s, "blk.1.ffn_down.weight")?, zeroed(s, "blk.3.attn_k.weight")?];
    for way in ["embedding-rotated", "letter-made-control"] {
        bad.push(broken(s, way)?.model()?);
    }
    for name in UNTRAINED {
        bad.push(s.forged(name)?);
    }
    for path in bad {
        let out = checked(s, &path, &[])?;
        let text = out.out();
        let last = text.lines().last().unwrap_or_default();
        t.hold(!text.contains(PASSED) && last.ends_with("STAGES PASSED") && out.code() == Some(1), || {
            out.refute("a model that does not pass is not said to", &*text, "fewer than ten")
        })?;
    }
    t.done()
}

/// The line of a stage that failed.
fn line_of(out: &Output, number: usize) -> String {
    out.out().lines().find(|l| l.starts_with(&format!("stage {number} "))).unwrap_or_default().to_string()
}

/// A failed stage shows where, what was seen, and what to do.
pub fn f_check_223(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr check on copies of the fixture with one tensor zeroed, and on a rotated embedding");
    for (tensor, number, layer) in [
        ("blk.1.ffn_down.weight", 6, "layer 1"),
        ("blk.2.attn_k.weight", 4, "layer 2"),
        ("blk.0.attn_output.weight", 5, "layer 0"),
        ("blk.3.ffn_norm.weight", 7, "layer 3"),
    ] {
        let file = zeroed(s, tensor)?;
        let out = checked(s, &file, &[])?;
        let line = line_of(&out, number);
        for word in ["failed", layer, tensor, "; "] {
            t.hold(line.contains(word), || out.refute("the line of the stage names it", out.out(), word))?;
        }
        t.hold(out.code() == Some(1), || out.refute("exit code 1", format!("{:?}", out.code()), "1"))?;
        let (out, object) = told(s, &file, &[])?;
        let stage = &object["stages"][number - 1];
        let says = stage["verdict"] == "failed" && stage["tensor"] == tensor && object["all_passed"] == false;
        t.hold(says && stage["hint"].is_string(), || out.refute("--json says the same", stage.to_string(), tensor))?;
    }
    let b = broken(s, "embedding-rotated")?;
    let out = checked(&b, &b.model()?, &[])?;
    let line = line_of(&out, 10);
    t.hold(line.contains("nats a token") && line.contains("; "), || {
        out.refute("what was seen and a hint", out.out(), "numbers")
    })?;
    t.done()
}

/// The explanations stand beside their stages.
pub fn f_check_224(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr check on both fixtures, as text and as JSON, beside section 3.1 of the specification");
    for q in ["q8_0", "q4_k_m"] {
        let out = checked(s, &s.fixture(q)?, &[])?;
        let text = out.out();
        for (component, eli5) in TABLE {
            let line = text.lines().find(|l| l.contains(&format!("│ {component} "))).unwrap_or_default();
            t.hold(line.contains(&format!("│ {eli5} ")), || out.refute("the explanation is there", line, eli5))?;
        }
    }
    let (out, object) = told(s, &s.model()?, &[])?;
    for (i, (component, eli5)) in TABLE.iter().enumerate() {
        let stage = &object["stages"][i];
        t.hold(stage["component"] == *component && stage["eli5"] == *eli5, || {
            out.refute("--json has both", stage.to_string(), *eli5)
        })?;
    }
    t.done()
}

/// The table is aligned in terminals of 80 and 120 columns, and has no escapes in a file.
pub fn f_check_225(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr check on a pseudo-terminal, replayed at 80 and 120 columns, and on a pipe");
    for path in [s.model()?, zeroed(s, "blk.1.ffn_down.weight")?, s.forged(UNTRAINED[0])?] {
        let out = s.apr(["check"]).args([path.as_os_str()]).on_terminal().judged()?;
        for width in [80, 120] {
            let all = borders(&out.stdout, width);
            t.hold(all.len() == 23, || out.refute("23 lines of a table", all.len().to_string(), "23"))?;
            let aligned = all.iter().all(|b| *b == all[0]) && all[0] == [0, 6, 28, 39, 64, 71];
            t.hold(aligned, || {
                out.refute(&format!("borders stand in line at {width} columns"), format!("{all:?}"), "6 each")
            })?;
        }
        let piped = checked(s, &path, &[])?;
        t.hold(!piped.stdout.contains(&0x1b) && piped.stderr.is_empty(), || {
            piped.refute("no escapes and no other stream when piped", piped.out(), "plain text")
        })?;
    }
    t.done()
}

/// A sound model of a container passes all ten, and a broken one does not.
fn container(t: &mut Tally, s: &Subject, good: &Path, bad: &Path, format: &str) -> Result<(), Halt> {
    let (out, object) = told(s, good, &[])?;
    let named = object["format"].as_str().is_some_and(|f| f.starts_with(format));
    t.hold(named, || out.refute("the container is named", object["format"].to_string(), format))?;
    t.hold(verdicts(&object) == ["passed"; 10] && out.code() == Some(0), || {
        out.refute("ten stages pass", object["stages"].to_string(), "ten passed")
    })?;
    let (out, object) = told(s, bad, &[])?;
    t.hold(verdicts(&object).iter().any(|v| v == "failed") && out.code() == Some(1), || {
        out.refute("the broken one fails", format!("{:?}: {:?}", out.code(), verdicts(&object)), "a failed stage")
    })
}

/// Works for GGUF models.
pub fn f_check_226(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr check on the fixtures as GGUF, sound and with permuted embeddings");
    let b = broken(s, "embedding-rotated")?;
    container(&mut t, s, &s.model()?, &b.model()?, "GGUF")?;
    container(&mut t, s, &s.fixture("q4_k_m")?, &zeroed(s, "blk.1.ffn_down.weight")?, "GGUF")?;
    t.done()
}

/// Works for APR models.
pub fn f_check_227(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr check on the fixture converted to .apr, and on its broken copy converted");
    let folder = s.scratch()?;
    let bundle = |from: &Path, name: &str| -> Result<PathBuf, Halt> {
        let to = folder.join(name);
        let target = Target::of(&to).ok_or_else(|| instrument("no target"))?;
        running("a model is converted", convert(from, &to, target, false, &mut |_, _| Ok(())))?;
        Ok(to)
    };
    let b = broken(s, "embedding-rotated")?;
    container(&mut t, s, &bundle(&s.model()?, "good.apr")?, &bundle(&b.model()?, "bad.apr")?, "APR")?;
    t.done()
}

/// Works for SafeTensors models.
pub fn f_check_228(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("apr check on the folder in which the fixture was saved, and on a copy with a rotated embedding");
    let sound = s.fixtures.join("qwen2-tiny");
    let folder = s.scratch()?;
    for entry in std::fs::read_dir(&sound).map_err(instrument)? {
        let from = entry.map_err(instrument)?.path();
        let mut bytes = std::fs::read(&from).map_err(instrument)?;
        if from.extension().is_some_and(|e| e == "safetensors") {
            rotate(&mut bytes).ok_or_else(|| instrument("no embedding in the fixture"))?;
        }
        std::fs::write(folder.join(from.file_name().unwrap_or_default()), bytes).map_err(instrument)?;
    }
    container(&mut t, s, &sound, &folder, "SafeTensors")?;
    t.done()
}

/// Rotates the embedding of a SafeTensors file by one row.
fn rotate(bytes: &mut [u8]) -> Option<()> {
    let header = u64::from_le_bytes(*bytes.first_chunk()?) as usize;
    let table: Value = serde_json::from_slice(bytes.get(8..8 + header)?).ok()?;
    let tensor = &table["model.embed_tokens.weight"];
    let at = |i: usize| Some(8 + header + tensor["data_offsets"][i].as_u64()? as usize);
    let rows = tensor["shape"][0].as_u64()? as usize;
    let data = bytes.get_mut(at(0)?..at(1)?)?;
    let row = data.len() / rows;
    data.rotate_left(row);
    Some(())
}

/// The GPU path is verified: ten stages on the GPU, and in step with the oracle, both of which say so.
pub fn f_check_229(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr check --gpu on both fixtures, and with --deep on the first");
    let models = [s.model()?, s.fixture("q4_k_m")?];
    for (i, model) in models.iter().enumerate() {
        let flags = if i == 0 { &["--gpu", "--deep"][..] } else { &["--gpu"] };
        let (out, object) = told(s, model, flags)?;
        let named = object["backend"].as_str().unwrap_or_default();
        t.hold(named.starts_with("cuda"), || out.refute("the stages ran on the GPU", named, "cuda"))?;
        let failed = verdicts(&object).iter().any(|v| v == "failed");
        t.hold(!failed && out.code() == Some(0), || out.refute("they pass", out.out(), "no stage fails"))?;
        t.equal("stages", &verdicts(&object).len(), &10)?;
        if i == 0 {
            let deep = &object["deep"];
            let ran = deep.to_string();
            t.hold(ran.contains("cuda"), || out.refute("the GPU was held to the oracle", &*ran, "cuda"))?;
        }
        t.note(named);
    }
    t.done()
}

/// The CPU is checked, and named.
pub fn f_check_230(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr check with --no-gpu, with --threads, and on all backends");
    let model = s.model()?;
    for flags in [&["--no-gpu"][..], &["--no-gpu", "--threads", "1"], &[]] {
        let (out, object) = told(s, &model, flags)?;
        let backend = object["backend"].as_str().unwrap_or_default();
        t.hold(backend.starts_with("cpu (") && out.code() == Some(0), || {
            out.refute("the CPU backend ran", backend, "cpu (..)")
        })?;
        t.hold(!flags.contains(&"1") || backend.contains("1 thread)"), || {
            out.refute("on one thread", backend, "1 thread")
        })?;
    }
    let (out, object) = told(s, &model, &["--all-backends"])?;
    let names: Vec<&str> = object["backends"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|b| b["backend"].as_str()?.split(' ').next())
        .collect();
    t.hold(names == ["cpu", "plain"], || {
        out.refute("--all-backends runs on each", format!("{names:?}"), "cpu, plain")
    })?;
    let (out, object) = told(s, &model, &["--deep"])?;
    let deep = &object["deep"];
    let compared = deep["operations"].as_array().map_or(0, Vec::len);
    t.hold(deep["parted"].is_null() && compared > 60, || {
        out.refute("operation by operation it is the oracle's run", deep["parted"].to_string(), "no difference")
    })?;
    t.number("operations beside the oracle", compared as f64);
    t.done()
}
