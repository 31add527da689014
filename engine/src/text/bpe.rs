//! Byte-pair encoding: the tokenizer models that GGUF calls `gpt2` (Qwen, Llama 3 and most others) and `gemma4`.
//!
//! HuggingFace's `tokenizers` merges within a word; [`super::pretokenizer`] makes the words. The two models differ in how
//! a vocabulary spells text: `gpt2` writes every byte as a printable character, `gemma4` writes characters as they are,
//! a space as U+2581, and falls back to byte tokens `<0x0A>`. So do vocabularies of SentencePiece in a `tokenizer.json`
//! ([`build_pieces`]), which merge a whole text and may put a space in front of it.

use std::borrow::Cow;
use std::collections::HashSet;

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Merges};

use super::pretokenizer::{self, Cutter, Pre, composed, for_each_word};
use super::sentencepiece::{SPACE, spaced};
use super::vocabulary::Vocabulary;
use super::{Defaults, Encoder, Encoding, Model, unspellable};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::{Metadata, Value, missing};
use crate::limits;

pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const PRE: &str = "tokenizer.ggml.pre";
/// Not GGUF's: the expressions of a `tokenizer.json`, in order.
pub(super) const WORDS: &str = "tokenizer.pre.words";
pub(super) const NFC: &str = "tokenizer.pre.nfc";
pub(super) const WHOLE_WORDS: &str = "tokenizer.pre.whole_words";
/// Nor this: the [`Prefix`] of a vocabulary of pieces that has merges.
pub(super) const PREFIX: &str = "tokenizer.pre.prefix";

/// Byte-level encoding.
pub(super) static MODEL: Model = Model {
    name: "gpt2",
    build: |metadata, vocabulary| build(metadata, vocabulary, &pre(metadata)?, Spelling::Bytes, Prefix::Never),
    bytes: token_bytes,
    defaults: Defaults::NONE,
};

/// Gemma 4's: merges like the above, spelling like SentencePiece.
pub(super) static GEMMA4: Model = Model {
    name: "gemma4",
    build: |metadata, vocabulary| {
        build(metadata, vocabulary, &pretokenizer::LINES, Spelling::Characters, Prefix::Never)
    },
    bytes: spaced,
    defaults: Defaults::NONE,
};

/// How text is written in a vocabulary.
#[derive(Clone, Copy, PartialEq)]
enum Spelling {
    /// A character for each byte.
    Bytes,
    /// Characters as they are, U+2581 for a space, byte tokens for characters that are no tokens.
    Characters,
}

/// Where a space that nobody wrote is put in front of text: as HuggingFace's parts `Prepend` and `Metaspace` do it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Prefix {
    /// Nowhere.
    Never,
    /// Before every stretch of text between control tokens.
    Prepend,
    /// The same, unless it begins with one.
    Always,
    /// Before the first of them only, unless it begins with one.
    First,
}

impl Prefix {
    /// Every kind, by its name in [`PREFIX`].
    const ALL: [(&str, Prefix); 4] =
        [("never", Prefix::Never), ("prepend", Prefix::Prepend), ("always", Prefix::Always), ("first", Prefix::First)];

    fn applies(self, text: &str, first: bool) -> bool {
        let bare = !text.is_empty() && !text.starts_with([' ', SPACE]);
        match self {
            Prefix::Never => false,
            Prefix::Prepend => !text.is_empty(),
            Prefix::Always => bare,
            Prefix::First => bare && first,
        }
    }
}

/// The prefix of a vocabulary of pieces with merges. `None` where the scores rule.
pub(super) fn prefix(metadata: &Metadata) -> Result<Option<Prefix>> {
    let Some(name) = metadata.string(PREFIX)? else { return Ok(None) };
    match Prefix::ALL.iter().find(|(known, _)| *known == name) {
        Some((_, prefix)) => Ok(Some(*prefix)),
        None => Err(Error::malformed(format!("there is no kind of prefix {}", quoted(name))).at(key(PREFIX))),
    }
}

/// SentencePiece's vocabulary with the merges of a `tokenizer.json`.
pub(super) fn build_pieces(metadata: &Metadata, vocabulary: &Vocabulary, prefix: Prefix) -> Result<Encoding> {
    let whole_words = metadata.bool(WHOLE_WORDS)?.unwrap_or(false);
    let pre = Pre { names: &[], words: &[], nfc: false, whole_words, add_bos: true };
    build(metadata, vocabulary, &pre, Spelling::Characters, prefix)
}

/// Byte-pair encoding for one file.
struct BytePairs {
    nfc: bool,
    words: Vec<Cutter>,
    bpe: BPE,
    spelling: Spelling,
    prefix: Prefix,
    /// Whether the vocabulary can spell each byte.
    spelled: [bool; 256],
    /// The character that spells each byte.
    alphabet: [char; 256],
}

//= F-INT-294
fn build(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
    pre: &Pre,
    spelling: Spelling,
    prefix: Prefix,
) -> Result<Encoding> {
    let ids = ids(vocabulary);
    let merges = merges(metadata, &ids)?;
    let bpe = BPE::builder()
        .vocab_and_merges(ids, merges)
        .ignore_merges(pre.whole_words)
        .byte_fallback(spelling == Spelling::Characters)
        .build()
        .map_err(|e| {
            // It names the token; the name is from the file.
            let what = format!("a merge does not fit the vocabulary: {}", quoted(&e.to_string()));
            Error::malformed(what).at(key(MERGES))
        })?;
    let alphabet = alphabet();
    let spelled = match spelling {
        Spelling::Bytes => alphabet.map(|c| bpe.token_to_id(c.encode_utf8(&mut [0; 4])).is_some()),
        Spelling::Characters => std::array::from_fn(|byte| vocabulary.byte(byte as u8).is_some()),
    };
    let words = pre.words.iter().map(|e| Cutter::new(e)).collect::<Result<_>>()?;
    let encoder = Box::new(BytePairs { nfc: pre.nfc, words, bpe, spelling, prefix, spelled, alphabet });
    Ok(Encoding { encoder, add_bos: pre.add_bos, closing: None, space_prefix: prefix != Prefix::Never })
}

