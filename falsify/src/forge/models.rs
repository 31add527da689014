//! Model files made of seeded random weights: small ones that any engine can run to the same tokens, and
//! full-shape ones for detection and speed.
//!
//! The numbers are chosen so that a wrong computation shows and a right one does not waver. Activations stay
//! near 1. Queries are twice as large as keys, so attention picks positions instead of averaging them. Logits
//! have a standard deviation of 4: the best token leads by 1 in the median, which is ten times the noise of
//! int8 activations. The layout is llama.cpp's, and llama.cpp runs these files.

use std::io::{self, Write};
use std::sync::Arc;

use compute::Format;

use super::gguf::{Data, Value, Writer};
use super::mixture::{Mixture, Position, Role};
use super::random::Random;
use super::words::{Joins, NORMAL, UNUSED, Words};

/// The architecture, as `general.architecture` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// Qwen2: biases on q, k and v; rope pairs element `i` with `i + head_dim / 2`.
    Qwen2,
    /// Llama: no biases; rope pairs element `2i` with `2i + 1`, as converters permute q and k for GGUF.
    Llama,
}

impl Arch {
    /// The name in the file, also the prefix of its keys.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Qwen2 => "qwen2",
            Arch::Llama => "llama",
        }
    }
}

/// How rope angles are stretched for long contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All angles divided by `factor`.
    Linear {
        /// Stretch.
        factor: f32,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// Stretch of the slow angles.
        factor: f32,
        /// Context of the original training.
        original: u32,
    },
    /// Llama 3's rule. GGUF has no key for it: converters write the divisor of each angle into
    /// `rope_freqs.weight`.
    Llama3 {
        /// Stretch of the slow angles.
        factor: f64,
        /// Context of the original training.
        original: f64,
    },
}

/// What stands in the matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filling {
    /// Every weight drawn and encoded apart. For small models.
    Drawn,
    /// Blocks picked at random from a stock of encoded ones: valid, quick, and no two rows alike. For
    /// benches.
    Stock,
    /// Nothing: a sparse file, all zeros. For looking at the header.
    Hole,
}

/// A model to be forged.
#[derive(Clone, Debug)]
pub struct Model {
    /// `general.name`.
    pub name: String,
    /// Architecture.
    pub arch: Arch,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Tokenizer. A function, because a large one takes a moment and a listing needs none.
    pub words: fn() -> Words,
    /// The tokenizer is padded with unused tokens to this size.
    pub padded: usize,
    /// Rows of the embedding table. Unlike `padded` only in files that are meant to disagree with themselves.
    pub rows: usize,
    /// Rows that stand for no word have the largest logits of all, for half of all hidden states each.
    pub loud: bool,
    /// No output matrix: the embedding table serves.
    pub tied: bool,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// Base of the rope angles.
    pub theta: f32,
    /// Stretch of the rope angles.
    pub scaling: Scaling,
    /// `context_length`.
    pub context: u32,
    /// Number formats.
    pub mixture: Mixture,
    /// What stands in the matrices.
    pub filling: Filling,
    /// Control tokens are as likely as any, so generations end by themselves now and then. Otherwise their
    /// logits are kept small and a generation runs to the length that was asked for.
    pub stops: bool,
    /// Seed of the weights.
    pub seed: u64,
}

/// A full shape.
struct Size {
    name: &'static str,
    layers: usize,
    hidden: usize,
    ffn: usize,
    heads: usize,
    kv_heads: usize,
    rows: usize,
    tied: bool,
}

/// Qwen2.5 as published, and the 1B of the specification, which nobody has published.
#[rustfmt::skip]
const SIZES: [Size; 5] = [
    Size { name: "0.5b", layers: 24, hidden: 896, ffn: 4864, heads: 14, kv_heads: 2, rows: 151_936, tied: true },
    Size { name: "1b", layers: 24, hidden: 1024, ffn: 5504, heads: 16, kv_heads: 2, rows: 151_936, tied: true },
    Size { name: "1.5b", layers: 28, hidden: 1536, ffn: 8960, heads: 12, kv_heads: 2, rows: 151_936, tied: true },
    Size { name: "7b", layers: 28, hidden: 3584, ffn: 18_944, heads: 28, kv_heads: 4, rows: 152_064, tied: false },
    Size { name: "32b", layers: 64, hidden: 5120, ffn: 27_648, heads: 40, kv_heads: 8, rows: 152_064, tied: false },
];

