//! Matrices in the form their kernels read, and one product on its own, as benches and tests want it.

use super::acts::Acts;
use super::isa::Isa;
use super::shared::SharedMatrix;
use super::tile::{self, Job, TILE_ROWS};
use crate::error::{Error, Result};
use crate::heap;
use crate::map::{Bytes, HugeBuffer};
use crate::program::{Op, Program, WeightRef};

/// A matrix in the form its kernel reads.
pub(super) struct Matrix {
    data: MatrixData,
    /// Number format.
    pub format: crate::quant::Format,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

enum MatrixData {
    Packed(HugeBuffer),
    Stored(Bytes),
}

impl Matrix {
    /// Repacks the weight if its format is repacked.
    fn new(w: &WeightRef) -> Result<Matrix> {
        let data = match tile::packed_bytes(w.format.0, w.rows, w.cols) {
            None => MatrixData::Stored(w.bytes.clone()),
            Some(len) => {
                let mut packed = HugeBuffer::new(len, "repacked weights")?;
                tile::pack(w.format.0, &w.bytes, w.rows, w.cols, &mut packed);
                MatrixData::Packed(packed)
            }
        };
        Ok(Matrix { data, format: w.format, rows: w.rows, cols: w.cols })
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            MatrixData::Packed(b) => b,
            MatrixData::Stored(b) => b,
        }
    }

    pub fn is_packed(&self) -> bool {
        matches!(self.data, MatrixData::Packed(_))
    }

    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }
}

/// Repacks every matrix that is multiplied by, and lets go of the file's pages behind it.
pub(super) fn repack(program: &Program, threads: usize) -> Result<Vec<Option<Matrix>>> {
    let mut multiplied = vec![false; program.weights.len()];
    for step in &program.steps {
        if let Op::MatMul { weight, .. } | Op::Logits { weight, .. } = step.op {
            multiplied[weight.0 as usize] = true;
        }
    }
    let workers = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build().map_err(|e| {
        match std::error::Error::source(&e).and_then(|e| e.downcast_ref()) {
            Some(e) => heap::no_thread(e),
            None => Error::Io(format!("cannot start threads for repacking: {e}")),
        }
    })?;
    let mut out = Vec::new();
    for (i, w) in program.weights.iter().enumerate() {
        if !multiplied[i] {
            out.push(None);
            continue;
        }
        let matrix = workers.install(|| Matrix::new(w))?;
        if matrix.is_packed() {
            // A tied embedding table comes back page by page as its rows are looked up.
            w.bytes.release_pages(); //= F-CPU-097
        }
        out.push(Some(matrix));
    }
    Ok(out)
}

/// One matrix product on its own.
pub struct Product {
    isa: Isa,
    matrix: Matrix,
    source: Box<SharedMatrix>,
    acts: Acts,
    out: SharedMatrix,
}

impl Product {
    /// Repacks the matrix.
    pub fn new(weight: &WeightRef, isa: Isa) -> Result<Product> {
        Ok(Product {
            isa,
            matrix: Matrix::new(weight)?,
            source: Box::new(SharedMatrix::new(0, weight.cols)),
            acts: Acts::new(isa),
            out: SharedMatrix::new(0, weight.rows),
        })
    }

    /// `[columns, rows]` of products of `x`, `[columns, cols]`, on the calling thread.
    pub fn run(&mut self, x: &[Vec<f32>], bias: Option<&[f32]>) -> &[f32] {
        self.source.resize(x.len());
        self.out.resize(x.len());
        self.acts.reserve(x.len(), self.matrix.cols);
        // SAFETY: one thread; the source is boxed, so it stays where `acts` was told it is until the next `bind`.
        unsafe {
            for (r, x) in x.iter().enumerate() {
                self.source.row_mut(r).copy_from_slice(x);
            }
            self.acts.bind(&self.source);
            if self.matrix.is_packed() {
                (0..x.len()).for_each(|c| self.acts.quantise(self.isa, c));
            }
        }
        self.multiply(bias);
        self.out.values()
    }

    /// The product alone, once more over the activations of the last [`Product::run`].
    pub fn multiply(&mut self, bias: Option<&[f32]>) {
        let m = &self.matrix;
        let tiles = 0..m.rows.div_ceil(TILE_ROWS);
        let job = Job { weights: m.bytes(), rows: m.rows, cols: m.cols, acts: &self.acts, bias, out: &self.out, tiles };
        (m.format.0.kernels.multiply)(self.isa, &job);
    }

    /// Bytes of the matrix as the kernel reads it.
    pub fn weight_bytes(&self) -> usize {
        self.matrix.bytes().len()
    }
}
