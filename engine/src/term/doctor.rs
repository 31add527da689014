//! What `apr doctor` says.

use std::fmt::Write;

use serde_json::json;

use crate::doctor::{Finding, NOTHING, State};
use crate::error::Result;

/// For people: a line for each finding, and what to do below it.
pub fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for f in findings {
        let mark = match f.state {
            State::Good => "ok",
            State::Note => "--",
            State::Bad => "!!",
        };
        let _ = writeln!(out, "{mark} {:<15}  {}", f.topic, f.found);
        if f.advice != NOTHING {
            let _ = writeln!(out, "{:20}{}", "", f.advice);
        }
    }
    out
}

/// Prints them.
pub fn show(findings: &[Finding], json: bool) -> Result<()> {
    let object = json!({"findings": findings.iter().map(Finding::object).collect::<Vec<_>>()});
    super::say(&text(findings), json.then_some(&object))
}
