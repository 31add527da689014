//! A runner without numbers: its logits are a hash of the tokens that it reads back through the block table. A block
//! that is shared wrongly, not copied, or written over therefore changes tokens, as it would in a model.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use compute::backend::{Counters, RowOutput, Tap};
use compute::program::KV_BLOCK;
use compute::{Batch, Error, Output, Result, Row, Runner, Want};

/// The vocabulary that logits spread over.
const WORDS: u32 = 300;

/// What is wrong with a runner, to see that the simulation notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Copies nothing.
    NoCopy,
    /// Rows of the second sequence write into the first one's blocks.
    MixedTables,
    /// Logits depend on how many sequences are in the batch.
    Companions,
}

/// Shared with the simulation.
#[derive(Default)]
pub struct World {
    /// Microseconds.
    pub now: AtomicU64,
    /// Blocks that there is memory for.
    pub memory: AtomicU64,
    /// The step that fails, counted from 1; 0 is none.
    pub failing_step: AtomicU64,
    pub steps: AtomicU64,
    /// The end-of-sequence token.
    pub end: AtomicU64,
}

pub struct FakeRunner {
    world: Arc<World>,
    fault: Fault,
    vocab: usize,
    /// By block and slot: a hash of the token and of everything before it.
    blocks: Vec<[u64; KV_BLOCK]>,
    garbage: u64,
    steps: u64,
    rows: u64,
}

/// One round of SplitMix64.
pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = (a ^ b.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl FakeRunner {
    pub fn new(world: Arc<World>, fault: Fault, vocab: usize) -> FakeRunner {
        FakeRunner { world, fault, vocab, blocks: Vec::new(), garbage: 1, steps: 0, rows: 0 }
    }

    fn slot(&self, table: &[u32], position: usize) -> u64 {
        self.blocks[table[position / KV_BLOCK] as usize][position % KV_BLOCK]
    }

    /// What is read of everything up to a row: its own slot, the ends of all blocks before, and some slot between.
    fn read(&self, table: &[u32], position: usize) -> u64 {
        let own = self.slot(table, position);
        let ends = (0..position / KV_BLOCK).fold(own, |h, b| mix(h, self.slot(table, b * KV_BLOCK + KV_BLOCK - 1)));
        mix(ends, self.slot(table, (mix(own, 5) % (position as u64 + 1)) as usize))
    }

    fn fill(&self, row: &Row, table: &[u32], out: &mut RowOutput, companions: usize) {
        out.clear();
        if row.want == Want::Nothing {
            return;
        }
        let mut h = self.read(table, row.position as usize);
        if self.fault == Fault::Companions {
            h = mix(h, companions as u64);
        }
        // Eight words above nothing: what `RowOutput::fill` gives, without a look at the whole vocabulary.
        let mut words: Vec<(u32, f32)> = Vec::new();
        for n in 0..8 {
            let id = match mix(h, n) % 200 {
                0 => self.world.end.load(Ordering::Relaxed) as u32,
                _ => (mix(h, 100 + n) % u64::from(WORDS)) as u32,
            };
            if words.iter().all(|w| w.0 != id) {
                words.push((id, 1.0 + (mix(h, 200 + n) % 1000) as f32 / 200.0));
            }
        }
        words.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        (out.argmax, out.max) = words[0];
        let rest = (self.vocab - words.len()) as f32;
        out.log_sum_exp = (words.iter().map(|w| w.1.exp()).sum::<f32>() + rest).ln();
        if row.want == Want::Logits {
            out.values.resize(self.vocab, 0.0);
            words.iter().for_each(|w| out.values[w.0 as usize] = w.1);
        }
        // A prompt that the weights cannot take.
        out.finite = !mix(self.slot(table, 0), 77).is_multiple_of(50);
    }
}

impl Runner for FakeRunner {
    fn step(&mut self, batch: &Batch<'_>, out: &mut Output, _: &mut dyn Tap) -> Result<()> {
        let step = self.world.steps.fetch_add(1, Ordering::Relaxed) + 1;
        self.world.now.fetch_add(1000 + 10 * batch.rows.len() as u64, Ordering::Relaxed);
        if step == self.world.failing_step.load(Ordering::Relaxed) {
            return Err(Error::Invalid("this step was to fail".into()));
        }
        for row in batch.rows {
            let table = batch.tables[row.sequence];
            let before = match row.position {
                0 => 0,
                p => self.slot(table, p as usize - 1),
            };
            let into = if self.fault == Fault::MixedTables && row.sequence == 1 { batch.tables[0] } else { table };
            let (block, slot) = (row.position as usize / KV_BLOCK, row.position as usize % KV_BLOCK);
            let block = *into.get(block).unwrap_or(&table[block]);
            self.blocks[block as usize][slot] = mix(before, u64::from(row.token) + 1);
        }
        out.rows.resize_with(batch.rows.len(), RowOutput::default);
        for (row, out) in batch.rows.iter().zip(&mut out.rows) {
            self.fill(row, batch.tables[row.sequence], out, batch.tables.len());
        }
        self.steps += 1;
        self.rows += batch.rows.len() as u64;
        Ok(())
    }

    fn reserve_blocks(&mut self, count: usize) -> Result<()> {
        while self.blocks.len() < count {
            if self.blocks.len() as u64 >= self.world.memory.load(Ordering::Relaxed) {
                return Err(Error::OutOfMemory { bytes: 1, what: "a block of the KV cache" });
            }
            self.garbage = mix(self.garbage, 9);
            self.blocks.push([self.garbage; KV_BLOCK]);
        }
        Ok(())
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<()> {
        for &(from, to) in pairs {
            if self.fault != Fault::NoCopy {
                self.blocks[to as usize] = self.blocks[from as usize];
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        "fake".into()
    }

    fn counters(&self) -> Counters {
        let kv_blocks = self.blocks.len() as u64;
        Counters { steps: self.steps, rows: self.rows, kv_bytes: kv_blocks, kv_blocks, ..Counters::default() }
    }
}
