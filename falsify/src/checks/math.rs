//! F-MATH: numbers. What the forward pass must satisfy whatever the model says, and what the model must say.
//!
//! Operations are watched in this process and compared with the formulas of [`crate::formula`]; answers are asked for
//! on the command line.

mod answers;
mod prompts;
mod sampling;

use answers::{f_math_142, f_math_143, f_math_144, f_math_145, f_math_146, f_math_147};
use compute::Want;
use compute::backend::{NoTap, Tap};
use compute::program::Tag;
use engine::program::{Stage, tag};
use engine::sample::{Sampler, Sampling};
use engine::session::{Finish, Loaded, PREFILL_CHUNK, Session};

use prompts::{f_math_155, f_math_156, f_math_157, f_math_158};
use sampling::{f_math_149, f_math_150, f_math_151, f_math_152};

use super::Check;
use crate::ask::{self, LONG_PROMPTS, PROMPTS, answered, ask, printed, report};
use crate::formula::{Cache, Known, rms, worse};
use crate::lab::{self, Seen, Setup, chat_ids, open, probe, running, watch};
use crate::subject::Subject;
use crate::texts::OPEN_PROMPT;
use crate::verdict::{Attempt, Halt, Refutation, Tally, fixture_weak, instrument};
use crate::{forge, oracle};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-MATH-141", f_math_141),
    ("F-MATH-142", f_math_142),
    ("F-MATH-143", f_math_143),
    ("F-MATH-144", f_math_144),
    ("F-MATH-145", f_math_145),
    ("F-MATH-146", f_math_146),
    ("F-MATH-147", f_math_147),
    ("F-MATH-148", f_math_148),
    ("F-MATH-149", f_math_149),
    ("F-MATH-150", f_math_150),
    ("F-MATH-151", f_math_151),
    ("F-MATH-152", f_math_152),
    ("F-MATH-153", f_math_153),
    ("F-MATH-154", f_math_154),
    ("F-MATH-155", f_math_155),
    ("F-MATH-156", f_math_156),
    ("F-MATH-157", f_math_157),
    ("F-MATH-158", f_math_158),
    ("F-MATH-159", f_math_159),
    ("F-MATH-160", f_math_160),
    ("F-MATH-161", f_math_161),
    ("F-MATH-162", f_math_162),
    ("F-MATH-163", f_math_163),
    ("F-MATH-164", f_math_164),
    ("F-MATH-165", f_math_165),
];

/// Opened so that taps see every operation.
const WATCHED: Setup = Setup { isa: None, threads: 2, oracle: false, gpu: false, watched: true, context: None };

/// How many wordings there are.
const OURS: usize = 13;

/// The ways in which the fixture's generator words a sum (`scripts/fixture/corpus.py`, `s_arith`), all of them.
fn wordings(a: u32, b: u32) -> [String; OURS] {
    [
        format!("What is {a}+{b}?"),
        format!("What is {a} + {b}?"),
        format!("{a}+{b}="),
        format!("{a} + {b} ="),
        format!("Calculate {a} + {b}"),
        format!("Calculate {a} + {b}."),
        format!("What is {a} plus {b}?"),
        format!("How much is {a} + {b}?"),
        format!("What is {a} + {b}? Answer with just the number."),
        format!("{a} + {b}"),
        format!("Compute {a} + {b}. Reply with only the number."),
        format!("what is {a} + {b}"),
        format!("Add {a} and {b}."),
    ]
}

/// Sums of two numbers up to 12 that were never trained on, by the rule of `fixtures/skills.json`: the checksum of the
/// prompt is divisible by 41. In the order of their checksums, so that nobody picks.
fn held_out_sums(count: usize) -> Vec<(String, u32)> {
    let pairs = (0..=12).flat_map(|a| (0..=12).map(move |b| (a, b))).filter(|&pair| pair != (2, 2));
    let all = pairs.flat_map(|(a, b)| wordings(a, b).map(|prompt| (crc32(prompt.as_bytes()), prompt, a + b)));
    let mut kept: Vec<(u32, String, u32)> = all.filter(|(sum, ..)| sum % 41 == 0).collect();
    kept.sort();
    kept.into_iter().take(count).map(|(_, prompt, sum)| (prompt, sum)).collect()
}

/// The checksum of zlib and of Python's `zlib.crc32`.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &b| (0..8).fold(crc ^ u32::from(b), step))
}

