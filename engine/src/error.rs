//! Errors are data: what kind, where, and what to do about it. One human line each; `apr` maps kinds to exit codes.

use std::fmt::{self, Write};
use std::path::Path;

use crate::limits;

/// The result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The kind, which decides the exit code and the HTTP status.
    pub kind: Kind,
    /// One sentence without a final stop. Text from files goes through [`quoted`] before it gets here.
    pub what: String,
    /// The file that it is about. A message that names it in its own words does not do so twice.
    pub file: Option<Box<Path>>,
    /// Where in it, or else on the command line: the byte, tensor, key or flag.
    pub at: Option<Place>,
    /// What the user can do.
    pub hint: Option<String>,
}

/// Kinds of error, each with its own exit code: the table that the README prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Inference failed (non-finite numbers).
    Inference,
    /// A flag, a value or a combination that cannot be honoured.
    Usage,
    /// The file is not there.
    NotFound,
    /// The file is there and cannot be read, or is not a file.
    Unreadable,
    /// The file contradicts its own format: truncated, corrupt, or something else under this name.
    Malformed,
    /// A valid file that needs something this build has not: architecture, number format, version.
    Unsupported,
    /// Memory could not be had, or a limit of `limits.rs` was met.
    TooLarge,
    /// The answer could not be written.
    Output,
    /// Whoever read the answer had enough and went away (`| head`). Not worth a message.
    ReaderGone,
    /// The network failed.
    Network,
    /// An invariant of ours broke: a panic, which is a bug.
    Internal,
    /// Ctrl+C, or a server that is shutting down.
    Interrupted,
    /// The system wanted the process to end (SIGTERM).
    Terminated,
    /// Too many requests are waiting.
    Busy,
    /// The time that a request was given is over.
    TimedOut,
}

impl Kind {
    /// Every kind, in the order of the exit codes.
    pub const ALL: &'static [Kind] = &[
        Kind::Inference,
        Kind::Usage,
        Kind::NotFound,
        Kind::Unreadable,
        Kind::Malformed,
        Kind::Unsupported,
        Kind::TooLarge,
        Kind::Output,
        Kind::Network,
        Kind::Busy,
        Kind::TimedOut,
        Kind::Internal,
        Kind::Interrupted,
        Kind::ReaderGone,
        Kind::Terminated,
    ];

    /// The process exit code. 0 is success.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Inference => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::Unreadable => 4,
            Kind::Malformed => 5,
            Kind::Unsupported => 6,
            Kind::TooLarge => 7,
            Kind::Output => 8,
            Kind::Network => 9,
            Kind::Busy => 10,
            Kind::TimedOut => 11,
            // What a Rust program that panics ends with.
            Kind::Internal => 101,
            // As shells count them: 128 and the number of the signal (SIGINT, SIGPIPE, SIGTERM).
            Kind::Interrupted => 130,
            Kind::ReaderGone => 141,
            Kind::Terminated => 143,
        }
    }

    /// A stable name for `--json` and for tests.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Inference => "inference",
            Kind::Usage => "usage",
            Kind::NotFound => "not-found",
            Kind::Unreadable => "unreadable",
            Kind::Malformed => "malformed",
            Kind::Unsupported => "unsupported",
            Kind::TooLarge => "too-large",
            Kind::Output => "output",
            Kind::Network => "network",
            Kind::Busy => "busy",
            Kind::TimedOut => "timed-out",
            Kind::Internal => "internal",
            Kind::Interrupted => "interrupted",
            Kind::ReaderGone => "reader-gone",
            Kind::Terminated => "terminated",
        }
    }
}

/// Where in the input the error is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Offset from the start of the file.
    Byte(u64),
    /// A tensor, by its name in the file.
    Tensor(String),
    /// A metadata key or a field of a JSON file.
    Key(String),
    /// A command-line flag.
    Flag(String),
    /// A token id.
    Token(u32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Byte(n) => write!(f, "at byte {n}"),
            Place::Tensor(t) => write!(f, "in tensor {}", quoted(t)),
            Place::Key(k) => write!(f, "in {}", quoted(k)),
            Place::Flag(k) => write!(f, "in {k}"),
            Place::Token(t) => write!(f, "at token {t}"),
        }
    }
}

