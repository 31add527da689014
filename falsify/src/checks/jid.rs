//! F-JID: Jidoka, the line that stops itself: what is wrong is noticed, named with its numbers, and explained.
//!
//! Bad files come from the tables in `bad`, whose refusals `refusal.rs` judges; here it is asked whether a person is
//! told enough. Everything is read off `apr`'s standard error.

mod guards;
mod network;

use engine::Kind;

use super::{Check, gpu};
use crate::ask::{self, answered, ask};
use crate::bad::{self, Bad};
use crate::child::{Output, Run};
use crate::forge;
use crate::forge::gguf::{Data, Value, Writer};
use crate::refusal::{self, one_line};
use crate::subject::Subject;
use crate::texts;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-JID-261", f_jid_261),
    ("F-JID-262", f_jid_262),
    ("F-JID-263", f_jid_263),
    ("F-JID-264", guards::f_jid_264),
    ("F-JID-265", f_jid_265),
    ("F-JID-266", f_jid_266),
    ("F-JID-267", f_jid_267),
    ("F-JID-268", f_jid_268),
    ("F-JID-269", guards::f_jid_269),
    ("F-JID-270", guards::f_jid_270),
    ("F-JID-271", guards::f_jid_271),
    ("F-JID-272", f_jid_272),
    ("F-JID-273", f_jid_273),
    ("F-JID-274", guards::f_jid_274),
    ("F-JID-275", guards::f_jid_275),
    ("F-JID-276", f_jid_276),
    ("F-JID-277", f_jid_277),
    ("F-JID-278", f_jid_278),
    ("F-JID-279", network::f_jid_279),
    ("F-JID-280", guards::f_jid_280),
];

// ---- files that contradict themselves

/// A change of a good file.
type Spoil = fn(&mut Writer);

/// What the forge would write under this name.
fn sound(name: &str) -> Result<Writer, Halt> {
    forge::file(name).ok_or_else(|| instrument(format!("the forge has no {name}")))?.map_err(instrument)
}

/// What `apr` says to a file that was changed.
fn said_to(s: &Subject, w: &Writer) -> Result<Output, Halt> {
    let file = s.scratch()?.join("model.gguf");
    w.write(&file).map_err(instrument)?;
    s.apr(["run"]).args([file.as_os_str()]).args(["2+2?", "--max-tokens", "4"]).judged()
}

/// The refusal says each of these words, and what to do about it: a hint stands behind a semicolon.
fn tells(t: &mut Tally, out: &Output, what: &str, words: &[&str]) -> Result<(), Halt> {
    one_line(t, out, what, Kind::Malformed, "")?;
    let text = out.err();
    for word in words {
        t.hold(text.contains(word), || out.refute(&format!("{what}: it names {word}"), text.trim(), *word))?;
    }
    hinted(t, out, what)
}

fn hinted(t: &mut Tally, out: &Output, what: &str) -> Result<(), Halt> {
    let text = out.err();
    let hint = text.split_once("; ").map(|(_, hint)| hint.trim()).unwrap_or_default();
    t.hold(hint.len() > 10, || out.refute(&format!("{what}: a hint"), text.trim(), "a hint behind a semicolon"))
}

/// Vocab size mismatch detected: both numbers, the tensor, and a hint.
pub fn f_jid_261(s: &Subject) -> Attempt {
    const TABLE: &str = "token_embd.weight";
    let mut t = Tally::new("forged qwen2 and llama models with fewer rows of embedding than tokens, through apr");
    refusal::table(&mut t, s, bad::hyper::family("29"), 1)?;
    for (name, tokens) in [("qwen2-f16", 320u64), ("llama-chat3-f16", 322), ("qwen2-padded-f16", 352)] {
        for rows in [1, 17, tokens - 1] {
            let mut w = sound(name)?;
            // The output matrix, where there is one, agrees with the embedding.
            for tensor in w.tensors.iter_mut().filter(|x| x.name == TABLE.as_bytes() || x.name == b"output.weight") {
                tensor.dims[1] = rows;
            }
            let what = format!("{name} with {rows} rows for {tokens} tokens");
            tells(&mut t, &said_to(s, &w)?, &what, &[TABLE, &tokens.to_string(), &rows.to_string()])?;
        }
    }
    // More rows than tokens are padding, and no error.
    let padded = s.forged("qwen2-morerows-f16")?;
    let out = answered(s.apr(["run"]).args([padded.as_os_str()]).args(["x", "--max-tokens", "2", "--raw"]))?;
    t.hold(out.stderr.is_empty(), || out.refute("more rows than tokens are padding", out.err(), "no word"))?;
    t.done()
}

