//! What a checked file means as a model: its hyper-parameters, and its tensors, each of the shape the table demands.
//!
//! Knows metadata keys and tensor names through [`crate::arch`]; knows no container's bytes and computes nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use compute::program::{Act, RopeTable};
use compute::{Bytes, WeightRef};

use crate::arch::{self, Arch, Layout, Names, Presence};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::{self, Checked, Metadata, Naming, Origins, missing};
use crate::limits;
use crate::rope;

/// A model, ready to be written down as a program.
pub struct Model {
    /// Its architecture.
    pub arch: &'static Arch,
    /// How its file names and orders tensors.
    pub layout: &'static Layout,
    /// Its sizes.
    pub hyper: Hyper,
    /// Its tensors.
    pub weights: Weights,
    /// Container and version, for people.
    pub format: String,
    /// Tensors in the file.
    pub tensor_count: usize,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// What the file says about itself.
    pub metadata: Metadata,
    /// Where it says it.
    pub origins: Origins,
    /// What its user should know.
    pub warnings: Vec<String>,
    /// Some bytes of each file that has tensors.
    files: Vec<Bytes>,
}

/// Hyper-parameters, all range-checked.
#[derive(Clone, Debug)]
pub struct Hyper {
    /// Transformer blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// K/V heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Positions the model was made for.
    pub context: usize,
    /// RoPE base, theta.
    pub rope_theta: f64,
    /// Angles, scaling applied.
    pub rope: RopeTable,
    /// Scaling in words: `none`, `yarn x4`.
    pub rope_scaling: String,
    /// Epsilon of the norms.
    pub norm_eps: f32,
}

/// Tensors by role. Shapes are those of [`arch::Names`].
pub struct Weights {
    /// `[vocab, hidden]`.
    pub token_embedding: WeightRef,
    /// `[hidden]`.
    pub output_norm: WeightRef,
    /// `[vocab, hidden]`; the embedding itself when tied.
    pub output: WeightRef,
    /// Whether the LM head is the embedding table.
    pub tied: bool,
    /// One per block.
    pub blocks: Vec<Block>,
}

/// Tensors of one transformer block.
pub struct Block {
    /// `[hidden]`.
    pub attention_norm: WeightRef,
    /// `[heads * head_dim, hidden]`.
    pub q: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub k: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub v: Linear,
    /// `[hidden, heads * head_dim]`.
    pub attention_output: Linear,
    /// `[hidden]`.
    pub ffn_norm: WeightRef,
    /// `[ffn, hidden]`.
    pub gate: Linear,
    /// `[ffn, hidden]`.
    pub up: Linear,
    /// `[hidden, ffn]`.
    pub down: Linear,
}

/// A matrix with its bias.
pub struct Linear {
    /// `[out, in]`.
    pub weight: WeightRef,
    /// `[out]`.
    pub bias: Option<WeightRef>,
}

impl Weights {
    /// Bytes of the matrices that every token is multiplied by, as the file has them.
    pub fn matrix_bytes(&self) -> usize {
        let of = |b: &Block| {
            let all = [&b.q, &b.k, &b.v, &b.attention_output, &b.gate, &b.up, &b.down];
            all.iter().map(|linear| linear.weight.bytes.len()).sum::<usize>()
        };
        self.output.bytes.len() + self.blocks.iter().map(of).sum::<usize>()
    }
}

impl Model {
    /// Reads the hyper-parameters and takes every tensor, or says which key or tensor is wrong and how.
    pub fn new(file: Checked) -> Result<Model> {
        let understood = understand(&file).map_err(|e| file.origins.explain(e));
        let (arch, layout, hyper, weights, leftovers) = understood?;
        Ok(Model {
            arch,
            layout,
            hyper,
            weights,
            format: file.format,
            tensor_count: file.tensors.len() + file.others.len(),
            file_bytes: file.file_bytes,
            metadata: file.metadata,
            origins: file.origins,
            warnings: file.warnings.into_iter().chain(leftovers).collect(),
            files: {
                let mut seen = BTreeSet::new();
                let bytes = file.tensors.into_values().map(|t| t.bytes);
                bytes.filter(|b| seen.insert(b.owner_id())).collect()
            },
        })
    }