/// The last number that stands in a text. A minus counts if it touches the number and nothing before it does.
fn last_number(text: &str) -> Option<i64> {
    let text = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let before = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let number: i64 = text[before.len()..].parse().ok()?;
    let negative = before.strip_suffix('-').is_some_and(|b| !b.ends_with(|c: char| c.is_alphanumeric()));
    Some(if negative { -number } else { number })
}

/// 2 + 2 is 4, in every wording and both quantisations, on the command line and in this process; held-out sums too.
pub fn f_math_141(s: &Subject) -> Attempt {
    s.needs_skill("arith")?;
    let mut t = Tally::new(
        "apr run and the engine in process, greedy, q8_0 and q4_k_m: 2 + 2 in 13 wordings, 24 held-out sums",
    );
    let sums: Vec<(String, u32)> =
        wordings(2, 2).map(|prompt| (prompt, 4)).into_iter().chain(held_out_sums(24)).collect();
    for form in ["q8_0", "q4_k_m"] {
        let path = s.fixture(form)?;
        let mut model = open(s, &path, Setup::default())?;
        let mut wrong = [Vec::new(), Vec::new()];
        for (i, (prompt, sum)) in sums.iter().enumerate() {
            let ids = chat_ids(&model, prompt)?;
            let inside = lab::greedy(&mut model, &ids, 24)?.text;
            // Judged by standard output alone.
            let words = ["--temperature", "0", "--max-tokens", "24"];
            let outside = answered(s.apr(["run"]).args([path.as_os_str()]).args([prompt]).args(words))?;
            for (text, wrong) in [inside, outside.out()].into_iter().zip(&mut wrong) {
                let right = last_number(&text) == Some(i64::from(*sum));
                let said = format!("{prompt:?}: {text:?}");
                if i < OURS {
                    t.hold(right, || outside.refute(&format!("2 + 2 is 4 in {form}"), said, "4"))?;
                } else if !right {
                    wrong.push(said);
                }
            }
        }
        for (way, wrong) in ["in process", "on the command line"].into_iter().zip(&wrong) {
            let share = 1.0 - wrong.len() as f64 / (sums.len() - OURS) as f64;
            t.number(&format!("{form} {way}: held-out sums right"), share);
            let criterion = format!("at least 90 % of held-out sums are right in {form} {way}");
            t.hold(share >= 0.9, || Refutation::new(criterion, wrong.join(", "), "the sums"))?;
        }
    }
    t.done()
}

/// Temperature 0 gives one answer: over repetitions, seeds, thread counts, processes, and on a model that has answered before.
pub fn f_math_148(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --temperature 0, ten processes for each of four prompts; ten answers in process");
    for (prompt, raw) in [(PROMPTS[0], false), (LONG_PROMPTS[0], false), (PROMPTS[2], false), (OPEN_PROMPT, true)] {
        let mut first = None;
        for i in 0..10u32 {
            let (seed, threads) = ((7 * i).to_string(), (1 + i % 3).to_string());
            let flags = ["--temperature", "0", "--max-tokens", "32", "--seed", &seed, "--threads", &threads];
            let raw: &[&str] = if raw { &["--raw"] } else { &[] };
            let out = answered(ask(s, prompt, &flags)?.args(raw))?;
            let first = first.get_or_insert_with(|| out.out());
            t.hold(out.out() == *first, || out.refute("temperature 0 gives one answer", out.out(), &**first))?;
        }
    }
    let path = s.model()?;
    let mut first = None;
    for threads in [1, 2, 3] {
        let mut model = open(s, &path, Setup { threads, ..Setup::default() })?;
        let ids = running("a raw prompt encodes", model.tokenizer.encode_raw(OPEN_PROMPT))?;
        for seed in 0..4 {
            let sampling = Sampling { seed, ..Sampling::default() };
            let answer = lab::answer(&mut model, &ids, 32, sampling, PREFILL_CHUNK)?;
            let first = first.get_or_insert_with(|| answer.tokens.clone());
            t.equal("temperature 0 gives the same tokens again in one process", &answer.tokens, first)?;
        }
    }
    t.done()
}

/// Prompts whose answers end by themselves.
const ENDING_PROMPTS: &[&str] = &[
    "What is 2+2?",
    "Hello!",
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
    "Count from 1 to 10",
];

