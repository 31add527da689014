//! Speed seen from outside: the wall clock around whole runs. What a program says of its own speed is not believed.

use std::path::Path;

use crate::ask::answered;
use crate::child::Output;
use crate::subject::Subject;
use crate::verdict::{Halt, Refutation, instrument};

/// Tokens of a short run: load, prompt and the first token. What a long one takes beyond it is decoding.
const SHORT: usize = 1;

/// Seconds of each further token: one long run less one short one. The model is opened before, so that its file is in
/// memory. No chat template and one word of prompt: a file of random weights has something to say to anything.
pub fn seconds_a_token(s: &Subject, model: &Path, tokens: usize, flags: &[&str]) -> Result<f64, Halt> {
    let long = generated(s, model, SHORT + tokens, flags)?;
    let short = generated(s, model, SHORT, flags)?;
    let more = long.1.saturating_sub(short.1);
    if more < tokens / 2 {
        return Err(instrument(format!("the answer ends {more} tokens after the first, {tokens} were wanted")));
    }
    Ok((long.0.wall.as_secs_f64() - short.0.wall.as_secs_f64()) / more as f64)
}

/// A run and how many tokens it made.
fn generated(s: &Subject, model: &Path, tokens: usize, flags: &[&str]) -> Result<(Output, usize), Halt> {
    let count = tokens.to_string();
    let run = s.apr(["run"]).args([model.as_os_str()]).args(["hi", "--raw", "--json", "--temperature", "0"]);
    let run = run.args(["--max-tokens", &count]).args(flags).deadline(std::time::Duration::from_secs(300));
    let out = answered(run)?;
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).map_err(instrument)?;
    let made = json["tokens"].as_array().map_or(0, Vec::len);
    if made == 0 || made > tokens {
        return Err(Refutation::new("it makes as many tokens as it was asked for", made.to_string(), count).into());
    }
    Ok((out, made))
}

/// Lower and upper quartile of five numbers: the second from each end.
pub fn quartiles(mut five: [f64; 5]) -> (f64, f64) {
    five.sort_by(f64::total_cmp);
    (five[1], five[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_leave_out_the_ends() {
        assert_eq!(quartiles([9.0, 1.0, 3.0, 100.0, 2.0]), (2.0, 9.0));
    }
}
