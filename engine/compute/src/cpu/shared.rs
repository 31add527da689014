//! Memory that workers share: each writes its own elements, and reads what others wrote in a later phase.

use std::cell::UnsafeCell;

/// A vector that several workers fill, each its own elements, through pointers.
pub struct SharedVec<T>(UnsafeCell<Vec<T>>);

// SAFETY: elements are only reached through the raw pointers of `at`, whose users keep workers apart; everything that
// moves the elements needs `&mut self`.
unsafe impl<T: Send> Sync for SharedVec<T> {}

impl<T> Default for SharedVec<T> {
    fn default() -> Self {
        SharedVec(UnsafeCell::new(Vec::new()))
    }
}

impl<T: Clone> SharedVec<T> {
    /// At least `len` elements.
    pub fn grow(&mut self, len: usize, fill: T) {
        let v = self.0.get_mut();
        if v.len() < len {
            v.resize(len, fill);
        }
    }

    /// Elements.
    pub(super) fn len(&self) -> usize {
        // SAFETY: nobody changes the vector itself through `&self`, only its elements.
        unsafe { (*self.0.get()).len() }
    }

    /// A pointer to element `i`, or one past the last.
    #[inline(always)]
    pub fn at(&self, i: usize) -> *mut T {
        assert!(i <= self.len());
        // SAFETY: the vector itself is not being changed, and the offset is inside its allocation or one past it.
        unsafe { (*self.0.get()).as_mut_ptr().add(i) }
    }

    /// `len` elements, or `None` if the memory cannot be had.
    pub fn try_new(len: usize, fill: T) -> Option<SharedVec<T>> {
        let mut v = Vec::new();
        crate::heap::fallible(|| v.try_reserve_exact(len)).ok()?;
        v.resize(len, fill);
        Some(SharedVec(UnsafeCell::new(v)))
    }

    /// The first `n` elements, when no worker is about.
    pub fn slice(&mut self, n: usize) -> &[T] {
        &self.0.get_mut()[..n]
    }

    /// The first `n` elements, to write, when no worker is about.
    pub fn slice_mut(&mut self, n: usize) -> &mut [T] {
        &mut self.0.get_mut()[..n]
    }
}

/// A matrix `[rows, width]` of f32 that several workers fill, each its own elements.
pub struct SharedMatrix {
    data: SharedVec<f32>,
    rows: usize,
    width: usize,
}

impl SharedMatrix {
    /// Zeroed.
    pub fn new(rows: usize, width: usize) -> SharedMatrix {
        let mut data = SharedVec::default();
        data.grow(rows * width, 0.0);
        SharedMatrix { data, rows, width }
    }

    /// Makes room for `rows` rows. Contents are unspecified afterwards.
    pub fn resize(&mut self, rows: usize) {
        self.rows = rows;
        self.data.grow(rows * self.width, 0.0);
    }

    /// Rows in use.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Panics unless the matrix holds `[rows, width]`: what a kernel asks before it takes pointers.
    pub fn check(&self, rows: usize, width: usize) {
        assert!(self.rows >= rows && self.width == width, "[{}, {}] for [{rows}, {width}]", self.rows, self.width);
    }

    /// Element `col` of row `row`.
    ///
    /// # Safety
    /// The element exists, and until the phase ends no other worker touches what the caller writes through this.
    #[inline(always)]
    pub unsafe fn at(&self, row: usize, col: usize) -> *mut f32 {
        debug_assert!(row < self.rows && col < self.width);
        self.data.at(row * self.width + col)
    }

    /// A row, to read.
    ///
    /// # Safety
    /// Until the phase ends no worker writes to it.
    #[inline(always)]
    pub unsafe fn row(&self, row: usize) -> &[f32] {
        assert!(row < self.rows);
        // SAFETY: the row exists; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.at(row, 0), self.width) }
    }

    /// A row, to write.
    ///
    /// # Safety
    /// Until the phase ends no other worker reads or writes it, and the caller holds no other reference to it.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // that is what this type is for
    pub unsafe fn row_mut(&self, row: usize) -> &mut [f32] {
        assert!(row < self.rows);
        // SAFETY: the row exists; the caller keeps everyone else away.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, 0), self.width) }
    }

    /// All rows in use.
    pub fn values(&mut self) -> &[f32] {
        self.data.slice(self.rows * self.width)
    }
}
