//! F-CLI: commands, flags and exit codes, watched from outside.
//!
//! Exit codes and flag names stand here as the contract says them, not as the product's source does.

mod chat;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use chat::{f_cli_004, f_cli_013b, f_cli_014b, stops_an_answer};
use serde_json::Value;

use super::{Check, check};
use crate::ask::{self, OPEN_PROMPT, PROMPTS, answered, ask, closed, printed, report};
use crate::bad::command_line::{self, End};
use crate::checkup::{checked, told, verdicts};
use crate::child::{Exit, Output, Run};
use crate::screen::{Screens, spins, without_escapes};
use crate::server;
use crate::subject::Subject;
use crate::traced::traced;
use crate::verdict::{Attempt, Halt, Refutation, Tally, fixture_weak, instrument};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-CLI-001", f_cli_001),
    ("F-CLI-002", f_cli_002),
    ("F-CLI-003", f_cli_003),
    ("F-CLI-006", f_cli_006),
    ("F-CLI-004", f_cli_004),
    ("F-CLI-005", f_cli_005),
    ("F-CLI-007", f_cli_007),
    ("F-CLI-008", f_cli_008),
    ("F-CLI-009", f_cli_009),
    ("F-CLI-010", f_cli_010),
    ("F-CLI-011", f_cli_011),
    ("F-CLI-012", f_cli_012),
    ("F-CLI-013", f_cli_013),
    ("F-CLI-013b", f_cli_013b),
    ("F-CLI-014", f_cli_014),
    ("F-CLI-014b", f_cli_014b),
    ("F-CLI-015", f_cli_015),
    ("F-CLI-016", f_cli_016),
    ("F-CLI-017", f_cli_017),
    ("F-CLI-018", f_cli_018),
    ("F-CLI-019", f_cli_019),
    ("F-CLI-020", f_cli_020),
];

/// Options of `apr run` that the help has to name. An option that lands in the product lands here too.
const RUN_OPTIONS: &[&str] = &[
    "--max-tokens",
    "--temperature",
    "--top-k",
    "--top-p",
    "--min-p",
    "--repeat-penalty",
    "--seed",
    "--threads",
    "--ctx-size",
    "--system",
    "--raw",
    "--json",
    "--verbose",
    "--quiet",
    "--gpu",
    "--no-gpu",
    "--help",
];

/// Subcommands that `apr --help` has to name.
const COMMANDS: &[&str] = &["run", "serve"];

/// `apr serve model.gguf` starts HTTP server.
pub fn f_cli_005(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr serve on two files and a folder, /health, and half a second of patience");
    for model in [s.fixture("q8_0")?, s.fixture("q4_k_m")?, s.fixtures.join("qwen2-tiny")] {
        let mut server = server::serve_model(s, &model, &[])?;
        let ended = server.child.ends_within(Duration::from_millis(500));
        t.hold(ended.is_none(), || server.refute("it keeps running", format!("{ended:?}"), "no end"))?;
        let health = server.get("/health")?;
        let well = health.status == 200 && health.json()["status"] == "healthy";
        t.hold(well, || server.refute("and answers", server::shown(&health), "healthy"))?;
    }
    for (words, code) in [(&["serve"][..], 2), (&["serve", "nothing.gguf"], 3), (&["serve", "/dev/null"], 4)] {
        let out = s.apr(words).judged()?;
        t.hold(out.code() == Some(code), || out.refute("what is no model is refused", out.err(), code.to_string()))?;
    }
    t.done()
}

/// Lines that `--verbose` adds, by their beginnings (section 2.2).
const VERBOSE_LINES: &[&str] =
    &["Loading model:", "Format: GGUF", "Tensors:", "Backend:", "Model loaded in", "Architecture:", "Performance:"];

fn has_line(text: &str, beginning: &str) -> bool {
    text.lines().any(|l| l.trim_start().starts_with(beginning))
}

