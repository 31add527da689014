//! Runs rows: capabilities first, then the check under a deadline, then its saboteurs.
//!
//! A panic of the check is the instrument's fault and a panic of the product refutes; both are told apart by where
//! they happened. This file turns rows into records; it prints nothing and counts no points.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::{Arc, Once, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::capability::{self, Host};
use crate::checks::{self, Check, crit};
use crate::registry::{self, Row, Tier};
use crate::sabotage;
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Reason, Refutation, Verdict, instrument};

/// What became of a row in one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Of the row.
    pub id: String,
    /// The healthy subject's verdict.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What its saboteurs achieved; empty when they were not let in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<Proof>,
    /// Time that all of it took.
    pub took_ms: u64,
    /// SHA-256 of the `apr` that was watched.
    pub apr_sha256: String,
    /// The machine it ran on, where that is not the report's own: see `report::merge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// One cell of the row x saboteur matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Its name.
    pub saboteur: String,
    /// What the check made of it.
    pub outcome: ProofOutcome,
    /// The criterion that caught it, or what went wrong.
    pub detail: String,
}

/// What a check made of a saboteur.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProofOutcome {
    /// Refuted it: the check can fail.
    Caught,
    /// Did not notice: the check is blind to it.
    Missed,
    /// Refuted it, but only because it crashed: proves nothing.
    Crashed,
    /// Could not be tried.
    NotTried,
}

impl Record {
    /// Whether the row survived and was shown able to fail, in this run.
    pub fn proven(&self) -> bool {
        matches!(self.verdict, Verdict::Survived(_)) && self.proofs.iter().any(|p| p.outcome == ProofOutcome::Caught)
    }

    /// Saboteurs that went unnoticed or proved nothing.
    pub fn blind_to(&self) -> impl Iterator<Item = &Proof> {
        self.proofs.iter().filter(|p| p.outcome != ProofOutcome::Caught)
    }
}

/// Everything that runs have in common.
#[derive(Clone)]
pub struct Suite {
    /// The healthy subject.
    pub subject: Subject,
    /// The machine.
    pub host: Host,
    /// Tiers to run.
    pub tiers: Vec<Tier>,
    /// SHA-256 of the watched binary.
    pub apr_sha256: String,
    /// Where the watched binary was found; the subject has a copy.
    pub named_apr: PathBuf,
    /// The source tree, if there is one: verdicts name files relative to it.
    pub root: Option<PathBuf>,
}

impl Suite {
    /// Runs one row, and its saboteurs if `prove` and if it survives.
    pub fn record(&self, row: &'static Row, prove: bool) -> Record {
        let begun = Instant::now();
        let verdict = self.attempt(row, &self.subject);
        let survived = matches!(verdict, Verdict::Survived(_));
        let proofs = if prove && survived { self.prove(row) } else { Vec::new() };
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Record { id: row.id.clone(), verdict, proofs, took_ms, apr_sha256: self.apr_sha256.clone(), machine: None }
    }

    /// What there is to say of a row that this run leaves out.
    pub fn left_out(&self, row: &'static Row) -> Record {
        let verdict = Verdict::NotAttempted(Reason::Tier("left out of this run".into()));
        Record {
            id: row.id.clone(),
            verdict,
            proofs: Vec::new(),
            took_ms: 0,
            apr_sha256: self.apr_sha256.clone(),
            machine: None,
        }
    }

    /// Every chosen row with all its saboteurs, in the registry's order; the others are left out. The row of the score comes last and sees the others.
    pub fn all(&self, chosen: impl Fn(&Row) -> bool, mut show: impl FnMut(&Record)) -> Vec<Record> {
        let mut record = |suite: &Suite, row: &'static Row| {
            let record = if chosen(row) { suite.record(row, true) } else { suite.left_out(row) };
            show(&record);
            record
        };
        let others = registry::rows().iter().filter(|row| row.id != crit::SCORE);
        let mut records: Vec<Record> = others.map(|row| record(self, row)).collect();
        if let Some((at, row)) = registry::rows().iter().enumerate().find(|(_, row)| row.id == crit::SCORE) {
            let mut last = self.clone();
            last.subject.verdicts = Some(Arc::new(records.clone()));
            records.insert(at, record(&last, row));
        }
        records
    }

    /// The row's check on this subject, whoever broke it.
    pub fn attempt(&self, row: &'static Row, subject: &Subject) -> Verdict {
        let Some(check) = checks::find(&row.id) else { return Verdict::NotAttempted(Reason::Unwritten) };
        if !self.tiers.contains(&row.tier) {
            return Verdict::NotAttempted(Reason::Tier(row.tier.name().to_string()));
        }
        if let Some(lacking) = capability::lacking(&self.host, &row.needs) {
            return Verdict::NotAttempted(Reason::Lacks(lacking.to_string()));
        }
        let deadline = Duration::from_secs(row.tier.deadline_s());
        let mut verdict = Verdict::from(guarded(check, subject.clone(), deadline));
        if let Verdict::Refuted(r) = &mut verdict {
            if r.repro.is_empty() {
                r.repro = format!("cargo run -p falsify -- run {}", row.id);
            }
            for text in [&mut r.criterion, &mut r.observed, &mut r.expected, &mut r.repro] {
                *text = self.portable(text);
            }
        }
        verdict
    }

    /// Reports are kept: they name files relative to the tree, and scratch files by a word.
    fn portable(&self, text: &str) -> String {
        let scratch = self.subject.scratch_root().to_string_lossy();
        let watched = self.named_apr.to_string_lossy();
        let mut text = text.replace(&*self.subject.real_apr.to_string_lossy(), &watched).replace(&*scratch, "$SCRATCH");
        if let Some(root) = &self.root {
            text = text.replace(&format!("{}/", root.display()), "");
        }
        // A binary from elsewhere goes by its name; its hash is in the stamp.
        text.replace(&*watched, &self.named_apr.file_name().unwrap_or_default().to_string_lossy())
    }

    /// The row's check on every saboteur that the row names.
    fn prove(&self, row: &'static Row) -> Vec<Proof> {
        row.killed_by.iter().map(|name| self.prove_one(row, name)).collect()
    }

    fn prove_one(&self, row: &'static Row, name: &str) -> Proof {
        let proof = |outcome, detail: String| Proof { saboteur: name.to_string(), outcome, detail };
        let Some(saboteur) = sabotage::find(name) else {
            return proof(ProofOutcome::NotTried, "no such saboteur".into());
        };
        let broken = match saboteur.apply(&self.subject) {
            Ok(s) => s,
            Err(e) => return proof(ProofOutcome::NotTried, e.to_string()),
        };
        match self.attempt(row, &broken) {
            Verdict::Refuted(r) if r.crash && !saboteur.by_crash => proof(ProofOutcome::Crashed, r.observed),
            Verdict::Refuted(r) => proof(ProofOutcome::Caught, r.criterion),
            Verdict::Survived(_) => proof(ProofOutcome::Missed, "the check survived it".into()),
            Verdict::NotAttempted(reason) => proof(ProofOutcome::NotTried, reason.to_string()),
        }
    }
}

