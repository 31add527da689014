//! F-INT: how the parts fit together. Rows about the tree read it as cargo and as a compiler would.

mod downloads;
mod house;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use house::{f_int_291, f_int_298, f_int_299, f_int_300};
use serde_json::Value;

use super::Check;
use crate::ask::{PROMPTS, answered, ask, printed};
use crate::forge;
use crate::screen::{Screens, spins};
use crate::sources::{self, Function};
use crate::subject::Subject;
use crate::tidy::{File, Tree};
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-INT-281", f_int_281),
    ("F-INT-282", f_int_282),
    ("F-INT-283", f_int_283),
    ("F-INT-284", downloads::f_int_284),
    ("F-INT-285", downloads::f_int_285),
    ("F-INT-286", downloads::f_int_286),
    ("F-INT-287", f_int_287),
    ("F-INT-288", downloads::f_int_288),
    ("F-INT-289", downloads::f_int_289),
    ("F-INT-290", downloads::f_int_290),
    ("F-INT-291", f_int_291),
    ("F-INT-292", f_int_292),
    ("F-INT-293", f_int_293),
    ("F-INT-294", f_int_294),
    ("F-INT-295", f_int_295),
    ("F-INT-296", f_int_296),
    ("F-INT-297", f_int_297),
    ("F-INT-298", f_int_298),
    ("F-INT-299", f_int_299),
    ("F-INT-300", f_int_300),
];

/// Functions shorter than this look alike by nature.
const LINES: usize = 10;

/// What `cargo metadata` says of the workspace: its packages, without what they depend on in turn.
fn metadata(root: &Path) -> Result<Vec<Value>, Halt> {
    let out = Command::new("cargo")
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .output()
        .map_err(|e| instrument(format!("cargo metadata: {e}")))?;
    let said: Value = serde_json::from_slice(&out.stdout)
        .map_err(|_| instrument(format!("cargo metadata: {}", String::from_utf8_lossy(&out.stderr).trim())))?;
    said["packages"].as_array().cloned().ok_or_else(|| instrument("cargo metadata names no packages"))
}

fn package<'a>(all: &'a [Value], name: &str) -> Result<&'a Value, Halt> {
    all.iter().find(|p| p["name"] == name).ok_or_else(|| instrument(format!("no package {name}")))
}

/// Names of the packages that a package is built with; those of its tests are left out.
fn depends(package: &Value) -> Vec<&str> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|d| d["kind"].is_null()).filter_map(|d| d["name"].as_str()).collect()
}

/// The first line of code of these files that mentions a word.
fn mention<'a>(files: impl Iterator<Item = &'a File>, words: &[&str]) -> Option<String> {
    let mut lines = files.flat_map(|f| f.code().map(move |(n, line)| (f, n, line)));
    // Whole words: SafeTensors are no tensors.
    let begins = |line: &str, at: usize| !line[..at].ends_with(char::is_alphanumeric);
    let says = |line: &str, word: &str| line.match_indices(word).any(|(at, _)| begins(line, at));
    let found = lines.find(|(_, _, line)| words.iter().any(|w| says(line, w)));
    found.map(|(f, n, line)| format!("{}:{n}: {}", f.path, line.trim()))
}

/// apr-cli uses realizar for inference: the command line depends on the engine and knows no tensor.
pub fn f_int_281(s: &Subject) -> Attempt {
    let mut t = Tally::new("cargo metadata of apr-cli, and every line of apr/src");
    let root = s.sources()?;
    let packages = metadata(root)?;
    let used = depends(package(&packages, "apr-cli")?);
    t.hold(used.contains(&"engine"), || {
        Refutation::new("apr-cli depends on the engine", format!("{used:?}"), "engine")
    })?;
    let compute = !used.contains(&"compute");
    t.hold(compute, || Refutation::new("apr-cli depends on no compute crate", format!("{used:?}"), "no compute"))?;
    let tree = sources::tree(root)?;
    let files = || tree.product().filter(|f| f.path.starts_with("apr/src/"));
    let words = ["compute::", "Tensor", "WeightRef", "Program", "Runner"];
    let found = mention(files(), &words);
    t.hold(found.is_none(), || Refutation::new("apr/src names no tensor", found.unwrap_or_default(), "none"))?;
    let asks = mention(files(), &["engine::"]).is_some();
    t.hold(asks, || Refutation::new("apr/src asks the engine", "no line says engine::", "one that does"))?;
    t.number("files", files().count() as f64);
    t.done()
}

