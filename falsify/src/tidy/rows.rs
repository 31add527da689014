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
    Rule { name: "marks", why: "from any id to the product in two hops", check: marks },
    Rule { name: "code", why: "a live row names files that exist", check: code },
    Rule { name: "needs", why: "a need outside the vocabulary would skip a row for ever", check: needs },
    Rule { name: "saboteurs", why: "a check that cannot fail tests nothing", check: saboteurs },
];

fn live(tree: &Tree) -> impl Iterator<Item = &Row> {
    tree.rows.iter().filter(|r| r.status == Status::Live)
}

fn claims(tree: &Tree) -> Vec<Finding> {
    let want = claims_of(SPEC);
    let have: BTreeMap<&str, &str> = tree.rows.iter().map(|r| (r.id.as_str(), r.claim.as_str())).collect();
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
    registry::FILES.iter().flat_map(|(prefix, text)| obeys(&format!("falsify/items/{prefix}.json"), text)).collect()
}

/// What a file of rows breaks of its schema.
fn obeys(at: &str, text: &str) -> Vec<Finding> {
    let parsed = serde_json::from_str(registry::SCHEMA).map_err(|e| e.to_string());
    let validator = match parsed.and_then(|s| jsonschema::validator_for(&s).map_err(|e| e.to_string())) {
        Ok(v) => v,
        Err(e) => return vec![finding("schema", "falsify/items/schema.json", e)],
    };
    match serde_json::from_str(text) {
        Err(e) => vec![finding("schema", at, e.to_string())],
        Ok(json) => {
            let broken = validator.iter_errors(&json);
            broken.map(|e| finding("schema", format!("{at}{}", e.instance_path()), e.to_string())).collect()
        }
    }
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
    for row in live(tree) {
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
    let live_fns: BTreeSet<String> = live(tree).map(Row::fn_name).collect();
    let strays = fns.iter().filter(|(n, _)| !live_fns.contains(n));
    found.extend(strays.map(|(n, file)| finding(RULE, file, format!("{n} is of no live row"))));
    let mut ids = BTreeSet::new();
    for (id, _) in checks::ALL.iter().flat_map(|(_, c)| c.iter()) {
        if !ids.insert(id) || !live(tree).any(|r| r.id == *id) {
            found.push(finding(RULE, *id, "is in CHECKS twice, or is no live row"));
        }
    }
    found
}

fn marks(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut marked = BTreeSet::new();
    for file in tree.rust(&["engine/", "apr/"]) {
        for (line, id) in whereabouts::marks_of(&file.text) {
            let at = format!("{}:{line}", file.path);
            match tree.rows.iter().find(|r| r.id == id).map(|r| r.status) {
                Some(Status::Live) => {}
                Some(Status::Unwritten) => found.push(finding("marks", at, format!("{id} has no check yet"))),
                None => found.push(finding("marks", at, format!("{id} is no row"))),
            }
            marked.insert(id);
        }
    }
    for row in live(tree) {
        let has_product = row.code.iter().any(|c| c.starts_with("engine/") || c.starts_with("apr/"));
        if has_product && !marked.contains(row.id.as_str()) {
            found.push(finding("marks", &row.id, format!("no //= {} in {}", row.id, row.code.join(", "))));
        }
    }
    found
}

fn code(tree: &Tree) -> Vec<Finding> {
    let there = |c: &str| tree.files.iter().any(|f| f.path == c || f.path.starts_with(&format!("{c}/")));
    let missing = |row: &Row| {
        let gone = row.code.iter().filter(|c| !there(c.trim_end_matches('/')));
        gone.map(|c| finding("code", &row.id, format!("{c} does not exist"))).collect::<Vec<_>>()
    };
    live(tree).flat_map(missing).collect()
}

fn needs(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for row in &tree.rows {
        let unknown = row.needs.iter().filter(|n| capability::find(n).is_none());
        found.extend(unknown.map(|n| finding("needs", &row.id, format!("{n} is not in capability.rs"))));
    }
    found
}

fn saboteurs(tree: &Tree) -> Vec<Finding> {
    const RULE: &str = "saboteurs";
    let mut rows_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut found = Vec::new();
    for row in live(tree) {
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

#[cfg(test)]
mod tests {
    use super::super::testing::tree;
    use super::*;

    /// The first live row after `change`, alone.
    fn with(files: &[(&str, &str)], change: impl FnOnce(&mut Row)) -> (Tree, String) {
        let mut t = tree(files);
        t.rows.retain(|r| r.status == Status::Live);
        t.rows.truncate(1);
        change(&mut t.rows[0]);
        let id = t.rows[0].id.clone();
        (t, id)
    }

    fn says(rule: fn(&Tree) -> Vec<Finding>, tree: &Tree, at: &str, what: &str) -> bool {
        rule(tree).iter().any(|f| f.at.starts_with(at) && f.what.contains(what))
    }

    #[test]
    fn rows_that_differ_from_the_specification_or_the_schema_are_found() {
        let (t, id) = with(&[], |r| r.claim.push('.'));
        assert!(says(claims, &t, &id, "the specification says"));
        let (t, id) = with(&[], |r| r.id = "F-CLI-999".into());
        assert!(says(claims, &t, &id, "is not in the specification"));
        assert!(!obeys("x.json", r#"[{"id": "F-CLI-001"}]"#).is_empty());
        assert!(!obeys("x.json", "[").is_empty());
        let (t, id) = with(&[], |r| r.needs = vec!["magic".into()]);
        assert!(says(needs, &t, &id, "magic"));
    }

    #[test]
    fn a_row_without_its_check_and_a_check_without_its_row_are_found() {
        let (t, id) = with(&[("falsify/src/checks/gguf.rs", "pub fn f_gguf_999(s: &Subject)")], |_| ());
        assert!(says(one_check, &t, &id, "wants one fn"));
        assert!(says(one_check, &t, "falsify/src/checks/gguf.rs", "f_gguf_999 is of no live row"));
        assert!(says(one_check, &t, "F-", "is in CHECKS twice, or is no live row"));
        let (t, id) = with(&[], |r| r.id = "F-CPU-109".into());
        assert!(says(one_check, &t, &id, "is not in its file's CHECKS"));
        let (t, id) = with(&[("apr/src/main.rs", "")], |r| r.code = vec!["apr/src".into(), "apr/gone.rs".into()]);
        assert!(says(code, &t, &id, "apr/gone.rs does not exist") && code(&t).len() == 1);
    }

    #[test]
    fn marks_hold_both_ways() {
        let product = [("engine/src/api.rs", "x\n    //= F-CLI-999 F-CRIT-001\n")];
        let (mut t, id) = with(&product, |_| ());
        t.rows.extend(registry::find("F-CRIT-001").cloned().map(|r| Row { status: Status::Unwritten, ..r }));
        assert!(says(marks, &t, "engine/src/api.rs:2", "F-CLI-999 is no row"));
        assert!(says(marks, &t, "engine/src/api.rs:2", "F-CRIT-001 has no check yet"));
        assert!(says(marks, &t, &id, "no //= "));
    }

    #[test]
    fn a_row_without_saboteurs_and_a_saboteur_without_rows_are_found() {
        let (t, id) = with(&[], |r| r.killed_by.clear());
        assert!(says(saboteurs, &t, &id, "names no saboteur"));
        assert!(says(saboteurs, &t, "panic-text", "is named by no live row"));
        let (mut t, id) = with(&[], |r| r.killed_by = vec!["nobody".into()]);
        assert!(says(saboteurs, &t, &id, "there is no saboteur nobody"));
        t.rows = vec![t.rows[0].clone(); ROWS_PER_SABOTEUR + 1];
        assert!(says(saboteurs, &t, "nobody", "is shared by 9 rows"));
    }
}