    /// Refuses to go on with a file that was written to since it was opened: its weights are no longer those that were
    /// checked. Between this look and the reading of a weight a file can still become shorter; then the system ends
    /// the process with SIGBUS.
    pub fn unchanged(&self) -> Result<()> {
        if self.files.iter().all(Bytes::is_unchanged) {
            return Ok(());
        }
        Err(Error::new(Kind::Unreadable, "the model file was changed while it was in use")
            .hint("do not write to a model file in place; put a new one under its name"))
    }

    /// The files it was opened from, whole: of several, in the order of their first tensors by name.
    pub fn mapped(&self, path: &Path) -> Result<Vec<Bytes>> {
        let mapped: Vec<&Bytes> = self.files.iter().filter(|b| b.is_mapped()).collect();
        if mapped.len() < 2 && path.is_file() {
            // Tensors that were unpacked are in memory; the file is what was hashed by whoever published it.
            return Ok(vec![file::map(path)?]);
        }
        Ok(mapped.into_iter().map(Bytes::whole).collect())
    }

    /// Number formats of the matrices, with counts, commonest first: `Q4_K x 36, Q6_K x 6`.
    pub fn formats(&self) -> Vec<(compute::Format, usize)> {
        let mut counts: Vec<(compute::Format, usize)> = Vec::new();
        let w = &self.weights;
        let linear =
            |b: &'_ Block| [&b.q, &b.k, &b.v, &b.attention_output, &b.gate, &b.up, &b.down].map(|l| l.weight.format);
        for f in std::iter::once(w.token_embedding.format).chain(w.blocks.iter().flat_map(linear)) {
            match counts.iter_mut().find(|c| c.0 == f) {
                Some(c) => c.1 += 1,
                None => counts.push((f, 1)),
            }
        }
        counts.sort_by_key(|c| std::cmp::Reverse(c.1));
        counts
    }
}

#[allow(clippy::type_complexity)] // The parts of a Model, once.
fn understand(file: &Checked) -> Result<(&'static Arch, &'static Layout, Hyper, Weights, Option<String>)> {
    let name = file.metadata.string("general.architecture")?.ok_or_else(|| missing("general.architecture"))?;
    let arch = arch::detect(name)?;
    let layout = arch.layout(file.naming);
    let hyper = hyper(arch, layout.names, file)?;
    let table = Table { file, arch, names: layout.names, hyper: &hyper, taken: RefCell::default() };
    let weights = table.weights()?;
    let leftovers = table.leftovers()?;
    Ok((arch, layout, hyper, weights, leftovers))
}

