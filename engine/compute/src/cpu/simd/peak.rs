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
/// Sums at once: enough that latency is hidden, few enough for the registers.
const CHAINS: usize = 8;

/// Does so many million vector dot products, and says how many multiplications and additions of 8-bit integers that were.
pub fn dots(isa: Isa, millions: usize) -> u64 {
    let turns = millions * 1_000_000 / CHAINS;
    black_box(isa.run(Dots { turns, weights: &black_box([3; WEIGHTS]) }));
    (turns * CHAINS * BLOCK * 2) as u64
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
    turns: usize,
    /// Bytes below 128.
    weights: &'a [u8; WEIGHTS],
}

impl Kernel for Dots<'_> {
    type Output = i64;

    #[inline(always)]
    fn run<S: Simd>(self) -> i64 {
        let mut all = 0;
        // SAFETY: inside `Isa::run` of this level; every block lies inside the weights, whose length is a multiple of all
        // that is read in one turn.
        unsafe {
            let mut sums = [S::i_splat(0); CHAINS];
            for turn in 0..self.turns {
                let at = self.weights.as_ptr().add(turn * CHAINS * BLOCK % WEIGHTS);
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = S::dot(*sum, S::bytes(at.add(i * BLOCK)), 0x0102_0304);
                }
            }
            for sum in sums {
                all += S::sum(S::i_to_f(sum)) as i64;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_does_the_same_dots() {
        for isa in Isa::available() {
            // In each lane, three times the sum of 1 to 4.
            let all = isa.run(Dots { turns: 100, weights: &[3; WEIGHTS] });
            assert_eq!(all, (CHAINS * 100 * 16 * 30) as i64, "{}", isa.name());
        }
        assert_eq!(dots(Isa::SCALAR, 1), 128_000_000);
    }

    #[test]
    fn every_byte_is_read() {
        assert_eq!(read(&[1; 128]), 2 * 8 * 0x0101_0101_0101_0101);
    }
}