/// realizar uses trueno for compute: every kernel and all unsafe code is in the compute crate.
pub fn f_int_282(s: &Subject) -> Attempt {
    let mut t = Tally::new("cargo metadata of the engine, and every line of engine/src and apr/src");
    let root = s.sources()?;
    let packages = metadata(root)?;
    let used = depends(package(&packages, "engine")?);
    t.hold(used.contains(&"compute"), || {
        Refutation::new("the engine depends on the compute crate", format!("{used:?}"), "compute")
    })?;
    let below = depends(package(&packages, "compute")?);
    let alone = !below.iter().any(|name| ["engine", "apr-cli", "falsify"].contains(name));
    t.hold(alone, || Refutation::new("compute depends on nothing above it", format!("{below:?}"), "none of them"))?;
    let tree = sources::tree(root)?;
    for file in ["engine/src/lib.rs", "apr/src/main.rs"] {
        let text = tree.file(file).map_or("", |f| f.text.as_str());
        let forbids = text.contains("#![forbid(unsafe_code)]");
        t.hold(forbids, || Refutation::new(format!("{file} forbids unsafe code"), "it does not", "it does"))?;
    }
    let outside = || tree.product().filter(|f| !f.path.starts_with("engine/compute/"));
    for (what, words) in [
        ("unsafe code", &["unsafe {", "unsafe fn", "unsafe impl"][..]),
        ("instructions of a processor", &["core::arch", "std::arch", "_mm256_", "_mm512_"]),
    ] {
        let found = mention(outside(), words);
        t.hold(found.is_none(), || {
            Refutation::new(format!("{what} only in compute"), found.unwrap_or_default(), "none elsewhere")
        })?;
    }
    t.number("files outside compute", outside().count() as f64);
    t.done()
}

/// presentar-terminal spinner works: it turns on a terminal for as long as nothing else is to be seen.
pub fn f_int_283(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run on a pseudo-terminal, slowed down by a long prompt and scalar arithmetic");
    let prompt = "one two three four five six seven eight nine ten ".repeat(15);
    let run = ask(s, &prompt, &["--max-tokens", "4", "--threads", "1"])?.env("APR_ISA", "scalar");
    let seen = answered(run.on_terminal())?;
    let mut frames: Vec<char> = Vec::new();
    for screen in Screens::replay(&seen.stdout).all {
        let frame = screen.chars().find(|c| spins(&c.to_string()));
        frames.extend(frame.filter(|c| frames.last() != Some(c)));
    }
    let shown: String = frames.iter().collect();
    t.hold(frames.len() >= 2, || seen.refute("the spinner turns", &*shown, "two frames or more, one after another"))?;
    t.number("frames", frames.len() as f64);
    t.done()
}

/// Local paths work: as the system says, whatever they are made of.
pub fn f_int_287(s: &Subject) -> Attempt {
    let mut t = Tally::new("the fixture by relative, absolute, linked, spaced and non-UTF-8 paths, and as a folder");
    let model = s.model()?;
    let folder = s.scratch()?;
    let said = printed(s, PROMPTS[0], &[])?;
    let mut paths: Vec<(&str, PathBuf)> = vec![("absolute", model.clone())];
    let mut copy = |what: &'static str, name: &OsStr| -> Result<(), Halt> {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&folder)).map_err(instrument)?;
        std::fs::hard_link(&model, &path).or_else(|_| std::fs::copy(&model, &path).map(drop)).map_err(instrument)?;
        paths.push((what, path));
        Ok(())
    };
    copy("with blanks and quotes", OsStr::new("a 'model' \"of\" mine.gguf"))?;
    copy("beginning with a dash", OsStr::new("-m.gguf"))?;
    copy("without an ending", OsStr::new("модель 模型"))?;
    copy("with dots in it", OsStr::new("a/../a/./b.gguf"))?;
    #[cfg(unix)]
    copy("not UTF-8", std::os::unix::ffi::OsStrExt::from_bytes(b"m\xff\xfe.gguf"))?;
    #[cfg(unix)]
    {
        let (link, second) = (folder.join("link"), folder.join("link of a link"));
        std::os::unix::fs::symlink(&model, &link).map_err(instrument)?;
        std::os::unix::fs::symlink("link", &second).map_err(instrument)?;
        paths.push(("a link of a link", second));
        std::os::unix::fs::symlink(s.fixtures.join("qwen2-tiny"), folder.join("folder")).map_err(instrument)?;
    }
    for (what, path) in &paths {
        let run = s.apr(["run"]).args([path.as_os_str()]).args([PROMPTS[0], "--temperature", "0"]);
        let out = answered(run)?;
        t.hold(out.out() == said, || out.refute(&format!("a path {what}"), out.out(), &*said))?;
    }
    // From inside its folder: by name alone, and one that looks like a flag behind `./`.
    for path in ["link", "./-m.gguf", "a/b.gguf", "./a/../link of a link"] {
        let run = s.apr(["run", path, PROMPTS[0], "--temperature", "0"]).in_folder(&folder);
        let out = answered(run)?;
        t.hold(out.out() == said, || out.refute(&format!("the relative path {path}"), out.out(), &*said))?;
    }
    t.done()
}

