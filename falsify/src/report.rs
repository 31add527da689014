//! Records become a score, and the score becomes `reports/latest.json`, `latest.md` and a line of `history.jsonl`.
//!
//! A point survives if all its rows do. What survived on the named hardware and what survived by ruling are counted
//! apart, and so is what was proven: survived while a saboteur was caught in the same run. No verdict is made here.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::registry::{self, Row};
use crate::stamp::Stamp;
use crate::suite::{ProofOutcome, Record};
use crate::verdict::{Reason, Verdict};

/// Points that the release gate asks for.
pub const GATE_POINTS: usize = 290;

/// The JSON Schema of the report.
pub static SCHEMA: &str = include_str!("../items/report.schema.json");

/// The whole report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What it was made with.
    pub stamp: Stamp,
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
        let by_id: BTreeMap<&str, &Record> = rows.iter().map(|r| (r.id.as_str(), r)).collect();
        let score = score(&by_id);
        let refuted = |r: &&Record| matches!(r.verdict, Verdict::Refuted(_));
        let is_trigger = |r: &&Record| registry::find(&r.id).is_some_and(Row::is_trigger);
        let triggers_refuted: Vec<String> =
            rows.iter().filter(refuted).filter(is_trigger).map(|r| r.id.clone()).collect();
        let gate = Gate {
            met: score.survived + score.by_ruling >= GATE_POINTS && triggers_refuted.is_empty(),
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
        Report { stamp, score, gate, not_attempted, rows }
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

    /// One letter per row of the checklist, in its order: a history of these is a trend.
    pub fn statuses(&self) -> String {
        let by_id: BTreeMap<&str, &Record> = self.rows.iter().map(|r| (r.id.as_str(), r)).collect();
        let rows = registry::rows().iter().filter(|r| !r.is_trigger());
        rows.map(|r| by_id.get(r.id.as_str()).map_or('U', |rec| letter(&rec.verdict))).collect()
    }

    /// Checks the report against its schema and writes it. `latest.md` shows movers against the history's last line.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        let say = |e: &dyn std::fmt::Display| format!("{}: {e}", folder.display());
        std::fs::create_dir_all(folder).map_err(|e| say(&e))?;
        let json = serde_json::to_value(self).map_err(|e| say(&e))?;
        let schema = serde_json::from_str(SCHEMA).map_err(|e| say(&e))?;
        jsonschema::validate(&schema, &json).map_err(|e| format!("the report breaks its schema: {e}"))?;
        let history = std::fs::read_to_string(folder.join("history.jsonl")).unwrap_or_default();
        let before = history.lines().last().and_then(|l| serde_json::from_str::<HistoryLine>(l).ok());
        let line = HistoryLine {
            utc: self.stamp.utc.clone(),
            commit: self.stamp.commit.clone(),
            score: self.score,
            statuses: self.statuses(),
        };
        let text = serde_json::to_string_pretty(&json).map_err(|e| say(&e))? + "\n";
        let history = history + &serde_json::to_string(&line).map_err(|e| say(&e))? + "\n";
        let markdown = crate::markdown::render(self, before.as_ref());
        for (name, contents) in [("latest.json", text), ("latest.md", markdown), ("history.jsonl", history)] {
            std::fs::write(folder.join(name), contents).map_err(|e| say(&e))?;
        }
        Ok(())
    }
}

/// One line of `history.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistoryLine {
    /// When.
    pub utc: String,
    /// Of which commit.
    pub commit: Option<String>,
    /// Points.
    pub score: Score,
    /// See [`Report::statuses`].
    pub statuses: String,
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

fn score(records: &BTreeMap<&str, &Record>) -> Score {
    let mut points: BTreeMap<u16, Vec<Option<&Record>>> = BTreeMap::new();
    for row in registry::rows() {
        if let Some(point) = row.point {
            points.entry(point).or_default().push(records.get(row.id.as_str()).copied());
        }
    }
    let mut score = Score::default();
    for rows in points.values() {
        let letters: String = rows.iter().map(|r| r.map_or('U', |r| letter(&r.verdict))).collect();
        if letters.contains('R') {
            score.refuted += 1;
        } else if letters.chars().any(|l| !matches!(l, 'S' | 's')) {
            score.not_attempted += 1;
        } else {
            *(if letters.contains('s') { &mut score.by_ruling } else { &mut score.survived }) += 1;
            score.proven += usize::from(rows.iter().all(|r| r.is_some_and(Record::proven)));
        }
    }
    score
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
mod tests {
    use super::*;
    use crate::verdict::{Refutation, Tally};

    fn record(id: &str, verdict: Verdict) -> Record {
        Record { id: id.into(), verdict, proofs: Vec::new(), took_ms: 0, apr_sha256: String::new() }
    }

    fn survived() -> Verdict {
        let mut t = Tally::new("x");
        t.equal("x", &1, &1).unwrap();
        t.done().into()
    }

    #[test]
    fn a_point_survives_only_with_all_its_rows() {
        let refuted = Verdict::Refuted(Refutation::new("a", "b", "c"));
        let rows = [record("F-CLI-013", survived()), record("F-CLI-014", survived()), record("F-CLI-014b", refuted)];
        let rows: BTreeMap<&str, &Record> = rows.iter().map(|r| (r.id.as_str(), r)).collect();
        let s = score(&rows);
        assert_eq!((s.survived, s.refuted, s.not_attempted, s.proven), (0, 1, 299, 0));
    }

    #[test]
    fn the_schema_is_a_schema() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        assert!(jsonschema::meta::is_valid(&schema));
    }
}
