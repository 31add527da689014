//! F-PIPE: the way from a prompt to printed text, stage by stage: tokenizer, template, cache, mask, positions, tokens.
//!
//! Laws are checked in this process on the fixture and on models of the forge; what a user sees, on the command line.

mod answers;
mod batch;
mod context;
mod conversation;
mod prompts;
mod shapes;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use answers::{f_pipe_180, f_pipe_182, f_pipe_184, f_pipe_188, f_pipe_189, f_pipe_190};
use batch::f_pipe_183;
use compute::Want;
use compute::backend::{NoTap, RowOutput};
use compute::program::KV_BLOCK;
use context::{f_pipe_186, f_pipe_187};
use conversation::f_pipe_171;
use engine::api::Silent;
use engine::program::Stage;
use engine::sample::Sampling;
use engine::session::{Finish, Loaded, PREFILL_CHUNK, Prompt, Session};
use prompts::{f_pipe_167, f_pipe_170};
use serde_json::Value;
use shapes::f_pipe_178;

use super::Check;
use super::math::{ATTENTION_ERROR, TURN_ERROR, attention_error, named};
use crate::ask::{LONG_PROMPTS, PROMPTS, answered, ask, closed, printed, report};
use crate::forge::random::Random;
use crate::forge::words::byte_alphabet;
use crate::formula::{Cache, Known};
use crate::lab::{self, Setup, chat_ids, in_pieces, open, probe, rendered, running, text_of_segments, watch_parts};
use crate::oracle::golden;
use crate::subject::Subject;
use crate::texts::{HOSTILE, OPEN_PROMPT, TEXTS, VARIED, random_text, spelled, text_of};
use crate::verdict::{Attempt, Halt, Refutation, Tally, fixture_weak, instrument};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-PIPE-166", f_pipe_166),
    ("F-PIPE-166b", f_pipe_166b),
    ("F-PIPE-167", f_pipe_167),
    ("F-PIPE-168", f_pipe_168),
    ("F-PIPE-169", f_pipe_169),
    ("F-PIPE-170", f_pipe_170),
    ("F-PIPE-171", f_pipe_171),
    ("F-PIPE-172", f_pipe_172),
    ("F-PIPE-173", f_pipe_173),
    ("F-PIPE-174", f_pipe_174),
    ("F-PIPE-175", f_pipe_175),
    ("F-PIPE-176", f_pipe_176),
    ("F-PIPE-177", f_pipe_177),
    ("F-PIPE-178", f_pipe_178),
    ("F-PIPE-179", f_pipe_179),
    ("F-PIPE-180", f_pipe_180),
    ("F-PIPE-181", f_pipe_181),
    ("F-PIPE-182", f_pipe_182),
    ("F-PIPE-183", f_pipe_183),
    ("F-PIPE-184", f_pipe_184),
    ("F-PIPE-185", f_pipe_185),
    ("F-PIPE-186", f_pipe_186),
    ("F-PIPE-187", f_pipe_187),
    ("F-PIPE-188", f_pipe_188),
    ("F-PIPE-189", f_pipe_189),
    ("F-PIPE-190", f_pipe_190),
];

/// Opened so that taps see every operation.
const WATCHED: Setup = Setup { isa: None, threads: 2, oracle: false, gpu: false, watched: true, context: None };

// ---- tokenizer

