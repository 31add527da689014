//! F-TRACE-206: what recording costs.

use crate::clock::{quartiles, seconds_a_token};
use crate::subject::Subject;
use crate::verdict::{Attempt, Refutation, Tally, instrument};

/// Trace overhead below 50 %: a traced token takes less than half as long again.
pub fn f_trace_206(s: &Subject) -> Attempt {
    let mut t = Tally::new("five pairs of runs with and without --trace-output, in turns, on full-0.5b-q4_k_m");
    let model = s.forged("full-0.5b-q4_k_m")?;
    let file = s.scratch()?.join("trace.json");
    let traced = ["--trace-output", &*file.to_string_lossy()];
    // Enough that what a run takes to start is the smaller part of it.
    const TOKENS: usize = 128;
    seconds_a_token(s, &model, 2, &[])?;
    let mut ratios = [0.0; 5];
    for ratio in &mut ratios {
        *ratio = seconds_a_token(s, &model, TOKENS, &traced)? / seconds_a_token(s, &model, TOKENS, &[])?;
    }
    let events = std::fs::read_to_string(&file).map_err(instrument)?.matches("TaskStateExited").count();
    // The last traced run, the short one, left the file: attention and FFN of each of 24 layers, once.
    t.hold(events >= 2 * 24, || Refutation::new("the traced runs were traced", events.to_string(), "two a layer"))?;
    let (lower, upper) = quartiles(ratios);
    let seen = || format!("quartiles {lower:.2} and {upper:.2} of the time without");
    if lower < 1.5 && upper >= 1.5 {
        return Err(instrument(format!("{}: the machine is too restless for a verdict", seen())));
    }
    t.hold(upper < 1.5, || Refutation::new("time of a traced token", seen(), "below 1.5"))?;
    t.number("time with a trace over time without, lower quartile", lower);
    t.number("time with a trace over time without, upper quartile", upper);
    t.done()
}
