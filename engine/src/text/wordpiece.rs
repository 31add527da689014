//! WordPiece, the tokenizer model that GGUF calls `bert`: the longest token that a word begins with, then the longest
//! that the rest begins with, and so on.
//!
//! A token that begins a word is written with U+2581 in front; GGUF drops the `##` from the others. Text is cleaned and
//! cut by HuggingFace's own code for BERT, which is the reference. llama.cpp differs: it knows no longest word, does not
//! decompose Hangul, strips vowel signs that take room (Mc) with the accents, and takes U+0085 for a blank.

use std::collections::HashMap;

use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::pretokenizer::pieces;
use super::sentencepiece::{SPACE, spaced};
use super::vocabulary::{Kind, Vocabulary};
use super::{Defaults, Encoder, Encoding, Model};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::file::{Metadata, missing};

/// A longer word is unknown, as in BERT's own `tokenization.py` (`max_input_chars_per_word` in HuggingFace's).
const WORD_CHARS_MAX: usize = 100;

/// This tokenizer model.
pub(super) static MODEL: Model = Model {
    name: "bert",
    build,
    bytes: spaced,
    defaults: Defaults { bos: Some(101), eos: None, unknown: Some(100), separator: Some(102) },
};

/// One file's encoder.
struct WordPiece {
    cleaning: BertNormalizer,
    /// The tokens that begin a word.
    first: HashMap<Box<str>, u32>,
    /// The tokens that continue one.
    later: HashMap<Box<str>, u32>,
    unknown: u32,
}

