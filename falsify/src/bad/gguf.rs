//! GGUF files with one field wrong: counts, lengths, types, offsets, shapes, the magic.
//!
//! [`hostile`] lists single fields that no reader may believe; [`shapes`] every tensor of a model with another shape;
//! [`cuts`] and [`flips`] say where to damage good bytes.

use std::io;

use super::Bad;
use crate::forge;
use crate::forge::gguf::{Data, Tensor, Value, Writer};

type Spoil = fn(&mut Writer);

/// What to do to a good file. The second word is what the refusal has to name.
const HOSTILE: &[(&str, Option<&str>, Spoil)] = &[
    ("another magic", None, |w| w.magic = *b"GGML"),
    ("the magic of a big-endian file", None, |w| w.magic = *b"FUGG"),
    ("version 0", None, |w| w.version = 0),
    ("version 1", None, |w| w.version = 1),
    ("version 4", None, |w| w.version = 4),
    ("a big-endian version", None, |w| w.version = 3 << 24),
    ("as many tensors as a number can say", None, |w| w.tensor_count = Some(u64::MAX)),
    ("tensors by the billion", None, |w| w.tensor_count = Some(1 << 30)),
    ("one tensor more than there are", None, |w| w.tensor_count = Some(w.tensors.len() as u64 + 1)),
    ("as many keys as a number can say", None, |w| w.entry_count = Some(u64::MAX)),
    ("keys by the billion", None, |w| w.entry_count = Some(1 << 30)),
    ("a key of a terabyte", None, |w| w.entry("general.name").key_len = Some(1 << 40)),
    ("a key without a name", None, |w| w.entry("general.name").key.clear()),
    ("a key that is not UTF-8", None, |w| w.entry("general.name").key = vec![0xff; 4]),
    ("a key twice", Some("general.name"), |w| {
        w.set("general.name", "again");
    }),
    ("a value of no known type", Some("general.name"), |w| w.entry("general.name").type_id = 13),
    ("a string of exabytes", Some("general.name"), |w| {
        w.entry("general.name").value[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    }),
    ("a string that is not UTF-8", Some("general.name"), |w| {
        w.entry("general.name").value[8..].fill(0xfe);
    }),
    ("a bool that is neither", Some("add_bos_token"), |w| w.entry("tokenizer.ggml.add_bos_token").value = vec![2]),
    ("an array of more than the file holds", Some("tokenizer.ggml.tokens"), |w| {
        w.entry("tokenizer.ggml.tokens").value[4..12].copy_from_slice(&(1u64 << 61).to_le_bytes());
    }),
    ("an array of an unknown type", Some("tokenizer.ggml.merges"), |w| {
        w.entry("tokenizer.ggml.merges").value[..4].copy_from_slice(&99u32.to_le_bytes());
    }),
    ("arrays in arrays a thousand deep", Some("deep"), |w| {
        let deep = (0..1000).fold(Value::U8(1), |inner, _| Value::Array(inner.type_id(), vec![inner]));
        w.set("deep", deep);
    }),
    ("an alignment of 0", Some("general.alignment"), |w| w.align(0)),
    ("an alignment of 12", Some("general.alignment"), |w| w.align(12)),
    ("an alignment of two gigabytes", Some("general.alignment"), |w| {
        w.set("general.alignment", 1u32 << 31);
    }),
    ("a tensor without a name", None, |w| w.tensors[3].name.clear()),
    ("a tensor name of a megabyte", None, |w| w.tensors[3].name = vec![b'x'; 1 << 20]),
    ("a tensor name beyond the file", None, |w| w.tensors[3].name_len = Some(u64::MAX - 7)),
    ("a tensor twice", None, |w| w.tensors[3].name = w.tensors[2].name.clone()),
    ("a tensor of no dimensions", Some("token_embd.weight"), |w| first(w).dim_count = Some(0)),
    ("a tensor of four billion dimensions", Some("token_embd.weight"), |w| first(w).dim_count = Some(u32::MAX)),
    ("an extent of 0", Some("token_embd.weight"), |w| first(w).dims[1] = 0),
    ("extents whose product wraps", Some("token_embd.weight"), |w| first(w).dims = vec![1 << 33, 1 << 33]),
    ("extents whose bytes wrap", Some("token_embd.weight"), |w| first(w).dims = vec![1 << 62, 2]),
    ("a tensor of an unknown type", Some("token_embd.weight"), |w| first(w).type_id = 200),
    ("a tensor of a removed type", Some("token_embd.weight"), |w| first(w).type_id = 4),
    ("an offset that wraps", Some("token_embd.weight"), |w| first(w).offset = Some(u64::MAX - 31)),
    ("an offset beyond the file", Some("token_embd.weight"), |w| first(w).offset = Some(1 << 40)),
    ("an offset between two multiples", Some("token_embd.weight"), |w| first(w).offset = Some(4)),
    ("two tensors in one place", None, |w| w.tensors[3].offset = Some(0)),
    ("no architecture", Some("general.architecture"), |w| w.remove("general.architecture")),
    ("an architecture that is a number", Some("general.architecture"), |w| w.replace("general.architecture", 7u32)),
    ("no layers", Some("qwen2.block_count"), |w| w.replace("qwen2.block_count", 0u32)),
    ("layers by the billion", Some("qwen2.block_count"), |w| w.replace("qwen2.block_count", u32::MAX)),
    ("one layer more than there are", Some("blk.2."), |w| w.replace("qwen2.block_count", 3u32)),
    ("heads that do not divide the width", Some("head_count"), |w| w.replace("qwen2.attention.head_count", 7u32)),
    ("K/V heads that do not divide the heads", Some("head_count_kv"), |w| {
        w.replace("qwen2.attention.head_count_kv", 3u32);
    }),
    ("no heads", Some("head_count"), |w| w.replace("qwen2.attention.head_count", 0u32)),
    ("an epsilon that is no number", Some("epsilon"), |w| {
        w.replace("qwen2.attention.layer_norm_rms_epsilon", f32::NAN);
    }),
    ("an end token outside the vocabulary", Some("eos_token_id"), |w| w.replace("tokenizer.ggml.eos_token_id", 320u32)),
    ("no vocabulary", Some("tokenizer.ggml.tokens"), |w| w.remove("tokenizer.ggml.tokens")),
    ("a word twice", Some("tokenizer.ggml.tokens"), |w| {
        w.replace("tokenizer.ggml.tokens", Value::strings(vec!["same"; 320]));
    }),
];

fn first(w: &mut Writer) -> &mut Tensor {
    w.tensor_named("token_embd.weight")
}

/// The model that is spoiled.
const GOOD: &str = "qwen2-q8_0";

fn good(name: &str) -> io::Result<Writer> {
    forge::file(name).unwrap_or_else(|| Err(io::Error::other(format!("the forge has no {name}"))))
}

/// One file for each field that no reader may believe.
pub fn hostile() -> io::Result<Vec<Bad>> {
    let spoilt = |(what, names, spoil): &(&str, Option<&str>, Spoil)| {
        let mut w = good(GOOD)?;
        spoil(&mut w);
        Ok(Bad { what: what.to_string(), bytes: w.to_bytes()?, names: names.map(str::to_string) })
    };
    HOSTILE.iter().map(spoilt).collect()
}

/// A shape that is not the one demanded; `None` where this change makes no other shape.
type Reshape = fn(&[u64]) -> Vec<u64>;

const RESHAPES: &[(&str, Reshape)] = &[
    ("one column more", |d| [&[d[0] + 1], &d[1..]].concat()),
    ("one column less", |d| [&[d[0] - 1], &d[1..]].concat()),
    ("a block of columns more", |d| [&[d[0] + 32], &d[1..]].concat()),
    ("twice the columns", |d| [&[d[0] * 2], &d[1..]].concat()),
    ("half the columns", |d| [&[d[0] / 2], &d[1..]].concat()),
    ("no columns", |d| [&[0], &d[1..]].concat()),
    ("rows and columns swapped", |d| d.iter().rev().copied().collect()),
    ("one dimension more", |d| [d, &[1]].concat()),
    ("one dimension more in front", |d| [&[1], d].concat()),
    ("one row less", |d| d.iter().enumerate().map(|(i, d)| if i == 1 { d - 1 } else { *d }).collect()),
    ("one row more", |d| d.iter().enumerate().map(|(i, d)| if i == 1 { d + 1 } else { *d }).collect()),
    ("an exabyte of columns", |d| [&[1 << 60], &d[1..]].concat()),
];

/// Every tensor of a model with every other shape, one at a time: with data for it where that is possible, so that only
/// the model's own shapes can refuse it. A table that is merely longer than the vocabulary is left out: that is padding.
pub fn shapes(name: &str, mut each: impl FnMut(Bad)) -> io::Result<()> {
    let mut w = good(name)?;
    let tied = !w.tensors.iter().any(|t| t.name == b"output.weight");
    for i in 0..w.tensors.len() {
        let dims = w.tensors[i].dims.clone();
        let tensor = String::from_utf8_lossy(&w.tensors[i].name).into_owned();
        for (change, reshape) in RESHAPES {
            let other = reshape(&dims);
            // The rows of the embedding are what the model takes for its vocabulary: the output matrix then differs.
            let vocabulary = tensor == "token_embd.weight" && change.starts_with("one row");
            if other == dims || vocabulary && tied && *change == "one row more" {
                continue;
            }
            let named = if vocabulary && !tied { "output.weight" } else { &tensor };
            let format = compute::Format::from_ggml(w.tensors[i].type_id);
            let bytes = |d: &[u64]| {
                let row = format?.row_bytes(usize::try_from(d[0]).ok()?)? as u64;
                d[1..].iter().try_fold(row, |n, rows| n.checked_mul(*rows))
            };
            let fits = bytes(&other).filter(|n| *n < 1 << 24 && *n > 0);
            let data = fits.map(|n| std::mem::replace(&mut w.tensors[i].data, Data::Hole(n)));
            w.tensors[i].dims = other.clone();
            let what = format!("{name}: {tensor} {other:?} instead of {dims:?}, {change}");
            each(Bad { what, bytes: w.to_bytes()?, names: Some(named.to_string()) });
            w.tensors[i].dims = dims.clone();
            if let Some(data) = data {
                w.tensors[i].data = data;
            }
        }
    }
    Ok(())
}

/// Lengths to cut a file of this many bytes to: every one of a short header, some of a long rest.
pub fn cuts(header: usize, total: usize) -> impl Iterator<Item = usize> {
    let stride = (header / 1500).max(1);
    let rest = (total.saturating_sub(header) / 40).max(1);
    (0..header).step_by(stride).chain((header..total).step_by(rest)).chain([total - 1])
}

/// Bits to flip in a header of this many bytes: all of a short one, some 4000 of a long one.
pub fn flips(header: usize) -> impl Iterator<Item = (usize, u8)> {
    // A stride that is odd meets every bit of a byte.
    let stride = (header * 8 / 4000).max(1) | 1;
    (0..header * 8).step_by(stride).map(|bit| (bit / 8, 1 << (bit % 8)))
}
