//! The report on one screen: headline, what is refuted, what broke, what was not attempted and why, what moved.
//!
//! It shows; it decides nothing.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::registry;
use crate::report::{HistoryLine, Report};
use crate::suite::ProofOutcome;
use crate::verdict::{Reason, Verdict};

/// `latest.md`.
pub fn render(report: &Report, before: Option<&HistoryLine>) -> String {
    let mut md = format!("# apr: what is left of the 300 claims\n\n**{}**\n\n", report.headline());
    let strict = if report.gate.strictly_refuted {
        "By the letter of section 6 the release candidate is refuted: a single refuted row is enough."
    } else {
        "No row is refuted. What was not attempted has not survived."
    };
    let _ = writeln!(
        md,
        "{strict} Without rulings the gate is {}met.\n",
        if report.gate.met_without_rulings { "" } else { "not " }
    );
    stamp(&mut md, report);
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
    let s = &report.stamp;
    let commit = s.commit.as_deref().map_or("no commit", |c| &c[..c.len().min(12)]);
    let dirty = if s.dirty == Some(true) { ", changed since" } else { "" };
    let _ = writeln!(
        md,
        "{} · {commit}{dirty} · apr {}… · {} · {} cores{} · {}\n",
        s.utc,
        &s.apr_sha256[..s.apr_sha256.len().min(12)],
        s.cpu.as_deref().unwrap_or(&s.system),
        s.cores,
        s.isa.iter().map(|i| format!(" {i}")).collect::<String>(),
        s.rustc.as_deref().unwrap_or("unknown rustc"),
    );
}

fn refuted(md: &mut String, report: &Report) {
    let mut rows: Vec<_> = report
        .rows
        .iter()
        .filter_map(|r| if let Verdict::Refuted(x) = &r.verdict { Some((registry::find(&r.id)?, x)) } else { None })
        .collect();
    // What would refute the project comes first.
    rows.sort_by_key(|(row, _)| std::cmp::Reverse(row.level));
    if rows.is_empty() {
        return;
    }
    md.push_str("## Refuted\n\n");
    for (row, r) in rows {
        let _ = writeln!(
            md,
            "- **{}** (level {}) {}\n  - {}: saw `{}`, expected `{}`\n  - `{}`",
            row.id,
            row.level,
            row.claim,
            r.criterion,
            one_line(&r.observed),
            one_line(&r.expected),
            one_line(&r.repro)
        );
    }
    md.push('\n');
}

fn broken(md: &mut String, report: &Report) {
    let mut lines = String::new();
    for r in &report.rows {
        if let Verdict::NotAttempted(Reason::Instrument(what)) = &r.verdict {
            let _ = writeln!(lines, "- 🟥 **{}** {}", r.id, one_line(what));
        }
        for p in r.blind_to() {
            let _ = writeln!(lines, "- 🟥 **{}** {:?} {}: {}", r.id, p.outcome, p.saboteur, one_line(&p.detail));
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
        let which = if ids.len() > 24 { per_prefix(&ids) } else { ids.join(" ") };
        let _ = writeln!(md, "| {} | {} | {which} |", one_line(&reason), ids.len());
    }
    md.push('\n');
}

/// `CLI 10, UX 13`.
fn per_prefix(ids: &[&str]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for id in ids {
        let prefix = id.split('-').nth(1).unwrap_or_default();
        match counts.last_mut() {
            Some((p, n)) if *p == prefix => *n += 1,
            _ => counts.push((prefix, 1)),
        }
    }
    counts.iter().map(|(p, n)| format!("{p} {n}")).collect::<Vec<_>>().join(", ")
}

fn movers(md: &mut String, report: &Report, before: Option<&HistoryLine>) {
    let Some(before) = before else { return };
    let ids = registry::rows().iter().filter(|r| !r.is_trigger()).map(|r| r.id.as_str());
    let now = report.statuses();
    let moved: Vec<String> = ids
        .zip(before.statuses.chars().zip(now.chars()))
        .filter(|(_, (a, b))| a != b)
        .map(|(id, (a, b))| format!("{id} {a}→{b}"))
        .collect();
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

fn one_line(text: &str) -> String {
    let flat = text.replace('\n', "⏎").replace('|', "\\|").replace('`', "'");
    match flat.char_indices().nth(200) {
        None => flat,
        Some((at, _)) => format!("{}…", &flat[..at]),
    }
}
