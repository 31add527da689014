//! `latest.html`: the whole report as one page that needs nothing else, not even scripts.
//!
//! Every text of a row or a verdict passes through [`markup`]; what it shows is the same value as the JSON. A link to
//! a row opens it: its id stands inside of its `<details>`. The script only adds a search and copying of commands.

mod parts;
mod rows;

use std::fmt::Write;

use super::escape::markup;
use super::{GATE_POINTS, Report, Score, history, letter};
use crate::registry::{self, Row};
use crate::verdict::Verdict;

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// The page.
pub fn render(report: &Report, history: &[history::Line]) -> String {
    let title = format!("{} of 300 claims about apr survive", report.score.standing());
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">\n<title>{title}</title>\n<style>{STYLE}</style></head><body>\n\
         <a class=\"skip\" href=\"#cells\">Skip to the claims</a>\n"
    );
    page.push_str(&head(report));
    page.push_str("<main>\n");
    page.push_str(&existential(report));
    page.push_str(&parts::alarms(report));
    page.push_str(&cells(report));
    page.push_str(&parts::sections(report));
    page.push_str(&parts::chart(history));
    page.push_str(&rows::all(report, history));
    page.push_str(&parts::saboteurs(report));
    page.push_str(&parts::stamps(report));
    let _ = write!(page, "</main>\n<script>{SCRIPT}</script>\n</body></html>\n");
    page
}

/// How a row stands: the class of its colour, its symbol, and its word. Never colour alone.
struct Standing {
    class: &'static str,
    symbol: &'static str,
    word: &'static str,
}

fn standing(report: &Report, row: &Row) -> Standing {
    let record = report.record(&row.id);
    let proven = record.is_some_and(|r| r.proven());
    let (class, symbol, word) = match record.map_or('U', |r| letter(&r.verdict)) {
        'S' if proven => ("S", "✓", "survived, proven"),
        'S' => ("S", "✓", "survived, not proven"),
        's' if proven => ("r", "◐", "survived by ruling, proven"),
        's' => ("r", "◐", "survived by ruling, not proven"),
        'R' => ("R", "✗", "refuted"),
        'I' => ("I", "!", "not attempted: the instrument broke"),
        'L' => ("N", "○", "not attempted: this machine lacks something"),
        'T' => ("N", "○", "not attempted: another tier"),
        'W' => ("N", "○", "not attempted: the fixture is too weak"),
        'X' => ("N", "○", "not attempted: the verdict is stale"),
        _ => ("N", "–", "not attempted: no check yet"),
    };
    Standing { class, symbol, word }
}

/// A claim in the specification's own marks: `code` and **weight**.
fn claim(row: &Row) -> String {
    let pairs = |text: String, mark: &str, element: &str| {
        let parts: Vec<&str> = text.split(mark).collect();
        if parts.len().is_multiple_of(2) {
            return text;
        }
        let tagged = |(i, part): (usize, &&str)| match i % 2 {
            0 => part.to_string(),
            _ => format!("<{element}>{part}</{element}>"),
        };
        parts.iter().enumerate().map(tagged).collect()
    };
    pairs(pairs(markup(&row.claim), "**", "strong"), "`", "code")
}

/// Headline, bar, counts, gate and strict verdict.
fn head(report: &Report) -> String {
    let (s, g) = (&report.score, &report.gate);
    let mut out = format!(
        "<header><p class=\"over\">falsify · {} · commit {} · apr {}…</p>\n\
         <h1><b>{}</b> of 300 claims survive</h1>\n\
         <p>A claim survives while every attempt to refute it fails. That is no proof. {} of them are <em>proven</em>: \
         in the same run, the same check refuted an <code>apr</code> that was broken on purpose.</p>\n",
        markup(&report.stamp.utc),
        markup(&report.stamp.commit()),
        markup(report.stamp.apr_sha256.get(..12).unwrap_or_default()),
        s.standing(),
        if s.proven == s.standing() { "All".to_string() } else { s.proven.to_string() },
    );
    let counts = [
        ("S", "✓", s.survived, "survived", "on the hardware that the claims name"),
        ("r", "◐", s.by_ruling, "by ruling", "emulated, or with a surrogate"),
        ("R", "✗", s.refuted, "refuted", "at least one row is false"),
        ("N", "–", s.not_attempted, "not attempted", "nothing learnt; counts against"),
    ];
    out.push_str(&bar(s, "big"));
    out.push_str("<ul class=\"counts\">");
    for (class, symbol, n, word, means) in counts {
        let _ = write!(out, "<li class=\"{class}\"><b>{symbol} {n}</b> {word}<small>{means}</small>");
    }
    out.push_str("</ul>\n<table class=\"verdicts\">\n");
    let met = |met: bool| if met { "<b class=\"S\">✓ met</b>" } else { "<b class=\"R\">✗ not met</b>" };
    let triggers = match g.triggers_refuted.as_slice() {
        [] => "no trigger of section 9 refuted".to_string(),
        some => format!("refuted triggers: {}", some.join(", ")),
    };
    let _ = writeln!(
        out,
        "<tr><th>Release gate<td>{}<td>{} of {GATE_POINTS} points, {triggers}\n\
         <tr><th>Gate without rulings<td>{}<td>{} of {GATE_POINTS} points",
        met(g.met),
        s.standing(),
        met(g.met_without_rulings),
        s.survived
    );
    let refuted = report.of(|v| matches!(v, Verdict::Refuted(_))).count();
    let strict = match refuted {
        0 => {
            "<b class=\"S\">✓ not refuted</b><td>no row is refuted; what was not attempted has not survived".to_string()
        }
        n => format!("<b class=\"R\">✗ refuted</b><td>by {n} row{}; one is enough", if n == 1 { "" } else { "s" }),
    };
    let _ = writeln!(out, "<tr><th>Strict verdict<td>{strict}</table></header>");
    out
}

