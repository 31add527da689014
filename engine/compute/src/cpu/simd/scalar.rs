//! Sixteen lanes without any instruction set: the reference for the others, and what runs under `APR_ISA=scalar`.

use super::Simd;

/// The scalar level.
#[derive(Clone, Copy)]
pub struct Scalar;

#[inline(always)]
fn map2(a: [f32; 16], b: [f32; 16], f: impl Fn(f32, f32) -> f32) -> [f32; 16] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn words(a: [u8; 64], f: impl Fn(u16) -> u16) -> [u8; 64] {
    let mut out = [0; 64];
    for i in 0..32 {
        let w = f(u16::from_le_bytes([a[2 * i], a[2 * i + 1]]));
        out[2 * i..2 * i + 2].copy_from_slice(&w.to_le_bytes());
    }
    out
}

// Every method is `unsafe` because the trait's are; here only those that take pointers can be misused.
impl Simd for Scalar {
    type F = [f32; 16];
    type I = [i32; 16];
    type B = [u8; 64];

    const NAME: &'static str = "scalar";
    const COLUMNS: usize = 4;
    const SIGNED_BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: the caller gives 16 readable elements.
        unsafe { p.cast::<[f32; 16]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::F) {
        // SAFETY: the caller gives 16 writable elements.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::F {
        // SAFETY: the caller gives 16 readable elements.
        let v = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        v.map(|x| half::f16::from_bits(x).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::F {
        // SAFETY: the caller gives 16 readable elements.
        let v = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        v.map(|x| f32::from_bits(u32::from(x) << 16))
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn scale_pow2(a: Self::F, n: Self::F) -> Self::F {
        map2(a, n, |x, n| x * f32::from_bits(((n as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn i_splat(x: i32) -> Self::I {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn i_to_f(x: Self::I) -> Self::F {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::I {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe { p.cast::<[u8; 16]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self::I {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe { p.cast::<[i8; 16]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self::B {
        // SAFETY: the caller gives 64 readable bytes.
        unsafe { p.cast::<[u8; 64]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn b_splat(x: u8) -> Self::B {
        [x; 64]
    }
    #[inline(always)]
    unsafe fn b_and(a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn b_or(a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn shr16<const N: u32>(a: Self::B) -> Self::B {
        words(a, |w| w >> N)
    }
    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: Self::B) -> Self::B {
        words(a, |w| w << N)
    }
    #[inline(always)]
    unsafe fn b_or_where(a: Self::B, bits: Self::B, mask: u8, set: u8) -> Self::B {
        std::array::from_fn(|i| if bits[i] & mask != 0 { a[i] | set } else { a[i] })
    }
    #[inline(always)]
    unsafe fn b_lookup(table: &[i8; 16], index: Self::B) -> Self::B {
        index.map(|i| table[usize::from(i & 15)] as u8)
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::I, u: Self::B, a4: i32) -> Self::I {
        let a = a4.to_le_bytes();
        std::array::from_fn(|l| (0..4).fold(acc[l], |s, t| s + i32::from(u[4 * l + t]) * i32::from(a[t] as i8)))
    }
    #[inline(always)]
    unsafe fn dot_signed(acc: Self::I, s: Self::B, a4: i32) -> Self::I {
        let a = a4.to_le_bytes();
        std::array::from_fn(|l| (0..4).fold(acc[l], |v, t| v + i32::from(s[4 * l + t] as i8) * i32::from(a[t] as i8)))
    }
}