/// `apr run model.gguf "prompt"` executes without panic: typed, piped and dashed.
pub fn f_cli_001(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run on the q8_0 fixture: prompt as argument, from a pipe, from '-'");
    let model = s.model()?;
    for prompt in PROMPTS {
        let run = |words: &[&str]| s.apr(["run"]).args([model.as_os_str()]).args(words).args(["--max-tokens", "24"]);
        let typed = answered(run(&[prompt, "--temperature", "0"]))?;
        let some = !typed.out().trim().is_empty();
        t.hold(some, || typed.refute("there is an answer", "an empty standard output", "text"))?;
        let piped = answered(run(&["--temperature", "0"]).stdin(*prompt))?;
        let dashed = answered(run(&["-", "--temperature", "0"]).stdin(*prompt))?;
        for (how, out) in [("from a pipe", piped), ("from '-'", dashed)] {
            let criterion = format!("a prompt {how} is the same prompt");
            t.hold(out.stdout == typed.stdout, || out.refute(&criterion, out.out(), typed.out()))?;
        }
    }
    t.done()
}

/// `apr run` without model shows usage help.
pub fn f_cli_002(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run without arguments, apr run with flags only");
    for args in [&["run"][..], &["run", "--max-tokens", "8"]] {
        let out = s.apr(args).judged()?;
        t.hold(out.code() == Some(2), || out.refute("usage errors exit 2", format!("{:?}", out.code()), "2"))?;
        let err = out.err();
        let usage = err.contains("Usage:") && err.contains("apr run") && err.to_lowercase().contains("model");
        t.hold(usage, || out.refute("standard error shows the usage", &*err, "'Usage: apr run' and the model"))?;
        t.hold(out.stdout.is_empty(), || out.refute("standard output stays empty", out.out(), ""))?;
    }
    t.done()
}

/// `apr run nonexistent.gguf` shows "file not found".
pub fn f_cli_003(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run on names of no file, with and without a prompt");
    let elsewhere = s.scratch()?.join("nonexistent.gguf");
    for name in ["nonexistent.gguf", "./no/such/folder/model.gguf", &elsewhere.to_string_lossy()] {
        for prompt in [None, Some("2+2?")] {
            let out = s.apr(["run", name]).args(prompt).judged()?;
            t.hold(out.code() == Some(3), || out.refute("a missing file exits 3", format!("{:?}", out.code()), "3"))?;
            let err = out.err();
            let file = Path::new(name).file_name().unwrap_or_default().to_string_lossy();
            let clear = err.to_lowercase().contains("file not found") && err.contains(&*file);
            t.hold(clear, || out.refute("the message says what is missing", &*err, "'file not found' and the name"))?;
            let short = err.trim_end().lines().count() == 1 && out.stdout.is_empty();
            t.hold(short, || out.refute("one human line on standard error", &*err, "one line"))?;
        }
    }
    t.done()
}

/// `--help` shows all options.
pub fn f_cli_007(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr --help, apr run --help and -h");
    let top = answered(s.apr(["--help"]))?;
    for command in COMMANDS {
        let named = has_line(&top.out(), command);
        t.hold(named, || top.refute("apr --help lists every command", top.out(), *command))?;
    }
    let help = answered(s.apr(["run", "--help"]))?;
    t.hold(help.stderr.is_empty(), || help.refute("help goes to standard output", help.err(), ""))?;
    let text = help.out();
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
    for option in RUN_OPTIONS {
        t.hold(words.contains(option), || help.refute("apr run --help names every option", &*text, *option))?;
    }
    // The other way round: what the help names must exist. A flag without its value may be refused, not unknown.
    for option in words.iter().filter(|w| w.len() > 3 && w.starts_with("--") && !["--help", "--version"].contains(w)) {
        let out = s.apr(["run", option]).judged()?;
        let known = !out.err().contains("unexpected argument") && !out.err().contains("unrecognized");
        t.hold(known, || out.refute("every option that the help names is accepted", out.err(), *option))?;
    }
    let short = answered(s.apr(["run", "-h"]))?;
    t.hold(!short.stdout.is_empty(), || short.refute("-h shows help too", "nothing", "help"))?;
    t.done()
}

