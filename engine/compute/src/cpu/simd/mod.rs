//! Sixteen lanes: the one vector abstraction that every kernel is written over, once.
//!
//! [`Simd`] has three types: 16 f32, 16 i32 and 64 bytes. AVX-512 holds each in a register, AVX2 in two, NEON in four,
//! the scalar level in arrays. Every operation is lane by lane and correctly rounded (or exact), so the same kernel gives the
//! same bits at every level; the property tests below are instantiated for each level and hold it to that.
//!
//! A kernel is a value of a type that implements [`Kernel`]; [`super::isa::Isa::run`] is the one dispatch point.
//! Kernels and everything they call must be `#[inline(always)]`, so that they are compiled with the features of the
//! function that dispatch puts around them.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod peak;
pub mod scalar;

/// Lanes of a vector at every level.
pub const LANES: usize = 16;

/// Work to be done at whichever level the processor has.
pub trait Kernel {
    /// What it gives back.
    type Output;
    /// Does it. Must be `#[inline(always)]`.
    fn run<S: Simd>(self) -> Self::Output;
}

/// Sixteen lanes of one instruction set.
///
/// # Safety
///
/// Methods are safe to call only inside [`super::isa::Isa::run`] of the same level: they execute instructions that
/// other processors do not have. Those that take pointers read or write the number of elements they name, and the
/// caller guarantees that these lie inside one allocation. No alignment is needed anywhere.
#[allow(clippy::missing_safety_doc)] // one contract for all methods: the section above
pub trait Simd: Copy {
    /// 16 f32.
    type F: Copy;
    /// 16 i32.
    type I: Copy;
    /// 64 bytes: lane `l` owns bytes `4 l .. 4 l + 4`.
    type B: Copy;

    /// For messages: `avx512`.
    const NAME: &'static str;
    /// Activation columns that a matrix tile multiplies at once (what the registers hold).
    const COLUMNS: usize;
    /// What [`Simd::dot_signed`] adds to each weight: `sum((w + SIGNED_BIAS) * a)`; the caller takes it off again.
    const SIGNED_BIAS: i32;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::F;
    /// Reads 16.
    unsafe fn load(p: *const f32) -> Self::F;
    /// Writes 16.
    unsafe fn store(p: *mut f32, x: Self::F);
    /// Reads 16 half floats.
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Reads 16 bfloats.
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    /// `a + b`.
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b` (so b if either is NaN).
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b` (so b if either is NaN).
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// Nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// Clears the sign.
    unsafe fn abs(a: Self::F) -> Self::F;
    /// `a * 2^n` for integral `n` in -126..=127 given as a float, by building the power's bits.
    unsafe fn scale_pow2(a: Self::F, n: Self::F) -> Self::F;

    /// All lanes `x`.
    unsafe fn i_splat(x: i32) -> Self::I;
    /// Exact for |x| < 2^24.
    unsafe fn i_to_f(x: Self::I) -> Self::F;
    /// Reads 16 unsigned bytes.
    unsafe fn load_u8(p: *const u8) -> Self::I;
    /// Reads 16 signed bytes.
    unsafe fn load_i8(p: *const i8) -> Self::I;

