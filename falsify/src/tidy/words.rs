//! Rules about text: file names, lengths, and words that must not appear.

use super::{File, Finding, Rule, Tree, finding};
use crate::ask;

/// The rules.
pub static RULES: &[Rule] = &[
    Rule { name: "names", why: "a file is called what it is about", check: file_names },
    Rule { name: "length", why: "a hand-written file that nobody can hold in mind is two files", check: length },
    Rule { name: "include", why: "code pasted into code hides where it is", check: include },
    Rule {
        name: "no-early-return",
        why: "a check that leaves early or asserts nothing prints ok",
        check: early_return,
    },
    Rule { name: "panics", why: "whatever a file, a user or a peer can cause is an error", check: panics },
    Rule { name: "fixtures", why: "an engine that knows its test knows the answer", check: fixtures },
    Rule { name: "machine-paths", why: "a path of one machine is wrong on every other", check: machine_paths },
];

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc"];

/// Endings in a digit that are names of things: formats, instruction sets, families, encodings.
const DIGIT_NAMES: &[&str] = &[
    "f16", "bf16", "f32", "f64", "float16", "bfloat16", "float32", "avx2", "avx512", "utf8", "sha256", "q4_0", "q4_1",
    "q5_0", "q5_1", "q8_0", "q8_1", "fp8", "qwen2", "qwen3", "llama3", "gemma2", "gemma3", "phi3", "gpt2", "mxfp4",
    "nvfp4", "lz4", "int4", "int8", "vnni512",
];

fn file_names(tree: &Tree) -> Vec<Finding> {
    let bad = |f: &File| {
        let stem = f.path.rsplit('/').next()?.strip_suffix(".rs")?;
        if EMPTY_NAMES.contains(&stem) {
            return Some(finding("names", &f.path, "says nothing about what is in it"));
        }
        let numbered = stem.ends_with(|c: char| c.is_ascii_digit()) && !DIGIT_NAMES.contains(&stem);
        numbered.then(|| finding("names", &f.path, "ends in a number"))
    };
    tree.files.iter().filter_map(bad).collect()
}

/// Lines of a hand-written file.
const LINES_MAX: usize = 700;

/// Files that are tables, and what they are tables of.
const TABLES: &[(&str, &str)] = &[];

fn length(tree: &Tree) -> Vec<Finding> {
    let exempt = |f: &File| TABLES.iter().any(|(path, _)| f.path == *path);
    let long = |f: &File| {
        let lines = f.text.lines().count();
        (lines > LINES_MAX).then(|| finding("length", &f.path, format!("{lines} lines, {LINES_MAX} at most")))
    };
    tree.rust(&["engine/", "apr/", "falsify/"]).filter(|f| !exempt(f)).filter_map(long).collect()
}

fn include(tree: &Tree) -> Vec<Finding> {
    // Written apart, so that this file does not break its own rule.
    let word = concat!("include", "!(");
    let used = |line: &str| line.contains(word).then(|| "pastes a file into code".to_string());
    tree.rust(&["engine/", "apr/", "falsify/"]).flat_map(|f| f.lines_where("include", used)).collect()
}

fn early_return(tree: &Tree) -> Vec<Finding> {
    const RULE: &str = "no-early-return";
    let hollow = concat!("assert!", "(true");
    let leaves =
        |line: &str| (line.trim() == "return;" || line.contains(" return;")).then(|| "leaves early".to_string());
    let mut found: Vec<Finding> =
        tree.rust(&["falsify/src/checks/"]).flat_map(|f| f.lines_where(RULE, leaves)).collect();
    for f in tree.rust(&["falsify/src/checks/"]) {
        let mut inside = false;
        for (n, line) in f.code() {
            inside = line.starts_with("pub fn f_") || inside && line != "}";
            if inside && ["return Ok(", "return t.done("].iter().any(|w| line.contains(w)) {
                found.push(finding(RULE, format!("{}:{n}", f.path), "survives before its end"));
            }
        }
    }
    for f in tree.rust(&["engine/", "apr/", "falsify/"]) {
        let lines = f.text.lines().enumerate().filter(|(_, l)| l.contains(hollow));
        found.extend(lines.map(|(i, _)| finding(RULE, format!("{}:{}", f.path, i + 1), "asserts nothing")));
    }
    found
}

fn panics(tree: &Tree) -> Vec<Finding> {
    let words = [".unwrap()", "panic!(", "todo!(", "unimplemented!(", ".expect(", "unreachable!("];
    // What cannot happen may be said so, in words that a reader can check.
    let bad = |l: &str| {
        let word = words.iter().find(|w| l.contains(**w))?;
        (!l.contains("(\"invariant: ")).then(|| format!("{word} without an invariant"))
    };
    tree.product().flat_map(|f| f.lines_where("panics", bad)).collect()
}

/// Names, hashes and prompts of the fixtures, none of which may stand in the engine.
fn fixtures(tree: &Tree) -> Vec<Finding> {
    let mut words: Vec<String> = ask::PROMPTS.iter().chain(ask::LONG_PROMPTS).map(|p| p.to_string()).collect();
    for entry in std::fs::read_dir(tree.root.join("fixtures")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".gguf") {
            words.push(stem.to_string());
        }
    }
    let index = tree.file("fixtures/INDEX.json").map_or("", |f| f.text.as_str());
    let hexadecimal = |w: &&str| w.len() == 64 && w.chars().all(|c| c.is_ascii_hexdigit());
    words.extend(index.split('"').filter(hexadecimal).map(str::to_string));
    let known =
        |line: &str| words.iter().find(|w| line.contains(w.as_str())).map(|w| format!("knows the fixture: {w}"));
    let engine = tree.product().filter(|f| f.path.starts_with("engine/"));
    engine.flat_map(|f| f.lines_where("fixtures", known)).collect()
}

fn machine_paths(tree: &Tree) -> Vec<Finding> {
    let roots = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
        concat!("/work", "/main"),
        concat!("/work", "/shared"),
        concat!("/work", "/tools"),
        concat!("C:\\", "Users"),
    ];
    let mut found = Vec::new();
    for f in &tree.files {
        for (i, line) in f.text.lines().enumerate() {
            if let Some(path) = roots.iter().find(|r| line.contains(**r)) {
                found.push(finding("machine-paths", format!("{}:{}", f.path, i + 1), format!("names {path}")));
            }
        }
    }
    found
}
