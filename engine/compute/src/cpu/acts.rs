//! Activations as the matrix kernels read them: int8 blocks of 32 with one f32 scale, in panels of columns.
//!
//! A block of x is quantised as `scale = amax / 127`, `q = round(x * (127 / amax))`, ties to even. A block with a
//! non-finite value gets a NaN scale, so that it cannot pass for a number. Columns (rows of the batch) stand in
//! panels of as many as a tile multiplies at once: block b of column c of a panel with n columns is at `b * n + c`.

use super::isa::Isa;
use super::shared::{SharedMatrix, SharedVec};
use super::simd::{Kernel, LANES, Simd};

/// Activations quantised together.
pub const BLOCK: usize = 32;

/// `[columns, cols]` activations, quantised or as they are.
pub struct Acts {
    columns: usize,
    cols: usize,
    panel: usize,
    quants: SharedVec<i8>,
    scales: SharedVec<f32>,
    scaled_sums: SharedVec<f32>,
    sums: SharedVec<[i32; 2]>,
    source: *const SharedMatrix,
}

// SAFETY: `source` is only dereferenced while the matrix it was set to lives (see `bind`); the vectors are written by
// `quantise`, which is unsafe and keeps workers apart.
unsafe impl Sync for Acts {}
// SAFETY: as above; nothing is tied to a thread.
unsafe impl Send for Acts {}

/// Where the kernel finds the columns of one panel.
#[derive(Clone, Copy)]
pub(super) struct PanelView {
    /// 32 per (block, column).
    pub quants: *const i8,
    /// One per (block, column).
    pub scales: *const f32,
    /// `scale * sum of quants`.
    pub scaled_sums: *const f32,
    /// Sum of quants of each half block.
    pub sums: *const [i32; 2],
}

impl Acts {
    /// Empty.
    pub fn new(isa: Isa) -> Acts {
        Acts {
            columns: 0,
            cols: 0,
            panel: isa.columns(),
            quants: SharedVec::default(),
            scales: SharedVec::default(),
            scaled_sums: SharedVec::default(),
            sums: SharedVec::default(),
            source: std::ptr::null(),
        }
    }

    /// Makes room for the quantised form of `[columns, cols]`.
    pub fn reserve(&mut self, columns: usize, cols: usize) {
        let blocks = columns * cols.div_ceil(BLOCK);
        self.quants.grow(blocks * BLOCK, 0);
        self.scales.grow(blocks, 0.0);
        self.scaled_sums.grow(blocks, 0.0);
        self.sums.grow(blocks, [0; 2]);
    }

    /// Says what is about to be multiplied: the rows of `source`. Room was made by [`Acts::reserve`].
    ///
    /// # Safety
    /// `source` outlives every use of this value until the next `bind`, and no other worker uses it meanwhile.
    pub(super) unsafe fn bind(&mut self, source: &SharedMatrix) {
        self.columns = source.rows();
        self.cols = source.width();
        self.source = source;
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Panels.
    pub fn panels(&self) -> usize {
        self.columns.div_ceil(self.panel)
    }

    /// Columns in a panel: `panel` of them but for the last.
    #[inline(always)]
    pub fn panel_columns(&self, panel: usize) -> usize {
        self.panel.min(self.columns - panel * self.panel)
    }

    /// What a block kernel asks: the shape, the panel width of its instruction set, and that all was allocated.
    pub(super) fn check(&self, cols: usize, isa: Isa) {
        assert_eq!((self.cols, self.panel, cols % BLOCK), (cols, isa.columns(), 0), "activations for this matrix");
        assert!(self.scales.len() >= self.columns * (cols / BLOCK), "activations are quantised");
    }

    /// What a float kernel asks.
    pub(super) fn check_float(&self, cols: usize) {
        assert_eq!(self.cols, cols, "activations for this matrix");
    }

    /// The f32 values of one column.
    #[inline(always)]
    pub(super) fn values(&self, column: usize) -> &[f32] {
        // SAFETY: `bind` promised that the source lives; during a matrix product nobody writes to it.
        unsafe { (*self.source).row(column) }
    }

    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> PanelView {
        let at = panel * self.panel * (self.cols / BLOCK);
        PanelView {
            quants: self.quants.at(at * BLOCK),
            scales: self.scales.at(at),
            scaled_sums: self.scaled_sums.at(at),
            sums: self.sums.at(at),
        }
    }

    /// Quantises one column from the bound source.
    ///
    /// # Safety
    /// Each column is given to one worker, and the product is a later phase.
    pub(super) unsafe fn quantise(&self, isa: Isa, column: usize) {
        assert!(column < self.columns && self.cols.is_multiple_of(BLOCK));
        assert!(self.scales.len() >= self.columns * (self.cols / BLOCK));
        isa.run(Quantise { acts: self, column });
    }
}

struct Quantise<'a> {
    acts: &'a Acts,
    column: usize,
}

impl Kernel for Quantise<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self) {
        let a = self.acts;
        let x = a.values(self.column);
        let panel = self.column / a.panel;
        let n = a.panel_columns(panel);
        let blocks = a.cols / BLOCK;
        let first = panel * a.panel * blocks + self.column % a.panel;
        for block in 0..blocks {
            let at = first + block * n;
            let x = &x[block * BLOCK..][..BLOCK];
            // SAFETY: `at` is below columns * blocks, for which there is room; this worker alone has this column.
            unsafe {
                let (lo, hi) = (S::load(x.as_ptr()), S::load(x.as_ptr().add(LANES)));
                let finite = S::finite(lo) & S::finite(hi);
                let amax = if finite { S::max_lane(S::max(S::abs(lo), S::abs(hi))) } else { f32::NAN };
                let scale = amax / 127.0;
                let inverse = if amax > 0.0 { 127.0 / amax } else { 0.0 };
                let inverse = if inverse.is_finite() { inverse } else { 0.0 };
                let quants = a.quants.at(at * BLOCK);
                // A broken value times 0 is no number yet: zeros stand for the quants, the scale poisons the product.
                let quantised = |x| if finite { S::round(S::mul(x, S::splat(inverse))) } else { S::splat(0.0) };
                let sums = [S::store_i8(quants, quantised(lo)), S::store_i8(quants.add(LANES), quantised(hi))];
                *a.scales.at(at) = scale;
                *a.scaled_sums.at(at) = scale * (sums[0] + sums[1]) as f32;
                *a.sums.at(at) = sums;
            }
        }
    }
}
