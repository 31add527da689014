//! A model as a program: a flat list of operations over named buffers. Backends run programs; `engine` writes them.
//!
//! A program is a value: it can be rewritten (sabotage, sharding, layer splits) and any valid program runs on any
//! backend. Buffers hold one f32 vector per row of the batch; shapes below are written `[rows, width]`.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::map::Bytes;
use crate::quant::Format;

/// An opaque mark that `engine` puts on an operation (it encodes layer and stage there). Means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Tag(pub u16);

/// Index into [`Program::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(pub u32);

/// Index into [`Program::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub u32);

/// A tensor of the model: `[rows, cols]`, row-major, `cols` fastest, in its stored format.
///
/// A vector (norm weight, bias) has one row. `bytes` keeps the file's mapping alive.
#[derive(Clone, Debug)]
pub struct WeightRef {
    /// The name in the file, for messages.
    pub name: Arc<str>,
    /// Exactly `rows * format.row_bytes(cols)` bytes.
    pub bytes: Bytes,
    /// How the numbers are stored.
    pub format: Format,
    /// Output features (for an embedding table: the vocabulary).
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl WeightRef {
    /// Rows `from..from + count` of this tensor (a slice of a fused projection).
    pub fn row_slice(&self, from: usize, count: usize) -> Option<WeightRef> {
        let row_bytes = self.format.row_bytes(self.cols)?;
        let bytes = self.bytes.slice(from.checked_mul(row_bytes)?..from.checked_add(count)?.checked_mul(row_bytes)?)?;
        Some(WeightRef { bytes, rows: count, ..self.clone() })
    }

    /// All values as f32. Meant for vectors and tests; a matrix is decoded row by row instead.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        let row_bytes = self.format.row_bytes(self.cols).expect("invariant: a WeightRef has whole blocks");
        for (row, values) in self.bytes.chunks_exact(row_bytes.max(1)).zip(out.chunks_exact_mut(self.cols.max(1))) {
            self.format.decode_row(row, values);
        }
        out
    }
}

/// The kind of normalisation of [`Op::Norm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps)` (RMSNorm, Zhang and Sennrich 2019).
    Rms,
    /// `(x - mean) / sqrt(var + eps)` (LayerNorm).
    Layer,
}

/// How [`Op::Rope`] pairs the elements of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Element `i` turns with element `i + rot/2` (GPT-NeoX, Qwen2, HuggingFace Llama).
    Split,
    /// Element `2i` turns with element `2i + 1` (GPT-J, Llama in GGUF).
    Interleaved,
}

/// The rotation angles of RoPE: pair `i` at position `p` turns by `p * inv_freq[i]`; cos and sin are multiplied by `mscale`.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Radians per position, one for each pair: `[rot / 2]`. Scaling (linear, YaRN, llama3) is already in here.
    pub inv_freq: Arc<[f32]>,
    /// Attention temperature of YaRN, else 1.
    pub mscale: f32,
}

impl RopeTable {
    /// Cosine and sine for one pair at one position. The angle is the f32 product, as in HuggingFace's code.
    pub fn turn(&self, position: u32, inv_freq: f32) -> (f32, f32) {
        let (sin, cos) = f64::from(position as f32 * inv_freq).sin_cos();
        (cos as f32 * self.mscale, sin as f32 * self.mscale)
    }
}

/// The activation function of [`Op::Gate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU, tanh approximation.
    GeluTanh,
}

