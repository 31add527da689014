//! Who holds which block of the KV cache, and which blocks hold what a prompt may begin with.
//!
//! A block of a running request is held by it. A block that is complete is also *kept*: under the tokens of its
//! positions and the identity of the kept block before it, so that equal keys mean equal prefixes, exactly and not by
//! chance of a hash. A prompt that begins like that shares the block instead of computing it. Kept blocks are never
//! written to: where a prompt leaves one in the middle it goes on in a copy.
//!
//! Blocks are promised before a request runs, so nothing that runs can ever want for one.

use std::collections::BTreeMap;

use compute::program::KV_BLOCK;

use super::request::Why;

/// A kept block's place: the identity of the block before it (0 where a sequence begins), and its tokens. Less than
/// [`KV_BLOCK`] of them where a sequence ended.
type Key = (u64, Vec<u32>);

/// All blocks.
pub struct Blocks {
    /// How many there may be.
    total: usize,
    /// By block; as many as the runner has storage for.
    of: Vec<Block>,
    /// Held by none and not kept.
    free: Vec<u32>,
    kept: BTreeMap<Key, u32>,
    /// Kept and held by none, by the time of release. Whoever holds a block holds those before it too and releases
    /// them later, so the oldest is never the beginning of another.
    idle: BTreeMap<u64, u32>,
    /// Blocks with holders.
    held: usize,
    /// Blocks that running requests will come to need.
    promised: usize,
    /// Counts releases and identities.
    last: u64,
    /// Kept blocks that were given up for others.
    pub evictions: u64,
}

#[derive(Clone, Debug, Default)]
struct Block {
    holders: u32,
    key: Option<Key>,
    /// Under which later blocks name it, if kept.
    identity: u64,
    /// Key in `idle`.
    released: u64,
}

/// What a prompt finds.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Blocks to share, in order.
    pub shared: Vec<u32>,
    /// The last one's identity.
    pub identity: u64,
    /// A kept block to copy, and how many of its positions fit.
    pub tail: Option<(u32, usize)>,
    /// Why no more.
    pub why: Why,
}

impl Found {
    /// Nothing.
    pub fn nothing(why: Why) -> Found {
        Found { shared: Vec::new(), identity: 0, tail: None, why }
    }

    /// Positions that need not be computed.
    pub fn positions(&self) -> usize {
        self.shared.len() * KV_BLOCK + self.tail.map_or(0, |t| t.1)
    }
}

impl Blocks {
    /// No block yet, of at most `total`.
    pub fn new(total: usize) -> Blocks {
        Blocks {
            total,
            of: Vec::new(),
            free: Vec::new(),
            kept: BTreeMap::new(),
            idle: BTreeMap::new(),
            held: 0,
            promised: 0,
            last: 0,
            evictions: 0,
        }
    }

    /// Blocks with holders.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Blocks that are kept and held by none.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Under which a block is named by those after it, if it is kept.
    pub fn identity(&self, block: u32) -> Option<u64> {
        let b = &self.of[block as usize];
        b.key.as_ref().map(|_| b.identity)
    }

    /// The longest beginning of `tokens` that is there. The last token is never part of it: its output is needed.
    pub fn find(&self, tokens: &[u32]) -> Found {
        let most = tokens.len().saturating_sub(1);
        let mut found = Found::nothing(Why::Unknown);
        while (found.shared.len() + 1) * KV_BLOCK <= most {
            let at = found.shared.len() * KV_BLOCK;
            let Some(&block) = self.kept.get(&(found.identity, tokens[at..at + KV_BLOCK].to_vec())) else { break };
            found.identity = self.of[block as usize].identity;
            found.shared.push(block);
        }
        let at = found.shared.len() * KV_BLOCK;
        let rest = &tokens[at..tokens.len().min(at + KV_BLOCK)];
        found.tail = self.nearest(found.identity, rest).map(|(block, n)| (block, n.min(most - at))).filter(|t| t.1 > 0);
        found.why = match found.positions() {
            n if n == most && n > 0 => Why::Whole,
            0 => Why::Unknown,
            _ => Why::Diverges,
        };
        found
    }

    /// Among the blocks kept after `identity`, the one with the longest common beginning with `tokens`, and its
    /// length. In sorted order it is next to where `tokens` would stand.
    fn nearest(&self, identity: u64, tokens: &[u32]) -> Option<(u32, usize)> {
        let key = (identity, tokens.to_vec());
        let before = self.kept.range(..=&key).next_back();
        let after = self.kept.range(&key..).next();
        let alike = |(other, block): (&Key, &u32)| {
            let n = other.1.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            (other.0 == identity && n > 0).then_some((*block, n))
        };
        [before, after].into_iter().flatten().filter_map(alike).max_by_key(|found| found.1)
    }

    /// Promises a request of `positions` positions its blocks, and holds those it shares. None: not now. Otherwise
    /// how many are still to be taken.
    pub fn promise(&mut self, found: &Found, positions: usize) -> Option<usize> {
        let more = positions.div_ceil(KV_BLOCK) - found.shared.len();
        let woken = found.shared.iter().filter(|b| self.of[**b as usize].holders == 0).count();
        if self.held + self.promised + more + woken > self.total {
            return None;
        }
        for &block in &found.shared {
            self.hold(block);
        }
        self.promised += more;
        Some(more)
    }