fn build(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Encoding> {
    let (mut first, mut later) = (HashMap::new(), HashMap::new());
    for (text, id) in vocabulary.texts().iter().zip(0..) {
        match (vocabulary.kind(id), text.strip_prefix(SPACE)) {
            (Some(Kind::Normal), Some(begin)) => first.insert(begin.into(), id),
            (Some(Kind::Normal), None) => later.insert(text.clone(), id),
            _ => continue,
        };
    }
    let lowercase = metadata.bool("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
    let strip_accents = metadata.bool("tokenizer.ggml.normalizer.strip_accents")?;
    let cleaning = BertNormalizer::new(true, true, strip_accents, lowercase);
    let unknown = vocabulary.unknown.ok_or_else(|| missing("tokenizer.ggml.unknown_token_id"))?;
    let wants_separator = metadata.bool("tokenizer.ggml.add_sep_token")?.unwrap_or(true);
    let closing = vocabulary.separator.filter(|_| wants_separator);
    let encoder = Box::new(WordPiece { cleaning, first, later, unknown });
    Ok(Encoding { encoder, add_bos: true, closing, space_prefix: false })
}

impl Encoder for WordPiece {
    //= F-PIPE-166
    fn encode(&self, text: &str, _: bool, ids: &mut Vec<u32>) -> Result<()> {
        let failed = |e| Error::new(ErrorKind::Inference, format!("the text cannot be cleaned: {e}"));
        // Words end at blanks, so pieces that begin with them can be cleaned one by one.
        for piece in pieces(text) {
            let mut cleaned = NormalizedString::from(piece);
            self.cleaning.normalize(&mut cleaned).map_err(failed)?;
            let mut words = PreTokenizedString::from(cleaned);
            BertPreTokenizer.pre_tokenize(&mut words).map_err(failed)?;
            for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
                self.push(word, ids);
            }
        }
        Ok(())
    }
}

impl WordPiece {
    /// Appends the tokens of a word; a word that cannot be made of tokens is unknown as a whole.
    fn push(&self, word: &str, ids: &mut Vec<u32>) {
        let (begin, mut rest, mut tokens) = (ids.len(), word, &self.first);
        let mut is_known = word.chars().count() <= WORD_CHARS_MAX;
        while is_known && !rest.is_empty() {
            let ends = rest.char_indices().rev().map(|(at, c)| at + c.len_utf8());
            let longest = ends.filter_map(|end| Some((end, *tokens.get(&rest[..end])?))).next();
            is_known = longest.is_some();
            if let Some((end, id)) = longest {
                ids.push(id);
                (rest, tokens) = (&rest[end..], &self.later);
            }
        }
        if !is_known {
            ids.truncate(begin);
            ids.push(self.unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;
    use super::super::testing::with;
    use super::*;
    use crate::file::Value;

    fn metadata() -> Metadata {
        let tokens = [
            ("[UNK]", 3),
            ("[CLS]", 3),
            ("[SEP]", 3),
            ("\u{2581}un", 1),
            ("\u{2581}una", 1),
            ("aff", 1),
            ("able", 1),
            ("\u{2581}!", 1),
            ("\u{2581}日", 1),
            ("\u{2581}a", 1),
            ("a", 1),
            ("\u{2581}É", 1),
        ];
        let text = |s: &str| Value::String(s.into());
        let entries = [
            ("model", text("bert")),
            ("tokens", Value::Array(tokens.iter().map(|t| text(t.0)).collect())),
            ("token_type", Value::Array(tokens.iter().map(|t| Value::Unsigned(t.1)).collect())),
            ("unknown_token_id", Value::Unsigned(0)),
            ("cls_token_id", Value::Unsigned(1)),
            ("seperator_token_id", Value::Unsigned(2)),
        ];
        Metadata { entries: entries.map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).into() }
    }

    fn names(metadata: &Metadata, text: &str) -> Vec<String> {
        let tok = Tokenizer::from_metadata(metadata).unwrap();
        let ids = tok.encode_text(text).unwrap();
        ids.into_iter().map(|id| tok.token_text(id).unwrap().to_string()).collect()
    }

    #[test]
    fn a_word_is_its_longest_beginnings() {
        let m = metadata();
        assert_eq!(names(&m, "unaffable"), ["[UNK]"], "una, and nothing begins ffable");
        assert_eq!(names(&m, "unaaff"), ["\u{2581}una", "aff"]);
        assert_eq!(names(&m, "unaff!UNaa"), ["[UNK]", "\u{2581}!", "\u{2581}una", "a"]);
        assert_eq!(names(&m, "日a日"), ["\u{2581}日", "\u{2581}a", "\u{2581}日"]);
        assert_eq!(names(&m, " \t a\u{0}\u{200b}á "), ["\u{2581}a", "a"]);
        assert_eq!(names(&m, ""), [""; 0]);
        // What a user writes is text.
        assert_eq!(names(&m, "[CLS]"), ["[UNK]"; 3]);
    }

    #[test]
    fn a_long_word_is_unknown() {
        assert_eq!(names(&metadata(), &"a".repeat(100)).len(), 100);
        assert_eq!(names(&metadata(), &"a".repeat(101)), ["[UNK]"]);
    }

    #[test]
    fn a_prompt_is_framed_once() {
        let tok = Tokenizer::from_metadata(&metadata()).unwrap();
        assert_eq!(tok.encode_raw("a").unwrap(), [1, 9, 2]);
        assert_eq!(tok.encode_raw("[CLS]a[SEP]").unwrap(), [1, 9, 2]);
        assert_eq!(tok.decode(&[1, 9, 10, 7, 2]), b" aa !");
        let open = with(metadata(), "add_sep_token", Value::Bool(false));
        assert_eq!(Tokenizer::from_metadata(&open).unwrap().encode_raw("a").unwrap(), [1, 9]);
    }

    #[test]
    fn case_and_accents_stay_where_the_file_says_so() {
        let cased = with(metadata(), "normalizer.lowercase", Value::Bool(false));
        assert_eq!(names(&cased, "É a"), ["\u{2581}É", "\u{2581}a"]);
        let stripped = with(cased, "normalizer.strip_accents", Value::Bool(true));
        assert_eq!(names(&stripped, "É á"), ["[UNK]", "\u{2581}a"]);
    }

    #[test]
    fn without_a_token_for_the_unknown_there_is_no_tokenizer() {
        let mut m = metadata();
        m.entries.remove("tokenizer.ggml.unknown_token_id");
        let error = Tokenizer::from_metadata(&m).unwrap_err();
        assert!(error.to_string().contains("unknown_token_id"), "{error}");
    }

    #[test]
    fn degenerate_texts_go_through() {
        let tok = Tokenizer::from_metadata(&metadata()).unwrap();
        for (piece, most) in [("a", 20), (" ", 0), ("\u{301}", 0), ("!", 1 << 18), ("a ", 1 << 17)] {
            let text = piece.repeat((1 << 18) / piece.len());
            let ids = tok.encode_text(&text).unwrap();
            assert!(ids.len() <= most, "{piece:?}: {}", ids.len());
        }
    }
}
