//! The ten stages as a subject shows them: through `apr check`, and through the engine in this process, where rewrites
//! and evil backends reach the model.

use std::path::{Path, PathBuf};

use engine::check::{CheckResult, Fault, Verdict};
use serde_json::Value;

use crate::child::Output;
use crate::lab::{self, Setup};
use crate::sabotage;
use crate::subject::Subject;
use crate::verdict::{Halt, instrument};

/// The ten stages in this process. Every operation is shown to the check.
pub fn examine(s: &Subject, path: &Path) -> Result<CheckResult, Halt> {
    let mut model = lab::open(s, path, Setup { watched: true, threads: 1, ..Setup::default() })?;
    lab::running("a model that opens is checked", engine::check::check(&mut model))
}

/// The first stage that failed, from 1.
pub fn first_failure(result: &CheckResult) -> Option<(usize, &Fault)> {
    result.stages.iter().find_map(|f| match &f.verdict {
        Verdict::Failed(fault) => Some((f.stage.number, fault)),
        _ => None,
    })
}

/// The subject with a broken model: broken as a saboteur would, and then shown to whatever `apr` the subject has.
pub fn broken(s: &Subject, how: &str) -> Result<Subject, Halt> {
    let saboteur = sabotage::find(how).ok_or_else(|| instrument(format!("no way to break a model is called {how}")))?;
    saboteur.apply(s).map_err(instrument)
}

/// `apr check` on a model.
pub fn checked(s: &Subject, path: &Path, flags: &[&str]) -> Result<Output, Halt> {
    s.apr(["check"]).args([path.as_os_str()]).args(flags).judged()
}

/// `apr check --json`, with the object.
pub fn told(s: &Subject, path: &Path, flags: &[&str]) -> Result<(Output, Value), Halt> {
    let out = checked(s, path, &[&["--json"], flags].concat())?;
    let object = serde_json::from_slice(&out.stdout)
        .map_err(|e| out.refute("--json prints one object", format!("{e}: {}", out.out()), "an object"))?;
    Ok((out, object))
}

/// Verdicts of the stages, in order.
pub fn verdicts(object: &Value) -> Vec<String> {
    let stages = object["stages"].as_array().into_iter().flatten();
    stages.map(|s| s["verdict"].as_str().unwrap_or("none").to_string()).collect()
}

/// A copy of a file that may be changed.
pub fn copy(s: &Subject, path: &Path) -> Result<PathBuf, Halt> {
    let to = s.scratch()?.join(path.file_name().unwrap_or_default());
    std::fs::write(&to, std::fs::read(path).map_err(instrument)?).map_err(instrument)?;
    Ok(to)
}
