//! Matrix products: how many threads have which rows of which matrices.

use super::super::kernels::{self as k, Argument, PRODUCT_SHARED};
use super::super::storage::{PANEL, STEP};
use super::CudaRunner;
use crate::cpu::tile::{RUN, TILE_ROWS};
use crate::error::Result;
use crate::program::WeightId;

/// Steps of a run of weights, which sixteen threads of `product_one` or `product_gated` sum up.
const RUN_STEPS: usize = RUN / STEP;
/// Threads of a block at most: half of what has registers, so that the next kernel's can already read their weights; of a
/// gate a third. And for a norm on the way.
const THREADS: usize = 320;
const THREADS_GATE: usize = 192;
const THREADS_NORM: usize = 192;
/// Blocks of threads of `product_one` for each multiprocessor, where there are enough tiles.
const BLOCKS_EACH: usize = 2;
/// Of `product_few`: panels of columns and warps at most of a block of threads. Of `product_many`: panels, and warps, each
/// with a tile.
const FEW_PANELS: usize = 2;
const FEW_WARPS: usize = 12;
const MANY_PANELS: usize = 4;
const MANY_TILES: usize = 8;
/// Bytes of what is known of a block of activations.
const ACT_META: usize = 16;

/// What a product reads: quantised and as it is.
pub(super) struct Input {
    pub acts: k::Acts,
    pub x: u64,
    pub packed: bool,
    pub columns: usize,
}

impl CudaRunner {
    /// Matrices (weight, and where its rows go) over one input. Only one row may bring a norm before or a gate after.
    pub(super) fn product(
        &self,
        list: impl Iterator<Item = (WeightId, k::Part)>,
        input: &Input,
        before: k::Before,
        after: Option<k::After>,
    ) -> Result<()> {
        let Input { acts, x, packed, columns } = *input;
        let mut parts = k::Parts::default();
        let (mut count, mut tiles, mut cols) = (0, 0, 0);
        for (weight, part) in list {
            let w = self.program.w(weight);
            parts[count] = k::Part {
                weights: self.matrix(weight),
                rows: w.rows as i32,
                kind: w.format.0.ggml_type as i32,
                first_tile: tiles as i32,
                ..part
            };
            count += 1;
            tiles += w.rows.div_ceil(TILE_ROWS);
            cols = w.cols;
        }
        if columns == 0 {
            return Ok(());
        }
        let ks = &*self.kernels;
        let (count_i, columns_i) = (count as i32, columns as i32);
        if !packed {
            let p = k::FloatProduct { parts, count: count_i, cols: cols as i32, columns: columns_i, unused: 0, x };
            return match columns {
                1 => self.launch(&ks.float_one, [tiles, 1], 256, 0, &[p.bytes()]),
                n => self.launch(&ks.float_many, [tiles, n.div_ceil(8)], 256, 0, &[p.bytes()]),
            };
        }
        let steps = cols / STEP;
        let processors = self.device.processors as usize;
        // A block of threads has tiles of one matrix, or those of 32 elements of a gate.
        let run = match (&after, count) {
            (Some(_), _) => 2 * count,
            (None, 1) => tiles.div_ceil(BLOCKS_EACH * processors),
            _ => 1,
        };
        let threads_max = if after.is_some() { THREADS_GATE } else { THREADS };
        let shape = one_shape(steps, run, threads_max, before.x != 0).filter(|_| columns == 1);
        let run = shape.as_ref().map_or(run, |s| s.run);
        //= F-GPU-130
        let p = k::Product {
            parts,
            count: count_i,
            steps: steps as i32,
            columns: columns_i,
            run: run as i32,
            acts,
            before: if columns == 1 { before } else { k::Before::default() },
            after: after.unwrap_or_default(),
        };
        let tiles_i = tiles as i32;
        match shape {
            Some(s) if after.is_some() => {
                self.launch(&ks.product_gated, [tiles / run, 1], s.threads, s.shared, &[p.bytes()])
            }
            Some(s) => {
                let grid = [tiles.div_ceil(run), 1];
                self.launch(&ks.product_one, grid, s.threads, s.shared, &[p.bytes(), tiles_i.bytes()])
            }
            None => {
                let rows = parts[..count].iter().map(|p| p.rows as usize);
                let many =
                    [rows.map(|r| r.div_ceil(TILE_ROWS * MANY_TILES)).sum(), columns.div_ceil(MANY_PANELS * PANEL)];
                let runs = steps.div_ceil(RUN_STEPS);
                let shared = 4 * runs * FEW_PANELS * PANEL * TILE_ROWS;
                // Where there would be too few blocks of threads, warps share the runs of a tile.
                if many[0] * many[1] < processors && shared <= PRODUCT_SHARED as usize {
                    let warps = runs.div_ceil(runs.div_ceil(FEW_WARPS));
                    let grid = [tiles, columns.div_ceil(FEW_PANELS * PANEL)];
                    return self.launch(&ks.product_few, grid, 32 * warps, shared, &[p.bytes()]);
                }
                let shared = 2 * MANY_PANELS * RUN_STEPS * (PANEL * STEP + PANEL / 2 * ACT_META);
                self.launch(&ks.product_many, many, 32 * MANY_TILES, shared, &[p.bytes()])
            }
        }
    }
}

/// How `product_one` and `product_gated` are launched.
struct Shape {
    /// Tiles of a block of threads.
    run: usize,
    threads: usize,
    /// Bytes of shared memory: activations, and the sums of each run of each tile, or before that the
    /// weights of a norm.
    shared: usize,
}

/// For rows of `steps` and blocks of threads that take `tiles` of them, or as many as there is room for. None if there is
/// no room for one.
fn one_shape(steps: usize, tiles: usize, threads_max: usize, norm: bool) -> Option<Shape> {
    let runs = steps.div_ceil(RUN_STEPS);
    let acts = steps * (STEP + ACT_META);
    let vector = if norm { 4 * steps * STEP } else { 0 };
    let free = (PRODUCT_SHARED as usize).checked_sub(acts)?;
    let run = tiles.min(free / (4 * TILE_ROWS * runs));
    if run == 0 || vector > free {
        return None;
    }
    // Every run at once if that is possible, or else in turns of about the same length.
    let tasks = run * runs;
    let workers = tasks.div_ceil(tasks.div_ceil(threads_max / TILE_ROWS));
    let threads = (workers * TILE_ROWS).next_multiple_of(32).max(if norm { THREADS_NORM } else { 0 });
    Some(Shape { run, threads, shared: acts + vector.max(4 * TILE_ROWS * tasks) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vector that is normed on the way, the longest rows of models that are, a gate's four tiles; and too long ones.
    #[test]
    fn what_is_asked_of_shared_memory_is_there() {
        let cases = [(1, 1, true, 1), (128, 4, true, 4), (924, 1, false, 1), (512, 4, false, 4), (48, 36, false, 36)];
        for (steps, tiles, norm, run) in cases {
            let shape = one_shape(steps, tiles, THREADS, norm).unwrap();
            assert_eq!(shape.run, run, "{steps}");
            assert!(shape.threads <= THREADS && shape.shared <= PRODUCT_SHARED as usize, "{steps}");
        }
        assert!(one_shape(1400, 1, THREADS, false).is_none());
    }
}
