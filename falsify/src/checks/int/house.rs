//! F-INT-291, 298 to 300: what somebody has who has the source tree and cargo: an installation, the checks, the
//! documents and their examples.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::ask::PROMPTS;
use crate::child::Run;
use crate::launch;
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// cargo in a tree, with the build folder of the tree around us: what is built there is not built again.
fn cargo(tree: &Path, words: &[&str]) -> Result<Output, Halt> {
    let mut command = Command::new("cargo");
    command.current_dir(tree).args(words);
    if let Some(root) = launch::root() {
        command.env("CARGO_TARGET_DIR", root.join("target"));
    }
    command.output().map_err(|e| instrument(format!("cargo {}: {e}", words.join(" "))))
}

/// cargo succeeds.
fn succeeds(t: &mut Tally, tree: &Path, words: &[&str]) -> Result<(), Halt> {
    let out = cargo(tree, words)?;
    let line = format!("cargo {}", words.join(" "));
    t.hold(out.status.success(), || {
        let err = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
        let told = err.lines().find(|l| l.starts_with("error") || l.contains("FAILED") || l.contains("panicked at"));
        Refutation::new(format!("{line} succeeds"), told.or(err.lines().last()).unwrap_or_default(), "exit code 0")
            .repro(line.clone())
    })
}

/// `apr` of this place answers.
fn answers(t: &mut Tally, s: &Subject, apr: PathBuf) -> Result<(), Halt> {
    let installed = s.with_apr(apr);
    let version = installed.apr(["--version"]).judged()?;
    let named = version.code() == Some(0) && version.out().starts_with("apr ");
    t.hold(named, || version.refute("what was installed says its version", version.out(), "apr and a number"))?;
    let model = s.model()?;
    let ask = |who: &Subject| who.apr(["run"]).args([model.as_os_str()]).args([PROMPTS[0], "--temperature", "0"]);
    let (seen, want) = (ask(&installed).judged()?, ask(s).judged()?);
    let same = seen.code() == Some(0) && seen.stdout == want.stdout && !seen.stdout.is_empty();
    t.hold(same, || seen.refute("what was installed answers as the binary here", seen.out(), want.out()))
}

/// `cargo install --path apr` into an empty folder gives an `apr` that answers.
pub fn f_int_291(s: &Subject) -> Attempt {
    let mut t = Tally::new("cargo install --locked --path apr into an empty folder, and the apr that it put there");
    let root = s.scratch()?;
    let place = root.to_string_lossy().into_owned();
    // `cargo install --locked` alone takes a lock file that lacks something without a word.
    succeeds(&mut t, s.sources()?, &["tree", "--locked", "--offline", "-p", "apr-cli", "--depth", "0"])?;
    succeeds(&mut t, s.sources()?, &["install", "--locked", "--offline", "--path", "apr", "--root", &place])?;
    let apr = root.join("bin").join(format!("apr{}", std::env::consts::EXE_SUFFIX));
    t.hold(apr.is_file(), || Refutation::new("bin/apr is there", "no such file", "an executable"))?;
    answers(&mut t, s, apr)?;
    t.done()
}

fn text(root: &Path, path: &str) -> Result<String, Halt> {
    std::fs::read_to_string(root.join(path)).map_err(|e| instrument(format!("{path}: {e}")))
}

/// The commands of a script: its lines without blanks, comments and what only tells.
fn commands(script: &str) -> Vec<&str> {
    let tells = |l: &&str| !l.is_empty() && !l.starts_with('#') && !l.starts_with("step ");
    script.lines().map(str::trim).filter(tells).collect()
}

