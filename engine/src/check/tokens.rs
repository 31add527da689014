//! Stage 1: text to ids and back.
//!
//! `decode(encode(text))` is the text, for tokenizers that keep every byte; for those that do not (WordPiece lowers and
//! splits), what they decode to must encode to the same ids. The reverse law, `encode(decode(ids)) = ids`, holds for ids
//! that encoding made and for no others: many id sequences are not the shortest way to write their text.

use super::{Fault, Notes, TOKENIZER};
use crate::session::Loaded;

/// Words, numbers, code, blanks, and scripts of one to four bytes a character.
const CORPUS: &[&str] = &[
    "The sun rises in the east, and it sets in the west.",
    "0 1 12 123 1234 3.14159 -7 1e10 50%",
    "fn main() {\n    let x = [1, 2, 3];\n\tprintln!(\"{x:?}\");\n}\n",
    "line one\r\nline two\n\n\nline  five   with    blanks",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "Grüße, señor — l'été à Łódź; Добрый день; Καλημέρα; שלום; مرحبا; नमस्ते",
    "東京は日本の首都です。 서울 北京 🚀🌸👩‍🔬",
];

const HINT: &str = "vocabulary, merges or pre-tokeniser are not those the model was trained with";

pub fn check(loaded: &Loaded, notes: &mut Notes) {
    let tokenizer = &loaded.tokenizer;
    let vocabulary = tokenizer.vocab_size() as u32;
    let mut count = 0;
    for text in CORPUS {
        let shown = || crate::error::quoted(text);
        let ids = match tokenizer.encode_text(text) {
            Ok(ids) => ids,
            Err(e) => return notes.fail(TOKENIZER, Fault::new(format!("{} does not encode: {e}", shown()), HINT)),
        };
        if let Some(id) = ids.iter().find(|id| **id >= vocabulary) {
            let what = format!("{} becomes id {id} of a vocabulary of {vocabulary}", shown());
            return notes.fail(TOKENIZER, Fault::new(what, HINT));
        }
        count += ids.len();
        let back = String::from_utf8_lossy(&tokenizer.decode(&ids)).into_owned();
        // A tokenizer that loses something loses it once: the second time round nothing changes any more.
        let again = tokenizer.encode_text(&back).unwrap_or_default();
        if back != *text && !(lossy(loaded) && again == ids) {
            let back = crate::error::quoted(&back);
            return notes.fail(TOKENIZER, Fault::new(format!("{} comes back as {back}", shown()), HINT));
        }
        if again != ids {
            let what = format!("the {} ids of {} become {} others on the way back", ids.len(), shown(), again.len());
            return notes.fail(TOKENIZER, Fault::new(what, HINT));
        }
    }
    let ends = (0..vocabulary).filter(|id| tokenizer.is_end(*id)).count();
    notes.hold(TOKENIZER, ends > 0, || {
        Fault::new("no token ends an answer", "tokenizer.ggml.eos_token_id is missing or wrong")
    });
    //= F-CHECK-212
    notes.say(TOKENIZER, format!("{} texts of {count} tokens come back as they were; {ends} end tokens", CORPUS.len()));
}

/// Whether this tokenizer is one that does not keep every byte: not every byte has a token.
fn lossy(loaded: &Loaded) -> bool {
    let t = &loaded.tokenizer;
    let bytes: Vec<&[u8]> = (0..t.vocab_size() as u32).filter_map(|id| t.token_bytes(id)).collect();
    !(b'!'..=b'~').all(|b| bytes.contains(&[b].as_slice()))
}
