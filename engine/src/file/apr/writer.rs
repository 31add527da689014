//! Writes `.apr` files as `apr-format` does: sorted index, tensors at multiples of 64 and filled up to them, a checksum
//! at the end. The same model gives the same bytes everywhere.

use std::io::{self, Write};

use super::header::{BYTES, Header, flag};
use super::index::{self, ALIGNMENT};
use super::metadata;
use crate::error::{Error, Kind, Place, Result};
use crate::file::Metadata;
use crate::limits;

/// A tensor to be written: its description, and whoever knows its bytes.
pub struct Outgoing<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number format, as the container numbers them.
    pub dtype: u32,
    /// Extents, slowest first.
    pub shape: &'a [usize],
    /// How many bytes it has.
    pub bytes: u64,
}

/// Writes a model. `data` writes the bytes of the tensor of this number.
pub fn write(
    out: &mut dyn Write,
    metadata: &Metadata,
    tensors: &[Outgoing<'_>],
    data: &mut dyn FnMut(usize, &mut dyn Write) -> Result<()>,
) -> Result<()> {
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
    if header.data as u64 > limits::HEADER_BYTES_MAX {
        let what =
            format!("more than {} bytes before the tensor data, the limit of this build", limits::HEADER_BYTES_MAX);
        return Err(Error::new(Kind::TooLarge, what));
    }
    let mut out = Summed { out, sum: crc32fast::Hasher::new(), written: 0 };
    out.section(&header.to_bytes())?;
    out.section(json.as_bytes())?;
    out.section(&section)?;
    for i in order {
        let start = out.written;
        data(i, &mut out)?;
        if out.written - start != tensors[i].bytes {
            let what = format!("{} bytes written of {}", out.written - start, tensors[i].bytes);
            return Err(Error::new(Kind::Inference, what).at(Place::Tensor(tensors[i].name.into())));
        }
        out.section(&[])?;
    }
    let sum = out.sum.clone().finalize();
    out.write_all(&sum.to_le_bytes()).map_err(|e| unwritten(&e))
}

/// A file could not be written.
pub fn unwritten(e: &io::Error) -> Error {
    Error::new(Kind::Output, format!("cannot write the file: {e}"))
}

/// What goes out, counted and summed.
struct Summed<'a> {
    out: &'a mut dyn Write,
    sum: crc32fast::Hasher,
    written: u64,
}

impl Summed<'_> {
    /// Some bytes, and zeros up to the next multiple of the alignment.
    fn section(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.written + bytes.len() as u64;
        let padding = (end.next_multiple_of(ALIGNMENT as u64) - end) as usize;
        self.write_all(bytes).and_then(|()| self.write_all(&[0; ALIGNMENT][..padding])).map_err(|e| unwritten(&e))
    }
}

impl Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.sum.update(&bytes[..n]);
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
