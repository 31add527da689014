//! What other programs answered, and how the engine is held against it.
//!
//! [`golden`] reads `golden/llama/NAME.json`: llama.cpp's greedy tokens for a model of the forge or a fixture, with the
//! best logits and the margin between the first two at every position that was kept. Three comparisons:
//!
//! - [`teacher_forced`]: the engine is given llama.cpp's tokens, in one prefill and again one by one, and its most
//!   likely token is compared at each position. Where llama.cpp's margin exceeds `epsilon` (twice what llama.cpp differs
//!   from itself when it computes the same file otherwise), another token refutes. Below that it is a near tie, and too
//!   large a share of differing ones refutes.
//! - [`free_running`]: the engine goes its own way; ids, ending and text are compared up to the first near tie that went
//!   the other way.
//! - [`exact`]: the logits of the `plain` backend against llama.cpp's on weights decoded to F32: no rounding of
//!   activations on either side, so the bound is a hundred times smaller and a wrong bit in a block shows.
//!
//! [`blocks`] reads `golden/formats.json`: blocks of every number format and the values that the `gguf` package decodes
//! them to. A file that is not there is a broken instrument, answers of another model are stale: no case is left out in
//! silence. `golden/README.md` has the rules that are followed here.

use std::path::{Path, PathBuf};

use compute::backend::{NoTap, RowOutput};
use compute::{Format, Want};
use engine::session::{Finish, Loaded, PREFILL_CHUNK, Session};
use serde::Deserialize;
use serde_json::Value;

use crate::lab;
use crate::stamp;
use crate::subject::Subject;
use crate::verdict::{Halt, Reason, Refutation, Tally, instrument};

/// Answers of llama.cpp for one model.
#[derive(Clone, Debug)]
pub struct Golden {
    /// Of the model: a name of the forge, or the stem of a fixture.
    pub name: String,
    /// SHA-256 of the model file that was asked.
    pub sha256: String,
    /// A margin above this is decisive.
    pub epsilon: f64,
    /// Share of positions that may differ, all of them near ties.
    pub near_ties_allowed: f64,
    /// Every token after which llama.cpp stops.
    pub ends: Vec<u32>,
    /// Prompts and what came of them.
    pub cases: Vec<Case>,
    source: Source,
}

/// One prompt and llama.cpp's answer.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique in its file.
    pub name: String,
    /// The prompt as text, control tokens and all; `None` where it was made as ids.
    pub text: Option<String>,
    /// The conversation that `text` was rendered from.
    pub messages: Option<Vec<Turn>>,
    /// Tools that were offered beside it.
    pub tools: Option<Value>,
    /// Ids of the prompt, by llama.cpp's tokenizer.
    pub prompt: Vec<u32>,
    /// Greedy continuation. Where it [`Case::ends`], the last one is the end token.
    pub greedy: Vec<u32>,
    /// Whether it came to an end by itself.
    pub ends: bool,
    /// Its text, end token left out, where that is UTF-8.
    pub reply: Option<String>,
    /// The position of the first of `rows`.
    pub from: usize,
    /// One for each position from `from` on, the last greedy token left out.
    pub rows: Vec<Best>,
    /// The same, computed from decoded weights without rounding activations. Empty for most cases.
    pub exact: Vec<Best>,
}

/// A message of a conversation.
#[derive(Clone, Debug, Deserialize)]
pub struct Turn {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// Its words.
    pub content: String,
}

/// The best logits of one position.
#[derive(Clone, Debug)]
pub struct Best {
    /// By how much the best one leads.
    pub margin: f64,
    /// `ln(sum(exp(logit)))`.
    pub log_sum_exp: f64,
    /// Ids and logits, best first.
    pub best: Vec<(u32, f64)>,
}

impl Best {
    /// The most likely token.
    pub fn id(&self) -> u32 {
        self.best.first().map_or(0, |b| b.0)
    }
}

