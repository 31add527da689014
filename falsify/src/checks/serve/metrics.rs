//! `/metrics`: read by the grammar of Prometheus' text format, then compared with what the replies said.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

use serde_json::json;

use super::completion;
use crate::child::Run;
use crate::server::{Server, serve};
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Tally};

/// A page, read: families with their types, samples by name and labels.
#[derive(Default)]
struct Page {
    types: BTreeMap<String, String>,
    helps: BTreeSet<String>,
    /// Name, labels, value.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Names that the specification forces and that Prometheus' linter complains of: the list is the whole of it.
const FORCED_NAMES: &[&str] = &["apr_inference_count", "apr_tokens_generated"];

/// What promtool has to say of them, beside the colon of each of vLLM's names.
const COMPLAINTS: &[&str] = &[
    "apr_inference_count counter metrics should have \"_total\" suffix",
    "apr_inference_count non-histogram and non-summary metrics should not have \"_count\" suffix",
    "apr_tokens_generated counter metrics should have \"_total\" suffix",
];

fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// `a="b",c="d"` with the format's three escapes.
fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").ok_or_else(|| format!("no value in {rest}"))?;
        let (mut out, mut chars, mut end) = (String::new(), value.char_indices(), None);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = Some(at);
                    break;
                }
                '\\' => out.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, c @ ('\\' | '"'))) => c,
                    other => return Err(format!("escape {other:?}")),
                }),
                c => out.push(c),
            }
        }
        let end = end.ok_or_else(|| format!("no end in {rest}"))?;
        if !is_name(name) || name.contains(':') || found.insert(name.to_string(), out).is_some() {
            return Err(format!("label {name}"));
        }
        rest = value[end + 1..].strip_prefix(',').unwrap_or(&value[end + 1..]);
    }
    Ok(found)
}

impl Page {
    /// Reads a page, or says what its grammar forbids.
    fn read(text: &str) -> Result<Page, String> {
        let mut page = Page::default();
        if !text.ends_with('\n') {
            return Err("the last line has no end".into());
        }
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let name = rest.split(' ').next().unwrap_or_default();
                if !page.helps.insert(name.into()) {
                    return Err(format!("two HELP of {name}"));
                }
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or("a TYPE without a type")?;
                if !["counter", "gauge", "histogram"].contains(&kind) || !is_name(name) {
                    return Err(line.to_string());
                }
                if page.types.insert(name.into(), kind.into()).is_some() {
                    return Err(format!("two TYPE of {name}"));
                }
            } else {
                page.sample(line)?;
            }
        }
        Ok(page)
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let (series, value) = line.rsplit_once(' ').ok_or_else(|| format!("no value: {line}"))?;
        let value: f64 = value.parse().map_err(|_| format!("no number: {line}"))?;
        let (name, of) = match series.split_once('{') {
            Some((name, rest)) => (name, labels(rest.strip_suffix('}').ok_or_else(|| format!("no brace: {line}"))?)?),
            None => (series, BTreeMap::new()),
        };
        if !is_name(name) || self.samples.iter().any(|(n, l, _)| n == name && *l == of) {
            return Err(format!("name, or twice: {line}"));
        }
        if self.family(name).is_none() {
            return Err(format!("no TYPE before {line}"));
        }
        self.samples.push((name.into(), of, value));
        Ok(())
    }

    /// The family of a sample: a histogram's samples have endings.
    fn family(&self, name: &str) -> Option<&str> {
        let histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end));
        let of = histogram.filter(|n| self.types.get(*n).is_some_and(|t| t == "histogram")).chain([name]);
        of.into_iter().find_map(|n| self.types.get_key_value(n)).map(|(n, _)| n.as_str())
    }

    fn value(&self, name: &str) -> Option<f64> {
        self.samples.iter().find(|(n, ..)| n == name).map(|(.., v)| *v)
    }

    /// Laws that a histogram breaks.
    fn broken_histogram(&self, name: &str) -> Option<String> {
        let bucket = format!("{name}_bucket");
        let buckets: Vec<(f64, f64)> = self
            .samples
            .iter()
            .filter(|(n, ..)| *n == bucket)
            .filter_map(|(_, l, v)| Some((l.get("le")?.replace("+Inf", "inf").parse().ok()?, *v)))
            .collect();
        let (sum, count) = (self.value(&format!("{name}_sum"))?, self.value(&format!("{name}_count"))?);
        let ascending = buckets.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1);
        let last = buckets.last().is_some_and(|(le, n)| le.is_infinite() && *n == count);
        let sums = sum >= 0.0 && (count > 0.0 || sum == 0.0);
        (!(ascending && last && sums)).then(|| format!("{name}: {buckets:?}, sum {sum}, count {count}"))
    }
}

fn page(t: &mut Tally, server: &Server) -> Result<Page, Halt> {
    let reply = server.get("/metrics")?;
    let kind = reply.header("content-type").unwrap_or_default().to_string();
    let right = reply.status == 200 && kind.starts_with("text/plain; version=0.0.4");
    t.hold(right, || server.refute("the page has its type", format!("{} {kind}", reply.status), "200, version=0.0.4"))?;
    let read = Page::read(&reply.text());
    let wrong = read.as_ref().err().cloned().unwrap_or_default();
    t.hold(read.is_ok(), || server.refute("the page obeys the text format's grammar", wrong, "no error"))?;
    Ok(read.unwrap_or_default())
}

