//! Architectures as data: one file each, listed in [`ALL`]. Nothing here computes; `model` reads the tables against a
//! file, `program` turns the result into operations.

use compute::program::{Act, NormKind, RopeLayout};

use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::Naming;

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
    /// What HuggingFace's code calls it: `Qwen2ForCausalLM`.
    pub class: &'static str,
    /// Its tensors in GGUF.
    pub gguf: Layout,
    /// Its tensors as HuggingFace's code saves them.
    pub huggingface: Layout,
    /// Its tensors in GGUF's order under HuggingFace's names.
    pub renamed: Layout,
    /// Biases of the q, k and v projections.
    pub qkv_bias: Presence,
    /// All norms of the block.
    pub norm: NormKind,
    /// The feed-forward gate.
    pub act: Act,
    /// RoPE base when the file has none.
    pub rope_theta: f64,
}

/// How the tensors of an architecture are called, and in which order the rows of q and k stand.
pub struct Layout {
    /// Names.
    pub names: &'static Names,
    /// How the elements of a head are paired: converters to GGUF may permute q and k.
    pub rope: RopeLayout,
}

impl Arch {
    /// The layout of files that were named so.
    //= F-APR-074
    pub fn layout(&'static self, naming: Naming) -> &'static Layout {
        match naming {
            Naming::Gguf => &self.gguf,
            Naming::HuggingFace => &self.huggingface,
            Naming::Renamed => &self.renamed,
        }
    }
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
    /// `[rot / 2]`: what each RoPE frequency is divided by (Llama 3). HuggingFace has numbers in `config.json` instead.
    pub rope_freqs: Option<&'static str>,
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
    rope_freqs: Some("rope_freqs.weight"),
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

/// The names of HuggingFace's decoder-only models of this shape.
pub static HUGGINGFACE_NAMES: Names = Names {
    token_embedding: "model.embed_tokens.weight",
    output_norm: "model.norm.weight",
    output: "lm_head.weight",
    rope_freqs: None,
    attention_norm: "model.layers.{}.input_layernorm.weight",
    q: "model.layers.{}.self_attn.q_proj.weight",
    k: "model.layers.{}.self_attn.k_proj.weight",
    v: "model.layers.{}.self_attn.v_proj.weight",
    q_bias: "model.layers.{}.self_attn.q_proj.bias",
    k_bias: "model.layers.{}.self_attn.k_proj.bias",
    v_bias: "model.layers.{}.self_attn.v_proj.bias",
    attention_output: "model.layers.{}.self_attn.o_proj.weight",
    ffn_norm: "model.layers.{}.post_attention_layernorm.weight",
    gate: "model.layers.{}.mlp.gate_proj.weight",
    up: "model.layers.{}.mlp.up_proj.weight",
    down: "model.layers.{}.mlp.down_proj.weight",
};

/// HuggingFace's names for what came out of a GGUF file: the divisors of RoPE keep theirs.
pub static RENAMED_NAMES: Names = Names { rope_freqs: GGUF_NAMES.rope_freqs, ..HUGGINGFACE_NAMES };

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