/// A tensor of a model.
struct Part {
    name: String,
    /// `None` for a vector.
    rows: Option<usize>,
    cols: usize,
    role: Role,
    layer: usize,
    mean: f32,
    /// Standard deviation of the weights.
    spread: f32,
}

impl Model {
    /// Two layers of Qwen2, as narrow as the format allows: rows of at least one block, heads of 32 or 64.
    pub fn qwen2(format: Format) -> Model {
        let hidden = format.0.block_len.max(128);
        Model {
            name: format!("forged qwen2 {}", format.0.name),
            arch: Arch::Qwen2,
            layers: 2,
            hidden,
            ffn: 2 * hidden,
            heads: 4,
            kv_heads: 2,
            words: Words::small,
            padded: 320,
            rows: 320,
            loud: false,
            tied: true,
            qkv_bias: true,
            theta: 1e6,
            scaling: Scaling::None,
            context: 2048,
            mixture: Mixture::Uniform(format),
            filling: Filling::Drawn,
            stops: false,
            seed: 1,
        }
    }

    /// Two layers of Llama, with an output matrix of its own.
    pub fn llama(format: Format) -> Model {
        Model {
            name: format!("forged llama {}", format.0.name),
            arch: Arch::Llama,
            words: Words::small_llama,
            tied: false,
            qkv_bias: false,
            theta: 10_000.0,
            seed: 2,
            ..Model::qwen2(format)
        }
    }

