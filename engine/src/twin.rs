//! Two models in step: the same tokens through both, operation by operation, and the first at which they part.
//!
//! The two may be two files, two containers or number formats of one model, or one model on two backends. Operations are
//! matched by layer and stage. How far two buffers are apart is the length of their difference over the length of the
//! first: 0 for the same numbers, some hundredths for another format of the weights, near 1 for something else.

use std::collections::BTreeMap;

use compute::backend::Tap;
use compute::{Backend, Interest, Tag};
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::model::Model;
use crate::program::{Stage, untag};
use crate::session::Loaded;

/// What runs through both, unless the caller has a text.
pub const TEXT: &str =
    "Two ships leave the same harbour on one morning: the first sails north, and the second follows.";
/// Tokens of it at most.
const TOKENS_MOST: usize = 32;

/// One operation in both.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Of the transformer; none before and after the layers.
    pub layer: Option<usize>,
    /// What it is for.
    pub stage: Stage,
    /// How far the two outputs are apart.
    pub apart: f64,
    /// The first position at which they are further apart than the limit, or that of the largest distance.
    pub position: usize,
    /// The element there that differs most, in both.
    pub values: (f32, f32),
}

/// What a comparison found.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What ran, on both sides.
    pub backends: (String, String),
    /// Every operation that both have, in order.
    pub operations: Vec<Compared>,
    /// The first that is further apart than the limit.
    pub parted: Option<Compared>,
    /// The limit.
    pub limit: f64,
    /// Positions at which both have the same best token, of how many.
    pub agree: (usize, usize),
}

/// Runs a text through two models. They must have the same shape and vocabulary.
pub fn compare(a: &mut Loaded, b: &mut Loaded, text: &str, limit: f64) -> Result<Comparison> {
    same_shape(&a.model, &b.model)?;
    let ids = a.tokenizer.encode_text(text)?;
    if ids != b.tokenizer.encode_text(text)? {
        return Err(Error::new(Kind::Usage, "the two tokenizers give other ids for one text")
            .hint("only models with the same vocabulary can be compared"));
    }
    let count = ids.len().min(TOKENS_MOST).min(a.context).min(b.context);
    let ids = &ids[..count];
    // HuggingFace and GGUF pair the elements of a Llama's heads differently: the same numbers in another order.
    let same_pairs = a.model.layout.rope == b.model.layout.rope;
    let (first, first_out) = a.run_watched(ids, |_| Kept::default())?;
    let beside = |_: &Model| Beside { kept: first, rows: count, same_pairs, limit, operations: Vec::new() };
    let (second, second_out) = b.run_watched(ids, beside)?;
    let pairs = first_out.rows.iter().zip(&second_out.rows);
    let agree = pairs.clone().filter(|(x, y)| x.argmax == y.argmax).count();
    let mut operations = second.operations;
    let logits = |out: &compute::Output| out.rows.iter().flat_map(|r| r.values.iter().copied()).collect::<Vec<f32>>();
    operations.push(compared((0, Stage::Logits), &logits(&first_out), &logits(&second_out), count, limit));
    let parted = operations.iter().find(|o| o.apart > limit).cloned();
    Ok(Comparison { backends: (a.backend(), b.backend()), operations, parted, limit, agree: (agree, count) })
}

/// The same for two files, each on its backend.
pub fn compare_files(a: (&Path, &dyn Backend), b: (&Path, &dyn Backend), limit: f64) -> Result<Comparison> {
    let open = |(path, backend): (&Path, &dyn Backend)| {
        Loaded::open_rewritten(path, backend, None, &Interest::Everything, |_| {})
    };
    compare(&mut open(a)?, &mut open(b)?, TEXT, limit)
}

