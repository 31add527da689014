//! Q2_K: 256 weights in 84 bytes, sixteen runs of 16 with `x = d * scale * q - dmin * min`.
//!
//! Layout: 16 bytes of 4-bit scales (low) and minima (high), 64 bytes of quants, `d` f16, `dmin` f16. In each half of
//! 128 weights, byte k of 32 holds weights k, k + 32, k + 64, k + 96, two bits each.

use super::{Spec, f16_at, put_f16};
use crate::cpu::planes::{StepQuants, pairs};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{Kernels, Packing, TILE_ROWS, TileFormat, multiply};

const BYTES: usize = 84;
const RUNS: usize = 16;

/// The format.
pub static SPEC: Spec = Spec {
    name: "Q2_K",
    ggml_type: 10,
    block_len: 256,
    block_bytes: BYTES,
    decode,
    encode,
    kernels: Kernels {
        packing: Some(Packing { chunk_bytes: Q2K::CHUNK_BYTES, pack }),
        multiply: multiply::<Q2K>,
    },
};

/// Two bits of each of the 32 weights of a step, from 64 bytes in this order.
pub(super) fn two_bits(b: &[u8], step: usize) -> [u8; 32] {
    let (bytes, shift) = (&b[32 * (step / 4)..][..32], 2 * (step % 4));
    std::array::from_fn(|k| bytes[k] >> shift & 3)
}

/// The inverse of [`two_bits`] for weight `at`.
pub(super) fn put_two_bits(b: &mut [u8], at: usize, q: u8) {
    b[32 * (at / 128) + at % 32] |= (q & 3) << (2 * (at % 128 / 32));
}

fn decode(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (f16_at(b, 80), f16_at(b, 82));
    for (step, out) in out.chunks_exact_mut(32).enumerate() {
        let q = two_bits(&b[16..80], step);
        for (run, out) in out.chunks_exact_mut(16).enumerate() {
            let packed = b[2 * step + run];
            let (scale, min) = (d * f32::from(packed & 15), dmin * f32::from(packed >> 4));
            for (x, q) in out.iter_mut().zip(&q[16 * run..]) {
                *x = scale * f32::from(*q) - min;
            }
        }
    }
}

/// Smallest and largest value of each run decide. Simpler than ggml's search, and a little worse.
fn encode(x: &[f32], b: &mut [u8]) {
    b.fill(0);
    let bounds: Vec<(f32, f32)> = x
        .chunks_exact(16)
        .map(|run| {
            let min = run.iter().fold(0f32, |m, &v| m.min(v));
            let max = run.iter().fold(min, |m, &v| m.max(v));
            ((max - min) / 3.0, -min)
        })
        .collect();
    put_f16(b, 80, bounds.iter().fold(0f32, |m, b| m.max(b.0)) / 15.0);
    put_f16(b, 82, bounds.iter().fold(0f32, |m, b| m.max(b.1)) / 15.0);
    let (d, dmin) = (f16_at(b, 80), f16_at(b, 82));
    let four = |x: f32, d: f32| if d > 0.0 { (x / d).round().clamp(0.0, 15.0) as u8 } else { 0 };
    for (run, &(scale, min)) in bounds.iter().enumerate() {
        b[run] = four(scale, d) | four(min, dmin) << 4;
    }
    for (at, &x) in x.iter().enumerate() {
        let (scale, min) = (d * f32::from(b[at / 16] & 15), dmin * f32::from(b[at / 16] >> 4));
        let q = if scale > 0.0 { ((x + min) / scale).round().clamp(0.0, 3.0) as u8 } else { 0 };
        put_two_bits(&mut b[16..80], at, q);
    }
}

/// Chunk: d f16 x 16 | dmin f16 x 16 | scales u8 [16][16] | mins u8 [16][16] | 8 steps of pairs.
struct Q2K;

const DMIN: usize = 2 * TILE_ROWS;
const SCALES: usize = 4 * TILE_ROWS;
const MINS: usize = SCALES + RUNS * TILE_ROWS;
const QUANTS: usize = MINS + RUNS * TILE_ROWS;

fn pack(blocks: &[Option<&[u8]>; TILE_ROWS], out: &mut [u8]) {
    out[..QUANTS].fill(0);
    let mut q: StepQuants = [[0; 32]; TILE_ROWS];
    for step in 0..8 {
        for (r, block) in blocks.iter().enumerate() {
            if let Some(b) = block {
                out[2 * r..2 * r + 2].copy_from_slice(&b[80..82]);
                out[DMIN + 2 * r..DMIN + 2 * r + 2].copy_from_slice(&b[82..84]);
                for run in 2 * step..2 * step + 2 {
                    out[SCALES + TILE_ROWS * run + r] = b[run] & 15;
                    out[MINS + TILE_ROWS * run + r] = b[run] >> 4;
                }
                q[r] = two_bits(&b[16..80], step);
            }
        }
        pairs::pack(&q, 0, &mut out[QUANTS + pairs::BYTES * step..][..pairs::BYTES]);
    }
}

impl TileFormat for Q2K {
    const BLOCK: usize = 256;
    const CHUNK_BYTES: usize = QUANTS + 8 * pairs::BYTES;
    const SUB: usize = 16;
    const OFFSET: i32 = 0;
    const SIGNED: bool = false;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8, step: usize) -> [S::B; 8] {
        // SAFETY: step is below 8; the planes follow the header.
        unsafe { pairs::unpack::<S>(p.add(QUANTS + pairs::BYTES * step)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(p: *const u8, sub: usize) -> S::F {
        // SAFETY: sub is below 16; the header holds what is read.
        unsafe { S::mul(S::load_f16(p.cast()), S::i_to_f(S::load_u8(p.add(SCALES + TILE_ROWS * sub)))) }
    }
    #[inline(always)]
    unsafe fn min<S: Simd>(p: *const u8, sub: usize) -> S::F {
        // SAFETY: as for `scale`.
        unsafe { S::mul(S::load_f16(p.add(DMIN).cast()), S::i_to_f(S::load_u8(p.add(MINS + TILE_ROWS * sub)))) }
    }
}
