//! Verdicts: there are three, and nothing else counts as a result.
//!
//! A check ends in an [`Attempt`]. Its `Ok` is [`Evidence`], which only a [`Tally`] makes and only when it counted at
//! least one case; its `Err` is a [`Halt`], so `?` ends a check at the first refutation. This file knows neither rows
//! nor reports, and it has no way to say "skipped".

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// The attempt to refute was made and failed.
    Survived(Evidence),
    /// The claim is false.
    Refuted(Refutation),
    /// Nothing was learnt. Scores 0 and stays in the denominator.
    NotAttempted(Reason),
}

/// What a check returns. `Ok` needs evidence; `?` on an `Err` ends the check.
pub type Attempt = Result<Evidence, Halt>;

/// Why a check ended without evidence.
#[derive(Clone, Debug, PartialEq)]
pub enum Halt {
    /// The claim is false.
    Refuted(Refutation),
    /// Nothing was learnt.
    NotAttempted(Reason),
}

/// What was run, and how much of it. Made by [`Tally::done`] alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    ran: String,
    cases: NonZeroU32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    numbers: BTreeMap<String, f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ruling: Option<String>,
}

/// How the claim was shown false.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refutation {
    /// The rule that does not hold.
    pub criterion: String,
    /// What was seen.
    pub observed: String,
    /// What had to be seen.
    pub expected: String,
    /// One command that shows it again; empty means `falsify run ID`.
    pub repro: String,
    /// The subject crashed or hung instead of misbehaving. A saboteur that merely crashes proves nothing.
    #[serde(default)]
    pub crash: bool,
}

/// Why nothing was learnt. The list is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", content = "detail", rename_all = "kebab-case")]
pub enum Reason {
    /// This machine lacks a capability of `capability.rs`.
    Lacks(String),
    /// The row belongs to a tier that this run leaves out.
    Tier(String),
    /// There is no check yet.
    Unwritten,
    /// The fixture model is too weak in the skill that the row needs.
    FixtureWeak(String),
    /// The verdict at hand is of another product.
    Stale(String),
    /// The check itself broke. Shown in red: it hides the truth.
    Instrument(String),
}

impl Reason {
    /// The name without the detail, for counting.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::Lacks(_) => "lacks",
            Reason::Tier(_) => "tier",
            Reason::Unwritten => "unwritten",
            Reason::FixtureWeak(_) => "fixture-weak",
            Reason::Stale(_) => "stale",
            Reason::Instrument(_) => "instrument",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Unwritten => f.write_str("unwritten"),
            Reason::Lacks(d) | Reason::Tier(d) | Reason::FixtureWeak(d) | Reason::Stale(d) | Reason::Instrument(d) => {
                write!(f, "{}: {d}", self.name())
            }
        }
    }
}

impl From<Attempt> for Verdict {
    fn from(attempt: Attempt) -> Verdict {
        match attempt {
            Ok(evidence) => Verdict::Survived(evidence),
            Err(Halt::Refuted(r)) => Verdict::Refuted(r),
            Err(Halt::NotAttempted(r)) => Verdict::NotAttempted(r),
        }
    }
}

impl Evidence {
    /// Criteria that were tried and held.
    pub fn cases(&self) -> u32 {
        self.cases.get()
    }

    /// What was run, on what.
    pub fn ran(&self) -> &str {
        &self.ran
    }

    /// The measured numbers.
    pub fn numbers(&self) -> &BTreeMap<String, f64> {
        &self.numbers
    }

    /// Remarks.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The ruling of the design under which this counts (emulated, surrogate), if any.
    pub fn ruling(&self) -> Option<&str> {
        self.ruling.as_deref()
    }
}

impl Refutation {
    /// A refutation by a criterion that does not hold.
    pub fn new(criterion: impl Into<String>, observed: impl Into<String>, expected: impl Into<String>) -> Refutation {
        Refutation {
            criterion: criterion.into(),
            observed: clip(observed.into()),
            expected: clip(expected.into()),
            repro: String::new(),
            crash: false,
        }
    }

    /// Adds the command that shows it again.
    #[must_use]
    pub fn repro(mut self, command: impl Into<String>) -> Refutation {
        self.repro = command.into();
        self
    }
}

