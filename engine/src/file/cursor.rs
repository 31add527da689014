//! The bounded cursor: the only code that computes with numbers from a file that nobody has checked yet.
//!
//! Its rule: a length is compared with the bytes that exist before it meets an allocator or an index.
//! Everything is checked, nothing wraps, and there is one formula for the size of a tensor
//! ([`tensor_bytes`]), which divides before it multiplies. It knows no container; every one of them reads
//! through it. Errors name the byte that they found wrong.

use std::ops::Range;

use compute::Format;

use crate::error::{Error, Place, Result, quoted};

/// Reads little-endian numbers from the front of some bytes and never past their end.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// One reader for each fixed-size number: `name -> type`.
macro_rules! numbers {
    ($($name:ident)*) => {
        $(
            #[doc = concat!("The next little-endian `", stringify!($name), "`. `what` names it in the error.")]
            pub fn $name(&mut self, what: &str) -> Result<$name> {
                Ok($name::from_le_bytes(self.array(what)?))
            }
        )*
    };
}

impl<'a> Cursor<'a> {
    /// At the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    /// Bytes already read, which is the offset of the next one.
    pub fn position(&self) -> u64 {
        self.at as u64
    }

    /// Where the cursor stands, for an error about what comes next.
    pub fn place(&self) -> Place {
        Place::Byte(self.position())
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `n` bytes, as they lie in the file.
    pub fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(n).ok().and_then(|n| rest.get(..n)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.ends_inside(what, n)),
        }
    }

    numbers! { u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 }

    /// A bool, which is one byte that is 0 or 1. Any other byte means that we are reading something else.
    pub fn bool(&mut self, what: &str) -> Result<bool> {
        let place = self.place();
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::malformed(format!("{what} is a bool, but its byte is {other}")).at(place)),
        }
    }

    /// A u64 that counts things of at least `min_bytes` bytes each, all of them still to come: as many must
    /// fit into what remains. Only then may anyone reserve memory for them.
    pub fn count(&mut self, min_bytes: u64, what: &str) -> Result<usize> {
        let place = self.place();
        let count = self.u64(what)?;
        let fits = count.checked_mul(min_bytes).is_some_and(|needed| needed <= self.remaining());
        usize::try_from(count).ok().filter(|_| fits).ok_or_else(|| {
            let left = self.remaining();
            Error::malformed(format!("{count} {what} announced, but only {left} bytes are left")).at(place)
        })
    }

    /// Skips to the next multiple of `alignment`, a power of two, counted from the start of the file.
    pub fn align_to(&mut self, alignment: u64, what: &str) -> Result<()> {
        let aligned = self.position().checked_next_multiple_of(alignment.max(1));
        let aligned = aligned.and_then(|a| usize::try_from(a).ok()).filter(|&a| a <= self.bytes.len());
        self.at = aligned.ok_or_else(|| self.ends_inside(what, alignment))?;
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.ends_inside(what, N as u64)),
        }
    }

    fn ends_inside(&self, what: &str, bytes: u64) -> Error {
        let left = self.remaining();
        Error::malformed(format!("the file ends inside {what}: {bytes} bytes needed, {left} left")).at(self.place())
    }
}

/// The range `base + offset .. base + offset + len`, if it ends at or before `end`.
pub fn span(base: u64, offset: u64, len: u64, end: u64) -> Option<Range<usize>> {
    let start = base.checked_add(offset)?;
    let stop = start.checked_add(len).filter(|&stop| stop <= end)?;
    Some(usize::try_from(start).ok()?..usize::try_from(stop).ok()?)
}

/// How many elements a tensor has. `None` if the product does not fit; the product of no extents is 1.
pub fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent))
}

/// Bytes of a tensor of this shape (slowest extent first): whole rows of whole blocks. `None` if the rows are
/// not whole blocks or a product does not fit. This is the only such formula; the row is divided into blocks
/// first, so a count of elements that wraps cannot come out small.
pub fn tensor_bytes(format: Format, shape: &[usize]) -> Option<usize> {
    let (cols, leading) = shape.split_last()?;
    elements(shape)?;
    format.row_bytes(*cols)?.checked_mul(elements(leading)?)
}

