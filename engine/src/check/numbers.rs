//! Small arithmetic that stages share. Sums are in f64.

use compute::WeightRef;

use super::Fault;

/// How far an activation may be from the same product in f64, relative to its length: backends multiply in int8.
pub const PRODUCT_APART: f64 = 0.05;
/// How far a formula without a product may be off: K and V are kept in half precision.
pub const FORMULA_APART: f64 = 5e-3;

/// Root mean square.
pub fn rms(x: &[f32]) -> f64 {
    (x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / x.len().max(1) as f64).sqrt()
}

/// Standard deviation.
pub fn deviation(x: &[f32]) -> f64 {
    let n = x.len().max(1) as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    (x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// Length of the difference over the length of what is expected. NaN counts as infinitely far.
pub fn apart(seen: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let off: f64 = seen.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let whole: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
    let ratio = (off / whole.max(1e-30)).sqrt();
    if seen.len() != expected.len() || ratio.is_nan() { f64::INFINITY } else { ratio }
}

/// Rows of a matrix whose products are computed a second time.
const SAMPLED: usize = 24;

/// The products of some rows of a matrix with every row of `input`, beside what a backend made of them:
/// `(seen, expected)`, both `[input rows, sampled]`.
pub fn products(
    weight: &WeightRef,
    bias: Option<&WeightRef>,
    input: &[f32],
    seen: &[f32],
    rows: usize,
) -> (Vec<f32>, Vec<f32>) {
    let bias = bias.map(WeightRef::to_f32);
    let sampled: Vec<usize> =
        (0..SAMPLED.min(weight.rows)).map(|i| i * weight.rows / SAMPLED.min(weight.rows)).collect();
    let matrix: Vec<Vec<f32>> = sampled.iter().filter_map(|&o| Some(weight.row_slice(o, 1)?.to_f32())).collect();
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for (x, y) in input.chunks_exact(input.len() / rows.max(1)).zip(seen.chunks_exact(seen.len() / rows.max(1))) {
        for (&o, w) in sampled.iter().zip(&matrix) {
            let dot: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            expected.push((dot + bias.as_ref().map_or(0.0, |b| f64::from(b[o]))) as f32);
            found.push(y[o]);
        }
    }
    (found, expected)
}

/// A fault if the products are not those of the file's weights.
pub fn compare_products(
    weight: &WeightRef,
    bias: Option<&WeightRef>,
    input: &[f32],
    seen: &[f32],
    rows: usize,
) -> Option<Fault> {
    let (found, expected) = products(weight, bias, input, seen, rows);
    let off = apart(&found, &expected);
    (off > PRODUCT_APART).then(|| {
        let what = format!("its product is {:.1} % off what the file's numbers give", off * 100.0);
        Fault::new(what, "the backend does not compute what the file says").tensor(&weight.name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_far_away() {
        assert_eq!(apart(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert_eq!(apart(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(apart(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert!((apart(&[0.0, 0.0], &[3.0, 4.0]) - 1.0).abs() < 1e-12);
        assert!((deviation(&[1.0, 3.0]) - 1.0).abs() < 1e-12 && rms(&[3.0, -3.0]) == 3.0);
    }
}