/// Version compatibility checked: what a newer program wrote is refused, with its version and the one that is read.
pub fn f_int_296(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("a GGUF file, an .apr file and a trace of later versions, through apr; versions of the crates");
    let folder = s.scratch()?;
    let put = |name: &str, from: &Path, change: &dyn Fn(&mut Vec<u8>)| -> Result<PathBuf, Halt> {
        let mut bytes = std::fs::read(from).map_err(instrument)?;
        change(&mut bytes);
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(instrument)?;
        Ok(path)
    };
    let gguf = put("later.gguf", &s.model()?, &|b| b[4..8].copy_from_slice(&4u32.to_le_bytes()))?;
    let apr = put("later.apr", &s.forged("apr-qwen2-f16")?, &|b| {
        b[4..6].copy_from_slice(&[3, 0]);
        forge::apr::sum_header(b);
        forge::apr::sum_end(b);
    })?;
    let recorded = folder.join("trace.json");
    answered(ask(s, PROMPTS[0], &["--max-tokens", "2"])?.args(["--trace-output"]).args([recorded.as_os_str()]))?;
    let later = |text: &mut Vec<u8>| {
        let old = String::from_utf8_lossy(text);
        *text = old.replacen("\"schema_version\":\"1.0\"", "\"schema_version\":\"2.0\"", 1).into_bytes();
    };
    let compact: Value = serde_json::from_slice(&std::fs::read(&recorded).map_err(instrument)?).map_err(instrument)?;
    std::fs::write(&recorded, compact.to_string()).map_err(instrument)?;
    let trace = put("later.json", &recorded, &later)?;
    for (run, theirs, ours) in [
        (s.apr(["run"]).args([gguf.as_os_str()]).args(["hi"]), "4", "3"),
        (s.apr(["run"]).args([apr.as_os_str()]).args(["hi"]), "3.0", "2.0"),
        (s.apr(["replay"]).args([trace.as_os_str()]), "2.0", "1.0"),
    ] {
        let out = run.judged()?;
        t.hold(out.code() == Some(6), || out.refute("it is refused", format!("{:?}", out.code()), "exit code 6"))?;
        for version in [theirs, ours] {
            let err = out.err();
            t.hold(err.contains(version), || out.refute("the message has both versions", &*err, version))?;
        }
    }
    let again = s.apr(["replay"]).args([recorded.as_os_str()]).judged()?;
    t.hold(again.code() == Some(0), || again.refute("a trace of this version is read", again.err(), "exit code 0"))?;
    let packages = metadata(s.sources()?)?;
    let versions: BTreeSet<&str> = packages.iter().filter_map(|p| p["version"].as_str()).collect();
    t.hold(versions.len() == 1, || Refutation::new("the crates share one version", format!("{versions:?}"), "one"))?;
    t.done()
}

/// No duplicate code between apr-cli and realizar.
pub fn f_int_292(s: &Subject) -> Attempt {
    let mut t = Tally::new("the bodies of all functions of ten lines and more, token by token");
    let tree = sources::tree(s.sources()?)?;
    let all = sources::functions(&tree);
    let apr = |f: &Function| f.path.starts_with("apr/");
    no_twin(&mut t, &all, apr, |f| f.path.starts_with("engine/"))?;
    t.number("functions of apr", all.iter().filter(|f| apr(f)).count() as f64);
    t.number("functions of the engine", all.iter().filter(|f| !apr(f)).count() as f64);
    t.done()
}

fn no_twin(
    t: &mut Tally,
    all: &[Function],
    one: impl Fn(&Function) -> bool,
    other: impl Fn(&Function) -> bool,
) -> Result<(), Halt> {
    let compared = all.iter().filter(|f| one(f) && f.lines >= LINES).count();
    t.hold(compared > 0, || Refutation::new("there is something to compare", "no function", "some"))?;
    let twins = sources::twins(all, LINES, one, other);
    t.hold(twins.is_empty(), || {
        let name = |f: &Function| format!("{}:{} {}", f.path, f.line, f.name);
        let shown: Vec<String> = twins.iter().map(|(a, b)| format!("{} is {}", name(a), name(b))).collect();
        Refutation::new("no body stands in both", shown.join("; "), "none")
    })?;
    t.number("functions compared", compared as f64);
    Ok(())
}

/// Something that is done in one place.
struct Place {
    /// Files and folders where it is done.
    home: &'static [&'static str],
    /// What only code that does it says.
    words: &'static [&'static str],
    /// The doors of it, which must exist once: `fn` with this name.
    doors: &'static [&'static str],
}