/// `--version` shows version.
pub fn f_cli_008(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr --version and -V");
    let want = format!("apr {}", env!("CARGO_PKG_VERSION"));
    for flag in ["--version", "-V"] {
        let out = answered(s.apr([flag]))?;
        let text = out.out();
        // Build details may follow the number, on the same line.
        let shown = text.lines().count() == 1 && text.starts_with(&want) && out.stderr.is_empty();
        t.hold(shown, || out.refute("one line with name and version", &*text, &*want))?;
    }
    t.done()
}

/// `-v/--verbose` enables verbose output, on standard error, and changes nothing else.
pub fn f_cli_009(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run plain, -v and --verbose on the q8_0 fixture");
    let flags = ["--max-tokens", "16"];
    let plain = answered(ask(s, PROMPTS[0], &flags)?)?;
    for line in VERBOSE_LINES {
        t.hold(!has_line(&plain.err(), line), || plain.refute("no details unless asked", plain.err(), ""))?;
    }
    for flag in ["-v", "--verbose"] {
        let out = answered(ask(s, PROMPTS[0], &flags)?.args([flag]))?;
        for line in VERBOSE_LINES {
            let shown = has_line(&out.err(), line);
            t.hold(shown, || out.refute(&format!("{flag} shows details"), out.err(), *line))?;
        }
        let same = out.stdout == plain.stdout;
        t.hold(same, || out.refute("standard output is the answer alone", out.out(), plain.out()))?;
    }
    t.done()
}

/// `-q/--quiet` suppresses non-error output, on a terminal too, and errors all the same.
pub fn f_cli_010(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run -q and --quiet: an answer, a warning and two errors, on pipes and on a terminal");
    let flags = ["--max-tokens", "16"];
    let warned = ["--max-tokens", "16", "--temperature", "-1"];
    let plain = answered(ask(s, PROMPTS[0], &flags)?)?;
    let loud = answered(ask(s, PROMPTS[0], &warned)?)?;
    t.hold(loud.err().contains("warning:"), || loud.refute("without the flag there is a warning", loud.err(), "one"))?;
    for flag in ["-q", "--quiet"] {
        for flags in [&flags[..], &warned] {
            let out = answered(ask(s, PROMPTS[0], flags)?.args([flag]))?;
            let silent = out.stderr.is_empty() && out.stdout == plain.stdout;
            t.hold(silent, || out.refute("nothing but the answer", out.err() + &out.out(), plain.out()))?;
            let seen = answered(ask(s, PROMPTS[0], flags)?.args([flag]).on_terminal())?;
            let received = seen.out().replace("\r\n", "\n");
            t.hold(received == plain.out(), || {
                seen.refute("a terminal receives the answer alone", &*received, plain.out())
            })?;
        }
        for (args, code) in [(["run", "nonexistent.gguf", "x"], 3), (["run", "/dev/null", "x"], 4)] {
            for out in [s.apr(args).args([flag]).judged()?, s.apr(args).args([flag]).on_terminal().judged()?] {
                let said = without_escapes(&(out.err() + &out.out()));
                let told = out.code() == Some(code) && said.contains("error: ");
                t.hold(told, || out.refute("an error is still told", said, format!("error, {code}")))?;
            }
        }
    }
    t.done()
}

/// `--max-tokens N` limits generation.
pub fn f_cli_011(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --max-tokens 1, 2, 3, 8 beside the whole answer of at least 12 tokens");
    let (prompt, whole) = ask::long(s, 12)?;
    t.number("tokens of the whole answer", whole.tokens as f64);
    let mut shorter = 0;
    for n in [1u64, 2, 3, 8] {
        let flags = ["--max-tokens", &n.to_string()];
        let cut = report(s, prompt, &flags)?;
        t.equal("exactly N tokens of a longer answer", &cut.tokens, &n)?;
        let refute = |criterion: &str, want: String| Refutation::new(criterion, &*cut.text, want).repro(&*cut.repro);
        let begins = whole.text.starts_with(cut.text.trim_end_matches('\u{fffd}'));
        t.hold(begins, || refute("the cut answer begins the whole one", whole.text.clone()))?;
        let grows = cut.text.len() > shorter && cut.text.len() < whole.text.len();
        t.hold(grows, || refute("a larger N gives more text", format!("{shorter} to {} bytes", whole.text.len())))?;
        shorter = cut.text.len();
        t.equal("plain output is cut alike", &printed(s, prompt, &flags)?, &closed(&cut.text))?;
    }
    t.done()
}