/// Embedding dimension mismatch detected: the tensor, the key, both numbers, and a hint.
pub fn f_jid_262(s: &Subject) -> Attempt {
    let mut t = Tally::new("forged models whose width is not that of their tensors, in the metadata or in the tensors");
    for (name, arch) in [("qwen2-f16", "qwen2"), ("llama-f16", "llama")] {
        let key = format!("{arch}.embedding_length");
        for width in [64u32, 96, 256, 4096] {
            let mut w = sound(name)?;
            w.replace(&key, width);
            let what = format!("{name} of width 128 that says {width}");
            tells(&mut t, &said_to(s, &w)?, &what, &["token_embd.weight", &key, "128", &width.to_string()])?;
        }
        // A table of another width, with data for all of it.
        for width in [64u64, 160, 256] {
            let mut w = sound(name)?;
            let table = w.tensor_named("token_embd.weight");
            table.data = Data::Hole(width * table.dims[1] * 2);
            table.dims[0] = width;
            let what = format!("{name} of width 128 with a table of {width}");
            tells(&mut t, &said_to(s, &w)?, &what, &["token_embd.weight", &key, "128", &width.to_string()])?;
        }
    }
    t.done()
}

/// Attention head count mismatch detected: the key, the number, and why it cannot be.
pub fn f_jid_263(s: &Subject) -> Attempt {
    let mut t = Tally::new("head counts that are zero, do not divide, are out of range or contradict the tensors");
    let heads =
        bad::hyper::family("24").map(|all| all.into_iter().filter(bad::hyper::about_heads).collect::<Vec<Bad>>());
    let heads = heads.map_err(instrument)?;
    let family = heads.len();
    refusal::table(&mut t, s, Ok(heads), 1)?;
    for (name, arch) in [("qwen2-f16", "qwen2"), ("llama-f16", "llama")] {
        let (q, kv) = (format!("{arch}.attention.head_count"), format!("{arch}.attention.head_count_kv"));
        // Four heads of 32 on two K/V heads: what is said instead, where, and what has to be told of it.
        let table: &[(&str, u32, &str)] = &[
            (&q, 0, "0"),
            (&q, 3, "3"),
            (&q, 6, "6"),
            (&q, 5000, "5000"),
            (&kv, 0, "0"),
            (&kv, 3, "3"),
            (&kv, 8, "8"),
            (&kv, 1, "1"),
            (&kv, 4, "4"),
        ];
        for (key, heads, number) in table {
            let mut w = sound(name)?;
            w.replace(key, *heads);
            let out = said_to(s, &w)?;
            let what = format!("{name} with {key} = {heads}");
            let text = out.err();
            t.hold(out.code().is_some_and(|c| matches!(c, 5 | 7)), || out.refute(&what, text.trim(), "refused"))?;
            t.hold(text.contains("head_count"), || out.refute(&format!("{what}: the key"), text.trim(), "head_count"))?;
            // The key has a number in its name.
            let rest = text.replace(arch, "");
            let told = rest.split(|c: char| !c.is_ascii_digit()).any(|n| n == *number);
            t.hold(told, || out.refute(&format!("{what}: the number"), text.trim(), *number))?;
        }
    }
    t.number("bad head counts of the tiny model", family as f64);
    t.done()
}