    /// Asks for the cache line of `p`, which need not be readable. Changes no value.
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}
    /// Reads 64 bytes.
    unsafe fn bytes(p: *const u8) -> Self::B;
    /// All bytes `x`.
    unsafe fn b_splat(x: u8) -> Self::B;
    /// Bitwise and.
    unsafe fn b_and(a: Self::B, b: Self::B) -> Self::B;
    /// Bitwise or.
    unsafe fn b_or(a: Self::B, b: Self::B) -> Self::B;
    /// Each 16-bit word shifted right by `N` (mask afterwards: bits cross from the upper byte).
    unsafe fn shr16<const N: u32>(a: Self::B) -> Self::B;
    /// Each 16-bit word shifted left by `N` (mask afterwards).
    unsafe fn shl16<const N: u32>(a: Self::B) -> Self::B;
    /// Where `bits & mask != 0`, the byte of `a | set`, else that of `a`.
    unsafe fn b_or_where(a: Self::B, bits: Self::B, mask: u8, set: u8) -> Self::B;

    /// Each byte (below 16) replaced by that entry of the table.
    unsafe fn b_lookup(table: &[i8; 16], index: Self::B) -> Self::B;

    /// Lane l: `acc + sum over t of u[4 l + t] * a[t]`, where `a4` holds four signed bytes and u is unsigned, at most
    /// 127. Exact.
    unsafe fn dot(acc: Self::I, u: Self::B, a4: i32) -> Self::I;
    /// The same for signed bytes `s` of any value and a in -127..=127, each weight taken as `s + SIGNED_BIAS`. Exact.
    unsafe fn dot_signed(acc: Self::I, s: Self::B, a4: i32) -> Self::I;

    /// Sum over the lanes in the one order of the contract: halves folded, 8, 4, 2, 1.
    #[inline(always)]
    unsafe fn sum(x: Self::F) -> f32 {
        let mut v = [0f32; LANES];
        // SAFETY: the array has 16 elements.
        unsafe { Self::store(v.as_mut_ptr(), x) };
        fold(&mut v, |a, b| a + b)
    }

    /// The largest lane of a vector without NaN and without negative zeros.
    #[inline(always)]
    unsafe fn max_lane(x: Self::F) -> f32 {
        let mut v = [0f32; LANES];
        // SAFETY: the array has 16 elements.
        unsafe { Self::store(v.as_mut_ptr(), x) };
        fold(&mut v, |a, b| if a > b { a } else { b })
    }

    /// Whether no lane is infinite or NaN.
    #[inline(always)]
    unsafe fn finite(x: Self::F) -> bool {
        let mut v = [0f32; LANES];
        // SAFETY: the array has 16 elements.
        unsafe { Self::store(v.as_mut_ptr(), x) };
        v.iter().fold(true, |ok, v| ok & v.is_finite())
    }

    /// Writes 16 integers of -127..=127 as bytes, and gives their sum.
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, x: Self::F) -> i32 {
        let mut v = [0f32; LANES];
        // SAFETY: the array has 16 elements, and so has what `p` points to.
        unsafe {
            Self::store(v.as_mut_ptr(), x);
            v.iter().enumerate().fold(0, |sum, (i, &v)| {
                *p.add(i) = v as i8;
                sum + v as i32
            })
        }
    }
}

/// Sum of 16 signed bytes.
///
/// # Safety
/// The processor has SSE2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn sum_i8(q: std::arch::x86_64::__m128i) -> i32 {
    use std::arch::x86_64::*;
    // SAFETY: as the caller promises. Bytes are summed as unsigned ones, each 128 too large.
    unsafe {
        let halves = _mm_sad_epu8(_mm_xor_si128(q, _mm_set1_epi8(i8::MIN)), _mm_setzero_si128());
        _mm_cvtsi128_si32(halves) + _mm_extract_epi16::<4>(halves) - 16 * 128
    }
}

#[inline(always)]
fn fold(v: &mut [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            v[i] = f(v[i], v[i + half]);
        }
        half /= 2;
    }
    v[0]
}

