//! A traced run, and what a tap of the suite's own sees in the same run.
//!
//! Traces are read from the file that `apr` wrote. What they should say is no affair of this file.

use std::path::Path;

use compute::Want;
use engine::program::Stage;
use engine::session::Session;
use serde_json::Value;

use crate::ask::{PROMPTS, answered, ask};
use crate::child::Output;
use crate::lab::{Seen, Setup, chat_ids, open, running};
use crate::subject::Subject;
use crate::verdict::{Halt, Refutation};

/// A traced answer.
pub struct Traced {
    /// What the child did.
    pub out: Output,
    /// The file's text.
    pub text: String,
    /// The document.
    pub json: Value,
}

/// Runs the main fixture with `--trace-output` to a new file.
pub fn traced(s: &Subject, prompt: &str, flags: &[&str]) -> Result<Traced, Halt> {
    let file = s.scratch()?.join("trace.json");
    let out = answered(ask(s, prompt, flags)?.args(["--trace-output"]).args([&file]))?;
    read(out, &file)
}

/// Reads the trace that a child left.
pub fn read(out: Output, file: &Path) -> Result<Traced, Halt> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| out.refute("--trace-output writes the file", e.to_string(), "the trace"))?;
    let json = serde_json::from_str(&text).map_err(|e| out.refute("the trace is JSON", e.to_string(), "a document"))?;
    Ok(Traced { out, text, json })
}

impl Traced {
    /// Its events.
    pub fn events(&self) -> Result<&[Value], Halt> {
        let list = self.json["events"].as_array().filter(|l| !l.is_empty());
        let none = || self.out.refute("the trace has events", self.json["events"].to_string(), "a list").into();
        list.map(Vec::as_slice).ok_or_else(none)
    }

    /// Events of one type and stage.
    pub fn of(&self, kind: &str, stage: &str) -> Result<Vec<&Value>, Halt> {
        Ok(self.events()?.iter().filter(|e| e["type"] == kind && e["name"] == stage).collect())
    }

    /// A refutation that says how to see it again.
    pub fn refute(&self, criterion: &str, seen: impl std::fmt::Display, want: impl std::fmt::Display) -> Refutation {
        self.out.refute(criterion, seen.to_string(), want.to_string())
    }
}

/// The buffers behind the stages of a greedy answer, by a tap of the check's own.
fn tapped(s: &Subject, prompt: &str, tokens: &[u32]) -> Result<Vec<Seen>, Halt> {
    let mut model = open(s, &s.model()?, Setup { watched: true, ..Setup::default() })?;
    let prompt = chat_ids(&model, prompt)?;
    let mut session = Session::new(&mut model);
    let mut all = Vec::new();
    for ids in std::iter::once(prompt.as_slice()).chain(tokens.chunks(1)) {
        let mut seen = Seen::default();
        running("a step runs", session.feed(ids, Want::Nothing, Want::Logits, &mut seen))?;
        seen.outputs = session.output().rows.clone();
        all.push(seen);
    }
    Ok(all)
}

/// The buffer that a stage's exit is about.
fn buffer<'a>(seen: &'a Seen, event: &Value) -> Result<Option<&'a [f32]>, Halt> {
    let layer = event["layer"].as_u64().unwrap_or(0) as usize;
    Ok(match event["name"].as_str() {
        Some("EMBED") => Some(seen.of(0, Stage::Embed)?),
        Some("ATTENTION") => Some(seen.of(layer, Stage::AttentionAdd)?),
        Some("FFN") => Some(seen.of(layer, Stage::FfnAdd)?),
        Some("LM_HEAD") => seen.outputs.last().map(|o| o.values.as_slice()),
        _ => None,
    })
}

/// Runs `compare` on the exit of every stage that has a tensor, with the numbers that a tap saw there.
pub fn beside_a_tap(
    s: &Subject,
    flags: &[&str],
    mut compare: impl FnMut(&Traced, &Value, &[f32]) -> Result<(), Halt>,
) -> Result<(), Halt> {
    for prompt in PROMPTS {
        let trace = traced(s, prompt, flags)?;
        let tokens: Vec<u32> = trace.json["summary"]["tokens"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .map(|t| t as u32)
            .collect();
        let seen = tapped(s, prompt, &tokens)?;
        for e in trace.events()?.iter().filter(|e| e["type"] == "TaskStateExited") {
            let at = e["iteration"].as_u64().unwrap_or(0) as usize;
            let step =
                seen.get(at).ok_or_else(|| trace.refute("a stage belongs to a step that ran", at, seen.len()))?;
            if let Some(values) = buffer(step, e)? {
                compare(&trace, e, values)?;
            }
        }
    }
    Ok(())
}
