//! F-GPU: speed on a full-shape file, through `apr serve`, by the clock of whoever asks.
//!
//! A figure counts only where the tokens are right: every answer is compared with the CPU's.

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ask::answered;
use crate::http::Ask;
use crate::server::{PATIENCE, Server, serve_model};
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// Timed runs of a figure.
const RUNS: usize = 5;
/// Tokens of each answer.
const TOKENS: u64 = 192;
/// Sequences of a batch.
const STREAMS: usize = 16;
/// Tokens of an answer that are compared with the CPU's.
const COMPARED: &str = "12";
/// Prompts that lead to different answers.
const PROMPTS: [&str; 2] = ["The quick brown fox", "import os\nimport"];

/// The full-shape file of 1.5 billion weights, as the forge names it.
pub fn full(s: &Subject) -> Result<PathBuf, Halt> {
    let file = s.models.as_deref().map(|folder| folder.join("full-1.5b-q4_k_m.gguf"));
    file.filter(|f| f.is_file())
        .ok_or_else(|| instrument("FALSIFY_MODELS has no full-1.5b-q4_k_m.gguf (falsify forge makes it)"))
}

/// A server on that file and on the GPU, and what the CPU answers to each prompt.
struct Bench {
    server: Server,
    begins: Vec<String>,
    backend: String,
}

impl Bench {
    fn start(s: &Subject) -> Result<Bench, Halt> {
        let model = full(s)?;
        let run = |prompt: &str, device: &str, tokens: &str| {
            let words = [prompt, "--raw", "--temperature", "0", "--json", "--max-tokens", tokens, device];
            let run = s.apr(["run"]).args([model.as_os_str()]).args(words).deadline(Duration::from_secs(300));
            let out = answered(run)?;
            serde_json::from_slice::<Value>(&out.stdout).map_err(instrument)
        };
        let text = |v: Value| v["text"].as_str().unwrap_or_default().to_string();
        let begins = PROMPTS.iter().map(|p| Ok(text(run(p, "--no-gpu", COMPARED)?))).collect::<Result<_, Halt>>()?;
        let backend = run(PROMPTS[0], "--gpu", "1")?["backend"].to_string();
        Ok(Bench { server: serve_model(s, &model, &["--gpu"])?, begins, backend })
    }

    /// Tokens per second of so many answers at once, prompts and HTTP included.
    fn rate(&self, t: &mut Tally, streams: usize) -> Result<f64, Halt> {
        let (to, begun) = (self.server.address, Instant::now());
        let ask = |i: usize| {
            let body = json!({"prompt": PROMPTS[i % PROMPTS.len()], "max_tokens": TOKENS, "temperature": 0});
            let ask = Ask::json("/v1/completions", &body);
            thread::Builder::new().spawn(move || ask.send(to, PATIENCE))
        };
        let clients: Vec<_> = (0..streams).map(ask).collect::<Result<_, _>>().map_err(instrument)?;
        let mut replies = Vec::new();
        for client in clients {
            replies.push(client.join().map_err(|_| instrument("a client panicked"))?);
        }
        let took = begun.elapsed().as_secs_f64();
        let mut tokens = 0;
        for (i, reply) in replies.into_iter().enumerate() {
            let reply = reply.map_err(|e| self.server.refute("a request is answered", e.to_string(), "a reply"))?;
            let (json, want) = (reply.json(), &self.begins[i % PROMPTS.len()]);
            let (text, made) = (json["choices"][0]["text"].as_str().unwrap_or_default(), &json["usage"]);
            let same = text.starts_with(want.as_str());
            t.hold(same, || self.server.refute("it answers what the CPU answers", text, want))?;
            let made = made["completion_tokens"].as_u64().unwrap_or(0);
            if made < TOKENS / 2 {
                return Err(instrument(format!("an answer of {made} tokens is too short to be timed")));
            }
            tokens += made;
        }
        Ok(tokens as f64 / took)
    }

    /// One answer that nobody times, then so many that are.
    fn rates(&self, t: &mut Tally, streams: usize) -> Result<Vec<f64>, Halt> {
        self.rate(t, streams)?;
        (0..RUNS).map(|_| self.rate(t, streams)).collect()
    }
}

