//! Many at once, for a long time, and nobody gets what is another's.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::hostile::{idle, leave, nonsense, slow, stalled};
use super::{begun_stream, completion};
use crate::http::{Ask, Reply};
use crate::knobs;
use crate::server::{PATIENCE, Server, serve, shown};
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// Prompts that lead to different answers: what one gets tells whose it is.
const PROMPTS: &[&str] =
    &["def", "Hello", "The capital of France is", "1 2 3 4", "for i in", "import", "class A", "x ="];

/// The text that a prompt gets alone.
fn alone(server: &Server, tokens: usize) -> Result<Vec<(Value, String)>, Halt> {
    let one = |prompt: &&str| {
        let body = completion(server, prompt, tokens)?;
        let reply = server.answer("/v1/completions", &body)?.json();
        Ok((body, reply["choices"][0]["text"].as_str().unwrap_or_default().to_string()))
    };
    PROMPTS.iter().map(one).collect()
}

/// Sends all at their times, each from a thread of its own; what each got, with the time since it was to be sent.
fn at_their_times(
    server: &Server,
    asks: Vec<Ask>,
    every: Duration,
) -> Result<Vec<(std::io::Result<Reply>, Duration)>, Halt> {
    let (to, begun) = (server.address, Instant::now());
    let client = |(i, ask): (usize, Ask)| {
        let due = every * i as u32;
        thread::Builder::new().spawn(move || {
            thread::sleep(due.saturating_sub(begun.elapsed()));
            let reply = ask.send(to, PATIENCE);
            (reply, begun.elapsed().saturating_sub(due))
        })
    };
    let clients: Vec<_> = asks.into_iter().enumerate().map(client).collect::<Result<_, _>>().map_err(instrument)?;
    clients.into_iter().map(|c| c.join().map_err(|_| instrument("a client panicked"))).collect()
}

/// Concurrent requests handled.
pub fn f_serve_239(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "secrets in 12 batches of six, some of which are given up; then 16 streams of 48 tokens at once, each beside its answer alone; they have to overlap",
    );
    secrets(&mut t, s, 12)?;
    let server = serve(s, &[])?;
    let want = alone(&server, 48)?;
    let asks = (0..16).map(|i| {
        let mut body = want[i % want.len()].0.clone();
        body["stream"] = true.into();
        Ask::json("/v1/completions", &body)
    });
    let before = server.metric("apr_shared_steps_total")?;
    let replies = at_their_times(&server, asks.collect(), Duration::ZERO)?;
    let (mut begins, mut ends) = (Duration::ZERO, Duration::MAX);
    for (i, (reply, took)) in replies.iter().enumerate() {
        let reply =
            reply.as_ref().map_err(|e| server.refute(&format!("client {i} is answered"), e.to_string(), "a reply"))?;
        let text: String = reply.chunks().iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
        let want = &want[i % want.len()].1;
        t.hold(text == *want, || server.refute(&format!("client {i} gets its answer"), &*text, want))?;
        let first = reply.events.first().map_or(Duration::MAX, |(at, _)| *at);
        (begins, ends) = (begins.max(first), ends.min(*took));
    }
    // When they begin and end is the clients' affair too, on a machine with two cores; the server's own count is not.
    let shared = server.metric("apr_shared_steps_total")? - before;
    t.hold(shared >= 40.0, || server.refute("they share steps", shared.to_string(), "at least 40"))?;
    t.number("last first token, ms", begins.as_secs_f64() * 1e3);
    t.number("first end, ms", ends.as_secs_f64() * 1e3);
    t.done()
}

