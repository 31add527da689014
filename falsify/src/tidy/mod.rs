//! `falsify tidy`: the rules of the house, as a table. Each rule is one entry with the reason why it exists.
//!
//! Rules read the source tree as text; they run nothing and know no verdict.

pub mod floors;
pub mod growth;
pub mod packages;
pub mod rows;
pub mod score;
pub mod words;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::registry::{self, Row};

/// A rule.
pub struct Rule {
    /// For findings.
    pub name: &'static str,
    /// Why it exists.
    pub why: &'static str,
    /// What breaks it.
    pub check: fn(&Tree) -> Vec<Finding>,
}

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Name of the rule.
    pub rule: &'static str,
    /// File, file and line, or row.
    pub at: String,
    /// What is wrong.
    pub what: String,
}

/// Every rule.
pub static RULES: &[&[Rule]] =
    &[rows::RULES, growth::RULES, floors::RULES, words::RULES, packages::RULES, score::RULES];

/// The tree as rules see it.
pub struct Tree {
    /// Its root.
    pub root: PathBuf,
    /// Every tracked or to-be-tracked text file.
    pub files: Vec<File>,
    /// The registry.
    pub rows: Vec<Row>,
}

/// A text file.
pub struct File {
    /// Relative to the root, with forward slashes.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl File {
    /// Whether it is Rust source of one of these folders.
    pub fn is_rust_of(&self, folders: &[&str]) -> bool {
        self.path.ends_with(".rs") && folders.iter().any(|f| self.path.starts_with(f))
    }

    /// Numbered lines that are code: comments are left out, and so is everything from the first block of tests on. The
    /// declaration of a file of tests is no such block.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = |l: &str| l.starts_with("#[cfg(test)]") || l.starts_with("#[cfg(all(test");
        let lines: Vec<&str> = self.text.lines().collect();
        let declares = |i: usize| lines.get(i + 1).is_some_and(|l| l.contains("mod ") && l.ends_with(';'));
        let end = (0..lines.len()).find(|i| is_test(lines[*i]) && !declares(*i)).unwrap_or(lines.len());
        let code = |i: &usize| {
            let test = is_test(lines[*i]) || *i > 0 && is_test(lines[*i - 1]);
            !test && !lines[*i].trim_start().starts_with("//")
        };
        let numbers: Vec<usize> = (0..end).filter(code).collect();
        numbers.into_iter().map(move |i| (i + 1, lines[i]))
    }

    /// Modules that this file declares for tests only, as paths without their ending.
    fn test_modules(&self) -> Vec<String> {
        let path = self.path.trim_end_matches(".rs");
        // `mod.rs`, `lib.rs` and `main.rs` declare the files beside them, others those in the folder of their name.
        let folder = ["/mod", "/lib", "/main"].iter().find_map(|m| path.strip_suffix(m)).unwrap_or(path);
        let after = self.text.lines().zip(self.text.lines().skip(1)).filter(|(l, _)| l.trim() == "#[cfg(test)]");
        let name = |l: &str| Some(l.trim().rsplit_once("mod ")?.1.strip_suffix(';')?.to_string());
        after.filter_map(|(_, l)| Some(format!("{folder}/{}", name(l)?))).collect()
    }

    /// Findings at the code lines that `bad` picks.
    fn lines_where(&self, rule: &'static str, bad: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
        self.code().filter_map(|(n, l)| Some(finding(rule, format!("{}:{n}", self.path), bad(l)?))).collect()
    }
}

/// A finding that breaks its rule.
fn finding(rule: &'static str, at: impl Into<String>, what: impl Into<String>) -> Finding {
    Finding { rule, at: at.into(), what: what.into() }
}

impl Tree {
    /// Reads the tree: what git would track, or everything but build output where there is no git.
    pub fn read(root: &Path) -> Tree {
        let file = |path: String| Some(File { text: std::fs::read_to_string(root.join(&path)).ok()?, path });
        let files = tracked(root).into_iter().filter_map(file).collect();
        Tree { root: root.to_path_buf(), files, rows: registry::rows().to_vec() }
    }

    /// The file at this path.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|f| f.path == path)
    }

    /// Rust files of the product that are compiled into it: not those that a `#[cfg(test)] mod name;` declares.
    pub fn product(&self) -> impl Iterator<Item = &File> {
        let tests = self.rust(&["engine/src/", "engine/compute/src/", "apr/src/"]).flat_map(File::test_modules);
        let tests: BTreeSet<String> = tests.collect();
        let product = self.rust(&["engine/src/", "engine/compute/src/", "apr/src/"]);
        product.filter(move |f| !tests.contains(f.path.trim_end_matches(".rs").trim_end_matches("/mod")))
    }

    /// Rust files below these folders.
    pub fn rust(&self, folders: &'static [&'static str]) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |f| f.is_rust_of(folders))
    }
}

/// Paths of every tracked or to-be-tracked file, text or not, relative to the root, sorted.
pub fn tracked(root: &Path) -> Vec<String> {
    let listed = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let git = Command::new("git").arg("-C").arg(root).args(listed).output();
    let mut paths: Vec<String> = match git.ok().filter(|o| o.status.success()) {
        Some(out) => String::from_utf8_lossy(&out.stdout).lines().map(str::to_string).collect(),
        None => walk(root, root),
    };
    paths.sort();
    paths
}

fn walk(root: &Path, folder: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !["target", ".git", "__pycache__"].contains(&name.as_str()) {
            paths.extend(walk(root, &path));
        } else if path.is_file() {
            paths.push(path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/"));
        }
    }
    paths
}

/// Every finding of every rule.
pub fn run(root: &Path) -> Vec<Finding> {
    let tree = Tree::read(root);
    RULES.iter().flat_map(|r| r.iter()).flat_map(|r| (r.check)(&tree)).collect()
}

