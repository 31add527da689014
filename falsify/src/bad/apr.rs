//! `.apr` files with one field wrong. The checksums are right, so that it is the field which has to be refused.

use std::io;

use apr_format::v2::{AprV2Metadata, AprV2Writer, TensorDType};

use engine::Kind;

use crate::forge;
use crate::forge::apr::{Bundle, sum_end, sum_header};
use crate::forge::models::Model;

/// A bad bundle, and what has to be said about it.
pub struct BadBundle {
    /// What is wrong with it.
    pub what: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// The kind of the refusal. Of damage, which may hit any field, any kind that files are refused with.
    pub kind: Option<Kind>,
    /// What the refusal has to name.
    pub names: String,
}

impl BadBundle {
    /// One that is damaged: which of the rules notices first depends on the byte.
    pub fn damaged(what: String, bytes: Vec<u8>) -> BadBundle {
        BadBundle { what, bytes, kind: None, names: String::new() }
    }
}

/// A good bundle, to be spoiled.
pub fn good() -> io::Result<Vec<u8>> {
    Bundle::Aprender(|| Model::qwen2(compute::Format::F16)).bytes()
}

type Field = (&'static str, Kind, &'static str, usize, &'static [u8]);

/// Fields of the header: what is wrong, how it is refused, what the refusal names, where, and what stands there instead.
#[rustfmt::skip]
const HEADER: &[Field] = &[
    ("as many tensors as a number can say", Kind::TooLarge, "tensors", 8, &[0xff; 4]),
    ("one tensor more than there are", Kind::Malformed, "name", 8, &[27, 0, 0, 0]),
    ("metadata at the end of all numbers", Kind::Malformed, "18446744073709551615", 12, &[0xff; 8]),
    ("metadata inside the header", Kind::Malformed, "metadata at 8", 12, &[8, 0, 0, 0, 0, 0, 0, 0]),
    ("metadata of four gigabytes", Kind::Malformed, "4294967295", 20, &[0xff; 4]),
    ("no metadata", Kind::Malformed, "metadata", 20, &[0; 4]),
    ("an index beyond the file", Kind::Malformed, "index at 1099511627776", 24, &[0, 0, 0, 0, 0, 1, 0, 0]),
    ("an index inside the metadata", Kind::Malformed, "index at 64", 24, &[64, 0, 0, 0, 0, 0, 0, 0]),
    ("data beyond the file", Kind::TooLarge, "at byte 32", 32, &[0, 0, 0, 0, 0, 1, 0, 0]),
    ("data before the index", Kind::Malformed, "data at 64", 32, &[64, 0, 0, 0, 0, 0, 0, 0]),
    ("column-major matrices", Kind::Unsupported, "column-major", 7, &[8]),
    ("encryption", Kind::Unsupported, "encrypted", 6, &[4]),
    ("two compressions", Kind::Malformed, "two ways", 6, &[3]),
];

/// Fields of one entry of the index, from the end of its name on: dtype, dimensions, extents, offset, bytes.
#[rustfmt::skip]
const ENTRY: &[Field] = &[
    ("a dtype that nobody knows", Kind::Unsupported, "dtype 77", 0, &[77]),
    ("another dtype", Kind::Malformed, "dtype 0", 0, &[0]),
    ("INT4 in other bytes than it needs", Kind::Malformed, "dtype 128", 0, &[128]),
    ("INT8 in other bytes than it needs", Kind::Malformed, "dtype 129", 0, &[129]),
    ("a dtype of integers", Kind::Malformed, "dtype 4", 0, &[4]),
    ("no dimensions", Kind::Malformed, "0 dimensions", 1, &[0]),
    ("two hundred dimensions", Kind::Malformed, "200 dimensions", 1, &[200]),
    ("an extent of 0", Kind::Malformed, "extent of 0", 2, &[0; 8]),
    ("extents whose product wraps", Kind::Malformed, "72057594037927936", 2, &[0, 0, 0, 0, 0, 0, 0, 1]),
    ("an offset that wraps", Kind::Malformed, "beyond", 18, &[0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ("an offset beyond the file", Kind::Malformed, "1099511698752", 18, &[0, 0, 0, 0, 0, 1, 0, 0]),
    ("an offset between two multiples", Kind::Malformed, "multiple of 64", 18, &[1]),
    ("a size that wraps", Kind::Malformed, "18446744073709551615 bytes", 26, &[0xff; 8]),
    ("one byte more", Kind::Malformed, "65537", 26, &[1]),
    ("no bytes", Kind::Malformed, "0 bytes", 26, &[0; 8]),
];

/// The tensor whose entry is spoiled.
const TENSOR: &str = "model.layers.1.mlp.up_proj.weight";

/// Words of the metadata that are replaced by others of the same length, and what the refusal has to name.
#[rustfmt::skip]
const WORDS: &[(&str, Kind, &str, &str, &str)] = &[
    ("no JSON", Kind::Malformed, "{\"model_type\"", "]\"model_type\"", "metadata"),
    ("no architecture", Kind::Malformed, "\"architecture\"", "\"architecturf\"", "architecture"),
    ("an unknown architecture", Kind::Unsupported, ":\"qwen2\",\"hidden", ":\"qwenX\",\"hidden", "qwenX"),
    ("no width", Kind::Malformed, "\"hidden_size\"", "\"hidden_sizf\"", "hidden_size"),
    ("a width that is a text", Kind::Malformed, "\"hidden_size\":128", "\"hidden_size\":\"x\"", "hidden_size"),
    ("no layers", Kind::Malformed, "\"num_layers\":2", "\"num_layers\":0", "num_layers"),
    ("a layer more than there are", Kind::Malformed, "\"num_layers\":2", "\"num_layers\":3", "model.layers.2."),
    ("a layer less than there are", Kind::Unsupported, "\"num_layers\":2", "\"num_layers\":1", "model.layers.1."),
    ("heads that do not divide", Kind::Malformed, "\"num_heads\":4", "\"num_heads\":7", "num_"),
    ("no vocabulary", Kind::Malformed, "\"tokenizer.vocabulary\"", "\"tokenizer.vocabularx\"", "tokenizer.vocabulary"),
    ("two answers to one question", Kind::Malformed, "\"param_count\":0", "\"n_embd\":     7", "n_embd"),
    ("an unknown pre-tokenizer", Kind::Unsupported, "\"tokenizer.pre_type\":\"qwen2\"", "\"tokenizer.pre_type\":\"qwenX\"", "qwenX"),
];

/// One file for each field that no reader may believe.
pub fn hostile() -> io::Result<Vec<BadBundle>> {
    let good = good()?;
    let mut all = Vec::new();
    for (what, kind, names, at, with) in HEADER {
        let bytes = spoilt(&good, *at, with);
        all.push(BadBundle {
            what: format!("{what}, in the header"),
            bytes,
            kind: Some(*kind),
            names: names.to_string(),
        });
    }
    let name = good.windows(TENSOR.len()).rposition(|w| w == TENSOR.as_bytes());
    let entry = name.ok_or_else(|| io::Error::other("no such tensor"))? + TENSOR.len();
    for (what, kind, names, at, with) in ENTRY {
        let mut bytes = spoilt(&good, entry + at, with);
        sum_end(&mut bytes);
        all.push(BadBundle {
            what: format!("{what}, in the index"),
            bytes,
            kind: Some(*kind),
            names: names.to_string(),
        });
    }
    for (what, kind, from, to, names) in WORDS {
        let at = good.windows(from.len()).position(|w| w == from.as_bytes());
        let at = at.ok_or_else(|| io::Error::other(format!("no {from} in the metadata")))?;
        let bytes = spoilt(&good, at, to.as_bytes());
        all.push(BadBundle {
            what: format!("{what}, in the metadata"),
            bytes,
            kind: Some(*kind),
            names: names.to_string(),
        });
    }
    all.extend(bombs(&good));
    Ok(all)
}

/// A good file with other bytes at one place, and checksums that are right.
fn spoilt(good: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    sum_header(&mut bytes);
    sum_end(&mut bytes);
    bytes
}

/// Small files that say that they are huge ones, compressed.
fn bombs(good: &[u8]) -> Vec<BadBundle> {
    let mut all = Vec::new();
    // An index that asks for a terabyte, in a file of which the rest is zeros.
    let mut w = AprV2Writer::new(AprV2Metadata::new("x"));
    w.add_tensor("bomb", TensorDType::F32, vec![1 << 38], vec![0; 4]);
    if let Ok(mut plain) = w.write() {
        let size = plain.windows(8).rposition(|w| w == 4u64.to_le_bytes()).unwrap_or(0);
        plain[size..size + 8].copy_from_slice(&(1u64 << 40).to_le_bytes());
        sum_end(&mut plain);
        for flag in [1, 2] {
            let bytes = forge::apr::compressed(&plain, flag);
            let (what, names) = (format!("a terabyte in a frame of flag {flag}"), "more than 256 times".to_string());
            all.push(BadBundle { what, bytes, kind: Some(Kind::TooLarge), names });
        }
    }
    for flag in [1, 2] {
        let frame = forge::apr::compressed(good, flag);
        for part in [64, 65, 70, frame.len() / 2, frame.len() - 1] {
            // A few bytes of a frame that still say how large it was look like a bomb.
            let bomb = part == 70 || flag == 1 && part < 70;
            let (kind, names) = if bomb { (Kind::TooLarge, "256 times") } else { (Kind::Malformed, "damaged") };
            let what = format!("a frame of flag {flag} cut to {part} bytes");
            all.push(BadBundle { what, bytes: frame[..part].to_vec(), kind: Some(kind), names: names.into() });
        }
    }
    // No lie, but one byte of the file for ten thousand of the model.
    let mut w = AprV2Writer::new(AprV2Metadata::new("x"));
    w.add_tensor("zeros", TensorDType::F32, vec![1 << 22], vec![0; 4 << 22]);
    if let Ok(plain) = w.write() {
        let (bytes, names) = (forge::apr::compressed(&plain, 2), "more than 256 times".to_string());
        all.push(BadBundle {
            what: "16 MiB of zeros in a small frame".into(),
            bytes,
            kind: Some(Kind::TooLarge),
            names,
        });
    }
    // A frame of the other kind than the flags say.
    for flag in [1, 2] {
        let mut frame = forge::apr::compressed(good, flag);
        frame[6] ^= 3;
        sum_header(&mut frame);
        all.push(BadBundle::damaged(format!("a frame of flag {flag} under the flag of the other"), frame));
    }
    // LZ4: the size in front is a lie.
    for size in [0u32, 1000, u32::MAX] {
        let mut frame = forge::apr::compressed(good, 1);
        frame[64..68].copy_from_slice(&size.to_le_bytes());
        all.push(BadBundle::damaged(format!("an LZ4 frame that says {size} bytes"), frame));
    }
    all
}
