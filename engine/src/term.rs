//! The terminal: a spinner on standard error while nothing is there to read, the answer on standard output, and
//! nothing else there. The only place that prints.
//!
//! Colour is for people: `anstream` decides for each stream (a terminal, `NO_COLOR`, `CLICOLOR_FORCE`, `TERM`), and this
//! file asks it. With `--json`, standard output is one object whatever happens.

pub mod check;
pub mod doctor;
mod progress;
mod serving;
mod spinner;
pub mod twin;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anstyle::{AnsiColor, Style};

use crate::api::{Options, Outcome, why_cpu};
use crate::error::{Error, Kind, Result, printable};
use crate::limits::{MESSAGE_CHARS_MAX, WARNINGS_KEPT_MAX};
use crate::model::display_name;
use crate::session::{Event, Loaded, Observer};
use crate::trace;

pub use progress::{Progress, size};
pub use serving::{serving, serving_quietly};
pub use spinner::{busy, clear};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default();
const KEY: Style = Style::new().dimmed();

/// Whether the one JSON object is out.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Warnings that were shown and not yet summed up.
static WARNINGS: AtomicUsize = AtomicUsize::new(0);

/// What was warned of, shown or not: an object of `--json` has it.
static WARNED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// How much to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Quiet,
    Normal,
    Verbose,
}

/// Where a run is shown.
pub struct Terminal {
    level: Level,
    json: bool,
    /// The answer goes to a screen and not to a file or program.
    screen: bool,
    model: String,
    raw: bool,
    gpu_if_present: bool,
    /// Who had the model.
    source: String,
    /// The last line of the answer has no end yet.
    open: bool,
}

impl Terminal {
    /// Answer on standard output, the rest on standard error; `verbose` says everything.
    pub fn new(verbose: bool) -> Terminal {
        let level = if verbose { Level::Verbose } else { Level::Normal };
        let screen = std::io::stdout().is_terminal();
        Terminal {
            level,
            json: false,
            screen,
            model: String::new(),
            raw: false,
            gpu_if_present: false,
            source: "local file".into(),
            open: false,
        }
    }

    /// Errors only beside the answer.
    #[must_use]
    pub fn quiet(mut self) -> Terminal {
        self.level = Level::Quiet;
        self
    }

    /// Whether it is to say nothing but answers and errors.
    pub fn is_quiet(&self) -> bool {
        self.level == Level::Quiet
    }

    /// Says where the model came from, if that is more than a path that was typed.
    #[must_use]
    pub fn source(mut self, source: &str) -> Terminal {
        self.source = source.into();
        self
    }

    /// One JSON object on standard output at the end, instead of text.
    #[must_use]
    pub fn json(mut self) -> Terminal {
        TOLD.store(false, Ordering::Relaxed);
        self.json = true;
        self
    }

    /// The model is being opened.
    pub fn loading(&mut self, path: &Path, options: &Options) {
        self.raw = options.raw;
        self.gpu_if_present = options.gpu_if_present;
        self.model = path.to_string_lossy().into_owned();
        if self.level == Level::Verbose {
            //= F-UX-027
            self.detail(&format!("Loading model: {}", printable(&self.model, MESSAGE_CHARS_MAX)));
            self.detail(&format!("  Source: {}", printable(&self.source, MESSAGE_CHARS_MAX)));
        }
        //= F-UX-021
        //= F-CLI-010
        if self.level != Level::Quiet {
            spinner::show("loading");
        }
    }

    /// The model is ready.
    fn loaded(&mut self, loaded: &Loaded, load_ms: f64) {
        spinner::say("reading the prompt");
        if self.level != Level::Verbose {
            return;
        }
        let (m, h) = (&loaded.model, &loaded.model.hyper);
        let formats: Vec<String> = m.formats().iter().map(|(f, n)| format!("{f} x {n}")).collect();
        let layout = if self.raw { "off (--raw)".to_string() } else { loaded.layout() };
        let device = match loaded.backend().starts_with("cpu") {
            true => format!("Device: CPU, because {}", why_cpu(self.gpu_if_present)),
            false => "Device: GPU".into(),
        };
        let lines = [
            format!("  Format: {}", m.format),
            format!("  Name: {}", display_name(m)),
            format!("  Tensors: {} (matrices: {})", m.tensor_count, formats.join(", ")),
            format!("Backend: {}", loaded.backend()), //= F-UX-031
            device,                                   //= F-JID-275
            format!("Model loaded in {load_ms:.2}ms"),
            format!("Architecture: {}, Hidden: {}, Layers: {}", m.arch.name, h.hidden, h.layers), //= F-UX-028
            format!("  Heads: {}, K/V heads: {}, Head size: {}, FFN: {}", h.heads, h.kv_heads, h.head_dim, h.ffn),
            format!("  Vocabulary: {}, Context: {} of {}", h.vocab, loaded.context, h.context),
            format!("  RoPE: theta {}, scaling {}", h.rope_theta, h.rope_scaling),
            format!("  Conversations: {layout}"),
        ];
        for line in lines {
            self.detail(&line);
        }
    }

