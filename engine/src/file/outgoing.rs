//! What the writers of containers have in common: how a tensor is announced, and how its bytes follow.

use std::io::{self, Write};

use crate::error::{Error, Kind, Place, Result};

/// A tensor to be written: its description, before anybody made its bytes.
#[derive(Clone, Debug)]
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

/// Writes the bytes of the tensor of this number.
pub type Data<'a> = &'a mut dyn FnMut(usize, &mut dyn Write) -> Result<()>;

/// A file could not be written.
pub fn unwritten(e: &io::Error) -> Error {
    Error::new(Kind::Output, format!("cannot write the file: {e}"))
}

/// A writer that counts, and fills up to multiples of an alignment.
pub struct Counted<'a> {
    out: &'a mut dyn Write,
    /// Bytes so far.
    pub written: u64,
    /// CRC-32 of them.
    pub sum: crc32fast::Hasher,
}

impl<'a> Counted<'a> {
    /// Nothing yet.
    pub fn new(out: &'a mut dyn Write) -> Counted<'a> {
        Counted { out, written: 0, sum: crc32fast::Hasher::new() }
    }

    /// Some bytes, and zeros up to the next multiple of `alignment`.
    pub fn section(&mut self, bytes: &[u8], alignment: usize) -> Result<()> {
        self.write_all(bytes).map_err(|e| unwritten(&e))?;
        let padding = self.written.next_multiple_of(alignment as u64) - self.written;
        self.write_all(&vec![0; padding as usize]).map_err(|e| unwritten(&e))
    }

    /// A tensor's bytes, which have to be as many as were announced, and zeros up to the next multiple of `alignment`.
    pub fn tensor(&mut self, t: &Outgoing<'_>, no: usize, data: Data<'_>, alignment: usize) -> Result<()> {
        let start = self.written;
        data(no, self)?;
        let bytes = self.written - start;
        if bytes != t.bytes {
            let what = format!("{bytes} bytes were made of {} announced", t.bytes);
            return Err(Error::new(Kind::Inference, what).at(Place::Tensor(t.name.into())));
        }
        self.section(&[], alignment)
    }
}

impl Write for Counted<'_> {
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
