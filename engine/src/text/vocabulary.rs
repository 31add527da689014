//! The vocabulary of a model file: what each token is called, what it is for, which bytes it stands for.
//!
//! Every number and every text is checked here, once. Knows nothing of how text is split or templates are filled.
//! Where files in the wild are merely odd, this is as tolerant as llama.cpp; where they contradict themselves, it
//! refuses.

use std::collections::{BTreeSet, HashMap};

use super::Defaults;
use super::special::Special;
use crate::error::{Error, Kind as ErrorKind, Place, Result, quoted};
use crate::file::{Metadata, Value, missing};
use crate::limits;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const BOS: &str = "tokenizer.ggml.bos_token_id";

/// What a token is for, as `tokenizer.ggml.token_type` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of text.
    Normal = 1,
    /// Stands for what the vocabulary cannot spell.
    Unknown = 2,
    /// Structure (`<|im_start|>`): never comes from a user's text, never printed.
    Control = 3,
    /// A word that is matched whole before anything else, wherever it stands (`<tool_call>`).
    UserDefined = 4,
    /// Filler up to a round size: neither matched nor printed.
    Unused = 5,
    /// One byte, spelled `<0x0A>`.
    Byte = 6,
}

/// Tokens that end an answer, by their text: files name one end of text, models have several. llama.cpp's list.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // A code model that begins another file has finished this one.
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// C's `isspace`.
const BLANKS: [char; 6] = [' ', '\t', '\n', '\u{b}', '\u{c}', '\r'];

/// Phi-3's tokens that leave the blanks after them alone.
const KEEPS_BLANKS: &[&str] = &["<unk>", "<s>", "<|endoftext|>"];

/// A checked vocabulary.
pub(super) struct Vocabulary {
    texts: Vec<Box<str>>,
    kinds: Vec<Kind>,
    /// The bytes of token `id` are `bytes[ends[id - 1]..ends[id]]`.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Stands for what the vocabulary cannot spell.
    pub unknown: Option<u32>,
    /// Stands between texts and after them (BERT).
    pub separator: Option<u32>,
    /// The token of each byte, where it is spelled `<0x0A>`.
    byte_ids: [Option<u32>; 256],
    /// Whether blanks after a token that is matched whole are no text (Phi-3).
    strips_blanks: bool,
    /// Tokens after which no blank of Unicode is text: `rstrip` of a `tokenizer.json`.
    eaters: BTreeSet<u32>,
    /// Every token after which nothing more comes.
    end_ids: BTreeSet<u32>,
}

impl Vocabulary {
    /// Reads and checks it. `bytes` gives what an ordinary token stands for, from its spelling.
    pub fn from_metadata(metadata: &Metadata, bytes: fn(&str) -> Vec<u8>, defaults: Defaults) -> Result<Vocabulary> {
        let texts = texts(metadata)?;
        let kinds = kinds(metadata, &texts)?;
        let id = |key| id(metadata, key, texts.len());
        // A default counts only where it is what it should be: structure.
        let is_structure = |id: &u32| matches!(kinds.get(*id as usize), Some(Kind::Control | Kind::Unknown));
        let or = |id: Option<u32>, default: Option<u32>| id.or(default.filter(is_structure));
        // BERT's beginning of text is called CLS.
        let bos = or(id(BOS)?.or(id("tokenizer.ggml.cls_token_id")?), defaults.bos);
        let eos = or(id("tokenizer.ggml.eos_token_id")?, defaults.eos);
        let unknown = or(id("tokenizer.ggml.unknown_token_id")?, defaults.unknown);
        // The key is misspelled in every file.
        let separator = or(id("tokenizer.ggml.seperator_token_id")?, defaults.separator);
        let pad = id("tokenizer.ggml.padding_token_id")?;
        let turn_ends = [eos, id("tokenizer.ggml.eot_token_id")?, id("tokenizer.ggml.eom_token_id")?];
        let named = listed(metadata, "tokenizer.end_token_ids", texts.len())?;
        let end_ids = ends(&texts, &kinds).chain(turn_ends.into_iter().flatten()).chain(named).collect();
        let eaters = listed(metadata, "tokenizer.pre.rstrip", texts.len())?;
        let mut vocabulary = Vocabulary {
            texts,
            kinds,
            bytes: Vec::new(),
            ends: Vec::new(),
            bos,
            eos,
            pad,
            unknown,
            separator,
            byte_ids: [None; 256],
            strips_blanks: strips_blanks(metadata)?,
            eaters,
            end_ids,
        };
        vocabulary.spell(bytes)?;
        Ok(vocabulary)
    }

