//! The scheduler in simulation: a runner without numbers, a clock that only steps move, clients that come, wait, give
//! up and come again as a seed says. Everything that happens in a schedule follows from its seed.
//!
//! A failure names its seed: `cargo test -p engine --test schedules -- seed-77` runs that one again.
#![allow(clippy::unwrap_used)]

mod fake;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use compute::program::KV_BLOCK;
use engine::sample::Sampling;
use engine::scheduler::{Event, Handle, Plan, Request, Scheduler, Ticket};
use engine::session::{Finish, Generation, Loaded, Session, Understood};
use engine::{Error, Kind, Silent};
use fake::{FakeRunner, Fault, World, mix};
use libtest_mimic::{Arguments, Failed, Trial};

/// Schedules of `cargo test`, and of `scripts/nightly`.
const FEW: u64 = 500;
const MANY: u64 = 100_000;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = vec![
        Trial::test(format!("{FEW}_schedules"), || all(0..FEW)),
        // Other ones every night.
        Trial::test(format!("{MANY}_schedules"), || {
            let days = SystemTime::UNIX_EPOCH.elapsed()?.as_secs() / 86_400;
            all(days * MANY..(days + 1) * MANY)
        })
        .with_ignored_flag(true),
    ];
    for fault in [Fault::NoCopy, Fault::MixedTables, Fault::Companions] {
        trials.push(Trial::test(format!("{fault:?}_is_noticed"), move || noticed(fault)));
    }
    if let Some(seed) = arguments.filter.as_ref().and_then(|f| f.strip_prefix("seed-")?.parse().ok()) {
        trials.push(Trial::test(format!("seed-{seed}"), move || all(seed..seed + 1)));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn all(seeds: std::ops::Range<u64>) -> Result<(), Failed> {
    let model = Model::load();
    let mut seen = Seen::default();
    for seed in seeds.clone() {
        seen.add(&schedule(&model, seed, Fault::None).map_err(|e| format!("seed {seed}: {e}"))?);
    }
    // Not a simulation of nothing.
    let rare = if seeds.end - seeds.start < FEW { 0 } else { 1 };
    let counts = [seen.done, seen.cancelled, seen.timed_out, seen.failed, seen.refused, seen.cached, seen.evicted];
    if counts.iter().any(|n| *n < rare) || seen.shared < rare {
        return Err(format!("some things never happened: {seen:?}").into());
    }
    Ok(())
}

fn noticed(fault: Fault) -> Result<(), Failed> {
    let model = Model::load();
    let seeds = (0..50).filter(|seed| schedule(&model, *seed, fault).is_err()).count();
    if seeds < 5 { Err(format!("noticed in {seeds} of 50 schedules").into()) } else { Ok(()) }
}

/// How often what happened.
#[derive(Debug, Default)]
struct Seen {
    done: u64,
    cancelled: u64,
    timed_out: u64,
    failed: u64,
    refused: u64,
    cached: u64,
    evicted: u64,
    shared: u64,
}

impl Seen {
    fn add(&mut self, o: &Seen) {
        self.done += o.done;
        self.cancelled += o.cancelled;
        self.timed_out += o.timed_out;
        self.failed += o.failed;
        self.refused += o.refused;
        self.cached += o.cached;
        self.evicted += o.evicted;
        self.shared += o.shared;
    }
}

/// The words of the fixture, with a shorter context and with rows that stand for no token.
struct Model {
    understood: Arc<Understood>,
    vocab: usize,
}

const CONTEXT: usize = 330;

impl Model {
    fn load() -> Model {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures");
        let files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        let path = files.into_iter().find(|p| p.extension().is_some_and(|x| x == "gguf")).unwrap();
        let loaded = Loaded::open(&path, &compute::plain::Plain, None).unwrap();
        let Loaded { mut understood, runner } = loaded;
        drop(runner);
        let inside = Arc::get_mut(&mut understood).unwrap();
        inside.context = CONTEXT;
        inside.filler = vec![7, 11, 60];
        let vocab = understood.tokenizer.vocab_size();
        Model { understood, vocab }
    }

    fn with(&self, world: &Arc<World>, fault: Fault) -> Loaded {
        let runner = Box::new(FakeRunner::new(Arc::clone(world), fault, self.vocab));
        Loaded { understood: Arc::clone(&self.understood), runner }
    }

    fn world(&self, memory: u64) -> Arc<World> {
        let world = World::default();
        world.memory.store(memory, Ordering::Relaxed);
        world.end.store(u64::from(self.understood.tokenizer.eos().unwrap()), Ordering::Relaxed);
        Arc::new(world)
    }
}

/// Numbers of a schedule.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = mix(self.0, 1);
        self.0 % n
    }

    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A request and what became of it.