impl Case {
    /// Everything that was run: the prompt and the answer but for its last token.
    pub fn ids(&self) -> Vec<u32> {
        let answer = self.greedy.split_last().map_or(&[][..], |(_, before)| before);
        [&self.prompt, answer].concat()
    }

    /// llama.cpp's logits that token `step` of the answer was chosen from.
    pub fn row_of_step(&self, step: usize) -> Option<&Best> {
        self.rows.get((self.prompt.len() - 1 + step).checked_sub(self.from)?)
    }
}

// ---- reading

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    /// A name of the forge.
    Forge(String),
    /// A file of the repository.
    File(String),
    /// Made by a script, and not kept.
    Made(String),
}

#[derive(Deserialize)]
struct StoredFile {
    model: StoredModel,
    /// The file that holds the questions, or a remark.
    prompts: String,
    judge: Judge,
    eog: Vec<u32>,
    cases: Vec<StoredCase>,
}

#[derive(Deserialize)]
struct StoredModel {
    name: String,
    source: Source,
    sha256: String,
}

#[derive(Deserialize)]
struct Judge {
    epsilon: f64,
    near_ties_allowed: f64,
}

#[derive(Deserialize)]
struct Questions {
    cases: Vec<Question>,
}

#[derive(Clone, Deserialize)]
struct Question {
    name: String,
    text: Option<String>,
    messages: Option<Vec<Turn>>,
    tools: Option<Value>,
    prompt: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct StoredCase {
    #[serde(flatten)]
    question: Question,
    greedy: Vec<u32>,
    end: String,
    reply: Option<String>,
    from: usize,
    rows: Vec<Vec<f64>>,
    #[serde(default)]
    exact: Vec<Vec<f64>>,
}

/// llama.cpp's answers for this model.
pub fn golden(s: &Subject, name: &str) -> Result<Golden, Halt> {
    stored(s, "llama", name)
}

/// The answers of `transformers` for a model in HuggingFace's layout. They were computed in F32: each row is exact.
pub fn transformers(s: &Subject, name: &str) -> Result<Golden, Halt> {
    let mut golden = stored(s, "transformers", name)?;
    golden.cases.iter_mut().for_each(|case| case.exact.clone_from(&case.rows));
    Ok(golden)
}

fn stored(s: &Subject, folder: &str, name: &str) -> Result<Golden, Halt> {
    let file = format!("{folder}/{name}.json");
    let broken = |what: String| instrument(format!("golden/{file}: {what}"));
    let stored: StoredFile = serde_json::from_str(&s.golden_text(&file)?).map_err(|e| broken(e.to_string()))?;
    let shared: Vec<Question> = match stored.prompts.ends_with(".json") {
        false => Vec::new(),
        true => {
            let text = s.golden_text(&format!("llama/{}", stored.prompts))?;
            serde_json::from_str::<Questions>(&text).map_err(|e| broken(e.to_string()))?.cases
        }
    };
    let cases: Vec<Case> =
        stored.cases.into_iter().map(|c| case(c, &shared)).collect::<Result<_, _>>().map_err(broken)?;
    if cases.is_empty() {
        return Err(broken("it has no cases".into()));
    }
    Ok(Golden {
        name: stored.model.name,
        sha256: stored.model.sha256,
        epsilon: stored.judge.epsilon,
        near_ties_allowed: stored.judge.near_ties_allowed,
        ends: stored.eog,
        cases,
        source: stored.model.source,
    })
}

fn case(c: StoredCase, shared: &[Question]) -> Result<Case, String> {
    let name = c.question.name.clone();
    let question = match c.question.prompt {
        Some(_) => c.question,
        None => shared.iter().find(|q| q.name == name).cloned().ok_or_else(|| format!("{name} has no prompt"))?,
    };
    let prompt = question.prompt.ok_or_else(|| format!("{name} has no prompt"))?;
    let rows = |stored: &[Vec<f64>]| stored.iter().map(|r| best(r)).collect::<Option<Vec<Best>>>();
    let rows = rows(&c.rows).zip(rows(&c.exact)).ok_or_else(|| format!("{name} has a row of another form"))?;
    let positions = prompt.len() + c.greedy.len();
    if prompt.is_empty() || c.greedy.is_empty() || c.from >= prompt.len() || rows.0.len() != positions - 1 - c.from {
        return Err(format!("{name} has {} rows from position {} for {positions} tokens", rows.0.len(), c.from));
    }
    Ok(Case {
        name,
        text: question.text,
        messages: question.messages,
        tools: question.tools,
        prompt,
        greedy: c.greedy,
        ends: c.end == "eog",
        reply: c.reply,
        from: c.from,
        rows: rows.0,
        exact: rows.1,
    })
}

/// `margin, log-sum-exp, id, logit, id, logit ...`
fn best(row: &[f64]) -> Option<Best> {
    let [margin, log_sum_exp, rest @ ..] = row else { return None };
    let pairs = rest.chunks_exact(2);
    let whole = pairs.remainder().is_empty() && !rest.is_empty();
    whole.then(|| Best {
        margin: *margin,
        log_sum_exp: *log_sum_exp,
        best: pairs.map(|p| (p[0] as u32, p[1])).collect(),
    })
}

impl Golden {
    /// The model file that these are answers of, as the subject has it.
    pub fn model(&self, s: &Subject) -> Result<PathBuf, Halt> {
        let (path, sound) = match &self.source {
            Source::Forge(name) => (s.forged(name)?, s.spoil.is_none()),
            Source::File(path) if !path.ends_with(".gguf") => {
                let folder = s.fixtures.join(path.rsplit('/').next().unwrap_or_default());
                (folder, !s.fixtures.starts_with(s.scratch_root()))
            }
            // The fixtures are told apart by the end of their names.
            Source::File(path) => {
                let stem = path.trim_end_matches(".gguf");
                let path = s.fixture(stem.rsplit_once('-').map_or(stem, |(_, quantisation)| quantisation))?;
                (path, !s.fixtures.starts_with(s.scratch_root()))
            }
            Source::Made(how) => return Err(instrument(format!("{} is not kept: {how}", self.name))),
        };
        // What a saboteur changed is meant to be another file.
        if sound {
            self.fresh(&path)?
        }
        Ok(path)
    }

