//! Families 20 and 21: a file that ends too early, at every byte of it, and one with any bit of its header flipped.

use std::io;

use engine::{Kind, Place};

use super::tiny;

/// A good file whose every prefix is bad: the whole of it, and the length of its header.
pub fn good() -> io::Result<(Vec<u8>, usize)> {
    let w = tiny()?;
    Ok((w.to_bytes()?, w.header().bytes.len()))
}

/// Whether a file that was cut to `len` of its bytes is refused as it should be. Inside the header the refusal names a
/// byte at or before the end, or the tensor or key that it was reading; inside the data, a tensor.
pub fn fits_cut(len: usize, header: usize, kind: Kind, at: Option<&Place>) -> bool {
    let place = match at {
        Some(Place::Byte(n)) => len <= header && *n <= len as u64,
        Some(Place::Tensor(_)) => true,
        _ => false,
    };
    kind == Kind::Malformed && place
}

/// Every bit of a header of this many bytes: which byte, and the bit.
pub fn flips(header: usize) -> impl Iterator<Item = (usize, u8)> {
    (0..header).flat_map(|at| (0..8).map(move |bit| (at, 1 << bit)))
}

/// Lengths to cut a longer file to: every one of a short header, 1,500 of a long one, and some of the rest.
pub fn cuts(header: usize, total: usize) -> impl Iterator<Item = usize> {
    let stride = (header / 1500).max(1);
    let rest = (total.saturating_sub(header) / 40).max(1);
    (0..header).step_by(stride).chain((header..total).step_by(rest)).chain([total - 1])
}