/// `decode(encode(s))` is `s`, and encoding that again gives the same ids.
pub fn f_pipe_166(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "28 awkward texts and 2000 random ones in ten alphabets on four vocabularies; the text of every token of the fixture",
    );
    let mut bytes = 0;
    for path in [s.model()?, s.forged("qwen2-f16")?, s.forged("llama-f16")?, s.forged("llama-spm-f16")?] {
        let model = open(s, &path, Setup::default())?;
        let mut random = Random::new(166, "round trip");
        let drawn: Vec<String> = (0..2000).map(|_| random_text(&mut random)).collect();
        for text in TEXTS.iter().copied().chain(drawn.iter().map(String::as_str)) {
            round_trip(&mut t, &model, text, text)?;
            bytes += text.len();
        }
    }
    // Each token that is whole characters, as text: whichever token the encoder finds for it has to come back.
    let qwen = open(s, &s.model()?, Setup::default())?;
    let mut words = 0;
    for text in spelled(s)?.into_values().filter_map(|bytes| String::from_utf8(bytes).ok()) {
        round_trip(&mut t, &qwen, &text, &text)?;
        words += 1;
    }
    t.number("texts of tokens", f64::from(words));
    // What is not in composed form comes back composed where the model's own tokenizer composes, else as it was.
    let llama = open(s, &s.forged("llama-f16")?, Setup::default())?;
    for (apart, composed) in
        [("e\u{301}", "é"), ("n\u{303}o", "ño"), ("\u{1112}\u{1161}\u{11ab}", "한"), ("\u{212b}", "Å")]
    {
        round_trip(&mut t, &qwen, apart, composed)?;
        round_trip(&mut t, &llama, apart, apart)?;
    }
    crate::refusal::long_texts(&mut t, &qwen)?;
    t.number("bytes encoded", bytes as f64);
    t.done()
}

fn round_trip(t: &mut Tally, model: &Loaded, text: &str, want: &str) -> Result<(), Halt> {
    let ids = running("text encodes", model.tokenizer.encode_text(text))?;
    let back = model.tokenizer.decode(&ids);
    t.hold(back == want.as_bytes(), || {
        Refutation::new("decode(encode(s)) = s", format!("{:?}", String::from_utf8_lossy(&back)), format!("{want:?}"))
    })?;
    let again = running("text encodes", model.tokenizer.encode_text(want))?;
    t.hold(again == ids, || {
        Refutation::new("encode(decode(ids)) = ids of encode", format!("{again:?}"), format!("{ids:?}"))
    })
}

/// No glyph of the byte alphabet and no run of token 0 in what is printed.
pub fn f_pipe_166b(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("14 answers of apr run, as text and as JSON, beside the decoding of their ids by tokenizer.json");
    let spelled = spelled(s)?;
    let glyphs: BTreeSet<char> = byte_alphabet().into_iter().filter(|c| *c as u32 >= 0x100).collect();
    let (mut kinds, mut characters) = (BTreeSet::new(), 0);
    for (prompt, raw) in VARIED {
        let flags: &[&str] = if *raw { &["--max-tokens", "64", "--raw"] } else { &["--max-tokens", "64"] };
        let out = report(s, prompt, flags)?;
        let want = text_of(&out.json, &spelled).ok_or_else(|| instrument("an id that tokenizer.json has not"))?;
        for text in [&out.text, &printed(s, prompt, flags)?] {
            let strange = |c: &char| glyphs.contains(c) && !want.contains(*c);
            let glyph = text.chars().find(strange);
            t.hold(glyph.is_none(), || {
                Refutation::new("no glyph of the byte alphabet is printed", &**text, &*want).repro(&*out.repro)
            })?;
            characters += text.chars().count();
            kinds.extend(text.chars().filter(|c| " \n".contains(*c) || !c.is_ascii()));
        }
        no_run_of_zeros(&mut t, out.json["tokens"].as_array().into_iter().flatten().map(|id| id == 0))?;
    }
    if !(kinds.contains(&' ') && kinds.contains(&'\n') && kinds.len() > 5) {
        return Err(fixture_weak("the answers hold no spaces, line ends or other scripts"));
    }
    // In process too: a backend that sticks to token 0 is where such runs come from.
    let mut model = open(s, &s.model()?, Setup::default())?;
    for (prompt, raw) in VARIED {
        let prompt = Prompt { text: prompt, system: None, raw: *raw };
        let ids = running("the prompt encodes", model.encode_prompt(&prompt))?;
        let answer = lab::greedy(&mut model, &ids, 64)?;
        no_run_of_zeros(&mut t, answer.tokens.iter().map(|id| *id == 0))?;
    }
    t.number("characters looked at", characters as f64);
    t.number("kinds of blanks and non-ASCII characters", kinds.len() as f64);
    t.done()
}

