//! The README's sentence about the score, written between two marks so that nobody has to copy a number.

use std::path::Path;

use super::{GATE_POINTS, Report, badge};

/// Where the sentence begins and ends.
const MARKS: (&str, &str) = ("<!-- score: made by falsify report -->\n", "<!-- end of score -->\n");

/// The sentence, in Markdown.
pub fn sentence(report: &Report) -> String {
    let s = &report.score;
    let proven = if s.proven == s.standing() { "all".to_string() } else { s.proven.to_string() };
    let gate = if report.gate.met { "met" } else { "not met" };
    let strict = match s.refuted {
        0 => "No row is refuted; what was not attempted has not survived.".to_string(),
        _ => "By the letter of section 6 a single refuted row refutes the release.".to_string(),
    };
    format!(
        "**{}: {} on the hardware that the claims name and {} by ruling,\n{proven} proven (their saboteurs are caught in \
         the same run). {} refuted, {} not attempted.**\nThe release gate ({GATE_POINTS}) is {gate}. {strict}\n",
        badge::words(s).split(',').next().unwrap_or_default(),
        s.survived,
        s.by_ruling,
        s.refuted,
        s.not_attempted
    )
}

/// The README with this report's sentence in it; none if it has no place for one.
pub fn with_sentence(readme: &str, report: &Report) -> Option<String> {
    let (before, rest) = readme.split_once(MARKS.0)?;
    let (_, after) = rest.split_once(MARKS.1)?;
    Some(format!("{before}{}{}{}{after}", MARKS.0, sentence(report), MARKS.1))
}

/// Writes this report's sentence into a README.
pub fn update(file: &Path, report: &Report) -> Result<(), String> {
    let say = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let old = std::fs::read_to_string(file).map_err(|e| say(&e))?;
    let new = with_sentence(&old, report).ok_or_else(|| say(&"there are no marks for the score"))?;
    if new == old { Ok(()) } else { std::fs::write(file, new).map_err(|e| say(&e)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;

    #[test]
    fn the_sentence_takes_the_place_of_the_old_one() {
        let readme = format!("a\n{}old\n{}b\n", MARKS.0, MARKS.1);
        let new = with_sentence(&readme, &testing::report()).unwrap();
        assert!(new.starts_with("a\n<!--") && new.ends_with("-->\nb\n") && !new.contains("old"));
        assert!(new.contains("**2 of 300 survive: 2 on") && new.contains("1 proven") && new.contains("1 refuted"));
        assert_eq!(with_sentence(&new, &testing::report()).as_deref(), Some(new.as_str()));
        assert_eq!(with_sentence("no marks", &testing::report()), None);
    }
}
