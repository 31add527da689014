//! Saboteurs that change the oracle's stored output: a check that compares with it has to notice.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::{Means, Saboteur};
use crate::subject::list;

/// An entry.
const fn golden(name: &'static str, does: &'static str, how: fn(&Path) -> io::Result<()>) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::MutatedGolden(how) }
}

/// Every mutated golden file.
pub static ALL: &[Saboteur] = &[
    golden("golden-block-changed", "the last bit of one decoded value of each format is another", |folder| {
        rewrite(&folder.join("formats.json"), |doc| {
            for format in doc["formats"].as_array_mut().into_iter().flatten() {
                let bits = format["values"][100].as_u64().unwrap_or_default();
                format["values"][100] = json!(bits ^ 1);
            }
        })
    }),
    golden(
        "golden-row-changed",
        "in each file the best tokens of the most decisive position change places",
        |folder| {
            each_answer(folder, |doc| {
                let rows = doc["cases"].as_array_mut().into_iter().flatten();
                let rows = rows.flat_map(|case| case["rows"].as_array_mut().into_iter().flatten());
                let margin = |row: &Value| row[0].as_f64().unwrap_or_default();
                if let Some(row) = rows.max_by(|a, b| margin(a).total_cmp(&margin(b))) {
                    let (first, second) = (row[2].clone(), row[4].clone());
                    row[2] = second;
                    row[4] = first;
                }
            })
        },
    ),
    golden("golden-token-changed", "each answer's third token is another", |folder| {
        each_answer(folder, |doc| {
            for case in doc["cases"].as_array_mut().into_iter().flatten() {
                if let Some(id) = case["greedy"].get(2).and_then(Value::as_u64) {
                    case["greedy"][2] = json!(id.wrapping_sub(1) % 300);
                }
            }
        })
    }),
];

/// Changes a JSON file.
fn rewrite(file: &Path, change: impl FnOnce(&mut Value)) -> io::Result<()> {
    let before: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let mut after = before.clone();
    change(&mut after);
    if after == before {
        return Err(io::Error::other(format!("the sabotage of {} changed nothing", file.display())));
    }
    std::fs::write(file, serde_json::to_vec(&after)?)
}

/// Changes every file of answers of llama.cpp and of transformers.
fn each_answer(folder: &Path, change: impl Fn(&mut Value)) -> io::Result<()> {
    let list = |oracle: &str| list(&folder.join(oracle)).map_err(|halt| io::Error::other(format!("{halt:?}")));
    let files = [list("llama")?, list("transformers")?].concat();
    let answers = files.iter().filter(|f| {
        let stem = f.file_stem().unwrap_or_default().to_string_lossy();
        stem != "refused" && stem != "tensors" && !stem.ends_with("-prompts") && !stem.ends_with("-skills")
    });
    answers.into_iter().try_for_each(|file| rewrite(file, &change))
}