/// `--temperature T` affects sampling: none at 0, variety at 2, the same draw for the same seed.
pub fn f_cli_012(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run, temperature 0 and 2, 12 seeds each");
    // Nothing but the temperature decides: the other filters are off.
    let open = ["--top-k", "0", "--top-p", "1", "--min-p", "0", "--max-tokens", "24"];
    let draw = |temperature: &str, seed: u32| {
        let seed = seed.to_string();
        printed(s, OPEN_PROMPT, &[&["--temperature", temperature, "--seed", &seed], &open[..]].concat())
    };
    let greedy = draw("0", 1)?;
    let mut hot = BTreeSet::new();
    for seed in 1..=12 {
        t.equal("temperature 0 gives one answer for every seed", &draw("0", seed)?, &greedy)?;
        hot.insert(draw("2", seed)?);
    }
    t.number("distinct answers of 12 seeds at temperature 2", hot.len() as f64);
    let varied = hot.len() > 1;
    t.hold(varied, || {
        Refutation::new("temperature 2 gives more than one answer", "one answer for 12 seeds", "several")
    })?;
    t.equal("a seed repeats its draw", &draw("2", 7)?, &draw("2", 7)?)?;
    t.done()
}

/// `--gpu` forces GPU path: it says so, and the driver is loaded.
pub fn f_cli_013(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --gpu, with the loader's list of opened libraries");
    let log = s.scratch()?.join("opened");
    let run = ask(s, PROMPTS[0], &["--gpu", "--verbose", "--max-tokens", "8"])?;
    let out = answered(run.env("LD_DEBUG", "files").env("LD_DEBUG_OUTPUT", &log))?;
    let backend = out.err().lines().find(|l| l.starts_with("Backend:")).unwrap_or("no Backend line").to_string();
    let on_gpu = backend.to_lowercase().starts_with("backend: cuda");
    t.hold(on_gpu, || out.refute("the backend is CUDA", &*backend, "Backend: cuda"))?;
    let opened = opened_libraries(&log)?.contains("libcuda.so");
    t.hold(opened, || out.refute("the driver is opened", "no libcuda.so", "libcuda.so"))?;
    t.done()
}

/// `--no-gpu` forces CPU path: it says so, no driver is loaded, and `--gpu` beside it is refused.
pub fn f_cli_014(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --no-gpu, with the loader's list of opened libraries");
    stays_on_cpu(&mut t, s, ask(s, PROMPTS[0], &["--no-gpu", "--verbose", "--max-tokens", "8"])?)?;
    let both = ask(s, PROMPTS[0], &["--gpu", "--no-gpu", "--max-tokens", "8"])?.judged()?;
    t.hold(both.code() == Some(2), || both.refute("--gpu --no-gpu is refused", format!("{:?}", both.code()), "2"))?;
    t.done()
}

/// A run with `--no-gpu --verbose` answers, says that the CPU runs, and opens no driver of a GPU.
fn stays_on_cpu(t: &mut Tally, s: &Subject, run: Run) -> Result<(), Halt> {
    let log = s.scratch()?.join("opened");
    let out = answered(run.env("LD_DEBUG", "files").env("LD_DEBUG_OUTPUT", &log))?;
    let backend = out.err().lines().find(|l| l.starts_with("Backend:")).unwrap_or("no Backend line").to_string();
    let on_cpu = backend.to_lowercase().starts_with("backend: cpu");
    t.hold(on_cpu, || out.refute("the backend is the CPU", &*backend, "Backend: CPU"))?;
    let opened = opened_libraries(&log)?;
    t.hold(driver_opened(&opened).is_none(), || {
        out.refute("no GPU driver is opened", driver_opened(&opened).unwrap_or_default(), "no such library")
    })?;
    if opened.is_empty() {
        t.note("the dynamic loader left no list (a static binary, or not glibc): the Backend line is the only witness");
    }
    Ok(())
}