/// '!!!!': what broken numbers print, since token 0 is '!'.
fn no_run_of_zeros(t: &mut Tally, is_zero: impl Iterator<Item = bool>) -> Result<(), Halt> {
    let mut run = 0;
    let longest = is_zero.map(|zero| {
        run = if zero { run + 1 } else { 0 };
        run
    });
    let longest = longest.max().unwrap_or(0);
    t.hold(longest < 4, || Refutation::new("no run of four tokens of id 0", format!("a run of {longest}"), "at most 3"))
}

/// The end tokens are those that llama.cpp finds in the same file; each is a control token that nobody can type.
pub fn f_pipe_168(s: &Subject) -> Attempt {
    let mut t = Tally::new("end tokens of seven files beside llama.cpp's; their spellings as user text");
    let forged = ["qwen2-stops-f16", "qwen2-f16", "llama-f16", "llama-chat3-f16", "llama-spm-f16"];
    for name in ["qwen2-tiny-q8_0", "qwen2-tiny-q4_k_m"].into_iter().chain(forged) {
        let golden = golden(s, name)?;
        let model = open(s, &golden.model(s)?, Setup::default())?;
        let tok = &model.tokenizer;
        let ours: Vec<u32> = (0..tok.vocab_size() as u32).filter(|id| tok.is_end(*id)).collect();
        t.equal(&format!("end tokens of {name}"), &ours, &golden.ends)?;
        let stated = model.model.metadata.unsigned("tokenizer.ggml.eos_token_id").ok().flatten();
        t.equal("EOS is the file's", &tok.eos().map(u64::from), &stated)?;
        t.equal("EOS ends an answer", &tok.eos().is_some_and(|id| tok.is_end(id)), &true)?;
        for &id in &ours {
            let text = tok.token_text(id).unwrap_or_default();
            t.equal(
                "an end token is a control token and prints nothing",
                &(tok.is_control(id), tok.token_bytes(id)),
                &(true, Some(&[][..])),
            )?;
            t.equal("the token of its name is it", &tok.special(text), &Some(id))?;
            let typed = running("text encodes", tok.encode_text(text))?;
            t.equal("what a user types is text", &typed.iter().any(|id| tok.is_control(*id)), &false)?;
            t.equal("the scaffold's is the token", &running("it encodes", tok.encode_raw(text))?.last(), &Some(&id))?;
        }
    }
    t.done()
}

