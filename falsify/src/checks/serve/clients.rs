//! Clients that people use: curl, HTTPie, Python's requests. Each uses what `apr serve` prints.

use std::ffi::OsStr;

use serde_json::{Value, json};

use crate::ask::report;
use crate::child::{Output, Run};
use crate::server::{Server, serve};
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Tally, instrument};

/// The question of the printed command.
const HELLO: &str = "Hi";

/// The command line behind `Try:`, as words; the shell's single quotes are all it has.
fn printed_command(server: &Server) -> Result<Vec<String>, Halt> {
    let said = server.child.err();
    let line = said.lines().find_map(|l| l.strip_prefix("Try:  "));
    let line = line.ok_or_else(|| server.refute("a command to try is printed", &*said, "Try:  curl .."))?;
    let quoted = line.split('\'').enumerate();
    let words = quoted.flat_map(|(i, part)| match i % 2 {
        0 => part.split_whitespace().map(str::to_string).collect::<Vec<_>>(),
        _ => vec![part.to_string()],
    });
    Ok(words.collect())
}

/// The base URL behind `OPENAI_BASE_URL=`.
fn printed_base(server: &Server) -> Result<String, Halt> {
    let said = server.child.err();
    let base = said.split("OPENAI_BASE_URL=").nth(1).and_then(|rest| rest.split_whitespace().next());
    base.map(str::to_string).ok_or_else(|| server.refute("a base URL is printed", &*said, "OPENAI_BASE_URL=").into())
}

/// What `apr run` says to the printed question.
fn hello(s: &Subject) -> Result<String, Halt> {
    Ok(report(s, HELLO, &["--max-tokens", "512"])?.text)
}

/// A client's output has to be this answer.
fn content(t: &mut Tally, out: &Output, want: &str) -> Result<(), Halt> {
    let reply: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    let text = reply["choices"][0]["message"]["content"].as_str();
    t.hold(out.code() == Some(0) && text == Some(want), || {
        out.refute("the client gets the answer", format!("{:?} {} {}", out.exit, out.out(), out.err()), want)
    })
}

/// Works with curl.
pub fn f_serve_256(s: &Subject) -> Attempt {
    let mut t = Tally::new("curl with the printed command, plain and streamed, and with a Content-Type");
    let server = serve(s, &[])?;
    let words = printed_command(&server)?;
    let greedy = |extra: &str| {
        let with =
            |w: &String| w.replacen('{', &format!("{{\"temperature\":0,{extra}"), usize::from(w.starts_with('{')));
        words.iter().map(with).collect::<Vec<_>>()
    };
    let curl = |words: &[String], more: &[&str]| {
        let run = Run::new(OsStr::new(&words[0])).args(["--silent", "--show-error", "--max-time", "30"]);
        run.args(&words[1..]).args(more).output()
    };
    let want = hello(s)?;
    content(&mut t, &curl(&greedy(""), &[])?, &want)?;
    content(&mut t, &curl(&greedy(""), &["-H", "Content-Type: application/json"])?, &want)?;
    let asked = curl(&words, &[])?;
    t.hold(asked.code() == Some(0) && asked.out().contains("\"content\""), || {
        asked.refute("the printed command works as it stands", asked.out() + &asked.err(), "an answer")
    })?;
    let out = curl(&greedy("\"stream\":true,"), &["--no-buffer"])?;
    let events: Vec<Value> =
        out.out().lines().filter_map(|l| serde_json::from_str(l.strip_prefix("data: ")?).ok()).collect();
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    t.hold(text == want && out.out().contains("data: [DONE]"), || {
        out.refute("a stream is the answer", &*text, &*want)
    })?;
    t.done()
}

/// Works with HTTPie.
pub fn f_serve_257(s: &Subject) -> Attempt {
    let mut t = Tally::new("HTTPie at the printed base URL, plain and streamed");
    let server = serve(s, &[])?;
    let url = format!("{}/chat/completions", printed_base(&server)?);
    let want = hello(s)?;
    let messages = format!(r#"messages:=[{{"role":"user","content":"{HELLO}"}}]"#);
    let http = |more: &[&str]| {
        let run = Run::new(OsStr::new("http")).args(["--ignore-stdin", "--body", "--timeout", "30"]);
        run.args(more).args(["POST", &url, &messages, "temperature:=0"]).output()
    };
    content(&mut t, &http(&["--pretty=none"])?, &want)?;
    let streamed = Run::new(OsStr::new("http")).args(["--ignore-stdin", "--body", "--stream", "--pretty=none"]);
    let out = streamed.args(["POST", &url, &messages, "temperature:=0", "stream:=true"]).output()?;
    let events: Vec<Value> =
        out.out().lines().filter_map(|l| serde_json::from_str(l.strip_prefix("data: ")?).ok()).collect();
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    t.hold(text == want, || out.refute("a stream is the answer", out.out() + &out.err(), &*want))?;
    t.done()
}

const REQUESTS: &str = r#"
import json, sys
import requests
base, prompt = sys.argv[1:]
body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0}
session = requests.Session()
plain = [session.post(base + "/chat/completions", json=body, timeout=30).json() for _ in range(2)]
assert plain[0]["choices"] == plain[1]["choices"]
text, done = "", False
with session.post(base + "/chat/completions", json=dict(body, stream=True), stream=True, timeout=30) as reply:
    assert reply.headers["content-type"].startswith("text/event-stream")
    for line in reply.iter_lines():
        if line == b"data: [DONE]":
            done = True
        elif line.startswith(b"data: "):
            text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
refused = session.post(base + "/chat/completions", json={"messages": 3}, timeout=30)
models = session.get(base + "/models", timeout=30).json()
print(json.dumps({"choices": plain[0]["choices"], "text": text, "done": done, "refused": refused.status_code,
                  "error": refused.json()["error"]["param"], "models": len(models["data"])}))
"#;

/// Works with Python requests.
pub fn f_serve_258(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("Python requests at the printed base URL: one session, plain twice, streamed, refused, listed");
    let probe = Run::new(OsStr::new("python3")).args(["-c", "import requests"]).output()?;
    if probe.code() != Some(0) {
        return Err(instrument("python3 has no module requests"));
    }
    let server = serve(s, &[])?;
    let want = hello(s)?;
    let run = Run::new(OsStr::new("python3")).args(["-c", REQUESTS, &printed_base(&server)?, HELLO]);
    let out = run.output()?;
    content(&mut t, &out, &want)?;
    let got: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    let seen = [
        ("text", json!(want)),
        ("done", json!(true)),
        ("refused", json!(400)),
        ("error", json!("messages")),
        ("models", json!(1)),
    ];
    for (field, want) in seen {
        t.hold(got[field] == want, || {
            out.refute(&format!("requests sees '{field}'"), got[field].to_string(), want.to_string())
        })?;
    }
    t.done()
}
