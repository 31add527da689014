//! Finds out once, by measuring, how this machine runs a model fastest on its CPU, and keeps that for later runs.
//!
//! What is tried is what a run may choose: the instruction set of the kernels and the number of threads, on the model's
//! own shapes. Every choice gives the same tokens, by the numerics contract, so tuning changes how fast an answer comes
//! and nothing else. Huge pages are no choice: weights are on them wherever the system has any.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use compute::Interest;
use compute::cpu::Cpu;
use compute::cpu::isa::Isa;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api;
use crate::bench::{self, median};
use crate::doctor;
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::knobs;
use crate::limits;
use crate::session::{Loaded, Understood};

/// Tokens of the prompt and of the answer that a choice is judged by.
const TYPICAL: (usize, usize) = (512, 128);
/// Tokens that are measured, in each of so many rounds.
const MEASURED: (usize, usize) = (256, 24);
const ROUNDS: usize = 3;
/// What another choice has to save before it is one.
const MARGIN: f64 = 0.03;
/// Models that are remembered.
const KEPT_MAX: usize = 64;

/// What a run may choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Instruction set of the kernels.
    pub isa: String,
    /// Workers.
    pub threads: usize,
}

impl Choice {
    fn of(cpu: Cpu) -> Choice {
        Choice { isa: cpu.isa.name().into(), threads: cpu.threads }
    }

    fn words(&self) -> String {
        format!("{}, {} thread{}", self.isa, self.threads, if self.threads == 1 { "" } else { "s" })
    }
}

/// A choice that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// What.
    pub choice: Choice,
    /// Tokens of a prompt a second, of each round.
    pub prefill: Vec<f64>,
    /// Tokens decoded a second, of each round.
    pub decode: Vec<f64>,
}

impl Trial {
    /// Seconds of a typical prompt with its answer.
    pub fn seconds(&self) -> f64 {
        TYPICAL.0 as f64 / median(&self.prefill) + TYPICAL.1 as f64 / median(&self.decode)
    }
}

/// What was found out about a model on a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// The machine.
    pub machine: String,
    /// The shape of the model.
    pub shape: String,
    /// What runs fastest.
    pub best: Choice,
    /// Why.
    pub why: String,
    /// Everything that was tried; the first is what runs without tuning.
    pub tried: Vec<Trial>,
}

/// What makes figures those of this machine and this build: processor, cores, kernels.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let version = env!("CARGO_PKG_VERSION");
    format!("{}, {cores} cores, {}, apr {version}", doctor::processor_name(), api::instruction_sets().join(" "))
}

/// What makes a model as fast as another one: the shapes and formats of its matrices.
pub fn shape(known: &Understood) -> String {
    let h = &known.model.hyper;
    let formats: Vec<String> = known.model.formats().iter().map(|(f, n)| format!("{n} {f}")).collect();
    let (arch, heads) = (known.model.arch.name, format!("{}/{}x{}", h.heads, h.kv_heads, h.head_dim));
    format!("{arch} {}x{}, ffn {}, heads {heads}, vocab {}: {}", h.layers, h.hidden, h.ffn, h.vocab, formats.join(", "))
}

/// The choices, that without tuning first: the vector kernels, on all cores and on fewer (hyper-threads and slow cores
/// may be in the way).
fn candidates(cores: usize) -> Vec<Cpu> {
    let mut threads = vec![cores, cores - 1, cores * 3 / 4, cores / 2];
    threads.retain(|&n| n > 0);
    threads.dedup();
    let all = Isa::available();
    let vector = all.iter().filter(|isa| all.len() == 1 || **isa != Isa::SCALAR);
    vector.flat_map(|&isa| threads.iter().map(move |&threads| Cpu { isa, threads })).collect()
}