/// Refuses tensors that share bytes. Takes where each lies and what it is called.
pub fn disjoint(mut spans: Vec<(Range<usize>, String)>) -> Result<()> {
    spans.sort_by_key(|(range, _)| range.start);
    for pair in spans.windows(2) {
        let ((before, other), (range, name)) = (&pair[0], &pair[1]);
        if range.start < before.end {
            let what = format!("its data overlaps that of tensor {}", quoted(other));
            return Err(Error::malformed(what).at(Place::Tensor(name.clone())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn numbers_are_little_endian_and_advance() {
        let mut c = Cursor::new(&[1, 2, 0, 3, 0, 0, 0, 0xff, 0, 0, 0x80, 0x3f]); // 1 + 2 + 4 + 1 + 4 bytes
        assert_eq!(c.u8("a").unwrap(), 1);
        assert_eq!(c.u16("b").unwrap(), 2);
        assert_eq!(c.u32("c").unwrap(), 3);
        assert_eq!(c.i8("d").unwrap(), -1);
        assert_eq!(c.f32("e").unwrap(), 1.0);
        assert_eq!((c.position(), c.remaining()), (12, 0));
    }

    #[test]
    fn nothing_is_read_past_the_end_and_a_failed_read_does_not_move() {
        let mut c = Cursor::new(&[0; 7]);
        c.take(3, "x").unwrap();
        let e = c.u64("a key length").unwrap_err();
        assert_eq!((e.kind, e.at.clone()), (Kind::Malformed, Some(Place::Byte(3))));
        assert_eq!(e.what, "the file ends inside a key length: 8 bytes needed, 4 left");
        assert!(c.take(u64::MAX, "y").is_err() && c.take(5, "y").is_err());
        assert_eq!(c.take(4, "y").unwrap().len(), 4);
    }

    #[test]
    fn a_count_is_admitted_only_if_its_things_can_be_there() {
        let admit = |count: u64, each: u64| {
            let bytes = [&count.to_le_bytes()[..], &[0; 16]].concat();
            Cursor::new(&bytes).count(each, "keys")
        };
        assert_eq!(admit(2, 8).unwrap(), 2);
        for (count, each) in [(3, 8), (17, 1), (u64::MAX, 1), (u64::MAX, 8), (1 << 61, 8)] {
            let e = admit(count, each).unwrap_err();
            assert_eq!(e.at, Some(Place::Byte(0)), "{count} x {each}");
        }
    }

    #[test]
    fn bools_are_zero_or_one() {
        let mut c = Cursor::new(&[0, 1, 2]);
        assert_eq!((c.bool("b").unwrap(), c.bool("b").unwrap()), (false, true));
        assert_eq!(c.bool("b").unwrap_err().at, Some(Place::Byte(2)));
    }

    #[test]
    fn alignment_counts_from_the_start_and_stays_inside() {
        let mut c = Cursor::new(&[0; 40]);
        c.align_to(32, "data").unwrap();
        assert_eq!(c.position(), 0);
        c.take(1, "x").unwrap();
        c.align_to(32, "data").unwrap();
        assert_eq!(c.position(), 32);
        c.take(1, "x").unwrap();
        assert!(c.align_to(32, "data").is_err());
        assert_eq!(c.position(), 33);
    }

    #[test]
    fn spans_do_not_wrap() {
        assert_eq!(span(10, 5, 5, 20), Some(15..20));
        assert_eq!(span(10, 5, 6, 20), None);
        assert_eq!(span(10, u64::MAX - 31, 64, 1 << 40), None);
        assert_eq!(span(10, 5, u64::MAX, u64::MAX), None);
    }

    #[test]
    fn tensor_sizes_divide_before_they_multiply() {
        let q4_0 = Format::from_name("Q4_0").unwrap();
        assert_eq!(tensor_bytes(q4_0, &[3, 64]), Some(3 * 2 * 18));
        assert_eq!(tensor_bytes(q4_0, &[3, 33]), None);
        assert_eq!(tensor_bytes(Format::F32, &[7]), Some(28));
        // 5124095576030431008 / 32 * 18 is 2 modulo 2^64 when multiplied first.
        assert_eq!(tensor_bytes(q4_0, &[5124095576030431008]), Some(2882303761517117442));
        assert_eq!(tensor_bytes(q4_0, &[16, 5124095576030431008]), None);
        assert_eq!(tensor_bytes(Format::F32, &[2, i64::MAX as usize]), None);
    }
}