/// The line of a list of opened libraries that is about a GPU's.
fn driver_opened(opened: &str) -> Option<&str> {
    opened.lines().find(|l| ["libcuda.so", "libnvidia", "libcudart"].iter().any(|driver| l.contains(driver)))
}

/// What glibc's loader wrote: one file per process, next to `log`.
fn opened_libraries(log: &Path) -> Result<String, Halt> {
    let Some(folder) = log.parent() else { return Ok(String::new()) };
    let files = crate::subject::list(folder)?;
    Ok(files.iter().map(|f| std::fs::read_to_string(f).unwrap_or_default()).collect())
}

/// What `--json` may print.
const JSON_SCHEMA: &str = include_str!("../../items/apr-run.schema.json");

/// Kinds of error and their exit codes, as the contract has them.
const KINDS: &[(&str, i32)] =
    &[("usage", 2), ("not-found", 3), ("unreadable", 4), ("malformed", 5), ("unsupported", 6), ("output", 8)];

/// `--json` outputs JSON format: one object that the schema accepts, whatever happens.
pub fn f_cli_015(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("apr run --json: answers beside plain ones, and every bad command line, against a JSON Schema");
    let schema: Value = serde_json::from_str(JSON_SCHEMA).map_err(instrument)?;
    let schema = jsonschema::validator_for(&schema).map_err(instrument)?;
    let object = |t: &mut Tally, out: &Output| -> Result<Value, Halt> {
        let text = out.out();
        let parsed: Option<Value> = serde_json::from_str(&text).ok().filter(|_| text.trim_end().lines().count() == 1);
        t.hold(parsed.is_some(), || out.refute("standard output is one JSON object on one line", &*text, "{…}"))?;
        let json = parsed.unwrap_or_default();
        let wrong: Vec<String> = schema.iter_errors(&json).map(|e| format!("{e} at {}", e.instance_path())).collect();
        t.hold(wrong.is_empty(), || out.refute("the schema accepts it", wrong.join("; "), "apr-run.schema.json"))?;
        Ok(json)
    };
    for prompt in PROMPTS {
        for flags in [&["--max-tokens", "24"][..], &["--max-tokens", "2", "--quiet"], &["--max-tokens", "0"]] {
            let plain = printed(s, prompt, flags)?;
            let out = answered(ask(s, prompt, flags)?.args(["--json"]))?;
            let json = object(&mut t, &out)?;
            let text = json["text"].as_str().unwrap_or_default();
            let same = if plain.is_empty() { text.is_empty() } else { closed(text) == plain };
            t.hold(same, || out.refute("the text is the plain answer", text, &*plain))?;
            let tokens = json["tokens"].as_array().map_or(0, Vec::len) as u64;
            t.hold(json["tokens_generated"] == tokens, || {
                out.refute("tokens are counted", json.to_string(), "a count")
            })?;
            let wall = out.wall.as_secs_f64() * 1e3;
            t.at_most("it took no longer than seen from outside", json["duration_ms"].as_f64().unwrap_or(1e9), wall)?;
        }
    }
    let seen = answered(ask(s, PROMPTS[0], &["--max-tokens", "8", "--json"])?.on_terminal())?;
    let last = Screens::replay(&seen.stdout).last;
    let shown = serde_json::from_str::<Value>(&last.replace('\n', "")).is_ok();
    t.hold(shown, || seen.refute("a terminal shows the object alone", last, "{…}"))?;

    let (model, folder) = (s.model()?, s.scratch()?);
    command_line::lay_out(&folder, &model).map_err(instrument)?;
    std::fs::write(folder.join("garbage.gguf"), [b'x'; 4096]).map_err(instrument)?;
    let garbage = [folder.join("garbage.gguf").into_os_string(), "x".into()].to_vec();
    let mut failing = vec![("garbage", garbage, 5, &b""[..], &[][..])];
    for line in command_line::ALL.iter().filter(|line| line.redirect.is_none()) {
        let words = line.words(&model, &folder);
        if let (End::Refuses(code), Some(at)) = (line.end, words.iter().position(|w| w == "run")) {
            failing.push((line.what, words[at + 1..].to_vec(), code, line.stdin, line.env));
        }
    }
    for (what, words, code, stdin, env) in failing {
        let run = s.apr(["run", "--json"]).args(words).stdin(stdin);
        let out = env.iter().fold(run, |run, (name, value)| run.env(name, value)).judged()?;
        exits(&mut t, &out, what, code)?;
        let json = object(&mut t, &out)?;
        let kind = KINDS.iter().find(|k| k.1 == code).map_or("", |k| k.0);
        let named = json["exit_code"] == code && json["error"]["kind"] == kind;
        t.hold(named, || {
            out.refute(&format!("{what}: kind and exit code"), json.to_string(), format!("{kind}, {code}"))
        })?;
        let told = out.err().starts_with("error: ");
        t.hold(told, || out.refute("people are told on standard error", out.err(), "error: …"))?;
    }
    t.done()
}