impl From<Refutation> for Halt {
    fn from(r: Refutation) -> Halt {
        Halt::Refuted(r)
    }
}

/// The check itself broke: `instrument("no pty")`. Also for `map_err`: `.map_err(instrument)?`.
pub fn instrument(what: impl fmt::Display) -> Halt {
    Halt::NotAttempted(Reason::Instrument(what.to_string()))
}

/// The fixture model does not have the skill that the row needs.
pub fn fixture_weak(what: impl fmt::Display) -> Halt {
    Halt::NotAttempted(Reason::FixtureWeak(what.to_string()))
}

/// Counts what held, and becomes [`Evidence`].
pub struct Tally {
    ran: String,
    cases: u32,
    numbers: BTreeMap<String, f64>,
    notes: Vec<String>,
    ruling: Option<String>,
}

impl Tally {
    /// Begins a tally. `ran` says what is run and on what: kernel, backend, model.
    pub fn new(ran: impl Into<String>) -> Tally {
        Tally { ran: ran.into(), cases: 0, numbers: BTreeMap::new(), notes: Vec::new(), ruling: None }
    }

    /// One case: the criterion held, or `refutation` ends the check.
    pub fn hold(&mut self, held: bool, refutation: impl FnOnce() -> Refutation) -> Result<(), Halt> {
        if !held {
            return Err(refutation().into());
        }
        self.cases = self.cases.saturating_add(1);
        Ok(())
    }

    /// One case: two values are equal.
    pub fn equal<T: PartialEq + Debug + ?Sized>(&mut self, criterion: &str, seen: &T, want: &T) -> Result<(), Halt> {
        self.hold(seen == want, || Refutation::new(criterion, format!("{seen:?}"), format!("{want:?}")))
    }

    /// One case: a measured number is at most `limit`. The largest one is kept as a number of the evidence.
    pub fn at_most(&mut self, criterion: &str, seen: f64, limit: f64) -> Result<(), Halt> {
        // A NaN is not at most anything.
        self.hold(seen <= limit, || Refutation::new(criterion, format!("{seen}"), format!("at most {limit}")))?;
        let worst = self.numbers.entry(criterion.to_string()).or_insert(seen);
        *worst = worst.max(seen);
        Ok(())
    }

    /// How many cases held so far.
    pub fn tried(&self) -> u32 {
        self.cases
    }

    /// Records a number. JSON has no infinities: such a one is kept as a remark.
    pub fn number(&mut self, name: &str, value: f64) {
        if value.is_finite() {
            self.numbers.insert(name.to_string(), value);
        } else {
            self.note(format!("{name}: {value}"));
        }
    }

    /// Records a remark.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Marks the evidence as counted under a ruling ("emulated", "surrogate weights").
    pub fn by_ruling(&mut self, ruling: impl Into<String>) {
        self.ruling = Some(ruling.into());
    }

    /// The evidence; a check that tried nothing has none.
    pub fn done(self) -> Attempt {
        let cases = NonZeroU32::new(self.cases).ok_or_else(|| instrument("the check tried no case"))?;
        Ok(Evidence { ran: self.ran, cases, numbers: self.numbers, notes: self.notes, ruling: self.ruling })
    }
}

/// Keeps reports readable: the head of a long observation.
fn clip(s: String) -> String {
    const MAX: usize = 600;
    match s.char_indices().nth(MAX) {
        None => s,
        Some((at, _)) => format!("{}… ({} bytes)", &s[..at], s.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_tried_is_not_survival() {
        let attempt = Tally::new("nothing").done();
        assert!(matches!(attempt, Err(Halt::NotAttempted(Reason::Instrument(_)))));
        let zero = r#"{"verdict":"survived","ran":"x","cases":0}"#;
        assert!(serde_json::from_str::<Verdict>(zero).is_err());
    }

    #[test]
    fn a_nan_is_refuted_and_verdicts_survive_json() {
        let mut t = Tally::new("x");
        assert!(matches!(t.at_most("error", f64::NAN, 1.0), Err(Halt::Refuted(_))));
        t.number("ratio", f64::INFINITY);
        t.equal("same", "a", "a").unwrap();
        let v = Verdict::from(t.done());
        assert_eq!(serde_json::from_str::<Verdict>(&serde_json::to_string(&v).unwrap()).unwrap(), v);
    }
}
