//! Saboteurs that change the text side of the fixture: its chat template, and what its tokens are for.

use std::io;
use std::path::Path;

use super::{Means, Saboteur, edit};
use crate::subject::list;

/// An entry that changes every GGUF file of the fixtures.
const fn fixtures(name: &'static str, does: &'static str, how: fn(&Path) -> io::Result<()>) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::EvilInput(how) }
}

/// Every entry.
pub static ALL: &[Saboteur] = &[
    fixtures("template-turns-swapped", "the template lets the user speak last", |folder| {
        // Blanks behind a Jinja string mean nothing: the file keeps its length.
        each(folder, |bytes| replace(bytes, br"'<|im_start|>assistant\n'", br"'<|im_start|>user\n'     "))
    }),
    fixtures("template-system-dropped", "the template says nothing of the default system message", |folder| {
        each(folder, |bytes| {
            replace(bytes, b"You are a helpful assistant.<|im_end|>", b"                            <|im_end|>")
        })
    }),
    fixtures("token-unprinted", "the token of ' the' is of a kind that prints nothing", |folder| {
        each(folder, |bytes| {
            if let Some(id) = token(bytes, "\u{120}the")
                && let Some(types) = array(bytes, b"tokenizer.ggml.token_type")
            {
                bytes[types + 4 * id] = UNUSED;
            }
        })
    }),
];

/// `tokenizer.ggml.token_type` of filler.
const UNUSED: u8 = 5;

/// Changes every GGUF file of a folder.
fn each(folder: &Path, how: impl Fn(&mut Vec<u8>)) -> io::Result<()> {
    let files = list(folder).map_err(|_| io::Error::other("the fixtures cannot be listed"))?;
    let mut models = files.iter().filter(|f| f.extension().is_some_and(|e| e == "gguf"));
    models.try_for_each(|file| edit(file, &how))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

/// The first `what` becomes `by`, of the same length.
fn replace(bytes: &mut [u8], what: &[u8], by: &[u8]) {
    debug_assert_eq!(what.len(), by.len());
    if let Some(at) = find(bytes, what) {
        bytes[at..at + by.len()].copy_from_slice(by);
    }
}

/// Where the elements of an array begin: behind its key, two types and a count.
fn array(bytes: &[u8], key: &[u8]) -> Option<usize> {
    Some(find(bytes, key)? + key.len() + 4 + 4 + 8)
}

/// The id of the token with this name, by walking over the lengths.
fn token(bytes: &[u8], name: &str) -> Option<usize> {
    let mut at = array(bytes, b"tokenizer.ggml.tokens")?;
    for id in 0.. {
        let len = u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize;
        if bytes.get(at + 8..at + 8 + len)? == name.as_bytes() {
            return Some(id);
        }
        at += 8 + len;
    }
    None
}