    /// Names of the full shapes.
    pub fn sizes() -> impl Iterator<Item = &'static str> {
        SIZES.iter().map(|size| size.name)
    }

    /// A full shape by name.
    pub fn full(size: &str, mixture: Mixture, filling: Filling) -> Option<Model> {
        let size = SIZES.iter().find(|s| s.name == size)?;
        Some(Model {
            name: format!("forged qwen2 of the shape of {}", size.name),
            layers: size.layers,
            hidden: size.hidden,
            ffn: size.ffn,
            heads: size.heads,
            kv_heads: size.kv_heads,
            words: Words::large,
            padded: size.rows,
            rows: size.rows,
            tied: size.tied,
            context: 32_768,
            mixture,
            filling,
            ..Model::qwen2(Format::F32)
        })
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Whether `compute` has every format that the file needs.
    pub fn has_formats(&self) -> bool {
        self.parts().iter().all(|part| self.format(part).is_ok())
    }

    /// The file.
    pub fn file(&self) -> io::Result<Writer> {
        let mut w = Writer::new(3);
        let words = (self.words)().padded_to(self.padded);
        self.describe(&mut w);
        describe_words(&mut w, &words);
        for part in self.parts() {
            let format = self.format(&part).map_err(io::Error::other)?;
            let mut dims = vec![part.cols as u64];
            dims.extend(part.rows.map(|rows| rows as u64));
            w.tensor(&part.name, &dims, format.0.ggml_type, self.data(&part, format, &words)?);
        }
        Ok(w)
    }

    fn describe(&self, w: &mut Writer) {
        w.set("general.architecture", self.arch.name());
        w.set("general.name", self.name.as_str());
        w.set("general.file_type", self.mixture.file_type());
        w.set("general.quantization_version", 2u32);
        let key = |k: &str| format!("{}.{k}", self.arch.name());
        w.set(&key("context_length"), self.context);
        w.set(&key("embedding_length"), self.hidden as u32);
        w.set(&key("block_count"), self.layers as u32);
        w.set(&key("feed_forward_length"), self.ffn as u32);
        w.set(&key("attention.head_count"), self.heads as u32);
        w.set(&key("attention.head_count_kv"), self.kv_heads as u32);
        w.set(&key("attention.layer_norm_rms_epsilon"), 1e-6f32);
        w.set(&key("rope.freq_base"), self.theta);
        if self.arch == Arch::Llama {
            w.set(&key("rope.dimension_count"), self.head_dim() as u32);
            w.set(&key("vocab_size"), self.rows as u32);
        }
        match self.scaling {
            Scaling::None | Scaling::Llama3 { .. } => {}
            Scaling::Linear { factor } => {
                w.set(&key("rope.scaling.type"), "linear");
                w.set(&key("rope.scaling.factor"), factor);
            }
            Scaling::Yarn { factor, original } => {
                w.set(&key("rope.scaling.type"), "yarn");
                w.set(&key("rope.scaling.factor"), factor);
                w.set(&key("rope.scaling.original_context_length"), original);
            }
        }
    }

    fn format(&self, part: &Part) -> Result<Format, String> {
        let at = Position { layer: part.layer, layers: self.layers, cols: part.cols, tied: self.tied };
        self.mixture.format(part.role, at)
    }

    /// Every tensor, in the order of the file.
    fn parts(&self) -> Vec<Part> {
        let (hidden, ffn, q, kv) = (self.hidden, self.ffn, self.hidden, self.kv_heads * self.head_dim());
        let matrix = |name: &str, role, layer, rows: usize, cols: usize, spread: f32| {
            let name = format!("{name}.weight");
            Part { name, rows: Some(rows), cols, role, layer, mean: 0.0, spread }
        };
        let vector = |name: String, cols, mean, spread| Part {
            name,
            rows: None,
            cols,
            role: Role::Vector,
            layer: 0,
            mean,
            spread,
        };
        let unit = |fan_in: usize| 1.0 / (fan_in as f32).sqrt();

        // Embeddings are smaller than what the layers add, so the context decides. The last norm makes up for
        // small rows in the output matrix.
        let (embedding, output) = (0.5, if self.tied { 0.5 } else { 2.0 * unit(hidden) });
        let mut parts = vec![
            matrix("token_embd", Role::Embedding, 0, self.rows, hidden, embedding),
            vector("output_norm.weight".into(), hidden, 4.0 * unit(hidden) / output, 0.2),
        ];
        if !self.tied {
            parts.push(matrix("output", Role::Output, 0, self.rows, hidden, output));
        }
        if let Scaling::Llama3 { .. } = self.scaling {
            parts.push(vector("rope_freqs.weight".into(), self.head_dim() / 2, 0.0, 0.0));
        }
        for l in 0..self.layers {
            let block = |name: &str| format!("blk.{l}.{name}");
            parts.push(vector(block("attn_norm.weight"), hidden, 1.0, 0.2));
            for (name, role, rows, spread) in [
                ("attn_q", Role::Attention, q, 2.0),
                ("attn_k", Role::Attention, kv, 1.0),
                ("attn_v", Role::AttentionV, kv, 1.0),
            ] {
                parts.push(matrix(&block(name), role, l, rows, hidden, spread * unit(hidden)));
                if self.qkv_bias {
                    parts.push(vector(block(name) + ".bias", rows, 0.0, 0.3));
                }
            }
            parts.push(matrix(&block("attn_output"), Role::Attention, l, hidden, q, 1.5 * unit(q)));
            parts.push(vector(block("ffn_norm.weight"), hidden, 1.0, 0.2));
            parts.push(matrix(&block("ffn_gate"), Role::FeedForward, l, ffn, hidden, unit(hidden)));
            parts.push(matrix(&block("ffn_up"), Role::FeedForward, l, ffn, hidden, unit(hidden)));
            parts.push(matrix(&block("ffn_down"), Role::FeedForwardDown, l, hidden, ffn, 1.5 * unit(ffn)));
        }
        parts
    }

    fn data(&self, part: &Part, format: Format, words: &Words) -> io::Result<Data> {
        let row_bytes = format.row_bytes(part.cols).ok_or_else(|| {
            io::Error::other(format!("{}: rows of {} are not whole blocks of {format}", part.name, part.cols))
        })?;
        let bytes = row_bytes * part.rows.unwrap_or(1);
        let mut random = Random::new(self.seed, &part.name);
        match self.filling {
            Filling::Hole => Ok(Data::Hole(bytes as u64)),
            Filling::Stock if part.rows.is_some() => Ok(stock(part, format, bytes, random)),
            _ => {
                let mut out = vec![0; bytes];
                for (index, row) in out.chunks_exact_mut(row_bytes).enumerate() {
                    let kind = words.types.get(index).copied().unwrap_or(UNUSED);
                    format.encode_row(&self.row(part, kind, &mut random), row);
                }
                Ok(Data::Bytes(out))
            }
        }
    }

    /// One row of a tensor. Of a row of the embedding or the output `kind` is the type of its token.
    fn row(&self, part: &Part, kind: i32, random: &mut Random) -> Vec<f32> {
        if let Scaling::Llama3 { factor, original } = self.scaling
            && part.name == "rope_freqs.weight"
        {
            return llama3_divisors(self.theta.into(), part.cols, factor, original);
        }
        let mut row = normals(random, part.cols, part.mean, part.spread);
        if part.name == "output_norm.weight" {
            // Random signs, so that a token whose embedding is still in the residual stream does not vote for
            // itself.
            row.iter_mut().filter(|_| random.bits() & 1 == 0).for_each(|x| *x = -*x);
        }
        let is_head = part.role == Role::Output || self.tied && part.role == Role::Embedding;
        let factor = match kind {
            UNUSED if self.loud => 8.0,
            NORMAL => 1.0,
            _ if self.stops => 1.0,
            _ => 0.25,
        };
        if is_head {
            row.iter_mut().for_each(|x| *x *= factor);
        }
        row
    }
}

