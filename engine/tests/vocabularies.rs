//! Published vocabularies held to what the models' own tokenizers answer: llama.cpp's `ggml-vocab-*.gguf`, with the texts
//! and ids that lie beside them.
//!
//! They are no part of this repository. `scripts/golden/vocab` fetches them; without them every test here is shown as
//! ignored, which is to say: not attempted.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use engine::text::Tokenizer;
use libtest_mimic::{Arguments, Failed, Trial};

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
    let trial = |name: &str, test: fn(&Path) -> Result<(), Failed>, kind: &str| {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let absent = !path.exists();
        Trial::test(format!("{name}_{kind}"), move || test(&path)).with_ignored_flag(absent)
    };
    let trials: Vec<Trial> = NAMES.iter().map(|name| trial(name, has_the_expected_ids, "ids")).collect();
    if trials.iter().any(Trial::has_ignored_flag) {
        eprintln!("not attempted where ignored: scripts/golden/vocab fetches the vocabularies");
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn tokenizer(path: &Path) -> Result<Tokenizer, Failed> {
    let file = engine::file::open(path).map_err(|e| e.to_string())?;
    Ok(Tokenizer::from_metadata(&file.metadata).map_err(|e| e.to_string())?)
}

/// Every text of `.inp` has the ids of its line in `.out`.
fn has_the_expected_ids(path: &Path) -> Result<(), Failed> {
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
