//! The numerics contract, held to: one result for every instruction set, column count, thread count and chunking.

use proptest::prelude::*;

use super::Cpu;
use super::isa::Isa;
use super::product::Product;
use crate::backend::{Backend, Batch, Interest, NoTap, Output, Row, Want};
use crate::plain::Plain;
use crate::program::*;
use crate::quant::{self, Format};

/// Deterministic values in about -1..1.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn encoded(format: Format, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; rows * format.row_bytes(cols).unwrap()];
    for (r, row) in bytes.chunks_exact_mut(format.row_bytes(cols).unwrap()).enumerate() {
        format.encode_row(&noise(seed + r as u64, cols), row);
    }
    bytes
}

fn weight(format: Format, rows: usize, cols: usize, stored: Vec<u8>) -> WeightRef {
    WeightRef { name: "w".into(), bytes: stored.into(), format, rows, cols }
}

/// Every level gives the bits of the scalar level with one column, and they are the product within the rounding of the
/// activations to int8.
fn one_arithmetic(format: Format, rows: usize, blocks: usize, columns: usize, seed: u32) {
    let cols = if format.0.block_len == 1 { 7 + 13 * blocks } else { format.0.block_len * blocks };
    let stored = encoded(format, rows, cols, u64::from(seed));
    let w = weight(format, rows, cols, stored.clone());
    let packed = format.0.kernels.packing.is_some();
    let x: Vec<Vec<f32>> = (0..columns).map(|c| noise(u64::from(seed) + 1000 + c as u64, cols)).collect();
    let bias = noise(9, rows);
    let mut scalar = Product::new(&w, Isa::SCALAR).unwrap();
    let want: Vec<f32> = x.iter().flat_map(|x| scalar.run(std::slice::from_ref(x), Some(&bias)).to_vec()).collect();
    for isa in Isa::available() {
        let mut product = Product::new(&w, isa).unwrap();
        assert_eq!(product.run(&x, Some(&bias)), &want[..], "{} {}", format, isa.name());
    }
    // And it is the product: within the rounding of the activations to int8.
    for (x, y) in x.iter().zip(want.chunks_exact(rows)) {
        for (r, row) in stored.chunks_exact(format.row_bytes(cols).unwrap()).enumerate() {
            let mut w = vec![0f32; cols];
            format.decode_row(row, &mut w);
            let exact: f64 =
                w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() + f64::from(bias[r]);
            let size: f64 = w.iter().map(|w| f64::from(w.abs())).sum();
            let tolerance = if packed { size / 254.0 + 1e-4 } else { 1e-5 * size + 1e-6 };
            assert!((f64::from(y[r]) - exact).abs() <= tolerance, "{format} row {r}: {} is not {exact}", y[r]);
        }
    }
}