/// GET /metrics returns Prometheus format.
pub fn f_serve_233(s: &Subject) -> Attempt {
    let mut t = Tally::new("/metrics before and after requests, of a model whose name is made to break labels");
    let server = serve(s, &["--name", "a\"} 1\nvllm:evil{x=\"\\"])?;
    for round in 0..2 {
        let page = page(&mut t, &server)?;
        for family in page.types.keys() {
            t.hold(page.helps.contains(family), || server.refute("every family has HELP", family, "HELP"))?;
        }
        for name in ["apr_inference_count", "apr_tokens_generated", "apr_inference_duration_seconds"] {
            t.hold(page.types.contains_key(name), || server.refute("the specified names are there", "none", name))?;
        }
        for name in ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"] {
            t.equal("what routers look for is a gauge", &page.types.get(name).map(String::as_str), &Some("gauge"))?;
        }
        // The linter's rule for counters: what breaks it is what the specification named.
        let counters = page.types.iter().filter(|(n, k)| *k == "counter" && !n.ends_with("_total"));
        t.equal(
            "counters end in _total, but for the forced names",
            &counters.map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
            &FORCED_NAMES.to_vec(),
        )?;
        let model = page.samples.iter().find_map(|(_, l, _)| l.get("model_name"));
        t.equal(
            "a label is the model's name, whatever it is",
            &model.map(String::as_str),
            &Some("a\"} 1\nvllm:evil{x=\"\\"),
        )?;
        t.number("families", page.types.len() as f64);
        if round == 0 {
            server.answer("/v1/completions", &json!({"prompt": "x", "max_tokens": 3}))?;
            server.get("/nothing")?;
        }
    }
    let page = server.get("/metrics")?.text();
    match Run::new(OsStr::new("promtool")).args(["check", "metrics"]).stdin(page).output() {
        Err(_) => t.note("promtool was not run: it is not on this machine"),
        Ok(out) => {
            let of_vllm = |l: &&str| l.starts_with("vllm:") && l.ends_with("metric names should not contain ':'");
            let said = out.out() + &out.err();
            let complaints: Vec<&str> = said.lines().filter(|l| !of_vllm(l)).collect();
            t.equal(
                "promtool parses the page and complains of the forced names alone",
                &complaints,
                &COMPLAINTS.to_vec(),
            )?;
            t.note("promtool check metrics was run");
        }
    }
    t.done()
}

/// Finishes requests and says how many answers and tokens the replies counted.
fn finish(server: &Server) -> Result<(f64, f64), Halt> {
    let (mut requests, mut tokens) = (0.0, 0.0);
    for (i, stream) in [false, true, false, true, false].into_iter().enumerate() {
        let mut body = completion(server, "def", 3 + i)?;
        if stream {
            (body["stream"], body["stream_options"]) = (true.into(), json!({"include_usage": true}));
        } else {
            body["n"] = 2.into();
        }
        let reply = server.answer("/v1/completions", &body)?;
        let usage = if stream { reply.chunks().pop().unwrap_or_default() } else { reply.json() };
        tokens += usage["usage"]["completion_tokens"].as_f64().unwrap_or(f64::NAN);
        requests += 1.0;
    }
    // A refused request is none.
    server.post("/v1/completions", &json!({"prompt": 3}))?;
    Ok((requests, tokens))
}

/// Grows by exactly this, three times.
fn grows(s: &Subject, name: &str, by: fn((f64, f64)) -> f64) -> Attempt {
    let mut t = Tally::new(format!("{name} before and after five requests, whole and streamed, three times"));
    let server = serve(s, &[])?;
    for _ in 0..3 {
        let before = server.metric(name)?;
        let made = by(finish(&server)?);
        let after = server.metric(name)?;
        t.hold(after - before == made, || {
            server.refute(
                &format!("{name} grows by what the replies say"),
                format!("{}", after - before),
                made.to_string(),
            )
        })?;
    }
    t.done()
}

/// apr_inference_count increments.
pub fn f_serve_250(s: &Subject) -> Attempt {
    grows(s, "apr_inference_count", |(requests, _)| requests)
}

/// apr_tokens_generated increments.
pub fn f_serve_251(s: &Subject) -> Attempt {
    grows(s, "apr_tokens_generated", |(_, tokens)| tokens)
}

/// apr_inference_duration_seconds is a histogram.
pub fn f_serve_252(s: &Subject) -> Attempt {
    let mut t = Tally::new("the laws of every histogram on the page, and the sum of durations beside a clock outside");
    let server = serve(s, &[])?;
    let begun = std::time::Instant::now();
    let (requests, _) = finish(&server)?;
    let outside = begun.elapsed().as_secs_f64();
    let page = page(&mut t, &server)?;
    let histograms: Vec<&String> = page.types.iter().filter(|(_, k)| *k == "histogram").map(|(n, _)| n).collect();
    t.hold(histograms.len() >= 5, || server.refute("there are histograms", format!("{histograms:?}"), "at least 5"))?;
    for name in histograms {
        let broken = page.broken_histogram(name);
        t.hold(broken.is_none(), || {
            server.refute("a histogram is one", broken.clone().unwrap_or_default(), "its laws")
        })?;
    }
    let value = |end: &str| page.value(&format!("apr_inference_duration_seconds_{end}")).unwrap_or(f64::NAN);
    t.equal("every request is observed", &value("count"), &requests)?;
    let sum = value("sum");
    t.hold(sum > 0.0 && sum <= outside, || {
        server.refute("the sum fits the time seen from outside", sum.to_string(), format!("0 to {outside}"))
    })?;
    t.done()
}
