//! Asks a subject a question through the command line, the way a user would: `apr run MODEL PROMPT FLAGS`.
//!
//! Answers are asked for greedily unless the flags say otherwise, so that two askings can be compared. What an answer
//! should be is no affair of this file.

use serde_json::Value;

use crate::child::{Output, Run};
use crate::subject::Subject;
use crate::verdict::{Halt, fixture_weak};

/// Prompts whose answers are compared with each other, never with a wish. They stand here before any answer was seen.
pub const PROMPTS: &[&str] = &["What is 2+2?", "Write a Python function that adds two numbers.", "Hello!"];

/// Prompts for a long answer, tried in this order by rows that need one.
pub const LONG_PROMPTS: &[&str] = &[
    "Write a Python function that checks whether a number is prime.",
    "Write a Python function that returns the last n characters of a string.",
    "Count from 1 to 20.",
];

/// A prompt with many good answers, for rows about sampling.
pub const OPEN_PROMPT: &str = "Tell me a story.";

/// `apr run` on the main fixture, not started yet. Greedy.
pub fn ask(s: &Subject, prompt: &str, flags: &[&str]) -> Result<Run, Halt> {
    let model = s.model()?;
    let run = s.apr(["run"]).args([model.as_os_str()]).args([prompt]);
    Ok(if flags.contains(&"--temperature") { run } else { run.args(["--temperature", "0"]) }.args(flags))
}

/// Runs it, and refutes if it does not succeed.
pub fn answered(run: Run) -> Result<Output, Halt> {
    let out = run.judged()?;
    match out.code() {
        Some(0) => Ok(out),
        code => {
            let observed = format!("exit code {code:?}: {}", out.err().trim());
            Err(out.refute("it answers and exits 0", observed, "exit code 0").into())
        }
    }
}

/// The answer as it stands on standard output.
pub fn printed(s: &Subject, prompt: &str, flags: &[&str]) -> Result<String, Halt> {
    Ok(answered(ask(s, prompt, flags)?)?.out())
}

/// How an answer is printed: closed by a line end, unless it brings its own.
pub fn closed(text: &str) -> String {
    if text.ends_with('\n') { text.to_string() } else { format!("{text}\n") }
}

/// The answer with what `--json` says about it.
pub struct Report {
    /// The whole object.
    pub json: Value,
    /// The answer.
    pub text: String,
    /// How many tokens it says it made.
    pub tokens: u64,
    /// The command that did it.
    pub repro: String,
}

/// Asks with `--json`. The fields are those of the public API's `InferenceResult`.
pub fn report(s: &Subject, prompt: &str, flags: &[&str]) -> Result<Report, Halt> {
    let out = answered(ask(s, prompt, flags)?.args(["--json"]))?;
    let refuted =
        |what: String| -> Halt { out.refute("--json prints one JSON object", what, "text, tokens_generated").into() };
    let json: Value = serde_json::from_slice(&out.stdout).map_err(|e| refuted(format!("{e} in {}", out.out())))?;
    let text = json["text"].as_str().map(str::to_string);
    match (text, json["tokens_generated"].as_u64()) {
        (Some(text), Some(tokens)) => Ok(Report { json, text, tokens, repro: out.repro }),
        _ => Err(refuted(json.to_string())),
    }
}

/// The first of [`LONG_PROMPTS`] that the model answers with at least `tokens` tokens, and the whole answer.
pub fn long(s: &Subject, tokens: u64) -> Result<(&'static str, Report), Halt> {
    for prompt in LONG_PROMPTS {
        let whole = report(s, prompt, &["--max-tokens", "128"])?;
        if whole.tokens >= tokens {
            return Ok((prompt, whole));
        }
    }
    Err(fixture_weak(format!("no prompt is answered with {tokens} tokens")))
}
