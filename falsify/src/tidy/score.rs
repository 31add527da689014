//! A rule about the score: the README, the badge, the changelog and the report have to say the same.

use super::{Finding, Rule, Tree, finding};
use crate::report::{Report, badge, history, readme};

/// The rules.
pub static RULES: &[Rule] =
    &[Rule { name: "score", why: "a score that is copied by hand is soon another one", check: score }];

/// What to do about a finding.
const AGAIN: &str = "run `falsify merge reports/latest.json`";

fn score(tree: &Tree) -> Vec<Finding> {
    const RULE: &str = "score";
    let text = |path: &str| tree.file(path).map_or("", |f| f.text.as_str());
    let report: Report = match serde_json::from_str(text("reports/latest.json")) {
        Ok(report) => report,
        Err(e) => return vec![finding(RULE, "reports/latest.json", e.to_string())],
    };
    let mut found = Vec::new();
    let mut same = |path: &str, is: bool| {
        if !is {
            found.push(finding(RULE, path, format!("is not what reports/latest.json says; {AGAIN}")));
        }
    };
    let lines: Vec<history::Line> =
        text("reports/history.jsonl").lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    same("reports/history.jsonl", lines.last() == Some(&history::Line::of(&report)));
    same("reports/CHANGELOG.md", text("reports/CHANGELOG.md") == history::changelog(&lines));
    same("reports/badge.svg", text("reports/badge.svg") == badge::render(&report.score));
    same("README.md", readme::with_sentence(text("README.md"), &report).as_deref() == Some(text("README.md")));
    found
}

#[cfg(test)]
mod tests {
    use super::super::testing::tree;
    use super::*;
    use crate::report::testing;

    #[test]
    fn a_score_that_differs_is_found() {
        let report = testing::report();
        let folder = tempfile::tempdir().unwrap();
        report.write(folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let empty = "<!-- score: made by falsify report -->\n<!-- end of score -->\n";
        let good: Vec<(String, String)> = ["latest.json", "history.jsonl", "CHANGELOG.md", "badge.svg"]
            .iter()
            .map(|n| (format!("reports/{n}"), read(n)))
            .chain([("README.md".to_string(), readme::with_sentence(empty, &report).unwrap())])
            .collect();
        let found = |files: &[(String, String)]| -> Vec<String> {
            let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
            score(&tree(&files)).into_iter().map(|f| f.at).collect()
        };
        assert_eq!(found(&good), Vec::<String>::new());
        for (at, (path, text)) in good.iter().enumerate().filter(|(_, (p, _))| p != "reports/latest.json") {
            let mut bad = good.clone();
            bad[at].1 = text.replacen('2', "3", 9);
            assert!(found(&bad).contains(path), "{path}");
        }
        assert_eq!(found(&[]), ["reports/latest.json"]);
    }
}
