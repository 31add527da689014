//! Writes `.apr` files as `apr-format` does: sorted index, tensors at multiples of 64 and filled up to them, a checksum
//! at the end. The same model gives the same bytes everywhere.

use std::io::Write;

use super::header::{BYTES, Header, flag};
use super::index::{self, ALIGNMENT};
use super::metadata;
use crate::error::{Error, Kind, Place, Result};
use crate::file::Metadata;
use crate::file::outgoing::{Counted, Data, Outgoing, unwritten};
use crate::limits;

/// Writes a model.
pub fn write(out: &mut dyn Write, metadata: &Metadata, tensors: &[Outgoing<'_>], data: Data<'_>) -> Result<()> {
    let json = serde_json::Value::Object(metadata::write(metadata)?).to_string();
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| tensors[i].name);
    let mut section = Vec::new();
    let mut offset = 0u64;
    for t in order.iter().map(|&i| &tensors[i]) {
        if t.name.is_empty() || t.name.len() as u64 > limits::TENSOR_NAME_BYTES_MAX {
            return Err(Error::new(Kind::Unsupported, "an .apr file cannot hold a name of this length")
                .at(Place::Tensor(t.name.into())));
        }
        index::write(&mut section, t.name, t.dtype as u8, t.shape, offset, t.bytes);
        offset += t.bytes.next_multiple_of(ALIGNMENT as u64);
    }
    let index = BYTES + json.len().next_multiple_of(ALIGNMENT);
    let header = Header {
        flags: flag::ROW_MAJOR,
        tensors: tensors.len(),
        metadata: BYTES..BYTES + json.len(),
        index,
        data: index + section.len().next_multiple_of(ALIGNMENT),
    };
    let before = header.data as u64;
    crate::file::at_most(before, limits::HEADER_BYTES_MAX, "bytes before the tensor data", Place::Byte(before))?;
    let mut out = Counted::new(out);
    out.section(&header.to_bytes(), ALIGNMENT)?;
    out.section(json.as_bytes(), ALIGNMENT)?;
    out.section(&section, ALIGNMENT)?;
    for i in order {
        out.tensor(&tensors[i], i, data, ALIGNMENT)?;
    }
    let sum = out.sum.clone().finalize();
    out.write_all(&sum.to_le_bytes()).map_err(|e| unwritten(&e))
}
