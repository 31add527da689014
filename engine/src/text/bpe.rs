//! Byte-level byte-pair encoding, the tokenizer model that GGUF calls `gpt2` (Qwen, Llama 3 and most others).
//!
//! HuggingFace's `tokenizers` normalises, and merges within a word. Cutting text into words is done here, because the
//! reference expression looks ahead (`\s+(?!\S)`) and its engine then gives up, silently, on a million spaces: the cut
//! below gives the same words by an expression without look-ahead, in linear time.

use std::borrow::Cow;
use std::collections::HashSet;

use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::utils::SysRegex;
use tokenizers::{Model as _, NormalizedString};

use super::vocabulary::Vocabulary;
use super::{Encoder, Encoding, Model};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::{Metadata, Value, missing};
use crate::limits;

const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";
/// Not GGUF's: the expressions of a `tokenizer.json`, in order.
const WORDS: &str = "tokenizer.pre.words";

/// This tokenizer model.
pub(super) static MODEL: Model = Model { name: "gpt2", build, bytes: token_bytes };

/// A pre-tokeniser, as `tokenizer.ggml.pre` names it: what happens to text before merging.
#[derive(Clone, Copy)]
struct Pre {
    name: &'static str,
    /// One expression after the other cuts the words of the one before. As in the model's `tokenizer.json`.
    words: &'static [&'static str],
    /// Whether text is put in Unicode's composed form first. llama.cpp never does; a model has seen what its own
    /// `tokenizer.json` did, so that rules.
    nfc: bool,
    /// Whether a word that is a token is that token, whatever the merges would make of it.
    whole_words: bool,
    /// Whether prompts begin with BOS where the file does not say.
    add_bos: bool,
}

/// Every pre-tokeniser.
static PRES: &[Pre] = &[
    Pre {
        name: "qwen2",
        words: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        nfc: true,
        whole_words: false,
        add_bos: false,
    },
    Pre {
        name: "llama-bpe",
        words: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        nfc: false,
        whole_words: true,
        add_bos: true,
    },
];

/// Byte-pair encoding for one file.
struct ByteLevel {
    nfc: bool,
    words: Vec<Cutter>,
    bpe: BPE,
    /// Whether the vocabulary can spell each byte.
    spelled: [bool; 256],
    /// The character that spells each byte.
    alphabet: [char; 256],
}

