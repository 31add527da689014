//! `falsify where F-GGUF-041`: the two hops from a row to its check and to the product.
//!
//! A line of the product that answers for rows carries their ids in a comment: `//= F-GGUF-041 F-GGUF-048`.

use std::path::{Path, PathBuf};

use crate::{launch, registry};

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Relative to the root of the tree.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
}

/// A row id in a `//=` comment of the product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The id as written.
    pub id: String,
    /// Where.
    pub place: Place,
}

/// Every mark in `engine/` and `apr/`.
pub fn marks(root: &Path) -> Vec<Mark> {
    let mut marks = Vec::new();
    for top in ["engine", "apr"] {
        for file in rust_files(&root.join(top)) {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let shown = file.strip_prefix(root).unwrap_or(&file).to_path_buf();
            let place = |line| Place { file: shown.clone(), line };
            marks.extend(marks_of(&text).map(|(line, id)| Mark { id: id.to_string(), place: place(line) }));
        }
    }
    marks
}

/// Line and id of every mark in a text.
pub fn marks_of(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let marked = text.lines().enumerate().filter_map(|(i, line)| Some((i + 1, line.split_once("//= ")?.1)));
    marked.flat_map(|(line, ids)| ids.split([' ', ',']).filter(|w| !w.is_empty()).map(move |id| (line, id)))
}

/// The check of a row: the line of `fn f_gguf_041(`.
pub fn check_of(root: &Path, row: &registry::Row) -> Option<Place> {
    let wanted = format!("pub fn {}(", row.fn_name());
    for file in rust_files(&root.join("falsify/src/checks")) {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if let Some(line) = text.lines().position(|l| l.starts_with(&wanted)) {
            let file = file.strip_prefix(root).unwrap_or(&file).to_path_buf();
            return Some(Place { file, line: line + 1 });
        }
    }
    None
}

/// Every `.rs` file below a folder, sorted; build output is not source.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return files };
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|x| x == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Prints both hops. False if the row has no check.
pub fn print(id: &str) -> Result<bool, String> {
    let row = registry::find(id).ok_or_else(|| format!("no row is called {id}"))?;
    let root = launch::root().ok_or("no source tree here")?;
    let shown = |p: &Place| format!("{}:{}", p.file.display(), p.line);
    println!("{} {}\n  tested as  {}", row.id, row.claim, row.tested_as);
    for criterion in &row.refuted_if {
        println!("  refuted if {criterion}");
    }
    let check = check_of(&root, row);
    println!("  check      {}", check.as_ref().map_or("none yet".to_string(), shown));
    println!(
        "  saboteurs  {}",
        if row.killed_by.is_empty() { "none yet".to_string() } else { row.killed_by.join(", ") }
    );
    for mark in marks(&root).iter().filter(|m| m.id == row.id) {
        println!("  product    {}", shown(&mark.place));
    }
    Ok(check.is_some())
}
