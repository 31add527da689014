//! What a file that is no model seems to be, by its first bytes: for the hint of a refusal, and for nothing else.

/// First bytes, and what begins with them. The first that fits counts.
const BEGINNINGS: &[(&[u8], &str)] = &[
    (b"PK\x03\x04", "a zip archive (PyTorch's .pt and .bin files are such; convert it to GGUF)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x7fELF", "a program (ELF)"),
    (b"MZ", "a Windows program"),
    (b"\xcf\xfa\xed\xfe", "a macOS program"),
    (b"#!", "a script"),
    (b"\x1f\x8b", "gzip data; decompress it"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data; decompress it"),
    (b"\xfd7zXZ\0", "xz data; decompress it"),
    (b"BZh", "bzip2 data; decompress it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"FUGG", "a big-endian GGUF file"),
    (b"lmgg", "a file in llama.cpp's format before GGUF (GGML); convert it to GGUF"),
    (b"fmgg", "a file in llama.cpp's format before GGUF (GGMF); convert it to GGUF"),
    (b"tjgg", "a file in llama.cpp's format before GGUF (GGJT); convert it to GGUF"),
    (b"version https://git-lfs", "a Git LFS pointer: the model itself was not fetched (git lfs pull)"),
    (b"\x80\x02", "a Python pickle (an old PyTorch file); convert it to GGUF"),
    (b"\x80\x04", "a Python pickle; convert it to GGUF"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF\r\n", "an HDF5 file (Keras); convert it to GGUF"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"SQLite format 3", "an SQLite database"),
];

/// What the first bytes suggest.
pub(super) fn looks_like(head: &[u8]) -> &'static str {
    if let Some((_, what)) = BEGINNINGS.iter().find(|(begin, _)| head.starts_with(begin)) {
        return what;
    }
    if head.get(257..262) == Some(b"ustar") {
        return "a tar archive";
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    if starts_like(text, b"<!doctype html") || starts_like(text, b"<html") {
        return "a web page (was an error page saved as the model?)";
    }
    match text.first() {
        Some(b'<') => "a web page or XML (was an error page saved as the model?)",
        Some(b'{' | b'[') => "JSON text",
        None => "nothing but blanks",
        Some(_) if head.iter().all(|b| *b == 0) => "zeros (a download that was never filled?)",
        Some(_) if text.iter().all(|b| !b.is_ascii_control() || b.is_ascii_whitespace()) => "text",
        Some(_) => "unknown bytes",
    }
}

fn starts_like(text: &[u8], begin: &[u8]) -> bool {
    text.get(..begin.len()).is_some_and(|t| t.eq_ignore_ascii_case(begin))
}
