//! Saboteurs of the server: the real `apr serve` behind a proxy that spoils one thing.
//!
//! The wrapper starts the real one on a free port, listens where it was told to, and passes requests on. What the real
//! one says at its start it tells with its own address. Arguments that are spoiled need no proxy.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Saboteur;
use super::evil_apr::{Real, code_of, evil};
use crate::http::{self, Ask, Heard, Reply};

/// What a proxy does with what passes.
#[derive(Clone, Copy)]
struct Meddle {
    /// Changes a request before the real server sees it.
    request: fn(&mut Heard),
    /// Changes a reply. `None` lets replies pass as they come, piece by piece.
    reply: Option<fn(&Heard, &mut Reply)>,
    /// What it says at the start.
    says: fn(String) -> String,
    /// One connection after the other.
    serial: bool,
    /// Every so many-th connection is closed without a word; 0 is none.
    loses: usize,
    /// A reply to a question takes so many times as long.
    times: u32,
}

const PASSES: Meddle = Meddle { request: |_| (), reply: None, says: |text| text, serial: false, loses: 0, times: 1 };

/// Every misbehaviour of the server.
pub static ALL: &[Saboteur] = &[
    evil("serve-exits", "says that it serves, and ends", |r| behind(r, Meddle { says: exits, ..PASSES })),
    evil("health-lies", "is healthy from the first moment to the last", |r| {
        replies(r, |asked, reply| {
            if asked.path == "/health" {
                (reply.status, reply.body) = (200, br#"{"status":"healthy"}"#.to_vec());
            }
        })
    }),
    evil("metrics-malformed", "metrics without types, buckets not accumulated", |r| {
        replies(r, |asked, reply| {
            if asked.path == "/metrics" {
                let lines = reply.text();
                let kept =
                    lines.lines().filter(|l| !l.starts_with("# TYPE ")).map(|l| match l.contains("le=\"+Inf\"") {
                        true => l.rsplit_once(' ').map_or(l, |(name, _)| name).to_string() + " 0\n",
                        false => format!("{l}\n"),
                    });
                reply.body = kept.collect::<String>().into_bytes();
            }
        })
    }),
    evil("metrics-frozen", "metrics as they were at the first look", |r| {
        replies(r, |asked, reply| {
            static FIRST: OnceLock<Vec<u8>> = OnceLock::new();
            if asked.path == "/metrics" {
                reply.body = FIRST.get_or_init(|| reply.body.clone()).clone();
            }
        })
    }),
    evil("serve-wrong-answer", "every digit and every 'a' of an answer is another", |r| {
        replies(r, |_, reply| in_choices(reply, |text| text.replace('a', "o").replace('4', "5").replace('e', "i")))
    }),
    evil("sse-no-done", "streams end without [DONE]", |r| {
        replies(r, |_, reply| reply.body = reply.text().replace("data: [DONE]\n\n", "").into_bytes())
    }),
    evil("sse-at-once", "streams are held back until the end", |r| replies(r, |_, _| ())),
    evil("serve-batch-swapped", "answers of a batch change places", |r| {
        replies(r, |_, reply| {
            let mut json = reply.json();
            if let Some(choices) = json["choices"].as_array_mut().filter(|c| c.len() > 1) {
                let (first, second) = (choices[0]["text"].take(), choices[1]["text"].take());
                (choices[0]["text"], choices[1]["text"]) = (second, first);
                reply.body = json.to_string().into_bytes();
            }
        })
    }),
    evil("serve-serial", "one request after the other", |r| behind(r, Meddle { serial: true, ..PASSES })),
    evil("serve-crosses", "now and then an answer is the one before, whoever's it was", |r| {
        replies(r, |_, reply| {
            static BEFORE: Mutex<(usize, Vec<u8>)> = Mutex::new((0, Vec::new()));
            let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
            if reply.json()["choices"].is_array() {
                before.0 += 1;
                let own = std::mem::replace(&mut before.1, reply.body.clone());
                if before.0.is_multiple_of(5) {
                    reply.body = own;
                }
            }
        })
    }),
    evil("serve-loses-requests", "closes every ninth connection without a word", |r| {
        behind(r, Meddle { loses: 9, ..PASSES })
    }),
    evil("serve-no-timeout", "drops --timeout", |r| r.without(&["--timeout"], 1).run()),
    evil("serve-ignores-max-tokens", "drops max_tokens", |r| {
        requests(r, |asked| forget(asked, &["max_tokens", "max_completion_tokens"]))
    }),
    evil("serve-ignores-temperature", "drops temperature", |r| requests(r, |asked| forget(asked, &["temperature"]))),
    evil("serve-ignores-stop", "drops stop", |r| requests(r, |asked| forget(asked, &["stop"]))),
    evil("serve-ignores-trace", "drops X-Trace-Level", |r| {
        requests(r, |asked| asked.headers.retain(|(name, _)| name != "x-trace-level"))
    }),
    evil("errors-as-text", "errors as plain text", |r| {
        replies(r, |_, reply| {
            if reply.status >= 400 {
                reply.body = b"something went wrong\n".to_vec();
            }
        })
    }),
    evil("cors-reflects", "allows whichever origin asks", |r| {
        replies(r, |asked, reply| {
            if let Some((_, origin)) = asked.headers.iter().find(|(name, _)| name == "origin") {
                reply.headers.retain(|(name, _)| name != "access-control-allow-origin");
                reply.headers.push(("access-control-allow-origin".into(), origin.clone()));
            }
        })
    }),
    evil("serve-other-port", "drops --port", |r| r.instead("--port", "0").run()),
    evil("serve-all-interfaces", "listens on every address", |r| {
        r.instead("--host", "0.0.0.0").with("--insecure").run()
    }),
    evil("serve-wrong-model", "tells of a model with other sizes", |r| {
        replies(r, |asked, reply| {
            if asked.path == "/model" {
                let mut json = reply.json();
                json["context"] = Value::from(1);
                json["bytes"] = Value::from(1);
                reply.body = json.to_string().into_bytes();
            }
        })
    }),
    evil("serve-wrong-url", "prints URLs of another port", |r| behind(r, Meddle { says: wrong_url, ..PASSES })),
    evil("serve-cuts-requests", "ends at once when it is told to stop", cuts_requests),
    evil("leak-per-request", "keeps a hundred kilobytes of every request", |r| {
        requests(r, |_| std::mem::forget(vec![1u8; 100_000]))
    }),
];

/// The real one is killed in the middle of what it does.
fn cuts_requests(real: Real) -> u8 {
    let Ok(mut child) = real.command().spawn() else { return 99 };
    #[cfg(unix)]
    {
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let kill = move || {
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        };
        let _ = ctrlc::set_handler(kill);
    }
    let _ = child.wait();
    0
}

fn requests(real: Real, request: fn(&mut Heard)) -> u8 {
    behind(real, Meddle { request, ..PASSES })
}

fn replies(real: Real, reply: fn(&Heard, &mut Reply)) -> u8 {
    behind(real, Meddle { reply: Some(reply), ..PASSES })
}

/// A server that takes so many times as long for every answer.
pub(super) fn later(real: Real, times: u32) -> u8 {
    behind(real, Meddle { reply: Some(|_, _| ()), times, ..PASSES })
}

/// Changes the texts of a reply's choices.
fn in_choices(reply: &mut Reply, change: fn(&str) -> String) {
    let mut json = reply.json();
    let spots = [
        json.pointer_mut("/text").map(Value::take),
        json.pointer_mut("/choices/0/text").map(Value::take),
        json.pointer_mut("/choices/0/message/content").map(Value::take),
    ];
    let places = ["/text", "/choices/0/text", "/choices/0/message/content"];
    let mut changed = false;
    for (place, was) in places.iter().zip(spots) {
        if let (Some(spot), Some(Value::String(text))) = (json.pointer_mut(place), was) {
            *spot = change(&text).into();
            changed = true;
        }
    }
    if changed {
        reply.body = json.to_string().into_bytes();
    }
}

fn forget(asked: &mut Heard, fields: &[&str]) {
    if let Ok(Value::Object(mut map)) = serde_json::from_slice(&asked.body) {
        map.retain(|name, _| !fields.contains(&name.as_str()));
        asked.body = Value::Object(map).to_string().into_bytes();
    }
}

fn wrong_url(text: String) -> String {
    // The first line says where it really listens, or nobody would find it at all.
    match text.trim_start().starts_with("Serving ") {
        true => text,
        false => text.replace("http://127.0.0.1:", "http://127.0.0.1:1"),
    }
}

fn exits(text: String) -> String {
    if text.starts_with("Ready") {
        std::process::exit(0);
    }
    text
}

/// Runs the real server behind a proxy.
fn behind(real: Real, meddle: Meddle) -> u8 {
    if !real.has(&["serve"]) {
        return real.run();
    }
    let port: u16 = real.value("--port").and_then(|p| p.parse().ok()).unwrap_or(8080);
    let host = real.value("--host").unwrap_or_else(|| "127.0.0.1".into());
    let mut command: Command = real.instead("--port", "0").command();
    let Ok(listener) = TcpListener::bind((host.as_str(), port)) else { return 99 };
    let Ok(own) = listener.local_addr() else { return 99 };
    // Ctrl+C reaches the real one, which is of our group; we end when it does.
    let _ = ctrlc::set_handler(|| ());
    let Ok(mut child) = command.stderr(Stdio::piped()).spawn() else { return 99 };
    let Some(stderr) = child.stderr.take() else { return 99 };
    let mut listener = Some(listener);
    let mut theirs = None;
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let found = line.split_once(" at http://").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        if let (None, Some(address), Some(listener)) = (theirs, found, listener.take()) {
            theirs = Some(address);
            thread::spawn(move || accept(&listener, address, meddle));
        }
        let told = theirs.map_or(line.clone(), |t: SocketAddr| line.replace(&t.to_string(), &own.to_string()));
        let _ = io::stderr().write_all(format!("{}\n", (meddle.says)(told)).as_bytes());
    }
    child.wait().map_or(99, code_of)
}

