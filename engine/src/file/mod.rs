//! Floor 1: bytes to a checked description. Containers know nothing of models: they give metadata and tensors.
//!
//! A container is one file here and one entry of [`ALL`]. All of them read through [`cursor::Cursor`], the only
//! arithmetic on untrusted numbers. What a file *is* is decided by its first bytes, never by its name.

pub mod apr;
pub mod cursor;
mod foreign;
pub mod gguf;
pub(crate) mod hf;
mod json;
pub mod outgoing;
pub mod safetensors;
pub mod split;

use std::collections::BTreeMap;
use std::path::Path;

use compute::{Bytes, Format, WeightRef};
use foreign::looks_like;
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Place, Result, quoted, quoted_path};

/// A container format: how to know it and how to read it.
pub struct Container {
    /// For messages: `GGUF`.
    pub name: &'static str,
    /// Whether these first bytes (up to 512) are of this container.
    pub sniff: fn(&[u8]) -> bool,
    /// Reads and checks the file, and the other files of a split model beside it.
    pub open: fn(&Path, Bytes) -> Result<Checked>,
}

/// How many of the first bytes of a file say what it is.
const HEAD_BYTES: usize = 512;

/// Every container.
pub static ALL: &[&Container] = &[&gguf::CONTAINER, &safetensors::CONTAINER, &apr::CONTAINER];

/// A model file that agrees with its own format: every tensor lies inside the file, with the size its shape says.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Container and version, for people: `GGUF v3`.
    pub format: String,
    /// Whose names the tensors have.
    pub naming: Naming,
    /// Everything the file says about itself.
    pub metadata: Metadata,
    /// By name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Tensors that cannot be weights, and why: integers, doubles, nothing at all. Only a model that asks for one minds.
    pub others: BTreeMap<String, String>,
    /// Bytes of all files of the model.
    pub file_bytes: u64,
    /// Where the metadata really stands.
    pub origins: Origins,
    /// What the user should know that is no reason to refuse the file.
    pub warnings: Vec<String>,
}

/// Keys of the metadata that stand in the file under another name, or in a file beside it:
/// `llama.embedding_length` is `config.json: hidden_size`.
#[derive(Debug, Clone, Default)]
pub struct Origins(pub BTreeMap<String, String>);

impl Origins {
    /// The error with the file and field that its user knows.
    pub fn explain(&self, mut e: Error) -> Error {
        if let Some(Place::Key(key)) = &e.at
            && let Some(origin) = self.0.get(key)
        {
            e.at = Some(Place::Key(origin.clone()));
        }
        e
    }
}

/// Who named the tensors of a model, and ordered the rows of its queries and keys: a converter to GGUF, or the code
/// that trained it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// `blk.0.attn_q.weight`.
    Gguf,
    /// `model.layers.0.self_attn.q_proj.weight`.
    HuggingFace,
    /// The second's names on tensors that the first had ordered: what importers of GGUF files make.
    Renamed,
}

/// A tensor as the file describes it.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Number format.
    pub format: Format,
    /// Extents, slowest first (row-major): a matrix is `[rows, cols]`. At least one; none is 0.
    pub shape: Vec<usize>,
    /// Exactly the bytes of the tensor.
    pub bytes: Bytes,
}

impl Tensor {
    /// As a matrix `[rows, cols]`; a vector has one row, leading dimensions fold into the rows.
    pub fn as_weight(&self, name: &str) -> WeightRef {
        let cols = *self.shape.last().unwrap_or(&1);
        let rows = self.shape.iter().rev().skip(1).product::<usize>().max(1);
        WeightRef { name: name.into(), bytes: self.bytes.clone(), format: self.format, rows, cols }
    }
}

/// A metadata value, whatever the container calls its types.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned or non-negative integer.
    Unsigned(u64),
    /// A negative integer.
    Signed(i64),
    /// Any float.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Bytes that are not UTF-8 where the format allows them (GGUF token texts).
    RawString(Vec<u8>),
    /// Many of one kind.
    Array(Vec<Value>),
}

impl Value {
    /// What kind it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Unsigned(_) | Value::Signed(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a bool",
            Value::String(_) => "a string",
            Value::RawString(_) => "a string that is not UTF-8",
            Value::Array(_) => "an array",
        }
    }
}

/// Metadata by key, with getters that say which key is wrong and how.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// The entries, under the keys that GGUF has for them, whatever the container.
    pub entries: BTreeMap<String, Value>,
}

