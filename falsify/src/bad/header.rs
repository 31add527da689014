//! Families 1 to 13: the first 24 bytes, and the metadata entries.

use std::io;

use engine::Kind::{self, Malformed, TooLarge, Unsupported};
use engine::Place;

use super::At::{Byte, End, Field, Key, Padding};
use super::{ARRAY, Bad, Row, STRING, array, files, tiny};
use crate::forge::gguf::{Entry, Value, Writer};

const NAME: &str = "general.name";
const ALIGNMENT: &str = "general.alignment";
const DRIVES_TERMINALS: &str = "a\u{1b}[31m\n\0\u{202e}b";

const ROWS: &[Row] = &[
    ("2: the magic of a big-endian file", Unsupported, Byte(4), |w| w.magic = *b"FUGG"),
    ("2: a big-endian version 3", Unsupported, Byte(4), |w| w.version = 3 << 24),
    ("3: version 0", Malformed, Byte(4), |w| w.version = 0),
    ("3: version 1", Unsupported, Byte(4), |w| w.version = 1),
    ("3: version 4", Unsupported, Byte(4), |w| w.version = 4),
    ("3: the last version", Unsupported, Byte(4), |w| w.version = u32::MAX),
    ("4: as many tensors as a number can say", Malformed, Byte(8), |w| w.tensor_count = Some(u64::MAX)),
    ("4: 2^32 tensors", Malformed, Byte(8), |w| w.tensor_count = Some(1 << 32)),
    ("4: a tensor and no bytes left", Malformed, Byte(8), |w| {
        *w = Writer { tensor_count: Some(1), ..Writer::new(3) };
    }),
    ("4: one tensor more than there are", Malformed, Padding, |w| {
        // Behind the last description are the zeros of the padding: a name of no bytes.
        w.align(4096);
        w.tensor_count = Some(w.tensors.len() as u64 + 1);
    }),
    ("5: as many keys as a number can say", Malformed, Byte(16), |w| w.entry_count = Some(u64::MAX)),
    ("5: 2^32 keys", Malformed, Byte(16), |w| w.entry_count = Some(1 << 32)),
    ("5: a key and no bytes left", Malformed, Byte(16), |w| {
        *w = Writer { entry_count: Some(1), ..Writer::new(3) };
    }),
    ("5: one key more than there are", Malformed, End, |w| {
        w.tensors.clear();
        w.entry_count = Some(w.entries.len() as u64 + 1);
    }),
    ("6: a key of 2^64 - 1 bytes", Malformed, Field("general.name/key", 0), |w| key_len(w, u64::MAX)),
    ("6: a key of 2^63 bytes", Malformed, Field("general.name/key", 0), |w| key_len(w, 1 << 63)),
    ("6: a key longer than the file", Malformed, Field("general.name/key", 0), |w| key_len(w, 1 << 20)),
    ("6: a key without a name", Malformed, Byte(24), |w| first(w).key.clear()),
    ("6: a key of 64 KiB and a byte", TooLarge, Byte(24), |w| first(w).key = vec![b'k'; (1 << 16) + 1]),
    ("7: a key that is not UTF-8", Malformed, Byte(24), |w| first(w).key = b"ke\xffy".to_vec()),
    ("7: a key that drives terminals, twice", Malformed, Key(DRIVES_TERMINALS), |w| {
        w.set(DRIVES_TERMINALS, 1u32);
        w.set(DRIVES_TERMINALS, 1u32);
    }),
    ("8: a key twice", Malformed, Key(NAME), |w| also(w, NAME, "again")),
    ("8: a key twice, of another type", Malformed, Key(NAME), |w| also(w, NAME, 1u32)),
    ("9: a value of type 13", Malformed, Field("general.name/type", 0), |w| w.entry(NAME).type_id = 13),
    ("9: a value of the last type", Malformed, Field("general.name/type", 0), |w| w.entry(NAME).type_id = u32::MAX),
    ("10: a bool of 2", Malformed, Field("tokenizer.ggml.add_bos_token/value", 0), |w| {
        w.entry("tokenizer.ggml.add_bos_token").value = vec![2];
    }),
    ("11: a string longer than the file", Malformed, Field("general.name/value", 8), |w| string_len(w, 1 << 60)),
    ("11: a string to the end of the file, which is no text", Malformed, Key(NAME), |w| {
        let header = w.header();
        let all = w.to_bytes().map_or(0, |bytes| bytes.len());
        string_len(w, (all - header.field("general.name/value").start - 8) as u64);
    }),
    ("11: a string of 16 MiB and a byte", TooLarge, Field("general.name/value", 0), |w| {
        w.entry(NAME).value = [&(16u64 << 20 | 1).to_le_bytes()[..], &vec![b'x'; 16 << 20 | 1]].concat();
    }),
    ("11: a string that is not UTF-8", Malformed, Key(NAME), |w| w.entry(NAME).value[8..].fill(0xfe)),
    ("12: an array of 2^60 bytes", Malformed, Field("x/value", 4), |w| raw(w, array(0, 1 << 60, &[]))),
    ("12: an array of 2^61 strings", Malformed, Field("x/value", 4), |w| raw(w, array(STRING, 1 << 61, &[]))),
    ("12: arrays in arrays, 100,000 deep", TooLarge, Field("x/value", 4 * 12), |w| {
        raw(w, array(ARRAY, 1, &[]).repeat(100_000));
    }),
    ("12: an array of an unknown type", Malformed, Field("x/value", 0), |w| raw(w, array(99, 0, &[]))),
    ("12: five million values", TooLarge, Field("x/value", 4), |w| {
        raw(w, array(STRING, 5_000_000, &vec![0; 40_000_000]));
    }),
    ("13: an alignment of 0", Malformed, Key(ALIGNMENT), |w| also(w, ALIGNMENT, 0u32)),
    ("13: an alignment of 1", Malformed, Key(ALIGNMENT), |w| also(w, ALIGNMENT, 1u32)),
    ("13: an alignment of 3", Malformed, Key(ALIGNMENT), |w| also(w, ALIGNMENT, 3u32)),
    ("13: an alignment of 31", Malformed, Key(ALIGNMENT), |w| also(w, ALIGNMENT, 31u32)),
    ("13: an alignment of 2^31", TooLarge, Key(ALIGNMENT), |w| also(w, ALIGNMENT, 1u32 << 31)),
    ("13: an alignment with a sign", Malformed, Key(ALIGNMENT), |w| also(w, ALIGNMENT, Value::I32(32))),
    ("13: an alignment in words", Malformed, Key(ALIGNMENT), |w| also(w, ALIGNMENT, "32")),
];

