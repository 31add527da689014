//! F-CPU: one result for every instruction set, thread count, chunking and batch, and the numbers that it is made of.
//!
//! Whole models run in this process on every instruction set that the processor has; single operations run in programs
//! of two or three steps, whose numbers are computed here in f64 or bit by bit. Work is counted by the runner, never
//! timed: times are evidence and no verdict hangs on them.

mod contexts;
mod memory;
mod speed;
mod systems;

use std::time::{Duration, Instant};

use compute::backend::{Counters, NoTap, RowOutput};
use compute::cpu::{isa::Isa, product::Product};
use compute::program::{KvSpec, NormKind, Op, Program, Tag, WeightRef};
use compute::{Batch, Format, Interest, Output, Row, Want, quant};
use contexts::f_cpu_105;
use engine::sample::{Sampler, Sampling};
use engine::session::{Loaded, PREFILL_CHUNK, Session};
use memory::{f_cpu_097, f_cpu_100, f_cpu_107};
use serde_json::Value;
use speed::{f_cpu_098, f_cpu_099};
use systems::{f_cpu_093, f_cpu_108, f_cpu_110};

use super::Check;
use crate::ask::{LONG_PROMPTS, PROMPTS, answered, ask};
use crate::bad::numbers::{EDGES, hard_scores, rows_of_every_magnitude};
use crate::forge::random::Random;
use crate::formula;
use crate::lab::{self, Setup, running};
use crate::oracle;
use crate::snippet::{COMPUTED, LOOKED_UP, computing, ended, looked_up, matrix, run, runner, stored, ways};
use crate::subject::Subject;
use crate::threads::workers;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-CPU-091", f_cpu_091),
    ("F-CPU-092", f_cpu_092),
    ("F-CPU-093", f_cpu_093),
    ("F-CPU-094", f_cpu_094),
    ("F-CPU-095", f_cpu_095),
    ("F-CPU-096", f_cpu_096),
    ("F-CPU-097", f_cpu_097),
    ("F-CPU-098", f_cpu_098),
    ("F-CPU-099", f_cpu_099),
    ("F-CPU-100", f_cpu_100),
    ("F-CPU-101", f_cpu_101),
    ("F-CPU-102", f_cpu_102),
    ("F-CPU-103", f_cpu_103),
    ("F-CPU-104", f_cpu_104),
    ("F-CPU-105", f_cpu_105),
    ("F-CPU-106", f_cpu_106),
    ("F-CPU-107", f_cpu_107),
    ("F-CPU-108", f_cpu_108),
    ("F-CPU-110", f_cpu_110),
    ("F-CPU-111", f_cpu_111),
    ("F-CPU-112", f_cpu_112),
    ("F-CPU-113", f_cpu_113),
    ("F-CPU-114", f_cpu_114),
    ("F-CPU-115", f_cpu_115),
];

/// A forged model of every number format, and odd shapes.
fn of_every_format() -> Vec<String> {
    let uniform = quant::ALL.iter().map(|spec| format!("qwen2-{}", spec.name.to_lowercase()));
    uniform.chain(["qwen2-uneven-q8_0", "llama-head128-q8_0"].map(String::from)).collect()
}

/// Ids that every vocabulary here has, always the same.
fn some_ids(name: &str, n: usize) -> Vec<u32> {
    let mut random = Random::new(9, name);
    (0..n).map(|_| random.below(256) as u32).collect()
}

/// The two fixtures and these forged models.
fn models<N: AsRef<str>>(s: &Subject, forged: &[N]) -> Result<Vec<(String, std::path::PathBuf)>, Halt> {
    let mut all =
        vec![("q8_0 fixture".to_string(), s.fixture("q8_0")?), ("q4_k_m fixture".into(), s.fixture("q4_k_m")?)];
    for name in forged.iter().map(AsRef::as_ref) {
        all.push((name.to_string(), s.forged(name)?));
    }
    Ok(all)
}

