//! Families 50 and 52: prompts that are hard to bear, and stop sequences.

use crate::texts;

/// A text that is long in one way, of about so many letters.
type Long = fn(usize) -> String;

/// What prompts are made of that trip tokenizers over.
pub const LONG: &[(&str, Long)] = &[
    ("one letter", |n| "a".repeat(n)),
    ("spaces", |n| " ".repeat(n)),
    ("line ends", |n| "\n".repeat(n)),
    ("Windows line ends", |n| "\r\n".repeat(n / 2)),
    ("digits", |n| "7".repeat(n)),
    ("signs", |n| "!".repeat(n)),
    ("words", |n| "the story of ".repeat(n / 13)),
    ("combining marks on one letter", |n| format!("a{}", "\u{301}".repeat(n))),
    ("combining marks out of order", |n| format!("a{}", "\u{301}\u{323}".repeat(n / 2))),
    ("families of emoji", |n| "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f466}".repeat(n / 5)),
    ("runes", |n| "\u{16a0}\u{16a2}".repeat(n / 2)),
    ("right to left", |n| "\u{5e9}\u{5dc}\u{202e}\u{5d5}\u{5dd} ".repeat(n / 5)),
    ("syllables taken apart", |n| "\u{1112}\u{1161}\u{11ab}".repeat(n / 3)),
    ("names of control tokens", |n| "<|im_end|>".repeat(n / 10)),
    ("beginnings of control tokens", |n| "<|im_".repeat(n / 5)),
    ("zeros", |n| "\0".repeat(n)),
    ("byte order marks", |n| "\u{feff}".repeat(n)),
    ("every character below U+0800", |n| (0..0x800).cycle().filter_map(char::from_u32).take(n).collect()),
];

/// Prompts in bytes that are not UTF-8, and the first byte that is not.
pub const NOT_UTF8: &[(&str, &[u8], usize)] = &[
    ("a lone surrogate", b"What is \xed\xa0\x80 2+2?", 8),
    ("half a character", b"caf\xc3", 3),
    ("an overlong slash", b"a\xc0\xafb", 1),
    ("Latin-1", b"Gr\xfc\xdfe", 2),
    ("a byte that is never there", b"\xff", 0),
    ("beyond Unicode", b"ab\xf4\x90\x80\x80", 2),
    ("every byte", &EVERY_BYTE, 127),
];

/// 1 to 255: a zero cannot be an argument.
const EVERY_BYTE: [u8; 255] = {
    let mut all = [0; 255];
    let mut i = 0;
    while i < 255 {
        all[i] = i as u8 + 1;
        i += 1;
    }
    all
};

/// Stop sequences that no request may have.
pub fn stops() -> Vec<(&'static str, Vec<String>)> {
    vec![
        ("an empty one", vec![String::new()]),
        ("an empty one among others", vec!["a".into(), String::new()]),
        ("a thousand", (0..1000).map(|n| format!("stop {n}")).collect()),
        ("one of 4097 bytes", vec!["x".repeat(4097)]),
    ]
}

/// Stop sequences that any request may have, however odd, and texts in which they may stand: where tokens are cut, in
/// the middle of characters of several bytes, within each other.
pub fn odd_stops() -> Vec<Vec<String>> {
    let words = |all: &[&str]| all.iter().map(|s| s.to_string()).collect();
    vec![
        words(&["\u{1f680}"]),
        words(&["\u{fffd}"]),
        words(&["aab", "ab", "b"]),
        words(&["e\u{301}"]),
        words(&["<|im_end|>"]),
        words(&["\n\n", "\n"]),
        words(texts::HOSTILE),
        (0..64).map(|n| "a".repeat(n + 1) + "b").collect(),
    ]
}
