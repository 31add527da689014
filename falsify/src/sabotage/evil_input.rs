//! Saboteurs that change model files: a nibble, a vocabulary entry, a metadata value. The engine then really computes
//! something else, so a check that compares numbers or text has to notice.
//!
//! [`Layout`] finds keys and tensors in a GGUF file. It reads good files only and uses none of `engine`'s reader, so
//! that a mistake there cannot hide a saboteur.

use std::io;
use std::ops::Range;
use std::path::Path;

use compute::Format;

use super::{Means, Saboteur, edit};
use crate::forge::words::{NORMAL, UNUSED};
use crate::subject::{Spoil, list};

/// An entry that changes fixtures.
const fn fixtures(name: &'static str, does: &'static str, how: fn(&Path) -> io::Result<()>) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::EvilInput(how) }
}

/// An entry that changes files of the forge.
const fn forged(name: &'static str, does: &'static str, how: Spoil) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::EvilForge(how) }
}

/// Every evil input.
pub static ALL: &[Saboteur] = &[
    forged("q4k-scale-swapped", "scale and minimum change places in every Q4_K block", |_, file| {
        blocks(file, "Q4_K", |b| b[..4].rotate_left(2))
    }),
    forged("q6k-high-bits-dropped", "the upper two bits of every Q6_K weight are 0", |_, file| {
        blocks(file, "Q6_K", |b| b[128..192].fill(0))
    }),
    forged("q5k-high-bit-dropped", "the fifth bit of every Q5_K weight is 0", |_, file| {
        blocks(file, "Q5_K", |b| b[16..48].fill(0))
    }),
    forged("padding-sampled", "the file says of its padding that it is words", |_, file| {
        change(file, |bytes, layout| {
            if let Some(types) = layout.value("tokenizer.ggml.token_type") {
                let kinds = bytes[types.start + 12..types.end].chunks_exact_mut(4);
                kinds.filter(|k| **k == UNUSED.to_le_bytes()).for_each(|k| k.copy_from_slice(&NORMAL.to_le_bytes()));
            }
        })
    }),
    forged("q4-0-nibbles-swapped", "the two nibbles of every Q4_0 byte change places", |_, file| {
        blocks(file, "Q4_0", |b| b[2..].iter_mut().for_each(|q| *q = q.rotate_left(4)))
    }),
    forged("q8-0-scale-negated", "every second Q8_0 block has the wrong sign", |_, file| {
        let mut odd = false;
        blocks(file, "Q8_0", |b| {
            b[1] ^= u8::from(odd) << 7;
            odd = !odd;
        })
    }),
    forged("f16-read-as-bf16", "the file says of its F16 tensors that they are BF16", |_, file| {
        let bf16 = Format::from_name("BF16").map_or(0, |f| f.0.ggml_type);
        change(file, |bytes, layout| {
            for t in layout.tensors.iter().filter(|t| t.format == Format::F16) {
                bytes[t.type_at..t.type_at + 4].copy_from_slice(&bf16.to_le_bytes());
            }
        })
    }),
    forged("f32-mantissa-flipped", "the largest bit of the mantissa of every F32 weight is another", |_, file| {
        blocks(file, "F32", |b| b[2] ^= 0x40)
    }),
    forged("metadata-value-changed", "one bit of the first value of the metadata is another", |_, file| {
        change(file, |bytes, layout| {
            if let Some(key) = layout.keys.first() {
                bytes[key.value.end - 1] ^= 1;
            }
        })
    }),
    forged("metadata-key-renamed", "the last key of the metadata ends in another letter", |_, file| {
        change(file, |bytes, layout| {
            if let Some(key) = layout.keys.last() {
                bytes[key.name.end - 1] ^= 1;
            }
        })
    }),
    forged("architecture-renamed", "a Qwen2 file says that it is a Llama, in every key", |name, file| {
        if name.starts_with("qwen2-") || name.starts_with("shape-") { rename(file, b"qwen2", b"llama") } else { Ok(()) }
    }),
    forged("bos-flag-flipped", "BOS where the file wants none, and none where it wants one", |_, file| {
        change(file, |bytes, layout| {
            if let Some(flag) = layout.value("tokenizer.ggml.add_bos_token") {
                bytes[flag.start] ^= 1;
            }
        })
    }),
    fixtures("eos-id-changed", "the id of the end token is one lower", |folder| {
        each(folder, |bytes, layout| {
            if let Some(id) = layout.value("tokenizer.ggml.eos_token_id") {
                bytes[id.start] -= 1;
            }
        })
    }),
    fixtures("vocab-swapped", "two entries of the vocabulary change places", |folder| {
        each(folder, |bytes, layout| swap_words(bytes, layout))
    }),
    fixtures("merges-reversed", "the worst merges come first", |folder| {
        each(folder, |bytes, layout| {
            if let Some(merges) = layout.value("tokenizer.ggml.merges") {
                let mut strings = strings_of(bytes, &merges);
                strings.reverse();
                // The same strings in another order take the same room.
                let whole: Vec<u8> = strings.into_iter().flat_map(|s| bytes[s].to_vec()).collect();
                bytes[merges.end - whole.len()..merges.end].copy_from_slice(&whole);
            }
        })
    }),
    fixtures("letter-made-control", "the sign ^ is a control token, which prints nothing", |folder| {
        each(folder, |bytes, layout| {
            let (tokens, types) = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type");
            let (Some(tokens), Some(types)) = (layout.value(tokens), layout.value(types)) else { return };
            let strings = strings_of(bytes, &tokens);
            if let Some(id) = strings.iter().position(|s| bytes[s.start + 8..s.end] == *b"^") {
                let at = types.start + 12 + 4 * id;
                bytes[at..at + 4].copy_from_slice(&3u32.to_le_bytes());
            }
        })
    }),
    fixtures("embedding-row-zeroed", "the vector of one word is all zeros", |folder| {
        each(folder, |bytes, layout| {
            if let Some(table) = layout.tensor("token_embd.weight") {
                let (start, row) = (table.data.start, table.row_bytes());
                bytes[start + 300 * row..start + 301 * row].fill(0);
            }
        })
    }),
    fixtures("embedding-rotated", "every token has the vector of its neighbour, in the LM head too", |folder| {
        each(folder, |bytes, layout| {
            if let Some(table) = layout.tensor("token_embd.weight") {
                bytes[table.data.clone()].rotate_left(table.row_bytes());
            }
        })
    }),
    fixtures("layer-duplicated", "the first layer's feed-forward output stands in for the second's too", |folder| {
        each(folder, |bytes, layout| {
            let of = |layer: &str| layout.tensors.iter().find(|t| t.name == format!("blk.{layer}.ffn_down.weight"));
            // These two have the same format in every mixture of the fixture.
            if let (Some(from), Some(to)) = (of("0"), of("1"))
                && from.data.len() == to.data.len()
            {
                bytes.copy_within(from.data.clone(), to.data.start);
            }
        })
    }),
];

