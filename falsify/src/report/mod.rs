//! Records become a score, and the score becomes the files of `reports/`: `latest.json`, from which every other form is
//! made (one file of this folder each), and a line of `history.jsonl`.
//!
//! A point survives if all its rows do. What survived on the named hardware and what survived by ruling are counted
//! apart, and so is what was proven: survived while a saboteur was caught in the same run. No verdict is made here.

pub mod badge;
pub mod escape;
pub mod history;
pub mod html;
pub mod junit;
pub mod markdown;
pub mod merge;
pub mod open;
pub mod readme;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::registry::{self, Row};
use crate::stamp::Stamp;
use crate::suite::{ProofOutcome, Record};
use crate::verdict::{Reason, Verdict};

/// Points that the release gate asks for.
pub const GATE_POINTS: usize = 290;

/// The JSON Schema of the report.
pub static SCHEMA: &str = include_str!("../../items/report.schema.json");

/// The whole report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What it was made with.
    pub stamp: Stamp,
    /// Other runs whose verdicts were merged in; each such row says on which machine it ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<Stamp>,
    /// Points.
    pub score: Score,
    /// The release gate.
    pub gate: Gate,
    /// Rows by reason for which nothing was learnt.
    pub not_attempted: BTreeMap<String, usize>,
    /// Every row.
    pub rows: Vec<Record>,
}

/// Points, 300 in all: `survived + by_ruling + refuted + not_attempted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// On the hardware that the claims name.
    pub survived: usize,
    /// Under a ruling: emulated, or with a surrogate.
    pub by_ruling: usize,
    /// At least one row refuted.
    pub refuted: usize,
    /// Nothing learnt. Counts against the gate.
    pub not_attempted: usize,
    /// Survived in either way, and every row caught a saboteur in the same run.
    pub proven: usize,
}

impl Score {
    /// Survived in either way.
    pub fn standing(&self) -> usize {
        self.survived + self.by_ruling
    }

    fn count(&mut self, point: &Point) {
        match point.letter {
            'R' => self.refuted += 1,
            'S' => self.survived += 1,
            's' => self.by_ruling += 1,
            _ => self.not_attempted += 1,
        }
        self.proven += usize::from(point.proven);
    }
}

/// The release gate: 290 points and no trigger of section 9 refuted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// With rulings.
    pub met: bool,
    /// Counting only what survived on the named hardware.
    pub met_without_rulings: bool,
    /// Whether any row at all is refuted: by the letter of section 6 that refutes the release candidate.
    pub strictly_refuted: bool,
    /// F-CRIT rows that are refuted.
    pub triggers_refuted: Vec<String>,
}

impl Report {
    /// Of these records; rows without one count as unwritten or left out, as the record says nothing else.
    pub fn new(stamp: Stamp, rows: Vec<Record>) -> Report {
        let score = score(&rows);
        let refuted = |r: &&Record| matches!(r.verdict, Verdict::Refuted(_));
        let is_trigger = |r: &&Record| registry::find(&r.id).is_some_and(Row::is_trigger);
        let triggers_refuted: Vec<String> =
            rows.iter().filter(refuted).filter(is_trigger).map(|r| r.id.clone()).collect();
        let gate = Gate {
            met: score.standing() >= GATE_POINTS && triggers_refuted.is_empty(),
            met_without_rulings: score.survived >= GATE_POINTS && triggers_refuted.is_empty(),
            strictly_refuted: rows.iter().any(|r| refuted(&r)),
            triggers_refuted,
        };
        let mut not_attempted = BTreeMap::new();
        for r in &rows {
            if let Verdict::NotAttempted(reason) = &r.verdict {
                *not_attempted.entry(reason.name().to_string()).or_insert(0) += 1;
            }
        }
        Report { stamp, merged: Vec::new(), score, gate, not_attempted, rows }
    }

    /// `17 survived · 0 by ruling · ...`.
    pub fn headline(&self) -> String {
        let s = &self.score;
        let gate = if self.gate.met { "GATE MET" } else { "GATE NOT MET" };
        format!(
            "{} survived · {} by ruling · {} refuted · {} not attempted, of 300 points; {} proven. {gate} ({GATE_POINTS})",
            s.survived, s.by_ruling, s.refuted, s.not_attempted, s.proven
        )
    }

