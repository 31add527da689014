//! Saboteurs of traces: each runs the real `apr` and spoils one thing in the trace that it leaves.

use serde_json::{Value, json};

use super::evil_apr::Real;
use super::evil_speed::slowed;
use super::{Means, Saboteur};

/// An entry that changes the document.
const fn evil(name: &'static str, does: &'static str, how: fn(Real) -> u8) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::EvilApr(how) }
}

/// Every misbehaviour of a trace.
pub static ALL: &[Saboteur] = &[
    evil("trace-slows-twice", "a traced run takes twice as long", |r| match r.has(&["--trace", "--trace-output"]) {
        true => slowed(r, 2),
        false => r.run(),
    }),
    evil("ignores-trace", "drops --trace and its kin", |r| {
        r.without(&["--trace", "--trace-verbose"], 0).without(&["--trace-output", "--trace-steps"], 1).run()
    }),
    evil("trace-truncated", "writes half of the trace", |r| r.retraced(|text| text[..text.len() / 2].into())),
    evil("trace-no-entered", "the LM head is never entered", |r| {
        events(r, |e| e["type"] != "TaskStateEntered" || e["name"] != "LM_HEAD")
    }),
    evil("trace-no-exited", "sampling is never left", |r| {
        events(r, |e| e["type"] != "TaskStateExited" || e["name"] != "SAMPLE")
    }),
    evil("trace-epoch-times", "timestamps are seconds since 1970", |r| {
        each(r, |e| e["timestamp"] = json!(1_795_433_957))
    }),
    evil("trace-duplicate-ids", "an exit has the id of its entry", |r| {
        each(r, |e| {
            if e["type"] == "TaskStateExited" {
                e["id"] = e["previousEventId"].clone();
            }
        })
    }),
    evil("trace-broken-links", "every event follows the first", |r| each(r, |e| e["previousEventId"] = json!(1))),
    evil("trace-empty-output", "outputs are empty", |r| {
        each(r, |e| {
            if e.get("output").is_some() {
                e["output"] = json!([]);
            }
        })
    }),
    evil("trace-wrong-stats", "means are one too large", |r| {
        statistics(r, |s| s["mean"] = json!(s["mean"].as_f64().unwrap_or(0.0) + 1.0))
    }),
    evil("trace-no-version", "no schema version", |r| {
        document(r, |d| drop(d.as_object_mut().and_then(|o| o.remove("schema_version"))))
    }),
    evil("trace-wrong-model", "one layer more than the model has", |r| {
        document(r, |d| d["model"]["layers"] = json!(d["model"]["layers"].as_u64().unwrap_or(0) + 1))
    }),
    evil("trace-wrong-config", "another repeat penalty than was used", |r| {
        document(r, |d| d["run_config"]["sampling"]["repeat-penalty"] = json!(5))
    }),
    evil("trace-without-values", "no values of tensors", |r| {
        each(r, |e| drop(e["output"].as_object_mut().and_then(|o| o.remove("values"))))
    }),
    evil("trace-always-values", "values of tensors that nobody asked for", |r| {
        let mut r = r;
        if r.has(&["--trace", "--trace-output"]) && !r.has(&["--trace-verbose"]) {
            r.push("--trace-verbose");
        }
        r.run()
    }),
    evil("trace-changes-answer", "a traced run is penalised for repetition", |r| {
        if r.has(&["--trace", "--trace-output"]) { r.instead("--repeat-penalty", "5").run() } else { r.run() }
    }),
    evil("trace-hides-nan", "no number is ever a NaN", |r| {
        statistics(r, |s| (s["nan"], s["inf"]) = (json!(0), json!(0)))
    }),
    evil("trace-uncut", "arrays are as long as their tensors", |r| {
        each(r, |e| {
            if let Some(values) = e["output"].get_mut("values") {
                values["data"] = json!(vec![0.0; values["length"].as_u64().unwrap_or(0) as usize]);
                values["truncated"] = json!(false);
            }
        })
    }),
    evil("trace-nan-literal", "a NaN stands there as NaN", |r| {
        r.retraced(|text| text.replacen("\"mean\":", "\"mean\":NaN,\"was\":", 1))
    }),
    evil("trace-renamed-fields", "names of another schema", |r| {
        r.retraced(|text| text.replace("previousEventId", "previous_event_id"))
    }),
];

/// Changes the document.
fn document(real: Real, change: impl Fn(&mut Value)) -> u8 {
    real.retraced(|text| match serde_json::from_str(&text) {
        Ok(mut document) => {
            change(&mut document);
            document.to_string()
        }
        Err(_) => text,
    })
}

/// Changes every event.
fn each(real: Real, change: impl Fn(&mut Value)) -> u8 {
    document(real, |d| d["events"].as_array_mut().into_iter().flatten().for_each(&change))
}

/// Changes the statistics of every tensor.
fn statistics(real: Real, change: impl Fn(&mut Value)) -> u8 {
    each(real, |e| e["output"].get_mut("statistics").into_iter().for_each(&change))
}

/// Keeps some events only.
fn events(real: Real, keep: impl Fn(&Value) -> bool) -> u8 {
    document(real, |d| {
        if let Some(list) = d["events"].as_array_mut() {
            list.retain(&keep);
        }
    })
}