    /// Answers of another file than this say nothing about it.
    fn fresh(&self, path: &Path) -> Result<(), Halt> {
        let weights = if path.is_dir() { path.join("model.safetensors") } else { path.to_path_buf() };
        match stamp::sha256_of(&weights) {
            Some(sha256) if sha256 == self.sha256 => Ok(()),
            Some(_) => Err(Halt::NotAttempted(Reason::Stale(format!("golden answers of another {}", self.name)))),
            None => Err(instrument(format!("cannot read {}", path.display()))),
        }
    }

    /// The same with cases of more than so many tokens alone.
    #[must_use]
    pub fn beyond(mut self, tokens: usize) -> Golden {
        self.cases.retain(|c| c.prompt.len() > tokens);
        self
    }

    /// The same without cases of more than `tokens` tokens, which are other rows' business.
    #[must_use]
    pub fn up_to(mut self, tokens: usize) -> Golden {
        self.cases.retain(|c| c.prompt.len() <= tokens);
        self
    }
}

// ---- comparing

/// The outputs of the case's rows, llama.cpp's own tokens given: `chunk` rows at a time from the first kept one on.
fn outputs(model: &mut Loaded, case: &Case, chunk: usize) -> Result<Vec<RowOutput>, Halt> {
    let ids = case.ids();
    let (before, kept) = ids.split_at(case.from);
    let mut session = Session::new(model);
    for part in before.chunks(PREFILL_CHUNK) {
        lab::running("a prompt runs", session.feed(part, Want::Nothing, Want::Nothing, &mut NoTap))?;
    }
    let mut rows = Vec::with_capacity(kept.len());
    for part in kept.chunks(chunk) {
        lab::running("a prompt runs", session.feed(part, Want::Logits, Want::Logits, &mut NoTap))?;
        rows.extend_from_slice(&session.output().rows);
    }
    Ok(rows)
}

/// The most likely token at every position of every case is llama.cpp's, but for near ties: see the top of this file.
/// `epsilon` is [`Golden::epsilon`] unless a check has a reason. Numbers begin with the model's name.
pub fn teacher_forced(t: &mut Tally, model: &mut Loaded, golden: &Golden, epsilon: f64) -> Result<(), Halt> {
    for (how, chunk) in [("prefill", PREFILL_CHUNK), ("one by one", 1)] {
        let mut seen = Seen::default();
        for case in &golden.cases {
            for (i, (ours, theirs)) in outputs(model, case, chunk)?.iter().zip(&case.rows).enumerate() {
                seen.look(ours, theirs, epsilon);
                t.hold(ours.argmax == theirs.id() || theirs.margin <= epsilon, || {
                    let at = format!("{}, case {}, position {}, {how}", golden.name, case.name, case.from + i);
                    let lead = format!("token {}, leading by {} > {epsilon}", theirs.id(), theirs.margin);
                    Refutation::new(
                        "the most likely token is the oracle's",
                        format!("token {} ({at})", ours.argmax),
                        lead,
                    )
                })?;
            }
        }
        seen.judge(t, golden, how)?;
    }
    t.number(&format!("{}: epsilon", golden.name), epsilon);
    Ok(())
}

/// Every stored logit of every position is llama.cpp's within epsilon, in prefill.
pub fn near(t: &mut Tally, model: &mut Loaded, golden: &Golden) -> Result<(), Halt> {
    let mut worst = 0f64;
    for case in &golden.cases {
        for (i, (ours, theirs)) in outputs(model, case, PREFILL_CHUNK)?.iter().zip(&case.rows).enumerate() {
            let off = distance(ours, theirs);
            worst = worst.max(off);
            t.hold(off <= golden.epsilon, || {
                let at = format!("off by {off} ({}, case {}, position {})", golden.name, case.name, case.from + i);
                Refutation::new("the best logits are llama.cpp's", at, format!("at most {}", golden.epsilon))
            })?;
        }
    }
    t.number(&format!("{}: largest difference of a stored logit", golden.name), worst);
    Ok(())
}

/// What a teacher-forced run adds up to.
#[derive(Default)]
struct Seen {
    positions: u32,
    decisive: u32,
    other: u32,
    worst_margin: f64,
    worst_logit: f64,
}

impl Seen {
    fn look(&mut self, ours: &RowOutput, theirs: &Best, epsilon: f64) {
        self.positions += 1;
        self.decisive += u32::from(theirs.margin > epsilon);
        for (id, logit) in &theirs.best {
            let here = ours.values.get(*id as usize).copied().unwrap_or(f32::NAN);
            self.worst_logit = self.worst_logit.max((f64::from(here) - logit).abs());
        }
        if ours.argmax != theirs.id() {
            self.other += 1;
            self.worst_margin = self.worst_margin.max(theirs.margin);
        }
    }