    /// The strict verdict and the gate without rulings, which stand beside the headline.
    pub fn beside(&self) -> String {
        let refuted: Vec<&str> = self.of(|v| matches!(v, Verdict::Refuted(_))).map(|r| r.id.as_str()).collect();
        let strict = match refuted.len() {
            0 => "no row is refuted; what was not attempted has not survived".to_string(),
            n if n > 8 => format!("REFUTED by {n} rows"),
            _ => format!("REFUTED by {}", refuted.join(", ")),
        };
        let met = if self.gate.met_without_rulings { "met" } else { "not met" };
        format!("strict verdict (one refuted row is enough): {strict}. Without rulings the gate is {met}.")
    }

    /// Rows with such a verdict; what would refute the project first.
    pub fn of(&self, which: impl Fn(&Verdict) -> bool) -> impl Iterator<Item = &Record> {
        let mut rows: Vec<&Record> = self.rows.iter().filter(|r| which(&r.verdict)).collect();
        rows.sort_by_key(|r| std::cmp::Reverse(registry::find(&r.id).map_or(0, |row| row.level)));
        rows.into_iter()
    }

    /// The record of a row.
    pub fn record(&self, id: &str) -> Option<&Record> {
        self.rows.iter().find(|r| r.id == id)
    }

    /// Score of each section of the specification, in its order.
    pub fn sections(&self) -> Vec<(&'static str, Score)> {
        let mut sections: Vec<(&str, Score)> = Vec::new();
        for point in points(&self.rows) {
            if sections.last().is_none_or(|(id, _)| *id != point.section) {
                sections.push((point.section, Score::default()));
            }
            sections.iter_mut().rev().take(1).for_each(|(_, score)| score.count(&point));
        }
        sections
    }

    /// One letter per row of the checklist, in its order: a history of these is a trend.
    pub fn statuses(&self) -> String {
        let by_id: BTreeMap<&str, &Record> = self.rows.iter().map(|r| (r.id.as_str(), r)).collect();
        let rows = registry::rows().iter().filter(|r| !r.is_trigger());
        rows.map(|r| by_id.get(r.id.as_str()).map_or('U', |rec| letter(&rec.verdict))).collect()
    }

    /// As JSON that obeys the schema: the head, then one line per row.
    pub fn json(&self) -> Result<String, String> {
        let json = serde_json::to_value(self).map_err(|e| e.to_string())?;
        let schema = serde_json::from_str(SCHEMA).map_err(|e| e.to_string())?;
        jsonschema::validate(&schema, &json).map_err(|e| format!("the report breaks its schema: {e}"))?;
        let mut text = String::new();
        for (key, value) in json.as_object().into_iter().flatten() {
            let value = match value.as_array().filter(|_| key == "rows") {
                Some(rows) => format!("[\n{}\n]", rows.iter().map(|r| r.to_string()).collect::<Vec<_>>().join(",\n")),
                None => value.to_string(),
            };
            let _ = write!(text, "{}\"{key}\": {value}", if text.is_empty() { "{\n" } else { ",\n" });
        }
        Ok(text + "\n}\n")
    }

    /// Reads a report and checks it against the schema.
    pub fn read(file: &Path) -> Result<Report, String> {
        let say = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
        let text = std::fs::read_to_string(file).map_err(|e| say(&e))?;
        let report: Report = serde_json::from_str(&text).map_err(|e| say(&e))?;
        report.json().map_err(|e| say(&e))?;
        Ok(report)
    }

    /// Writes every form of the report to a folder, and its line to the history there.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        let say = |e: std::io::Error| format!("{}: {e}", folder.display());
        std::fs::create_dir_all(folder).map_err(say)?;
        let mut history = history::read(folder)?;
        history::record(&mut history, history::Line::of(self));
        let before = history.iter().rev().nth(1);
        for (name, contents) in [
            ("latest.json", self.json()?),
            ("latest.md", markdown::render(self, before)),
            ("latest.html", html::render(self, &history)),
            ("latest.xml", junit::render(self)),
            ("badge.svg", badge::render(&self.score)),
            ("history.jsonl", history::render(&history)?),
            ("CHANGELOG.md", history::changelog(&history)),
        ] {
            std::fs::write(folder.join(name), contents).map_err(say)?;
        }
        Ok(())
    }
}

