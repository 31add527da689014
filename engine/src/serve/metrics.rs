//! `/metrics` in Prometheus' text format: the specification's three names, what an operator needs, and the same under
//! vLLM's names, which dashboards and routers know.
//!
//! One table of families makes the page. A scrape is cheap: counters are read, nothing is computed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::header;
use axum::response::IntoResponse;

use super::Server;
use super::route::{Route, get};
use crate::scheduler::{Histogram, Snapshot};

/// The routes of this dialect.
pub static ROUTES: &[Route] = &[get("/metrics", "Counters and times, in Prometheus' format", false, |server, _| {
    Box::pin(async move {
        let page = page(&server);
        Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response())
    })
})];

/// Upper bounds for a whole request, in seconds: small models answer in milliseconds.
const DURATION_BOUNDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// What the server counts itself; the rest is the scheduler's.
pub struct Counts {
    finished: AtomicU64,
    tokens: AtomicU64,
    duration: Mutex<Histogram>,
    /// Replies by route and status.
    replies: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            finished: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            duration: Mutex::new(Histogram::new(DURATION_BOUNDS)),
            replies: Mutex::default(),
        }
    }
}

impl Counts {
    /// A token was made.
    //= F-SERVE-251
    pub fn token(&self) {
        self.tokens.fetch_add(1, Ordering::Relaxed);
    }

    /// A generating request got its whole answer, so long after it was taken.
    //= F-SERVE-250
    pub fn finished(&self, took: Duration) {
        self.finished.fetch_add(1, Ordering::Relaxed);
        self.duration.lock().unwrap_or_else(PoisonError::into_inner).observe(took.as_secs_f64());
    }

    /// A reply left. Paths that no route has are one, so that nobody fills the table.
    //= F-SERVE-253
    pub fn replied(&self, route: &'static str, status: u16) {
        *self.replies.lock().unwrap_or_else(PoisonError::into_inner).entry((route, status)).or_default() += 1;
    }
}

/// A page in the making.
struct Page {
    text: String,
    /// Of every sample of vLLM's names.
    model: String,
}

/// A label's value: quotes, line ends and backslashes would end it.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.text, "{name}{braces} {value}");
    }

    fn number(&mut self, kind: &str, name: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        let labels = self.labels(name);
        self.sample(name, &labels, value);
    }

    /// Buckets are accumulated here, and the last is all.
    //= F-SERVE-252
    fn histogram(&mut self, name: &str, help: &str, h: &Histogram) {
        self.head(name, "histogram", help);
        let labels = self.labels(name);
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        for (bound, count) in h.bounds.iter().zip(&h.counts) {
            below += count;
            self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), below as f64);
        }
        self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"+Inf\""), h.count() as f64);
        self.sample(&format!("{name}_sum"), &labels, h.sum);
        self.sample(&format!("{name}_count"), &labels, h.count() as f64);
    }

    fn labels(&self, name: &str) -> String {
        if name.starts_with("vllm:") { format!("model_name=\"{}\"", self.model) } else { String::new() }
    }
}

/// The page.
//= F-SERVE-233
fn page(server: &Server) -> String {
    let s = server.model.get().map(|served| served.handle.metrics()).unwrap_or_default();
    let counts = &server.counts;
    let mut p = Page { text: String::new(), model: label(&server.name) };
    let load = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64;
    p.number("counter", "apr_inference_count", "Requests that got their whole answer.", load(&counts.finished));
    p.number("counter", "apr_tokens_generated", "Tokens made.", load(&counts.tokens));
    let duration = counts.duration.lock().unwrap_or_else(PoisonError::into_inner).clone();
    p.histogram("apr_inference_duration_seconds", "From a request's arrival to its whole answer.", &duration);
    p.number("gauge", "apr_model_loaded", "1 once the model is loaded.", f64::from(server.model.get().is_some()));
    p.number("gauge", "apr_draining", "1 while the server stops.", f64::from(server.draining()));
    #[cfg(feature = "otel")]
    if let Some(exporter) = &server.exporter {
        let help = "Spans that no collector got.";
        p.number("counter", "apr_otel_lost_spans_total", help, exporter.lost() as f64);
    }
    both(&mut p, &s);
    p.head("apr_requests_ended_total", "counter", "Answers by how they ended.");
    let e = s.ended;
    let ends = [
        ("stop", e.stop),
        ("length", e.length),
        ("cancelled", e.cancelled),
        ("timed_out", e.timed_out),
        ("failed", e.failed),
        ("refused", e.refused),
    ];
    for (how, n) in ends {
        p.sample("apr_requests_ended_total", &format!("how=\"{how}\""), n as f64);
    }
    p.head("vllm:request_success_total", "counter", "Answers by how they ended.");
    for (reason, n) in [("stop", e.stop), ("length", e.length), ("abort", e.cancelled)] {
        let labels = format!("model_name=\"{}\",finished_reason=\"{reason}\"", p.model);
        p.sample("vllm:request_success_total", &labels, n as f64);
    }
    p.head("apr_http_replies_total", "counter", "Replies by route and status.");
    for ((route, status), n) in counts.replies.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let labels = format!("route=\"{}\",status=\"{status}\"", label(route));
        p.sample("apr_http_replies_total", &labels, *n as f64);
    }
    p.text
}

