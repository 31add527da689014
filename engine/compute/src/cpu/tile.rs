//! Matrix times activations: the one matmul arithmetic, written once for every format and instruction set.
//!
//! Block formats are repacked into *tiles* of 16 output rows, so that the rows lie in lanes. A tile is a run of
//! chunks (one stored block of each of its 16 rows); a chunk is a header of scales and then steps of 32 weights:
//!
//! - group `g` of a step holds weights `4 g .. 4 g + 4` of all 16 rows: 64 bytes, byte `4 row + t`;
//! - 4-bit planes put group `g` in the low and `g + 4` in the high nibbles of the same 64 bytes.
//!
//! Activations are quantised to int8 in blocks of 32 (see [`super::acts`]). For output row r and activation column c:
//!
//! ```text
//! sum = 0
//! for each run of 256 weights, ascending (the last may be shorter):
//!     acc = 0
//!     for each s of SUB weights of the run, ascending:
//!         dot = exact integer sum of q * a
//!         acc = fma(scale[r][s] * act_scale[c][block], dot, acc)
//!         acc = fma(-min[r][s], act_scale[c][block] * act_sum[c][block], acc)      formats with a minimum
//!     sum = sum + acc
//! out = sum + bias
//! ```
//!
//! Runs are sums of their own so that a GPU can give each to a thread.
//!
//! Nothing in this depends on how many columns are computed together, on the thread, or on the vector width.

use std::ops::Range;

use super::acts::{Acts, PanelView};
use super::isa::Isa;
use super::shared::SharedMatrix;
use super::simd::{Kernel, LANES, Simd};

/// Output rows in a tile.
pub const TILE_ROWS: usize = LANES;

/// Weights of a row that are summed up before they are added to the others.
pub const RUN: usize = 256;

/// How far ahead of what is being multiplied weights are asked for. Measured: 1 KB is no better than none, 4 to 16 KB
/// are alike.
const AHEAD: usize = 8 << 10;

/// How a format is multiplied by.
pub struct Kernels {
    /// How rows are repacked; `None` if they are used as stored.
    pub packing: Option<Packing>,
    /// The multiplication.
    pub multiply: fn(Isa, &Job<'_>),
}

/// Repacking of a block format into tiles.
pub struct Packing {
    /// Bytes of a chunk: one stored block of 16 rows.
    pub chunk_bytes: usize,
    /// Writes one chunk. `None` where the matrix has no such row.
    pub pack: fn(&[Option<&[u8]>; TILE_ROWS], &mut [u8]),
}

/// One matrix product, or the part of it that falls on one worker.
pub struct Job<'a> {
    /// Tiles, or rows as stored.
    pub weights: &'a [u8],
    /// `[rows, cols]` of the matrix.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// `[columns, cols]` activations.
    pub acts: &'a Acts,
    /// `[rows]`.
    pub bias: Option<&'a [f32]>,
    /// `[columns, rows]`. Only elements of the rows in `tiles` are written.
    pub out: &'a SharedMatrix,
    /// Which tiles of 16 rows.
    pub tiles: Range<usize>,
}

/// A block format, as the kernel needs it. Every method is for one chunk at `p`.
pub trait TileFormat {
    /// Weights of a stored block.
    const BLOCK: usize;
    /// Bytes of a chunk.
    const CHUNK_BYTES: usize;
    /// Weights under one scale: 32, or 16.
    const SUB: usize;
    /// The stored unsigned quant is `q + OFFSET`.
    const OFFSET: i32;
    /// Quants are stored as signed bytes.
    const SIGNED: bool;
    /// Whether a minimum is subtracted.
    const HAS_MIN: bool;

    /// The eight groups of step `step`.
    ///
    /// # Safety
    /// `p` points to a whole chunk; called inside `Isa::run`.
    unsafe fn unpack<S: Simd>(p: *const u8, step: usize) -> [S::B; 8];

    /// Scale of each row for run `sub` of the chunk.
    ///
    /// # Safety
    /// As `unpack`.
    unsafe fn scale<S: Simd>(p: *const u8, sub: usize) -> S::F;

    /// Minimum of each row for run `sub`.
    ///
    /// # Safety
    /// As `unpack`.
    #[inline(always)]
    unsafe fn min<S: Simd>(_p: *const u8, _sub: usize) -> S::F {
        // SAFETY: no pointer is used; the caller is inside `Isa::run`.
        unsafe { S::splat(0.0) }
    }
}

struct Multiply<'j, 'a, F>(&'j Job<'a>, std::marker::PhantomData<F>);

