//! How fast a model runs here, beside what the memory of this machine allows.
//!
//! Decoding reads every weight once for each token, so the time to read them is a floor that no kernel gets below. The
//! bandwidth behind it is measured in the same process, on the same threads: the best of several passes over a buffer
//! that no cache holds.

pub mod machine;
pub mod replay;

use std::path::Path;
use std::time::{Duration, Instant};

use compute::backend::NoTap;
use compute::program::KV_BLOCK;
use compute::{Batch, Interest, Output, Row, Want};
use serde_json::{Value, json};

use crate::api::{self, Wish};
use crate::error::{Error, Kind, Result};
use crate::session::{Loaded, PREFILL_CHUNK, Session, Understood};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens that are decoded.
    pub decode: usize,
    /// Positions that are in the cache before decoding begins.
    pub context: usize,
    /// Sequences that are decoded together.
    pub batch: usize,
    /// Rounds; the median counts.
    pub repeat: usize,
    /// Worker threads; all cores if none.
    pub threads: Option<usize>,
    /// On the GPU or not at all.
    pub gpu: bool,
    /// On the GPU if there is one.
    pub gpu_if_present: bool,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Figures {
    /// What ran.
    pub backend: String,
    /// Opening and preparing.
    pub load: Duration,
    /// Tokens of the prompt a second, of each round.
    pub prefill: Vec<f64>,
    /// Tokens decoded a second, of each round.
    pub decode: Vec<f64>,
    /// Bytes of weights that a token reads.
    pub bytes_a_token: usize,
    /// Bytes a second that this machine reads from memory; nothing where the model runs elsewhere.
    pub bandwidth: Option<f64>,
}

/// Runs it. The tokens are arbitrary: speed does not depend on what they say.
pub fn run(path: &Path, plan: &Plan) -> Result<Figures> {
    let Plan { prompt, decode, context, batch, repeat, threads, .. } = *plan;
    let start = Instant::now();
    let wish = Wish { gpu: plan.gpu, gpu_if_present: plan.gpu_if_present, threads, tuned: true };
    let mut loaded = wish.open(&mut |_| Ok(()), || Understood::open(path, None), &Interest::Nothing)?;
    let load = start.elapsed();
    let positions = prompt.max(context + decode);
    if positions > loaded.context {
        return Err(Error::new(Kind::Usage, format!("{positions} positions in a context of {}", loaded.context))
            .hint("--prompt, or --context and --decode together, have to fit"));
    }
    let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
    for round in 0..=repeat {
        let p = prefill(&mut loaded, prompt)?;
        let d = match batch {
            1 => decoding(&mut loaded, context, decode)?,
            _ => decoding_together(&mut loaded, context, decode, batch)?,
        };
        // The first round finds cold caches and pages.
        if round > 0 {
            prefills.push(prompt as f64 / p.as_secs_f64());
            decodes.push((decode * batch) as f64 / d.as_secs_f64());
        }
    }
    let backend = loaded.backend();
    let on_cpu = backend.starts_with("cpu");
    let bytes_a_token = weights_read(&loaded) / batch;
    drop(loaded);
    let bandwidth =
        on_cpu.then(|| api::backend(threads).map(|cpu| machine::huge_bandwidth(cpu.threads))).transpose()?;
    Ok(Figures { backend, load, prefill: prefills, decode: decodes, bytes_a_token, bandwidth })
}

/// Ids that every vocabulary has.
fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| i % 100).collect()
}

/// The time of a prompt of so many tokens.
pub(crate) fn prefill(loaded: &mut Loaded, n: usize) -> Result<Duration> {
    let mut session = Session::new(loaded);
    let start = Instant::now();
    feed(&mut session, n)?;
    Ok(start.elapsed())
}

fn feed(session: &mut Session<'_>, n: usize) -> Result<()> {
    for part in ids(n).chunks(PREFILL_CHUNK) {
        session.feed(part, Want::Nothing, Want::Argmax, &mut NoTap)?;
    }
    Ok(())
}

/// The time of so many steps behind so many positions.
pub(crate) fn decoding(loaded: &mut Loaded, context: usize, n: usize) -> Result<Duration> {
    let mut session = Session::new(loaded);
    feed(&mut session, context.max(1) - 1)?;
    let mut next = [1u32];
    let start = Instant::now();
    for _ in 0..n {
        session.feed(&next, Want::Nothing, Want::Argmax, &mut NoTap)?;
        next = [session.output().rows.last().map_or(1, |row| row.argmax)];
    }
    Ok(start.elapsed())
}