thread_local! {
    /// Where this thread panicked last.
    static PANIC: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

const THREAD_NAME: &str = "falsify-check";

/// Checks panic quietly: the place and the message go into the verdict. Other threads panic as usual.
fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if thread::current().name() != Some(THREAD_NAME) {
                return usual(info);
            }
            let file = info.location().map_or_else(String::new, |l| format!("{}:{}", l.file(), l.line()));
            let message = info.payload_as_str().unwrap_or("a panic without a message").to_string();
            PANIC.with(|p| *p.borrow_mut() = Some((file, message)));
        }));
    });
}

/// Runs a check in a thread of its own, under a deadline, with its panics caught. A check that hangs is left behind:
/// what can hang is a product process, and those have kill deadlines of their own.
fn guarded(check: Check, subject: Subject, deadline: Duration) -> Attempt {
    install_panic_hook();
    let (send, receive) = mpsc::channel();
    let body = move || {
        let attempt = panic::catch_unwind(AssertUnwindSafe(|| check(&subject)));
        let _ = send.send(attempt.unwrap_or_else(|_| Err(judge_panic())));
    };
    // Deep templates and parsers meet the stack that a main thread would have.
    let builder = thread::Builder::new().name(THREAD_NAME.into()).stack_size(8 << 20);
    builder.spawn(body).map_err(instrument)?;
    match receive.recv_timeout(deadline) {
        Ok(attempt) => attempt,
        Err(_) => Err(instrument(format!("the check did not end within {} s", deadline.as_secs()))),
    }
}

/// A panic in the suite's own code is the instrument's; anywhere else it is the product's.
fn judge_panic() -> Halt {
    let (place, message) = PANIC.with(|p| p.borrow_mut().take()).unwrap_or_default();
    let ours = place.starts_with("falsify/") || place.contains("/falsify/");
    if ours {
        return instrument(format!("the check panicked at {place}: {message}"));
    }
    let refutation =
        Refutation::new("the engine does not panic", format!("panicked at {place}: {message}"), "no panic");
    Halt::Refuted(Refutation { crash: true, ..refutation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::Paths;
    use crate::verdict::Tally;

    fn nobody() -> Subject {
        let nowhere = std::path::PathBuf::from("nowhere");
        let paths = Paths {
            apr: nowhere.clone(),
            evil_apr: nowhere.clone(),
            fixtures: nowhere.clone(),
            golden: nowhere,
            models: None,
            sources: None,
        };
        Subject::healthy(paths).unwrap()
    }

    #[test]
    fn a_panic_of_the_check_is_the_instruments_fault() {
        let attempt = guarded(|_| panic!("oops"), nobody(), Duration::from_secs(5));
        assert!(matches!(attempt, Err(Halt::NotAttempted(Reason::Instrument(w))) if w.contains("oops")));
    }

    #[test]
    fn a_panic_elsewhere_refutes() {
        PANIC.with(|p| *p.borrow_mut() = Some(("engine/src/file/gguf.rs:1".into(), "oops".into())));
        assert!(matches!(judge_panic(), Halt::Refuted(r) if r.crash));
    }

    #[test]
    fn a_check_that_hangs_is_the_instruments_fault() {
        let hang = |_: &Subject| {
            thread::sleep(Duration::from_secs(2));
            Tally::new("nothing").done()
        };
        let attempt = guarded(hang, nobody(), Duration::from_millis(50));
        assert!(matches!(attempt, Err(Halt::NotAttempted(Reason::Instrument(_)))));
    }
}
