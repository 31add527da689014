//! Q4_1: 32 weights in 20 bytes, `x = d * q + m`.
//!
//! Layout: `d` f16, `m` f16, then 16 bytes of nibbles as in Q4_0.

use super::{Spec, f16_at, nibbles_of, put_f16};
use crate::cpu::planes::{StepQuants, nibbles};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{Kernels, Packing, TILE_ROWS, TileFormat, multiply};

const BYTES: usize = 20;

/// The format.
pub static SPEC: Spec = Spec {
    name: "Q4_1",
    ggml_type: 3,
    block_len: 32,
    block_bytes: BYTES,
    decode,
    encode,
    kernels: Kernels {
        packing: Some(Packing { chunk_bytes: Q4_1::CHUNK_BYTES, pack }),
        multiply: multiply::<Q4_1>,
    },
};

fn decode(b: &[u8], out: &mut [f32]) {
    let (d, m) = (f16_at(b, 0), f16_at(b, 2));
    for (x, q) in out.iter_mut().zip(nibbles_of(&b[4..BYTES])) {
        *x = d * f32::from(q) + m;
    }
}

/// `quantize_row_q4_1_ref` of ggml.
fn encode(x: &[f32], b: &mut [u8]) {
    let (min, max) = bounds(x);
    let d = (max - min) / 15.0;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    put_f16(b, 0, d);
    put_f16(b, 2, min);
    let q = |x: f32| ((x - min) * inverse + 0.5).clamp(0.0, 15.0) as u8;
    for i in 0..16 {
        b[4 + i] = q(x[i]) | q(x[i + 16]) << 4;
    }
}

/// Smallest and largest.
pub(super) fn bounds(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &v| (lo.min(v), hi.max(v)))
}

/// Chunk: d f16 x 16 | m f16 x 16 | nibbles.
struct Q4_1;

fn pack(blocks: &[Option<&[u8]>; TILE_ROWS], out: &mut [u8]) {
    let (head, plane) = out.split_at_mut(4 * TILE_ROWS);
    let mut q: StepQuants = [[0; 32]; TILE_ROWS];
    put_head(blocks, head);
    for (r, block) in blocks.iter().enumerate() {
        if let Some(b) = block {
            q[r] = nibbles_of(&b[4..BYTES]);
        }
    }
    nibbles::pack(&q, plane);
}

/// The two half floats that blocks begin with: all first ones, then all second ones.
pub(super) fn put_head(blocks: &[Option<&[u8]>; TILE_ROWS], head: &mut [u8]) {
    head.fill(0);
    for (r, block) in blocks.iter().enumerate() {
        if let Some(b) = block {
            head[2 * r..2 * r + 2].copy_from_slice(&b[..2]);
            head[2 * (TILE_ROWS + r)..][..2].copy_from_slice(&b[2..4]);
        }
    }
}

impl TileFormat for Q4_1 {
    const BLOCK: usize = 32;
    const CHUNK_BYTES: usize = 4 * TILE_ROWS + nibbles::BYTES;
    const SUB: usize = 32;
    const OFFSET: i32 = 0;
    const SIGNED: bool = false;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8, _step: usize) -> [S::B; 8] {
        // SAFETY: the plane follows the scales and minima.
        unsafe { nibbles::unpack::<S>(p.add(4 * TILE_ROWS)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(p: *const u8, _sub: usize) -> S::F {
        // SAFETY: the chunk begins with 16 half floats.
        unsafe { S::load_f16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn min<S: Simd>(p: *const u8, _sub: usize) -> S::F {
        // SAFETY: 16 more half floats; the kernel subtracts, the format adds.
        unsafe { S::sub(S::splat(0.0), S::load_f16(p.add(2 * TILE_ROWS).cast())) }
    }
}