/// Conversations are rendered to the bytes and ids of the reference; user text never closes a turn.
pub fn f_pipe_169(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "conversations (systems, several turns, tools, hostile words) by three templates beside Jinja2 and llama.cpp",
    );
    let stored: Value = serde_json::from_str(&s.golden_text("text/chat.json")?).map_err(instrument)?;
    let mut conversations = 0;
    for (name, path) in
        [("qwen2.5", s.model()?), ("chatml", s.forged("qwen2-f16")?), ("llama-3", s.forged("llama-chat3-f16")?)]
    {
        let model = open(s, &path, Setup::default())?;
        let cases = stored["templates"][name]["cases"].as_object();
        for (case, given) in cases.ok_or_else(|| instrument(format!("no golden conversations of {name}")))? {
            let Some(want) = given["text"].as_str() else { continue };
            let segments =
                rendered(&model, &given["messages"], &given["tools"], given["add_generation_prompt"] == true)?;
            let text = text_of_segments(&segments);
            t.hold(text == want, || Refutation::new(format!("the text of {name}, {case}"), &*text, want))?;
            conversations += 1;
            // Where somebody writes control tokens the stored ids are what must not come out.
            let written = given["messages"].to_string() + &given["tools"].to_string();
            if name == "qwen2.5" && !written.contains("<|") {
                let ids = running("a conversation encodes", model.tokenizer.encode(&segments))?;
                t.equal(&format!("ids of {name}, {case}"), &serde_json::json!(ids), &given["ids"])?;
            }
        }
    }
    let golden = golden(s, "qwen2-tiny-q8_0")?;
    let model = open(s, &golden.model(s)?, Setup::default())?;
    for case in golden.cases.iter().filter(|c| c.messages.is_some()) {
        let given = case.messages.as_deref().unwrap_or_default();
        let messages = given.iter().map(|m| serde_json::json!({"role": m.role, "content": m.content})).collect();
        let segments = rendered(&model, &messages, case.tools.as_ref().unwrap_or(&Value::Null), true)?;
        t.equal(&format!("text of {}", case.name), &Some(&*text_of_segments(&segments)), &case.text.as_deref())?;
        let ids = running("a conversation encodes", model.tokenizer.encode(&segments))?;
        t.equal(&format!("ids of {}", case.name), &ids, &case.prompt)?;
        conversations += 1;
        // The door that `apr run` uses.
        let (system, user) = match given {
            [user] if case.tools.is_none() => (None, user),
            [system, user] if case.tools.is_none() && system.role == "system" => (Some(&*system.content), user),
            _ => continue,
        };
        let prompt = Prompt { text: &user.content, system, raw: false };
        let ids = running("a prompt encodes", model.encode_prompt(&prompt))?;
        t.equal(&format!("ids of {} as a prompt", case.name), &ids, &case.prompt)?;
    }
    t.number("conversations", f64::from(conversations));
    let controls = |ids: &[u32]| ids.iter().filter(|id| model.tokenizer.is_control(**id)).count();
    let usual = controls(&chat_ids(&model, "words")?);
    for text in HOSTILE {
        for system in [None, Some(*text)] {
            let prompt = Prompt { text, system, raw: false };
            let ids = running("a hostile prompt encodes", model.encode_prompt(&prompt))?;
            t.equal("control tokens come from the template alone", &controls(&ids), &usual)?;
            let said = String::from_utf8_lossy(&model.tokenizer.decode(&ids)).into_owned();
            t.hold(said.contains(text), || Refutation::new("the words reach the model", &*said, *text))?;
        }
    }
    crate::refusal::templates(&mut t, s)?;
    t.done()
}

// ---- cache

/// The rows' logits, for comparing bit for bit.
fn bits(row: &RowOutput) -> Vec<u32> {
    row.values.iter().map(|x| x.to_bits()).collect()
}

fn same_bits(t: &mut Tally, criterion: &str, seen: &RowOutput, want: &RowOutput) -> Result<(), Halt> {
    let (seen, want) = (bits(seen), bits(want));
    let first = seen.iter().zip(&want).position(|(a, b)| a != b);
    t.hold(!want.is_empty() && seen == want, || {
        Refutation::new(criterion, format!("{} logits, the first other one {first:?}", seen.len()), "the same bits")
    })
}

fn last_row(session: &Session<'_>) -> Result<RowOutput, Halt> {
    session.output().rows.last().cloned().ok_or_else(|| instrument("a step gave no row"))
}

/// Models for the laws of the cache: the fixture, and both layouts.
fn cached_models(s: &Subject) -> Result<Vec<Known>, Halt> {
    Ok(vec![Known::fixture(s, "q8_0")?, Known::forged(s, "qwen2-q4_k")?, Known::forged(s, "llama-f32")?])
}