/// CI passes for all crates: it runs `scripts/check`, which leaves no crate out, and whose steps pass here. The suite
/// itself is the run that this row is part of; its own tests are run, its rows are not run inside of it.
pub fn f_int_298(s: &Subject) -> Attempt {
    let mut t = Tally::new(".github/workflows/ci.yml, .ci/run and scripts/check; each step of the last but the rows");
    let root = s.sources()?;
    for (path, calls) in [(".github/workflows/ci.yml", "bash .ci/run"), (".ci/run", "scripts/check")] {
        let script = text(root, path)?;
        let called = commands(&script).iter().any(|l| l.trim_start_matches("- run: ") == calls);
        t.hold(called, || Refutation::new(format!("{path} runs {calls}"), "it does not", "a line that does"))?;
    }
    let script = text(root, "scripts/check")?;
    let steps: Vec<&str> = commands(&script).into_iter().filter(|l| l.starts_with("cargo ")).collect();
    for (tool, all) in [("cargo fmt", "--all"), ("cargo clippy", "--workspace"), ("cargo test", "--workspace")] {
        let step = steps.iter().find(|l| l.starts_with(tool)).copied().unwrap_or_default();
        let whole = step.split(' ').any(|w| w == all) && !step.contains("--exclude") && !step.contains("|| ");
        t.hold(whole, || Refutation::new(format!("{tool} is run for every crate"), step, format!("{tool} .. {all}")))?;
    }
    let strict = script.lines().any(|l| l.starts_with("set -e"));
    t.hold(strict, || Refutation::new("a step that fails ends scripts/check", "no set -e", "set -euo pipefail"))?;
    for step in &steps {
        let words: Vec<&str> = step.split(' ').skip(1).collect();
        if words.first() == Some(&"test") {
            succeeds(&mut t, root, &[&words[..], &["--exclude", "falsify"]].concat())?;
            succeeds(&mut t, root, &["test", "--locked", "-p", "falsify", "--lib", "--bins"])?;
        } else {
            succeeds(&mut t, root, &words)?;
        }
    }
    t.number("steps", steps.len() as f64);
    t.done()
}

/// Documentation complete: of every public item, and of every command, group of flags and exit code in the README.
pub fn f_int_299(s: &Subject) -> Attempt {
    let mut t = Tally::new("the README beside apr's own help; rustdoc -D missing_docs on every crate");
    let root = s.sources()?;
    let readme = text(root, "README.md")?;
    let help = s.apr(["--help"]).judged()?;
    let listed = named(&help.out(), "Commands:");
    t.hold(listed.len() > 3, || help.refute("help lists the commands", help.out(), "a list"))?;
    for command in &listed {
        let said = readme.contains(&format!("apr {command}"));
        t.hold(said, || help.refute(&format!("the README names apr {command}"), "it does not", "its name"))?;
        let of_command = s.apr([command.as_str(), "--help"]).judged()?.out();
        let groups = of_command.lines().filter(|l| l.ends_with(':') && !l.starts_with(' '));
        for group in groups.filter(|g| !["Arguments:", "Options:", "Commands:", "Usage:"].contains(g)) {
            // `Sampling (without a flag: ..)` is the group Sampling.
            let name = group.split([':', '(']).next().unwrap_or(group).trim();
            t.hold(readme.contains(name), || {
                Refutation::new("the README names a group of flags", "it does not", name)
            })?;
        }
    }
    // And none that does not exist: `apr word` in a line of code.
    for word in code(&readme).flat_map(|c| c.split("apr ").skip(1).filter_map(|rest| rest.split([' ', '\n']).next())) {
        let is_command = word.len() > 2 && word.chars().all(|c| c.is_ascii_lowercase());
        let known = !is_command || word == "help" || listed.iter().any(|l| l == word);
        t.hold(known, || help.refute("every command of the README exists", word, listed.join(", ")))?;
    }
    let codes = named(&help.out(), "Exit codes:");
    t.hold(codes.len() > 8, || help.refute("help lists the exit codes", codes.join(", "), "a list"))?;
    let told = readme.split_once("Exit codes").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap_or(rest));
    for code in &codes {
        let said = told.split(|c: char| !c.is_ascii_digit()).any(|n| n == code);
        t.hold(said, || help.refute("the README names every exit code", told, &**code))?;
    }
    let undocumented = undocumented(root)?;
    t.hold(undocumented.is_empty(), || {
        Refutation::new("every public item is documented", undocumented.join("; "), "no warning of rustdoc")
    })?;
    t.number("commands", listed.len() as f64);
    t.number("exit codes", codes.len() as f64);
    t.done()
}

