//! Answers that are known beforehand, run as an answer is, with drafts and without: what speculation saves where a model
//! answers like this, and what it costs.
//!
//! The tokens are those of the workload, whatever the model thinks of them, so that a model of any weights can be timed;
//! each is taken from a step as it would be, and a draft is right where the workload goes on like it.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use compute::backend::NoTap;
use compute::{Interest, Want};
use serde_json::{Value, json};

use super::{Plan, median};
use crate::api::Wish;
use crate::error::{Error, Kind, Place, Result, printable};
use crate::limits;
use crate::session::{Loaded, PREFILL_CHUNK, Prompt, Session, Understood};
use crate::speculate::{DRAFT_MAX, Drafting, PromptLookup};

/// A question with its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// What it is called.
    pub name: String,
    /// Whether the answer repeats most of the prompt.
    pub edit: bool,
    /// What is asked.
    pub prompt: String,
    /// What is said.
    pub answer: String,
}

/// What was measured of a task.
#[derive(Clone, Debug)]
pub struct Said {
    /// Of the task.
    pub name: String,
    /// Whether its answer repeats most of the prompt.
    pub edit: bool,
    /// Tokens of the prompt, and of the answer as far as it was run.
    pub tokens: (usize, usize),
    /// Tokens a second without drafts, of each round.
    pub plain: Vec<f64>,
    /// And with them.
    pub drafted: Vec<f64>,
    /// Tokens drafted, and how many of them were right.
    pub drafts: (usize, usize),
}

impl Said {
    /// Times the speed that it has without drafts.
    pub fn ratio(&self) -> f64 {
        median(&self.drafted) / median(&self.plain)
    }
}

/// Reads a workload: `edits`, whose answers are their `code` with `changes` applied, and `fresh` with an `answer`. Texts
/// are lists of lines.
pub fn read(path: &Path) -> Result<Vec<Task>> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| Error::from_io(&e, path))?;
    file.take(limits::PROMPT_BYTES_MAX as u64).read_to_string(&mut text).map_err(|e| Error::from_io(&e, path))?;
    let json: Value =
        serde_json::from_str(&text).map_err(|e| Error::malformed(format!("the workload is not JSON: {e}")))?;
    let of = |list: &str, edit| {
        let tasks = json[list].as_array().map_or(&[][..], Vec::as_slice);
        tasks.iter().map(|t| task(t, edit)).collect::<Result<Vec<Task>>>()
    };
    let tasks = [of("edits", true)?, of("fresh", false)?].concat();
    if tasks.is_empty() { Err(Error::malformed("the workload has no task")) } else { Ok(tasks) }
}

fn task(task: &Value, edit: bool) -> Result<Task> {
    let lacks = |key: &str| Error::malformed("a task of the workload lacks it").at(Place::Key(key.into()));
    let text = |key: &str| task[key].as_str().map(str::to_string).ok_or_else(|| lacks(key));
    let lines = |key: &str| {
        let lines = task[key].as_array().ok_or_else(|| lacks(key))?;
        let lines: Option<Vec<&str>> = lines.iter().map(Value::as_str).collect();
        lines.map(|lines| lines.join("\n")).ok_or_else(|| lacks(key))
    };
    let (name, ask) = (printable(&text("name")?, limits::QUOTED_CHARS_MAX), text("ask")?);
    if !edit {
        return Ok(Task { name, edit, prompt: ask, answer: lines("answer")? });
    }
    let code = lines("code")?;
    let mut answer = code.clone();
    for change in task["changes"].as_array().ok_or_else(|| lacks("changes"))? {
        let (Some(old), Some(new)) = (change[0].as_str(), change[1].as_str()) else { return Err(lacks("changes")) };
        if old.is_empty() || !answer.contains(old) {
            return Err(Error::malformed(format!("a change of {name} has nothing to change")));
        }
        answer = answer.replace(old, new);
    }
    Ok(Task { name, edit, prompt: format!("{ask}\n\n{code}"), answer })
}

/// Runs every task with drafts and without, in turns; of an answer at most the plan's tokens.
pub fn run(path: &Path, plan: &Plan, tasks: &[Task]) -> Result<(String, Vec<Said>)> {
    let wish = Wish { gpu: plan.gpu, gpu_if_present: plan.gpu_if_present, threads: plan.threads, tuned: true };
    let mut loaded = wish.open(&mut |_| Ok(()), || Understood::open(path, None), &Interest::Nothing)?;
    let said = tasks.iter().map(|task| measure(&mut loaded, plan, task)).collect::<Result<_>>()?;
    Ok((loaded.backend(), said))
}

fn measure(loaded: &mut Loaded, plan: &Plan, task: &Task) -> Result<Said> {
    let raw = !matches!(loaded.template, Ok(Some(_)));
    let prompt = loaded.encode_prompt(&Prompt { text: &task.prompt, system: None, raw })?;
    let mut answer = loaded.tokenizer.encode_text(&task.answer)?;
    answer.truncate(plan.decode);
    if answer.is_empty() || prompt.len() + answer.len() > loaded.context {
        let what = format!("{} takes {} positions of {}", task.name, prompt.len() + answer.len(), loaded.context);
        return Err(Error::new(Kind::Usage, what).hint("--decode cuts answers"));
    }
    let mut said = Said {
        name: task.name.clone(),
        edit: task.edit,
        tokens: (prompt.len(), answer.len()),
        plain: Vec::new(),
        drafted: Vec::new(),
        drafts: (0, 0),
    };
    let mut session = Session::new(loaded);
    for part in prompt.chunks(PREFILL_CHUNK) {
        session.feed(part, Want::Nothing, Want::Argmax, &mut NoTap)?;
    }
    for round in 0..plan.repeat {
        for with in [round % 2 == 1, round % 2 == 0] {
            let most = if with { DRAFT_MAX } else { 0 };
            let (rate, drafts) = say(&mut session, &prompt, &answer, most)?;
            if with { &mut said.drafted } else { &mut said.plain }.push(rate);
            said.drafts = if with { drafts } else { said.drafts };
        }
    }
    Ok(said)
}