/// Small enough for Miri, which sees the scalar level alone.
#[test]
fn every_format_has_one_arithmetic() {
    for spec in quant::ALL {
        one_arithmetic(Format(spec), 3, 1, 2, 7);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Every level, with any number of columns, gives the bits of the scalar level with one column.
    #[test]
    fn one_arithmetic_per_format(
        which in 0..quant::ALL.len(), rows in 1usize..40, blocks in 1usize..4, columns in 1usize..21, seed in any::<u32>(),
    ) {
        one_arithmetic(Format(quant::ALL[which]), rows, blocks, columns, seed);
    }

    /// Any threads, any chunks, any companions, any level: the same logits. And they are near the oracle's.
    #[test]
    fn one_result_for_every_way_of_running(
        format in prop::sample::select(vec!["F32", "F16", "Q8_0", "Q4_0", "Q5_0"]),
        threads in 1usize..5, chunk in 1usize..30, heads in prop::sample::select(vec![(4, 4), (4, 2), (4, 1)]),
        layout in prop::sample::select(vec![RopeLayout::Split, RopeLayout::Interleaved]),
        length in 1usize..150, seed in 0u64..1000,
    ) {
        let p = transformer(Format::from_name(format).unwrap(), heads, layout, seed);
        let tokens: Vec<u32> = (0..length).map(|i| ((i as u64 * 7 + seed) % p.vocab as u64) as u32).collect();
        let reference = logits(&Cpu { isa: Isa::SCALAR, threads: 1 }, &p, &tokens, length);
        for isa in Isa::available() {
            let got = logits(&Cpu { isa, threads }, &p, &tokens, chunk);
            prop_assert_eq!(&got, &reference, "{} {} threads, chunks of {}", isa.name(), threads, chunk);
        }
        prop_assert_eq!(&beside_another(&Cpu { isa: Isa::detect(), threads }, &p, &tokens), &reference);
        let oracle = logits(&Plain, &p, &tokens, length);
        let size = oracle.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (a, b) in reference.iter().zip(&oracle) {
            prop_assert!((a - b).abs() <= 0.05 * size + 0.02, "{a} is not near {b} (largest {size})");
        }
    }
}

/// Two layers, hidden 64, with everything a real model has.
pub(crate) fn transformer(format: Format, heads: (usize, usize), layout: RopeLayout, seed: u64) -> Program {
    transformer_of(format, heads, layout, seed, (64, 96, 50))
}

/// The same with (hidden, feed-forward, vocabulary) of any size.
pub(crate) fn transformer_of(
    format: Format,
    (heads, kv_heads): (usize, usize),
    layout: RopeLayout,
    seed: u64,
    (hidden, ffn, vocab): (usize, usize, usize),
) -> Program {
    let dim = hidden / heads;
    let mut p = Program { vocab, ..Program::default() };
    let mut next = seed * 100;
    let mut weight = |p: &mut Program, format: Format, rows: usize, cols: usize, scale: f32, plus: f32| {
        next += 1;
        let mut bytes = vec![0; rows * format.row_bytes(cols).unwrap()];
        for (r, row) in bytes.chunks_exact_mut(format.row_bytes(cols).unwrap()).enumerate() {
            let values: Vec<f32> = noise(next * 1000 + r as u64, cols).iter().map(|x| x * scale + plus).collect();
            format.encode_row(&values, row);
        }
        p.weight(WeightRef { name: "w".into(), bytes: bytes.into(), format, rows, cols })
    };
    let x = p.buffer(hidden);
    let normed = p.buffer(hidden);
    let (q, k, v) = (p.buffer(hidden), p.buffer(kv_heads * dim), p.buffer(kv_heads * dim));
    let (attended, delta) = (p.buffer(hidden), p.buffer(hidden));
    let (gate, up) = (p.buffer(ffn), p.buffer(ffn));
    let table = RopeTable {
        inv_freq: (0..dim / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / dim as f32)).collect(),
        mscale: 1.0,
    };
    let embed = weight(&mut p, format, vocab, hidden, 1.0, 0.0);
    p.push(Tag(0), Op::Embed { table: embed, dst: x, scale: 1.0 });
    for layer in 0..2 {
        p.kv.push(KvSpec { heads: kv_heads, head_dim: dim });
        let norm = |p: &mut Program, w: WeightId| {
            let op = Op::Norm {
                kind: NormKind::Rms,
                src: x,
                dst: normed,
                weight: Some(w),
                bias: None,
                offset: 0.0,
                eps: 1e-6,
                per_head: None,
            };
            p.push(Tag(1), op);
        };
        let w = weight(&mut p, Format::F32, 1, hidden, 0.1, 1.0);
        norm(&mut p, w);
        for (dst, rows) in [(q, hidden), (k, kv_heads * dim), (v, kv_heads * dim)] {
            let w = weight(&mut p, format, rows, hidden, 0.2, 0.0);
            let bias = Some(weight(&mut p, Format::F32, 1, rows, 0.1, 0.0));
            p.push(Tag(2), Op::MatMul { src: normed, weight: w, bias, dst });
        }
        for (buf, heads) in [(q, heads), (k, kv_heads)] {
            p.push(Tag(3), Op::Rope { buf, heads, head_dim: dim, layout, table: table.clone() });
        }
        p.push(
            Tag(4),
            Op::Attend {
                q,
                k,
                v,
                dst: attended,
                layer,
                heads,
                scale: 1.0 / (dim as f32).sqrt(),
                window: None,
                softcap: None,
                causal: true,
            },
        );
        let w = weight(&mut p, format, hidden, hidden, 0.2, 0.0);
        p.push(Tag(5), Op::MatMul { src: attended, weight: w, bias: None, dst: delta });
        p.push(Tag(6), Op::Add { src: delta, dst: x });
        let w = weight(&mut p, Format::F32, 1, hidden, 0.1, 1.0);
        norm(&mut p, w);
        for dst in [gate, up] {
            let w = weight(&mut p, format, ffn, hidden, 0.2, 0.0);
            p.push(Tag(7), Op::MatMul { src: normed, weight: w, bias: None, dst });
        }
        p.push(Tag(8), Op::Gate { gate, up, dst: gate, act: Act::Silu });
        let w = weight(&mut p, format, hidden, ffn, 0.2, 0.0);
        p.push(Tag(9), Op::MatMul { src: gate, weight: w, bias: None, dst: delta });
        p.push(Tag(10), Op::Add { src: delta, dst: x });
    }
    let w = weight(&mut p, Format::F32, 1, hidden, 0.1, 1.0);
    let op = Op::Norm {
        kind: NormKind::Rms,
        src: x,
        dst: normed,
        weight: Some(w),
        bias: None,
        offset: 0.0,
        eps: 1e-6,
        per_head: None,
    };
    p.push(Tag(11), op);
    p.push(Tag(12), Op::Logits { src: normed, weight: embed, scale: 1.0 });
    p
}

