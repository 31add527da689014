//! F-UX: what a person sees, on a pipe and on a real terminal.
//!
//! The reference for "the answer" is the `text` of `--json`; everything else that reaches a person in normal mode is
//! noise. Terminal rows replay the received bytes in a terminal emulator, so what counts is what was on the screen.

use std::time::Duration;

use super::Check;
use crate::ask::{self, PROMPTS, answered, ask, closed, report};
use crate::child::Output;
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-UX-021", f_ux_021),
    ("F-UX-022", f_ux_022),
    ("F-UX-023", f_ux_023),
    ("F-UX-024", f_ux_024),
    ("F-UX-025", f_ux_025),
    ("F-UX-026", f_ux_026),
    ("F-UX-039", f_ux_039),
];

/// Frames of spinners are Braille patterns with at least one dot.
const SPINNER: std::ops::RangeInclusive<char> = '\u{2801}'..='\u{28ff}';

const FEW: &[&str] = &["--max-tokens", "48"];

fn spins(text: &str) -> bool {
    text.chars().any(|c| SPINNER.contains(&c))
}

/// The answer, by `--json`. Rows about what surrounds an answer need one.
fn said(s: &Subject, prompt: &str) -> Result<String, Halt> {
    let r = report(s, prompt, FEW)?;
    let empty = || Refutation::new("there is an answer", r.json.to_string(), "text").repro(r.repro.clone());
    if r.text.trim().is_empty() { Err(empty().into()) } else { Ok(r.text) }
}

/// Spinner shows during model loading, on a terminal and only there.
pub fn f_ux_021(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run on a pseudo-terminal and on pipes");
    for prompt in PROMPTS {
        let text = said(s, prompt)?;
        let seen = answered(ask(s, prompt, FEW)?.on_terminal())?;
        let screen = seen.out();
        let begins = screen.find(first_line(&text)).unwrap_or(screen.len());
        let before = spins(&screen[..begins]);
        t.hold(before, || seen.refute("a spinner frame comes before the answer", &*screen, "a Braille pattern"))?;
        let piped = answered(ask(s, prompt, FEW)?)?;
        let quiet = !spins(&piped.err()) && !spins(&piped.out().replace(&text, ""));
        t.hold(quiet, || piped.refute("no spinner on a pipe", piped.err(), "no spinner frame"))?;
    }
    t.done()
}

/// Spinner clears before output: no screen ever shows both, and the last screen is the answer alone.
pub fn f_ux_022(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run on a pseudo-terminal, every screen replayed byte by byte");
    for prompt in PROMPTS {
        let text = said(s, prompt)?;
        let seen = answered(ask(s, prompt, FEW)?.on_terminal())?;
        let screens = Screens::replay(&seen.stdout);
        let head: String = first_line(&text).chars().take(4).collect();
        let both = screens.all.iter().find(|c| spins(c) && c.contains(&head));
        t.hold(both.is_none(), || {
            seen.refute("no screen shows spinner and answer", both.cloned().unwrap_or_default(), "")
        })?;
        let alone = lines(&screens.last) == lines(&text);
        t.hold(alone, || seen.refute("the last screen is the answer alone", &*screens.last, &*text))?;
        let cursor = !screens.cursor_hidden;
        t.hold(cursor, || seen.refute("the cursor is visible again", "a hidden cursor", "a visible cursor"))?;
    }
    t.done()
}

/// Clean output shows ONLY response text.
pub fn f_ux_023(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run on pipes: every byte of both streams");
    for prompt in PROMPTS {
        let text = said(s, prompt)?;
        let out = answered(ask(s, prompt, FEW)?)?;
        let want = closed(&text);
        t.hold(out.out() == want, || out.refute("standard output is the answer and a line end", out.out(), &*want))?;
        t.hold(out.stderr.is_empty(), || out.refute("standard error is empty", out.err(), ""))?;
        let plain = !out.out().chars().any(|c| c.is_control() && c != '\n' && c != '\t');
        t.hold(plain, || out.refute("no control characters", out.out().escape_debug().to_string(), "plain text"))?;
    }
    t.done()
}

