//! F-PIPE-180, 182, 184 and 188 to 190: tokens drawn, answers streamed, told apart, and ended.

use std::collections::BTreeMap;

use compute::Want;
use engine::sample::Sampling;
use engine::session::Finish;

use crate::ask::{self, LONG_PROMPTS, answered, ask, closed, printed, report};
use crate::chance::{Sampled, counted, follows, logits, probabilities, ranked};
use crate::checks::math::until_end;
use crate::forge::random::Random;
use crate::lab::{self, Setup, in_pieces, open, running};
use crate::oracle::{self, golden};
use crate::skills;
use crate::subject::Subject;
use crate::texts::VARIED;
use crate::verdict::{Attempt, Tally, fixture_weak, instrument};

/// Sampling respects temperature: draws of many seeds follow softmax(logits / T).
pub fn f_pipe_180(s: &Subject) -> Attempt {
    const DRAWS: u64 = 4000;
    let mut t = Tally::new(
        "12 generated rows of logits at seven temperatures: 4000 draws of one seed, and of 4000 seeds; T = 0",
    );
    let rows: Vec<Vec<f32>> = logits(60, "temperature").into_iter().filter(|row| row.len() > 2).take(12).collect();
    for temperature in [0.1f32, 0.25, 0.5, 0.8, 1.0, 1.5, 2.0] {
        for row in &rows {
            let share = probabilities(row, f64::from(temperature));
            let sampling = |seed| Sampling { temperature, ..Sampling::unfiltered(seed) };
            let mut one = Sampled::new(s, &sampling(180));
            let drawn = counted((0..DRAWS).map(|_| one.choose(row, &[])), row.len());
            follows(&mut t, &format!("draws of one seed at temperature {temperature}"), &drawn, &share)?;
            let each = (0..DRAWS).map(|seed| Sampled::new(s, &sampling(seed)).choose(row, &[]));
            follows(
                &mut t,
                &format!("draws of many seeds at temperature {temperature}"),
                &counted(each, row.len()),
                &share,
            )?;
        }
    }
    for (i, row) in logits(400, "greedy").into_iter().enumerate() {
        let mut greedy = Sampled::new(s, &Sampling { temperature: 0.0, ..Sampling::unfiltered(i as u64) });
        for _ in 0..3 {
            t.equal("temperature 0 takes the best token", &greedy.choose(&row, &[]), &ranked(&row)[0])?;
        }
    }
    t.done()
}

/// Streaming output works: the pieces of a streamed answer make up the one that was not streamed.
pub fn f_pipe_182(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "14 answers of apr run on a pipe beside their JSON, in pieces in process; arrival of three long ones",
    );
    let mut model = open(s, &s.model()?, Setup::default())?;
    for (prompt, raw) in VARIED {
        let flags: &[&str] = if *raw { &["--max-tokens", "64", "--raw"] } else { &["--max-tokens", "64"] };
        let whole = report(s, prompt, flags)?;
        let streamed = answered(ask(s, prompt, flags)?)?;
        let bytes: usize = streamed.chunks.iter().map(|c| c.bytes).sum();
        t.equal("every byte arrived in a chunk", &bytes, &streamed.stdout.len())?;
        t.hold(streamed.stdout == closed(&whole.text).as_bytes(), || {
            streamed.refute("the chunks are the answer that was not streamed", streamed.out(), closed(&whole.text))
        })?;
        let ids = running(
            "the prompt encodes",
            model.encode_prompt(&engine::session::Prompt { text: prompt, system: None, raw: *raw }),
        )?;
        let (pieces, answer) = in_pieces(&mut model, &ids, 64)?;
        t.equal("pieces in process make up the answer", &pieces.concat(), &answer.text)?;
        t.equal("the answer in process is the same", &answer.text, &whole.text)?;
    }
    // A busy machine joins chunks, and no buffered program can fake many: the best of three runs is proof.
    for prompt in LONG_PROMPTS {
        let mut most = 0;
        let mut shown = None;
        for _ in 0..3 {
            let out = answered(ask(s, prompt, &["--max-tokens", "128", "--threads", "1"])?)?;
            most = most.max(out.chunks.len());
            shown = Some(out);
        }
        t.number(&format!("most chunks of {prompt:?}"), most as f64);
        let out = shown.ok_or_else(|| instrument("nothing was run"))?;
        t.hold(most >= 4, || out.refute("a long answer arrives in pieces", format!("{most} chunks"), "at least 4"))?;
    }
    t.note("over HTTP: not attempted, there is no server yet");
    t.done()
}

/// Different prompts give different outputs.
pub fn f_pipe_184(s: &Subject) -> Attempt {
    let mut t = Tally::new("twenty prompts of apr run, on standard output, whose answers by llama.cpp all differ");
    let skill = skills::of(s, "", 60)?;
    let mut answers: BTreeMap<String, &str> = BTreeMap::new();
    let mut replies = Vec::new();
    // Every fifth one, so that all skills are there.
    for case in skill.cases.iter().step_by(5) {
        if replies.contains(&&case.reply) || replies.len() == 20 {
            continue;
        }
        replies.push(&case.reply);
        let out = answered(ask(s, &case.user, &case.flags())?)?;
        let before = answers.insert(out.out(), &case.user);
        t.hold(before.is_none(), || {
            let observed = format!("{:?} and {before:?}: {:?}", case.user, out.out());
            out.refute("two prompts with different golden answers have different answers", observed, &*case.reply)
        })?;
    }
    t.equal("prompts asked", &replies.len(), &20)?;
    t.done()
}

