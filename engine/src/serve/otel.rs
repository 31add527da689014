//! Spans of requests for OpenTelemetry, sent by OTLP over HTTP in its JSON form. Behind the feature `otel`.
//!
//! A request is one span, a child of the caller's where a `traceparent` header names it; each of its answers has three of
//! its own: queue, prefill, decode. OpenTelemetry's own crates would bring dozens of packages for what is one JSON object;
//! names are those of its conventions for generative models. Spans wait for a collector in a bounded queue and are
//! counted where they are lost: no request waits for one.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::answer::Answer;
use super::{chat, door};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::knobs;
use crate::limits::{OTLP_BATCH, OTLP_QUEUE, OTLP_TIME};

/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_millis(200);

/// Where spans are sent from, on a thread of its own.
pub struct Exporter {
    sender: Option<SyncSender<Value>>,
    thread: Option<JoinHandle<()>>,
    lost: Arc<AtomicU64>,
}

impl Exporter {
    /// To the collector at `http://host:port`, as OpenTelemetry's environment variable has it.
    pub fn start(endpoint: &str) -> Result<Exporter> {
        let refuse = |why: &str| {
            let what = format!("{} is no collector: {why}", quoted(endpoint));
            Error::new(Kind::Usage, what).at(Place::Flag(knobs::OTLP.name.into())).hint("give http://HOST:4318")
        };
        let rest = endpoint.strip_prefix("http://").ok_or_else(|| refuse("only http:// is spoken"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = format!("/{path}").trim_end_matches('/').to_string() + "/v1/traces";
        if host.is_empty() || rest.contains(|c: char| c.is_control() || c == ' ') {
            return Err(refuse("it has no host, or blanks"));
        }
        let host =
            if host.rsplit(']').next().is_some_and(|h| h.contains(':')) { host.into() } else { format!("{host}:80") };
        let (sender, spans) = sync_channel(OTLP_QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let export = move || {
            while let Some(batch) = gather(&spans) {
                let count = batch.len() as u64;
                if post(&host, &path, &envelope(batch)).is_none() {
                    counted.fetch_add(count, Ordering::Relaxed);
                }
            }
        };
        let no_thread = |e| Error::new(Kind::TooLarge, format!("no thread for the exporter: {e}"));
        let thread = thread::Builder::new().name("otlp".into()).spawn(export).map_err(no_thread)?;
        Ok(Exporter { sender: Some(sender), thread: Some(thread), lost })
    }

    /// Spans that no collector got.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn send(&self, span: Value) {
        if self.sender.as_ref().is_none_or(|s| s.try_send(span).is_err()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Exporter {
    /// What waits is sent.
    fn drop(&mut self) {
        self.sender = None;
        self.thread.take().map(JoinHandle::join);
    }
}

/// The next spans; none when there will be no more.
fn gather(spans: &Receiver<Value>) -> Option<Vec<Value>> {
    let mut batch = vec![spans.recv().ok()?];
    let until = Instant::now() + GATHER;
    while batch.len() < OTLP_BATCH {
        match spans.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(span) => batch.push(span),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(batch)
}

fn envelope(spans: Vec<Value>) -> String {
    let scope = json!({"name": "apr", "version": env!("CARGO_PKG_VERSION")});
    let resource = json!({"attributes": [text("service.name", "apr")]});
    json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]}).to_string()
}

/// One request to the collector. None if it did not take it.
fn post(host: &str, path: &str, body: &str) -> Option<()> {
    let to = host.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&to, OTLP_TIME).ok()?;
    stream.set_read_timeout(Some(OTLP_TIME)).ok()?;
    stream.set_write_timeout(Some(OTLP_TIME)).ok()?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok()?;
    let mut status = [0u8; 12];
    stream.read_exact(&mut status).ok()?;
    (status.starts_with(b"HTTP/1.") && status[9] == b'2').then_some(())
}

/// The caller's span, from a `traceparent` header of W3C's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    trace: String,
    span: String,
    sampled: bool,
}

impl Parent {
    /// None if there is none, or one that is malformed: the request is then a trace of its own.
    pub fn read(headers: &HeaderMap) -> Option<Parent> {
        let parts: Vec<&str> = headers.get("traceparent")?.to_str().ok()?.split('-').collect();
        let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let [version, trace, span, flags, ..] = parts[..] else { return None };
        let known = hex(version, 2) && version != "ff" && (version != "00" || parts.len() == 4);
        let right = known && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
        let named = [trace, span].iter().all(|id| id.bytes().any(|b| b != b'0'));
        let sampled = u8::from_str_radix(flags, 16).is_ok_and(|f| f & 1 == 1);
        (right && named).then(|| Parent { trace: trace.into(), span: span.into(), sampled })
    }
}

/// A request that goes on. If nobody ends it, it was given up.
pub struct Span {
    exporter: Option<Arc<Exporter>>,
    parent: Option<Parent>,
    model: String,
    began: SystemTime,
}

impl Span {
    /// Of a request that began then. Without an exporter, or where the caller does not sample, nothing is noted.
    pub fn begin(exporter: Option<&Arc<Exporter>>, parent: Option<Parent>, model: &str, began: SystemTime) -> Span {
        let exporter = exporter.filter(|_| parent.as_ref().is_none_or(|p| p.sampled)).cloned();
        Span { exporter, parent, model: model.into(), began }
    }