/// The same outputs bit by bit.
fn identical(t: &mut Tally, what: &str, ours: &[RowOutput], want: &[RowOutput]) -> Result<(), Halt> {
    t.equal(&format!("{what}: as many rows"), &ours.len(), &want.len())?;
    for (i, (a, b)) in ours.iter().zip(want).enumerate() {
        let bits = |r: &RowOutput| (r.argmax, r.values.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        t.hold(bits(a) == bits(b), || {
            let worst = a.values.iter().zip(&b.values).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
            let seen = format!("row {i}: token {}, logits off by up to {worst}", a.argmax);
            Refutation::new(format!("{what}: the same bits"), seen, format!("token {}, the same logits", b.argmax))
        })?;
    }
    Ok(())
}

/// AVX2 SIMD acceleration works: the bits of the scalar path, on the kernel that was asked for.
pub fn f_cpu_091(s: &Subject) -> Attempt {
    accelerated(s, "avx2")
}

/// AVX-512 SIMD acceleration works (if available).
pub fn f_cpu_092(s: &Subject) -> Attempt {
    accelerated(s, "avx512")
}

fn accelerated(s: &Subject, isa: &'static str) -> Attempt {
    let mut t =
        Tally::new(format!("{isa} beside scalar: products of every format, whole models, apr with APR_ISA={isa}"));
    products(&mut t, isa)?;
    let mut faster = Vec::new();
    for (name, path) in models(s, &of_every_format())? {
        let ids = some_ids(&name, 70);
        let level = |isa| lab::open(s, &path, Setup { isa: Some(isa), threads: 1, ..Setup::default() });
        let (mut scalar, mut vector) = (level("scalar")?, level(isa)?);
        let told = vector.backend();
        t.hold(told.contains(&format!("({isa},")), || Refutation::new("the runner says what runs", &*told, isa))?;
        let begun = Instant::now();
        let want = lab::rows(&mut scalar, &ids, ids.len(), Want::Logits)?;
        let by_scalar = begun.elapsed();
        for chunk in [ids.len(), 7, 1] {
            let begun = Instant::now();
            let ours = lab::rows(&mut vector, &ids, chunk, Want::Logits)?;
            if chunk == ids.len() {
                faster.push(by_scalar.as_secs_f64() / begun.elapsed().as_secs_f64());
            }
            identical(&mut t, &format!("{name} at {isa}, chunks of {chunk}"), &ours, &want)?;
        }
    }
    faster.sort_by(f64::total_cmp);
    t.number("median of scalar time over this one, prefill", faster.get(faster.len() / 2).copied().unwrap_or_default());
    let golden = oracle::golden(s, "qwen2-tiny-q8_0")?.up_to(64);
    let setup = Setup { isa: Some(isa), ..Setup::default() };
    oracle::teacher_forced(&mut t, &mut lab::open(s, &golden.model(s)?, setup)?, &golden, golden.epsilon)?;
    by_apr(&mut t, s, isa)?;
    t.done()
}

/// `APR_ISA` is honoured by `apr`, and gives the tokens of the scalar level.
fn by_apr(t: &mut Tally, s: &Subject, isa: &str) -> Result<(), Halt> {
    for prompt in PROMPTS {
        let told = |isa: &str| -> Result<(Value, Value, String), Halt> {
            let out = answered(ask(s, prompt, &["--max-tokens", "32", "--json"])?.env("APR_ISA", isa))?;
            let json: Value = serde_json::from_slice(&out.stdout).map_err(instrument)?;
            Ok((json["backend"].clone(), json["tokens"].clone(), out.repro))
        };
        let (backend, tokens, repro) = told(isa)?;
        let named = backend.as_str().is_some_and(|b| b.contains(&format!("({isa},")));
        t.hold(named, || {
            Refutation::new("apr runs the instruction set it was told", backend.to_string(), isa).repro(repro.clone())
        })?;
        let (_, want, _) = told("scalar")?;
        t.hold(tokens == want && want.as_array().is_some_and(|ids| !ids.is_empty()), || {
            Refutation::new(format!("tokens at {isa} are those of scalar"), tokens.to_string(), want.to_string())
                .repro(repro.clone())
        })?;
    }
    Ok(())
}

/// Matrix products of every format at this level and at the scalar one: odd shapes, one to twenty columns.
fn products(t: &mut Tally, isa: &str) -> Result<(), Halt> {
    let levels = [Isa::SCALAR, Isa::from_name(isa).ok_or_else(|| instrument(format!("no {isa} here")))?];
    for spec in quant::ALL {
        let format = Format(spec);
        for (rows, blocks, columns) in [(1, 1, 1), (15, 2, 3), (16, 1, 8), (17, 3, 20), (40, 2, 5)] {
            let cols = if spec.block_len == 1 { 7 + 13 * blocks } else { spec.block_len * blocks };
            let mut random = Random::new(rows as u64, spec.name);
            let mut normal = |n: usize| (0..n).map(|_| random.normal()).collect::<Vec<f32>>();
            let mut bytes = vec![0; rows * format.row_bytes(cols).unwrap_or_default()];
            for row in bytes.chunks_exact_mut(format.row_bytes(cols).unwrap_or(1)) {
                format.encode_row(&normal(cols), row);
            }
            let x: Vec<Vec<f32>> = (0..columns).map(|_| normal(cols)).collect();
            let bias = normal(rows);
            let w = WeightRef { name: "w".into(), bytes: bytes.into(), format, rows, cols };
            let result = |isa| Ok::<_, Halt>(computing(Product::new(&w, isa))?.run(&x, Some(&bias)).to_vec());
            let (want, ours) = (result(levels[0])?, result(levels[1])?);
            let same = ours.iter().map(|x| x.to_bits()).eq(want.iter().map(|x| x.to_bits()));
            t.hold(same, || {
                let shape = format!("{format} [{rows}, {cols}] times {columns} columns at {isa}");
                Refutation::new("a product has the bits of the scalar one", shape, "the same bits")
            })?;
        }
    }
    Ok(())
}

/// Scalar fallback works (no SIMD): llama.cpp's tokens, near the oracle backend, and nothing else runs.
pub fn f_cpu_094(s: &Subject) -> Attempt {
    let mut t = Tally::new("the scalar level against llama.cpp and plain, and apr with APR_ISA=scalar");
    let scalar = Setup { isa: Some("scalar"), threads: 1, ..Setup::default() };
    for name in ["qwen2-f32", "llama-f16", "qwen2-q8_0", "qwen2-q4_k", "qwen2-tiny-q8_0", "qwen2-tiny-q4_k_m"] {
        let golden = oracle::golden(s, name)?.up_to(if name.contains("tiny") { 12 } else { 128 });
        let path = golden.model(s)?;
        let mut model = lab::open(s, &path, scalar)?;
        t.equal("the runner says what runs", &model.backend().contains("(scalar, 1 thread)"), &true)?;
        oracle::teacher_forced(&mut t, &mut model, &golden, golden.epsilon)?;
        let mut plain = lab::open(s, &path, Setup { oracle: true, ..scalar })?;
        let ids = some_ids(name, 40);
        let ours = lab::rows(&mut model, &ids, ids.len(), Want::Logits)?;
        let theirs = lab::rows(&mut plain, &ids, ids.len(), Want::Logits)?;
        let all = |rows: &[RowOutput]| rows.iter().flat_map(|r| r.values.clone()).collect::<Vec<f32>>();
        let far = all(&ours).iter().zip(all(&theirs)).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, formula::worse);
        t.at_most(&format!("{name}: largest difference from plain over epsilon"), far / golden.epsilon, 1.0)?;
    }
    by_apr(&mut t, s, "scalar")?;
    t.done()
}

