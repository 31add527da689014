//! RoPE angles from a file's metadata: base, partial rotation, and the scalings linear, YaRN and llama3.
//!
//! The result is a table of inverse frequencies and one multiplier; backends know nothing of scalings.

use compute::program::RopeTable;

use crate::arch::Arch;
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::{Metadata, Tensor, missing};

/// A table and how to speak of it.
pub struct Scaled {
    /// For the program.
    pub table: RopeTable,
    /// Base.
    pub theta: f64,
    /// `none`, `linear x2`, `yarn x4`, `llama3`.
    pub description: String,
}

/// Reads `{arch}.rope.*` and the optional tensor of frequency factors.
//= F-GGUF-056
pub fn from_metadata(
    arch: &Arch,
    meta: &Metadata,
    factors: Option<(&str, &Tensor)>,
    head_dim: usize,
    context: usize,
) -> Result<Scaled> {
    let keys = Keys { meta, prefix: arch.name };
    let theta = keys.positive("rope.freq_base")?.unwrap_or(arch.rope_theta);
    let dims_key = keys.name("rope.dimension_count");
    let said = meta.unsigned(&dims_key)?;
    let dims = said.unwrap_or(head_dim as u64) as usize;
    if dims == 0 || dims > head_dim || !dims.is_multiple_of(2) {
        // A file that does not say it has heads that cannot be rotated in pairs.
        let key = if said.is_some() { dims_key } else { keys.name("attention.head_count") };
        return Err(Error::malformed(format!("{dims} rotated elements in a head of {head_dim}")).at(Place::Key(key)));
    }
    let base = plain(theta, dims);
    //= F-GGUF-056
    let kind_key = keys.name("rope.scaling.type");
    let kind = meta.string(&kind_key)?.unwrap_or("none");
    let legacy = keys.positive("rope.scale_linear")?;
    let (mut inv_freq, mscale, mut description) = match kind {
        "none" => match legacy {
            Some(factor) if factor != 1.0 => linear(&base, factor),
            _ => (base, 1.0, "none".into()),
        },
        "linear" => linear(&base, keys.positive("rope.scaling.factor")?.or(legacy).unwrap_or(1.0)),
        "yarn" => yarn(&keys, &base, theta, dims, context)?,
        "llama3" => llama3(&keys, &base, context)?,
        other => {
            return Err(Error::new(Kind::Unsupported, format!("unsupported RoPE scaling {}", quoted(other)))
                .at(Place::Key(kind_key))
                .hint("supported: none, linear, yarn, llama3"));
        }
    };
    if let Some((name, tensor)) = factors {
        divide(&mut inv_freq, tensor, name)?;
        description = if description == "none" { "llama3".into() } else { format!("{description}, llama3") };
    }
    let inv_freq: Vec<f32> = inv_freq.into_iter().map(|f| f as f32).collect();
    // Numbers that are each in order can divide to an infinity.
    if let Some(f) = inv_freq.iter().chain([&(mscale as f32)]).find(|f| !f.is_finite()) {
        return Err(Error::malformed(format!("base {theta} and scaling {description} give an angle of {f}"))
            .at(Place::Key(keys.name("rope.freq_base"))));
    }
    let inv_freq = crate::model::shared(inv_freq);
    Ok(Scaled { table: RopeTable { inv_freq, mscale: mscale as f32 }, theta, description })
}

/// Frequencies without scaling: one for each pair of rotated elements.
//= F-MATH-165
pub fn plain(theta: f64, dims: usize) -> Vec<f64> {
    (0..dims / 2).map(|i| theta.powf(-2.0 * i as f64 / dims as f64)).collect()
}

struct Keys<'a> {
    meta: &'a Metadata,
    prefix: &'a str,
}

impl Keys<'_> {
    fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.prefix)
    }

    fn float(&self, suffix: &str) -> Result<Option<f64>> {
        self.meta.float(&self.name(suffix))
    }

    fn positive(&self, suffix: &str) -> Result<Option<f64>> {
        match self.float(suffix)? {
            Some(x) if x <= 0.0 => {
                Err(Error::malformed(format!("{x} is not positive")).at(Place::Key(self.name(suffix))))
            }
            x => Ok(x),
        }
    }
}