    /// An answer is in the making.
    pub fn waiting(&mut self) {
        self.open = false;
        if self.level != Level::Quiet {
            spinner::show("thinking");
        }
    }

    /// Closes the last line of an answer, unless it brought its own end.
    pub fn line_end(&mut self) -> Result<()> {
        if std::mem::take(&mut self.open) { write_out("\n") } else { Ok(()) }
    }

    /// On a screen, what is said beside the answer begins a line of its own.
    fn beside(&mut self) -> Result<()> {
        if self.screen { self.line_end() } else { Ok(()) }
    }

    /// The answer is complete.
    pub fn done(&mut self, outcome: &Outcome) -> Result<()> {
        let a = &outcome.answer;
        if self.json {
            //= F-CLI-015
            let warnings = warned();
            tell(&serde_json::json!({
                "model": self.model,
                "text": a.text,
                "tokens": a.tokens,
                "tokens_generated": a.tokens.len(),
                "prompt_tokens": a.prompt_tokens,
                "finish_reason": a.finish.reason(),
                "backend": outcome.backend,
                "load_ms": outcome.load_ms,
                "prefill_ms": a.prefill_ms,
                "decode_ms": a.decode_ms,
                "decode_steps": a.steps(),
                "drafted_tokens": a.drafted.0,
                "accepted_tokens": a.drafted.1,
                "duration_ms": outcome.duration_ms,
                "tokens_per_second": a.tokens_per_second(),
                "trace": outcome.trace.as_ref().map(|t| &t.json),
                "warnings": warnings,
                "summary": {"warnings": warnings.len(), "errors": 0},
            }))?;
        } else {
            self.line_end()?;
        }
        //= F-UX-040
        if self.level == Level::Verbose {
            let prompt_rate = a.prompt_tokens as f64 / a.prefill_ms.max(1e-6) * 1e3;
            //= F-UX-030
            let lines = [
                format!("Prompt: {} tokens in {:.2}ms ({prompt_rate:.1} tok/s)", a.prompt_tokens, a.prefill_ms),
                format!("Generated: {} tokens, finish: {}", a.tokens.len(), a.finish.reason()),
                format!("Decoded: {} steps in {:.2}ms", a.steps(), a.decode_ms),
                format!("Drafted: {} tokens, {} of them right", a.drafted.0, a.drafted.1),
                format!("Performance: {:.1} tok/s", a.tokens_per_second()),
                format!("Total: {:.2}ms", outcome.duration_ms),
            ];
            for line in lines {
                self.detail(&line);
            }
        }
        sum_up(0);
        Ok(())
    }

    /// A line of `--verbose`: what it is about is dimmed, what it says is not.
    fn detail(&self, line: &str) {
        match line.split_once(": ") {
            Some((key, value)) => note(&format!("{KEY}{key}:{KEY:#} {value}")),
            None => note(line),
        }
    }
}

