//! `tokenizer.json` and `tokenizer_config.json` as metadata, under the keys that GGUF has for a tokenizer.
//!
//! A `tokenizer.json` is a pipeline of parts. Each part is recognised or refused by its name: one that was skipped would
//! give other ids without a word. Byte-level BPE is read so, whose cuts of words are `text`'s to know, by the expressions
//! themselves; and SentencePiece's BPE, which merges characters and falls back to bytes.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value as Json;

use super::{Description, Document, needed};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::file::Value;
use crate::file::json::Field;
use crate::limits;

/// The cut of GPT-2, which `ByteLevel` makes by itself (`use_regex`).
const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Punctuation, as the part of this name means it: Unicode's, and the other signs of ASCII.
const PUNCTUATION: &str = r"[\p{P}$+<=>^~|`]";

/// How SentencePiece writes a space.
pub(super) const SPACE: &str = "\u{2581}";

/// Token types, as GGUF numbers them.
pub(super) const NORMAL: u64 = 1;
pub(super) const UNKNOWN: u64 = 2;
pub(super) const CONTROL: u64 = 3;
pub(super) const USER_DEFINED: u64 = 4;
pub(super) const UNUSED: u64 = 5;
pub(super) const BYTE: u64 = 6;

/// Where the keys stand, for messages about what is missing or wrong.
const ORIGINS: &[(&str, &str)] = &[
    ("tokenizer.ggml.tokens", "tokenizer.json: model.vocab"),
    ("tokenizer.ggml.token_type", "tokenizer.json: added_tokens"),
    ("tokenizer.ggml.merges", "tokenizer.json: model.merges"),
    ("tokenizer.ggml.pre", "tokenizer.json: pre_tokenizer"),
    ("tokenizer.pre.words", "tokenizer.json: pre_tokenizer"),
    ("tokenizer.ggml.bos_token_id", "tokenizer_config.json: bos_token"),
];

/// Describes the tokenizer and the chat template.
pub(super) fn describe(
    folder: &Path,
    config: &Document,
    generation: Option<&Document>,
    d: &mut Description<'_>,
) -> Result<()> {
    let tokenizer = needed(folder, "tokenizer.json")?;
    for (key, origin) in ORIGINS {
        d.comes_from(key, *origin);
    }
    let words = vocabulary(&tokenizer, d)?;
    merges(&tokenizer.need("model")?, d)?;
    if words.of_pieces {
        pieces(&tokenizer, d)?;
    } else {
        pipeline(&tokenizer, d)?;
    }

    let about = Document::read(folder, "tokenizer_config.json")?;
    ends(&words, about.as_ref(), config, generation, d)?;
    begin(&tokenizer, &words, about.as_ref(), d)?;
    template(folder, about.as_ref(), d)
}

// ---- words

/// Token texts by id.
struct Words {
    texts: Vec<String>,
    /// Whether they are SentencePiece's.
    of_pieces: bool,
}

impl Words {
    fn id_of(&self, text: &str) -> Option<u64> {
        self.texts.iter().position(|t| t == text).map(|id| id as u64)
    }
}

