//! `.apr` version 2, the container of aprender and realizar, in one file or split over several.
//!
//! Layout: [`header`], metadata (a JSON object, [`json`] and [`metadata`]), tensor [`index`], tensor data, all of them
//! filled up to multiples of 64, then a checksum of everything. Two programs write it. *aprender* (the crate
//! `apr-format`) is the standard: HuggingFace's tensor names, bit 10 of the flags, a checksum at the end. *realizar*'s
//! own converter has GGUF's names and type numbers, not that bit, and no checksum. Both are read; what we write
//! ([`writer`]) is the first. Whoever made it, a file that contradicts itself is refused, and each tensor that
//! [`parse`] returns lies inside, whole, and overlaps no other.
//!
//! Tensors whose numbers are not in rows of whole blocks are decoded here, once ([`compute::quant::aprender`]): such
//! a tensor takes memory of its own, INT4 as much as it has in the file, INT8 and padded rows four bytes a weight.

pub mod compression;
pub mod header;
pub mod index;
pub mod json;
pub mod metadata;
pub mod stream;
pub mod writer;

use std::collections::BTreeMap;
use std::path::Path;

use compute::quant::aprender::{decode_int4, decode_int8, decode_padded_rows, int4_to_q4_0};
use compute::{Bytes, Format};

use super::cursor::disjoint;
use super::split::Parts;
use super::{Checked, Container, Metadata, Naming, Origins, Tensor, Value};
use crate::error::{Error, Place, Result};
use header::{Header, flag};
use index::{ALIGNMENT, Entry, Storage};

/// `.apr`, as [`super::ALL`] lists it.
pub static CONTAINER: Container = Container { name: "APR", sniff, open };

static PARTS: Parts = Parts { extension: "apr", parse };

/// Bytes of the checksum at the end.
pub const FOOTER: usize = 4;
/// Bytes that are summed at once.
const PIECE: usize = 16 << 20;

fn sniff(head: &[u8]) -> bool {
    // Version 1 and versions that never were are ours too, so that they are refused by name.
    head.starts_with(b"APR")
}

/// Reads a model from its file, and from the files beside it if it is split.
fn open(path: &Path, bytes: Bytes) -> Result<Checked> {
    PARTS.gathered(path, parse(bytes)?)
}

/// Reads one `.apr` file from memory or a mapping. Of a split model, that is one part with its own tensors.
//= F-APR-061
//= F-CRIT-302
pub fn parse(bytes: Bytes) -> Result<Checked> {
    let file_bytes = bytes.len() as u64;
    let header = Header::parse(&bytes)?;
    let (image, how) = match compression::inflated(&header, &bytes)? {
        None => (bytes, ""),
        Some(image) if header.has(flag::LZ4) => (Bytes::from(image), ", LZ4"),
        Some(image) => (Bytes::from(image), ", Zstandard"),
    };
    let ((metadata, origins), entries) = describe(&header, &image)?;
    let dialect = if check_end(&header, &entries, &image)? { "aprender" } else { "realizar" };
    let (tensors, others) = place(&header, entries, &image)?;
    Ok(Checked {
        format: format!("APR v2 ({dialect}{how})"),
        naming: naming(&metadata, &tensors)?,
        metadata,
        tensors,
        others,
        file_bytes,
        origins,
        warnings: Vec::new(),
    })
}

/// Metadata and index from the bytes before the tensor data. No two tensors share a byte.
fn describe(header: &Header, bytes: &[u8]) -> Result<((Metadata, Origins), Vec<Entry>)> {
    let too_short = || {
        Error::malformed(format!("the file ends before its tensor data, which begins at byte {}", header.data))
            .at(Place::Byte(bytes.len() as u64))
            .hint("the file is incomplete or damaged; fetch it again")
    };
    let head = bytes.get(..header.data).ok_or_else(too_short)?;
    let entries = json::parse(&head[header.metadata.clone()], header.metadata.start)?;
    let metadata = metadata::read(entries)?;
    let entries = index::parse(&head[header.index..], header.index, header.tensors)?;
    let spans = entries.iter().filter(|e| e.bytes > 0).map(|e| Ok((e.span(header.data, u64::MAX)?, e.name.clone())));
    disjoint(spans.collect::<Result<_>>()?)?;
    Ok((metadata, entries))
}

/// Whose names the tensors have, and whose order the rows of q and k. Names tell GGUF's from HuggingFace's. Under the
/// latter, importers keep the order of a GGUF file, and write down that it was one or how heads are paired.
//= F-APR-069
fn naming(metadata: &Metadata, tensors: &BTreeMap<String, Tensor>) -> Result<Naming> {
    if tensors.keys().any(|name| name == "token_embd.weight" || name.starts_with("blk.")) {
        return Ok(Naming::Gguf);
    }
    let adjacent = metadata.get(metadata::ROPE_TYPE) == Some(&Value::Unsigned(0));
    Ok(match metadata.string("apr.original_format")? {
        Some("gguf") => Naming::Renamed,
        None if adjacent => Naming::Renamed,
        _ => Naming::HuggingFace,
    })
}

