//! Causal attention over the block cache, with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022).
//!
//! For one query, each block of 64 absolute positions is a sum of its own, so that a GPU can compute all of them at once
//! (Dao et al. 2023); the sums of four blocks, and then of all such groups, are put together in ascending order:
//!
//! ```text
//! s[j] = scale * sum over d ascending of fma(q[d], k[j][d])
//! mb   = max s;  p[j] = exp(s[j] - mb);  lb = fold of p over lanes;  ob = fma(p[j], v[j], ob) for j ascending
//! m'   = max(m, mb);  c = exp(m - m');  cb = exp(mb - m');  l = l * c + lb * cb;  o = fma(ob, cb, o * c)
//! out  = o / l
//! ```
//!
//! Positions that the mask hides are not touched at all. Nothing here depends on what other queries are computed
//! beside this one: up to four only share the loads of K and V.

use super::kv::KvCache;
use super::simd::{Kernel, LANES, Simd, exp};
use crate::program::KV_BLOCK;

/// Groups of lanes in a block.
const QUARTERS: usize = KV_BLOCK / LANES;

/// Blocks whose sums are put together before they are added to the others.
pub const GROUP: usize = 4;

/// Queries that read the same K/V head of the same sequence.
pub struct Attend<'a> {
    /// The cache.
    pub kv: &'a KvCache,
    /// Attention layer.
    pub layer: usize,
    /// K/V head.
    pub kv_head: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Block table of the sequence.
    pub table: &'a [u32],
    /// Multiplies the scores.
    pub scale: f32,
    /// `c * tanh(s / c)`.
    pub softcap: Option<f32>,
    /// The queries, positions ascending.
    pub queries: &'a mut [Query],
    /// Room for [`scratch_len`] values.
    pub scratch: &'a mut [f32],
}

/// One head of one row.
pub struct Query {
    /// First visible position.
    pub from: usize,
    /// One past the last visible position.
    pub to: usize,
    /// `[head_dim]`.
    pub q: *const f32,
    /// `[head_dim]`; written by nobody else.
    pub out: *mut f32,
    /// Of the blocks of a group so far, and of the groups so far.
    group: Softmax,
    all: Softmax,
}

/// What is known of the scores so far.
#[derive(Clone, Copy)]
struct Softmax {
    /// The largest.
    max: f32,
    /// Sum of exponentials.
    sum: f32,
}

impl Softmax {
    const EMPTY: Softmax = Softmax { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Takes later scores in. Returns what the output so far and theirs are to be multiplied by.
    ///
    /// # Safety
    /// Inside `Isa::run`.
    #[inline(always)]
    unsafe fn take<S: Simd>(&mut self, later: Softmax) -> (f32, f32) {
        let max = if later.max > self.max { later.max } else { self.max };
        // SAFETY: the caller is inside `Isa::run`.
        let (keep, add) = unsafe { (exp_one::<S>(self.max - max), exp_one::<S>(later.max - max)) };
        self.sum = self.sum * keep + later.sum * add;
        self.max = max;
        (keep, add)
    }
}

impl Query {
    /// A query that sees positions `from .. to`.
    pub fn new(from: usize, to: usize, q: *const f32, out: *mut f32) -> Query {
        Query { from, to, q, out, group: Softmax::EMPTY, all: Softmax::EMPTY }
    }
}

/// Scratch values that [`Attend`] wants for `queries` queries of `dim` elements: outputs, those of one group, those of one
/// block for four queries, four score rows.
pub fn scratch_len(queries: usize, dim: usize) -> usize {
    (2 * queries + 4) * dim + 4 * KV_BLOCK
}

impl Kernel for Attend<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let dim = self.kv.dim(self.layer);
        let n = self.queries.len();
        assert!(self.scratch.len() >= scratch_len(n, dim));
        let (totals, rest) = self.scratch.split_at_mut(n * dim);
        let (outs, rest) = rest.split_at_mut(n * dim);
        let (fresh, scores) = rest.split_at_mut(4 * dim);
        totals.fill(0.0);
        outs.fill(0.0);
        let last = self.queries.iter().map(|q| q.to).max().unwrap_or(0);
        //= F-CPU-105
        for block in 0..last.div_ceil(KV_BLOCK) {
            let at = block * KV_BLOCK;
            let id = self.table[block];
            let one = Block {
                k: self.kv.k(self.layer, id, self.kv_head),
                v: self.kv.v(self.layer, id, self.kv_head),
                dim,
                head_dim: self.head_dim,
                scale: self.scale,
                softcap: self.softcap,
                at,
            };
            let mut i = 0;
            while i < n {
                // Queries that see nothing of this block are skipped; neighbours that see something go together, four at
                // most: six or seven heads to a K/V head are two turns.
                let sees = |q: &&Query| q.to > at && q.from < at + KV_BLOCK;
                let count = self.queries[i..].iter().take(4).take_while(sees).count();
                if count == 0 {
                    i += 1;
                    continue;
                }
                let queries = &mut self.queries[i..i + count];
                let outs = &mut outs[i * dim..(i + count) * dim];
                // SAFETY: inside `Isa::run`; `id` is a block of the cache, so K and V hold dim * 64 values each; a
                // query's pointers are to head_dim values, as whoever built it says.
                unsafe {
                    match count {
                        4 => one.step::<S, 4>(queries, outs, fresh, scores),
                        3 => one.step::<S, 3>(queries, outs, fresh, scores),
                        2 => one.step::<S, 2>(queries, outs, fresh, scores),
                        _ => one.step::<S, 1>(queries, outs, fresh, scores),
                    }
                }
                i += count;
            }
            if (block + 1).is_multiple_of(GROUP) || at + KV_BLOCK >= last {
                let begin = block / GROUP * GROUP * KV_BLOCK;
                let each = self.queries.iter_mut().zip(totals.chunks_exact_mut(dim).zip(outs.chunks_exact_mut(dim)));
                for (query, (total, out)) in each.filter(|(q, _)| q.to > begin && q.from < at + KV_BLOCK) {
                    // SAFETY: inside `Isa::run`; both hold dim values, whole groups of lanes.
                    unsafe {
                        let weights = query.all.take::<S>(query.group);
                        put_together::<S>(total, out, weights);
                    }
                    query.group = Softmax::EMPTY;
                    out.fill(0.0);
                }
            }
        }
        for (query, out) in self.queries.iter().zip(totals.chunks_exact(dim)) {
            for (d, x) in out.iter().enumerate().take(self.head_dim) {
                //= F-MATH-160
                // SAFETY: the output has head_dim values and belongs to this query alone.
                unsafe { *query.out.add(d) = x / query.all.sum };
            }
        }
    }
}