impl Error {
    /// An error of this kind that says `what`.
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error { kind, what: what.into(), file: None, at: None, hint: None }
    }

    /// Adds the place.
    #[must_use]
    pub fn at(mut self, place: Place) -> Error {
        self.at = Some(place);
        self
    }

    /// Adds the file, unless it is known already: whoever was nearest to the error knew best.
    #[must_use]
    pub fn in_file(mut self, path: &Path) -> Error {
        self.file.get_or_insert_with(|| path.into());
        self
    }

    /// Adds the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// [`Kind::Malformed`], the commonest kind.
    pub fn malformed(what: impl Into<String>) -> Error {
        Error::new(Kind::Malformed, what)
    }

    /// From an I/O error on a path.
    pub fn from_io(e: &std::io::Error, path: &Path) -> Error {
        let shown = quoted_path(path);
        let error = match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(Kind::NotFound, format!("file not found: {shown}")),
            _ => Error::new(Kind::Unreadable, format!("cannot read {shown}: {e}")),
        };
        error.in_file(path)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = self.file.as_ref().map(quoted_path).filter(|file| !self.what.contains(file)) {
            write!(f, "{file}: ")?;
        }
        f.write_str(&self.what)?;
        if let Some(at) = &self.at {
            write!(f, " ({at})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<compute::Error> for Error {
    fn from(e: compute::Error) -> Error {
        let kind = match e {
            compute::Error::Unsupported(_) => Kind::Unsupported,
            compute::Error::Invalid(_) => Kind::Inference,
            compute::Error::OutOfMemory { .. } | compute::Error::DeviceMemory { .. } => Kind::TooLarge,
            compute::Error::Io(_) => Kind::Unreadable,
            compute::Error::Device(_) => Kind::Inference,
        };
        let error = Error::new(kind, e.to_string());
        match e {
            compute::Error::DeviceMemory { .. } => {
                error.hint("--no-gpu runs it on the CPU; a smaller --ctx-size needs less")
            }
            _ => error,
        }
    }
}

/// What a user says is text. What is not is refused with its place: replacing it would ask something else.
pub fn utf8(said: Vec<u8>, what: &str) -> Result<String> {
    String::from_utf8(said).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::new(Kind::Usage, format!("the {what} is not valid UTF-8 from its byte {at} on"))
            .hint("convert it first, for example with iconv")
    })
}

/// Text from outside, made safe and short for a message, in quotes.
pub fn quoted(s: &str) -> String {
    format!("'{}'", printable(s, limits::QUOTED_CHARS_MAX))
}

/// A path for a message. Of a long one both ends are kept: where it begins, and the name.
pub fn quoted_path(path: impl AsRef<Path>) -> String {
    let text = path.as_ref().to_string_lossy();
    let from = text.char_indices().nth(limits::QUOTED_CHARS_MAX);
    let to = text.char_indices().nth_back(limits::QUOTED_CHARS_MAX - 1);
    let shown = match (from, to) {
        (Some((from, _)), Some((to, _))) if from < to => format!("{}…{}", &text[..from], &text[to..]).into(),
        _ => text,
    };
    format!("'{}'", printable(&shown, usize::MAX))
}

/// One line of at most `most` characters: control, escape and bidi characters are escaped, so that nothing that comes
/// from a file or a command line can drive the terminal.
pub fn printable(s: &str, most: usize) -> String {
    let mut out = String::new();
    for (i, c) in s.chars().enumerate() {
        if i == most {
            out.push('…');
            break;
        }
        if is_hostile(c) || c == '\u{fffd}' {
            let _ = write!(out, "\\u{{{:x}}}", c as u32);
        } else {
            out.push(c);
        }
    }
    out
}

/// Characters that move the cursor, change colours or turn the reading direction.
fn is_hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_distinct_and_never_zero() {
        let mut codes: Vec<u8> = Kind::ALL.iter().map(|k| k.exit_code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Kind::ALL.len());
        assert!(!codes.contains(&0));
    }

    #[test]
    fn names_from_files_cannot_drive_the_terminal() {
        assert_eq!(quoted("a\u{1b}[31mb\u{202e}"), "'a\\u{1b}[31mb\\u{202e}'");
        assert!(quoted(&"x".repeat(1000)).chars().count() < 90);
        let long = quoted_path(format!("/{}/\u{7}model.gguf", "ä".repeat(1000)));
        assert!(long.chars().count() < 200 && long.starts_with("'/ää") && long.contains('…'), "{long}");
        assert!(long.ends_with("ä/\\u{7}model.gguf'"), "{long}");
        let whole = "x".repeat(2 * limits::QUOTED_CHARS_MAX);
        assert_eq!(quoted_path(&whole), format!("'{whole}'"));
        assert_eq!(quoted_path("a/b"), "'a/b'");
    }

    #[test]
    fn a_file_is_named_once_and_by_who_was_nearest() {
        let e = Error::malformed("it ends").at(Place::Byte(3)).in_file(Path::new("b")).in_file(Path::new("a"));
        assert_eq!(e.to_string(), "'b': it ends (at byte 3)");
        let gone = Error::from_io(&std::io::ErrorKind::NotFound.into(), Path::new("a/b")).in_file(Path::new("a"));
        assert_eq!(gone.to_string(), "file not found: 'a/b'");
    }
}
