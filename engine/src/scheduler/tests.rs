//! Many requests at once on the trained fixture: each gets exactly the answer that it gets alone.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use compute::backend::{Counters, Tap};
use compute::cpu::{Cpu, isa::Isa};
use compute::{Batch, Output, Runner};

use super::*;
use crate::continuation::Finish;
use crate::sample::Sampling;
use crate::session::{self, Generation, Observer, Prompt, Session};

/// Listens to nothing.
struct Deaf;

impl Observer for Deaf {
    fn event(&mut self, _: session::Event<'_>) -> Result<()> {
        Ok(())
    }
}

/// The larger of the model files among the fixtures.
fn fixture() -> Loaded {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures");
    let files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    let models = files.filter(|e| e.path().extension().is_some_and(|x| x == "gguf"));
    let path = models.max_by_key(|e| e.metadata().unwrap().len()).unwrap().path();
    Loaded::open(&path, &Cpu { isa: Isa::detect(), threads: 2 }, None).unwrap()
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
                assert!(done.usage.cached_tokens >= heard.reuse.cached_tokens);
            }
            Event::Failed(e) => return Err(e),
        }
    }
    Ok(heard)
}

/// Different prompts, lengths and ways of choosing.
fn requests(model: &Understood, n: usize) -> Vec<Request> {
    let ask = ["How are you?", "Count the ducks on the pond, please.", "Good day!", "What is the capital of France?"];
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
        grammar: None,
        prefill_chunk: PREFILL_CHUNK,
        draft_max: 0,
    };
    let answer = Session::new(loaded).generate(&r.prompt, &generation, &mut Deaf, &AtomicBool::new(false)).unwrap();
    (answer.tokens, answer.text, answer.finish)
}

