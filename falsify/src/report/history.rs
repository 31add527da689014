//! `history.jsonl`: one line per recorded run, and what a series of them tells: what moved, when, and since when.

use std::fmt::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Report, Score};
use crate::registry::{self, Row};

/// One line of `history.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When.
    pub utc: String,
    /// Of which commit.
    pub commit: Option<String>,
    /// Points.
    pub score: Score,
    /// See [`Report::statuses`].
    pub statuses: String,
}

impl Line {
    /// Of this run.
    pub fn of(report: &Report) -> Line {
        Line {
            utc: report.stamp.utc.clone(),
            commit: report.stamp.commit.clone(),
            score: report.score,
            statuses: report.statuses(),
        }
    }

    /// `2026-11-23`.
    pub fn day(&self) -> &str {
        self.utc.split('T').next().unwrap_or_default()
    }

    /// The commit as people write it.
    pub fn short_commit(&self) -> &str {
        self.commit.as_deref().map_or("no commit", |c| c.get(..12).unwrap_or(c))
    }
}

/// The history in this folder; none is an empty one.
pub fn read(folder: &Path) -> Result<Vec<Line>, String> {
    let file = folder.join("history.jsonl");
    let text = match std::fs::read_to_string(&file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.map_err(|e| format!("{}: {e}", file.display()))?,
    };
    let line =
        |(i, l): (usize, &str)| serde_json::from_str(l).map_err(|e| format!("{} line {}: {e}", file.display(), i + 1));
    text.lines().enumerate().map(line).collect()
}

/// Adds a run. A run that is already there, by its time, is replaced: merging verdicts into it is not another run.
pub fn record(history: &mut Vec<Line>, line: Line) {
    history.retain(|l| l.utc != line.utc);
    history.push(line);
}

/// As it is kept.
pub fn render(history: &[Line]) -> Result<String, String> {
    history.iter().map(|l| serde_json::to_string(l).map(|l| l + "\n").map_err(|e| e.to_string())).collect()
}

/// Rows whose letter changed: the row, before, after.
pub fn moved(before: &str, after: &str) -> Vec<(&'static Row, char, char)> {
    let rows = registry::rows().iter().filter(|r| !r.is_trigger());
    let letters = before.chars().zip(after.chars());
    rows.zip(letters).filter(|(_, (a, b))| a != b).map(|(row, (a, b))| (row, a, b)).collect()
}

/// The runs in which a row's letter changed, with the letter: `U` on the 1st, `S` on the 3rd.
pub fn of_row<'a>(history: &'a [Line], row: &Row) -> Vec<(&'a Line, char)> {
    let place = registry::rows().iter().filter(|r| !r.is_trigger()).position(|r| r.id == row.id);
    let mut turns: Vec<(&Line, char)> = Vec::new();
    for line in history {
        let Some(letter) = place.and_then(|p| line.statuses.chars().nth(p)) else { continue };
        if turns.last().is_none_or(|(_, l)| *l != letter) {
            turns.push((line, letter));
        }
    }
    turns
}

/// `CHANGELOG.md`: the score run by run, the latest first.
pub fn changelog(history: &[Line]) -> String {
    let mut md = String::from(
        "# The score, run by run\n\nMade by `falsify report` from `history.jsonl`. *By ruling* is part of *survived* \
         here: counted on other hardware, or with other\nweights, than the claim names; `latest.md` tells them apart.\n\n\
         | date | commit | survived | by ruling | proven | refuted | what moved |\n|---|---|---:|---:|---:|---:|---|\n",
    );
    for (i, line) in history.iter().enumerate().rev() {
        let nothing = "U".repeat(line.statuses.len());
        let before = i.checked_sub(1).map_or(nothing.as_str(), |i| history[i].statuses.as_str());
        let s = &line.score;
        let _ = writeln!(
            md,
            "| {} | {} | {} | {} | {} | {} | {} |",
            line.day(),
            line.short_commit(),
            s.standing(),
            s.by_ruling,
            s.proven,
            s.refuted,
            came(before, &line.statuses)
        );
    }
    md
}

/// `survived: CLI 3, UX 1 · refuted: GPU 1 · no longer survived: F-CLI-001`.
fn came(before: &str, after: &str) -> String {
    let moved = moved(before, after);
    let survived = |l: char| matches!(l, 'S' | 's');
    let ids = |which: &dyn Fn(char, char) -> bool| -> Vec<&str> {
        moved.iter().filter(|(_, a, b)| which(*a, *b)).map(|(row, ..)| row.id.as_str()).collect()
    };
    let say = |what: &str, ids: Vec<&str>| match ids.len() {
        0 => None,
        n if n > 8 => Some(format!("{what}: {}", per_prefix(&ids))),
        _ => Some(format!("{what}: {}", ids.join(" "))),
    };
    let parts = [
        say("survived", ids(&|a, b| !survived(a) && survived(b))),
        say("refuted", ids(&|_, b| b == 'R')),
        say("survives no longer", ids(&|a, b| survived(a) && !survived(b) && b != 'R')),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nothing".into() } else { parts.join(" · ") }
}

/// `CLI 10, UX 13`.
pub fn per_prefix(ids: &[&str]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for id in ids {
        let prefix = id.split('-').nth(1).unwrap_or_default();
        match counts.last_mut() {
            Some((p, n)) if *p == prefix => *n += 1,
            _ => counts.push((prefix, 1)),
        }
    }
    counts.iter().map(|(p, n)| format!("{p} {n}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;

    #[test]
    fn the_changelog_says_what_came_and_what_went() {
        let now = Line::of(&testing::report());
        let mut then = Line { utc: "2025-12-31T00:00:00Z".into(), ..now.clone() };
        then.statuses.replace_range(0..3, "USS");
        let history = [then, now];
        let md = changelog(&history);
        let latest = md.lines().find(|l| l.starts_with("| 2026-01-02")).unwrap();
        assert!(latest.contains("| 0123456789ab | 2 |"), "{latest}");
        assert!(latest.contains("survived: F-CLI-001 · refuted: F-CLI-003"), "{latest}");
        let turns: String = of_row(&history, &registry::rows()[0]).iter().map(|(_, l)| *l).collect();
        assert_eq!(turns, "US");
    }

    #[test]
    fn a_broken_history_is_refused_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let good = render(&[Line::of(&testing::report())]).unwrap();
        std::fs::write(folder.path().join("history.jsonl"), good + "{}\n").unwrap();
        assert!(read(folder.path()).unwrap_err().contains("line 2"));
    }
}
