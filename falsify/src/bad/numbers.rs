//! Numbers that are hard on formulas: at the edges of their format, of sizes whose squares overflow, far from zero.

use crate::forge::random::Random;

/// Half floats at the edges: smallest subnormal, largest subnormal, smallest normal, one, largest, both zeros, negative.
pub const EDGES: [u16; 8] = [0x0001, 0x03ff, 0x0400, 0x3c00, 0x7bff, 0x0000, 0x8000, 0xac00];

/// Rows that are hard on a sum of squares.
pub fn rows_of_every_magnitude(width: usize) -> Vec<f32> {
    let mut random = Random::new(114, "rows");
    let mut rows: Vec<Vec<f32>> = Vec::new();
    for magnitude in [1e-42, 1e-38, 1e-30, 1e-20, 1e-10, 1e-5, 1.0, 1e5, 1e10, 1e15, 1e19, 1e30, 1e37] {
        rows.push((0..width).map(|_| random.normal() * magnitude).collect());
        rows.push(vec![-magnitude; width]);
        // One spike among zeros, and one among small numbers.
        rows.push((0..width).map(|i| if i == width / 2 { magnitude } else { 0.0 }).collect());
        rows.push((0..width).map(|i| if i == width - 1 { magnitude } else { magnitude * 1e-6 }).collect());
    }
    rows.push(vec![0.0; width]);
    rows.push((0..width).map(|i| if i % 2 == 0 { f32::MAX } else { -f32::MAX }).collect());
    rows.concat()
}

/// Rows of scores: equal, dominated, spread, huge, and near each other far from zero.
pub fn hard_scores(n: usize) -> Vec<Vec<f32>> {
    let mut random = Random::new(115, "scores");
    let mut rows = vec![vec![0.0; n], vec![1e4; n], vec![-1e4; n], vec![-3e38; n]];
    for offset in [0.0, 1e4, -1e4, 1e30] {
        rows.push((0..n).map(|i| offset + (i % 7) as f32).collect());
        rows.push((0..n).map(|_| offset + random.normal()).collect());
        rows.push((0..n).map(|i| if i == n / 3 { offset + 100.0 } else { offset }).collect());
    }
    rows.push((0..n).map(|_| random.normal() * 5e3).collect());
    rows.push((0..n).map(|i| if i == 1 { 1e4 } else { -1e4 }).collect());
    rows
}
