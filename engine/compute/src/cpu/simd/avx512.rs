//! Sixteen lanes as one 512-bit register: AVX-512 F, BW, VL, DQ and VNNI (Ice Lake, Zen 4 and later).

use super::Simd;
use std::arch::x86_64::*;

/// The AVX-512 level. [`crate::cpu::isa::Isa`] runs it only where the processor has it.
#[derive(Clone, Copy)]
pub struct Avx512;

/// An expression of intrinsics.
macro_rules! op {
    ($body:expr) => {{
        // SAFETY: the trait's contract: called only inside `Isa::run` of this level, so the instructions exist;
        // pointers are to as many elements as the method names.
        unsafe { $body }
    }};
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;

    const NAME: &'static str = "avx512";
    // 8 sums, 8 weight registers, scales, minima and temporaries; more columns do not unroll into registers.
    const COLUMNS: usize = 8;
    const SIGNED_BIAS: i32 = 128;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        op!(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::F) {
        op!(_mm512_storeu_ps(p, x))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        op!(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        op!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))))
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        op!(_mm512_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    unsafe fn scale_pow2(a: Self::F, n: Self::F) -> Self::F {
        op!({
            let e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_mul_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(e)))
        })
    }
    #[inline(always)]
    unsafe fn max_lane(x: Self::F) -> f32 {
        op!(_mm512_reduce_max_ps(x))
    }
    #[inline(always)]
    unsafe fn finite(x: Self::F) -> bool {
        // Quiet and signalling NaN, both infinities.
        op!(_mm512_fpclass_ps_mask::<0x99>(x) == 0)
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, x: Self::F) -> i32 {
        op!({
            let q = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
            _mm_storeu_si128(p.cast(), q);
            super::sum_i8(q)
        })
    }
    #[inline(always)]
    unsafe fn i_splat(x: i32) -> Self::I {
        op!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    unsafe fn i_to_f(x: Self::I) -> Self::F {
        op!(_mm512_cvtepi32_ps(x))
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        op!(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self::I {
        op!(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        op!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
    }
    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self::B {
        op!(_mm512_loadu_si512(p.cast()))
    }
    #[inline(always)]
    unsafe fn b_splat(x: u8) -> Self::B {
        op!(_mm512_set1_epi8(x as i8))
    }
    #[inline(always)]
    unsafe fn b_and(a: Self::B, b: Self::B) -> Self::B {
        op!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    unsafe fn b_or(a: Self::B, b: Self::B) -> Self::B {
        op!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    unsafe fn shr16<const N: u32>(a: Self::B) -> Self::B {
        op!(_mm512_srli_epi16::<N>(a))
    }
    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: Self::B) -> Self::B {
        op!(_mm512_slli_epi16::<N>(a))
    }
    #[inline(always)]
    unsafe fn b_or_where(a: Self::B, bits: Self::B, mask: u8, set: u8) -> Self::B {
        op!({
            let hit = _mm512_test_epi8_mask(bits, _mm512_set1_epi8(mask as i8));
            _mm512_mask_blend_epi8(hit, a, _mm512_or_si512(a, _mm512_set1_epi8(set as i8)))
        })
    }
    #[inline(always)]
    unsafe fn b_lookup(table: &[i8; 16], index: Self::B) -> Self::B {
        op!({
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, index)
        })
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::I, u: Self::B, a4: i32) -> Self::I {
        op!(_mm512_dpbusd_epi32(acc, u, _mm512_set1_epi32(a4)))
    }
    #[inline(always)]
    unsafe fn dot_signed(acc: Self::I, s: Self::B, a4: i32) -> Self::I {
        op!({
            // vpdpbusd wants unsigned weights: s + 128 is s with its top bit flipped.
            let u = _mm512_xor_si512(s, _mm512_set1_epi8(i8::MIN));
            _mm512_dpbusd_epi32(acc, u, _mm512_set1_epi32(a4))
        })
    }
}
