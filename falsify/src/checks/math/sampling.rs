//! F-MATH-149 to 152: drawing tokens. Draws are held against distributions by chi-squared, filters and penalties against
//! their definitions in [`crate::chance`].

use std::collections::BTreeSet;

use compute::Want;
use compute::backend::NoTap;
use engine::sample::Sampling;
use engine::session::{PREFILL_CHUNK, Session};

use crate::ask::report;
use crate::chance::{
    Sampled, are, as_surprising, counted, follows, logits, nucleus, penalised, place, probabilities, ranked, spread,
    surprise, top_k,
};
use crate::forge::random::Random;
use crate::lab::{self, Setup, open, probe, running};
use crate::oracle;
use crate::subject::Subject;
use crate::texts::OPEN_PROMPT;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// Temperature=1 produces variety: many answers, drawn by the softmax.
pub fn f_math_149(s: &Subject) -> Attempt {
    const SEEDS: u64 = 64;
    let mut t =
        Tally::new("apr run --temperature 1 --raw, no filters, 64 seeds of 24 tokens; 3 x 4000 draws in process");
    let ends = oracle::golden(s, "qwen2-tiny-q8_0")?.ends;
    let mut model = open(s, &s.model()?, Setup::default())?;
    let prompt = running("a raw prompt encodes", model.tokenizer.encode_raw(OPEN_PROMPT))?;
    let mut random = Random::new(149, "places");
    let (mut texts, mut places, mut surprises) = (BTreeSet::new(), Vec::new(), Vec::new());
    for seed in 0..SEEDS {
        let seed = seed.to_string();
        let filters = ["--raw", "--temperature", "1", "--top-k", "0", "--top-p", "1", "--min-p", "0"];
        let out = report(s, OPEN_PROMPT, &[&filters[..], &["--max-tokens", "24", "--seed", &seed]].concat())?;
        let tokens = out.json["tokens"].as_array().into_iter().flatten().filter_map(|id| id.as_u64());
        let tokens: Vec<u32> = tokens.map(|id| id as u32).collect();
        let ids = [&prompt[..], &tokens].concat();
        let rows = lab::rows(&mut model, &ids, ids.len(), Want::Logits)?;
        for (i, row) in rows[prompt.len() - 1..].iter().enumerate() {
            // Which of the end tokens it was is not told: they are one cell, the last.
            let mut share = probabilities(&row.values, 1.0);
            let ended: f64 = ends.iter().map(|&id| std::mem::take(&mut share[id as usize])).sum();
            share.push(ended);
            let drawn = match tokens.get(i) {
                Some(&id) => id as usize,
                None if out.json["finish_reason"] == "stop" => share.len() - 1,
                None => break,
            };
            places.push(place(&share, drawn, &mut random));
            surprises.push(surprise(&share, drawn));
        }
        texts.insert(out.text);
    }
    t.number("different answers of 64 seeds", texts.len() as f64);
    t.number("tokens drawn by apr run", places.len() as f64);
    t.hold(texts.len() > 1, || Refutation::new("64 seeds give more than one answer", format!("{texts:?}"), "two"))?;
    let (counts, even) = spread(&places);
    follows(&mut t, "tokens of apr run are drawn by the softmax of the logits", &counts, &even)?;
    as_surprising(&mut t, "tokens of apr run are as surprising as the softmax says", &surprises)?;
    for text in [OPEN_PROMPT, "The", "1, 2, 3"] {
        let ids = running("a raw prompt encodes", model.tokenizer.encode_raw(text))?;
        let rows = lab::rows(&mut model, &ids, ids.len(), Want::Logits)?;
        let row = rows.last().ok_or_else(|| instrument("no row"))?.values.clone();
        let mut sampled = Sampled::new(s, &Sampling::unfiltered(149));
        let counts = counted((0..4_000).map(|_| sampled.choose(&row, &[])), row.len());
        let criterion = format!("first tokens after {text:?} are drawn by the softmax");
        follows(&mut t, &criterion, &counts, &probabilities(&row, 1.0))?;
    }
    t.done()
}

