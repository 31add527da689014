//! F-GPU: memory of the device, as the driver counts it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use compute::cuda::Cuda;
use compute::{Error, Want};
use engine::session::{Loaded, Session};
use serde_json::json;

use super::speed::full;
use crate::ask::{PROMPTS, answered};
use crate::child::{Output, Run};
use crate::lab::{self, Setup};
use crate::server::serve_model;
use crate::smi;
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// On the device.
const ON_GPU: Setup = Setup { isa: None, threads: 1, oracle: false, gpu: true, watched: false, context: None };
/// What the driver hands out at a time.
const PAGE: usize = 2 << 20;

/// The device, with everything that the driver allocates once per process already there.
fn device(s: &Subject) -> Result<Cuda, Halt> {
    let cuda = Cuda::detect().map_err(instrument)?;
    let mut model = lab::open(s, &s.model()?, ON_GPU)?;
    lab::greedy(&mut model, &[1, 2, 3], 4)?;
    Ok(cuda)
}

fn free(cuda: &Cuda) -> Result<usize, Halt> {
    Ok(cuda.memory().map_err(instrument)?.0)
}

/// Fills so many positions, in chunks as `apr` does.
fn fill(model: &mut Loaded, positions: usize) -> Result<(), Halt> {
    let ids = lab::probe(model, positions)?;
    let mut session = Session::new(model);
    for part in ids.chunks(512) {
        lab::running("a step runs", session.feed(part, Want::Nothing, Want::Argmax, &mut compute::backend::NoTap))?;
    }
    Ok(())
}

fn length(file: &Path) -> Result<f64, Halt> {
    Ok(std::fs::metadata(file).map_err(instrument)?.len() as f64)
}

/// Less than the file and a fifth, with 4096 positions in the cache.
pub fn f_gpu_125(s: &Subject) -> Attempt {
    let mut t = Tally::new("1.5B Q4_K_M in full shape on the GPU with 4096 positions: free memory before and after");
    let cuda = device(s)?;
    let (file, before) = (full(s)?, free(&cuda)?);
    let mut model = lab::open(s, &file, ON_GPU)?;
    fill(&mut model, 4096)?;
    let (used, size) = ((before - free(&cuda)?) as f64, length(&file)?);
    t.number("MiB of the file", size / (1 << 20) as f64);
    t.number("MiB of the cache", model.counters().kv_bytes as f64 / (1 << 20) as f64);
    t.number("MiB used", used / (1 << 20) as f64);
    t.at_most("memory over the file's size", used / size, 1.2)?;
    t.done()
}

/// As much free after a thousand requests as after ten, and all of it when the model or the process is gone.
pub fn f_gpu_126(s: &Subject) -> Attempt {
    let mut t = Tally::new("1,000 answers on one model on the GPU; ten processes, one after the other");
    let cuda = device(s)?;
    let before = free(&cuda)?;
    let mut model = lab::open(s, &s.model()?, ON_GPU)?;
    let ids = lab::probe(&model, 90)?;
    let mut after_ten = 0;
    for i in 0..1000 {
        // Ten lengths: what is kept for each of them is there after ten requests.
        lab::greedy(&mut model, &ids[..9 + 9 * (i % 10)], 3)?;
        match i {
            9 => after_ten = free(&cuda)?,
            _ if i % 100 == 99 => {
                t.at_most("bytes lost since the tenth request", after_ten as f64 - free(&cuda)? as f64, 0.0)?;
            }
            _ => (),
        }
    }
    drop(model);
    t.at_most("bytes lost with the model gone", before as f64 - free(&cuda)? as f64, 0.0)?;
    let file = s.model()?;
    for _ in 0..10 {
        let run = s.apr(["run"]).args([file.as_os_str()]).args([PROMPTS[0], "--gpu", "--max-tokens", "4"]);
        answered(run)?;
    }
    t.at_most("bytes lost to processes that ended", before as f64 - free(&cuda)? as f64, PAGE as f64)?;
    t.done()
}

