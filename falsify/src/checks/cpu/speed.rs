//! F-CPU-098, 099: speed of a file of full shape on this machine. Rows of the perf tier: they want it for themselves.

use std::path::Path;

use crate::clock::{quartiles, seconds_a_token};
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// Tokens that are timed, beyond the first.
const TOKENS: usize = 96;

/// How often five more runs are asked for where five gave no verdict.
const AGAIN: u32 = 2;

/// At least 10 tok/s on Qwen 1.5B Q4_K_M.
pub fn f_cpu_098(s: &Subject) -> Attempt {
    decodes(s, 10.0)
}

/// The target: 25 tok/s.
pub fn f_cpu_099(s: &Subject) -> Attempt {
    decodes(s, 25.0)
}

/// Quartiles of the speeds of five runs.
fn five(s: &Subject, model: &Path) -> Result<(f64, f64), Halt> {
    let mut speeds = [0.0; 5];
    for speed in &mut speeds {
        *speed = 1.0 / seconds_a_token(s, model, TOKENS, &[])?;
    }
    Ok(quartiles(speeds))
}

fn decodes(s: &Subject, limit: f64) -> Attempt {
    let mut t = Tally::new(format!("five runs of {TOKENS} tokens beside five of one, on full-1.5b-q4_k_m"));
    let model = s.forged("full-1.5b-q4_k_m")?;
    // Once for the page cache.
    seconds_a_token(s, &model, 2, &[])?;
    let (mut lower, mut upper) = five(s, &model)?;
    let mut again = 0;
    // Quartiles on both sides of the limit are no verdict: it is asked again, and not for ever.
    while lower < limit && upper >= limit && again < AGAIN {
        (lower, upper) = five(s, &model)?;
        again += 1;
    }
    let seen = || format!("quartiles {lower:.1} and {upper:.1} tok/s");
    if lower < limit && upper >= limit {
        return Err(instrument(format!("{}: the machine is too restless for a verdict", seen())));
    }
    t.hold(lower >= limit, || Refutation::new("tokens a second", seen(), format!("{limit} or more")))?;
    t.number("tok/s, lower quartile", lower);
    t.number("tok/s, upper quartile", upper);
    t.number("times asked again", f64::from(again));
    t.number("cores", std::thread::available_parallelism().map_or(1, usize::from) as f64);
    t.by_ruling("a file of this shape with random weights, which take as long as trained ones");
    t.done()
}