/// A bar of the four counts, read out as text.
fn bar(s: &Score, class: &str) -> String {
    let total = (s.standing() + s.refuted + s.not_attempted).max(1);
    let says = format!(
        "{} survived, {} by ruling, {} refuted, {} not attempted of {total}",
        s.survived, s.by_ruling, s.refuted, s.not_attempted
    );
    let part = |class: &str, n: usize| match n {
        0 => String::new(),
        n => format!("<i class=\"{class}\" style=\"flex:{n}\"></i>"),
    };
    format!(
        "<div class=\"bar {class}\" role=\"img\" aria-label=\"{says}\">{}{}{}{}</div>\n",
        part("S", s.survived),
        part("r", s.by_ruling),
        part("R", s.refuted),
        part("N", s.not_attempted)
    )
}

/// Level 4 comes first: a refuted row of these refutes the project.
fn existential(report: &Report) -> String {
    let rows: Vec<&Row> = registry::rows().iter().filter(|r| r.level == 4).collect();
    let mut out = String::from(
        "<section><h2>Level 4: what would refute the project</h2>\n<p class=\"note\">A refuted row here means that the \
         architecture is wrong, not that a feature is.</p><ul class=\"level4\">\n",
    );
    for row in rows {
        let s = standing(report, row);
        let _ = writeln!(
            out,
            "<li><a href=\"#{}\"><b class=\"{}\">{}</b> <code>{}</code> {}</a> <small>{}</small>",
            row.id,
            s.class,
            s.symbol,
            row.id,
            claim(row),
            s.word
        );
    }
    out + "</ul></section>\n"
}

/// What the cells mean.
const LEGEND: &[(&str, &str, &str)] = &[
    ("S", "✓", "survived, proven"),
    ("S w", "✓", "survived, not proven"),
    ("r", "◐", "by ruling"),
    ("R", "✗", "refuted"),
    ("N", "–", "no check yet"),
    ("N", "○", "not attempted here"),
    ("I", "!", "instrument broke"),
];

/// One cell per row of the checklist, by section.
fn cells(report: &Report) -> String {
    let mut out = String::from("<section id=\"cells\"><h2>304 claims, one cell each</h2>\n<p class=\"legend\">");
    for (class, symbol, word) in LEGEND {
        let _ = write!(out, "<span><b class=\"c {class}\">{symbol}</b> {word}</span> ");
    }
    out.push_str("</p>\n<div class=\"cells\">\n");
    let scores = report.sections();
    let mut section = "";
    for row in registry::rows().iter().filter(|r| !r.is_trigger()) {
        if row.section != section {
            let close = if section.is_empty() { "" } else { "</div></div>\n" };
            section = &row.section;
            let score = scores.iter().find(|(id, _)| *id == section).map_or(Score::default(), |(_, s)| *s);
            let points = score.standing() + score.refuted + score.not_attempted;
            let _ = write!(
                out,
                "{close}<div><h3><span>{section}</span> {} <small>{}/{points}</small></h3><div class=\"grid\">",
                markup(registry::section_title(section)),
                score.standing()
            );
        }
        let s = standing(report, row);
        let unproven = if s.word.ends_with("not proven") { " w" } else { "" };
        let _ = write!(
            out,
            "<a class=\"c {}{unproven}\" href=\"#{}\" title=\"{}: {}. {}\">{}<small>{}</small></a>",
            s.class,
            row.id,
            row.id,
            s.word,
            markup(&row.claim),
            s.symbol,
            row.id.rsplit('-').next().unwrap_or_default()
        );
    }
    out + "</div></div></div></section>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;

    fn page() -> String {
        let report = testing::report();
        let line = history::Line::of(&report);
        let earlier = history::Line { utc: "2025-12-31T00:00:00Z".into(), ..line.clone() };
        render(&report, &[earlier, line])
    }

    #[test]
    fn hostile_evidence_stays_text() {
        let page = page();
        assert_eq!(page.matches("<script").count(), 1, "the page's own script and no other");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "evidence is shown as it is");
        let invisible = |c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}';
        assert!(!page.contains(invisible));
        // Attributes hold no quote of the evidence: every tag has an even number of them.
        let body = page.split("<body>").nth(1).unwrap().split("<script>").next().unwrap();
        for tag in body.split('<').filter_map(|part| part.split_once('>')).map(|(tag, _)| tag) {
            assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
        }
    }

    #[test]
    fn every_row_has_a_cell_and_a_place_that_the_cell_links_to() {
        let page = page();
        for row in registry::rows() {
            let id = format!(" id=\"{}\"", row.id);
            assert_eq!(page.matches(&id).count(), 1, "{}", row.id);
        }
        assert_eq!(page.matches("<a class=\"c ").count(), 304);
        for part in page.split("href=\"#").skip(1) {
            let target = part.split('"').next().unwrap();
            assert!(page.contains(&format!("id=\"{target}\"")), "nothing is called {target}");
        }
    }

    #[test]
    fn it_says_what_the_report_says() {
        let page = page();
        for text in ["<b>2</b> of 300 claims survive", "✗ refuted</b><td>by 1 row", "2 of 290 points", "panic-text"] {
            assert!(page.contains(text), "{text}");
        }
        assert!(page.len() < 600_000, "{} bytes", page.len());
    }
}
