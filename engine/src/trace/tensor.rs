//! Numbers as JSON: cut to a limit, never `NaN`.

use serde_json::{Value, json};

use crate::limits;

/// Shape, statistics and, if asked for, values of a buffer `[rows, width]`; the values are the last row's first.
pub fn summary(values: &[f32], rows: usize, with_values: bool) -> Value {
    let width = values.len() / rows.max(1);
    let mut out = json!({"shape": [rows, width], "statistics": statistics(values)});
    if with_values {
        let row = &values[values.len() - width..];
        let shown: Vec<Value> = row.iter().take(limits::TRACE_VALUES).map(|&x| number(x)).collect();
        //= F-TRACE-204
        //= F-TRACE-208
        out["values"] = json!({"row": rows - 1, "data": shown, "length": width, "truncated": shown.len() < width});
    }
    out
}

/// Minimum, maximum, mean and standard deviation of what is finite, and how much is not.
fn statistics(values: &[f32]) -> Value {
    // Eight sums side by side, so that the compiler can use vectors.
    const LANES: usize = 8;
    let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let (mut sum, mut squares) = ([0f64; LANES], [0f64; LANES]);
    let mut finite = values.len();
    let (mut nan, mut infinite) = (0usize, 0usize);
    for chunk in values.chunks(LANES) {
        for (lane, &x) in chunk.iter().enumerate() {
            if x.is_finite() {
                min[lane] = min[lane].min(x);
                max[lane] = max[lane].max(x);
                sum[lane] += f64::from(x);
                squares[lane] += f64::from(x) * f64::from(x);
            } else {
                finite -= 1;
                nan += usize::from(x.is_nan());
                infinite += usize::from(x.is_infinite());
            }
        }
    }
    let n = finite.max(1) as f64;
    let mean = sum.iter().sum::<f64>() / n;
    let deviation = (squares.iter().sum::<f64>() / n - mean * mean).max(0.0).sqrt();
    let of_finite = |x: f32| if finite > 0 { number(x) } else { Value::Null };
    json!({
        //= F-TRACE-199
        "min": of_finite(min.into_iter().fold(f32::INFINITY, f32::min)),
        "max": of_finite(max.into_iter().fold(f32::NEG_INFINITY, f32::max)),
        "mean": of_finite(mean as f32),
        "std": of_finite(deviation as f32),
        //= F-TRACE-207
        "nan": nan,
        "inf": infinite,
    })
}

/// A number, or the name of what is none: JSON has no NaN. `0.7` and not `0.699999988079071`, which is the same f32 in
/// more words.
pub fn number(x: f32) -> Value {
    match x {
        x if x.is_finite() => x.to_string().parse::<f64>().map_or(Value::Null, |x| json!(x)),
        //= F-TRACE-209
        x if x.is_nan() => json!("NaN"),
        x if x > 0.0 => json!("Infinity"),
        _ => json!("-Infinity"),
    }
}

/// Token ids: a plain list, or its beginning and its length.
pub fn cut(ids: &[u32]) -> Value {
    match ids.len() {
        n if n <= limits::TRACE_IDS => json!(ids),
        n => json!({"data": ids[..limits::TRACE_IDS], "length": n, "truncated": true}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_of_what_is_finite() {
        let s = statistics(&[1.0, f32::NAN, 3.0, f32::INFINITY, f32::NEG_INFINITY, 2.0]);
        assert_eq!((s["min"].as_f64(), s["max"].as_f64(), s["mean"].as_f64()), (Some(1.0), Some(3.0), Some(2.0)));
        assert_eq!((s["nan"].as_u64(), s["inf"].as_u64()), (Some(1), Some(2)));
        assert!((s["std"].as_f64().unwrap() - (2f64 / 3.0).sqrt()).abs() < 1e-6);
        assert_eq!(statistics(&[f32::NAN])["mean"], Value::Null);
    }

    #[test]
    fn values_are_the_last_rows_first() {
        let s = summary(&[1.0, 2.0, 3.0, 4.0], 2, true);
        assert_eq!(s["values"], json!({"row": 1, "data": [3.0, 4.0], "length": 2, "truncated": false}));
        assert_eq!(s["shape"], json!([2, 2]));
        let wide = vec![0.5; limits::TRACE_VALUES + 1];
        assert_eq!(summary(&wide, 1, true)["values"]["truncated"], json!(true));
        assert_eq!(summary(&wide, 1, false).get("values"), None);
    }

    #[test]
    fn long_lists_say_how_long() {
        assert_eq!(cut(&[1, 2]), json!([1, 2]));
        assert_eq!(cut(&vec![7; limits::TRACE_IDS + 1])["length"], json!(limits::TRACE_IDS + 1));
    }
}
