//! Saboteurs of the command line: each runs the real `apr` and spoils one thing that a row claims about it.
//!
//! A misbehaviour is a function from [`Real`] (the real program and its arguments) to the exit code. Streams that it
//! does not touch are inherited, so a terminal stays a terminal. The binary `evil-apr` runs these.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use super::{Means, Saboteur};

/// The real program and what it was asked.
pub struct Real {
    program: PathBuf,
    args: Vec<OsString>,
}

/// What the real program did when its streams were caught.
pub(super) struct Caught {
    pub(super) code: u8,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Real {
    /// From `APR_REAL` and this process's arguments.
    pub fn from_env() -> Option<Real> {
        let program = PathBuf::from(std::env::var_os("APR_REAL")?);
        Some(Real { program, args: std::env::args_os().skip(1).collect() })
    }

    /// Whether one of these words was typed.
    pub(super) fn has(&self, words: &[&str]) -> bool {
        self.args.iter().any(|a| words.iter().any(|w| a == w))
    }

    /// Forgets a flag and the `values` words after it, also written `--flag=value`.
    pub(super) fn without(mut self, flags: &[&str], values: usize) -> Real {
        let mut kept = Vec::new();
        let mut args = self.args.into_iter();
        while let Some(a) = args.next() {
            let text = a.to_string_lossy().into_owned();
            if flags.iter().any(|f| text == *f) {
                args.by_ref().take(values).for_each(drop);
            } else if !flags.iter().any(|f| text.starts_with(&format!("{f}="))) {
                kept.push(a);
            }
        }
        self.args = kept;
        self
    }

    /// Gives a flag another value, whether it was typed or not.
    pub(super) fn instead(self, flag: &str, value: &str) -> Real {
        let mut real = self.without(&[flag], 1);
        real.args.extend([flag.into(), value.into()]);
        real
    }

    /// Every word as this says.
    pub(super) fn renamed(mut self, to: impl Fn(String) -> String) -> Real {
        self.args = self.args.into_iter().map(|a| a.into_string().map_or_else(|a| a, |text| to(text).into())).collect();
        self
    }

    /// Adds a word.
    pub(super) fn with(mut self, word: &str) -> Real {
        self.args.push(word.into());
        self
    }

    /// Runs it and tells its answer in other words, as text and in JSON.
    pub(super) fn retold(self, words: impl Fn(&str) -> String) -> u8 {
        let mut caught = self.caught();
        let text = String::from_utf8_lossy(&caught.stdout).into_owned();
        caught.stdout = match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(mut json) if json["text"].is_string() => {
                json["text"] = words(json["text"].as_str().unwrap_or_default()).into();
                format!("{json}\n").into_bytes()
            }
            _ => format!("{}\n", words(text.strip_suffix('\n').unwrap_or(&text))).into_bytes(),
        };
        caught.emit()
    }

    /// The prompt of `apr run MODEL PROMPT`, if it was typed there.
    pub(super) fn prompt(&mut self) -> Option<&mut OsString> {
        self.args.get_mut(2).filter(|a| !a.to_string_lossy().starts_with("--"))
    }

    /// The word after a flag.
    pub(super) fn value(&self, flag: &str) -> Option<String> {
        let at = self.args.iter().position(|a| a == flag)?;
        self.args.get(at + 1).map(|v| v.to_string_lossy().into_owned())
    }

    pub(super) fn command(&self) -> Command {
        let mut c = Command::new(&self.program);
        c.args(&self.args);
        c
    }

    /// Runs it with another value of a variable, or without it.
    fn with_env(self, name: &str, value: Option<&str>) -> u8 {
        let mut command = self.command();
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
        command.status().map_or(99, code_of)
    }

    /// Types one more word.
    pub(super) fn push(&mut self, word: &str) {
        self.args.push(word.into());
    }

    /// Runs it and changes the text of the trace it leaves, in a file or on standard error.
    pub(super) fn retraced(self, change: impl FnOnce(String) -> String) -> u8 {
        let at = self.args.iter().position(|a| a == "--trace-output");
        match at.and_then(|i| self.args.get(i + 1)).map(PathBuf::from) {
            None if self.has(&["--trace"]) => self.with_stderr(change),
            None => self.run(),
            Some(file) => {
                let code = self.run();
                if let Ok(text) = std::fs::read_to_string(&file) {
                    let _ = std::fs::write(&file, change(text));
                }
                code
            }
        }
    }

