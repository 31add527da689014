//! `apr config`: what is set, and where.

use std::process::ExitCode;

use engine::{Error, Kind, Result, knobs, term};
use serde_json::json;

use crate::args::{ConfigArgs, ConfigCommand};
use crate::config;

/// Looks.
pub fn execute(args: &ConfigArgs) -> Result<ExitCode> {
    match args.command {
        ConfigCommand::Path => {
            let path = config::path().ok_or_else(|| {
                Error::new(Kind::NotFound, "there is no place for a config file")
                    .hint("APR_CONFIG names one, or HOME a folder to look in")
            })?;
            term::print_line(&path.to_string_lossy())?;
        }
        ConfigCommand::Show { json } => show(json)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A value that is set.
struct Set {
    key: String,
    value: String,
    from: String,
}

fn show(json: bool) -> Result<()> {
    let file = config::read()?;
    let path = config::path().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let mut all: Vec<Set> = knobs::ALL.iter().filter_map(|knob| environment(knob)).collect();
    for (of, key, values) in file.iter().flat_map(|config| config.values()) {
        let key = if of.is_empty() { format!("--{key}") } else { format!("--{key} of {of}") };
        let value = if values.is_empty() { "false".to_string() } else { values.join(", ") };
        let value = shown(&key, value);
        all.push(Set { key, value, from: path.clone() });
    }
    let line = |s: &Set| format!("{:<28} {:<24} {}\n", s.key, s.value, s.from);
    let mut text: String = all.iter().map(line).collect();
    if file.is_none() {
        text += &format!("no config file{}\n", if path.is_empty() { String::new() } else { format!(" at {path}") });
    }
    text += "what is typed counts before these; then what the model recommends, then the defaults of --help\n";
    let object = json!({
        "path": path, "exists": file.is_some(),
        "values": all.iter().map(|s| json!({"key": s.key, "value": s.value, "from": s.from})).collect::<Vec<_>>(),
    });
    term::say(&text, json.then_some(&object))
}

fn environment(knob: &knobs::Knob) -> Option<Set> {
    let value = knobs::read(knob)?;
    Some(Set { key: knob.name.into(), value: shown(knob.name, value), from: "environment".into() })
}

/// Secrets are not for screens, wherever they are set.
fn shown(name: &str, value: String) -> String {
    let secret = |word: &str| ["key", "token"].iter().any(|s| word.eq_ignore_ascii_case(s));
    if name.split(['_', '-', ' ']).any(secret) { "(set)".to_string() } else { value }
}
