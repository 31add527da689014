//! The report on one screen: headline, what is refuted, what broke, what was not attempted and why, what moved.
//!
//! It shows; it decides nothing.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::escape::{markdown, visible};
use super::{Report, history, letter};
use crate::registry;
use crate::suite::ProofOutcome;
use crate::verdict::{Reason, Verdict};

/// `latest.md`.
pub fn render(report: &Report, before: Option<&history::Line>) -> String {
    let mut md = format!("# apr: what is left of the 300 claims\n\n**{}**\n\n", report.headline());
    let _ = writeln!(md, "Beside it stands the {}\n", report.beside());
    stamp(&mut md, report);
    existential(&mut md, report);
    refuted(&mut md, report);
    broken(&mut md, report);
    not_attempted(&mut md, report);
    movers(&mut md, report, before);
    matrix(&mut md, report);
    md.push_str(
        "A survived row is a failed attempt to refute its claim in the way `falsify where ID` shows; it is no proof.\n",
    );
    md
}

fn stamp(md: &mut String, report: &Report) {
    for (what, s) in std::iter::once(("", &report.stamp)).chain(report.merged.iter().map(|s| ("with ", s))) {
        let _ = writeln!(
            md,
            "{what}{} · {} · apr {}… · {} · {}\n",
            s.utc,
            s.commit(),
            s.apr_sha256.get(..12).unwrap_or_default(),
            visible(&s.machine()),
            s.rustc.as_deref().unwrap_or("unknown rustc"),
        );
    }
}

/// Level 4 comes first: a refuted row of these refutes the project.
fn existential(md: &mut String, report: &Report) {
    md.push_str("## Level 4: rows that would refute the project\n\n");
    for row in registry::rows().iter().filter(|r| r.level == 4) {
        let verdict = report.record(&row.id).map(|r| &r.verdict);
        let state = match verdict {
            None => "not run".to_string(),
            Some(Verdict::NotAttempted(reason)) => format!("not attempted ({})", markdown(&reason.to_string())),
            Some(Verdict::Refuted(_)) => "**REFUTED**".to_string(),
            Some(v @ Verdict::Survived(_)) => format!("survived{}", if letter(v) == 's' { " by ruling" } else { "" }),
        };
        let _ = writeln!(md, "- {} {}: {state}", row.id, row.claim);
    }
    md.push('\n');
}

fn refuted(md: &mut String, report: &Report) {
    let mut rows = report.of(|v| matches!(v, Verdict::Refuted(_))).peekable();
    if rows.peek().is_none() {
        return;
    }
    md.push_str("## Refuted\n\n");
    for record in rows {
        let (Some(row), Verdict::Refuted(r)) = (registry::find(&record.id), &record.verdict) else { continue };
        let _ = writeln!(
            md,
            "- **{}** (level {}) {}\n  - {}: saw {}, expected {}\n  - {}",
            row.id,
            row.level,
            row.claim,
            markdown(&r.criterion),
            markdown(&r.observed),
            markdown(&r.expected),
            markdown(&r.repro)
        );
    }
    md.push('\n');
}

fn broken(md: &mut String, report: &Report) {
    let mut lines = String::new();
    for r in &report.rows {
        if let Verdict::NotAttempted(Reason::Instrument(what)) = &r.verdict {
            let _ = writeln!(lines, "- 🟥 **{}** {}", r.id, markdown(what));
        }
        for p in r.blind_to() {
            let _ = writeln!(lines, "- 🟥 **{}** {:?} {}: {}", r.id, p.outcome, p.saboteur, markdown(&p.detail));
        }
    }
    if !lines.is_empty() {
        let _ = writeln!(md, "## Broken instruments\n\n{lines}");
    }
}

fn not_attempted(md: &mut String, report: &Report) {
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for r in &report.rows {
        if let Verdict::NotAttempted(reason) = &r.verdict {
            by_reason.entry(reason.to_string()).or_default().push(&r.id);
        }
    }
    if by_reason.is_empty() {
        return;
    }
    md.push_str("## Not attempted\n\n| why | rows | which |\n|---|---|---|\n");
    for (reason, ids) in by_reason {
        let which = if ids.len() > 24 { history::per_prefix(&ids) } else { ids.join(" ") };
        let _ = writeln!(md, "| {} | {} | {which} |", markdown(&reason), ids.len());
    }
    md.push('\n');
}

fn movers(md: &mut String, report: &Report, before: Option<&history::Line>) {
    let Some(before) = before else { return };
    let now = report.statuses();
    let moved = history::moved(&before.statuses, &now);
    let moved: Vec<String> = moved.iter().map(|(row, a, b)| format!("{} {a}→{b}", row.id)).collect();
    if !moved.is_empty() {
        let _ = writeln!(md, "## Moved since {}\n\n{}\n", before.utc, moved.join(" · "));
    }
}

fn matrix(md: &mut String, report: &Report) {
    let rows: Vec<_> = report.rows.iter().filter(|r| !r.proofs.is_empty()).collect();
    if rows.is_empty() {
        return;
    }
    md.push_str("## Sabotage\n\n| row | caught | not caught |\n|---|---|---|\n");
    for r in rows {
        let names = |caught: bool| -> String {
            let some = r.proofs.iter().filter(|p| (p.outcome == ProofOutcome::Caught) == caught);
            some.map(|p| p.saboteur.as_str()).collect::<Vec<_>>().join(", ")
        };
        let _ = writeln!(md, "| {} | {} | {} |", r.id, names(true), names(false));
    }
    md.push('\n');
}
