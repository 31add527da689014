//! F-GGUF-054, 056 and 060: vocabularies that are not the embedding's size, stretched rope angles, and the same words as
//! llama.cpp.

use compute::Want;
use engine::sample::Sampling;
use engine::session::PREFILL_CHUNK;

use super::SHORT;
use crate::ask;
use crate::chance::ranked;
use crate::forge;
use crate::forge::random::Random;
use crate::lab::{self, Setup, open};
use crate::oracle;
use crate::subject::Subject;
use crate::verdict::{Attempt, Refutation, Tally, instrument};

/// Handle vocab size mismatch gracefully: padding is never sampled, missing rows are refused with both numbers.
pub fn f_gguf_054(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "30 greedy and 30 drawn answers each of models with unused tokens and with rows beyond the tokens, whose padding has \
         the largest logits; golden answers of a padded one; a table with fewer rows than tokens, in process and by apr",
    );
    let mut louder = 0u32;
    for name in ["qwen2-loud-padding-f16", "qwen2-loud-rows-f16"] {
        let words = (forge::model(name).ok_or_else(|| instrument(format!("the forge has no {name}")))?.words)();
        let count = words.tokens.len() as u32;
        let mut model = open(s, &s.forged(name)?, Setup::default())?;
        t.equal(&format!("{name}: more rows than words"), &(model.model.hyper.vocab > count as usize), &true)?;
        let mut random = Random::new(54, name);
        for i in 0..30 {
            let ids: Vec<u32> = (0..1 + random.below(9)).map(|_| random.below(256) as u32).collect();
            let drawn = Sampling { temperature: 1.5, ..Sampling::unfiltered(i) };
            for sampling in [Sampling::default(), drawn] {
                let greedy = sampling.temperature == 0.0;
                let answer = lab::answer(&mut model, &ids, 12, sampling, PREFILL_CHUNK)?;
                let padding = answer.tokens.iter().find(|id| **id >= count);
                t.hold(padding.is_none(), || {
                    let seen = format!("{name}: token {padding:?} of {count} in {:?}", answer.tokens);
                    Refutation::new("padding is never sampled", seen, format!("ids below {count}"))
                })?;
                // Among the words the best one is taken, and padding would have been better now and then.
                let all = [&ids[..], &answer.tokens].concat();
                for (row, token) in
                    lab::rows(&mut model, &all, all.len(), Want::Logits)?[ids.len() - 1..].iter().zip(&answer.tokens)
                {
                    louder += u32::from(row.argmax >= count);
                    if greedy {
                        let best = ranked(&row.values[..count as usize])[0];
                        t.equal(&format!("{name}: the best word is taken"), token, &best)?;
                    }
                }
            }
        }
    }
    t.number("steps at which padding had the largest logit", f64::from(louder));
    if louder < 100 {
        return Err(instrument(format!("padding had the largest logit at {louder} steps only")));
    }
    let golden = oracle::golden(s, "qwen2-padded-f16")?;
    let mut model = open(s, &golden.model(s)?, Setup::default())?;
    oracle::teacher_forced(&mut t, &mut model, &golden, golden.epsilon)?;
    let path = s.forged("qwen2-fewerrows-f16")?;
    let refusal = lab::refusal(s, &path)?.to_string();
    let out = s.apr(["run"]).args([path.as_os_str()]).args(["2+2?", "--max-tokens", "4"]).judged()?;
    t.hold(out.code() == Some(5), || out.refute("apr refuses a table with fewer rows", out.err(), "exit code 5"))?;
    for text in [refusal, out.err()] {
        let both = text.contains("320") && text.contains("300");
        t.hold(both, || out.refute("the refusal has both numbers", &*text, "320 tokens and 300 rows"))?;
    }
    t.done()
}