    /// Fills `bytes`.
    //= F-PIPE-166b
    fn spell(&mut self, bytes: fn(&str) -> Vec<u8>) -> Result<()> {
        self.ends.reserve(self.texts.len());
        for (id, (text, kind)) in self.texts.iter().zip(&self.kinds).enumerate() {
            match kind {
                Kind::Normal => self.bytes.extend(bytes(text)),
                Kind::UserDefined => self.bytes.extend(text.bytes()),
                Kind::Byte => {
                    let byte = byte_of(text).ok_or_else(|| {
                        malformed(TOKENS, format!("token {id} is a byte, but {} does not spell one", quoted(text)))
                    })?;
                    self.bytes.push(byte);
                    self.byte_ids[usize::from(byte)] = Some(id as u32);
                }
                Kind::Unknown | Kind::Control | Kind::Unused => {}
            }
            self.ends.push(self.bytes.len());
        }
        Ok(())
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// The token's name in the file.
    pub fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize).map(|t| &**t)
    }

    /// Every name in the file, by id.
    pub fn texts(&self) -> &[Box<str>] {
        &self.texts
    }

    /// What the token is for.
    pub fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    /// The token of a byte, spelled `<0x0A>`.
    pub fn byte(&self, byte: u8) -> Option<u32> {
        self.byte_ids[usize::from(byte)]
    }

    /// What the token prints. Control tokens print nothing.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let start = if id == 0 { 0 } else { *self.ends.get(id - 1)? };
        Some(&self.bytes[start..*self.ends.get(id)?])
    }

    /// Whether the token is structure.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.kinds.get(id as usize), Some(Kind::Control | Kind::Unknown))
    }

    /// What follows this token, which was matched whole, without the blanks that are no text.
    pub fn after<'t>(&self, id: u32, text: &'t str) -> &'t str {
        if self.eaters.contains(&id) {
            text.trim_start()
        } else if self.strips_blanks && !self.text(id).is_some_and(|text| KEEPS_BLANKS.contains(&text)) {
            text.trim_start_matches(BLANKS)
        } else {
            text
        }
    }

    /// Whether the id stands for nothing: filler, or past the last token.
    pub fn is_filler(&self, id: u32) -> bool {
        matches!(self.kinds.get(id as usize), Some(Kind::Unused) | None)
    }

    /// Whether nothing comes after the token.
    //= F-PIPE-168
    pub fn is_end(&self, id: u32) -> bool {
        self.end_ids.contains(&id)
    }

    /// The tokens that are matched whole.
    pub fn specials(&self) -> Result<Vec<Special>> {
        let mut specials = Vec::new();
        for (id, (text, kind)) in self.texts.iter().zip(&self.kinds).enumerate() {
            let control = match kind {
                Kind::Control | Kind::Unknown => true,
                Kind::UserDefined => false,
                Kind::Normal | Kind::Unused | Kind::Byte => continue,
            };
            if text.is_empty() || text.len() > limits::CONTROL_TOKEN_BYTES_MAX {
                let what = format!("token {id} is matched whole and has {} bytes", text.len());
                return Err(malformed(TOKENS, what)
                    .hint(format!("such tokens have 1 to {} bytes", limits::CONTROL_TOKEN_BYTES_MAX)));
            }
            specials.push(Special { text: text.clone(), id: id as u32, control });
        }
        Ok(specials)
    }

    /// Whether prompts begin with BOS: as the file says, else as its tokenizer does by default.
    //= F-GGUF-050
    pub fn add_bos(&self, metadata: &Metadata, default: bool) -> Result<bool> {
        match (metadata.bool("tokenizer.ggml.add_bos_token")?, self.bos) {
            (Some(true), None) => Err(missing(BOS).hint("tokenizer.ggml.add_bos_token asks for it")),
            (said, bos) => Ok(said.unwrap_or(default && bos.is_some())),
        }
    }
}

fn malformed(key: &str, what: impl Into<String>) -> Error {
    Error::malformed(what).at(Place::Key(key.into()))
}

/// Every token's name: UTF-8, no two alike.
fn texts(metadata: &Metadata) -> Result<Vec<Box<str>>> {
    let values = metadata.array(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
    if values.is_empty() {
        return Err(malformed(TOKENS, "the vocabulary is empty"));
    }
    if values.len() > limits::VOCAB_MAX {
        let what = format!("{} tokens; at most {} are supported", values.len(), limits::VOCAB_MAX);
        return Err(Error::new(ErrorKind::TooLarge, what).at(Place::Key(TOKENS.into())));
    }
    let mut texts: Vec<Box<str>> = Vec::with_capacity(values.len());
    let mut seen: HashMap<&str, usize> = HashMap::with_capacity(values.len());
    for (id, value) in values.iter().enumerate() {
        let text = match value {
            Value::String(text) => text,
            Value::RawString(bytes) => {
                let valid = std::str::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len);
                return Err(malformed(TOKENS, format!("token {id} is not valid UTF-8 from its byte {valid} on")));
            }
            other => return Err(malformed(TOKENS, format!("token {id} is {}, not text", other.kind()))),
        };
        if text.len() > limits::TOKEN_BYTES_MAX {
            let what =
                format!("token {id} has {} bytes; at most {} are supported", text.len(), limits::TOKEN_BYTES_MAX);
            return Err(Error::new(ErrorKind::TooLarge, what).at(Place::Key(TOKENS.into())));
        }
        // A nameless token is a hole: nothing matches it and it prints nothing. llama.cpp lets it pass, and so do we.
        if !text.is_empty()
            && let Some(first) = seen.insert(text, id)
        {
            return Err(malformed(TOKENS, format!("tokens {first} and {id} are both {}", quoted(text))));
        }
        texts.push(text.as_str().into());
    }
    Ok(texts)
}