/// Invalid UTF-8 sequence detected: refused with the byte, never replaced.
pub fn f_jid_265(s: &Subject) -> Attempt {
    let mut t = Tally::new("prompts as argument and from standard input, vocabularies, merges, templates and names");
    let model = s.model()?;
    for (name, bytes, at) in bad::text::NOT_UTF8 {
        let says = format!("not valid UTF-8 from its byte {at} on");
        let base = || s.apr(["run"]).args([model.as_os_str()]);
        let mut ways: Vec<(&str, Run)> = vec![("piped in", base().stdin(*bytes))];
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            ways.push(("typed", base().args([std::ffi::OsStr::from_bytes(bytes)])));
        }
        for (way, run) in ways {
            let out = run.judged()?;
            one_line(&mut t, &out, &format!("a prompt with {name}, {way}"), Kind::Usage, &says)?;
        }
    }
    let files: &[(&str, &str, &str, Spoil)] = &[
        ("a token", "tokenizer.ggml.tokens", "token 1 is not valid UTF-8 from its byte 2 on", |w| {
            w.replace("tokenizer.ggml.tokens", Value::strings([&b"a"[..], b"ok\xff", b"b"]));
        }),
        ("a token of one byte", "tokenizer.ggml.tokens", "token 0 is not valid UTF-8 from its byte 0 on", |w| {
            w.replace("tokenizer.ggml.tokens", Value::strings([&b"\xe9"[..], b"b"]));
        }),
        ("a template", "tokenizer.chat_template", "from its byte 5 on", |w| {
            w.replace("tokenizer.chat_template", Value::String(b"{{ a\x20\xc3\x28 }}".to_vec()));
        }),
        ("a name", "general.name", "from its byte 0 on", |w| {
            w.replace("general.name", Value::String(b"\xff\xfename".to_vec()));
        }),
        ("an architecture", "general.architecture", "from its byte 4 on", |w| {
            w.replace("general.architecture", Value::String(b"qwen\xf2".to_vec()));
        }),
        ("a merge", "tokenizer.ggml.merges", "merge 0", |w| {
            w.replace("tokenizer.ggml.merges", Value::strings([b"a \xff"]));
        }),
    ];
    for (name, key, says, spoil) in files {
        let mut w = sound("qwen2-f16")?;
        spoil(&mut w);
        let out = said_to(s, &w)?;
        one_line(&mut t, &out, &format!("{name} that is not UTF-8"), Kind::Malformed, says)?;
        t.hold(out.err().contains(key), || out.refute("the key is named", out.err(), *key))?;
    }
    t.done()
}

// ---- values that cannot be

/// Warns once, with flag, value and the value used instead, and answers as if that had been asked for.
fn clamped(t: &mut Tally, s: &Subject, flag: &str, bad: &[&str], instead: &str, fine: &[&str]) -> Result<(), Halt> {
    t.note(format!("--{flag} {} beside --{flag} {instead}", bad.join(", ")));
    let ask_with = |value: &str, more: &[&str]| {
        let flag = format!("--{flag}={value}");
        let flags = [&["--seed", "7", "--max-tokens", "24", &flag], more].concat();
        // A flag of the temperature's own is not wanted beside the one under test.
        let run = match flag.starts_with("--temperature") {
            true => s.apr(["run"]).args([s.model()?.as_os_str()]).args([ask::OPEN_PROMPT]).args(flags),
            false => ask(s, ask::OPEN_PROMPT, &[&["--temperature", "1.5"], &flags[..]].concat())?,
        };
        answered(run)
    };
    let want = ask_with(instead, &[])?;
    t.hold(want.stderr.is_empty(), || want.refute("no warning at the edge of the range", want.err(), ""))?;
    for value in bad {
        let out = ask_with(value, &[])?;
        let err = out.err();
        // The last line sums up: F-JID-280.
        let told: Vec<&str> = err.lines().filter(|l| !l.starts_with("summary: ")).collect();
        let one = told.len() == 1 && told[0].starts_with("warning: ");
        t.hold(one, || out.refute("one warning and nothing else", &*err, "one line"))?;
        for word in [flag, value, &format!("using {instead}")] {
            t.hold(err.contains(word), || out.refute("the warning names flag, value and what is used", &*err, word))?;
        }
        t.hold(out.stdout == want.stdout, || {
            out.refute(&format!("the answer is that of --{flag} {instead}"), out.out(), want.out())
        })?;
        let json = ask_with(value, &["--json"])?;
        let object: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap_or_default();
        let listed =
            object["warnings"].as_array().is_some_and(|w| w.len() == 1 && err.contains(w[0].as_str().unwrap_or("?")));
        t.hold(listed, || json.refute("--json has the warning too", json.out(), &*err))?;
    }
    for value in fine {
        let out = ask_with(value, &[])?;
        t.hold(out.stderr.is_empty(), || out.refute("no warning inside the range", out.err(), ""))?;
    }
    Ok(())
}

/// Temperature < 0 warning.
pub fn f_jid_266(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run with temperatures below 0 and inside the range");
    clamped(&mut t, s, "temperature", &["-1", "-0.5", "-1000"], "0", &["0.1", "1", "2"])?;
    t.done()
}