/// Multi-threaded inference: every number of threads gives the same bits, and all of them work.
pub fn f_cpu_095(s: &Subject) -> Attempt {
    let mut t = Tally::new("1 to 5 threads, chunks of 1, 13 and all; processor time of apr's threads");
    for (name, path) in models(s, &["qwen2-q4_k", "qwen2-uneven-q8_0"])? {
        let ids = some_ids(&name, 70);
        let mut reference: Option<Vec<RowOutput>> = None;
        for threads in [1, 2, 3, 5] {
            let mut model = lab::open(s, &path, Setup { threads, ..Setup::default() })?;
            let told = model.backend();
            let count = format!(" {threads} thread");
            t.hold(told.contains(&count), || Refutation::new("the runner says how many", &*told, &*count))?;
            // One by one is slow where more threads than cores wait for each other.
            let chunks: &[usize] = if threads == 2 { &[70, 13, 1] } else { &[70, 13] };
            for &chunk in chunks {
                let ours = lab::rows(&mut model, &ids, chunk, Want::Logits)?;
                let want = reference.get_or_insert_with(|| ours.clone());
                identical(&mut t, &format!("{name}, {threads} threads, chunks of {chunk}"), &ours, want)?;
            }
        }
    }
    for threads in [2, 3] {
        let (out, busy) = workers(s, threads)?;
        let observed = format!("{busy:?}");
        let work = busy.len() == threads - 1 && busy.values().all(|time| *time >= Duration::from_millis(1));
        t.hold(work, || out.refute("every thread beside the first one works", &*observed, "time for each"))?;
        let most = busy.values().max().map_or(0.0, Duration::as_secs_f64);
        t.number(&format!("milliseconds of the busiest of {threads} threads"), most * 1e3);
    }
    t.done()
}

/// Thread count configurable: so many workers run, the report says so, and nonsense is refused.
pub fn f_cpu_096(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --threads 1, 2, 3, 5, its threads in /proc; none, 0 and absurd numbers");
    for threads in [1, 2, 3, 5] {
        let (out, busy) = workers(s, threads)?;
        let observed = format!("{} beside the first", busy.len());
        t.hold(busy.len() == threads - 1, || {
            out.refute(&format!("--threads {threads} runs so many workers"), &*observed, (threads - 1).to_string())
        })?;
        let backend = backend_of(&out.stdout)?;
        let told = format!(" {threads} thread");
        t.hold(backend.contains(&told), || out.refute("the report says how many", &*backend, &*told))?;
    }
    let out = answered(ask(s, PROMPTS[0], &["--max-tokens", "2", "--json"])?)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let backend = backend_of(&out.stdout)?;
    let told = format!(" {cores} thread");
    t.hold(backend.contains(&told), || out.refute("all cores unless told otherwise", &*backend, &*told))?;
    for absurd in ["0", "-1", "many", "1000000", "99999999999999999999"] {
        let out = ask(s, PROMPTS[0], &["--max-tokens", "2", "--threads", absurd])?.judged()?;
        let refused = out.code() == Some(2) && out.err().contains(absurd);
        t.hold(refused, || {
            let observed = format!("{:?}: {}", out.code(), out.err());
            out.refute(&format!("--threads {absurd} is refused"), observed, "exit code 2 and the number")
        })?;
    }
    t.done()
}