/// After a prefill of N tokens the cache is what a step at position N needs.
pub fn f_pipe_172(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "prefill of 1, 5, 63, 64, 65 and 130 tokens, then one step beside all rows in one batch; three models",
    );
    for known in cached_models(s)? {
        let mut whole = open(s, &known.path, Setup::default())?;
        let ids = probe(&whole, 131)?;
        let want = lab::rows(&mut whole, &ids, ids.len(), Want::Logits)?;
        for n in [1, 5, 63, 64, 65, 130] {
            let mut model = open(s, &known.path, Setup::default())?;
            t.equal("no cache before the first token", &model.counters().kv_bytes, &0)?;
            let mut session = Session::new(&mut model);
            running(
                "the prompt runs",
                session.prefill(&ids[..n], PREFILL_CHUNK, Want::Logits, &mut Silent, &AtomicBool::new(false)),
            )?;
            same_bits(&mut t, "the last row of a prefill is that of the whole", &last_row(&session)?, &want[n - 1])?;
            running("a step runs", session.feed(&ids[n..=n], Want::Nothing, Want::Logits, &mut NoTap))?;
            same_bits(&mut t, "a step after a prefill is the row of one batch", &last_row(&session)?, &want[n])
                .map_err(|halt| named(halt, &known.name))?;
            let counters = model.counters();
            t.equal("every position ran once", &counters.rows, &(n as u64 + 1))?;
            // K and V in half precision, whole blocks.
            let position = known.layers * 2 * known.kv_heads * known.head_dim * 2;
            let bytes = (n + 1).div_ceil(KV_BLOCK) * KV_BLOCK * position;
            let held = counters.kv_bytes;
            t.hold(held >= bytes as u64, || {
                Refutation::new("the cache holds every position", format!("{held} bytes"), format!("{bytes}"))
            })?;
        }
    }
    t.done()
}

/// A decode step runs one row, and gives what running the whole sequence gives.
pub fn f_pipe_173(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("greedy answers of 24 tokens: rows counted, tokens beside one batch of everything; three models");
    for known in cached_models(s)? {
        let mut model = open(s, &known.path, Setup::default())?;
        let ids = probe(&model, 50)?;
        let before = model.counters();
        let answer = lab::greedy(&mut model, &ids, 24)?;
        let after = model.counters();
        // The last token is never run; where the answer ended by itself, its end token was not.
        let steps = answer.tokens.len() - usize::from(answer.finish == Finish::Length);
        let rows = (ids.len() + steps) as u64;
        t.equal("rows run: prompt and generated tokens, once each", &(after.rows - before.rows), &rows)?;
        t.equal("one step for each token", &(after.steps - before.steps), &(1 + steps as u64))?;
        let all = [&ids[..], &answer.tokens].concat();
        let mut fresh = open(s, &known.path, Setup::default())?;
        let whole = lab::rows(&mut fresh, &all, all.len(), Want::Logits)?;
        for (i, token) in answer.tokens.iter().enumerate() {
            let best = whole[ids.len() - 1 + i].argmax;
            t.equal("each token is the best of a run without cache", token, &best)
                .map_err(|h| named(h, &known.name))?;
        }
        // The same last token after other words: a step that did not read the cache could not tell.
        let mut others = Vec::new();
        for first in 0..4 {
            let mut prompt = ids.clone();
            prompt[0] = ids[0] + 1 + first;
            let mut session = Session::new(&mut fresh);
            running("the prompt runs", session.feed(&prompt, Want::Nothing, Want::Nothing, &mut NoTap))?;
            running("a step runs", session.feed(&[5], Want::Nothing, Want::Logits, &mut NoTap))?;
            let row = bits(&last_row(&session)?);
            t.equal("another first token changes the step's logits", &others.contains(&row), &false)?;
            others.push(row);
        }
    }
    t.done()
}

