//! A tokenizer in the words of another container. GGUF names the cut of words that a `tokenizer.json` spells out, and
//! has scores where that has merges.

use std::collections::HashMap;

use super::bpe::{self, MERGES, NFC, PRE, PREFIX, WHOLE_WORDS, WORDS};
use super::pretokenizer;
use super::sentencepiece::{SCORES, scores};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::{Metadata, Value, missing};
use crate::limits;

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const NORMAL: Value = Value::Unsigned(1);
const UNUSED: Value = Value::Unsigned(5);

fn unsupported(key: &str, what: impl Into<String>) -> Error {
    Error::new(Kind::Unsupported, what).at(Place::Key(key.into()))
}

/// Words that llama.cpp reads: the name of the pre-tokeniser, a token for each row of the embedding table, scores.
/// What they cannot say stays beside them under our own keys.
pub(crate) fn for_gguf(metadata: &mut Metadata, rows: usize) -> Result<()> {
    if metadata.get(WORDS).is_some() {
        let pre = bpe::pre(metadata)?;
        // llama.cpp composes nothing, so it has one name for both.
        let same = |p: &&pretokenizer::Pre| p.words == pre.words && p.whole_words == pre.whole_words;
        let exact = pretokenizer::ALL.iter().filter(same).find(|p| p.nfc == pre.nfc);
        let named = exact.or(pretokenizer::ALL.iter().find(same));
        let named = named.ok_or_else(|| unsupported(WHOLE_WORDS, "GGUF has no name for this pre-tokeniser"))?;
        metadata.entries.insert(PRE.into(), Value::String(named.names[0].into()));
        if exact.is_some() {
            [WORDS, NFC, WHOLE_WORDS].iter().for_each(|key| drop(metadata.entries.remove(*key)));
        }
    }
    fill(metadata, rows);
    if metadata.get(PREFIX).is_some() {
        let scores = scores_of_merges(metadata)?;
        metadata.entries.insert(SCORES.into(), Value::Array(scores));
    } else if let Some(Value::Array(scores)) = metadata.entries.get_mut(SCORES) {
        scores.resize(scores.len().max(rows), Value::Float(0.0));
    }
    Ok(())
}

/// Gives every id a token: holes and the rows beyond the last one get names that nothing matches.
fn fill(metadata: &mut Metadata, rows: usize) {
    let (Some(Value::Array(mut tokens)), Some(Value::Array(mut types))) =
        (metadata.entries.remove(TOKENS), metadata.entries.remove(TYPES))
    else {
        return;
    };
    tokens.resize(tokens.len().max(rows), Value::String(String::new()));
    types.resize(types.len().max(rows), UNUSED);
    for (id, (token, kind)) in tokens.iter_mut().zip(&types).enumerate() {
        if *kind == UNUSED && *token == Value::String(String::new()) {
            *token = Value::String(format!("[PAD{id}]"));
        }
    }
    metadata.entries.insert(TOKENS.into(), Value::Array(tokens));
    metadata.entries.insert(TYPES.into(), Value::Array(types));
}

/// Words that a `tokenizer.json` has: expressions in place of a name, merges in place of scores.
pub(crate) fn for_huggingface(metadata: &mut Metadata) -> Result<()> {
    match metadata.string(MODEL)?.ok_or_else(|| missing(MODEL))? {
        "gpt2" => {
            let pre = bpe::pre(metadata)?;
            let words = pre.words.iter().map(|w| Value::String((*w).into())).collect();
            for (key, value) in
                [(WORDS, Value::Array(words)), (NFC, Value::Bool(pre.nfc)), (WHOLE_WORDS, Value::Bool(pre.whole_words))]
            {
                metadata.entries.insert(key.into(), value);
            }
            metadata.entries.remove(PRE);
            Ok(())
        }
        "llama" => {
            metadata.entries.remove(PRE);
            let scores = metadata.entries.contains_key(SCORES);
            if metadata.get(PREFIX).is_none() {
                for_pieces(metadata)?;
            } else if scores {
                metadata.entries.remove(SCORES);
            }
            Ok(())
        }
        other => Err(unsupported(MODEL, format!("no tokenizer.json is written for the tokenizer {}", quoted(other)))),
    }
}

