//! The tokenizer of a model file: prompts to ids, ids to bytes.
//!
//! Control tokens are taken out of the scaffold first; the text between two of them is encoded in one piece, wherever
//! it came from, so that a well-behaved conversation has exactly the ids that the reference gives its rendered text.

use std::ops::Range;

use super::special::Specials;
use super::vocabulary::Vocabulary;
use super::{ALL, Encoder, Encoding, Segment};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::{Metadata, missing};
use crate::limits;

const MODEL: &str = "tokenizer.ggml.model";

/// A model file's own tokenizer.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    specials: Specials,
    encoder: Box<dyn Encoder>,
    add_bos: bool,
    /// What a prompt ends with.
    closing: Option<u32>,
    /// Whether text is encoded with a space in front that nobody wrote.
    space_prefix: bool,
}

impl Tokenizer {
    /// Reads and checks the tokenizer that a file carries.
    //= F-GGUF-049
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer> {
        let name = metadata.string(MODEL)?.ok_or_else(|| missing(MODEL))?;
        let model = ALL.iter().find(|m| m.name == name).ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|m| m.name).collect();
            Error::new(Kind::Unsupported, format!("unknown tokenizer model {}", quoted(name)))
                .at(Place::Key(MODEL.into()))
                .hint(format!("supported: {}", names.join(", ")))
        })?;
        let vocabulary = Vocabulary::from_metadata(metadata, model.bytes, model.defaults)?;
        let specials = Specials::new(vocabulary.specials()?);
        let encoding = (model.build)(metadata, &vocabulary)?;
        let add_bos = vocabulary.add_bos(metadata, encoding.add_bos)?;
        let Encoding { encoder, closing, space_prefix, .. } = encoding;
        Ok(Tokenizer { vocabulary, specials, encoder, add_bos, closing, space_prefix })
    }

    /// A whole prompt. Begins with BOS if the model wants it, and with one only.
    //= F-GGUF-050
    pub fn encode(&self, prompt: &[Segment]) -> Result<Vec<u32>> {
        let (text, scaffold) = joined(prompt);
        let mut ids = self.ids(&text, &scaffold)?;
        //= F-PIPE-167
        if let Some(bos) = self.vocabulary.bos
            && self.add_bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        ids.extend(self.closing.filter(|closing| ids.last() != Some(closing)));
        Ok(ids)
    }

    /// A whole prompt whose control tokens are meant: raw completion, fill-in-the-middle.
    pub fn encode_raw(&self, prompt: &str) -> Result<Vec<u32>> {
        self.encode(&[Segment::Scaffold(prompt.into())])
    }

    /// A piece of text that is nothing but text: no control tokens, no BOS.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, &[])
    }

    /// The ids of a text of which `scaffold` (in order, apart) may hold control tokens.
    fn ids(&self, text: &str, scaffold: &[Range<usize>]) -> Result<Vec<u32>> {
        if text.len() > limits::PROMPT_BYTES_MAX {
            let what =
                format!("the prompt has {} bytes; at most {} are supported", text.len(), limits::PROMPT_BYTES_MAX);
            return Err(Error::new(Kind::TooLarge, what));
        }
        //= F-MATH-158
        let in_scaffold = |token: &Range<usize>| {
            let here = scaffold.partition_point(|s| s.end < token.end);
            scaffold.get(here).is_some_and(|s| s.start <= token.start)
        };
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut from = 0;
        while let Some((token, id)) = self.specials.next(text, from, in_scaffold) {
            self.encoder.encode(&text[from..token.start], from == 0, &mut ids)?;
            ids.push(id);
            from = text.len() - self.vocabulary.after(id, &text[token.end..]).len();
        }
        self.encoder.encode(&text[from..], from == 0, &mut ids)?;
        Ok(ids)
    }

    /// The text that has these tokens: what they print, without the space that encoding put in front. UTF-8 only where
    /// the tokens end with a character. An answer is the rest of a text and keeps its first space, here as in llama.cpp:
    /// see [`Tokenizer::token_bytes`].
    //= F-PIPE-166
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = ids.iter().filter_map(|&id| self.token_bytes(id)).flatten().copied().collect();
        if self.space_prefix && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        bytes
    }

    /// The bytes that one token prints; a control token prints none. `None` if there is no such token.
    //= F-PIPE-181
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.token_bytes(id)
    }

    /// The token's name in the file: `<|im_end|>`, or `Ġhello` in the vocabulary's own spelling.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocabulary.text(id)
    }

    /// The control or user-defined token of this name.
    pub fn special(&self, text: &str) -> Option<u32> {
        self.specials.id_of(text)
    }

    /// The names of all control tokens.
    pub fn controls(&self) -> impl Iterator<Item = &str> {
        self.specials.controls()
    }

    /// How many tokens there are; ids are below.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// Beginning of text.
    pub fn bos(&self) -> Option<u32> {
        self.vocabulary.bos
    }

    /// End of text. An answer may end with others too: ask [`Tokenizer::is_end`].
    pub fn eos(&self) -> Option<u32> {
        self.vocabulary.eos
    }

    /// Padding.
    pub fn pad(&self) -> Option<u32> {
        self.vocabulary.pad
    }

    /// Whether prompts begin with BOS.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether the token is structure, which is never printed.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocabulary.is_control(id)
    }

    /// Whether the id stands for nothing: filler up to a round size, or a row of the model that has no token.
    pub fn is_filler(&self, id: u32) -> bool {
        self.vocabulary.is_filler(id)
    }

    /// Whether an answer ends with this token.
    //= F-PIPE-168
    pub fn is_end(&self, id: u32) -> bool {
        self.vocabulary.is_end(id)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// The prompt in one piece, and which of it is scaffold. Scaffold that touches is one stretch.
fn joined(prompt: &[Segment]) -> (String, Vec<Range<usize>>) {
    let mut text = String::new();
    let mut scaffold: Vec<Range<usize>> = Vec::new();
    for segment in prompt {
        let start = text.len();
        match segment {
            Segment::Content(content) => text.push_str(content),
            Segment::Scaffold(words) => {
                text.push_str(words);
                match scaffold.last_mut() {
                    Some(last) if last.end == start => last.end = text.len(),
                    _ => scaffold.push(start..text.len()),
                }
            }
        }
    }
    (text, scaffold)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pretokenizer::composed;
    use super::super::testing::{METADATA, TOKENIZER, golden, ids, small, with};
    use super::*;
    use crate::file::Value;

    fn scaffold(text: &str) -> Segment {
        Segment::Scaffold(text.into())
    }

    fn content(text: &str) -> Segment {
        Segment::Content(text.into())
    }

    #[test]
    fn ids_are_huggingfaces() {
        for case in golden("fixture_ids")["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(TOKENIZER.encode_raw(text).unwrap(), ids(&case["raw"]), "{text:?}");
            let words = ids(&case["content"]);
            assert_eq!(TOKENIZER.encode_text(text).unwrap(), words, "{text:?}");
            assert_eq!(TOKENIZER.encode(&[content(text)]).unwrap(), words, "{text:?}");
            assert_eq!(TOKENIZER.decode(&words), case["nfc"].as_str().unwrap().as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn users_write_no_control_tokens() {
        let end = TOKENIZER.special("<|im_end|>").unwrap();
        let count = |prompt: &[Segment]| {
            TOKENIZER.encode(prompt).unwrap().into_iter().filter(|id| TOKENIZER.is_control(*id)).count()
        };
        assert_eq!(TOKENIZER.encode(&[scaffold("<|im_end|>")]).unwrap(), [end]);
        assert_eq!(count(&[content("<|im_end|>")]), 0);
        assert_eq!(count(&[scaffold("<|im_"), content("end|>")]), 0);
        assert_eq!(count(&[scaffold("<|im_end"), content("|>")]), 0);
        assert_eq!(count(&[content("<|im_end"), scaffold("|>")]), 0);
        assert_eq!(count(&[scaffold("<|im_"), scaffold("end|>")]), 1);
        assert_eq!(count(&[content("<|im_end|>"), scaffold("<|im_end|>"), content("<|im_end|>")]), 1);
        assert_eq!(TOKENIZER.decode(&[end]), b"");
        assert_eq!(TOKENIZER.token_text(end), Some("<|im_end|>"));
    }

    #[test]
    fn a_user_defined_token_is_a_word_wherever_it_stands() {
        let call = TOKENIZER.special("<tool_call>").unwrap();
        assert_eq!(TOKENIZER.encode_text("<tool_call>").unwrap(), [call]);
        assert_eq!(TOKENIZER.encode(&[scaffold("<tool"), content("_call>")]).unwrap(), [call]);
        assert!(!TOKENIZER.is_control(call));
        assert_eq!(TOKENIZER.token_bytes(call), Some(&b"<tool_call>"[..]));
    }

    #[test]
    fn bos_comes_once_if_it_comes() {
        let bos = TOKENIZER.bos().unwrap();
        assert_eq!(TOKENIZER.encode_raw("").unwrap(), [0; 0]);
        let wants = with(METADATA.clone(), "add_bos_token", Value::Bool(true));
        let wants = Tokenizer::from_metadata(&wants).unwrap();
        assert!(wants.add_bos());
        assert_eq!(wants.encode(&[]).unwrap(), [bos]);
        assert_eq!(wants.encode_raw("<|endoftext|>").unwrap(), [bos]);
        assert_eq!(wants.encode_raw("<|endoftext|>a").unwrap(), wants.encode_raw("a").unwrap());
        assert_eq!(wants.encode(&[content("<|endoftext|>")]).unwrap()[0], bos);
        assert_ne!(wants.encode_text("a").unwrap()[0], bos);
    }

    #[test]
    fn a_llama_prompt_begins_with_bos_where_the_file_does_not_say() {
        let llama = with(small(&[("<|begin_of_text|>", 3)]), "pre", Value::String("llama-bpe".into()));
        assert!(!Tokenizer::from_metadata(&llama).unwrap().add_bos());
        let llama = with(llama, "bos_token_id", Value::Unsigned(256));
        assert!(Tokenizer::from_metadata(&llama).unwrap().add_bos());
        let never = with(llama, "add_bos_token", Value::Bool(false));
        assert!(!Tokenizer::from_metadata(&never).unwrap().add_bos());
    }

    #[test]
    fn answers_end_by_every_name_an_end_has() {
        let names = |metadata: &Metadata| {
            let tok = Tokenizer::from_metadata(metadata).unwrap();
            let ends = (0..tok.vocab_size() as u32).filter(|id| tok.is_end(*id));
            ends.map(|id| tok.token_text(id).unwrap().to_string()).collect::<Vec<_>>()
        };
        let code = ["<|endoftext|>", "<|im_end|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"];
        assert_eq!(names(&METADATA), code);
        // Ordinary text of that name is text; a marker that nobody typed as control is one all the same.
        assert_eq!(
            names(&small(&[("</s>", 1), ("<|eot_id|>", 1), ("<end_of_turn>", 4)])),
            ["<|eot_id|>", "<end_of_turn>"]
        );
        assert_eq!(names(&small(&[("<|end|>", 3), ("<|return|>", 3), ("<|call|>", 3)])), ["<|return|>", "<|call|>"]);
        assert_eq!(names(&with(small(&[]), "eot_token_id", Value::Unsigned(7))), ["\u{107}"]);
    }

    #[test]
    fn oddities_of_real_files_are_let_pass() {
        let tok =
            Tokenizer::from_metadata(&small(&[("", 1), ("", 5), ("[PAD258]", 4), ("日", 1), ("<0x0A>", 6), ("x", 0)]));
        assert_eq!(tok.unwrap_err().what, "tokens 120 and 261 are both 'x'");
        let tok =
            Tokenizer::from_metadata(&small(&[("", 1), ("", 5), ("[PAD258]", 4), ("日", 1), ("<0x0A>", 6)])).unwrap();
        assert_eq!(
            (256..262).map(|id| tok.token_bytes(id)).collect::<Vec<_>>(),
            [Some(&b""[..]), Some(b""), Some(b""), Some("日".as_bytes()), Some(b"\n"), None]
        );
        assert_eq!(tok.encode_raw("[PAD258]").unwrap().len(), 8);
        // No types: names must do.
        let mut untyped = small(&[("<|im_end|>", 1)]);
        untyped.entries.remove("tokenizer.ggml.token_type");
        assert!(Tokenizer::from_metadata(&untyped).unwrap().is_control(256));
    }

    /// What a file may not say, where the error points, and a word of what it says.
    #[test]
    fn contradictions_are_refused() {
        let text = |s: &str| Value::String(s.into());
        let texts = |s: &[&str]| Value::Array(s.iter().map(|s| text(s)).collect());
        let long = "x".repeat(limits::TOKEN_BYTES_MAX + 1);
        let bytes = || small(&[]);
        let table = [
            (with(bytes(), "model", text("t5")), "model", "'t5'", Kind::Unsupported),
            (with(bytes(), "pre", text("nobody")), "pre", "'nobody'", Kind::Unsupported),
            (with(bytes(), "model", Value::Bool(true)), "model", "a bool", Kind::Malformed),
            (with(bytes(), "tokens", texts(&[])), "tokens", "empty", Kind::Malformed),
            (with(bytes(), "tokens", text("a")), "tokens", "a string", Kind::Malformed),
            (
                with(bytes(), "tokens", Value::Array(vec![Value::RawString(vec![255])])),
                "tokens",
                "UTF-8",
                Kind::Malformed,
            ),
            (small(&[("a\u{1b}", 1), ("a\u{1b}", 1)]), "tokens", "both 'a\\u{1b}'", Kind::Malformed),
            (small(&[(&long, 1)]), "tokens", "65537 bytes", Kind::TooLarge),
            (small(&[("", 3)]), "tokens", "0 bytes", Kind::Malformed),
            (small(&[(&long[..2000], 4)]), "tokens", "2000 bytes", Kind::Malformed),
            (small(&[("a b", 9)]), "token_type", "unknown type 9", Kind::Malformed),
            (with(bytes(), "token_type", texts(&["a"; 256])), "token_type", "not an integer", Kind::Malformed),
            (
                with(bytes(), "token_type", Value::Array(vec![Value::Signed(-1); 256])),
                "token_type",
                "-1",
                Kind::Malformed,
            ),
            (
                with(bytes(), "token_type", Value::Array(vec![Value::Unsigned(1); 255])),
                "token_type",
                "255 types",
                Kind::Malformed,
            ),
            (with(bytes(), "merges", texts(&["ab"])), "merges", "merge 0 is not two tokens", Kind::Malformed),
            (with(bytes(), "merges", texts(&["a b c"])), "merges", "not two tokens", Kind::Malformed),
            (with(bytes(), "merges", texts(&[" a"])), "merges", "not two tokens", Kind::Malformed),
            (with(bytes(), "merges", texts(&["aa bb"])), "merges", "makes 'aabb'", Kind::Malformed),
            // Longer than every word, though not than every token.
            (with(small(&[("<|control|>", 3)]), "merges", texts(&["Ġ Ġ"])), "merges", "makes 'ĠĠ'", Kind::Malformed),
            (with(bytes(), "merges", texts(&["a b"])), "merges", "`ab` out of vocabulary", Kind::Malformed),
            (with(small(&[("ab", 1)]), "merges", texts(&["a b", "a b"])), "merges", "merge 1 repeats", Kind::Malformed),
            (with(bytes(), "merges", Value::Array(vec![Value::Bool(true)])), "merges", "a bool", Kind::Malformed),
            (with(bytes(), "eos_token_id", Value::Unsigned(256)), "eos_token_id", "token 256", Kind::Malformed),
            (with(bytes(), "bos_token_id", Value::Unsigned(u64::MAX)), "bos_token_id", "256 tokens", Kind::Malformed),
            (with(bytes(), "padding_token_id", Value::Signed(-1)), "padding_token_id", "non-negative", Kind::Malformed),
            (with(bytes(), "add_bos_token", Value::Bool(true)), "bos_token_id", "missing", Kind::Malformed),
        ];
        for (metadata, key, word, kind) in table {
            let error = Tokenizer::from_metadata(&metadata).unwrap_err();
            assert_eq!(error.at, Some(Place::Key(format!("tokenizer.ggml.{key}"))), "{error}");
            assert!(error.what.contains(word) && error.kind == kind, "{error:?} lacks {word}");
        }
        for spelling in ["<0xZZ>", "<0x-1>", "<0x+f>", "<0x100>", "<0x>", "0x0A"] {
            assert!(Tokenizer::from_metadata(&small(&[(spelling, 6)])).is_err(), "{spelling}");
        }
        for key in ["model", "pre", "tokens", "merges"] {
            let mut without = bytes();
            without.entries.remove(&format!("tokenizer.ggml.{key}"));
            let error = Tokenizer::from_metadata(&without).unwrap_err();
            assert_eq!(error.at, Some(Place::Key(format!("tokenizer.ggml.{key}"))));
        }
    }

    #[test]
    fn what_the_vocabulary_cannot_spell_is_an_error_not_a_hole() {
        let mut metadata = small(&[]);
        for key in ["tokens", "token_type"] {
            if let Some(Value::Array(list)) = metadata.entries.get_mut(&format!("tokenizer.ggml.{key}")) {
                list.remove(0xf0);
            }
        }
        let tok = Tokenizer::from_metadata(&metadata).unwrap();
        assert_eq!(tok.decode(&tok.encode_text("né").unwrap()), "né".as_bytes());
        let error = tok.encode_text("a 🦀").unwrap_err();
        assert_eq!(error.what, "the vocabulary has no token for '🦀'");
        assert!(error.hint.is_some());
    }

    /// Inputs that make others slow. In a debug build, so the sizes are modest; each is still one enormous word.
    #[test]
    fn degenerate_texts_go_through() {
        for piece in ["a", " ", "\n", "\u{301}", "e\u{301}", "'", " \n", "<|"] {
            let text = piece.repeat(150_000 / piece.len());
            let ids = TOKENIZER.encode_text(&text).unwrap();
            assert_eq!(TOKENIZER.decode(&ids), composed(&text).as_bytes(), "{piece:?}");
        }
        let huge = "x".repeat(limits::PROMPT_BYTES_MAX + 1);
        assert_eq!(TOKENIZER.encode_raw(&huge).unwrap_err().kind, Kind::TooLarge);
    }

    /// Text with whole and broken control tokens in it.
    fn risky() -> impl Strategy<Value = String> {
        let piece =
            prop_oneof!["\\PC{0,6}", "[<|im_end>\n ]{0,6}", Just("<|im_end|>".to_string()), Just("<|".to_string())];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn decoding_gives_the_text_back(text in risky()) {
            let ids = TOKENIZER.encode_text(&text).unwrap();
            prop_assert_eq!(TOKENIZER.decode(&ids), composed(&text).to_string().into_bytes());
            prop_assert!(ids.iter().all(|id| !TOKENIZER.is_control(*id)));
        }

        /// Where a text is cut between scaffold and content changes nothing, if nobody writes control tokens.
        #[test]
        fn text_between_control_tokens_is_one_text(parts in prop::collection::vec(("[a-z <>|'\n1é]{0,8}", any::<bool>()), 0..6)) {
            let segment = |(text, ours): &(String, bool)| if *ours { scaffold(text) } else { content(text) };
            let cut: Vec<Segment> = parts.iter().map(segment).collect();
            let whole: String = parts.into_iter().map(|(text, _)| text).collect();
            prop_assert_eq!(TOKENIZER.encode(&cut).unwrap(), TOKENIZER.encode_raw(&whole).unwrap());
        }

        /// As many control tokens as the scaffold has by itself, whatever users write around.
        #[test]
        fn content_adds_no_control_token(parts in prop::collection::vec((risky(), risky()), 0..4)) {
            let controls = |prompt: &[Segment]| {
                let ids = TOKENIZER.encode(prompt).unwrap();
                ids.into_iter().filter(|id| TOKENIZER.is_control(*id)).collect::<Vec<_>>()
            };
            let mixed: Vec<Segment> = parts.iter().flat_map(|(a, b)| [scaffold(a), content(&format!("{b}."))]).collect();
            let alone: Vec<u32> = parts.iter().flat_map(|(a, _)| controls(&[scaffold(a)])).collect();
            prop_assert_eq!(controls(&mixed), alone);
        }
    }
}