// ---- where things stand

/// A good GGUF file, taken apart.
pub(crate) struct Layout {
    keys: Vec<Key>,
    pub(crate) tensors: Vec<Part>,
}

struct Key {
    name: Range<usize>,
    text: String,
    /// The value without its type.
    value: Range<usize>,
}

pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) format: Format,
    /// Values in a row.
    pub(crate) cols: usize,
    /// Where the file has the number of its type.
    type_at: usize,
    pub(crate) data: Range<usize>,
}

impl Part {
    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.cols / self.format.0.block_len * self.format.0.block_bytes
    }
}

/// Bytes of a value of these types; strings and arrays say themselves how long they are.
fn size_of(type_id: u32) -> usize {
    match type_id {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        _ => 8,
    }
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Layout {
    fn of(bytes: &[u8]) -> Option<Layout> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
        let (tensors, keys) = (u64_at(8)?, u64_at(16)?);
        let mut layout = Layout { keys: Vec::new(), tensors: Vec::new() };
        let mut at = 24;
        for _ in 0..keys {
            let name = at + 8..at + 8 + u64_at(at)?;
            let text = String::from_utf8_lossy(bytes.get(name.clone())?).into_owned();
            let value = name.end + 4;
            at = end_of(bytes, u32_at(name.end)?, value)?;
            layout.keys.push(Key { name, text, value: value..at });
        }
        let mut extents = Vec::new();
        for _ in 0..tensors {
            let name = at + 8..at + 8 + u64_at(at)?;
            let dims = name.end + 4..name.end + 4 + 8 * u32_at(name.end)? as usize;
            let weights: usize = dims.clone().step_by(8).map(u64_at).product::<Option<usize>>()?;
            let spec = Format::from_ggml(u32_at(dims.end)?)?;
            let offset = u64_at(dims.end + 4)?;
            let name = String::from_utf8_lossy(bytes.get(name)?).into_owned();
            let cols = u64_at(dims.start)?;
            layout.tensors.push(Part { name, format: spec, cols, type_at: dims.end, data: 0..0 });
            extents.push((offset, weights / spec.0.block_len * spec.0.block_bytes));
            at = dims.end + 12;
        }
        let align = layout.value("general.alignment").and_then(|v| u32_at(v.start)).unwrap_or(32) as usize;
        let start = at.next_multiple_of(align);
        for (t, (offset, len)) in layout.tensors.iter_mut().zip(extents) {
            t.data = start + offset..start + offset + len;
        }
        Some(layout)
    }

    /// The tensor of this name.
    pub(crate) fn tensor(&self, name: &str) -> Option<&Part> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// The bytes of a key's value.
    pub(crate) fn value(&self, key: &str) -> Option<Range<usize>> {
        self.keys.iter().find(|k| k.text == key).map(|k| k.value.clone())
    }
}

