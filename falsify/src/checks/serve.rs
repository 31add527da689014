//! F-SERVE: the server, watched from outside over sockets. This file: its life from start to stop.
//!
//! Routes and fields stand here as the contract says them, not as the product's source does.

mod api;
mod clients;
mod doors;
mod hostile;
mod load;
mod metrics;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Check;
use crate::child::Exit;
use crate::http::{self, Ask, Reply};
use crate::server::{PATIENCE, Server, listening, serve, shown};
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Tally, instrument};

pub use api::*;
pub use clients::*;
pub use doors::*;
pub use load::*;
pub use metrics::*;

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-SERVE-231", f_serve_231),
    ("F-SERVE-232", f_serve_232),
    ("F-SERVE-233", f_serve_233),
    ("F-SERVE-234", f_serve_234),
    ("F-SERVE-235", f_serve_235),
    ("F-SERVE-236", f_serve_236),
    ("F-SERVE-237", f_serve_237),
    ("F-SERVE-238", f_serve_238),
    ("F-SERVE-239", f_serve_239),
    ("F-SERVE-240", f_serve_240),
    ("F-SERVE-241", f_serve_241),
    ("F-SERVE-242", f_serve_242),
    ("F-SERVE-243", f_serve_243),
    ("F-SERVE-244", f_serve_244),
    ("F-SERVE-245", f_serve_245),
    ("F-SERVE-246", f_serve_246),
    ("F-SERVE-247", f_serve_247),
    ("F-SERVE-248", f_serve_248),
    ("F-SERVE-249", f_serve_249),
    ("F-SERVE-250", f_serve_250),
    ("F-SERVE-251", f_serve_251),
    ("F-SERVE-252", f_serve_252),
    ("F-SERVE-253", f_serve_253),
    ("F-SERVE-254", f_serve_254),
    ("F-SERVE-255", f_serve_255),
    ("F-SERVE-256", f_serve_256),
    ("F-SERVE-257", f_serve_257),
    ("F-SERVE-258", f_serve_258),
    ("F-SERVE-259", f_serve_259),
    ("F-SERVE-260", f_serve_260),
];

/// What forbids the model to end: answers have exactly as many tokens as are asked for.
fn endless(server: &Server) -> Result<Value, Halt> {
    let asked = json!({"content": "<|im_end|><|endoftext|>", "add_special": true});
    let reply = server.answer("/tokenize", &asked)?.json();
    let ids = reply["tokens"].as_array().filter(|ids| !ids.is_empty());
    let ids = ids.ok_or_else(|| instrument(format!("no ids of end tokens: {reply}")))?;
    Ok(ids.iter().map(|id| (id.to_string(), json!(-100))).collect::<serde_json::Map<_, _>>().into())
}

/// A completion of so many tokens, whatever the model says.
fn completion(server: &Server, prompt: &str, tokens: usize) -> Result<Value, Halt> {
    let bias = endless(server)?;
    Ok(json!({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "logit_bias": bias}))
}

/// Starts a stream and comes back when its first event is there.
fn begun_stream(server: &Server, path: &str, mut body: Value) -> Result<TcpStream, Halt> {
    use std::io::Read;
    body["stream"] = true.into();
    let broken = |e: std::io::Error| server.refute("a stream begins", e.to_string(), "an event");
    let mut stream = http::connect(server.address, PATIENCE).map_err(broken)?;
    stream.write_all(&Ask::json(path, &body).bytes(server.address)).map_err(broken)?;
    let (mut seen, mut byte) = (Vec::new(), [0u8; 256]);
    while !seen.windows(6).any(|w| w == b"data: ") {
        match stream.read(&mut byte).map_err(broken)? {
            0 => return Err(server.refute("a stream begins", String::from_utf8_lossy(&seen), "an event").into()),
            n => seen.extend_from_slice(&byte[..n]),
        }
    }
    Ok(stream)
}

/// What is left of a stream.
fn rest_of(mut stream: TcpStream) -> String {
    use std::io::Read;
    let mut rest = Vec::new();
    // What came before an error is what came.
    let _ = stream.read_to_end(&mut rest);
    String::from_utf8_lossy(&rest).into_owned()
}

/// `apr serve` starts a server.
pub fn f_serve_231(s: &Subject) -> Attempt {
    let mut t = Tally::new("two servers at once on the q8_0 fixture, each on a port of its own");
    let mut servers = [serve(s, &[])?, serve(s, &[])?];
    let ports = servers.each_ref().map(|server| server.address.port());
    t.hold(ports[0] != ports[1], || servers[0].refute("two servers have two ports", format!("{ports:?}"), "two"))?;
    for server in &mut servers {
        let ended = server.child.ends_within(Duration::from_millis(300));
        t.hold(ended.is_none(), || server.refute("it keeps running", format!("{ended:?}"), "no end"))?;
        for path in ["/", "/health", "/v1/models"] {
            let reply = server.get(path)?;
            t.hold(reply.status == 200, || server.refute(&format!("{path} is answered"), shown(&reply), "200"))?;
        }
    }
    t.done()
}

