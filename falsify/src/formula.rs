//! What a model should be, and a transformer's formulas in f64, for checks to compare the engine with.
//!
//! Shapes come from the forge or from the `config.json` beside the fixture, never from what the engine read; formulas
//! are those of the papers and share no code with `compute`. Only the rounding to half precision is borrowed.

use std::f64::consts::PI;
use std::ops::Range;
use std::path::PathBuf;

use compute::Format;
use serde_json::Value;

use crate::forge;
use crate::forge::models::{Arch, Scaling};
use crate::subject::Subject;
use crate::verdict::{Halt, instrument};

/// A model file and what is known of it beforehand.
pub struct Known {
    /// For evidence.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Transformer blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Epsilon of the norms.
    pub eps: f64,
    /// How heads are turned.
    pub rope: Rope,
}

/// Rotary position embedding (Su et al. 2021).
pub struct Rope {
    /// Pairs are `2i` and `2i + 1`; otherwise `i` and `i + head_dim / 2`.
    pub interleaved: bool,
    /// Radians per position of each pair.
    pub frequencies: Vec<f64>,
    /// What turned vectors are multiplied by.
    pub mscale: f64,
}

impl Known {
    /// The fixture in this quantisation, as `config.json` beside it describes it.
    pub fn fixture(s: &Subject, quantisation: &str) -> Result<Known, Halt> {
        let path = s.fixture(quantisation)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let folder = name.trim_end_matches(&format!("-{quantisation}")).to_string();
        let config = s.fixtures.join(folder).join("config.json");
        let text = std::fs::read_to_string(&config).map_err(|e| instrument(format!("config.json: {e}")))?;
        let config: Value = serde_json::from_str(&text).map_err(instrument)?;
        let whole = |key: &str| {
            config[key].as_u64().map(|n| n as usize).ok_or_else(|| instrument(format!("config.json has no {key}")))
        };
        let real = |key: &str| config[key].as_f64().ok_or_else(|| instrument(format!("config.json has no {key}")));
        let heads = whole("num_attention_heads")?;
        let head_dim = whole("hidden_size")? / heads;
        Ok(Known {
            name,
            path,
            layers: whole("num_hidden_layers")?,
            heads,
            kv_heads: whole("num_key_value_heads")?,
            head_dim,
            ffn: whole("intermediate_size")?,
            vocab: whole("vocab_size")?,
            eps: real("rms_norm_eps")?,
            // HuggingFace's Qwen2 pairs halves, and its converter leaves them so.
            rope: Rope::new(false, real("rope_theta")?, head_dim, Scaling::None),
        })
    }

    /// A model of the forge.
    pub fn forged(s: &Subject, name: &str) -> Result<Known, Halt> {
        let m = forge::model(name).ok_or_else(|| instrument(format!("the forge has no model {name}")))?;
        Ok(Known {
            name: name.to_string(),
            path: s.forged(name)?,
            layers: m.layers,
            heads: m.heads,
            kv_heads: m.kv_heads,
            head_dim: m.head_dim(),
            ffn: m.ffn,
            vocab: m.rows,
            eps: 1e-6,
            rope: Rope::new(m.arch == Arch::Llama, f64::from(m.theta), m.head_dim(), m.scaling),
        })
    }

    /// Several models of the forge.
    pub fn all_forged(s: &Subject, names: &[&str]) -> Result<Vec<Known>, Halt> {
        names.iter().map(|name| Known::forged(s, name)).collect()
    }
}