fn first(w: &mut Writer) -> &mut Entry {
    &mut w.entries[0]
}

fn also(w: &mut Writer, key: &str, value: impl Into<Value>) {
    w.set(key, value);
}

fn key_len(w: &mut Writer, len: u64) {
    w.entry(NAME).key_len = Some(len);
}

fn string_len(w: &mut Writer, len: u64) {
    w.entry(NAME).value[..8].copy_from_slice(&len.to_le_bytes());
}

/// An array with these bytes under the key `x`, last of all entries.
fn raw(w: &mut Writer, value: Vec<u8>) {
    w.entries.push(Entry { key: b"x".to_vec(), key_len: None, type_id: ARRAY, value });
}

/// One file for each.
pub fn all() -> io::Result<Vec<Bad>> {
    let mut all = files("header", tiny, ROWS)?;
    let good = tiny()?.to_bytes()?;
    let short = |len: usize| {
        // The head is four numbers; a file that ends inside the first three is refused there. In the rest there is no
        // room for any tensor.
        let at = [0, 4, 8].into_iter().rfind(|start| *start <= len && (len >= 4 || *start == 0)).unwrap_or(0);
        Bad {
            what: format!("header 1: {len} bytes"),
            bytes: good[..len].to_vec(),
            kind: Kind::Malformed,
            at: Place::Byte(at as u64),
        }
    };
    all.extend([0, 1, 3, 4, 7, 8, 15, 16, 23].map(short));
    Ok(all)
}