/// 70: prompts with secrets, several at once, on few blocks of cache that go from one to the next. Each answer is the
/// one that its prompt gets from a server that does nothing else.
fn secrets(t: &mut Tally, s: &Subject, rounds: usize) -> Result<(), Halt> {
    let lonely = serve(s, &["--parallel", "1", "--ctx-size", "768"])?;
    let busy = serve(s, &["--ctx-size", "768"])?;
    let ends = completion(&lonely, "", 12)?["logit_bias"].take();
    for round in 0..rounds {
        let prompt =
            |i: usize| format!("The secret of room {i} is {}. {}", round * 7919 + i * 104_729, "So. ".repeat(i * 9));
        let ask = |prompt: &str, tokens: usize| json!({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "logit_bias": ends});
        // Who gives up leaves a text in blocks that others get.
        let gone = begun_stream(&busy, "/v1/completions", ask(&prompt(9), 300))?;
        let asks = (0..6).map(|i| Ask::json("/v1/completions", &ask(&prompt(i), 12))).collect();
        let replies = at_their_times(&busy, asks, Duration::ZERO)?;
        drop(gone);
        for (i, (reply, _)) in replies.into_iter().enumerate() {
            let reply =
                reply.map_err(|e| busy.refute("a prompt with a secret is answered", e.to_string(), "a reply"))?;
            let want = lonely.answer("/v1/completions", &ask(&prompt(i), 12))?.json()["choices"][0]["text"].take();
            let got = reply.json()["choices"][0]["text"].take();
            t.hold(got == want && got.is_string(), || {
                busy.refute(&format!("round {round}: room {i} gets its own answer"), got.to_string(), want.to_string())
            })?;
        }
    }
    t.number("batches with secrets", rounds as f64);
    Ok(())
}

/// Load test: 100 clients, and among them some who go away.
pub fn f_serve_259(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "100 clients, one every 10 ms whatever happens, 12 tokens each; then clients who leave, are slow, or talk nonsense",
    );
    let server = serve(s, &[])?;
    let want = alone(&server, 12)?;
    let asks: Vec<Ask> = (0..100).map(|i| Ask::json("/v1/completions", &want[i % want.len()].0)).collect();
    let replies = at_their_times(&server, asks, Duration::from_millis(10))?;
    let (mut times, mut later) = (Vec::new(), 0.0);
    for (i, (reply, took)) in replies.into_iter().enumerate() {
        let reply = reply.map_err(|e| server.refute(&format!("client {i} is answered"), e.to_string(), "a reply"))?;
        if reply.status == 429 || reply.status == 503 {
            let told = reply.header("retry-after").is_some();
            t.hold(told, || server.refute("who is refused is told when to come back", shown(&reply), "Retry-After"))?;
            later += 1.0;
            continue;
        }
        let text = reply.json()["choices"][0]["text"].as_str().unwrap_or_default().to_string();
        let want = &want[i % want.len()].1;
        t.hold(text == *want, || server.refute(&format!("client {i} gets its answer"), shown(&reply), want))?;
        times.push(took.as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    t.hold(times.len() >= 90, || server.refute("most are answered", times.len().to_string(), "at least 90 of 100"))?;
    t.number("answered", times.len() as f64);
    t.number("told to come back", later);
    t.number("median ms from the intended start", times[times.len() / 2]);
    t.number("slowest ms", times[times.len() - 1]);
    leave(&mut t, &server, 5)?;
    idle(&mut t, &server, 120)?;
    slow(&mut t, &server)?;
    nonsense(&mut t, &server)?;
    traced(&mut t, &server)?;
    t.done()
}

/// Traced requests take turns, and nobody else waits for them.
fn traced(t: &mut Tally, server: &Server) -> Result<(), Halt> {
    let body = completion(server, "def", 1000)?;
    let mut asks = vec![Ask::json("/v1/completions", &body).header("X-Trace-Level", "step"); 12];
    asks.extend(vec![Ask::json("/tokenize", &json!({"content": "x"})); 3]);
    let replies = at_their_times(server, asks, Duration::from_millis(10))?;
    let mut later = 0;
    for (i, (reply, took)) in replies.into_iter().enumerate() {
        let reply = reply.map_err(|e| server.refute("a traced request is answered", e.to_string(), "a reply"))?;
        if i >= 12 {
            t.hold(reply.status == 200, || server.refute("others are answered", shown(&reply), "200"))?;
            t.at_most("seconds that others wait for traced requests", took.as_secs_f64(), 2.0)?;
            continue;
        }
        let told = reply.status == 429 && reply.header("retry-after").is_some();
        t.hold(told || reply.status == 200, || {
            server.refute("a traced request is answered or told to come back", reply.status.to_string(), "200 or 429")
        })?;
        later += usize::from(told);
    }
    t.hold(later > 0, || server.refute("not all of twelve may wait", "all were answered", "429 for some"))
}

/// Resident bytes of a process now.
fn rss(id: u32) -> Result<f64, Halt> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).map_err(instrument)?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kib.map(|k| k * 1024.0).ok_or_else(|| instrument("no VmRSS"))
}

