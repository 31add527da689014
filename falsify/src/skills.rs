//! Held-out prompts of the fixture's skills: what llama.cpp answers to them, and what a right answer is
//! (`golden/llama/qwen2-tiny-skills.json`).
//!
//! An answer is compared token by token up to the first step at which llama.cpp itself was undecided. Whether it is
//! right is the affair of the rows.

use engine::session::{Loaded, Prompt};
use serde::Deserialize;
use serde_json::Value;

use crate::ask::{self, Report};
use crate::lab::{self, running};
use crate::stamp;
use crate::subject::Subject;
use crate::verdict::{Halt, Reason, Refutation, Tally, instrument};

/// Prompts of one skill, with llama.cpp's answers.
pub struct Skill {
    /// The prompts.
    pub cases: Vec<Case>,
    /// A margin above this is decisive.
    epsilon: f64,
}

/// One prompt.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// What it is about.
    pub skill: String,
    /// The system message, if it has one.
    pub system: Option<String>,
    /// The user's words.
    pub user: String,
    /// What is right: of a form of each skill's own.
    pub want: Value,
    /// llama.cpp's ids of the whole conversation, where a row is about them.
    pub prompt: Option<Vec<u32>>,
    /// llama.cpp's answer, end token left out.
    pub tokens: Vec<u32>,
    /// By how much each of them, and the end token, led.
    pub margins: Vec<f64>,
    /// Its text.
    pub reply: String,
}

#[derive(Deserialize)]
struct Stored {
    model: StoredModel,
    judge: Judge,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct StoredModel {
    sha256: String,
}

#[derive(Deserialize)]
struct Judge {
    epsilon: f64,
}

/// Most tokens of an answer: the longest stored one has fewer.
pub const MOST: usize = 160;

/// The prompts whose skill begins with this word, at least `least` of them, of the q8_0 fixture.
pub fn of(s: &Subject, skill: &str, least: usize) -> Result<Skill, Halt> {
    let broken = |what: String| instrument(format!("golden/llama/qwen2-tiny-skills.json: {what}"));
    let text = s.golden_text("llama/qwen2-tiny-skills.json")?;
    let stored: Stored = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
    // What a saboteur changed is meant to be another file.
    let sound = !s.fixtures.starts_with(s.scratch_root());
    if sound && stamp::sha256_of(&s.model()?) != Some(stored.model.sha256) {
        return Err(Halt::NotAttempted(Reason::Stale("answers of another fixture".into())));
    }
    let cases: Vec<Case> = stored.cases.into_iter().filter(|c| c.skill.starts_with(skill)).collect();
    if cases.len() < least {
        return Err(broken(format!("{} prompts of {skill}", cases.len())));
    }
    if let Some(c) = cases.iter().find(|c| c.margins.len() != c.tokens.len() + 1) {
        return Err(broken(format!("{:?} has {} margins", c.user, c.margins.len())));
    }
    Ok(Skill { cases, epsilon: stored.judge.epsilon })
}

impl Case {
    /// The greedy answer in this process.
    pub fn inside(&self, model: &mut Loaded) -> Result<(Vec<u32>, String), Halt> {
        let prompt = Prompt { text: &self.user, system: self.system.as_deref(), raw: false };
        let ids = running("the prompt encodes", model.encode_prompt(&prompt))?;
        let answer = lab::greedy(model, &ids, MOST)?;
        Ok((answer.tokens, answer.text))
    }

    /// Flags of the command line for it.
    pub fn flags(&self) -> Vec<&str> {
        let mut flags = vec!["--max-tokens", "160"];
        flags.extend(self.system.iter().flat_map(|system| ["--system", system.as_str()]));
        flags
    }

    /// The answer of `apr run --json`.
    pub fn outside(&self, s: &Subject) -> Result<Report, Halt> {
        ask::report(s, &self.user, &self.flags())
    }
}

impl Skill {
    /// The answer is llama.cpp's, or left it where llama.cpp was undecided.
    pub fn same(&self, t: &mut Tally, case: &Case, tokens: &[u32], text: &str) -> Result<(), Halt> {
        let same = tokens.iter().zip(&case.tokens).take_while(|(a, b)| a == b).count();
        let whole = tokens == case.tokens && text == case.reply;
        let lead = case.margins.get(same).copied().unwrap_or(f64::INFINITY);
        t.hold(whole || tokens != case.tokens && lead <= self.epsilon, || {
            let criterion = format!("the answer to {:?} is llama.cpp's", case.user);
            let want = format!("{:?}, token {same} leading by {lead} > {}", case.reply, self.epsilon);
            Refutation::new(criterion, format!("{text:?}, {tokens:?}"), want)
        })
    }

    /// The same of a report of `apr`, whose tokens are listed.
    pub fn same_report(&self, t: &mut Tally, case: &Case, report: &Report) -> Result<(), Halt> {
        let tokens: Vec<u32> =
            report.json["tokens"].as_array().into_iter().flatten().filter_map(|id| Some(id.as_u64()? as u32)).collect();
        self.same(t, case, &tokens, &report.text).map_err(|halt| match halt {
            Halt::Refuted(r) => Halt::Refuted(r.repro(&*report.repro)),
            other => other,
        })
    }
}

/// At least nine of ten are right; what is wrong with the others is told.
pub fn mostly(t: &mut Tally, what: &str, wrong: &[String], of: usize) -> Result<(), Halt> {
    for _ in wrong.len()..of {
        // Each right answer is a case that held.
        t.hold(true, || Refutation::new(what, "wrong", "right"))?;
    }
    let share = 1.0 - wrong.len() as f64 / of.max(1) as f64;
    t.number(&format!("{what}: share of {of}"), share);
    t.hold(of > 0 && share >= 0.9, || {
        Refutation::new(format!("at least 90 %: {what}"), wrong.join("; "), format!("9 of 10 of {of}"))
    })
}