/// Top-k sampling works: the k best and no others, in their proportions.
pub fn f_math_150(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("400 generated rows of logits, k from 0 to beyond all: candidates, 40 draws each, 20000 of one");
    for (i, row) in logits(400, "top-k").into_iter().enumerate() {
        let share = probabilities(&row, 1.0);
        let half = row.len() / 2;
        for k in [0, 1, 2, 5, half.max(1), row.len(), row.len() + 7] {
            let kept = top_k(&row, k);
            let mut sampled = Sampled::new(s, &Sampling { top_k: k, ..Sampling::unfiltered(i as u64) });
            let what = format!("top-k {k} of {} leaves the k best", row.len());
            are(&mut t, &what, &sampled.candidates(&row, &[]), &kept, &share)?;
            let strange = (0..40).map(|_| sampled.choose(&row, &[])).find(|id| !kept.contains(id));
            t.equal(&format!("top-k {k}: every draw is among the k best"), &strange, &None)?;
        }
        let mut greedy = Sampled::new(s, &Sampling { top_k: 1, ..Sampling::unfiltered(3) });
        t.equal("top-k 1 is greedy", &Some(&greedy.choose(&row, &[])), &ranked(&row).first())?;
    }
    let row: Vec<f32> = (0..12).map(|i| (i * 5 % 12) as f32 / 4.0).collect();
    let mut share = probabilities(&row, 1.0);
    let kept = top_k(&row, 5);
    keep(&mut share, &kept);
    let mut sampled = Sampled::new(s, &Sampling { top_k: 5, ..Sampling::unfiltered(1) });
    let counts = counted((0..20_000).map(|_| sampled.choose(&row, &[])), row.len());
    follows(&mut t, "draws keep their proportions", &counts, &share)?;
    t.done()
}

/// Only these ids keep a share, and all of it is theirs.
fn keep(share: &mut [f64], ids: &[u32]) {
    let whole: f64 = ids.iter().map(|&id| share[id as usize]).sum();
    for (id, p) in share.iter_mut().enumerate() {
        *p = if ids.contains(&(id as u32)) { *p / whole } else { 0.0 };
    }
}

/// Top-p (nucleus) sampling works: the smallest set of the best whose probabilities reach p.
pub fn f_math_151(s: &Subject) -> Attempt {
    let mut t = Tally::new("400 generated rows of logits, p from 0 to 1: candidates, 40 draws each, 20000 of one");
    let mut cuts = 0;
    for (i, row) in logits(400, "top-p").into_iter().enumerate() {
        let share = probabilities(&row, 1.0);
        for p in [0.0f32, 1e-6, 0.1, 0.3, 0.5, 0.75, 0.9, 0.99, 1.0] {
            let (kept, edge) = if p < 1.0 { nucleus(&row, f64::from(p)) } else { (ranked(&row), f64::INFINITY) };
            let mut sampled = Sampled::new(s, &Sampling { top_p: p, ..Sampling::unfiltered(i as u64) });
            let seen = sampled.candidates(&row, &[]);
            t.equal("one token always remains", &seen.is_empty(), &false)?;
            // Where a sum is p to the last digit the set is a matter of rounding.
            if edge > 1e-12 {
                are(&mut t, &format!("top-p {p} of {} leaves the nucleus", row.len()), &seen, &kept, &share)?;
                let strange = (0..40).map(|_| sampled.choose(&row, &[])).find(|id| !kept.contains(id));
                t.equal(&format!("top-p {p}: every draw is in the nucleus"), &strange, &None)?;
                cuts += u32::from(kept.len() < row.len());
            }
        }
    }
    t.number("rows that lost a token", f64::from(cuts));
    // Sums that f64 has exactly: the token that reaches p belongs to the set.
    for (n, p, size) in [(4, 0.5f32, 2), (4, 0.25, 1), (8, 0.5, 4), (2, 0.75, 2)] {
        let row = vec![0.0; n];
        let seen = Sampled::new(s, &Sampling { top_p: p, ..Sampling::unfiltered(0) }).candidates(&row, &[]);
        let ids: Vec<u32> = (0..size).collect();
        are(&mut t, &format!("top-p {p} of {n} equal tokens"), &seen, &ids, &probabilities(&row, 1.0))?;
    }
    let row: Vec<f32> = (0..12).map(|i| (i * 5 % 12) as f32 / 4.0).collect();
    let mut share = probabilities(&row, 1.0);
    keep(&mut share, &nucleus(&row, f64::from(0.7f32)).0);
    let mut sampled = Sampled::new(s, &Sampling { top_p: 0.7, ..Sampling::unfiltered(1) });
    let counts = counted((0..20_000).map(|_| sampled.choose(&row, &[])), row.len());
    follows(&mut t, "draws keep their proportions", &counts, &share)?;
    t.done()
}

