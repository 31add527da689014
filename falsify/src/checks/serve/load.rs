//! Many at once, slow ones, and those who go away.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{begun_stream, completion};
use crate::http::{Ask, Reply, connect};
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
    let mut t = Tally::new("16 streams of 48 tokens at once, each beside its answer alone; they have to overlap");
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
    t.hold(begins < ends, || {
        server.refute(
            "all have begun before one has ended",
            format!("the last began at {begins:?}"),
            format!("{ends:?}"),
        )
    })?;
    let shared = server.metric("apr_shared_steps_total")? - before;
    t.hold(shared >= 40.0, || server.refute("they share steps", shared.to_string(), "at least 40"))?;
    t.number("last first token, ms", begins.as_secs_f64() * 1e3);
    t.number("first end, ms", ends.as_secs_f64() * 1e3);
    t.done()
}

/// Load test: 100 clients, and among them some who go away.
pub fn f_serve_259(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "100 clients, one every 10 ms whatever happens, 12 tokens each; then clients who leave, and slow ones",
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
    leave(&mut t, &server)?;
    idle(&mut t, &server)?;
    t.done()
}

/// 67: peers who leave before, during and in the middle of answers. Their tokens stop.
fn leave(t: &mut Tally, server: &Server) -> Result<(), Halt> {
    let mut whole = completion(server, "def", 2000)?;
    for _ in 0..5 {
        drop(begun_stream(server, "/v1/completions", whole.clone())?);
        for stream in [true, false] {
            whole["stream"] = stream.into();
            let broken = |e: std::io::Error| instrument(format!("a client that leaves: {e}"));
            let mut peer = connect(server.address, PATIENCE).map_err(broken)?;
            peer.write_all(&Ask::json("/v1/completions", &whole).bytes(server.address)).map_err(broken)?;
            if stream {
                thread::sleep(Duration::from_millis(30));
            }
            peer.shutdown(Shutdown::Both).map_err(broken)?;
        }
    }
    // Nobody listens: what runs has to end long before 15 answers of 2000 tokens could.
    let until = Instant::now() + Duration::from_secs(5);
    while server.metric("apr_requests_running")? + server.metric("apr_requests_waiting")? > 0.0 {
        t.hold(Instant::now() < until, || server.refute("who leaves frees his slot", "it runs on", "5 s at most"))?;
        thread::sleep(Duration::from_millis(20));
    }
    let made = server.metric("apr_tokens_generated")?;
    thread::sleep(Duration::from_millis(100));
    t.equal("no more tokens are made", &server.metric("apr_tokens_generated")?, &made)?;
    let used = server.metric("apr_kv_cache_usage")?;
    t.equal("no block is held", &used, &0.0)
}

/// 66: peers who say nothing, half a head, or read nothing. The others do not notice.
fn idle(t: &mut Tally, server: &Server) -> Result<(), Halt> {
    let broken = |e: std::io::Error| instrument(format!("an idle client: {e}"));
    let mut kept = Vec::new();
    for i in 0..120 {
        let mut peer = connect(server.address, PATIENCE).map_err(broken)?;
        match i % 3 {
            0 => {}
            1 => peer.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: loc").map_err(broken)?,
            _ => {
                let mut body = completion(server, "def", 40)?;
                body["stream"] = true.into();
                if i % 12 == 2 {
                    peer.write_all(&Ask::json("/v1/completions", &body).bytes(server.address)).map_err(broken)?;
                } else {
                    peer.write_all(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
                        .map_err(broken)?;
                }
            }
        }
        kept.push(peer);
    }
    let begun = Instant::now();
    server.answer("/v1/completions", &completion(server, "def", 4)?)?;
    t.at_most("seconds of an answer among 120 idle peers", begun.elapsed().as_secs_f64(), 10.0)?;
    // Those who only did not read find their answer whole.
    for mut peer in kept.into_iter().skip(2).step_by(12) {
        let mut text = String::new();
        let _ = peer.read_to_string(&mut text);
        t.hold(text.contains("data: [DONE]"), || {
            server.refute("a slow reader gets all of it", text.chars().take(200).collect::<String>(), "[DONE]")
        })?;
    }
    Ok(())
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
    let mut t = Tally::new(
        "1,000 clients at once; resident memory after 300 and after 1,300 more requests of mixed sizes, some of whose clients leave",
    );
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
    let run = |requests: std::ops::Range<usize>| -> Result<(), Halt> {
        for i in requests {
            let prompt = format!("{i} {}", "word ".repeat(i * 37 % 90));
            let mut body = completion(&server, &prompt, 1 + i % 7)?;
            body["stream"] = (i % 3 == 0).into();
            if i % 50 == 49 {
                drop(begun_stream(&server, "/v1/completions", completion(&server, &prompt, 200)?)?);
            }
            let reply = server.post(["/v1/completions", "/generate"][i % 2], &body)?;
            if reply.status != 200 {
                return Err(server.refute("every request is answered", shown(&reply), "200").into());
            }
            server.post("/v1/chat/completions", &json!({"messages": 3}))?;
        }
        Ok(())
    };
    run(0..300)?;
    let early = rss(server.child.id())?;
    run(300..1300)?;
    let late = rss(server.child.id())?;
    t.number("resident MB after 300", early / 1e6);
    t.number("resident MB after 1,300", late / 1e6);
    t.hold(late <= early * 1.05, || {
        Refutation::new("memory is within 5 % of what it was", format!("{late}"), format!("{early} and 5 %"))
    })?;
    t.done()
}
