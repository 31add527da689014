//! The tensor index: names, number formats, shapes, and where each tensor's bytes are.
//!
//! An entry is `u16` length and name, `u8` dtype, `u8` dimensions, as many `u64` extents (slowest first), `u64` offset
//! from the start of the data, `u64` bytes. Entries are packed, and sorted by name. Two families of writers number their
//! dtypes differently: 8 is aprender's INT4 of old and ggml's Q8_0. The size of a tensor tells which it is, since no
//! two meanings of one number have the same ([`DTYPES`]); anything else would be a guess.

use std::ops::Range;

use compute::Format;
use compute::quant::aprender::{int4_bytes, int8_bytes};

use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::cursor::{Cursor, elements, span, tensor_bytes};
use crate::file::gguf;
use crate::limits;

/// Tensors begin at multiples of this, and are filled up to it, the last one too.
pub const ALIGNMENT: usize = 64;
/// Bytes of the least entry: no name, no extents.
const LEAST: usize = 2 + 1 + 1 + 8 + 8;
/// The one tensor that may have no bytes: some writers say so that it is the embedding table.
const TIED_HEAD: &str = "lm_head.weight";

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A format of ours, rows of whole blocks: read where it lies.
    Plain(Format),
    /// A format of ours, each row filled up to whole blocks.
    Padded(Format),
    /// Aprender's INT4: blocks of 32 of the flattened tensor, each with a scale.
    Int4,
    /// Aprender's INT8: one scale for the whole tensor.
    Int8,
    /// No numbers: the embedding table is meant.
    Tied,
    /// Numbers of this name, which no weight of a language model has.
    Other(&'static str),
}

/// A meaning of a dtype number beside ggml's, which is the meaning of all others.
struct Dtype {
    id: u8,
    name: &'static str,
    bytes: fn(usize) -> Option<usize>,
    storage: Storage,
}

const fn dtype(id: u8, name: &'static str, bytes: fn(usize) -> Option<usize>, storage: Storage) -> Dtype {
    Dtype { id, name, bytes, storage }
}

/// The format's own dtypes, with the numbers that INT4 and INT8 had before March 2026.
static DTYPES: &[Dtype] = &[
    dtype(128, "INT4", int4_bytes, Storage::Int4), //= F-APR-062
    dtype(8, "INT4", int4_bytes, Storage::Int4),
    dtype(129, "INT8", int8_bytes, Storage::Int8), //= F-APR-063
    dtype(9, "INT8", int8_bytes, Storage::Int8),
    dtype(3, "F64", |n| n.checked_mul(8), Storage::Other("F64")),
    dtype(4, "I32", |n| n.checked_mul(4), Storage::Other("I32")),
    dtype(5, "I64", |n| n.checked_mul(8), Storage::Other("I64")),
    dtype(6, "I8", Some, Storage::Other("I8")),
    dtype(7, "U8", Some, Storage::Other("U8")),
];

/// The number that stands for INT4 in what we write.
pub const INT4: u8 = 128;

/// The dtype of a format in what we write: those of ggml's that aprender's reader knows under the same number.
//= F-APR-064
//= F-APR-065
pub fn dtype_of(format: Format) -> Option<u8> {
    matches!(format.0.name, "F32" | "F16" | "BF16" | "Q4_K" | "Q6_K").then_some(format.0.ggml_type as u8)
}

/// One tensor, its size and shape in agreement.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// How it is stored.
    pub storage: Storage,
    /// Extents, slowest first. None is 0.
    pub shape: Vec<usize>,
    /// From the start of the data section.
    pub offset: u64,
    /// Bytes, padding not counted.
    pub bytes: u64,
}

impl Entry {
    /// Where the tensor lies in a file of `end` bytes whose data begins at `data`.
    pub fn span(&self, data: usize, end: u64) -> Result<Range<usize>> {
        span(data as u64, self.offset, self.bytes, end).ok_or_else(|| {
            let stop = data as u128 + u128::from(self.offset) + u128::from(self.bytes);
            // A stream does not say how long it is; no file is that long.
            let limit =
                if end == u64::MAX { "beyond every file".into() } else { format!("but the file has {end} bytes") };
            Error::malformed(format!("its data ends at byte {stop}, {limit}"))
                .at(Place::Tensor(self.name.clone()))
                .hint("the file is incomplete or damaged; fetch it again")
        })
    }
}

