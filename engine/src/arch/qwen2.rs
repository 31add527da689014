//! Qwen2 and Qwen2.5, Coder included (Yang et al. 2024): GQA, biases on q, k and v, tied embeddings up to 3B.

use super::{Arch, GGUF_NAMES, Presence};
use compute::program::{Act, NormKind, RopeLayout};

/// The architecture.
pub static ARCH: Arch = Arch {
    name: "qwen2",
    display: "Qwen2",
    names: &GGUF_NAMES,
    rope_layout: RopeLayout::Split,
    qkv_bias: Presence::Required,
    norm: NormKind::Rms,
    act: Act::Silu,
    rope_theta: 10_000.0,
};
