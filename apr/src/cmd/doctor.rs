//! `apr doctor`: what this machine has, what would run where, and what to do about it.

use std::process::ExitCode;

use engine::doctor::{Finding, State, examine};
use engine::{Kind, Result, term};
use serde_json::{Value, json};

use crate::args::DoctorArgs;
use crate::config;

/// Looks and tells. Success is that nothing that was asked for cannot be had.
pub fn execute(args: &DoctorArgs) -> Result<ExitCode> {
    let mut findings = examine();
    findings.push(config_file());
    term::doctor::show(&findings, args.json)?;
    let bad = findings.iter().any(|f| f.state == State::Bad);
    Ok(if bad { ExitCode::from(Kind::Usage.exit_code()) } else { ExitCode::SUCCESS })
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
