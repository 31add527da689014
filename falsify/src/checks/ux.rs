//! F-UX: what a person sees, on a pipe and on a real terminal.
//!
//! The reference for "the answer" is the `text` of `--json`; everything else that reaches a person in normal mode is
//! noise. Terminal rows replay the received bytes in a terminal emulator, so what counts is what was on the screen.

mod chat;
mod progress;
mod serving;

use std::path::{Path, PathBuf};
use std::time::Duration;

use chat::{f_ux_032, f_ux_033};

use super::Check;
use crate::ask::{self, PROMPTS, answered, ask, closed, report};
use crate::bad::command_line::{self, End, Line};
use crate::bad::{self, Bad};
use crate::child::{Output, Run};
use crate::forge::gguf::Writer;
use crate::forge::models::{Filling, Model};
use crate::forge::words::{Words, byte_alphabet};
use crate::formula::Known;
use crate::message::inhuman;
use crate::screen::{Screens, coloured, escape, spins, without_escapes};
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally, fixture_weak, instrument};
use crate::{capability, forge, oracle, texts};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-UX-021", f_ux_021),
    ("F-UX-022", f_ux_022),
    ("F-UX-023", f_ux_023),
    ("F-UX-024", f_ux_024),
    ("F-UX-025", f_ux_025),
    ("F-UX-026", f_ux_026),
    ("F-UX-027", f_ux_027),
    ("F-UX-028", f_ux_028),
    ("F-UX-029", f_ux_029),
    ("F-UX-030", f_ux_030),
    ("F-UX-031", f_ux_031),
    ("F-UX-032", f_ux_032),
    ("F-UX-033", f_ux_033),
    ("F-UX-034", serving::f_ux_034),
    ("F-UX-035", f_ux_035),
    ("F-UX-036", f_ux_036),
    ("F-UX-037", f_ux_037),
    ("F-UX-038", progress::f_ux_038),
    ("F-UX-039", f_ux_039),
    ("F-UX-040", f_ux_040),
];

const FEW: &[&str] = &["--max-tokens", "48"];

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

/// Verbose mode shows loading details (source, format, tensors), as the first bytes of the file have them.
pub fn f_ux_027(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --verbose on GGUF v2 and v3 files, beside their first 16 bytes");
    let old = s.scratch()?.join("old.gguf");
    let mut writer = forge::file("llama-q8_0").ok_or_else(|| instrument("no llama-q8_0"))?.map_err(instrument)?;
    writer.version = 2;
    // What a file calls itself is shown, and does not reach the terminal as it is.
    writer.replace("general.name", "\u{1b}[31mred\u{7}");
    writer.write(&old).map_err(instrument)?;
    for model in [s.fixture("q8_0")?, s.fixture("q4_k_m")?, s.forged("qwen2-untied-q8_0")?, old] {
        let out = details(s, &model, &["x"])?;
        let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shown = value(&out.err(), "Loading model:").unwrap_or_default();
        t.hold(shown.ends_with(&name), || out.refute("the model is named", shown, name))?;
        says(&mut t, &out, "Source:", "local file")?;
        let (version, tensors) = header(&model)?;
        says(&mut t, &out, "Format:", &format!("GGUF v{version}"))?;
        says(&mut t, &out, "Tensors:", &tensors.to_string())?;
        let driven = out.err().find(|c: char| c.is_control() && c != '\n').map(|at| out.err()[at..].to_string());
        t.hold(driven.is_none(), || out.refute("names cannot drive the terminal", driven.unwrap_or_default(), "text"))?;
    }
    t.done()
}

/// Version and number of tensors, by the first bytes of a GGUF file.
fn header(model: &Path) -> Result<(u32, u64), Halt> {
    let bytes = std::fs::read(model).map_err(instrument)?;
    let version = bytes.get(4..8).and_then(|b| Some(u32::from_le_bytes(b.try_into().ok()?)));
    let tensors = bytes.get(8..16).and_then(|b| Some(u64::from_le_bytes(b.try_into().ok()?)));
    version.zip(tensors).ok_or_else(|| instrument("a GGUF file of less than 16 bytes"))
}