/// GET /health returns healthy: only then when it is true.
pub fn f_serve_232(s: &Subject) -> Attempt {
    let mut t = Tally::new("/health while the model loads, when it is loaded, and while a request is finished");
    let (mut before, mut starts) = (0u32, 0u32);
    while before == 0 && starts < 20 {
        starts += 1;
        let server = listening(s, &s.model()?, &[])?;
        let until = Instant::now() + PATIENCE;
        loop {
            let reply = server.get("/health")?;
            if reply.status == 200 {
                let model = server.get("/model")?;
                t.hold(model.status == 200, || {
                    server.refute("what is healthy has its model", shown(&model), "/model answers")
                })?;
                t.equal("a healthy server says so", &reply.json()["status"], &json!("healthy"))?;
                break;
            }
            before += 1;
            let said = reply.status == 503 && reply.json()["error"]["message"] == "Loading model";
            t.hold(said && reply.header("retry-after").is_some(), || {
                server.refute("before that it says why not", shown(&reply), "503, Loading model, Retry-After")
            })?;
            t.hold(Instant::now() < until, || server.refute("it becomes healthy", "it does not", "200"))?;
        }
    }
    if before == 0 {
        return Err(instrument(format!("the model was loaded before the first question in all of {starts} starts")));
    }
    let mut server = serve(s, &[])?;
    let stream = begun_stream(&server, "/v1/completions", completion(&server, "def", 250)?)?;
    interrupt(&server);
    for path in ["/health", "/ready"] {
        let reply = asked_while_stopping(&server, path)?;
        t.hold(reply.status == 503, || server.refute("a server that stops is not healthy", shown(&reply), "503"))?;
    }
    drop(stream);
    let ended = server.child.ends_within(Duration::from_secs(20));
    t.hold(ended.is_some(), || server.refute("it ends", "it runs on", "an end"))?;
    t.number("answers before the model was loaded", f64::from(before));
    t.done()
}

/// The signal takes a moment: the first reply that is not healthy, or the last one of a second.
fn asked_while_stopping(server: &Server, path: &str) -> Result<Reply, Halt> {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        let reply = server.get(path)?;
        if reply.status != 200 || Instant::now() > until {
            return Ok(reply);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ctrl+C.
fn interrupt(server: &Server) {
    #[cfg(unix)]
    server.child.signal(rustix::process::Signal::INT);
    #[cfg(not(unix))]
    let _ = server;
}

/// Request timeout configurable.
pub fn f_serve_240(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("apr serve --timeout 0.3 and requests for 3500 tokens, whole and streamed, then a short one");
    let server = serve(s, &["--timeout", "0.3"])?;
    let asked = completion(&server, "def", 3500)?;
    let reply = server.post("/v1/completions", &asked)?;
    let said = reply.json()["error"]["code"] == "timeout";
    t.hold(reply.status == 504 && said, || server.refute("a request that is too long ends", shown(&reply), "504"))?;
    t.at_most("seconds until it ended", reply.took.as_secs_f64(), 5.0)?;
    let mut streamed = asked.clone();
    streamed["stream"] = true.into();
    let reply = server.post("/v1/completions", &streamed)?;
    let last = reply.chunks().pop().unwrap_or_default();
    let told = last["error"]["code"] == "timeout" && !reply.text().contains("[DONE]");
    t.hold(told, || server.refute("a stream that is too long ends in an error", last.to_string(), "an error"))?;
    let running = server.metric("apr_requests_running")?;
    t.hold(running == 0.0, || server.refute("its slot is free again", format!("{running} running"), "0"))?;
    let short = server.post("/v1/completions", &completion(&server, "def", 2)?)?;
    t.hold(short.status == 200, || server.refute("a short request has time enough", shown(&short), "200"))?;
    t.done()
}

/// A port that is free now.
fn free_port() -> Result<u16, Halt> {
    let socket = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    socket.map(|a| a.port()).map_err(instrument)
}

/// Port configurable.
pub fn f_serve_246(s: &Subject) -> Attempt {
    let mut t = Tally::new("three ports by --port, then a second server on a port that is taken");
    let mut kept = None;
    for _ in 0..3 {
        let port = free_port()?;
        let server = serve(s, &["--port", &port.to_string()])?;
        t.hold(server.address.port() == port, || {
            server.refute("it listens on the port that was asked for", server.address.to_string(), port.to_string())
        })?;
        let reply = Ask::get("/v1/models").send(SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE);
        let there = reply.as_ref().is_ok_and(|r| r.status == 200);
        t.hold(there, || server.refute("it answers there", format!("{reply:?}"), "200"))?;
        kept = Some(server);
    }
    let port = kept.as_ref().map_or(0, |k| k.address.port()).to_string();
    let model = s.model()?;
    let out = s.apr(["serve"]).args([model.as_os_str()]).args(["--port", &port]).judged()?;
    let clear = out.err().lines().filter(|l| l.starts_with("error: ")).count() == 1 && out.err().contains(&port);
    t.hold(out.code() == Some(9) && clear, || {
        out.refute("a taken port is one clear line and exit code 9", format!("{:?} {}", out.code(), out.err()), "9")
    })?;
    for wrong in ["65536", "-1", "http"] {
        let out = s.apr(["serve"]).args([model.as_os_str()]).args([&format!("--port={wrong}")]).judged()?;
        t.hold(out.code() == Some(2), || out.refute("what is no port is refused", format!("{:?}", out.code()), "2"))?;
    }
    t.done()
}

/// Local addresses of listening sockets with this port, as the kernel has them.
fn listeners(port: u16) -> Result<Vec<String>, Halt> {
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // A kernel without IPv6 has no such table.
        for line in std::fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let local = words.get(1).and_then(|w| w.split_once(':'));
            if let (Some((address, hex)), Some(&"0A")) = (local, words.get(3))
                && u16::from_str_radix(hex, 16) == Ok(port)
            {
                found.push(address.to_string());
            }
        }
    }
    if found.is_empty() { Err(instrument(format!("the kernel knows no listener on {port}"))) } else { Ok(found) }
}