fn build(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Encoding> {
    let pre = pre(metadata)?;
    let bpe = BPE::builder()
        .vocab_and_merges(ids(vocabulary), merges(metadata, vocabulary)?)
        .ignore_merges(pre.whole_words)
        .build()
        .map_err(|e| {
            // It names the token; the name is from the file.
            let what = format!("a merge does not fit the vocabulary: {}", quoted(&e.to_string()));
            Error::malformed(what).at(key(MERGES))
        })?;
    let alphabet = alphabet();
    let spelled = alphabet.map(|c| bpe.token_to_id(c.encode_utf8(&mut [0; 4])).is_some());
    let words = pre.words.iter().map(|e| Cutter::new(e)).collect::<Result<_>>()?;
    let encoder = Box::new(ByteLevel { nfc: pre.nfc, words, bpe, spelled, alphabet });
    Ok(Encoding { encoder, add_bos: pre.add_bos })
}

fn key(key: &str) -> Place {
    Place::Key(key.into())
}

/// The pre-tokeniser: by its name, or by the expressions themselves where a file has those.
fn pre(metadata: &Metadata) -> Result<Pre> {
    let names = || PRES.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
    let unsupported = |at: &str, what: String| {
        Error::new(Kind::Unsupported, what).at(key(at)).hint(format!("supported: {}", names()))
    };
    if let Some(words) = metadata.array(WORDS)? {
        let said = |key: &str| metadata.bool(key).map(|said| said.unwrap_or(false));
        let same = |p: &&Pre| words.iter().map(text_of).eq(p.words.iter().map(|w| Some(*w)));
        let found = PRES.iter().find(same).ok_or_else(|| {
            let first = words.iter().find_map(text_of).unwrap_or("none");
            unsupported(WORDS, format!("unknown pre-tokeniser expression {}", quoted(first)))
        })?;
        let (nfc, whole_words) = (said("tokenizer.pre.nfc")?, said("tokenizer.pre.whole_words")?);
        return Ok(Pre { nfc, whole_words, ..*found });
    }
    let name =
        metadata.string(PRE)?.ok_or_else(|| unsupported(PRE, "the file does not name its pre-tokeniser".into()))?;
    let found = PRES.iter().find(|p| p.name == name);
    found.copied().ok_or_else(|| unsupported(PRE, format!("unknown pre-tokeniser {}", quoted(name))))
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// The tokens by name, which is how the merges speak of them.
fn ids(vocabulary: &Vocabulary) -> tokenizers::models::bpe::Vocab {
    let named = vocabulary.texts().iter().enumerate().filter(|(_, text)| !text.is_empty());
    named.map(|(id, text)| (text.to_string(), id as u32)).collect()
}

/// The merge rules, first the ones to apply first. `BPE` finds the unknown tokens; what it does not look at is here.
fn merges(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Merges> {
    let values = metadata.array(MERGES)?.ok_or_else(|| missing(MERGES))?;
    if values.len() > limits::MERGES_MAX {
        let what = format!("{} merges; at most {} are supported", values.len(), limits::MERGES_MAX);
        return Err(Error::new(Kind::TooLarge, what).at(key(MERGES)));
    }
    let longest = vocabulary.texts().iter().map(|t| t.len()).max().unwrap_or(0);
    let mut seen = HashSet::with_capacity(values.len());
    let mut merges = Vec::with_capacity(values.len());
    for (rank, value) in values.iter().enumerate() {
        let (left, right) = pair(value).map_err(|what| bad_merge(rank, &what))?;
        // `BPE` would index past the end of a buffer.
        if left.len() + right.len() > longest {
            return Err(bad_merge(rank, &format!("makes {}, which is no token", quoted(&format!("{left}{right}")))));
        }
        // Two ranks for one pair: HuggingFace takes the last, llama.cpp the first.
        if !seen.insert((left, right)) {
            return Err(bad_merge(rank, &format!("repeats {} + {}", quoted(left), quoted(right))));
        }
        merges.push((left.to_string(), right.to_string()));
    }
    Ok(merges)
}

fn bad_merge(rank: usize, what: &str) -> Error {
    Error::malformed(format!("merge {rank} {what}")).at(key(MERGES))
}

/// The two tokens of a merge rule, `Ġ t`.
fn pair(value: &Value) -> std::result::Result<(&str, &str), String> {
    let Value::String(merge) = value else {
        return Err(format!("is {}, not text", value.kind()));
    };
    match merge.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => Ok((left, right)),
        _ => Err(format!("is not two tokens with a space between: {}", quoted(merge))),
    }
}

impl Encoder for ByteLevel {
    //= F-PIPE-166
    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let text = if self.nfc { composed(text) } else { Cow::Borrowed(text) };
        self.can_spell(&text)?;
        let mut spelling = String::new();
        for_each_word(&self.words, &text, &mut |word| {
            spelling.clear();
            spelling.extend(word.bytes().map(|b| self.alphabet[usize::from(b)]));
            let tokens = self.bpe.tokenize(&spelling);
            let tokens =
                tokens.map_err(|e| Error::new(Kind::Inference, format!("the byte-pair encoder failed: {e}")))?;
            ids.extend(tokens.iter().map(|t| t.id));
            Ok(())
        })
    }
}

impl ByteLevel {
    /// `BPE` drops what it cannot spell, and a prompt with holes is not the user's prompt.
    fn can_spell(&self, text: &str) -> Result<()> {
        if self.spelled.iter().all(|&s| s) || text.bytes().all(|b| self.spelled[usize::from(b)]) {
            return Ok(());
        }
        let lost = text.chars().find(|c| c.encode_utf8(&mut [0; 4]).bytes().any(|b| !self.spelled[usize::from(b)]));
        let lost = quoted(&lost.unwrap_or_default().to_string());
        Err(Error::new(Kind::Unsupported, format!("the vocabulary has no token for {lost}"))
            .hint("leave it out, or use a model that was trained on such text"))
    }
}

/// Unicode's composed form, by the tables of `tokenizers`. Pieces are kept small because it needs twenty times their
/// size.
pub(super) fn composed(text: &str) -> Cow<'_, str> {
    const PIECE: usize = 1 << 12;
    // Nothing below U+0300 composes with what is before it.
    let plain = |text: &str| text.chars().all(|c| c < '\u{300}');
    if plain(text) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let cut = rest.bytes().skip(PIECE).position(|b| b.is_ascii()).map_or(rest.len(), |n| PIECE + n);
        let (piece, after) = rest.split_at(cut);
        if plain(piece) {
            out.push_str(piece);
        } else {
            let mut normalized = NormalizedString::from(piece);
            normalized.nfc();
            out.push_str(normalized.get());
        }
        rest = after;
    }
    Cow::Owned(out)
}

