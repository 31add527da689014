//! F-PIPE-186 and 187: the end of the context.

use compute::Want;
use compute::backend::NoTap;
use engine::Kind;
use engine::session::{Finish, Session};
use serde_json::Value;

use crate::ask::answered;
use crate::child::Output;
use crate::lab::{self, Setup, open, probe, try_open};
use crate::subject::Subject;
use crate::texts::digits;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// Context window respected: neither `--ctx-size` nor the file's own context is ever exceeded.
pub fn f_pipe_186(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "prompts of 1 to 3 contexts with no other limit, at 5 to 257 positions and at a file's own 2048: rows counted in \
         process, tokens counted of apr run",
    );
    for name in ["qwen2-f32", "llama-q8_0"] {
        let path = s.forged(name)?;
        for context in [5, 63, 64, 65, 257] {
            let mut model = open(s, &path, Setup { context: Some(context), ..Setup::default() })?;
            for n in [1, context / 2, context - 1, context, context + 1, 3 * context] {
                let ids = probe(&model, n)?;
                filled(&mut t, &mut model, name, &ids, context)?;
            }
            // The door below refuses too, and computes nothing.
            let before = model.counters().rows;
            let ids = probe(&model, context + 1)?;
            let fed = Session::new(&mut model).feed(&ids, Want::Nothing, Want::Argmax, &mut NoTap);
            let kind = fed.err().map(|e| e.kind);
            t.equal(
                "a step beyond the context is refused",
                &(kind, model.counters().rows),
                &(Some(Kind::Usage), before),
            )?;
        }
        let mut whole = open(s, &path, Setup::default())?;
        let ids = probe(&whole, 2040)?;
        filled(&mut t, &mut whole, name, &ids, 2048)?;
        let more = try_open(s, &path, Setup { context: Some(2049), ..Setup::default() })?.err().map(|e| e.kind);
        t.equal("more than the file's context is refused", &more, &Some(Kind::Usage))?;
        for (asked, context) in [(Some("64"), 64), (Some("100"), 100), (None, 2048)] {
            let mut run = s.apr(["run"]).args([path.as_os_str()]).args(["-", "--raw", "--json", "--temperature", "0"]);
            run = run.args(["--max-tokens", "100000"]).stdin(digits(50));
            if let Some(asked) = asked {
                run = run.args(["--ctx-size", asked]);
            }
            let out = answered(run)?;
            let json: Value = serde_json::from_slice(&out.stdout).map_err(instrument)?;
            let count = |key: &str| json[key].as_u64().unwrap_or(0);
            let positions = count("prompt_tokens") + count("tokens_generated") - 1;
            t.hold(positions == context, || {
                out.refute("prompt and answer fill the context and no more", positions.to_string(), context.to_string())
            })?;
            t.hold(json["finish_reason"] == "length", || {
                out.refute("the answer ends by its length", json["finish_reason"].to_string(), "length")
            })?;
        }
    }
    t.done()
}

/// A random model goes on for ever: an answer ends where the context does, and the last token is not run.
fn filled(
    t: &mut Tally,
    model: &mut engine::session::Loaded,
    name: &str,
    ids: &[u32],
    context: usize,
) -> Result<(), Halt> {
    let before = model.counters().rows;
    let answer = lab::greedy(model, ids, 1_000_000)?;
    let rows = (model.counters().rows - before) as usize;
    let at = || format!("{name}: {} tokens at a context of {context}", ids.len());
    t.hold(rows <= context, || {
        Refutation::new(format!("no position beyond the context, {}", at()), rows.to_string(), context.to_string())
    })?;
    t.equal(&format!("{}: it ends by its length", at()), &answer.finish, &Finish::Length)?;
    t.equal(&format!("{}: all of the context is used", at()), &rows, &context)?;
    t.equal(&format!("{}: rows and tokens agree", at()), &(answer.prompt_tokens + answer.tokens.len() - 1), &rows)
}

/// Truncation warning shown: one, with both numbers, and none where a prompt fits.
pub fn f_pipe_187(s: &Subject) -> Attempt {
    const CONTEXT: usize = 128;
    let mut t =
        Tally::new("raw prompts of 1 to 500 tokens at --ctx-size 128, as text and as JSON; chat prompts of both kinds");
    let model = s.model()?;
    let asked = |prompt: String, flags: &[&str]| {
        let run = s.apr(["run"]).args([model.as_os_str()]).args(["-", "--ctx-size", "128", "--temperature", "0"]);
        answered(run.args(["--max-tokens", "1"]).args(flags).stdin(prompt))
    };
    for n in [1, 10, 64, CONTEXT - 1, CONTEXT, CONTEXT + 1, 300, 500] {
        for flags in [&["--raw"][..], &["--raw", "--json"]] {
            let out = asked(digits(n), flags)?;
            let numbers = (n >= CONTEXT).then_some((n, CONTEXT));
            warns(&mut t, &out, numbers, flags.contains(&"--json"))?;
        }
    }
    // Through the template a prompt is longer than its words: how long, the JSON of a large context says.
    for words in [5, 400] {
        let prompt = "word ".repeat(words);
        let run = s.apr(["run"]).args([model.as_os_str()]).args(["-", "--max-tokens", "1", "--json"]);
        let whole = answered(run.stdin(prompt.as_str()))?;
        let json: Value = serde_json::from_slice(&whole.stdout).map_err(instrument)?;
        let n = json["prompt_tokens"].as_u64().ok_or_else(|| instrument("no prompt_tokens"))? as usize;
        for flags in [&[][..], &["--json"]] {
            let out = asked(prompt.clone(), flags)?;
            warns(&mut t, &out, (n >= CONTEXT).then_some((n, CONTEXT)), flags.contains(&"--json"))?;
        }
    }
    t.done()
}

/// One warning that has both numbers, or none.
fn warns(t: &mut Tally, out: &Output, numbers: Option<(usize, usize)>, json: bool) -> Result<(), Halt> {
    let mut said = vec![out.err().lines().filter(|l| l.starts_with("warning: ")).map(String::from).collect::<Vec<_>>()];
    if json {
        let json: Value = serde_json::from_slice(&out.stdout).map_err(instrument)?;
        let listed = json["warnings"].as_array().ok_or_else(|| instrument("no list of warnings"))?;
        said.push(listed.iter().filter_map(|w| Some(w.as_str()?.to_string())).collect());
    }
    for warnings in said {
        let wanted = usize::from(numbers.is_some());
        t.hold(warnings.len() == wanted, || {
            out.refute(
                "one warning for a prompt that does not fit, none for one that does",
                format!("{warnings:?}"),
                wanted.to_string(),
            )
        })?;
        for (warning, (n, context)) in warnings.iter().zip(numbers) {
            // As numbers of their own, not as digits of others.
            let stated: Vec<&str> = warning.split(|c: char| !c.is_ascii_digit()).collect();
            let both = stated.contains(&&*n.to_string()) && stated.contains(&&*context.to_string());
            t.hold(both, || out.refute("the warning has both numbers", &**warning, format!("{n} and {context}")))?;
        }
    }
    Ok(())
}