/// Where the last tensor ends.
struct Extent {
    /// Without the padding behind it.
    bare: u64,
    /// With it.
    padded: u64,
}

fn extent(header: &Header, entries: &[Entry]) -> Result<Extent> {
    let mut extent = Extent { bare: header.data as u64, padded: header.data as u64 };
    for entry in entries {
        let bare = entry.span(header.data, u64::MAX)?.end as u64;
        extent.bare = extent.bare.max(bare);
        extent.padded = extent.padded.max((header.data as u64).saturating_add(padded(entry)));
    }
    Ok(extent)
}

/// Where the padding behind a tensor ends, from the start of the data. The sum was checked without the padding.
fn padded(entry: &Entry) -> u64 {
    entry.offset.saturating_add(entry.bytes.checked_next_multiple_of(ALIGNMENT as u64).unwrap_or(u64::MAX))
}

/// The file ends where the index says, and the checksum there is right. Only realizar's converter leaves it out: tells
/// whether there is one.
//= F-APR-073
fn check_end(header: &Header, entries: &[Entry], bytes: &Bytes) -> Result<bool> {
    let (extent, len) = (extent(header, entries)?, bytes.len() as u64);
    let at_end = |what: String| Error::malformed(what).at(Place::Byte(len));
    if Some(len) == extent.padded.checked_add(FOOTER as u64) {
        let body = bytes.len() - FOOTER;
        let mut sum = crc32fast::Hasher::new();
        // Of a mapped file only a piece at a time is kept in memory for this.
        for start in (0..body).step_by(PIECE) {
            if let Some(piece) = bytes.slice(start..body.min(start + PIECE)) {
                sum.update(&piece);
                piece.release_pages();
            }
        }
        check_sum(sum.finalize(), &bytes[body..], body as u64)?;
        return Ok(true);
    }
    if !header.has(flag::ROW_MAJOR) && (extent.bare..=extent.padded).contains(&len) {
        return Ok(false);
    }
    let hint = "the file is incomplete or damaged; fetch it again";
    if len < extent.bare
        && let Some(entry) = entries.iter().find(|e| e.span(header.data, len).is_err())
    {
        entry.span(header.data, len)?;
    }
    Err(at_end(format!("{len} bytes, but its tensors and their checksum end at {}", extent.padded + FOOTER as u64))
        .hint(hint))
}

/// Compares the checksum of a file with the one at its end, which stands at byte `at`.
fn check_sum(sum: u32, stated: &[u8], at: u64) -> Result<()> {
    if sum.to_le_bytes() == *stated {
        return Ok(());
    }
    Err(Error::malformed("the checksum of the file is wrong: metadata, index or tensor data are damaged")
        .at(Place::Byte(at))
        .hint("fetch the file again"))
}

/// Finds every tensor's bytes, and decodes those that no kernel reads as they are. Beside them, what cannot be weights.
//= F-APR-068
fn place(
    header: &Header,
    entries: Vec<Entry>,
    bytes: &Bytes,
) -> Result<(BTreeMap<String, Tensor>, BTreeMap<String, String>)> {
    let (mut tensors, mut others) = (BTreeMap::new(), BTreeMap::new());
    for entry in entries {
        let range = entry.span(header.data, bytes.len() as u64)?;
        let stored = bytes.slice(range).ok_or_else(|| Error::malformed("its data ends beyond the file"))?;
        match tensor(entry.storage, entry.shape, stored) {
            Some(tensor) => drop(tensors.insert(entry.name, tensor)),
            None => {
                if let Storage::Other(format) = entry.storage {
                    others.insert(entry.name, format!("numbers of type {format} are not supported"));
                }
            }
        }
    }
    Ok((tensors, others))
}

/// A tensor in a format whose blocks make whole rows. `None` if it holds no weights.
pub fn tensor(storage: Storage, shape: Vec<usize>, stored: Bytes) -> Option<Tensor> {
    let cols = shape.last().copied().unwrap_or(1);
    let n: usize = shape.iter().product();
    let floats = |values: Vec<f32>| Bytes::from(values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
    let q4_0 = Format::from_name("Q4_0").filter(|f| f.row_bytes(cols).is_some());
    let (format, bytes) = match (storage, q4_0) {
        // The head is the embedding table: a model without a head says the same.
        (Storage::Tied | Storage::Other(_), _) => return None,
        (Storage::Plain(format), _) => (format, stored),
        (Storage::Int4, Some(q4_0)) => (q4_0, Bytes::from(int4_to_q4_0(&stored))),
        (Storage::Int4, None) => (Format::F32, floats(decode_int4(&stored, n))),
        (Storage::Int8, _) => (Format::F32, floats(decode_int8(&stored))),
        (Storage::Padded(format), _) => (Format::F32, floats(decode_padded_rows(format, &stored, cols))),
    };
    Some(Tensor { format, shape, bytes })
}

#[cfg(test)]
mod tests;
