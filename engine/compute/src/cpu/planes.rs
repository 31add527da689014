//! Bit planes: how the quants of a tile step (16 rows of 32 weights) are laid out, and how they come back.
//!
//! Each plane is a pair: `pack` writes it, `unpack` gives the eight groups of [`super::tile`]. Formats are made of
//! them: Q4 is nibbles, Q5 nibbles and bits, Q6 nibbles and pairs, Q8 bytes.

use super::simd::Simd;
use super::tile::TILE_ROWS;

/// The quants of one step, unsigned as stored: `[row][k]`.
pub type StepQuants = [[u8; 32]; TILE_ROWS];

/// The eight groups of a row, four quants to a word.
fn words(q: &[u8; 32]) -> [u32; 8] {
    std::array::from_fn(|g| u32::from_le_bytes([q[4 * g], q[4 * g + 1], q[4 * g + 2], q[4 * g + 3]]))
}

/// Low four bits, 256 bytes: groups g and g + 4 share bytes.
pub mod nibbles {
    use super::*;
    /// Bytes of the plane.
    pub const BYTES: usize = 256;

    /// Writes the plane.
    pub fn pack(q: &StepQuants, out: &mut [u8]) {
        const LOW: u32 = 0x0f0f_0f0f;
        for (row, q) in q.iter().enumerate() {
            let w = words(q);
            for g in 0..4 {
                let both = (w[g] & LOW) | (w[g + 4] & LOW) << 4;
                out[64 * g + 4 * row..][..4].copy_from_slice(&both.to_le_bytes());
            }
        }
    }

    /// Reads the plane.
    ///
    /// # Safety
    /// Inside `Isa::run`; `p` points to the plane.
    #[inline(always)]
    pub unsafe fn unpack<S: Simd>(p: *const u8) -> [S::B; 8] {
        // SAFETY: the plane has 4 times 64 bytes.
        unsafe {
            let low = S::b_splat(15);
            let b = [S::bytes(p), S::bytes(p.add(64)), S::bytes(p.add(128)), S::bytes(p.add(192))];
            [
                S::b_and(b[0], low),
                S::b_and(b[1], low),
                S::b_and(b[2], low),
                S::b_and(b[3], low),
                S::b_and(S::shr16::<4>(b[0]), low),
                S::b_and(S::shr16::<4>(b[1]), low),
                S::b_and(S::shr16::<4>(b[2]), low),
                S::b_and(S::shr16::<4>(b[3]), low),
            ]
        }
    }
}

/// One bit above the others, 64 bytes: bit g of byte `4 row + t` belongs to group g.
pub mod bits {
    use super::*;
    /// Bytes of the plane.
    pub const BYTES: usize = 64;

    /// Writes the plane of bit number `bit`.
    pub fn pack(q: &StepQuants, bit: u32, out: &mut [u8]) {
        for (row, q) in q.iter().enumerate() {
            let all = words(q).iter().enumerate().fold(0, |b, (g, w)| b | (w >> bit & 0x0101_0101) << g);
            out[4 * row..][..4].copy_from_slice(&all.to_le_bytes());
        }
    }

    /// Puts the plane's bits on top of lower ones.
    ///
    /// # Safety
    /// Inside `Isa::run`; `p` points to the plane.
    #[inline(always)]
    pub unsafe fn or<S: Simd>(p: *const u8, bit: u32, mut w: [S::B; 8]) -> [S::B; 8] {
        // SAFETY: the plane has 64 bytes.
        unsafe {
            let b = S::bytes(p);
            for (g, w) in w.iter_mut().enumerate() {
                *w = S::b_or_where(*w, b, 1 << g, 1 << bit);
            }
        }
        w
    }
}

/// Two bits, 128 bytes: group g is in half `g / 4`, bits `2 (g % 4)`.
pub mod pairs {
    use super::*;
    /// Bytes of the plane.
    pub const BYTES: usize = 128;

    /// Writes the plane of bits `bit` and `bit + 1`.
    pub fn pack(q: &StepQuants, bit: u32, out: &mut [u8]) {
        for (row, q) in q.iter().enumerate() {
            for (half, w) in words(q).chunks_exact(4).enumerate() {
                let all = w.iter().enumerate().fold(0, |b, (g, w)| b | (w >> bit & 0x0303_0303) << (2 * g));
                out[64 * half + 4 * row..][..4].copy_from_slice(&all.to_le_bytes());
            }
        }
    }

    /// Reads the plane as bits 0 and 1.
    ///
    /// # Safety
    /// Inside `Isa::run`; `p` points to the plane.
    #[inline(always)]
    pub unsafe fn unpack<S: Simd>(p: *const u8) -> [S::B; 8] {
        // SAFETY: the plane has twice 64 bytes.
        unsafe {
            let mask = S::b_splat(3);
            let (a, b) = (S::bytes(p), S::bytes(p.add(64)));
            [
                S::b_and(a, mask),
                S::b_and(S::shr16::<2>(a), mask),
                S::b_and(S::shr16::<4>(a), mask),
                S::b_and(S::shr16::<6>(a), mask),
                S::b_and(b, mask),
                S::b_and(S::shr16::<2>(b), mask),
                S::b_and(S::shr16::<4>(b), mask),
                S::b_and(S::shr16::<6>(b), mask),
            ]
        }
    }

    /// Puts the plane on top of nibbles, as bits 4 and 5.
    ///
    /// # Safety
    /// Inside `Isa::run`; `p` points to the plane.
    #[inline(always)]
    pub unsafe fn or<S: Simd>(p: *const u8, w: [S::B; 8]) -> [S::B; 8] {
        // SAFETY: the plane has twice 64 bytes.
        unsafe {
            let mask = S::b_splat(0x30);
            let (a, b) = (S::bytes(p), S::bytes(p.add(64)));
            [
                S::b_or(w[0], S::b_and(S::shl16::<4>(a), mask)),
                S::b_or(w[1], S::b_and(S::shl16::<2>(a), mask)),
                S::b_or(w[2], S::b_and(a, mask)),
                S::b_or(w[3], S::b_and(S::shr16::<2>(a), mask)),
                S::b_or(w[4], S::b_and(S::shl16::<4>(b), mask)),
                S::b_or(w[5], S::b_and(S::shl16::<2>(b), mask)),
                S::b_or(w[6], S::b_and(b, mask)),
                S::b_or(w[7], S::b_and(S::shr16::<2>(b), mask)),
            ]
        }
    }
}

/// Whole bytes, 512 bytes: group g after group.
pub mod bytes {
    use super::*;
    /// Bytes of the plane.
    pub const BYTES: usize = 512;

    /// Writes the plane.
    pub fn pack(q: &StepQuants, out: &mut [u8]) {
        for (row, q) in q.iter().enumerate() {
            for g in 0..8 {
                out[64 * g + 4 * row..][..4].copy_from_slice(&q[4 * g..4 * g + 4]);
            }
        }
    }

    /// Reads the plane.
    ///
    /// # Safety
    /// Inside `Isa::run`; `p` points to the plane.
    #[inline(always)]
    pub unsafe fn unpack<S: Simd>(p: *const u8) -> [S::B; 8] {
        // SAFETY: the plane has 8 times 64 bytes.
        unsafe {
            let mut w = [S::b_splat(0); 8];
            for (g, w) in w.iter_mut().enumerate() {
                *w = S::bytes(p.add(64 * g));
            }
            w
        }
    }
}