/// Measures a model on every choice; what is tried next is told.
pub fn measure(known: Arc<Understood>, mut trying: impl FnMut(&str)) -> Result<Tuned> {
    let mut trial = |cpu: Cpu| {
        trying(&Choice::of(cpu).words());
        let mut loaded = Loaded::prepare(known.clone(), &cpu, &Interest::Nothing, |_| {})?;
        let (prompt, answer) = (MEASURED.0.min(loaded.context), MEASURED.1.min(loaded.context));
        let mut t = Trial { choice: Choice::of(cpu), prefill: Vec::new(), decode: Vec::new() };
        for round in 0..=ROUNDS {
            let (p, d) = (bench::prefill(&mut loaded, prompt)?, bench::decoding(&mut loaded, 0, answer)?);
            // The first round finds cold caches and pages.
            if round > 0 {
                t.prefill.push(prompt as f64 / p.as_secs_f64());
                t.decode.push(answer as f64 / d.as_secs_f64());
            }
        }
        Ok::<Trial, Error>(t)
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(limits::THREADS_MAX);
    let all = candidates(cores);
    let mut tried = all.iter().map(|&cpu| trial(cpu)).collect::<Result<Vec<Trial>>>()?;
    // The first once more: by how much a choice differs from itself says what a difference is worth.
    let again = trial(all[0])?;
    let (best, why) = decide(&tried, &again);
    let best = tried[best].choice.clone();
    tried[0].prefill.extend(again.prefill);
    tried[0].decode.extend(again.decode);
    Ok(Tuned { machine: machine(), shape: shape(&known), best, why, tried })
}

/// Which one wins, and why. `again` is the first one, measured last.
fn decide(tried: &[Trial], again: &Trial) -> (usize, String) {
    let (first, last) = (tried[0].seconds(), again.seconds());
    let usual = (first + last) / 2.0;
    let margin = MARGIN.max((first - last).abs() / usual);
    let rest = tried.iter().enumerate().skip(1).min_by(|a, b| a.1.seconds().total_cmp(&b.1.seconds()));
    let mine = tried[0].choice.words();
    let Some((at, other)) = rest else { return (0, format!("{mine} is all that there is to choose")) };
    let saved = 1.0 - other.seconds() / usual;
    let compared = format!(
        "{} needs {:.2} s for a prompt of {} tokens and an answer of {}, {mine} (as without tuning) {usual:.2} s",
        other.choice.words(),
        other.seconds(),
        TYPICAL.0,
        TYPICAL.1
    );
    let noise = format!("measured twice, {mine} differs from itself by {:.1} %", 100.0 * (first - last).abs() / usual);
    if saved > margin {
        (at, format!("{compared}: {:.1} % less; {noise}", 100.0 * saved))
    } else {
        (0, format!("the best of the others, {compared}: not {:.1} % less; {noise}", 100.0 * margin))
    }
}

/// All that was kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    tuned: Vec<Tuned>,
}

impl Kept {
    /// Where it is, or would be.
    pub fn path() -> Option<PathBuf> {
        Some(knobs::home()?.join("tune.json"))
    }

    /// The file, if there is one.
    pub fn read() -> Result<Kept> {
        let Some(path) = Kept::path() else { return Ok(Kept::default()) };
        let file = match std::fs::File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Kept::default()),
            other => other.map_err(|e| Error::from_io(&e, &path))?,
        };
        let (mut bytes, most) = (Vec::new(), limits::TUNE_BYTES_MAX);
        file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(|e| Error::from_io(&e, &path))?;
        let shown = quoted(&path.to_string_lossy());
        let wrong = |what: String| Error::malformed(format!("{shown}: {what}")).hint("apr tune --again makes it anew");
        if bytes.len() > most {
            return Err(wrong(format!("more than {most} bytes")));
        }
        serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))
    }

    /// What is known of a model here.
    pub fn find(&self, known: &Understood) -> Option<&Tuned> {
        let (machine, shape) = (machine(), shape(known));
        self.tuned.iter().find(|t| t.machine == machine && t.shape == shape)
    }

    /// Remembers; what is oldest is forgotten.
    pub fn put(&mut self, tuned: Tuned) {
        self.tuned.retain(|t| (&t.machine, &t.shape) != (&tuned.machine, &tuned.shape));
        self.tuned.push(tuned);
        let over = self.tuned.len().saturating_sub(KEPT_MAX);
        self.tuned.drain(..over);
    }

    /// For the file.
    pub fn text(&self) -> String {
        format!("{:#}\n", json!(self))
    }
}

/// The backend as it was tuned for a model, or as it is. What was typed counts before it; a file that cannot be used is a
/// warning.
pub(crate) fn settle(cpu: Cpu, known: &Understood, warn: &mut dyn FnMut(&str) -> Result<()>) -> Result<Cpu> {
    let kept = match Kept::read() {
        Ok(kept) => kept,
        Err(e) => {
            warn(&format!("not tuned: {e}"))?;
            return Ok(cpu);
        }
    };
    let Some(Choice { isa, threads }) = kept.find(known).map(|t| &t.best) else { return Ok(cpu) };
    match Isa::from_name(isa) {
        Some(isa) if (1..=limits::THREADS_MAX).contains(threads) => Ok(Cpu { isa, threads: *threads }),
        _ => {
            warn(&format!("not tuned: {} and {threads} threads cannot be had here; apr tune --again", quoted(isa)))?;
            Ok(cpu)
        }
    }
}