/// `e^x`, relative error below 4e-7 on -87.3..88.3 and the value at the nearer end outside; NaN for NaN and infinities,
/// so that a broken score cannot become a number.
///
/// Range reduction by ln 2 in two parts and a polynomial of degree 6 (Cephes `expf`).
///
/// # Safety
/// Inside `Isa::run` of the level `S`.
#[inline(always)]
pub unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller is inside `Isa::run` of this level; no pointers are used.
    unsafe {
        let poison = S::mul(x, S::splat(0.0));
        let x = S::min(S::max(x, S::splat(-87.3)), S::splat(88.3));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fnma(n, S::splat(0.693_359_4), x);
        let r = S::fnma(n, S::splat(-2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_1e-4);
        p = S::fma(p, r, S::splat(1.398_199_9e-3));
        p = S::fma(p, r, S::splat(8.333_452e-3));
        p = S::fma(p, r, S::splat(4.166_579_6e-2));
        p = S::fma(p, r, S::splat(1.666_666_5e-1));
        p = S::fma(p, r, S::splat(0.5));
        let r2 = S::mul(r, r);
        let y = S::add(S::fma(p, r2, r), S::splat(1.0));
        S::add(S::scale_pow2(y, n), poison)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use proptest::prelude::*;

    /// Runs every float operation on given lanes and returns all results, to be compared between levels.
    struct Floats<'a>(&'a [f32; 16], &'a [f32; 16], &'a [f32; 16]);

    impl Kernel for Floats<'_> {
        type Output = Vec<u32>;
        #[inline(always)]
        fn run<S: Simd>(self) -> Vec<u32> {
            let mut out = Vec::new();
            // SAFETY: run by `Isa::run`; every pointer is to an array of 16.
            unsafe {
                let (a, b, c) = (S::load(self.0.as_ptr()), S::load(self.1.as_ptr()), S::load(self.2.as_ptr()));
                let results = [
                    S::add(a, b),
                    S::sub(a, b),
                    S::mul(a, b),
                    S::div(a, b),
                    S::fma(a, b, c),
                    S::fnma(a, b, c),
                    S::max(a, b),
                    S::min(a, b),
                    S::round(a),
                    S::abs(a),
                    exp::<S>(a),
                ];
                for r in results {
                    let mut v = [0f32; 16];
                    S::store(v.as_mut_ptr(), r);
                    out.extend(v.map(f32::to_bits));
                }
                out.push(S::sum(a).to_bits());
                out.push(S::max_lane(S::abs(a)).to_bits());
                for bad in [0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut v = [1.0f32; 16];
                    v[(self.0[0].to_bits() % 16) as usize] = bad;
                    out.push(u32::from(S::finite(S::load(v.as_ptr()))));
                }
                let mut bytes = [0i8; 16];
                out.push(S::store_i8(bytes.as_mut_ptr(), S::round(a)) as u32);
                out.extend(bytes.map(|b| b as u32));
            }
            out
        }
    }

    /// Every byte and integer operation.
    struct Bytes<'a>(&'a [u8; 64], &'a [u8; 64], i32);

    impl Kernel for Bytes<'_> {
        type Output = Vec<i64>;
        #[inline(always)]
        fn run<S: Simd>(self) -> Vec<i64> {
            let mut out = Vec::new();
            // SAFETY: run by `Isa::run`; the arrays have 64 bytes.
            unsafe {
                let (a, b) = (S::bytes(self.0.as_ptr()), S::bytes(self.1.as_ptr()));
                let mut lanes = |i: S::I| {
                    let mut v = [0f32; 16];
                    S::store(v.as_mut_ptr(), S::i_to_f(i));
                    out.extend(v.map(|x| x as i64));
                };
                let low = S::b_splat(0x7f);
                for u in [
                    S::b_and(a, low),
                    S::b_and(S::b_or(a, b), low),
                    S::b_and(S::shr16::<4>(a), S::b_splat(0x0f)),
                    S::b_and(S::shl16::<2>(a), S::b_splat(0x30)),
                    S::b_or_where(S::b_and(a, S::b_splat(0x0f)), b, 0x10, 0x10),
                ] {
                    lanes(S::dot(S::i_splat(7), u, self.2));
                }
                const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
                let sum: i32 = self.2.to_le_bytes().iter().map(|&x| i32::from(x as i8)).sum();
                let looked_up = S::b_lookup(&TABLE, S::b_and(a, S::b_splat(15)));
                lanes(S::dot_signed(S::i_splat(-S::SIGNED_BIAS * sum), looked_up, self.2));
                // Taking the bias off is the caller's part of the contract.
                lanes(S::dot_signed(S::i_splat(-S::SIGNED_BIAS * sum), a, self.2));
                lanes(S::load_u8(self.0.as_ptr()));
                lanes(S::load_i8(self.0.as_ptr().cast()));
                let halves: Vec<u16> =
                    self.0.chunks_exact(2).map(|p| u16::from_le_bytes([p[0], p[1] & 0x7b])).collect();
                let mut v = [0f32; 16];
                S::store(v.as_mut_ptr(), S::load_f16(halves.as_ptr()));
                out.extend(v.map(|x| i64::from(x.to_bits())));
                S::store(v.as_mut_ptr(), S::load_bf16(halves.as_ptr()));
                out.extend(v.map(|x| i64::from(x.to_bits())));
            }
            out
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_level_gives_the_same_floats(
            a in prop::array::uniform16(-100f32..100.0),
            b in prop::array::uniform16(-100f32..100.0),
            c in prop::array::uniform16(-100f32..100.0),
        ) {
            let want = Isa::SCALAR.run(Floats(&a, &b, &c));
            for isa in Isa::available() {
                prop_assert_eq!(&isa.run(Floats(&a, &b, &c)), &want, "{}", isa.name());
            }
        }

        #[test]
        fn every_level_gives_the_same_integers(
            a in prop::collection::vec(any::<u8>(), 64),
            b in prop::collection::vec(any::<u8>(), 64),
            acts in prop::array::uniform4(-127i8..=127),
        ) {
            let (a, b): ([u8; 64], [u8; 64]) = (a.try_into().unwrap(), b.try_into().unwrap());
            let a4 = i32::from_le_bytes(acts.map(|x| x as u8));
            let want = Isa::SCALAR.run(Bytes(&a, &b, a4));
            for isa in Isa::available() {
                prop_assert_eq!(&isa.run(Bytes(&a, &b, a4)), &want, "{}", isa.name());
            }
        }

        #[test]
        fn exp_is_close(x in -87f32..88.0) {
            let lanes = [x; 16];
            let got = f32::from_bits(Isa::SCALAR.run(Floats(&lanes, &lanes, &lanes))[10 * 16]);
            let want = f64::from(x).exp();
            prop_assert!((f64::from(got) - want).abs() <= 4e-7 * want, "exp({x}) = {got}, not {want}");
        }
    }
}
