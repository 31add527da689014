//! Attention: which kernel has which rows.

use super::super::kernels::{self as k, Argument};
use super::super::plan::Turn;
use super::super::storage::Splits;
use super::{CudaRunner, at};
use crate::backend::{Batch, Row};
use crate::cpu::attend::GROUP;
use crate::error::Result;
use crate::program::{BufferId, KV_BLOCK, Op, RopeLayout};

/// Up to here attention has the device to itself.
const FEW_ROWS: usize = 8;
/// Elements of a head for which one kernel rotates, appends and attends.
const WHOLE_HEADS: [usize; 2] = [64, 128];
/// Positions in a group, and blocks of threads of one head at most.
const GROUP_POSITIONS: usize = GROUP * KV_BLOCK;
const SPLITS_MAX: usize = 64;
/// Rows of one sequence that read K and V together, and threads for them.
const TILE_QUERIES: usize = 32;
const TILE_THREADS: usize = 256;

impl CudaRunner {
    /// Decides how many blocks of threads share a head, so that few rows with a long context use the whole device.
    pub(super) fn make_splits(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.split = 1;
        let rows = batch.rows.len();
        if rows > FEW_ROWS {
            return Ok(());
        }
        let groups = |op: &Op, r: usize| {
            let (from, to) = batch.visible(op, r);
            to.div_ceil(GROUP_POSITIONS) - from / GROUP_POSITIONS
        };
        let most = self.plan.visible.iter().flat_map(|op| (0..rows).map(move |r| groups(op, r))).max().unwrap_or(0);
        self.split = most.next_power_of_two().min(SPLITS_MAX);
        let fits = self.splits.as_ref().is_some_and(|s| s.rows >= rows && s.stride >= most);
        if self.split > 1 && !fits {
            let before = self.splits.as_ref().map_or((0, 0), |s| (s.rows, s.stride));
            self.graphs.clear();
            self.splits = None;
            let (rows, stride) = (rows.max(before.0), most.next_power_of_two().max(before.1));
            self.splits = Some(Splits::new(&self.device, &self.program, rows, stride)?);
        }
        Ok(())
    }

    /// Rotations of a table, pairs, pairing.
    pub(super) fn turn(&self, turn: Option<&Turn>) -> (u64, i32, i32) {
        turn.map_or((0, 0, 0), |t| {
            let pairs = self.plan.ropes[t.table].inv_freq.len() as i32;
            (at(&self.turns[t.table]), pairs, i32::from(t.layout == RopeLayout::Interleaved))
        })
    }

    pub(super) fn attend(
        &self,
        op: &Op,
        [q_turn, k_turn]: [Option<&Turn>; 2],
        visible: usize,
        quantise: bool,
        rows: usize,
        inputs: &k::Inputs,
        whole: bool,
    ) -> Result<()> {
        let Op::Attend { q, k, v, dst, layer, heads, scale, softcap, .. } = op else { return Ok(()) };
        let kv = self.program.kv[*layer];
        let buf = |b: &BufferId| self.buf(b.0 as usize);
        let (turns_q, pairs_q, interleaved_q) = self.turn(q_turn);
        let (turns_k, pairs_k, interleaved_k) = self.turn(k_turn);
        let layer_at = self.layer_at[*layer] as u64;
        let (kv_heads, head_dim) = (kv.heads as i32, kv.head_dim as i32);
        // Queries that do not turn need no threads.
        let turned = if q_turn.is_some() { *heads } else { 0 };
        let rope = k::Rope {
            q: buf(q),
            k: buf(k),
            v: buf(v),
            turns_q,
            turns_k,
            layer_at,
            heads: turned as i32,
            kv_heads,
            head_dim,
            pairs_q,
            pairs_k,
            interleaved_q,
            interleaved_k,
            unused: 0,
        };
        let whole = whole && WHOLE_HEADS.contains(&kv.head_dim);
        if !whole {
            let grid = [rows, turned + kv.heads];
            self.launch(&self.kernels.rope_rows, grid, 64, 0, &[rope.bytes(), inputs.bytes()])?;
        }
        let splits = self.splits.as_ref();
        let p = k::Attend {
            q: buf(q),
            dst: buf(dst),
            layer_at,
            heads: *heads as i32,
            kv_heads,
            head_dim,
            visible: visible as i32,
            scale: *scale,
            softcap: softcap.unwrap_or(0.0),
            rows: rows as i32,
            splits: self.split as i32,
            acts: self.acts(dst.0 as usize, quantise),
            sums: splits.map_or(0, |s| at(&s.sums)),
            tops: splits.map_or(0, |s| at(&s.tops)),
            arrived: splits.map_or(0, |s| at(&s.arrived)),
            stride: splits.map_or(0, |s| s.stride as i32),
            unused: 0,
        };
        if whole {
            let arguments = [p.bytes(), rope.bytes(), inputs.bytes()];
            return self.launch(&self.kernels.attend_one, [self.split, *heads], 128, 0, &arguments);
        }
        if !self.tiles.is_empty() && WHOLE_HEADS.contains(&kv.head_dim) {
            let tiles = inputs.tables + 8 * self.table_entries as u64;
            let count = self.tiles.len();
            let known = 2 * KV_BLOCK * kv.head_dim * 2 + TILE_QUERIES * (4 * kv.head_dim + 4 * KV_BLOCK + 16);
            let arguments = [p.bytes(), inputs.bytes(), tiles.bytes(), &(count as i32).to_le_bytes()];
            return self.launch(&self.kernels.attend_tiles, [count, *heads], TILE_THREADS, known, &arguments);
        }
        //= F-GPU-131
        let kernel = if rows <= FEW_ROWS { &self.kernels.attend_few } else { &self.kernels.attend_many };
        self.launch(kernel, [rows * self.split, *heads], 256, 0, &[p.bytes(), inputs.bytes()])
    }
}

/// Rows that can attend together: of one sequence, none before the one in front of it.
pub(super) fn query_tiles(rows: &[Row]) -> impl Iterator<Item = k::QueryTile> {
    let follows = |a: &Row, b: &Row| a.sequence == b.sequence && a.position <= b.position;
    let mut first = 0;
    rows.chunk_by(follows).flat_map(|rows| rows.chunks(TILE_QUERIES)).map(move |rows| {
        first += rows.len();
        k::QueryTile { first: (first - rows.len()) as u32, count: rows.len() as u32 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Want;

    /// Tiles are rows of one sequence in order, no more than there is room for, and every row is in one.
    #[test]
    fn rows_that_attend_together() {
        let row = |sequence, position| Row { sequence, position, token: 0, want: Want::Nothing };
        let rows: Vec<Row> =
            (0..40).map(|i| row(0, i)).chain((5..8).map(|i| row(1, i))).chain([row(1, 2), row(2, 3)]).collect();
        let tiles: Vec<(u32, u32)> = query_tiles(&rows).map(|t| (t.first, t.count)).collect();
        assert_eq!(tiles, [(0, 32), (32, 8), (40, 3), (43, 1), (44, 1)]);
    }
}
