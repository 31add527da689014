//! The contract on the device: the bits of the cpu backend, operation by operation, whatever the batch. These need an
//! NVIDIA GPU; a machine without one runs them with `--ignored` in vain, so it does not pretend to.

use super::Cuda;
use crate::backend::{Backend, Batch, Interest, NoTap, Output, Row, Runner, Tap, Want};
use crate::cpu::Cpu;
use crate::cpu::isa::Isa;
use crate::cpu::tests::{noise, row, transformer, transformer_of};
use crate::program::*;
use crate::quant::{self, Format};

fn cuda() -> Cuda {
    Cuda::detect().unwrap_or_else(|absent| panic!("{absent}"))
}

fn cpu() -> Cpu {
    Cpu { isa: Isa::detect(), threads: 4 }
}

/// Hidden, feed-forward, vocabulary: as small as the format's blocks allow.
fn sizes(format: Format) -> (usize, usize, usize) {
    match format.0.block_len {
        256 => (256, 2304, 300),
        _ => (64, 2080, 50),
    }
}

/// All logits of all rows, the tokens cut into chunks.
fn logits(runner: &mut dyn Runner, tokens: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    runner.reserve_blocks(4).unwrap();
    let (mut out, mut all) = (Output::default(), Vec::new());
    for (i, part) in tokens.chunks(chunk).enumerate() {
        let rows: Vec<Row> = part.iter().enumerate().map(|(j, &t)| row(0, i * chunk + j, t, Want::Logits)).collect();
        runner.step(&Batch { rows: &rows, tables: &[&[2, 0, 3]] }, &mut out, &mut NoTap).unwrap();
        all.extend(out.rows.iter().map(|r| r.values.clone()));
    }
    all
}

fn tokens(count: usize, vocab: usize, seed: u64) -> Vec<u32> {
    (0..count as u64).map(|i| ((i * 7 + seed) % vocab as u64) as u32).collect()
}

/// The first element that differs, with both values.
fn first_difference(a: &[f32], b: &[f32]) -> Option<(usize, f32, f32)> {
    let differs = |(x, y): &(&f32, &f32)| x.to_bits() != y.to_bits() && !(x.is_nan() && y.is_nan());
    a.iter().zip(b).position(|p| differs(&p)).map(|i| (i, a[i], b[i]))
}

struct Keep(Vec<(usize, Vec<f32>)>);
impl Tap for Keep {
    fn observe(&mut self, index: usize, _: Tag, _: usize, values: &[f32]) {
        self.0.push((index, values.to_vec()));
    }
}