/// A second request on a loaded model gets what it gets on a fresh one, bit for bit.
pub fn f_pipe_174(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "pairs of prompts of 1 to 150 tokens on one loaded model, the second beside a fresh one; three models",
    );
    let lengths = [(150, 10), (10, 150), (64, 64), (65, 63), (63, 65), (130, 1), (1, 130), (40, 40)];
    for known in cached_models(s)? {
        let mut used = open(s, &known.path, Setup::default())?;
        let ids = probe(&used, 300)?;
        for (a, b) in lengths {
            let (a, b) = (&ids[..a], &ids[ids.len() - b..]);
            lab::greedy(&mut used, a, 8)?;
            let seen = lab::rows(&mut used, b, PREFILL_CHUNK, Want::Logits)?;
            let mut fresh = open(s, &known.path, Setup::default())?;
            let want = lab::rows(&mut fresh, b, PREFILL_CHUNK, Want::Logits)?;
            for (seen, want) in seen.iter().zip(&want) {
                same_bits(&mut t, "a request after another gets its own logits", seen, want)?;
            }
            let (after, alone) = (lab::greedy(&mut used, b, 12)?, lab::greedy(&mut fresh, b, 12)?);
            t.equal("and its own tokens", &(after.tokens, after.finish), &(alone.tokens, alone.finish))?;
        }
    }
    // Words, too: an answer does not know the question before.
    let mut used = open(s, &s.model()?, Setup::default())?;
    for pair in [[PROMPTS[0], PROMPTS[1]], [PROMPTS[1], PROMPTS[2]], [LONG_PROMPTS[0], PROMPTS[0]]] {
        let mut texts = Vec::new();
        for prompt in pair {
            let ids = chat_ids(&used, prompt)?;
            texts.push(lab::greedy(&mut used, &ids, 48)?.text);
        }
        let mut fresh = open(s, &s.model()?, Setup::default())?;
        let ids = chat_ids(&fresh, pair[1])?;
        t.equal("the second answer is the one it gets alone", &texts[1], &lab::greedy(&mut fresh, &ids, 48)?.text)?;
    }
    t.done()
}

// ---- mask and positions

/// Ways to cut 140 positions into batches: whole, across blocks, and one by one at the end.
const CUTS: &[&[usize]] = &[&[140], &[64, 64, 12], &[1, 70, 60, 1, 1, 1, 6], &[63, 2, 33]];

/// Each row's attention is that over all positions up to its own and no others, wherever batches were cut.
pub fn f_pipe_175(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "attention of every layer, head and row over 140 positions in four cuttings, beside f64; three models",
    );
    for known in cached_models(s)? {
        let mut model = open(s, &known.path, WATCHED)?;
        let ids = probe(&model, 140)?;
        for cuts in CUTS {
            let mut caches: Vec<Cache> = (0..known.layers).map(|_| Cache::default()).collect();
            for (start, seen) in watch_parts(&mut model, &ids, cuts)? {
                let error = attention_error(&known, &mut caches, start, &seen)?;
                t.at_most("attention is over positions 0..=p exactly, error by largest value", error, ATTENTION_ERROR)
                    .map_err(|halt| named(halt, &format!("{}, rows from {start}", known.name)))?;
            }
        }
    }
    t.done()
}

/// A token changes no logits before it, by no bit, and its own; chunks change nothing.
pub fn f_pipe_176(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "each of 40 tokens of a prompt changed in turn, logits of all rows compared bit for bit; seven ways to cut it",
    );
    for known in cached_models(s)? {
        let mut model = open(s, &known.path, Setup::default())?;
        let ids = probe(&model, 40)?;
        let want = lab::rows(&mut model, &ids, ids.len(), Want::Logits)?;
        for j in 0..ids.len() {
            let mut other = ids.clone();
            other[j] = if other[j] == 7 { 8 } else { 7 };
            let seen = lab::rows(&mut model, &other, ids.len(), Want::Logits)?;
            for i in 0..j {
                same_bits(&mut t, "a token changes nothing before it", &seen[i], &want[i])?;
            }
            t.equal("a token changes its own row", &(bits(&seen[j]) == bits(&want[j])), &false)?;
        }
        for chunk in [1, 2, 3, 7, 16, 39, 512] {
            let seen = lab::rows(&mut model, &ids, chunk, Want::Logits)?;
            for (seen, want) in seen.iter().zip(&want) {
                same_bits(&mut t, "chunks change nothing", seen, want)?;
            }
        }
    }
    t.done()
}