/// Calls `word` with every word of the text, in order: nothing is left out.
///
/// A million letters are one word, and merging them takes minutes and gigabytes. So a word past the limit is cut, and
/// its ids may differ from HuggingFace's at each cut (Llama 3's own tokenizer cuts at 25,000 characters).
fn for_each_word(cutters: &[Cutter], text: &str, word: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let mut rest = text;
    let Some((cutter, finer)) = cutters.split_first() else {
        while rest.len() > limits::WORD_BYTES_MAX {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(limits::WORD_BYTES_MAX));
            word(piece)?;
            rest = after;
        }
        return word(rest);
    };
    while !rest.is_empty() {
        let (first, after) = rest.split_at(cutter.first_word(rest));
        for_each_word(finer, first, word)?;
        rest = after;
    }
    Ok(())
}

/// Cuts text into words by a regular expression that is linear in the length of the text.
struct Cutter {
    regex: SysRegex,
    /// Whether blanks in front of a word leave their last one to it.
    last_blank_joins: bool,
}

impl Cutter {
    /// From an expression of a `tokenizer.json`. The one look-ahead that these have, `\s+(?!\S)|\s+`, means: blanks,
    /// all but the last if something follows. That is said here by `\s+` and a flag.
    fn new(expression: &str) -> Result<Cutter> {
        let without = expression.strip_suffix(r"\s+(?!\S)|\s+").map(|begin| format!(r"{begin}\s+"));
        let last_blank_joins = without.is_some();
        let regex = SysRegex::new(without.as_deref().unwrap_or(expression));
        let regex = regex.map_err(|e| Error::new(Kind::Inference, format!("bad pre-tokeniser expression: {e}")))?;
        Ok(Cutter { regex, last_blank_joins })
    }

    /// The length of the first word of a text that is not empty.
    fn first_word(&self, text: &str) -> usize {
        let word = match self.regex.find_iter(text).next() {
            Some((0, end)) if end > 0 => &text[..end],
            // What no alternative matches is a word too.
            Some((start, _)) if start > 0 => return start,
            _ => return text.len(),
        };
        // Blanks with a line end among them are another alternative, which ends in the line end.
        let blank = self.last_blank_joins && !word.ends_with(['\r', '\n']) && word.chars().all(char::is_whitespace);
        match word.char_indices().next_back() {
            Some((last, _)) if blank && last > 0 && word.len() < text.len() => last,
            _ => word.len(),
        }
    }
}

