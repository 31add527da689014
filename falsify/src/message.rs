//! Whether a message is for people: one plain line, or a usage error with its usage.

/// What only a program's insides print: panics, traces, values in `Debug` form.
const INSIDES: &[&str] = &[
    "panicked",
    "RUST_BACKTRACE",
    "stack backtrace",
    "internal error",
    "Some(",
    "Ok(",
    "Err(",
    "Error {",
    "Os {",
    "Custom {",
    "kind: ",
    ": None",
    "std::",
    "core::",
];

/// Bytes of the longest message, however long the thing is that it complains about.
const BYTES_MAX: usize = 1500;

/// What is wrong with standard error after a refusal. `usage` allows clap's paragraphs after the first line.
pub fn inhuman(text: &str, usage: bool) -> Option<String> {
    let wrong = |what: &str| Some(format!("{what}: {}", text.escape_debug()));
    let lines: Vec<&str> = text.lines().collect();
    let [first, rest @ ..] = lines.as_slice() else { return wrong("no message") };
    let more = rest.iter().find(|l| !(l.is_empty() || usage && is_usage(l)));
    if !first.starts_with("error: ") || first.len() < "error: ".len() + 8 {
        wrong("no line 'error: …'")
    } else if let Some(line) = more {
        wrong(&format!("more than one line, {line:?}"))
    } else if text.chars().any(|c| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c)) {
        wrong("a character that drives the terminal")
    } else if text.len() > BYTES_MAX {
        wrong(&format!("{} bytes", text.len()))
    } else {
        INSIDES
            .iter()
            .find(|word| text.contains(**word))
            .and_then(|word| wrong(&format!("the program's insides, {word:?}")))
    }
}

/// A line below a usage error: indented, the usage, or where help is.
fn is_usage(line: &str) -> bool {
    line.starts_with("  ") || line.starts_with("Usage: ") || line.starts_with("For more information")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn human_messages_pass() {
        assert_eq!(inhuman("error: file not found: 'x.gguf'; did you mean 'y.gguf'?\n", false), None);
        let usage = "error: unexpected argument '--x' found\n\n  tip: a\n\nUsage: apr run\n\nFor more information, try '--help'.\n";
        assert_eq!(inhuman(usage, true), None);
        assert!(inhuman(usage, false).is_some());
    }

    #[test]
    fn insides_and_noise_do_not() {
        for bad in [
            "",
            "file not found\n",
            "error: \n",
            "error: something is wrong\nsecond line\n",
            "error: \x1b[31mred file is not there\n",
            "error: the file \u{202e}gpj is not there\n",
            "error: Os { code: 2, kind: NotFound }\n",
            "Error { kind: Malformed, at: None }\n",
            "error: thread 'main' panicked at src/main.rs\n",
        ] {
            assert!(inhuman(bad, true).is_some(), "{bad:?}");
        }
        assert!(inhuman(&format!("error: {}\n", "x".repeat(5000)), true).is_some());
    }
}
