//! Families 31, 32 and 34: what stands at a path that is no model file, and files of other kinds under a model's name.

use std::io;
use std::path::{Path, PathBuf};

use engine::Kind;

use super::tiny;
use crate::forge::gguf::{Data, Writer};

/// The beginnings of other files, and a word that says what they are.
const FOREIGN: &[(&str, &[u8], &str)] = &[
    ("a zip archive", b"PK\x03\x04\x14\0\0\0\x08\0archive/data.pkl", "zip"),
    ("an ELF program", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0", "ELF"),
    ("a web page", b"<!DOCTYPE html><html><title>404</title>Not found</html>", "web page"),
    ("a web page behind blanks", b"\xef\xbb\xbf\n\n  <HTML><body>Sign in</body>", "web page"),
    ("JSON", b"{\"error\": \"Repository not found\"}", "JSON"),
    ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
    ("a pickle", b"\x80\x02}q\0X\x06\0\0\0weight", "pickle"),
    ("gzip data", b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "gzip"),
    ("Zstandard data", b"\x28\xb5\x2f\xfd\x24\0\x01\0\0", "Zstandard"),
    ("an old GGML file", b"lmgg\x20\0\0\0\x10\0\0\0", "GGML"),
    ("a NumPy array", b"\x93NUMPY\x01\0v\0{'descr': '<f4'}", "NumPy"),
    ("a Windows program", b"MZ\x90\0\x03\0\0\0", "Windows"),
    ("a script", b"#!/bin/sh\necho hello\n", "script"),
    ("an image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG"),
    ("text", b"Dear all,\nplease find the model attached.\n", "text"),
    ("zeros", &[0; 600], "zeros"),
    ("noise", b"\xde\xad\xbe\xef\x01\x02\x03\x04\x05\x06", "unknown"),
];

/// A file of another kind.
pub struct Foreign {
    /// What it is.
    pub what: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
    /// What a refusal has to call it.
    pub called: &'static str,
}

/// Every one.
pub fn foreign() -> impl Iterator<Item = Foreign> {
    FOREIGN.iter().map(|&(what, bytes, called)| Foreign { what, bytes, called })
}

/// A path, and the kind of the refusal.
pub struct Place {
    /// What stands there.
    pub what: &'static str,
    /// The path.
    pub path: PathBuf,
    /// How it is refused.
    pub kind: Kind,
}

/// Lays out everything but files in a folder, and names paths at which there is nothing.
#[cfg(unix)]
pub fn places(folder: &Path) -> io::Result<Vec<Place>> {
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::symlink;
    let here = |name: &str| folder.join(name);
    std::fs::create_dir(here("folder.gguf"))?;
    symlink(here("folder.gguf"), here("to-folder.gguf"))?;
    symlink(here("nothing"), here("to-nothing.gguf"))?;
    symlink(here("to-itself.gguf"), here("to-itself.gguf"))?;
    symlink("/dev/zero", here("to-zeros.gguf"))?;
    if !std::process::Command::new("mkfifo").arg(here("pipe.gguf")).status()?.success() {
        return Err(io::Error::other("mkfifo failed"));
    }
    std::fs::write(here("file"), "x")?;
    let odd = std::ffi::OsString::from_vec(b"not \xff UTF-8.gguf".to_vec());
    let place = |what, path, kind| Place { what, path, kind };
    Ok(vec![
        place("a directory without a model", here("folder.gguf"), Kind::NotFound),
        place("a link to a directory without a model", here("to-folder.gguf"), Kind::NotFound),
        place("a link to nothing", here("to-nothing.gguf"), Kind::NotFound),
        place("a link to itself", here("to-itself.gguf"), Kind::Unreadable),
        place("a link to a device", here("to-zeros.gguf"), Kind::Unreadable),
        place("a device", "/dev/zero".into(), Kind::Unreadable),
        place("a pipe that nobody writes to", here("pipe.gguf"), Kind::Unreadable),
        place("standard input", "/dev/stdin".into(), Kind::Unreadable),
        place("a path through a file", here("file/model.gguf"), Kind::Unreadable),
        place("nothing", here("nobody.gguf"), Kind::NotFound),
        place("an empty path", PathBuf::new(), Kind::NotFound),
        place("nothing, with a line end", here("a\nb\u{1b}[31m\u{202e}.gguf"), Kind::NotFound),
        place("nothing, and not UTF-8", folder.join(odd), Kind::NotFound),
        place("a name of 300 letters", here(&"x".repeat(300)), Kind::Unreadable),
    ])
}

/// The same without links and pipes.
#[cfg(not(unix))]
pub fn places(folder: &Path) -> io::Result<Vec<Place>> {
    std::fs::create_dir(folder.join("folder.gguf"))?;
    Ok(vec![
        Place { what: "a directory without a model", path: folder.join("folder.gguf"), kind: Kind::NotFound },
        Place { what: "nothing", path: folder.join("nobody.gguf"), kind: Kind::NotFound },
    ])
}

/// A sparse file of more than 4 GiB whose last tensor lies behind them: good, and cut by a byte. The name is that of
/// the tensor.
pub fn behind_4_gib() -> io::Result<(Writer, &'static str)> {
    const LAST: &str = "behind";
    let mut w = tiny()?;
    // 1.25 * 2^30 numbers of four bytes.
    w.tensor("hole", &[5 << 28], 0, Data::Hole(5 << 30));
    w.tensor(LAST, &[8], 0, Data::Bytes(vec![0; 32]));
    Ok((w, LAST))
}