/// Multiplies by a block format's tiles.
pub fn multiply<F: TileFormat>(isa: Isa, job: &Job<'_>) {
    assert_eq!(job.cols % F::BLOCK, 0, "whole blocks");
    assert!(job.tiles.end * TILE_ROWS < job.rows + TILE_ROWS, "tiles inside the matrix");
    assert!(job.weights.len() >= job.tiles.end * (job.cols / F::BLOCK) * F::CHUNK_BYTES, "tiles inside the weights");
    assert!(job.bias.is_none_or(|b| b.len() == job.rows));
    job.acts.check(job.cols, isa);
    job.out.check(job.acts.columns(), job.rows);
    isa.run(Multiply::<F>(job, std::marker::PhantomData));
}

impl<F: TileFormat> Kernel for Multiply<'_, '_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let job = self.0;
        let tile_bytes = job.cols / F::BLOCK * F::CHUNK_BYTES;
        for tile in job.tiles.clone() {
            let weights = job.weights[tile * tile_bytes..][..tile_bytes].as_ptr();
            for panel in 0..job.acts.panels() {
                macro_rules! by_count {
                    ($($n:literal),+) => {
                        match job.acts.panel_columns(panel) {
                            // SAFETY: inside `Isa::run`; `weights` is a whole tile, `multiply` checked the rest.
                            $($n if $n <= S::COLUMNS => unsafe {
                                match panel {
                                    0 => columns::<S, F, $n, true>(job, tile, panel, weights),
                                    _ => columns::<S, F, $n, false>(job, tile, panel, weights),
                                }
                            },)+
                            n => unreachable!("invariant: a panel of {n} columns at {}", S::NAME),
                        }
                    };
                }
                by_count!(1, 2, 3, 4, 5, 6, 7, 8);
            }
        }
    }
}

/// One tile times the `N` columns of one panel. `FIRST` is set where this reads the weights from memory, not from a
/// cache: the processor's own prefetching keeps up with little more than half of what the memory gives one core.
///
/// # Safety
/// Inside `Isa::run`; `weights` points to a whole tile of `job.cols` weights; `job` was checked by [`multiply`].
#[inline(always)]
unsafe fn columns<S: Simd, F: TileFormat, const N: usize, const FIRST: bool>(
    job: &Job<'_>,
    tile: usize,
    panel: usize,
    weights: *const u8,
) {
    const { assert!(F::SUB == 32 || F::SUB == 16) };
    let steps = F::BLOCK / 32;
    let view = job.acts.panel(panel);
    // SAFETY: (for the whole body) chunk and step run over exactly the blocks that tile and panel hold, `N` is the
    // panel's number of columns, and the instructions exist because the caller is inside `Isa::run`.
    unsafe {
        let chunks = job.cols / F::BLOCK;
        let mut sums = [S::splat(0.0); N];
        for run in (0..chunks).step_by(RUN / F::BLOCK) {
            let mut acc = [S::splat(0.0); N];
            for chunk in run..(run + RUN / F::BLOCK).min(chunks) {
                let p = weights.add(chunk * F::CHUNK_BYTES);
                for step in 0..steps {
                    if FIRST {
                        let lines = F::CHUNK_BYTES.div_ceil(64 * steps);
                        for line in 0..lines {
                            S::prefetch(p.wrapping_add(AHEAD + (step * lines + line) * 64));
                        }
                    }
                    one_step::<S, F, N>(&mut acc, p, step, &view, (chunk * steps + step) * N);
                }
            }
            for c in 0..N {
                sums[c] = S::add(sums[c], acc[c]);
            }
        }
        for (c, &sum) in sums.iter().enumerate() {
            store::<S>(job, panel * S::COLUMNS + c, tile, sum);
        }
    }
}

/// `$body` for every column `$c` below `$n`, written out: the compiler leaves a long body in a loop, with the sums in
/// memory, where each waits for the one before.
macro_rules! each_column {
    ($c:ident < $n:ident, $body:block) => { each_column!($c $n $body 0 1 2 3 4 5 6 7) };
    ($c:ident $n:ident $body:block $($i:literal)+) => {$(
        let $c: usize = $i;
        if $c < $n $body
    )+};
}