/// Memory of the device that this process takes until the model is dropped, so that hardly more than `rest` is free.
struct Crowd {
    _models: Vec<Loaded>,
    refused: compute::Error,
    file: PathBuf,
}

fn crowd(s: &Subject, rest: usize) -> Result<Crowd, Halt> {
    let cuda = device(s)?;
    let file = full(s)?;
    let mut models = Vec::new();
    loop {
        let mut model = lab::open(s, &file, ON_GPU)?;
        model.runner.reserve_blocks(8).map_err(instrument)?;
        let counters = model.counters();
        let block = (counters.kv_bytes / 8).max(1) as usize;
        // More than any device has, sooner or later.
        let refused = model.runner.reserve_blocks(1 << 16);
        let Err(refused) = refused else {
            models.push(model);
            continue;
        };
        lab::greedy(&mut model, &[1, 2, 3], 4)?;
        let room = free(&cuda)?.saturating_sub(rest);
        model.runner.reserve_blocks(8 + room / block / 8 * 8).map_err(instrument)?;
        models.push(model);
        return Ok(Crowd { _models: models, refused, file });
    }
}

/// Free for a process that needs its own context and then the weights: enough for the one, not for both.
const TOO_LITTLE: usize = 1300 << 20;

fn run(s: &Subject, file: &Path, flags: &[&str]) -> Run {
    let words = [PROMPTS[0], "--raw", "--temperature", "0", "--max-tokens", "8"];
    s.apr(["run"]).args([file.as_os_str()]).args(words).args(flags).deadline(Duration::from_secs(200))
}

/// Whether a message has two counts of bytes.
fn counts_bytes(text: &str) -> bool {
    let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').filter_map(|n| n.parse::<f64>().ok());
    text.contains("free") && numbers.filter(|n| *n > 1.0).count() >= 2
}

/// Too much for the device is refused with the bytes, and what fits goes on.
pub fn f_gpu_127(s: &Subject) -> Attempt {
    let mut t = Tally::new("a cache larger than the device in this process; apr run where hardly any memory is free");
    let crowd = crowd(s, TOO_LITTLE)?;
    let told = matches!(crowd.refused, Error::DeviceMemory { bytes, free, .. } if bytes > free);
    t.hold(told, || Refutation::new("the cache is refused", crowd.refused.to_string(), "bytes wanted and free"))?;
    for json in [&["--gpu"][..], &["--gpu", "--json"]] {
        let out: Output = run(s, &crowd.file, json).judged()?;
        t.hold(out.code() == Some(7), || out.refute("it is refused", format!("{:?} {}", out.code(), out.err()), "7"))?;
        let said = out.err() + &out.out();
        t.hold(counts_bytes(&said), || out.refute("it says the bytes", &*said, "bytes wanted and free"))?;
    }
    let (bare, cpu) = (answered(run(s, &crowd.file, &[]))?, answered(run(s, &crowd.file, &["--no-gpu"]))?);
    t.hold(bare.out() == cpu.out(), || bare.refute("without --gpu the CPU answers", bare.out(), cpu.out()))?;
    t.done()
}

/// A device out of memory is told, with the bytes: F-JID-276.
pub fn out_of_memory_is_told(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run without flags where a GPU has hardly any memory free");
    let crowd = crowd(s, TOO_LITTLE)?;
    let out = answered(run(s, &crowd.file, &[]))?;
    let warned = out.err().lines().any(|l| l.starts_with("warning: ") && l.contains("GPU") && counts_bytes(l));
    t.hold(warned, || out.refute("a line says so", out.err(), "a warning with bytes wanted and free"))?;
    t.done()
}