fn backend_of(stdout: &[u8]) -> Result<String, Halt> {
    let json: Value = serde_json::from_slice(stdout).map_err(instrument)?;
    Ok(json["backend"].as_str().unwrap_or_default().to_string())
}

/// Deterministic output (same seed): in one process, in fresh ones, on any number of threads, in any chunks.
pub fn f_cpu_101(s: &Subject) -> Attempt {
    let mut t = Tally::new("greedy and sampled answers, repeated in process and in fresh processes");
    let mut different = std::collections::BTreeSet::new();
    for (temperature, seed) in [(0.0, 0), (1.0, 1), (1.0, 2), (1.5, 3)] {
        let sampling = Sampling { temperature, seed, top_p: 1.0, min_p: 0.0, top_k: 0, ..Sampling::default() };
        let mut first: Option<Vec<u32>> = None;
        for (threads, chunk) in [(1, 512), (2, 5), (4, 1)] {
            let mut model = lab::open(s, &s.forged("llama-q8_0")?, Setup { threads, ..Setup::default() })?;
            for _ in 0..2 {
                let answer = lab::answer(&mut model, &some_ids("seeded", 30), 24, sampling.clone(), chunk)?;
                let want = first.get_or_insert_with(|| answer.tokens.clone());
                let what =
                    format!("temperature {temperature}, seed {seed}: the same tokens ({threads} threads, {chunk})");
                t.equal(&what, &answer.tokens, want)?;
            }
        }
        different.extend(first);
    }
    t.equal("other seeds give other tokens", &(different.len() > 2), &true)?;
    let mut answers = std::collections::BTreeSet::new();
    for seed in ["1", "2", "3", "4"] {
        // A story may begin in many ways.
        let draw = |threads: &str| {
            let flags = ["--raw", "--temperature", "2", "--top-p", "1", "--min-p", "0", "--top-k", "0"];
            let rest = ["--max-tokens", "24", "--seed", seed, "--threads", threads];
            answered(ask(s, "Once upon", &[&flags[..], &rest].concat())?)
        };
        let first = draw("1")?;
        for threads in ["1", "2"] {
            let again = draw(threads)?;
            t.hold(again.stdout == first.stdout, || {
                again.refute(&format!("seed {seed} gives one answer in every process"), again.out(), first.out())
            })?;
        }
        answers.insert(first.out());
    }
    t.number("different answers of 4 seeds", answers.len() as f64);
    t.equal("other seeds give other answers", &(answers.len() > 1), &true)?;
    t.done()
}

// ---- phases

/// KV cache works correctly: a step with the cache gives what recomputing the whole sequence gives.
pub fn f_cpu_102(s: &Subject) -> Attempt {
    let mut t = Tally::new("140 positions step by step beside the whole sequence recomputed; lengths lowered");
    for (name, path) in models(s, &["qwen2-uneven-q8_0", "llama-f32"])? {
        let ids = some_ids(&name, 140);
        let mut model = lab::open(s, &path, Setup::default())?;
        let before = model.counters();
        let cached = lab::rows(&mut model, &ids, 1, Want::Logits)?;
        t.equal(&format!("{name}: each position is computed once"), &(model.counters().rows - before.rows), &140)?;
        t.number(&format!("{name}: bytes of keys and values"), model.counters().kv_bytes as f64);
        for last in [0, 1, 2, 30, 62, 63, 64, 65, 126, 127, 128, 129, 139] {
            let whole = lab::rows(&mut model, &ids[..=last], last + 1, Want::Logits)?;
            let what = format!("{name}: position {last} with the cache and recomputed");
            identical(&mut t, &what, &cached[last..=last], &whole[last..])?;
        }
        lowered(&mut t, &mut model, &name, &ids, &cached)?;
    }
    t.done()
}

/// What was written past a lowered length is gone.
fn lowered(t: &mut Tally, model: &mut Loaded, name: &str, ids: &[u32], want: &[RowOutput]) -> Result<(), Halt> {
    for len in [1, 63, 64, 65, 100] {
        let mut session = Session::new(model);
        let feed = |session: &mut Session<'_>, ids: &[u32]| {
            running("a step runs", session.feed(ids, Want::Nothing, Want::Logits, &mut NoTap))
        };
        feed(&mut session, &ids[..len])?;
        feed(&mut session, &some_ids("others", 39))?;
        session.truncate(len);
        feed(&mut session, &ids[len..len + 1])?;
        identical(t, &format!("{name}: after lowering to {len}"), &session.output().rows, &want[len..=len])?;
    }
    Ok(())
}