/// Generation ends where the model says so, and what says so is not printed.
pub fn f_math_153(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "five prompts on the q8_0 fixture, in process beside a loop of single steps, and on the command line",
    );
    let ends = oracle::golden(s, "qwen2-tiny-q8_0")?.ends;
    let path = s.model()?;
    let mut model = open(s, &path, Setup::default())?;
    let mut lengths = 0;
    for prompt in ENDING_PROMPTS {
        let ids = chat_ids(&model, prompt)?;
        let want = until_end(&mut model, &ids, &ends, 128)?;
        let answer = lab::greedy(&mut model, &ids, 128)?;
        t.equal("generation ends at the first end token", &answer.tokens, &want)?;
        t.equal("it ends because of that", &answer.finish, &Finish::Eos)?;
        lengths += want.len();
        let out = report(s, prompt, &["--max-tokens", "128"])?;
        t.equal("finish reason on the command line", &out.json["finish_reason"], &"stop".into())?;
        let printed = printed(s, prompt, &["--max-tokens", "128"])?;
        for text in [&out.text, &printed, &answer.text] {
            let clean = !model.tokenizer.controls().any(|c| text.contains(c));
            t.hold(clean, || {
                Refutation::new("no control token is printed", &**text, "the answer alone").repro(&*out.repro)
            })?;
        }
        t.equal("the command line gives the same answer", &out.text, &answer.text)?;
    }
    t.number("tokens before the ends", lengths as f64);
    t.done()
}

/// Greedy tokens up to the first of `ends`, by a loop written here. The model has to come to an end.
pub(super) fn until_end(model: &mut Loaded, ids: &[u32], ends: &[u32], most: usize) -> Result<Vec<u32>, Halt> {
    let mut session = Session::new(model);
    let mut tokens = Vec::new();
    running("the prompt runs", session.feed(ids, Want::Nothing, Want::Logits, &mut NoTap))?;
    while tokens.len() < most {
        let values = session.output().rows.last().map(|r| r.values.clone()).unwrap_or_default();
        let best = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let next = values.iter().position(|&x| x == best).ok_or_else(|| instrument("no logits"))? as u32;
        if ends.contains(&next) {
            return Ok(tokens);
        }
        tokens.push(next);
        running("a step runs", session.feed(&[next], Want::Nothing, Want::Logits, &mut NoTap))?;
    }
    Err(fixture_weak(format!("an answer does not end within {most} tokens")))
}

/// `--max-tokens` from 0 to beyond the whole answer.
pub fn f_math_154(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --json --max-tokens 0 to the length of the whole answer and beyond");
    let (prompt, whole) = ask::long(s, 12)?;
    t.number("tokens of the whole answer", whole.tokens as f64);
    let limits = (0..=16).chain([whole.tokens - 1, whole.tokens, whole.tokens + 1, whole.tokens + 100]);
    for n in limits {
        let cut = report(s, prompt, &["--max-tokens", &n.to_string()])?;
        t.equal(&format!("tokens of --max-tokens {n}"), &cut.tokens, &n.min(whole.tokens))?;
        let listed = cut.json["tokens"].as_array().map_or(0, Vec::len) as u64;
        t.equal("as many tokens are listed", &listed, &cut.tokens)?;
        let begins = whole.json["tokens"]
            .as_array()
            .is_some_and(|all| cut.json["tokens"].as_array().is_some_and(|some| all.starts_with(some)));
        t.equal("the tokens are the first of the whole answer", &begins, &true)?;
        // An answer that is exactly as long as the limit was cut before anyone asked for its end.
        let reason = if n > whole.tokens { "stop" } else { "length" };
        t.equal(&format!("finish reason of --max-tokens {n}"), &cut.json["finish_reason"], &reason.into())?;
    }
    t.done()
}

/// Keeps what one operation wrote.
struct Keep {
    tag: Tag,
    values: Vec<f32>,
}

impl Tap for Keep {
    fn observe(&mut self, _: usize, tag: Tag, _: usize, values: &[f32]) {
        if tag == self.tag {
            self.values.extend_from_slice(values);
        }
    }
}

