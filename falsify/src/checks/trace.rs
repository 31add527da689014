//! F-TRACE: the record of a run, read by others than the one who wrote it.
//!
//! What a trace must hold is computed from the outside: from the answer's tokens, the model's shape, the watcher's
//! clock, and taps that these checks put in themselves.

mod overhead;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use compute::{Format, Want};
use overhead::f_trace_206;
use serde_json::{Value, json};

use super::Check;
use crate::ask::{PROMPTS, answered, ask, report};
use crate::child::Output;
use crate::forge::gguf::Data;
use crate::forge::models::Model;
use crate::formula::Known;
use crate::lab::{self, Setup, open};
use crate::subject::Subject;
use crate::traced::{beside_a_tap, read, traced};
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-TRACE-191", f_trace_191),
    ("F-TRACE-192", f_trace_192),
    ("F-TRACE-193", f_trace_193),
    ("F-TRACE-194", f_trace_194),
    ("F-TRACE-195", f_trace_195),
    ("F-TRACE-196", f_trace_196),
    ("F-TRACE-197", f_trace_197),
    ("F-TRACE-198", f_trace_198),
    ("F-TRACE-199", f_trace_199),
    ("F-TRACE-200", f_trace_200),
    ("F-TRACE-201", f_trace_201),
    ("F-TRACE-202", f_trace_202),
    ("F-TRACE-203", f_trace_203),
    ("F-TRACE-204", f_trace_204),
    ("F-TRACE-205", f_trace_205),
    ("F-TRACE-206", f_trace_206),
    ("F-TRACE-207", f_trace_207),
    ("F-TRACE-208", f_trace_208),
    ("F-TRACE-209", f_trace_209),
    ("F-TRACE-210", f_trace_210),
];

/// Every stage, and how often it runs in an answer of `steps` runs of the program and `tokens` tokens.
const STAGES: [&str; 7] = ["TOKENIZE", "EMBED", "ATTENTION", "FFN", "LM_HEAD", "SAMPLE", "DECODE"];

const FEW: &[&str] = &["--max-tokens", "12"];

/// How often each stage runs, from the answer and the model alone.
fn expected(s: &Subject, prompt: &str) -> Result<BTreeMap<&'static str, usize>, Halt> {
    let told = report(s, prompt, FEW)?;
    let tokens = told.tokens as usize;
    // The end token is chosen too, after one more step, but is no text.
    let steps = tokens + usize::from(told.json["finish_reason"] == "stop");
    let layers = Known::fixture(s, "q8_0")?.layers;
    let times = [1, steps, steps * layers, steps * layers, steps, steps, tokens];
    Ok(STAGES.into_iter().zip(times).collect())
}

/// `--trace` alone writes one JSON document, to standard error, and the answer stays what it is.
pub fn f_trace_191(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --trace on the q8_0 fixture, standard error as one JSON document");
    for prompt in PROMPTS {
        let plain = answered(ask(s, prompt, FEW)?)?;
        let out = answered(ask(s, prompt, FEW)?.args(["--trace"]))?;
        t.hold(out.stdout == plain.stdout, || out.refute("the answer is the same", out.out(), plain.out()))?;
        let json: Value = serde_json::from_slice(&out.stderr)
            .map_err(|e| out.refute("--trace writes one JSON document", e.to_string(), "JSON and nothing else"))?;
        let empty = Vec::new();
        let events = json["events"].as_array().unwrap_or(&empty);
        for stage in STAGES {
            let has = events.iter().any(|e| e["name"] == stage);
            t.hold(has, || out.refute("every stage that ran is in the trace", format!("no {stage}"), stage))?;
        }
    }
    t.done()
}

