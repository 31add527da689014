//! Reading a bundle from front to back without having it in memory or on a disk: from a pipe, a socket, a decompressor.
//!
//! Header, metadata and index are checked as they arrive; then the tensors are handed out one at a time in the order in
//! which they lie in the file, each in pieces as small as the caller likes. Everything is summed on the way, and the
//! checksum at the end is compared when the last tensor has gone by: until [`Stream::next`] has given `None`, nobody
//! knows that the bytes were right.

use std::io::Read;
use std::path::Path;

use super::compression;
use super::header::{self, Header, flag};
use super::index::Entry;
use super::{Extent, FOOTER, check_sum, describe, extent};
use crate::error::{Error, Place, Result};
use crate::file::Metadata;

/// Bytes that are read over at once.
const PIECE: usize = 1 << 16;

/// A bundle that arrives.
pub struct Stream<'a> {
    source: Source<'a>,
    header: Header,
    metadata: Metadata,
    /// In the order of the data, those without bytes left out.
    entries: Vec<Entry>,
    extent: Extent,
    next: usize,
}

/// The bytes, counted and summed.
struct Source<'a> {
    reader: Box<dyn Read + 'a>,
    at: u64,
    sum: crc32fast::Hasher,
}

/// A tensor that arrives. What of it is not read is read over.
pub struct Arriving<'s, 'a> {
    /// What the index says of it.
    pub entry: &'s Entry,
    source: &'s mut Source<'a>,
    end: u64,
}

impl<'a> Stream<'a> {
    /// Reads everything before the tensor data.
    //= F-APR-072
    pub fn open(mut reader: impl Read + 'a) -> Result<Stream<'a>> {
        let mut head = Vec::new();
        fetch(&mut reader, &mut head, header::BYTES as u64, 0)?;
        let header = Header::parse(&head)?;
        // Enough to see whether the metadata is plain text.
        let mut begun = Vec::new();
        fetch(&mut reader, &mut begun, (header.metadata.end - header::BYTES) as u64, header::BYTES as u64)?;
        let plain = begun.get(header.metadata.start - header::BYTES..);
        let compressed = compression::is_compressed(&header, plain);
        let rest = std::io::Cursor::new(begun).chain(reader);
        let mut body = match compressed {
            true => compression::decoder(&header, rest)?,
            false => Box::new(rest),
        };
        fetch(&mut body, &mut head, header.data as u64, header::BYTES as u64)?;
        let ((metadata, _), mut entries) = describe(&header, &head)?;
        let extent = extent(&header, &entries)?;
        entries.retain(|e| e.bytes > 0);
        entries.sort_by_key(|e| e.offset);
        let mut sum = crc32fast::Hasher::new();
        sum.update(&head);
        let source = Source { reader: body, at: head.len() as u64, sum };
        Ok(Stream { source, header, metadata, entries, extent, next: 0 })
    }

    /// What the file says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors that will come, in this order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The next tensor. `None` when all have gone by and the checksum at the end is right.
    #[allow(clippy::should_implement_trait)] // Each one borrows the stream, so this can be no `Iterator`.
    pub fn next(&mut self) -> Result<Option<Arriving<'_, 'a>>> {
        if self.next == self.entries.len() {
            return self.finish().map(|()| None);
        }
        let entry = &self.entries[self.next];
        self.next += 1;
        let start = self.header.data as u64 + entry.offset;
        self.source.skip_to(start)?;
        Ok(Some(Arriving { entry, source: &mut self.source, end: start + entry.bytes }))
    }

    fn finish(&mut self) -> Result<()> {
        self.source.skip_to(self.extent.bare)?;
        let mut tail = Vec::new();
        let most = self.extent.padded - self.extent.bare + FOOTER as u64;
        (&mut self.source.reader).take(most + 1).read_to_end(&mut tail).map_err(|e| broken(&e, self.source.at))?;
        if tail.len() as u64 == most {
            let (padding, stated) = tail.split_at(tail.len() - FOOTER);
            self.source.sum.update(padding);
            return check_sum(self.source.sum.clone().finalize(), stated, self.extent.padded);
        }
        // Only realizar's converter writes no checksum.
        if !self.header.has(flag::ROW_MAJOR) && tail.len() as u64 <= most - FOOTER as u64 {
            return Ok(());
        }
        let what = format!("the stream does not end at byte {}", self.extent.padded + FOOTER as u64);
        Err(Error::malformed(what).at(Place::Byte(self.extent.bare + tail.len() as u64)))
    }
}

impl Arriving<'_, '_> {
    /// The next bytes, as many as `into` holds unless the tensor ends; 0 at its end.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.end - self.source.at).unwrap_or(usize::MAX).min(into.len());
        let into = &mut into[..left];
        self.source.fill(into)?;
        Ok(left)
    }

    /// All of it, what was read already left out.
    pub fn bytes(mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut piece = vec![0; PIECE];
        loop {
            match self.read(&mut piece)? {
                0 => return Ok(all),
                n => all.extend_from_slice(&piece[..n]),
            }
        }
    }
}

impl Source<'_> {
    fn fill(&mut self, into: &mut [u8]) -> Result<()> {
        self.reader.read_exact(into).map_err(|e| broken(&e, self.at))?;
        self.sum.update(into);
        self.at += into.len() as u64;
        Ok(())
    }

    fn skip_to(&mut self, at: u64) -> Result<()> {
        let mut piece = [0; PIECE];
        while self.at < at {
            let n = (at - self.at).min(PIECE as u64) as usize;
            self.fill(&mut piece[..n])?;
        }
        Ok(())
    }
}

/// Reads until `into` has `len` bytes or the stream ends; what is missing is found by whoever reads `into`. `at` is
/// where the stream stands, for errors. Memory grows with what arrives, not with what was announced.
fn fetch(reader: &mut dyn Read, into: &mut Vec<u8>, len: u64, at: u64) -> Result<()> {
    let missing = len.saturating_sub(into.len() as u64);
    reader.take(missing).read_to_end(into).map_err(|e| broken(&e, at))?;
    Ok(())
}

fn broken(e: &std::io::Error, at: u64) -> Error {
    match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::malformed("the stream ends inside the tensor data"),
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::Other => compression::damaged(&e),
        _ => Error::from_io(e, Path::new("-")),
    }
    .at(Place::Byte(at))
}
