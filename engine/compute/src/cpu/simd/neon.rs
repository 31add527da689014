//! Sixteen lanes as four 128-bit registers: NEON, what every 64-bit ARM processor has.

use super::Simd;
use std::arch::aarch64::*;
use std::array::from_fn;

/// The NEON level.
#[derive(Clone, Copy)]
pub struct Neon;

/// An expression of intrinsics for each of the four registers.
macro_rules! each {
    (|$i:ident| $body:expr) => {
        // SAFETY: NEON is part of the 64-bit architecture; pointers are to as many elements as the method names.
        from_fn(|$i| unsafe { $body })
    };
}

impl Simd for Neon {
    type F = [float32x4_t; 4];
    type I = [int32x4_t; 4];
    type B = [uint8x16_t; 4];

    const NAME: &'static str = "neon";
    const COLUMNS: usize = 4;
    const SIGNED_BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        each!(|_i| vdupq_n_f32(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        each!(|i| vld1q_f32(p.add(4 * i)))
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::F) {
        for (i, x) in x.into_iter().enumerate() {
            // SAFETY: the caller gives 16 writable elements.
            unsafe { vst1q_f32(p.add(4 * i), x) }
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        each!(|i| widened(vld1_u16(p.add(4 * i))))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        each!(|i| vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.add(4 * i)))))
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        each!(|i| vaddq_f32(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        each!(|i| vsubq_f32(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        each!(|i| vmulq_f32(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        each!(|i| vdivq_f32(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(|i| vfmaq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(|i| vfmsq_f32(c[i], a[i], b[i]))
    }
    // NEON's own maximum and minimum give NaN where either is one.
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        each!(|i| vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        each!(|i| vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        each!(|i| vrndnq_f32(a[i]))
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        each!(|i| vabsq_f32(a[i]))
    }
    #[inline(always)]
    unsafe fn scale_pow2(a: Self::F, n: Self::F) -> Self::F {
        each!(|i| {
            let e = vaddq_s32(vcvtq_s32_f32(n[i]), vdupq_n_s32(127));
            vmulq_f32(a[i], vreinterpretq_f32_s32(vshlq_n_s32::<23>(e)))
        })
    }
    #[inline(always)]
    unsafe fn i_splat(x: i32) -> Self::I {
        each!(|_i| vdupq_n_s32(x))
    }
    #[inline(always)]
    unsafe fn i_to_f(x: Self::I) -> Self::F {
        each!(|i| vcvtq_f32_s32(x[i]))
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe {
            let x = vld1q_u8(p);
            let (lo, hi) = (vmovl_u8(vget_low_u8(x)), vmovl_high_u8(x));
            let words =
                [vmovl_u16(vget_low_u16(lo)), vmovl_high_u16(lo), vmovl_u16(vget_low_u16(hi)), vmovl_high_u16(hi)];
            words.map(|w| vreinterpretq_s32_u32(w))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self::I {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe {
            let x = vld1q_s8(p);
            let (lo, hi) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            [vmovl_s16(vget_low_s16(lo)), vmovl_high_s16(lo), vmovl_s16(vget_low_s16(hi)), vmovl_high_s16(hi)]
        }
    }
    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self::B {
        each!(|i| vld1q_u8(p.add(16 * i)))
    }
    #[inline(always)]
    unsafe fn b_splat(x: u8) -> Self::B {
        each!(|_i| vdupq_n_u8(x))
    }
    #[inline(always)]
    unsafe fn b_and(a: Self::B, b: Self::B) -> Self::B {
        each!(|i| vandq_u8(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn b_or(a: Self::B, b: Self::B) -> Self::B {
        each!(|i| vorrq_u8(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn shr16<const N: u32>(a: Self::B) -> Self::B {
        each!(|i| shifted(a[i], -(N as i16)))
    }
    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: Self::B) -> Self::B {
        each!(|i| shifted(a[i], N as i16))
    }
    #[inline(always)]
    unsafe fn b_or_where(a: Self::B, bits: Self::B, mask: u8, set: u8) -> Self::B {
        each!(|i| vorrq_u8(a[i], vandq_u8(vtstq_u8(bits[i], vdupq_n_u8(mask)), vdupq_n_u8(set))))
    }
    #[inline(always)]
    unsafe fn b_lookup(table: &[i8; 16], index: Self::B) -> Self::B {
        each!(|i| vqtbl1q_u8(vreinterpretq_u8_s8(vld1q_s8(table.as_ptr())), index[i]))
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::I, u: Self::B, a4: i32) -> Self::I {
        // u is at most 127, so it is the same number as a signed byte.
        // SAFETY: inside `Isa::run` of this level, as the caller is.
        unsafe { Self::dot_signed(acc, u, a4) }
    }
    #[inline(always)]
    unsafe fn dot_signed(acc: Self::I, s: Self::B, a4: i32) -> Self::I {
        // |s| <= 128 and |a| <= 127: pairs of products stay below 2^15.
        each!(|i| {
            let (s, a) = (vreinterpretq_s8_u8(s[i]), vreinterpretq_s8_s32(vdupq_n_s32(a4)));
            let (lo, hi) = (vmull_s8(vget_low_s8(s), vget_low_s8(a)), vmull_high_s8(s, a));
            vpadalq_s16(acc[i], vpaddq_s16(lo, hi))
        })
    }
}

/// Four half floats as floats: `fcvtl`, whose intrinsic wants a type that stable Rust has not.
#[inline(always)]
unsafe fn widened(x: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: an instruction of the base architecture that reads one register and writes another.
    unsafe {
        std::arch::asm!("fcvtl {wide:v}.4s, {x:v}.4h", wide = out(vreg) wide, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    wide
}

/// Words shifted left, or right where `by` is negative.
#[inline(always)]
unsafe fn shifted(a: uint8x16_t, by: i16) -> uint8x16_t {
    // SAFETY: NEON is part of the 64-bit architecture.
    unsafe { vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a), vdupq_n_s16(by))) }
}