/// Refuses what would make every trial alike.
pub fn possible() -> Result<()> {
    match knobs::read(&knobs::ISA) {
        None => Ok(()),
        Some(isa) => Err(Error::new(Kind::Usage, format!("{}={isa} leaves nothing to tune", knobs::ISA.name))
            .at(Place::Key(knobs::ISA.name.into()))
            .hint("unset it")),
    }
}

impl Tuned {
    /// For `--json`.
    pub fn object(&self, measured: bool) -> Value {
        let mut object = json!(self);
        object["measured_now"] = json!(measured);
        object["changed"] = json!(self.best != self.tried[0].choice);
        object
    }

    /// For people, with what was tried if they ask.
    pub fn text(&self, measured: bool, explain: bool) -> String {
        let when = if measured { "" } else { " (measured before; --again measures anew)" };
        let same = if self.tried.first().is_some_and(|t| t.choice == self.best) { ", as without tuning" } else { "" };
        let mut text = format!("{}{same}{when}\n", self.best.words());
        if explain {
            text += &format!("machine: {}\nmodel:   {}\n", self.machine, self.shape);
            for t in &self.tried {
                let (p, d) = (median(&t.prefill), median(&t.decode));
                let words = t.choice.words();
                text += &format!("  {words:<22} prefill {p:>8.1} tok/s, decode {d:>7.1} tok/s: {:.2} s\n", t.seconds());
            }
            text += &format!("why: {}\n", self.why);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(threads: usize, rate: f64) -> Trial {
        Trial { choice: Choice { isa: "x".into(), threads }, prefill: vec![rate], decode: vec![rate] }
    }

    #[test]
    fn a_winner_saves_more_than_noise() {
        let tried = [trial(4, 100.0), trial(3, 90.0), trial(2, 110.0)];
        let (best, why) = decide(&tried, &trial(4, 100.0));
        assert_eq!(best, 2);
        assert!(why.contains("9.1 % less"), "{why}");
        // The usual one came out faster the second time, so that the others' gain is nothing to go by.
        let (best, why) = decide(&tried, &trial(4, 120.0));
        assert_eq!(best, 0, "{why}");
        assert_eq!(decide(&[trial(4, 100.0), trial(2, 102.0)], &trial(4, 100.0)).0, 0);
        assert_eq!(decide(&tried[..1], &tried[0]).0, 0);
    }

    #[test]
    fn the_first_candidate_is_what_runs_untuned() {
        for cores in [1, 2, 3, 8, 64] {
            let all = candidates(cores);
            assert_eq!((all[0].isa, all[0].threads), (Isa::detect(), cores));
            assert!(all.iter().all(|c| (1..=cores).contains(&c.threads)), "{all:?}");
            let (mut each, n) = (all.iter().map(|c| (c.isa.name(), c.threads)).collect::<Vec<_>>(), all.len());
            each.sort_unstable();
            each.dedup();
            assert_eq!(each.len(), n);
        }
    }

    #[test]
    fn as_much_is_kept_as_the_file_may_hold() {
        let tuned = |i: usize| Tuned {
            machine: "m".repeat(300),
            shape: format!("{i} {}", "s".repeat(300)),
            best: Choice { isa: "avx512".into(), threads: 64 },
            why: "w".repeat(300),
            tried: (0..8)
                .map(|n| Trial { prefill: vec![1.0 / 3.0; 6], decode: vec![1.0 / 3.0; 6], ..trial(n, 0.0) })
                .collect(),
        };
        let mut kept = Kept::default();
        (0..KEPT_MAX + 9).chain([KEPT_MAX]).for_each(|i| kept.put(tuned(i)));
        assert_eq!(kept.tuned.len(), KEPT_MAX);
        assert_eq!(kept.tuned[KEPT_MAX - 1], tuned(KEPT_MAX));
        let text = kept.text();
        assert!(text.len() <= limits::TUNE_BYTES_MAX, "{}", text.len());
        assert_eq!(serde_json::from_str::<Kept>(&text).unwrap().tuned, kept.tuned);
    }
}