struct Client {
    request: Request,
    refused: bool,
    ticket: Option<Ticket>,
    heard: Arc<Mutex<Vec<Event>>>,
    /// Turns until it gives up.
    patience: Option<u64>,
    /// When it gave up it had heard so many events.
    gone_after: Option<usize>,
}

impl Client {
    fn is_over(&self) -> bool {
        matches!(self.heard.lock().unwrap().last(), Some(Event::Done(_) | Event::Failed(_)))
    }

    fn has_started(&self) -> bool {
        matches!(self.heard.lock().unwrap().first(), Some(Event::Started(_)))
    }
}

fn request(dice: &mut Dice) -> Request {
    // Few beginnings, so that prompts are alike; any length, borders of blocks among them.
    let family = dice.below(3);
    let block = KV_BLOCK as u64;
    let alike = if dice.once_in(3) { dice.below(5) * block } else { dice.below(260) };
    let other = match dice.below(4) {
        0 => 0,
        1 => (block - alike % block) % block,
        _ => dice.below(60),
    };
    // One of them repeats itself, and begins in three ways: the same block after different ones.
    let word = |i: u64| if family == 0 { mix(0, i % 32 + 1) } else { mix(family, i) } % 300;
    let mut prompt: Vec<u32> = (0..alike).map(|i| word(i) as u32).collect();
    if family == 0 && alike > 0 && !dice.once_in(3) {
        prompt[0] = dice.below(2) as u32;
    }
    prompt.extend((0..other).map(|_| dice.below(300) as u32));
    if prompt.is_empty() {
        prompt.push(dice.below(300) as u32);
    }
    let most = if dice.once_in(8) { 400 } else { 30 };
    let sampling = match dice.below(3) {
        0 => Sampling { temperature: 1.0, seed: dice.below(1000), ..Sampling::default() },
        _ => Sampling::default(),
    };
    Request {
        sampling,
        max_tokens: 1 + dice.below(most) as usize,
        stops: if dice.once_in(4) { vec!["e".into(), "th".into()] } else { Vec::new() },
        logprobs: dice.once_in(6).then_some(3),
        deadline: dice.once_in(8).then(|| Duration::from_micros(dice.below(60_000))),
        cache: !dice.once_in(8),
        ..Request::new(prompt)
    }
}

/// One schedule from beginning to end. An error says what was wrong.
fn schedule(model: &Model, seed: u64, fault: Fault) -> Result<Seen, String> {
    let mut dice = Dice(mix(seed, 2026));
    let blocks = if dice.once_in(2) { 2 + dice.below(10) } else { 6 + dice.below(40) };
    // Sometimes there is less memory than was planned with.
    let short = dice.once_in(6);
    let world = model.world(if short { blocks.div_ceil(2) } else { blocks });
    let plan = Plan {
        running_max: 1 + dice.below(9) as usize,
        queue_max: 1 + dice.below(12) as usize,
        kv_bytes: Some(blocks),
        prefill_rows: 1 + dice.below(500) as usize,
        prefill_rows_beside: 1 + dice.below(80) as usize,
        cache: !dice.once_in(6),
    };
    if dice.once_in(10) {
        world.failing_step.store(1 + dice.below(60), Ordering::Relaxed);
    }
    let clock = Arc::clone(&world);
    let clock = Box::new(move || Duration::from_micros(clock.now.load(Ordering::Relaxed)));
    let scheduler = Scheduler::new(model.with(&world, fault), plan.clone(), clock);
    let (mut scheduler, handle) = scheduler.map_err(|e| e.to_string())?;
    let mut clients: Vec<Client> = Vec::new();
    let mut to_come = 1 + dice.below(16);
    let hurry = 1 + dice.below(8);
    let stop = dice.once_in(12);
    while to_come > 0 || clients.iter().any(|c| c.ticket.is_some()) {
        while to_come > 0 && dice.once_in(hurry) {
            to_come -= 1;
            clients.push(submit(&handle, request(&mut dice), &mut dice)?);
        }
        if to_come == 0 && stop && dice.once_in(20) {
            handle.stop();
        }
        let busy = scheduler.turn();
        scheduler.audit()?;
        let metrics = handle.metrics();
        if busy {
            within(&plan, &handle, &clients)?;
            // First come, first served: whoever waits came after everybody who does not.
            let with = |started| {
                let of = clients.iter().filter(move |c| c.has_started() == started && !c.is_over());
                of.filter_map(|c| c.ticket.as_ref().map(Ticket::id))
            };
            if with(false).min().is_some_and(|waits| with(true).any(|runs| runs > waits)) {
                return Err("somebody was overtaken".into());
            }
        }
        if !busy && metrics.running + metrics.waiting > 0 {
            return Err("a turn did nothing although requests were there".into());
        }
        for client in clients.iter_mut().filter(|c| c.ticket.is_some()) {
            let (over, heard) = (client.is_over(), client.heard.lock().unwrap());
            if let Some(left) = &mut client.patience {
                *left = left.saturating_sub(1);
            }
            if over || client.patience == Some(0) {
                client.gone_after = (!over).then_some(heard.len());
                client.ticket = None;
            }
        }
        world.now.fetch_add(dice.below(300), Ordering::Relaxed);
    }
    scheduler.turn();
    scheduler.audit()?;
    let m = handle.metrics();
    if (m.running, m.waiting, m.kv_blocks_used) != (0, 0, 0) {
        return Err(format!("{} run, {} wait, {} blocks are held at the end", m.running, m.waiting, m.kv_blocks_used));
    }
    let mut reasons = vec![Kind::Inference, Kind::TimedOut];
    reasons.extend(short.then_some(Kind::TooLarge));
    reasons.extend(stop.then_some(Kind::Interrupted));
    let failing = world.failing_step.load(Ordering::Relaxed) > 0;
    let mut seen = Seen { cached: m.cached_tokens, evicted: m.evictions, shared: m.shared_steps, ..Seen::default() };
    for (n, client) in clients.iter().enumerate() {
        judge(model, client, &reasons, failing, &mut seen).map_err(|e| format!("client {n}: {e}"))?;
    }
    let ended = [m.ended.stop + m.ended.length, m.ended.timed_out, m.ended.failed, m.ended.refused];
    if ended != [seen.done, seen.timed_out, seen.failed, seen.refused] {
        return Err(format!("counted {:?}, seen {seen:?}", m.ended));
    }
    Ok(seen)
}