/// What a vocabulary with scores says, with merges.
fn for_pieces(metadata: &mut Metadata) -> Result<()> {
    const EXTRA: &str = "tokenizer.ggml.remove_extra_whitespaces";
    if metadata.bool(EXTRA)?.unwrap_or(false) {
        return Err(unsupported(EXTRA, "no tokenizer.json is written for text whose spaces are made fewer"));
    }
    let prefix = if metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) { "prepend" } else { "never" };
    let merges = merges_of_scores(metadata)?;
    metadata.entries.insert(MERGES.into(), Value::Array(merges));
    metadata.entries.insert(PREFIX.into(), Value::String(prefix.into()));
    metadata.entries.remove(SCORES);
    metadata.entries.remove(EXTRA);
    Ok(())
}

/// Text tokens and their ids.
fn pieces(metadata: &Metadata) -> Result<HashMap<&str, usize>> {
    let tokens = metadata.array(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
    let types = metadata.array(TYPES)?.ok_or_else(|| missing(TYPES))?;
    let mut pieces = HashMap::new();
    for (id, (token, kind)) in tokens.iter().zip(types).enumerate() {
        match token {
            Value::String(text) if *kind == NORMAL && text.len() <= limits::PIECE_BYTES_MAX => {
                pieces.insert(text.as_str(), id);
            }
            _ => {}
        }
    }
    Ok(pieces)
}

/// The ways to cut a text in two.
fn cuts(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.char_indices().skip(1).map(|(at, _)| text.split_at(at))
}

/// Every way to join two tokens to a third, the best third first and then the shortest left half, as HuggingFace's
/// converters order them.
fn merges_of_scores(metadata: &Metadata) -> Result<Vec<Value>> {
    let pieces = pieces(metadata)?;
    let scores = scores(metadata, metadata.array(TOKENS)?.unwrap_or_default().len())?;
    let mut made: Vec<(f32, &str)> = pieces.iter().map(|(text, id)| (scores[*id], *text)).collect();
    made.retain(|(_, text)| cuts(text).any(|(a, b)| pieces.contains_key(a) && pieces.contains_key(b)));
    made.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    if let Some(pair) = made.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let what =
            format!("{} and {} have the same score, and merges have an order", quoted(pair[0].1), quoted(pair[1].1));
        return Err(unsupported(SCORES, what));
    }
    let mut merges = Vec::new();
    for (_, text) in made {
        let both = |(a, b): &(&str, &str)| pieces.contains_key(a) && pieces.contains_key(b);
        merges.extend(cuts(text).filter(both).map(|(a, b)| Value::String(format!("{a} {b}"))));
        if merges.len() > limits::MERGES_MAX {
            return Err(Error::new(Kind::TooLarge, format!("more than {} merges", limits::MERGES_MAX))
                .at(Place::Key(SCORES.into())));
        }
    }
    Ok(merges)
}

