//! Command lines that people and scripts really type: numbers out of range, contradictions, prompts and names of any
//! bytes, streams that are closed or full, terminals that can do little.
//!
//! Words are written as in a web address: `%1B` is the byte 27. `MODEL` is a model file, `FOLDER` a folder in which
//! [`lay_out`] put that model under awkward names, `LONG` a hundred thousand letters.

use std::ffi::OsString;
use std::io;
use std::path::Path;

/// How a command line has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an answer.
    Answers,
    /// With this exit code and a message.
    Refuses(i32),
}

/// A command line and what is around it.
pub struct Line {
    /// What is special about it.
    pub what: &'static str,
    /// How it has to end.
    pub end: End,
    /// What the message has to name.
    pub says: &'static [&'static str],
    /// Variables of the environment.
    pub env: &'static [(&'static str, &'static str)],
    /// Standard input.
    pub stdin: &'static [u8],
    /// What a shell does to its streams.
    pub redirect: Option<&'static str>,
    words: &'static [&'static str],
}

type Words = &'static [&'static str];

const fn answers(what: &'static str, words: Words) -> Line {
    Line { what, end: End::Answers, says: &[], env: &[], stdin: b"", redirect: None, words }
}

const fn refuses(what: &'static str, words: Words, code: i32, says: Words) -> Line {
    Line { end: End::Refuses(code), says, ..answers(what, words) }
}

/// The table.
pub static ALL: &[Line] = &[
    // Numbers.
    refuses("a negative count", &["run", "MODEL", "x", "--max-tokens", "-1"], 2, &["--max-tokens", "-1"]),
    refuses("a count of 23 digits", &["run", "MODEL", "x", "-n", "99999999999999999999999"], 2, &["--max-tokens"]),
    refuses("a count with a unit", &["run", "MODEL", "x", "--max-tokens", "5k"], 2, &["--max-tokens", "5k"]),
    refuses("a negative seed", &["run", "MODEL", "x", "--seed", "-1"], 2, &["--seed"]),
    refuses("a temperature in words", &["run", "MODEL", "x", "--temperature", "hot"], 2, &["--temperature", "hot"]),
    refuses("no threads", &["run", "MODEL", "x", "--threads", "0"], 2, &["--threads"]),
    refuses("threads by the billion", &["run", "MODEL", "x", "--threads", "99999999999"], 2, &["--threads"]),
    refuses("a context of nothing", &["run", "MODEL", "x", "--ctx-size", "0"], 2, &["--ctx-size"]),
    refuses("a context beyond the model's", &["run", "MODEL", "x", "--ctx-size", "99999999999"], 2, &["--ctx-size"]),
    answers("a count beyond all contexts", &["run", "MODEL", "x", "--max-tokens", "99999999999"]),
    answers("the largest seed", &["run", "MODEL", "x", "--seed", "18446744073709551615"]),
    answers("a temperature that is no number", &["run", "MODEL", "x", "--temperature", "nan"]),
    answers("an infinite temperature", &["run", "MODEL", "x", "--temperature", "inf"]),
    // Flags.
    refuses("a flag twice", &["run", "MODEL", "x", "--seed", "1", "--seed", "2"], 2, &["--seed"]),
    refuses("both ways to compute", &["run", "MODEL", "x", "--gpu", "--no-gpu"], 2, &["--gpu", "--no-gpu"]),
    refuses("silence and details", &["run", "MODEL", "x", "--verbose", "--quiet"], 2, &["--verbose", "--quiet"]),
    refuses("a flag without its value", &["run", "MODEL", "x", "--seed"], 2, &["--seed"]),
    refuses("a flag that is nearly one", &["run", "MODEL", "x", "--verbos"], 2, &["--verbos", "'--verbose'"]),
    refuses("a command that is nearly one", &["runn"], 2, &["runn", "'run'"]),
    refuses("a word too many", &["run", "MODEL", "x", "y"], 2, &["'y'"]),
    refuses("a system message and no template", &["run", "MODEL", "x", "--raw", "--system", "y"], 2, &["--system"]),
    refuses("a flag of 100 KB", &["run", "MODEL", "x", "--LONG"], 2, &["xxx"]),
    refuses("a stop sequence of 100 KB", &["run", "MODEL", "x", "--stop", "LONG"], 2, &["stop"]),
    refuses("a flag that would colour", &["run", "MODEL", "x", "--%1B[31mred"], 2, &["red"]),
    refuses("a command that would ring", &["%07%1B]0;title%07"], 2, &["title"]),
    refuses("a number that would colour", &["run", "MODEL", "x", "--seed", "%1B[31m1"], 2, &["--seed"]),
    refuses("a flag that is not UTF-8", &["run", "MODEL", "x", "--%FF"], 2, &[]),
    refuses("a system message that is not UTF-8", &["run", "MODEL", "x", "--system", "caf%E9"], 2, &["UTF-8"]),
    Line {
        env: &[("APR_ISA", "mmx")],
        ..refuses("an instruction set of old", &["run", "MODEL", "x"], 2, &["APR_ISA", "mmx"])
    },
    // Prompts.
    refuses("a prompt that is not UTF-8", &["run", "MODEL", "caf%E9"], 2, &["prompt", "UTF-8", "byte 3"]),
    Line {
        stdin: b"caf\xe9",
        ..refuses("a piped prompt that is not UTF-8", &["run", "MODEL"], 2, &["prompt", "UTF-8", "byte 3"])
    },
    answers("an empty prompt", &["run", "MODEL", ""]),
    answers("a prompt of blanks", &["run", "MODEL", "   "]),
    answers("a dash and nothing piped", &["run", "MODEL", "-"]),
    answers("two dashes and no prompt", &["run", "MODEL", "--"]),
    answers("a prompt that looks like a flag", &["run", "MODEL", "--", "--help"]),
    answers("a prompt that is a negative number", &["run", "MODEL", "-5"]),
    answers("a prompt that would colour", &["run", "MODEL", "%1B[31mred"]),
    answers("a prompt of 100 KB", &["run", "MODEL", "LONG", "--max-tokens", "4"]),
    // Models.
    refuses("a model without a name", &["run", "", "x"], 2, &["MODEL"]),
    refuses("a model that is not there", &["run", "FOLDER/nothing.gguf", "x"], 3, &["file not found", "nothing.gguf"]),
    refuses("a name that is nearly one", &["run", "FOLDER/modle.gguf", "x"], 3, &["did you mean", "model.gguf"]),
    refuses("a name that would colour", &["run", "FOLDER/%1B[31mnothing", "x"], 3, &["file not found", "nothing"]),
    refuses("a name of two lines", &["run", "FOLDER/no%0Asuch", "x"], 3, &["file not found", "such"]),
    refuses("a name that turns its reader around", &["run", "FOLDER/%E2%80%AEfugg", "x"], 3, &["file not found"]),
    refuses("no such name, not UTF-8", &["run", "FOLDER/%FFnothing", "x"], 3, &["file not found", "nothing"]),
    refuses("a name of 100 KB", &["run", "LONG", "x"], 4, &["xxx"]),
    refuses("a folder", &["run", "FOLDER", "x"], 3, &["no model in", "give that file"]),
    refuses("a device", &["run", "/dev/null", "x"], 4, &["/dev/null"]),
    refuses("an address", &["run", "gopher://model", "x"], 6, &["gopher://"]),
    refuses("an address that would colour", &["run", "%1B[31m://model", "x"], 6, &["[31m"]),
    answers("a name that is not UTF-8", &["run", "FOLDER/caf%E9.gguf", "x"]),
    answers("a name that would colour, in detail", &["run", "FOLDER/%1B[31mred%07.gguf", "x", "--verbose"]),
    // Streams and terminals.
    Line { redirect: Some("<&-"), ..answers("standard input is closed", &["run", "MODEL"]) },
    Line { redirect: Some(">&-"), ..answers("standard output is closed", &["run", "MODEL", "x"]) },
    Line { redirect: Some("2>&-"), ..answers("standard error is closed", &["run", "MODEL", "x", "--verbose"]) },
    Line { redirect: Some("2>/dev/full"), ..answers("standard error is full", &["run", "MODEL", "x", "--verbose"]) },
    Line { redirect: Some(">/dev/full"), ..refuses("standard output is full", &["run", "MODEL", "x"], 8, &["write"]) },
    refuses("a trace into no folder", &["run", "MODEL", "x", "--trace-output", "/no/dir/x"], 8, &["/no/dir/x"]),
    Line { redirect: Some(">/dev/full"), ..refuses("help on a full disk", &["run", "--help"], 8, &["write"]) },
    Line { env: &[("COLUMNS", "1")], ..answers("a terminal of one column", &["run", "MODEL", "x"]) },
    Line {
        env: &[("COLUMNS", "1")],
        ..refuses("an error in one column", &["run", "FOLDER/nothing", "x"], 3, &["file not found"])
    },
    Line { env: &[("TERM", "dumb")], ..answers("a dumb terminal", &["run", "MODEL", "x", "--verbose"]) },
    Line { env: &[("LC_ALL", "C"), ("LANG", "C")], ..answers("a locale without UTF-8", &["run", "MODEL", "你好"]) },
];