/// Temperature > 2 warning.
pub fn f_jid_267(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run with temperatures above 2 and inside the range");
    clamped(&mut t, s, "temperature", &["3", "2.5", "1000", "inf"], "2", &["0", "0.1", "1.9"])?;
    t.done()
}

/// Top-p out of range warning, at both ends.
pub fn f_jid_268(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run with top-p below 0, above 1 and inside the range");
    clamped(&mut t, s, "top-p", &["1.5", "1.0001", "99"], "1", &["0.5", "0.99"])?;
    clamped(&mut t, s, "top-p", &["-0.5", "-1", "-1000"], "0", &["0.01", "1"])?;
    t.done()
}

// ---- hints

/// Ordinary prompts: the vocabulary was made of such text.
const ORDINARY: &[&str] = &[
    "What is 2+2?",
    "Write a Python function that adds two numbers.",
    "Gr\u{fc}\u{df}e aus K\u{f6}ln, \u{e7}a va? Na\u{ef}ve caf\u{e9}.",
    "Count from 1 to 20.",
    "{\"key\": [1, 2.5e-3, null]}",
    "A long sentence about a single rare sign, \u{16a0}, which is no reason to say anything at all.",
    " \n\t ",
];

/// OOV token hint provided: which characters, and what they cost.
pub fn f_jid_272(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("prompts in scripts that no token spells, beside ordinary ones, through the template and raw");
    let spelled: std::collections::BTreeSet<Vec<u8>> = texts::spelled(s)?.into_values().collect();
    for text in
        ["\u{16a0}\u{16a2}\u{16a6}\u{16a8}", "\u{13080}\u{13081} \u{13082}", "\u{10330}\u{10331}\u{10332}\u{10333}"]
    {
        // By HuggingFace's file, none of these characters is in any token, nor are two of its bytes.
        let whole = text.chars().filter(|c| *c != ' ').find(|c| {
            let bytes = c.to_string().into_bytes();
            spelled.iter().any(|token| bytes.windows(2).any(|pair| token.windows(2).any(|w| w == pair)))
        });
        if let Some(c) = whole {
            return Err(instrument(format!("the fixture has a token for a part of {c:?}")));
        }
        let tokens: usize = text.chars().filter(|c| *c != ' ').map(char::len_utf8).sum();
        for flags in [&["--max-tokens", "4"][..], &["--max-tokens", "4", "--raw"]] {
            let out = answered(ask(s, text, flags)?)?;
            let err = out.err();
            let first = text.chars().next().unwrap_or_default().to_string();
            for word in [first.as_str(), &format!("{tokens} tokens"), "hint: "] {
                t.hold(err.contains(word), || {
                    out.refute("the hint names characters, cost and a way out", err.trim(), word)
                })?;
            }
        }
    }
    for text in ORDINARY {
        let out = answered(ask(s, text, &["--max-tokens", "4"])?)?;
        t.hold(out.stderr.is_empty(), || out.refute("no hint for ordinary text", out.err(), ""))?;
    }
    t.done()
}