impl Metadata {
    /// The raw value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    fn wrong(key: &str, want: &str, got: &Value) -> Error {
        Error::malformed(format!("expected {want}, found {}", got.kind())).at(Place::Key(key.into()))
    }

    /// A non-negative integer.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(n)) => Ok(Some(*n)),
            Some(other) => Err(Self::wrong(key, "a non-negative integer", other)),
        }
    }

    /// A non-negative integer that must be there.
    pub fn need_unsigned(&self, key: &str) -> Result<u64> {
        self.unsigned(key)?.ok_or_else(|| missing(key))
    }

    /// A finite float (an integer will do).
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(Value::Float(x)) => {
                Err(Error::malformed(format!("{x} is not a finite number")).at(Place::Key(key.into())))
            }
            Some(Value::Unsigned(n)) => Ok(Some(*n as f64)),
            Some(Value::Signed(n)) => Ok(Some(*n as f64)),
            Some(other) => Err(Self::wrong(key, "a number", other)),
        }
    }

    /// A bool.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(Self::wrong(key, "a bool", other)),
        }
    }

    /// UTF-8 text.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(Self::wrong(key, "a string", other)),
        }
    }

    /// An array.
    pub fn array(&self, key: &str) -> Result<Option<&[Value]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(a)) => Ok(Some(a)),
            Some(other) => Err(Self::wrong(key, "an array", other)),
        }
    }
}

/// The error for a key that must be there.
pub fn missing(key: &str) -> Error {
    Error::malformed("required metadata is missing").at(Place::Key(key.into()))
}

/// Maps a model file, finds out what it is, and checks it. A folder is one in HuggingFace's layout.
pub fn open(path: &Path) -> Result<Checked> {
    opened(path).map_err(|e| e.in_file(path))
}

fn opened(path: &Path) -> Result<Checked> {
    if path.is_dir() {
        return hf::open_folder(path);
    }
    let bytes = map(path)?;
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    match ALL.iter().find(|c| (c.sniff)(head)) {
        Some(container) => (container.open)(path, bytes),
        None => {
            let names: Vec<&str> = ALL.iter().map(|c| c.name).collect();
            //= F-JID-278
            Err(Error::malformed(format!("{} is not a model file that apr knows", quoted_path(path)))
                .at(Place::Byte(0))
                .hint(format!("it begins with {}; known containers: {}", looks_like(head), names.join(", "))))
        }
    }
}

/// Maps one file. Directories, devices and pipes are refused before anything is read from them.
//= F-GGUF-052
pub fn map(path: &Path) -> Result<Bytes> {
    mapped(path).map_err(|e| e.in_file(path))
}

fn mapped(path: &Path) -> Result<Bytes> {
    let shown = || quoted_path(path);
    let meta = std::fs::metadata(path).map_err(|e| Error::from_io(&e, path))?;
    if !meta.is_file() {
        let what = if meta.is_dir() { "a directory" } else { "not a regular file" };
        return Err(Error::new(Kind::Unreadable, format!("{} is {what}", shown())));
    }
    if meta.len() == 0 {
        return Err(Error::malformed(format!("{} is empty", shown())).at(Place::Byte(0)));
    }
    let file = std::fs::File::open(path).map_err(|e| Error::from_io(&e, path))?;
    Ok(Bytes::map(&file)?)
}

/// SHA-256 of files, one after another, in hexadecimal.
pub fn sha256(files: &[Bytes]) -> Result<String> {
    let mut hasher = Sha256::new();
    for file in files {
        if !file.is_unchanged() {
            return Err(Error::new(Kind::Unreadable, "the model file was changed while it was in use"));
        }
        hasher.update(&**file);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Holds a number against a limit of [`limits`].
pub(crate) fn at_most(n: u64, max: u64, what: &str, at: Place) -> Result<()> {
    if n > max { Err(over(max, what, at)) } else { Ok(()) }
}

pub(crate) fn over(max: u64, what: &str, at: Place) -> Error {
    Error::new(Kind::TooLarge, format!("more than {max} {what}, the limit of this build")).at(at)
}

/// Puts the name of the entry or tensor that was being read in front of an error that knows only its byte.
pub(crate) fn inside(e: Error, name: &str) -> Error {
    Error { what: format!("{}: {}", quoted(name), e.what), ..e }
}