fn submit(handle: &Handle, request: Request, dice: &mut Dice) -> Result<Client, String> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    let before = handle.metrics().waiting;
    let ticket = match handle.submit(request.clone(), move |event| told.lock().unwrap().push(event)) {
        Ok(ticket) => Some(ticket),
        Err(e) => {
            let positions = (request.prompt.len() + request.max_tokens - 1).min(CONTEXT);
            let fits = positions.div_ceil(KV_BLOCK) * KV_BLOCK <= handle.positions_max().next_multiple_of(KV_BLOCK);
            let right = match e.kind {
                Kind::Busy => before >= handle.plan().queue_max,
                Kind::TooLarge => request.prompt.len() > CONTEXT || !fits,
                Kind::Interrupted => !handle.is_open(),
                _ => false,
            };
            if !right {
                return Err(format!("refused without reason: {e}"));
            }
            None
        }
    };
    let refused = ticket.is_none();
    let patience = dice.once_in(5).then(|| dice.below(30));
    Ok(Client { request, refused, ticket, heard, patience, gone_after: None })
}

/// The last step kept to the plan: everybody who runs took part or waits for one who did, with no more rows than there
/// was room for, and nobody else did. Who came first is never left out for want of room.
fn within(plan: &Plan, handle: &Handle, clients: &[Client]) -> Result<(), String> {
    let metrics = handle.metrics();
    if metrics.waiting > plan.queue_max || metrics.running > plan.running_max {
        return Err(format!("{} wait and {} run", metrics.waiting, metrics.running));
    }
    let Some(step) = handle.steps().pop() else { return Err("no step was recorded".into()) };
    let client = |id| clients.iter().find(|c| c.ticket.as_ref().is_some_and(|t| t.id() == id));
    let (mut prompts, mut answers) = (Vec::new(), 0);
    for part in &step.parts {
        match client(part.id) {
            None => return Err(format!("request {} ran although it is gone", part.id)),
            Some(c) if part.position < c.request.prompt.len() => prompts.push(part.rows),
            Some(_) if part.rows == 1 => answers += 1,
            Some(_) => return Err(format!("an answer took {} rows", part.rows)),
        }
    }
    let room = if answers > 0 { plan.prefill_rows_beside } else { plan.prefill_rows };
    // A last row alone costs no more than one of an answer.
    let rows: usize = prompts.iter().filter(|n| **n > 1).sum();
    if prompts.contains(&0) || rows > room {
        return Err(format!("the step was {step:?}"));
    }
    // Who runs and did not take part waits for a block that somebody who did is computing, or came later than those who
    // filled the step.
    let full = prompts.iter().sum::<usize>() >= room;
    let beginning =
        |c: &Client| c.request.cache.then(|| c.request.prompt.get(..KV_BLOCK).map(<[u32]>::to_vec)).flatten();
    let computed: BTreeSet<Vec<u32>> = step.parts.iter().filter_map(|p| beginning(client(p.id)?)).collect();
    let running = clients.iter().filter(|c| c.ticket.is_some() && !c.is_over() && c.has_started());
    for waiting in running.filter(|c| !step.parts.iter().any(|p| c.ticket.as_ref().is_some_and(|t| t.id() == p.id))) {
        let id = waiting.ticket.as_ref().map_or(0, Ticket::id);
        let behind = full && step.parts.iter().any(|p| p.id < id);
        if !behind && (!plan.cache || beginning(waiting).is_none_or(|b| !computed.contains(&b))) {
            return Err(format!("request {:?} was left out: {step:?}", waiting.ticket.as_ref().map(Ticket::id)));
        }
    }
    Ok(())
}