/// jq reads it, and finds as many events as another parser.
pub fn f_trace_192(s: &Subject) -> Attempt {
    let mut t = Tally::new("jq -e on the traces of three prompts, plain and verbose");
    for prompt in PROMPTS {
        for flags in [FEW, &["--max-tokens", "12", "--trace-verbose"]] {
            let file = s.scratch()?.join("trace.json");
            let out = answered(ask(s, prompt, flags)?.args(["--trace-output"]).args([&file]))?;
            let jq = run_tool("jq", &["-e", ".events | length"], &file)?;
            let count = jq.0.then(|| jq.1.trim().parse::<usize>().ok()).flatten();
            t.hold(count.is_some(), || out.refute("jq accepts the trace", &*jq.2, "a number of events"))?;
            let trace = read(out, &file)?;
            t.equal("jq sees every event", &count, &Some(trace.events()?.len()))?;
        }
    }
    t.done()
}

/// Runs a program on a file: whether it succeeded, and both streams.
fn run_tool(program: &str, args: &[&str], file: &Path) -> Result<(bool, String, String), Halt> {
    let out = Command::new(program).args(args).arg(file).stdin(Stdio::null()).output();
    let out = out.map_err(|e| instrument(format!("{program}: {e}")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((out.status.success(), text(&out.stdout), text(&out.stderr)))
}

/// Each stage of each step has a TaskStateEntered event: as many as the answer and the model's layers demand.
pub fn f_trace_193(s: &Subject) -> Attempt {
    counted(s, "TaskStateEntered")
}

/// Each entered stage has one TaskStateExited event after it.
pub fn f_trace_194(s: &Subject) -> Attempt {
    counted(s, "TaskStateExited")?;
    let mut t = Tally::new("entries and exits of every stage, paired; three prompts");
    for prompt in PROMPTS {
        let trace = traced(s, prompt, FEW)?;
        let mut open: Vec<(Value, Value, Value)> = Vec::new();
        for e in trace.events()? {
            let key = (e["name"].clone(), e["iteration"].clone(), e["layer"].clone());
            match e["type"].as_str() {
                Some("TaskStateEntered") => open.push(key),
                Some("TaskStateExited") => {
                    let entered = open.pop();
                    t.hold(entered.as_ref() == Some(&key), || {
                        trace.refute(
                            "an exit follows the entry of its stage",
                            format!("{key:?}"),
                            format!("{entered:?}"),
                        )
                    })?;
                }
                _ => {}
            }
        }
        t.equal("every stage that was entered was left", &open.len(), &0)?;
    }
    t.done()
}

fn counted(s: &Subject, kind: &str) -> Attempt {
    let mut t = Tally::new(format!("{kind} events by stage, three prompts"));
    for prompt in PROMPTS {
        let want = expected(s, prompt)?;
        let trace = traced(s, prompt, FEW)?;
        for (stage, times) in want {
            let seen = trace.of(kind, stage)?.len();
            t.hold(seen == times, || {
                trace.refute(&format!("{stage} has a {kind} event each time it runs"), seen, times)
            })?;
        }
    }
    t.done()
}

/// Timestamps are ISO 8601 with a zone, do not decrease, and lie between start and end as the watcher saw them.
pub fn f_trace_195(s: &Subject) -> Attempt {
    let mut t = Tally::new("timestamps of every event beside the watcher's clock");
    for prompt in PROMPTS {
        let begin = SystemTime::now();
        let trace = traced(s, prompt, FEW)?;
        let end = SystemTime::now();
        let mut last = 0.0;
        for e in trace.events()? {
            let stamp = e["timestamp"].as_str().unwrap_or_default();
            let seconds = seconds_of(stamp).ok_or_else(|| {
                trace.refute("a timestamp is ISO 8601 in UTC", &e["timestamp"], "2026-11-23T11:39:17.123456Z")
            })?;
            t.hold(seconds >= last, || trace.refute("time does not run backwards", stamp, last))?;
            last = seconds;
            let since =
                |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let inside = (since(begin) - 0.01..=since(end) + 0.01).contains(&seconds);
            t.hold(inside, || trace.refute("a timestamp lies within the run", stamp, "between start and end"))?;
        }
    }
    t.done()
}

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SS.ffffffZ`.
fn seconds_of(stamp: &str) -> Option<f64> {
    let (date, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let whole = |text: &str, len: usize| (text.len() == len).then(|| text.parse::<i64>().ok()).flatten();
    let [year, month, day] = <[&str; 3]>::try_from(date.split('-').collect::<Vec<_>>()).ok()?;
    let [hour, minute, second] = <[&str; 3]>::try_from(time.split(':').collect::<Vec<_>>()).ok()?;
    let (y, m, d) = (whole(year, 4)?, whole(month, 2)?, whole(day, 2)?);
    // Days since 1970-01-01 of the proleptic Gregorian calendar: years begin in March.
    let (y, m) = if m > 2 { (y, m - 3) } else { (y - 1, m + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + d - 719_469;
    let second: f64 = second.parse().ok()?;
    Some(days as f64 * 86_400.0 + (whole(hour, 2)? * 3600 + whole(minute, 2)? * 60) as f64 + second)
}

/// Ids are unique and ascending from 1.
pub fn f_trace_196(s: &Subject) -> Attempt {
    let mut t = Tally::new("ids of every event, three prompts");
    for prompt in PROMPTS {
        let trace = traced(s, prompt, FEW)?;
        for (i, e) in trace.events()?.iter().enumerate() {
            t.hold(e["id"] == json!(i + 1), || trace.refute("ids count up from 1", &e["id"], i + 1))?;
        }
    }
    t.done()
}

/// `previousEventId` of an exit is the id of the entry of the same stage.
pub fn f_trace_197(s: &Subject) -> Attempt {
    let mut t = Tally::new("previousEventId of every exit, three prompts");
    for prompt in PROMPTS {
        let trace = traced(s, prompt, FEW)?;
        let by_id: BTreeMap<u64, &Value> =
            trace.events()?.iter().filter_map(|e| Some((e["id"].as_u64()?, e))).collect();
        for e in trace.events()?.iter().filter(|e| e["type"] == "TaskStateExited") {
            let entry = e["previousEventId"].as_u64().and_then(|id| by_id.get(&id));
            let fits = entry.is_some_and(|x| {
                x["type"] == "TaskStateEntered" && ["name", "iteration", "layer"].iter().all(|f| x[f] == e[f])
            });
            t.hold(fits, || trace.refute("an exit leads to its entry", e["previousEventId"].to_string(), &e["name"]))?;
        }
    }
    t.done()
}

/// Inputs and outputs are those of the run: ids, tokens and text.
pub fn f_trace_198(s: &Subject) -> Attempt {
    let mut t = Tally::new("inputs and outputs beside golden token ids, --json and the printed answer");
    let golden = s.golden_text("text/fixture_ids.json")?;
    let golden: Value = serde_json::from_str(&golden).map_err(instrument)?;
    let cases = golden["cases"].as_array().into_iter().flatten();
    // Texts that a command line takes as they are.
    let typed =
        |c: &&Value| c["text"].as_str().is_some_and(|x| x.len() > 3 && x.len() < 60 && !x.contains(['\0', '-']));
    for case in cases.filter(typed).take(12) {
        let text = case["text"].as_str().unwrap_or_default();
        let trace = traced(s, text, &["--raw", "--max-tokens", "4"])?;
        let [entered, left] = ["TaskStateEntered", "TaskStateExited"].map(|kind| trace.of(kind, "TOKENIZE"));
        let (entered, left) = (entered?, left?);
        let (input, output) = (entered.first().map(|e| &e["input"]), left.first().map(|e| &e["output"]));
        t.hold(input == Some(&json!(text)), || trace.refute("TOKENIZE shows its text", format!("{input:?}"), text))?;
        t.hold(output == Some(&case["raw"]), || {
            trace.refute("TOKENIZE shows the oracle's ids", format!("{output:?}"), &case["raw"])
        })?;
    }
    for prompt in PROMPTS {
        let told = report(s, prompt, FEW)?;
        let trace = traced(s, prompt, FEW)?;
        let values = |kind: &str, stage: &str, field: &str| -> Result<Vec<Value>, Halt> {
            Ok(trace.of(kind, stage)?.iter().map(|e| e[field].clone()).collect())
        };
        let text: String = values("TaskStateExited", "DECODE", "output")?.iter().filter_map(Value::as_str).collect();
        t.hold(text == told.text, || trace.refute("DECODE's texts are the answer", &text, &told.text))?;
        let tokens = told.json["tokens"].as_array().cloned().unwrap_or_default();
        let mut chosen = values("TaskStateExited", "SAMPLE", "output")?;
        chosen.truncate(tokens.len());
        t.hold(chosen == tokens, || trace.refute("SAMPLE's tokens are the answer's", json!(chosen), json!(tokens)))?;
        // What is fed after the prompt is what was chosen before.
        let fed = values("TaskStateEntered", "EMBED", "input")?;
        for (fed, token) in fed.iter().skip(1).zip(&tokens) {
            t.hold(*fed == json!([token]), || trace.refute("EMBED takes the token chosen before", fed, token))?;
        }
        for e in trace.events()?.iter().filter(|e| e["name"].is_string()) {
            let field = if e["type"] == "TaskStateEntered" { "input" } else { "output" };
            t.hold(!e[field].is_null(), || trace.refute("every stage shows its input and output", e, field))?;
        }
    }
    t.done()
}

/// Minimum, maximum, mean and shape are those of the buffer that a tap sees.
pub fn f_trace_199(s: &Subject) -> Attempt {
    let mut t = Tally::new("statistics of every stage beside those of a tap's own reading, three prompts");
    beside_a_tap(s, FEW, |trace, e, values| {
        let stats = &e["output"]["statistics"];
        let wide = values.iter().map(|&x| f64::from(x));
        let (min, max) = wide.clone().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
        let mean = wide.clone().sum::<f64>() / values.len() as f64;
        let std = (wide.map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        for (name, want) in [("min", min), ("max", max), ("mean", mean), ("std", std)] {
            let seen = stats[name].as_f64().unwrap_or(f64::NAN);
            let near = (seen - want).abs() <= 1e-5 * std.max(want.abs());
            t.hold(near, || trace.refute(&format!("{} of {} is the tap's", name, e["name"]), seen, want))?;
        }
        let shape: usize =
            e["output"]["shape"].as_array().into_iter().flatten().filter_map(Value::as_u64).product::<u64>() as usize;
        t.equal("the shape is the buffer's", &shape, &values.len())
    })?;
    t.done()
}

/// The schema of the version that the trace names accepts it.
pub fn f_trace_200(s: &Subject) -> Attempt {
    let mut t = Tally::new("the JSON Schema of version 1 on traces of every kind");
    let schema: Value = serde_json::from_str(include_str!("../../items/trace.schema.json")).map_err(instrument)?;
    let schema = jsonschema::validator_for(&schema).map_err(instrument)?;
    for flags in [FEW, &["--max-tokens", "4", "--trace-verbose"], &["--max-tokens", "2", "--trace-steps", "ffn,sample"]]
    {
        for prompt in PROMPTS {
            let trace = traced(s, prompt, flags)?;
            let version = &trace.json["schema_version"];
            t.hold(version == "1.0", || trace.refute("the trace names its schema version", version, "1.0"))?;
            let wrong = schema.iter_errors(&trace.json).next().map(|e| format!("{}: {e}", e.instance_path()));
            t.hold(wrong.is_none(), || trace.refute("the schema accepts the trace", wrong.unwrap_or_default(), ""))?;
        }
    }
    t.done()
}

/// What it says of the model is true.
pub fn f_trace_201(s: &Subject) -> Attempt {
    let mut t = Tally::new("model metadata in traces of two fixtures and two forged models, beside config and file");
    let models = [
        Known::fixture(s, "q8_0")?,
        Known::fixture(s, "q4_k_m")?,
        Known::forged(s, "llama-q8_0")?,
        Known::forged(s, "qwen2-f16")?,
    ];
    for known in models {
        let file = s.scratch()?.join("trace.json");
        let run = s
            .apr(["run"])
            .args([&known.path])
            .args(["hi", "--raw", "--max-tokens", "1", "--trace-output"])
            .args([&file]);
        let trace = read(answered(run)?, &file)?;
        let told = &trace.json["model"];
        let name = known.path.file_name().map(|n| n.to_string_lossy().into_owned());
        let bytes = std::fs::read(&known.path).map_err(instrument)?;
        let arch = if known.rope.interleaved { "llama" } else { "qwen2" };
        let true_of = [
            ("file", json!(name)),
            ("sha256", json!(crate::stamp::sha256(&bytes))),
            ("bytes", json!(bytes.len())),
            ("architecture", json!(arch)),
            ("layers", json!(known.layers)),
            ("heads", json!(known.heads)),
            ("kv_heads", json!(known.kv_heads)),
            ("head_dim", json!(known.head_dim)),
            ("hidden", json!(known.heads * known.head_dim)),
            ("vocab", json!(known.vocab)),
        ];
        for (field, want) in true_of {
            t.hold(told[field] == want, || trace.refute(&format!("model.{field} is true"), &told[field], &want))?;
        }
        let formats = told["quantization"].as_object().map_or(0, |f| f.len());
        t.hold(formats > 0, || trace.refute("the quantisation is named", &told["quantization"], "formats"))?;
    }
    t.done()
}

/// The run's configuration is complete: with its numbers typed as flags, the same tokens come out.
pub fn f_trace_202(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run again with the flags that the trace tells, and apr replay; greedy and drawn");
    for (i, prompt) in PROMPTS.iter().enumerate() {
        for temperature in ["0", "1.3"] {
            let seed = (i * 7 + 3).to_string();
            let flags = ["--temperature", temperature, "--seed", &seed, "--max-tokens", "12", "--top-p", "0.9"];
            let trace = traced(s, prompt, &flags)?;
            let config = &trace.json["run_config"];
            let mut again: Vec<String> = vec!["--samplers".into(), word(&config["samplers"])];
            for (name, value) in config["sampling"].as_object().into_iter().flatten() {
                again.extend([format!("--{name}"), word(value)]);
            }
            again.extend(["--seed".into(), word(&config["seed"]), "--max-tokens".into(), word(&config["max_tokens"])]);
            let again: Vec<&str> = again.iter().map(String::as_str).collect();
            let told = report(s, config["prompt"].as_str().unwrap_or_default(), &again)?;
            t.hold(told.json["tokens"] == trace.json["summary"]["tokens"], || {
                trace.refute(
                    "the recorded flags give the same tokens",
                    &told.json["tokens"],
                    &trace.json["summary"]["tokens"],
                )
            })?;
            for field in ["backend", "context", "prefill_chunk", "stops", "raw"] {
                t.hold(!config[field].is_null(), || {
                    trace.refute("the run's configuration is complete", field, "a value")
                })?;
            }
            let file = s.scratch()?.join("again.json");
            std::fs::write(&file, &trace.text).map_err(instrument)?;
            let replay = s.apr(["replay"]).args([&file]).judged()?;
            t.hold(replay.code() == Some(0), || {
                replay.refute("apr replay finds no difference", replay.err(), "exit code 0")
            })?;
        }
    }
    t.done()
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// `--trace-output` writes the whole file or none, replaces an old one, and exits 8 where it cannot.
pub fn f_trace_203(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --trace-output to a new file, over an old one, and where nothing can be written");
    let folder = s.scratch()?;
    let file = folder.join("trace.json");
    std::fs::write(&file, "old and longer than nothing").map_err(instrument)?;
    for prompt in PROMPTS {
        let out = answered(ask(s, prompt, FEW)?.args(["--trace-output"]).args([&file]))?;
        let trace = read(out, &file)?;
        t.hold(trace.out.stderr.is_empty(), || trace.refute("nothing but the answer is said", trace.out.err(), ""))?;
        let names = std::fs::read_dir(&folder).map_err(instrument)?.count();
        t.equal("no unfinished file is left", &names, &1)?;
        let last = trace.events()?.last().map(|e| e["type"].clone());
        t.equal("the trace ends with the end", &last, &Some(json!("ExecutionSucceeded")))?;
    }
    let nowhere = folder.join("no/such/folder/trace.json");
    let mut refused: Vec<PathBuf> = vec![nowhere, folder.clone()];
    if Path::new("/dev/full").exists() {
        refused.push("/dev/full".into());
    }
    for path in refused {
        let out = ask(s, PROMPTS[0], FEW)?.args(["--trace-output"]).args([&path]).judged()?;
        t.hold(out.code() == Some(8), || out.refute("it exits 8", format!("{:?}", out.code()), "8, output"))?;
        t.hold(out.err().lines().count() == 1, || out.refute("it says why in one line", out.err(), "one line"))?;
    }
    t.done()
}

/// `--trace-verbose` shows values, and they are the buffer's.
pub fn f_trace_204(s: &Subject) -> Attempt {
    let mut t = Tally::new("the values of every stage beside those that a tap sees, three prompts");
    let flags = ["--max-tokens", "12", "--trace-verbose"];
    beside_a_tap(s, &flags, |trace, e, values| {
        let shown = &e["output"]["values"];
        let data: Vec<f32> =
            shown["data"].as_array().into_iter().flatten().filter_map(Value::as_f64).map(|x| x as f32).collect();
        t.hold(!data.is_empty(), || trace.refute("--trace-verbose shows values", shown, "some"))?;
        let width = shown["length"].as_u64().unwrap_or(0) as usize;
        let row = values.len().checked_sub(width).map(|at| &values[at..]).unwrap_or_default();
        let same = row.get(..data.len()) == Some(&data);
        t.hold(same, || {
            trace.refute(&format!("values of {} are the buffer's", e["name"]), json!(data), json!(row.get(..4)))
        })
    })?;
    t.done()
}

/// Tokens of a traced run are those of an untraced one, and so are all bits of the logits.
pub fn f_trace_205(s: &Subject) -> Attempt {
    let mut t = Tally::new("50 prompts with and without --trace; bits of the logits with and without taps");
    let model = s.model()?;
    let prompts = (0..50).map(|i| match i % 5 {
        0 => format!("What is {} + {}?", i + 3, 2 * i),
        1 => format!("Write a Python function that multiplies its argument by {i}."),
        2 => format!("Say the word number {i} in French."),
        3 => format!("Hello {i}!"),
        _ => format!("Count from {i} to {}.", i + 5),
    });
    for (i, prompt) in prompts.enumerate() {
        let flags: &[&str] =
            if i % 2 == 0 { &["--max-tokens", "8"] } else { &["--max-tokens", "8", "--temperature", "1"] };
        let plain = report(s, &prompt, flags)?;
        let trace = traced(s, &prompt, flags)?;
        let tokens = &trace.json["summary"]["tokens"];
        t.hold(*tokens == plain.json["tokens"], || {
            trace.refute("the tokens are the same", tokens, &plain.json["tokens"])
        })?;
    }
    for watched in [false, true] {
        let mut known = open(s, &model, Setup { watched, ..Setup::default() })?;
        let ids = lab::probe(&known, 90)?;
        let bits = |m: &mut engine::session::Loaded| -> Result<Vec<Vec<f32>>, Halt> {
            Ok(lab::rows(m, &ids, 33, Want::Logits)?.into_iter().map(|r| r.values).collect())
        };
        let mut plain = open(s, &model, Setup::default())?;
        let same = bits(&mut known)? == bits(&mut plain)?;
        t.hold(same, || Refutation::new("a tap changes no bit of a logit", "other bits", "the same"))?;
    }
    t.done()
}

/// A NaN in layer 3 is flagged in the stage where it begins, and in none before.
pub fn f_trace_207(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("a forged model of four layers with a NaN or an infinity in the third, down and output projection");
    for (tensor, stage) in [("ffn_down", "FFN"), ("attn_output", "ATTENTION")] {
        for (bits, flag) in [(0x7e00u16, "nan"), (0x7c00, "inf")] {
            let (out, file) = poisoned(s, tensor, bits)?;
            t.hold(out.code() == Some(1), || out.refute("the run ends in an error", format!("{:?}", out.code()), "1"))?;
            let trace = read(out, &file)?;
            let bad =
                |e: &&Value| ["nan", "inf"].iter().any(|f| e["output"]["statistics"][f].as_u64().unwrap_or(0) > 0);
            let first = trace.events()?.iter().find(bad);
            let place = first.map(|e| (e["name"].clone(), e["layer"].clone()));
            t.hold(place == Some((json!(stage), json!(2))), || {
                trace.refute("the first flag is where it begins", format!("{place:?}"), format!("{stage} of layer 2"))
            })?;
            let kind = first.is_some_and(|e| e["output"]["statistics"][flag].as_u64().unwrap_or(0) > 0);
            t.hold(kind, || trace.refute("the flag says what it is", format!("{first:?}"), flag))?;
            let end = trace.events()?.last().map(|e| e["type"].clone());
            t.equal("a run that failed says so", &end, &Some(json!("ExecutionFailed")))?;
        }
    }
    t.done()
}

/// Runs a model whose tensor in the third layer has a number that is none.
fn poisoned(s: &Subject, tensor: &str, bits: u16) -> Result<(Output, PathBuf), Halt> {
    let mut file = Model { layers: 4, ..Model::qwen2(Format::F16) }.file().map_err(instrument)?;
    let Data::Bytes(bytes) = &mut file.tensor_named(&format!("blk.2.{tensor}.weight")).data else {
        return Err(instrument("a tensor without bytes"));
    };
    bytes[..2].copy_from_slice(&bits.to_le_bytes());
    let folder = s.scratch()?;
    let (model, trace) = (folder.join("poisoned.gguf"), folder.join("trace.json"));
    file.write(&model).map_err(instrument)?;
    let out = s
        .apr(["run"])
        .args([&model])
        .args(["hi", "--raw", "--max-tokens", "2", "--trace-output"])
        .args([&trace])
        .judged()?;
    Ok((out, trace))
}

/// Long arrays are cut and say how long they were; a wider model does not make a longer trace.
pub fn f_trace_208(s: &Subject) -> Attempt {
    let mut t = Tally::new("traces of a long prompt, and of forged models 128 and 512 wide, with values");
    const LIMIT: usize = 1024;
    let long = "one two three four ".repeat(600);
    let trace = traced(s, &long, &["--max-tokens", "1", "--trace-verbose"])?;
    let mut cut = 0;
    for e in trace.events()? {
        let mut found = Vec::new();
        arrays(e, &Value::Null, &mut found);
        for (len, holder) in found {
            t.hold(len <= LIMIT, || trace.refute("no array is longer than the limit", len, LIMIT))?;
            if holder["truncated"] == true {
                cut += 1;
                let told = holder["length"].as_u64().unwrap_or(0) as usize;
                t.hold(told > len, || trace.refute("a cut array says how long it was", told, len))?;
            }
        }
    }
    t.hold(cut > 2, || trace.refute("ids and values of a long run are cut", cut, "several arrays"))?;
    let size = |hidden: usize| -> Result<f64, Halt> {
        let wide = Model { hidden, ffn: 2 * hidden, ..Model::qwen2(Format::F16) }.file().map_err(instrument)?;
        let folder = s.scratch()?;
        let (model, file) = (folder.join("wide.gguf"), folder.join("trace.json"));
        wide.write(&model).map_err(instrument)?;
        let flags = ["hi", "--raw", "--max-tokens", "4", "--temperature", "0", "--trace-verbose", "--trace-output"];
        let trace = read(answered(s.apr(["run"]).args([&model]).args(flags).args([&file]))?, &file)?;
        Ok(trace.text.len() as f64 / trace.events()?.len() as f64)
    };
    t.at_most("bytes of an event at width 512 over those at 128", size(512)? / size(128)?, 1.1)?;
    t.done()
}

/// Lengths of every array inside a value, each with the object that holds it.
fn arrays<'a>(value: &'a Value, holder: &'a Value, found: &mut Vec<(usize, &'a Value)>) {
    match value {
        Value::Array(list) => {
            found.push((list.len(), holder));
            list.iter().for_each(|v| arrays(v, &Value::Null, found));
        }
        Value::Object(fields) => fields.values().for_each(|v| arrays(v, value, found)),
        _ => {}
    }
}

/// A reader that accepts neither NaN nor a key twice.
const STRICT: &str = "import json,sys
def refuse(x): raise ValueError('the constant '+x)
def once(pairs):
    d=dict(pairs)
    if len(d)!=len(pairs): raise ValueError('a key twice')
    return d
d=json.load(open(sys.argv[1],encoding='utf-8'),parse_constant=refuse,object_pairs_hook=once)
print(len(d['events']))";

/// Python's `json.load` accepts it in the strictest form, with NaN among the numbers too.
pub fn f_trace_209(s: &Subject) -> Attempt {
    let mut t = Tally::new("json.load with parse_constant and object_pairs_hook, on healthy and poisoned runs");
    let mut traces = Vec::new();
    for prompt in PROMPTS {
        let file = s.scratch()?.join("trace.json");
        let run = ask(s, prompt, &["--max-tokens", "6", "--trace-verbose"])?.args(["--trace-output"]).args([&file]);
        traces.push((answered(run)?, file));
    }
    traces.push(poisoned(s, "ffn_down", 0x7e00)?);
    for (out, file) in traces {
        let python = run_tool("python3", &["-I", "-c", STRICT], &file)?;
        t.hold(python.0, || {
            out.refute("json.load accepts the trace", python.2.lines().last().unwrap_or(""), "it loads")
        })?;
        let count = python.1.trim().parse::<usize>().ok();
        t.equal("Python sees every event", &count, &Some(read(out, &file)?.events()?.len()))?;
    }
    t.done()
}

/// Events have the fields of AWS Step Functions' GetExecutionHistory, with its types, and those of section 2.2.
pub fn f_trace_210(s: &Subject) -> Attempt {
    let mut t = Tally::new("fields and types of every event beside GetExecutionHistory's response syntax");
    for prompt in PROMPTS {
        let trace = traced(s, prompt, FEW)?;
        let arn = trace.json["execution_arn"].as_str().unwrap_or_default();
        let uuid = arn.strip_prefix("arn:apr:execution:local:").map(str::len);
        t.hold(uuid == Some(36), || {
            trace.refute("execution_arn names the execution", arn, "arn:apr:execution:local:uuid")
        })?;
        let ends = trace.events()?;
        for (e, kind) in [(ends.first(), "ExecutionStarted"), (ends.last(), "ExecutionSucceeded")] {
            let seen = e.map(|e| e["type"].clone());
            t.equal("an execution starts and ends", &seen, &Some(json!(kind)))?;
        }
        for e in ends {
            let kind = e["type"].as_str().unwrap_or_default();
            let base = e["timestamp"].is_string() && e["id"].is_u64() && e["previousEventId"].is_u64();
            t.hold(base, || trace.refute("every event has timestamp, id and previousEventId", e, "all three"))?;
            let (details, fields): (&str, &[&str]) = match kind {
                "ExecutionStarted" => ("executionStartedEventDetails", &["input"]),
                "TaskStateEntered" => ("stateEnteredEventDetails", &["name", "input"]),
                "TaskStateExited" => ("stateExitedEventDetails", &["name", "output"]),
                "ExecutionSucceeded" => ("executionSucceededEventDetails", &["output"]),
                other => return Err(trace.refute("the event's type is Step Functions'", other, "a known type").into()),
            };
            let d = &e[details];
            let typed = fields.iter().all(|f| d[f].is_string());
            t.hold(typed, || trace.refute("the event's details have their fields, as strings", e, details))?;
            for field in fields.iter().filter(|f| **f != "name") {
                let told = d[format!("{field}Details")]["truncated"].is_boolean();
                t.hold(told, || trace.refute("details say whether they were cut", d, "truncated"))?;
                let inner: Value = serde_json::from_str(d[field].as_str().unwrap_or_default())
                    .map_err(|x| trace.refute("input and output are JSON in a string", x, d))?;
                // Section 2.2 shows them as values beside.
                let beside = e.get(*field);
                t.hold(beside.is_none_or(|b| *b == inner), || trace.refute("both forms say the same", e, &inner))?;
            }
            if kind.starts_with("TaskState") {
                t.hold(e["name"].is_string() && e["name"] == d["name"], || trace.refute("the stage has a name", e, d))?;
            }
        }
    }
    t.done()
}