/// What has a name here and one of vLLM's, empty where it has none.
fn both(p: &mut Page, s: &Snapshot) {
    let used = s.kv_blocks_used as f64 / s.kv_blocks_total.max(1) as f64;
    let numbers: &[(&str, &str, &str, &str, f64)] = &[
        ("gauge", "apr_requests_running", "vllm:num_requests_running", "Requests in steps.", s.running as f64),
        ("gauge", "apr_requests_waiting", "vllm:num_requests_waiting", "Requests in the queue.", s.waiting as f64),
        ("gauge", "apr_kv_cache_usage", "vllm:kv_cache_usage_perc", "Share of the KV cache held by requests.", used),
        ("gauge", "apr_kv_blocks_cached", "", "Blocks kept for prompts that begin alike.", s.kv_blocks_cached as f64),
        ("gauge", "apr_kv_blocks", "", "Blocks of the KV cache.", s.kv_blocks_total as f64),
        ("gauge", "apr_kv_block_bytes", "", "Bytes of a block.", s.kv_block_bytes as f64),
        ("counter", "apr_steps_total", "", "Steps of the model.", s.steps as f64),
        ("counter", "apr_shared_steps_total", "", "Steps with rows of several requests.", s.shared_steps as f64),
        ("counter", "apr_rows_total", "", "Rows of all steps.", s.rows as f64),
        (
            "counter",
            "apr_prompt_tokens_total",
            "vllm:prompt_tokens_total",
            "Tokens of prompts.",
            s.prompt_tokens as f64,
        ),
        ("counter", "", "vllm:generation_tokens_total", "Tokens made.", s.generated_tokens as f64),
        ("counter", "", "vllm:prefix_cache_queries_total", "Tokens looked up in the cache.", s.prompt_tokens as f64),
        (
            "counter",
            "apr_cached_tokens_total",
            "vllm:prefix_cache_hits_total",
            "Tokens of prompts that were there already.",
            s.cached_tokens as f64,
        ),
        ("counter", "apr_cache_evictions_total", "", "Blocks given up for others.", s.evictions as f64),
    ];
    for (kind, ours, theirs, help, value) in numbers {
        for name in [ours, theirs].into_iter().filter(|n| !n.is_empty()) {
            p.number(kind, name, help, *value);
        }
    }
    let histograms: &[(&str, &str, &str, &Histogram)] = &[
        (
            "apr_time_to_first_token_seconds",
            "vllm:time_to_first_token_seconds",
            "From the queue to the first token.",
            &s.time_to_first_token,
        ),
        (
            "apr_inter_token_latency_seconds",
            "vllm:inter_token_latency_seconds",
            "From a token to the next.",
            &s.inter_token,
        ),
        (
            "apr_request_duration_seconds",
            "vllm:e2e_request_latency_seconds",
            "From the queue to the end of an answer.",
            &s.request_duration,
        ),
        ("apr_queue_time_seconds", "vllm:request_queue_time_seconds", "In the queue.", &s.queue_time),
    ];
    for (ours, theirs, help, h) in histograms {
        p.histogram(ours, help, h);
        p.histogram(theirs, help, h);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_cannot_write_labels_of_its_own() {
        assert_eq!(label("a\"} 1\nb\\"), "a\\\"} 1\\nb\\\\");
    }

    #[test]
    fn buckets_are_accumulated_and_the_last_is_all() {
        let mut h = Histogram::new(&[1.0, 2.0]);
        [0.5, 1.5, 3.0].into_iter().for_each(|x| h.observe(x));
        let mut p = Page { text: String::new(), model: String::new() };
        p.histogram("x", "y", &h);
        let lines: Vec<&str> = p.text.lines().skip(2).collect();
        let want = ["x_bucket{le=\"1\"} 1", "x_bucket{le=\"2\"} 2", "x_bucket{le=\"+Inf\"} 3", "x_sum 5", "x_count 3"];
        assert_eq!(lines, want);
    }
}