/// `S`urvived, `s`urvived by ruling, `R`efuted; not attempted: `L`acks, `T`ier, `U`nwritten, `W`eak fixture, stale `X`,
/// broken `I`nstrument.
pub fn letter(verdict: &Verdict) -> char {
    match verdict {
        Verdict::Survived(e) if e.ruling().is_some() => 's',
        Verdict::Survived(_) => 'S',
        Verdict::Refuted(_) => 'R',
        Verdict::NotAttempted(reason) => match reason {
            Reason::Lacks(_) => 'L',
            Reason::Tier(_) => 'T',
            Reason::Unwritten => 'U',
            Reason::FixtureWeak(_) => 'W',
            Reason::Stale(_) => 'X',
            Reason::Instrument(_) => 'I',
        },
    }
}

/// What became of a point: of all its rows together.
struct Point {
    section: &'static str,
    /// `R`efuted, `S`urvived, `s`urvived by ruling, `N`ot attempted.
    letter: char,
    proven: bool,
}

/// The score of these verdicts.
pub fn score(records: &[Record]) -> Score {
    let mut score = Score::default();
    points(records).iter().for_each(|p| score.count(p));
    score
}

/// The 300 points. Rows without a record were not attempted.
fn points(records: &[Record]) -> Vec<Point> {
    let records: BTreeMap<&str, &Record> = records.iter().map(|r| (r.id.as_str(), r)).collect();
    let mut rows: BTreeMap<u16, Vec<(&'static Row, Option<&Record>)>> = BTreeMap::new();
    for row in registry::rows() {
        if let Some(point) = row.point {
            rows.entry(point).or_default().push((row, records.get(row.id.as_str()).copied()));
        }
    }
    let point = |rows: &Vec<(&'static Row, Option<&Record>)>| {
        let letters: String = rows.iter().map(|(_, r)| r.map_or('U', |r| letter(&r.verdict))).collect();
        let letter = match () {
            () if letters.contains('R') => 'R',
            () if letters.chars().any(|l| !matches!(l, 'S' | 's')) => 'N',
            () if letters.contains('s') => 's',
            () => 'S',
        };
        let proven = matches!(letter, 'S' | 's') && rows.iter().all(|(_, r)| r.is_some_and(Record::proven));
        Point { section: rows.first().map_or("", |(row, _)| &row.section), letter, proven }
    };
    rows.values().map(point).collect()
}

/// Whether this record breaks the build: refuted, a broken or blind instrument, or a live row that was not attempted
/// for a reason other than a lack, a tier or a weak fixture.
pub fn breaks_the_build(record: &Record) -> Option<String> {
    match &record.verdict {
        Verdict::Refuted(r) => Some(format!(
            "REFUTED: {}\n  observed: {}\n  expected: {}\n  again:    {}",
            r.criterion, r.observed, r.expected, r.repro
        )),
        Verdict::NotAttempted(Reason::Instrument(what)) => Some(format!("the instrument broke: {what}")),
        Verdict::NotAttempted(Reason::Unwritten) => registry::find(&record.id)
            .is_some_and(|r| r.status == registry::Status::Live)
            .then(|| "the row is marked live and has no check".to_string()),
        Verdict::NotAttempted(_) => None,
        Verdict::Survived(_) => {
            let blind: Vec<String> = record
                .proofs
                .iter()
                .filter(|p| p.outcome != ProofOutcome::Caught)
                .map(|p| format!("{} ({:?}: {})", p.saboteur, p.outcome, p.detail))
                .collect();
            (!blind.is_empty()).then(|| format!("the check is blind to its saboteur: {}", blind.join("; ")))
        }
    }
}

#[cfg(test)]
pub mod testing {
    //! Reports for the tests of every form.

    use super::*;
    use crate::suite::Proof;
    use crate::verdict::{Refutation, Tally};

    /// A record without proofs.
    pub fn record(id: &str, verdict: Verdict) -> Record {
        let (proofs, apr_sha256) = (Vec::new(), "a".repeat(64));
        Record { id: id.into(), verdict, proofs, took_ms: 7, apr_sha256, machine: None }
    }

    /// Survival of one case.
    pub fn survived() -> Verdict {
        let mut t = Tally::new(escape::HOSTILE);
        t.equal("x", &1, &1).unwrap();
        t.number("worst <error>", 0.25);
        t.note(escape::HOSTILE);
        t.done().into()
    }

    /// Every row: survived and proven, survived, refuted, broken, and the rest of another tier. All text is hostile.
    pub fn report() -> Report {
        let hostile = escape::HOSTILE.to_string();
        let refuted = Verdict::Refuted(Refutation::new(hostile.clone(), hostile.clone(), "b").repro(hostile.clone()));
        let mut rows: Vec<Record> = registry::rows()
            .iter()
            .map(|r| record(&r.id, Verdict::NotAttempted(Reason::Tier("nightly".into()))))
            .collect();
        rows[0].verdict = survived();
        rows[0].proofs =
            vec![Proof { saboteur: "panic-text".into(), outcome: ProofOutcome::Caught, detail: hostile.clone() }];
        rows[1].verdict = survived();
        rows[2].verdict = refuted;
        rows[3].verdict = Verdict::NotAttempted(Reason::Instrument(hostile.clone()));
        rows[5].verdict = Verdict::NotAttempted(Reason::Lacks("gpu".into()));
        let stamp = Stamp { cpu: Some(hostile), ..stamp() };
        Report::new(stamp, rows)
    }

    /// A stamp of nowhere.
    pub fn stamp() -> Stamp {
        Stamp {
            utc: "2026-01-02T03:04:05Z".into(),
            apr_sha256: "a".repeat(64),
            commit: Some("0123456789abcdef".into()),
            dirty: Some(false),
            items_sha256: "b".repeat(64),
            rustc: None,
            system: "linux x86_64".into(),
            cpu: None,
            isa: Default::default(),
            cores: 2,
            capabilities: Vec::new(),
            oracles: Default::default(),
            fixtures_sha256: None,
            golden_sha256: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{record, survived};
    use super::*;
    use crate::verdict::Refutation;

    #[test]
    fn a_point_survives_only_with_all_its_rows() {
        let refuted = Verdict::Refuted(Refutation::new("a", "b", "c"));
        let rows =
            vec![record("F-CLI-013", survived()), record("F-CLI-014", survived()), record("F-CLI-014b", refuted)];
        let report = Report::new(testing::stamp(), rows);
        let s = report.score;
        assert_eq!((s.survived, s.refuted, s.not_attempted, s.proven), (0, 1, 299, 0));
        let (section, of_section) = report.sections()[0];
        assert_eq!((section, of_section.refuted, of_section.not_attempted), ("I-A", 1, 19));
        assert_eq!(report.sections().iter().map(|(_, s)| s.not_attempted).sum::<usize>(), 299);
    }

    #[test]
    fn the_gate_asks_for_290_points_and_no_trigger() {
        let all = |but: &str| -> Vec<Record> {
            let refuted = Verdict::Refuted(Refutation::new("a", "b", "c"));
            let verdict = |id: &str| if id == but { refuted.clone() } else { survived() };
            registry::rows().iter().map(|r| record(&r.id, verdict(&r.id))).collect()
        };
        let gate = |rows: Vec<Record>| Report::new(testing::stamp(), rows).gate;
        assert!(gate(all("nothing")).met);
        let one = gate(all("F-CPU-091"));
        assert!(one.met && one.strictly_refuted, "299 points meet the gate, and one refuted row refutes strictly");
        assert!(!gate(all("F-CRIT-001")).met);
        assert!(!gate(all("nothing").into_iter().skip(12).collect()).met);
    }

    #[test]
    fn the_schema_is_a_schema_and_reports_come_back_from_json() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        assert!(jsonschema::meta::is_valid(&schema));
        let report = testing::report();
        let text = report.json().unwrap();
        let again: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(again.json().unwrap(), text);
        assert_eq!(text.lines().filter(|l| l.starts_with("{\"id\"")).count(), 311);
    }

    #[test]
    fn every_form_is_written_and_a_second_run_is_a_second_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = testing::report();
        report.write(folder.path()).unwrap();
        report.write(folder.path()).unwrap();
        report.stamp.utc = "2026-02-02T03:04:05Z".into();
        report.write(folder.path()).unwrap();
        assert_eq!(history::read(folder.path()).unwrap().len(), 2, "the same run is written again, not twice");
        assert_eq!(Report::read(&folder.path().join("latest.json")).unwrap().score, report.score);
        for name in ["latest.md", "latest.html", "latest.xml", "badge.svg", "CHANGELOG.md"] {
            assert!(std::fs::metadata(folder.path().join(name)).unwrap().len() > 100, "{name}");
        }
    }
}
