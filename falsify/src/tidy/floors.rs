//! Rules about the architecture: arrows point down only, and `unsafe` stays behind its fence.

use super::{File, Finding, Rule, Tree, finding};

/// The rules.
pub static RULES: &[Rule] = &[
    Rule { name: "floors", why: "a lower floor knows nothing of a higher one", check: floors },
    Rule { name: "unsafe-fence", why: "unsafe code is in a handful of known files of compute", check: unsafe_fence },
    Rule { name: "printing", why: "standard output is the answer alone", check: printing },
    Rule { name: "environment", why: "a setting that is in no table cannot be found", check: environment },
];

/// The engine's modules by floor. A module mentions modules of its own floor and of those below. Floor 0 of this table
/// is what everybody may use, and what uses only itself.
const MODULES: &[(&str, u8)] = &[
    ("error", 0),
    ("knobs", 0),
    ("limits", 0),
    ("similar", 0),
    ("file", 1),
    ("arch", 2),
    ("model", 2),
    ("program", 2),
    ("rope", 2),
    ("text", 2),
    ("continuation", 3),
    ("convert", 3),
    ("grammar", 3),
    ("guard", 3),
    ("sample", 3),
    ("speculate", 3),
    ("scheduler", 3),
    ("session", 3),
    ("api", 4),
    ("bench", 4),
    ("chat", 4),
    ("check", 4),
    ("doctor", 4),
    ("serve", 4),
    ("term", 4),
    ("trace", 4),
    ("tune", 4),
    ("twin", 4),
];

/// What a folder must not mention beside that.
const FLOORS: &[(&str, &[&str])] = &[
    ("engine/compute/src/", &["engine::", "falsify::", "clap::"]),
    ("engine/src/", &["falsify::", "clap::"]),
    (
        "engine/src/text/",
        &["crate::file::gguf", "crate::file::safetensors", "crate::file::apr", "crate::file::cursor", "crate::program"],
    ),
    ("engine/src/arch/", &["crate::text"]),
    ("engine/src/sample", &["crate::session"]),
    ("apr/src/", &["compute::", "falsify::"]),
];

fn floors(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.product() {
        for (_, forbidden) in FLOORS.iter().filter(|(folder, _)| file.path.starts_with(folder)) {
            found.extend(file.lines_where("floors", |line| {
                forbidden.iter().find(|word| names(line, word)).map(|word| format!("mentions {word}"))
            }));
        }
    }
    for file in tree.product().filter(|f| f.path.starts_with("engine/src/") && f.path != "engine/src/lib.rs") {
        let module = file.path["engine/src/".len()..].split(['/', '.']).next().unwrap_or_default();
        match MODULES.iter().find(|(name, _)| *name == module) {
            None => found.push(finding("floors", &file.path, "is on no floor of the table in tidy/floors.rs")),
            Some((_, floor)) => found.extend(file.lines_where("floors", |line| above(line, module, *floor))),
        }
    }
    found
}

/// The module of a higher floor that a line mentions, as `crate::session` or in `use crate::{error, session}`.
fn above(line: &str, module: &str, floor: u8) -> Option<String> {
    let used = line.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        None => rest.split(|c: char| !c.is_alphanumeric() && c != '_').take(1).collect::<Vec<_>>(),
        Some(list) => list.split(|c: char| !c.is_alphanumeric() && c != '_').collect(),
    });
    let higher = |name: &str| MODULES.iter().any(|(m, f)| *m == name && *f > floor);
    used.into_iter().find(|name| higher(name)).map(|name| format!("mentions crate::{name}, which is above {module}"))
}

