//! F-CRIT: the triggers that reject a release, computed from the rows that they stand on.

mod modalities;

use std::path::Path;

use modalities::f_crit_001;

use super::{Check, apr, gpu, int, st};
use crate::checkup::{checked, copy, told, verdicts};
use crate::corrupt::{KINDS, corrupt};
use crate::forge;
use crate::report::{self, GATE_POINTS};
use crate::subject::Subject;
use crate::suite::Record;
use crate::verdict::{Attempt, Halt, Reason, Refutation, Tally, instrument};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-CRIT-001", f_crit_001),
    ("F-CRIT-002", f_crit_002),
    ("F-CRIT-003", f_crit_003),
    (SCORE, f_crit_004),
    ("F-CRIT-005", f_crit_005),
    ("F-CRIT-301", f_crit_301),
    ("F-CRIT-302", f_crit_302),
];

/// The row that is computed from the verdicts of all others.
pub const SCORE: &str = "F-CRIT-004";

/// Damages of each kind. All rows together may take minutes, not hours; `FALSIFY_DAMAGES` asks for more.
const EACH: u64 = 2;

/// What a sound model answers in words that cannot be guessed.
const ASKED: &[&str] = &[
    "What is 2+2?",
    "What is the capital of France?",
    "Count from 3 to 17",
    "What day comes after Monday?",
    "Is Mars a planet?",
    "Give me a JSON object with name Ada and age 36",
];

/// GPU throughput is consistently below that of the engine that Ollama runs.
pub fn f_crit_003(s: &Subject) -> Attempt {
    gpu::not_slower_than_the_peer(s)
}

/// `apr-cli` is found to contain independent inference logic: refuted with any of the rows that look for some.
pub fn f_crit_002(s: &Subject) -> Attempt {
    let rows: [(&str, Check); 5] = [
        ("F-INT-281", int::f_int_281),
        ("F-INT-292", int::f_int_292),
        ("F-INT-293", int::f_int_293),
        ("F-INT-294", int::f_int_294),
        ("F-INT-295", int::f_int_295),
    ];
    survive(s, &rows)
}

/// Falsification score below 290: the score of the run that this row is part of.
pub fn f_crit_004(s: &Subject) -> Attempt {
    match &s.verdicts {
        Some(records) => enough(records),
        None => {
            Err(Halt::NotAttempted(Reason::Stale("no whole run of this product; `falsify report` makes one".into())))
        }
    }
}

/// The gate, of these verdicts.
pub fn enough(records: &[Record]) -> Attempt {
    let mut t = Tally::new("the points of the same report: those that survived, on the hardware and by ruling");
    let score = report::score(records);
    t.hold(score.standing() >= GATE_POINTS, || {
        Refutation::new("points of 300", score.standing().to_string(), format!("{GATE_POINTS} or more"))
    })?;
    t.number("points on the named hardware", score.survived as f64);
    t.number("points by ruling", score.by_ruling as f64);
    t.done()
}

/// `apr check` passes but the model generates garbage.
pub fn f_crit_005(s: &Subject) -> Attempt {
    let each = crate::knobs::damages().unwrap_or(EACH);
    let mut t = Tally::new(format!("apr check and apr run on {each} damages of each of {} kinds", KINDS.len()));
    let answers = |path: &Path| -> Result<Vec<String>, Halt> {
        let ask = |prompt: &&str| {
            let run = s.apr(["run"]).args([path.as_os_str()]).args([
                *prompt,
                "--temperature",
                "0",
                "--max-tokens",
                "48",
                "--threads",
                "1",
            ]);
            Ok(run.judged()?.out())
        };
        ASKED.iter().map(ask).collect()
    };
    let models = [s.fixture("q8_0")?, s.fixture("q4_k_m")?];
    let sound = answers(&models[0])?;
    let (mut failed, mut harmless, mut tried) = (0u32, 0u32, 0u32);
    for kind in &KINDS {
        let mut found = 0u32;
        for seed in 0..each {
            let file = copy(s, &models[seed as usize % 2])?;
            corrupt(kind, seed, &file).map_err(instrument)?;
            let out = checked(s, &file, &["--json", "--threads", "1"])?;
            tried += 1;
            // A damage that the engine refuses to load is found too.
            if out.code() != Some(0) {
                (found, failed) = (found + 1, failed + 1);
            } else {
                let right = answers(&file)?.iter().zip(&sound).filter(|(a, b)| a == b).count();
                t.hold(2 * right >= ASKED.len(), || {
                    let what = format!("{}, seed {seed}: {right} of {} answers are right", kind.name, ASKED.len());
                    out.refute("a model that passes does not talk garbage", what, "at least half")
                })?;
                harmless += 1;
            }
            let _gone = std::fs::remove_file(&file);
        }
        t.number(&format!("{}: found, of {each}", kind.name), f64::from(found));
    }
    t.hold(failed > harmless, || Refutation::new("damage is found", format!("{failed} of {tried}"), "most of it"))?;
    t.number("damages found", f64::from(failed));
    t.number("damages that passed and answer as before", f64::from(harmless));
    sound_ones(s, &mut t)?;
    t.done()
}

/// Models in which nothing is wrong: trained ones pass ten stages, untrained ones nine.
fn sound_ones(s: &Subject, t: &mut Tally) -> Result<(), Halt> {
    let trained = [s.fixture("q8_0")?, s.fixture("q4_k_m")?, s.fixtures.join("qwen2-tiny")];
    let small = |name: &String| {
        !["full-", "shape-", "seed-", "hf-", "apr-", "qwen2-fewerrows"].iter().any(|p| name.starts_with(p))
    };
    let untrained: Vec<String> = forge::list().into_iter().filter(small).collect();
    let mut models: Vec<_> = trained.into_iter().map(|path| (path, 10)).collect();
    for name in &untrained {
        models.push((s.forged(name)?, 9));
    }
    for (path, passed) in &models {
        let (out, object) = told(s, path, &["--threads", "1"])?;
        let verdicts = verdicts(&object);
        let held = object["passed"] == *passed && !verdicts.iter().any(|v| v == "failed");
        t.hold(held, || {
            out.refute("no stage of a sound model fails", object["stages"].to_string(), "no failed stage")
        })?;
    }
    t.number("sound models", models.len() as f64);
    t.number("false alarms", 0.0);
    Ok(())
}

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
