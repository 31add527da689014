//! The KV cache of the CPU: blocks of 64 positions in half precision, laid out for the attention kernel.
//!
//! A block holds, layer after layer, K as `[kv_head][dim][64]` (positions in lanes: scores need no reduction across
//! lanes) and V as `[kv_head][64][dim]`, with `dim` the head size rounded up to 16 and padded with zeros.

use super::shared::SharedVec;
use super::simd::LANES;
use crate::error::{Error, Result};
use crate::program::{KV_BLOCK, KvSpec};

/// All blocks.
pub struct KvCache {
    layers: Vec<Layer>,
    block_len: usize,
    blocks: Vec<SharedVec<u16>>,
}

#[derive(Clone, Copy)]
struct Layer {
    spec: KvSpec,
    dim: usize,
    at: usize,
}

impl KvCache {
    /// No blocks yet.
    pub fn new(specs: &[KvSpec]) -> KvCache {
        let mut at = 0;
        let layers = specs
            .iter()
            .map(|&spec| {
                let dim = spec.head_dim.next_multiple_of(LANES);
                let layer = Layer { spec, dim, at };
                at += 2 * spec.heads * dim * KV_BLOCK;
                layer
            })
            .collect();
        KvCache { layers, block_len: at, blocks: Vec::new() }
    }

    /// Blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        2 * self.block_len
    }

    /// Makes blocks `0..count` exist.
    pub fn reserve(&mut self, count: usize) -> Result<()> {
        while self.blocks.len() < count {
            let block = SharedVec::try_new(self.block_len, 0u16)
                .ok_or(Error::OutOfMemory { bytes: self.block_bytes(), what: "a block of the KV cache" })?;
            self.blocks.push(block);
        }
        Ok(())
    }

    /// Copies block `from` over block `to`.
    pub fn copy(&mut self, from: u32, to: u32) -> Result<()> {
        let (from, to) = (from as usize, to as usize);
        if from >= self.blocks.len() || to >= self.blocks.len() {
            return Err(Error::Invalid(format!("K/V block {from} or {to} of {}", self.blocks.len())));
        }
        if from != to {
            let source = self.blocks[from].slice(self.block_len).to_vec();
            self.blocks[to].slice_mut(self.block_len).copy_from_slice(&source);
        }
        Ok(())
    }

    /// Head size as stored.
    pub fn dim(&self, layer: usize) -> usize {
        self.layers[layer].dim
    }

    /// K of one head in one block: `[dim][64]`.
    #[inline(always)]
    pub fn k(&self, layer: usize, block: u32, head: usize) -> *mut u16 {
        let l = &self.layers[layer];
        debug_assert!(head < l.spec.heads);
        self.blocks[block as usize].at(l.at + head * l.dim * KV_BLOCK)
    }

    /// V of one head in one block: `[64][dim]`.
    #[inline(always)]
    pub fn v(&self, layer: usize, block: u32, head: usize) -> *mut u16 {
        let l = &self.layers[layer];
        debug_assert!(head < l.spec.heads);
        self.blocks[block as usize].at(l.at + (l.spec.heads + head) * l.dim * KV_BLOCK)
    }

    /// Writes one row's K and V, `[heads * head_dim]` each, at slot `slot` of a block.
    ///
    /// # Safety
    /// No other worker touches this slot of this layer until the phase ends.
    //= F-CPU-102
    pub unsafe fn append(&self, layer: usize, block: u32, slot: usize, k: &[f32], v: &[f32]) {
        assert!(slot < KV_BLOCK);
        let KvSpec { heads, head_dim } = self.layers[layer].spec;
        for head in 0..heads {
            let (kp, vp) = (self.k(layer, block, head), self.v(layer, block, head));
            let part = head * head_dim..(head + 1) * head_dim;
            for (d, (&k, &v)) in k[part.clone()].iter().zip(&v[part]).enumerate() {
                // SAFETY: d < dim and slot < 64, so both lie in this head's part of the block; the caller keeps
                // other workers off this slot.
                unsafe {
                    *kp.add(d * KV_BLOCK + slot) = half::f16::from_f32(k).to_bits();
                    *vp.add(slot * self.layers[layer].dim + d) = half::f16::from_f32(v).to_bits();
                }
            }
        }
    }
}