/// Runs a program on both, tapped everywhere, and names the first operation that differs.
fn twin(p: &Program, cuda: &Cuda, rows: &[Row], tables: &[&[u32]], what: &str) {
    let mut seen = Vec::new();
    for backend in [&cpu() as &dyn Backend, cuda] {
        let mut r = backend.prepare(p, &Interest::Everything).unwrap();
        r.reserve_blocks(6).unwrap();
        let (mut keep, mut out) = (Keep(Vec::new()), Output::default());
        r.step(&Batch { rows, tables }, &mut out, &mut keep).unwrap();
        seen.push((keep.0, out));
    }
    for (a, b) in seen[0].0.iter().zip(&seen[1].0) {
        assert_eq!(a.0, b.0);
        let d = first_difference(&a.1, &b.1);
        assert!(d.is_none(), "{what}: operation {} {:?}: element, cpu, cuda {d:?}", a.0, p.steps[a.0].op);
    }
    for (r, (a, b)) in seen[0].1.rows.iter().zip(&seen[1].1.rows).enumerate() {
        let d = first_difference(&a.values, &b.values);
        assert!(d.is_none(), "{what}: logits of row {r}: {d:?}");
        assert_eq!((a.argmax, a.max.to_bits(), a.finite), (b.argmax, b.max.to_bits(), b.finite), "{what} row {r}");
        let near = (a.log_sum_exp - b.log_sum_exp).abs() <= 1e-4 * a.log_sum_exp.abs().max(1.0);
        assert!(near, "{what}: log-sum-exp {} and {}", a.log_sum_exp, b.log_sum_exp);
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn gpu_every_operation_in_every_format_has_the_bits_of_the_cpu() {
    let cuda = cuda();
    for spec in quant::ALL {
        let format = Format(spec);
        for (layout, heads) in [(RopeLayout::Split, (2, 1)), (RopeLayout::Interleaved, (4, 4))] {
            let p = transformer_of(format, heads, layout, 3, sizes(format));
            for count in [1, 2, 70, 300] {
                let t = tokens(count, p.vocab, 5);
                let rows: Vec<Row> = t.iter().enumerate().map(|(i, &t)| row(0, i, t, Want::Logits)).collect();
                twin(&p, &cuda, &rows, &[&[2, 0, 3, 5, 1]], &format!("{format} {count} rows"));
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn gpu_logits_do_not_depend_on_chunks_or_companions() {
    let cuda = cuda();
    for spec in quant::ALL {
        let format = Format(spec);
        let p = transformer_of(format, (4, 2), RopeLayout::Split, 9, sizes(format));
        let t = tokens(150, p.vocab, 1);
        let want = logits(&mut *cpu().prepare(&p, &Interest::Nothing).unwrap(), &t, 150);
        for chunk in [1, 7, 33, 150] {
            let got = logits(&mut *cuda.prepare(&p, &Interest::Nothing).unwrap(), &t, chunk);
            for (i, (a, b)) in want.iter().zip(&got).enumerate() {
                let d = first_difference(a, b);
                assert!(d.is_none(), "{format} chunks of {chunk}, row {i}: {d:?}");
            }
        }
        // Beside another sequence, in blocks of its own, with rows that want nothing or little.
        let mut r = cuda.prepare(&p, &Interest::Nothing).unwrap();
        r.reserve_blocks(6).unwrap();
        let mut out = Output::default();
        for (i, part) in t.chunks(17).enumerate() {
            let mut rows: Vec<Row> =
                (0..i % 3).map(|j| row(0, 20 * i + j, (3 * j % 50) as u32, Want::Argmax)).collect();
            rows.extend(part.iter().enumerate().map(|(j, &t)| row(1, i * 17 + j, t, Want::Logits)));
            r.step(&Batch { rows: &rows, tables: &[&[1, 4, 5], &[2, 0, 3]] }, &mut out, &mut NoTap).unwrap();
            let last = out.rows.last().unwrap();
            let at = (i * 17 + part.len()) - 1;
            assert!(first_difference(&want[at], &last.values).is_none(), "{format} beside another, row {at}");
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn gpu_every_image_gives_the_same() {
    let format = Format::from_name("Q6_K").unwrap();
    let p = transformer_of(format, (4, 2), RopeLayout::Split, 2, sizes(format));
    let t = tokens(100, p.vocab, 1);
    let want = logits(&mut *cpu().prepare(&p, &Interest::Nothing).unwrap(), &t, 100);
    for image in ["ptx_70", "ptx_80", "sm_90"] {
        let cuda = match Cuda::with_image(Some(image)) {
            Ok(cuda) => cuda,
            // Machine code of another chip is refused by the driver; PTX never is.
            Err(_) if image == "sm_90" => continue,
            Err(e) => panic!("{image}: {e}"),
        };
        for chunk in [1, 100] {
            let got = logits(&mut *cuda.prepare(&p, &Interest::Nothing).unwrap(), &t, chunk);
            assert!(want == got, "{image}, chunks of {chunk}");
        }
    }
}

/// What no transformer of today has all at once.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn gpu_unusual_operations_have_the_bits_of_the_cpu() {
    let cuda = cuda();
    let format = Format::from_name("Q8_0").unwrap();
    let t = tokens(150, 50, 4);
    let rows: Vec<Row> = t.iter().enumerate().map(|(i, &t)| row(0, i, t, Want::Logits)).collect();
    let tables: &[&[u32]] = &[&[2, 0, 3]];
    type Edit = fn(&mut Program);
    let edits: [(&str, Edit); 9] = [
        ("window", |p| {
            each(p, |op| {
                if let Op::Attend { window, .. } = op {
                    *window = Some(70)
                }
            })
        }),
        ("not causal", |p| {
            each(p, |op| {
                if let Op::Attend { causal, .. } = op {
                    *causal = false
                }
            })
        }),
        ("layer norm", |p| {
            each(p, |op| {
                if let Op::Norm { kind, .. } = op {
                    *kind = NormKind::Layer
                }
            })
        }),
        ("no norm weight", |p| {
            each(p, |op| {
                if let Op::Norm { weight, .. } = op {
                    *weight = None
                }
            })
        }),
        ("norm offset", |p| {
            each(p, |op| {
                if let Op::Norm { offset, .. } = op {
                    *offset = 1.0
                }
            })
        }),
        ("gelu", |p| {
            each(p, |op| {
                if let Op::Gate { act, .. } = op {
                    *act = Act::GeluTanh
                }
            })
        }),
        ("logit scale", |p| {
            each(p, |op| {
                if let Op::Logits { scale, .. } = op {
                    *scale = 0.37
                }
            })
        }),
        ("no rotation", |p| p.steps.retain(|s| !matches!(s.op, Op::Rope { .. }))),
        ("huge", |p| {
            each(p, |op| {
                if let Op::Embed { scale, .. } = op {
                    *scale = 3e25
                }
            })
        }),
    ];
    for (what, edit) in edits {
        // Heads of 64 elements, which have kernels of their own.
        let mut p = transformer_of(format, (4, 2), RopeLayout::Split, 6, (256, 2080, 50));
        edit(&mut p);
        twin(&p, &cuda, &rows, tables, what);
        let want = logits(&mut *cpu().prepare(&p, &Interest::Nothing).unwrap(), &t, 150);
        let got = logits(&mut *cuda.prepare(&p, &Interest::Nothing).unwrap(), &t, 150);
        for (a, b) in want.iter().zip(&got) {
            assert!(first_difference(a, b).is_none(), "{what}, fused");
        }
    }
    // A norm of each head, of a buffer that is rotated next.
    let mut p = transformer(format, (4, 2), RopeLayout::Split, 6);
    let Some(at) = p.steps.iter().position(|s| matches!(s.op, Op::Rope { .. })) else { panic!("a rotation") };
    let Op::Rope { buf, head_dim, .. } = p.steps[at].op else { panic!("a rotation") };
    let bytes: Vec<u8> = noise(8, head_dim).iter().flat_map(|x| x.to_le_bytes()).collect();
    let w = WeightRef { name: "n".into(), bytes: bytes.into(), format: Format::F32, rows: 1, cols: head_dim };
    let weight = Some(p.weight(w));
    let (kind, eps, per_head) = (NormKind::Rms, 1e-5, Some(head_dim));
    let op = Op::Norm { kind, src: buf, dst: buf, weight, bias: None, offset: 0.0, eps, per_head };
    p.steps.insert(at, Step { op, tag: Tag(0) });
    twin(&p, &cuda, &rows, tables, "norm of heads");
}

fn each(p: &mut Program, edit: impl Fn(&mut Op)) {
    p.steps.iter_mut().for_each(|s| edit(&mut s.op));
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn gpu_copied_blocks_hold_the_same_and_bad_batches_are_refused() {
    let p = transformer(Format::from_name("Q8_0").unwrap(), (4, 2), RopeLayout::Split, 1);
    let mut r = cuda().prepare(&p, &Interest::Nothing).unwrap();
    r.reserve_blocks(2).unwrap();
    let mut out = Output::default();
    let prompt: Vec<Row> = (0..5).map(|i| row(0, i, i as u32, Want::Nothing)).collect();
    r.step(&Batch { rows: &prompt, tables: &[&[0]] }, &mut out, &mut NoTap).unwrap();
    r.reserve_blocks(11).unwrap();
    r.copy_blocks(&[(0, 10)]).unwrap();
    let next = [row(0, 5, 9, Want::Logits), row(1, 5, 9, Want::Logits)];
    r.step(&Batch { rows: &next, tables: &[&[0], &[10]] }, &mut out, &mut NoTap).unwrap();
    assert!(!out.rows[0].values.is_empty() && out.rows[0].values == out.rows[1].values);
    let bad: [(Vec<Row>, &[u32]); 4] = [
        (vec![], &[0]),
        (vec![row(0, 0, 50, Want::Argmax)], &[0]),
        (vec![row(0, 64, 1, Want::Argmax)], &[0]),
        (vec![row(0, 0, 1, Want::Argmax)], &[11]),
    ];
    for (rows, table) in bad {
        assert!(r.step(&Batch { rows: &rows, tables: &[table] }, &mut out, &mut NoTap).is_err(), "{rows:?}");
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn gpu_memory_comes_back_and_steps_copy_no_cache() {
    let cuda = cuda();
    let p = transformer(Format::from_name("Q8_0").unwrap(), (4, 2), RopeLayout::Split, 1);
    let t = tokens(150, p.vocab, 2);
    logits(&mut *cuda.prepare(&p, &Interest::Nothing).unwrap(), &t, 10);
    let before = cuda.memory().unwrap().0;
    for _ in 0..50 {
        logits(&mut *cuda.prepare(&p, &Interest::Nothing).unwrap(), &t, 10);
    }
    assert_eq!(cuda.memory().unwrap().0, before);
    let mut r = cuda.prepare(&p, &Interest::Nothing).unwrap();
    r.reserve_blocks(3).unwrap();
    let mut copied = Vec::new();
    for (i, &token) in t.iter().enumerate() {
        let was = r.counters().copied_bytes;
        let rows = [row(0, i, token, Want::Argmax)];
        r.step(&Batch { rows: &rows, tables: &[&[0, 1, 2]] }, &mut Output::default(), &mut NoTap).unwrap();
        copied.push(r.counters().copied_bytes - was);
    }
    assert!(copied.iter().all(|&c| c == copied[0] && c < 100), "{copied:?}");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn gpu_too_much_is_refused_with_the_bytes() {
    let cuda = cuda();
    let mut p = transformer(Format::from_name("Q8_0").unwrap(), (4, 2), RopeLayout::Split, 1);
    let mut r = cuda.prepare(&p, &Interest::Nothing).unwrap();
    assert!(matches!(r.reserve_blocks(1 << 17), Err(crate::Error::Unsupported(_))));
    // A third layer that nobody attends to, with blocks of 32 MiB: 65536 of them are 2 TiB.
    p.kv.push(KvSpec { heads: 1, head_dim: 1 << 17 });
    let mut r = cuda.prepare(&p, &Interest::Nothing).unwrap();
    let refused = r.reserve_blocks(1 << 16);
    assert!(matches!(refused, Err(crate::Error::DeviceMemory { bytes, free, .. }) if bytes > free), "{refused:?}");
    // And what fits goes on working.
    logits(&mut *r, &tokens(10, p.vocab, 1), 5);
}
