//! The tokenizer of a model file: prompts to ids, ids to bytes.
//!
//! Control tokens are taken out of the scaffold first; the text between two of them is encoded in one piece, wherever
//! it came from, so that a well-behaved conversation has exactly the ids that the reference gives its rendered text.

use std::ops::Range;

use super::special::Specials;
use super::vocabulary::Vocabulary;
use super::{ALL, Encoder, Segment};
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
        let vocabulary = Vocabulary::from_metadata(metadata, model.bytes)?;
        let specials = Specials::new(vocabulary.specials()?);
        let encoding = (model.build)(metadata, &vocabulary)?;
        let add_bos = vocabulary.add_bos(metadata, encoding.add_bos)?;
        Ok(Tokenizer { vocabulary, specials, encoder: encoding.encoder, add_bos })
    }

    /// A whole prompt. Begins with BOS if the model wants it, and with one only.
    //= F-GGUF-050
    pub fn encode(&self, prompt: &[Segment]) -> Result<Vec<u32>> {
        let (text, scaffold) = joined(prompt);
        let mut ids = self.ids(&text, &scaffold)?;
        if let Some(bos) = self.vocabulary.bos
            && self.add_bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
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
            let what = format!("the prompt has {} bytes; at most {} are supported", text.len(), limits::PROMPT_BYTES_MAX);
            return Err(Error::new(Kind::TooLarge, what));
        }
        let in_scaffold = |token: &Range<usize>| {
            let here = scaffold.partition_point(|s| s.end < token.end);
            scaffold.get(here).is_some_and(|s| s.start <= token.start)
        };
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut from = 0;
        while let Some((token, id)) = self.specials.next(text, from, in_scaffold) {
            self.encoder.encode(&text[from..token.start], &mut ids)?;
            ids.push(id);
            from = token.end;
        }
        self.encoder.encode(&text[from..], &mut ids)?;
        Ok(ids)
    }

    /// The bytes that these tokens print, UTF-8 only where the tokens end with a character.
    //= F-PIPE-166
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().filter_map(|&id| self.token_bytes(id)).flatten().copied().collect()
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