/// No debug tags like `[PAR-*]`, `[BIAS-FIX]`, or `[DEBUG]` in output.
pub fn f_ux_024(s: &Subject) -> Attempt {
    no_noise(s, "no [TAG]", &|text| bracketed_tag(text))
}

/// No internal timing logs (e.g., "Layer 1 took 5ms") in output.
pub fn f_ux_025(s: &Subject) -> Attempt {
    no_noise(s, "no duration or speed", &|text| timing(text))
}

/// No backend initialization noise (e.g., "CUDA device 0 initialized").
pub fn f_ux_026(s: &Subject) -> Attempt {
    const WORDS: &[&str] = &[
        "cuda", "gpu", "device", "nvidia", "vram", "driver", "backend", "initiali", "avx", "simd", "thread", "kernel",
        "tensor", "mmap", "warm",
    ];
    let backend = |text: &str| {
        let lower = text.to_lowercase();
        WORDS.iter().find(|w| lower.contains(**w)).map(|w| w.to_string())
    };
    no_noise(s, "no word about the backend", &backend)
}

/// Output streaming works (text appears as generated).
pub fn f_ux_039(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --threads 1 on a pipe, arrival times of an answer of at least 16 tokens");
    let (prompt, whole) = ask::long(s, 16)?;
    // A busy machine may hand us late what was written early, never early what was written late: one streamed run of
    // three is proof, and no buffered program can fake it.
    let mut best: Option<(f64, Output)> = None;
    for _ in 0..3 {
        let out = answered(ask(s, prompt, &["--max-tokens", "128", "--threads", "1"])?)?;
        let share = streamed_share(&out);
        if best.as_ref().is_none_or(|(b, _)| share > *b) {
            best = Some((share, out));
        }
    }
    if let Some((share, out)) = best {
        t.number("chunks", out.chunks.len() as f64);
        t.number("tokens", whole.tokens as f64);
        t.number("share of the answer's time in which text arrived", share);
        let observed = format!("{} chunks, over {:.0} % of the time", out.chunks.len(), share * 100.0);
        let streams = out.chunks.len() >= 4 && share >= 0.25;
        t.hold(streams, || {
            out.refute("text arrives while it is generated", observed, "4 chunks over 25 % of the time")
        })?;
    }
    t.done()
}

/// Of the time from the first text to the end, the share in which text kept arriving.
fn streamed_share(out: &Output) -> f64 {
    let (Some(first), Some(last)) = (out.chunks.first(), out.chunks.last()) else { return 0.0 };
    let rest = out.wall.saturating_sub(first.at).max(Duration::from_micros(1));
    last.at.saturating_sub(first.at).as_secs_f64() / rest.as_secs_f64()
}

/// Looks for noise in everything but the answer: pipes, a terminal, and an environment that begs for logs.
fn no_noise(s: &Subject, criterion: &str, noise: &dyn Fn(&str) -> Option<String>) -> Attempt {
    let mut t = Tally::new("apr run in normal mode: pipes, terminal, and RUST_LOG=trace APR_LOG=trace");
    for prompt in PROMPTS {
        let text = said(s, prompt)?;
        let piped = answered(ask(s, prompt, FEW)?)?;
        let begged = answered(ask(s, prompt, FEW)?.env("RUST_LOG", "trace").env("APR_LOG", "trace"))?;
        for out in [piped, begged] {
            let rest = format!("{}{}", out.out().replacen(&text, "", 1), out.err());
            quiet(&mut t, &out, criterion, &rest, noise)?;
        }
        let seen = answered(ask(s, prompt, FEW)?.on_terminal())?;
        let screens = Screens::replay(&seen.stdout);
        let rest: String = screens.all.iter().map(|c| c.replacen(&text, "", 1) + "\n").collect();
        // The spinner's caption is allowed, as long as it is on the spinner's line.
        let rest: String =
            rest.lines().filter(|l| !spins(l) && !text.contains(l.trim())).flat_map(|l| [l, "\n"]).collect();
        quiet(&mut t, &seen, criterion, &rest, noise)?;
    }
    t.done()
}

