//! The terminal: a spinner on standard error while nothing is there to read, the answer on standard output, and
//! nothing else there. The only place that prints.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::api::Outcome;
use crate::error::{Error, Kind, Result, quoted};
use crate::model::display_name;
use crate::session::{Event, Loaded, Observer};

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
    spinner: Option<ProgressBar>,
    warnings: Vec<String>,
    wrote: bool,
}

impl Terminal {
    /// Answer on standard output, the rest on standard error; `verbose` says everything.
    pub fn new(verbose: bool) -> Terminal {
        let level = if verbose { Level::Verbose } else { Level::Normal };
        Terminal { level, json: false, spinner: None, warnings: Vec::new(), wrote: false }
    }

    /// Errors only beside the answer.
    #[must_use]
    pub fn quiet(mut self) -> Terminal {
        self.level = Level::Quiet;
        self
    }

    /// One JSON object on standard output at the end, instead of text.
    #[must_use]
    pub fn json(mut self) -> Terminal {
        self.json = true;
        self
    }

    /// The model is being opened.
    pub fn loading(&mut self, path: &Path) {
        if self.level == Level::Verbose {
            self.note(&format!("Loading model: {}", quoted(&path.to_string_lossy()).trim_matches('\'')));
            self.note("  Source: local file");
        }
        //= F-UX-021
        if self.level != Level::Quiet && std::io::stderr().is_terminal() {
            let spinner = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                spinner.set_style(style);
            }
            spinner.set_message("loading");
            spinner.tick();
            spinner.enable_steady_tick(Duration::from_millis(80));
            self.spinner = Some(spinner);
        }
    }

    /// The model is ready.
    pub fn loaded(&mut self, loaded: &Loaded, load_ms: f64) {
        if self.level != Level::Verbose {
            return;
        }
        let (m, h) = (&loaded.model, &loaded.model.hyper);
        let formats: Vec<String> = m.formats().iter().map(|(f, n)| format!("{f} x {n}")).collect();
        let lines = [
            format!("  Format: {}", m.format),
            format!("  Name: {}", display_name(m)),
            format!("  Tensors: {} ({})", m.tensor_count, formats.join(", ")),
            format!("Backend: {}", loaded.backend()),
            format!("Model loaded in {load_ms:.2}ms"),
            format!("Architecture: {}, Hidden: {}, Layers: {}", m.arch.name, h.hidden, h.layers),
            format!("  Heads: {}, K/V heads: {}, Head size: {}, FFN: {}", h.heads, h.kv_heads, h.head_dim, h.ffn),
            format!("  Vocabulary: {}, Context: {} of {}", h.vocab, loaded.context, h.context),
            format!("  RoPE: theta {}, scaling {}", h.rope_theta, h.rope_scaling),
        ];
        for line in lines {
            self.note(&line);
        }
    }

    /// The answer is complete.
    pub fn done(&mut self, outcome: &Outcome) -> Result<()> {
        let a = &outcome.answer;
        if self.json {
            let object = serde_json::json!({
                "text": a.text,
                "tokens": a.tokens,
                "tokens_generated": a.tokens.len(),
                "prompt_tokens": a.prompt_tokens,
                "finish_reason": a.finish.reason(),
                "backend": outcome.backend,
                "load_ms": outcome.load_ms,
                "prefill_ms": a.prefill_ms,
                "decode_ms": a.decode_ms,
                "duration_ms": outcome.duration_ms,
                "tokens_per_second": a.tokens_per_second(),
                "warnings": self.warnings,
            });
            write_out(&format!("{object}\n"))?;
        } else if self.wrote && !a.text.ends_with('\n') {
            write_out("\n")?;
        }
        if self.level == Level::Verbose {
            let prompt_rate = a.prompt_tokens as f64 / a.prefill_ms.max(1e-6) * 1e3;
            self.note(&format!("Prompt: {} tokens in {:.2}ms ({prompt_rate:.1} tok/s)", a.prompt_tokens, a.prefill_ms));
            self.note(&format!(
                "Generated: {} tokens in {:.2}ms, finish: {}",
                a.tokens.len(),
                a.decode_ms,
                a.finish.reason()
            ));
            self.note(&format!("Performance: {:.1} tok/s", a.tokens_per_second()));
            self.note(&format!("Total: {:.2}ms", outcome.duration_ms));
        }
        Ok(())
    }

    /// Takes the spinner away.
    pub fn quieten(&mut self) {
        //= F-UX-022
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }

    /// A line on standard error, above the spinner if there is one. Only warnings come here unless the user asked for
    /// details: no tags, no timings, no word of backends.
    fn note(&self, line: &str) {
        //= F-UX-024
        //= F-UX-025
        //= F-UX-026
        let print = || {
            // A closed standard error is no reason to stop answering.
            let _ = writeln!(anstream::stderr(), "{line}");
        };
        match &self.spinner {
            Some(spinner) => spinner.suspend(print),
            None => print(),
        }
    }
}

impl Observer for Terminal {
    fn event(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Text(text) => {
                self.quieten();
                if !self.json {
                    self.wrote = true;
                    write_out(text)?; //= F-UX-023
                }
            }
            Event::Warning(text) => {
                if self.level != Level::Quiet {
                    self.note(&format!("warning: {text}"));
                }
                self.warnings.push(text.into());
            }
            Event::Sampling(sampling) => {
                if self.level == Level::Verbose {
                    self.note(&format!("Sampling: {}", sampling.describe()));
                }
            }
            Event::Prefilled { tokens } => {
                if self.level == Level::Verbose {
                    self.note(&format!("Prompt tokens: {tokens}"));
                }
            }
        }
        Ok(())
    }
}

/// Writes and flushes, so that text appears as it is made.
fn write_out(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => Error::new(Kind::ReaderGone, "the reader of the answer went away"),
        _ => Error::new(Kind::Output, format!("cannot write the answer: {e}")),
    })
}

/// A bar on standard error for work on many bytes. Work that takes less than a second shows none.
pub struct Progress {
    what: &'static str,
    since: Instant,
    hidden: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new(what: &'static str, quiet: bool) -> Progress {
        Progress { what, since: Instant::now(), hidden: quiet || !std::io::stderr().is_terminal(), bar: None }
    }

    /// So many of `total` bytes are done.
    pub fn at(&mut self, done: u64, total: u64) {
        if self.hidden || self.bar.is_none() && self.since.elapsed() < Duration::from_secs(1) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(total);
            let template = "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(self.what);
            bar
        });
        bar.set_position(done);
    }

    /// Takes the bar away.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A line on standard error.
pub fn note(line: &str) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// A JSON value as one line on standard output.
pub fn print_json(value: &serde_json::Value) -> Result<()> {
    write_out(&format!("{value}\n"))
}

/// Prints an error as one line on standard error: what, where, hint.
pub fn print_error(error: &Error) {
    let _ = writeln!(anstream::stderr(), "error: {error}");
}