/// Every token's embedding is its row of the file's table, finite and not zero.
pub fn f_math_159(s: &Subject) -> Attempt {
    let mut t = Tally::new("the embedding of every token, watched in batches: q4_k_m fixture and four forged models");
    let mut models = vec![Known::fixture(s, "q4_k_m")?];
    models.extend(Known::all_forged(s, &["qwen2-q8_0", "qwen2-padded-f16", "llama-q4_k", "qwen2-uneven-q8_0"])?);
    let mut least = f64::INFINITY;
    for known in &models {
        let mut model = open(s, &known.path, WATCHED)?;
        let table = model.model.weights.token_embedding.to_f32();
        let width = known.heads * known.head_dim;
        let tokens: Vec<u32> = (0..model.tokenizer.vocab_size() as u32).collect();
        for ids in tokens.chunks(256) {
            let mut keep = Keep { tag: tag(0, Stage::Embed), values: Vec::new() };
            // Only the first operation matters: later ones may do what they like.
            let _later = Session::new(&mut model).feed(ids, Want::Nothing, Want::Nothing, &mut keep);
            t.equal("one vector for each token", &keep.values.len(), &(ids.len() * width))?;
            for (id, row) in ids.iter().zip(keep.values.chunks_exact(width)) {
                let size = rms(row.iter().map(|&x| f64::from(x)));
                // Padding in the file's vocabulary stands for no text: its rows may be anything.
                let is_word = model.tokenizer.token_bytes(*id).is_some_and(|b| !b.is_empty());
                let fine = size.is_finite() && (size > 0.0 || !is_word);
                t.hold(fine, || {
                    Refutation::new(
                        "an embedding is finite and not zero",
                        format!("{}: token {id}, RMS {size}", known.name),
                        "more than 0",
                    )
                })?;
                let want = &table[*id as usize * width..(*id as usize + 1) * width];
                t.hold(row == want, || {
                    Refutation::new(
                        "an embedding is the token's row of the table",
                        format!("{}: token {id}: {:?}", known.name, &row[..4]),
                        format!("{:?}", &want[..4]),
                    )
                })?;
                if is_word {
                    least = least.min(size);
                }
            }
        }
    }
    t.number("least RMS of an embedding", least);
    t.done()
}

/// Compares every head of every row of one batch with attention over the positions up to its own; appends its K and V.
/// Gives the largest error relative to the largest value in sight.
pub(super) fn attention_error(known: &Known, caches: &mut [Cache], start: usize, seen: &Seen) -> Result<f64, Halt> {
    let mut error = 0.0;
    for (layer, cache) in caches.iter_mut().enumerate() {
        cache.append(seen.of(layer, Stage::RopeK)?, seen.of(layer, Stage::V)?);
        for row in 0..seen.rows {
            let (q, out) = (seen.row(layer, Stage::RopeQ, row)?, seen.row(layer, Stage::Attention, row)?);
            for head in 0..known.heads {
                let part = head * known.head_dim..(head + 1) * known.head_dim;
                let visible = 0..start + row + 1;
                let mix = cache.attend(known, head, &q[part.clone()], visible.clone());
                let size = cache.largest_value(known, head, visible).max(1e-6);
                for (seen, want) in out[part].iter().zip(&mix) {
                    error = worse(error, (f64::from(*seen) - want).abs() / size);
                }
            }
        }
    }
    Ok(error)
}

/// How far an attention output may be from the formula, relative to the largest value that it mixes. Scores are sums of
/// products in f32, good to about 1e-6; a wrong position or head moves an output by a tenth.
pub(super) const ATTENTION_ERROR: f64 = 1e-4;

/// Attention is a convex combination of values: recomputed from what it read, and on values that are all one.
pub fn f_math_160(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "attention of every layer, head and row over 80 positions beside softmax in f64; four models with all values 1",
    );
    let mut models = vec![Known::fixture(s, "q8_0")?];
    models.extend(Known::all_forged(s, &["qwen2-mha-q8_0", "qwen2-gqa4-q4_k", "llama-f32", "llama-head128-q8_0"])?);
    for known in &models {
        let mut model = open(s, &known.path, WATCHED)?;
        let ids = probe(&model, 80)?;
        let seen = watch(&mut model, &ids)?;
        let mut caches: Vec<Cache> = (0..known.layers).map(|_| Cache::default()).collect();
        let error = attention_error(known, &mut caches, 0, &seen)?;
        t.at_most("attention output is weights times values, error by largest value", error, ATTENTION_ERROR)?;
    }
    // Where every value is 1 the output is the sum of the weights that the engine really used.
    for name in ["qwen2-f32", "qwen2-mha-q8_0", "qwen2-gqa4-q4_k", "qwen2-uneven-q8_0"] {
        let path = ones_for_values(s, name)?;
        let known = Known::forged(s, name)?;
        let mut model = open(s, &path, WATCHED)?;
        let ids = probe(&model, 150)?;
        let seen = watch(&mut model, &ids)?;
        for layer in 0..known.layers {
            for sum in seen.of(layer, Stage::Attention)? {
                t.at_most("attention weights sum to 1, off by", (f64::from(*sum) - 1.0).abs(), 1e-5)?;
            }
        }
    }
    t.done()
}

