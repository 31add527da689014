//! Saboteurs that change what became of other rows: a row that is computed from them has to notice.

use super::{Means, Saboteur};
use crate::report::{self, GATE_POINTS};
use crate::verdict::{Reason, Verdict};

/// Every change of verdicts.
pub static ALL: &[Saboteur] = &[Saboteur {
    name: "score-falls-short",
    does: "rows were not attempted, until the points are one too few",
    by_crash: false,
    means: Means::MutatedVerdicts(|records| {
        for i in 0..records.len() {
            if report::score(records).standing() < GATE_POINTS {
                break;
            }
            records[i].verdict = Verdict::NotAttempted(Reason::Unwritten);
        }
    }),
}];