/// One operation. Every one reads and writes whole buffers, row by row.
#[derive(Clone, Debug)]
pub enum Op {
    /// `dst[row] = table[token(row)] * scale`.
    Embed {
        /// `[vocab, width]`.
        table: WeightId,
        /// `[rows, width]`.
        dst: BufferId,
        /// 1 for most models.
        scale: f32,
    },
    /// Normalises `src` into `dst`, whole rows or each head apart.
    Norm {
        /// RMS or mean-and-variance.
        kind: NormKind,
        /// `[rows, width]`.
        src: BufferId,
        /// `[rows, width]`; may be `src`.
        dst: BufferId,
        /// `[width]`, or `[head_dim]` when `per_head`. None multiplies by nothing.
        weight: Option<WeightId>,
        /// Added after the weight.
        bias: Option<WeightId>,
        /// Added to the weight before it multiplies (Gemma stores w - 1).
        offset: f32,
        /// Under the square root.
        eps: f32,
        /// `Some(head_dim)`: each run of `head_dim` elements is normalised apart (Qwen3's q and k norms).
        per_head: Option<usize>,
    },
    /// `dst = src * weight^T (+ bias)`.
    MatMul {
        /// `[rows, weight.cols]`.
        src: BufferId,
        /// `[out, in]`.
        weight: WeightId,
        /// `[out]`.
        bias: Option<WeightId>,
        /// `[rows, weight.rows]`.
        dst: BufferId,
    },
    /// Rotary position embedding in place (Su et al. 2021), `heads` heads of `head_dim` each.
    Rope {
        /// `[rows, heads * head_dim]`.
        buf: BufferId,
        /// Heads in the buffer.
        heads: usize,
        /// Elements per head; the first `2 * inv_freq.len()` of them turn.
        head_dim: usize,
        /// Which elements pair up.
        layout: RopeLayout,
        /// Angles.
        table: RopeTable,
    },
    /// Appends this batch's K and V to the cache, then causal attention over everything up to each row's position.
    Attend {
        /// `[rows, heads * head_dim]`.
        q: BufferId,
        /// `[rows, kv_heads * head_dim]`.
        k: BufferId,
        /// `[rows, kv_heads * head_dim]`.
        v: BufferId,
        /// `[rows, heads * head_dim]`.
        dst: BufferId,
        /// Index into [`Program::kv`].
        layer: usize,
        /// Query heads. Query head `h` reads K/V head `h / (heads / kv_heads)` (grouped-query attention).
        heads: usize,
        /// Multiplies q.k before the softmax, usually `1 / sqrt(head_dim)`.
        scale: f32,
        /// `Some(w)`: a row at position p sees only positions `p - w < j <= p`.
        window: Option<u32>,
        /// `Some(c)`: scores pass through `c * tanh(s / c)`.
        softcap: Option<f32>,
        /// A row sees no position after its own. False (encoders) shows it every row of its sequence in the batch.
        causal: bool,
    },
    /// `dst = act(gate) * up`.
    Gate {
        /// `[rows, width]`.
        gate: BufferId,
        /// `[rows, width]`.
        up: BufferId,
        /// `[rows, width]`; may be `gate`.
        dst: BufferId,
        /// Activation.
        act: Act,
    },
    /// `dst += src`.
    Add {
        /// `[rows, width]`.
        src: BufferId,
        /// `[rows, width]`.
        dst: BufferId,
    },
    /// The LM head: a MatMul for those rows only whose [`crate::Want`] asks for something, and the end of the program.
    Logits {
        /// `[rows, weight.cols]`.
        src: BufferId,
        /// `[vocab, width]`.
        weight: WeightId,
        /// Multiplies every logit, 1 for most models.
        scale: f32,
    },
}

/// An operation and the mark `engine` gave it.
#[derive(Clone, Debug)]
pub struct Step {
    /// What to do.
    pub op: Op,
    /// Opaque here.
    pub tag: Tag,
}

/// Shape of one attention layer's K/V cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSpec {
    /// K/V heads.
    pub heads: usize,
    /// Elements per head.
    pub head_dim: usize,
}

/// Positions in one block of the KV cache.
pub const KV_BLOCK: usize = 64;

/// A whole model.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// In execution order.
    pub steps: Vec<Step>,
    /// Width of each buffer, in f32 elements per row.
    pub buffers: Vec<usize>,
    /// Every tensor the steps name.
    pub weights: Vec<WeightRef>,
    /// One entry per attention layer.
    pub kv: Vec<KvSpec>,
    /// Rows of the embedding table that may be looked up.
    pub vocab: usize,
}

impl Program {
    /// Adds a buffer of `width` elements per row.
    pub fn buffer(&mut self, width: usize) -> BufferId {
        self.buffers.push(width);
        BufferId((self.buffers.len() - 1) as u32)
    }

    /// Adds a tensor.
    pub fn weight(&mut self, w: WeightRef) -> WeightId {
        self.weights.push(w);
        WeightId((self.weights.len() - 1) as u32)
    }

    /// Adds an operation.
    pub fn push(&mut self, tag: Tag, op: Op) {
        self.steps.push(Step { op, tag });
    }

    /// The tensor behind an id.
    pub fn w(&self, id: WeightId) -> &WeightRef {
        &self.weights[id.0 as usize]
    }

    /// The width of a buffer.
    pub fn width(&self, id: BufferId) -> usize {
        self.buffers[id.0 as usize]
    }

    /// Width of the logits.
    pub fn logits_width(&self) -> usize {
        self.steps
            .iter()
            .find_map(|s| match &s.op {
                Op::Logits { weight, .. } => Some(self.w(*weight).rows),
                _ => None,
            })
            .unwrap_or(0)
    }

