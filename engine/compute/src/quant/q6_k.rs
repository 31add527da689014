//! Q6_K: 256 weights in 210 bytes, sixteen runs of 16 with `x = d * scale * (q - 32)`.
//!
//! Layout: 128 bytes of low nibbles, 64 bytes of high pairs, 16 signed scales, `d` f16. Weight order within each half
//! of 128: nibble byte l holds weights l and l + 64 (l < 64); pair byte l holds bits of l, l + 32, l + 64, l + 96.

use super::{Spec, f16_at, put_f16};
use crate::cpu::planes::{StepQuants, nibbles, pairs};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{Kernels, Packing, TILE_ROWS, TileFormat, multiply};

const BYTES: usize = 210;
const RUNS: usize = 16;
const HIGH: usize = 128;
const SCALE: usize = 192;
const D: usize = 208;

/// The format.
pub static SPEC: Spec = Spec {
    name: "Q6_K",
    ggml_type: 14,
    block_len: 256,
    block_bytes: BYTES,
    decode, //= F-CPU-112 F-GGUF-044
    encode,
    kernels: Kernels {
        packing: Some(Packing { chunk_bytes: Q6K::CHUNK_BYTES, pack }),
        multiply: multiply::<Q6K>,
    },
};

/// Where weight `i` keeps its bits: nibble byte and shift, pair byte and shift.
fn place(i: usize) -> (usize, u32, usize, u32) {
    let (half, l) = (i / 128, i % 128);
    (64 * half + l % 64, 4 * (l / 64) as u32, HIGH + 32 * half + l % 32, 2 * (l / 32) as u32)
}

/// The 32 quants of one step. They share their shifts, see [`place`].
fn quants(b: &[u8], step: usize) -> [u8; 32] {
    let (low, low_shift, high, high_shift) = place(32 * step);
    let (low, high) = (&b[low..low + 32], &b[high..high + 32]);
    std::array::from_fn(|k| (low[k] >> low_shift & 15) | (high[k] >> high_shift & 3) << 4)
}

fn decode(b: &[u8], out: &mut [f32]) {
    let d = f16_at(b, D);
    for (step, out) in out.chunks_exact_mut(32).enumerate() {
        let q = quants(b, step);
        for (run, out) in out.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(b[SCALE + 2 * step + run] as i8);
            for (x, q) in out.iter_mut().zip(&q[16 * run..]) {
                *x = scale * (f32::from(*q) - 32.0);
            }
        }
    }
}

/// The value of largest magnitude in each run decides its scale. Simpler than ggml's search, and a little worse.
fn encode(x: &[f32], b: &mut [u8]) {
    b.fill(0);
    let extremes: Vec<f32> = x
        .chunks_exact(16)
        .map(|run| run.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m }) / -32.0)
        .collect();
    let largest = extremes.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    put_f16(b, D, largest / -128.0);
    let d = f16_at(b, D);
    for (run, values) in x.chunks_exact(16).enumerate() {
        let scale = if d != 0.0 { (extremes[run] / d).round().clamp(-128.0, 127.0) } else { 0.0 };
        b[SCALE + run] = scale as i8 as u8;
        let step = d * scale;
        for (k, &x) in values.iter().enumerate() {
            let q = if step != 0.0 { ((x / step).round() + 32.0).clamp(0.0, 63.0) as u8 } else { 32 };
            let (low, low_shift, high, high_shift) = place(16 * run + k);
            b[low] |= (q & 15) << low_shift;
            b[high] |= (q >> 4) << high_shift;
        }
    }
}

/// Chunk: d f16 x 16 | scales i8 [16][16] | 8 steps of (nibbles | pairs).
struct Q6K;

const SCALES: usize = 2 * TILE_ROWS;
const QUANTS: usize = SCALES + RUNS * TILE_ROWS;
const STEP: usize = nibbles::BYTES + pairs::BYTES;

fn pack(blocks: &[Option<&[u8]>; TILE_ROWS], out: &mut [u8]) {
    out[..QUANTS].fill(0);
    let mut q: StepQuants = [[0; 32]; TILE_ROWS];
    for step in 0..8 {
        for (r, block) in blocks.iter().enumerate() {
            if let Some(b) = block {
                out[2 * r..2 * r + 2].copy_from_slice(&b[D..D + 2]);
                for run in 2 * step..2 * step + 2 {
                    out[SCALES + TILE_ROWS * run + r] = b[SCALE + run];
                }
                q[r] = quants(b, step);
            }
        }
        let (low, high) = out[QUANTS + STEP * step..][..STEP].split_at_mut(nibbles::BYTES);
        nibbles::pack(&q, low);
        pairs::pack(&q, 4, high);
    }
}

impl TileFormat for Q6K {
    const BLOCK: usize = 256;
    const CHUNK_BYTES: usize = QUANTS + 8 * STEP;
    const SUB: usize = 16;
    const OFFSET: i32 = 32;
    const SIGNED: bool = false;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8, step: usize) -> [S::B; 8] {
        // SAFETY: step is below 8; the planes follow the header.
        unsafe {
            let p = p.add(QUANTS + STEP * step);
            pairs::or::<S>(p.add(nibbles::BYTES), nibbles::unpack::<S>(p))
        }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(p: *const u8, sub: usize) -> S::F {
        // SAFETY: sub is below 16; the header holds what is read.
        unsafe { S::mul(S::load_f16(p.cast()), S::i_to_f(S::load_i8(p.add(SCALES + TILE_ROWS * sub).cast()))) }
    }
}
