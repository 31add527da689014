//! A trace as JSON.
//!
//! The events are those that AWS Step Functions' `GetExecutionHistory` returns for the same happenings, with its names
//! and types: `timestamp`, `type`, `id` (from 1), `previousEventId`, and `executionStartedEventDetails`,
//! `stateEnteredEventDetails` and so on, whose `input` and `output` are JSON in a string. (Its timestamps are ISO 8601
//! where its own client prints them.) Beside these stand `name`, `input` and `output` as values, for people and `jq`.
//!
//! Schema version 1.0. A field that is added raises the second number, any other change the first.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::tensor::number;
use super::{Trace, Visit};
use crate::api::{InferenceConfig, Options};
use crate::error::Error;
use crate::sample::settings::Setting;
use crate::sample::{Sampling, Step};
use crate::session::{Answer, Loaded};
use crate::text::strftime;

/// The version of the document's form.
pub const SCHEMA_VERSION: &str = "1.0";

/// What ran, for the document's head.
pub struct Run<'a> {
    /// What was asked for.
    pub config: &'a InferenceConfig,
    /// The rest of it.
    pub options: &'a Options,
    /// The model.
    pub loaded: &'a Loaded,
    /// SHA-256 of the model's files.
    pub sha256: &'a str,
    /// Time to open it, if it was opened for this run.
    pub load_ms: Option<f64>,
    /// Microseconds from the beginning to the end.
    pub stopped_us: u64,
    /// How it ended.
    pub ended: Result<&'a Answer, &'a Error>,
}

/// The whole trace.
pub fn document(trace: &Trace, run: &Run<'_>) -> Value {
    let stopped_us = run.stopped_us;
    let seconds_of = |visits: &mut dyn Iterator<Item = &Visit>| {
        visits.map(|v| (v.exited_us - v.entered_us) as f64 / 1e3).sum::<f64>()
    };
    let mut summary = json!({
        "load_ms": run.load_ms,
        "duration_ms": stopped_us as f64 / 1e3,
        "stages_ms": seconds_of(&mut trace.visits.iter()),
        "tracing_ms": trace.overhead_us as f64 / 1e3,
        "warnings": trace.warnings,
    });
    if let Ok(answer) = run.ended {
        summary["text"] = json!(answer.text);
        summary["tokens"] = json!(answer.tokens);
        summary["prompt_tokens"] = json!(answer.prompt_tokens);
        summary["finish_reason"] = json!(answer.finish.reason());
    }
    json!({
        //= F-TRACE-200
        "schema_version": SCHEMA_VERSION,
        "execution_arn": format!("arn:apr:execution:local:{}", uuid()),
        "status": if run.ended.is_ok() { "SUCCEEDED" } else { "FAILED" },
        "startDate": iso8601(trace.began),
        "stopDate": iso8601(trace.began + Duration::from_micros(stopped_us)),
        //= F-TRACE-201
        "model": model(run),
        //= F-TRACE-202
        "run_config": run_config(trace, run),
        "summary": summary,
        "events": events(trace, run),
    })
}

fn model(run: &Run<'_>) -> Value {
    let (m, h) = (&run.loaded.model, &run.loaded.model.hyper);
    let formats: Map<String, Value> = m.formats().iter().map(|(f, n)| (f.to_string(), json!(n))).collect();
    let path = &run.config.model_path;
    json!({
        "file": path.file_name().map(|n| n.to_string_lossy()),
        // Text that is no path any more would be worse than none.
        "path": path.to_str(),
        "sha256": run.sha256,
        "bytes": m.file_bytes,
        "name": m.metadata.string("general.name").ok().flatten(),
        "format": m.format,
        "architecture": m.arch.name,
        "layers": h.layers,
        "hidden": h.hidden,
        "heads": h.heads,
        "kv_heads": h.kv_heads,
        "head_dim": h.head_dim,
        "ffn": h.ffn,
        "vocab": h.vocab,
        "context": h.context,
        "quantization": formats,
    })
}

