//! What a terminal shows: the bytes that it received, replayed, and the escape sequences among them.

/// Frames of spinners are Braille patterns with at least one dot.
const SPINNER: std::ops::RangeInclusive<char> = '\u{2801}'..='\u{28ff}';

/// Whether a frame of a spinner is among this.
pub fn spins(text: &str) -> bool {
    text.chars().any(|c| SPINNER.contains(&c))
}

/// The first escape character and what follows it, in printable form.
pub fn escape(bytes: &[u8]) -> Option<String> {
    let at = bytes.iter().position(|b| *b == 0x1b)?;
    Some(String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 16)]).escape_debug().to_string())
}

/// Whether something is coloured, bold or dim: a `CSI … m` sequence other than a reset.
pub fn coloured(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    text.split("\x1b[").skip(1).any(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(rest.len());
        rest[end..].starts_with('m') && !["", "0"].contains(&&rest[..end])
    })
}

/// Text without escape sequences.
pub fn without_escapes(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_string();
    // `[`, parameters, and the letter that ends them.
    let rest = parts.map(|p| p.find(|c: char| c.is_ascii_alphabetic()).map_or("", |end| &p[end + 1..]));
    first + &rest.collect::<String>()
}

/// What a terminal showed: every different screen, and the last one.
pub struct Screens {
    /// Each screen that differs from the one before.
    pub all: Vec<String>,
    /// What remains.
    pub last: String,
    /// The cursor was hidden and not shown again.
    pub cursor_hidden: bool,
}

impl Screens {
    /// Receives the bytes one by one.
    #[cfg(unix)]
    pub fn replay(bytes: &[u8]) -> Screens {
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

    /// There is no pseudo-terminal here, so nothing was received.
    #[cfg(not(unix))]
    pub fn replay(_: &[u8]) -> Screens {
        Screens { all: Vec::new(), last: String::new(), cursor_hidden: false }
    }
}

/// In which columns of a terminal of this width each line of a table has its borders.
#[cfg(unix)]
pub fn borders(bytes: &[u8], width: u16) -> Vec<Vec<u16>> {
    use std::num::NonZeroU16;
    const ROWS: NonZeroU16 = NonZeroU16::new(60).unwrap();
    let mut terminal = vt100::Parser::new(ROWS, NonZeroU16::new(width).unwrap_or(NonZeroU16::MIN), 0);
    terminal.process(bytes);
    let screen = terminal.screen();
    let is_border = |row: u16, column: u16| {
        screen.cell(row, column).is_some_and(|c| matches!(c.contents().chars().next(), Some('\u{2502}'..='\u{253c}')))
    };
    let of_row = |row: u16| (0..width).filter(|c| is_border(row, *c)).collect::<Vec<u16>>();
    (0..ROWS.get()).map(of_row).filter(|b| !b.is_empty()).collect()
}

/// There is no pseudo-terminal here.
#[cfg(not(unix))]
pub fn borders(_: &[u8], _: u16) -> Vec<Vec<u16>> {
    Vec::new()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_what_remains_visible() {
        let s = Screens::replay("⠋ Loading\r\x1b[2Kfour\r\n".as_bytes());
        assert_eq!(s.last.trim_end(), "four");
        assert!(s.all.iter().any(|c| spins(c)) && !s.cursor_hidden);
        assert!(Screens::replay(b"\x1b[?25l").cursor_hidden);
    }

    #[test]
    fn colours_are_told_from_other_sequences() {
        for coloured_text in ["\x1b[31mred", "a\x1b[1;32m", "\x1b[2mdim\x1b[0m"] {
            assert!(coloured(coloured_text.as_bytes()), "{coloured_text:?}");
        }
        for plain in ["", "text", "\x1b[0m", "\x1b[m", "\x1b[2K\r", "[31m"] {
            assert!(!coloured(plain.as_bytes()), "{plain:?}");
        }
        assert_eq!(escape(b"ab\x1b[2K").as_deref(), Some("\\u{1b}[2K"));
        assert_eq!(escape(b"ab"), None);
        assert_eq!(without_escapes("a\x1b[2mKey:\x1b[0m b"), "aKey: b");
    }
}
