//! Saboteurs that change `.apr` files of the forge. Checksums are made right again afterwards, so that the file is a
//! good one that says something else. Where things stand is asked of apr-format, not of our reader.

use std::io;
use std::ops::Range;
use std::path::Path;

use apr_format::v2::{AprV2ReaderRef, TensorDType};

use super::{Means, Saboteur, edit};
use crate::forge::apr::{sum_end, sum_header};
use crate::subject::Spoil;

/// An entry that changes bundles of the forge.
const fn bundle(name: &'static str, does: &'static str, how: Spoil) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::EvilForge(how) }
}

/// Every evil bundle.
pub static ALL: &[Saboteur] = &[
    bundle("apr-magic-changed", "the file says that it is of version 1", |name, file| {
        whole(name, file, |bytes| bytes[3] = b'N')
    }),
    bundle("apr-int4-changed", "the two nibbles of every INT4 byte change places", |name, file| {
        each(name, file, TensorDType::AprQ4, |data| {
            data.chunks_exact_mut(18).for_each(|b| b[2..].iter_mut().for_each(|q| *q = q.rotate_left(4)))
        })
    }),
    bundle("apr-int8-changed", "the scale of every INT8 tensor has the other sign", |name, file| {
        each(name, file, TensorDType::AprQ8, |data| data[3] ^= 0x80)
    }),
    bundle("apr-f16-changed", "the last bit of every F16 number is another", |name, file| {
        each(name, file, TensorDType::F16, |data| data.iter_mut().step_by(2).for_each(|b| *b ^= 1))
    }),
    bundle("apr-f32-changed", "the last bit of every F32 number is another", |name, file| {
        each(name, file, TensorDType::F32, |data| data.iter_mut().step_by(4).for_each(|b| *b ^= 1))
    }),
    bundle("apr-metadata-changed", "the metadata says one position less", |name, file| {
        change(name, file, |bytes, _| {
            let (from, to) = (b"\"max_position_embeddings\":2048", b"\"max_position_embeddings\":2047");
            if let Some(at) = bytes.windows(from.len()).position(|w| w == from) {
                bytes[at..at + to.len()].copy_from_slice(to);
            }
        })
    }),
    bundle("apr-frame-truncated", "the last eighth of a compressed file is not there", |name, file| {
        match name.ends_with("lz4") || name.ends_with("zstd") {
            true => edit(file, |bytes| bytes.truncate(bytes.len() / 8 * 7)),
            false => Ok(()),
        }
    }),
    bundle("apr-names-swapped", "gate and up of the first layer change places in the index", |name, file| {
        change(name, file, |bytes, _| {
            let offset = |bytes: &[u8], of: &str| {
                let name = format!("model.layers.0.mlp.{of}_proj.weight");
                // Behind the name: dtype, number of extents, two extents.
                let at = bytes.windows(name.len()).rposition(|w| w == name.as_bytes())? + name.len() + 2 + 16;
                Some(at..at + 8)
            };
            if let (Some(a), Some(b)) = (offset(bytes, "gate"), offset(bytes, "up")) {
                let gate = bytes[a.clone()].to_vec();
                bytes.copy_within(b.clone(), a.start);
                bytes[b].copy_from_slice(&gate);
            }
        })
    }),
    bundle("apr-checksum-ignored", "the file has no checksum, and says that it needs none", |name, file| {
        whole(name, file, |bytes| {
            bytes[7] &= !4;
            sum_header(bytes);
            bytes.truncate(bytes.len() - 4);
        })
    }),
];

/// Changes every bundle.
fn whole(name: &str, file: &Path, how: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
    if name.starts_with("apr-") { edit(file, how) } else { Ok(()) }
}

/// Changes a bundle that apr-format can read, and makes its checksum right. It is told where tensors of each dtype lie.
fn change(name: &str, file: &Path, how: impl FnOnce(&mut Vec<u8>, &[(TensorDType, Range<usize>)])) -> io::Result<()> {
    let mut bytes = std::fs::read(file)?;
    // Realizar's dialect and compressed files are not that crate's.
    if !name.starts_with("apr-") || ["realizar", "lz4", "zstd"].iter().any(|word| name.contains(word)) {
        return Ok(());
    }
    let places: Vec<(TensorDType, Range<usize>)> = {
        let read = AprV2ReaderRef::from_bytes(&bytes).map_err(io::Error::other)?;
        let data = read.header().data_offset as usize;
        let place = |e: &apr_format::v2::TensorIndexEntry| {
            let start = data + e.offset as usize;
            (e.dtype, start..start + e.size as usize)
        };
        read.tensor_index().iter().map(place).collect()
    };
    how(&mut bytes, &places);
    sum_end(&mut bytes);
    std::fs::write(file, bytes)
}

/// Changes the data of every tensor of this dtype.
fn each(name: &str, file: &Path, dtype: TensorDType, how: impl Fn(&mut [u8])) -> io::Result<()> {
    change(name, file, |bytes, places| {
        places.iter().filter(|(d, _)| *d == dtype).for_each(|(_, range)| how(&mut bytes[range.clone()]));
    })
}
