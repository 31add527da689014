//! GGUF versions 2 and 3, little-endian: the container of llama.cpp, in one file or split over several.
//!
//! Layout: magic, version, counts; metadata entries; tensor descriptions; then, from the next multiple of the
//! alignment, the tensor data, which stays in the mapping. This file (floor 1) knows the layout and refuses to
//! know what a key or a tensor means, save `general.alignment` and the `split.*` keys, which are part of the
//! layout. Every number goes through [`Cursor`], and what [`parse`] returns is true of the bytes: each tensor
//! lies inside, whole, and overlaps no other.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use compute::{Bytes, Format};

use super::cursor::{Cursor, disjoint, elements, span, tensor_bytes};
use super::split::Parts;
use super::{Checked, Container, Metadata, Naming, Origins, Tensor, Value, at_most, inside, over};
use crate::error::{Error, Kind, Place, Result};
use crate::limits;

pub mod writer;

#[cfg(test)]
mod tests;

/// GGUF, as [`super::ALL`] lists it.
pub static CONTAINER: Container = Container { name: "GGUF", sniff, open };

static PARTS: Parts = Parts { extension: "gguf", parse };

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT_DEFAULT: u64 = 32;

/// The types of metadata values: index = type id, (name, least bytes that one takes).
const VALUE_TYPES: [(&str, u64); 13] = [
    ("u8", 1),
    ("i8", 1),
    ("u16", 2),
    ("i16", 2),
    ("u32", 4),
    ("i32", 4),
    ("f32", 4),
    ("bool", 1),
    ("string", 8), // a length
    ("array", 12), // an element type and a count
    ("u64", 8),
    ("i64", 8),
    ("f64", 8),
];
const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// ggml's tensor types by id, so that a refusal can name what it refuses. `compute` says which ones this
/// build reads.
#[rustfmt::skip]
const TENSOR_TYPES: [&str; 43] = [
    "F32", "F16", "Q4_0", "Q4_1", "Q4_2 (removed from GGUF)", "Q4_3 (removed from GGUF)", "Q5_0", "Q5_1",
    "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K",
    "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
    "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16", "Q4_0_4_4 (removed from GGUF)",
    "Q4_0_4_8 (removed from GGUF)", "Q4_0_8_8 (removed from GGUF)", "TQ1_0", "TQ2_0",
    "IQ4_NL_4_4 (removed from GGUF)", "IQ4_NL_4_8 (removed from GGUF)", "IQ4_NL_8_8 (removed from GGUF)",
    "MXFP4", "NVFP4", "Q1_0", "Q2_0",
];

/// ggml's name of a tensor type, whether this build reads it or not.
pub(super) fn type_name(id: u32) -> Option<&'static str> {
    TENSOR_TYPES.get(id as usize).copied()
}

fn sniff(head: &[u8]) -> bool {
    // Reversed magic is ours too, so that a big-endian file is refused by name.
    head.starts_with(MAGIC) || head.starts_with(b"FUGG")
}

/// Reads a model from its file, and from the files beside it if it is split.
fn open(path: &Path, bytes: Bytes) -> Result<Checked> {
    PARTS.gathered(path, parse(bytes)?)
}

/// Reads one GGUF file from memory or a mapping. Of a split model, that is one part with its own tensors.
//= F-GGUF-058
pub fn parse(bytes: Bytes) -> Result<Checked> {
    let mut c = Cursor::new(&bytes);
    let head = read_head(&mut c)?;
    let (metadata, alignment) = read_metadata(&mut c, head.entries)?;
    let infos = read_infos(&mut c, head.tensors)?;
    let tensors = place_tensors(&bytes, c, infos, alignment)?;
    Ok(Checked {
        format: format!("GGUF v{}", head.version),
        naming: Naming::Gguf,
        metadata,
        tensors,
        others: BTreeMap::new(),
        file_bytes: bytes.len() as u64,
        origins: Origins::default(),
        warnings: Vec::new(),
    })
}

/// The first 24 bytes.
struct Head {
    version: u32,
    tensors: usize,
    entries: usize,
}

