//! Rules about what grows: one file per member, one slice that names them all, a fixed top of the tree, arrows between
//! crates, and the one place in which a transformer is written down.

use super::{File, Finding, Rule, Tree, finding};

/// The rules.
pub static RULES: &[Rule] = &[
    Rule { name: "slices", why: "a file that is not in its ALL slice does not run", check: slices },
    Rule { name: "top-level", why: "the user fixed the top of the tree", check: top_level },
    Rule { name: "crates", why: "arrows between crates point down, and nothing depends on the suite", check: crates },
    Rule { name: "one-program", why: "the shape of a transformer is written down once", check: one_program },
];

/// A folder in which one thing is one file.
struct Growth {
    folder: &'static str,
    /// What makes a file a member.
    defines: &'static str,
    /// How `mod.rs` names it: `q4_k::SPEC`, or `q4_k` in the call of a macro that says `$module::SPEC`.
    named: &'static str,
    /// Every file of the folder is a member.
    all: bool,
}

const fn growth(folder: &'static str, defines: &'static str, named: &'static str, all: bool) -> Growth {
    Growth { folder, defines, named, all }
}

static GROWTH: &[Growth] = &[
    growth("engine/compute/src/quant/", "static SPEC:", "SPEC", false),
    growth("engine/src/arch/", "static ARCH:", "ARCH", true),
    growth("engine/src/file/", "static CONTAINER:", "CONTAINER", false),
    growth("engine/src/text/", "static MODEL:", "MODEL", false),
    growth("engine/src/serve/", "static ROUTES:", "ROUTES", false),
    growth("apr/src/cmd/", "pub fn execute(", "execute", false),
    growth("falsify/src/checks/", "static CHECKS:", "CHECKS", true),
    growth("falsify/src/sabotage/", "static ALL:", "ALL", true),
];

fn slices(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for g in GROWTH {
        let list = format!("{}mod.rs", g.folder);
        let names = tree.file(&list).map_or(Vec::new(), |f| listed(&f.text, g.named));
        for file in &tree.files {
            let Some(stem) = file.path.strip_prefix(g.folder).and_then(|f| f.strip_suffix(".rs")) else { continue };
            // What lies deeper belongs to a member.
            if stem == "mod" || stem.contains('/') {
                continue;
            }
            let member = file.code().any(|(_, l)| l.contains(g.defines));
            if !member && g.all {
                found.push(finding("slices", &file.path, format!("has no `{}`", g.defines)));
            } else if member && !names.iter().any(|n| n == stem) {
                found.push(finding("slices", &file.path, format!("is not in the slice of {list}")));
            }
        }
    }
    found
}

/// Modules that a `mod.rs` names in its slice.
fn listed(text: &str, named: &str) -> Vec<String> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let ends = format!("::{named}");
    let plain = text.match_indices(&ends).filter_map(|(at, _)| text[..at].rsplit(|c| !word(c)).next());
    let mut names: Vec<String> = plain.filter(|n| !n.is_empty()).map(str::to_string).collect();
    if text.contains(&format!("$module{ends}")) {
        let calls = text.split("macro_rules! ").skip(1).filter_map(|rest| {
            let name = rest.split(|c| !word(c)).next()?;
            text.split(&format!("\n{name}! {{")).nth(1)?.split('}').next()
        });
        names.extend(calls.flat_map(|c| c.split(|c| !word(c))).filter(|n| !n.is_empty()).map(str::to_string));
    }
    names
}

/// The top of the tree; files that begin with a dot come beside.
const TOP: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "apr",
    "engine",
    "falsify",
    "fixtures",
    "golden",
    "reports",
    "rust-toolchain.toml",
    "scripts",
];

fn top_level(tree: &Tree) -> Vec<Finding> {
    let mut tops: Vec<&str> = tree.files.iter().filter_map(|f| f.path.split('/').next()).collect();
    tops.dedup();
    let strange = tops.into_iter().filter(|t| !TOP.contains(t) && !t.starts_with('.'));
    strange.map(|t| finding("top-level", t, "is not one of the entries that the user named")).collect()
}