/// Matrices that every row goes through, the LM head left out.
fn matrices(model: &Loaded) -> u64 {
    7 * model.model.hyper.layers as u64
}

fn since(before: Counters, after: Counters) -> (u64, u64, u64) {
    (after.steps - before.steps, after.rows - before.rows, after.weight_passes - before.weight_passes)
}

/// Prefill phase optimized: weights are read once for as many rows as a tile takes, not once for each.
pub fn f_cpu_103(s: &Subject) -> Attempt {
    let mut t = Tally::new("prompts of 1 to 300 tokens: passes over the weights, and the logits of row by row");
    for (name, path) in models(s, &["qwen2-q4_k"])? {
        for isa in Isa::available() {
            let mut model = lab::open(s, &path, Setup { isa: Some(isa.name()), ..Setup::default() })?;
            let tile = isa.columns() as u64;
            for n in [1, 2, tile, tile + 1, 33, 300] {
                let before = model.counters();
                lab::greedy(&mut model, &some_ids(&name, n as usize), 1)?;
                // One row wants logits: the last.
                let want = (1, n, matrices(&model) * n.div_ceil(tile) + 1);
                let what = format!("{name} at {}: steps, rows and weight passes of {n} tokens", isa.name());
                t.equal(&what, &since(before, model.counters()), &want)?;
            }
            t.number(&format!("rows a pass serves at {}", isa.name()), tile as f64);
        }
        let mut model = lab::open(s, &path, Setup { threads: 1, ..Setup::default() })?;
        let ids = some_ids(&name, 200);
        let mut timed = |chunk: usize| {
            let begun = Instant::now();
            let rows = lab::rows(&mut model, &ids, chunk, Want::Logits)?;
            Ok::<_, Halt>((rows, begun.elapsed().as_secs_f64()))
        };
        let ((one, slow), (all, fast)) = (timed(1)?, timed(PREFILL_CHUNK)?);
        identical(&mut t, &format!("{name}: prefill and row by row"), &all, &one)?;
        t.number(&format!("{name}: time row by row over time in one batch"), slow / fast);
    }
    t.done()
}

/// Decode phase optimized: a step runs one row, and reads each matrix once.
pub fn f_cpu_104(s: &Subject) -> Attempt {
    let mut t = Tally::new("greedy and sampled answers of 40 tokens: steps, rows and passes over the weights");
    for (name, path) in models(s, &["qwen2-q4_k", "llama-q8_0"])? {
        for sampling in [Sampling::default(), Sampling { temperature: 1.0, seed: 3, ..Sampling::default() }] {
            let mut model = lab::open(s, &path, Setup::default())?;
            let tile = Isa::detect().columns() as u64;
            let before = model.counters();
            // The trained model answers a question at length; random ids it answers with nothing.
            let fixture = name.ends_with("fixture");
            let ids = if fixture { lab::chat_ids(&model, LONG_PROMPTS[0])? } else { some_ids(&name, 20) };
            let answer = lab::answer(&mut model, &ids, 40, sampling, PREFILL_CHUNK)?;
            // The first token comes out of the prompt's step; the last one is never put in.
            let ended = u64::from(answer.finish == engine::session::Finish::Eos);
            let steps = answer.tokens.len() as u64 + ended - 1;
            let each = matrices(&model) + 1;
            let n = ids.len() as u64;
            let want = (1 + steps, n + steps, matrices(&model) * n.div_ceil(tile) + 1 + steps * each);
            t.equal(&format!("{name}: steps, rows and weight passes"), &since(before, model.counters()), &want)?;
            t.number(&format!("{name}: decode steps"), steps as f64);
            t.number(&format!("{name}: milliseconds a step"), answer.decode_ms / steps.max(1) as f64);
        }
    }
    t.done()
}

/// Handles batch size 1: a row alone gives what it gives beside others, of its own sequence and of another.
pub fn f_cpu_106(s: &Subject) -> Attempt {
    let mut t = Tally::new("rows alone, in batches of their sequence, and beside a second sequence");
    for (name, path) in models(s, &["qwen2-q4_k", "llama-f16", "qwen2-uneven-q8_0"])? {
        let ids = some_ids(&name, 70);
        let mut model = lab::open(s, &path, Setup::default())?;
        let alone = lab::rows(&mut model, &ids, 1, Want::Logits)?;
        for size in [2, 3, 9, 70] {
            let together = lab::rows(&mut model, &ids, size, Want::Logits)?;
            identical(&mut t, &format!("{name}: alone and in batches of {size}"), &together, &alone)?;
        }
        let one = lab::greedy(&mut model, &ids[..1], 4)?;
        t.equal(&format!("{name}: a prompt of one token is answered"), &one.prompt_tokens, &1)?;
        let program = engine::program::build(&model.model);
        let mut runner = runner(s, &program, Setup::default(), &Interest::Nothing)?;
        computing(runner.reserve_blocks(4))?;
        let mut out = Output::default();
        for (at, want) in alone.iter().enumerate().take(20) {
            let row = |sequence, token| Row { sequence, position: at as u32, token, want: Want::Logits };
            let rows = [row(0, ids[at]), row(1, ids[69 - at])];
            let batch = Batch { rows: &rows, tables: &[&[1], &[2]] };
            computing(runner.step(&batch, &mut out, &mut NoTap))?;
            let first = std::slice::from_ref(want);
            identical(&mut t, &format!("{name}: position {at} beside another sequence"), &out.rows[..1], first)?;
        }
    }
    t.done()
}

