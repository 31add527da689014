//! Llama 1 to 3 and what is built like them (Touvron et al. 2023): no biases; GGUF permutes q and k to interleaved pairs.

use super::{Arch, GGUF_NAMES, HUGGINGFACE_NAMES, Layout, Presence, RENAMED_NAMES};
use compute::program::{Act, NormKind, RopeLayout};

/// The architecture.
pub static ARCH: Arch = Arch {
    name: "llama",
    display: "Llama",
    class: "LlamaForCausalLM",
    gguf: Layout { names: &GGUF_NAMES, rope: RopeLayout::Interleaved },
    huggingface: Layout { names: &HUGGINGFACE_NAMES, rope: RopeLayout::Split },
    renamed: Layout { names: &RENAMED_NAMES, rope: RopeLayout::Interleaved },
    qkv_bias: Presence::Optional,
    norm: NormKind::Rms,
    act: Act::Silu,
    rope_theta: 10_000.0,
};