    /// The end: with an error, or with all answers.
    pub fn end(&mut self, answers: &[Answer], error: Option<&str>) {
        let Some(exporter) = self.exporter.take() else { return };
        let trace = self.parent.as_ref().map_or_else(|| door::unique(""), |p| p.trace.clone());
        let id = || door::unique("").split_off(16);
        let root = id();
        let after = |ms: f64| self.began + Duration::from_secs_f64(ms.max(0.0) / 1e3);
        let span = |id: &str, parent: Option<&str>, name: &str, kind: u8, from, to, attributes: Vec<Value>| {
            json!({"traceId": trace, "spanId": id, "parentSpanId": parent.unwrap_or_default(), "name": name, "kind": kind,
                "startTimeUnixNano": nanos(from), "endTimeUnixNano": nanos(to), "attributes": attributes})
        };
        for (index, answer) in answers.iter().enumerate().filter(|(_, a)| a.usage.completion_tokens > 0) {
            let t = answer.timings;
            let mut at = 0.0;
            for (name, ms) in [("queue", t.queued_ms), ("prefill", t.prefill_ms), ("decode", t.decode_ms)] {
                let choice = vec![number("apr.choice", index)];
                exporter.send(span(&id(), Some(&root), name, 1, after(at), after(at + ms), choice));
                at += ms;
            }
        }
        let sum = |of: fn(&Answer) -> usize| answers.iter().map(of).sum::<usize>();
        let reasons: Vec<Value> =
            answers.iter().map(|a| json!({"stringValue": chat::finish_reason(a.finish)})).collect();
        let mut attributes = vec![
            text("gen_ai.request.model", &self.model),
            number("gen_ai.usage.input_tokens", sum(|a| a.usage.prompt_tokens)),
            number("gen_ai.usage.output_tokens", sum(|a| a.usage.completion_tokens)),
            number("apr.cached_tokens", sum(|a| a.usage.cached_tokens)),
        ];
        if error.is_none() {
            let list = json!({"arrayValue": {"values": reasons}});
            attributes.push(json!({"key": "gen_ai.response.finish_reasons", "value": list}));
        }
        let parent = self.parent.as_ref().map(|p| p.span.as_str());
        let name = format!("inference {}", self.model);
        // Of a server.
        let mut whole = span(&root, parent, &name, 2, self.began, SystemTime::now(), attributes);
        if let Some(message) = error {
            whole["status"] = json!({"code": 2, "message": message});
        }
        exporter.send(whole);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.end(&[], Some("the client is gone"));
    }
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// 64-bit numbers are strings in this form of JSON.
fn number(key: &str, value: usize) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

fn nanos(at: SystemTime) -> String {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::ServeConfig;
    use crate::serve::{Options, start};

    /// A collector: what it was sent, path and body.
    fn collector() -> (String, Receiver<(String, Value)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, got) = channel();
        thread::spawn(move || {
            for mut peer in listener.incoming().flatten() {
                let (mut raw, mut buffer) = (Vec::new(), [0u8; 4096]);
                let body = loop {
                    let n = peer.read(&mut buffer).unwrap();
                    raw.extend_from_slice(&buffer[..n]);
                    let text = String::from_utf8_lossy(&raw).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length: usize = head.split("Content-Length: ").nth(1).unwrap().parse().unwrap();
                    if body.len() >= length {
                        break (head.split(' ').nth(1).unwrap().to_string(), serde_json::from_str(body).unwrap());
                    }
                };
                peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                sender.send(body).unwrap();
            }
        });
        (endpoint, got)
    }