/// A model that takes a second to load and never comes to an end: a full shape, all zeros.
const SLOW: &str = "shape-0.5b";

/// Ctrl+C gracefully terminates, while loading and while generating; a second one ends it at once.
pub fn f_cli_019(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "Ctrl+C on a terminal and by signal: an empty full-shape model while it loads, and while it answers",
    );
    let model = s.forged(SLOW)?;
    // Any token is as likely as any other: text of all kinds of characters, for minutes.
    let draw = ["--temperature", "1", "--top-k", "0", "--top-p", "1", "--min-p", "0"];
    let run = |n: &str| s.apr(["run"]).args([model.as_os_str()]).args(["x", "--max-tokens", n]).args(draw);
    let patience = Duration::from_secs(60);
    let unhurried = answered(run("1").args(["--json"]).deadline(patience))?;
    let load_ms = serde_json::from_slice::<Value>(&unhurried.stdout).map_err(instrument)?["load_ms"].as_f64();
    t.number("milliseconds that loading takes", load_ms.unwrap_or_default());

    let spinning: fn(&[u8]) -> bool = |seen| spins(&String::from_utf8_lossy(seen));
    let answering: fn(&[u8]) -> bool = |seen| seen.len() > 200;
    let on_screen: fn(&[u8]) -> bool = |seen| String::from_utf8_lossy(seen).chars().filter(|c| *c > ' ').count() > 400;
    let cases: [(&str, &dyn Fn() -> Run, f64); 6] = [
        ("while loading", &|| run("1").on_terminal().interrupt(1, spinning), 1.0),
        ("while loading, twice", &|| run("1").on_terminal().interrupt(2, spinning), 0.5),
        ("while loading, with --json", &|| run("1").args(["--json"]).on_terminal().interrupt(1, spinning), 1.0),
        ("while answering, by signal", &|| run("4000").args(["--quiet"]).interrupt(1, answering), 1.0),
        (
            "while answering, on a terminal",
            &|| run("4000").args(["--quiet"]).on_terminal().interrupt(1, on_screen),
            1.0,
        ),
        ("while answering, twice", &|| run("4000").args(["--quiet"]).on_terminal().interrupt(2, on_screen), 0.5),
    ];
    for (what, run, most_seconds) in cases {
        let loading = what.starts_with("while loading");
        // A busy machine makes it late now and then; a program that takes its time is late every time.
        let mut out = run().deadline(patience).output()?;
        for _ in 0..2 {
            if out.exit != Exit::Code(130) || out.after_interrupt.is_none_or(|d| d.as_secs_f64() <= most_seconds) {
                break;
            }
            out = run().deadline(patience).output()?;
        }
        let seen = format!("{:?} after {:?}", out.exit, out.after_interrupt);
        let pressed = out.after_interrupt.ok_or_else(|| {
            let seen = format!("{seen}: {}", out.out());
            Halt::from(out.refute("there was something to interrupt", seen, "a spinner or text"))
        })?;
        t.hold(out.exit == Exit::Code(130), || out.refute(&format!("{what}: exit code 130"), seen, "130"))?;
        let late = format!("{what}: seconds from the last Ctrl+C to the end");
        t.at_most(&late, pressed.as_secs_f64(), most_seconds)?;
        // The answer of a signalled run is on its own; a terminal holds the spinner's lines too.
        let whole = std::str::from_utf8(&out.stdout).is_ok();
        t.hold(whole, || out.refute(&format!("{what}: whole characters"), out.out(), "valid UTF-8"))?;
        t.hold(out.stderr.is_empty(), || out.refute(&format!("{what}: no message"), out.err(), ""))?;
        let screens = Screens::replay(&out.stdout);
        let tidy = !screens.cursor_hidden && !spins(&screens.last);
        t.hold(tidy, || out.refute(&format!("{what}: cursor back, spinner gone"), &*screens.last, "no trace"))?;
        if loading {
            // `^C` is what the terminal itself shows of the key.
            let rest = screens.last.replace("^C", "").replace('\n', "");
            let told = serde_json::from_str::<Value>(&rest).is_ok_and(|v| v["error"]["kind"] == "interrupted");
            let right = if what.ends_with("json") { told } else { rest.trim().is_empty() };
            t.hold(right, || out.refute(&format!("{what}: nothing remains, or the object"), rest, "nothing"))?;
        }
    }
    stops_an_answer(&mut t, s)?;
    t.done()
}