/// Everything that [`super::replay`] needs to do it again.
fn run_config(trace: &Trace, run: &Run<'_>) -> Value {
    let none = Sampling::default();
    let s = trace.sampling.as_ref().unwrap_or(&none);
    let settings: Map<String, Value> = Setting::ALL.iter().map(|x| (x.name.into(), number((x.get)(s)))).collect();
    json!({
        "prompt": run.config.prompt,
        "system": run.options.system,
        "raw": run.options.raw,
        "max_tokens": run.config.max_tokens,
        "stops": run.options.stops,
        "sampling": settings,
        "samplers": Step::names(&s.order),
        "logit_bias": s.logit_bias.iter().map(|(t, x)| json!([t, number(*x)])).collect::<Vec<_>>(),
        "dry_breakers": s.dry_breakers,
        "seed": s.seed,
        "backend": run.loaded.backend(),
        "threads": run.options.threads,
        "context": run.loaded.context,
        "prefill_chunk": run.options.prefill_chunk,
        "steps": trace.only.as_ref().map(|only| only.iter().map(|s| s.name()).collect::<Vec<_>>()),
        "verbose": trace.verbose,
    })
}

fn events(trace: &Trace, run: &Run<'_>) -> Vec<Value> {
    let mut events = Vec::with_capacity(2 * trace.visits.len() + 2);
    let mut push = |us: u64, kind: &str, details: (&str, Value), rest: Value| {
        let id = events.len() + 1;
        //= F-TRACE-195
        //= F-TRACE-196
        //= F-TRACE-210
        let mut event = json!({
            "timestamp": iso8601(trace.began + Duration::from_micros(us)),
            "type": kind,
            "id": id,
            //= F-TRACE-197
            "previousEventId": id - 1,
        });
        if let (Value::Object(event), Value::Object(rest)) = (&mut event, rest) {
            event.extend(rest);
            event.insert(details.0.into(), details.1);
        }
        events.push(event);
    };
    let input = json!({"prompt": run.config.prompt}).to_string();
    let started = json!({"input": input, "inputDetails": {"truncated": false}});
    push(0, "ExecutionStarted", ("executionStartedEventDetails", started), json!({}));
    for v in &trace.visits {
        let place = |value: &Value, field: &str| {
            let mut rest = json!({"name": v.step.name(), "iteration": v.iteration, field: value});
            if let Some(layer) = v.layer {
                rest["layer"] = json!(layer);
            }
            rest
        };
        let details = |value: &Value, field: &str| {
            let cut = value.get("truncated").is_some_and(|t| t == true);
            let about = format!("{field}Details");
            json!({"name": v.step.name(), field: value.to_string(), about: {"truncated": cut}})
        };
        let entered = ("stateEnteredEventDetails", details(&v.input, "input"));
        //= F-TRACE-193
        //= F-TRACE-198
        push(v.entered_us, "TaskStateEntered", entered, place(&v.input, "input"));
        let mut rest = place(&v.output, "output");
        rest["duration_us"] = json!(v.exited_us - v.entered_us);
        let exited = ("stateExitedEventDetails", details(&v.output, "output"));
        //= F-TRACE-194
        push(v.exited_us, "TaskStateExited", exited, rest);
    }
    match run.ended {
        Ok(answer) => {
            let output = json!(answer.text).to_string();
            let details = json!({"output": output, "outputDetails": {"truncated": false}});
            push(run.stopped_us, "ExecutionSucceeded", ("executionSucceededEventDetails", details), json!({}));
        }
        Err(error) => {
            let details = json!({"error": error.kind.name(), "cause": error.to_string()});
            push(run.stopped_us, "ExecutionFailed", ("executionFailedEventDetails", details), json!({}));
        }
    }
    events
}

/// `2026-11-23T11:39:17.123456Z`.
pub(super) fn iso8601(time: SystemTime) -> String {
    let micros = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.subsec_micros());
    format!("{}.{micros:06}Z", strftime("%Y-%m-%dT%H:%M:%S", time))
}

/// A random UUID, version 4 (RFC 9562). The standard library's hasher is seeded by the system.
fn uuid() -> String {
    let random = || RandomState::new().build_hasher().finish();
    let (a, b) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        0x8000 | (b >> 48 & 0x3fff),
        b & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_iso_8601() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_042);
        assert_eq!(iso8601(time), "2023-11-14T22:13:20.000042Z");
    }

    #[test]
    fn uuids_differ_and_say_their_version() {
        let (a, b) = (uuid(), uuid());
        assert_ne!(a, b);
        assert!(a.len() == 36 && a.as_bytes()[14] == b'4' && matches!(a.as_bytes()[19], b'8'..=b'b'), "{a}");
    }
}