/// The vocabulary and the added tokens, by id. An id that nobody has is a hole, which matches and prints nothing.
//= F-ST-083
fn vocabulary(tokenizer: &Document, d: &mut Description<'_>) -> Result<Words> {
    let model = tokenizer.need("model")?;
    let of_pieces = byte_pairs(&model)?;
    let (bytes, unknown) = match of_pieces {
        true => ((0..=u8::MAX).map(|b| format!("<0x{b:02X}>")).collect(), model.get("unk_token")?),
        false => (BTreeSet::new(), None),
    };
    let unknown = unknown.map(|token| token.text()).transpose()?;
    let vocab = model.need("vocab")?;
    let added = match tokenizer.get("added_tokens") {
        Some(added) => added.items()?,
        None => Vec::new(),
    };
    let mut words: Vec<(String, u64)> = Vec::new();
    let mut put = |text: &str, id: u64, kind: u64, at: &dyn Fn() -> Place| {
        if id >= limits::VOCAB_MAX as u64 {
            let what = format!("token id {id}; ids are below {} in this build", limits::VOCAB_MAX);
            return Err(Error::new(Kind::TooLarge, what).at(at()));
        }
        let id = id as usize;
        if words.len() <= id {
            words.resize(id + 1, (String::new(), UNUSED));
        }
        match &words[id].0 {
            // An added token may stand in the vocabulary too.
            there if there.is_empty() || there == text => words[id] = (text.to_string(), kind),
            there => {
                let what = format!("token {id} is {} and {}", quoted(there), quoted(text));
                return Err(Error::malformed(what).at(at()));
            }
        }
        Ok(())
    };
    for (text, id) in vocab.object()? {
        let id = id.as_u64().ok_or_else(|| vocab.malformed(format!("the id of {} is no id", quoted(text))))?;
        let kind = match text {
            _ if Some(text.as_str()) == unknown => UNKNOWN,
            _ if bytes.contains(text) => BYTE,
            _ => NORMAL,
        };
        put(text, id, kind, &|| vocab.place())?;
    }
    let mut eaters = Vec::new();
    for token in &added {
        let text = token.need("content")?.text()?;
        let flag = |name: &str| token.get(name)?.map_or(Ok(false), |f| f.bool());
        // They change where a token is found. `normalized` does not where text is composed, save for a mark that
        // composes with its last letter; where spaces are replaced it may, see below.
        for name in ["lstrip", "single_word"] {
            if flag(name)? {
                return Err(token.unsupported(format!("the added token {} has {name}", quoted(text))));
            }
        }
        if of_pieces && flag("normalized")? && changed_by_normalizer(tokenizer, text)? {
            let what = format!("the added token {} is looked for in normalized text", quoted(text));
            return Err(token.unsupported(what));
        }
        let id = token.need("id")?.unsigned()?;
        if flag("rstrip")? {
            eaters.push(Value::Unsigned(id));
        }
        let kind = match flag("special")? {
            _ if Some(text) == unknown => UNKNOWN,
            true => CONTROL,
            false => USER_DEFINED,
        };
        put(text, id, kind, &|| token.place())?;
    }
    if !eaters.is_empty() {
        d.put("tokenizer.pre.rstrip", Value::Array(eaters), "tokenizer.json: added_tokens");
    }
    let (texts, kinds): (Vec<String>, Vec<u64>) = words.into_iter().unzip();
    let name = if of_pieces { "llama" } else { "gpt2" };
    d.metadata.entries.insert("tokenizer.ggml.model".into(), Value::String(name.into()));
    let tokens = texts.iter().map(|t| Value::String(t.clone())).collect();
    d.metadata.entries.insert("tokenizer.ggml.tokens".into(), Value::Array(tokens));
    let kinds = kinds.into_iter().map(Value::Unsigned).collect();
    d.metadata.entries.insert("tokenizer.ggml.token_type".into(), Value::Array(kinds));
    Ok(Words { texts, of_pieces })
}

/// Refuses every model of words but byte-pair encoding. Says whether it falls back to bytes, as SentencePiece does.
fn byte_pairs(model: &Field<'_>) -> Result<bool> {
    let kind = match model.get("type")? {
        Some(kind) => kind.text()?,
        // Old files do not name it; theirs have merges.
        None => "BPE",
    };
    if kind != "BPE" {
        return Err(model.unsupported(format!("tokenizers of type {} are not supported", quoted(kind))));
    }
    for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if let Some(mark) = model.get(name)?
            && !mark.text()?.is_empty()
        {
            return Err(mark.unsupported(format!("byte-pair encoding with a {name} is not supported")));
        }
    }
    match model.get("dropout")? {
        Some(dropout) if dropout.float()? != 0.0 => {
            Err(dropout.unsupported("merges that are left out at random are not supported"))
        }
        _ => flag(model, "byte_fallback", false),
    }
}

/// Whether a normalizer of pieces would make something else of a token's text.
fn changed_by_normalizer(tokenizer: &Document, text: &str) -> Result<bool> {
    let parts = parts(tokenizer.get("normalizer"), "normalizers")?;
    // What it prepends would be part of the text to look for.
    let prepends = parts.iter().map(kind_of).collect::<Result<Vec<_>>>()?.contains(&"Prepend");
    Ok(prepends || !parts.is_empty() && text.contains([' ', '\u{2581}']))
}

/// Merge rules as `left right`, from either spelling: one string, or a pair of strings.
fn merges(model: &Field<'_>, d: &mut Description<'_>) -> Result<()> {
    let field = model.need("merges")?;
    let array = field.json.as_array().ok_or_else(|| field.malformed("expected an array of merges"))?;
    let merge = |(rank, json): (usize, &Json)| {
        let pair = match json {
            Json::String(pair) => return Ok(Value::String(pair.clone())),
            Json::Array(pair) => pair,
            _ => return Err(field.malformed(format!("merge {rank} is not two tokens"))),
        };
        match &pair[..] {
            [Json::String(left), Json::String(right)] if !left.contains(' ') && !right.contains(' ') => {
                Ok(Value::String(format!("{left} {right}")))
            }
            _ => Err(field.malformed(format!("merge {rank} is not two tokens"))),
        }
    };
    let merges = array.iter().enumerate().map(merge).collect::<Result<_>>()?;
    d.metadata.entries.insert("tokenizer.ggml.merges".into(), Value::Array(merges));
    if let Some(whole) = model.get("ignore_merges")? {
        d.put("tokenizer.pre.whole_words", Value::Bool(whole.bool()?), "tokenizer.json: model.ignore_merges");
    }
    Ok(())
}