/// What a file says about its tokenizer.
pub fn describe_words(w: &mut Writer, words: &Words) {
    let model = match words.joins {
        Joins::Merges(_) => "gpt2",
        Joins::Scores(_) => "llama",
    };
    w.set("tokenizer.ggml.model", model);
    w.set("tokenizer.ggml.pre", words.pre);
    w.set("tokenizer.ggml.tokens", Value::strings(&words.tokens));
    w.set("tokenizer.ggml.token_type", Value::i32s(words.types.iter().copied()));
    match &words.joins {
        Joins::Merges(merges) => w.set("tokenizer.ggml.merges", Value::strings(merges)),
        Joins::Scores(scores) => w.set("tokenizer.ggml.scores", Value::f32s(scores.iter().copied())),
    };
    w.set("tokenizer.ggml.bos_token_id", words.bos);
    w.set("tokenizer.ggml.eos_token_id", words.eos);
    w.set("tokenizer.ggml.padding_token_id", words.pad);
    w.set("tokenizer.ggml.add_bos_token", words.add_bos);
    w.set("tokenizer.chat_template", words.template);
}

/// `n` numbers of this mean; for a mean that is not 0 the spread is relative to it.
fn normals(random: &mut Random, n: usize, mean: f32, spread: f32) -> Vec<f32> {
    let scale = if mean == 0.0 { spread } else { mean * spread };
    (0..n).map(|_| mean + scale * random.normal()).collect()
}

/// What each rope angle is divided by (Llama 3.1's `rope_scaling`, low and high frequency factors 1 and 4): 1
/// where the wave is short beside the original context, `factor` where it is long, and a slide between.
fn llama3_divisors(theta: f64, pairs: usize, factor: f64, original: f64) -> Vec<f32> {
    // theta^(1 / pairs) by square roots, which every machine rounds alike; `pairs` is a power of two.
    let step = (0..pairs.ilog2()).fold(theta, |x, _| x.sqrt());
    let mut inverse_frequency = 1.0;
    let mut divisors = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let wavelength = 2.0 * std::f64::consts::PI * inverse_frequency;
        let smooth = ((original / wavelength - 1.0) / (4.0 - 1.0)).clamp(0.0, 1.0);
        divisors.push((1.0 / ((1.0 - smooth) / factor + smooth)) as f32);
        inverse_frequency *= step;
    }
    divisors
}

/// Encoded blocks in a stock, a power of two.
const STOCK: usize = 4096;

