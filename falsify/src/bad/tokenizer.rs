//! Families 45 to 49: vocabularies, merges, and the ids of markers. A tokenizer model is one table here.

use std::io;

use engine::Kind::{Malformed, TooLarge, Unsupported};

use super::At::{Field, Key};
use super::{Bad, Row, STRING, array, files, tiny};
use crate::forge::gguf::{Value, Writer};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const PAD: &str = "tokenizer.ggml.padding_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";

const BYTE_PAIRS: &[Row] = &[
    ("45: no tokens", Malformed, Key(TOKENS), |w| w.remove(TOKENS)),
    ("45: an empty vocabulary", Malformed, Key(TOKENS), |w| w.replace(TOKENS, Value::strings([""; 0]))),
    ("45: a vocabulary of no arrays", Malformed, Key(TOKENS), |w| w.replace(TOKENS, Value::Array(9, vec![]))),
    ("45: a vocabulary that is one string", Malformed, Key(TOKENS), |w| w.replace(TOKENS, "a b c")),
    ("45: tokens that are numbers", Malformed, Key(TOKENS), |w| w.replace(TOKENS, Value::i32s(0..12))),
    ("45: a token twice", Malformed, Key(TOKENS), |w| word(w, b"ab")),
    ("45: a control token twice", Malformed, Key(TOKENS), |w| word(w, b"<|im_end|>")),
    ("45: a token of a megabyte", TooLarge, Key(TOKENS), |w| word(w, &vec![b'x'; 1 << 20])),
    ("45: a token that is not UTF-8", Malformed, Key(TOKENS), |w| word(w, b"ok\xff\xfe")),
    ("45: a control token without a name", Malformed, Key(TOKENS), |w| typed(w, b"", 3)),
    ("45: a control token of a page", Malformed, Key(TOKENS), |w| typed(w, &[b'x'; 4096], 3)),
    ("46: a byte called <0xZZ>", Malformed, Key(TOKENS), |w| typed(w, b"<0xZZ>", 6)),
    ("46: a byte called <0x-1>", Malformed, Key(TOKENS), |w| typed(w, b"<0x-1>", 6)),
    ("46: a byte called <0x+f>", Malformed, Key(TOKENS), |w| typed(w, b"<0x+f>", 6)),
    ("46: a byte called <0x100>", Malformed, Key(TOKENS), |w| typed(w, b"<0x100>", 6)),
    ("46: a byte called <0x1>", Malformed, Key(TOKENS), |w| typed(w, b"<0x1>", 6)),
    ("46: a byte called a", Malformed, Key(TOKENS), |w| typed(w, b"x", 6)),
    ("47: no merges", Malformed, Key(MERGES), |w| w.remove(MERGES)),
    ("47: merges that are numbers", Malformed, Key(MERGES), |w| w.replace(MERGES, Value::i32s([1, 2]))),
    ("47: a merge of an unknown token", Malformed, Key(MERGES), |w| merge(w, b"q a")),
    ("47: a merge into no token", Malformed, Key(MERGES), |w| merge(w, b"b a")),
    ("47: a merge with itself", Malformed, Key(MERGES), |w| merge(w, b"abs abs")),
    ("47: a merge twice", Malformed, Key(MERGES), |w| merge(w, b"a b")),
    ("47: a merge without a space", Malformed, Key(MERGES), |w| merge(w, b"ab")),
    ("47: a merge of three", Malformed, Key(MERGES), |w| merge(w, b"a b s")),
    ("47: a merge with nothing", Malformed, Key(MERGES), |w| merge(w, b"a ")),
    ("47: a merge that is not UTF-8", Malformed, Key(MERGES), |w| merge(w, b"a \xff")),
    ("47: ten million merges", TooLarge, Field("tokenizer.ggml.merges/value", 4), |w| {
        w.entry(MERGES).value = array(STRING, 10_000_000, &vec![0; 80_000_000]);
    }),
    ("47: four million merges of nothing", Malformed, Key(MERGES), |w| {
        w.entry(MERGES).value = array(STRING, 4_000_000, &vec![0; 32_000_000]);
    }),
    ("48: fewer types than tokens", Malformed, Key(TYPES), |w| w.replace(TYPES, Value::i32s([1; 11]))),
    ("48: a type of 7", Malformed, Key(TYPES), |w| w.replace(TYPES, Value::i32s([7; 12]))),
    ("48: a type of -1", Malformed, Key(TYPES), |w| w.replace(TYPES, Value::i32s([-1; 12]))),
    ("48: types that are words", Malformed, Key(TYPES), |w| w.replace(TYPES, Value::strings(["1"; 12]))),
    ("49: BOS outside the vocabulary", Malformed, Key(BOS), |w| w.replace(BOS, 12u32)),
    ("49: EOS outside the vocabulary", Malformed, Key(EOS), |w| w.replace(EOS, u32::MAX)),
    ("49: padding outside the vocabulary", Malformed, Key(PAD), |w| w.replace(PAD, Value::U64(1 << 40))),
    ("49: the unknown token outside the vocabulary", Malformed, Key(UNKNOWN), |w| w.replace(UNKNOWN, 12u32)),
    ("49: BOS -1", Malformed, Key(BOS), |w| w.replace(BOS, Value::I32(-1))),
    ("49: EOS by name", Malformed, Key(EOS), |w| w.replace(EOS, "<|im_end|>")),
    ("49: BOS wanted, and there is none", Malformed, Key(BOS), |w| {
        w.remove(BOS);
        w.replace("tokenizer.ggml.add_bos_token", true);
    }),
    ("49: no tokenizer model", Malformed, Key(MODEL), |w| w.remove(MODEL)),
    ("49: an unknown tokenizer model", Unsupported, Key(MODEL), |w| w.replace(MODEL, "nobody's")),
    ("49: a tokenizer model that is a number", Malformed, Key(MODEL), |w| w.replace(MODEL, 1u32)),
    ("49: no pre-tokeniser", Unsupported, Key(PRE), |w| w.remove(PRE)),
    ("49: an unknown pre-tokeniser", Unsupported, Key(PRE), |w| w.replace(PRE, "nobody's")),
];

/// The strings of an array of them, as they stand in the file.
fn strings(value: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &value[12..];
    let mut all = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk::<8>() {
        let (text, after) = after.split_at(u64::from_le_bytes(*len) as usize);
        all.push(text.to_vec());
        rest = after;
    }
    all
}

/// The last token has another name.
fn word(w: &mut Writer, name: &[u8]) {
    let mut tokens = strings(&w.entry(TOKENS).value);
    tokens.pop();
    tokens.push(name.to_vec());
    // No merge makes that token any more.
    let mut merges = strings(&w.entry(MERGES).value);
    merges.pop();
    w.replace(TOKENS, Value::strings(tokens));
    w.replace(MERGES, Value::strings(merges));
}

/// The last token has another name and this type.
fn typed(w: &mut Writer, name: &[u8], kind: i32) {
    word(w, name);
    let types = [3, 3, 3].into_iter().chain([1; 8]).chain([kind]);
    w.replace(TYPES, Value::i32s(types));
}

/// One merge more.
fn merge(w: &mut Writer, rule: &[u8]) {
    let mut merges = strings(&w.entry(MERGES).value);
    merges.push(rule.to_vec());
    w.replace(MERGES, Value::strings(merges));
}

/// One file for each.
pub fn all() -> io::Result<Vec<Bad>> {
    files("tokenizer", tiny, BYTE_PAIRS)
}
