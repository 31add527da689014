//! F-PIPE-183: many requests at once.

use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use compute::Want;
use engine::sample::Sampling;
use engine::scheduler::{Event, Plan, Request, Scheduler, Ticket, Token};
use engine::session::{Loaded, PREFILL_CHUNK};

use crate::lab::{self, Setup, open, probe, running};
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally};

/// Requests of a batch.
const REQUESTS: usize = 40;

/// Batch inference produces correct output: what a request gets does not depend on who else is there.
pub fn f_pipe_183(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "40 requests together, prompts of 1 to 293 tokens, greedy and drawn, on three models, with and without a prefix \
         cache: tokens and log-probabilities of each beside those it gets alone",
    );
    for (name, path) in
        [("fixture", s.model()?), ("qwen2-f16", s.forged("qwen2-f16")?), ("llama-q8_0", s.forged("llama-q8_0")?)]
    {
        let mut alone = open(s, &path, Setup::default())?;
        let requests = requests(&alone)?;
        let mut expected = Vec::new();
        for request in &requests {
            expected.push(single(&mut alone, request)?);
        }
        for cache in [false, true] {
            let plan = Plan { running_max: REQUESTS, prefill_rows: 200, cache, ..Plan::default() };
            let model = open(s, &path, Setup::default())?;
            let begun = Instant::now();
            let scheduler = Scheduler::new(model, plan, Box::new(move || begun.elapsed()));
            let (mut scheduler, handle) = running("the scheduler starts", scheduler)?;
            let mut asked: Vec<(Ticket, Receiver<Event>)> = Vec::new();
            for request in &requests {
                let (sender, events) = channel();
                let ticket = handle.submit(request.clone(), move |event| drop(sender.send(event)));
                asked.push((running("a request is taken", ticket)?, events));
            }
            while scheduler.turn() {}
            for (n, ((_, events), expected)) in asked.iter().zip(&expected).enumerate() {
                let got = heard(events)?;
                let tokens = requests[n].prompt.len();
                t.equal(&format!("{name}, request {n} of {tokens} tokens, cache {cache}"), &got, expected)?;
            }
            let metrics = handle.metrics();
            let most = handle.steps().iter().map(|s| s.parts.len()).max().unwrap_or(0);
            // Prompts are finished one after the other, so that the first answers end while the last prompts begin.
            t.hold(most > REQUESTS / 4, || {
                Refutation::new(
                    "requests share steps",
                    format!("at most {most} at once"),
                    "more than a quarter of them",
                )
            })?;
            t.hold(cache == (metrics.cached_tokens > 0), || {
                let got = format!("{} cached tokens", metrics.cached_tokens);
                Refutation::new(format!("prompts begin alike; the cache is on: {cache}"), got, "cached, if on")
            })?;
            t.number(&format!("{name}, cache {cache}: requests in the fullest step"), most as f64);
            t.number(
                &format!("{name}, cache {cache}: steps, all shared but"),
                (metrics.steps - metrics.shared_steps) as f64,
            );
        }
    }
    t.done()
}

/// Prompts that begin alike, of lengths on both sides of the borders of blocks, and quite other ones.
fn requests(model: &Loaded) -> Result<Vec<Request>, Halt> {
    let ids = probe(model, 400)?;
    let request = |n: usize| {
        let length = [1, 2, 17, 63, 64, 65, 127, 128, 129, 293][n % 10];
        let from = if n.is_multiple_of(3) { n } else { 0 };
        let drawn = Sampling { temperature: 1.0, seed: n as u64, ..Sampling::default() };
        let sampling = if n.is_multiple_of(2) { Sampling::default() } else { drawn };
        Request {
            sampling,
            max_tokens: 4 + n % 13,
            logprobs: Some(3),
            ..Request::new(ids[from..from + length].to_vec())
        }
    };
    Ok((0..REQUESTS).map(request).collect())
}

/// Tokens with the bits of their log-probabilities.
type Answer = Vec<(u32, u32)>;

fn heard(events: &Receiver<Event>) -> Result<Answer, Halt> {
    let mut tokens = Vec::new();
    let mut done = false;
    for event in events.try_iter() {
        match event {
            Event::Token(Token { id, logprobs, .. }) => tokens.push((id, logprobs.map_or(0, |l| l.chosen.to_bits()))),
            Event::Failed(e) => return Err(Refutation::new("a request is answered", e.to_string(), "tokens").into()),
            Event::Done(_) => done = true,
            Event::Started(_) => {}
        }
    }
    match done {
        true => Ok(tokens),
        false => Err(Refutation::new("every request is answered", "one was not", "a last token").into()),
    }
}

/// The same request in a session of its own, and the log-probabilities from one batch of prompt and answer.
fn single(model: &mut Loaded, request: &Request) -> Result<Answer, Halt> {
    let answer = lab::answer(model, &request.prompt, request.max_tokens, request.sampling.clone(), PREFILL_CHUNK)?;
    let all = [&request.prompt[..], &answer.tokens].concat();
    let rows = lab::rows(model, &all, all.len(), Want::Logits)?;
    let rows = &rows[request.prompt.len() - 1..];
    Ok(answer.tokens.iter().zip(rows).map(|(&id, r)| (id, (r.values[id as usize] - r.log_sum_exp).to_bits())).collect())
}