fn quiet(
    t: &mut Tally,
    out: &Output,
    criterion: &str,
    rest: &str,
    noise: &dyn Fn(&str) -> Option<String>,
) -> Result<(), Halt> {
    let found = noise(rest);
    t.hold(found.is_none(), || out.refute(criterion, found.unwrap_or_default(), "nothing but the answer"))
}

/// `[DEBUG]`, `[PAR-001]`: capitals, digits and dashes in brackets, or a log level at the start of a line.
fn bracketed_tag(text: &str) -> Option<String> {
    let tag = |inner: &str| {
        inner.starts_with(|c: char| c.is_ascii_uppercase())
            && inner.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || "-_: ".contains(c))
    };
    let bracketed = text.split('[').skip(1).filter_map(|r| r.split_once(']')).map(|(i, _)| i).find(|i| tag(i));
    let level =
        || text.lines().find(|l| ["DEBUG", "TRACE", "INFO", "WARN"].iter().any(|w| l.trim_start().starts_with(w)));
    bracketed.map(|i| format!("[{i}]")).or_else(|| level().map(str::to_string))
}

/// A number with a unit of time or speed behind it: `5ms`, `25.3 tok/s`, `took 1.2 s`.
fn timing(text: &str) -> Option<String> {
    const UNITS: &[&str] = &["ms", "us", "µs", "ns", "s", "sec", "secs", "seconds", "tok/s", "t/s", "tokens/s"];
    let split = |line: &str| -> Option<String> {
        let mut words = line.split_whitespace().map(|w| w.trim_matches(|c: char| ",.;:()[]".contains(c))).peekable();
        while let Some(word) = words.next() {
            let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            let number = unit.len() < word.len();
            let next_is_unit = words.peek().is_some_and(|n| UNITS.contains(n));
            if number && (UNITS.contains(&unit) || unit.is_empty() && next_is_unit) {
                return Some(line.to_string());
            }
        }
        None
    };
    text.lines().find_map(split)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn lines(text: &str) -> Vec<&str> {
    text.trim_end().lines().map(str::trim_end).collect()
}

/// What a terminal showed: every different screen, and the last one.
struct Screens {
    all: Vec<String>,
    last: String,
    cursor_hidden: bool,
}

impl Screens {
    #[cfg(unix)]
    fn replay(bytes: &[u8]) -> Screens {
        use crate::child::{TERMINAL_COLUMNS, TERMINAL_ROWS};
        let mut terminal = vt100::Parser::new(TERMINAL_ROWS, TERMINAL_COLUMNS, 0);
        let mut all: Vec<String> = Vec::new();
        for byte in bytes {
            terminal.process(std::slice::from_ref(byte));
            let now = terminal.screen().contents();
            if all.last() != Some(&now) {
                all.push(now);
            }
        }
        let last = terminal.screen().contents();
        Screens { all, last, cursor_hidden: terminal.screen().hide_cursor() }
    }

    #[cfg(not(unix))]
    fn replay(_: &[u8]) -> Screens {
        Screens { all: Vec::new(), last: String::new(), cursor_hidden: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detectors_see_what_the_claims_name_and_not_more() {
        for bad in ["[PAR-001] x", "x [BIAS-FIX]", "[DEBUG]", "DEBUG kv"] {
            assert!(bracketed_tag(bad).is_some(), "{bad}");
        }
        for good in ["a[0] = 1", "[link](url)", "", "list[int]"] {
            assert!(bracketed_tag(good).is_none(), "{good}");
        }
        for bad in ["Layer 1 took 5ms", "25.3 tok/s", "took 1.2 s", "(12 ms)"] {
            assert!(timing(bad).is_some(), "{bad}");
        }
        for good in ["2 + 2 = 4", "5 apples", "", "see ms 5"] {
            assert!(timing(good).is_none(), "{good}");
        }
    }

    #[test]
    fn a_screen_is_what_remains_visible() {
        let s = Screens::replay("⠋ Loading\r\x1b[2Kfour\r\n".as_bytes());
        assert_eq!(s.last.trim_end(), "four");
        assert!(s.all.iter().any(|c| c.contains('⠋')));
    }
}
