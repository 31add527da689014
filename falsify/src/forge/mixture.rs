//! Which number format each tensor of a file has: one for all, or a mixture as llama.cpp's quantizer chooses
//! it.
//!
//! The rules are those of `llama_tensor_get_type_impl` (llama.cpp, `src/llama-quant.cpp`) for dense models
//! without an importance matrix, read there in October 2026. A published `Q4_K_M` file follows them, so a
//! forged one does too.

use compute::Format;

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `token_embd.weight`.
    Embedding,
    /// `output.weight`.
    Output,
    /// `attn_v.weight`, which mixtures treat with care.
    AttentionV,
    /// The other projections of the attention.
    Attention,
    /// `ffn_gate.weight` and `ffn_up.weight`.
    FeedForward,
    /// `ffn_down.weight`, which mixtures treat with care.
    FeedForwardDown,
    /// Norms, biases, frequencies: always F32.
    Vector,
}

/// How formats are dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixture {
    /// This format for every matrix, the embedding included.
    Uniform(Format),
    /// As llama.cpp's quantizer does for this type of file.
    Quantized(FileType),
}

/// Types of quantized file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "these are the names that people type")]
pub enum FileType {
    /// Q4_0 with a better output head.
    Q4_0,
    /// Q5_0 with a better output head.
    Q5_0,
    /// Q8_0 throughout.
    Q8_0,
    /// Q4_K, with Q6_K where it matters most.
    Q4_K_M,
    /// Q5_K, with Q6_K where it matters most.
    Q5_K_M,
    /// Q6_K throughout.
    Q6_K,
}

impl FileType {
    /// Every type of file, with the name people give it, its number in `general.file_type` and its main
    /// format.
    pub const ALL: [(FileType, &str, u32, &str); 6] = [
        (FileType::Q4_0, "q4_0", 2, "Q4_0"),
        (FileType::Q5_0, "q5_0", 8, "Q5_0"),
        (FileType::Q8_0, "q8_0", 7, "Q8_0"),
        (FileType::Q4_K_M, "q4_k_m", 15, "Q4_K"),
        (FileType::Q5_K_M, "q5_k_m", 17, "Q5_K"),
        (FileType::Q6_K, "q6_k", 18, "Q6_K"),
    ];

    /// Its number in `general.file_type` and its main format.
    fn facts(self) -> (u32, &'static str) {
        let found = FileType::ALL.iter().find(|row| row.0 == self);
        found.map_or((0, "F32"), |&(_, _, number, format)| (number, format))
    }

    fn is_medium(self) -> bool {
        matches!(self, FileType::Q4_K_M | FileType::Q5_K_M)
    }
}

/// Where in the model a tensor stands.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// Its layer, 0 for what belongs to none.
    pub layer: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Length of its rows.
    pub cols: usize,
    /// Whether the embedding table is the output head too.
    pub tied: bool,
}

impl Mixture {
    /// The number that `general.file_type` has for it.
    pub fn file_type(self) -> u32 {
        match self {
            Mixture::Quantized(file_type) => file_type.facts().0,
            Mixture::Uniform(format) => match format.0.name {
                "F16" => 1,
                "Q4_0" => 2,
                "Q4_1" => 3,
                "Q8_0" => 7,
                "Q5_0" => 8,
                "Q5_1" => 9,
                "Q2_K" => 10,
                "Q3_K" => 12,
                "Q4_K" => 14,
                "Q5_K" => 16,
                "Q6_K" => 18,
                "BF16" => 32,
                _ => 0,
            },
        }
    }

    /// The format of a tensor. An error names a format that `compute` has not (yet).
    pub fn format(self, role: Role, at: Position) -> Result<Format, String> {
        let name = match self {
            _ if role == Role::Vector => "F32",
            Mixture::Uniform(format) => format.0.name,
            Mixture::Quantized(file_type) => quantized(file_type, role, at),
        };
        Format::from_name(name).ok_or_else(|| format!("compute has no format {name}"))
    }
}

fn quantized(file_type: FileType, role: Role, at: Position) -> &'static str {
    let base = file_type.facts().1;
    let wanted = match role {
        Role::Output => head(base, at.cols),
        Role::Embedding if at.tied => head(base, at.cols),
        Role::AttentionV | Role::FeedForwardDown if file_type.is_medium() && more_bits(at.layer, at.layers) => "Q6_K",
        _ => base,
    };
    if at.cols.is_multiple_of(block_len(wanted)) { wanted } else { fallback(wanted) }
}

fn head(base: &'static str, cols: usize) -> &'static str {
    if base == "Q8_0" || !cols.is_multiple_of(block_len(base)) { "Q8_0" } else { "Q6_K" }
}

/// The first and last eighth of the layers, and every third between.
fn more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

fn block_len(name: &str) -> usize {
    if name.ends_with("_K") { 256 } else { 32 }
}

/// For rows that are not whole blocks of 256.
fn fallback(name: &str) -> &'static str {
    match name {
        "Q4_K" => "Q5_0",
        "Q5_K" => "Q5_1",
        "Q6_K" => "Q8_0",
        _ => "F16",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_billion_q4_k_m_is_mostly_q5_0() {
        // Qwen2.5-0.5B: hidden 896 is no multiple of 256, the feed-forward width 4864 is.
        let at = |layer, cols| Position { layer, layers: 24, cols, tied: true };
        let q4_k_m = |role, layer, cols| quantized(FileType::Q4_K_M, role, at(layer, cols));
        assert_eq!(q4_k_m(Role::Embedding, 0, 896), "Q8_0");
        assert_eq!(q4_k_m(Role::Attention, 5, 896), "Q5_0");
        assert_eq!(q4_k_m(Role::AttentionV, 0, 896), "Q8_0");
        let down = (0..24).filter(|&l| q4_k_m(Role::FeedForwardDown, l, 4864) == "Q6_K").count();
        assert_eq!(down, 12);
    }

    #[test]
    fn a_larger_q4_k_m_is_q4_k_and_q6_k() {
        let at = |layer, tied| Position { layer, layers: 28, cols: 1536, tied };
        assert_eq!(quantized(FileType::Q4_K_M, Role::Embedding, at(0, true)), "Q6_K");
        assert_eq!(quantized(FileType::Q4_K_M, Role::Embedding, at(0, false)), "Q4_K");
        assert_eq!(quantized(FileType::Q4_K_M, Role::Output, at(0, false)), "Q6_K");
        let q6_k = |role| (0..28).filter(|&l| quantized(FileType::Q4_K_M, role, at(l, true)) == "Q6_K").count();
        assert_eq!((q6_k(Role::AttentionV), q6_k(Role::FeedForwardDown), q6_k(Role::Attention)), (14, 14, 0));
    }
}