/// Verbose mode shows architecture info (hidden size, layers, heads), as config.json or the forge has them.
pub fn f_ux_028(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --verbose on the fixture beside its config.json, and on six shapes of the forge");
    let forged = ["qwen2-mha-q8_0", "qwen2-gqa4-q4_k", "qwen2-uneven-q8_0", "llama-q8_0", "llama-head128-q8_0"];
    let mut shapes = Known::all_forged(s, &forged)?;
    shapes.push(Known::fixture(s, "q8_0")?);
    shapes.push(Known::fixture(s, "q4_k_m")?);
    for known in shapes {
        let out = details(s, &known.path, &["x"])?;
        let arch = if known.name.starts_with("llama") { "llama" } else { "qwen2" };
        says(&mut t, &out, "Architecture:", arch)?;
        for (key, n) in [
            ("Hidden:", known.heads * known.head_dim),
            ("Layers:", known.layers),
            ("Heads:", known.heads),
            ("K/V heads:", known.kv_heads),
        ] {
            says(&mut t, &out, key, &n.to_string())?;
        }
    }
    t.done()
}

/// Verbose mode shows prompt token count, equal to llama.cpp's count of the same prompt.
pub fn f_ux_029(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --verbose on the prompts of golden/llama/qwen2-tiny-q8_0.json of up to 400 tokens");
    let golden = oracle::golden(s, "qwen2-tiny-q8_0")?;
    let model = golden.model(s)?;
    for case in golden.cases.iter().filter(|c| c.prompt.len() <= 400) {
        let Some(words) = typed(case) else { continue };
        let out = details(s, &model, &words)?;
        says(&mut t, &out, "Prompt tokens:", &case.prompt.len().to_string())?;
    }
    t.done()
}

/// What to type for a case of the oracle: `None` where it takes more than a system message and one of the user.
fn typed(case: &oracle::Case) -> Option<Vec<&str>> {
    match case.messages.as_deref() {
        _ if case.tools.is_some() => None,
        None => Some(vec![case.text.as_deref()?, "--raw"]),
        Some([user]) if user.role == "user" => Some(vec![&user.content]),
        Some([system, user]) if system.role == "system" => Some(vec![&user.content, "--system", &system.content]),
        Some(_) => None,
    }
}

/// Verbose mode shows performance stats (tok/s, total duration) that agree with each other and with a clock outside.
pub fn f_ux_030(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("apr run --verbose, an answer of at least 16 tokens by scalar code on one thread, three times");
    let (prompt, whole) = ask::long(s, 16)?;
    // A busy machine may hand us text late, so the time between the first text and the last looks longer than it was.
    let mut least_missing = f64::INFINITY;
    for _ in 0..3 {
        let run = ask(s, prompt, &["--max-tokens", "128", "--threads", "1", "--verbose", "--no-gpu"])?
            .env("APR_ISA", "scalar");
        let out = answered(run)?;
        let err = out.err();
        let number = |key: &str| {
            let shown = value(&err, key).and_then(|v| v.split([' ', 'm']).next()?.parse::<f64>().ok());
            shown.ok_or_else(|| Halt::from(out.refute("--verbose has statistics", &*err, key)))
        };
        let (speed, total, load) = (number("Performance:")?, number("Total:")?, number("Model loaded in")?);
        let (steps, decode) = (number("Decoded:")?, milliseconds(&err, "Decoded:"));
        let (tokens, prompt_ms) = (number("Generated:")?, milliseconds(&err, "Prompt:"));
        let decode = decode.ok_or_else(|| out.refute("decoding took a time", &*err, "ms"))?;
        let prompt_ms = prompt_ms.ok_or_else(|| out.refute("the prompt took a time", &*err, "ms"))?;
        t.equal("as many tokens as without --verbose", &tokens, &(whole.tokens as f64))?;
        let counted = (steps - tokens).abs() <= 1.0;
        t.hold(counted, || out.refute("a step for each token, give or take the first and the end", &*err, "as many"))?;
        let off = (speed / (steps / decode * 1e3) - 1.0).abs();
        t.at_most("tok/s is steps over time, but for rounding", off, 0.01)?;
        let parts = load + prompt_ms + decode;
        t.at_most("the parts fit into the whole, but for rounding", parts, total + 0.1)?;
        let wall = out.wall.as_secs_f64() * 1e3;
        t.at_most("the whole fits into the time seen from outside", total, wall)?;
        let (first, last) = (out.chunks.first().map(|c| c.at), out.chunks.last().map(|c| c.at));
        let spread = first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first).as_secs_f64() * 1e3;
        least_missing = least_missing.min((spread - decode) / spread.max(1.0));
    }
    t.at_most("text arrives no longer than decoding is said to take, in the best of three runs", least_missing, 0.2)?;
    t.done()
}