/// Says an answer after a prompt that is in the cache; tokens a second.
fn say(session: &mut Session<'_>, prompt: &[u32], answer: &[u32], most: usize) -> Result<(f64, (usize, usize))> {
    session.truncate(prompt.len());
    let mut lookup = PromptLookup::default();
    let start = Instant::now();
    let mut drafting = Drafting::new(prompt, most, vec![&mut lookup]);
    let mut said = 0;
    while said < answer.len() {
        drafting.chosen(answer[said]);
        let drafts = drafting.next(answer.len() - 1 - said)?;
        let ids = [&answer[said..=said], &drafts].concat();
        session.feed(&ids, Want::Argmax, Want::Argmax, &mut NoTap)?;
        let right = drafts.iter().zip(&answer[said + 1..]).take_while(|(a, b)| a == b).count();
        answer[said + 1..=said + right].iter().for_each(|&id| drafting.chosen(id));
        said += 1 + right;
        session.truncate(prompt.len() + said);
    }
    Ok((answer.len() as f64 / start.elapsed().as_secs_f64(), drafting.counts))
}

/// Tokens a second of all tasks of a kind together: without drafts, with them, and the ratio.
fn together(said: &[Said], edit: bool) -> Option<[f64; 3]> {
    let of = || said.iter().filter(|s| s.edit == edit);
    let rate = |rates: fn(&Said) -> &[f64]| {
        let seconds: f64 = of().map(|s| s.tokens.1 as f64 / median(rates(s))).sum();
        of().map(|s| s.tokens.1 as f64).sum::<f64>() / seconds
    };
    let (plain, drafted) = (rate(|s| &s.plain), rate(|s| &s.drafted));
    plain.is_finite().then_some([plain, drafted, drafted / plain])
}

/// For `--json`.
pub fn object(backend: &str, said: &[Said]) -> Value {
    let all = |edit| {
        together(said, edit).map(|[plain, drafted, ratio]| {
            json!({"plain_tokens_per_second": plain, "drafted_tokens_per_second": drafted, "ratio": ratio})
        })
    };
    let one = |s: &Said| {
        json!({
            "name": s.name, "edit": s.edit, "prompt_tokens": s.tokens.0, "answer_tokens": s.tokens.1,
            "plain_tokens_per_second": s.plain, "drafted_tokens_per_second": s.drafted, "ratio": s.ratio(),
            "drafted_tokens": s.drafts.0, "accepted_tokens": s.drafts.1,
        })
    };
    json!({
        "backend": backend, "forced": true, "edits": all(true), "fresh": all(false),
        "tasks": said.iter().map(one).collect::<Vec<_>>(),
    })
}

/// For people.
pub fn text(backend: &str, said: &[Said]) -> String {
    let mut text = format!("{backend}; answers are those of the workload, not the model's\n");
    for s in said {
        text += &format!(
            "{:<20} {:>5} tokens after {:>5}   {:>7.1} tok/s without drafts, {:>7.1} with: {:.2} times; {} of {} drafts right\n",
            s.name,
            s.tokens.1,
            s.tokens.0,
            median(&s.plain),
            median(&s.drafted),
            s.ratio(),
            s.drafts.1,
            s.drafts.0
        );
    }
    for (edit, what) in [(true, "all that repeat"), (false, "all that do not")] {
        if let Some([plain, drafted, ratio]) = together(said, edit) {
            text += &format!("{what:<46}{plain:>7.1} tok/s without drafts, {drafted:>7.1} with: {ratio:.2} times\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_code_with_its_changes() {
        let edit = json!({"name": "n", "ask": "Do.", "code": ["a b", "a"], "changes": [["a", "c"]]});
        let made = task(&edit, true).unwrap();
        assert_eq!((made.prompt.as_str(), made.answer.as_str()), ("Do.\n\na b\na", "c b\nc"));
        for (key, value) in [("changes", json!([["x", "y"]])), ("code", json!("a")), ("ask", json!(3))] {
            let mut broken = edit.clone();
            broken[key] = value;
            assert!(task(&broken, true).is_err(), "{broken}");
        }
        assert!(task(&edit, false).is_err());
    }

    #[test]
    fn kinds_are_summed_by_time() {
        let said = |edit, plain, drafted| Said {
            name: String::new(),
            edit,
            tokens: (1, 100),
            plain: vec![plain],
            drafted: vec![drafted],
            drafts: (0, 0),
        };
        let all = [said(true, 100.0, 200.0), said(true, 50.0, 200.0), said(false, 10.0, 9.0)];
        let [plain, drafted, ratio] = together(&all, true).unwrap();
        assert!((plain - 200.0 / 3.0).abs() < 1e-9 && (drafted - 200.0).abs() < 1e-9 && (ratio - 3.0).abs() < 1e-9);
        assert!(together(&all[..2], false).is_none());
        assert!(text("cpu", &all).contains("3.00 times"));
    }
}
