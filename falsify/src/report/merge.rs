//! Several verdict files become one report: a machine with a GPU attempts what this one lacks.
//!
//! Only verdicts of one product count together. A verdict of another `apr`, or by another wording of the rows, is
//! stale: it is named, and it scores nothing.

use super::Report;
use crate::checks::crit;
use crate::registry;
use crate::sabotage::{self, Means};
use crate::suite::{Proof, ProofOutcome, Record};
use crate::verdict::{Reason, Verdict};

/// The first report, with what the others attempted. What one machine saw refuted or broken, no other can unsee.
pub fn merge(mut reports: Vec<Report>) -> Result<Report, String> {
    if reports.is_empty() {
        return Err("there is nothing to merge".into());
    }
    let base = reports.remove(0);
    let mut rows = Vec::new();
    for row in registry::rows() {
        let mine = base.record(&row.id).cloned();
        let others = reports.iter().filter_map(|r| told(r, r.record(&row.id)?, &base));
        rows.extend(mine.into_iter().chain(others).min_by_key(rank));
    }
    score_again(&mut rows);
    let mut report = Report::new(base.stamp, rows);
    report.merged = base.merged.into_iter().chain(reports.into_iter().map(|r| r.stamp)).collect();
    Ok(report)
}

/// The row of the score is of the merged verdicts, with its saboteurs.
fn score_again(rows: &mut [Record]) {
    let merged = rows.to_vec();
    let attempted = |r: &&mut Record| r.id == crit::SCORE && !matches!(r.verdict, Verdict::NotAttempted(_));
    let Some(record) = rows.iter_mut().find(attempted) else { return };
    record.verdict = crit::enough(&merged).into();
    record.proofs.clear();
    let change =
        |s: &sabotage::Saboteur| if let Means::MutatedVerdicts(change) = s.means { Some(change) } else { None };
    let row = registry::find(crit::SCORE).filter(|_| matches!(record.verdict, Verdict::Survived(_)));
    for name in row.iter().flat_map(|row| &row.killed_by) {
        let Some(change) = sabotage::find(name).and_then(change) else { continue };
        let mut changed = merged.clone();
        change(&mut changed);
        let (outcome, detail) = match crit::enough(&changed).into() {
            Verdict::Refuted(r) => (ProofOutcome::Caught, r.criterion),
            _ => (ProofOutcome::Missed, "the check survived it".to_string()),
        };
        record.proofs.push(Proof { saboteur: name.clone(), outcome, detail });
    }
}

/// What another report says of a row, as far as it counts beside `base`.
fn told(from: &Report, record: &Record, base: &Report) -> Option<Record> {
    let attempted = !matches!(record.verdict, Verdict::NotAttempted(_));
    let mut record = record.clone();
    record.machine.get_or_insert_with(|| from.stamp.machine());
    let same = record.apr_sha256 == base.stamp.apr_sha256 && from.stamp.items_sha256 == base.stamp.items_sha256;
    if !same {
        let short = |hash: &str| hash.get(..12).unwrap_or(hash).to_string();
        let of = if from.stamp.items_sha256 == base.stamp.items_sha256 { "" } else { ", by other rows" };
        let what = format!("a verdict of apr {}{of}, on {}", short(&record.apr_sha256), from.stamp.machine());
        record.verdict = Verdict::NotAttempted(Reason::Stale(what));
        record.proofs.clear();
    }
    (same || attempted).then_some(record)
}

/// The smaller tells more. Of equals the first counts.
fn rank(record: &Record) -> u8 {
    match &record.verdict {
        Verdict::Refuted(_) => 0,
        Verdict::NotAttempted(Reason::Instrument(_)) => 1,
        Verdict::Survived(e) if e.ruling().is_none() => 2 + u8::from(!record.proven()),
        Verdict::Survived(_) => 4 + u8::from(!record.proven()),
        Verdict::NotAttempted(Reason::Stale(_)) => 6,
        Verdict::NotAttempted(_) => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::letter;
    use crate::report::testing::{record, report, stamp, survived};
    use crate::verdict::Refutation;

    fn letters(report: &Report) -> String {
        report.rows.iter().take(7).map(|r| letter(&r.verdict)).collect()
    }

    #[test]
    fn verdicts_of_one_product_count_together() {
        let base = report();
        let refuted = Verdict::Refuted(Refutation::new("a", "b", "c"));
        let other = Report::new(
            stamp(),
            vec![record("F-CLI-002", refuted), record("F-CLI-004", survived()), record("F-CLI-006", survived())],
        );
        let merged = merge(vec![base.clone(), other]).unwrap();
        assert_eq!((letters(&base), letters(&merged)), ("SSRITLT".into(), "SRRITST".into()));
        let of_other = merged.record("F-CLI-006").unwrap();
        assert_eq!(of_other.machine.as_deref(), Some("linux x86_64, 2 cores"));
        assert_eq!((merged.rows.len(), merged.merged.len(), merged.score.refuted), (311, 1, 2));
        merged.json().unwrap();
    }

    #[test]
    fn a_verdict_of_another_product_is_stale() {
        let mut other = Report::new(stamp(), vec![record("F-CLI-001", survived()), record("F-CLI-006", survived())]);
        other.rows.iter_mut().for_each(|r| r.apr_sha256 = "c".repeat(64));
        let merged = merge(vec![report(), other]).unwrap();
        assert_eq!(letters(&merged), "SSRITXT");
        assert_eq!(merged.score, report().score);
    }

    #[test]
    fn one_report_is_itself() {
        let merged = merge(vec![report()]).unwrap();
        assert_eq!(merged.json(), report().json());
        assert!(merge(Vec::new()).is_err());
    }
}
