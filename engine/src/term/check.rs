//! The table of `apr check`, as section 3.1 of the specification draws it.

use serde_json::{Value, json};

use crate::check::{CheckResult, Finding, STAGES, Verdict};
use crate::error::{Result, printable};
use crate::limits::MESSAGE_CHARS_MAX;
use crate::twin::Comparison;

/// Titles of the columns and their widths, blanks at both ends included.
const COLUMNS: [(&str, usize); 5] = [(" #", 5), ("Component", 21), ("Softmax?", 10), ("ELI5", 24), ("Done", 6)];

/// Columns of a terminal that a mark takes: emoji take two.
fn mark(verdict: &Verdict) -> (&'static str, usize) {
    match verdict {
        Verdict::Passed => ("✅", 2),
        Verdict::Failed(_) => ("❌", 2),
        Verdict::NotAttempted(_) => ("-", 1),
    }
}

/// The table, what failed with its reason, and the count. With `verbose`, what every stage measured.
//= F-CHECK-225
pub fn table(result: &CheckResult, verbose: bool) -> String {
    let rule = |left: &str, middle: &str, right: &str| {
        let bars: Vec<String> = COLUMNS.iter().map(|c| "─".repeat(c.1)).collect();
        format!("{left}{}{right}\n", bars.join(middle))
    };
    let line = |cells: [(String, usize); 5]| {
        let cells = cells
            .iter()
            .zip(COLUMNS)
            .map(|((text, wide), (_, width))| format!(" {text}{}", " ".repeat(width.saturating_sub(wide + 1))));
        format!("│{}│\n", cells.collect::<Vec<_>>().join("│"))
    };
    let plain = |text: String| (text.clone(), text.chars().count());
    let mut out = rule("┌", "┬", "┐");
    out += &line(COLUMNS.map(|c| plain(c.0.into())));
    for f in &result.stages {
        out += &rule("├", "┼", "┤");
        let (sign, wide) = mark(&f.verdict);
        let softmax = if f.stage.softmax { "✓" } else { "-" };
        out += &line([
            plain(f.stage.number.to_string()),
            plain(f.stage.component.into()),
            plain(softmax.into()),
            plain(f.stage.eli5.into()),
            (sign.into(), wide),
        ]);
    }
    out += &rule("└", "┴", "┘");
    if verbose {
        out += &format!("Model: {}\nBackend: {}\n", result.format, result.backend);
        for f in &result.stages {
            out += &format!("{:>2} {}: {}\n", f.stage.number, f.stage.component, f.measured);
        }
    }
    for f in &result.stages {
        if let Some((word, why)) = reason(f) {
            //= F-CHECK-223
            let why = printable(&why, MESSAGE_CHARS_MAX);
            out += &format!("stage {} ({}) {word}: {why}\n", f.stage.number, f.stage.component);
        }
    }
    //= F-CHECK-222
    out + &format!("{}/{} STAGES PASSED\n", result.passed(), STAGES.len())
}

fn reason(finding: &Finding) -> Option<(&'static str, String)> {
    match &finding.verdict {
        Verdict::Passed => None,
        Verdict::Failed(fault) => Some(("failed", fault.to_string())),
        Verdict::NotAttempted(why) => Some(("not attempted", why.clone())),
    }
}

/// The same as an object.
pub fn object(result: &CheckResult) -> Value {
    let stages: Vec<Value> = result
        .stages
        .iter()
        .map(|f| {
            let (verdict, why) = reason(f).unwrap_or(("passed", String::new()));
            let fault = match &f.verdict {
                Verdict::Failed(fault) => Some(fault),
                _ => None,
            };
            json!({
                "number": f.stage.number,
                "component": f.stage.component,
                "softmax": f.stage.softmax,
                "eli5": f.stage.eli5,
                "verdict": verdict,
                "measured": f.measured,
                "reason": if why.is_empty() { Value::Null } else { why.into() },
                "layer": fault.and_then(|f| f.layer),
                "tensor": fault.and_then(|f| f.tensor.as_deref()),
                "hint": fault.map(|f| f.hint),
            })
        })
        .collect();
    json!({
        "format": result.format,
        "backend": result.backend,
        "passed": result.passed(),
        "stages": stages,
    })
}

/// Prints the results of `apr check`, one for each backend.
pub fn show(results: &[CheckResult], deep: Option<&Comparison>, json: bool, verbose: bool) -> Result<()> {
    super::clear();
    if json {
        let all = results.iter().all(CheckResult::all_passed);
        let list: Vec<Value> = results.iter().map(object).collect();
        let mut whole = list.first().cloned().unwrap_or_else(|| json!({}));
        whole["all_passed"] = all.into();
        if results.len() > 1 {
            whole["backends"] = list.into();
        }
        if let Some(deep) = deep {
            whole["deep"] = super::twin::object(deep);
        }
        return super::tell(&whole);
    }
    for result in results {
        if results.len() > 1 && !verbose {
            super::write_out(&format!("Backend: {}\n", result.backend))?;
        }
        super::write_out(&table(result, verbose))?;
    }
    if let Some(deep) = deep {
        super::write_out(&format!(
            "{} beside {}: {}",
            deep.backends.0,
            deep.backends.1,
            super::twin::text(deep, verbose)
        ))?;
    }
    Ok(())
}