/// Repetition penalty works: positive logits divided, others multiplied, once for each token seen.
pub fn f_math_152(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("400 generated rows of logits with histories of 0 to 100 tokens; greedy answers of two models");
    let mut random = Random::new(152, "histories");
    for (i, row) in logits(400, "penalty").into_iter().enumerate() {
        let history: Vec<u32> = (0..random.below(101)).map(|_| random.below(row.len()) as u32).collect();
        for penalty in [1.0f32, 1.1, 1.5, 2.0, 0.5] {
            let with = Sampling { repeat_penalty: penalty, ..Sampling::unfiltered(i as u64) };
            for last_n in [0, 1, 64, 1000] {
                let sampling = Sampling { repeat_last_n: last_n, ..with.clone() };
                let recent = &history[history.len().saturating_sub(last_n)..];
                let want = penalised(&row, recent, penalty);
                let seen = Sampled::new(s, &sampling).candidates(&row, &history);
                let share = probabilities(&want, 1.0);
                // A share below the smallest number of f64 is none.
                let ids: Vec<u32> = ranked(&want).into_iter().filter(|&id| share[id as usize] > 0.0).collect();
                are(&mut t, &format!("penalty {penalty} over the last {last_n}"), &seen, &ids, &share)?;
            }
        }
        let bits = |all: Vec<(u32, f64)>| all.into_iter().map(|(id, p)| (id, p.to_bits())).collect::<Vec<_>>();
        let off = Sampling { repeat_penalty: 1.0, ..Sampling::unfiltered(0) };
        let with = bits(Sampled::new(s, &off).candidates(&row, &history));
        let without = bits(Sampled::new(s, &off).candidates(&row, &[]));
        t.equal("a penalty of 1 changes no bit", &with, &without)?;
    }
    for name in ["qwen2-f16", "llama-q8_0"] {
        in_answers(&mut t, s, name)?;
    }
    t.done()
}

/// In an answer the tokens of the prompt count as seen, as far back as the last 64.
fn in_answers(t: &mut Tally, s: &Subject, name: &str) -> Result<(), Halt> {
    let mut model = open(s, &s.forged(name)?, Setup::default())?;
    let ids = probe(&model, 70)?;
    for (penalty, last_n) in [(1.0f32, 64), (1.3, 64), (2.0, 64), (2.0, 8)] {
        let mut tokens = ids.clone();
        let mut session = Session::new(&mut model);
        running("the prompt runs", session.feed(&ids, Want::Nothing, Want::Logits, &mut NoTap))?;
        for _ in 0..24 {
            let row = session.output().rows.last().map(|r| r.values.clone()).unwrap_or_default();
            let recent = &tokens[tokens.len().saturating_sub(last_n)..];
            let next = ranked(&penalised(&row, recent, penalty))[0];
            tokens.push(next);
            running("a step runs", session.feed(&[next], Want::Nothing, Want::Logits, &mut NoTap))?;
        }
        let sampling = Sampling { repeat_penalty: penalty, repeat_last_n: last_n, ..Sampling::default() };
        let answer = lab::answer(&mut model, &ids, 24, sampling, PREFILL_CHUNK)?;
        let want = &tokens[ids.len()..];
        let what = format!("{name}: greedy tokens under a penalty of {penalty} over the last {last_n}");
        t.equal(&what, &answer.tokens[..], &want[..answer.tokens.len()])?;
        t.equal(&format!("{name}: an answer"), &(answer.tokens.len() > 8), &true)?;
    }
    Ok(())
}
