//! The only `mmap` of the project: files as shared, read-only bytes, and anonymous memory on huge pages.

use std::fs::File;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::{Error, Result};

/// A cheap, cloneable view of immutable bytes: part of a mapped file, or of memory. Keeps its owner alive.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<Owner>,
    range: Range<usize>,
}

enum Owner {
    Mapped { map: memmap2::Mmap, file: File, was: State },
    Memory(Vec<u8>),
}

/// What tells a file from what it becomes when somebody writes to it: its length and when it was changed last.
type State = (u64, Option<SystemTime>);

fn state_of(file: &File) -> std::io::Result<State> {
    file.metadata().map(|meta| (meta.len(), meta.modified().ok()))
}

impl Owner {
    fn as_slice(&self) -> &[u8] {
        match self {
            Owner::Mapped { map, .. } => map,
            Owner::Memory(v) => v,
        }
    }
}

impl Bytes {
    /// Maps a whole file, read-only. The length is fixed here; callers check every range against it.
    pub fn map(file: &File) -> Result<Bytes> {
        let watched = file.try_clone().and_then(|file| Ok((state_of(&file)?, file)));
        let (was, file) = watched.map_err(|e| Error::Io(format!("cannot watch the file: {e}")))?;
        // SAFETY: the mapping is private and read-only. If another process truncates the file while it is mapped,
        // reads past the new end raise SIGBUS, which ends the process: a documented limit of mapped files, never
        // another file's or process's bytes.
        let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file) }.map_err(|e| match e.kind() {
            std::io::ErrorKind::OutOfMemory => Error::OutOfMemory { bytes: was.0 as usize, what: "the mapped file" },
            _ => Error::Io(format!("cannot map the file: {e}")),
        })?;
        let len = map.len();
        Ok(Bytes { owner: Arc::new(Owner::Mapped { map, file, was }), range: 0..len })
    }

    /// Whether the file behind a mapping still has the length and the time of change it had when it was mapped; memory
    /// has no file. A mapping shows what others write to the file, and has no bytes where the file has none: who finds
    /// it changed must not read on.
    pub fn is_unchanged(&self) -> bool {
        match &*self.owner {
            Owner::Mapped { file, was, .. } => state_of(file).is_ok_and(|now| now == *was),
            Owner::Memory(_) => true,
        }
    }

    /// The same number for all slices of one mapping or memory, and another for any other that is alive.
    pub fn owner_id(&self) -> usize {
        Arc::as_ptr(&self.owner) as usize
    }

    /// The bytes of `self[range]`, sharing the owner. `None` if the range does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let at = self.range.start;
        Some(Bytes { owner: self.owner.clone(), range: at + range.start..at + range.end })
    }

    /// All of the file or memory that these are part of.
    pub fn whole(&self) -> Bytes {
        Bytes { owner: self.owner.clone(), range: 0..self.owner.as_slice().len() }
    }

    /// Whether these bytes are pages of a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(*self.owner, Owner::Mapped { .. })
    }

    /// Tells the kernel that the pages of this range will not be needed soon (after a backend has repacked them).
    /// The bytes stay readable: they are read from the file again. A hint; failure is of no consequence.
    pub fn release_pages(&self) {
        #[cfg(unix)]
        if let Owner::Mapped { map, .. } = &*self.owner {
            const PAGE: usize = 4096;
            let start = self.range.start.next_multiple_of(PAGE);
            let end = self.range.end / PAGE * PAGE;
            if start < end {
                // SAFETY: the mapping is a read-only view of a file, so dropped pages come back with the same
                // contents; nothing ever writes through it.
                let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
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
        #[cfg(all(target_os = "linux", not(miri)))]
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
    fn a_file_that_is_written_to_is_not_the_file_that_was_mapped() {
        let path = std::env::temp_dir().join(format!("mapped-{}", std::process::id()));
        std::fs::write(&path, [7; 100]).unwrap();
        let mapped = Bytes::map(&File::open(&path).unwrap()).unwrap();
        let part = mapped.slice(10..20).unwrap();
        assert!(mapped.is_unchanged() && part.is_unchanged() && part.owner_id() == mapped.owner_id());
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(50).unwrap();
        assert!(!mapped.is_unchanged() && !part.is_unchanged());
        std::fs::remove_file(&path).unwrap();
        assert!(Bytes::from(vec![1]).is_unchanged());
    }

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