impl Observer for Terminal {
    fn event(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Text(text) => {
                clear();
                if !self.json {
                    self.open = !text.ends_with('\n');
                    // A model may say anything, but it does not drive the screen. Files and programs get every byte.
                    match self.screen && text.contains(drives) {
                        true => write_out(&text.replace(drives, "\u{fffd}"))?,
                        false => write_out(text)?, //= F-UX-023
                    }
                }
            }
            Event::Warning(text) => {
                if self.level != Level::Quiet {
                    self.beside()?;
                }
                warn_unless(self.level == Level::Quiet, text);
            }
            Event::Sampling(sampling) if self.level == Level::Verbose => {
                self.detail(&format!("Sampling: {}", sampling.describe()));
            }
            Event::Prefilled { tokens } if self.level == Level::Verbose => {
                self.detail(&format!("Prompt tokens: {tokens}")); //= F-UX-029
            }
            Event::Loaded(loaded, load_ms) => self.loaded(loaded, load_ms),
            Event::Draft(draft) if self.level == Level::Verbose => {
                self.detail(&format!("Draft model: {}, {}", display_name(&draft.model), draft.backend()));
            }
            // In an object the trace is a field of it.
            //= F-TRACE-191
            Event::Trace(trace) if !self.json => {
                self.beside()?;
                let _ = write!(std::io::stderr(), "{}", trace::text(trace));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The last line of a run that warned: warnings stand above the answer and scroll away. A clean run has none, and an
/// error without warnings is its own summary.
//= F-JID-280
fn sum_up(errors: usize) {
    let count = WARNINGS.swap(0, Ordering::Relaxed);
    let of = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    if count > 0 {
        note(&format!("summary: {}, {}", of(count, "warning"), of(errors, "error")));
    }
}

/// Characters of an answer that would do something to a screen instead of standing on it.
fn drives(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t' | '\r')
}

/// A line on standard error, above the spinner if there is one. Only warnings come here unless the user asked for
/// details: no tags, no timings, no word of backends.
pub fn note(line: &str) {
    //= F-UX-024
    //= F-UX-025
    //= F-UX-026
    spinner::above(|| {
        // A closed standard error is no reason to stop answering.
        let _ = writeln!(anstream::stderr(), "{line}");
    });
}

/// A warning on standard error.
pub fn warn(text: &str) {
    warn_unless(false, text);
}

/// A warning on standard error, or, where that is to stay quiet, in the object of `--json` alone.
pub fn warn_unless(quiet: bool, text: &str) {
    let text = printable(text, MESSAGE_CHARS_MAX);
    if !quiet {
        note(&format!("{WARNING}warning:{WARNING:#} {text}"));
        WARNINGS.fetch_add(1, Ordering::Relaxed);
    }
    let mut all = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() < WARNINGS_KEPT_MAX {
        all.push(text);
    }
}

fn warned() -> Vec<String> {
    WARNED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Writes and flushes, so that text appears as it is made: whole characters, since events hold nothing less.
//= F-UX-036
fn write_out(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| not_written(&e))
}

/// Prints one line of an answer.
pub fn print_line(line: &str) -> Result<()> {
    write_out(&format!("{line}\n"))
}

/// Prints what a command that makes no answer has to say: a text as it is, or with `json` an object.
pub fn say(text: &str, object: Option<&serde_json::Value>) -> Result<()> {
    clear();
    object.map_or_else(|| write_out(text), tell)
}

/// The error for a standard output that takes no more.
pub fn not_written(e: &std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::BrokenPipe => Error::new(Kind::ReaderGone, "the reader of the answer went away"),
        _ => Error::new(Kind::Output, format!("cannot write the answer: {e}")),
    }
}

/// Prints the object of `--json`, unless it is out already, with what was warned of.
fn tell(object: &serde_json::Value) -> Result<()> {
    match TOLD.swap(true, Ordering::Relaxed) {
        true => Ok(()),
        false => match (object.get("warnings"), warned()) {
            (None, warnings) if !warnings.is_empty() => {
                let mut object = object.clone();
                object["warnings"] = warnings.into();
                write_out(&format!("{object}\n"))
            }
            _ => write_out(&format!("{object}\n")),
        },
    }
}

/// The end of a run that failed: one line on standard error (what, where, hint), and with `json` the same as an object
/// on standard output. A reader that had enough and a user who pressed Ctrl+C need no message.
pub fn fail(error: &Error, json: bool) {
    clear();
    if !matches!(error.kind, Kind::ReaderGone | Kind::Interrupted | Kind::Terminated) {
        //= F-UX-037
        let line = |e: &Error| printable(&e.to_string(), MESSAGE_CHARS_MAX);
        let hint = error.hint.as_ref().map(|h| format!("; {HINT}{}{HINT:#}", printable(h, MESSAGE_CHARS_MAX)));
        let what = line(&Error { hint: None, ..error.clone() });
        let _ = writeln!(anstream::stderr(), "{ERROR}error:{ERROR:#} {what}{}", hint.unwrap_or_default());
        sum_up(1);
    }
    if json {
        fail_json(error);
    }
}

/// The end of a run for want of so many bytes, said without a heap: there may be none left.
pub fn fail_short(bytes: usize, json: fn() -> bool) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // The spinner's line, if there is one.
        let _ = stderr.write_all(b"\r\x1b[K");
    }
    let _ = writeln!(
        stderr,
        "error: out of memory: {bytes} bytes for the work in hand; a smaller --ctx-size or fewer --threads need less, \
         and ulimit -v or a control group may set a limit"
    );
    // What was typed can be looked at only with some.
    if json() && !TOLD.swap(true, Ordering::Relaxed) {
        let (kind, code) = (Kind::TooLarge.name(), Kind::TooLarge.exit_code());
        let message = format_args!("out of memory: {bytes} bytes for the work in hand");
        let mut out = std::io::stdout();
        let _ = writeln!(
            out,
            "{{\"error\":{{\"kind\":\"{kind}\",\"message\":\"{message}\",\"file\":null,\"place\":null,\"hint\":null}},\"exit_code\":{code}}}"
        );
    }
}

/// The object alone.
pub fn fail_json(error: &Error) {
    let object = serde_json::json!({
        "error": {
            "kind": error.kind.name(),
            "message": error.what,
            "file": error.file.as_ref().map(|f| f.to_string_lossy()),
            "place": error.at.as_ref().map(ToString::to_string),
            "hint": error.hint,
        },
        "exit_code": error.kind.exit_code(),
    });
    // The process ends with the error's own code; that nobody reads this does not change it.
    let _ = tell(&object);
}