/// The number before `ms` on the line that begins so.
fn milliseconds(text: &str, key: &str) -> Option<f64> {
    value(text, key)?.split_once("ms")?.0.rsplit(' ').next()?.parse().ok()
}

/// Verbose mode shows backend dispatch info (AVX/CUDA/SIMD): the best there is, or the one that is forced.
pub fn f_ux_031(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --verbose as it is, with each APR_ISA of this machine, and on one and two threads");
    let here = capability::instruction_sets();
    // Worst first. The names on the left are APR_ISA's.
    let known = [("scalar", ""), ("avx2", "avx2"), ("avx512", "avx512vnni"), ("neon", "neon")];
    let had: Vec<&str> = known.iter().filter(|(_, cpu)| cpu.is_empty() || here.contains(cpu)).map(|k| k.0).collect();
    let backend = |run: Run, isa: &str, threads: Option<usize>, t: &mut Tally| {
        let out = answered(run.args(["--verbose"]))?;
        let line = out.err().lines().find(|l| l.starts_with("Backend:")).unwrap_or("no Backend line").to_lowercase();
        let words: Vec<&str> = line.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let others = had.iter().any(|other| *other != isa && words.contains(other));
        let named = words.contains(&"cpu") && words.contains(&isa) && !others;
        t.hold(named, || out.refute("the backend line names what runs", &*line, format!("cpu, {isa}")))?;
        let counted = threads.is_none_or(|n| line.contains(&format!("{n} thread")));
        t.hold(counted, || out.refute("it says on how many threads", &*line, format!("{threads:?}")))
    };
    for isa in &had {
        for threads in [1, 2] {
            let flags = ["--max-tokens", "4", "--no-gpu", "--threads", &threads.to_string()];
            backend(ask(s, PROMPTS[0], &flags)?.env("APR_ISA", isa), isa, Some(threads), &mut t)?;
        }
    }
    let best = had.last().copied().unwrap_or("scalar");
    backend(ask(s, PROMPTS[0], &["--max-tokens", "4", "--no-gpu"])?, best, None, &mut t)?;
    t.note(format!("instruction sets: {}", had.join(", ")));
    t.done()
}

/// Colors work on TTY, disabled on non-TTY.
pub fn f_ux_035(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "an answer, details, a warning, an error and a usage error: on a terminal, on pipes, NO_COLOR, TERM=dumb; answers with escapes",
    );
    let model = s.model()?;
    let model = model.to_string_lossy();
    let cases: [(&str, &[&str], i32); 5] = [
        ("an answer", &["run", &model, "2+2?", "--max-tokens", "4"], 0),
        ("details", &["run", &model, "2+2?", "--max-tokens", "4", "--verbose"], 0),
        ("a warning", &["run", &model, "2+2?", "--max-tokens", "4", "--temperature", "-1"], 0),
        ("an error", &["run", "nonexistent.gguf", "2+2?"], 3),
        ("a usage error", &["run", &model, "2+2?", "--frobnicate"], 2),
    ];
    for (what, args, code) in cases {
        let mut run = |run: Run| {
            let out = run.judged()?;
            let ended = out.code() == Some(code);
            t.hold(ended, || {
                out.refute(&format!("{what} exits {code}"), format!("{:?}", out.code()), code.to_string())
            })?;
            Ok::<Output, Halt>(out)
        };
        let screen = run(s.apr(args).on_terminal())?;
        let plain = run(s.apr(args).env("NO_COLOR", "1").on_terminal())?;
        let dumb = run(s.apr(args).env("TERM", "dumb").on_terminal())?;
        let piped = run(s.apr(args))?;
        let forced = run(s.apr(args).env("CLICOLOR_FORCE", "1"))?;
        let seen = |out: &Output| String::from_utf8_lossy(&out.stdout).escape_debug().to_string();
        t.hold(coloured(&screen.stdout), || {
            screen.refute(&format!("{what} is coloured on a terminal"), seen(&screen), "a colour")
        })?;
        t.hold(!coloured(&plain.stdout), || plain.refute("NO_COLOR: no colour", seen(&plain), "none"))?;
        let left = escape(&dumb.stdout);
        t.hold(left.is_none(), || dumb.refute("TERM=dumb: no escape sequence", left.unwrap_or_default(), "none"))?;
        let left = escape(&piped.stdout).or_else(|| escape(&piped.stderr));
        t.hold(left.is_none(), || piped.refute("no escape sequence on a pipe", left.unwrap_or_default(), "none"))?;
        // A plain answer has nothing to colour where no spinner can turn.
        let colour = coloured(&forced.stderr) || what == "an answer";
        t.hold(colour && escape(&forced.stdout).is_none(), || {
            forced.refute("CLICOLOR_FORCE: colour on standard error, none in the answer", forced.err(), "a colour")
        })?;
    }
    let babbler = s.scratch()?.join("babbler.gguf");
    escaping()?.write(&babbler).map_err(instrument)?;
    let babble = || s.apr(["run"]).args([&babbler]).args(["x", "--max-tokens", "5", "--quiet"]);
    let piped = answered(babble())?;
    t.hold(piped.stdout == b"\x1b\x1b\x1b\x1b\x1b\n", || {
        piped.refute("a pipe receives every byte of an answer", piped.out().escape_debug().to_string(), "five escapes")
    })?;
    let seen = answered(babble().on_terminal())?;
    let left = escape(&seen.stdout);
    t.hold(left.is_none(), || seen.refute("an answer cannot drive the screen", left.unwrap_or_default(), "text"))?;
    t.done()
}

