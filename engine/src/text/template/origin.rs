//! Whose words a rendered text is made of, letter by letter.
//!
//! Behind every letter that came from outside, a mark is put: one private-use character that occurs neither in the
//! template nor in anything given to it, so that nobody can write it. The template then cuts, trims and joins as it
//! likes; whatever comes out with its mark is content.

use std::collections::BTreeSet;

use minijinja::Value;
use serde_json::Value as Json;

use crate::text::Segment;

/// Private-use characters: three bytes in UTF-8, then four.
fn candidates() -> impl Iterator<Item = char> {
    ('\u{e000}'..='\u{f8ff}').chain('\u{f0000}'..='\u{ffffd}').chain('\u{100000}'..='\u{10fffd}')
}

/// `count` characters that occur in none of these texts; `None` if someone used up the whole private-use area.
pub(super) fn unused<'a>(count: usize, texts: impl Iterator<Item = &'a str>) -> Option<Vec<char>> {
    let used: BTreeSet<char> = texts.flat_map(str::chars).filter(|c| *c >= '\u{e000}').collect();
    let unused: Vec<char> = candidates().filter(|c| !used.contains(c)).take(count).collect();
    (unused.len() == count).then_some(unused)
}

/// The text with a mark behind every letter. Blanks at both ends stay bare, so that a template can trim them.
pub(super) fn marked(text: &str, mark: char) -> String {
    let core = text.trim();
    let start = text.len() - text.trim_start().len();
    let mut out = String::with_capacity(text.len() * 4);
    out.push_str(&text[..start]);
    out.extend(core.chars().flat_map(|c| [c, mark]));
    out.push_str(&text[start + core.len()..]);
    out
}

/// How texts from outside are given to a template.
#[derive(Clone, Copy)]
pub(super) enum Marking<'a> {
    /// As they are.
    Not,
    /// Every letter marked.
    All(char),
    /// Marked, but for fields that are words of the template's source. It compares them (`param.type == 'string'`).
    ButWords(char, &'a BTreeSet<&'a str>),
}

impl Marking<'_> {
    /// The mark.
    pub fn mark(self) -> Option<char> {
        match self {
            Marking::Not => None,
            Marking::All(mark) | Marking::ButWords(mark, _) => Some(mark),
        }
    }

    /// What somebody said.
    pub fn text(self, text: &str) -> Value {
        self.mark().map_or_else(|| Value::from(text), |mark| Value::from(marked(text, mark)))
    }

    /// A key or a value of a tool, of a call or of a part.
    fn field(self, text: &str) -> Value {
        match self {
            Marking::ButWords(_, words) if words.contains(text) => Value::from(text),
            _ => self.text(text),
        }
    }
}

/// The words of a source.
pub(super) fn words(source: &str) -> BTreeSet<&str> {
    source.split(|c: char| !is_of_word(c)).filter(|word| !word.is_empty()).collect()
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// A JSON value as the engine has it.
pub(super) fn value(json: &Json, marking: Marking) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(s) => marking.field(s),
        Json::Array(items) => items.iter().map(|item| value(item, marking)).collect(),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(k, v)| (marking.field(k), value(v, marking)))),
    }
}

/// Every text in a JSON value, keys too.
pub(super) fn texts(value: &Json) -> Vec<&str> {
    match value {
        Json::String(s) => vec![s],
        Json::Array(items) => items.iter().flat_map(texts).collect(),
        Json::Object(map) => map.iter().flat_map(|(k, v)| std::iter::once(k.as_str()).chain(texts(v))).collect(),
        _ => Vec::new(),
    }
}

/// Takes a rendered text apart by its marks.
pub(super) fn segments(rendered: &str, mark: char) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut letters = rendered.chars().peekable();
    while let Some(letter) = letters.next() {
        // A mark whose letter was cut off says nothing.
        if letter == mark {
            continue;
        }
        push(&mut segments, letter, letters.peek() == Some(&mark));
    }
    segments
}

/// Appends a letter to the last segment, or begins one.
pub(super) fn push(segments: &mut Vec<Segment>, letter: char, is_content: bool) {
    match (segments.last_mut(), is_content) {
        (Some(Segment::Content(text)), true) | (Some(Segment::Scaffold(text)), false) => text.push(letter),
        (_, true) => segments.push(Segment::Content(letter.into())),
        (_, false) => segments.push(Segment::Scaffold(letter.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARK: char = '\u{e000}';

    #[test]
    fn a_mark_is_a_character_nobody_used() {
        assert_eq!(unused(2, ["a\u{e000}", "\u{e002}"].into_iter()), Some(vec!['\u{e001}', '\u{e003}']));
        let all: String = candidates().collect();
        assert_eq!(unused(1, [all.as_str()].into_iter()), None);
    }

    proptest! {
        #[test]
        fn what_was_marked_is_content(before in "[a-z <|>]{0,9}", text in "\\PC{0,20}", after in "[a-z <|>]{0,9}") {
            prop_assume!(!text.contains(MARK));
            let got = segments(&format!("{before}{}{after}", marked(&text, MARK)), MARK);
            let content: String = got.iter().filter_map(|s| match s {
                Segment::Content(text) => Some(text.as_str()),
                Segment::Scaffold(_) => None,
            }).collect();
            prop_assert_eq!(content, text.trim());
        }
    }
}
