//! Family 30: weights that are no numbers. Such a file is well-formed; it has to be stopped before it says anything.

use std::io;

use compute::Format;

use super::tiny_of;
use crate::forge::gguf::{Data, Writer};

/// Number formats, and where a block has its half-float scales. Formats without blocks are all scale.
const FORMATS: &[(&str, &[usize])] =
    &[("F32", &[]), ("F16", &[]), ("Q8_0", &[0]), ("Q4_0", &[0]), ("Q4_K", &[0, 2]), ("Q6_K", &[208])];

/// What stands where a scale should: as f32 and as f16.
const POISONS: &[(&str, u32, u16)] = &[("NaN", 0x7fc0_0000, 0x7e00), ("infinity", 0x7f80_0000, 0x7c00)];

/// A model with one tensor that is no number, as its name says.
pub struct Poisoned {
    /// Format, tensor and poison.
    pub what: String,
    /// The file.
    pub file: Writer,
}

/// Every tensor of a small model in six formats, once with every value NaN and once infinite; and every matrix with a
/// single poisoned block, the embedding table excepted: there a prompt may not meet it.
pub fn poisoned(mut each: impl FnMut(Poisoned) -> io::Result<()>) -> io::Result<()> {
    for (name, scales) in FORMATS {
        let tensors = tiny_of(name)?.tensors.len();
        for (tensor, (poison, as_f32, as_f16)) in (0..tensors).flat_map(|i| POISONS.iter().map(move |p| (i, p))) {
            for whole in [true, false] {
                let mut file = tiny_of(name)?;
                let t = &mut file.tensors[tensor];
                let called = String::from_utf8_lossy(&t.name).into_owned();
                let (Data::Bytes(bytes), Some(format)) = (&mut t.data, Format::from_ggml(t.type_id)) else {
                    return Err(io::Error::other(format!("{called} has no bytes")));
                };
                if !whole && called.starts_with("token_embd") {
                    continue;
                }
                let blocks = if whole { usize::MAX } else { 1 };
                for block in bytes.chunks_exact_mut(format.0.block_bytes).take(blocks) {
                    match format.0.name {
                        "F32" => block.copy_from_slice(&as_f32.to_le_bytes()),
                        "F16" => block.copy_from_slice(&as_f16.to_le_bytes()),
                        _ => scales.iter().for_each(|at| block[*at..at + 2].copy_from_slice(&as_f16.to_le_bytes())),
                    }
                }
                let part = if whole { "all of" } else { "a block of" };
                each(Poisoned { what: format!("weights 30: {name}, {part} {called} is {poison}"), file })?;
            }
        }
    }
    Ok(())
}
