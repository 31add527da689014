//! Sixteen lanes as two 256-bit registers: AVX2, FMA and F16C, what x86-64-v3 processors have.

use super::Simd;
use std::arch::x86_64::*;

/// The AVX2 level. [`crate::cpu::isa::Isa`] runs it only where the processor has it.
#[derive(Clone, Copy)]
pub struct Avx2;

/// An expression of intrinsics.
macro_rules! op {
    ($body:expr) => {{
        // SAFETY: the trait's contract: called only inside `Isa::run` of this level, so the instructions exist;
        // pointers are to as many elements as the method names.
        unsafe { $body }
    }};
}

/// The expression for the lower half and for the upper half.
macro_rules! both {
    (|$($v:ident),+| $body:expr) => {
        op!(({ $(let $v = $v.0;)+ $body }, { $(let $v = $v.1;)+ $body }))
    };
}

impl Simd for Avx2 {
    type F = (__m256, __m256);
    type I = (__m256i, __m256i);
    type B = (__m256i, __m256i);

    const NAME: &'static str = "avx2";
    const COLUMNS: usize = 4;
    const SIGNED_BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        op!((_mm256_set1_ps(x), _mm256_set1_ps(x)))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        op!((_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))))
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::F) {
        op!({
            _mm256_storeu_ps(p, x.0);
            _mm256_storeu_ps(p.add(8), x.1);
        })
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        op!((_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        op!({
            let lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            let hi = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(8).cast()));
            (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(lo)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(hi)))
        })
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        both!(|a, b| _mm256_add_ps(a, b))
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        both!(|a, b| _mm256_sub_ps(a, b))
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        both!(|a, b| _mm256_mul_ps(a, b))
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        both!(|a, b| _mm256_div_ps(a, b))
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(|a, b, c| _mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(|a, b, c| _mm256_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        both!(|a, b| _mm256_max_ps(a, b))
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        both!(|a, b| _mm256_min_ps(a, b))
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        both!(|a| _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        both!(|a| _mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }
    #[inline(always)]
    unsafe fn scale_pow2(a: Self::F, n: Self::F) -> Self::F {
        both!(|a, n| {
            let e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(e)))
        })
    }
    #[inline(always)]
    unsafe fn max_lane(x: Self::F) -> f32 {
        op!({
            let m = _mm256_max_ps(x.0, x.1);
            let m = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps::<1>(m));
            let m = _mm_max_ps(m, _mm_movehl_ps(m, m));
            _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps::<1>(m, m)))
        })
    }
    #[inline(always)]
    unsafe fn finite(x: Self::F) -> bool {
        op!({
            // x - x is 0 for numbers and NaN for the rest.
            let (a, b) = (_mm256_sub_ps(x.0, x.0), _mm256_sub_ps(x.1, x.1));
            _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, b)) == 0
        })
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, x: Self::F) -> i32 {
        op!({
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.0), _mm256_cvtps_epi32(x.1));
            // Packing works inside halves: quarters stand 0, 2, 1, 3.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let q = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(p.cast(), q);
            super::sum_i8(q)
        })
    }
    #[inline(always)]
    unsafe fn i_splat(x: i32) -> Self::I {
        op!((_mm256_set1_epi32(x), _mm256_set1_epi32(x)))
    }
    #[inline(always)]
    unsafe fn i_to_f(x: Self::I) -> Self::F {
        both!(|x| _mm256_cvtepi32_ps(x))
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        op!((_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())), _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8).cast()))))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self::I {
        op!((_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())), _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast()))))
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        op!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
    }
    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self::B {
        op!((_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())))
    }
    #[inline(always)]
    unsafe fn b_splat(x: u8) -> Self::B {
        op!((_mm256_set1_epi8(x as i8), _mm256_set1_epi8(x as i8)))
    }
    #[inline(always)]
    unsafe fn b_and(a: Self::B, b: Self::B) -> Self::B {
        both!(|a, b| _mm256_and_si256(a, b))
    }
    #[inline(always)]
    unsafe fn b_or(a: Self::B, b: Self::B) -> Self::B {
        both!(|a, b| _mm256_or_si256(a, b))
    }
    #[inline(always)]
    unsafe fn shr16<const N: u32>(a: Self::B) -> Self::B {
        both!(|a| _mm256_srl_epi16(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: Self::B) -> Self::B {
        both!(|a| _mm256_sll_epi16(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    unsafe fn b_or_where(a: Self::B, bits: Self::B, mask: u8, set: u8) -> Self::B {
        both!(|a, bits| {
            let m = _mm256_set1_epi8(mask as i8);
            let hit = _mm256_cmpeq_epi8(_mm256_and_si256(bits, m), m);
            _mm256_or_si256(a, _mm256_and_si256(hit, _mm256_set1_epi8(set as i8)))
        })
    }
    #[inline(always)]
    unsafe fn b_lookup(table: &[i8; 16], index: Self::B) -> Self::B {
        both!(|index| {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, index)
        })
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::I, u: Self::B, a4: i32) -> Self::I {
        // u <= 127 and |a| <= 127, so the pairwise 16-bit sums of maddubs stay below 2^15: no saturation.
        both!(|acc, u| {
            let pairs = _mm256_maddubs_epi16(u, _mm256_set1_epi32(a4));
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }
    #[inline(always)]
    unsafe fn dot_signed(acc: Self::I, s: Self::B, a4: i32) -> Self::I {
        // |s| <= 128 as an unsigned byte; a takes the sign of s. 128 * 127 * 2 < 2^15.
        both!(|acc, s| {
            let a = _mm256_sign_epi8(_mm256_set1_epi32(a4), s);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(s), a);
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }
}