// ---- the pipeline around it

/// What happens to a text before and after merging.
fn pipeline(tokenizer: &Document, d: &mut Description<'_>) -> Result<()> {
    let mut nfc = false;
    for part in parts(tokenizer.get("normalizer"), "normalizers")? {
        match kind_of(&part)? {
            "NFC" => nfc = true,
            other => return Err(part.unsupported(format!("the normalizer {} is not supported", quoted(other)))),
        }
    }
    d.put("tokenizer.pre.nfc", Value::Bool(nfc), "tokenizer.json: normalizer");

    let mut words = Vec::new();
    let mut bytes = false;
    for part in parts(tokenizer.get("pre_tokenizer"), "pretokenizers")? {
        match kind_of(&part)? {
            "Split" if !bytes => words.push(Value::String(split(&part)?.into())),
            "ByteLevel" if !bytes => {
                bytes = true;
                if flag(&part, "add_prefix_space", true)? {
                    return Err(part.unsupported("a blank in front of every text (add_prefix_space) is not supported"));
                }
                if flag(&part, "use_regex", true)? {
                    words.push(Value::String(GPT2_WORDS.into()));
                }
            }
            "Digits" if !bytes => {
                let many = if flag(&part, "individual_digits", false)? { "" } else { "+" };
                words.push(Value::String(format!(r"\p{{N}}{many}")));
            }
            "Punctuation" if !bytes => {
                let many = match part.get("behavior")?.map(|b| b.text()).transpose()? {
                    None | Some("Isolated") => "",
                    Some("Contiguous") => "+",
                    Some(other) => return Err(part.unsupported(format!("a split of kind {}", quoted(other)))),
                };
                words.push(Value::String(format!("{PUNCTUATION}{many}")));
            }
            other => return Err(part.unsupported(format!("the pre-tokenizer {} is not supported here", quoted(other)))),
        }
    }
    if !bytes {
        return Err(Error::new(Kind::Unsupported, "byte-pair encoding of anything but bytes is not supported")
            .at(tokenizer.place("pre_tokenizer"))
            .hint("the pre-tokenizer ByteLevel is missing"));
    }
    d.put("tokenizer.pre.words", Value::Array(words), "tokenizer.json: pre_tokenizer");

    for part in parts(tokenizer.get("decoder"), "decoders")? {
        match kind_of(&part)? {
            "ByteLevel" => {}
            other => return Err(part.unsupported(format!("the decoder {} is not supported", quoted(other)))),
        }
    }
    Ok(())
}

