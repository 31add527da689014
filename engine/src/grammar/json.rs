//! JSON, as RFC 8259 has it, a little narrower: what is written can always be read again.
//!
//! Space is bounded, so that no answer is space without end. A number has at most sixteen digits before the point, after
//! it, and two in its exponent, so that it is one that others can hold. Escapes make no half of a surrogate pair.

use super::{Bytes, Element, Rules, literal};
use Element::{Byte, Rule};

/// The rules of JSON's parts.
pub struct Json {
    /// Space between words: nothing, one blank, or a new line that is indented.
    pub space: usize,
    /// One character of a string, or an escape.
    pub letter: usize,
    /// A string with its quotes.
    pub string: usize,
    /// A number.
    pub number: usize,
    /// A whole number.
    pub integer: usize,
    /// Any value.
    pub value: usize,
    /// Any object.
    pub object: usize,
    /// Any array.
    pub array: usize,
}

/// Digits of a part of a number.
const DIGITS: usize = 16;
/// Blanks at the beginning of a line.
const INDENT: usize = 24;

/// A byte of these.
fn any(of: &str) -> Element {
    Byte(of.bytes().fold(Bytes::default(), Bytes::with))
}

fn range(first: u8, last: u8) -> Element {
    Byte(Bytes::range(first, last))
}

impl Json {
    /// Writes them.
    pub fn new(rules: &mut Rules) -> Json {
        let space = space(rules);
        let letter = letter(rules);
        let letters = rules.rule();
        rules.or(letters, &[]);
        rules.or(letters, &[Rule(letter), Rule(letters)]);
        let string = rules.of(&[&[any("\""), Rule(letters), any("\"")]]);
        let (integer, number) = numbers(rules);
        let (value, object, array) = (rules.rule(), rules.rule(), rules.rule());
        rules.nests(object);
        rules.nests(array);
        for word in ["true", "false", "null"] {
            rules.or(value, &literal(word));
        }
        for part in [string, number, object, array] {
            rules.or(value, &[Rule(part)]);
        }
        let json = Json { space, letter, string, number, integer, value, object, array };
        let member = rules.of(&[&[&[Rule(string)], &json.colon()[..], &[Rule(value)]].concat()]);
        let members = json.list(rules, member);
        rules.or(object, &[any("{"), Rule(members), any("}")]);
        let items = json.list(rules, value);
        rules.or(array, &[any("["), Rule(items), any("]")]);
        json
    }

    /// Between a key and its value.
    pub fn colon(&self) -> Vec<Element> {
        vec![any(":"), Rule(self.space)]
    }

    /// Between two items.
    pub fn comma(&self) -> Vec<Element> {
        vec![any(","), Rule(self.space)]
    }

    /// Any number of items between brackets, with the space around them.
    pub fn list(&self, rules: &mut Rules, item: usize) -> usize {
        let more = rules.rule();
        rules.or(more, &[Rule(self.space)]);
        rules.or(more, &[&self.comma()[..], &[Rule(item), Rule(more)]].concat());
        rules.of(&[&[Rule(self.space)], &[Rule(self.space), Rule(item), Rule(more)]])
    }
}

fn space(rules: &mut Rules) -> usize {
    let mut indent = rules.of(&[&[]]);
    for _ in 0..INDENT {
        indent = rules.of(&[&[], &[any(" \t"), Rule(indent)]]);
    }
    rules.of(&[&[], &literal(" "), &[any("\n"), Rule(indent)]])
}

/// A character in UTF-8 (RFC 3629, section 4), or an escape.
fn letter(rules: &mut Rules) -> usize {
    let tail = range(0x80, 0xbf);
    let plain = Bytes::range(0x20, 0x7f).without(b'"').without(b'\\');
    let hex = Byte(Bytes::range(b'0', b'9').or(Bytes::range(b'a', b'f')).or(Bytes::range(b'A', b'F')));
    let not_d = Byte(
        Bytes::range(b'0', b'9').or(Bytes::range(b'a', b'f')).or(Bytes::range(b'A', b'F')).without(b'd').without(b'D'),
    );
    let (high, low) = (any("89abAB"), any("cdefCDEF"));
    let (back, u) = (any("\\"), any("u"));
    rules.of(&[
        &[Byte(plain)],
        &[range(0xc2, 0xdf), tail],
        &[range(0xe0, 0xe0), range(0xa0, 0xbf), tail],
        &[range(0xe1, 0xec), tail, tail],
        &[range(0xed, 0xed), range(0x80, 0x9f), tail],
        &[range(0xee, 0xef), tail, tail],
        &[range(0xf0, 0xf0), range(0x90, 0xbf), tail, tail],
        &[range(0xf1, 0xf3), tail, tail, tail],
        &[range(0xf4, 0xf4), range(0x80, 0x8f), tail, tail],
        &[back, any("\"\\/bfnrt")],
        &[back, u, not_d, hex, hex, hex],
        &[back, u, any("dD"), range(b'0', b'7'), hex, hex],
        &[back, u, any("dD"), high, hex, hex, back, u, any("dD"), low, hex, hex],
    ])
}

/// A whole number, and any.
fn numbers(rules: &mut Rules) -> (usize, usize) {
    let digit = range(b'0', b'9');
    let mut up_to = |n: usize| {
        let mut digits = rules.of(&[&[]]);
        for _ in 0..n {
            digits = rules.of(&[&[], &[digit, Rule(digits)]]);
        }
        digits
    };
    let (many, one) = (up_to(DIGITS - 1), up_to(1));
    let whole = rules.of(&[&literal("0"), &[range(b'1', b'9'), Rule(many)]]);
    let integer = rules.of(&[&[Rule(whole)], &[any("-"), Rule(whole)]]);
    let fraction = rules.of(&[&[], &[any("."), digit, Rule(many)]]);
    let exponent = rules.of(&[&[], &[any("eE"), digit, Rule(one)], &[any("eE"), any("+-"), digit, Rule(one)]]);
    (integer, rules.of(&[&[Rule(integer), Rule(fraction), Rule(exponent)]]))
}