/// Positions are divided by the factor (Chen et al. 2023).
fn linear(base: &[f64], factor: f64) -> (Vec<f64>, f64, String) {
    (base.iter().map(|f| f / factor).collect(), 1.0, format!("linear x{factor}"))
}

/// YaRN (Peng et al. 2023): high frequencies stay, low ones are interpolated, with a ramp between.
fn yarn(keys: &Keys<'_>, base: &[f64], theta: f64, dims: usize, context: usize) -> Result<(Vec<f64>, f64, String)> {
    let factor = keys.positive("rope.scaling.factor")?.unwrap_or(1.0);
    let original = keys.positive("rope.scaling.original_context_length")?.unwrap_or(context as f64);
    let fast = keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0);
    let slow = keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0);
    let strength = keys.float("rope.scaling.yarn_ext_factor")?.unwrap_or(1.0);
    let attention = keys.positive("rope.scaling.yarn_attn_factor")?.or(keys.positive("rope.scaling.attn_factor")?);
    if let Some(x) = keys.float("rope.scaling.yarn_log_multiplier")?
        && x != 0.0
    {
        return Err(Error::new(Kind::Unsupported, "YaRN with a log multiplier")
            .at(Place::Key(keys.name("rope.scaling.yarn_log_multiplier"))));
    }
    // The pair whose wavelength fits `turns` times into the original context.
    let pair_of =
        |turns: f64| dims as f64 * (original / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
    let low = pair_of(fast).floor().max(0.0);
    let high = pair_of(slow).ceil().min(dims as f64 - 1.0);
    let scaled = base.iter().enumerate().map(|(i, &f)| {
        let ramp = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        let keep = ramp * strength;
        f / factor * (1.0 - keep) + f * keep
    });
    let mscale = attention.unwrap_or(1.0) * if strength != 0.0 { 1.0 + 0.1 * factor.ln() } else { 1.0 };
    Ok((scaled.collect(), mscale, format!("yarn x{factor}")))
}

/// Llama 3.1: waves that are short beside the first context stay, long ones are divided, with a slide between. GGUF has
/// the result as a tensor ([`divide`]), HuggingFace these numbers.
fn llama3(keys: &Keys<'_>, base: &[f64], context: usize) -> Result<(Vec<f64>, f64, String)> {
    let need = |suffix: &str| keys.positive(suffix)?.ok_or_else(|| missing(&keys.name(suffix)));
    let factor = need("rope.scaling.factor")?;
    let (low, high) = (need("rope.scaling.low_freq_factor")?, need("rope.scaling.high_freq_factor")?);
    let original = keys.positive("rope.scaling.original_context_length")?.unwrap_or(context as f64);
    if low >= high {
        return Err(Error::malformed(format!("{high} is not above the low factor, {low}"))
            .at(Place::Key(keys.name("rope.scaling.high_freq_factor"))));
    }
    Ok((slide(base, factor, low, high, original), 1.0, "llama3".into()))
}

fn slide(base: &[f64], factor: f64, low: f64, high: f64, original: f64) -> Vec<f64> {
    let scaled = base.iter().map(|&f| {
        let wavelength = 2.0 * std::f64::consts::PI / f;
        let keep = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 - keep) * f / factor + keep * f
    });
    scaled.collect()
}

/// The numbers of a llama3 scaling.
pub struct Llama3 {
    /// What long waves are divided by.
    pub factor: f64,
    /// Waves longer than the first context over this are long.
    pub low: f64,
    /// Waves shorter than the first context over this are short.
    pub high: f64,
    /// The first context.
    pub original: u64,
}

