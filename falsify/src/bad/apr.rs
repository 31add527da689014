//! `.apr` files with one field wrong. The checksums are right, so that it is the field which has to be refused.

use std::io;

use apr_format::v2::{AprV2Metadata, AprV2Writer, TensorDType};

use super::Bad;
use crate::forge;
use crate::forge::apr::{Bundle, sum_end, sum_header};
use crate::forge::models::Model;

/// A good bundle, to be spoiled.
pub fn good() -> io::Result<Vec<u8>> {
    Bundle::Aprender(|| Model::qwen2(compute::Format::F16)).bytes()
}

type Field = (&'static str, usize, &'static [u8]);

/// Fields of the header: what is wrong, where, and what stands there instead.
const HEADER: &[Field] = &[
    ("as many tensors as a number can say", 8, &[0xff; 4]),
    ("one tensor more than there are", 8, &[27, 0, 0, 0]),
    ("metadata at the end of all numbers", 12, &[0xff; 8]),
    ("metadata inside the header", 12, &[8, 0, 0, 0, 0, 0, 0, 0]),
    ("metadata of four gigabytes", 20, &[0xff; 4]),
    ("no metadata", 20, &[0; 4]),
    ("an index beyond the file", 24, &[0, 0, 0, 0, 0, 1, 0, 0]),
    ("an index inside the metadata", 24, &[64, 0, 0, 0, 0, 0, 0, 0]),
    ("data beyond the file", 32, &[0, 0, 0, 0, 0, 1, 0, 0]),
    ("data before the index", 32, &[64, 0, 0, 0, 0, 0, 0, 0]),
    ("column-major matrices", 7, &[8]),
    ("encryption", 6, &[4]),
    ("two compressions", 6, &[3]),
];

/// Fields of one entry of the index, from the end of its name on: dtype, dimensions, extents, offset, bytes.
const ENTRY: &[Field] = &[
    ("a dtype that nobody knows", 0, &[77]),
    ("another dtype", 0, &[0]),
    ("a dtype of integers", 0, &[4]),
    ("no dimensions", 1, &[0]),
    ("two hundred dimensions", 1, &[200]),
    ("an extent of 0", 2, &[0; 8]),
    ("extents whose product wraps", 2, &[0, 0, 0, 0, 0, 0, 0, 1]),
    ("an offset that wraps", 18, &[0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ("an offset beyond the file", 18, &[0, 0, 0, 0, 0, 1, 0, 0]),
    ("an offset between two multiples", 18, &[1]),
    ("a size that wraps", 26, &[0xff; 8]),
    ("one byte more", 26, &[1]),
    ("no bytes", 26, &[0; 8]),
];

/// The tensor whose entry is spoiled.
const TENSOR: &str = "model.layers.1.mlp.up_proj.weight";

/// Words of the metadata that are replaced by others of the same length, and what the refusal has to name.
const WORDS: &[(&str, &str, &str, &str)] = &[
    ("no JSON", "{\"model_type\"", "]\"model_type\"", "metadata"),
    ("no architecture", "\"architecture\"", "\"architecturf\"", "architecture"),
    ("an unknown architecture", ":\"qwen2\",\"hidden", ":\"qwenX\",\"hidden", "qwenX"),
    ("no width", "\"hidden_size\"", "\"hidden_sizf\"", "hidden_size"),
    ("a width that is a text", "\"hidden_size\":128", "\"hidden_size\":\"x\"", "hidden_size"),
    ("no layers", "\"num_layers\":2", "\"num_layers\":0", "num_layers"),
    ("a layer more than there are", "\"num_layers\":2", "\"num_layers\":3", "model.layers.2."),
    ("a layer less than there are", "\"num_layers\":2", "\"num_layers\":1", "model.layers.1."),
    ("heads that do not divide", "\"num_heads\":4", "\"num_heads\":7", "num_"),
    ("no vocabulary", "\"tokenizer.vocabulary\"", "\"tokenizer.vocabularx\"", "tokenizer.vocabulary"),
    ("two answers to one question", "\"param_count\":0", "\"n_embd\":     7", "n_embd"),
    ("an unknown pre-tokenizer", "\"tokenizer.pre_type\":\"qwen2\"", "\"tokenizer.pre_type\":\"qwenX\"", "qwenX"),
];

/// One file for each field that no reader may believe.
pub fn hostile() -> io::Result<Vec<Bad>> {
    let good = good()?;
    let mut all = Vec::new();
    for (what, at, with) in HEADER {
        let bytes = spoilt(&good, *at, with);
        all.push(Bad { what: format!("{what}, in the header"), bytes, names: None });
    }
    let name = good.windows(TENSOR.len()).rposition(|w| w == TENSOR.as_bytes());
    let entry = name.ok_or_else(|| io::Error::other("no such tensor"))? + TENSOR.len();
    for (what, at, with) in ENTRY {
        let mut bytes = spoilt(&good, entry + at, with);
        sum_end(&mut bytes);
        all.push(Bad { what: format!("{what}, in the index"), bytes, names: None });
    }
    for (what, from, to, names) in WORDS {
        let at = good.windows(from.len()).position(|w| w == from.as_bytes());
        let at = at.ok_or_else(|| io::Error::other(format!("no {from} in the metadata")))?;
        let bytes = spoilt(&good, at, to.as_bytes());
        all.push(Bad { what: format!("{what}, in the metadata"), bytes, names: Some(names.to_string()) });
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
fn bombs(good: &[u8]) -> Vec<Bad> {
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
            all.push(Bad { what: format!("a terabyte in a frame of flag {flag}"), bytes, names: None });
        }
    }
    for flag in [1, 2] {
        let frame = forge::apr::compressed(good, flag);
        for part in [64, 65, 70, frame.len() / 2, frame.len() - 1] {
            let bytes = frame[..part].to_vec();
            all.push(Bad { what: format!("a frame of flag {flag} cut to {part} bytes"), bytes, names: None });
        }
    }
    // LZ4: the size in front is a lie.
    for size in [0u32, 1000, u32::MAX] {
        let mut frame = forge::apr::compressed(good, 1);
        frame[64..68].copy_from_slice(&size.to_le_bytes());
        all.push(Bad { what: format!("an LZ4 frame that says {size} bytes"), bytes: frame, names: None });
    }
    all
}