/// The same of several sequences that run in one step, as a server has them.
fn decoding_together(loaded: &mut Loaded, context: usize, n: usize, sequences: usize) -> Result<Duration> {
    let (blocks, before) = ((context + n).div_ceil(KV_BLOCK), context.max(1) - 1);
    loaded.runner.reserve_blocks(blocks * sequences)?;
    let tables: Vec<Vec<u32>> =
        (0..sequences).map(|s| (s * blocks..(s + 1) * blocks).map(|block| block as u32).collect()).collect();
    let tables: Vec<&[u32]> = tables.iter().map(Vec::as_slice).collect();
    let mut output = Output::default();
    let mut step = |rows: &[Row]| loaded.runner.step(&Batch { rows, tables: &tables }, &mut output, &mut NoTap);
    let row = |sequence, position, want| Row { sequence, position, token: position % 100, want };
    for sequence in 0..sequences {
        let rows: Vec<Row> = (0..before).map(|i| row(sequence, i as u32, Want::Nothing)).collect();
        rows.chunks(PREFILL_CHUNK).try_for_each(&mut step)?;
    }
    let start = Instant::now();
    for i in before..before + n {
        step(&(0..sequences).map(|s| row(s, i as u32, Want::Argmax)).collect::<Vec<_>>())?;
    }
    Ok(start.elapsed())
}

/// Bytes of the matrices that every token is multiplied by, as the file has them.
fn weights_read(loaded: &Loaded) -> usize {
    loaded.understood.model.weights.matrix_bytes()
}

/// The middle one.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

impl Figures {
    /// Tokens a second at which decoding does nothing but read weights.
    pub fn floor(&self) -> Option<f64> {
        self.bandwidth.filter(|b| b.is_finite()).map(|b| b / self.bytes_a_token.max(1) as f64)
    }

    /// For `--json`.
    pub fn object(&self, plan: &Plan) -> Value {
        let spread = |f: &[f64]| json!({"median": median(f), "rounds": f});
        json!({
            "backend": self.backend, "load_ms": self.load.as_secs_f64() * 1e3,
            "prompt": plan.prompt, "decode": plan.decode, "context": plan.context, "batch": plan.batch,
            "prefill_tokens_per_second": spread(&self.prefill), "decode_tokens_per_second": spread(&self.decode),
            "weight_bytes_per_token": self.bytes_a_token, "memory_bytes_per_second": self.bandwidth.filter(|b| b.is_finite()),
            "decode_floor_tokens_per_second": self.floor(),
            "decode_share_of_floor": self.floor().map(|floor| median(&self.decode) / floor),
        })
    }

    /// For people.
    pub fn text(&self, plan: &Plan) -> String {
        let spread = |f: &[f64]| {
            let (low, high) = f.iter().fold((f64::MAX, 0f64), |(l, h), x| (l.min(*x), h.max(*x)));
            format!("{:.1} tok/s ({low:.1} to {high:.1})", median(f))
        };
        let (prefill, decode) = (spread(&self.prefill), spread(&self.decode));
        let mut text = format!("{}, loaded in {:.0} ms\n", self.backend, self.load.as_secs_f64() * 1e3);
        text += &format!("prefill of {:<5} {prefill}\n", plan.prompt);
        let sequences = if plan.batch == 1 { String::new() } else { format!(", {} sequences", plan.batch) };
        text += &format!("decode of {:<6} {decode}, from position {}{sequences}\n", plan.decode, plan.context.max(1));
        if let (Some(floor), Some(bandwidth)) = (self.floor(), self.bandwidth) {
            text += &format!(
                "floor            {floor:.1} tok/s: {:.2} GB of weights a token at the {:.1} GB/s that memory gives; decode is at {:.0} %\n",
                self.bytes_a_token as f64 / 1e9,
                bandwidth / 1e9,
                100.0 * median(&self.decode) / floor
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[])), (2.0, 0.0));
    }

    #[test]
    fn the_floor_is_bandwidth_over_weights() {
        let f = Figures {
            backend: "cpu".into(),
            load: Duration::from_millis(1),
            prefill: vec![10.0],
            decode: vec![5.0],
            bytes_a_token: 1000,
            bandwidth: Some(1e4),
        };
        assert_eq!(f.floor(), Some(10.0));
        let plan = Plan {
            prompt: 4,
            decode: 4,
            context: 0,
            batch: 1,
            repeat: 1,
            threads: None,
            gpu: false,
            gpu_if_present: false,
        };
        assert!(f.text(&plan).contains("decode is at 50 %"), "{}", f.text(&plan));
        assert_eq!(f.object(&plan)["decode_share_of_floor"], 0.5);
    }
}