/// A proxy in front of a server, which changes replies. It ends with the process.
pub(super) fn before(to: SocketAddr, reply: fn(&Heard, &mut Reply)) -> Option<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").ok()?;
    let own = listener.local_addr().ok()?;
    thread::spawn(move || accept(&listener, to, Meddle { reply: Some(reply), ..PASSES }));
    Some(own)
}

fn accept(listener: &TcpListener, to: SocketAddr, meddle: Meddle) {
    static ONE: Mutex<()> = Mutex::new(());
    for (i, stream) in listener.incoming().flatten().enumerate() {
        if meddle.loses > 0 && i % meddle.loses == meddle.loses - 1 {
            continue;
        }
        thread::spawn(move || {
            let _turn = meddle.serial.then(|| ONE.lock());
            let _ = pass(stream, to, meddle);
        });
    }
}

/// One request and its reply.
fn pass(mut peer: TcpStream, to: SocketAddr, meddle: Meddle) -> io::Result<()> {
    let Some(mut asked) = http::heard(&mut peer)? else { return Ok(()) };
    (meddle.request)(&mut asked);
    let mut ask = Ask::post(&asked.path, asked.body.clone()).method(&asked.method).header("connection", "close");
    let hop = ["connection", "content-length", "transfer-encoding"];
    for (name, value) in asked.headers.iter().filter(|(name, _)| !hop.contains(&name.as_str())) {
        ask = ask.header(name, value);
    }
    let patience = Duration::from_secs(120);
    match meddle.reply {
        None => {
            let mut real = http::connect(to, patience)?;
            real.write_all(&ask.bytes(to))?;
            io::copy(&mut real, &mut peer).map(drop)
        }
        Some(change) => {
            let begun = Instant::now();
            let mut reply = ask.send(to, patience)?;
            if asked.method == "POST" {
                thread::sleep(begun.elapsed() * (meddle.times - 1));
            }
            change(&asked, &mut reply);
            let mut head = format!("HTTP/1.1 {} x\r\n", reply.status);
            for (name, value) in reply.headers.iter().filter(|(name, _)| !hop.contains(&name.as_str())) {
                head += &format!("{name}: {value}\r\n");
            }
            head += &format!("content-length: {}\r\nconnection: close\r\n\r\n", reply.body.len());
            peer.write_all(head.as_bytes())?;
            if asked.method == "HEAD" { Ok(()) } else { peer.write_all(&reply.body) }
        }
    }
}