fn same_shape(a: &Model, b: &Model) -> Result<()> {
    let (x, y) = (&a.hyper, &b.hyper);
    if a.arch.name != b.arch.name {
        let what = format!("a {} and a {} have no operations in common", a.arch.name, b.arch.name);
        return Err(Error::new(Kind::Usage, what).hint("models of one architecture can be compared"));
    }
    let sizes = [
        ("layers", x.layers, y.layers),
        ("width", x.hidden, y.hidden),
        ("feed-forward width", x.ffn, y.ffn),
        ("heads", x.heads, y.heads),
        ("K/V heads", x.kv_heads, y.kv_heads),
        ("head size", x.head_dim, y.head_dim),
    ];
    let Some((name, first, second)) = sizes.into_iter().find(|(_, first, second)| first != second) else {
        return Ok(());
    };
    let what = format!("the models are of different sizes: {name} {first} and {second}");
    Err(Error::new(Kind::Usage, what).hint("containers and number formats of one model can be compared"))
}

/// A tap that keeps everything.
#[derive(Default)]
struct Kept(BTreeMap<(usize, u16), Vec<f32>>);

impl Tap for Kept {
    fn observe(&mut self, _: usize, tag: Tag, _: usize, values: &[f32]) {
        if let Some((layer, stage)) = untag(tag) {
            self.0.insert((layer, stage as u16), values.to_vec());
        }
    }
}

/// A tap that compares with what was kept.
struct Beside {
    kept: Kept,
    rows: usize,
    same_pairs: bool,
    limit: f64,
    operations: Vec<Compared>,
}

impl Tap for Beside {
    fn observe(&mut self, _: usize, tag: Tag, _: usize, values: &[f32]) {
        let Some((layer, stage)) = untag(tag) else { return };
        if !self.same_pairs && matches!(stage, Stage::Q | Stage::K | Stage::RopeQ | Stage::RopeK) {
            return;
        }
        // What was compared is done with: half of the memory goes as the other half comes.
        let Some(other) = self.kept.0.remove(&(layer, stage as u16)) else { return };
        self.operations.push(compared((layer, stage), &other, values, self.rows, self.limit));
    }
}

fn compared((layer, stage): (usize, Stage), a: &[f32], b: &[f32], rows: usize, limit: f64) -> Compared {
    let square = |x: f64| x * x;
    let (wide, wide_b) = (a.len() / rows.max(1), b.len() / rows.max(1));
    let (mut off, mut whole, mut worst) = (0.0, 0.0, (0, 0.0));
    let mut found = None;
    for row in 0..rows {
        // Vocabularies may be padded to different sizes.
        let (x, y) = (&a[row * wide..][..wide.min(wide_b)], &b[row * wide_b..][..wide.min(wide_b)]);
        let row_off: f64 = x.iter().zip(y).map(|(x, y)| square(f64::from(*x) - f64::from(*y))).sum();
        let row_whole: f64 = x.iter().map(|x| square(f64::from(*x))).sum();
        let ratio = (row_off / row_whole.max(1e-30)).sqrt();
        if ratio > limit || ratio.is_nan() {
            found.get_or_insert(row);
        }
        if ratio > worst.1 {
            worst = (row, ratio);
        }
        (off, whole) = (off + row_off, whole + row_whole);
    }
    let position = found.unwrap_or(worst.0);
    let (x, y) = (&a[position * wide..][..wide.min(wide_b)], &b[position * wide_b..][..wide.min(wide_b)]);
    let far = |(x, y): &(f32, f32)| {
        let d = (x - y).abs();
        if d.is_nan() { f32::INFINITY } else { d }
    };
    let values =
        x.iter().copied().zip(y.iter().copied()).max_by(|p, q| far(p).total_cmp(&far(q))).unwrap_or((0.0, 0.0));
    let apart = (off / whole.max(1e-30)).sqrt();
    let outside = matches!(stage, Stage::Embed | Stage::OutputNorm | Stage::Logits);
    let apart = if apart.is_nan() { f64::INFINITY } else { apart };
    Compared { layer: (!outside).then_some(layer), stage, apart, position, values }
}
