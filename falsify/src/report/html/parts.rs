//! Parts of the page beside the rows: alarms, the table of sections, the chart of the history, saboteurs, stamps.

use std::fmt::Write;

use super::{bar, markup};
use crate::registry;
use crate::report::{GATE_POINTS, Report, history};
use crate::sabotage;
use crate::suite::ProofOutcome;
use crate::verdict::{Reason, Verdict};

/// What must not be overlooked: refuted rows, broken instruments, blind checks. Nothing if there is none.
pub fn alarms(report: &Report) -> String {
    let mut items = String::new();
    let mut item = |id: &str, class: &str, what: &str, detail: &str| {
        let what = markup(what);
        let _ = writeln!(
            items,
            "<li><b class=\"{class}\">{what}</b> <a href=\"#{id}\"><code>{id}</code></a> {}",
            markup(detail)
        );
    };
    for record in report.of(|_| true) {
        match &record.verdict {
            Verdict::Refuted(r) => item(&record.id, "R", "✗ refuted", &r.criterion),
            Verdict::NotAttempted(Reason::Instrument(what)) => item(&record.id, "I", "! the instrument broke", what),
            _ => {}
        }
        record.blind_to().for_each(|p| item(&record.id, "I", &format!("! blind to {}", p.saboteur), &p.detail));
    }
    if items.is_empty() {
        return items;
    }
    format!("<section class=\"alarm\"><h2>Refuted or broken</h2><ul>{items}</ul></section>\n")
}

/// The score of every section, and why rows were not attempted.
pub fn sections(report: &Report) -> String {
    let mut out = String::from(
        "<section><h2>By section</h2><div class=\"scroll\"><table class=\"sections\"><thead><tr><th>Section<th class=\"wide\">\
         <th>survived<th>by ruling<th>refuted<th>not attempted<th>proven</thead><tbody>\n",
    );
    for (id, s) in report.sections() {
        let _ = writeln!(
            out,
            "<tr><th><a href=\"#rows-{id}\">{id} {}</a><td class=\"wide\">{}<td>{}<td>{}<td>{}<td>{}<td>{}",
            markup(registry::section_title(id)),
            bar(&s, ""),
            s.survived,
            s.by_ruling,
            s.refuted,
            s.not_attempted,
            s.proven
        );
    }
    let s = &report.score;
    let _ = writeln!(
        out,
        "</tbody><tfoot><tr><th>All 300 points<td class=\"wide\">{}<td>{}<td>{}<td>{}<td>{}<td>{}</tfoot></table></div>",
        bar(s, ""),
        s.survived,
        s.by_ruling,
        s.refuted,
        s.not_attempted,
        s.proven
    );
    let why: Vec<String> = report.not_attempted.iter().map(|(reason, n)| format!("{} {n}", markup(reason))).collect();
    if !why.is_empty() {
        let _ = write!(out, "<p class=\"note\">Rows that were not attempted, by reason: {}.</p>", why.join(", "));
    }
    out + "</section>\n"
}