/// Adds the products of step `step` of the chunk at `p` and the `N` blocks of activations from `at` on.
///
/// # Safety
/// Inside `Isa::run`; `p` points to a whole chunk, and the panel has the blocks.
#[inline(always)]
unsafe fn one_step<S: Simd, F: TileFormat, const N: usize>(
    acc: &mut [S::F; N],
    p: *const u8,
    step: usize,
    view: &PanelView,
    at: usize,
) {
    // SAFETY: what the caller promises; a step of a chunk has one run of scales, or two.
    unsafe {
        let w = F::unpack::<S>(p, step);
        if F::SUB == 32 {
            let scale = F::scale::<S>(p, step);
            let min = F::min::<S>(p, step);
            for c in 0..N {
                let sums = &*view.sums.add(at + c);
                let dot = dot::<S, F, 8>(&w, 0, view.quants.add((at + c) * 32), sums[0] + sums[1]);
                let by = S::mul(scale, S::splat(*view.scales.add(at + c)));
                acc[c] = S::fma(by, S::i_to_f(dot), acc[c]);
                if F::HAS_MIN {
                    acc[c] = S::fnma(min, S::splat(*view.scaled_sums.add(at + c)), acc[c]);
                }
            }
        } else {
            let scale = [F::scale::<S>(p, 2 * step), F::scale::<S>(p, 2 * step + 1)];
            let min = [F::min::<S>(p, 2 * step), F::min::<S>(p, 2 * step + 1)];
            each_column!(c < N, {
                let sums = &*view.sums.add(at + c);
                let quants = view.quants.add((at + c) * 32);
                let act_scale = S::splat(*view.scales.add(at + c));
                for half in 0..2 {
                    let dot = dot::<S, F, 4>(&w, 4 * half, quants, sums[half]);
                    acc[c] = S::fma(S::mul(scale[half], act_scale), S::i_to_f(dot), acc[c]);
                    if F::HAS_MIN {
                        let sum = *view.scales.add(at + c) * sums[half] as f32;
                        acc[c] = S::fnma(min[half], S::splat(sum), acc[c]);
                    }
                }
            });
        }
    }
}

/// Exact integer dot products of 16 rows over groups `from .. from + G`.
///
/// # Safety
/// Inside `Isa::run`; `quants` points to the 32 activations of the step.
#[inline(always)]
unsafe fn dot<S: Simd, F: TileFormat, const G: usize>(w: &[S::B; 8], from: usize, quants: *const i8, sum: i32) -> S::I {
    let bias = F::OFFSET + if F::SIGNED { S::SIGNED_BIAS } else { 0 };
    // SAFETY: groups `from .. from + G` are below 8, so reads stay within the 32 activations.
    unsafe {
        let mut acc = S::i_splat(-bias * sum);
        for g in from..from + G {
            let a4 = quants.add(4 * g).cast::<i32>().read_unaligned();
            acc = if F::SIGNED { S::dot_signed(acc, w[g], a4) } else { S::dot(acc, w[g], a4) };
        }
        acc
    }
}

/// Adds the bias and writes one column of a tile; the last tile may be partial.
///
/// # Safety
/// Inside `Isa::run`; the shape was checked.
#[inline(always)]
unsafe fn store<S: Simd>(job: &Job<'_>, column: usize, tile: usize, sum: S::F) {
    let at = tile * TILE_ROWS;
    let count = TILE_ROWS.min(job.rows - at);
    // SAFETY: a full tile has 16 elements of bias and of output; a partial one goes through an array of 16. Only
    // the worker that was given this tile writes these elements.
    unsafe {
        let out = job.out.at(column, at);
        if count == TILE_ROWS {
            let sum = match job.bias {
                Some(b) => S::add(sum, S::load(b.as_ptr().add(at))),
                None => sum,
            };
            S::store(out, sum);
        } else {
            let mut v = [0f32; TILE_ROWS];
            S::store(v.as_mut_ptr(), sum);
            for (i, &x) in v.iter().enumerate().take(count) {
                *out.add(i) = x + job.bias.map_or(0.0, |b| b[at + i]);
            }
        }
    }
}

/// A float format, as its kernel needs it: rows are used as stored.
pub trait FloatFormat {
    /// Bytes of a weight.
    const BYTES: usize;
    /// Reads 16 weights.
    ///
    /// # Safety
    /// `p` points to 16 weights; called inside `Isa::run`.
    unsafe fn load<S: Simd>(p: *const u8) -> S::F;
    /// Reads one weight.
    fn one(bytes: &[u8]) -> f32;
}

struct MultiplyFloat<'j, 'a, F>(&'j Job<'a>, std::marker::PhantomData<F>);

