//! Matrix products: how many threads have which rows of which matrices.

use super::super::kernels::{self as k, Argument};
use super::super::storage::{ACT_META, PANEL, STEP};
use super::CudaRunner;
use crate::cpu::tile::{RUN, TILE_ROWS};
use crate::error::Result;
use crate::program::WeightId;
use crate::quant::Format;

/// Steps of a run of weights, which sixteen threads of `product_one` or `product_gated` sum up.
const RUN_STEPS: usize = RUN / STEP;
/// Warps of a block that multiply, at most; of a gate; and with a norm on the way at least so many stay for it.
const WARPS: usize = 10;
const WARPS_GATE: usize = 6;
const WARPS_NORM: usize = 6;
/// Threads of a warp.
const WARP: usize = 32;
/// Blocks of threads of `product_one` for each multiprocessor, where there are enough tiles.
const BLOCKS_EACH: usize = 2;
/// Of `product_few`: panels of columns and warps at most of a block of threads. Of `product_many`: panels, and warps, each
/// with a tile.
const FEW_PANELS: usize = 2;
const FEW_WARPS: usize = 12;
const MANY_PANELS: usize = 4;
const MANY_TILES: usize = 8;

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
                run_bytes: run_bytes(w.format) as i32,
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
        let run_bytes = parts[..count].iter().map(|p| p.run_bytes as usize).max().unwrap_or(0);
        let (kernel, warps) = match after {
            Some(_) => (&ks.product_gated, WARPS_GATE),
            None => (&ks.product_one, WARPS),
        };
        // More places for weights keep memory busy longer; fewer let the next kernel's blocks bring theirs. By what was
        // fastest on an H100: of the 160 KB there a gate's takes 60, one of two on a multiprocessor 100, a lone one 140.
        let all = kernel.shared as usize;
        let two_each = tiles.div_ceil(run) > processors;
        let eighths = if after.is_some() { 3 } else { 7 - 2 * usize::from(two_each) };
        let work = Work { steps, tiles: run, run_bytes, norm: before.x != 0 };
        let shape = work.shape(warps, all * eighths / 8, all).filter(|_| columns == 1);
        //= F-GPU-130
        let p = k::Product {
            parts,
            count: count_i,
            steps: steps as i32,
            columns: columns_i,
            unused: 0,
            acts,
            before: if columns == 1 { before } else { k::Before::default() },
            after: after.unwrap_or_default(),
        };
        match shape {
            Some(s) => {
                let blocks = if after.is_some() { tiles / s.run } else { tiles.div_ceil(s.run) };
                let [tiles, run, warps, depth] = [tiles, s.run, s.warps, s.depth].map(|n| n as i32);
                let shape = k::Shape { tiles, run, warps, depth };
                self.launch(kernel, [blocks, 1], s.threads, s.shared, &[p.bytes(), shape.bytes()])
            }
            None => {
                let rows = parts[..count].iter().map(|p| p.rows as usize);
                let many =
                    [rows.map(|r| r.div_ceil(TILE_ROWS * MANY_TILES)).sum(), columns.div_ceil(MANY_PANELS * PANEL)];
                let runs = steps.div_ceil(RUN_STEPS);
                let shared = 4 * runs * FEW_PANELS * PANEL * TILE_ROWS;
                // Where there would be too few blocks of threads, warps share the runs of a tile.
                if many[0] * many[1] < processors && shared <= ks.product_few.shared as usize {
                    let warps = runs.div_ceil(runs.div_ceil(FEW_WARPS));
                    let grid = [tiles, columns.div_ceil(FEW_PANELS * PANEL)];
                    return self.launch(&ks.product_few, grid, WARP * warps, shared, &[p.bytes()]);
                }
                let shared = 2 * MANY_PANELS * RUN_STEPS * (PANEL * STEP + PANEL / 2 * ACT_META);
                self.launch(&ks.product_many, many, WARP * MANY_TILES, shared, &[p.bytes()])
            }
        }
    }
}

/// Bytes of a run of a tile. 0: the format has no tiles.
fn run_bytes(format: Format) -> usize {
    format.0.kernels.packing.as_ref().map_or(0, |p| p.chunk_bytes * RUN / format.0.block_len)
}

/// What a block of threads is to do.
struct Work {
    /// Of a row.
    steps: usize,
    tiles: usize,
    run_bytes: usize,
    norm: bool,
}

/// How `product_one` and `product_gated` are launched.
struct Shape {
    /// Tiles of a block of threads.
    run: usize,
    threads: usize,
    /// Warps that multiply, and how many pairs of runs each has place for.
    warps: usize,
    depth: usize,
    /// Bytes of shared memory: activations; a norm's input and weights; the sums of each run of each tile; a barrier for
    /// each place; places.
    shared: usize,
}

impl Work {
    /// With so many warps at most. They have places for as many weights as fit into `wanted` bytes, or one each as long
    /// as there are `all`. Fewer tiles if there is no room for their sums; None if there is none for one.
    fn shape(&self, warps: usize, wanted: usize, all: usize) -> Option<Shape> {
        let runs = self.steps.div_ceil(RUN_STEPS);
        let vectors = if self.norm { 2 * 4 * self.steps * STEP } else { 0 };
        let before = self.steps * (STEP + ACT_META) + vectors;
        // A place has a barrier of eight bytes, and these end at a multiple of sixteen.
        let (sums, place) = (4 * TILE_ROWS * runs, 2 * self.run_bytes + 8);
        let run = self.tiles.min(all.checked_sub(before + place + 8)? / sums);
        let pairs = (run * runs).div_ceil(2);
        if run == 0 {
            return None;
        }
        let fixed = before + run * sums + 8;
        let warps = warps.min((all - fixed) / place);
        // Every pair at once if that is possible, or else in turns of about the same length.
        let turns = pairs.div_ceil(warps);
        let warps = pairs.div_ceil(turns);
        let depth = (wanted.saturating_sub(fixed) / (warps * place)).clamp(1, turns);
        let threads = WARP * warps.max(if self.norm { WARPS_NORM } else { 0 });
        Some(Shape { run, threads, warps, depth, shared: fixed + warps * depth * place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vector that is normed on the way, the longest rows of models that are, a gate's four tiles; and too long ones:
    /// in the largest runs of weights, on the chips with the least shared memory and with more.
    #[test]
    fn what_is_asked_of_shared_memory_is_there() {
        let cases = [(1, 1, true, 1), (128, 4, true, 4), (924, 1, false, 1), (512, 4, false, 4), (48, 36, false, 36)];
        for all in [62 << 10, 98 << 10, 160 << 10] {
            for (steps, tiles, norm, run) in cases {
                let work = Work { steps, tiles, run_bytes: 8 * 544, norm };
                for wanted in [0, all / 2, all] {
                    let shape = work.shape(WARPS, wanted, all).unwrap();
                    assert_eq!(shape.run, run, "{steps}");
                    assert!(shape.threads <= WARPS * WARP && shape.shared <= all && shape.depth > 0, "{steps}");
                }
            }
        }
        assert!(Work { steps: 1400, tiles: 1, run_bytes: 2368, norm: false }.shape(WARPS, 0, 62 << 10).is_none());
    }
}
