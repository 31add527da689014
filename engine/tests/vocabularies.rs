//! Published vocabularies held to what the models' own tokenizers answer: llama.cpp's `ggml-vocab-*.gguf`, with the texts
//! and ids that lie beside them.
//!
//! They are no part of this repository. `scripts/golden/published` fetches them; without them every test here is shown as
//! ignored, which is to say: not attempted.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::text::Tokenizer;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// Every vocabulary that has texts and ids.
const NAMES: &[&str] = &[
    "bert-bge",
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/oracle/vocab");
    let mut trials = Vec::new();
    for name in NAMES {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let absent = !path.exists();
        if absent && trials.is_empty() {
            eprintln!("not attempted where ignored: scripts/golden/published fetches the vocabularies");
        }
        let mut trial = |kind, test: fn(&str, &Path) -> Result<(), Failed>, ignored| {
            let path = path.clone();
            trials.push(Trial::test(format!("{name}_{kind}"), move || test(name, &path)).with_ignored_flag(ignored));
        };
        trial("ids", has_the_expected_ids, absent);
        trial("golden", has_the_references_ids, absent);
        // A clock decides, so only scripts/nightly asks: in release, alone, with --ignored.
        trial("growth", takes_time_in_proportion, true);
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn tokenizer(path: &Path) -> Result<Tokenizer, Failed> {
    let file = engine::file::open(path).map_err(|e| e.to_string())?;
    Ok(Tokenizer::from_metadata(&file.metadata).map_err(|e| e.to_string())?)
}

/// Every text of `.inp` has the ids of its line in `.out`.
fn has_the_expected_ids(_: &str, path: &Path) -> Result<(), Failed> {
    let beside = |end: &str| std::fs::read_to_string(PathBuf::from(format!("{}.{end}", path.display()))).unwrap();
    let (texts, ids) = (beside("inp"), beside("out"));
    let between = "\n__ggml_vocab_test__\n";
    let texts: Vec<&str> = texts.strip_suffix(between).unwrap_or(&texts).split(between).collect();
    let ids: Vec<Vec<u32>> =
        ids.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
    assert!(texts.len() == ids.len() && texts.len() > 40, "{} texts, {} lines of ids", texts.len(), ids.len());
    let tokenizer = tokenizer(path)?;
    for (text, want) in texts.iter().zip(&ids) {
        let got = tokenizer.encode_text(text).map_err(|e| format!("{text:?}: {e}"))?;
        if got != *want {
            return Err(format!("{text:?}: {got:?}, but the reference has {want:?}").into());
        }
    }
    Ok(())
}

/// The texts of golden/text/vocab_ids.json have the reference's ids. Where that is not what llama.cpp answers, the file
/// says so. Its prompts, which have tokens of structure in them, have llama.cpp's ids.
fn has_the_references_ids(name: &str, path: &Path) -> Result<(), Failed> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/text/vocab_ids.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let texts = golden["texts"].as_array().unwrap();
    let want: Vec<&str> = golden["vocabularies"][name]["ids"].as_str().unwrap().split(' ').collect();
    assert!(texts.len() == want.len() && want.len() > 100, "{} texts, {} digests", texts.len(), want.len());
    let tokenizer = tokenizer(path)?;
    for (n, (text, want)) in texts.iter().zip(want).enumerate() {
        let text = text.as_str().unwrap();
        let ids = tokenizer.encode_text(text).map_err(|e| format!("{text:?}: {e}"))?;
        if format!("{:08x}", digest(&ids)) != want {
            let ask = format!("`python scripts/golden/vocab.py {name} {n}` shows the reference's");
            return Err(format!("text {n}, {text:?}: {ids:?} are other ids; {ask}").into());
        }
    }
    let prompts = golden["vocabularies"][name]["prompts"].as_object().unwrap();
    assert!(!prompts.is_empty());
    for (prompt, want) in prompts {
        let ids = tokenizer.encode_raw(prompt).map_err(|e| format!("{prompt:?}: {e}"))?;
        if format!("{:08x}", digest(&ids)) != want.as_str().unwrap() {
            return Err(format!("prompt {prompt:?}: {ids:?} are not llama.cpp's ids").into());
        }
    }
    Ok(())
}

/// FNV-1a of the ids as 32-bit little-endian numbers.
fn digest(ids: &[u32]) -> u32 {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// How long this thread has been on a processor, which other programs do not change. Only Linux tells; elsewhere it is
/// the time of day.
fn seconds_worked() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds: Option<f64> = told.and_then(|told| told.split_whitespace().next()?.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    nanoseconds.map_or_else(now, |n| n * 1e-9)
}

/// Ten times the text takes at most thirteen times as long, where others take a hundred times as long. The small text is
/// encoded ten times, since the clock is too coarse for one.
fn takes_time_in_proportion(_: &str, path: &Path) -> Result<(), Failed> {
    const SMALL: usize = 100_000;
    let tokenizer = tokenizer(path)?;
    let seconds = |text: &str, times: usize| {
        let start = seconds_worked();
        for _ in 0..times {
            assert!(tokenizer.encode_text(text).is_ok());
        }
        seconds_worked() - start
    };
    let mut slow = String::new();
    for piece in ["a", " ", "\n", "\u{301}", "'", "a ", "日"] {
        let (small, large) = (piece.repeat(SMALL / piece.len()), piece.repeat(10 * SMALL / piece.len()));
        // In turns, so that a busy machine is busy for both; the least of each.
        let rounds: Vec<(f64, f64)> = (0..5).map(|_| (seconds(&small, 10), seconds(&large, 1))).collect();
        let least = |of: fn(&(f64, f64)) -> f64| rounds.iter().map(of).fold(f64::INFINITY, f64::min);
        let (ten_small, large) = (least(|r| r.0), least(|r| r.1));
        let said = format!("{piece:?}: {:.2} ms for 100 kB, {:.1} ms for 1 MB\n", ten_small * 1e2, large * 1e3);
        print!("{said}");
        if large > 1.3 * ten_small {
            slow += &said;
        }
    }
    if slow.is_empty() { Ok(()) } else { Err(slow.into()) }
}