/// The same for SentencePiece: spaces become U+2581, one may be put in front, and nothing else happens. There are two
/// ways to say it: by the normalizers `Prepend` and `Replace`, and by the pre-tokenizer `Metaspace`.
//= F-ST-083
fn pieces(tokenizer: &Document, d: &mut Description<'_>) -> Result<()> {
    let (mut prefix, mut replaced) = ("never", false);
    let says = |part: &Field<'_>, name: &str, want: &str| -> Result<bool> {
        Ok(part.get(name)?.is_some_and(|field| field.json.as_str() == Some(want)))
    };
    let pattern = |part: &Field<'_>, want: &str| says(&part.need("pattern")?, "String", want);
    let refused = |part: &Field<'_>, what: &str| -> Result<Error> {
        Ok(part.unsupported(format!(
            "the {what} {} as it is here is not supported with byte_fallback",
            quoted(kind_of(part)?)
        )))
    };
    for part in parts(tokenizer.get("normalizer"), "normalizers")? {
        match kind_of(&part)? {
            "Prepend" if prefix == "never" && says(&part, "prepend", SPACE)? => prefix = "prepend",
            "Replace" if pattern(&part, " ")? && says(&part, "content", SPACE)? => replaced = true,
            _ => return Err(refused(&part, "normalizer")?),
        }
    }
    for part in parts(tokenizer.get("pre_tokenizer"), "pretokenizers")? {
        match kind_of(&part)? {
            // There are no spaces any more that it could split by.
            "Split" if replaced && pattern(&part, " ")? => {}
            "Metaspace" if says(&part, "replacement", SPACE)? && !flag(&part, "split", true)? => {
                let scheme = part.get("prepend_scheme")?.map(|s| s.text()).transpose()?.unwrap_or("always");
                match (prefix, scheme) {
                    (_, "never") | ("prepend", _) => {}
                    (_, "first" | "always") => prefix = if scheme == "first" { "first" } else { "always" },
                    _ => return Err(refused(&part, "pre-tokenizer")?),
                }
                replaced = true;
            }
            _ => return Err(refused(&part, "pre-tokenizer")?),
        }
    }
    if !replaced {
        return Err(Error::new(Kind::Unsupported, "pieces (byte_fallback) that keep spaces are not supported")
            .at(tokenizer.place("normalizer")));
    }
    let mut seen = Vec::new();
    for part in parts(tokenizer.get("decoder"), "decoders")? {
        let kind = kind_of(&part)?;
        let good = match kind {
            "Replace" => pattern(&part, SPACE)? && says(&part, "content", " ")?,
            "Strip" => {
                let at = |name: &str| part.get(name)?.map_or(Ok(0), |n| n.unsigned());
                says(&part, "content", " ")? && at("start")? == 1 && at("stop")? == 0
            }
            _ => matches!(kind, "ByteFallback" | "Fuse"),
        };
        if !good {
            return Err(refused(&part, "decoder")?);
        }
        seen.push(kind);
    }
    // What was put in front is taken away again, and nothing else is.
    let want = ["Replace", "ByteFallback", "Fuse", "Strip"];
    if seen != want[..if prefix == "never" { 3 } else { 4 }] {
        let what = format!("the decoder {} of pieces (byte_fallback) is not supported", quoted(&seen.join(", ")));
        return Err(Error::new(Kind::Unsupported, what).at(tokenizer.place("decoder")));
    }
    d.put("tokenizer.pre.prefix", Value::String(prefix.into()), "tokenizer.json: pre_tokenizer");
    let anywhere = Value::Bool(prefix != "never");
    d.put("tokenizer.ggml.add_space_prefix", anywhere, "tokenizer.json: pre_tokenizer");
    Ok(())
}

/// A part of the pipeline, or each part of a sequence of them.
fn parts<'a>(field: Option<Field<'a>>, of: &str) -> Result<Vec<Field<'a>>> {
    match field {
        None => Ok(Vec::new()),
        Some(one) if kind_of(&one)? == "Sequence" => one.need(of)?.items(),
        Some(one) => Ok(vec![one]),
    }
}

fn kind_of<'a>(part: &Field<'a>) -> Result<&'a str> {
    part.need("type")?.text()
}

fn flag(part: &Field<'_>, name: &str, default: bool) -> Result<bool> {
    part.get(name)?.map_or(Ok(default), |f| f.bool())
}

/// The expression whose matches, and what is between them, are the words.
fn split<'a>(part: &Field<'a>) -> Result<&'a str> {
    let behavior = part.need("behavior")?;
    if behavior.text()? != "Isolated" || flag(part, "invert", false)? {
        return Err(part.unsupported(format!("a split of kind {} is not supported", quoted(behavior.text()?))));
    }
    let pattern = part.need("pattern")?;
    match pattern.get("Regex")? {
        Some(expression) => expression.text(),
        None => Err(pattern.unsupported("a split by a fixed string is not supported")),
    }
}

// ---- beginning and end

/// The ids of named tokens, and every token that ends an answer. `tokenizer_config.json` names tokens by their text; ids
/// in `config.json` count where it says nothing.
//= F-ST-084
fn ends(
    words: &Words,
    about: Option<&Document>,
    config: &Document,
    generation: Option<&Document>,
    d: &mut Description<'_>,
) -> Result<()> {
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let named = about.and_then(|about| about.get(&format!("{name}_token")));
        let id_field = config.get(&format!("{name}_token_id"));
        if let Some(named) = named {
            let text = token_text(&named)?;
            let id = words.id_of(text);
            let id = id.ok_or_else(|| named.malformed(format!("there is no token {}", quoted(text))))?;
            d.put(&key, Value::Unsigned(id), format!("tokenizer_config.json: {name}_token"));
        } else if let Some(field) = id_field
            && let Some(first) = ids(&field)?.first()
        {
            d.put(&key, Value::Unsigned(*first), format!("config.json: {name}_token_id"));
        }
    }
    let mut end_ids = Vec::new();
    for document in [Some(config), generation].into_iter().flatten() {
        if let Some(field) = document.get("eos_token_id") {
            end_ids.extend(ids(&field)?.into_iter().map(Value::Unsigned));
        }
    }
    d.put("tokenizer.end_token_ids", Value::Array(end_ids), "generation_config.json: eos_token_id");
    Ok(())
}

