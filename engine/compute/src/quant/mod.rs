//! Number formats. One file per format; `formats!` below is the slice that everything else goes through.
//!
//! A format file holds its layout, the scalar decode and encode (the definition, after ggml's `ggml-quants.c`), and,
//! for block formats, how its rows are repacked for the `cpu` backend and unpacked there. To add one, write the file
//! and add its name to the list.

use std::fmt;

use crate::cpu::tile::Kernels;

pub mod aprender;

macro_rules! formats {
    ($($module:ident),* $(,)?) => {
        $(pub mod $module;)*
        /// Every format, in the order of ggml's type ids.
        pub static ALL: &[&Spec] = &[$(&$module::SPEC),*];
    };
}

formats! {
    float32, float16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, bfloat16,
}

/// What a format is: sizes, its definition, its kernels.
pub struct Spec {
    /// As GGUF tools print it: `Q4_K`.
    pub name: &'static str,
    /// ggml's type id, as GGUF stores it.
    pub ggml_type: u32,
    /// Weights in a block; rows are whole blocks.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Decodes one block: `block_bytes` bytes to `block_len` values. The definition.
    pub decode: fn(&[u8], &mut [f32]),
    /// Encodes one block, as ggml's reference quantiser does.
    pub encode: fn(&[f32], &mut [u8]),
    /// How the `cpu` backend multiplies by it.
    pub kernels: Kernels,
}

/// A number format: a reference to its [`Spec`].
#[derive(Clone, Copy)]
pub struct Format(pub &'static Spec);

impl Format {
    /// 32-bit float.
    pub const F32: Format = Format(&float32::SPEC);
    /// 16-bit float.
    pub const F16: Format = Format(&float16::SPEC);

    /// By ggml's type id.
    pub fn from_ggml(id: u32) -> Option<Format> {
        ALL.iter().find(|s| s.ggml_type == id).map(|s| Format(s))
    }

    /// By name, any case.
    pub fn from_name(name: &str) -> Option<Format> {
        ALL.iter().find(|s| s.name.eq_ignore_ascii_case(name)).map(|s| Format(s))
    }

    /// Bytes of a row of `cols` weights; `None` if that is not whole blocks or overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.0.block_len) {
            return None;
        }
        (cols / self.0.block_len).checked_mul(self.0.block_bytes)
    }

    /// Decodes a whole row. Panics if the lengths disagree.
    //= F-INT-295
    pub fn decode_row(self, row: &[u8], out: &mut [f32]) {
        assert_eq!(self.row_bytes(out.len()), Some(row.len()), "row of {}", self.0.name);
        for (block, values) in row.chunks_exact(self.0.block_bytes).zip(out.chunks_exact_mut(self.0.block_len)) {
            (self.0.decode)(block, values);
        }
    }

    /// Encodes a whole row. Panics if the lengths disagree.
    pub fn encode_row(self, values: &[f32], row: &mut [u8]) {
        assert_eq!(self.row_bytes(values.len()), Some(row.len()), "row of {}", self.0.name);
        for (block, values) in row.chunks_exact_mut(self.0.block_bytes).zip(values.chunks_exact(self.0.block_len)) {
            (self.0.encode)(values, block);
        }
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Format) -> bool {
        self.0.ggml_type == other.0.ggml_type
    }
}

impl Eq for Format {}

impl std::hash::Hash for Format {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.ggml_type.hash(state);
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

pub(crate) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

pub(crate) fn put_f16(bytes: &mut [u8], at: usize, x: f32) {
    bytes[at..at + 2].copy_from_slice(&half::f16::from_f32(x).to_le_bytes());
}

/// Sixteen bytes of nibbles, as Q4_0 orders them: all low ones, then all high ones.
pub(crate) fn nibbles_of(bytes: &[u8]) -> [u8; 32] {
    let mut q = [0; 32];
    let (low, high) = q.split_at_mut(16);
    for ((low, high), b) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (b & 15, b >> 4);
    }
    q
}
