//! Families 14 to 19, and every tensor with every other shape: the descriptions of tensors.

use std::io;

use engine::Kind::{Malformed, TooLarge, Unsupported};
use engine::Place;

use super::At::{Field, FirstTensor, Tensor};
use super::{Bad, Row, files, tiny};
use crate::forge;
use crate::forge::gguf::{self, Data, Writer};

const FIRST: &str = "token_embd.weight";
/// ggml's number of F32 and of Q4_0.
const F32: u32 = 0;
const Q4_0: u32 = 2;

const ROWS: &[Row] = &[
    ("14: no dimensions", Malformed, Field("token_embd.weight/n_dims", 0), |w| first(w).dim_count = Some(0)),
    ("14: five dimensions", Malformed, Field("token_embd.weight/n_dims", 0), |w| first(w).dim_count = Some(5)),
    ("14: 2^32 - 1 dimensions", Malformed, Field("token_embd.weight/n_dims", 0), |w| {
        first(w).dim_count = Some(u32::MAX);
    }),
    ("15: an extent of 0", Malformed, Tensor(FIRST), |w| first(w).dims[1] = 0),
    ("15: no columns", Malformed, Tensor(FIRST), |w| first(w).dims[0] = 0),
    ("15: 2^63 elements", Malformed, Tensor(FIRST), |w| first(w).dims = vec![1 << 32, 1 << 31]),
    ("15: a product that wraps", Malformed, Tensor(FIRST), |w| first(w).dims = vec![1 << 33, 1 << 33]),
    ("15: bytes that wrap", Malformed, Tensor(FIRST), |w| {
        (first(w).dims, first(w).type_id) = (vec![i64::MAX as u64, 2, 1, 1], F32);
    }),
    ("15: bytes that wrap to two", Malformed, Tensor(FIRST), |w| {
        (first(w).dims, first(w).type_id) = (vec![5124095576030431008], Q4_0);
    }),
    ("16: rows that are not whole blocks", Malformed, Tensor(FIRST), |w| first(w).dims[0] = 33),
    ("17: a removed type, Q4_2", Unsupported, Tensor(FIRST), |w| first(w).type_id = 4),
    ("17: a removed type, Q4_3", Unsupported, Tensor(FIRST), |w| first(w).type_id = 5),
    ("17: type 99", Unsupported, Tensor(FIRST), |w| first(w).type_id = 99),
    ("17: the last type", Unsupported, Tensor(FIRST), |w| first(w).type_id = u32::MAX),
    ("18: an offset between two multiples", Malformed, Tensor(FIRST), |w| first(w).offset = Some(4)),
    ("18: the last offset", Malformed, Tensor(FIRST), |w| first(w).offset = Some(u64::MAX - 31)),
    ("18: an offset beyond the file", Malformed, Tensor(FIRST), |w| first(w).offset = Some(1 << 40)),
    ("18: an offset at the end of the file", Malformed, Tensor(FIRST), |w| {
        let bytes = w.to_bytes().map_or(0, |bytes| bytes.len() as u64);
        first(w).offset = Some(bytes.next_multiple_of(32));
    }),
    ("18: two tensors in one place", Malformed, Tensor("blk.0.attn_q.weight"), |w| w.tensors[3].offset = Some(0)),
    ("19: no name", Malformed, FirstTensor(0), |w| first(w).name.clear()),
    ("19: a name of 257 bytes", TooLarge, FirstTensor(0), |w| first(w).name = vec![b'x'; 257]),
    ("19: a name of a megabyte", TooLarge, FirstTensor(0), |w| first(w).name = vec![b'x'; 1 << 20]),
    ("19: a name beyond the file", Malformed, FirstTensor(8), |w| first(w).name_len = Some(u64::MAX - 7)),
    ("19: a name that is not UTF-8", Malformed, FirstTensor(0), |w| first(w).name = b"token\xff".to_vec()),
    ("19: a tensor twice", Malformed, Tensor("blk.0.attn_norm.weight"), |w| {
        w.tensors[3].name = w.tensors[2].name.clone();
    }),
];

fn first(w: &mut Writer) -> &mut gguf::Tensor {
    &mut w.tensors[0]
}

/// One file for each.
pub fn all() -> io::Result<Vec<Bad>> {
    files("tensors", tiny, ROWS)
}

/// Another shape, from the one demanded.
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
    let unknown = || Err(io::Error::other(format!("the forge has no {name}")));
    let mut w = forge::file(name).unwrap_or_else(unknown)?;
    let tied = !w.tensors.iter().any(|t| t.name == b"output.weight");
    for i in 0..w.tensors.len() {
        let dims = w.tensors[i].dims.clone();
        let tensor = String::from_utf8_lossy(&w.tensors[i].name).into_owned();
        for (change, reshape) in RESHAPES {
            let other = reshape(&dims);
            // The rows of the embedding are what the model takes for its vocabulary: the output matrix then differs.
            let vocabulary = tensor == FIRST && change.starts_with("one row");
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
            each(Bad { what, bytes: w.to_bytes()?, kind: Malformed, at: Place::Tensor(named.to_string()) });
            w.tensors[i].dims = dims.clone();
            if let Some(data) = data {
                w.tensors[i].data = data;
            }
        }
    }
    Ok(())
}