/// A row turns by its absolute position, in prefill, in decode and in chunks that begin anywhere.
pub fn f_pipe_177(s: &Subject) -> Attempt {
    let mut t = Tally::new("q and k of 140 positions in four cuttings beside the rotation in f64; three models");
    for known in cached_models(s)? {
        let mut model = open(s, &known.path, WATCHED)?;
        let ids = probe(&model, 140)?;
        for cuts in CUTS {
            for (start, seen) in watch_parts(&mut model, &ids, cuts)? {
                for layer in 0..known.layers {
                    for (before, after) in [(Stage::Q, Stage::RopeQ), (Stage::K, Stage::RopeK)] {
                        for row in 0..seen.rows {
                            let (x, y) = (seen.row(layer, before, row)?, seen.row(layer, after, row)?);
                            for (x, y) in x.chunks_exact(known.head_dim).zip(y.chunks_exact(known.head_dim)) {
                                let error = known.rope.error(x, y, start + row);
                                t.at_most("a row turns by its absolute position, error by norm", error, TURN_ERROR)
                                    .map_err(|halt| {
                                        named(halt, &format!("{}, position {}", known.name, start + row))
                                    })?;
                            }
                        }
                    }
                }
            }
        }
    }
    t.done()
}

// ---- logits, tokens, text

/// One logit for each row of the output matrix, whatever the vocabulary's size.
pub fn f_pipe_179(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "logits of 20 rows of both fixtures and eight forged models beside the vocabulary that they were made with",
    );
    let mut models = vec![Known::fixture(s, "q8_0")?, Known::fixture(s, "q4_k_m")?];
    let names = [
        "qwen2-f16",
        "qwen2-untied-q8_0",
        "qwen2-uneven-q8_0",
        "qwen2-padded-f16",
        "llama-q4_k",
        "llama-tied-f16",
        "llama-chat3-f16",
        "llama-spm-f16",
    ];
    models.extend(Known::all_forged(s, &names)?);
    let mut sizes = BTreeSet::new();
    for known in &models {
        let mut model = open(s, &known.path, Setup::default())?;
        let ids = probe(&model, 20)?;
        for row in lab::rows(&mut model, &ids, 8, Want::Logits)? {
            t.equal(&format!("logits of {}", known.name), &row.values.len(), &known.vocab)?;
            let largest = row.values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            t.equal(
                "the best token is the one with the largest logit",
                &row.values.get(row.argmax as usize),
                &Some(&largest),
            )?;
        }
        let all = lab::rows(&mut model, &ids[..1], 1, Want::TopK(usize::MAX))?;
        let best: BTreeSet<u32> = all.iter().flat_map(|r| r.top.iter().map(|t| t.0)).collect();
        t.equal("the best of all are all ids, once each", &best, &(0..known.vocab as u32).collect())?;
        let stated = model.model.hyper.vocab;
        t.equal("the model says so too", &stated, &known.vocab)?;
        sizes.insert(known.vocab);
    }
    t.number("different vocabulary sizes", sizes.len() as f64);
    t.done()
}

