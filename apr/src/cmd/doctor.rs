//! `apr doctor`: what this machine has, what would run where, and what to do about it.

use std::process::ExitCode;

use apr_cli::source::{self, Cache};
use engine::doctor::{Finding, State, examine};
use engine::{Kind, Result, term};
use serde_json::{Value, json};

use crate::args::DoctorArgs;
use crate::config;

/// Looks and tells. Success is that nothing that was asked for cannot be had.
pub fn execute(args: &DoctorArgs) -> Result<ExitCode> {
    let mut findings = examine();
    findings.extend(models());
    findings.push(config_file());
    term::doctor::show(&findings, args.json)?;
    let bad = findings.iter().any(|f| f.state == State::Bad);
    Ok(if bad { ExitCode::from(Kind::Usage.exit_code()) } else { ExitCode::SUCCESS })
}

/// A line for each folder of models.
fn models() -> Vec<Finding> {
    let note = |found: String, advice: &str| vec![Finding::new("models", State::Note, found, advice, Value::Null)];
    match source::caches() {
        Err(e) => note(e.to_string(), "APR_HOME names a folder for them"),
        Ok(none) if none.is_empty() => note("none here yet".into(), "apr pull qwen2.5-coder:0.5b brings one"),
        Ok(caches) => caches.iter().map(cache).collect(),
    }
}

fn cache(c: &Cache) -> Finding {
    let (folder, many) = (c.folder.to_string_lossy(), if c.models == 1 { "model" } else { "models" });
    let found = format!("{} {many} of {}, {} in {folder}", c.models, c.whose, term::size(c.bytes as f64));
    let advice = "apr list names them; commands take them by these names";
    let data = json!({"whose": c.whose, "folder": folder, "models": c.models, "bytes": c.bytes});
    Finding::new("models", State::Good, found, advice, data)
}

fn config_file() -> Finding {
    const TOPIC: &str = "config file";
    let Some(path) = config::path() else {
        let found = "none: there is no home folder, or APR_CONFIG is empty";
        return Finding::new(TOPIC, State::Good, found, "APR_CONFIG names one", Value::Null);
    };
    let shown = path.to_string_lossy().into_owned();
    let data = json!({ "path": shown });
    match config::read() {
        Err(e) => Finding::new(TOPIC, State::Bad, e.to_string(), "correct it, or move it away", data),
        Ok(None) => {
            Finding::new(TOPIC, State::Good, format!("none at {shown}"), "apr config show says what it may hold", data)
        }
        Ok(Some(config)) => {
            let found = format!("{shown}, {} values", config.len());
            Finding::new(TOPIC, State::Good, found, "apr config show lists them", data)
        }
    }
}
