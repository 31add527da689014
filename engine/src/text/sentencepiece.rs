//! SentencePiece's byte-pair encoding, the tokenizer model that GGUF calls `llama` (Llama 1 and 2, Phi-3, Mistral).
//!
//! There are no words and no merge list: of all neighbours that together are a token, the pair with the best score is
//! joined first, the leftmost of equals (`bpe_model.cc`). This is not SentencePiece's unigram model. A space is written
//! U+2581, and a character that is no token is written in byte tokens `<0x0A>`.
//!
//! In HuggingFace's `tokenizer.json` the same vocabularies come with merges instead of scores: those go to [`super::bpe`].

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::bpe;
use super::pretokenizer::pieces;
use super::vocabulary::{Kind, Vocabulary};
use super::{Defaults, Encoder, Encoding, Model, unspellable};
use crate::error::{Error, Kind as ErrorKind, Place, Result};
use crate::file::{Metadata, Value, missing};
use crate::limits;

pub(super) const SCORES: &str = "tokenizer.ggml.scores";

/// How a vocabulary writes a space.
pub(super) const SPACE: char = '\u{2581}';

/// This tokenizer model.
pub(super) static MODEL: Model = Model {
    name: "llama",
    build,
    bytes: spaced,
    defaults: Defaults { bos: Some(1), eos: Some(2), unknown: Some(0), separator: None },
};

/// The bytes that a token's spelling stands for.
//= F-PIPE-166b
pub(super) fn spaced(spelling: &str) -> Vec<u8> {
    spelling.replace(SPACE, " ").into_bytes()
}

/// One file's encoder.
struct SentencePiece {
    /// Id and score of every token that text is made of. Control tokens are not among them, whoever writes their names.
    tokens: HashMap<Box<str>, (u32, f32)>,
    /// The token of each byte.
    bytes: [Option<u32>; 256],
    /// Text begins with a space that nobody wrote.
    space_prefix: bool,
    /// Spaces at the ends of a text go, and several in a row are one.
    single_spaces: bool,
}