impl Rope {
    /// For heads of `dim` elements that turn whole.
    pub fn new(interleaved: bool, theta: f64, dim: usize, scaling: Scaling) -> Rope {
        let d = dim as f64;
        let base = |i: usize| theta.powf(-2.0 * i as f64 / d);
        let scaled = |i: usize| match scaling {
            Scaling::None => base(i),
            Scaling::Linear { factor } => base(i) / f64::from(factor),
            Scaling::Yarn { factor, original } => {
                // The pair that turns so often in the original context; fast pairs stay, slow ones are stretched.
                let pair = |turns: f64| d * (f64::from(original) / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
                let (low, high) = (pair(32.0).floor().max(0.0), pair(1.0).ceil().min(d - 1.0));
                let slow = ((i as f64 - low) / (high - low).max(1e-3)).clamp(0.0, 1.0);
                base(i) * (1.0 - slow) + base(i) / f64::from(factor) * slow
            }
            Scaling::Llama3 { factor, original } => {
                let wavelength = 2.0 * PI / base(i);
                let smooth = ((original / wavelength - 1.0) / (4.0 - 1.0)).clamp(0.0, 1.0);
                base(i) * (smooth + (1.0 - smooth) / factor)
            }
        };
        let mscale = match scaling {
            Scaling::Yarn { factor, .. } => 1.0 + 0.1 * f64::from(factor).ln(),
            _ => 1.0,
        };
        Rope { interleaved, frequencies: (0..dim / 2).map(scaled).collect(), mscale }
    }

    /// Places of pair `i` in a head.
    pub fn pair(&self, i: usize) -> (usize, usize) {
        if self.interleaved { (2 * i, 2 * i + 1) } else { (i, i + self.frequencies.len()) }
    }

    /// A head turned to a position.
    pub fn turned(&self, head: &[f32], position: usize) -> Vec<f64> {
        let mut out: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
        for (i, frequency) in self.frequencies.iter().enumerate() {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (a, b) = self.pair(i);
            let (x, y) = (out[a], out[b]);
            out[a] = (x * cos - y * sin) * self.mscale;
            out[b] = (x * sin + y * cos) * self.mscale;
        }
        out
    }

    /// The largest distance between a turned head and what was observed, relative to the norm of its pair.
    pub fn error(&self, before: &[f32], after: &[f32], position: usize) -> f64 {
        let want = self.turned(before, position);
        let pairs = (0..self.frequencies.len()).map(|i| {
            let (a, b) = self.pair(i);
            let norm = want[a].hypot(want[b]);
            let off = (f64::from(after[a]) - want[a]).hypot(f64::from(after[b]) - want[b]);
            if norm > 0.0 { off / norm } else { off }
        });
        pairs.fold(0.0, worse)
    }
}

/// The larger one; NaN is the worst there is.
pub fn worse(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

/// Keys and values of a sequence in one layer, as a cache of half precision holds them.
#[derive(Default)]
pub struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Cache {
    /// Appends rows of `[kv_heads * head_dim]`.
    pub fn append(&mut self, keys: &[f32], values: &[f32]) {
        self.keys.extend(halved(keys));
        self.values.extend(halved(values));
    }

    /// The values that one query head sees, mixed by its attention weights (Vaswani et al. 2017).
    pub fn attend(&self, known: &Known, head: usize, q: &[f32], visible: Range<usize>) -> Vec<f64> {
        let (dim, width) = (known.head_dim, known.kv_heads * known.head_dim);
        let from = head / (known.heads / known.kv_heads) * dim;
        let at = |position: usize| position * width + from..position * width + from + dim;
        let score = |j: usize| {
            let k = &self.keys[at(j)];
            q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>() / (dim as f64).sqrt()
        };
        let weights = softmax(&visible.clone().map(score).collect::<Vec<_>>());
        let mut mix = vec![0.0; dim];
        for (j, w) in visible.zip(&weights) {
            let v = &self.values[at(j)];
            mix.iter_mut().zip(v).for_each(|(m, &v)| *m += w * f64::from(v));
        }
        mix
    }

    /// The largest magnitude of a value that a query head sees.
    pub fn largest_value(&self, known: &Known, head: usize, visible: Range<usize>) -> f64 {
        let (dim, width) = (known.head_dim, known.kv_heads * known.head_dim);
        let from = head / (known.heads / known.kv_heads) * dim;
        let row = |j: usize| self.values[j * width + from..j * width + from + dim].iter();
        visible.flat_map(row).fold(0.0, |m, &v| worse(m, f64::from(v.abs())))
    }
}

/// `e^x / sum of e^x`.
pub fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// Rounded to half precision and back.
fn halved(values: &[f32]) -> Vec<f32> {
    let Some(half) = Format::from_name("F16") else { return values.to_vec() };
    let mut row = vec![0; 2 * values.len()];
    half.encode_row(values, &mut row);
    let mut out = vec![0.0; values.len()];
    half.decode_row(&row, &mut out);
    out
}

/// Root of the mean square.
pub fn rms(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    (values.map(|x| x * x).sum::<f64>() / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_keeps_the_norm_and_adds_up() {
        let rope = Rope::new(false, 1e4, 8, Scaling::None);
        let head = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let once = rope.turned(&head, 3);
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>();
        assert!((norm(&once) - 204.0).abs() < 1e-9);
        // The first pair turns by one radian a position.
        assert!((once[0] - (1.0 * 3f64.cos() - 5.0 * 3f64.sin())).abs() < 1e-12);
        assert_eq!(rope.turned(&head, 0), head.map(f64::from).to_vec());
    }

    #[test]
    fn scalings_leave_fast_pairs_and_stretch_slow_ones() {
        let plain = Rope::new(true, 1e4, 32, Scaling::None).frequencies;
        for scaling in [Scaling::Yarn { factor: 4.0, original: 64 }, Scaling::Llama3 { factor: 4.0, original: 64.0 }] {
            let scaled = Rope::new(true, 1e4, 32, scaling).frequencies;
            assert!((scaled[0] / plain[0] - 1.0).abs() < 1e-12);
            assert!((plain[15] / scaled[15] - 4.0).abs() < 1e-9);
        }
    }

    #[test]
    fn equal_keys_mix_values_evenly() {
        let known = Known {
            name: String::new(),
            path: PathBuf::new(),
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 2,
            ffn: 1,
            vocab: 1,
            eps: 0.0,
            rope: Rope::new(false, 1e4, 2, Scaling::None),
        };
        let mut cache = Cache::default();
        cache.append(&[1.0, 1.0, 1.0, 1.0], &[1.0, 0.0, 0.0, 3.0]);
        assert_eq!(cache.attend(&known, 1, &[2.0, 5.0], 0..2), vec![0.5, 1.5]);
        assert_eq!(cache.attend(&known, 1, &[2.0, 5.0], 0..1), vec![1.0, 0.0]);
        assert_eq!(cache.largest_value(&known, 0, 0..2), 3.0);
    }
}
