//! Bytes in, text out, while they are still arriving. Tokens end in the middle of characters; what is printed must not.
//!
//! Everything pushed and finished, in whatever pieces, is exactly `String::from_utf8_lossy` of the whole.

use std::str;

/// A decoder that has seen the beginning of a text.
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    /// The beginning of a character whose rest has not come yet: at most three bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// At the beginning of a text.
    pub fn new() -> Utf8Stream {
        Utf8Stream::default()
    }

    /// Takes bytes, gives every character they complete. A byte that can begin or continue no character becomes U+FFFD.
    //= F-PIPE-181
    //= F-MATH-146
    //= F-MATH-147
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut out = String::with_capacity(self.pending.len());
        let mut rest = &self.pending[..];
        loop {
            let error = match str::from_utf8(rest) {
                Ok(valid) => {
                    out.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            out.push_str(str::from_utf8(valid).unwrap_or_default());
            match error.error_len() {
                Some(invalid) => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[invalid..];
                }
                // The text ends inside a character: wait for the rest of it.
                None => {
                    rest = after;
                    break;
                }
            }
        }
        let kept = self.pending.len() - rest.len();
        self.pending.drain(..kept);
        out
    }

    /// The end of the text: a character that never came whole becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let cut_off = !self.pending.is_empty();
        self.pending.clear();
        if cut_off { char::REPLACEMENT_CHARACTER.to_string() } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let mut stream = Utf8Stream::new();
        let crab = "🦀".as_bytes();
        assert_eq!(stream.push(&crab[..3]), "");
        assert_eq!(stream.push(&crab[3..]), "🦀");
        assert_eq!(stream.push(&crab[..2]), "");
        assert_eq!(stream.push(b"a"), "\u{fffd}a");
        assert_eq!(stream.push(&crab[..1]), "");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.finish(), "");
    }

    /// Bytes that are nearly UTF-8: whole characters, halves of them, surrogates, overlong forms and noise.
    fn nearly_utf8() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            (any::<char>(), 0usize..4).prop_map(|(c, n)| c.to_string().into_bytes()[..n.min(c.len_utf8())].to_vec()),
            prop::collection::vec(any::<u8>(), 0..4),
            Just(vec![0xed, 0xa0, 0x80]),
            Just(vec![0xf0, 0x80, 0x80, 0x80]),
            Just(vec![0xf4, 0x90, 0x80]),
        ];
        prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_cutting_gives_from_utf8_lossy(bytes in nearly_utf8(), cuts in prop::collection::vec(0usize..80, 0..12)) {
            let mut stream = Utf8Stream::new();
            let mut out = String::new();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                out += &stream.push(&bytes[pair[0]..pair[1]]);
                prop_assert!(stream.pending.len() < 4);
            }
            out += &stream.finish();
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }
    }
}
