//! A user who asks for models: an empty home, a hub on this machine, and what `apr pull` makes of a name.

use std::path::{Path, PathBuf};

use crate::child::{Output, Run};
use crate::hub::{Hub, sha256};
use crate::subject::Subject;
use crate::verdict::{Halt, Tally, instrument};

/// The file that the hub has.
pub const FILE: &str = "m-Q8_0.gguf";
/// Three blocks of a download and most of a fourth.
pub const BYTES: usize = (4 << 20) - 17;

/// A user with an empty home, and a hub.
pub struct Desk<'a> {
    /// Whose `apr` it is.
    pub s: &'a Subject,
    /// The home.
    pub home: PathBuf,
    /// The hub.
    pub hub: &'a Hub,
}

impl<'a> Desk<'a> {
    /// A new one.
    pub fn new(s: &'a Subject, hub: &'a Hub) -> Result<Desk<'a>, Halt> {
        Ok(Desk { s, home: s.scratch()?, hub })
    }

    /// `apr` with these words, in that home and with that hub.
    pub fn apr(&self, words: &[&str]) -> Run {
        let run = self.s.apr(words).env("HOME", &self.home).env("HF_ENDPOINT", self.hub.endpoint());
        run.env("HF_HUB_DOWNLOAD_TIMEOUT", "2")
    }

    /// The bytes that a name stands for, as `apr pull` says.
    pub fn pulled(&self, t: &mut Tally, words: &[&str]) -> Result<(PathBuf, Output), Halt> {
        let out = self.apr(&[&["pull", "-q"], words].concat()).judged()?;
        t.hold(out.code() == Some(0), || out.refute("it is found", out.err(), "exit code 0"))?;
        Ok((PathBuf::from(out.out().trim_end_matches('\n')), out))
    }

    /// Holds what a name stands for against the bytes that it should.
    pub fn stands_for(&self, t: &mut Tally, words: &[&str], want: &[u8]) -> Result<PathBuf, Halt> {
        let (path, out) = self.pulled(t, words)?;
        let came = std::fs::read(&path).unwrap_or_default();
        let hashes = (sha256(&came), sha256(want));
        t.hold(hashes.0 == hashes.1, || {
            out.refute(
                "it is the right file",
                format!("{} with {} bytes", path.display(), came.len()),
                hashes.1.clone(),
            )
        })?;
        Ok(path)
    }

    /// It is refused with this exit code, and nothing of it is there afterwards.
    pub fn refused(&self, t: &mut Tally, words: &[&str], code: i32, says: &str) -> Result<Output, Halt> {
        let out = self.apr(words).judged()?;
        t.hold(out.code() == Some(code) && out.err().contains(says), || {
            out.refute(
                "it is refused",
                format!("{:?}: {}{}", out.code(), out.out(), out.err()),
                format!("{code}: {says}"),
            )
        })?;
        Ok(out)
    }

    /// Model files below the home, of those that have got their names.
    pub fn models(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.home, &mut found);
        found.retain(|p| p.extension().is_some_and(|e| e == "gguf"));
        found
    }
}

/// Every file below a folder.
pub fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(t) if t.is_dir() => walk(&entry.path(), found),
            _ => found.push(entry.path()),
        }
    }
}

/// Bytes that are nothing in particular.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// The bytes of a file that has to be there.
pub fn read(path: &Path) -> Result<Vec<u8>, Halt> {
    std::fs::read(path).map_err(|e| instrument(format!("{}: {e}", path.display())))
}