/// A model of zeros, to which all tokens are alike, so that it answers with the first one: the escape character.
fn escaping() -> Result<Writer, Halt> {
    let words = || {
        let mut words = Words::small();
        let escape = String::from(byte_alphabet()[0x1b]);
        let at = words.tokens.iter().position(|token| *token == escape).unwrap_or_default();
        words.tokens.swap(0, at);
        words
    };
    let like = forge::model("qwen2-f16").ok_or_else(|| instrument("no qwen2-f16"))?;
    Model { words, filling: Filling::Hole, ..like }.file().map_err(instrument)
}

/// UTF-8 and emoji render correctly without mojibake.
pub fn f_ux_036(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("apr run on prompts answered beyond ASCII: every chunk of a pipe, the screen, HuggingFace's bytes");
    let spelled = texts::spelled(s)?;
    let golden = oracle::golden(s, "qwen2-tiny-q8_0")?;
    let of_golden = golden.cases.iter().filter(|c| c.reply.as_ref().is_some_and(|r| !r.is_ascii()));
    let mut cases: Vec<(Vec<&str>, Option<&oracle::Case>)> =
        of_golden.filter_map(|case| Some((typed(case)?, Some(case)))).collect();
    cases.extend(texts::VARIED.iter().filter(|(_, raw)| !raw).map(|(prompt, _)| (vec![*prompt], None)));
    let (mut multibyte, mut by_oracle) = (0u32, 0u32);
    for (words, case) in cases {
        let flags = [&words[1..], FEW].concat();
        let told = report(s, words[0], &flags)?;
        if told.text.is_ascii() {
            continue;
        }
        multibyte += 1;
        let ids: Vec<u32> = serde_json::from_value(told.json["tokens"].clone()).map_err(instrument)?;
        let bytes: Vec<u8> = ids.iter().flat_map(|id| spelled.get(id).cloned().unwrap_or_default()).collect();
        let refute = |criterion: &str, seen: &str, want: &str| {
            Refutation::new(criterion, seen.escape_debug().to_string(), want).repro(told.repro.clone())
        };
        let meant = String::from_utf8_lossy(&bytes).into_owned();
        t.hold(told.text == meant, || refute("the text is what the tokens spell", &told.text, &meant))?;
        if let Some(reply) = case.filter(|c| c.greedy.starts_with(&ids)).and_then(|c| c.reply.as_ref()) {
            by_oracle += 1;
            t.hold(told.text == *reply, || refute("the text is llama.cpp's", &told.text, reply))?;
        }
        let whole = std::str::from_utf8(&bytes).is_ok();
        let replaced = told.text.contains('\u{fffd}');
        t.hold(!(whole && replaced), || refute("no U+FFFD for valid tokens", &told.text, &meant))?;

        let out = answered(ask(s, words[0], &flags)?)?;
        let want = closed(&told.text);
        t.hold(out.out() == want, || out.refute("a pipe receives the text", out.out(), &*want))?;
        let mut from = 0;
        for chunk in &out.chunks {
            let piece = &out.stdout[from..from + chunk.bytes];
            from += chunk.bytes;
            let valid = std::str::from_utf8(piece).is_ok();
            t.hold(valid, || out.refute("every chunk is whole characters", format!("{piece:x?}"), "valid UTF-8"))?;
        }
        let seen = answered(ask(s, words[0], &flags)?.on_terminal())?;
        let last = Screens::replay(&seen.stdout).last;
        let alike = lines(&last) == lines(&told.text);
        t.hold(alike, || seen.refute("the screen shows the text", &*last, &*told.text))?;
    }
    t.number("answers beyond ASCII", f64::from(multibyte));
    t.number("of these beside llama.cpp's", f64::from(by_oracle));
    if by_oracle == 0 || multibyte < 5 {
        return Err(fixture_weak(format!("{multibyte} answers beyond ASCII, {by_oracle} of them known")));
    }
    t.done()
}