/// Findings for people, each rule with its reason.
pub fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    for rule in RULES.iter().flat_map(|r| r.iter()) {
        let of_rule: Vec<&Finding> = findings.iter().filter(|f| f.rule == rule.name).collect();
        if !of_rule.is_empty() {
            text += &format!("{}: {}\n", rule.name, rule.why);
        }
        for f in of_rule {
            text += &format!("  {}: {}\n", f.at, f.what);
        }
    }
    text + &format!("tidy: {} findings\n", findings.len())
}

#[cfg(test)]
pub mod testing {
    //! Trees for the tests of rules.

    use super::*;

    /// A tree of these files, in memory, with the rows as they are.
    pub fn tree(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(p, t)| File { path: p.to_string(), text: t.to_string() }).collect();
        Tree { root: PathBuf::from("nowhere"), files, rows: registry::rows().to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::tree;
    use super::*;
    use crate::ask;

    /// Names of the rules that a tree breaks, among rules that need nothing but text.
    fn broken_by(path: &str, text: &str) -> Vec<&'static str> {
        let t = tree(&[(path, text)]);
        let textual = [floors::RULES, words::RULES];
        let findings = textual.iter().flat_map(|r| r.iter()).flat_map(|r| (r.check)(&t));
        let mut names: Vec<&str> = findings.filter(|f| f.at.starts_with(path)).map(|f| f.rule).collect();
        names.dedup();
        names
    }

    #[test]
    fn each_rule_can_fail() {
        for (path, text, rule) in [
            ("engine/compute/src/x.rs", "use engine::Kind;", "floors"),
            ("engine/src/file/x.rs", "use crate::session::S;", "floors"),
            ("engine/src/limits.rs", "use crate::file::F;", "floors"),
            ("engine/src/session/x.rs", "use crate::api::run;", "floors"),
            ("engine/src/guard.rs", "use crate::{Error, term::Face};", "floors"),
            ("engine/src/model.rs", "use crate::{error::Error, sample};", "floors"),
            ("engine/src/nowhere.rs", "", "floors"),
            ("engine/src/text/x.rs", "use crate::file::gguf::Gguf;", "floors"),
            ("apr/src/x.rs", "use compute::Op;", "floors"),
            ("engine/src/api/x.rs", "unsafe { f() }", "unsafe-fence"),
            ("engine/compute/src/x.rs", "unsafe fn f() {}", "unsafe-fence"),
            ("engine/src/api/x.rs", "    println!(\"hi\");", "printing"),
            ("engine/src/api/x.rs", "let v = std::env::var(\"X\");", "environment"),
            ("engine/src/api/x.rs", "include!(\"y.rs\");", "include"),
            ("engine/src/text/parser2.rs", "", "names"),
            ("apr/src/utils.rs", "", "names"),
            ("falsify/src/checks/x.rs", "        return;", "no-early-return"),
            (
                "falsify/src/checks/x.rs",
                "pub fn f_x(s: &Subject) -> Attempt {\n  return t.done();\n}",
                "no-early-return",
            ),
            ("engine/src/api/x.rs", "let x = y.unwrap();", "panics"),
            ("apr/src/x.rs", "panic!(\"no\");", "panics"),
            ("engine/compute/src/x.rs", "y.expect(\"it is there\")", "panics"),
            ("engine/src/api/x.rs", &format!("let p = {:?};", ask::PROMPTS[0]), "fixtures"),
            ("falsify/src/x.rs", concat!("assert!", "(true);"), "no-early-return"),
            ("scripts/x.py", concat!("open('/ho", "me/me/x')"), "machine-paths"),
        ] {
            assert_eq!(broken_by(path, text), [rule], "{path}: {text}");
        }
        let long = "x\n".repeat(701);
        assert_eq!(broken_by("engine/src/api/x.rs", &long), ["length"]);
        assert_eq!(broken_by("engine/src/lib.rs", "//! No forbid here."), ["unsafe-fence"]);
    }

    #[test]
    fn comments_and_tests_are_no_code() {
        let text = "// println! is forbidden\n#[cfg(test)]\nmod tests { fn f() { println!(); x.unwrap(); } }\n";
        assert!(broken_by("engine/src/api/x.rs", text).is_empty());
        // The declaration of a file of tests ends nothing.
        assert_eq!(broken_by("engine/src/api/y.rs", "#[cfg(test)]\nmod tests;\n\nfn f() { x.unwrap() }"), ["panics"]);
        let modules = [
            ("engine/src/text/template.rs", "#[cfg(test)]\nmod published;\nmod python;\n"),
            ("engine/src/text/template/published.rs", "x.unwrap();"),
            ("engine/src/text/template/python.rs", "x.unwrap();"),
            ("engine/src/text/mod.rs", "#[cfg(test)]\npub(crate) mod testing;\n"),
            ("engine/src/text/testing.rs", "println!();"),
        ];
        let t = tree(&modules);
        let found = words::RULES.iter().chain(floors::RULES).flat_map(|r| (r.check)(&t));
        assert_eq!(found.map(|f| f.at).collect::<Vec<_>>(), ["engine/src/text/template/python.rs:1"]);
        let says_why = "x.expect(\"invariant: a step has rows\");";
        assert!(broken_by("engine/src/api/x.rs", says_why).is_empty());
        // A helper of a check may leave early with a value; a check may leave early with a refutation.
        let helper =
            "fn part() -> u8 {\n  return Ok(1);\n}\npub fn f_x() -> Attempt {\n  return Err(no);\n  t.done()\n}";
        assert!(broken_by("falsify/src/checks/x.rs", helper).is_empty());
    }
}