#[test]
fn among_a_hundred_others_a_request_gets_the_answer_that_it_gets_alone() {
    let mut loaded = fixture();
    let requests = requests(&loaded, 101);
    let expected: Vec<_> = requests.iter().map(|r| alone(&mut loaded, r)).collect();
    for cache in [false, true] {
        // Wide steps, so that many answer at the same time.
        let wide = Plan { prefill_rows: 256, prefill_rows_beside: 1024, ..Plan::default() };
        let plan = Plan { running_max: 101, cache, ..wide };
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

fn prompt(model: &Understood, text: &str) -> Vec<u32> {
    model.tokenizer.encode_raw(text).unwrap()
}

/// Without a thread: the test says when a turn is.
fn by_hand(plan: Plan) -> (Scheduler, Handle) {
    let start = Instant::now();
    Scheduler::new(fixture(), plan, Box::new(move || start.elapsed())).unwrap()
}

fn run(scheduler: &mut Scheduler) {
    while scheduler.turn() {
        scheduler.audit().unwrap();
    }
}

#[test]
fn what_was_computed_is_not_computed_again_and_changes_no_token() {
    let (mut scheduler, handle) = by_hand(Plan::default());
    let first = prompt(handle.model(), &"The quick brown fox jumps over the lazy dog. ".repeat(12));
    assert!(first.len() > 2 * KV_BLOCK + 1, "{}", first.len());
    let answer = |scheduler: &mut Scheduler, request: Request| {
        let before = handle.metrics().rows;
        let (_ticket, events) = ask(&handle, request.clone());
        run(scheduler);
        let heard = hear(&events).unwrap();
        let expected = alone(&mut fixture(), &request);
        assert_eq!((&heard.tokens, &heard.text, heard.finish), (&expected.0, &expected.1, expected.2));
        // The end of the answer is chosen and never fed.
        let fed = request.prompt.len() + heard.tokens.len() - usize::from(heard.finish != Finish::Eos);
        let rows = (handle.metrics().rows - before) as usize;
        assert_eq!(rows, fed - heard.reuse.cached_tokens);
        heard
    };
    let ask_for = |prompt: &[u32]| Request { max_tokens: 10, ..Request::new(prompt.to_vec()) };
    let cold = answer(&mut scheduler, ask_for(&first));
    assert_eq!(cold.reuse, Reuse { cached_tokens: 0, why: Why::Unknown });
    let warm = answer(&mut scheduler, ask_for(&first));
    assert_eq!(warm.reuse, Reuse { cached_tokens: first.len() - 1, why: Why::Whole });
    // The next turn of the conversation: prompt and answer are there, what follows is not.
    let next = [&first[..], &warm.tokens, &[5, 6, 7]].concat();
    let fed = first.len() + warm.tokens.len() - usize::from(warm.finish != Finish::Eos);
    let third = answer(&mut scheduler, ask_for(&next));
    assert_eq!(third.reuse, Reuse { cached_tokens: fed, why: Why::Diverges });
    // Another one that leaves it in the middle of a block.
    let other = [&first[..KV_BLOCK + 9], &[5, 6, 7]].concat();
    let fourth = answer(&mut scheduler, ask_for(&other));
    assert_eq!(fourth.reuse, Reuse { cached_tokens: KV_BLOCK + 9, why: Why::Diverges });
    let off = answer(&mut scheduler, Request { cache: false, ..ask_for(&first) });
    assert_eq!(off.reuse, Reuse { cached_tokens: 0, why: Why::Off });
}

#[test]
fn what_several_prompts_begin_with_is_computed_once() {
    let (mut scheduler, handle) = by_hand(Plan { prefill_rows: 100, ..Plan::default() });
    let alike = prompt(handle.model(), &"All of them begin with these words. ".repeat(20));
    let blocks = alike.len() / KV_BLOCK;
    assert!(blocks > 1);
    // One of them leaves after the first step: another takes its place.
    let asked: Vec<_> = (0..8)
        .map(|n| {
            let prompt = [&alike[..blocks * KV_BLOCK], &[n, n + 1]].concat();
            ask(&handle, Request { max_tokens: 3, ..Request::new(prompt) })
        })
        .collect();
    scheduler.turn();
    let mut asked = asked.into_iter();
    drop(asked.next());
    run(&mut scheduler);
    for (ticket, events) in asked {
        let heard = hear(&events).unwrap();
        let n = ticket.id() as u32 - 1;
        let request = Request { max_tokens: 3, ..Request::new([&alike[..blocks * KV_BLOCK], &[n, n + 1]].concat()) };
        assert_eq!((heard.tokens, heard.text, heard.finish), alone(&mut fixture(), &request));
    }
    // 7 requests of 2 rows more and at most 3 tokens.
    let rows = handle.metrics().rows as usize;
    assert!(rows < blocks * KV_BLOCK + KV_BLOCK + 7 * 5, "{rows} rows for {blocks} blocks that all share");
}

#[test]
fn prompts_are_finished_in_order_and_a_short_one_waits_for_no_long_one() {
    // The turn in which each gets its first token.
    let first_tokens = |lengths: &[usize]| {
        let (mut scheduler, handle) = by_hand(Plan { prefill_rows: 64, ..Plan::default() });
        let prompt = |(i, n): (usize, &usize)| (0..*n as u32).map(|at| 300 + (at * 7 + i as u32) % 2000).collect();
        let request = |p| Request { max_tokens: 40, ..Request::new(p) };
        let asked: Vec<_> = lengths.iter().enumerate().map(|p| ask(&handle, request(prompt(p)))).collect();
        let mut turns = vec![0; lengths.len()];
        for turn in 1..100 {
            scheduler.turn();
            for (first, (_, events)) in turns.iter_mut().zip(&asked) {
                if *first == 0 && events.try_iter().any(|e| matches!(e, Event::Token(_) | Event::Done(_))) {
                    *first = turn;
                }
            }
        }
        turns
    };
    let alike = first_tokens(&[100; 6]);
    assert!(alike.is_sorted() && alike[0] <= 4, "{alike:?}");
    let (sum, last) = (alike.iter().sum::<usize>(), alike[5]);
    assert!(sum * 4 <= last * 6 * 3, "the mean is no better than with even shares: {alike:?}");
    let [long, short] = first_tokens(&[900, 30])[..] else { panic!("two answers") };
    assert!(short <= 2 && long >= 15, "{short} {long}");
}

#[test]
fn who_is_gone_takes_part_in_no_further_step() {
    let (mut scheduler, handle) = by_hand(Plan { prefill_rows: 16, ..Plan::default() });
    let long = Request::new(prompt(handle.model(), &"word ".repeat(600)));
    let (ticket, events) = ask(&handle, long.clone());
    assert!(scheduler.turn() && scheduler.turn());
    assert!(matches!(events.try_recv(), Ok(Event::Started(_))));
    // Before its first token.
    drop(ticket);
    assert!(!scheduler.turn());
    scheduler.audit().unwrap();
    let m = handle.metrics();
    assert_eq!((m.running, m.kv_blocks_used, m.ended.cancelled, m.steps), (0, 0, 1, 2));
    assert!(events.try_recv().is_err());
    // In the queue, and by its deadline.
    let (ticket, waiting) = ask(&handle, long.clone());
    drop(ticket);
    let (_ticket, late) = ask(&handle, Request { deadline: Some(Duration::ZERO), ..long });
    assert!(!scheduler.turn());
    assert!(waiting.try_recv().is_err());
    assert_eq!(hear(&late).unwrap_err().kind, Kind::TimedOut);
    assert_eq!((handle.metrics().ended.cancelled, handle.metrics().ended.timed_out), (2, 1));
}

#[test]
fn what_cannot_be_answered_is_refused_at_the_door() {
    let plan = Plan { queue_max: 1, kv_bytes: Some(1 << 20), ..Plan::default() };
    let (mut scheduler, handle) = by_hand(plan);
    let refused = |request: Request| handle.submit(request, drop).map(drop).unwrap_err();
    let ok = Request { max_tokens: 2, ..Request::new(vec![1, 2, 3]) };
    assert_eq!(refused(Request { prompt: Vec::new(), ..ok.clone() }).kind, Kind::Usage);
    assert_eq!(refused(Request { prompt: vec![u32::MAX], ..ok.clone() }).kind, Kind::Usage);
    assert_eq!(refused(Request { max_tokens: 0, ..ok.clone() }).kind, Kind::Usage);
    assert_eq!(refused(Request { stops: vec![String::new()], ..ok.clone() }).kind, Kind::Usage);
    assert_eq!(refused(Request { logprobs: Some(limits::LOGPROBS_MAX + 1), ..ok.clone() }).kind, Kind::Usage);
    let biased = Sampling { logit_bias: vec![(u32::MAX, 1.0)], ..Sampling::default() };
    assert_eq!(refused(Request { sampling: biased, ..ok.clone() }).kind, Kind::Usage);
    let context = handle.model().context;
    let e = refused(Request { prompt: vec![1; context + 1], ..ok.clone() });
    assert_eq!(e.kind, Kind::TooLarge);
    assert!(e.to_string().contains(&format!("maximum context length is {context} tokens")), "{e}");
    // It fits the context and not the memory.
    assert!(handle.positions_max() < context);
    assert_eq!(refused(Request { max_tokens: usize::MAX, ..ok.clone() }).kind, Kind::TooLarge);
    let (_ticket, events) = ask(&handle, ok.clone());
    assert_eq!(refused(ok.clone()).kind, Kind::Busy);
    handle.drain();
    assert_eq!(refused(ok).kind, Kind::Interrupted);
    // What was taken is answered.
    run(&mut scheduler);
    assert_eq!(hear(&events).unwrap().tokens.len(), 2);
    assert_eq!(handle.metrics().ended.refused, 10);
}

#[test]
fn a_stop_ends_what_runs_and_what_waits() {
    let handle = Scheduler::start(fixture(), Plan { running_max: 1, ..Plan::default() }).unwrap();
    let long = Request { max_tokens: 4000, ..Request::new(vec![1, 2, 3]) };
    let bias = handle.model().tokenizer.eos().map(|eos| (eos, f32::NEG_INFINITY));
    let endless =
        Request { sampling: Sampling { logit_bias: bias.into_iter().collect(), ..Sampling::default() }, ..long };
    let asked = [ask(&handle, endless.clone()), ask(&handle, endless)];
    assert!(matches!(asked[0].1.recv(), Ok(Event::Started(_))));
    handle.stop();
    for (_ticket, events) in &asked {
        assert_eq!(hear(events).unwrap_err().kind, Kind::Interrupted);
    }
    assert!(handle.wait(Duration::from_secs(10)));
    assert!(!handle.is_open());
}

#[test]
fn with_the_last_handle_the_thread_ends() {
    let handle = Scheduler::start(fixture(), Plan::default()).unwrap();
    let door = Arc::clone(&handle.door);
    let (ticket, events) = ask(&handle, Request { max_tokens: 5, ..Request::new(vec![1, 2, 3]) });
    drop(handle.clone());
    drop(handle);
    // A request that was taken is answered all the same.
    assert_eq!(hear(&events).unwrap().tokens.len(), 5);
    drop(ticket);
    let start = Instant::now();
    while !door.lock().ended {
        assert!(start.elapsed() < Duration::from_secs(10), "the thread lives on");
        thread::yield_now();
    }
}

/// A runner with a bug.
struct Panics;

impl Runner for Panics {
    fn step(&mut self, _: &Batch<'_>, _: &mut Output, _: &mut dyn Tap) -> compute::Result<()> {
        panic!("a bug of the test's own")
    }

    fn reserve_blocks(&mut self, _: usize) -> compute::Result<()> {
        Ok(())
    }

    fn copy_blocks(&mut self, _: &[(u32, u32)]) -> compute::Result<()> {
        Ok(())
    }

    fn describe(&self) -> String {
        "none".into()
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

#[test]
fn nobody_waits_for_a_thread_that_died() {
    let Loaded { understood, .. } = fixture();
    let handle =
        Scheduler::start(Loaded { understood, runner: Box::new(Panics) }, Plan { running_max: 1, ..Plan::default() });
    let handle = handle.unwrap();
    // Those that run and those that wait: their channels close, and no end was heard.
    let asked = [ask(&handle, Request::new(vec![1, 2, 3])), ask(&handle, Request::new(vec![1, 2, 3]))];
    for (_ticket, events) in &asked {
        assert!(events.iter().all(|event| matches!(event, Event::Started(_))));
    }
    assert!(handle.wait(Duration::from_secs(10)) && !handle.is_open());
    assert_eq!(handle.submit(Request::new(vec![1]), drop).map(drop).unwrap_err().kind, Kind::Internal);
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let (mut scheduler, handle) = by_hand(Plan::default());
    let prompt = prompt(handle.model(), "Once upon a time");
    let hot = Sampling { temperature: 2.0, seed: 3, ..Sampling::default() };
    let request = Request { logprobs: Some(5), max_tokens: 8, sampling: hot, ..Request::new(prompt.clone()) };
    let (_ticket, events) = ask(&handle, request);
    run(&mut scheduler);
    let tokens: Vec<Token> =
        events.try_iter().filter_map(|e| if let Event::Token(t) = e { Some(t) } else { None }).collect();
    assert!(!tokens.is_empty());
    // By hand: softmax of one batch of everything.
    let mut loaded = fixture();
    let mut session = Session::new(&mut loaded);
    let all: Vec<u32> = prompt.iter().copied().chain(tokens.iter().map(|t| t.id)).collect();
    session.feed(&all, compute::Want::Logits, compute::Want::Logits, &mut compute::backend::NoTap).unwrap();
    for (i, token) in tokens.iter().enumerate() {
        let logits = &session.output().rows[prompt.len() - 1 + i].values;
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        let expected = |id: u32| f64::from(logits[id as usize]) - sum.ln();
        let said = token.logprobs.as_ref().unwrap();
        assert_eq!(said.top.len(), 5);
        for (id, p) in said.top.iter().chain([&(token.id, said.chosen)]) {
            assert!((f64::from(*p) - expected(*id)).abs() < 1e-4, "{p} is not {}", expected(*id));
        }
        assert!(said.top.windows(2).all(|w| w[0].1 >= w[1].1));
    }
}