    /// Runs it on our own streams.
    pub(super) fn run(self) -> u8 {
        self.command().status().map_or(99, code_of)
    }

    /// Runs it and keeps both streams until it ends.
    pub(super) fn caught(self) -> Caught {
        let child = self.command().stdin(Stdio::inherit()).output();
        child.map_or(Caught { code: 99, stdout: Vec::new(), stderr: Vec::new() }, |o| Caught {
            code: code_of(o.status),
            stdout: o.stdout,
            stderr: o.stderr,
        })
    }

    /// Runs it with its standard error caught and passed on, changed.
    pub(super) fn with_stderr(self, change: impl FnOnce(String) -> String) -> u8 {
        let Ok(mut child) = self.command().stderr(Stdio::piped()).spawn() else { return 99 };
        let mut text = Vec::new();
        if let Some(mut pipe) = child.stderr.take() {
            let _ = pipe.read_to_end(&mut text);
        }
        let _ = io::stderr().write_all(change(String::from_utf8_lossy(&text).into_owned()).as_bytes());
        child.wait().map_or(99, code_of)
    }
}

impl Real {
    /// Runs it with every line of its standard error told in other words.
    fn with_errors(self, words: impl Fn(&str) -> String) -> u8 {
        self.with_stderr(|text| text.lines().flat_map(|line| [words(line), "\n".into()]).collect())
    }
}

impl Caught {
    /// Passes both streams on.
    pub(super) fn emit(self) -> u8 {
        let _ = io::stderr().write_all(&self.stderr);
        let _ = io::stdout().write_all(&self.stdout);
        self.code
    }
}

pub(super) fn code_of(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return 128u8.saturating_add(signal as u8);
    }
    status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(99)
}

/// An entry that misbehaves without crashing.
pub(super) const fn evil(name: &'static str, does: &'static str, how: fn(Real) -> u8) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::EvilApr(how) }
}