/// What each token is for. Files without types have names to go by.
fn kinds(metadata: &Metadata, texts: &[Box<str>]) -> Result<Vec<Kind>> {
    let Some(values) = metadata.array(TYPES)? else {
        let kind = |text: &str| if looks_like_control(text) { Kind::Control } else { Kind::Normal };
        return Ok(texts.iter().map(|text| kind(text)).collect());
    };
    if values.len() < texts.len() {
        return Err(malformed(TYPES, format!("{} types for {} tokens", values.len(), texts.len())));
    }
    texts.iter().zip(values).enumerate().map(|(id, (text, value))| kind(id, text, value)).collect()
}

fn kind(id: usize, text: &str, value: &Value) -> Result<Kind> {
    let kind = match value {
        // 0 is "undefined"; an ordinary token is what every reader takes it for.
        Value::Unsigned(0 | 1) => Kind::Normal,
        Value::Unsigned(2) => Kind::Unknown,
        Value::Unsigned(3) => Kind::Control,
        Value::Unsigned(4) => Kind::UserDefined,
        Value::Unsigned(5) => Kind::Unused,
        Value::Unsigned(6) => Kind::Byte,
        Value::Unsigned(n) => return Err(malformed(TYPES, format!("token {id} has the unknown type {n}"))),
        Value::Signed(n) => return Err(malformed(TYPES, format!("token {id} has the unknown type {n}"))),
        other => return Err(malformed(TYPES, format!("type {id} is {}, not an integer", other.kind()))),
    };
    Ok(match kind {
        // Converters fill up with `[PAD151900]`, some as user-defined; in a user's text that is text.
        Kind::UserDefined if text == format!("[PAD{id}]") => Kind::Unused,
        // A turn's end that is not typed as control would be printed, and anyone could write it.
        Kind::UserDefined if ENDS.contains(&text) => Kind::Control,
        Kind::Normal | Kind::UserDefined if looks_like_control(text) => Kind::Control,
        kind => kind,
    })
}

/// `<|name|>`: no language model learns these from text, so the name alone says what it is.
fn looks_like_control(text: &str) -> bool {
    let name = text.strip_prefix("<|").and_then(|t| t.strip_suffix("|>"));
    name.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-:.".contains(&b)))
}

/// Phi-3's `tokenizer.json` has `rstrip` on its markers. GGUF cannot say so, and llama.cpp goes by the model's name too.
fn strips_blanks(metadata: &Metadata) -> Result<bool> {
    let name = metadata.string("general.name")?.unwrap_or_default().to_lowercase();
    Ok(name.contains("phi-3") || name.contains("phi3"))
}

/// The tokens that end an answer by their name.
fn ends(texts: &[Box<str>], kinds: &[Kind]) -> impl Iterator<Item = u32> {
    let control = |name: &str| texts.iter().zip(kinds).any(|(t, k)| *k == Kind::Control && &**t == name);
    // Where calls have ends of their own, `<|end|>` only ends one message of several (gpt-oss, Solar).
    let inner_end = (control("<|return|>") && control("<|call|>")) || (control("<|calls|>") && control("<|flush|>"));
    let is_end = move |text: &str| ENDS.contains(&text) && !(inner_end && text == "<|end|>");
    let all = texts.iter().zip(kinds).enumerate();
    all.filter(move |(_, (t, k))| **k == Kind::Control && is_end(t)).map(|(id, _)| id as u32)
}

/// Tokens that are listed by id under a key of ours: HuggingFace's `eos_token_id` may be several.
fn listed(metadata: &Metadata, key: &str, len: usize) -> Result<BTreeSet<u32>> {
    let end = |value: &Value| match value {
        Value::Unsigned(id) if *id < len as u64 => Ok(*id as u32),
        other => Err(malformed(key, format!("{other:?} is no token: the vocabulary has {len} tokens"))),
    };
    metadata.array(key)?.unwrap_or_default().iter().map(end).collect()
}

/// A token id under a key, inside the vocabulary.
fn id(metadata: &Metadata, key: &str, len: usize) -> Result<Option<u32>> {
    match metadata.unsigned(key)? {
        Some(id) if id >= len as u64 => {
            Err(malformed(key, format!("token {id} does not exist: the vocabulary has {len} tokens")))
        }
        id => Ok(id.map(|id| id as u32)),
    }
}

/// `<0x0A>` is 10. The digits are looked at one by one because `from_str_radix` takes a sign.
fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if hex { u8::from_str_radix(digits, 16).ok() } else { None }
}