/// Error messages are user-friendly (no raw Rust panics).
pub fn f_ux_037(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run on every bad command line and every hostile model file of falsify/src/bad");
    let (model, folder) = (s.model()?, s.scratch()?);
    command_line::lay_out(&folder, &model).map_err(instrument)?;
    for line in command_line::ALL {
        let out = typed_line(s, line, &model, &folder).judged()?;
        judge_line(&mut t, line, &out)?;
    }
    let tables = [bad::header::all, bad::tensors::all, bad::hyper::all, bad::tokenizer::all];
    for table in tables {
        for Bad { what, bytes, kind, at } in table().map_err(instrument)? {
            let file = folder.join("hostile.gguf");
            std::fs::write(&file, bytes).map_err(instrument)?;
            let out = s.apr(["run"]).args([&file]).args(["x"]).judged()?;
            let code = Some(i32::from(kind.exit_code()));
            t.hold(out.code() == code, || {
                out.refute(&format!("{what} is refused"), format!("{:?}", out.code()), format!("{code:?}"))
            })?;
            human(&mut t, &out, &what, false)?;
            let at = at.to_string();
            let criterion = format!("{what}: the message says where");
            t.hold(out.err().contains(&at), || out.refute(&criterion, out.err(), at))?;
        }
    }
    let bare = s.apr(["run"]).args([&model]).on_terminal().judged()?;
    let hinted = bare.code() == Some(2) && bare.out().contains("no prompt") && bare.out().contains("after the model");
    t.hold(hinted, || bare.refute("without a prompt, a terminal gets a hint", bare.out(), "no prompt; give one"))?;
    let left = ask(s, ask::LONG_PROMPTS[0], &["--max-tokens", "128", "--threads", "1"])?.env("APR_ISA", "scalar");
    let left = left.reader_leaves_after(1).judged()?;
    let silent = left.code() == Some(141) && left.stderr.is_empty();
    t.hold(silent, || {
        left.refute(
            "a reader that leaves gets no message",
            format!("{:?}: {}", left.code(), left.err()),
            "141, nothing",
        )
    })?;
    t.done()
}

/// `apr` with the words of this line, and what is around it.
fn typed_line(s: &Subject, line: &Line, model: &Path, folder: &Path) -> Run {
    let mut run = s.apr(line.words(model, folder));
    for (name, value) in line.env {
        run = run.env(name, value);
    }
    if !line.stdin.is_empty() {
        run = run.stdin(line.stdin);
    }
    line.redirect.into_iter().fold(run, Run::redirected)
}