/// Support RoPE scaling: linear, YaRN and Llama 3's rule, inside and beyond the original context.
pub fn f_gguf_056(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "llama.cpp's logits of five forged models, to positions 136 (original context 64) and 616 (512): cpu and plain",
    );
    for name in ["llama-linear-f32", "qwen2-linear-f16", "llama-yarn-f32", "qwen2-yarn-f16", "llama-llama3-f32"] {
        let golden = oracle::golden(s, name)?;
        let path = golden.model(s)?;
        let longest = golden.cases.iter().map(|c| c.prompt.len() + c.greedy.len()).max().unwrap_or(0);
        let original = if name.contains("linear") { 512 } else { 64 };
        t.hold(longest > original, || Refutation::new("positions beyond the original", longest.to_string(), "more"))?;
        let mut model = open(s, &path, Setup::default())?;
        oracle::near(&mut t, &mut model, &golden)?;
        oracle::teacher_forced(&mut t, &mut model, &golden, golden.epsilon)?;
        let mut plain = open(s, &path, Setup { oracle: true, ..Setup::default() })?;
        oracle::exact(&mut t, &mut plain, &golden)?;
        t.note(format!("{name}: {}", model.model.hyper.rope_scaling));
    }
    t.done()
}

/// Models of formats that have no row of their own.
const OTHER_FORMATS: &[&str] = &[
    "qwen2-q4_1",
    "qwen2-q5_0",
    "qwen2-q5_1",
    "qwen2-q2_k",
    "qwen2-q3_k",
    "qwen2-q5_k",
    "qwen2-iq4_nl",
    "qwen2-iq4_xs",
    "qwen2-bf16",
];

/// Same output as llama.cpp (deterministic): its ids and its text, up to the first near tie that went the other way.
pub fn f_gguf_060(s: &Subject) -> Attempt {
    let mut t = Tally::new("greedy answers of both fixtures and of forged qwen2 and llama models, free-running");
    for name in [
        "qwen2-tiny-q8_0",
        "qwen2-tiny-q4_k_m",
        "qwen2-f16",
        "qwen2-stops-f16",
        "llama-f16",
        "llama-q8_0",
        "llama-spm-f16",
    ] {
        let golden = oracle::golden(s, name)?.up_to(SHORT);
        let mut model = open(s, &golden.model(s)?, Setup::default())?;
        oracle::teacher_forced(&mut t, &mut model, &golden, golden.epsilon)?;
        oracle::free_running(&mut t, &mut model, &golden, golden.epsilon)?;
    }
    for name in OTHER_FORMATS {
        let golden = oracle::golden(s, name)?;
        let path = golden.model(s)?;
        let mut model = open(s, &path, Setup::default())?;
        oracle::teacher_forced(&mut t, &mut model, &golden, golden.epsilon)?;
        oracle::free_running(&mut t, &mut model, &golden, golden.epsilon)?;
        let mut plain = open(s, &path, Setup { oracle: true, ..Setup::default() })?;
        oracle::exact(&mut t, &mut plain, &golden)?;
    }
    // The same through the front door: a question through the template, and a text as it is.
    let golden = oracle::golden(s, "qwen2-tiny-q8_0")?.up_to(64);
    let mut asked = 0;
    for case in &golden.cases {
        let decisive = case.rows.iter().all(|r| r.margin > golden.epsilon);
        let turns: Vec<_> = case.messages.iter().flatten().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        let flags: Vec<&str> = match (&turns[..], &case.text) {
            ([("user", text)], _) => vec![*text],
            ([("system", system), ("user", text)], _) => vec![*text, "--system", *system],
            ([], Some(text)) => vec![text.as_str(), "--raw"],
            _ => continue,
        };
        if let (true, Some(reply)) = (decisive && asked < 8, &case.reply) {
            let r = ask::report(s, flags[0], &[&flags[1..], &["--max-tokens", "64"]].concat())?;
            t.hold(r.text == *reply, || {
                let criterion = format!("apr's answer is llama.cpp's, case {}", case.name);
                Refutation::new(criterion, &*r.text, &**reply).repro(r.repro.clone())
            })?;
            asked += 1;
        }
    }
    if asked < 4 {
        return Err(instrument(format!("only {asked} golden cases can be asked through apr")));
    }
    t.number("answers of apr compared", f64::from(asked));
    t.done()
}
