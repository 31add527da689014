//! BF16: the upper half of a 32-bit float, little-endian.

use super::Spec;
use crate::cpu::simd::Simd;
use crate::cpu::tile::{FloatFormat, Kernels, multiply_float};

/// The format.
pub static SPEC: Spec = Spec {
    name: "BF16",
    ggml_type: 30,
    block_len: 1,
    block_bytes: 2,
    decode: |b, out| out[0] = Bf16::one(b),
    encode: |x, b| b.copy_from_slice(&half::bf16::from_f32(x[0]).to_le_bytes()),
    kernels: Kernels { packing: None, multiply: multiply_float::<Bf16> },
};

struct Bf16;

impl FloatFormat for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: the caller gives 16 weights.
        unsafe { S::load_bf16(p.cast()) }
    }
    fn one(b: &[u8]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)
    }
}