/// The driver shows what was counted: a large model's memory less a small one's, so that what every process takes falls
/// out.
pub fn f_gpu_137(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("nvidia-smi on apr serve with 1.5B Q4_K_M less the same with the fixture, beside free memory");
    let cuda = device(s)?;
    let (mut shown, mut counted) = (Vec::new(), Vec::new());
    for file in [full(s)?, s.model()?] {
        let server = serve_model(s, &file, &["--gpu"])?;
        server.answer("/v1/completions", &json!({"prompt": "def", "max_tokens": 16, "temperature": 0}))?;
        let seen = smi::memory_of(server.child.id(), Duration::from_secs(5))?;
        let seen = seen.ok_or_else(|| server.refute("nvidia-smi lists the process", "it does not", "its memory"))?;
        shown.push(seen);
        drop(server);
        let before = free(&cuda)?;
        let mut model = lab::open(s, &file, ON_GPU)?;
        lab::greedy(&mut model, &[1, 2, 3], 16)?;
        counted.push((before - free(&cuda)?) as f64 / (1 << 20) as f64);
    }
    let (shown, counted) = (shown[0] - shown[1], counted[0] - counted[1]);
    t.number("MiB by nvidia-smi", shown);
    t.number("MiB counted", counted);
    t.at_most("they are apart by", (shown - counted).abs() / counted.max(1.0), 0.1)?;
    t.done()
}

/// Weights stay quantised.
pub fn f_gpu_130(s: &Subject) -> Attempt {
    let mut t = Tally::new("weights on the device beside the file, ten formats of blocks; each model answers");
    let mut models = vec![s.fixture("q8_0")?, s.fixture("q4_k_m")?];
    for name in ["q4_0", "q5_0", "q8_0", "q4_k", "q5_k", "q6_k"] {
        models.push(s.forged(&format!("qwen2-{name}"))?);
    }
    for file in models {
        let mut model = lab::open(s, &file, ON_GPU)?;
        lab::greedy(&mut model, &[1, 2, 3], 8)?;
        t.at_most("weights over the file", model.counters().weight_bytes as f64 / length(&file)?, 1.2)?;
    }
    t.done()
}

/// Attention keeps no scores: memory beside the cache stays as it is while the context grows.
pub fn f_gpu_131(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "memory beside the cache at 1024 and 4096 positions, 1.5B Q4_K_M in full shape; logits of 300 positions of the \
         fixture, beside the CPU's",
    );
    let cuda = device(s)?;
    let before = free(&cuda)?;
    let mut model = lab::open(s, &full(s)?, ON_GPU)?;
    let mut beside = Vec::new();
    for positions in [1024, 4096] {
        fill(&mut model, positions)?;
        beside.push((before - free(&cuda)?) as f64 - model.counters().kv_bytes as f64);
    }
    // Scores of one layer of a chunk: 512 rows, 12 heads, 4 bytes. The table of rotations grows by 1.5 MiB.
    let scores = 512.0 * 12.0 * 4.0 * 3072.0;
    t.at_most("growth over that of one layer's scores", (beside[1] - beside[0]) / scores, 0.25)?;
    drop(model);
    let file = s.model()?;
    let sound = Loaded::open(&file, &compute::cpu::Cpu { isa: compute::cpu::isa::Isa::detect(), threads: 4 }, None);
    let mut sound = lab::running("the CPU opens it", sound)?;
    let mut model = lab::open(s, &file, ON_GPU)?;
    let ids = lab::probe(&model, 300)?;
    let want = lab::rows(&mut sound, &ids, 300, Want::Logits)?;
    for chunk in [300, 64, 1] {
        let seen = lab::rows(&mut model, &ids, chunk, Want::Logits)?;
        for (i, (a, b)) in seen.iter().zip(&want).enumerate() {
            let same = a.values == b.values && !a.values.is_empty();
            t.hold(same, || {
                Refutation::new(
                    "the CPU's logits",
                    format!("others at position {i}, chunks of {chunk}"),
                    "the same bits",
                )
            })?;
        }
    }
    t.done()
}