fn in_one_place(s: &Subject, what: &str, place: &Place) -> Attempt {
    let mut t = Tally::new(what);
    let tree: Tree = sources::tree(s.sources()?)?;
    let home = |path: &str| place.home.iter().any(|h| path.starts_with(h));
    let elsewhere = tree.product().filter(|f| !home(&f.path));
    let found = mention(elsewhere, place.words);
    t.hold(found.is_none(), || {
        Refutation::new(
            format!("{:?} only in {:?}", place.words, place.home),
            found.unwrap_or_default(),
            "none elsewhere",
        )
    })?;
    let used = mention(tree.product().filter(|f| home(&f.path)), place.words).is_some();
    t.hold(used, || Refutation::new("it is done there", format!("none of {:?}", place.words), "one of them"))?;
    let all = sources::functions(&tree);
    for door in place.doors {
        let at: Vec<&Function> = all.iter().filter(|f| f.name == *door && home(&f.path)).collect();
        let twice = || at.iter().map(|f| format!("{}:{}", f.path, f.line)).collect::<Vec<_>>().join(", ");
        t.hold(at.len() == 1, || Refutation::new(format!("one door fn {door}"), twice(), "one"))?;
    }
    no_twin(&mut t, &all, |f| home(&f.path), |f| !home(&f.path))?;
    t.done()
}

/// Shared chat template logic: templates are rendered in one place.
pub fn f_int_293(s: &Subject) -> Attempt {
    in_one_place(
        s,
        "where minijinja is used, and the bodies of the functions there",
        &Place {
            home: &["engine/src/text/template.rs", "engine/src/text/template/"],
            words: &["minijinja::"],
            doors: &["render"],
        },
    )
}

/// Shared tokenizer logic: text becomes tokens in one place.
pub fn f_int_294(s: &Subject) -> Attempt {
    in_one_place(
        s,
        "where tokenizers are built and text is encoded, and the bodies of the functions there",
        &Place {
            home: &["engine/src/text/"],
            words: &["tokenizers::", "BPE::builder", "fancy_regex"],
            doors: &["encode_raw"],
        },
    )
}

/// Shared quantization logic: blocks are decoded in one place.
pub fn f_int_295(s: &Subject) -> Attempt {
    in_one_place(
        s,
        "where blocks of number formats are taken apart, and the bodies of the functions there",
        &Place { home: &["engine/compute/src/quant/"], words: &["f16_at(", "static SPEC"], doors: &["decode_row"] },
    )
}

/// Dependency versions aligned: every version stands in the workspace, and each direct dependency resolves to one.
pub fn f_int_297(s: &Subject) -> Attempt {
    let mut t = Tally::new("cargo metadata of every package, its manifest, and Cargo.lock");
    let root = s.sources()?;
    let packages = metadata(root)?;
    let mut wanted: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for p in &packages {
        let who = p["name"].as_str().unwrap_or_default();
        for d in p["dependencies"].as_array().into_iter().flatten() {
            let (name, req) = (d["name"].as_str().unwrap_or_default(), d["req"].as_str().unwrap_or_default());
            wanted.entry(name.to_string()).or_default().push((who.to_string(), req.to_string()));
        }
    }
    for (name, by) in &wanted {
        let one = by.iter().all(|(_, req)| *req == by[0].1);
        t.hold(one, || Refutation::new(format!("one requirement on {name}"), format!("{by:?}"), "one"))?;
    }
    let tree = sources::tree(root)?;
    for manifest in ["apr", "engine", "engine/compute", "falsify"] {
        let path = format!("{manifest}/Cargo.toml");
        let text = &tree.file(&path).ok_or_else(|| instrument(format!("no {path}")))?.text;
        let own = version_of_its_own(text);
        t.hold(own.is_none(), || {
            Refutation::new(format!("{path} takes versions from the workspace"), own.unwrap_or_default(), "none")
        })?;
    }
    let lock = &tree.file("Cargo.lock").ok_or_else(|| instrument("no Cargo.lock"))?.text;
    let mut locked: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, version) in lock.split("[[package]]").skip(1).filter_map(locked_package) {
        locked.entry(name).or_default().push(version);
    }
    // What other packages want of the same name is theirs; it must not be two of ours that differ.
    for name in wanted.keys() {
        let found = locked.get(name.as_str()).map_or(0, Vec::len);
        t.hold(found >= 1, || Refutation::new(format!("{name} is locked"), "it is not", "a version"))?;
    }
    t.number("direct dependencies", wanted.len() as f64);
    t.done()
}

/// The first dependency of a manifest that names a version or a path itself.
fn version_of_its_own(manifest: &str) -> Option<String> {
    let mut inside = false;
    let mut lines = manifest.lines().filter(|line| {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        }
        inside && !line.starts_with(['[', '#']) && !line.trim().is_empty()
    });
    lines.find(|line| !line.contains("workspace = true")).map(str::to_string)
}

/// Name and version of a package of the lock file.
fn locked_package(text: &str) -> Option<(&str, &str)> {
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'));
    Some((field("name")?, field("version")?))
}