fn read_head(c: &mut Cursor<'_>) -> Result<Head> {
    let magic = c.take(4, "the magic")?;
    if magic == b"FUGG" {
        return Err(big_endian());
    }
    if magic != MAGIC {
        return Err(Error::malformed("not a GGUF file: it does not begin with 'GGUF'").at(Place::Byte(0)));
    }
    let place = c.place();
    let version = c.u32("the version")?;
    match version {
        2 | 3 => {}
        0 => return Err(Error::malformed("there is no GGUF version 0").at(place)),
        v if v & 0xffff == 0 => return Err(big_endian()),
        v => {
            let what = format!("GGUF version {v} is not supported");
            return Err(Error::new(Kind::Unsupported, what).at(place).hint("versions 2 and 3 are"));
        }
    }
    let place = c.place();
    // The least tensor: a name of one byte, one extent, a type, an offset. The least entry: a key of one
    // byte, a value.
    let tensors = c.count((8 + 1) + 4 + 8 + 4 + 8, "tensors")?;
    at_most(tensors as u64, limits::TENSORS_MAX, "tensors", place)?;
    let place = c.place();
    let entries = c.count((8 + 1) + 4 + 1, "metadata entries")?;
    at_most(entries as u64, limits::METADATA_ENTRIES_MAX, "metadata entries", place)?;
    Ok(Head { version, tensors, entries })
}

/// Big-endian files have the same magic and every number reversed; a version that looks huge gives them away.
fn big_endian() -> Error {
    Error::new(Kind::Unsupported, "big-endian GGUF is not supported")
        .at(Place::Byte(4))
        .hint("convert the file to little-endian (gguf_convert_endian.py of llama.cpp does)")
}

/// Reads `count` entries. Also gives the alignment of the tensor data, which is one of them.
//= F-GGUF-048
fn read_metadata(c: &mut Cursor<'_>, count: usize) -> Result<(Metadata, u64)> {
    let mut metadata = Metadata::default();
    let mut alignment = ALIGNMENT_DEFAULT;
    let mut values_left = limits::METADATA_VALUES_MAX;
    for _ in 0..count {
        let key = read_name(c, limits::KEY_BYTES_MAX, "a metadata key")?;
        let (type_id, value) = read_entry(c, &mut values_left).map_err(|e| inside(e, &key))?;
        //= F-JID-265
        if let Value::RawString(bytes) = &value {
            let what = format!("the string is not valid UTF-8 from its byte {} on", valid_bytes(bytes));
            return Err(Error::malformed(what).at(Place::Key(key)));
        }
        if key == ALIGNMENT_KEY {
            alignment = check_alignment(type_id, &value)?;
        }
        if metadata.entries.contains_key(&key) {
            return Err(Error::malformed("the key stands in the file twice").at(Place::Key(key)));
        }
        metadata.entries.insert(key, value);
    }
    Ok((metadata, alignment))
}

fn read_entry(c: &mut Cursor<'_>, values_left: &mut u64) -> Result<(u32, Value)> {
    let type_id = read_value_type(c)?;
    Ok((type_id, read_value(c, type_id, 0, values_left)?))
}

fn read_value_type(c: &mut Cursor<'_>) -> Result<u32> {
    let place = c.place();
    let id = c.u32("a value type")?;
    if id as usize >= VALUE_TYPES.len() {
        return Err(Error::malformed(format!("there is no metadata value type {id}")).at(place));
    }
    Ok(id)
}

/// Reads a value of a type that [`read_value_type`] admitted. `depth` counts the arrays around it.
fn read_value(c: &mut Cursor<'_>, type_id: u32, depth: usize, values_left: &mut u64) -> Result<Value> {
    let signed = |n: i64| u64::try_from(n).map_or(Value::Signed(n), Value::Unsigned);
    let what = "a value";
    Ok(match type_id {
        0 => Value::Unsigned(c.u8(what)?.into()),
        1 => signed(c.i8(what)?.into()),
        2 => Value::Unsigned(c.u16(what)?.into()),
        3 => signed(c.i16(what)?.into()),
        U32 => Value::Unsigned(c.u32(what)?.into()),
        5 => signed(c.i32(what)?.into()),
        6 => Value::Float(c.f32(what)?.into()),
        7 => Value::Bool(c.bool(what)?),
        STRING => read_string(c)?,
        ARRAY => read_array(c, depth + 1, values_left)?,
        10 => Value::Unsigned(c.u64(what)?),
        11 => signed(c.i64(what)?),
        _ => Value::Float(c.f64(what)?),
    })
}

