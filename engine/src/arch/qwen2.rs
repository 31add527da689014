//! Qwen2 and Qwen2.5, Coder included (Yang et al. 2024): GQA, biases on q, k and v, tied embeddings up to 3B.

use super::{Arch, GGUF_NAMES, HUGGINGFACE_NAMES, Layout, Presence, RENAMED_NAMES};
use compute::program::{Act, NormKind, RopeLayout};

/// The architecture.
pub static ARCH: Arch = Arch {
    name: "qwen2",
    display: "Qwen2",
    class: "Qwen2ForCausalLM",
    gguf: Layout { names: &GGUF_NAMES, rope: RopeLayout::Split },
    huggingface: Layout { names: &HUGGINGFACE_NAMES, rope: RopeLayout::Split },
    renamed: Layout { names: &RENAMED_NAMES, rope: RopeLayout::Split },
    qkv_bias: Presence::Required,
    norm: NormKind::Rms,
    act: Act::Silu,
    rope_theta: 10_000.0,
};
