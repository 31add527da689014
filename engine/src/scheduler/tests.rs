//! Many requests at once on the trained fixture: each gets exactly the answer that it gets alone.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use compute::cpu::{Cpu, isa::Isa};

use super::*;
use crate::api::Silent;
use crate::continuation::Finish;
use crate::sample::Sampling;
use crate::session::{Generation, Prompt, Session};

fn fixture() -> Loaded {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/qwen2-tiny-q8_0.gguf");
    Loaded::open(Path::new(path), &Cpu { isa: Isa::detect(), threads: 2 }, None).unwrap()
}

/// An answer, put together from what a sink was told.
#[derive(Debug, PartialEq)]
struct Heard {
    tokens: Vec<u32>,
    text: String,
    finish: Finish,
    reuse: Reuse,
}

fn ask(handle: &Handle, request: Request) -> (Ticket, Receiver<Event>) {
    let (sender, events) = channel();
    (handle.submit(request, move |event| drop(sender.send(event))).unwrap(), events)
}

fn hear(events: &Receiver<Event>) -> Result<Heard> {
    let mut heard = Heard {
        tokens: Vec::new(),
        text: String::new(),
        finish: Finish::Cancelled,
        reuse: Reuse { cached_tokens: 0, why: Why::Off },
    };
    for event in events {
        match event {
            Event::Started(reuse) => heard.reuse = reuse,
            Event::Token(token) => {
                heard.tokens.push(token.id);
                heard.text.push_str(&token.text);
            }
            Event::Done(done) => {
                heard.text.push_str(&done.text);
                heard.finish = done.finish;
                assert_eq!(done.usage.completion_tokens, heard.tokens.len());
                assert_eq!(done.usage.cached_tokens, heard.reuse.cached_tokens);
            }
            Event::Failed(e) => return Err(e),
        }
    }
    Ok(heard)
}

/// Different prompts, lengths and ways of choosing.
fn requests(model: &Understood, n: usize) -> Vec<Request> {
    let ask =
        ["What is 2+2?", "Write a Python function that adds two numbers.", "Hello!", "What is the capital of France?"];
    (0..n)
        .map(|i| {
            let text = format!("{} {}", ask[i % ask.len()], "Please. ".repeat(i % 7 * (i % 3)));
            let prompt = model.encode_prompt(&Prompt { text: &text, system: None, raw: false }).unwrap();
            let sampling = match i % 2 {
                0 => Sampling::default(),
                _ => Sampling { temperature: 1.5, seed: i as u64, ..Sampling::default() },
            };
            let stops = if i % 5 == 0 { vec!["th".to_string()] } else { Vec::new() };
            Request { sampling, stops, max_tokens: 3 + i % 20, ..Request::new(prompt) }
        })
        .collect()
}

/// The same request in a session of its own.
fn alone(loaded: &mut Loaded, r: &Request) -> (Vec<u32>, String, Finish) {
    let generation = Generation {
        max_tokens: r.max_tokens,
        sampling: r.sampling.clone(),
        stops: r.stops.clone(),
        prefill_chunk: PREFILL_CHUNK,
    };
    let answer = Session::new(loaded).generate(&r.prompt, &generation, &mut Silent, &AtomicBool::new(false)).unwrap();
    (answer.tokens, answer.text, answer.finish)
}

#[test]
fn among_a_hundred_others_a_request_gets_the_answer_that_it_gets_alone() {
    let mut loaded = fixture();
    let requests = requests(&loaded, 101);
    let expected: Vec<_> = requests.iter().map(|r| alone(&mut loaded, r)).collect();
    for cache in [false, true] {
        let plan = Plan { running_max: 101, prefill_rows: 256, cache, ..Plan::default() };
        let handle = Scheduler::start(fixture(), plan).unwrap();
        let asked: Vec<_> = requests.iter().map(|r| ask(&handle, r.clone())).collect();
        for ((ticket, events), expected) in asked.iter().zip(&expected) {
            let heard = hear(events).unwrap();
            assert_eq!(
                (&heard.tokens, &heard.text, heard.finish),
                (&expected.0, &expected.1, expected.2),
                "{}",
                ticket.id()
            );
        }
        // They really shared steps.
        let most = handle.steps().iter().map(|s| s.parts.len()).max().unwrap();
        assert!(most > 50, "at most {most} requests in a step");
        let metrics = handle.metrics();
        assert_eq!((metrics.running, metrics.waiting, metrics.kv_blocks_used), (0, 0, 0));
        assert!(metrics.shared_steps > 0 && metrics.ended.stop + metrics.ended.length == 101);
        handle.drain();
        assert!(handle.wait(Duration::from_secs(10)));
    }
}