/// Every misbehaviour of the command line.
pub static ALL: &[Saboteur] = &[
    Saboteur {
        name: "panic-text",
        does: "answers, then ends in a Rust panic",
        by_crash: true,
        means: Means::EvilApr(panic_text),
    },
    evil("no-usage", "a usage error without the usage", no_usage),
    evil("vague-error", "every error is 'something went wrong'", vague_error),
    evil("error-nameless", "errors leave out what they are about", |r| r.with_stderr(|text| nameless(&text))),
    evil("help-truncated", "help ends after a few lines", help_truncated),
    evil("version-nameless", "--version prints no number", version_nameless),
    evil("ignores-verbose", "drops -v and --verbose", |r| r.without(&["-v", "--verbose"], 0).run()),
    evil("ignores-max-tokens", "drops --max-tokens", |r| r.without(&["--max-tokens", "-n"], 1).run()),
    evil("ignores-temperature", "drops --temperature", |r| r.without(&["--temperature"], 1).run()),
    evil("ignores-no-gpu", "drops --no-gpu and dispatches to a GPU", ignores_no_gpu),
    evil("ignores-gpu", "drops --gpu and runs on the CPU", |r| r.without(&["--gpu"], 0).with("--no-gpu").run()),
    evil("ptx-wrong-target", "runs another image of the GPU kernels than it is told", ptx_wrong_target),
    evil("no-fallback", "fails where no GPU is", no_fallback),
    evil("exit-0-always", "every failure is a success", |r| u8::min(r.run(), 0)),
    evil("no-spinner", "no spinner on a terminal", |r| r.with_stderr(|text| text)),
    evil("spinner-residue", "leaves the spinner on the screen", spinner_residue),
    evil("chatty-stdout", "puts 'Answer:' before the answer", chatty_stdout),
    evil("colour-when-piped", "colours the answer although nobody sees it", colour_when_piped),
    evil("debug-tag", "prints [DEBUG] and [PAR-001] lines", |r| say(r, "[DEBUG] kv reserved\n[PAR-001] loaded\n")),
    evil("timing-noise", "prints how long a layer took", |r| say(r, "Layer 1 took 5ms\n")),
    evil("backend-noise", "announces the device", |r| say(r, "CUDA device 0 initialized\n")),
    evil("no-flush", "holds the answer back until the end", |r| r.caught().emit()),
    evil("answers-anyway", "answers where it has to refuse", answers_anyway),
    evil("reads-whole-file", "reads its files into memory, up to a gigabyte", reads_whole_file),
    evil("isa-not-honoured", "another instruction set runs than APR_ISA asks for", isa_not_honoured),
    evil("simd-other-tokens", "vector instructions give other tokens than scalar code", simd_other_tokens),
    evil("ignores-threads", "drops --threads", |r| r.without(&["--threads"], 1).run()),
    evil("one-thread-only", "does everything on one thread", |r| r.instead("--threads", "1").run()),
    evil("seed-from-clock", "takes the seed from the clock", seed_from_clock),
    evil("ignores-seed", "drops --seed", |r| r.without(&["--seed"], 1).run()),
    evil("temperature-0-draws", "draws tokens whatever the temperature", temperature_0_draws),
    evil("digits-shifted", "every digit of an answer is one too large", |r| r.retold(shift_digits)),
    evil("max-tokens-off-by-one", "one token more than --max-tokens", max_tokens_off_by_one),
    evil("eos-printed", "prints the end token", |r| r.retold(|text| format!("{text}<|im_end|>"))),
    evil("glyphs-undecoded", "prints blanks as the vocabulary spells them", |r| {
        r.retold(|text| text.replace(' ', "Ġ").replace('\n', "Ċ"))
    }),
    evil("blank-fails-silently", "ends a blank prompt with an exit code and no word", blank_fails_silently),
    evil("numbers-dropped", "errors without their numbers", |r| {
        r.with_errors(|line| line.replace(char::is_numeric, ""))
    }),
    evil("places-dropped", "errors say neither which byte, key nor tensor", |r| r.with_errors(without_place)),
    evil("hints-dropped", "errors and warnings without their hints", |r| {
        r.with_errors(|line| line.split_once("; ").map_or(line, |(what, _)| what).to_string())
    }),
    evil("warnings-dropped", "no warnings", |r| {
        r.with_stderr(|text| text.lines().filter(|l| !l.starts_with("warning: ")).flat_map(|l| [l, "\n"]).collect())
    }),
    evil("paths-dropped", "errors without the names that stand in quotes", |r| {
        r.with_errors(|line| line.split('\'').step_by(2).collect::<Vec<_>>().join("it"))
    }),
    evil("ignores-quiet", "drops -q and --quiet", |r| r.without(&["-q", "--quiet"], 0).run()),
    evil("json-with-noise", "says something on standard output before the JSON", json_with_noise),
    evil("json-on-success-only", "a failure prints no JSON", json_on_success_only),
    evil("ignores-interrupt", "goes on after Ctrl+C", ignores_interrupt),
    evil("verbose-wrong-count", "one tensor and one token too many in the details", |r| {
        r.with_stderr(|text| count_one_more(&text, &["Tensors: ", "Prompt tokens: "]))
    }),
    evil("verbose-wrong-shape", "one K/V head too many in the details", |r| {
        r.with_stderr(|text| count_one_more(&text, &["K/V heads: "]))
    }),
    evil("verbose-wrong-speed", "the speed of a prompt is told as that of the answer", verbose_wrong_speed),
    evil("clock-half-as-fast", "tells half of every time and double the speed", clock_half_as_fast),
    evil("verbose-wrong-backend", "names another instruction set than ran", verbose_wrong_backend),
    evil("stats-always", "prints the statistics unasked", stats_always),
    evil("answer-drives-screen", "lets the answer's escape sequences through to a terminal", answer_drives_screen),
    evil("colourless", "no colour even on a terminal", |r| r.with_env("NO_COLOR", Some("1"))),
    evil("ignores-no-color", "does not look at NO_COLOR", |r| r.with_env("NO_COLOR", None)),
    evil("mojibake", "takes UTF-8 for Latin-1", |r| r.retold(|text| text.bytes().map(char::from).collect())),
    evil("characters-split", "writes the answer byte by byte", characters_split),
    evil("debug-formatted-error", "prints errors as Rust's Debug does", debug_formatted_error),
    evil("convert-flips-a-bit", "writes one bit of the last tensor wrong", convert_flips_a_bit),
    evil("reads-file-twice", "keeps its files in memory twice", reads_file_twice),
    evil("shortage-unexplained", "says of missing memory neither how much nor for what", shortage_unexplained),
    evil("leak-per-token", "loses a little memory with every token", leak_per_token),
    evil("only-run-works", "chat and serve fail", |r| if r.has(&["chat", "serve"]) { 6 } else { r.run() }),
    evil("paths-trimmed", "takes the path of a model up to its first blank", paths_trimmed),
    evil("prompt-trimmed", "takes the blanks off both ends of a prompt", prompt_trimmed),
];