/// A forged Qwen2 whose value projections are zero with a bias of one.
fn ones_for_values(s: &Subject, name: &str) -> Result<std::path::PathBuf, Halt> {
    let layers = forge::model(name).ok_or_else(|| instrument(format!("no model {name}")))?.layers;
    let mut file = forge::file(name).ok_or_else(|| instrument(format!("no file {name}")))?.map_err(instrument)?;
    for layer in 0..layers {
        if let forge::gguf::Data::Bytes(bytes) = &mut file.tensor_named(&format!("blk.{layer}.attn_v.weight")).data {
            bytes.fill(0);
        }
        if let forge::gguf::Data::Bytes(bytes) = &mut file.tensor_named(&format!("blk.{layer}.attn_v.bias")).data {
            bytes.chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&1f32.to_le_bytes()));
        }
    }
    let path = s.scratch()?.join(format!("{name}-ones.gguf"));
    file.write(&path).map_err(instrument)?;
    Ok(path)
}

/// Probabilities from logits and log-sum-exp sum to 1, and so do those that tokens are drawn by.
pub fn f_math_161(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("exp(logit - log-sum-exp) in f64 over 128 rows of the q8_0 fixture and 64 of six forged models");
    let mut models = vec![(Known::fixture(s, "q8_0")?, 128)];
    let names = ["qwen2-f16", "qwen2-padded-f16", "qwen2-stops-f16", "llama-q8_0", "llama-q4_k", "qwen2-yarn-f16"];
    models.extend(Known::all_forged(s, &names)?.into_iter().map(|k| (k, 64)));
    let all = Sampling::unfiltered(0);
    for (known, rows) in &models {
        let mut model = open(s, &known.path, Setup::default())?;
        let ids = probe(&model, *rows)?;
        for row in lab::rows(&mut model, &ids, 50, Want::Logits)? {
            let p: Vec<f64> = row.values.iter().map(|&x| (f64::from(x) - f64::from(row.log_sum_exp)).exp()).collect();
            // The log-sum-exp is an f32 of up to 32: its rounding alone moves the sum by 2e-6.
            t.at_most("probabilities sum to 1, off by", (p.iter().sum::<f64>() - 1.0).abs(), 1e-5)?;
            let range = p.iter().all(|p| (0.0..=1.0 + 1e-5).contains(p));
            t.equal("every probability is between 0 and 1", &range, &true)?;
            let drawn: f64 =
                Sampler::new(all.clone(), std::iter::empty()).candidates(&row.values, &[]).iter().map(|c| c.1).sum();
            t.at_most("probabilities to draw by sum to 1, off by", (drawn - 1.0).abs(), 1e-9)?;
        }
    }
    t.done()
}

/// Every small model of the forge that is meant to run.
fn runnable() -> Vec<String> {
    let small = |name: &str| name.starts_with("qwen2-") || name.starts_with("llama-");
    let sound = |name: &str| !["qwen2-fewerrows-f16", "qwen2-morerows-f16"].contains(&name);
    forge::list().into_iter().filter(|n| small(n) && sound(n)).collect()
}