/// GPT-2's spelling: the bytes that print as themselves are themselves, the others are the characters from U+0100 on.
pub(super) fn alphabet() -> [char; 256] {
    let mut next = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => byte as u8 as char,
        _ => next.next().unwrap_or_default(),
    })
}

/// The bytes that a token's spelling stands for. A token that is not spelled in the alphabet stands for itself.
//= F-PIPE-166b
fn token_bytes(spelling: &str) -> Vec<u8> {
    let byte = |c: char| match c {
        '!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}' => Some(c as u8),
        '\u{100}'..='\u{120}' => Some((c as u32 - 0x100) as u8),
        '\u{121}'..='\u{142}' => Some((c as u32 - 0x121 + 0x7f) as u8),
        '\u{143}' => Some(0xad),
        _ => None,
    };
    spelling.chars().map(byte).collect::<Option<_>>().unwrap_or_else(|| spelling.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_alphabet_is_a_spelling_of_the_bytes() {
        for (byte, c) in alphabet().into_iter().enumerate() {
            assert_eq!(token_bytes(&c.to_string()), [byte as u8]);
        }
        // As GPT-2's encoder.py has them.
        assert_eq!([0, 10, 32, 127, 160, 173].map(|b| alphabet()[b]), ['Ā', 'Ċ', 'Ġ', 'ġ', 'ł', 'Ń']);
        assert_eq!(token_bytes("Ġcaf\u{c3}\u{a9}"), b" caf\xc3\xa9".map(|b| b));
        assert_eq!(token_bytes("日"), "日".as_bytes());
    }

    /// The words of an expression of a `tokenizer.json`, by the engine that HuggingFace's crate uses.
    fn reference<'t>(expression: &str, text: &'t str) -> Vec<&'t str> {
        SysRegex::new(expression).unwrap().find_iter(text).map(|(start, end)| &text[start..end]).collect()
    }

    fn words<'t>(expression: &str, text: &'t str) -> Vec<&'t str> {
        let cutters = [Cutter::new(expression).unwrap()];
        let mut lens = Vec::new();
        for_each_word(&cutters, text, &mut |word| {
            lens.push(word.len());
            Ok(())
        })
        .unwrap();
        let mut at = 0;
        let word = |len: usize| {
            at += len;
            &text[at - len..at]
        };
        lens.into_iter().map(word).collect()
    }

    proptest! {
        #[test]
        fn words_are_those_of_the_reference_expression(
            text in prop_oneof!["\\PC{0,40}", "[ \t\r\n\u{a0}'sSlLvVeEſa1.!é日\u{301}]{0,40}"],
        ) {
            for pre in PRES {
                prop_assert_eq!(words(pre.words[0], &text), reference(pre.words[0], &text));
            }
        }

        #[test]
        fn composing_piece_by_piece_is_composing(text in "[ a-eE\u{300}-\u{330}\u{1100}-\u{11ff}日é\n]{0,60}") {
            let mut whole = NormalizedString::from(text.as_str());
            whole.nfc();
            prop_assert_eq!(composed(&text), whole.get());
        }
    }

    #[test]
    fn a_long_text_is_composed_in_pieces() {
        let text = "e\u{301} \u{e9}\u{327}".repeat(3000);
        let mut whole = NormalizedString::from(text.as_str());
        whole.nfc();
        assert_eq!(composed(&text), whole.get());
    }

    /// Where the reference engine gives up: it finds no word at all in this text.
    #[test]
    fn a_million_blanks_are_one_word() {
        let text = " ".repeat(1_200_000) + "x y";
        assert_eq!(reference(PRES[0].words[0], &text), [""; 0]);
        let words = words(PRES[0].words[0], &text);
        assert_eq!(words[words.len() - 2..], [" x", " y"]);
        assert!(words.iter().all(|word| word.len() <= limits::WORD_BYTES_MAX));
        assert_eq!(words.concat(), text);
    }
}