    fn judge(self, t: &mut Tally, golden: &Golden, how: &str) -> Result<(), Halt> {
        if self.decisive == 0 {
            return Err(instrument(format!("the golden answers of {} have no decisive row", golden.name)));
        }
        let share = f64::from(self.other) / f64::from(self.positions);
        t.hold(share <= golden.near_ties_allowed, || {
            let seen = format!("{} of {} positions of {} ({how})", self.other, self.positions, golden.name);
            let allowed = format!("at most {:.1} %", golden.near_ties_allowed * 100.0);
            Refutation::new("few near ties go the other way", seen, allowed)
        })?;
        for (what, value) in [
            ("positions", f64::from(self.positions)),
            ("decisive ones", f64::from(self.decisive)),
            ("near ties that differ", f64::from(self.other)),
            ("largest margin of those", self.worst_margin),
            ("largest difference of a best logit", self.worst_logit),
        ] {
            t.number(&format!("{}: {what}", golden.name), value);
        }
        Ok(())
    }
}

/// Every case answered greedily: the same ids, ending and text as llama.cpp, up to the first near tie that goes the
/// other way. Such ties are counted; more of them than near ties are allowed of all steps refute.
pub fn free_running(t: &mut Tally, model: &mut Loaded, golden: &Golden, epsilon: f64) -> Result<(), Halt> {
    let (mut steps, mut whole, mut ties) = (0usize, 0usize, 0usize);
    for case in &golden.cases {
        let answer = lab::greedy(model, &case.prompt, case.greedy.len())?;
        let mut ours = answer.tokens.clone();
        if answer.finish == Finish::Eos && case.ends && ours.len() + 1 == case.greedy.len() {
            // Ours leaves the end token out.
            ours.extend(case.greedy.last());
        }
        let same = ours.iter().zip(&case.greedy).take_while(|(a, b)| a == b).count();
        steps += case.greedy.len().min(same + 1);
        if same == case.greedy.len() {
            whole += 1;
            if let Some(reply) = &case.reply {
                t.hold(answer.text == *reply, || {
                    let at = format!("the text of {}, case {}, is the oracle's", golden.name, case.name);
                    Refutation::new(at, &*answer.text, &**reply)
                })?;
            }
            let finish = if case.ends { Finish::Eos } else { Finish::Length };
            t.equal("it ends as the oracle does", &answer.finish, &finish)?;
            continue;
        }
        let margin = case.row_of_step(same).map_or(f64::INFINITY, |r| r.margin);
        t.hold(margin <= epsilon, || {
            let criterion = format!("greedy ids are the oracle's ({}, case {}, token {same})", golden.name, case.name);
            let lead = format!("{:?}, token {same} leading by {margin} > {epsilon}", case.greedy);
            Refutation::new(criterion, format!("{:?}, {:?}", answer.tokens, answer.finish), lead)
        })?;
        ties += 1;
    }
    let most = (golden.near_ties_allowed * steps as f64).ceil();
    t.hold(ties as f64 <= most, || {
        Refutation::new("few near ties go the other way", format!("{ties} of {steps} steps"), format!("at most {most}"))
    })?;
    for (what, value) in [("free-running cases", golden.cases.len()), ("same to the end", whole), ("tokens", steps)] {
        t.number(&format!("{}: {what}", golden.name), value as f64);
    }
    Ok(())
}

/// How far one F32 computation may be from another: logits are stored with five digits, and sums run in another order.
const EXACT_BOUND: f64 = 0.005;
/// A margin below which even exact computations may name another best token.
const EXACT_TIE: f64 = 0.01;

/// The logits of `model`, opened on the `plain` backend, are llama.cpp's on decoded weights. Some case has to have them.
pub fn exact(t: &mut Tally, model: &mut Loaded, golden: &Golden) -> Result<(), Halt> {
    let (mut positions, mut worst) = (0u32, 0f64);
    for case in golden.cases.iter().filter(|c| !c.exact.is_empty()) {
        for (i, (ours, theirs)) in outputs(model, case, PREFILL_CHUNK)?.iter().zip(&case.exact).enumerate() {
            positions += 1;
            let at = || format!("{}, case {}, position {}", golden.name, case.name, case.from + i);
            let off = distance(ours, theirs);
            worst = worst.max(off);
            t.hold(off <= EXACT_BOUND, || {
                let seen = format!("off by {off} ({})", at());
                Refutation::new("exact logits are those of the decoded weights", seen, format!("at most {EXACT_BOUND}"))
            })?;
            t.hold(ours.argmax == theirs.id() || theirs.margin < EXACT_TIE, || {
                let seen = format!("token {} ({})", ours.argmax, at());
                let lead = format!("token {}, leading by {}", theirs.id(), theirs.margin);
                Refutation::new("the exact best token is that of the decoded weights", seen, lead)
            })?;
        }
    }
    if positions == 0 {
        return Err(instrument(format!("the golden answers of {} have no exact rows", golden.name)));
    }
    t.number(&format!("{}: exact positions", golden.name), f64::from(positions));
    t.number(&format!("{}: largest difference of an exact logit", golden.name), worst);
    Ok(())
}

/// The largest difference among the stored logits and the log-sum-exp. NaN is infinitely far.
fn distance(ours: &RowOutput, theirs: &Best) -> f64 {
    let logit = |id: u32| ours.values.get(id as usize).map_or(f64::NAN, |x| f64::from(*x));
    let off = theirs.best.iter().map(|(id, want)| (logit(*id) - want).abs());
    let off = off.chain([(f64::from(ours.log_sum_exp) - theirs.log_sum_exp).abs()]);
    off.fold(0f64, |m, x| if x.is_nan() { f64::INFINITY } else { m.max(x) })
}

// ---- words

/// A text and its ids by HuggingFace's tokenizer.
#[derive(Clone, Debug, Deserialize)]
pub struct Spelled {
    /// The text.
    pub text: String,
    /// What the ids print: the text in Unicode's composed form.
    pub nfc: String,
    /// Ids where control tokens are meant.
    pub raw: Vec<u32>,
    /// Ids where the text is nothing but text.
    pub content: Vec<u32>,
}

/// Texts that tokenizers trip over, spelled with the fixture's vocabulary (`golden/text/fixture_ids.json`).
pub fn spelled(s: &Subject) -> Result<Vec<Spelled>, Halt> {
    #[derive(Deserialize)]
    struct Stored {
        cases: Vec<Spelled>,
    }
    let stored: Stored = serde_json::from_str(&s.golden_text("text/fixture_ids.json")?).map_err(instrument)?;
    if stored.cases.is_empty() {
        return Err(instrument("golden/text/fixture_ids.json has no cases"));
    }
    Ok(stored.cases)
}

// ---- number formats

/// Blocks of one number format, and what they stand for.
pub struct Blocks {
    /// The format.
    pub format: Format,
    /// As stored: whole blocks.
    pub bytes: Vec<u8>,
    /// The bits of the f32 that each weight decodes to.
    pub values: Vec<u32>,
}

#[derive(Deserialize)]
struct StoredFormats {
    formats: Vec<StoredFormat>,
}

#[derive(Deserialize)]
struct StoredFormat {
    format: String,
    ggml_type: u32,
    block_len: usize,
    block_bytes: usize,
    bytes: String,
    values: Vec<u32>,
}

/// Golden blocks of this format. What the format is, is compared too.
pub fn blocks(t: &mut Tally, s: &Subject, name: &str) -> Result<Blocks, Halt> {
    let broken = |what: &str| instrument(format!("golden/formats.json: {name} {what}"));
    let stored: StoredFormats = serde_json::from_str(&s.golden_text("formats.json")?).map_err(instrument)?;
    let stored = stored.formats.into_iter().find(|f| f.format == name).ok_or_else(|| broken("is not there"))?;
    let format = Format::from_ggml(stored.ggml_type).filter(|f| f.0.name == name).ok_or_else(|| {
        let id = format!("ggml type {}", stored.ggml_type);
        Refutation::new("the engine knows the format by its number", format!("no {name}"), id)
    })?;
    let shape = (format.0.block_len, format.0.block_bytes);
    t.equal("a block has the format's weights and bytes", &shape, &(stored.block_len, stored.block_bytes))?;
    let bytes = from_hex(&stored.bytes).ok_or_else(|| broken("is no hexadecimal text"))?;
    if bytes.is_empty() || stored.values.len() * stored.block_bytes != bytes.len() * stored.block_len {
        return Err(broken("has values for other blocks"));
    }
    Ok(Blocks { format, bytes, values: stored.values })
}

/// The value of a half float (IEEE 754 binary16), from its bits: exact, since powers of two are.
pub fn half(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    };
    if bits >> 15 == 0 { size } else { -size }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    half(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The values of a Q4_K block, from the description of `block_q4_K` in ggml: eight runs of 32 with a scale and a minimum
/// of six bits each, `d * scale * q - dmin * min`.
pub fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let six = &block[4..16];
    for (i, out) in out.iter_mut().enumerate() {
        let run = i / 32;
        let (scale, min) = match run {
            0..4 => (six[run] & 63, six[run + 4] & 63),
            _ => (six[run + 4] & 15 | six[run - 4] >> 6 << 4, six[run + 4] >> 4 | six[run] >> 6 << 4),
        };
        let byte = block[16 + run / 2 * 32 + i % 32];
        let q = if run % 2 == 0 { byte & 15 } else { byte >> 4 };
        *out = d * f32::from(scale) * f32::from(q) - dmin * f32::from(min);
    }
}

/// The values of a Q6_K block, from the description of `block_q6_K` in ggml: sixteen runs of 16 with a signed scale,
/// `d * scale * (q - 32)`; four low bits of q in the first 128 bytes, two high ones in the next 64.
pub fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 208);
    for (i, out) in out.iter_mut().enumerate() {
        // Halves of 128 weights; a quarter of a half has its own two bits of each high byte.
        let (half, quarter, l) = (i / 128, i / 32 % 4, i % 32);
        let low = block[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15;
        let high = block[128 + 32 * half + l] >> (2 * quarter) & 3;
        let scale = block[192 + i / 16] as i8;
        *out = d * f32::from(scale) * (f32::from(low | high << 4) - 32.0);
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    text.as_bytes().chunks(2).map(|two| Some(digit(*two.first()?)? << 4 | digit(*two.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::Paths;

    fn subject() -> Subject {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let (fixtures, golden) = (root.join("fixtures"), root.join("golden"));
        let nowhere = PathBuf::from("nowhere");
        Subject::healthy(Paths {
            apr: nowhere.clone(),
            evil_apr: nowhere,
            fixtures,
            golden,
            models: None,
            sources: None,
        })
        .unwrap()
    }

    /// Every file is read whole, and is of the model that the forge makes today.
    #[test]
    fn golden_answers_are_of_these_models() {
        let s = subject();
        let mut files = 0;
        for path in crate::subject::list(&s.golden.join("llama")).unwrap() {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            if name == "refused" || name.ends_with("-prompts") || name.ends_with("-skills") {
                continue;
            }
            let golden = golden(&s, &name).unwrap();
            assert_eq!(golden.name, name);
            if !matches!(golden.source, Source::Made(_)) {
                golden.model(&s).unwrap();
            }
            files += 1;
        }
        for path in crate::subject::list(&s.golden.join("transformers")).unwrap() {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            if name != "tensors" {
                transformers(&s, &name).unwrap().model(&s).unwrap();
                files += 1;
            }
        }
        assert!(files > 30);
    }

    #[test]
    fn rows_are_pairs_behind_two_numbers() {
        let row = best(&[0.5, 3.0, 7.0, 2.5, 9.0, 2.0]).unwrap();
        assert_eq!((row.id(), row.best[1], row.margin), (7, (9, 2.0), 0.5));
        assert!(best(&[0.5, 3.0, 7.0]).is_none() && best(&[0.5, 3.0]).is_none() && best(&[]).is_none());
        assert_eq!(from_hex("00ff1a"), Some(vec![0, 255, 26]));
        assert_eq!(from_hex("0"), None);
    }
}
