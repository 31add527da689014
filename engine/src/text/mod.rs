//! Floor 2: text to token ids and back, by the file's own tokenizer and chat template.
//!
//! Knows [`Metadata`]; knows no file format, no tensor and no user. A tokenizer model is one file here and one entry
//! of [`ALL`]. What came from the template and what came from a user stay apart until they are ids: control tokens are
//! recognised in [`Segment::Scaffold`] only, so nobody can type `<|im_end|>` and end a turn.

mod bpe;
pub(crate) mod exchange;
mod pretokenizer;
pub(crate) mod rare;
mod sentencepiece;
mod special;
mod stop;
mod template;
#[cfg(test)]
pub(crate) mod testing;
mod tokenizer;
mod utf8;
mod vocabulary;
mod wordpiece;

use crate::error::{Error, Kind, Result, quoted};
use crate::file::Metadata;

pub use stop::StopFinder;
pub(crate) use template::strftime::strftime;
pub use template::{ChatTemplate, Message};
pub use tokenizer::Tokenizer;
pub use utf8::Utf8Stream;

use vocabulary::Vocabulary;

/// A stretch of a prompt, by whose word it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// From the chat template, or typed at a raw door: control tokens are recognised.
    Scaffold(String),
    /// From a user, a tool or a document: the text of a control token is ordinary text.
    Content(String),
}

/// A tokenizer model, as `tokenizer.ggml.model` names it.
pub struct Model {
    /// The name in the file.
    pub name: &'static str,
    /// Makes the encoder from what the file says.
    build: fn(&Metadata, &Vocabulary) -> Result<Encoding>,
    /// The bytes that an ordinary token stands for, from its spelling in the vocabulary.
    bytes: fn(&str) -> Vec<u8>,
    /// Ids that files of this model need not name.
    defaults: Defaults,
}

/// Every tokenizer model.
pub static ALL: &[&Model] = &[&bpe::MODEL, &bpe::GEMMA4, &sentencepiece::MODEL, &wordpiece::MODEL];

/// The ids of a model's original vocabulary, by what they are for. They hold where a file is silent.
#[derive(Clone, Copy)]
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    separator: Option<u32>,
}

impl Defaults {
    const NONE: Defaults = Defaults { bos: None, eos: None, unknown: None, separator: None };
}

/// What a [`Model`] makes.
struct Encoding {
    encoder: Box<dyn Encoder>,
    /// Whether a prompt begins with BOS where the file does not say.
    add_bos: bool,
    /// What a prompt ends with. Not `tokenizer.ggml.add_eos_token`: a prompt that is to be continued has no end.
    closing: Option<u32>,
    /// Whether text is encoded with a space in front that nobody wrote.
    space_prefix: bool,
}

/// Ordinary text to ids. Control tokens were taken out before.
trait Encoder: Send + Sync {
    /// Appends the ids of `text`. `first` says that nothing stands before it, no control token either.
    fn encode(&self, text: &str, first: bool, ids: &mut Vec<u32>) -> Result<()>;
}

/// A character that the vocabulary has no tokens for. A prompt with holes is not the user's prompt.
fn unspellable(lost: char) -> Error {
    let what = format!("the vocabulary has no token for {}", quoted(&lost.to_string()));
    Error::new(Kind::Unsupported, what).hint("leave it out, or use a model that was trained on such text")
}