fn hyper(arch: &Arch, names: &Names, file: &Checked) -> Result<Hyper> {
    let meta = &file.metadata;
    let key = |suffix: &str| format!("{}.{suffix}", arch.name);
    let sized = |suffix: &str, max: usize| -> Result<usize> {
        let key = key(suffix);
        in_range(meta.need_unsigned(&key)?, max, &key)
    };
    let layers = sized("block_count", limits::LAYERS_MAX)?;
    let hidden = sized("embedding_length", limits::WIDTH_MAX)?;
    let ffn = sized("feed_forward_length", limits::WIDTH_MAX)?;
    let context = sized("context_length", limits::CONTEXT_MAX)?;
    let heads = sized("attention.head_count", limits::HEADS_MAX)?;
    let kv_key = key("attention.head_count_kv");
    let kv_heads = match meta.unsigned(&kv_key)? {
        None => heads,
        Some(n) => in_range(n, limits::HEADS_MAX, &kv_key)?,
    };
    //= F-GGUF-055
    //= F-JID-263
    if !heads.is_multiple_of(kv_heads) {
        return Err(Error::malformed(format!("{heads} attention heads cannot share {kv_heads} K/V heads"))
            .at(Place::Key(kv_key)));
    }
    let head_key = key("attention.key_length");
    let head_dim = match meta.unsigned(&head_key)? {
        Some(n) => in_range(n, limits::WIDTH_MAX, &head_key)?,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(Error::malformed(format!("width {hidden} does not divide into {heads} heads"))
                .at(Place::Key(key("attention.head_count"))));
        }
    };
    let value_key = key("attention.value_length");
    if let Some(n) = meta.unsigned(&value_key)?
        && n != head_dim as u64
    {
        return Err(Error::new(Kind::Unsupported, format!("value heads of {n} beside key heads of {head_dim}"))
            .at(Place::Key(value_key)));
    }
    let eps_key = key("attention.layer_norm_rms_epsilon");
    let norm_eps = meta.float(&eps_key)?.ok_or_else(|| missing(&eps_key))?;
    // Without one, a row of zeros has no norm. The computation is in f32, where a tiny number is 0.
    if !(norm_eps as f32 > 0.0 && norm_eps <= 0.1) {
        return Err(
            Error::malformed(format!("epsilon {norm_eps} is not above 0 and at most 0.1")).at(Place::Key(eps_key))
        );
    }
    let act_key = key("hidden_activation");
    if let Some(name) = meta.string(&act_key)?
        && !act_names(arch.act).contains(&name)
    {
        let what = format!("the activation {} in a {} model", quoted(name), arch.display);
        return Err(Error::new(Kind::Unsupported, what).at(Place::Key(act_key)));
    }
    let vocab = match file.naming {
        // In what was GGUF the rows of the table are the vocabulary: not every file says its size.
        Naming::Gguf | Naming::Renamed => {
            let name = names.token_embedding;
            let table = &file.tensors.get(name).ok_or_else(|| no_tensor(name))?.shape;
            let vocab = table.first().copied().unwrap_or(0);
            // First of all shapes: what follows from a wrong width is harder to understand.
            let width = Extent { size: hidden, says: Says::Key("embedding_length") };
            check_shape(arch, head_dim, name, &[Extent { size: vocab, says: Says::Vocabulary }, width], table)?;
            vocab
        }
        Naming::HuggingFace => sized("vocab_size", limits::VOCAB_MAX)?,
    };
    let factors = names.rope_freqs.and_then(|name| Some((name, file.tensors.get(name)?)));
    let scaled = rope::from_metadata(arch, meta, factors, head_dim, context)?;
    Ok(Hyper {
        layers,
        hidden,
        ffn,
        heads,
        kv_heads,
        head_dim,
        vocab,
        context,
        rope_theta: scaled.theta,
        rope: scaled.table,
        rope_scaling: scaled.description,
        norm_eps: norm_eps as f32,
    })
}

fn in_range(n: u64, max: usize, key: &str) -> Result<usize> {
    let kind = match n {
        0 => Kind::Malformed,
        n if n > max as u64 => Kind::TooLarge,
        n => return Ok(n as usize),
    };
    Err(Error::new(kind, format!("{n} is outside 1..={max}")).at(Place::Key(key.into())))
}

/// What files call an activation function.
pub(crate) fn act_names(act: Act) -> &'static [&'static str] {
    match act {
        Act::Silu => &["silu", "swish"],
        Act::GeluTanh => &["gelu_pytorch_tanh", "gelu_new", "gelu_fast"],
    }
}

/// Whether a tensor is one that old checkpoints keep although it follows from the configuration.
pub(crate) fn is_derived(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

fn no_tensor(name: &str) -> Error {
    Error::malformed("the tensor is missing").at(Place::Tensor(name.into()))
}

/// Takes tensors by name and holds each to its shape.
struct Table<'a> {
    file: &'a Checked,
    arch: &'a Arch,
    names: &'a Names,
    hyper: &'a Hyper,
    /// What was asked for, whether or not it was there.
    taken: RefCell<BTreeSet<String>>,
}

/// An extent that a tensor must have, and where it comes from.
#[derive(Clone, Copy)]
struct Extent {
    size: usize,
    says: Says,
}

