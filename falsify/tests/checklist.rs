//! The checklist as tests: `cargo test -p falsify -- --exact F-GGUF-041`.
//!
//! One test per row, named by its id alone. A row that survives also has to catch its saboteurs. Exits 1 if a row is
//! refuted, an instrument is broken or blind, or a live row has no check; with FALSIFY_GATE=1 also when the release
//! gate is not met. Rows that are not attempted are shown as ignored, with the reason.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use falsify::registry::{self, Row, Tier};
use falsify::report::{Report, breaks_the_build};
use falsify::stamp::Stamp;
use falsify::suite::{Record, Suite};
use falsify::verdict::Verdict;
use falsify::{knobs, launch};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

type Records = Arc<Mutex<Vec<Record>>>;

fn main() -> ExitCode {
    let (named, words) = own_flags(std::env::args().collect());
    let arguments = Arguments::from_iter(words);
    if arguments.list {
        // Listing runs nothing, so it builds nothing.
        let trials = registry::rows().iter().map(|r| Trial::test(r.id.clone(), || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let suite = match launch::suite(named, Tier::DAILY) {
        Ok(suite) => Arc::new(suite),
        Err(e) => {
            eprintln!("falsify: {e}");
            return ExitCode::from(1);
        }
    };
    let records = Records::default();
    let trials = registry::rows().iter().map(|row| trial(row, suite.clone(), records.clone())).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let Some(report) = report(&suite, &records) else { return ExitCode::from(1) };
    if report.rows.len() < registry::rows().len() {
        println!(
            "{} of {} rows ran; the score counts the others as not attempted",
            report.rows.len(),
            registry::rows().len()
        );
    }
    println!("{}\n{}\n", report.headline(), report.beside());
    let gate_missed = knobs::on("FALSIFY_GATE") && !report.gate.met;
    ExitCode::from(u8::from(conclusion.has_failed() || gate_missed))
}

/// Takes `--apr PATH` out of the arguments; the rest is the test harness's.
fn own_flags(words: Vec<String>) -> (launch::Named, Vec<String>) {
    let mut named = launch::Named::default();
    let mut rest = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--apr" {
            named.apr = words.next().map(PathBuf::from);
        } else {
            rest.push(word);
        }
    }
    (named, rest)
}

fn trial(row: &'static Row, suite: Arc<Suite>, records: Records) -> Trial {
    Trial::ignorable_test(row.id.clone(), move || {
        let record = suite.record(row, true);
        let outcome = match (breaks_the_build(&record), &record.verdict) {
            (Some(why), _) => Err(Failed::from(format!("{}\n{why}", row.claim))),
            (None, Verdict::NotAttempted(reason)) => Ok(Completion::ignored_with(reason)),
            (None, _) => Ok(Completion::Completed),
        };
        if let Ok(mut all) = records.lock() {
            all.push(record);
        }
        outcome
    })
}

/// The score of what ran; a run of all rows also leaves its report under the build folder.
fn report(suite: &Suite, records: &Records) -> Option<Report> {
    let mut rows = std::mem::take(&mut *records.lock().ok()?);
    rows.sort_by_key(|r| registry::rows().iter().position(|row| row.id == r.id));
    let whole = rows.len() == registry::rows().len();
    let report = Report::new(Stamp::now(suite, suite.root.as_deref()), rows);
    let folder = knobs::path("FALSIFY_OUT").or_else(|| suite.root.as_ref().map(|r| r.join("target/falsify")));
    if let (true, Some(folder)) = (whole, folder) {
        match report.write(&folder) {
            Ok(()) => println!("report: {}", folder.join("latest.html").display()),
            Err(e) => {
                eprintln!("falsify: {e}");
                return None;
            }
        }
    }
    Some(report)
}
