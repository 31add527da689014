//! F-CRIT: the triggers that reject a release, computed from the rows that they stand on.

use super::{Check, apr, st};
use crate::subject::Subject;
use crate::verdict::{Attempt, Refutation, Tally};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[("F-CRIT-301", f_crit_301), ("F-CRIT-302", f_crit_302)];

/// SafeTensors support missing: refuted where a SafeTensors file is not read, or its folder does not answer as it should.
pub fn f_crit_301(s: &Subject) -> Attempt {
    survive(s, &[("F-ST-076", st::f_st_076), ("F-ST-085", st::f_st_085), ("F-ST-089", st::f_st_089)])
}

/// APR support missing: refuted where an .apr file is not read, needs a file beside it, or answers otherwise than its twin.
pub fn f_crit_302(s: &Subject) -> Attempt {
    survive(s, &[("F-APR-061", apr::f_apr_061), ("F-APR-066", apr::f_apr_066), ("F-APR-074", apr::f_apr_074)])
}

fn survive(s: &Subject, rows: &[(&str, Check)]) -> Attempt {
    let mut t = Tally::new(rows.iter().map(|(id, _)| *id).collect::<Vec<_>>().join(", "));
    for (id, check) in rows {
        // A refutation there is one here.
        let cases = check(s)?.cases();
        t.hold(cases > 0, || Refutation::new(format!("{id} survives"), "no case", "some"))?;
        t.number(&format!("cases of {id}"), f64::from(cases));
    }
    t.done()
}
