//! What a processor can do at most: integer dot products over and over on weights that are in the nearest cache, and reads
//! of memory with nothing done to what is read. For those who measure; compiled here, so that they run at full speed in any
//! build.

use std::hint::black_box;

use super::{Kernel, Simd};
use crate::cpu::isa::Isa;

/// Bytes of weights: half of the smallest first-level cache there is.
const WEIGHTS: usize = 16 << 10;
/// Bytes of a vector.
const BLOCK: usize = 64;
/// Dots come in groups of so many.
const GROUP: usize = 16;

/// Whole lines of the cache: a vector that lies across two of them is two reads, and half the speed.
#[repr(align(64))]
struct Lines([u8; WEIGHTS]);

/// Does so many million vector dot products, and says how many multiplications and additions of 8-bit integers that were.
pub fn dots(isa: Isa, millions: usize) -> u64 {
    let groups = millions * 1_000_000 / GROUP;
    black_box(isa.run(Dots { groups, weights: &black_box(Lines([3; WEIGHTS])) }));
    (groups * GROUP * BLOCK * 2) as u64
}

/// Reads every byte: eight sums that do not wait for each other, so that memory is what is waited for.
#[inline(never)]
pub fn read(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 8];
    for line in bytes.chunks_exact(64) {
        for (s, word) in sums.iter_mut().zip(line.chunks_exact(8)) {
            let word = word.try_into().map_or(0, u64::from_ne_bytes);
            *s = s.wrapping_add(word);
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

struct Dots<'a> {
    groups: usize,
    /// Bytes below 128.
    weights: &'a Lines,
}

impl Kernel for Dots<'_> {
    type Output = i64;

    #[inline(always)]
    fn run<S: Simd>(self) -> i64 {
        // SAFETY: inside `Isa::run` of this level. Sums at once: enough that latency is hidden, few enough for the
        // registers, of which a level that takes 8 columns has 32 of the width of a sum.
        unsafe { if S::COLUMNS == 8 { self.chains::<S, 16>() } else { self.chains::<S, 8>() } }
    }
}

impl Dots<'_> {
    /// # Safety
    /// Inside `Isa::run`.
    #[inline(always)]
    unsafe fn chains<S: Simd, const N: usize>(&self) -> i64 {
        // SAFETY: every block lies inside the weights, whose length is a multiple of all that is read in one turn.
        unsafe {
            let mut sums = [S::i_splat(0); N];
            for turn in 0..self.groups * GROUP / N {
                let at = self.weights.0.as_ptr().add(turn * N * BLOCK % WEIGHTS);
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = S::dot(*sum, S::bytes(at.add(i * BLOCK)), 0x0102_0304);
                }
            }
            sums.iter().map(|&sum| S::sum(S::i_to_f(sum)) as i64).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_does_the_same_dots() {
        for isa in Isa::available() {
            // In each lane, three times the sum of 1 to 4.
            let all = isa.run(Dots { groups: 100, weights: &Lines([3; WEIGHTS]) });
            assert_eq!(all, (GROUP * 100 * 16 * 30) as i64, "{}", isa.name());
        }
        assert_eq!(dots(Isa::SCALAR, 1), 128_000_000);
    }

    #[test]
    fn every_byte_is_read() {
        assert_eq!(read(&[1; 128]), 2 * 8 * 0x0101_0101_0101_0101);
    }
}