/// Names under which the model lies in the folder.
const NAMES: &[&str] = &["model.gguf", "caf%E9.gguf", "%1B[31mred%07.gguf"];

/// Puts the model into the folder under its awkward names.
#[cfg(unix)]
pub fn lay_out(folder: &Path, model: &Path) -> io::Result<()> {
    let model = model.canonicalize()?;
    NAMES.iter().try_for_each(|name| std::os::unix::fs::symlink(&model, folder.join(decoded(name.as_bytes()))))
}

/// Such names exist on Unix only.
#[cfg(not(unix))]
pub fn lay_out(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::Error::other(format!("no names like {NAMES:?} on this system")))
}

impl Line {
    /// What is typed after `apr`.
    pub fn words(&self, model: &Path, folder: &Path) -> Vec<OsString> {
        let word = |word: &&str| {
            let long = word.replace("LONG", &"x".repeat(100_000));
            match (long.as_str(), long.strip_prefix("FOLDER")) {
                ("MODEL", _) => model.as_os_str().to_owned(),
                (_, Some(name)) => [folder.as_os_str(), &decoded(name.as_bytes())].into_iter().collect(),
                (word, None) => decoded(word.as_bytes()),
            }
        };
        self.words.iter().map(word).collect()
    }
}

#[cfg(unix)]
fn decoded(word: &[u8]) -> OsString {
    let mut bytes = Vec::new();
    let mut parts = word.split(|b| *b == b'%');
    bytes.extend(parts.next().unwrap_or_default());
    for part in parts {
        let hex = part.get(..2).and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        bytes.extend(hex);
        bytes.extend(part.get(2..).unwrap_or_default());
    }
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(not(unix))]
fn decoded(word: &[u8]) -> OsString {
    String::from_utf8_lossy(word).into_owned().into()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn words_are_decoded_and_placed() {
        let line = answers("", &["run", "MODEL", "FOLDER/%1B[m", "caf%E9", "LONG"]);
        let words = line.words(Path::new("m.gguf"), Path::new("f"));
        assert_eq!(words[1], "m.gguf");
        assert_eq!(words[2].as_bytes(), b"f/\x1b[m");
        assert_eq!(words[3].as_bytes(), b"caf\xe9");
        assert_eq!(words[4].len(), 100_000);
    }
}