fn read_string(c: &mut Cursor<'_>) -> Result<Value> {
    let place = c.place();
    let len = c.u64("the length of a string")?;
    let bytes = c.take(len, "a string")?;
    at_most(len, limits::STRING_BYTES_MAX, "bytes of a string", place.clone())?;
    at_most(c.position(), limits::HEADER_BYTES_MAX, "bytes of metadata", place)?;
    Ok(match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => Value::RawString(bytes.to_vec()),
    })
}

/// How many bytes at the beginning are UTF-8.
fn valid_bytes(bytes: &[u8]) -> usize {
    std::str::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len)
}

fn read_array(c: &mut Cursor<'_>, depth: usize, values_left: &mut u64) -> Result<Value> {
    let place = c.place();
    at_most(depth as u64, limits::ARRAY_DEPTH_MAX as u64, "levels of arrays", place)?;
    let type_id = read_value_type(c)?;
    let place = c.place();
    let (name, min_bytes) = VALUE_TYPES[type_id as usize];
    let len = c.count(min_bytes, &format!("array elements of type {name}"))?;
    let left = values_left.checked_sub(len as u64);
    *values_left = left.ok_or_else(|| over(limits::METADATA_VALUES_MAX, "metadata values", place))?;
    let mut values = Vec::with_capacity(len);
    for _ in 0..len {
        values.push(read_value(c, type_id, depth, values_left)?);
    }
    Ok(Value::Array(values))
}

fn check_alignment(type_id: u32, value: &Value) -> Result<u64> {
    let place = || Place::Key(ALIGNMENT_KEY.into());
    match *value {
        Value::Unsigned(n) if type_id == U32 => {
            // The format wants a multiple of 8; a power of two makes every later rounding exact.
            if n < 8 || !n.is_power_of_two() {
                return Err(Error::malformed(format!("{n} is not a power of two of at least 8")).at(place()));
            }
            at_most(n, limits::ALIGNMENT_MAX, "bytes of alignment", place())?;
            Ok(n)
        }
        _ => {
            let name = VALUE_TYPES[type_id as usize].0;
            Err(Error::malformed(format!("the alignment has type {name}, expected u32")).at(place()))
        }
    }
}

/// A tensor as described, not yet compared with the data section.
struct Info {
    name: String,
    format: Format,
    /// Slowest extent first; the file has them the other way round.
    shape: Vec<usize>,
    bytes: u64,
    /// From the start of the data section.
    offset: u64,
}

fn read_infos(c: &mut Cursor<'_>, count: usize) -> Result<Vec<Info>> {
    let mut infos = Vec::with_capacity(count);
    for _ in 0..count {
        let name = read_name(c, limits::TENSOR_NAME_BYTES_MAX, "a tensor name")?;
        infos.push(read_info(c, name)?);
    }
    Ok(infos)
}