/// Refuted if the upper quartile misses the number, survived if the lower one reaches it; in between the machine is too
/// noisy to say.
fn reaches(t: &mut Tally, what: &str, mut seen: Vec<f64>, wanted: f64) -> Result<(), Halt> {
    seen.sort_by(f64::total_cmp);
    let (low, high) = (seen[seen.len() / 4], seen[seen.len() - 1 - seen.len() / 4]);
    let shown = format!("{what}: {seen:.2?}");
    t.hold(high >= wanted, || Refutation::new(what, &*shown, format!("{wanted} or more")))?;
    if low < wanted {
        return Err(instrument(format!("{shown} are on both sides of {wanted}")));
    }
    t.number(&format!("{what}, lower quartile"), low);
    t.number(&format!("{what}, median"), seen[seen.len() / 2]);
    Ok(())
}

fn decodes(s: &Subject, streams: usize, wanted: f64) -> Attempt {
    let at_once = if streams == 1 { "one stream".into() } else { format!("{streams} streams at once") };
    let mut t =
        Tally::new(format!("apr serve --gpu, 1.5B Q4_K_M in full shape, {at_once} of {TOKENS} tokens, {RUNS} times"));
    let bench = Bench::start(s)?;
    let seen = bench.rates(&mut t, streams)?;
    reaches(&mut t, "tokens per second", seen, wanted)?;
    t.note(bench.backend);
    t.done()
}

/// 100 tokens per second for one stream.
pub fn f_gpu_120(s: &Subject) -> Attempt {
    decodes(s, 1, 100.0)
}

/// 300 tokens per second for one stream.
pub fn f_gpu_121(s: &Subject) -> Attempt {
    decodes(s, 1, 300.0)
}

/// 500 tokens per second over a batch.
pub fn f_gpu_122(s: &Subject) -> Attempt {
    decodes(s, STREAMS, 500.0)
}

/// 800 tokens per second over a batch.
pub fn f_gpu_123(s: &Subject) -> Attempt {
    decodes(s, STREAMS, 800.0)
}

/// Tokens per second of llama.cpp's decoding on the GPU, without prompt and HTTP, and what it says it is.
fn peer(s: &Subject) -> Result<(f64, String), Halt> {
    let model = full(s)?;
    let tokens = TOKENS.to_string();
    let flags = ["-p", "0", "-n", &tokens, "-r", "2", "-ngl", "99", "-fa", "1", "-o", "json"];
    let out = Command::new("llama-bench").arg("-m").arg(model).args(flags).output().map_err(instrument)?;
    let json: Value = serde_json::from_slice(&out.stdout)
        .map_err(|e| instrument(format!("llama-bench: {e}: {}", String::from_utf8_lossy(&out.stderr))))?;
    let (speed, backend) = (&json[0]["avg_ts"], json[0]["backends"].as_str().unwrap_or_default());
    // Without its CUDA backend it would run, on the CPU.
    match speed.as_f64() {
        Some(speed) if backend.contains("CUDA") => {
            Ok((speed, format!("llama.cpp {} on {backend}", json[0]["build_commit"])))
        }
        _ => Err(instrument(format!("llama-bench ran on {backend}"))),
    }
}

/// Our speed over llama.cpp's, in turns.
fn ratios(s: &Subject, t: &mut Tally) -> Result<Vec<f64>, Halt> {
    let bench = Bench::start(s)?;
    bench.rate(t, 1)?;
    let mut ratios = Vec::new();
    for _ in 0..RUNS {
        let ours = bench.rate(t, 1)?;
        let (theirs, what) = peer(s)?;
        t.number("tokens per second", ours);
        t.number("tokens per second of llama.cpp", theirs);
        if ratios.is_empty() {
            t.note(what);
        }
        ratios.push(ours / theirs);
    }
    t.note(bench.backend);
    Ok(ratios)
}

/// Twice the speed of the engine that Ollama runs.
pub fn f_gpu_124(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("apr serve --gpu and llama-bench on the GPU in turns, 1.5B Q4_K_M in full shape, one stream");
    let seen = ratios(s, &mut t)?;
    reaches(&mut t, "speed over llama.cpp's", seen, 2.0)?;
    t.done()
}

/// Not slower than the engine that Ollama runs, in every run: F-CRIT-003.
pub fn not_slower_than_the_peer(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("apr serve --gpu and llama-bench on the GPU in turns, 1.5B Q4_K_M in full shape, one stream");
    let seen = ratios(s, &mut t)?;
    t.hold(seen.iter().any(|r| *r >= 1.0), || {
        Refutation::new("not slower in every run", format!("ratios {seen:.3?}"), "one of 1.0 or more")
    })?;
    t.number("smallest ratio", seen.iter().copied().fold(f64::INFINITY, f64::min));
    t.done()
}
