//! Rules about the registry: rows, checks, saboteurs and marks in the product must agree with each other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Rule, Tree, finding};
use crate::registry::{self, Row, SPEC, Status, claims_of};
use crate::{capability, checks, sabotage, whereabouts};

/// Rows that may share a saboteur: one that kills everything tells nothing about any of them.
const ROWS_PER_SABOTEUR: usize = 8;

/// The rules.
pub static RULES: &[Rule] = &[
    Rule { name: "claims", why: "the checklist is the specification's text, byte for byte", check: claims },
    Rule { name: "schema", why: "rows are data that other tools read", check: schema },
    Rule { name: "one-check", why: "every live row has one check and every check is of a live row", check: one_check },
    Rule { name: "slices", why: "a file that is not in its ALL slice does not run", check: slices },
    Rule { name: "marks", why: "from any id to the product in two hops", check: marks },
    Rule { name: "code", why: "a live row names files that exist", check: code },
    Rule { name: "needs", why: "a need outside the vocabulary would skip a row for ever", check: needs },
    Rule { name: "saboteurs", why: "a check that cannot fail tests nothing", check: saboteurs },
];

fn live() -> impl Iterator<Item = &'static Row> {
    registry::rows().iter().filter(|r| r.status == Status::Live)
}

fn claims(_: &Tree) -> Vec<Finding> {
    let want = claims_of(SPEC);
    let have: BTreeMap<&str, &str> = registry::rows().iter().map(|r| (r.id.as_str(), r.claim.as_str())).collect();
    let mut found: Vec<Finding> = want
        .iter()
        .filter(|(id, claim)| have.get(id.as_str()) != Some(&claim.as_str()))
        .map(|(id, claim)| finding("claims", id, format!("the specification says: {claim}")))
        .collect();
    let known: BTreeSet<&str> = want.iter().map(|(id, _)| id.as_str()).collect();
    let invented = have.keys().filter(|id| !known.contains(**id));
    found.extend(invented.map(|id| finding("claims", *id, "is not in the specification")));
    found
}

fn schema(_: &Tree) -> Vec<Finding> {
    let parsed = serde_json::from_str(registry::SCHEMA).map_err(|e| e.to_string());
    let validator = match parsed.and_then(|s| jsonschema::validator_for(&s).map_err(|e| e.to_string())) {
        Ok(v) => v,
        Err(e) => return vec![finding("schema", "falsify/items/schema.json", e)],
    };
    let mut found = Vec::new();
    for (prefix, text) in registry::FILES {
        let at = format!("falsify/items/{prefix}.json");
        match serde_json::from_str(text) {
            Err(e) => found.push(finding("schema", at, e.to_string())),
            Ok(json) => found.extend(
                validator
                    .iter_errors(&json)
                    .map(|e| finding("schema", format!("{at}{}", e.instance_path()), e.to_string())),
            ),
        }
    }
    found
}

/// Names of `pub fn f_...` in the files of checks, with the file.
fn written(tree: &Tree) -> Vec<(String, String)> {
    let mut fns = Vec::new();
    for file in tree.rust(&["falsify/src/checks/"]) {
        for (_, line) in file.code() {
            let name = line.strip_prefix("pub fn ").and_then(|l| l.split_once('(')).map(|(name, _)| name);
            fns.extend(name.filter(|n| n.starts_with("f_")).map(|n| (n.to_string(), file.path.clone())));
        }
    }
    fns
}

fn one_check(tree: &Tree) -> Vec<Finding> {
    const RULE: &str = "one-check";
    let fns = written(tree);
    let mut found = Vec::new();
    for row in live() {
        let name = row.fn_name();
        let of_row: Vec<&str> = fns.iter().filter(|(n, _)| *n == name).map(|(_, file)| file.as_str()).collect();
        // The prefix's file, or the folder beside it.
        let home = format!("falsify/src/checks/{}", row.prefix().to_lowercase());
        let there = |file: &&str| file.strip_prefix(&*home).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'));
        if of_row.len() != 1 || !of_row.iter().all(there) {
            found.push(finding(RULE, &row.id, format!("wants one fn {name} in {home}.rs; there are {of_row:?}")));
        }
        if checks::find(&row.id).is_none() {
            found.push(finding(RULE, &row.id, "is not in its file's CHECKS"));
        }
    }
    let live_fns: BTreeSet<String> = live().map(Row::fn_name).collect();
    let strays = fns.iter().filter(|(n, _)| !live_fns.contains(n));
    found.extend(strays.map(|(n, file)| finding(RULE, file, format!("{n} is of no live row"))));
    let mut ids = BTreeSet::new();
    for (id, _) in checks::ALL.iter().flat_map(|(_, c)| c.iter()) {
        if !ids.insert(id) || registry::find(id).is_none_or(|r| r.status != Status::Live) {
            found.push(finding(RULE, *id, "is in CHECKS twice, or is no live row"));
        }
    }
    found
}

