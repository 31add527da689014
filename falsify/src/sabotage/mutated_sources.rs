//! Saboteurs that change the source tree: a check that reads it has to notice.

use std::io;
use std::path::Path;

use super::{Means, Saboteur, edit};

/// An entry.
const fn sources(name: &'static str, does: &'static str, how: fn(&Path) -> io::Result<()>) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::MutatedSources(how) }
}

/// Every mutated tree.
pub static ALL: &[Saboteur] = &[
    sources("apr-uses-compute", "the command line depends on the compute crate", |root| {
        append(&root.join("apr/src/plan.rs"), "\nuse compute::Format;\n")?;
        edit(&root.join("apr/Cargo.toml"), |text| {
            replace(text, "engine.workspace = true", "engine.workspace = true\ncompute.workspace = true");
        })
    }),
    sources("unsafe-outside", "the engine allows itself unsafe code, and has some", |root| {
        append(&root.join("engine/src/model.rs"), "\npub fn first(x: &[f32]) -> f32 { unsafe { *x.as_ptr() } }\n")?;
        edit(&root.join("engine/src/lib.rs"), |text| replace(text, "#![forbid(unsafe_code)]", ""))
    }),
    sources(
        "duplicate-planted",
        "templates, tokenizers and formats are read by a copy in the command line too",
        duplicate_planted,
    ),
    sources("lock-out-of-date", "the lock file lacks a package that a manifest asks for", |root| {
        edit(&root.join("apr/Cargo.toml"), |text| {
            replace(text, "engine.workspace = true", "engine.workspace = true\nhalf.workspace = true");
        })
    }),
    sources("ci-skips-a-crate", "the checks leave the engine out", |root| {
        edit(&root.join("scripts/check"), |text| {
            replace(text, "cargo test --workspace", "cargo test --workspace --exclude engine");
        })
    }),
    sources("docs-dropped", "a public item without a word about it", |root| {
        append(&root.join("engine/compute/src/error.rs"), "\npub fn undocumented() {}\n")
    }),
    sources("versions-split", "one crate asks for a version of its own", |root| {
        edit(&root.join("apr/Cargo.toml"), |text| {
            replace(text, "serde_json.workspace = true", "serde_json = \"=1.0.100\"");
        })
    }),
];

/// The longest functions of three files of the engine, once more in the command line.
fn duplicate_planted(root: &Path) -> io::Result<()> {
    let tree = crate::tidy::Tree::read(root);
    let all = crate::sources::functions(&tree);
    let mut planted = String::new();
    for file in ["engine/src/text/template.rs", "engine/src/text/bpe.rs", "engine/compute/src/quant/q4_k.rs"] {
        let longest = all.iter().filter(|f| f.path == file).max_by_key(|f| f.lines);
        let longest = longest.ok_or_else(|| io::Error::other(format!("no function in {file}")))?;
        let text = tree.file(file).map_or("", |f| f.text.as_str());
        // From its `fn` to the end of its body, which is so many lines after the line where the body begins: copying a
        // few lines too many does no harm, so the count is from the `fn`.
        let body: Vec<&str> = text.lines().skip(longest.line - 1).collect();
        let end = body.iter().position(|l| l.trim_end() == closing(body[0])).unwrap_or(body.len() - 1);
        planted += &format!("\n{}\n", body[..=end].join("\n"));
    }
    append(&root.join("apr/src/plan.rs"), &planted)
}

/// The line that closes a body whose `fn` stands on this line.
fn closing(first: &str) -> String {
    let indent = first.len() - first.trim_start().len();
    format!("{}}}", &first[..indent])
}

fn append(file: &Path, more: &str) -> io::Result<()> {
    edit(file, |text| text.extend(more.bytes()))
}

fn replace(text: &mut Vec<u8>, from: &str, to: &str) {
    *text = String::from_utf8_lossy(text).replacen(from, to, 1).into_bytes();
}