/// Memory doesn't grow unbounded.
pub fn f_serve_253(s: &Subject) -> Attempt {
    let long = Duration::from_secs(knobs::soak_s());
    let mut t = Tally::new(format!(
        "1,000 clients at once; then {} s of requests of mixed sizes, some of whose clients leave or are slow: resident memory at every tenth; 1,000 batches with secrets, 1,000 idle peers, readers who never read",
        long.as_secs()
    ));
    // A small cache fills in the first part: it is bounded, and that is not what is measured.
    let server = serve(s, &["--ctx-size", "512"])?;
    let body = completion(&server, "def", 4)?;
    let storm = at_their_times(&server, vec![Ask::json("/v1/completions", &body); 1000], Duration::ZERO)?;
    for (reply, _) in storm {
        let reply = reply.map_err(|e| server.refute("one of 1,000 at once is answered", e.to_string(), "a reply"))?;
        let told = reply.header("retry-after").is_some();
        let right = reply.status == 200 || (reply.status == 429 && told);
        t.hold(right, || {
            server.refute("1,000 at once are answered or told to come back", shown(&reply), "200 or 429")
        })?;
    }
    let (begun, mut early, mut most, mut asked) = (Instant::now(), 0.0, 0.0f64, 0);
    for part in 1..=10 {
        // A tenth has 100 requests at least: on a slow machine it takes longer.
        let enough = asked + 100;
        while begun.elapsed() < long * part / 10 || asked < enough {
            mixed(&server, asked)?;
            asked += 1;
        }
        let now = rss(server.child.id())?;
        early = if part == 1 { now } else { early };
        most = most.max(now);
        t.hold(now <= early * 1.05, || {
            let expected = format!("{early} after the first tenth, and 5 %");
            Refutation::new(format!("memory after {part} tenths is what it was"), format!("{now}"), expected)
        })?;
    }
    t.number("requests", asked as f64);
    t.number("seconds", begun.elapsed().as_secs_f64());
    t.number("resident MB after a tenth", early / 1e6);
    t.number("most resident MB", most / 1e6);
    drop(server);
    let server = serve(s, &[])?;
    leave(&mut t, &server, 20)?;
    idle(&mut t, &server, 900)?;
    drop(server);
    stalled(&mut t, s)?;
    secrets(&mut t, s, 1000)?;
    t.done()
}

/// One of the requests of a long run.
fn mixed(server: &Server, i: usize) -> Result<(), Halt> {
    let prompt = format!("{i} {}", "word ".repeat(i * 37 % 90));
    let mut body = completion(server, &prompt, 1 + i % 7)?;
    body["stream"] = i.is_multiple_of(3).into();
    if i % 50 == 49 {
        drop(begun_stream(server, "/v1/completions", completion(server, &prompt, 200)?)?);
    }
    let reply = server.post(["/v1/completions", "/generate"][i % 2], &body)?;
    if reply.status != 200 {
        return Err(server.refute("every request is answered", shown(&reply), "200").into());
    }
    server.post("/v1/chat/completions", &json!({"messages": 3})).map(drop)
}