fn panic_text(real: Real) -> u8 {
    real.run();
    say_to_stderr("\nthread 'main' panicked at apr/src/main.rs:1:1:\nindex out of bounds\n");
    101
}

fn no_usage(real: Real) -> u8 {
    let mut caught = real.caught();
    if caught.code != 0 {
        let text = String::from_utf8_lossy(&caught.stderr).into_owned();
        caught.stderr = text.lines().next().unwrap_or_default().as_bytes().to_vec();
    }
    caught.emit()
}

fn vague_error(real: Real) -> u8 {
    let mut caught = real.caught();
    if caught.code != 0 {
        caught.stderr = b"error: something went wrong\n".to_vec();
    }
    caught.emit()
}

/// Without what stands between quotation marks.
fn nameless(text: &str) -> String {
    text.split('\'').step_by(2).collect::<Vec<_>>().join("it")
}

fn help_truncated(real: Real) -> u8 {
    let asked = real.has(&["--help", "-h"]);
    let mut caught = real.caught();
    if asked {
        let text = String::from_utf8_lossy(&caught.stdout).into_owned();
        caught.stdout = text.lines().take(8).flat_map(|l| [l, "\n"]).collect::<String>().into_bytes();
    }
    caught.emit()
}

fn version_nameless(real: Real) -> u8 {
    let asked = real.has(&["--version", "-V"]);
    let mut caught = real.caught();
    if asked {
        caught.stdout = b"apr\n".to_vec();
    }
    caught.emit()
}

fn ignores_no_gpu(real: Real) -> u8 {
    real.without(&["--no-gpu"], 0).with_stderr(|text| {
        let on_gpu =
            |l: &str| if l.starts_with("Backend:") { "Backend: CUDA (device 0)\n".into() } else { format!("{l}\n") };
        text.lines().map(on_gpu).collect()
    })
}

fn no_fallback(real: Real) -> u8 {
    if real.has(&["--no-gpu"]) {
        return real.run();
    }
    say_to_stderr("error: no CUDA device\n");
    6
}

fn spinner_residue(real: Real) -> u8 {
    if io::stderr().is_terminal() {
        say_to_stderr("\u{280b} Loading model\r\n");
    }
    real.run()
}

fn chatty_stdout(real: Real) -> u8 {
    let structured = real.has(&["--json"]);
    let mut caught = real.caught();
    if !structured {
        caught.stdout = [b"Answer: ".as_slice(), &caught.stdout].concat();
    }
    caught.emit()
}

fn colour_when_piped(real: Real) -> u8 {
    let structured = real.has(&["--json"]);
    let mut caught = real.caught();
    if !structured {
        caught.stdout = [b"\x1b[32m".as_slice(), &caught.stdout, b"\x1b[0m"].concat();
    }
    caught.emit()
}

/// Says something beside the real program, on standard error.
fn say(real: Real, what: &'static str) -> u8 {
    let speaker = thread::spawn(move || say_to_stderr(what));
    let code = real.run();
    let _ = speaker.join();
    code
}

fn say_to_stderr(what: &str) {
    let _ = io::stderr().write_all(what.as_bytes());
}

fn answers_anyway(real: Real) -> u8 {
    let mut caught = real.caught();
    if caught.code != 0 {
        caught = Caught { code: 0, stdout: b"4\n".to_vec(), stderr: Vec::new() };
    }
    caught.emit()
}

fn without_place(line: &str) -> String {
    let line = line.split_once(" from its byte ").map_or(line, |(what, _)| what);
    let (before, after) = line.split_once(" (in ").or(line.split_once(" (at ")).unwrap_or((line, ""));
    format!("{before}{}", after.split_once(')').map_or("", |(_, rest)| rest))
}

fn reads_whole_file(real: Real) -> u8 {
    const MOST: u64 = 1 << 30;
    let mut kept = Vec::new();
    for file in real.args.iter().filter_map(|a| std::fs::File::open(a).ok()) {
        let _ = file.take(MOST).read_to_end(&mut kept);
    }
    let code = real.run();
    // What was read stays until the end.
    std::hint::black_box(&kept);
    code
}