/// Host configurable.
pub fn f_serve_247(s: &Subject) -> Attempt {
    let mut t = Tally::new("listening sockets of the kernel, by default and with --host; a host that needs a key");
    for (flags, want) in [(&[][..], "0100007F"), (&["--host", "127.0.0.2"], "0200007F")] {
        let server = listening(s, &s.model()?, flags)?;
        let there = listeners(server.address.port())?;
        t.hold(there == [want], || {
            server.refute(&format!("{flags:?} listens there alone"), format!("{there:?}"), want)
        })?;
    }
    let model = s.model()?;
    let out = s.apr(["serve"]).args([model.as_os_str()]).args(["--host", "0.0.0.0", "--port", "0"]).judged()?;
    let clear = out.code() == Some(2) && out.err().contains("--api-key") && out.err().contains("--insecure");
    t.hold(clear, || out.refute("the world is not let in without a key", out.err(), "exit code 2 and what to do"))?;
    let open = serve(s, &["--host", "0.0.0.0", "--insecure"])?;
    let warned = open.child.err().contains("warning: ");
    t.hold(warned, || open.refute("an open server is warned of", open.child.err(), "a warning"))?;
    t.done()
}

/// Graceful shutdown on SIGINT.
pub fn f_serve_248(s: &Subject) -> Attempt {
    let mut t = Tally::new("SIGINT and SIGTERM while a stream of 150 tokens runs, and while nothing does");
    for signal in signals() {
        let mut server = serve(s, &[])?;
        let asked = completion(&server, "def", 150)?;
        let whole = server.answer("/v1/completions", &asked)?.json();
        let stream = begun_stream(&server, "/v1/completions", asked)?;
        signal(&server);
        let health = asked_while_stopping(&server, "/health")?;
        t.hold(health.status == 503, || server.refute("it says that it stops", shown(&health), "503"))?;
        let refused = server.post("/v1/completions", &json!({"prompt": "x"}))?;
        let told = refused.status == 503 && refused.header("retry-after").is_some();
        t.hold(told, || server.refute("new requests are refused", shown(&refused), "503 and Retry-After"))?;
        let rest = rest_of(stream);
        t.hold(rest.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"), || {
            server.refute("a running request is finished", rest.chars().rev().take(200).collect::<String>(), "[DONE]")
        })?;
        let pieces: Vec<Value> =
            rest.split("data: ").filter_map(|p| serde_json::from_str(p.split("\n\n").next()?).ok()).collect();
        let text: String = pieces.iter().filter_map(|p| p["choices"][0]["text"].as_str()).collect();
        let want = whole["choices"][0]["text"].as_str().unwrap_or_default();
        // The first event was read before the signal.
        t.hold(want.ends_with(&text) && text.len() * 2 > want.len(), || {
            server.refute("no text is lost", &*text, want)
        })?;
        let exit = server.child.ends_within(Duration::from_secs(10));
        t.hold(exit == Some(Exit::Code(0)), || {
            server.refute("it ends by itself, with success", format!("{exit:?}"), "exit code 0")
        })?;
        let mut idle = serve(s, &[])?;
        signal(&idle);
        let exit = idle.child.ends_within(Duration::from_secs(2));
        t.hold(exit == Some(Exit::Code(0)), || idle.refute("an idle one ends at once", format!("{exit:?}"), "code 0"))?;
    }
    t.done()
}

#[cfg(unix)]
fn signals() -> [fn(&Server); 2] {
    [|s| s.child.signal(rustix::process::Signal::INT), |s| s.child.signal(rustix::process::Signal::TERM)]
}

#[cfg(not(unix))]
fn signals() -> [fn(&Server); 0] {
    []
}