pub(crate) fn row(sequence: usize, position: usize, token: u32, want: Want) -> Row {
    Row { sequence, position: position as u32, token, want }
}

/// Logits of the last token, the prompt cut into chunks.
fn logits(backend: &dyn Backend, p: &Program, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut r = backend.prepare(p, &Interest::Nothing).unwrap();
    r.reserve_blocks(4).unwrap();
    let mut out = Output::default();
    for (i, part) in tokens.chunks(chunk).enumerate() {
        let rows: Vec<Row> = part.iter().enumerate().map(|(j, &t)| row(0, i * chunk + j, t, Want::Logits)).collect();
        r.step(&Batch { rows: &rows, tables: &[&[2, 0, 3]] }, &mut out, &mut NoTap).unwrap();
    }
    out.rows.last().unwrap().values.clone()
}

/// The same with another sequence's rows in every batch.
fn beside_another(backend: &dyn Backend, p: &Program, tokens: &[u32]) -> Vec<f32> {
    let mut r = backend.prepare(p, &Interest::Nothing).unwrap();
    r.reserve_blocks(6).unwrap();
    let mut out = Output::default();
    for (i, part) in tokens.chunks(17).enumerate() {
        let mut rows: Vec<Row> = (0..i % 3).map(|j| row(0, 20 * i + j, (3 * j % 50) as u32, Want::Argmax)).collect();
        rows.extend(part.iter().enumerate().map(|(j, &t)| row(1, i * 17 + j, t, Want::Logits)));
        r.step(&Batch { rows: &rows, tables: &[&[1, 4, 5], &[2, 0, 3]] }, &mut out, &mut NoTap).unwrap();
    }
    out.rows.last().unwrap().values.clone()
}

#[test]
fn a_tapped_run_is_the_same_run_and_matches_the_oracle_at_every_operation() {
    struct Keep(Vec<(usize, Vec<f32>)>);
    impl crate::Tap for Keep {
        fn observe(&mut self, index: usize, _: Tag, _: usize, values: &[f32]) {
            self.0.push((index, values.to_vec()));
        }
    }
    let p = transformer(Format::F32, (4, 2), RopeLayout::Split, 5);
    let rows: Vec<Row> = (0..70).map(|i| row(0, i, (i % 50) as u32, Want::Logits)).collect();
    let batch = Batch { rows: &rows, tables: &[&[0, 1]] };
    let mut seen = Vec::new();
    for backend in [&Plain as &dyn Backend, &Cpu { isa: Isa::detect(), threads: 3 }] {
        let mut r = backend.prepare(&p, &Interest::Everything).unwrap();
        r.reserve_blocks(2).unwrap();
        let (mut keep, mut out) = (Keep(Vec::new()), Output::default());
        r.step(&batch, &mut out, &mut keep).unwrap();
        seen.push((keep.0, out));
    }
    let untapped =
        logits(&Cpu { isa: Isa::detect(), threads: 1 }, &p, &rows.iter().map(|r| r.token).collect::<Vec<_>>(), 70);
    assert_eq!(seen[1].1.rows[69].values, untapped);
    assert_eq!(seen[0].0.len(), p.steps.len() - 1);
    for (a, b) in seen[0].0.iter().zip(&seen[1].0) {
        assert_eq!(a.0, b.0);
        let size = a.1.iter().fold(0f32, |m, x| m.max(x.abs()));
        let worst = a.1.iter().zip(&b.1).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
        // K and V are half precision in the cache.
        assert!(worst <= 2e-3 * size, "operation {}: off by {worst} of {size}", a.0);
    }
}