/// Exactly N tokens, and not one row more than they need.
pub fn f_pipe_188(s: &Subject) -> Attempt {
    let mut t = Tally::new("limits 1 to 16 and 40 in process on two models, rows counted; 1, 4 and 16 over a pipe");
    for path in [s.model()?, s.forged("qwen2-f32")?] {
        let mut model = open(s, &path, Setup::default())?;
        let ids = running("a raw prompt encodes", model.tokenizer.encode_raw("1, 2, 3, 4,"))?;
        let long = lab::greedy(&mut model, &ids, 41)?;
        if long.tokens.len() < 41 {
            return Err(fixture_weak(format!("counting ends after {} tokens", long.tokens.len())));
        }
        for n in (1..=16).chain([40]) {
            let before = model.counters().rows;
            let answer = lab::greedy(&mut model, &ids, n)?;
            t.equal("exactly N tokens", &answer.tokens.len(), &n)?;
            t.equal("they are the first of the longer answer", &answer.tokens[..], &long.tokens[..n])?;
            t.equal("it ended at the limit", &answer.finish, &Finish::Length)?;
            t.equal("the last token is not run", &(model.counters().rows - before), &((ids.len() + n - 1) as u64))?;
        }
        t.equal("no token at all", &lab::greedy(&mut model, &ids, 0)?.tokens, &Vec::new())?;
    }
    let (prompt, whole) = ask::long(s, 17)?;
    for n in ["1", "4", "16"] {
        let cut = report(s, prompt, &["--max-tokens", n])?;
        t.equal("exactly N tokens from apr run", &cut.tokens.to_string(), &n.to_string())?;
        t.equal("its finish reason", &cut.json["finish_reason"], &"length".into())?;
        let piped = printed(s, prompt, &["--max-tokens", n])?;
        let shorter = piped == closed(&cut.text) && piped.len() < whole.text.len();
        t.equal("standard output is cut there", &shorter, &true)?;
    }
    t.done()
}

/// Answers end where llama.cpp's do, at every kind of end token, and a larger limit adds nothing.
pub fn f_pipe_189(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "golden cases that end by themselves, q8_0 fixture; 150 random prompts on a model that likes to stop",
    );
    let golden_answers = golden(s, "qwen2-tiny-q8_0")?.up_to(400);
    let mut model = open(s, &golden_answers.model(s)?, Setup::default())?;
    // An end after a near tie is nobody's fault.
    let decisive = |c: &&oracle::Case| {
        (0..c.greedy.len()).all(|i| c.row_of_step(i).is_some_and(|r| r.margin > golden_answers.epsilon))
    };
    let ended: Vec<&oracle::Case> = golden_answers.cases.iter().filter(|c| c.ends).filter(decisive).collect();
    t.number("golden answers that end by themselves, every step decisive", ended.len() as f64);
    for case in ended {
        for limit in [case.greedy.len(), 200] {
            let answer = lab::greedy(&mut model, &case.prompt, limit)?;
            t.equal(
                &format!("{} ends at llama.cpp's step", case.name),
                &answer.tokens.len(),
                &(case.greedy.len() - 1),
            )?;
            t.equal("it ends by itself", &answer.finish, &Finish::Eos)?;
        }
    }
    let stops = golden(s, "qwen2-stops-f16")?;
    let mut model = open(s, &stops.model(s)?, Setup::default())?;
    let mut random = Random::new(189, "prompts");
    let mut met = BTreeMap::new();
    for _ in 0..150 {
        let ids: Vec<u32> = (0..1 + random.below(8)).map(|_| random.below(317) as u32).collect();
        let before = model.counters().rows;
        let answer = lab::greedy(&mut model, &ids, 64)?;
        let rows = model.counters().rows - before;
        let early = answer.tokens.iter().any(|id| stops.ends.contains(id));
        t.equal("no end token inside an answer", &early, &false)?;
        if answer.finish == Finish::Length {
            continue;
        }
        t.equal("no row is run after the end token", &rows, &((ids.len() + answer.tokens.len()) as u64))?;
        let want = until_end(&mut model, &ids, &stops.ends, 65)?;
        t.equal("it ends at the first end token", &answer.tokens, &want)?;
        let all = [&ids[..], &want].concat();
        let last = lab::rows(&mut model, &all, all.len(), Want::Argmax)?.last().map(|r| r.argmax);
        *met.entry(last.unwrap_or_default()).or_insert(0) += 1;
    }
    for id in &stops.ends {
        let times = met.get(id).copied().unwrap_or(0);
        t.number(&format!("answers ended by token {id}"), f64::from(times));
        if times == 0 {
            return Err(fixture_weak(format!("no answer ended with token {id}")));
        }
    }
    t.done()
}

/// Prompt text to printed text as llama.cpp does it: the same ids, the same best tokens, the same words.
pub fn f_pipe_190(s: &Subject) -> Attempt {
    let mut t = Tally::new("golden cases on both fixtures: text to ids, teacher-forced argmax, free-running text");
    for name in ["qwen2-tiny-q8_0", "qwen2-tiny-q4_k_m"] {
        let golden = golden(s, name)?.up_to(400);
        let mut model = open(s, &golden.model(s)?, Setup::default())?;
        for case in &golden.cases {
            let Some(text) = &case.text else { continue };
            let ids = running("a prompt encodes", model.tokenizer.encode_raw(text))?;
            t.equal(&format!("prompt ids of {}", case.name), &ids, &case.prompt)?;
        }
        oracle::teacher_forced(&mut t, &mut model, &golden, golden.epsilon)?;
        oracle::free_running(&mut t, &mut model, &golden, golden.epsilon)?;
    }
    t.done()
}
