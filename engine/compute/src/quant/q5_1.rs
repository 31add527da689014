//! Q5_1: 32 weights in 24 bytes, `x = d * q + m`.
//!
//! Layout: `d` f16, `m` f16, `qh` u32 with the fifth bits, then 16 bytes of nibbles as in Q4_0.

use super::q4_1::{bounds, put_head};
use super::q5_0::{pack_high, with_high};
use super::{Spec, f16_at, put_f16};
use crate::cpu::planes::{StepQuants, bits, nibbles};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{Kernels, Packing, TILE_ROWS, TileFormat, multiply};

const BYTES: usize = 24;

/// The format.
pub static SPEC: Spec = Spec {
    name: "Q5_1",
    ggml_type: 7,
    block_len: 32,
    block_bytes: BYTES,
    decode,
    encode,
    kernels: Kernels {
        packing: Some(Packing { chunk_bytes: Q5_1::CHUNK_BYTES, pack }),
        multiply: multiply::<Q5_1>,
    },
};

fn decode(b: &[u8], out: &mut [f32]) {
    let (d, m) = (f16_at(b, 0), f16_at(b, 2));
    for (x, q) in out.iter_mut().zip(with_high(&b[4..BYTES])) {
        *x = d * f32::from(q) + m;
    }
}

/// `quantize_row_q5_1_ref` of ggml.
fn encode(x: &[f32], b: &mut [u8]) {
    let (min, max) = bounds(x);
    let d = (max - min) / 31.0;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    put_f16(b, 0, d);
    put_f16(b, 2, min);
    let q: Vec<u8> = x.iter().map(|x| ((x - min) * inverse + 0.5).clamp(0.0, 31.0) as u8).collect();
    pack_high(&q, &mut b[4..]);
}

/// Chunk: d f16 x 16 | m f16 x 16 | nibbles | bits.
struct Q5_1;

fn pack(blocks: &[Option<&[u8]>; TILE_ROWS], out: &mut [u8]) {
    let (head, planes) = out.split_at_mut(4 * TILE_ROWS);
    let mut q: StepQuants = [[0; 32]; TILE_ROWS];
    put_head(blocks, head);
    for (r, block) in blocks.iter().enumerate() {
        if let Some(b) = block {
            q[r] = with_high(&b[4..BYTES]);
        }
    }
    nibbles::pack(&q, &mut planes[..nibbles::BYTES]);
    bits::pack(&q, 4, &mut planes[nibbles::BYTES..]);
}

impl TileFormat for Q5_1 {
    const BLOCK: usize = 32;
    const CHUNK_BYTES: usize = 4 * TILE_ROWS + nibbles::BYTES + bits::BYTES;
    const SUB: usize = 32;
    const OFFSET: i32 = 0;
    const SIGNED: bool = false;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8, _step: usize) -> [S::B; 8] {
        // SAFETY: the planes follow the scales and minima.
        unsafe {
            let p = p.add(4 * TILE_ROWS);
            bits::or::<S>(p.add(nibbles::BYTES), 4, nibbles::unpack::<S>(p))
        }
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
