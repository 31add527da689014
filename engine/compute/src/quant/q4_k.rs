//! Q4_K: 256 weights in 144 bytes, eight runs of 32 with `x = d * scale * q - dmin * min`.
//!
//! Layout: `d` f16, `dmin` f16, 12 bytes with eight 6-bit scales and eight 6-bit minima, then 128 bytes: for each pair
//! of runs 32 bytes, the even run in the low nibbles and the odd one in the high.

use super::{Spec, f16_at, put_f16};
use crate::cpu::planes::{StepQuants, nibbles};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{Kernels, Packing, TILE_ROWS, TileFormat, multiply};

const BYTES: usize = 144;
pub(super) const RUNS: usize = 8;

/// The format.
pub static SPEC: Spec = Spec {
    name: "Q4_K",
    ggml_type: 12,
    block_len: 256,
    block_bytes: BYTES,
    decode, //= F-CPU-111 F-GGUF-041
    encode,
    kernels: Kernels {
        packing: Some(Packing { chunk_bytes: Q4K::CHUNK_BYTES, pack }),
        multiply: multiply::<Q4K>,
    },
};

/// Scale and minimum of run `i`, from the packed 12 bytes.
pub(super) fn scale_min(s: &[u8], i: usize) -> (u8, u8) {
    if i < 4 {
        (s[i] & 63, s[i + 4] & 63)
    } else {
        ((s[i + 4] & 15) | (s[i - 4] >> 6) << 4, (s[i + 4] >> 4) | (s[i] >> 6) << 4)
    }
}

/// The inverse of [`scale_min`] for all runs.
pub(super) fn put_scale_min(s: &mut [u8], scales: &[u8; RUNS], mins: &[u8; RUNS]) {
    for i in 0..4 {
        s[i] = scales[i] | (scales[i + 4] >> 4) << 6;
        s[i + 4] = mins[i] | (mins[i + 4] >> 4) << 6;
        s[i + 8] = (scales[i + 4] & 15) | (mins[i + 4] & 15) << 4;
    }
}

fn run(b: &[u8], i: usize) -> [u8; 32] {
    let q = &b[16 + 32 * (i / 2)..][..32];
    std::array::from_fn(|k| if i.is_multiple_of(2) { q[k] & 15 } else { q[k] >> 4 })
}

fn decode(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(&b[4..16], i);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (x, q) in out.iter_mut().zip(run(b, i)) {
            *x = scale * f32::from(q) - min;
        }
    }
}

fn encode(x: &[f32], b: &mut [u8]) {
    b.fill(0);
    let (scales, mins, quants) = runs_encode(x, 15, &mut b[..4]);
    put_scale_min(&mut b[4..16], &scales, &mins);
    for (at, q) in quants.into_iter().enumerate() {
        let (i, k) = (at / 32, at % 32);
        b[16 + 32 * (i / 2) + k] |= q << (4 * (i % 2));
    }
}

/// Scales, minima and quants up to `top` of a block's eight runs; `d` and `dmin` go to `head`. Smallest and largest
/// value of each run decide. Simpler than ggml's search, and a little worse.
pub(super) fn runs_encode(x: &[f32], top: u8, head: &mut [u8]) -> ([u8; RUNS], [u8; RUNS], Vec<u8>) {
    let bounds: Vec<(f32, f32)> = x
        .chunks_exact(32)
        .map(|run| {
            let min = run.iter().fold(0f32, |m, &v| m.min(v));
            let max = run.iter().fold(min, |m, &v| m.max(v));
            ((max - min) / f32::from(top), -min)
        })
        .collect();
    put_f16(head, 0, bounds.iter().fold(0f32, |m, b| m.max(b.0)) / 63.0);
    put_f16(head, 2, bounds.iter().fold(0f32, |m, b| m.max(b.1)) / 63.0);
    let (d, dmin) = (f16_at(head, 0), f16_at(head, 2));
    let six = |x: f32, d: f32| if d > 0.0 { (x / d).round().clamp(0.0, 63.0) as u8 } else { 0 };
    let scales: [u8; RUNS] = std::array::from_fn(|i| six(bounds[i].0, d));
    let mins: [u8; RUNS] = std::array::from_fn(|i| six(bounds[i].1, dmin));
    let quants = x.iter().enumerate().map(|(at, &x)| {
        let (scale, min) = (d * f32::from(scales[at / 32]), dmin * f32::from(mins[at / 32]));
        if scale > 0.0 { ((x + min) / scale).round().clamp(0.0, f32::from(top)) as u8 } else { 0 }
    });
    (scales, mins, quants.collect())
}

/// Chunk: d f16 x 16 | dmin f16 x 16 | scales u8 [8][16] | mins u8 [8][16] | 8 steps of nibbles.
struct Q4K;

const DMIN: usize = 2 * TILE_ROWS;
const SCALES: usize = 4 * TILE_ROWS;
const MINS: usize = SCALES + RUNS * TILE_ROWS;
const QUANTS: usize = MINS + RUNS * TILE_ROWS;

fn pack(blocks: &[Option<&[u8]>; TILE_ROWS], out: &mut [u8]) {
    out[..QUANTS].fill(0);
    let mut q: StepQuants = [[0; 32]; TILE_ROWS];
    for i in 0..RUNS {
        for (r, block) in blocks.iter().enumerate() {
            if let Some(b) = block {
                out[2 * r..2 * r + 2].copy_from_slice(&b[..2]);
                out[DMIN + 2 * r..DMIN + 2 * r + 2].copy_from_slice(&b[2..4]);
                let (scale, min) = scale_min(&b[4..16], i);
                out[SCALES + TILE_ROWS * i + r] = scale;
                out[MINS + TILE_ROWS * i + r] = min;
                q[r] = run(b, i);
            }
        }
        nibbles::pack(&q, &mut out[QUANTS + nibbles::BYTES * i..][..nibbles::BYTES]);
    }
}

impl TileFormat for Q4K {
    const BLOCK: usize = 256;
    const CHUNK_BYTES: usize = QUANTS + RUNS * nibbles::BYTES;
    const SUB: usize = 32;
    const OFFSET: i32 = 0;
    const SIGNED: bool = false;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8, step: usize) -> [S::B; 8] {
        // SAFETY: step is below 8; the planes follow the header.
        unsafe { nibbles::unpack::<S>(p.add(QUANTS + nibbles::BYTES * step)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(p: *const u8, sub: usize) -> S::F {
        // SAFETY: sub is below 8; the header holds what is read.
        unsafe { S::mul(S::load_f16(p.cast()), S::i_to_f(S::load_u8(p.add(SCALES + TILE_ROWS * sub)))) }
    }
    #[inline(always)]
    unsafe fn min<S: Simd>(p: *const u8, sub: usize) -> S::F {
        // SAFETY: as for `scale`.
        unsafe { S::mul(S::load_f16(p.add(DMIN).cast()), S::i_to_f(S::load_u8(p.add(MINS + TILE_ROWS * sub)))) }
    }
}