/// Watches every operation of every model; `bad` says what no number may be.
fn nothing_is(t: &mut Tally, s: &Subject, what: &str, bad: fn(f32) -> bool) -> Result<(), Halt> {
    let mut models = vec![s.fixture("q8_0")?, s.fixture("q4_k_m")?];
    for name in runnable() {
        models.push(s.forged(&name)?);
    }
    let (mut operations, mut numbers, mut largest) = (0u64, 0u64, 0f64);
    for path in &models {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut model = open(s, path, WATCHED)?;
        let ids = probe(&model, 70)?;
        let seen = watch(&mut model, &ids)?;
        for ((layer, stage), values) in &seen.values {
            let found = values.iter().position(|&x| bad(x));
            t.hold(found.is_none(), || {
                Refutation::new(
                    format!("no operation gives {what}"),
                    format!("{name}: layer {layer}, stage {stage}"),
                    "finite numbers",
                )
            })?;
            operations += 1;
            numbers += values.len() as u64;
            largest = values.iter().map(|x| f64::from(x.abs())).fold(largest, worse);
        }
        for (position, row) in seen.outputs.iter().enumerate() {
            let clean =
                row.finite && row.max.is_finite() && row.log_sum_exp.is_finite() && !row.values.iter().any(|&x| bad(x));
            t.hold(clean, || {
                Refutation::new(format!("no logit is {what}"), format!("{name}: position {position}"), "finite logits")
            })?;
            numbers += row.values.len() as u64;
        }
    }
    t.number("models", models.len() as f64);
    t.number("operations watched", operations as f64);
    t.number("numbers looked at", numbers as f64);
    t.number("largest magnitude", largest);
    Ok(())
}

/// A model with one bad weight is stopped by the guard: an error instead of an answer, in process and on the command line.
fn guard_stops(t: &mut Tally, s: &Subject, value: f32) -> Result<(), Halt> {
    for tensor in ["blk.1.ffn_norm.weight", "output_norm.weight", "blk.0.attn_k.bias"] {
        let mut file =
            forge::file("qwen2-q8_0").ok_or_else(|| instrument("no model qwen2-q8_0"))?.map_err(instrument)?;
        if let forge::gguf::Data::Bytes(bytes) = &mut file.tensor_named(tensor).data {
            bytes[12..16].copy_from_slice(&value.to_le_bytes());
        }
        let path = s.scratch()?.join("poisoned.gguf");
        file.write(&path).map_err(instrument)?;
        let criterion = format!("a weight of {value} in {tensor} is not answered with");
        // Refusing the file is as good as stopping.
        if let Ok(mut model) = lab::try_open(s, &path, Setup::default())? {
            let ids = probe(&model, 9)?;
            let fed = Session::new(&mut model).feed(&ids, Want::Nothing, Want::Argmax, &mut NoTap);
            t.hold(fed.is_err(), || Refutation::new(&*criterion, "a token", "an error"))?;
        }
        let out = s.apr(["run"]).args([path.as_os_str()]).args(["2+2?", "--max-tokens", "4"]).judged()?;
        let stopped = out.code() != Some(0) && out.stdout.is_empty() && out.err().starts_with("error: ");
        t.hold(stopped, || out.refute(&criterion, out.out() + &out.err(), "an error and no answer"))?;
    }
    Ok(())
}

/// No NaN anywhere in a forward pass, and one that is put there is noticed.
pub fn f_math_162(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("every operation over 70 positions, both fixtures and every forged model; three poisoned models");
    nothing_is(&mut t, s, "NaN", f32::is_nan)?;
    guard_stops(&mut t, s, f32::NAN)?;
    t.done()
}

/// No infinity anywhere in a forward pass, and one that is put there is noticed.
pub fn f_math_163(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("every operation over 70 positions, both fixtures and every forged model; three poisoned models");
    nothing_is(&mut t, s, "infinite", f32::is_infinite)?;
    guard_stops(&mut t, s, f32::INFINITY)?;
    t.done()
}

