//! F32: 32-bit IEEE floats, little-endian.

use super::Spec;
use crate::cpu::simd::Simd;
use crate::cpu::tile::{FloatFormat, Kernels, multiply_float};

/// The format.
pub static SPEC: Spec = Spec {
    name: "F32",
    ggml_type: 0,
    block_len: 1,
    block_bytes: 4,
    decode: |b, out| out[0] = F32::one(b), //= F-GGUF-047
    encode: |x, b| b.copy_from_slice(&x[0].to_le_bytes()),
    kernels: Kernels { packing: None, multiply: multiply_float::<F32> },
};

struct F32;

impl FloatFormat for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: the caller gives 16 weights.
        unsafe { S::load(p.cast()) }
    }
    fn one(b: &[u8]) -> f32 {
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
}