/// Every id prints the bytes that HuggingFace's file gives it, and chunks of a stream never end inside a character.
pub fn f_pipe_181(s: &Subject) -> Attempt {
    let mut t = Tally::new("bytes of every id beside tokenizer.json; 14 answers printed, in JSON and in pieces");
    let spelled = spelled(s)?;
    let mut model = open(s, &s.model()?, Setup::default())?;
    t.equal(
        "the vocabulary has the tokens of tokenizer.json, padding apart",
        &(model.tokenizer.vocab_size() >= spelled.len()),
        &true,
    )?;
    for id in 0..model.tokenizer.vocab_size() as u32 {
        let want = spelled.get(&id).map_or(&[][..], Vec::as_slice);
        let seen = model.tokenizer.token_bytes(id).unwrap_or_default();
        t.hold(seen == want, || {
            let shown = |b: &[u8]| format!("{:?}", String::from_utf8_lossy(b));
            Refutation::new(format!("what token {id} prints"), shown(seen), shown(want))
        })?;
    }
    for (prompt, raw) in VARIED {
        let flags: &[&str] = if *raw { &["--max-tokens", "48", "--raw"] } else { &["--max-tokens", "48"] };
        let out = report(s, prompt, flags)?;
        let want = text_of(&out.json, &spelled).ok_or_else(|| instrument("an id that tokenizer.json has not"))?;
        t.hold(out.text == want, || {
            Refutation::new("JSON has the text of its ids", &*out.text, &*want).repro(&*out.repro)
        })?;
        t.equal("standard output has the text of the ids", &printed(s, prompt, flags)?, &closed(&want))?;
        let ids =
            running("the prompt encodes", model.encode_prompt(&Prompt { text: prompt, system: None, raw: *raw }))?;
        let (pieces, answer) = in_pieces(&mut model, &ids, 48)?;
        t.equal("pieces make up the answer", &pieces.concat(), &answer.text)?;
        t.equal("an answer in process has the text of its ids", &answer.text, &want)?;
        let half = pieces.iter().find(|p| p.contains('\u{fffd}') && !want.contains('\u{fffd}'));
        t.hold(half.is_none(), || {
            Refutation::new("no piece ends inside a character", format!("{pieces:?}"), "whole characters")
        })?;
    }
    crate::refusal::stops(&mut t, s)?;
    t.done()
}

/// The same seed draws the same tokens: in fresh processes, and in one on any threads and chunks. Others draw others.
pub fn f_pipe_185(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("apr run --temperature 1, six seeds, four processes each; eight seeds on a forged model in process");
    let mut texts = BTreeSet::new();
    for seed in ["0", "1", "2", "7", "42", "18446744073709551615"] {
        let flags = [
            "--raw",
            "--temperature",
            "1",
            "--top-k",
            "0",
            "--top-p",
            "1",
            "--min-p",
            "0",
            "--seed",
            seed,
            "--max-tokens",
            "32",
        ];
        let first = answered(ask(s, OPEN_PROMPT, &flags)?)?;
        for threads in ["1", "2", "2"] {
            let again = answered(ask(s, OPEN_PROMPT, &flags)?.args(["--threads", threads]))?;
            t.hold(again.stdout == first.stdout, || {
                again.refute("the same seed gives the same answer", again.out(), first.out())
            })?;
        }
        texts.insert(first.out());
    }
    t.number("different answers of six seeds", texts.len() as f64);
    t.hold(texts.len() > 1, || {
        Refutation::new("another seed gives another draw", format!("{texts:?}"), "more than one answer")
    })?;
    // A random model is unsure of everything, so every step is a draw.
    let path = s.forged("qwen2-f16")?;
    let mut drawn = BTreeSet::new();
    for seed in 0..8 {
        let mut first = None;
        for (threads, chunk) in [(1, 512), (2, 5), (3, 1)] {
            let mut model = open(s, &path, Setup { threads, ..Setup::default() })?;
            let ids = probe(&model, 12)?;
            for _ in 0..2 {
                let sampling =
                    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..Sampling::default() };
                let tokens = lab::answer(&mut model, &ids, 24, sampling, chunk)?.tokens;
                let first = first.get_or_insert_with(|| tokens.clone());
                t.equal("the same seed gives the same tokens", &tokens, first)?;
            }
        }
        drawn.insert(first);
    }
    t.equal("eight seeds give eight draws", &drawn.len(), &8)?;
    t.done()
}
