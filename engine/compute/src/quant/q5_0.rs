//! Q5_0: 32 weights in 22 bytes, `x = d * (q - 16)`.
//!
//! Layout: `d` f16, `qh` u32 with the fifth bit of weight i in bit i, then 16 bytes of nibbles as in Q4_0.

use super::{Spec, f16_at, nibbles_of, put_f16};
use crate::cpu::planes::{StepQuants, bits, nibbles};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{Kernels, Packing, TILE_ROWS, TileFormat, multiply};

const BYTES: usize = 22;

/// The format.
pub static SPEC: Spec = Spec {
    name: "Q5_0",
    ggml_type: 6,
    block_len: 32,
    block_bytes: BYTES,
    decode,
    encode,
    kernels: Kernels {
        packing: Some(Packing { chunk_bytes: Q5_0::CHUNK_BYTES, pack }),
        multiply: multiply::<Q5_0>,
    },
};

/// Quants from 20 bytes: the fifth bits, then the nibbles.
pub(super) fn with_high(b: &[u8]) -> [u8; 32] {
    let mut q = nibbles_of(&b[4..20]);
    for (i, &high) in b[..4].iter().enumerate() {
        for (k, bit) in spread(high).to_le_bytes().into_iter().enumerate() {
            q[8 * i + k] |= bit << 4;
        }
    }
    q
}

/// The inverse of [`with_high`].
pub(super) fn pack_high(q: &[u8], b: &mut [u8]) {
    let mut high = 0u32;
    for i in 0..16 {
        let (lo, hi) = (q[i], q[i + 16]);
        b[4 + i] = (lo & 15) | (hi & 15) << 4;
        high |= u32::from(lo >> 4) << i | u32::from(hi >> 4) << (i + 16);
    }
    b[..4].copy_from_slice(&high.to_le_bytes());
}

/// The bits of a byte, one to a byte, lowest first.
fn spread(bits: u8) -> u64 {
    // Each byte keeps one bit; adding what is missing to 0x80 carries that bit to the top of its byte.
    let one_each = u64::from(bits).wrapping_mul(0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
    one_each.wrapping_add(0x0040_6070_787c_7e7f) >> 7 & 0x0101_0101_0101_0101
}

fn decode(b: &[u8], out: &mut [f32]) {
    let d = f16_at(b, 0);
    for (x, q) in out.iter_mut().zip(with_high(&b[2..BYTES])) {
        *x = d * (f32::from(q) - 16.0);
    }
}

/// `quantize_row_q5_0_ref` of ggml: the value of largest magnitude becomes -16.
fn encode(x: &[f32], b: &mut [u8]) {
    let extreme = x.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let d = extreme / -16.0;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    put_f16(b, 0, d);
    let q: Vec<u8> = x.iter().map(|x| (x * inverse + 16.5).clamp(0.0, 31.0) as u8).collect();
    pack_high(&q, &mut b[2..]);
}

/// Chunk: d f16 x 16 | nibbles | bits.
struct Q5_0;

fn pack(blocks: &[Option<&[u8]>; TILE_ROWS], out: &mut [u8]) {
    let (head, planes) = out.split_at_mut(2 * TILE_ROWS);
    let mut q: StepQuants = [[0; 32]; TILE_ROWS];
    head.fill(0);
    for (r, block) in blocks.iter().enumerate() {
        if let Some(b) = block {
            head[2 * r..2 * r + 2].copy_from_slice(&b[..2]);
            q[r] = with_high(&b[2..BYTES]);
        }
    }
    nibbles::pack(&q, &mut planes[..nibbles::BYTES]);
    bits::pack(&q, 4, &mut planes[nibbles::BYTES..]);
}

impl TileFormat for Q5_0 {
    const BLOCK: usize = 32;
    const CHUNK_BYTES: usize = 2 * TILE_ROWS + nibbles::BYTES + bits::BYTES;
    const SUB: usize = 32;
    const OFFSET: i32 = 16;
    const SIGNED: bool = false;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8, _step: usize) -> [S::B; 8] {
        // SAFETY: the planes follow the scales.
        unsafe {
            let p = p.add(2 * TILE_ROWS);
            bits::or::<S>(p.add(nibbles::BYTES), 4, nibbles::unpack::<S>(p))
        }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(p: *const u8, _sub: usize) -> S::F {
        // SAFETY: the chunk begins with 16 half floats.
        unsafe { S::load_f16(p.cast()) }
    }
}