/// The numbers behind a table whose divisors came as a tensor. Llama 3's factors are 1 and 4 in every file; the first
/// context is a power of two up to the model's. `None` if no such numbers give this very table.
pub fn llama3_numbers(table: &RopeTable, theta: f64, context: usize) -> Option<Llama3> {
    let base = plain(theta, 2 * table.inv_freq.len());
    let (low, high) = (1.0, 4.0);
    // The longest wave is divided by all of it.
    let factor = (base.last()? / f64::from(*table.inv_freq.last()?) * 1024.0).round() / 1024.0;
    let originals = (0..64).map(|bits| 1u64 << bits).take_while(|n| *n <= context as u64);
    let same = |original: &u64| {
        let ours = slide(&base, factor, low, high, *original as f64);
        // The divisors were rounded to F32, and so was the quotient.
        ours.iter().zip(table.inv_freq.iter()).all(|(a, b)| (a / f64::from(*b) - 1.0).abs() < 2e-7)
    };
    originals.into_iter().find(same).map(|original| Llama3 { factor, low, high, original })
}

/// Llama 3 stores what each frequency is divided by as a tensor.
fn divide(inv_freq: &mut [f64], tensor: &Tensor, name: &str) -> Result<()> {
    if tensor.shape != [inv_freq.len()] {
        return Err(Error::malformed(format!("expected shape [{}], found {:?}", inv_freq.len(), tensor.shape))
            .at(Place::Tensor(name.into()))
            .hint("there is one factor for each pair of rotated elements: it belongs to another size of head"));
    }
    for (f, by) in inv_freq.iter_mut().zip(tensor.as_weight(name).to_f32()) {
        if !(by.is_finite() && by > 0.0) {
            return Err(Error::malformed(format!("a frequency factor of {by}")).at(Place::Tensor(name.into())));
        }
        *f /= f64::from(by);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Value;

    fn table(entries: &[(&str, Value)]) -> Result<Scaled> {
        let meta = Metadata { entries: entries.iter().map(|(k, v)| (format!("llama.{k}"), v.clone())).collect() };
        from_metadata(crate::arch::detect("llama").unwrap(), &meta, None, 64, 4096)
    }

    #[test]
    fn the_base_comes_from_the_file_and_linear_divides() {
        let plain = table(&[("rope.freq_base", Value::Float(1e6))]).unwrap();
        assert_eq!(plain.theta, 1e6);
        assert_eq!(plain.table.inv_freq[0], 1.0);
        let scaled = table(&[
            ("rope.freq_base", Value::Float(1e6)),
            ("rope.scaling.type", Value::String("linear".into())),
            ("rope.scaling.factor", Value::Float(4.0)),
        ]);
        let scaled = scaled.unwrap();
        for (a, b) in plain.table.inv_freq.iter().zip(scaled.table.inv_freq.iter()) {
            assert_eq!(a / 4.0, *b);
        }
    }

    #[test]
    fn yarn_keeps_the_fast_pairs_and_interpolates_the_slow() {
        let t = table(&[
            ("rope.scaling.type", Value::String("yarn".into())),
            ("rope.scaling.factor", Value::Float(4.0)),
            ("rope.scaling.original_context_length", Value::Unsigned(1024)),
        ])
        .unwrap();
        let plain = table(&[]).unwrap();
        assert_eq!(t.table.inv_freq[0], plain.table.inv_freq[0]);
        let ratio = plain.table.inv_freq[31] / t.table.inv_freq[31];
        assert!((ratio - 4.0).abs() < 1e-5);
        assert!((t.table.mscale - (1.0 + 0.1 * 4f32.ln())).abs() < 1e-6);
    }

    #[test]
    fn nonsense_is_refused_by_key() {
        for bad in [
            ("rope.freq_base", Value::Float(0.0)),
            ("rope.freq_base", Value::Float(f64::NAN)),
            ("rope.dimension_count", Value::Unsigned(65)),
            ("rope.dimension_count", Value::Unsigned(128)),
            ("rope.scaling.type", Value::String("magic".into())),
        ] {
            let e = table(std::slice::from_ref(&bad)).err().expect("refused");
            assert!(matches!(e.at, Some(Place::Key(ref k)) if k.ends_with(bad.0)), "{e}");
        }
    }
}