fn reads_file_twice(real: Real) -> u8 {
    let read = || -> Vec<Vec<u8>> { real.args.iter().filter_map(|a| std::fs::read(a).ok()).collect() };
    let kept = [read(), read()];
    let code = real.command().status().map_or(99, code_of);
    std::hint::black_box(&kept);
    code
}

fn shortage_unexplained(real: Real) -> u8 {
    let mut caught = real.caught();
    if caught.code == 7 {
        caught.stderr = b"error: out of memory\n".to_vec();
    }
    caught.emit()
}

fn leak_per_token(real: Real) -> u8 {
    let tokens = real.value("--max-tokens").and_then(|n| n.parse().ok()).unwrap_or(512);
    for token in 0..tokens {
        std::hint::black_box(Box::leak(Box::new([token; 8])));
    }
    real.run()
}

/// The variable of the real program that names an instruction set.
const ISA: &str = "APR_ISA";
const CUDA_IMAGE: &str = "APR_CUDA_IMAGE";

fn isa_not_honoured(real: Real) -> u8 {
    let mut command = real.command();
    match std::env::var(ISA).as_deref() {
        Ok("scalar") => command.env_remove(ISA),
        _ => command.env(ISA, "scalar"),
    };
    command.status().map_or(99, code_of)
}

fn ptx_wrong_target(real: Real) -> u8 {
    let mut command = real.command();
    match std::env::var(CUDA_IMAGE).as_deref() {
        Ok("ptx_70") => command.env(CUDA_IMAGE, "ptx_80"),
        _ => command.env(CUDA_IMAGE, "ptx_70"),
    };
    command.status().map_or(99, code_of)
}

fn simd_other_tokens(real: Real) -> u8 {
    let vectors = std::env::var(ISA).is_ok_and(|isa| isa != "scalar");
    if vectors { real.instead("--repeat-penalty", "5").run() } else { real.run() }
}

fn seed_from_clock(real: Real) -> u8 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    real.instead("--seed", &now.subsec_nanos().to_string()).run()
}

fn temperature_0_draws(real: Real) -> u8 {
    seed_from_clock(
        real.instead("--temperature", "2").instead("--top-k", "0").instead("--top-p", "1").instead("--min-p", "0"),
    )
}

fn shift_digits(text: &str) -> String {
    let shifted = |c: char| c.to_digit(10).and_then(|d| char::from_digit((d + 1) % 10, 10)).unwrap_or(c);
    text.chars().map(shifted).collect()
}

fn max_tokens_off_by_one(real: Real) -> u8 {
    let at = real.args.iter().position(|a| a == "--max-tokens");
    let typed = at.and_then(|i| real.args.get(i + 1)?.to_str()?.parse::<u64>().ok());
    match typed {
        Some(n) => real.instead("--max-tokens", &(n + 1).to_string()).run(),
        None => real.run(),
    }
}

fn blank_fails_silently(mut real: Real) -> u8 {
    let blank = real.prompt().is_some_and(|p| p.to_string_lossy().trim().is_empty());
    if blank { 1 } else { real.run() }
}

fn prompt_trimmed(mut real: Real) -> u8 {
    if let Some(prompt) = real.prompt() {
        *prompt = prompt.to_string_lossy().trim().into();
    }
    real.run()
}

fn paths_trimmed(mut real: Real) -> u8 {
    if let Some(path) = real.args.get_mut(1) {
        let text = path.to_string_lossy().into_owned();
        *path = text.split(' ').next().unwrap_or_default().into();
    }
    real.run()
}

fn json_with_noise(real: Real) -> u8 {
    let structured = real.has(&["--json"]);
    let mut caught = real.caught();
    if structured {
        caught.stdout = [b"Loading model...\n".as_slice(), &caught.stdout].concat();
    }
    caught.emit()
}

fn json_on_success_only(real: Real) -> u8 {
    let mut caught = real.caught();
    if caught.code != 0 {
        caught.stdout.clear();
    }
    caught.emit()
}

/// The real one runs where no key reaches it, and we do not listen.
fn ignores_interrupt(real: Real) -> u8 {
    let mut command = real.command();
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    match ctrlc::set_handler(|| ()) {
        Ok(()) => command.status().map_or(99, code_of),
        Err(_) => 99,
    }
}