/// Exit code 0 on success, non-zero on failure; each kind of failure its own.
pub fn f_cli_020(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr on good input and on one bad input per kind of error");
    let folder = s.scratch()?;
    let write = |name: &str, bytes: &[u8]| -> Result<String, Halt> {
        let file = folder.join(name);
        std::fs::write(&file, bytes).map_err(crate::verdict::instrument)?;
        Ok(file.to_string_lossy().into_owned())
    };
    let model = s.model()?.to_string_lossy().into_owned();
    let whole = std::fs::read(&model).map_err(crate::verdict::instrument)?;
    let garbage = write("garbage.gguf", &[b'x'; 4096])?;
    let cut = write("cut.gguf", whole.get(..whole.len() / 2).ok_or_else(|| fixture_weak("an empty model file"))?)?;
    let here = folder.to_string_lossy().into_owned();
    let table: &[(&str, &[&str], i32)] = &[
        ("success", &["run", &model, "2+2?", "--max-tokens", "4"], 0),
        ("help", &["--help"], 0),
        ("no command", &[], 2),
        ("an unknown command", &["frobnicate"], 2),
        ("an unknown flag", &["run", &model, "2+2?", "--frobnicate"], 2),
        ("a value that is no number", &["run", &model, "2+2?", "--max-tokens", "many"], 2),
        ("a missing file", &["run", "nonexistent.gguf", "2+2?"], 3),
        ("a folder without a model", &["run", &here, "2+2?"], 3),
        ("a device", &["run", "/dev/null", "2+2?"], 4),
        ("garbage", &["run", &garbage, "2+2?"], 5),
        ("half a file", &["run", &cut, "2+2?"], 5),
    ];
    for (what, args, want) in table {
        let out = s.apr(*args).judged()?;
        exits(&mut t, &out, what, *want)?;
        let told = *want == 0 || !out.stderr.is_empty();
        t.hold(told, || out.refute("a failure says something on standard error", "nothing", *what))?;
    }
    if Path::new("/dev/full").exists() {
        let full = s.apr(["run", &model, "2+2?", "--max-tokens", "4"]).stdout_to("/dev/full").judged()?;
        exits(&mut t, &full, "an answer that cannot be written", 8)?;
        let told = !full.stderr.is_empty();
        t.hold(told, || full.refute("a full disk is said on standard error", "nothing", "what could not be written"))?;
    }
    t.done()
}

fn exits(t: &mut Tally, out: &Output, what: &str, want: i32) -> Result<(), Halt> {
    let observed = format!("{:?}: {}", out.code(), out.err().trim());
    t.hold(out.code() == Some(want), || out.refute(&format!("{what} exits {want}"), observed, want.to_string()))
}