fn judge_line(t: &mut Tally, line: &Line, out: &Output) -> Result<(), Halt> {
    let code = match line.end {
        End::Answers => 0,
        End::Refuses(code) => code,
    };
    let observed = || format!("{:?}: {}", out.code(), out.err().trim());
    let ended = out.code() == Some(code);
    t.hold(ended, || out.refute(&format!("{} exits {code}", line.what), observed(), code.to_string()))?;
    let heard = !line.redirect.is_some_and(|how| how.starts_with("2>"));
    if heard && code != 0 {
        human(t, out, line.what, code == 2)?;
        let missing = line.says.iter().find(|word| !out.err().contains(**word));
        t.hold(missing.is_none(), || {
            out.refute(&format!("{}: the message names it", line.what), observed(), *missing.unwrap_or(&""))
        })?;
    }
    let driven = escape(&out.stderr);
    t.hold(driven.is_none(), || {
        out.refute(&format!("{}: nothing drives the terminal", line.what), driven.unwrap_or_default(), "text")
    })
}

fn human(t: &mut Tally, out: &Output, what: &str, usage: bool) -> Result<(), Halt> {
    let wrong = inhuman(&out.err(), usage);
    t.hold(wrong.is_none(), || {
        out.refute(&format!("{what} gives one human line"), wrong.unwrap_or_default(), "error: what, where; hint")
    })
}

/// Final stats summary suppressed unless `--verbose` is used.
pub fn f_ux_040(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("apr run plain and --verbose, on pipes and on a pseudo-terminal: what comes after the answer");
    const SUMMARY: [&str; 3] = ["Generated:", "Performance:", "Total:"];
    for prompt in PROMPTS {
        let text = said(s, prompt)?;
        let last_line = text.trim_end().lines().next_back().unwrap_or_default();
        for terminal in [false, true] {
            let run = |flags: &[&str]| {
                let run = ask(s, prompt, &[FEW, flags].concat())?;
                let out = answered(if terminal { run.on_terminal() } else { run })?;
                // A terminal receives both streams in order; on pipes the answer comes first by definition.
                let all = out.out().replace("\r\n", "\n") + &out.err();
                let after = all.rsplit_once(last_line).map(|(_, after)| without_escapes(after)).unwrap_or_default();
                Ok::<(Output, String, String), Halt>((out, all, after))
            };
            let (out, all, after) = run(&[])?;
            let found =
                SUMMARY.iter().find(|key| all.contains(**key)).map(|key| key.to_string()).or_else(|| timing(&after));
            let silent = found.is_none() && after.trim().is_empty();
            t.hold(silent, || out.refute("nothing comes after the answer", found.unwrap_or(after), "nothing"))?;
            let (out, _, after) = run(&["--verbose"])?;
            let missing = SUMMARY.iter().find(|key| !after.contains(**key));
            t.hold(missing.is_none() && timing(&after).is_some(), || {
                out.refute(
                    "--verbose ends with statistics",
                    &*after,
                    missing.unwrap_or(&"a time and a speed").to_string(),
                )
            })?;
        }
    }
    t.done()
}

/// `apr run MODEL WORDS --verbose`, one token.
fn details(s: &Subject, model: &Path, words: &[&str]) -> Result<Output, Halt> {
    let model: PathBuf = model.to_owned();
    answered(s.apr(["run"]).args([model]).args(words).args(["--verbose", "--max-tokens", "1"]))
}

/// What stands behind a key of `--verbose`, up to a comma, a bracket or the end of the line.
fn value(text: &str, key: &str) -> Option<String> {
    let at =
        text.match_indices(key).find(|(at, _)| text[..*at].chars().next_back().is_none_or(|c| c == ' ' || c == '\n'));
    let rest = &text[at?.0 + key.len()..];
    Some(rest.split([',', '(', '\n']).next().unwrap_or_default().trim().to_string())
}

fn says(t: &mut Tally, out: &Output, key: &str, want: &str) -> Result<(), Halt> {
    let seen = value(&out.err(), key);
    t.hold(seen.as_deref() == Some(want), || {
        out.refute(&format!("--verbose: {key}"), seen.unwrap_or_else(|| out.err()), want.to_string())
    })
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
    fn values_stand_behind_their_keys() {
        let text = "  Heads: 4, K/V heads: 2\nTensors: 50 (Q8_0 x 29)\nDecoded: 9 steps in 40.10ms\n";
        for (key, want) in [("Heads:", "4"), ("K/V heads:", "2"), ("Tensors:", "50")] {
            assert_eq!(value(text, key).as_deref(), Some(want));
        }
        assert_eq!((value(text, "eads:"), milliseconds(text, "Decoded:")), (None, Some(40.1)));
    }
}
