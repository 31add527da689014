//! Saboteurs of what `apr` says about a model's health: verdicts, tables, warnings.

use serde_json::{Value, json};

use super::Saboteur;
use super::evil_apr::{Real, evil};

/// Every misbehaviour of a verdict.
pub static ALL: &[Saboteur] = &[
    evil("check-always-passes", "calls every model healthy", always_passes),
    evil("check-skips-stages", "leaves out the last two stages", |r| {
        retold(r, |text| {
            lines(text, |l| if l.starts_with("│ 9 ") || l.starts_with("│ 10 ") { None } else { Some(l.into()) })
        })
    }),
    evil("eli5-missing", "one stage is not explained", |r| {
        retold(r, |text| text.replace("Make 3 question copies", "                      "))
    }),
    evil("table-misaligned", "one line of the table is a blank too long", |r| {
        retold(r, |text| {
            lines(text, |l| Some(if l.starts_with("│ 6 ") { l.replacen("│ 6 ", "│ 6  ", 1) } else { l.into() }))
        })
    }),
    evil("check-wrong-backend", "names another backend than ran", |r| retold(r, |text| text.replace("cpu (", "gpu ("))),
    evil("jidoka-silent", "no warnings, and an answer where the numbers broke down", jidoka_silent),
];

/// Runs it and tells its standard output in other words.
fn retold(real: Real, words: impl FnOnce(&str) -> String) -> u8 {
    let mut caught = real.caught();
    caught.stdout = words(&String::from_utf8_lossy(&caught.stdout)).into_bytes();
    caught.emit()
}

fn lines(text: &str, told: impl Fn(&str) -> Option<String>) -> String {
    text.lines().filter_map(told).map(|l| l + "\n").collect()
}

fn always_passes(real: Real) -> u8 {
    if !real.has(&["check"]) {
        return real.run();
    }
    let mut caught = real.caught();
    let text = String::from_utf8_lossy(&caught.stdout).into_owned();
    caught.stdout = match serde_json::from_str::<Value>(&text) {
        Ok(mut whole) => {
            whole["passed"] = json!(10);
            whole["all_passed"] = json!(true);
            for stage in whole["stages"].as_array_mut().into_iter().flatten() {
                stage["verdict"] = json!("passed");
                stage["reason"] = Value::Null;
            }
            format!("{whole}\n")
        }
        Err(_) => lines(&text.replace('❌', "✅").replace("9/10", "10/10").replace("8/10", "10/10"), |l| {
            (!l.starts_with("stage ")).then(|| l.into())
        }),
    }
    .into_bytes();
    caught.code = 0;
    caught.emit()
}

fn jidoka_silent(real: Real) -> u8 {
    let mut caught = real.caught();
    caught.stderr.clear();
    if caught.code == 1 {
        (caught.code, caught.stdout) = (0, b"the the the\n".to_vec());
    }
    caught.emit()
}
