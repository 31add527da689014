//! A trace in the Trace Event Format of Chromium, which Perfetto opens: complete events (`ph: X`), one after another.

use serde_json::{Value, json};

use super::Trace;

/// The stages with their times; their numbers are in `args`.
pub fn chrome(trace: &Trace) -> Value {
    let events: Vec<Value> = trace
        .visits
        .iter()
        .map(|v| {
            json!({
                "name": v.layer.map_or(v.step.name().to_string(), |l| format!("{} {l}", v.step.name())),
                "cat": v.step.name(),
                "ph": "X",
                "ts": v.entered_us,
                "dur": v.exited_us - v.entered_us,
                "pid": 1,
                "tid": 1,
                "args": {"iteration": v.iteration, "input": v.input, "output": v.output},
            })
        })
        .collect();
    json!({"displayTimeUnit": "ms", "traceEvents": events})
}