/// Whether the line has this path, not as the tail of a longer word.
fn names(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// Crate roots that forbid unsafe code.
const ROOTS: &[&str] = &[
    "engine/src/lib.rs",
    "apr/src/main.rs",
    "falsify/src/lib.rs",
    "falsify/src/main.rs",
    "falsify/src/bin/evil_apr.rs",
];

/// The only files that may say `unsafe`, and why; a slash at the end means the whole folder.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("engine/compute/src/heap.rs", "the allocator: it says when there is no memory left"),
    ("engine/compute/src/map.rs", "mmap: the file may change under the mapping"),
    ("engine/compute/src/quant/", "each format unpacks its blocks with the instructions of a Simd token"),
    ("engine/compute/src/cpu/simd/", "intrinsics"),
    ("engine/compute/src/cpu/isa.rs", "enters functions compiled for an instruction set that was found"),
    ("engine/compute/src/cpu/mod.rs", "the step's phases over shared buffers"),
    ("engine/compute/src/cpu/pool.rs", "hands a borrowed closure to parked threads"),
    ("engine/compute/src/cpu/shared.rs", "buffers that workers write in disjoint ranges"),
    ("engine/compute/src/cpu/phase.rs", "calls into shared buffers"),
    ("engine/compute/src/cpu/kv.rs", "cache blocks that workers write in disjoint ranges"),
    ("engine/compute/src/cpu/acts.rs", "activation blocks, vector loads"),
    ("engine/compute/src/cpu/planes.rs", "packed weight planes, vector loads"),
    ("engine/compute/src/cpu/product.rs", "the dot product of a tile"),
    ("engine/compute/src/cpu/rows.rs", "rows of a tile"),
    ("engine/compute/src/cpu/tile.rs", "tiles of weights"),
    ("engine/compute/src/cpu/ops.rs", "vector loops over rows"),
    ("engine/compute/src/cpu/attend.rs", "attention tiles"),
    ("engine/compute/src/cuda/driver.rs", "calls into NVIDIA's driver"),
    ("engine/compute/src/cuda/kernels.rs", "arguments of kernels as bytes"),
    ("engine/compute/src/cuda/runner.rs", "launches kernels over memory of the device"),
];

fn unsafe_fence(tree: &Tree) -> Vec<Finding> {
    const RULE: &str = "unsafe-fence";
    let open = |f: &&File| ROOTS.contains(&f.path.as_str()) && !f.text.contains("#![forbid(unsafe_code)]");
    let mut found: Vec<Finding> =
        tree.files.iter().filter(open).map(|f| finding(RULE, &f.path, "does not forbid unsafe code")).collect();
    let allowed =
        |f: &File| UNSAFE_FILES.iter().any(|(u, _)| f.path == *u || u.ends_with('/') && f.path.starts_with(u));
    // falsify is spared the word search (its rules say the word); it forbids the thing itself.
    for file in tree.rust(&["engine/", "apr/"]).filter(|f| !allowed(f)) {
        let said = |line: &str| {
            let word = line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
            word.then(|| "unsafe outside the fence".to_string())
        };
        found.extend(file.lines_where(RULE, said));
    }
    found
}

/// Product files that may print.
const PRINTERS: &[&str] = &["engine/src/term.rs", "apr/src/main.rs"];

fn printing(tree: &Tree) -> Vec<Finding> {
    let macros = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    let product = tree.product();
    let printed = |line: &str| macros.iter().find(|m| names(line, m)).map(|m| format!("{m} outside term.rs"));
    product.filter(|f| !PRINTERS.contains(&f.path.as_str())).flat_map(|f| f.lines_where("printing", printed)).collect()
}

/// The one file of the product that reads the environment.
const KNOBS: &[&str] = &["engine/src/knobs.rs", "apr/src/knobs.rs"];

fn environment(tree: &Tree) -> Vec<Finding> {
    let product = tree.product();
    let reads = |line: &str| {
        let words = ["env::var", "env::var_os", "env::set_var", "env::vars"];
        words.iter().find(|w| line.contains(**w)).map(|w| format!("{w} outside knobs.rs"))
    };
    let mut found: Vec<Finding> = product
        .filter(|f| !KNOBS.contains(&f.path.as_str()))
        .flat_map(|f| f.lines_where("environment", reads))
        .collect();
    if KNOBS.iter().filter(|k| tree.file(k).is_some()).count() > 1 {
        found.push(finding("environment", KNOBS.join(", "), "one table is enough"));
    }
    found
}