fn key(key: &str) -> Place {
    Place::Key(key.into())
}

/// The pre-tokeniser: by its name, or by the expressions themselves where a file has those.
pub(super) fn pre(metadata: &Metadata) -> Result<Pre> {
    let names = || pretokenizer::ALL.iter().flat_map(|p| p.names).copied().collect::<Vec<_>>().join(", ");
    let unsupported = |at: &str, what: String| {
        Error::new(Kind::Unsupported, what).at(key(at)).hint(format!("supported: {}", names()))
    };
    if let Some(words) = metadata.array(WORDS)? {
        let said: Vec<Option<String>> = words.iter().map(|w| text_of(w).map(literal)).collect();
        let same = |p: &&Pre| p.words.iter().map(|w| Some(literal(w))).eq(said.iter().cloned());
        let found = pretokenizer::ALL.iter().find(same).ok_or_else(|| {
            let first = words.iter().find_map(text_of).unwrap_or("none");
            unsupported(WORDS, format!("unknown pre-tokeniser expression {}", quoted(first)))
        })?;
        let flag = |key: &str| metadata.bool(key).map(|said| said.unwrap_or(false));
        let (nfc, whole_words) = (flag(NFC)?, flag(WHOLE_WORDS)?);
        return Ok(Pre { nfc, whole_words, ..*found });
    }
    let name =
        metadata.string(PRE)?.ok_or_else(|| unsupported(PRE, "the file does not name its pre-tokeniser".into()))?;
    let found = pretokenizer::ALL.iter().find(|p| p.names.contains(&name));
    found.copied().ok_or_else(|| unsupported(PRE, format!("unknown pre-tokeniser {}", quoted(name))))
}

/// An expression with the characters that `\x{1F7D}` stands for: tables and files choose one or the other.
fn literal(expression: &str) -> String {
    let mut out = String::with_capacity(expression.len());
    let mut rest = expression;
    while let Some((before, after)) = rest.split_once(r"\x{") {
        let escaped = after
            .split_once('}')
            .and_then(|(hex, after)| Some((u32::from_str_radix(hex, 16).ok().and_then(char::from_u32)?, after)));
        out.push_str(before);
        match escaped {
            Some((c, after)) => {
                out.push(c);
                rest = after;
            }
            None => {
                out.push_str(r"\x{");
                rest = after;
            }
        }
    }
    out + rest
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// The tokens by name, which is how the merges speak of them. Control tokens are none of the words that text is made of.
fn ids(vocabulary: &Vocabulary) -> tokenizers::models::bpe::Vocab {
    let tokens = vocabulary.texts().iter().zip(0..);
    let named = tokens.filter(|(text, id)| !text.is_empty() && !vocabulary.is_control(*id));
    named.map(|(text, id)| (text.to_string(), id)).collect()
}

/// The merge rules, first the ones to apply first. `BPE` finds the unknown tokens; what it does not look at is here.
fn merges(metadata: &Metadata, ids: &tokenizers::models::bpe::Vocab) -> Result<Merges> {
    let values = metadata.array(MERGES)?.ok_or_else(|| missing(MERGES))?;
    if values.len() > limits::MERGES_MAX {
        let what = format!("{} merges; at most {} are supported", values.len(), limits::MERGES_MAX);
        return Err(Error::new(Kind::TooLarge, what).at(key(MERGES)));
    }
    let longest = ids.keys().map(|t| t.len()).max().unwrap_or(0);
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

impl Encoder for BytePairs {
    //= F-PIPE-166
    fn encode(&self, text: &str, first: bool, ids: &mut Vec<u32>) -> Result<()> {
        let text = match (self.nfc, self.prefix.applies(text, first)) {
            (true, _) => composed(text),
            (false, true) => Cow::Owned(format!(" {text}")),
            (false, false) => Cow::Borrowed(text),
        };
        self.can_spell(&text)?;
        let mut spelling = String::new();
        for_each_word(&self.words, &text, &mut |word| {
            spelling.clear();
            match self.spelling {
                Spelling::Bytes => spelling.extend(word.bytes().map(|b| self.alphabet[usize::from(b)])),
                Spelling::Characters => spelling.extend(word.chars().map(|c| if c == ' ' { SPACE } else { c })),
            }
            let tokens = self.bpe.tokenize(&spelling);
            let tokens =
                tokens.map_err(|e| Error::new(Kind::Inference, format!("the byte-pair encoder failed: {e}")))?;
            ids.extend(tokens.iter().map(|t| t.id));
            Ok(())
        })
    }
}

impl BytePairs {
    /// `BPE` drops what it cannot spell, and a prompt with holes is not the user's prompt.
    fn can_spell(&self, text: &str) -> Result<()> {
        if self.spelled.iter().all(|&s| s) {
            return Ok(());
        }
        let is_token = |c: char| {
            let c = if c == ' ' { SPACE } else { c };
            self.spelling == Spelling::Characters && self.bpe.token_to_id(c.encode_utf8(&mut [0; 4])).is_some()
        };
        let spelled = |c: char| c.encode_utf8(&mut [0; 4]).bytes().all(|b| self.spelled[usize::from(b)]);
        match text.chars().find(|&c| !spelled(c) && !is_token(c)) {
            Some(lost) => Err(unspellable(lost)),
            None => Ok(()),
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
}
