//! Q4_0: 32 weights in 18 bytes, `x = d * (q - 8)`.
//!
//! Layout: `d` f16, then 16 bytes: byte i holds weight i in the low nibble and weight i + 16 in the high one.

use super::{Spec, f16_at, nibbles_of, put_f16};
use crate::cpu::planes::{StepQuants, nibbles};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{Kernels, Packing, TILE_ROWS, TileFormat, multiply};

const BYTES: usize = 18;

/// The format.
pub static SPEC: Spec = Spec {
    name: "Q4_0",
    ggml_type: 2,
    block_len: 32,
    block_bytes: BYTES,
    decode, //= F-GGUF-042
    encode,
    kernels: Kernels {
        packing: Some(Packing { chunk_bytes: Q4_0::CHUNK_BYTES, pack }),
        multiply: multiply::<Q4_0>,
    },
};

fn decode(b: &[u8], out: &mut [f32]) {
    let d = f16_at(b, 0);
    for (x, q) in out.iter_mut().zip(nibbles_of(&b[2..BYTES])) {
        *x = d * (f32::from(q) - 8.0);
    }
}

/// `quantize_row_q4_0_ref` of ggml: the value of largest magnitude becomes -8.
fn encode(x: &[f32], b: &mut [u8]) {
    let extreme = x.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let d = extreme / -8.0;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    put_f16(b, 0, d);
    let q = |x: f32| (x * inverse + 8.5).clamp(0.0, 15.0) as u8;
    for i in 0..16 {
        b[2 + i] = q(x[i]) | q(x[i + 16]) << 4;
    }
}

/// Chunk: d f16 x 16 | nibbles.
struct Q4_0;

fn pack(blocks: &[Option<&[u8]>; TILE_ROWS], out: &mut [u8]) {
    let (head, plane) = out.split_at_mut(2 * TILE_ROWS);
    let mut q: StepQuants = [[0; 32]; TILE_ROWS];
    head.fill(0);
    for (r, block) in blocks.iter().enumerate() {
        if let Some(b) = block {
            head[2 * r..2 * r + 2].copy_from_slice(&b[..2]);
            q[r] = nibbles_of(&b[2..BYTES]);
        }
    }
    nibbles::pack(&q, plane);
}

impl TileFormat for Q4_0 {
    const BLOCK: usize = 32;
    const CHUNK_BYTES: usize = 2 * TILE_ROWS + nibbles::BYTES;
    const SUB: usize = 32;
    const OFFSET: i32 = 8;
    const SIGNED: bool = false;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8, _step: usize) -> [S::B; 8] {
        // SAFETY: the plane follows the scales.
        unsafe { nibbles::unpack::<S>(p.add(2 * TILE_ROWS)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(p: *const u8, _sub: usize) -> S::F {
        // SAFETY: the chunk begins with 16 half floats.
        unsafe { S::load_f16(p.cast()) }
    }
}