/// `--trace` writes a trace with events of every stage; without a flag of its kind there is none.
pub fn f_cli_016(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run with and without --trace, both streams");
    for prompt in PROMPTS {
        let plain = answered(ask(s, prompt, &[])?)?;
        let said = plain.err();
        t.hold(said.is_empty(), || plain.refute("without the flag there is no trace", &*said, ""))?;
        let out = answered(ask(s, prompt, &["--trace"])?)?;
        let json: serde_json::Value = serde_json::from_slice(&out.stderr).unwrap_or_default();
        for stage in ["TOKENIZE", "EMBED", "ATTENTION", "FFN", "LM_HEAD", "SAMPLE", "DECODE"] {
            let has = json["events"].as_array().is_some_and(|list| list.iter().any(|e| e["name"] == stage));
            t.hold(has, || out.refute("every stage that ran has events", format!("no {stage}"), stage))?;
        }
    }
    t.done()
}

/// `--trace-output FILE` holds the whole trace, standard output stays the answer; an unwritable FILE is an error.
pub fn f_cli_017(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --trace-output to a file and to a folder that is not there");
    for prompt in PROMPTS {
        let plain = answered(ask(s, prompt, &[])?)?;
        let trace = traced(s, prompt, &[])?;
        let out = &trace.out;
        t.hold(out.stdout == plain.stdout, || out.refute("the answer stays the answer", out.out(), plain.out()))?;
        let last = trace.events()?.last().map(|e| e["type"].to_string()).unwrap_or_default();
        t.hold(last.contains("ExecutionSucceeded"), || trace.refute("the whole trace is there", &last, "its end"))?;
    }
    let nowhere = s.scratch()?.join("no/trace.json");
    let out = ask(s, PROMPTS[0], &["--trace-output"])?.args([&nowhere]).judged()?;
    t.hold(out.code() == Some(8), || out.refute("an unwritable file is an error", format!("{:?}", out.code()), "8"))?;
    t.done()
}

/// `--trace-verbose` adds values of tensors that a trace leaves out otherwise.
pub fn f_cli_018(s: &Subject) -> Attempt {
    let mut t = Tally::new("traces with and without --trace-verbose");
    for prompt in PROMPTS {
        for (flags, wanted) in [(&["--max-tokens", "4"][..], false), (&["--max-tokens", "4", "--trace-verbose"], true)]
        {
            let trace = traced(s, prompt, flags)?;
            for stage in ["EMBED", "ATTENTION", "FFN", "LM_HEAD"] {
                for e in trace.of("TaskStateExited", stage)? {
                    let has = e["output"]["values"]["data"].as_array().is_some_and(|list| !list.is_empty());
                    t.hold(has == wanted, || trace.refute("values are there if asked for, and only then", e, wanted))?;
                }
            }
        }
    }
    t.done()
}

/// `apr check` runs ten stages, in order.
pub fn f_cli_006(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr check on both fixtures, as text and as JSON");
    for q in ["q8_0", "q4_k_m"] {
        let model = s.fixture(q)?;
        let out = checked(s, &model, &[])?;
        let text = out.out();
        let cell = |l: &str, i: usize| l.split('│').nth(i).unwrap_or_default().trim().to_string();
        let rows: Vec<(String, String)> =
            text.lines().map(|l| (cell(l, 1), cell(l, 2))).filter(|(n, _)| n.parse::<u32>().is_ok()).collect();
        let want: Vec<(String, String)> =
            check::TABLE.iter().enumerate().map(|(i, (name, _))| ((i + 1).to_string(), name.to_string())).collect();
        t.hold(rows == want, || out.refute("ten stages in order", format!("{rows:?}"), format!("{want:?}")))?;
        t.hold(out.code() == Some(0), || out.refute("exit code 0", format!("{:?}", out.code()), "0"))?;
        let (out, object) = told(s, &model, &[])?;
        t.hold(verdicts(&object) == ["passed"; 10], || out.refute("ten in JSON", object.to_string(), "ten passed"))?;
    }
    let out = s.apr(["check"]).judged()?;
    t.hold(out.code() == Some(2), || out.refute("without a model, a usage error", format!("{:?}", out.code()), "2"))?;
    t.done()
}
