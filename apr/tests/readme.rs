//! Runs every command that the README shows, and compares the output where the README shows one.
//!
//! A block marked `console` is a transcript: lines that begin with `$ ` are commands, the lines up to the next one are
//! what they print on standard output. `cargo run … apr-cli --` means the binary that this test was built with. Cargo
//! and script commands that run the tests themselves are not run from inside the tests.

use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

struct Command {
    line: String,
    output: String,
}

fn transcripts(readme: &str) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        match line.strip_prefix("```") {
            Some(kind) => inside = kind == "console",
            None if !inside => {}
            None => match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push(Command { line: command.into(), output: String::new() }),
                (None, Some(last)) => last.output.extend([line, "\n"]),
                (None, None) => panic!("output before any command: {line}"),
            },
        }
    }
    commands
}

/// What to run in a shell for a line of the README; `None` for what runs this very test.
fn runnable(line: &str) -> Option<String> {
    const BY_CARGO: &str = "cargo run --release -p apr-cli -- ";
    if line.starts_with("cargo test") || line.starts_with("scripts/") || line.contains("-p falsify") {
        return None;
    }
    Some(line.replacen(BY_CARGO, "apr ", 1))
}

#[test]
fn every_command_in_the_readme_does_what_it_says() {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let commands = transcripts(&readme);
    let binary = assert_cmd::cargo::cargo_bin!("apr");
    let path = std::env::join_paths(
        std::iter::once(binary.parent().unwrap().to_path_buf())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    )
    .unwrap();
    let mut ran = 0;
    for Command { line, output } in &commands {
        let Some(shell) = runnable(line) else { continue };
        let assert = assert_cmd::Command::new("sh")
            .args(["-c", &shell])
            .current_dir(ROOT)
            .env("PATH", &path)
            .env("APR_CONFIG", "")
            .timeout(std::time::Duration::from_secs(60))
            .assert()
            .success();
        if !output.is_empty() {
            assert.stdout(output.clone());
        }
        ran += 1;
    }
    assert!(ran >= 4, "the README shows {ran} commands");
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let ci = std::fs::read_to_string(Path::new(ROOT).join(".ci/run")).unwrap();
    let second = &transcripts(&readme)[1].line;
    assert!(ci.contains(second), ".ci/run does not call `{second}`");
}
