//! Characters that a vocabulary has no token for. A byte-level tokenizer spells them byte by byte: nothing is lost, but
//! such text costs several tokens a character, and the model has hardly seen it.

use super::Tokenizer;
use crate::error::quoted;

/// Of the letters of a prompt, one in so many spelled byte by byte is worth a word. A rare sign in a text is not.
const SHARE: usize = 4;
/// Letters that are named.
const NAMED: usize = 8;

/// Bytes of a text that are looked at: more says nothing more.
const LOOKED_AT: usize = 4096;

/// What to tell the user about a text whose characters fall to single bytes; `None` for ordinary text.
//= F-JID-272
pub(crate) fn hint(tokenizer: &Tokenizer, text: &str) -> Option<String> {
    let ids = tokenizer.encode_text(&text[..text.floor_char_boundary(LOOKED_AT)]).ok()?;
    let (mut letters, mut fallen, mut tokens) = (0_usize, 0_usize, 0_usize);
    let mut named = String::new();
    let mut pending: Vec<u8> = Vec::new();
    for bytes in ids.into_iter().filter_map(|id| tokenizer.token_bytes(id)) {
        // Every byte that continues no character begins one.
        letters += bytes.iter().filter(|&&b| b & 0xc0 != 0x80).count();
        match bytes {
            [byte] if !byte.is_ascii() => pending.push(*byte),
            _ => pending.clear(),
        }
        if let Some(letter) = std::str::from_utf8(&pending).ok().and_then(|text| text.chars().next()) {
            fallen += 1;
            tokens += pending.len();
            pending.clear();
            if named.chars().count() < NAMED && !named.contains(letter) {
                named.push(letter);
            }
        }
    }
    (fallen * SHARE >= letters && fallen > 0).then(|| {
        format!(
            "the model has no tokens for {fallen} of {letters} characters, such as {}: they take {tokens} tokens, byte \
             by byte; hint: a model that was trained on this script answers better and faster",
            quoted(&named)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::TOKENIZER;
    use super::*;

    fn of(text: &str) -> Option<String> {
        hint(&TOKENIZER, text)
    }

    #[test]
    fn ordinary_text_gets_no_hint_and_runes_do() {
        assert_eq!(of(""), None);
        assert_eq!(of("What is 2+2? Grüße, naïve café: all of this is ordinary."), None);
        assert_eq!(of("One rare sign in a long text is no reason to speak: ᚠ"), None);
        let said = of("ᚠᚢᚦᚨᚱᚲ").unwrap();
        assert!(said.contains("6 of 6 characters") && said.contains("'ᚠᚢᚦᚨᚱᚲ'"), "{said}");
        assert!(said.contains("18 tokens"), "{said}");
    }
}