/// A tensor whose blocks are picked from a stock of [`STOCK`] encoded ones. Weights of a drawn tensor are
/// independent and alike wherever they stand, so blocks may change places; no two rows come out alike.
fn stock(part: &Part, format: Format, bytes: usize, mut random: Random) -> Data {
    // Formats without blocks are picked 32 weights at a time, or picking would take longer than writing.
    let weights = format.0.block_len.max(32);
    let piece = weights / format.0.block_len * format.0.block_bytes;
    let mut pieces = vec![0; piece * STOCK];
    for out in pieces.chunks_exact_mut(piece) {
        format.encode_row(&normals(&mut random, weights, part.mean, part.spread), out);
    }
    let pieces: Arc<[u8]> = pieces.into();
    let make = move |out: &mut dyn Write| {
        let mut random = random.clone();
        let mut buffer = Vec::with_capacity(piece * STOCK);
        let mut left = bytes;
        while left > 0 {
            buffer.clear();
            while buffer.len() < left.min(piece * STOCK) {
                let at = piece * (random.bits() as usize % STOCK);
                buffer.extend_from_slice(&pieces[at..at + piece]);
            }
            let len = buffer.len().min(left);
            out.write_all(&buffer[..len])?;
            left -= len;
        }
        Ok(())
    };
    Data::Made(bytes as u64, Box::new(make))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::forge::mixture::FileType;

    #[test]
    fn the_same_model_has_the_same_bytes() {
        let bytes = |seed| Model { seed, ..Model::llama(Format::F16) }.file().unwrap().to_bytes().unwrap();
        assert_eq!(bytes(5), bytes(5));
        assert_ne!(bytes(5), bytes(6));
    }

    #[test]
    fn llama3_divisors_go_from_1_to_the_factor() {
        let d = llama3_divisors(10_000.0, 16, 8.0, 64.0);
        assert_eq!((d[0], d[15]), (1.0, 8.0));
        assert!(d.windows(2).all(|w| w[0] <= w[1]));
        assert!(d.iter().any(|&x| x > 1.0 && x < 8.0));
    }

    #[test]
    fn full_shapes_have_the_parameters_that_are_published() {
        let parameters = |size: &str| {
            let model = Model::full(size, Mixture::Uniform(Format::F16), Filling::Hole).unwrap();
            model.parts().iter().map(|p| p.cols * p.rows.unwrap_or(1)).sum::<usize>()
        };
        assert_eq!(parameters("0.5b"), 494_032_768);
        assert_eq!(parameters("1.5b"), 1_543_714_304);
        assert_eq!(parameters("7b"), 7_615_616_512);
        assert_eq!(parameters("32b"), 32_763_876_352);
    }

    #[test]
    fn a_half_billion_q4_k_m_reads_the_bytes_of_the_published_file() {
        let mixture = Mixture::Quantized(FileType::Q4_K_M);
        let model = Model::full("0.5b", mixture, Filling::Hole).unwrap();
        let bytes = |p: &Part| model.format(p).unwrap().row_bytes(p.cols).unwrap() * p.rows.unwrap_or(1);
        let total: usize = model.parts().iter().map(bytes).sum();
        assert_eq!((total + 50_000) / 100_000, 3919, "391.9 MB");
    }

    #[test]
    fn stock_fills_a_tensor_exactly_and_repeats_no_row() {
        let part = Part {
            name: "x".into(),
            rows: Some(300),
            cols: 1024,
            role: Role::Attention,
            layer: 0,
            mean: 0.0,
            spread: 1.0,
        };
        for format in [Format::F16, Format::from_name("Q4_K").unwrap()] {
            let row_bytes = format.row_bytes(1024).unwrap();
            let Data::Made(len, make) = stock(&part, format, 300 * row_bytes, Random::new(1, "x")) else {
                panic!("a stock is made while it is written");
            };
            let mut out = Vec::new();
            make(&mut out).unwrap();
            assert_eq!((out.len(), len), (300 * row_bytes, 300 * row_bytes as u64));
            assert_eq!(out.chunks_exact(row_bytes).collect::<BTreeSet<_>>().len(), 300);
        }
    }
}