/// Where the value that begins at `at` ends.
fn end_of(bytes: &[u8], type_id: u32, at: usize) -> Option<usize> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    match type_id {
        STRING => Some(at + 8 + u64_at(at)?),
        ARRAY => {
            let element = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
            (0..u64_at(at + 4)?).try_fold(at + 12, |at, _| end_of(bytes, element, at))
        }
        other => Some(at + size_of(other)),
    }
}

/// Each string of an array of them, with its length in front.
fn strings_of(bytes: &[u8], array: &Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = array.start + 12;
    while at < array.end {
        let end = end_of(bytes, STRING, at).unwrap_or(array.end);
        found.push(at..end);
        at = end;
    }
    found
}

// ---- changing them

/// Changes one file, whose parts are known. Files in which there is nothing to change stay as they are.
pub(crate) fn change(file: &Path, how: impl FnOnce(&mut Vec<u8>, &Layout)) -> io::Result<()> {
    let mut bytes = std::fs::read(file)?;
    let layout = Layout::of(&bytes).ok_or_else(|| io::Error::other(format!("{} is no GGUF", file.display())))?;
    how(&mut bytes, &layout);
    std::fs::write(file, bytes)
}

/// Changes every block of this format in matrices: vectors are F32 in every file.
fn blocks(file: &Path, format: &str, mut how: impl FnMut(&mut [u8])) -> io::Result<()> {
    change(file, |bytes, layout| {
        for t in layout.tensors.iter().filter(|t| t.format.0.name == format && !is_vector(&t.name)) {
            bytes[t.data.clone()].chunks_exact_mut(t.format.0.block_bytes).for_each(&mut how);
        }
    })
}

fn is_vector(name: &str) -> bool {
    name.contains("norm") || name.ends_with(".bias") || name.starts_with("rope_freqs")
}

/// Changes every model file of a folder, and has to change something in each.
fn each(folder: &Path, how: impl Fn(&mut Vec<u8>, &Layout)) -> io::Result<()> {
    let files = list(folder).map_err(|halt| io::Error::other(format!("{halt:?}")))?;
    for file in files.iter().filter(|f| f.extension().is_some_and(|x| x == "gguf")) {
        let layout = Layout::of(&std::fs::read(file)?).ok_or_else(|| io::Error::other("no GGUF"))?;
        edit(file, |bytes| how(bytes, &layout))?;
    }
    Ok(())
}

/// Replaces a word by one of the same length in all keys and in the name of the architecture.
fn rename(file: &Path, from: &[u8], to: &[u8]) -> io::Result<()> {
    // Full shapes are holes behind their header: reading one whole would take gigabytes.
    use std::io::{Read, Seek, SeekFrom, Write};
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(file)?;
    let mut head = Vec::new();
    (&mut file).take(4096).read_to_end(&mut head)?;
    // Everything about the architecture stands before the tokenizer.
    let end = head.windows(9).position(|w| w == b"tokenizer").unwrap_or(head.len());
    for at in 0..end.saturating_sub(from.len()) {
        // `general.name` says it too, and plays no part.
        if head[at..].starts_with(from) && head.get(at.wrapping_sub(1)) != Some(&b' ') {
            head[at..at + from.len()].copy_from_slice(to);
        }
    }
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&head)
}

/// Two common words of the same length, so that nothing else moves.
fn swap_words(bytes: &mut [u8], layout: &Layout) {
    let Some(tokens) = layout.value("tokenizer.ggml.tokens") else { return };
    let strings = strings_of(bytes, &tokens);
    let find = |word: &str| strings.iter().find(|s| bytes[s.start + 8..s.end] == *word.as_bytes()).cloned();
    if let (Some(a), Some(b)) = (find("e"), find("t")) {
        bytes.swap(a.start + 8, b.start + 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forge;

    #[test]
    fn the_layout_is_what_the_forge_wrote() {
        for name in ["qwen2-q4_k_m", "llama-chat3-f16", "seed-types", "seed-version2-align64"] {
            let written = forge::file(name).unwrap().unwrap();
            let bytes = written.to_bytes().unwrap();
            let layout = Layout::of(&bytes).unwrap();
            assert_eq!(layout.keys.len(), written.entries.len(), "{name}");
            for (key, entry) in layout.keys.iter().zip(&written.entries) {
                assert_eq!((&bytes[key.name.clone()], &bytes[key.value.clone()]), (&*entry.key, &*entry.value));
            }
            for (part, tensor) in layout.tensors.iter().zip(&written.tensors) {
                let forge::gguf::Data::Bytes(data) = &tensor.data else { panic!("{name} has holes") };
                assert_eq!(&bytes[part.data.clone()], &data[..], "{name}: {}", part.name);
            }
        }
    }
}