// ---- numbers

/// Q4_K dequantization correct.
pub fn f_cpu_111(s: &Subject) -> Attempt {
    dequantized(s, "Q4_K", &[0, 2], oracle::q4_k)
}

/// Q6_K dequantization correct.
pub fn f_cpu_112(s: &Subject) -> Attempt {
    dequantized(s, "Q6_K", &[208], oracle::q6_k)
}

/// Golden blocks and random ones, looked up and multiplied by on every way to run a program. `halves` says where a
/// block has its half-precision scales; everything else in it may be anything.
fn dequantized(s: &Subject, name: &str, halves: &[usize], definition: fn(&[u8], &mut [f32])) -> Attempt {
    let mut t = Tally::new(format!("{name} blocks, golden and random, looked up and multiplied by on every level"));
    let golden = oracle::blocks(&mut t, s, name)?;
    let size = golden.format.0.block_bytes;
    let mut random = Random::new(111, name);
    let mut bytes = golden.bytes.clone();
    for i in 0..512 {
        let mut block: Vec<u8> = (0..size).map(|_| random.bits() as u8).collect();
        for &at in halves {
            let scale = EDGES[(i + at) % EDGES.len()];
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        bytes.extend(block);
    }
    let count = bytes.len() / size;
    let mut want = vec![0f32; count * 256];
    bytes.chunks_exact(size).zip(want.chunks_exact_mut(256)).for_each(|(block, out)| definition(block, out));
    for (ours, theirs) in want.iter().zip(&golden.values) {
        let same = ours.to_bits() == *theirs;
        t.hold(same, || Refutation::new("the definition is the oracle's", format!("{ours}"), format!("{theirs:08x}")))?;
    }
    // Looked up: the block's values themselves.
    let (table, dst) = looked_up(|p| stored(p, golden.format, count, bytes.clone()), count);
    let table = ended(table, dst);
    // Multiplied by: the unit vectors pick one weight of each block.
    let (mut product, x) = looked_up(|p| matrix(p, 256, &unit_vectors(256)), 256);
    let weight = stored(&mut product, golden.format, count, bytes);
    let dst = product.buffer(count);
    product.push(COMPUTED, Op::MatMul { src: x, weight, bias: None, dst });
    let product = ended(product, dst);
    let mut levels: Option<Vec<u32>> = None;
    for setup in ways() {
        let ran = run(s, &table, setup, &(0..count as u32).collect::<Vec<_>>())?;
        for (i, (ours, want)) in ran.of(LOOKED_UP)?.iter().zip(&want).enumerate() {
            t.hold(ours.to_bits() == want.to_bits(), || {
                let seen = format!("{ours} (block {}, value {}, {})", i / 256, i % 256, ran.how);
                Refutation::new(format!("{name} decodes bit for bit"), seen, want.to_string())
            })?;
        }
        let ran = run(s, &product, setup, &(0..256).collect::<Vec<_>>())?;
        let picked = ran.of(COMPUTED)?;
        let mut worst = 0.0;
        for (i, ours) in picked.iter().enumerate() {
            let (value, block) = (i / count, i % count);
            let largest = want[block * 256..][..256].iter().fold(0f32, |m, x| m.max(x.abs()));
            let off = f64::from((ours - want[block * 256 + value]).abs()) / f64::from(largest.max(f32::MIN_POSITIVE));
            worst = formula::worse(worst, off);
        }
        t.at_most(&format!("{}: largest error of a multiplied weight over its block's largest", ran.how), worst, 2e-6)?;
        if !setup.oracle {
            let bits: Vec<u32> = picked.iter().map(|x| x.to_bits()).collect();
            let same = *levels.get_or_insert_with(|| bits.clone()) == bits;
            t.hold(same, || Refutation::new("every level gives the same bits", &*ran.how, "the bits of the others"))?;
        }
    }
    t.number("blocks", count as f64);
    t.done()
}

fn unit_vectors(n: usize) -> Vec<f32> {
    (0..n * n).map(|i| if i / n == i % n { 1.0 } else { 0.0 }).collect()
}

/// F16→F32 conversion correct: every bit pattern, looked up and multiplied by.
pub fn f_cpu_113(s: &Subject) -> Attempt {
    const COLS: usize = 16;
    let mut t = Tally::new("all 65536 F16 patterns on plain and every level, looked up and multiplied by");
    let want: Vec<f32> = (0..=u16::MAX).map(oracle::half).collect();
    let patterns = || (0..=u16::MAX).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let (table, dst) = looked_up(|p| stored(p, Format::F16, 65536 / COLS, patterns()), 65536 / COLS);
    let table = ended(table, dst);
    // One pattern in each row, in a lane of its own; the other weights are 0, and every activation is 1.
    let mut rows = vec![0u8; 65536 * COLS * 2];
    for pattern in 0..=u16::MAX {
        let at = (usize::from(pattern) * COLS + usize::from(pattern) % COLS) * 2;
        rows[at..at + 2].copy_from_slice(&pattern.to_le_bytes());
    }
    let (mut product, x) = looked_up(|p| matrix(p, 1, &[1.0; COLS]), 1);
    let weight = stored(&mut product, Format::F16, 65536, rows);
    let dst = product.buffer(65536);
    product.push(COMPUTED, Op::MatMul { src: x, weight, bias: None, dst });
    let product = ended(product, dst);
    for setup in ways() {
        let looked = run(s, &table, setup, &(0..(65536 / COLS) as u32).collect::<Vec<_>>())?;
        let multiplied = run(s, &product, setup, &[0])?;
        for (pattern, want) in want.iter().enumerate() {
            let (a, b) = (looked.of(LOOKED_UP)?[pattern], multiplied.of(COMPUTED)?[pattern]);
            // A sum with zeros has no negative zero, and a NaN is a NaN whatever its bits.
            let same =
                if want.is_nan() { a.is_nan() && b.is_nan() } else { a.to_bits() == want.to_bits() && b == *want };
            t.hold(same, || {
                let seen = format!("{a:e} looked up, {b:e} multiplied by ({})", looked.how);
                Refutation::new(format!("F16 {pattern:04x} is what IEEE 754 says"), seen, format!("{want:e}"))
            })?;
        }
    }
    t.done()
}

/// RMSNorm numerically stable: f64 is matched from subnormal inputs to those whose squares overflow.
pub fn f_cpu_114(s: &Subject) -> Attempt {
    let mut t = Tally::new("RMSNorm of rows of every magnitude on plain and every level, against f64");
    const EPS: f32 = 1e-6;
    let mut worst = 0.0;
    for width in [1, 16, 100, 896] {
        let rows = rows_of_every_magnitude(width);
        let weights: Vec<f32> = (0..width).map(|i| 0.5 + i as f32 / width as f32).collect();
        let count = rows.len() / width;
        let (mut p, src) = looked_up(|p| matrix(p, count, &rows), count);
        let weight = Some(matrix(&mut p, 1, &weights));
        let dst = p.buffer(width);
        let kind = NormKind::Rms;
        p.push(COMPUTED, Op::Norm { kind, src, dst, weight, bias: None, offset: 0.0, eps: EPS, per_head: None });
        let p = ended(p, dst);
        for setup in ways() {
            let ran = run(s, &p, setup, &(0..count as u32).collect::<Vec<_>>())?;
            for (r, (ours, x)) in ran.of(COMPUTED)?.chunks_exact(width).zip(rows.chunks_exact(width)).enumerate() {
                let rms = formula::rms(x.iter().map(|&x| f64::from(x)));
                let scale = 1.0 / rms.hypot(f64::from(EPS).sqrt());
                let off = ours.iter().zip(x).zip(&weights).map(|((y, x), w)| {
                    let want = f64::from(*x) * scale * f64::from(*w);
                    // A result below the normal range has fewer digits.
                    (f64::from(*y) - want).abs() / want.abs().max(f64::from(f32::MIN_POSITIVE))
                });
                let off = off.fold(0.0, formula::worse);
                worst = formula::worse(worst, off);
                t.hold(off <= 1e-5, || {
                    let seen = format!("off by {off} in row {r} of width {width}: {:?}", &ours[..width.min(4)]);
                    Refutation::new(format!("RMSNorm is f64's ({})", ran.how), seen, "a relative error of at most 1e-5")
                })?;
            }
        }
    }
    t.number("largest relative error", worst);
    t.done()
}

/// Softmax numerically stable: over logits, in the sampler, and inside attention.
pub fn f_cpu_115(s: &Subject) -> Attempt {
    let mut t = Tally::new("log-sum-exp, sampler and attention on scores up to 1e4 and beyond, against f64");
    over_logits(&mut t, s)?;
    in_attention(&mut t, s)?;
    t.done()
}

fn over_logits(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    const VOCAB: usize = 257;
    let rows = hard_scores(VOCAB);
    let (mut p, src) = looked_up(|p| matrix(p, rows.len(), &rows.concat()), rows.len());
    let weight = matrix(&mut p, VOCAB, &unit_vectors(VOCAB));
    p.push(Tag(9), Op::Logits { src, weight, scale: 1.0 });
    let mut worst = 0.0;
    for setup in ways() {
        let ran = run(s, &p, setup, &(0..rows.len() as u32).collect::<Vec<_>>())?;
        for (out, row) in ran.outputs.iter().zip(&rows) {
            let scores: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let want = max + scores.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
            let best = scores.iter().position(|x| *x == max).unwrap_or(0) as u32;
            t.equal("the logits are the scores", &out.values[..], &row[..])?;
            t.equal("the best one and its logit", &(out.argmax, f64::from(out.max)), &(best, max))?;
            // What f32 can say of a number of this size, and the rounding of the sum.
            let off = (f64::from(out.log_sum_exp) - want).abs() / (1e-5 + want.abs() * f64::from(f32::EPSILON));
            worst = formula::worse(worst, off);
            t.hold(off <= 1.0 && out.finite, || {
                let seen = format!("{} ({}, scores {:?}...)", out.log_sum_exp, ran.how, &row[..3]);
                Refutation::new("the log-sum-exp is f64's", seen, want.to_string())
            })?;
            drawn_from(t, row)?;
        }
    }
    t.number("largest error of a log-sum-exp over what f32 can say", worst);
    Ok(())
}

/// What the sampler makes of these logits: probabilities that are finite, in order, and sum to 1.
fn drawn_from(t: &mut Tally, logits: &[f32]) -> Result<(), Halt> {
    for temperature in [0.1f32, 1.0, 2.0] {
        let all = Sampling { temperature, ..Sampling::unfiltered(0) };
        let drawn = Sampler::new(all, std::iter::empty()).candidates(logits, &[]);
        let sum: f64 = drawn.iter().map(|c| c.1).sum();
        let sound = drawn.iter().all(|c| c.1.is_finite() && c.1 >= 0.0);
        let order = drawn.windows(2).all(|w| w[0].1 >= w[1].1 && logits[w[0].0 as usize] >= logits[w[1].0 as usize]);
        t.hold(sound && order && (sum - 1.0).abs() <= 1e-5, || {
            let seen = format!("a sum of {sum}, finite {sound}, in order {order} at temperature {temperature}");
            Refutation::new("the sampler's probabilities are probabilities", seen, "a sum of 1, in order")
        })?;
    }
    Ok(())
}

/// Sixteen positions whose values are unit vectors: what attention gives are its weights.
fn in_attention(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    const N: usize = 16;
    // A score is the sum of two products, exact in f32 as long as the second factors are eighths.
    for (large, small) in [(0.0, 1.0), (100.0, 1.0), (-100.0, 1.0), (100.0, 0.0), (0.0, 64.0), (100.0, 256.0)] {
        let mut p = Program { vocab: N, kv: vec![KvSpec { heads: 1, head_dim: N }], ..Program::default() };
        let key = |j: usize| [100.0, (j * 5 % N) as f32 / 8.0 - 1.0];
        let mut filled = |value: &dyn Fn(usize, usize) -> f32| {
            let values: Vec<f32> = (0..N * N).map(|i| value(i / N, i % N)).collect();
            let table = matrix(&mut p, N, &values);
            let dst = p.buffer(N);
            p.push(Tag(0), Op::Embed { table, dst, scale: 1.0 });
            dst
        };
        let q = filled(&|_, d| [large, small].get(d).copied().unwrap_or(0.0));
        let k = filled(&|j, d| key(j).get(d).copied().unwrap_or(0.0));
        let v = filled(&|j, d| if j == d { 1.0 } else { 0.0 });
        let dst = p.buffer(N);
        let (layer, heads, scale, window, softcap) = (0, 1, 1.0, None, None);
        p.push(COMPUTED, Op::Attend { q, k, v, dst, layer, heads, scale, window, softcap, causal: true });
        let p = ended(p, dst);
        for setup in ways() {
            let ran = run(s, &p, setup, &(0..N as u32).collect::<Vec<_>>())?;
            for (r, weights) in ran.of(COMPUTED)?.chunks_exact(N).enumerate() {
                let score = |j: usize| f64::from(large * key(j)[0]) + f64::from(small * key(j)[1]);
                let mut want = formula::softmax(&(0..=r).map(score).collect::<Vec<_>>());
                want.resize(N, 0.0);
                let off = weights.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, formula::worse);
                let sum: f64 = weights.iter().map(|&x| f64::from(x)).sum();
                t.hold(off <= 1e-5 && (sum - 1.0).abs() <= 1e-5, || {
                    let at = format!("scores of {large} * 100 + {small} * x, position {r}, {}", ran.how);
                    let seen = format!("off by {off}, a sum of {sum} ({at})");
                    Refutation::new("attention weights are f64's", seen, "within 1e-5, a sum of 1")
                })?;
            }
        }
    }
    Ok(())
}
