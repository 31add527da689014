//! Doing again what a trace recorded, and looking for the first difference.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::api::{self, InferenceConfig, Options, TraceConfig, TraceStep};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::sample::Step;
use crate::sample::settings::{Asked, Setting};
use crate::session::Observer;
use crate::trace::document::SCHEMA_VERSION;

/// What a replay found.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Events that were compared and equal.
    pub same: usize,
    /// The first that was not: which, and how.
    pub difference: Option<String>,
    /// The model has another SHA-256 than the one that was recorded.
    pub other_model: bool,
}

/// Runs a recorded execution again, on the model named in the trace or on another, and compares event by event:
/// everything but the times.
pub fn replay(trace: &Value, model: Option<&Path>, cancel: Options, observer: &mut dyn Observer) -> Result<Replay> {
    check_version(trace)?;
    let (config, options) = recorded(trace, model, cancel)?;
    let events = list(trace, "events")?;
    let moved = |e: Error| match (e.kind, model) {
        (Kind::NotFound, None) => e.hint("--model says where it is now"),
        _ => e,
    };
    let outcome = api::run(&config, &options, observer).map_err(moved)?;
    let again = outcome.trace.map(|t| t.json).unwrap_or_default();
    let other_model = trace["model"]["sha256"] != again["model"]["sha256"];
    let again = list(&again, "events")?;
    for (i, event) in events.iter().enumerate() {
        let here = again.get(i).unwrap_or(&Value::Null);
        if let Some((field, was, is)) = difference(event, here, String::new()) {
            let about = |name: &str| event.get(name).map_or(String::new(), |v| format!(" {name} {v}"));
            let name = event["name"].as_str().or(event["type"].as_str()).unwrap_or("?");
            let place = format!("event {} ({name}{}{})", i + 1, about("iteration"), about("layer"));
            let difference = Some(format!("{place}: {} was {was}, is {is}", field.trim_start_matches('.')));
            return Ok(Replay { same: i, difference, other_model });
        }
    }
    let more = (again.len() > events.len()).then(|| {
        format!("event {} is new: the record has {} events, the replay {}", events.len() + 1, events.len(), again.len())
    });
    Ok(Replay { same: events.len(), difference: more, other_model })
}

/// A document of this version, or of an earlier one with the same first number, is understood.
//= F-INT-296
fn check_version(trace: &Value) -> Result<()> {
    if trace.get("traceEvents").is_some() {
        let what = "a trace for Chromium's viewer does not say what was run";
        return Err(Error::new(Kind::Unsupported, what).hint("record it with --trace-format json"));
    }
    let numbers = |text: &str| -> Option<(u32, u32)> {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let said = trace["schema_version"].as_str().ok_or_else(|| wrong("schema_version", "is missing"))?;
    let (ours, theirs) = (numbers(SCHEMA_VERSION), numbers(said));
    if theirs.is_some_and(|theirs| ours.is_some_and(|ours| theirs.0 == ours.0 && theirs.1 <= ours.1)) {
        return Ok(());
    }
    Err(Error::new(Kind::Unsupported, format!("a trace of schema version {} is not supported", quoted(said)))
        .at(Place::Key("schema_version".into()))
        .hint(format!("this build reads {SCHEMA_VERSION}; record it again")))
}

/// The first field that differs, with both values, cut short. Times are not compared.
fn difference(was: &Value, is: &Value, path: String) -> Option<(String, String, String)> {
    const TIMES: [&str; 2] = ["timestamp", "duration_us"];
    match (was, is) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
            names.filter(|k| !TIMES.contains(&k.as_str())).find_map(|k| {
                let absent = &Value::Null;
                difference(a.get(k).unwrap_or(absent), b.get(k).unwrap_or(absent), format!("{path}.{k}"))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(a, b, format!("{path}[{i}]")))
        }
        _ if was == is => None,
        _ => Some((path, short(was), short(is))),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The configuration that a trace tells.
fn recorded(trace: &Value, model: Option<&Path>, options: Options) -> Result<(InferenceConfig, Options)> {
    let run = trace.get("run_config").ok_or_else(|| wrong("run_config", "is missing"))?;
    let text = |name: &str| run[name].as_str().map(String::from);
    let number = |name: &str| {
        run[name].as_u64().map(|n| n as usize).ok_or_else(|| wrong(&format!("run_config.{name}"), "is no number"))
    };
    let texts = |name: &str| -> Result<Vec<String>> {
        list(run, name)?
            .iter()
            .map(|t| t.as_str().map(String::from).ok_or_else(|| wrong(&format!("run_config.{name}"), "is no text")))
            .collect()
    };
    let model_path = match model {
        Some(path) => path.into(),
        None => {
            let path = trace["model"]["path"].as_str();
            PathBuf::from(path.ok_or_else(|| wrong("model.path", "is missing").hint("--model says where it is"))?)
        }
    };
    let value = |s: &'static Setting| {
        let x = run["sampling"][s.name].as_f64();
        x.map(|x| (s, x as f32)).ok_or_else(|| wrong(&format!("run_config.sampling.{}", s.name), "is no number"))
    };
    let bias = |pair: &Value| match (pair[0].as_u64(), pair[1].as_f64(), pair[1].as_str()) {
        (Some(id), Some(x), _) => Ok((id as u32, x as f32)),
        (Some(id), _, Some("-Infinity")) => Ok((id as u32, f32::NEG_INFINITY)),
        _ => Err(wrong("run_config.logit_bias", "is no list of pairs")),
    };
    let sampling = Asked {
        values: Setting::ALL.iter().map(value).collect::<Result<_>>()?,
        order: Some(Step::chain(run["samplers"].as_str().unwrap_or_default())?),
        logit_bias: list(run, "logit_bias")?.iter().map(bias).collect::<Result<_>>()?,
        dry_breakers: Some(texts("dry_breakers")?),
        seed: run["seed"].as_u64().ok_or_else(|| wrong("run_config.seed", "is no number"))?,
    };
    let steps = match &run["steps"] {
        Value::Null => None,
        _ => {
            let step = |name: &String| TraceStep::named(name).ok_or_else(|| wrong("run_config.steps", "is no step"));
            Some(texts("steps")?.iter().map(step).collect::<Result<_>>()?)
        }
    };
    let verbose = run["verbose"] == true;
    let config = InferenceConfig {
        prompt: text("prompt"),
        max_tokens: number("max_tokens")?,
        trace: Some(TraceConfig { enabled: true, steps, output: None, verbose }),
        ..InferenceConfig::new(model_path)
    };
    let options = Options {
        sampling,
        system: text("system"),
        raw: run["raw"] == true,
        stops: texts("stops")?,
        context: Some(number("context")?),
        prefill_chunk: number("prefill_chunk")?,
        ..options
    };
    Ok((config, options))
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a [Value]> {
    value[name].as_array().map(Vec::as_slice).ok_or_else(|| wrong(name, "is no list"))
}

fn wrong(field: &str, how: &str) -> Error {
    Error::malformed(format!("{field} of the trace {how}")).at(Place::Key(field.into()))
}