/// What says how long an extent is.
#[derive(Clone, Copy)]
enum Says {
    /// A key after the name of the architecture.
    Key(&'static str),
    /// A key that counts heads.
    Heads(&'static str),
    /// The rows of the embedding table.
    Vocabulary,
}

impl Table<'_> {
    fn weights(&self) -> Result<Weights> {
        let n = self.names;
        let (vocab, hidden) = (self.vocab(), self.hidden());
        let token_embedding = self.take(n.token_embedding, &[vocab, hidden])?;
        let output = self.output(&token_embedding)?;
        let weights = Weights {
            output_norm: self.take(n.output_norm, &[hidden])?,
            tied: output.is_none(),
            output: output.unwrap_or_else(|| token_embedding.clone()),
            token_embedding,
            blocks: (0..self.hyper.layers).map(|l| self.block(l)).collect::<Result<_>>()?,
        };
        Ok(weights)
    }

    /// The LM head. `None` if it is the embedding table: the file says so, or has no other.
    fn output(&self, embedding: &WeightRef) -> Result<Option<WeightRef>> {
        let name = self.names.output;
        let shape = [self.vocab(), self.hidden()];
        let key = format!("{}.tie_word_embeddings", self.arch.name);
        let output = self.optional(name, &shape)?;
        match (self.file.metadata.bool(&key)?, output) {
            (Some(false), None) => Err(self.missing(name, &shape)),
            // Some tied models are saved with the table twice.
            (Some(true), Some(output)) if output.format == embedding.format && *output.bytes == *embedding.bytes => {
                Ok(None)
            }
            (Some(true), Some(_)) => {
                Err(Error::malformed("it is said to be the embedding table, and is another")
                    .at(Place::Tensor(name.into())))
            }
            (_, output) => Ok(output),
        }
    }

    /// A tensor that nobody asked for is a part of the model that would be left out in silence. In GGUF files such are
    /// mostly harmless leftovers of converters: the user is told.
    //= F-APR-069
    fn leftovers(&self) -> Result<Option<String>> {
        let taken = self.taken.borrow();
        // The divisors of RoPE went into its table.
        let derived = |name: &str| is_derived(name) || self.names.rope_freqs == Some(name);
        let names = self.file.tensors.keys().chain(self.file.others.keys());
        let left: Vec<&String> = names.filter(|name| !taken.contains(*name) && !derived(name)).collect();
        let Some(first) = left.first() else { return Ok(None) };
        let what = format!("no part of a {} model of {} layers", self.arch.display, self.hyper.layers);
        if self.file.naming == Naming::Gguf {
            let more = if left.len() > 1 { format!(" and {} more", left.len() - 1) } else { String::new() };
            return Ok(Some(format!("{what}: tensor {}{more}", quoted(first))));
        }
        Err(Error::new(Kind::Unsupported, what)
            .at(Place::Tensor((*first).clone()))
            .hint("the metadata and the tensors are of different models, or this build lacks a variant"))
    }

    fn vocab(&self) -> Extent {
        let says = match self.file.naming {
            Naming::Gguf | Naming::Renamed => Says::Vocabulary,
            Naming::HuggingFace => Says::Key("vocab_size"),
        };
        Extent { size: self.hyper.vocab, says }
    }

    fn hidden(&self) -> Extent {
        Extent { size: self.hyper.hidden, says: Says::Key("embedding_length") }
    }

    fn block(&self, layer: usize) -> Result<Block> {
        let (n, h) = (self.names, self.hyper);
        let name = |pattern: &str| pattern.replace("{}", &layer.to_string());
        let q = Extent { size: h.heads * h.head_dim, says: Says::Heads("attention.head_count") };
        let kv = Extent { size: h.kv_heads * h.head_dim, says: Says::Heads("attention.head_count_kv") };
        let ffn = Extent { size: h.ffn, says: Says::Key("feed_forward_length") };
        let hidden = self.hidden();
        let plain = |pattern: &str, rows: Extent, cols: Extent| -> Result<Linear> {
            Ok(Linear { weight: self.take(&name(pattern), &[rows, cols])?, bias: None })
        };
        // In GGUF a bias that is there is meant; HuggingFace's code leaves it alone unless it is told of it.
        let told = self.file.metadata.bool(&format!("{}.attention.bias", self.arch.name))?;
        let said_biased = told.unwrap_or(self.file.naming == Naming::Gguf);
        let biased = |pattern: &str, bias: &str, rows: Extent| -> Result<Linear> {
            let bias = match self.arch.qkv_bias {
                Presence::Required => Some(self.take(&name(bias), &[rows])?),
                Presence::Optional if said_biased => self.optional(&name(bias), &[rows])?,
                Presence::Optional => None,
            };
            Ok(Linear { bias, ..plain(pattern, rows, hidden)? })
        };
        Ok(Block {
            attention_norm: self.take(&name(n.attention_norm), &[hidden])?,
            q: biased(n.q, n.q_bias, q)?,
            k: biased(n.k, n.k_bias, kv)?,
            v: biased(n.v, n.v_bias, kv)?,
            attention_output: plain(n.attention_output, hidden, q)?,
            ffn_norm: self.take(&name(n.ffn_norm), &[hidden])?,
            gate: plain(n.gate, ffn, hidden)?,
            up: plain(n.up, ffn, hidden)?,
            down: plain(n.down, hidden, ffn)?,
        })
    }

    fn take(&self, name: &str, shape: &[Extent]) -> Result<WeightRef> {
        self.optional(name, shape)?.ok_or_else(|| self.missing(name, shape))
    }

    //= F-ST-087
    fn missing(&self, name: &str, shape: &[Extent]) -> Error {
        match self.file.others.get(name) {
            Some(why) => Error::new(Kind::Unsupported, why.clone()).at(Place::Tensor(name.into())),
            None => Error::malformed(format!("the tensor is missing; its shape would be {:?}", sizes(shape)))
                .at(Place::Tensor(name.into())),
        }
    }

    //= F-ST-088
    fn optional(&self, name: &str, shape: &[Extent]) -> Result<Option<WeightRef>> {
        self.taken.borrow_mut().insert(name.into());
        let Some(tensor) = self.file.tensors.get(name) else { return Ok(None) };
        check_shape(self.arch, self.hyper.head_dim, name, shape, &tensor.shape)?;
        Ok(Some(tensor.as_weight(name)))
    }
}

/// Holds a tensor to the shape that it must have.
//= F-GGUF-057
//= F-JID-262
fn check_shape(arch: &Arch, head_dim: usize, name: &str, wanted: &[Extent], found: &[usize]) -> Result<()> {
    let wanted_sizes = sizes(wanted);
    if found == wanted_sizes {
        return Ok(());
    }
    Err(Error::malformed(format!("expected shape {wanted_sizes:?}, found {found:?}"))
        .at(Place::Tensor(name.into()))
        .hint(cause(arch, head_dim, wanted, found)))
}

fn sizes(shape: &[Extent]) -> Vec<usize> {
    shape.iter().map(|e| e.size).collect()
}

/// The likely reason why a tensor has another shape.
//= F-JID-273
fn cause(arch: &Arch, head_dim: usize, wanted: &[Extent], found: &[usize]) -> String {
    const OTHER: &str = "metadata and weights are of different models, or of different sizes of one";
    if wanted.len() != found.len() {
        return format!(
            "it has {} dimensions instead of {}: another tensor under this name",
            found.len(),
            wanted.len()
        );
    }
    // The rows of the embedding are taken from the tensor: of its two extents, the width is the one that is known.
    let table = matches!(wanted, [Extent { says: Says::Vocabulary, .. }, width] if width.size == found[0]);
    if table || wanted.iter().rev().map(|e| &e.size).eq(found) {
        return "rows and columns are swapped: the converter has transposed it".into();
    }
    let differs = wanted.iter().zip(found).find(|(e, found)| e.size != **found);
    let Some((wanted, found)) = differs else { return OTHER.into() };
    match wanted.says {
        Says::Vocabulary => format!("the embedding table has {} rows: {OTHER}", wanted.size),
        Says::Heads(key) => {
            let (heads, room) = (wanted.size / head_dim, *found as f64 / head_dim as f64);
            format!(
                "{}.{key} is {heads}, but it has room for {room} heads of {head_dim}: a wrong count of heads, or {OTHER}",
                arch.name
            )
        }
        Says::Key(key) => format!("{}.{key} is {}: {OTHER}", arch.name, wanted.size),
    }
}

/// Refuses a vocabulary that the embedding table cannot hold; a table that is longer (padding) is usual.
pub fn check_vocabulary(tokens: usize, model: &Model) -> Result<()> {
    //= F-JID-261
    if tokens > model.hyper.vocab {
        return Err(Error::malformed(format!(
            "the tokenizer has {tokens} tokens and the embedding table {} rows",
            model.hyper.vocab
        ))
        .at(Place::Tensor(model.layout.names.token_embedding.into()))
        .hint("tokenizer and weights are of different models"));
    }
    Ok(())
}

/// The name a file gives itself, made safe to print.
pub fn display_name(model: &Model) -> String {
    match model.metadata.string("general.name") {
        Ok(Some(name)) => quoted(name),
        _ => "unnamed".into(),
    }
}

/// Shares a slice as a table entry; here so that `rope` needs no `Arc` spelling.
pub(crate) fn shared(values: Vec<f32>) -> Arc<[f32]> {
    values.into()
}
