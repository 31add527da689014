//! The rows of a tensor on their way into another file: in which order they go, and in which numbers.

use std::io::Write;

use compute::Format;
use compute::program::RopeLayout;
use compute::quant::aprender::{INT4_BLOCK, int4_bytes, q4_0_to_int4};

use crate::error::Result;
use crate::file::Tensor;
use crate::file::apr::index;
use crate::file::outgoing::{Outgoing, unwritten};

/// Bytes that are written at once.
const PIECE: usize = 1 << 20;

/// In which numbers a tensor is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Kept,
    /// Q4_0 blocks as INT4 blocks.
    Int4,
    /// Decoded to F32.
    Float,
}

impl Encoding {
    /// What a tensor of this format is written as.
    pub fn name(self, format: Format) -> &'static str {
        match self {
            Encoding::Kept => format.0.name,
            Encoding::Int4 => "INT4",
            Encoding::Float => "F32",
        }
    }
}

/// A tensor and what becomes of its rows.
pub struct Rows {
    /// What there is.
    pub tensor: Tensor,
    /// How it is written.
    pub encoding: Encoding,
    /// For the rows of q and k that have to change places: how many heads they make, and how these will pair them.
    pub heads: Option<(usize, RopeLayout)>,
}

impl Rows {
    /// As the target's index has it.
    pub fn announced<'a>(&'a self, name: &'a str) -> Outgoing<'a> {
        let dtype = match self.encoding {
            Encoding::Kept => self.tensor.format.0.ggml_type,
            Encoding::Int4 => index::INT4.into(),
            Encoding::Float => Format::F32.0.ggml_type,
        };
        Outgoing { name, dtype, shape: &self.tensor.shape, bytes: self.bytes() }
    }

    /// Bytes that will be written.
    pub fn bytes(&self) -> u64 {
        let n: usize = self.tensor.shape.iter().product();
        match self.encoding {
            Encoding::Kept => self.tensor.bytes.len() as u64,
            Encoding::Int4 => int4_bytes(n).unwrap_or(usize::MAX) as u64,
            Encoding::Float => 4 * n as u64,
        }
    }

    /// Writes them. `step` hears how many bytes came out.
    pub fn write(&self, out: &mut dyn Write, step: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let bytes = &self.tensor.bytes;
        let mut put = |coded: &[u8]| {
            out.write_all(coded).map_err(|e| unwritten(&e))?;
            step(coded.len() as u64)
        };
        match (self.heads, self.encoding) {
            (None, Encoding::Kept) => {
                // A model larger than memory goes through it piece by piece.
                for start in (0..bytes.len()).step_by(PIECE) {
                    let Some(piece) = bytes.slice(start..bytes.len().min(start + PIECE)) else { continue };
                    put(&piece)?;
                    piece.release_pages();
                }
            }
            _ => {
                // A vector of q is a column: its rows are single numbers.
                let cols =
                    if self.tensor.shape.len() == 1 { 1 } else { self.tensor.shape[self.tensor.shape.len() - 1] };
                let row_bytes = self.tensor.format.row_bytes(cols).unwrap_or(bytes.len()).max(1);
                let count = bytes.len() / row_bytes;
                for i in 0..count {
                    let from = self.heads.map_or(i, |(heads, to)| source_row(i, count / heads, to));
                    put(&self.encoded(&bytes[from * row_bytes..][..row_bytes], cols))?;
                }
            }
        }
        bytes.release_pages();
        Ok(())
    }

    fn encoded(&self, row: &[u8], cols: usize) -> Vec<u8> {
        match self.encoding {
            Encoding::Kept => row.to_vec(),
            Encoding::Int4 => {
                debug_assert!(cols.is_multiple_of(INT4_BLOCK), "rows of Q4_0 are whole blocks");
                q4_0_to_int4(row)
            }
            Encoding::Float => {
                let mut values = vec![0.0; cols];
                self.tensor.format.decode_row(row, &mut values);
                values.into_iter().flat_map(f32::to_le_bytes).collect()
            }
        }
    }
}

/// Which row of the other order is row `i` of this one, in heads of `dim` rows. HuggingFace pairs a head's row `i` with
/// `i + half`; GGUF has the two next to each other.
fn source_row(i: usize, dim: usize, to: RopeLayout) -> usize {
    let (head, i, half) = (i / dim, i % dim, dim / 2);
    head * dim
        + match to {
            RopeLayout::Interleaved => i % 2 * half + i / 2,
            RopeLayout::Split => i % half * 2 + i / half,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_are_paired() {
        let order: Vec<usize> = (0..12).map(|i| source_row(i, 6, RopeLayout::Interleaved)).collect();
        assert_eq!(order, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        let back = (0..12).map(|i| order[source_row(i, 6, RopeLayout::Split)]);
        assert!(back.eq(0..12));
    }
}
