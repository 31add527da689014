//! F-CRIT: the triggers that reject a release, computed from the rows that they stand on.

use super::{Check, st};
use crate::subject::Subject;
use crate::verdict::{Attempt, Refutation, Tally};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[("F-CRIT-301", f_crit_301)];

/// SafeTensors support missing: refuted where a SafeTensors file is not read, or its folder does not answer as it should.
pub fn f_crit_301(s: &Subject) -> Attempt {
    let mut t = Tally::new("F-ST-076, F-ST-085 and F-ST-089");
    for (id, check) in [("F-ST-076", st::f_st_076 as Check), ("F-ST-085", st::f_st_085), ("F-ST-089", st::f_st_089)] {
        // A refutation there is one here.
        let cases = check(s)?.cases();
        t.hold(cases > 0, || Refutation::new(format!("{id} survives"), "no case", "some"))?;
        t.number(&format!("cases of {id}"), f64::from(cases));
    }
    t.done()
}