    /// The buffer an operation writes (`None` for the logits, which go to the output).
    pub fn output_of(&self, op: &Op) -> Option<BufferId> {
        match op {
            Op::Embed { dst, .. }
            | Op::Norm { dst, .. }
            | Op::MatMul { dst, .. }
            | Op::Attend { dst, .. }
            | Op::Gate { dst, .. }
            | Op::Add { dst, .. } => Some(*dst),
            Op::Rope { buf, .. } => Some(*buf),
            Op::Logits { .. } => None,
        }
    }

    /// Checks ids and shapes of every step, so that backends can index without asking.
    pub fn validate(&self) -> Result<()> {
        for (i, step) in self.steps.iter().enumerate() {
            self.validate_op(&step.op).map_err(|what| Error::Invalid(format!("operation {i}: {what}")))?;
        }
        let ends_in_logits = matches!(self.steps.last(), Some(Step { op: Op::Logits { .. }, .. }));
        let heads = self.steps.iter().filter(|s| matches!(s.op, Op::Logits { .. })).count();
        if !ends_in_logits || heads != 1 {
            return Err(Error::Invalid("a program ends with its one Logits operation".into()));
        }
        Ok(())
    }

    fn validate_op(&self, op: &Op) -> std::result::Result<(), String> {
        let width = |b: BufferId| {
            self.buffers.get(b.0 as usize).copied().ok_or_else(|| format!("buffer {} does not exist", b.0))
        };
        let weight = |w: WeightId| -> std::result::Result<&WeightRef, String> {
            let t = self.weights.get(w.0 as usize).ok_or_else(|| format!("weight {} does not exist", w.0))?;
            let want = t.format.row_bytes(t.cols).and_then(|b| b.checked_mul(t.rows));
            if want != Some(t.bytes.len()) {
                return Err(format!("{}: {} bytes for [{}, {}] {}", t.name, t.bytes.len(), t.rows, t.cols, t.format));
            }
            Ok(t)
        };
        let same = |what: &str, a: usize, b: usize| {
            if a == b { Ok(()) } else { Err(format!("{what}: {a} is not {b}")) }
        };
        let vector = |w: Option<WeightId>, n: usize| match w {
            None => Ok(()),
            Some(id) => same("length of a vector", weight(id)?.rows * weight(id)?.cols, n),
        };
        match op {
            Op::Embed { table, dst, .. } => {
                same("embedding width", weight(*table)?.cols, width(*dst)?)?;
                if self.vocab > weight(*table)?.rows {
                    return Err(format!("vocabulary of {} over {} rows", self.vocab, weight(*table)?.rows));
                }
                Ok(())
            }
            Op::Norm { src, dst, weight: w, bias, per_head, .. } => {
                same("norm", width(*src)?, width(*dst)?)?;
                let n = per_head.unwrap_or(width(*src)?);
                if n == 0 || !width(*src)?.is_multiple_of(n) {
                    return Err(format!("norm over {n} of {}", width(*src)?));
                }
                vector(*w, n)?;
                vector(*bias, n)
            }
            Op::MatMul { src, weight: w, bias, dst } => {
                same("matmul input", weight(*w)?.cols, width(*src)?)?;
                same("matmul output", weight(*w)?.rows, width(*dst)?)?;
                if src == dst {
                    return Err("matmul in place".into());
                }
                vector(*bias, width(*dst)?)
            }
            Op::Rope { buf, heads, head_dim, table, .. } => {
                same("rope", heads * head_dim, width(*buf)?)?;
                if 2 * table.inv_freq.len() > *head_dim {
                    return Err(format!("rope turns {} of {head_dim}", 2 * table.inv_freq.len()));
                }
                Ok(())
            }
            Op::Attend { q, k, v, dst, layer, heads, .. } => {
                let kv = self.kv.get(*layer).ok_or_else(|| format!("K/V layer {layer} does not exist"))?;
                if kv.heads == 0 || kv.head_dim == 0 || !heads.is_multiple_of(kv.heads) {
                    return Err(format!("{heads} heads over {} K/V heads of {}", kv.heads, kv.head_dim));
                }
                same("attention q", width(*q)?, heads * kv.head_dim)?;
                same("attention k", width(*k)?, kv.heads * kv.head_dim)?;
                same("attention v", width(*v)?, kv.heads * kv.head_dim)?;
                same("attention output", width(*dst)?, width(*q)?)
            }
            Op::Gate { gate, up, dst, .. } => {
                same("gate", width(*gate)?, width(*up)?)?;
                same("gate output", width(*gate)?, width(*dst)?)
            }
            Op::Add { src, dst } => same("add", width(*src)?, width(*dst)?),
            Op::Logits { src, weight: w, .. } => same("logits input", weight(*w)?.cols, width(*src)?),
        }
    }
}