struct Block {
    k: *const u16,
    v: *const u16,
    dim: usize,
    head_dim: usize,
    scale: f32,
    softcap: Option<f32>,
    at: usize,
}

impl Block {
    /// Takes `N` queries through one block.
    ///
    /// # Safety
    /// Inside `Isa::run`; K and V hold `dim * 64` values, `outs` and `fresh` hold `N * dim`, `scores` `N * 64`.
    #[inline(always)]
    unsafe fn step<S: Simd, const N: usize>(
        &self,
        queries: &mut [Query],
        outs: &mut [f32],
        fresh: &mut [f32],
        scores: &mut [f32],
    ) {
        // SAFETY: as above; visible ranges are cut to the block before anything is indexed by them.
        unsafe {
            let mut s = [[S::splat(0.0); QUARTERS]; N];
            for d in 0..self.head_dim {
                let mut k = [S::splat(0.0); QUARTERS];
                for (j, k) in k.iter_mut().enumerate() {
                    *k = S::load_f16(self.k.add(d * KV_BLOCK + j * LANES));
                }
                for i in 0..N {
                    let q = S::splat(*queries[i].q.add(d));
                    for j in 0..QUARTERS {
                        s[i][j] = S::fma(q, k[j], s[i][j]);
                    }
                }
            }
            let mut seen = [(0, 0); N];
            let mut weights = [(0.0, 0.0); N];
            fresh[..N * self.dim].fill(0.0);
            for i in 0..N {
                let scores = &mut scores[i * KV_BLOCK..(i + 1) * KV_BLOCK];
                seen[i] =
                    (queries[i].from.saturating_sub(self.at).min(KV_BLOCK), (queries[i].to - self.at).min(KV_BLOCK));
                for j in 0..QUARTERS {
                    S::store(scores.as_mut_ptr().add(j * LANES), S::mul(s[i][j], S::splat(self.scale)));
                }
                weights[i] = self.soften::<S>(&mut queries[i], scores, seen[i]);
            }
            // Where all see the same positions V is loaded once for all; the rest goes one by one.
            let from = seen.iter().map(|r| r.0).max().unwrap_or(0);
            let to = seen.iter().map(|r| r.1).min().unwrap_or(0).max(from);
            for i in 0..N {
                let (p, out) = (&scores[i * KV_BLOCK..], &mut fresh[i * self.dim..(i + 1) * self.dim]);
                self.mix::<S, 1>(p, out, (seen[i].0, from.min(seen[i].1)));
            }
            self.mix::<S, N>(scores, fresh, (from, to));
            for i in 0..N {
                let (p, out) = (&scores[i * KV_BLOCK..], &mut fresh[i * self.dim..(i + 1) * self.dim]);
                self.mix::<S, 1>(p, out, (to.max(seen[i].0), seen[i].1));
            }
            for i in 0..N {
                let of = i * self.dim..(i + 1) * self.dim;
                put_together::<S>(&mut outs[of.clone()], &fresh[of], weights[i]);
            }
        }
    }