/// Crates that a manifest must not name, in any of its tables.
const ARROWS: &[(&str, &[&str])] = &[
    ("engine/compute/Cargo.toml", &["engine", "apr-cli", "falsify"]),
    ("engine/Cargo.toml", &["apr-cli", "falsify"]),
    ("apr/Cargo.toml", &["compute", "falsify"]),
    ("falsify/Cargo.toml", &["apr-cli"]),
];

fn crates(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, forbidden) in ARROWS {
        for (i, line) in tree.file(path).map_or("", |f| &f.text).lines().enumerate() {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if forbidden.contains(&name) {
                found.push(finding("crates", format!("{path}:{}", i + 1), format!("depends on {name}")));
            }
        }
    }
    found
}

/// The only file of the engine that builds operations.
const PROGRAM: &str = "engine/src/program.rs";

fn one_program(tree: &Tree) -> Vec<Finding> {
    const RULE: &str = "one-program";
    let built = |f: &&File| f.path != PROGRAM && f.path.starts_with("engine/src/");
    let op =
        |l: &str| ["Op::Attend {", "Op::MatMul {"].iter().find(|w| l.contains(**w)).map(|w| format!("says {w} .. }}"));
    let forward = |l: &str| l.contains("fn forward").then(|| "writes a forward pass by hand".to_string());
    let mut found: Vec<Finding> = tree.rust(&["engine/"]).flat_map(|f| f.lines_where(RULE, forward)).collect();
    found.extend(tree.rust(&["engine/"]).filter(built).flat_map(|f| f.lines_where(RULE, op)));
    found
}

#[cfg(test)]
mod tests {
    use super::super::testing::tree;
    use super::*;

    #[test]
    fn a_file_that_is_in_no_slice_is_found() {
        let list = "macro_rules! formats { ($m) => { &[$(&$module::SPEC),*] } }\nformats! { q4_k,\n q6_k }\n";
        let files = [
            ("engine/compute/src/quant/mod.rs", list),
            ("engine/compute/src/quant/q4_k.rs", "pub static SPEC: Spec = Spec {"),
            ("engine/compute/src/quant/q9_k.rs", "pub static SPEC: Spec = Spec {"),
            ("engine/compute/src/quant/nibbles.rs", "pub fn low() {}"),
            ("engine/src/file/mod.rs", "static ALL: &[&Container] = &[&gguf::CONTAINER];"),
            ("engine/src/file/gguf.rs", "pub static CONTAINER: Container = Container {"),
            ("engine/src/file/apr.rs", "pub static CONTAINER: Container = Container {"),
            ("engine/src/file/gguf/deeper.rs", "static CONTAINER: u8 = 0;"),
            ("falsify/src/checks/mod.rs", ""),
            ("falsify/src/checks/gpu.rs", "pub fn f_gpu_116() {}"),
        ];
        let found: Vec<String> = slices(&tree(&files)).into_iter().map(|f| f.at).collect();
        let want = ["engine/compute/src/quant/q9_k.rs", "engine/src/file/apr.rs", "falsify/src/checks/gpu.rs"];
        assert_eq!(found, want);
    }

    #[test]
    fn strange_tops_and_arrows_that_point_up_are_found() {
        let t = tree(&[
            ("notes/todo.md", ""),
            (".github/x.yml", ""),
            ("apr/Cargo.toml", "[dev-dependencies]\ncompute.workspace = true\nengine.workspace = true\n"),
            ("engine/Cargo.toml", "falsify = { path = \"../falsify\" }\n"),
        ]);
        assert_eq!(top_level(&t).iter().map(|f| f.at.as_str()).collect::<Vec<_>>(), ["notes"]);
        let arrows: Vec<String> = crates(&t).into_iter().map(|f| f.at).collect();
        assert_eq!(arrows, ["engine/Cargo.toml:1", "apr/Cargo.toml:2"]);
    }

    #[test]
    fn a_second_transformer_is_found() {
        let t = tree(&[
            ("engine/src/program.rs", "p.push(t, Op::MatMul { src });"),
            ("engine/src/draft.rs", "p.push(t, Op::MatMul { src });"),
            ("engine/compute/src/cpu/fast.rs", "pub fn forward(x: &[f32]) {}"),
        ]);
        assert_eq!(one_program(&t).len(), 2);
    }
}
