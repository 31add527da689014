//! The rows of the page: what is claimed, what was tested, what was seen, and the command that shows it again.

use std::fmt::Write;

use super::{claim, markup, standing};
use crate::registry::{self, Row};
use crate::report::{Report, history};
use crate::suite::{ProofOutcome, Record};
use crate::verdict::{Evidence, Refutation, Verdict};

/// Ways to look at the rows: id of the button, its words, and the classes that it leaves in sight.
const FILTERS: &[(&str, &str)] = &[
    ("all", "all"),
    ("S", "✓ survived"),
    ("r", "◐ by ruling"),
    ("R", "✗ refuted"),
    ("N", "– not attempted"),
    ("I", "! broken"),
    ("high", "level 3 and 4"),
];

/// Every row, section by section.
pub fn all(report: &Report, history: &[history::Line]) -> String {
    let mut out = String::from(
        "<section id=\"rows\"><h2>Every row</h2>\n<div class=\"filters\" role=\"group\" aria-label=\"Rows to show\">",
    );
    for (i, (id, words)) in FILTERS.iter().enumerate() {
        let checked = if i == 0 { " checked" } else { "" };
        let _ = write!(
            out,
            "<input type=\"radio\" name=\"show\" id=\"show-{id}\"{checked}><label for=\"show-{id}\">{words}</label>"
        );
    }
    out.push_str(
        "<input type=\"search\" id=\"find\" hidden placeholder=\"Search rows\" aria-label=\"Search rows\"></div>\n",
    );
    let mut section = "";
    for row in registry::rows() {
        if row.section != section {
            let close = if section.is_empty() { "" } else { "</div>\n" };
            section = &row.section;
            let title = markup(registry::section_title(section));
            let _ = writeln!(
                out,
                "{close}<div class=\"part\" id=\"rows-{section}\"><h3><span>{section}</span> {title}</h3>"
            );
        }
        out.push_str(&one(report, history, row));
    }
    out + "</div></section>\n"
}

fn one(report: &Report, history: &[history::Line], row: &Row) -> String {
    let s = standing(report, row);
    let high = if row.level > 2 { " high" } else { "" };
    let mut out = format!(
        "<details class=\"row {}{high}\"><summary><b class=\"{}\" title=\"{}\">{}</b> <code>{}</code> <span>{}</span>{}</summary><dl id=\"{}\">",
        s.class,
        s.class,
        s.word,
        s.symbol,
        row.id,
        claim(row),
        if row.level > 2 { format!(" <i>level {}</i>", row.level) } else { String::new() },
        row.id
    );
    let record = report.record(&row.id);
    let attempted = record.is_some_and(|r| !matches!(r.verdict, Verdict::NotAttempted(_)));
    let mut item = |what: &str, html: String| {
        let _ = write!(out, "<dt>{what}<dd>{html}");
    };
    match record.map(|r| &r.verdict) {
        Some(Verdict::NotAttempted(reason)) => item("not attempted", markup(&reason.to_string())),
        Some(Verdict::Refuted(r)) => item("refuted", refutation(r)),
        Some(Verdict::Survived(_)) => {}
        None => item("not attempted", "not run".into()),
    }
    item(if attempted { "tested as" } else { "to be tested as" }, markup(&row.tested_as));
    item("refuted if", list(row.refuted_if.iter().map(|r| markup(r))));
    if let Some(Verdict::Survived(e)) = record.map(|r| &r.verdict) {
        evidence(e, &mut item);
    }
    if let Some(record) = record.filter(|_| attempted) {
        if !record.proofs.is_empty() {
            item("saboteurs", list(record.proofs.iter().map(proof)));
        }
        item("ran", ran(record));
    }
    if attempted {
        item("again", command(&format!("cargo run -q -p falsify -- sabotage {}", row.id)));
        item("where", command(&format!("cargo run -q -p falsify -- where {}", row.id)));
    }
    let turns = history::of_row(history, row);
    if turns.iter().any(|(_, l)| *l != 'U') {
        item(
            "history",
            list(turns.iter().map(|(line, l)| format!("{} {}, {}", line.day(), line.short_commit(), word(*l)))),
        );
    }
    out + "</dl></details>\n"
}

/// A list, or the only member of it alone.
fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    match items.as_slice() {
        [one] => one.clone(),
        many => format!("<ul><li>{}</ul>", many.join("<li>")),
    }
}

fn command(line: &str) -> String {
    format!("<code class=\"cmd\">{}</code>", markup(line))
}

fn refutation(r: &Refutation) -> String {
    let crash = if r.crash { " (it crashed or hung)" } else { "" };
    format!(
        "{}{crash}<dl><dt>seen<dd><pre>{}</pre><dt>expected<dd><pre>{}</pre><dt>shows it<dd>{}</dl>",
        markup(&r.criterion),
        markup(&r.observed),
        markup(&r.expected),
        command(&r.repro)
    )
}

fn evidence(e: &Evidence, item: &mut impl FnMut(&str, String)) {
    let cases = if e.cases() == 1 { "1 case".to_string() } else { format!("{} cases", e.cases()) };
    item("evidence", format!("<b>{cases}</b>: {}", markup(e.ran())));
    if let Some(ruling) = e.ruling() {
        item("by ruling", markup(ruling));
    }
    if !e.numbers().is_empty() {
        let cell = |(name, value): (&String, &f64)| format!("<tr><td>{}<td>{}", markup(name), number(*value));
        item("numbers", format!("<table>{}</table>", e.numbers().iter().map(cell).collect::<String>()));
    }
    if !e.notes().is_empty() {
        item("notes", list(e.notes().iter().map(|n| markup(n))));
    }
}

/// Whole numbers as they are, others with four digits that count.
fn number(value: f64) -> String {
    match value {
        v if v.fract() == 0.0 && v.abs() < 1e15 => format!("{v}"),
        v if v.abs() >= 0.01 && v.abs() < 1e6 => format!("{v:.4}"),
        v => format!("{v:.3e}"),
    }
}

fn proof(p: &crate::suite::Proof) -> String {
    let outcome = match p.outcome {
        ProofOutcome::Caught => "caught by",
        ProofOutcome::Missed => "<b class=\"I\">missed</b>:",
        ProofOutcome::Crashed => "<b class=\"I\">merely crashed</b>:",
        ProofOutcome::NotTried => "<b class=\"I\">not tried</b>:",
    };
    format!("<code>{}</code> {outcome} “{}”", markup(&p.saboteur), markup(&p.detail))
}

fn ran(record: &Record) -> String {
    let on = record.machine.as_deref().map_or(String::new(), |m| format!(" on {}", markup(m)));
    format!("{:.1} s with its saboteurs{on}", record.took_ms as f64 / 1000.0)
}

fn word(letter: char) -> &'static str {
    match letter {
        'S' => "survived",
        's' => "survived by ruling",
        'R' => "refuted",
        'I' => "the instrument broke",
        'U' => "no check",
        _ => "not attempted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_they_need() {
        assert_eq!((number(3802.0), number(0.25)), ("3802".to_string(), "0.2500".to_string()));
        assert_eq!((number(1.234_56e-7), number(4_681_451_776.5)), ("1.235e-7".to_string(), "4.681e9".to_string()));
    }
}
