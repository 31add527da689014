//! Q8_0: 32 weights in 34 bytes, `x = d * q`.
//!
//! Layout: `d` f16, then 32 signed bytes.

use super::{Spec, f16_at, put_f16};
use crate::cpu::planes::{StepQuants, bytes};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{Kernels, Packing, TILE_ROWS, TileFormat, multiply};

const BYTES: usize = 34;

/// The format.
pub static SPEC: Spec = Spec {
    name: "Q8_0",
    ggml_type: 8,
    block_len: 32,
    block_bytes: BYTES,
    decode, //= F-GGUF-045
    encode,
    kernels: Kernels {
        packing: Some(Packing { chunk_bytes: Q8_0::CHUNK_BYTES, pack }),
        multiply: multiply::<Q8_0>,
    },
};

fn decode(b: &[u8], out: &mut [f32]) {
    let d = f16_at(b, 0);
    for (x, &q) in out.iter_mut().zip(&b[2..]) {
        *x = d * f32::from(q as i8);
    }
}

/// `quantize_row_q8_0_ref` of ggml.
fn encode(x: &[f32], b: &mut [u8]) {
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let d = amax / 127.0;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    put_f16(b, 0, d);
    for (q, &x) in b[2..].iter_mut().zip(x) {
        *q = (x * inverse).round() as i8 as u8;
    }
}

/// Chunk: d f16 x 16 | bytes.
struct Q8_0;

fn pack(blocks: &[Option<&[u8]>; TILE_ROWS], out: &mut [u8]) {
    let (head, quants) = out.split_at_mut(2 * TILE_ROWS);
    let mut q: StepQuants = [[0; 32]; TILE_ROWS];
    head.fill(0);
    for (r, block) in blocks.iter().enumerate() {
        if let Some(b) = block {
            head[2 * r..2 * r + 2].copy_from_slice(&b[..2]);
            q[r].copy_from_slice(&b[2..BYTES]);
        }
    }
    bytes::pack(&q, quants);
}

impl TileFormat for Q8_0 {
    const BLOCK: usize = 32;
    const CHUNK_BYTES: usize = 2 * TILE_ROWS + bytes::BYTES;
    const SUB: usize = 32;
    const OFFSET: i32 = 0;
    const SIGNED: bool = true;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8, _step: usize) -> [S::B; 8] {
        // SAFETY: the plane follows the scales.
        unsafe { bytes::unpack::<S>(p.add(2 * TILE_ROWS)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(p: *const u8, _sub: usize) -> S::F {
        // SAFETY: the chunk begins with 16 half floats.
        unsafe { S::load_f16(p.cast()) }
    }
}
