//! What the numbers of `.apr` files are, computed from the description of their dtypes and with none of the engine's code.

use apr_format::v2::TensorDType;
use engine::file::Value;

use crate::forge::apr::values;
use crate::oracle::half;

/// INT4 after its description: a half float, then nibbles in pairs, less 8.
pub fn int4(bytes: &[u8], n: usize) -> Vec<f32> {
    let block = |b: &[u8]| -> Vec<f32> {
        let scale = half(u16::from_le_bytes([b[0], b[1]]));
        b[2..].iter().flat_map(|q| [q & 15, q >> 4]).map(|q| scale * (f32::from(q) - 8.0)).collect()
    };
    bytes.chunks(18).flat_map(block).take(n).collect()
}

/// The nearest half float of a number that has one.
fn to_half(x: f32) -> f32 {
    let around = (0..=0x7bffu16).map(half).collect::<Vec<f32>>();
    let above = around.partition_point(|h| *h < x.abs());
    let (low, high) = (around[above.saturating_sub(1)], around[above.min(around.len() - 1)]);
    let (below, beyond) = (x.abs() - low, high - x.abs());
    let even = above.is_multiple_of(2);
    (if below < beyond || below == beyond && !even { low } else { high }).copysign(x)
}

/// What the values of a tensor of [`TENSORS`] are after encoding, from the description of the dtype.
pub fn meant(name: &str, dtype: TensorDType, n: usize) -> Vec<f32> {
    let values = values(name, n);
    let largest = |v: &[f32]| v.iter().fold(0f32, |m, x| m.max(x.abs()));
    let scale_of = |v: &[f32], steps: f32| if largest(v) == 0.0 { 1.0 } else { largest(v) / steps };
    match dtype {
        TensorDType::F16 => values.iter().map(|x| to_half(*x)).collect(),
        TensorDType::BF16 => values.iter().map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)).collect(),
        TensorDType::AprQ8 => {
            let scale = scale_of(&values, 127.0);
            values.iter().map(|x| scale * (x / scale).round().clamp(-127.0, 127.0)).collect()
        }
        TensorDType::AprQ4 => values
            .chunks(32)
            .flat_map(|block| {
                let scale = scale_of(block, 7.0);
                block.iter().map(move |x| to_half(scale) * (x / scale).round().clamp(-8.0, 7.0)).collect::<Vec<f32>>()
            })
            .collect(),
        _ => values,
    }
}

/// A number as GGUF has it, where programs look for no wider one.
pub fn in_singles(value: &Value) -> Value {
    match value {
        Value::Float(x) => Value::Float(f64::from(*x as f32)),
        other => other.clone(),
    }
}
