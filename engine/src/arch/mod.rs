//! Architectures as data: one file each, listed in [`ALL`]. Nothing here computes; `model` reads the tables against a
//! file, `program` turns the result into operations.

use compute::program::{Act, NormKind, RopeLayout};

use crate::error::{Error, Kind, Place, Result, quoted};

macro_rules! architectures {
    ($($module:ident),* $(,)?) => {
        $(mod $module;)*
        /// Every architecture.
        pub static ALL: &[&Arch] = &[$(&$module::ARCH),*];
    };
}

architectures! { llama, qwen2 }

/// What distinguishes one decoder-only transformer from another.
pub struct Arch {
    /// `general.architecture` in GGUF, and the prefix of its metadata keys.
    pub name: &'static str,
    /// For people: `Qwen2`.
    pub display: &'static str,
    /// Tensor names in GGUF.
    pub names: &'static Names,
    /// How pairs are laid out in GGUF, where converters may permute q and k.
    pub rope_layout: RopeLayout,
    /// Biases of the q, k and v projections.
    pub qkv_bias: Presence,
    /// All norms of the block.
    pub norm: NormKind,
    /// The feed-forward gate.
    pub act: Act,
    /// RoPE base when the file has none.
    pub rope_theta: f64,
}

/// Whether a file has some optional tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It must be there.
    Required,
    /// It is used if it is there.
    Optional,
}

/// Tensor names. `{}` stands for the layer.
pub struct Names {
    /// `[vocab, hidden]`.
    pub token_embedding: &'static str,
    /// `[hidden]`.
    pub output_norm: &'static str,
    /// `[vocab, hidden]`; absent when tied to the embedding.
    pub output: &'static str,
    /// `[rot / 2]`: what each RoPE frequency is divided by (Llama 3).
    pub rope_freqs: &'static str,
    /// `[hidden]`.
    pub attention_norm: &'static str,
    /// `[heads * head_dim, hidden]`.
    pub q: &'static str,
    /// `[kv_heads * head_dim, hidden]`.
    pub k: &'static str,
    /// `[kv_heads * head_dim, hidden]`.
    pub v: &'static str,
    /// `[heads * head_dim]`.
    pub q_bias: &'static str,
    /// `[kv_heads * head_dim]`.
    pub k_bias: &'static str,
    /// `[kv_heads * head_dim]`.
    pub v_bias: &'static str,
    /// `[hidden, heads * head_dim]`.
    pub attention_output: &'static str,
    /// `[hidden]`.
    pub ffn_norm: &'static str,
    /// `[ffn, hidden]`.
    pub gate: &'static str,
    /// `[ffn, hidden]`.
    pub up: &'static str,
    /// `[hidden, ffn]`.
    pub down: &'static str,
}

/// The names that GGUF uses for every architecture of this shape.
pub static GGUF_NAMES: Names = Names {
    token_embedding: "token_embd.weight",
    output_norm: "output_norm.weight",
    output: "output.weight",
    rope_freqs: "rope_freqs.weight",
    attention_norm: "blk.{}.attn_norm.weight",
    q: "blk.{}.attn_q.weight",
    k: "blk.{}.attn_k.weight",
    v: "blk.{}.attn_v.weight",
    q_bias: "blk.{}.attn_q.bias",
    k_bias: "blk.{}.attn_k.bias",
    v_bias: "blk.{}.attn_v.bias",
    attention_output: "blk.{}.attn_output.weight",
    ffn_norm: "blk.{}.ffn_norm.weight",
    gate: "blk.{}.ffn_gate.weight",
    up: "blk.{}.ffn_up.weight",
    down: "blk.{}.ffn_down.weight",
};

/// The architecture with this name.
pub fn detect(name: &str) -> Result<&'static Arch> {
    //= F-GGUF-053
    if let Some(arch) = ALL.iter().find(|a| a.name == name) {
        return Ok(arch);
    }
    //= F-GGUF-059
    let known: Vec<&str> = ALL.iter().map(|a| a.name).collect();
    Err(Error::new(Kind::Unsupported, format!("unsupported architecture {}", quoted(name)))
        .at(Place::Key("general.architecture".into()))
        .hint(format!("supported: {}", known.join(", "))))
}
