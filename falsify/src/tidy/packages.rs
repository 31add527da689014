//! Rules about the packages the user named: each is a direct dependency and does real work where this table says.

use super::{Finding, Rule, Tree, finding};

/// The rules.
pub static RULES: &[Rule] = &[Rule {
    name: "packages",
    why: "the user named these packages: each is used for what it is best at",
    check: packages,
}];

/// A package that the user named.
struct Package {
    name: &'static str,
    /// Folders of the crates that use it.
    used_in: &'static [&'static str],
    /// For what.
    does: &'static str,
}

const fn now(name: &'static str, used_in: &'static [&'static str], does: &'static str) -> Package {
    Package { name, used_in, does }
}

static PACKAGES: &[Package] = &[
    now("proptest", &["engine", "engine/compute"], "laws of parsers, text and kernels over generated inputs"),
    now("insta", &["apr"], "reviewed snapshots of help and messages"),
    now("assert_cmd", &["apr"], "runs the apr binary in its own tests"),
    now("predicates", &["apr"], "says what output has to look like"),
    now("criterion", &["engine/compute"], "benches of the kernels"),
    now("libtest-mimic", &["falsify"], "one test per row of the checklist"),
    now("memmap2", &["engine/compute"], "the only mmap"),
    now("half", &["engine/compute"], "f16 and bf16"),
    now("cudarc", &["engine/compute"], "CUDA by dlopen: the driver is loaded at run time"),
    now("rayon", &["engine/compute"], "repacking of weights at load"),
    now("tokenizers", &["engine"], "the byte-pair encoder"),
    now("axum", &["engine"], "the routes of the HTTP server"),
    now("clap", &["apr", "falsify"], "command lines"),
    now("serde_json", &["engine", "apr", "falsify"], "JSON"),
    now("jsonschema", &["falsify"], "checks rows and reports"),
];

fn packages(tree: &Tree) -> Vec<Finding> {
    PACKAGES.iter().flat_map(|p| p.used_in.iter().filter_map(|folder| missing(tree, p, folder))).collect()
}

/// What is missing of a package in a crate: the dependency, or its use.
fn missing(tree: &Tree, package: &Package, folder: &str) -> Option<Finding> {
    let manifest = tree.file(&format!("{folder}/Cargo.toml")).map_or("", |f| f.text.as_str());
    let depends = manifest.lines().any(|l| {
        let rest = l.trim_start().strip_prefix(package.name);
        rest.is_some_and(|r| r.starts_with(".workspace") || r.trim_start().starts_with('='))
    });
    let path = format!("{}::", package.name.replace('-', "_"));
    let inside = |f: &str| f.strip_prefix(&format!("{folder}/")).is_some_and(|r| !r.starts_with("compute/"));
    let uses = tree.files.iter().filter(|f| f.path.ends_with(".rs") && inside(&f.path)).any(|f| f.text.contains(&path));
    let what = match (depends, uses) {
        (true, true) => return None,
        (false, _) => "is no direct dependency",
        (true, false) => "is a dependency that nothing uses",
    };
    let what = format!("{} {what}, though it does: {}", package.name, package.does);
    Some(finding("packages", format!("{folder}/Cargo.toml"), what))
}

#[cfg(test)]
mod tests {
    use super::super::testing::tree;
    use super::*;

    #[test]
    fn a_package_that_is_not_used_is_found() {
        let files = [
            ("apr/Cargo.toml", "predicates.workspace = true\nclap = \"4\"\n"),
            ("apr/src/main.rs", "use clap::Parser;"),
        ];
        let found = packages(&tree(&files));
        let of = |name: &str| found.iter().find(|f| f.at == "apr/Cargo.toml" && f.what.starts_with(name));
        assert!(of("predicates").unwrap().what.contains("nothing uses"));
        assert!(of("insta").unwrap().what.contains("no direct dependency"));
        assert!(of("clap").is_none());
        assert_eq!(PACKAGES.len(), 15);
    }
}