/// The text with the number behind each key one larger.
fn count_one_more(text: &str, keys: &[&str]) -> String {
    let mut text = text.to_string();
    for key in keys {
        let Some(at) = text.find(key).map(|at| at + key.len()) else { continue };
        let digits = text[at..].chars().take_while(char::is_ascii_digit).count();
        if let Ok(n) = text[at..at + digits].parse::<u64>() {
            text.replace_range(at..at + digits, &(n + 1).to_string());
        }
    }
    text
}

fn verbose_wrong_speed(real: Real) -> u8 {
    real.with_stderr(|text| {
        let of_prompt = text.lines().find(|l| l.starts_with("Prompt: ")).and_then(|l| l.split(['(', ')']).nth(1));
        let speed = of_prompt.unwrap_or("0.0 tok/s").to_string();
        let told =
            |l: &str| if l.starts_with("Performance:") { format!("Performance: {speed}\n") } else { format!("{l}\n") };
        text.lines().map(told).collect()
    })
}

fn clock_half_as_fast(real: Real) -> u8 {
    let told = |word: &str| {
        let times = word.strip_suffix("ms").and_then(|n| n.parse::<f64>().ok());
        times.map_or(word.to_string(), |n| format!("{:.2}ms", n / 2.0))
    };
    real.with_stderr(|text| {
        let line =
            |l: &str| match l.strip_prefix("Performance: ").and_then(|l| l.split(' ').next()?.parse::<f64>().ok()) {
                Some(speed) => format!("Performance: {:.1} tok/s\n", speed * 2.0),
                None => l.split(' ').map(told).collect::<Vec<_>>().join(" ") + "\n",
            };
        text.lines().map(line).collect()
    })
}

fn verbose_wrong_backend(real: Real) -> u8 {
    real.with_stderr(|text| {
        let swapped = |l: &str| match l.contains("scalar") {
            true => l.replace("scalar", "avx2"),
            false => l.replace("avx512", "scalar").replace("avx2", "scalar").replace("neon", "scalar"),
        };
        let told = |l: &str| if l.starts_with("Backend:") { swapped(l) + "\n" } else { format!("{l}\n") };
        text.lines().map(told).collect()
    })
}

fn stats_always(mut real: Real) -> u8 {
    if real.has(&["-v", "--verbose", "-q", "--quiet"]) {
        return real.run();
    }
    real.args.push("--verbose".into());
    real.with_stderr(|text| {
        let told = |l: &&str| ["Generated:", "Decoded:", "Performance:", "Total:"].iter().any(|key| l.starts_with(key));
        text.lines().filter(told).flat_map(|l| [l, "\n"]).collect()
    })
}

/// A quiet one, so that nothing but the answer changes: the real one writes to a pipe.
fn answer_drives_screen(real: Real) -> u8 {
    if real.has(&["-q", "--quiet"]) { real.caught().emit() } else { real.run() }
}

fn characters_split(real: Real) -> u8 {
    let caught = real.caught();
    let _ = io::stderr().write_all(&caught.stderr);
    for byte in &caught.stdout {
        let _ = io::stdout().write_all(&[*byte]).and_then(|()| io::stdout().flush());
        if !byte.is_ascii() {
            // The reader is to see this byte alone.
            thread::sleep(std::time::Duration::from_millis(3));
        }
    }
    caught.code
}

fn debug_formatted_error(real: Real) -> u8 {
    let mut caught = real.caught();
    if caught.code != 0 {
        let text = String::from_utf8_lossy(&caught.stderr).into_owned();
        caught.stderr = format!("error: Error {{ kind: Malformed, what: {:?}, at: None }}\n", text.trim()).into_bytes();
    }
    caught.emit()
}

fn convert_flips_a_bit(real: Real) -> u8 {
    let output = real.has(&["convert"]).then(|| real.args.get(2).cloned()).flatten();
    let code = real.run();
    if let Some(Ok(mut bytes)) = output.as_ref().map(std::fs::read) {
        // In a GGUF file, which has no checksum, the last tensor ends within the last 32 bytes.
        if bytes.starts_with(b"GGUF") && bytes.len() > 64 {
            let at = bytes.len() - 36;
            bytes[at] ^= 1;
        }
        let _ = output.map(|path| std::fs::write(path, bytes));
    }
    code
}