fn slices(tree: &Tree) -> Vec<Finding> {
    let in_folder = |folder: &'static str| -> BTreeSet<String> {
        let stem = |path: &str| path.strip_prefix(folder)?.strip_suffix(".rs").map(str::to_string);
        let files = tree.files.iter().filter_map(|f| stem(&f.path));
        files.filter(|s| s != "mod" && !s.contains('/')).collect()
    };
    let declared: BTreeSet<String> = checks::ALL.iter().map(|(name, _)| name.to_string()).collect();
    let files = in_folder("falsify/src/checks/");
    let mut found: Vec<Finding> = files
        .symmetric_difference(&declared)
        .map(|name| finding("slices", "falsify/src/checks/", format!("{name}.rs and checks::ALL disagree")))
        .collect();
    // Every kind of saboteur is a file that mod.rs names in ALL.
    let text = tree.file("falsify/src/sabotage/mod.rs").map_or("", |f| f.text.as_str());
    for name in in_folder("falsify/src/sabotage/") {
        if !text.contains(&format!("{name}::ALL")) {
            found.push(finding("slices", "falsify/src/sabotage/", format!("{name}.rs is not in sabotage::ALL")));
        }
    }
    found
}

fn marks(tree: &Tree) -> Vec<Finding> {
    let marks = whereabouts::marks(&tree.root);
    let mut found = Vec::new();
    for m in &marks {
        if registry::find(&m.id).is_none() {
            let at = format!("{}:{}", m.place.file.display(), m.place.line);
            found.push(finding("marks", at, format!("{} is no row", m.id)));
        }
    }
    for row in live() {
        let has_product = row.code.iter().any(|c| c.starts_with("engine/") || c.starts_with("apr/"));
        if has_product && !marks.iter().any(|m| m.id == row.id) {
            found.push(finding("marks", &row.id, format!("no //= {} in {}", row.id, row.code.join(", "))));
        }
    }
    found
}

fn code(tree: &Tree) -> Vec<Finding> {
    let missing = |row: &'static Row| {
        let gone = row.code.iter().filter(|c| !tree.root.join(c).exists());
        gone.map(|c| finding("code", &row.id, format!("{c} does not exist"))).collect::<Vec<_>>()
    };
    live().flat_map(missing).collect()
}

fn needs(_: &Tree) -> Vec<Finding> {
    let unknown = |row: &'static Row| {
        let words = row.needs.iter().filter(|n| capability::find(n).is_none());
        words.map(|n| finding("needs", &row.id, format!("{n} is not in capability.rs")))
    };
    registry::rows().iter().flat_map(unknown).collect()
}

fn saboteurs(_: &Tree) -> Vec<Finding> {
    const RULE: &str = "saboteurs";
    let mut rows_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut found = Vec::new();
    for row in live() {
        if row.killed_by.is_empty() {
            found.push(finding(RULE, &row.id, "names no saboteur"));
        }
        for name in &row.killed_by {
            if sabotage::find(name).is_none() {
                found.push(finding(RULE, &row.id, format!("there is no saboteur {name}")));
            }
            rows_of.entry(name).or_default().push(&row.id);
        }
    }
    for (name, rows) in rows_of.iter().filter(|(_, rows)| rows.len() > ROWS_PER_SABOTEUR) {
        found.push(finding(RULE, *name, format!("is shared by {} rows", rows.len())));
    }
    let idle = sabotage::all().filter(|s| !rows_of.contains_key(s.name));
    found.extend(idle.map(|s| finding(RULE, s.name, "is named by no live row")));
    found
}