fn build(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Encoding> {
    if let Some(prefix) = bpe::prefix(metadata)? {
        return bpe::build_pieces(metadata, vocabulary, prefix);
    }
    let scores = scores(metadata, vocabulary.len())?;
    let mut tokens = HashMap::with_capacity(vocabulary.len());
    for (id, (text, score)) in vocabulary.texts().iter().zip(scores).enumerate() {
        if vocabulary.kind(id as u32) != Some(Kind::Normal) || text.is_empty() {
            continue;
        }
        // Each step of merging looks at that many bytes.
        if text.len() > limits::PIECE_BYTES_MAX {
            let what =
                format!("token {id} has {} bytes; at most {} are supported here", text.len(), limits::PIECE_BYTES_MAX);
            return Err(Error::new(ErrorKind::TooLarge, what).at(Place::Key("tokenizer.ggml.tokens".into())));
        }
        tokens.insert(text.clone(), (id as u32, score));
    }
    let space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let single_spaces = metadata.bool("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false);
    let bytes = std::array::from_fn(|byte| vocabulary.byte(byte as u8));
    let encoder = Box::new(SentencePiece { tokens, bytes, space_prefix, single_spaces });
    Ok(Encoding { encoder, add_bos: true, closing: None, space_prefix })
}

/// A score for each token.
pub(super) fn scores(metadata: &Metadata, len: usize) -> Result<Vec<f32>> {
    let malformed = |what: String| Error::malformed(what).at(Place::Key(SCORES.into()));
    let values = metadata.array(SCORES)?.ok_or_else(|| missing(SCORES))?;
    if values.len() < len {
        return Err(malformed(format!("{} scores for {len} tokens", values.len())));
    }
    let score = |(id, value): (usize, &Value)| match *value {
        Value::Float(score) if (score as f32).is_finite() => Ok(score as f32),
        Value::Float(score) => Err(malformed(format!("token {id} has the score {score}"))),
        Value::Unsigned(score) => Ok(score as f32),
        Value::Signed(score) => Ok(score as f32),
        ref other => Err(malformed(format!("score {id} is {}, not a number", other.kind()))),
    };
    values[..len].iter().enumerate().map(score).collect()
}

impl Encoder for SentencePiece {
    //= F-PIPE-166
    fn encode(&self, text: &str, _: bool, ids: &mut Vec<u32>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut spelling = String::with_capacity(text.len() + text.len() / 2);
        if self.space_prefix {
            spelling.push(SPACE);
        }
        if self.single_spaces {
            let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
            spelling.extend(words.join(" ").chars().map(escaped));
        } else {
            spelling.extend(text.chars().map(escaped));
        }
        pieces(&spelling).try_for_each(|piece| self.merge(piece, ids))
    }
}

fn escaped(c: char) -> char {
    if c == ' ' { SPACE } else { c }
}

/// A stretch of text that is one symbol so far. Symbols are a doubly linked list; one that was joined to its left
/// neighbour has no length.
struct Symbol {
    start: usize,
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that together are a token.
#[derive(PartialEq)]
struct Pair {
    score: f32,
    left: usize,
    /// Bytes of both. A pair of which either symbol has changed since has another length.
    len: usize,
}

impl Eq for Pair {}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The best score first, then the leftmost. Scores are finite.
impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        let score = self.score.partial_cmp(&other.score).unwrap_or(Ordering::Equal);
        score.then(other.left.cmp(&self.left)).then(self.len.cmp(&other.len))
    }
}

impl SentencePiece {
    /// Appends the ids of a piece, which is not empty. Takes n log n steps for n characters.
    fn merge(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let count = text.chars().count();
        let symbol = |(i, (start, c)): (usize, (usize, char))| Symbol {
            start,
            len: c.len_utf8(),
            prev: i.checked_sub(1),
            next: (i + 1 < count).then_some(i + 1),
        };
        let mut symbols: Vec<Symbol> = text.char_indices().enumerate().map(symbol).collect();
        let mut pairs = BinaryHeap::with_capacity(count);
        pairs.extend((0..count).filter_map(|left| self.pair(text, &symbols, left)));
        while let Some(Pair { left, len, .. }) = pairs.pop() {
            let Some(right) = symbols[left].next else { continue };
            if symbols[left].len == 0 || symbols[left].len + symbols[right].len != len {
                continue;
            }
            let after = symbols[right].next;
            symbols[right].len = 0;
            (symbols[left].len, symbols[left].next) = (len, after);
            if let Some(after) = after {
                symbols[after].prev = Some(left);
            }
            let before = symbols[left].prev;
            pairs.extend(before.and_then(|before| self.pair(text, &symbols, before)));
            pairs.extend(self.pair(text, &symbols, left));
        }
        symbols.iter().filter(|s| s.len > 0).try_for_each(|s| self.push(&text[s.start..s.start + s.len], ids))
    }

    /// The symbol and its right neighbour, if together they are a token.
    fn pair(&self, text: &str, symbols: &[Symbol], left: usize) -> Option<Pair> {
        let (first, second) = (&symbols[left], &symbols[symbols[left].next?]);
        let len = first.len + second.len;
        let (_, score) = self.tokens.get(&text[first.start..first.start + len])?;
        Some(Pair { score: *score, left, len })
    }

    /// A symbol's token, or those of its bytes.
    fn push(&self, symbol: &str, ids: &mut Vec<u32>) -> Result<()> {
        if let Some((id, _)) = self.tokens.get(symbol) {
            ids.push(*id);
            return Ok(());
        }
        for byte in symbol.bytes() {
            let id = self.bytes[usize::from(byte)];
            ids.push(id.ok_or_else(|| unspellable(symbol.chars().next().unwrap_or_default()))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{pieces, with};
    use super::super::{Segment, Tokenizer};
    use super::*;

    const WORDS: &[(&str, u64, f64)] = &[
        ("\u{2581}", 1, -9.0),
        ("a", 1, -9.0),
        ("b", 1, -9.0),
        ("<", 1, -9.0),
        ("s", 1, -9.0),
        (">", 1, -9.0),
        ("ab", 1, -2.0),
        ("aa", 1, -3.0),
        ("\u{2581}a", 1, -4.0),
        ("ba", 1, -1.0),
        ("<s", 1, -1.0),
    ];

    fn tokenizer(extra: &[(&str, u64, f64)]) -> Tokenizer {
        Tokenizer::from_metadata(&pieces(extra)).unwrap()
    }

    /// The names of a text's tokens.
    fn names(tok: &Tokenizer, text: &str) -> Vec<String> {
        let ids = tok.encode_text(text).unwrap();
        ids.into_iter().map(|id| tok.token_text(id).unwrap().to_string()).collect()
    }

    #[test]
    fn the_best_score_joins_first_and_then_the_leftmost() {
        let tok = tokenizer(WORDS);
        assert_eq!(names(&tok, "aba"), ["\u{2581}a", "ba"]);
        assert_eq!(names(&tok, "baaa"), ["\u{2581}", "ba", "aa"]);
        assert_eq!(names(&tok, "aaab"), ["\u{2581}", "aa", "ab"]);
        assert_eq!(names(&tok, "aaa"), ["\u{2581}", "aa", "a"]);
        assert_eq!(names(&tok, ""), [""; 0]);
    }

    #[test]
    fn what_is_no_token_is_bytes() {
        let tok = tokenizer(WORDS);
        assert_eq!(names(&tok, "é\n"), ["\u{2581}", "<0xC3>", "<0xA9>", "<0x0A>"]);
        // The name of a byte token is text like any other.
        assert_eq!(tok.decode(&tok.encode_text("<0x0A>").unwrap()), b"<0x0A>");
        let mut lacking = pieces(WORDS);
        for key in ["tokens", "token_type", "scores"] {
            if let Some(Value::Array(list)) = lacking.entries.get_mut(&format!("tokenizer.ggml.{key}")) {
                list.remove(3 + 0xa9);
            }
        }
        let tok = Tokenizer::from_metadata(&lacking).unwrap();
        assert_eq!(tok.encode_text("aé").unwrap_err().what, "the vocabulary has no token for 'é'");
        assert!(tok.encode_text("è").is_ok());
    }

    #[test]
    fn nobody_merges_a_control_token() {
        let tok = tokenizer(WORDS);
        assert_eq!(names(&tok, "<s>"), ["\u{2581}", "<s", ">"]);
        assert_eq!(tok.encode(&[Segment::Content("<s>".into())]).unwrap()[1..], tok.encode_text("<s>").unwrap());
        assert_eq!(tok.encode_raw("<s>a").unwrap(), [[1], [tok.encode_text("a").unwrap()[0]]].concat());
    }

    #[test]
    fn text_begins_with_a_space_unless_the_file_says_no() {
        let tok = tokenizer(WORDS);
        assert_eq!(names(&tok, " a"), ["\u{2581}", "\u{2581}a"]);
        // After every token that is matched whole, text begins again.
        let after = tok.encode_raw("a</s>a").unwrap();
        assert_eq!(after[1..], [[after[1]], [2], [after[1]]].concat());
        let ids = tok.encode_text("a b").unwrap();
        assert_eq!(tok.decode(&ids), b"a b");
        assert_eq!(tok.token_bytes(ids[0]), Some(&b" a"[..]));
        let plain = with(pieces(WORDS), "add_space_prefix", Value::Bool(false));
        let plain = Tokenizer::from_metadata(&plain).unwrap();
        assert_eq!(names(&plain, "a"), ["a"]);
        assert_eq!(plain.decode(&plain.encode_text(" a").unwrap()), b" a");
    }

    #[test]
    fn extra_spaces_go_where_the_file_says_so() {
        let single = with(pieces(WORDS), "remove_extra_whitespaces", Value::Bool(true));
        let tok = Tokenizer::from_metadata(&single).unwrap();
        assert_eq!(tok.encode_text("  a   b ").unwrap(), tokenizer(WORDS).encode_text("a b").unwrap());
    }

    #[test]
    fn blanks_after_the_markers_of_phi_3_are_no_text() {
        let metadata = pieces(&[("\u{2581}a", 1, 0.0), ("<|user|>", 3, 0.0)]);
        let plain = Tokenizer::from_metadata(&metadata).unwrap();
        let mut phi = metadata;
        phi.entries.insert("general.name".into(), Value::String("Phi3".into()));
        let phi = Tokenizer::from_metadata(&phi).unwrap();
        let user = 260;
        assert_eq!(phi.encode_raw("<|user|> \n\ta").unwrap()[..2], [1, user]);
        assert_eq!(phi.encode_raw("<|user|>\n").unwrap(), [1, user]);
        // A space, which this vocabulary has as three bytes, and the line end.
        assert_eq!(phi.encode_raw("<s>\n").unwrap().len(), 1 + 3 + 1);
        assert_eq!(plain.encode_raw("<|user|>\n").unwrap().len(), 2 + 3 + 1);
    }

    #[test]
    fn what_the_file_does_not_say_is_as_in_llama() {
        let tok = tokenizer(WORDS);
        assert_eq!((tok.bos(), tok.eos(), tok.add_bos()), (Some(1), Some(2), true));
        let silent = with(pieces(WORDS), "token_type", Value::Array(vec![Value::Unsigned(1); 259 + WORDS.len()]));
        let tok = Tokenizer::from_metadata(&silent).unwrap();
        assert_eq!((tok.bos(), tok.eos(), tok.add_bos()), (None, None, false));
    }

    #[test]
    fn bad_tables_are_refused() {
        let scores = |score: Value| Value::Array(vec![score; 259]);
        let long = "x".repeat(limits::PIECE_BYTES_MAX + 1);
        let table = [
            (with(pieces(&[]), "scores", Value::Array(vec![Value::Float(0.0); 258])), "scores", "258 scores"),
            (with(pieces(&[]), "scores", scores(Value::Float(f64::NAN))), "scores", "the score NaN"),
            (with(pieces(&[]), "scores", scores(Value::Float(f64::MAX))), "scores", "the score 1797"),
            (with(pieces(&[]), "scores", scores(Value::Bool(true))), "scores", "a bool"),
            (with(pieces(&[]), "scores", Value::Bool(true)), "scores", "a bool"),
            (pieces(&[(&long, 1, 0.0)]), "tokens", "1025 bytes"),
            (pieces(&[("<0x+f>", 6, 0.0)]), "tokens", "does not spell one"),
            (pieces(&[("a", 1, 0.0), ("a", 1, 0.0)]), "tokens", "both 'a'"),
            (with(pieces(&[]), "add_space_prefix", Value::Unsigned(1)), "add_space_prefix", "integer"),
        ];
        for (metadata, key, word) in table {
            let error = Tokenizer::from_metadata(&metadata).unwrap_err();
            assert_eq!(error.at, Some(Place::Key(format!("tokenizer.ggml.{key}"))), "{error}");
            assert!(error.what.contains(word), "{error} lacks {word}");
        }
        let mut without = pieces(&[]);
        without.entries.remove(SCORES);
        assert_eq!(Tokenizer::from_metadata(&without).unwrap_err().at, Some(Place::Key(SCORES.into())));
        assert!(Tokenizer::from_metadata(&with(pieces(&[]), "scores", scores(Value::Signed(-1)))).is_ok());
    }

    /// So many bytes that are one word. Only that they go through: how long it takes is measured elsewhere.
    #[test]
    fn degenerate_texts_go_through() {
        let tok = tokenizer(WORDS);
        for piece in ["a", " ", "\n", "\u{301}", "ab"] {
            let text = piece.repeat((1 << 18) / piece.len());
            assert_eq!(tok.decode(&tok.encode_text(&text).unwrap()), text.as_bytes(), "{piece:?}");
        }
    }

    /// The definition: join the best pair, look again.
    fn slowly(tokens: &HashMap<Box<str>, (u32, f32)>, text: &str) -> Vec<String> {
        let mut symbols: Vec<String> = text.chars().map(String::from).collect();
        let score = |symbols: &[String], left: usize| Some(tokens.get(&*symbols[left..left + 2].concat())?.1);
        loop {
            let pairs = (0..symbols.len().saturating_sub(1)).rev().filter_map(|i| Some((score(&symbols, i)?, i)));
            let Some((_, left)) = pairs.max_by(|a, b| a.0.total_cmp(&b.0)) else {
                return symbols;
            };
            let joined = symbols[left..left + 2].concat();
            symbols.splice(left..left + 2, [joined]);
        }
    }

    proptest! {
        #[test]
        fn the_queue_does_what_the_definition_says(
            words in prop::collection::btree_map("[ab]{2,5}", -3..3i32, 0..12),
            text in "[ab]{1,24}",
        ) {
            let mut tokens: HashMap<Box<str>, (u32, f32)> = HashMap::new();
            for (id, (word, score)) in words.iter().enumerate() {
                tokens.insert(word.as_str().into(), (id as u32, *score as f32));
            }
            tokens.insert("a".into(), (100, -9.0));
            tokens.insert("b".into(), (101, -9.0));
            let want: Vec<u32> = slowly(&tokens, &text).iter().map(|s| tokens[&**s].0).collect();
            let encoder = SentencePiece { tokens, bytes: [None; 256], space_prefix: false, single_spaces: false };
            let mut got = Vec::new();
            encoder.encode(&text, true, &mut got).unwrap();
            prop_assert_eq!(got, want);
        }

        #[test]
        fn decoding_gives_the_text_back(text in "([ab<s> >é\n]|\\PC){0,40}") {
            let tok = tokenizer(WORDS);
            let ids = tok.encode_text(&text).unwrap();
            prop_assert!(ids.iter().all(|id| !tok.is_control(*id)));
            prop_assert_eq!(tok.decode(&ids), text.replace(SPACE, " ").into_bytes());
        }
    }
}
