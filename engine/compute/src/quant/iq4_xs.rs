//! IQ4_XS: 256 weights in 136 bytes, eight runs of 32 with `x = d * (scale - 32) * table[q]`, table as in IQ4_NL.
//!
//! Layout: `d` f16, `scales_h` u16 with the two high bits of each run, 4 bytes with the four low bits, then for each run
//! 16 bytes of nibbles as in Q4_0.

use super::iq4_nl::{TABLE, levels, nearest};
use super::{Spec, f16_at, nibbles_of, put_f16};
use crate::cpu::planes::{StepQuants, nibbles};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{Kernels, Packing, TILE_ROWS, TileFormat, multiply};

const BYTES: usize = 136;
const RUNS: usize = 8;

/// The format.
pub static SPEC: Spec = Spec {
    name: "IQ4_XS",
    ggml_type: 23,
    block_len: 256,
    block_bytes: BYTES,
    decode,
    encode,
    kernels: Kernels {
        packing: Some(Packing { chunk_bytes: Iq4Xs::CHUNK_BYTES, pack }),
        multiply: multiply::<Iq4Xs>,
    },
};

/// Scale of a run, -32..=31.
fn scale(b: &[u8], run: usize) -> i8 {
    let low = b[4 + run / 2] >> (4 * (run % 2)) & 15;
    let high = (u16::from_le_bytes([b[2], b[3]]) >> (2 * run) & 3) as u8;
    (low | high << 4) as i8 - 32
}

fn run(b: &[u8], i: usize) -> [u8; 32] {
    nibbles_of(&b[8 + 16 * i..][..16])
}

fn decode(b: &[u8], out: &mut [f32]) {
    let d = f16_at(b, 0);
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let scale = d * f32::from(scale(b, i));
        for (x, q) in out.iter_mut().zip(run(b, i)) {
            *x = scale * f32::from(TABLE[usize::from(q)]);
        }
    }
}

/// The value of largest magnitude in each run decides its scale. Simpler than ggml's search, and a little worse.
fn encode(x: &[f32], b: &mut [u8]) {
    b.fill(0);
    let extreme = |x: &[f32]| x.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let wanted: Vec<f32> = x.chunks_exact(32).map(|run| extreme(run) / f32::from(TABLE[0])).collect();
    put_f16(b, 0, extreme(&wanted) / -32.0);
    let d = f16_at(b, 0);
    let mut high = 0u16;
    for (i, values) in x.chunks_exact(32).enumerate() {
        let s = if d != 0.0 { (wanted[i] / d).round().clamp(-32.0, 31.0) as i8 } else { 0 };
        let bits = (s + 32) as u8;
        b[4 + i / 2] |= (bits & 15) << (4 * (i % 2));
        high |= u16::from(bits >> 4) << (2 * i);
        let step = d * f32::from(s);
        let q = |x: f32| nearest(if step != 0.0 { x / step } else { 0.0 });
        for k in 0..16 {
            b[8 + 16 * i + k] = q(values[k]) | q(values[k + 16]) << 4;
        }
    }
    b[2..4].copy_from_slice(&high.to_le_bytes());
}

/// Chunk: d f16 x 16 | scales i8 [8][16] | 8 steps of nibbles.
struct Iq4Xs;

const SCALES: usize = 2 * TILE_ROWS;
const QUANTS: usize = SCALES + RUNS * TILE_ROWS;

fn pack(blocks: &[Option<&[u8]>; TILE_ROWS], out: &mut [u8]) {
    out[..QUANTS].fill(0);
    let mut q: StepQuants = [[0; 32]; TILE_ROWS];
    for i in 0..RUNS {
        for (r, block) in blocks.iter().enumerate() {
            if let Some(b) = block {
                out[2 * r..2 * r + 2].copy_from_slice(&b[..2]);
                out[SCALES + TILE_ROWS * i + r] = scale(b, i) as u8;
                q[r] = run(b, i);
            }
        }
        nibbles::pack(&q, &mut out[QUANTS + nibbles::BYTES * i..][..nibbles::BYTES]);
    }
}

impl TileFormat for Iq4Xs {
    const BLOCK: usize = 256;
    const CHUNK_BYTES: usize = QUANTS + RUNS * nibbles::BYTES;
    const SUB: usize = 32;
    const OFFSET: i32 = 0;
    const SIGNED: bool = true;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8, step: usize) -> [S::B; 8] {
        // SAFETY: step is below 8; the planes follow the header.
        unsafe { levels::<S>(p.add(QUANTS + nibbles::BYTES * step)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(p: *const u8, sub: usize) -> S::F {
        // SAFETY: sub is below 8; the header holds what is read.
        unsafe { S::mul(S::load_f16(p.cast()), S::i_to_f(S::load_i8(p.add(SCALES + TILE_ROWS * sub).cast()))) }
    }
}