    /// Storage that promises and holders come to.
    pub fn needed(&self) -> usize {
        self.held + self.promised
    }

    /// Takes one of the promised blocks, what it was kept for forgotten and what it holds still there. `grow` makes
    /// storage for so many blocks if it can.
    pub fn take(&mut self, grow: &mut dyn FnMut(usize) -> bool) -> u32 {
        self.promised -= 1;
        let block = if let Some(block) = self.free.pop() {
            block
        } else if self.of.len() < self.total && grow(self.of.len() + 1) {
            self.of.push(Block::default());
            (self.of.len() - 1) as u32
        } else {
            let block = self
                .idle
                .values()
                .copied()
                .next()
                .expect("invariant: a promised block is free, can be made, or is idle");
            self.evict(block);
            block
        };
        self.of[block as usize].holders = 1;
        self.held += 1;
        block
    }

    /// Forgets what an idle block was kept for.
    fn evict(&mut self, block: u32) {
        let old = std::mem::take(&mut self.of[block as usize]);
        self.idle.remove(&old.released);
        if let Some(key) = old.key {
            self.kept.remove(&key);
        }
        self.evictions += 1;
    }

    fn hold(&mut self, block: u32) {
        let b = &mut self.of[block as usize];
        b.holders += 1;
        if b.holders == 1 {
            self.idle.remove(&b.released);
            self.held += 1;
        }
    }

    fn let_go(&mut self, block: u32) {
        let b = &mut self.of[block as usize];
        b.holders -= 1;
        if b.holders > 0 {
            return;
        }
        self.held -= 1;
        if b.key.is_some() {
            self.last += 1;
            b.released = self.last;
            self.idle.insert(self.last, block);
        } else {
            self.free.push(block);
        }
    }

    /// Keeps a complete block that follows the kept block `identity`. Where an equal one is kept already the caller
    /// holds that one from now on, and its own is free. Gives the block that is kept and its identity.
    pub fn keep(&mut self, block: u32, identity: u64, tokens: &[u32]) -> (u32, u64) {
        let key = (identity, tokens.to_vec());
        if let Some(&other) = self.kept.get(&key) {
            if other != block {
                self.hold(other);
                self.let_go(block);
            }
            return (other, self.of[other as usize].identity);
        }
        self.last += 1;
        self.of[block as usize].identity = self.last;
        self.of[block as usize].key = Some(key.clone());
        self.kept.insert(key, block);
        (block, self.last)
    }

    /// Keeps the block in which a sequence ended, unless all of it is kept already.
    pub fn keep_tail(&mut self, block: u32, identity: u64, tokens: &[u32]) {
        if !tokens.is_empty() && self.nearest(identity, tokens).is_none_or(|found| found.1 < tokens.len()) {
            self.keep(block, identity, tokens);
        }
    }

    /// Shares the kept block of these tokens after `identity` in place of one that was promised, if there is one.
    pub fn adopt(&mut self, identity: u64, tokens: &[u32]) -> Option<(u32, u64)> {
        let block = *self.kept.get(&(identity, tokens.to_vec()))?;
        self.promised -= 1;
        self.hold(block);
        Some((block, self.of[block as usize].identity))
    }

    /// The end of a request: its blocks, and those it was promised and did not take.
    pub fn release(&mut self, table: &[u32], untaken: usize) {
        self.promised -= untaken;
        for &block in table.iter().rev() {
            self.let_go(block);
        }
    }

    /// What must hold between turns, or what does not; `tables` and `untaken` are those of all running requests.
    pub fn audit(&self, tables: &[&[u32]], untaken: usize) -> Result<(), &'static str> {
        let mut holders = vec![0u32; self.of.len()];
        for &block in tables.iter().flat_map(|t| t.iter()) {
            holders[block as usize] += 1;
        }
        let held = holders.iter().filter(|n| **n > 0).count();
        let kept_in_order = self.kept.iter().all(|(key, &block)| {
            let b = &self.of[block as usize];
            let before = self.of.iter().find(|o| o.key.is_some() && o.identity == key.0);
            b.key.as_ref() == Some(key)
                && (key.0 == 0 || before.is_some())
                && (b.holders == 0 || before.is_none_or(|o| o.holders > 0))
        });
        let rules = [
            (self.of.iter().map(|b| b.holders).eq(holders), "holders are not those of the tables"),
            (self.held == held, "held blocks are miscounted"),
            (self.promised == untaken, "promises are miscounted"),
            (self.held + self.promised <= self.total, "more is promised than there is"),
            (self.held + self.idle.len() + self.free.len() == self.of.len(), "a block is lost"),
            (self.of.len() <= self.total, "more blocks than planned"),
            (kept_in_order, "a kept block outlived the one before it"),
        ];
        rules.into_iter().try_for_each(|(holds, else_what)| if holds { Ok(()) } else { Err(else_what) })
    }
}
