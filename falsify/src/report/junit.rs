//! `latest.xml`: the report as JUnit XML, which continuous integration of every make can show.
//!
//! One suite per section, one case per row. Refuted is a failure, a broken instrument an error, and what was not
//! attempted is skipped with its reason. A check that was blind to its saboteur fails too, as it does in `cargo test`.

use std::fmt::Write;

use super::escape::markup;
use super::{Report, breaks_the_build};
use crate::registry::{self, Row};
use crate::suite::Record;
use crate::verdict::{Reason, Verdict};

/// What stands inside a case.
struct Case {
    /// `failure`, `error`, `skipped` or nothing.
    element: &'static str,
    xml: String,
    took_ms: u64,
}

/// The document.
pub fn render(report: &Report) -> String {
    let mut suites: Vec<(&str, Vec<Case>)> = Vec::new();
    for row in registry::rows() {
        let case = case(row, report.record(&row.id));
        match suites.last_mut() {
            Some((section, cases)) if *section == row.section => cases.push(case),
            _ => suites.push((&row.section, vec![case])),
        }
    }
    let all: Vec<&Case> = suites.iter().flat_map(|(_, cases)| cases).collect();
    // The root has no count of what was skipped: the common schema does not know it there.
    let (sum, _) = counts(&all);
    let mut xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"falsify\" {sum}>\n");
    for (section, cases) in &suites {
        let name = markup(&format!("{section} {}", registry::section_title(section)));
        let of_suite: Vec<&Case> = cases.iter().collect();
        let utc = report.stamp.utc.trim_end_matches('Z');
        let (counts, skipped) = counts(&of_suite);
        let _ = writeln!(xml, "<testsuite name=\"{name}\" timestamp=\"{utc}\" {counts} {skipped}>");
        cases.iter().for_each(|c| xml.push_str(&c.xml));
        xml.push_str("</testsuite>\n");
    }
    xml + "</testsuites>\n"
}

/// `tests="20" failures="0" errors="0" time="1.234"` and `skipped="10"`.
fn counts(cases: &[&Case]) -> (String, String) {
    let of = |element: &str| cases.iter().filter(|c| c.element == element).count();
    let took_ms: u64 = cases.iter().map(|c| c.took_ms).sum();
    let (tests, failures, errors, time) = (cases.len(), of("failure"), of("error"), seconds(took_ms));
    let counts = format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{time}\"");
    (counts, format!("skipped=\"{}\"", of("skipped")))
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

fn case(row: &Row, record: Option<&Record>) -> Case {
    let took_ms = record.map_or(0, |r| r.took_ms);
    let (element, message, text) = match record {
        None => ("skipped", "not run".to_string(), String::new()),
        Some(r) => match (&r.verdict, breaks_the_build(r)) {
            (Verdict::Refuted(why), text) => ("failure", why.criterion.clone(), text.unwrap_or_default()),
            (Verdict::NotAttempted(Reason::Instrument(what)), _) => ("error", what.clone(), String::new()),
            (_, Some(blind)) => ("failure", blind, String::new()),
            (Verdict::NotAttempted(reason), None) => ("skipped", reason.to_string(), String::new()),
            (Verdict::Survived(_), None) => ("", String::new(), String::new()),
        },
    };
    let name = markup(&format!("{} {}", row.id, row.claim));
    let head = format!("<testcase classname=\"{}\" name=\"{name}\" time=\"{}\"", row.section, seconds(took_ms));
    let kind = if matches!(element, "failure" | "error") { format!(" type=\"{element}\"") } else { String::new() };
    let message = markup(&message);
    let xml = match (element, text.is_empty()) {
        ("", _) => format!("{head}/>\n"),
        (_, true) => format!("{head}><{element} message=\"{message}\"{kind}/></testcase>\n"),
        (_, false) => {
            format!("{head}><{element} message=\"{message}\"{kind}>{}</{element}></testcase>\n", markup(&text))
        }
    };
    Case { element, xml, took_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;

    /// Elements in order of their beginning, with their attributes as text. Panics where the document is not
    /// well-formed: a tag that is not closed, a bare `<` or `&`, a character that XML does not know.
    fn elements(xml: &str) -> Vec<(String, String)> {
        let legal =
            |c: char| matches!(c, '\t' | '\n' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') || c > '\u{ffff}';
        assert!(xml.chars().all(legal));
        let mut open: Vec<String> = Vec::new();
        let mut seen = Vec::new();
        for (i, part) in xml.split('<').enumerate() {
            let (tag, text) = part.split_once('>').unwrap_or(("", part));
            assert!(!text.contains('>') && i > 0 || part.is_empty(), "text outside of tags: {part}");
            for reference in part.split('&').skip(1) {
                let name = reference.split(';').next().unwrap();
                assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "&{name}");
            }
            if i == 0 || tag.starts_with('?') {
                continue;
            }
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
                continue;
            }
            let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |t| (t, true));
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            assert_eq!(attributes.matches('"').count() % 2, 0, "{tag}");
            seen.push((name.to_string(), attributes.to_string()));
            if !closed {
                open.push(name.to_string());
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
        seen
    }

    #[test]
    fn the_document_is_well_formed_and_its_counts_are_true() {
        let mut report = testing::report();
        let mut blind = report.rows[0].proofs[0].clone();
        blind.outcome = crate::suite::ProofOutcome::Missed;
        report.rows[1].proofs.push(blind);
        let seen = elements(&render(&report));
        let of = |name: &str| seen.iter().filter(|(n, _)| n == name).count();
        let (tests, failures, errors, skipped) = (of("testcase"), of("failure"), of("error"), of("skipped"));
        assert_eq!((tests, failures, errors, skipped), (311, 2, 1, 307));
        assert_eq!(of("testsuite"), 15);
        assert_eq!(seen[0].0, "testsuites");
        let head = format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" time=");
        assert!(seen[0].1.contains(&head), "{}", seen[0].1);
        let sum = |attribute: &str| -> usize {
            let value = |a: &str| -> Option<usize> {
                a.split_once(&format!("{attribute}=\""))?.1.split('"').next()?.parse().ok()
            };
            seen.iter().filter(|(n, _)| n == "testsuite").filter_map(|(_, a)| value(a)).sum::<usize>()
        };
        assert_eq!((sum("tests"), sum("failures"), sum("errors"), sum("skipped")), (311, 2, 1, 307));
    }

    #[test]
    #[should_panic(expected = "left open")]
    fn the_well_formedness_test_can_fail() {
        elements("<a><b/>");
    }
}
