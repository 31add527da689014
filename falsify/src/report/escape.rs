//! Text of rows and verdicts, made safe for HTML and XML.
//!
//! Evidence holds bytes that the product printed, and those may be hostile: markup, control characters, marks that
//! turn the direction of writing around. They are shown, never obeyed.

use std::fmt::Write;

/// Shows what cannot be seen: control characters as their pictures (`␛`), marks of direction and non-characters as
/// `\u{202e}`. Line ends and tabs stay.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            '\0'..='\u{1f}' => out.push(char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}')),
            '\u{7f}' => out.push('\u{2421}'),
            '\u{80}'..='\u{9f}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{fdd0}'..='\u{fdef}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                let _ = write!(out, "{}", c.escape_unicode());
            }
            _ => out.push(c),
        }
    }
    out
}

/// [`visible`] text for HTML and XML, inside elements and inside quoted attributes.
pub fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in visible(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

/// [`visible`] text for Markdown: one line in backticks, of at most 200 characters, also in the cell of a table.
pub fn markdown(text: &str) -> String {
    let flat = visible(text).replace('\n', "⏎").replace('|', "\\|").replace('`', "'");
    match flat.char_indices().nth(200) {
        None => format!("`{flat}`"),
        Some((at, _)) => format!("`{}…`", &flat[..at]),
    }
}

/// Evidence as a hostile subject would write it, for the tests of every form.
#[cfg(test)]
pub const HOSTILE: &str = "</code><script>alert(1)</script>]]>&'\" \u{1b}[31m\0\u{8}\u{202e}evil\u{ffff}|`\r\nend";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hostile_is_left() {
        let safe = markup(HOSTILE);
        assert!(!safe.contains(['<', '>', '"', '\'', '\u{1b}', '\0', '\u{202e}', '\u{ffff}', '\r']), "{safe}");
        assert!(safe.starts_with("&lt;/code&gt;&lt;script&gt;") && safe.contains("␛[31m␀␈\\u{202e}evil"), "{safe}");
        let line = markdown(HOSTILE);
        assert!(!line[1..line.len() - 1].contains(['\n', '`', '\u{1b}']), "{line}");
    }

    #[test]
    fn what_people_write_stays() {
        assert_eq!(markup("≤ 3 µs, 三个字\n\tend"), "≤ 3 µs, 三个字\n\tend");
    }
}