/// Reads `count` entries from `section`, which begins at byte `at` of the file and may end in padding.
pub fn parse(section: &[u8], at: usize, count: usize) -> Result<Vec<Entry>> {
    //= F-APR-070
    // As the length of a name, these two would be too much.
    if section.starts_with(b"[{") {
        return Err(Error::new(Kind::Unsupported, "an .apr file whose tensor index is JSON is not supported")
            .at(Place::Byte(at as u64))
            .hint("it holds a whole model as JSON text; convert the original GGUF file again"));
    }
    if section.len() / LEAST < count {
        let what = format!("{count} tensors announced, but the index has {} bytes", section.len());
        return Err(Error::malformed(what).at(Place::Byte(8)));
    }
    let mut c = Cursor::new(section);
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = read(&mut c).map_err(|e| shifted(e, at))?;
        if let Some(before) = entries.last()
            && before.name >= entry.name
        {
            let what = match before.name == entry.name {
                true => "the tensor stands in the file twice".to_string(),
                false => format!("the index is not sorted: it follows {}", quoted(&before.name)),
            };
            return Err(Error::malformed(what).at(Place::Tensor(entry.name)));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// The cursor counts from the start of the section.
fn shifted(e: Error, by: usize) -> Error {
    let at = match e.at {
        Some(Place::Byte(byte)) => Some(Place::Byte(byte + by as u64)),
        other => other,
    };
    Error { at, ..e }
}

fn read(c: &mut Cursor<'_>) -> Result<Entry> {
    let place = c.place();
    let len = c.u16("the length of a tensor name")?;
    let name = c.take(len.into(), "a tensor name")?;
    if name.is_empty() || u64::from(len) > limits::TENSOR_NAME_BYTES_MAX {
        let what = format!("a tensor name of {len} bytes, expected 1 to {}", limits::TENSOR_NAME_BYTES_MAX);
        return Err(Error::malformed(what).at(place));
    }
    let name = std::str::from_utf8(name).map_err(|_| Error::malformed("a tensor name is not valid UTF-8").at(place))?;
    let id = c.u8("a dtype")?;
    let place = c.place();
    let dims = c.u8("the number of dimensions")?;
    if !(1..=limits::TENSOR_DIMS_MAX).contains(&dims.into()) {
        let what = format!("{}: {dims} dimensions, expected 1 to {}", quoted(name), limits::TENSOR_DIMS_MAX);
        return Err(Error::malformed(what).at(place));
    }
    let mut shape = Vec::with_capacity(dims.into());
    for _ in 0..dims {
        shape.push(usize::try_from(c.u64("the extents")?).unwrap_or(usize::MAX));
    }
    let (offset, bytes) = (c.u64("the offset")?, c.u64("the size")?);
    let wrong = |what: String| Error::malformed(what).at(Place::Tensor(name.into()));
    if shape.contains(&0) {
        return Err(wrong(format!("the shape {shape:?} has an extent of 0")));
    }
    let Some(n) = elements(&shape) else {
        return Err(wrong(format!("the shape {shape:?} has too many elements to count")));
    };
    if !offset.is_multiple_of(ALIGNMENT as u64) {
        return Err(wrong(format!("its offset {offset} is not a multiple of {ALIGNMENT}")));
    }
    let storage = match bytes {
        0 if name == TIED_HEAD => Storage::Tied,
        _ => storage(id, &shape, n, bytes).map_err(|e| e.at(Place::Tensor(name.into())))?,
    };
    Ok(Entry { name: name.into(), storage, shape, offset, bytes })
}

/// What dtype `id` means for a tensor of this shape and size.
fn storage(id: u8, shape: &[usize], n: usize, bytes: u64) -> Result<Storage> {
    let is = |size: Option<usize>| size.is_some_and(|size| size as u64 == bytes);
    let ggml = Format::from_ggml(id.into());
    if let Some(format) = ggml {
        if is(tensor_bytes(format, shape)) {
            return Ok(Storage::Plain(format));
        }
        if is(padded_bytes(format, shape)) {
            return Ok(Storage::Padded(format));
        }
    }
    let own = DTYPES.iter().find(|d| d.id == id);
    if let Some(dtype) = own
        && is((dtype.bytes)(n))
    {
        return Ok(dtype.storage);
    }
    if ggml.is_none() && own.is_none() {
        let what = match gguf::type_name(id.into()) {
            Some(name) => format!("numbers of type {name} (dtype {id}) are not supported"),
            None => format!("dtype {id} is unknown"),
        };
        return Err(Error::new(Kind::Unsupported, what));
    }
    let meant = [own.map(|d| (d.name, (d.bytes)(n))), ggml.map(|f| (f.0.name, padded_bytes(f, shape)))];
    let meant = meant.iter().flatten().map(|(name, size)| format!("{name}: {}", size.unwrap_or(usize::MAX)));
    let meant: Vec<String> = meant.collect();
    Err(Error::malformed(format!("{bytes} bytes do not hold {shape:?} in dtype {id} ({})", meant.join(", "))))
}

/// Bytes of a tensor whose rows are each filled up to whole blocks.
fn padded_bytes(format: Format, shape: &[usize]) -> Option<usize> {
    let (cols, leading) = shape.split_last()?;
    let padded = cols.checked_next_multiple_of(format.0.block_len)?;
    let rows = elements(leading)?;
    format.row_bytes(padded)?.checked_mul(rows)
}

/// An entry as it stands in a file.
pub fn write(out: &mut Vec<u8>, name: &str, dtype: u8, shape: &[usize], offset: u64, bytes: u64) {
    out.extend((name.len() as u16).to_le_bytes());
    out.extend(name.bytes());
    out.extend([dtype, shape.len() as u8]);
    shape.iter().for_each(|&extent| out.extend((extent as u64).to_le_bytes()));
    out.extend(offset.to_le_bytes());
    out.extend(bytes.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(id: u8, shape: &[usize], bytes: u64) -> Result<Storage> {
        let mut section = Vec::new();
        write(&mut section, "t", id, shape, 0, bytes);
        parse(&section, 0, 1).map(|e| e[0].storage)
    }

    fn format(name: &str) -> Format {
        Format::from_name(name).unwrap()
    }

    #[test]
    fn the_size_tells_what_a_number_means() {
        // 2 x 64 weights.
        for (id, bytes, want) in [
            (0, 512, Storage::Plain(Format::F32)),
            (1, 256, Storage::Plain(Format::F16)),
            (30, 256, Storage::Plain(format("BF16"))),
            (2, 72, Storage::Plain(format("Q4_0"))),
            (3, 80, Storage::Plain(format("Q4_1"))),
            (6, 88, Storage::Plain(format("Q5_0"))),
            (8, 136, Storage::Plain(format("Q8_0"))),
            (8, 72, Storage::Int4),
            (128, 72, Storage::Int4),
            (9, 132, Storage::Int8),
            (129, 132, Storage::Int8),
            (12, 2 * 144, Storage::Padded(format("Q4_K"))),
        ] {
            assert_eq!(one(id, &[2, 64], bytes).unwrap(), want, "dtype {id}, {bytes} bytes");
        }
        assert_eq!(one(14, &[2, 512], 4 * 210).unwrap(), Storage::Plain(format("Q6_K")));
        assert_eq!(one(14, &[3, 300], 6 * 210).unwrap(), Storage::Padded(format("Q6_K")));
        assert_eq!(one(128, &[5, 7], 36).unwrap(), Storage::Int4);
        // Its rows are not whole blocks, and ggml has no such file.
        assert_eq!(one(128, &[5, 7], 5 * 18).unwrap_err().kind, Kind::Malformed);
    }

    #[test]
    fn what_no_model_has_is_named_and_other_sizes_are_refused() {
        for (id, bytes, name) in [(3, 1024, "F64"), (4, 512, "I32"), (5, 1024, "I64"), (6, 128, "I8"), (7, 128, "U8")] {
            assert_eq!(one(id, &[2, 64], bytes).unwrap(), Storage::Other(name));
        }
        for (id, bytes, word) in [(16, 66, "IQ2_XXS"), (200, 1, "dtype 200 is unknown")] {
            let e = one(id, &[2, 64], bytes).unwrap_err();
            assert!(e.kind == Kind::Unsupported && e.what.contains(word), "{e}");
        }
        for id in [0, 1, 8, 9, 12, 14, 30, 128, 129] {
            for bytes in [0, 1, 71, 73, u64::MAX] {
                assert_eq!(one(id, &[2, 64], bytes).unwrap_err().kind, Kind::Malformed, "dtype {id}, {bytes} bytes");
            }
        }
        assert!(one(0, &[0, 4], 0).is_err() && one(0, &[1 << 33, 1 << 33], 0).is_err() && one(0, &[1; 5], 4).is_err());
    }

    #[test]
    fn an_index_is_sorted_and_as_long_as_it_says() {
        let two = |a: &str, b: &str| {
            let mut section = Vec::new();
            write(&mut section, a, 0, &[1], 0, 4);
            write(&mut section, b, 0, &[1], 64, 4);
            section
        };
        assert_eq!(parse(&two("a", "b"), 100, 2).unwrap().len(), 2);
        for (a, b) in [("b", "a"), ("a", "a"), ("", "a"), ("a", &*"x".repeat(257))] {
            assert!(parse(&two(a, b), 100, 2).is_err(), "{a} {b}");
        }
        let good = two("a", "b");
        for len in 0..good.len() {
            assert!(parse(&good[..len], 100, 2).is_err(), "{len}");
        }
        assert!(parse(&good, 100, usize::MAX).is_err());
        assert_eq!(parse(b"[{}]", 100, 1).unwrap_err().kind, Kind::Unsupported);
    }

    #[test]
    fn only_the_head_may_be_empty() {
        let mut section = Vec::new();
        write(&mut section, "lm_head.weight", 0, &[2, 64], 0, 0);
        assert_eq!(parse(&section, 0, 1).unwrap()[0].storage, Storage::Tied);
    }
}