    /// Scores to probabilities (unnormalised) of this block alone, and the running maximum and sum moved on. Returns what
    /// the output so far and that of this block are to be multiplied by.
    ///
    /// # Safety
    /// Inside `Isa::run`; `scores` holds 64 values.
    #[inline(always)]
    unsafe fn soften<S: Simd>(&self, query: &mut Query, scores: &mut [f32], (from, to): (usize, usize)) -> (f32, f32) {
        if let Some(cap) = self.softcap {
            for s in &mut scores[from..to] {
                *s = cap * (*s / cap).tanh();
            }
        }
        // SAFETY: all vectors are 16 values inside `scores`.
        unsafe {
            // A NaN score does not win the maximum, but exp passes it on into the sum.
            let top = scores[from..to].iter().fold(f32::NEG_INFINITY, |m, &s| if s > m { s } else { m });
            let mut sum = S::splat(0.0);
            for j in 0..QUARTERS {
                let p = scores.as_mut_ptr().add(j * LANES);
                S::store(p, exp::<S>(S::sub(S::load(p), S::splat(top))));
            }
            scores[..from].fill(0.0);
            scores[to..KV_BLOCK].fill(0.0);
            for j in 0..QUARTERS {
                sum = S::add(sum, S::load(scores.as_ptr().add(j * LANES)));
            }
            query.group.take::<S>(Softmax { max: top, sum: S::sum(sum) })
        }
    }

    /// `out[i] += p[i][j] * v[j]` for the positions `from .. to` of the block.
    ///
    /// # Safety
    /// As [`Block::step`].
    #[inline(always)]
    unsafe fn mix<S: Simd, const N: usize>(&self, p: &[f32], outs: &mut [f32], (from, to): (usize, usize)) {
        let mut d = 0;
        while d < self.dim {
            // SAFETY: `d` counts groups of 16 inside `dim`; four at a time where there are as many.
            d += unsafe {
                match self.dim - d {
                    64.. => self.mix_part::<S, N, 4>(p, outs, (from, to), d),
                    _ => self.mix_part::<S, N, 1>(p, outs, (from, to), d),
                }
            };
        }
    }

    /// `mix` for elements `d .. d + 16 W`; returns how many.
    ///
    /// # Safety
    /// As [`Block::step`]; `d + 16 W <= dim`.
    #[inline(always)]
    unsafe fn mix_part<S: Simd, const N: usize, const W: usize>(
        &self,
        p: &[f32],
        outs: &mut [f32],
        (from, to): (usize, usize),
        d: usize,
    ) -> usize {
        // SAFETY: positions are below 64 and elements below `dim`.
        unsafe {
            let at = |i: usize, w: usize| i * self.dim + d + w * LANES;
            let mut acc = [[S::splat(0.0); W]; N];
            for i in 0..N {
                for w in 0..W {
                    acc[i][w] = S::load(outs.as_ptr().add(at(i, w)));
                }
            }
            for j in from..to {
                let mut v = [S::splat(0.0); W];
                for (w, v) in v.iter_mut().enumerate() {
                    *v = S::load_f16(self.v.add(j * self.dim + d + w * LANES));
                }
                for i in 0..N {
                    let p = S::splat(*p.get_unchecked(i * KV_BLOCK + j));
                    for w in 0..W {
                        acc[i][w] = S::fma(p, v[w], acc[i][w]);
                    }
                }
            }
            for i in 0..N {
                for w in 0..W {
                    S::store(outs.as_mut_ptr().add(at(i, w)), acc[i][w]);
                }
            }
        }
        W * LANES
    }
}

/// `out = out * keep + later * add`.
///
/// # Safety
/// Inside `Isa::run`; both hold the same number of values, whole groups of lanes.
#[inline(always)]
unsafe fn put_together<S: Simd>(out: &mut [f32], later: &[f32], (keep, add): (f32, f32)) {
    // SAFETY: as above.
    unsafe {
        let (keep, add) = (S::splat(keep), S::splat(add));
        for d in (0..out.len()).step_by(LANES) {
            let at = out.as_mut_ptr().add(d);
            S::store(at, S::fma(S::load(later.as_ptr().add(d)), add, S::mul(S::load(at), keep)));
        }
    }
}

/// `e^x` by the same polynomial; 0 for minus infinity, which is the first block.
///
/// # Safety
/// Inside `Isa::run`.
#[inline(always)]
unsafe fn exp_one<S: Simd>(x: f32) -> f32 {
    if x == f32::NEG_INFINITY {
        return 0.0;
    }
    let mut v = [0f32; LANES];
    // SAFETY: the array has 16 elements.
    unsafe { S::store(v.as_mut_ptr(), exp::<S>(S::splat(x))) };
    v[0]
}