/// Survived and proven over the recorded runs.
pub fn chart(history: &[history::Line]) -> String {
    const W: usize = 720;
    const H: usize = 180;
    const LEFT: usize = 34;
    const RIGHT: usize = 78;
    let x = |i: usize| LEFT + i * (W - LEFT - RIGHT) / (history.len().max(2) - 1);
    let y = |points: usize| 10 + (300 - points.min(300)) * (H - 30) / 300;
    let (Some(first), Some(last)) = (history.first(), history.last()) else { return String::new() };
    let says = format!(
        "Over {} recorded runs, {} to {}: {} survived at first, {} now.",
        history.len(),
        first.day(),
        last.day(),
        first.score.standing(),
        last.score.standing()
    );
    let mut svg = format!("<svg viewBox=\"0 0 {W} {H}\" role=\"img\" aria-label=\"{says}\">");
    for (points, class) in [(0, "axis"), (100, "axis"), (200, "axis"), (300, "axis"), (GATE_POINTS, "gate")] {
        let (end, at) = (W - RIGHT, y(points));
        let _ = write!(svg, "<path class=\"{class}\" d=\"M{LEFT} {at}H{end}\"/>");
        let _ = match class {
            "gate" => write!(svg, "<text class=\"gate\" x=\"{}\" y=\"{}\">gate {points}</text>", end + 6, at + 8),
            _ => write!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{points}</text>", LEFT - 6, at + 4),
        };
    }
    let line = |value: &dyn Fn(&history::Line) -> usize| -> Vec<(usize, usize)> {
        history.iter().enumerate().map(|(i, l)| (x(i), y(value(l)))).collect()
    };
    let series = [("proven", line(&|l| l.score.proven)), ("survived", line(&|l| l.score.standing()))];
    for (class, points) in &series {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x},{y}")).collect();
        let _ = write!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", path.join(" "));
    }
    for (i, l) in history.iter().enumerate() {
        let what =
            format!("{}, {}: {} survive, {} proven", l.day(), l.short_commit(), l.score.standing(), l.score.proven);
        let at = y(l.score.standing());
        let _ = write!(svg, "<circle cx=\"{}\" cy=\"{at}\" r=\"4\"><title>{}</title></circle>", x(i), markup(&what));
    }
    let (end, standing) = (x(history.len() - 1), last.score.standing());
    let _ = write!(svg, "<text class=\"now\" x=\"{}\" y=\"{}\">{standing} now</text>", end + 9, y(standing) + 4);
    let _ = write!(svg, "<text x=\"{LEFT}\" y=\"{}\">{}</text>", H - 3, markup(first.day()));
    if history.len() > 1 {
        let _ = write!(svg, "<text x=\"{end}\" y=\"{}\" text-anchor=\"end\">{}</text>", H - 3, markup(last.day()));
    }
    format!(
        "<section><h2>History</h2><figure>{svg}</svg><figcaption>{says} The solid line is what survived, the dashed one \
         what was proven.</figcaption></figure></section>\n"
    )
}

/// Who was let in, what each does, and which rows caught it.
pub fn saboteurs(report: &Report) -> String {
    let mut out = String::from(
        "<section><h2>Saboteurs</h2><p class=\"note\">Each breaks one thing on purpose. A check counts as proven only if \
         it refutes its saboteur in the run in which the healthy <code>apr</code> survives.</p>\n<details><summary>Who they \
         are, and which rows caught them</summary><div class=\"scroll\"><table class=\"saboteurs\"><thead><tr><th>saboteur<th>kind\
         <th>what it does<th>caught by</thead><tbody>\n",
    );
    for s in sabotage::all() {
        let met =
            report.rows.iter().flat_map(|r| r.proofs.iter().map(move |p| (r, p))).filter(|(_, p)| p.saboteur == s.name);
        let rows: Vec<String> = met
            .map(|(r, p)| {
                let missed = if p.outcome == ProofOutcome::Caught { "" } else { " (not caught)" };
                format!("<a href=\"#{0}\">{0}</a>{missed}", r.id)
            })
            .collect();
        let rows = if rows.is_empty() { "not let in".to_string() } else { rows.join(" ") };
        let _ = writeln!(out, "<tr><td><code>{}</code><td>{}<td>{}<td>{rows}", s.name, s.means.kind(), markup(s.does));
    }
    out + "</tbody></table></div></details></section>\n"
}

/// What the report was made with.
pub fn stamps(report: &Report) -> String {
    let mut out = String::from("<section><h2>Made with</h2>\n");
    for s in std::iter::once(&report.stamp).chain(&report.merged) {
        let list = |words: &mut dyn Iterator<Item = &String>| words.cloned().collect::<Vec<_>>().join(", ");
        let none = || "unknown".to_string();
        out.push_str("<dl class=\"stamp\">");
        for (what, value) in [
            ("when", s.utc.clone()),
            ("commit", s.commit()),
            ("apr", format!("sha256 {}", s.apr_sha256)),
            ("rows", format!("sha256 {}", s.items_sha256)),
            ("machine", s.machine()),
            ("compiler", s.rustc.clone().unwrap_or_else(none)),
            ("capabilities", list(&mut s.capabilities.iter())),
            ("oracles", list(&mut s.oracles.iter())),
            ("fixtures", s.fixtures_sha256.clone().map_or_else(none, |h| format!("index sha256 {h}"))),
            ("golden", s.golden_sha256.clone().map_or_else(none, |h| format!("index sha256 {h}"))),
        ] {
            let _ = write!(out, "<dt>{what}<dd>{}", markup(&value));
        }
        out.push_str("</dl>\n");
    }
    out + "</section>\n"
}