    fn say(to: std::net::SocketAddr, traceparent: &str, body: &str) -> String {
        let mut peer = TcpStream::connect(to).unwrap();
        let (n, head) = (body.len(), "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close");
        write!(peer, "{head}\r\ntraceparent: {traceparent}\r\nContent-Length: {n}\r\n\r\n{body}").unwrap();
        let mut reply = String::new();
        peer.read_to_string(&mut reply).unwrap();
        reply
    }

    #[test]
    fn a_collector_gets_the_spans_of_a_request() {
        let (endpoint, got) = collector();
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/qwen2-tiny-q8_0.gguf");
        let config = ServeConfig { model_path: model.into(), host: "127.0.0.1".into(), port: 0, gpu: false };
        let options = Options { otlp: Some(endpoint), threads: Some(1), ..Options::default() };
        let server = start(config, options, |_| Ok(())).unwrap();
        let to = server.address();
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let body = r#"{"prompt": "def", "max_tokens": 4, "n": 2, "stream": true}"#;
        let reply = say(to, &format!("00-{trace}-b7ad6b7169203331-01"), body);
        assert!(reply.contains("[DONE]"), "{reply}");
        // Who does not sample is not noted, and who is refused never began.
        say(to, &format!("00-{trace}-b7ad6b7169203331-00"), body);
        say(to, "", r#"{"prompt": 3}"#);
        server.stop().unwrap();
        let (path, sent) = got.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(path, "/v1/traces");
        assert!(got.recv_timeout(Duration::from_millis(300)).is_err());
        let spans = sent["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        let names: Vec<&str> = spans.iter().map(|s| s["name"].as_str().unwrap()).collect();
        let phases = ["queue", "prefill", "decode"];
        assert_eq!(names, [&phases[..], &phases, &["inference qwen2-tiny-q8_0"]].concat());
        let root = spans.last().unwrap();
        let time = |s: &Value, end: &str| s[end].as_str().unwrap().parse::<u128>().unwrap();
        let (from, to) = ("startTimeUnixNano", "endTimeUnixNano");
        for span in spans {
            assert!(span["traceId"] == trace && span["spanId"].as_str().unwrap().len() == 16);
            assert!(time(root, from) <= time(span, from) && time(span, from) <= time(span, to));
            assert!(time(span, to) <= time(root, to), "{span} {root}");
        }
        assert!(spans[..6].iter().all(|s| s["parentSpanId"] == root["spanId"]));
        assert_eq!((&root["parentSpanId"], &root["kind"]), (&json!("b7ad6b7169203331"), &json!(2)));
        let attribute = |key: &str| {
            let list = root["attributes"].as_array().unwrap();
            list.iter().find(|a| a["key"] == key).unwrap()["value"]["intValue"].clone()
        };
        let made: usize = attribute("gen_ai.usage.output_tokens").as_str().unwrap().parse().unwrap();
        assert!((1..=8).contains(&made));
        assert!(root["status"].is_null());
    }

    #[test]
    fn who_gives_up_is_an_error_and_a_collector_that_is_gone_costs_only_the_spans() {
        let (endpoint, got) = collector();
        let exporter = Arc::new(Exporter::start(&format!("{endpoint}/base/")).unwrap());
        drop(Span::begin(Some(&exporter), None, "m", SystemTime::now()));
        let (path, sent) = got.recv_timeout(Duration::from_secs(10)).unwrap();
        let span = &sent["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!((path.as_str(), &span["status"]["code"]), ("/base/v1/traces", &json!(2)));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let exporter = Arc::new(Exporter::start(&format!("http://{closed}")).unwrap());
        drop(Span::begin(Some(&exporter), None, "m", SystemTime::now()));
        let until = Instant::now() + Duration::from_secs(10);
        while exporter.lost() == 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(exporter.lost(), 1);
        for wrong in ["https://x", "localhost:4318", "http://", "http:// x"] {
            assert!(Exporter::start(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_traceparent_is_read_or_is_none() {
        let read =
            |v: &str| Parent::read(&HeaderMap::from_iter([("traceparent".parse().unwrap(), v.parse().unwrap())]));
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let parent = |sampled| Some(Parent { trace: trace.into(), span: span.into(), sampled });
        assert_eq!(read(&format!("00-{trace}-{span}-01")), parent(true));
        assert_eq!(read(&format!("00-{trace}-{span}-00")), parent(false));
        // A later version may have more.
        assert_eq!(read(&format!("01-{trace}-{span}-01-more")), parent(true));
        let zero = "0".repeat(32);
        for wrong in [
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{zero}-{span}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{}-01", &zero[..16]),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-1"),
            "-".into(),
        ] {
            assert_eq!(read(&wrong), None, "{wrong}");
        }
    }
}
