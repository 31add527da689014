//! IQ4_NL: 32 weights in 18 bytes, `x = d * table[q]` with a table of sixteen levels that are denser near zero.
//!
//! Layout as Q4_0.

use super::{Spec, f16_at, nibbles_of, put_f16};
use crate::cpu::planes::{StepQuants, nibbles};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{Kernels, Packing, TILE_ROWS, TileFormat, multiply};

const BYTES: usize = 18;

/// The levels: `kvalues_iq4nl` of ggml.
pub(super) const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The format.
pub static SPEC: Spec = Spec {
    name: "IQ4_NL",
    ggml_type: 20,
    block_len: 32,
    block_bytes: BYTES,
    decode,
    encode,
    kernels: Kernels {
        packing: Some(Packing { chunk_bytes: Iq4Nl::CHUNK_BYTES, pack }),
        multiply: multiply::<Iq4Nl>,
    },
};

fn decode(b: &[u8], out: &mut [f32]) {
    let d = f16_at(b, 0);
    for (x, q) in out.iter_mut().zip(nibbles_of(&b[2..BYTES])) {
        *x = d * f32::from(TABLE[usize::from(q)]);
    }
}

/// The level nearest to a value.
pub(super) fn nearest(x: f32) -> u8 {
    let distance = |i: &u8| (f32::from(TABLE[usize::from(*i)]) - x).abs();
    (0..16u8).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
}

/// The value of largest magnitude becomes the lowest level. Simpler than ggml's search, and a little worse.
fn encode(x: &[f32], b: &mut [u8]) {
    let extreme = x.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    put_f16(b, 0, extreme / f32::from(TABLE[0]));
    let d = f16_at(b, 0);
    let q = |x: f32| nearest(if d != 0.0 { x / d } else { 0.0 });
    for i in 0..16 {
        b[2 + i] = q(x[i]) | q(x[i + 16]) << 4;
    }
}

/// Chunk: d f16 x 16 | nibbles.
struct Iq4Nl;

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

/// The levels of a step's nibbles.
///
/// # Safety
/// Inside `Isa::run`; `p` points to a plane of nibbles.
#[inline(always)]
pub(super) unsafe fn levels<S: Simd>(p: *const u8) -> [S::B; 8] {
    // SAFETY: as the caller says; nibbles are below 16.
    unsafe {
        // A loop, not `map`: a closure does not get the instruction set, and each vector instruction becomes a call.
        let mut q = nibbles::unpack::<S>(p);
        for q in &mut q {
            *q = S::b_lookup(&TABLE, *q);
        }
        q
    }
}

impl TileFormat for Iq4Nl {
    const BLOCK: usize = 32;
    const CHUNK_BYTES: usize = 2 * TILE_ROWS + nibbles::BYTES;
    const SUB: usize = 32;
    const OFFSET: i32 = 0;
    const SIGNED: bool = true;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(p: *const u8, _step: usize) -> [S::B; 8] {
        // SAFETY: the plane follows the scales.
        unsafe { levels::<S>(p.add(2 * TILE_ROWS)) }
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(p: *const u8, _sub: usize) -> S::F {
        // SAFETY: the chunk begins with 16 half floats.
        unsafe { S::load_f16(p.cast()) }
    }
}
