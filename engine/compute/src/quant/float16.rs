//! F16: 16-bit IEEE floats, little-endian.

use super::{Spec, f16_at, put_f16};
use crate::cpu::simd::Simd;
use crate::cpu::tile::{FloatFormat, Kernels, multiply_float};

/// The format.
pub static SPEC: Spec = Spec {
    name: "F16",
    ggml_type: 1,
    block_len: 1,
    block_bytes: 2,
    decode: |b, out| out[0] = F16::one(b), //= F-CPU-113 F-GGUF-046
    encode: |x, b| put_f16(b, 0, x[0]),
    kernels: Kernels { packing: None, multiply: multiply_float::<F16> },
};

struct F16;

impl FloatFormat for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: the caller gives 16 weights.
        unsafe { S::load_f16(p.cast()) }
    }
    fn one(b: &[u8]) -> f32 {
        f16_at(b, 0)
    }
}
