//! The only `mmap` of the project: files as shared, read-only bytes, and anonymous memory on huge pages.

use std::fs::File;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use crate::error::{Error, Result};

/// A cheap, cloneable view of immutable bytes: part of a mapped file, or of memory. Keeps its owner alive.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<Owner>,
    range: Range<usize>,
}

enum Owner {
    Mapped(memmap2::Mmap),
    Memory(Vec<u8>),
}

impl Owner {
    fn as_slice(&self) -> &[u8] {
        match self {
            Owner::Mapped(m) => m,
            Owner::Memory(v) => v,
        }
    }
}

impl Bytes {
    /// Maps a whole file, read-only. The length is fixed here; callers check every range against it.
    pub fn map(file: &File) -> Result<Bytes> {
        // SAFETY: the mapping is private and read-only. If another process truncates the file while it is mapped,
        // reads past the new end raise SIGBUS, which ends the process: a documented limit of mapped files, never
        // another file's or process's bytes.
        let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(file) }
            .map_err(|e| Error::Io(format!("cannot map the file: {e}")))?;
        let len = map.len();
        Ok(Bytes { owner: Arc::new(Owner::Mapped(map)), range: 0..len })
    }

    /// The bytes of `self[range]`, sharing the owner. `None` if the range does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let at = self.range.start;
        Some(Bytes { owner: self.owner.clone(), range: at + range.start..at + range.end })
    }

    /// Whether these bytes are pages of a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(*self.owner, Owner::Mapped(_))
    }

    /// Tells the kernel that the pages of this range will not be needed soon (after a backend has repacked them).
    /// The bytes stay readable: they are read from the file again. A hint; failure is of no consequence.
    pub fn release_pages(&self) {
        #[cfg(unix)]
        if let Owner::Mapped(m) = &*self.owner {
            const PAGE: usize = 4096;
            let start = self.range.start.next_multiple_of(PAGE);
            let end = self.range.end / PAGE * PAGE;
            if start < end {
                // SAFETY: the mapping is a read-only view of a file, so dropped pages come back with the same
                // contents; nothing ever writes through it.
                let _ = unsafe { m.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.owner.as_slice()[self.range.clone()]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(v: Vec<u8>) -> Bytes {
        let len = v.len();
        Bytes { owner: Arc::new(Owner::Memory(v)), range: 0..len }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({} at {})", self.len(), self.range.start)
    }
}

/// Writable anonymous memory, zeroed, aligned to a page and on huge pages where the kernel gives them: streaming
/// weights from 4 KiB pages costs 7-30 % of read bandwidth on the machines we measured.
pub struct HugeBuffer {
    map: memmap2::MmapMut,
}

impl HugeBuffer {
    /// `len` zeroed bytes, or an error instead of an abort when they cannot be had.
    pub fn new(len: usize, what: &'static str) -> Result<HugeBuffer> {
        let map = memmap2::MmapMut::map_anon(len.max(1)).map_err(|_| Error::OutOfMemory { bytes: len, what })?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage); // a hint
        Ok(HugeBuffer { map })
    }
}

impl Deref for HugeBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl DerefMut for HugeBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_checked_and_nest() {
        let b = Bytes::from((0u8..100).collect::<Vec<_>>());
        let mid = b.slice(10..20).unwrap();
        assert_eq!(&mid[..2], &[10, 11]);
        assert_eq!(&mid.slice(5..10).unwrap()[..], &[15, 16, 17, 18, 19]);
        assert!(mid.slice(5..11).is_none());
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = mid.slice(6..5);
        assert!(reversed.is_none());
    }
}