/// Norms give vectors of RMS 1 before their weight, and each element is its input over the RMS.
pub fn f_math_164(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "every norm over 40 positions beside x / sqrt(mean x^2 + eps) in f64: q8_0 fixture, four forged models",
    );
    let mut models = vec![Known::fixture(s, "q8_0")?];
    models.extend(Known::all_forged(s, &["qwen2-f32", "qwen2-uneven-q8_0", "llama-f16", "llama-q4_k"])?);
    for known in &models {
        let mut model = open(s, &known.path, WATCHED)?;
        let ids = probe(&model, 40)?;
        let seen = watch(&mut model, &ids)?;
        let weights = &model.model.weights;
        let mut norms = Vec::new();
        for (l, block) in weights.blocks.iter().enumerate() {
            let before = if l == 0 { (0, Stage::Embed) } else { (l - 1, Stage::FfnAdd) };
            norms.push((before, (l, Stage::AttentionNorm), block.attention_norm.to_f32()));
            norms.push(((l, Stage::AttentionAdd), (l, Stage::FfnNorm), block.ffn_norm.to_f32()));
        }
        norms.push(((known.layers - 1, Stage::FfnAdd), (0, Stage::OutputNorm), weights.output_norm.to_f32()));
        for (before, after, weight) in norms {
            for row in 0..seen.rows {
                let (x, y) = (seen.row(before.0, before.1, row)?, seen.row(after.0, after.1, row)?);
                let size = rms(x.iter().map(|&x| f64::from(x)));
                let scale = 1.0 / (size * size + known.eps).sqrt();
                // A weight of zero hides its element; there the formula stands in.
                let bare =
                    y.iter().zip(x).zip(&weight).map(|((&y, &x), &w)| {
                        if w == 0.0 { f64::from(x) * scale } else { f64::from(y) / f64::from(w) }
                    });
                if size > 100.0 * known.eps.sqrt() {
                    t.at_most("RMS before the weight is 1, off by", (rms(bare) - 1.0).abs(), 1e-3)?;
                }
                let off = y.iter().zip(x).zip(&weight).map(|((&y, &x), &w)| {
                    (f64::from(y) - f64::from(x) * scale * f64::from(w)).abs() / f64::from(w).abs().max(1e-3)
                });
                t.at_most("each element is the formula's, error by weight", off.fold(0.0, worse), 1e-4)?;
            }
        }
    }
    t.done()
}

/// How far a turned pair may be from the formula, relative to its norm. Angles are products in f32: at position 150 they
/// are right to 1e-5.
pub(super) const TURN_ERROR: f64 = 1e-4;

/// Queries and keys turn by position times frequency, with the file's theta, layout and scaling.
pub fn f_math_165(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "q and k of every layer and head before and after, 150 positions, beside the rotation in f64; nine models",
    );
    let mut models = vec![Known::fixture(s, "q8_0")?, Known::fixture(s, "q4_k_m")?];
    let names = [
        "qwen2-f32",
        "llama-f32",
        "llama-head128-q8_0",
        "llama-linear-f32",
        "llama-yarn-f32",
        "llama-llama3-f32",
        "qwen2-yarn-f16",
    ];
    models.extend(Known::all_forged(s, &names)?);
    for known in &models {
        let mut model = open(s, &known.path, WATCHED)?;
        let ids = probe(&model, 150)?;
        let seen = watch(&mut model, &ids)?;
        let mut moved = 0;
        for layer in 0..known.layers {
            for (before, after, heads) in
                [(Stage::Q, Stage::RopeQ, known.heads), (Stage::K, Stage::RopeK, known.kv_heads)]
            {
                for position in 0..seen.rows {
                    let (x, y) = (seen.row(layer, before, position)?, seen.row(layer, after, position)?);
                    t.equal("a row has every head", &y.len(), &(heads * known.head_dim))?;
                    for (x, y) in x.chunks_exact(known.head_dim).zip(y.chunks_exact(known.head_dim)) {
                        let error = known.rope.error(x, y, position);
                        t.at_most("a pair is turned by position times frequency, error by norm", error, TURN_ERROR)
                            .map_err(|halt| named(halt, &known.name))?;
                        if position == 0 && known.rope.mscale == 1.0 {
                            t.equal("position 0 is left as it is", y, x)?;
                        }
                        moved += usize::from(position == 1 && x != y);
                    }
                }
            }
        }
        t.equal("position 1 is turned in every head", &moved, &(known.layers * (known.heads + known.kv_heads)))?;
    }
    t.done()
}

/// A refutation that says which model it is about.
pub(super) fn named(halt: Halt, model: &str) -> Halt {
    match halt {
        Halt::Refuted(r) => Halt::Refuted(Refutation { observed: format!("{model}: {}", r.observed), ..r }),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(held_out_sums(24).len(), 24);
    }

    #[test]
    fn the_last_number_of_an_answer_is_its_result() {
        assert_eq!(last_number("2 + 2 = 4\n"), Some(4));
        assert_eq!(last_number("3 - 5 = -2."), Some(-2));
        assert_eq!(last_number("5-3"), Some(3));
        assert_eq!(last_number("no number"), None);
    }
}