/// The first words of the lines below a heading of a help text.
fn named(help: &str, heading: &str) -> Vec<String> {
    let below = help.lines().skip_while(|l| *l != heading).skip(1).take_while(|l| !l.trim().is_empty());
    // A continued line is further in.
    let first = |l: &str| (l.len() - l.trim_start().len() < 8).then(|| l.split_whitespace().next().map(str::to_string));
    below.filter_map(|l| first(l)?).collect()
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// What rustdoc misses.
fn undocumented(root: &Path) -> Result<Vec<String>, Halt> {
    let mut missing = Vec::new();
    for package in ["compute", "engine", "falsify"] {
        let words = ["rustdoc", "--quiet", "--lib", "--locked", "-p", package, "--", "-D", "missing_docs"];
        let out = cargo(root, &words)?;
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        let before = missing.len();
        let told = err.lines().filter(|l| l.starts_with("error: missing documentation"));
        missing.extend(told.map(|l| format!("{package}: {l}")));
        // A crate that does not build says nothing of its documents.
        if !out.status.success() && missing.len() == before {
            let error = err.lines().find(|l| l.starts_with("error")).unwrap_or("cargo rustdoc fails");
            return Err(instrument(format!("{package}: {error}")));
        }
    }
    Ok(missing)
}

/// Examples work out of the box: each command of the README in a fresh clone, which builds its own `apr`.
pub fn f_int_300(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("every console block of the README, in a clone of this tree, with the apr that is built there");
    let clone = cloned(s)?;
    let readme = text(s.sources()?, "README.md")?;
    // In a build folder of its own, as somebody has it who has just cloned.
    let build = ["build", "--release", "--locked", "-p", "apr-cli"];
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&clone).args(build).env("CARGO_TARGET_DIR", clone.join("target"));
    let build = cargo.output().map_err(instrument)?;
    let built = clone.join("target/release/apr");
    t.hold(build.status.success(), || {
        let err = String::from_utf8_lossy(&build.stderr).into_owned();
        Refutation::new("apr builds in a clone", err.lines().last().unwrap_or_default(), "exit code 0")
    })?;
    let fresh = s.with_apr(built);
    // `apr` and `cargo run .. apr-cli --` are the one that was built.
    let folder = s.scratch()?;
    let shim = folder.join("apr");
    script(&shim, &fresh)?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    for (line, want) in transcripts(&readme) {
        if line.starts_with("cargo test") || line.starts_with("scripts/") || line.contains("-p falsify") {
            continue; // these are the suite
        }
        let shell = line.replacen("cargo run --release -p apr-cli -- ", "apr ", 1);
        let run = Run::new("/bin/sh".as_ref())
            .args(["-c", &shell])
            .env("PATH", &path)
            .env("APR_CONFIG", "")
            .in_folder(&clone);
        let out = run.judged()?;
        t.hold(out.code() == Some(0), || out.refute(&format!("`{line}` works"), out.err(), "exit code 0"))?;
        if !want.is_empty() {
            t.hold(out.out() == want, || out.refute(&format!("`{line}` prints what is shown"), out.out(), &*want))?;
        }
    }
    t.done()
}

/// A clone of the tree as it is committed, made once.
fn cloned(s: &Subject) -> Result<PathBuf, Halt> {
    let to = s.scratch_root().join("clone");
    if !to.join("README.md").is_file() {
        let root = launch::root().ok_or_else(|| instrument("no source tree"))?;
        let done = Command::new("git").args(["clone", "--quiet"]).arg(root).arg(&to).status();
        done.ok().filter(std::process::ExitStatus::success).ok_or_else(|| instrument("git clone failed"))?;
    }
    Ok(to)
}

/// An executable that is this subject's `apr`, whoever broke it.
fn script(at: &Path, s: &Subject) -> Result<(), Halt> {
    let program = s.apr(Vec::<&str>::new()).shown();
    std::fs::write(at, format!("#!/bin/sh\nexec env {program} \"$@\"\n")).map_err(instrument)?;
    #[cfg(unix)]
    std::fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(instrument)?;
    Ok(())
}

/// Commands of the blocks marked `console`, each with the output that is shown.
fn transcripts(readme: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        match (line.strip_prefix("```"), line.strip_prefix("$ "), commands.last_mut()) {
            (Some(kind), ..) => inside = kind == "console",
            (None, Some(command), _) if inside => commands.push((command.into(), String::new())),
            (None, None, Some((_, output))) if inside => output.extend([line, "\n"]),
            _ => {}
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_help_text_names_commands_and_codes() {
        let help = "Usage: x\n\nCommands:\n  run      Answer\n           more of it\n  check    Verify\n\nExit codes:\n    0 success\n  101 internal\n";
        assert_eq!(named(help, "Commands:"), ["run", "check"]);
        assert_eq!(named(help, "Exit codes:"), ["0", "101"]);
    }

    #[test]
    fn a_transcript_is_commands_with_their_output() {
        let text = "a\n```console\n$ x 1\none\n$ y\n```\n```sh\n$ z\n```\n";
        assert_eq!(transcripts(text), [("x 1".to_string(), "one\n".to_string()), ("y".into(), String::new())]);
    }

    #[test]
    fn commands_of_a_script_are_what_it_does() {
        assert_eq!(commands("#!/bin/sh\n# says\nstep \"x\"\n\n  cargo fmt\n"), ["cargo fmt"]);
    }
}
