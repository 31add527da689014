//! Tiny GGUF files for the fuzzer to begin with: between them they reach every branch of a reader that
//! accepts.
//!
//! They are committed under `falsify/fuzz/corpus/gguf`; a test here holds the folder to this file.

use super::gguf::{Data, Value, Writer};

/// A name and what makes the file.
pub type Seed = (&'static str, fn() -> Writer);

/// Every seed.
pub static ALL: &[Seed] = &[
    ("seed-types", types),
    ("seed-tensors", tensors),
    ("seed-version2-align64", version2),
    ("seed-tokens", tokens),
    ("seed-part", part),
];

/// An entry of each type, arrays in arrays.
fn types() -> Writer {
    let mut w = Writer::new(3);
    for (key, value) in [
        ("u8", Value::U8(1)),
        ("i8", Value::I8(-1)),
        ("u16", Value::U16(2)),
        ("i16", Value::I16(-2)),
        ("u32", Value::U32(3)),
        ("i32", Value::I32(-3)),
        ("f32", Value::F32(0.5)),
        ("bool", Value::Bool(1)),
        ("string", "text".into()),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(f64::NAN)),
    ] {
        w.set(&format!("array.{key}"), Value::Array(value.type_id(), vec![value.clone(), value.clone()]));
        w.set(key, value);
    }
    let inner = Value::Array(9, vec![Value::Array(0, vec![Value::U8(7)]), Value::Array(8, vec![])]);
    w.set("nested", Value::Array(9, vec![inner]));
    w
}

/// Each number of dimensions, with blocks and without.
fn tensors() -> Writer {
    let mut w = Writer::new(3);
    for (i, (ggml_type, weights, bytes)) in [(0, 1, 4), (1, 1, 2), (8, 32, 34), (12, 256, 144)].into_iter().enumerate()
    {
        let dims = [&[weights][..], &[1; 3][..i]].concat();
        w.tensor(&format!("t{i}"), &dims, ggml_type, Data::Bytes(vec![i as u8; bytes]));
    }
    w
}

fn version2() -> Writer {
    let mut w = Writer::new(2);
    w.align(64);
    w.tensor("a", &[3], 0, Data::Bytes(vec![1; 12]));
    w.tensor("b", &[1, 2], 0, Data::Bytes(vec![2; 8]));
    w
}

/// A tokenizer, one token of which is not UTF-8.
fn tokens() -> Writer {
    let mut w = Writer::new(3);
    w.set("general.architecture", "qwen2");
    w.set("tokenizer.ggml.tokens", Value::strings([&b"a"[..], b"b", b"ab", b"\xff\xfe"]));
    w.set("tokenizer.ggml.token_type", Value::i32s([1, 1, 1, 6]));
    w.set("tokenizer.ggml.merges", Value::strings(["a b"]));
    w.set("tokenizer.ggml.add_bos_token", false);
    w
}

/// The second part of a split model.
fn part() -> Writer {
    let mut w = Writer::new(3);
    w.tensor("a", &[1], 0, Data::Bytes(vec![0; 4]));
    w.tensor("b", &[1], 0, Data::Bytes(vec![0; 4]));
    w.split(2).swap_remove(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_fuzz_corpus_is_these_files() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/gguf");
        for (name, seed) in ALL {
            let bytes = seed().to_bytes().unwrap();
            assert!(bytes.len() < 5000, "{name} has {} bytes", bytes.len());
            let found = std::fs::read(folder.join(format!("{name}.gguf")));
            assert_eq!(found.ok(), Some(bytes), "{name}: write it again with `forge`");
        }
    }

    #[test]
    fn the_reader_accepts_every_seed() {
        for (name, seed) in ALL {
            let bytes = seed().to_bytes().unwrap();
            let read = engine::file::gguf::parse(bytes.into());
            assert!(read.is_ok(), "{name}: {read:?}");
        }
    }
}