/// The tokens of a request in a session of its own, its text, and how it ended.
fn alone(model: &Model, request: &Request) -> Result<(Vec<u32>, String, Finish), Error> {
    let mut loaded = model.with(&model.world(1000), Fault::None);
    let generation = Generation {
        max_tokens: request.max_tokens,
        sampling: request.sampling.clone(),
        stops: request.stops.clone(),
        grammar: None,
        prefill_chunk: 100,
        draft_max: 0,
    };
    let mut session = Session::new(&mut loaded);
    let answer = session.generate(&request.prompt, &generation, &mut Silent, &AtomicBool::new(false))?;
    Ok((answer.tokens, answer.text, answer.finish))
}

/// Whether a client heard what it had to, and nothing else.
fn judge(model: &Model, client: &Client, reasons: &[Kind], failing: bool, seen: &mut Seen) -> Result<(), String> {
    let heard = client.heard.lock().unwrap();
    if client.refused {
        seen.refused += 1;
        return if heard.is_empty() { Ok(()) } else { Err("it was refused and heard something".into()) };
    }
    if let Some(n) = client.gone_after {
        seen.cancelled += 1;
        if heard.len() > n {
            return Err("it heard something after it was gone".into());
        }
    }
    let mut tokens = Vec::new();
    let mut text = String::new();
    let (mut started, mut done, mut failed) = (0, None, None);
    for event in heard.iter() {
        if done.is_some() || failed.is_some() {
            return Err("something came after the end".into());
        }
        match event {
            Event::Started(reuse) => {
                started += 1;
                if !tokens.is_empty() || reuse.cached_tokens >= client.request.prompt.len() {
                    return Err(format!("it started with {reuse:?}"));
                }
            }
            Event::Token(token) => {
                if token.logprobs.as_ref().map(|l| l.top.len()) != client.request.logprobs {
                    return Err(format!("log-probabilities {:?}", token.logprobs));
                }
                tokens.push(token.id);
                text.push_str(&token.text);
            }
            Event::Done(d) => {
                text.push_str(&d.text);
                done = Some(d);
            }
            Event::Failed(e) => failed = Some(e),
        }
    }
    if started > 1 || started == 0 && (done.is_some() || !tokens.is_empty()) {
        return Err(format!("it started {started} times"));
    }
    match &failed {
        Some(e) if e.kind == Kind::TimedOut => {
            seen.timed_out += 1;
            if client.request.deadline.is_none() {
                return Err("a deadline passed that it did not have".into());
            }
        }
        Some(e) if !reasons.contains(&e.kind) => return Err(format!("it failed: {e}")),
        Some(_) => seen.failed += 1,
        None if done.is_some() => seen.done += 1,
        None if client.gone_after.is_some() => {}
        None => return Err("it was lost".into()),
    }
    // A prompt of the whole context is cut by a session and not by the scheduler.
    if client.request.prompt.len() >= CONTEXT {
        return Ok(());
    }
    let expected = alone(model, &client.request);
    match (expected, done, failed) {
        (Err(e), None, Some(f)) if e.kind == f.kind && e.kind == Kind::Inference => Ok(()),
        (Err(_), None, None) if tokens.is_empty() => Ok(()),
        (Err(_), None, Some(f)) if f.kind != Kind::Inference && tokens.is_empty() => Ok(()),
        (Err(e), ..) => Err(format!("alone it fails ({e}), here it heard {tokens:?}")),
        (Ok(alone), Some(d), None) => match alone == (tokens.clone(), text.clone(), d.finish) {
            true => Ok(()),
            false => Err(format!("alone it gets {alone:?}, here {tokens:?} {text:?} {:?}", d.finish)),
        },
        (Ok(alone), None, failed) => {
            if failed.is_some_and(|e| e.kind == Kind::Inference) && !failing {
                return Err(format!("it failed: {failed:?}"));
            }
            match alone.0.starts_with(&tokens) && alone.1.starts_with(&text) {
                true => Ok(()),
                false => Err(format!("alone it gets {alone:?}, here it began with {tokens:?} {text:?}")),
            }
        }
        (Ok(_), Some(_), Some(_)) => Err("it is done and failed".into()),
    }
}