/// Shape mismatch hint provided: the likely cause of each.
pub fn f_jid_273(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("every tensor of forged qwen2 and llama models with other shapes; matrices transposed; other heads");
    let (mut hints, mut outcome) = (0u32, Ok(()));
    for name in ["qwen2-f16", "llama-f16"] {
        let each = |bad: Bad| {
            let met = refusal::understood(bad.bytes.clone());
            // A shape that no format has, or that leaves the file, is refused before anything is compared.
            let compared = met.as_ref().err().filter(|e| e.what.starts_with("expected shape"));
            if let Some(e) = compared {
                hints += 1;
                let hint = e.hint.clone().unwrap_or_default();
                let swapped = bad.what.ends_with("rows and columns swapped");
                let fits = hint.len() > 10 && (!swapped || hint.contains("transposed"));
                outcome = std::mem::replace(&mut outcome, Ok(())).and_then(|()| {
                    t.hold(fits, || {
                        Refutation::new(format!("a hint at the cause: {}", bad.what), e.to_string(), "a hint")
                    })
                });
            }
        };
        bad::tensors::shapes(name, each).map_err(instrument)?;
    }
    outcome?;
    t.number("shape errors with a hint", f64::from(hints));
    t.hold(hints > 100, || Refutation::new("shape errors", hints.to_string(), "more than 100"))?;
    let table: &[(&str, &str, Spoil)] = &[
        ("a transposed matrix", "transposed", |w| w.tensor_named("blk.1.ffn_down.weight").dims.reverse()),
        ("another width", "qwen2.embedding_length", |w| w.replace("qwen2.embedding_length", 256u32)),
        ("another size of feed-forward", "qwen2.feed_forward_length", |w| {
            w.replace("qwen2.feed_forward_length", 512u32)
        }),
        ("another count of K/V heads", "qwen2.attention.head_count_kv", |w| {
            w.replace("qwen2.attention.head_count_kv", 4u32);
        }),
        ("another number of dimensions", "dimensions", |w| w.tensor_named("blk.0.attn_norm.weight").dims.push(1)),
    ];
    for (what, cause, spoil) in table {
        let mut w = sound("qwen2-f16")?;
        spoil(&mut w);
        let out = said_to(s, &w)?;
        one_line(&mut t, &out, what, Kind::Malformed, "expected shape")?;
        hinted(&mut t, &out, what)?;
        let hint = out.err().split_once("; ").map(|(_, hint)| hint.to_string()).unwrap_or_default();
        t.hold(hint.contains(cause), || out.refute(&format!("{what}: the hint names the cause"), &*hint, *cause))?;
    }
    t.done()
}

// ---- files that are not there, or are something else

/// A device out of memory is logged.
pub fn f_jid_276(s: &Subject) -> Attempt {
    gpu::out_of_memory_is_told(s)
}

/// File not found logged: the path, and the name that was meant.
pub fn f_jid_277(s: &Subject) -> Attempt {
    let mut t = Tally::new("paths at which there is nothing, with and without a like name beside them");
    let folder = s.scratch()?;
    for name in ["model-q8_0.gguf", "other.bin"] {
        std::fs::write(folder.join(name), "x").map_err(instrument)?;
    }
    for (name, meant) in [
        ("model-q8_1.gguf", Some("model-q8_0.gguf")),
        ("Model-Q8_0.GGUF", Some("model-q8_0.gguf")),
        ("nothing-like-it.safetensors", None),
        ("no/such/folder/model.gguf", None),
        ("with blank.gguf", None),
    ] {
        let path = folder.join(name);
        let out = s.apr(["run"]).args([path.as_os_str()]).args(["2+2?"]).judged()?;
        one_line(&mut t, &out, name, Kind::NotFound, name)?;
        let text = out.err();
        let guessed = text.contains("did you mean");
        t.hold(guessed == meant.is_some(), || {
            out.refute("a guess where one is near", text.trim(), format!("{meant:?}"))
        })?;
        let right = meant.is_none_or(|meant| text.contains(meant));
        t.hold(right, || out.refute("the guess is the name that was meant", text.trim(), meant.unwrap_or_default()))?;
    }
    // Long paths are shown in part: the beginning.
    let long = folder.join("x".repeat(200));
    let out = s.apr(["run"]).args([long.as_os_str()]).args(["2+2?"]).judged()?;
    let begins = folder.to_string_lossy().chars().take(40).collect::<String>();
    one_line(&mut t, &out, "a long path", Kind::NotFound, begins)?;
    t.done()
}

/// Invalid format logged: what the file seems to be, whatever it is called.
pub fn f_jid_278(s: &Subject) -> Attempt {
    let mut t = Tally::new("files of 19 other kinds under names of models");
    let folder = s.scratch()?;
    for foreign in bad::files::foreign() {
        for called in ["model.gguf", "model.safetensors", "model"] {
            let path = folder.join(called);
            std::fs::write(&path, foreign.bytes).map_err(instrument)?;
            let out = s.apr(["run"]).args([path.as_os_str()]).args(["2+2?"]).judged()?;
            let what = format!("{} called {called}", foreign.what);
            one_line(&mut t, &out, &what, Kind::Malformed, "not a model file")?;
            let text = out.err();
            t.hold(text.contains(called), || out.refute(&format!("{what}: the path"), text.trim(), called))?;
            // The path may have such a word in it.
            let hint = text.split_once("begins with").map(|(_, hint)| hint.to_string()).unwrap_or_default();
            t.hold(hint.contains(foreign.called), || {
                out.refute(&format!("{what}: what it seems to be"), text.trim(), foreign.called)
            })?;
        }
    }
    t.done()
}