//= F-GGUF-057
fn read_info(c: &mut Cursor<'_>, name: String) -> Result<Info> {
    let place = c.place();
    let dims = c.u32("the number of dimensions").map_err(|e| inside(e, &name))?;
    if !(1..=limits::TENSOR_DIMS_MAX).contains(&dims) {
        let max = limits::TENSOR_DIMS_MAX;
        return Err(inside(Error::malformed(format!("{dims} dimensions, expected 1 to {max}")).at(place), &name));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        let extent = c.u64("the extents").map_err(|e| inside(e, &name))?;
        shape.push(usize::try_from(extent).unwrap_or(usize::MAX));
    }
    shape.reverse();
    let type_id = c.u32("the tensor type").map_err(|e| inside(e, &name))?;
    let offset = c.u64("the offset").map_err(|e| inside(e, &name))?;

    let tensor = || Place::Tensor(name.clone());
    if shape.contains(&0) {
        return Err(Error::malformed(format!("the shape {shape:?} has an extent of 0")).at(tensor()));
    }
    if elements(&shape).is_none() {
        return Err(Error::malformed(format!("the shape {shape:?} has too many elements to count")).at(tensor()));
    }
    let format = Format::from_ggml(type_id).ok_or_else(|| unsupported_type(type_id).at(tensor()))?;
    match tensor_bytes(format, &shape) {
        Some(bytes) => Ok(Info { bytes: bytes as u64, name, format, shape, offset }),
        None => {
            let (cols, block) = (shape[shape.len() - 1], format.0.block_len);
            let what = if cols.is_multiple_of(block) {
                format!("the shape {shape:?} has more bytes than can be counted")
            } else {
                format!("rows of {cols} are not a multiple of {block}, the block length of {format}")
            };
            Err(Error::malformed(what).at(tensor()))
        }
    }
}

fn unsupported_type(id: u32) -> Error {
    let what = match type_name(id) {
        Some(name) => format!("numbers of type {name} (ggml type {id}) are not supported"),
        None => format!("ggml type {id} is unknown"),
    };
    let known: Vec<&str> = compute::quant::ALL.iter().map(|spec| spec.name).collect();
    Error::new(Kind::Unsupported, what).hint(format!("supported types: {}", known.join(", ")))
}

/// Finds every tensor's bytes in the data section, which begins at the next multiple of the alignment.
fn place_tensors(
    bytes: &Bytes,
    mut c: Cursor<'_>,
    infos: Vec<Info>,
    alignment: u64,
) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    let mut spans = Vec::with_capacity(infos.len());
    if !infos.is_empty() {
        c.align_to(alignment, "the padding before the tensor data")?;
    }
    for info in infos {
        let range = span_of(&info, c.position(), alignment, bytes.len() as u64)?;
        let data = bytes.slice(range.clone()).ok_or_else(|| Error::malformed("its data ends beyond the file"))?;
        spans.push((range, info.name.clone()));
        let tensor = Tensor { format: info.format, shape: info.shape, bytes: data };
        if tensors.insert(info.name.clone(), tensor).is_some() {
            return Err(Error::malformed("the tensor stands in the file twice").at(Place::Tensor(info.name)));
        }
    }
    disjoint(spans)?;
    Ok(tensors)
}

/// The bytes of a tensor in a file of `end` bytes whose data section begins at `start`.
fn span_of(info: &Info, start: u64, alignment: u64, end: u64) -> Result<Range<usize>> {
    let tensor = || Place::Tensor(info.name.clone());
    if !info.offset.is_multiple_of(alignment) {
        let what = format!("its offset {} is not a multiple of the alignment, {alignment}", info.offset);
        return Err(Error::malformed(what).at(tensor()));
    }
    span(start, info.offset, info.bytes, end).ok_or_else(|| {
        let stop = u128::from(start) + u128::from(info.offset) + u128::from(info.bytes);
        Error::malformed(format!("its data ends at byte {stop}, but the file has {end} bytes"))
            .at(tensor())
            .hint("the file is incomplete or damaged; fetch it again")
    })
}

/// Reads a key or the name of a tensor: text of at least one byte.
fn read_name(c: &mut Cursor<'_>, max: u64, what: &str) -> Result<String> {
    let place = c.place();
    let len = c.u64(&format!("the length of {what}"))?;
    let bytes = c.take(len, what)?;
    if bytes.is_empty() {
        return Err(Error::malformed(format!("{what} is empty")).at(place));
    }
    at_most(len, max, &format!("bytes of {what}"), place.clone())?;
    at_most(c.position(), limits::HEADER_BYTES_MAX, "bytes before the tensor data", place.clone())?;
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => {
            let what = format!("{what} is not valid UTF-8 from its byte {} on", e.valid_up_to());
            Err(Error::malformed(what).at(place))
        }
    }
}