#[test]
fn a_poisoned_weight_is_not_finite_at_the_end() {
    let mut p = transformer(Format::from_name("Q8_0").unwrap(), (4, 2), RopeLayout::Split, 1);
    let Op::MatMul { weight, .. } = p.steps[2].op else { panic!("a product") };
    let mut bytes = p.w(weight).bytes.to_vec();
    bytes[..2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    p.weights[weight.0 as usize].bytes = bytes.into();
    let mut r = Cpu { isa: Isa::detect(), threads: 1 }.prepare(&p, &Interest::Nothing).unwrap();
    r.reserve_blocks(1).unwrap();
    let mut out = Output::default();
    let rows = [row(0, 0, 3, Want::Argmax), row(0, 1, 4, Want::Argmax)];
    r.step(&Batch { rows: &rows, tables: &[&[0]] }, &mut out, &mut NoTap).unwrap();
    assert!(!out.rows[1].finite);
}

#[test]
fn bad_batches_are_refused() {
    let p = transformer(Format::F32, (4, 2), RopeLayout::Split, 1);
    for backend in [&Plain as &dyn Backend, &Cpu { isa: Isa::detect(), threads: 1 }] {
        let mut r = backend.prepare(&p, &Interest::Nothing).unwrap();
        r.reserve_blocks(1).unwrap();
        let bad: [(Vec<Row>, &[u32]); 6] = [
            (vec![], &[0]),
            (vec![row(0, 0, 50, Want::Argmax)], &[0]),
            (vec![row(0, 64, 1, Want::Argmax)], &[0]),
            (vec![row(1, 0, 1, Want::Argmax)], &[0]),
            (vec![row(0, 0, 1, Want::Argmax)], &[1]),
            (vec![row(0, 1, 1, Want::Argmax), row(0, 0, 1, Want::Argmax)], &[0]),
        ];
        for (rows, table) in bad {
            let e = r.step(&Batch { rows: &rows, tables: &[table] }, &mut Output::default(), &mut NoTap);
            assert!(e.is_err(), "{} took {rows:?}", backend.name());
        }
        // Two sequences whose rows would write the same slot.
        let rows = [row(0, 3, 1, Want::Argmax), row(1, 3, 1, Want::Argmax)];
        let e = r.step(&Batch { rows: &rows, tables: &[&[0], &[0]] }, &mut Output::default(), &mut NoTap);
        assert!(e.is_err(), "{} took two rows for one slot", backend.name());
    }
}

#[test]
fn weights_are_read_once_for_each_panel_of_columns() {
    let p = transformer(Format::from_name("Q8_0").unwrap(), (4, 2), RopeLayout::Split, 1);
    let isa = Isa::detect();
    let mut r = Cpu { isa, threads: 2 }.prepare(&p, &Interest::Nothing).unwrap();
    r.reserve_blocks(1).unwrap();
    let rows: Vec<Row> = (0..33).map(|i| row(0, i, 1, Want::Nothing)).collect();
    r.step(&Batch { rows: &rows, tables: &[&[0]] }, &mut Output::default(), &mut NoTap).unwrap();
    assert_eq!(r.counters().weight_passes, 14 * 33u64.div_ceil(isa.columns() as u64));
    assert_eq!(r.counters().rows, 33);
}