/// A token by its text, written as such or as an object.
fn token_text<'a>(field: &Field<'a>) -> Result<&'a str> {
    match field.json {
        Json::Object(_) => field.need("content")?.text(),
        _ => field.text(),
    }
}

/// One id or several.
fn ids(field: &Field<'_>) -> Result<Vec<u64>> {
    match field.json {
        Json::Array(_) => field.items()?.iter().map(Field::unsigned).collect(),
        _ => Ok(vec![field.unsigned()?]),
    }
}

/// Whether prompts begin with BOS: as `tokenizer_config.json` says, else as the post-processor does it.
fn begin(tokenizer: &Document, words: &Words, about: Option<&Document>, d: &mut Description<'_>) -> Result<()> {
    const BOS: &str = "tokenizer.ggml.bos_token_id";
    let mut front = None;
    for part in parts(tokenizer.get("post_processor"), "processors")? {
        match kind_of(&part)? {
            "ByteLevel" => {}
            "TemplateProcessing" => front = added_in_front(&part)?,
            other => return Err(part.unsupported(format!("the post-processor {} is not supported", quoted(other)))),
        }
    }
    if let Some(add) = about.and_then(|about| about.get("add_bos_token")) {
        d.put("tokenizer.ggml.add_bos_token", Value::Bool(add.bool()?), "tokenizer_config.json: add_bos_token");
        return Ok(());
    }
    let Some((text, place)) = front else {
        d.put("tokenizer.ggml.add_bos_token", Value::Bool(false), "tokenizer.json: post_processor");
        return Ok(());
    };
    let id = words
        .id_of(text)
        .ok_or_else(|| Error::malformed(format!("there is no token {}", quoted(text))).at(place.clone()))?;
    match d.metadata.unsigned(BOS)? {
        Some(bos) if bos != id => {
            let what = format!("it begins texts with token {id}, and tokenizer_config.json says that BOS is {bos}");
            return Err(Error::malformed(what).at(place));
        }
        _ => d.put(BOS, Value::Unsigned(id), "tokenizer.json: post_processor"),
    }
    d.put("tokenizer.ggml.add_bos_token", Value::Bool(true), "tokenizer.json: post_processor");
    Ok(())
}

/// The one token that a template puts before a text, and nothing after it.
fn added_in_front<'a>(part: &Field<'a>) -> Result<Option<(&'a str, Place)>> {
    let single = part.need("single")?;
    let mut front = None;
    for (i, piece) in single.items()?.iter().enumerate() {
        match (i, piece.get("SpecialToken")?, piece.get("Sequence")?) {
            (0, Some(token), None) => front = Some((token.need("id")?.text()?, single.place())),
            (_, None, Some(_)) if i == usize::from(front.is_some()) => {}
            _ => return Err(single.unsupported("tokens around a text other than one before it are not supported")),
        }
    }
    Ok(front)
}

/// The chat template: a file of its own, or a field; of several the one called `default`.
fn template(folder: &Path, about: Option<&Document>, d: &mut Description<'_>) -> Result<()> {
    const KEY: &str = "tokenizer.chat_template";
    const FILE: &str = "chat_template.jinja";
    if folder.join(FILE).is_file() {
        let bytes = super::map(&folder.join(FILE))?;
        super::at_most(
            bytes.len() as u64,
            limits::TEMPLATE_BYTES_MAX as u64,
            "bytes of template",
            Place::Key(FILE.into()),
        )?;
        let text = std::str::from_utf8(&bytes);
        let text = text.map_err(|_| Error::malformed("it is not valid UTF-8").at(Place::Key(FILE.into())))?;
        d.put(KEY, Value::String(text.into()), FILE);
        return Ok(());
    }
    let Some(field) = about.and_then(|about| about.get("chat_template")) else { return Ok(()) };
    let text = match field.json {
        Json::Array(_) => {
            let all = field.items()?;
            let mut named = Vec::new();
            for one in &all {
                named.push((one.need("name")?.text()?, one.need("template")?.text()?));
            }
            let default = named.iter().find(|(name, _)| *name == "default");
            default.map(|d| d.1).ok_or_else(|| field.malformed("none of the templates is called default"))?
        }
        _ => field.text()?,
    };
    d.put(KEY, Value::String(text.into()), "tokenizer_config.json: chat_template");
    Ok(())
}
