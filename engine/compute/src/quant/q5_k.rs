//! Q5_K: 256 weights in 176 bytes, eight runs of 32 with `x = d * scale * q - dmin * min`.
//!
//! Layout: `d`, `dmin` and 12 bytes of scales and minima as in Q4_K, 32 bytes of fifth bits (bit i of byte k belongs to
//! weight k of run i), then 128 bytes of nibbles as in Q4_K.

use super::q4_k::{RUNS, put_scale_min, runs_encode, scale_min};
use super::{Spec, f16_at};
use crate::cpu::planes::{StepQuants, bits, nibbles};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{Kernels, Packing, TILE_ROWS, TileFormat, multiply};

const BYTES: usize = 176;

/// The format.
pub static SPEC: Spec = Spec {
    name: "Q5_K",
    ggml_type: 13,
    block_len: 256,
    block_bytes: BYTES,
    decode, //= F-GGUF-043
    encode,
    kernels: Kernels {
        packing: Some(Packing { chunk_bytes: Q5K::CHUNK_BYTES, pack }),
        multiply: multiply::<Q5K>,
    },
};

fn run(b: &[u8], i: usize) -> [u8; 32] {
    let (high, q) = (&b[16..48], &b[48 + 32 * (i / 2)..][..32]);
    let shift = 4 * (i % 2);
    std::array::from_fn(|k| (q[k] >> shift & 15) | (high[k] >> i & 1) << 4)
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

/// As Q4_K's, with 32 steps.
fn encode(x: &[f32], b: &mut [u8]) {
    b.fill(0);
    let (scales, mins, quants) = runs_encode(x, 31, &mut b[..4]);
    put_scale_min(&mut b[4..16], &scales, &mins);
    for (at, q) in quants.into_iter().enumerate() {
        let (i, k) = (at / 32, at % 32);
        b[16 + k] |= (q >> 4) << i;
        b[48 + 32 * (i / 2) + k] |= (q & 15) << (4 * (i % 2));
    }
}

/// Chunk: d f16 x 16 | dmin f16 x 16 | scales u8 [8][16] | mins u8 [8][16] | 8 steps of (nibbles | bits).
struct Q5K;

const DMIN: usize = 2 * TILE_ROWS;
const SCALES: usize = 4 * TILE_ROWS;
const MINS: usize = SCALES + RUNS * TILE_ROWS;
const QUANTS: usize = MINS + RUNS * TILE_ROWS;
const STEP: usize = nibbles::BYTES + bits::BYTES;

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
        let (low, high) = out[QUANTS + STEP * i..][..STEP].split_at_mut(nibbles::BYTES);
        nibbles::pack(&q, low);
        bits::pack(&q, 4, high);
    }
}

impl TileFormat for Q5K {
    const BLOCK: usize = 256;
    const CHUNK_BYTES: usize = QUANTS + RUNS * STEP;
    const SUB: usize = 32;
    const OFFSET: i32 = 0;
    const SIGNED: bool = false;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8, step: usize) -> [S::B; 8] {
        // SAFETY: step is below 8; the planes follow the header.
        unsafe {
            let p = p.add(QUANTS + STEP * step);
            bits::or::<S>(p.add(nibbles::BYTES), 4, nibbles::unpack::<S>(p))
        }
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