/// Multiplies by a float format's rows, with f32 activations. Lane l sums the products of every k = l mod 16 in
/// ascending order; the lanes are folded 8, 4, 2, 1. A shorter tail is padded with zeros.
pub fn multiply_float<F: FloatFormat>(isa: Isa, job: &Job<'_>) {
    assert!(job.tiles.end * TILE_ROWS < job.rows + TILE_ROWS, "tiles inside the matrix");
    assert_eq!(job.weights.len(), job.rows * job.cols * F::BYTES, "rows as stored");
    assert!(job.bias.is_none_or(|b| b.len() == job.rows));
    job.acts.check_float(job.cols);
    job.out.check(job.acts.columns(), job.rows);
    isa.run(MultiplyFloat::<F>(job, std::marker::PhantomData));
}

impl<F: FloatFormat> Kernel for MultiplyFloat<'_, '_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let job = self.0;
        let rows = job.tiles.start * TILE_ROWS..(job.tiles.end * TILE_ROWS).min(job.rows);
        let columns = job.acts.columns();
        for row in rows {
            let weights = &job.weights[row * job.cols * F::BYTES..][..job.cols * F::BYTES];
            let mut c = 0;
            while c < columns {
                // SAFETY: inside `Isa::run`; the row has `cols` weights and columns `c ..` exist as checked here.
                c += unsafe {
                    match columns - c {
                        4.. => float_columns::<S, F, 4>(job, row, c, weights),
                        _ => float_columns::<S, F, 1>(job, row, c, weights),
                    }
                };
            }
        }
    }
}

/// One row times columns `from .. from + N`; returns N.
///
/// # Safety
/// Inside `Isa::run`; `weights` is a whole row and the columns exist.
#[inline(always)]
unsafe fn float_columns<S: Simd, F: FloatFormat, const N: usize>(
    job: &Job<'_>,
    row: usize,
    from: usize,
    weights: &[u8],
) -> usize {
    let whole = job.cols / LANES * LANES;
    let mut acts: [&[f32]; N] = [&[]; N];
    for (c, acts) in acts.iter_mut().enumerate() {
        *acts = job.acts.values(from + c);
    }
    // SAFETY: `check_float` made sure that every column has `cols` values; reads below `whole` stay inside, the tail
    // goes through padded arrays; the output element belongs to this worker.
    unsafe {
        let mut acc = [S::splat(0.0); N];
        for k in (0..whole).step_by(LANES) {
            let w = F::load::<S>(weights.as_ptr().add(k * F::BYTES));
            for c in 0..N {
                acc[c] = S::fma(w, S::load(acts[c].as_ptr().add(k)), acc[c]);
            }
        }
        if whole < job.cols {
            let mut w = [0f32; LANES];
            for (i, bytes) in weights[whole * F::BYTES..].chunks_exact(F::BYTES).enumerate() {
                w[i] = F::one(bytes);
            }
            for c in 0..N {
                let mut a = [0f32; LANES];
                a[..job.cols - whole].copy_from_slice(&acts[c][whole..job.cols]);
                acc[c] = S::fma(S::load(w.as_ptr()), S::load(a.as_ptr()), acc[c]);
            }
        }
        for c in 0..N {
            *job.out.at(from + c, row) = S::sum(acc[c]) + job.bias.map_or(0.0, |b| b[row]);
        }
    }
    N
}

/// Repacks a whole matrix into tiles, or says that the format is used as stored. `out` has `packed_bytes` bytes.
pub fn pack(spec: &crate::quant::Spec, stored: &[u8], rows: usize, cols: usize, out: &mut [u8]) {
    use rayon::prelude::*;
    let packing = spec.kernels.packing.as_ref().expect("invariant: only block formats are repacked");
    let row_bytes = cols / spec.block_len * spec.block_bytes;
    assert_eq!(stored.len(), rows * row_bytes);
    let tile_bytes = cols / spec.block_len * packing.chunk_bytes;
    out.par_chunks_exact_mut(tile_bytes).enumerate().for_each(|(tile, out)| {
        for (chunk, out) in out.chunks_exact_mut(packing.chunk_bytes).enumerate() {
            let blocks: [Option<&[u8]>; TILE_ROWS] = std::array::from_fn(|r| {
                let row = tile * TILE_ROWS + r;
                (row < rows).then(|| &stored[row * row_bytes + chunk * spec.block_bytes..][..spec.block_bytes])
            });
            (packing.pack)(&blocks, out);
        }
    });
}

/// Bytes that [`pack`] writes, `None` for a format that is used as stored.
pub fn packed_bytes(spec: &crate::quant::Spec, rows: usize, cols: usize) -> Option<usize> {
    let packing = spec.kernels.packing.as_ref()?;
    Some(rows.div_ceil(TILE_ROWS) * (cols / spec.block_len) * packing.chunk_bytes)
}
