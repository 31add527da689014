//! Q3_K: 256 weights in 110 bytes, sixteen runs of 16 with `x = d * (scale - 32) * (q - 4)`.
//!
//! Layout: 32 bytes of third bits (bit i of byte k belongs to weight 32 i + k), 64 bytes of two-bit quants as in Q2_K,
//! 12 bytes with sixteen 6-bit scales, `d` f16.

use super::q2_k::{put_two_bits, two_bits};
use super::{Spec, f16_at, put_f16};
use crate::cpu::planes::{StepQuants, bits, pairs};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{Kernels, Packing, TILE_ROWS, TileFormat, multiply};

const BYTES: usize = 110;
const RUNS: usize = 16;
const LOW: usize = 32;
const SCALE: usize = 96;
const D: usize = 108;

/// The format.
pub static SPEC: Spec = Spec {
    name: "Q3_K",
    ggml_type: 11,
    block_len: 256,
    block_bytes: BYTES,
    decode,
    encode,
    kernels: Kernels {
        packing: Some(Packing { chunk_bytes: Q3K::CHUNK_BYTES, pack }),
        multiply: multiply::<Q3K>,
    },
};

fn quants(b: &[u8], step: usize) -> [u8; 32] {
    let low = two_bits(&b[LOW..SCALE], step);
    std::array::from_fn(|k| low[k] | (b[k] >> step & 1) << 2)
}

/// Scale of a run, -32..=31: four low bits in bytes 0..8, two high bits in bytes 8..12.
fn scale(b: &[u8], run: usize) -> i8 {
    let s = &b[SCALE..D];
    let low = s[run % 8] >> (4 * (run / 8)) & 15;
    let high = s[8 + run % 4] >> (2 * (run / 4)) & 3;
    (low | high << 4) as i8 - 32
}

fn put_scale(b: &mut [u8], run: usize, scale: i8) {
    let s = &mut b[SCALE..D];
    let bits = (scale + 32) as u8;
    s[run % 8] |= (bits & 15) << (4 * (run / 8));
    s[8 + run % 4] |= (bits >> 4) << (2 * (run / 4));
}

fn decode(b: &[u8], out: &mut [f32]) {
    let d = f16_at(b, D);
    for (step, out) in out.chunks_exact_mut(32).enumerate() {
        let q = quants(b, step);
        for (run, out) in out.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(scale(b, 2 * step + run));
            for (x, q) in out.iter_mut().zip(&q[16 * run..]) {
                *x = scale * (f32::from(*q) - 4.0);
            }
        }
    }
}

/// The value of largest magnitude in each run decides its scale. Simpler than ggml's search, and a little worse.
fn encode(x: &[f32], b: &mut [u8]) {
    b.fill(0);
    let extreme = |x: &[f32]| x.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let wanted: Vec<f32> = x.chunks_exact(16).map(|run| extreme(run) / -4.0).collect();
    put_f16(b, D, extreme(&wanted) / -32.0);
    let d = f16_at(b, D);
    for (run, &wanted) in wanted.iter().enumerate() {
        let s = if d != 0.0 { (wanted / d).round().clamp(-32.0, 31.0) as i8 } else { 0 };
        put_scale(b, run, s);
    }
    for (at, &x) in x.iter().enumerate() {
        let step = d * f32::from(scale(b, at / 16));
        let q = if step != 0.0 { ((x / step).round() + 4.0).clamp(0.0, 7.0) as u8 } else { 4 };
        put_two_bits(&mut b[LOW..SCALE], at, q);
        b[at % 32] |= (q >> 2) << (at / 32);
    }
}

/// Chunk: d f16 x 16 | scales i8 [16][16] | 8 steps of (pairs | bits).
struct Q3K;

const SCALES: usize = 2 * TILE_ROWS;
const QUANTS: usize = SCALES + RUNS * TILE_ROWS;
const STEP: usize = pairs::BYTES + bits::BYTES;

fn pack(blocks: &[Option<&[u8]>; TILE_ROWS], out: &mut [u8]) {
    out[..QUANTS].fill(0);
    let mut q: StepQuants = [[0; 32]; TILE_ROWS];
    for step in 0..8 {
        for (r, block) in blocks.iter().enumerate() {
            if let Some(b) = block {
                out[2 * r..2 * r + 2].copy_from_slice(&b[D..D + 2]);
                for run in 2 * step..2 * step + 2 {
                    out[SCALES + TILE_ROWS * run + r] = scale(b, run) as u8;
                }
                q[r] = quants(b, step);
            }
        }
        let (low, high) = out[QUANTS + STEP * step..][..STEP].split_at_mut(pairs::BYTES);
        pairs::pack(&q, 0, low);
        bits::pack(&q, 2, high);
    }
}

impl TileFormat for Q3K {
    const BLOCK: usize = 256;
    const CHUNK_BYTES: usize = QUANTS + 8 * STEP;
    const SUB: usize = 16;
    const OFFSET: i32 = 4;
    const SIGNED: bool = false;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8, step: usize) -> [S::B; 8] {
        // SAFETY: step is below 8; the planes follow the header.
        unsafe {
            let p = p.add(QUANTS + STEP * step);
            bits::or::<S>(p.add(pairs::BYTES), 2, pairs::unpack::<S>(p))
        }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(p: *const u8, sub: usize) -> S::F {
        // SAFETY: sub is below 16; the header holds what is read.
        unsafe { S::mul(S::load_f16(p.cast()), S::i_to_f(S::load_i8(p.add(SCALES + TILE_ROWS * sub).cast()))) }
    }
}