/// A score for each token: the earlier its first merge, the higher. llama.cpp joins all neighbours that together are a
/// token, so a token that merges do not make must have no such neighbours.
fn scores_of_merges(metadata: &Metadata) -> Result<Vec<Value>> {
    let pieces = pieces(metadata)?;
    let merges = metadata.array(MERGES)?.ok_or_else(|| missing(MERGES))?;
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, merge) in merges.iter().enumerate() {
        if let Value::String(merge) = merge {
            ranks.entry(merge.replacen(' ', "", 1)).or_insert(rank);
        }
    }
    let mut scores = vec![Value::Float(0.0); metadata.array(TOKENS)?.unwrap_or_default().len()];
    for (text, id) in &pieces {
        let rank = match ranks.get(*text) {
            Some(rank) => *rank,
            None if cuts(text).any(|(a, b)| pieces.contains_key(a) && pieces.contains_key(b)) => {
                let what = format!("no merge makes {}, and in GGUF it would be made", quoted(text));
                return Err(unsupported(MERGES, what));
            }
            None => merges.len(),
        };
        // Exact in the F32 that GGUF has: there are at most 2^22 merges.
        scores[*id] = Value::Float(0.0 - rank as f64);
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Tokenizer;
    use super::super::testing::{METADATA, pieces as vocabulary, small, with};
    use super::*;

    fn text(s: &str) -> Value {
        Value::String(s.into())
    }

    /// Every name, spelled out and named again: the words are the same, and so is the rest of the row.
    #[test]
    fn names_of_cuts_come_back() {
        for row in pretokenizer::ALL {
            for name in row.names {
                let mut metadata = with(small(&[]), "pre", text(name));
                for_huggingface(&mut metadata).unwrap();
                assert!(metadata.get(PRE).is_none() && metadata.get(WORDS).is_some());
                let spelled = bpe::pre(&metadata).unwrap();
                for_gguf(&mut metadata, 0).unwrap();
                assert!(metadata.get(WORDS).is_none() && metadata.get(NFC).is_none());
                let named = bpe::pre(&metadata).unwrap();
                for pre in [spelled, named] {
                    assert_eq!((pre.words, pre.nfc, pre.whole_words), (row.words, row.nfc, row.whole_words), "{name}");
                }
            }
        }
    }

    #[test]
    fn what_no_name_says_stays_beside_it_or_is_refused() {
        let mut metadata = small(&[]);
        for_huggingface(&mut metadata).unwrap();
        let mut composed = metadata.clone();
        composed.entries.insert(WHOLE_WORDS.into(), Value::Bool(true));
        assert_eq!(for_gguf(&mut composed, 0).unwrap_err().at, Some(Place::Key(WHOLE_WORDS.into())));
        // Llama 3's words, composed.
        metadata.entries.remove(WORDS);
        let mut metadata = with(metadata, "pre", text("llama-bpe"));
        for_huggingface(&mut metadata).unwrap();
        metadata.entries.insert(NFC.into(), Value::Bool(true));
        for_gguf(&mut metadata, 0).unwrap();
        assert_eq!(metadata.string(PRE).unwrap(), Some("llama-bpe"));
        assert!(bpe::pre(&metadata).unwrap().nfc);
    }

    #[test]
    fn every_row_gets_a_token() {
        let mut metadata = small(&[("", 5), ("x!", 1)]);
        for_gguf(&mut metadata, 260).unwrap();
        let tokens = metadata.array(TOKENS).unwrap().unwrap();
        assert_eq!(tokens[256..], ["[PAD256]", "x!", "[PAD258]", "[PAD259]"].map(text));
        assert_eq!(metadata.array(TYPES).unwrap().unwrap()[258..], [UNUSED, UNUSED]);
        let mut whole = METADATA.clone();
        for_gguf(&mut whole, 4096).unwrap();
        assert_eq!(whole.entries, METADATA.entries);
    }

    #[test]
    fn what_merges_or_scores_cannot_say_is_refused() {
        let tied = vocabulary(&[("a", 1, 0.0), ("b", 1, 0.0), ("ab", 1, -1.0), ("ba", 1, -1.0)]);
        let e = for_huggingface(&mut tied.clone()).unwrap_err();
        assert!(e.what.contains("'ab' and 'ba'") && e.kind == Kind::Unsupported, "{e}");
        let fewer = with(tied, "remove_extra_whitespaces", Value::Bool(true));
        assert!(for_huggingface(&mut fewer.clone()).unwrap_err().to_string().contains("remove_extra_whitespaces"));
        let mut unmade = vocabulary(&[("a", 1, 0.0), ("b", 1, 0.0), ("ab", 1, -1.0)]);
        for_huggingface(&mut unmade).unwrap();
        unmade.entries.insert(MERGES.into(), Value::Array(Vec::new()));
        assert!(for_gguf(&mut unmade, 0).unwrap_err().what.contains("no merge makes 'ab'"));
        let other = with(small(&[]), "model", text("bert"));
        assert_eq!(for_huggingface(&mut other.clone()).unwrap_err().kind, Kind::Unsupported);
    }

    proptest! {
        /// Scores, the merges they mean, and the scores these mean: the same ids.
        #[test]
        fn scores_and_merges_say_the_same(
            words in prop::collection::btree_set("[ab\u{2581}]{2,4}", 0..12), seed in 0usize..64, space in any::<bool>(),
            texts in prop::collection::vec("[ab c]{0,24}", 8),
        ) {
            let words: Vec<String> = words.into_iter().collect();
            let score = |i: usize| -(((i * 7 + seed) % 61) as f64) - i as f64 / 64.0;
            let mut extra = vec![("\u{2581}", 1, -99.0), ("a", 1, -98.0), ("b", 1, -97.0)];
            extra.extend(words.iter().enumerate().map(|(i, w)| (w.as_str(), 1, score(i))));
            let scored = with(vocabulary(&extra), "add_space_prefix", Value::Bool(space));
            let mut merged = scored.clone();
            for_huggingface(&mut merged).unwrap();
            let mut again = merged.clone();
            for_gguf(&mut again, 300).unwrap();
            // As llama.cpp reads it.
            [MERGES, PREFIX].iter().for_each(|key| drop(again.entries.remove(*key)));
            let [a, b, c] = [&scored, &merged, &again].map(|m| Tokenizer::from_metadata(m).unwrap());
            for text in &texts {
                let want = a.encode_raw(text).unwrap();
                prop_assert_eq!(&b.encode_raw(text).unwrap(), &want, "merges, {:?}", text);
                prop_assert_eq!(&c.encode_raw(text).unwrap(), &want, "scores, {:?}", text);
            }
        }
    }
}
