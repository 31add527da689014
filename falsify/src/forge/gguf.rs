//! A GGUF writer, written from the format's description and not from our reader: it uses nothing of `engine`,
//! so that reader and writer cannot share a misunderstanding.
//!
//! It writes what it is told. Every field of the file is public here and every count, length and offset can
//! be overridden, so a bad input is a good file with one line changed. The same writer gives the same bytes
//! everywhere.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

/// A file to be written. Overrides that are `None` are computed truthfully.
pub struct Writer {
    /// First four bytes.
    pub magic: [u8; 4],
    /// Format version.
    pub version: u32,
    /// Overrides the count of tensors in the header.
    pub tensor_count: Option<u64>,
    /// Overrides the count of metadata entries in the header.
    pub entry_count: Option<u64>,
    /// Metadata, in order.
    pub entries: Vec<Entry>,
    /// Tensors, in order of description and of data.
    pub tensors: Vec<Tensor>,
    /// Tensor data starts at multiples of this. [`Writer::align`] sets it together with its metadata entry.
    pub alignment: u64,
}

/// One metadata entry as it stands in the file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key's bytes, UTF-8 or not.
    pub key: Vec<u8>,
    /// Overrides the length in front of the key.
    pub key_len: Option<u64>,
    /// Value type id.
    pub type_id: u32,
    /// The value as it stands in the file, without its type: for an array its element type, count and
    /// elements.
    pub value: Vec<u8>,
}

/// One tensor: its description and its data.
pub struct Tensor {
    /// The name's bytes, UTF-8 or not.
    pub name: Vec<u8>,
    /// Overrides the length in front of the name.
    pub name_len: Option<u64>,
    /// Extents, fastest first, as the file has them: a matrix is `[cols, rows]`.
    pub dims: Vec<u64>,
    /// Overrides the number of extents.
    pub dim_count: Option<u32>,
    /// ggml type id.
    pub type_id: u32,
    /// Overrides the offset in the data section.
    pub offset: Option<u64>,
    /// What stands there.
    pub data: Data,
}

/// Data of a tensor.
pub enum Data {
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many zero bytes, which take no room on the disk.
    Hole(u64),
    /// So many bytes, written by a function while the file is written: for tensors that should not lie in
    /// memory.
    Made(u64, Make),
}

/// Writes a tensor's data.
pub type Make = Box<dyn Fn(&mut dyn Write) -> io::Result<()>>;

impl Data {
    /// How many bytes it has.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        match self {
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Hole(len) | Data::Made(len, _) => *len,
        }
    }
}

/// A metadata value of any of the thirteen types.
#[derive(Clone, Debug)]
pub enum Value {
    /// Type 0.
    U8(u8),
    /// Type 1.
    I8(i8),
    /// Type 2.
    U16(u16),
    /// Type 3.
    I16(i16),
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7; a byte, so that it can be neither 0 nor 1.
    Bool(u8),
    /// Type 8; bytes, so that they need not be UTF-8.
    String(Vec<u8>),
    /// Type 9: the type id of the elements and the elements, which had better agree.
    Array(u32, Vec<Value>),
    /// Type 10.
    U64(u64),
    /// Type 11.
    I64(i64),
    /// Type 12.
    F64(f64),
}

impl Value {
    /// The value's type id.
    pub fn type_id(&self) -> u32 {
        match self {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::String(_) => 8,
            Value::Array(..) => 9,
            Value::U64(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        }
    }

    /// An array of strings.
    pub fn strings<S: AsRef<[u8]>>(items: impl IntoIterator<Item = S>) -> Value {
        Value::Array(8, items.into_iter().map(|s| Value::String(s.as_ref().to_vec())).collect())
    }

    /// An array of 32-bit integers.
    pub fn i32s(items: impl IntoIterator<Item = i32>) -> Value {
        Value::Array(5, items.into_iter().map(Value::I32).collect())
    }

    /// An array of 32-bit floats.
    pub fn f32s(items: impl IntoIterator<Item = f32>) -> Value {
        Value::Array(6, items.into_iter().map(Value::F32).collect())
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(x) => out.extend(x.to_le_bytes()),
            Value::I8(x) => out.extend(x.to_le_bytes()),
            Value::U16(x) => out.extend(x.to_le_bytes()),
            Value::I16(x) => out.extend(x.to_le_bytes()),
            Value::U32(x) => out.extend(x.to_le_bytes()),
            Value::I32(x) => out.extend(x.to_le_bytes()),
            Value::F32(x) => out.extend(x.to_le_bytes()),
            Value::Bool(x) => out.push(*x),
            Value::String(s) => {
                out.extend((s.len() as u64).to_le_bytes());
                out.extend(s);
            }
            Value::Array(type_id, items) => {
                out.extend(type_id.to_le_bytes());
                out.extend((items.len() as u64).to_le_bytes());
                items.iter().for_each(|item| item.write(out));
            }
            Value::U64(x) => out.extend(x.to_le_bytes()),
            Value::I64(x) => out.extend(x.to_le_bytes()),
            Value::F64(x) => out.extend(x.to_le_bytes()),
        }
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Value {
        Value::String(s.as_bytes().to_vec())
    }
}

impl From<u32> for Value {
    fn from(n: u32) -> Value {
        Value::U32(n)
    }
}

impl From<f32> for Value {
    fn from(x: f32) -> Value {
        Value::F32(x)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Bool(b.into())
    }
}

/// Where a field of the header stands, for inputs that are bad at one place: `n_tensors`, `k/type`,
/// `t/offset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// What it is: a part of the head, or the key or tensor it belongs to and a part of that.
    pub name: String,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// Everything before the tensor data, padding included, and a map of it.
pub struct Header {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Every field, in order and without gaps up to the padding.
    pub fields: Vec<Field>,
}

impl Header {
    fn put(&mut self, name: impl Into<String>, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend(bytes);
        self.fields.push(Field { name: name.into(), range: start..self.bytes.len() });
    }

    /// The bytes of a field. Panics if there is no such field: the name is wrong in the test that asks.
    pub fn field(&self, name: &str) -> Range<usize> {
        let found = self.fields.iter().find(|f| f.name == name);
        found.unwrap_or_else(|| panic!("the header has no field {name}")).range.clone()
    }
}

impl Writer {
    /// An empty little-endian file of this version, with data aligned to 32 bytes.
    pub fn new(version: u32) -> Writer {
        let (entries, tensors) = (Vec::new(), Vec::new());
        Writer { magic: *b"GGUF", version, tensor_count: None, entry_count: None, entries, tensors, alignment: 32 }
    }

    /// Adds a metadata entry.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Entry {
        let value: Value = value.into();
        let mut bytes = Vec::new();
        value.write(&mut bytes);
        self.entries.push(Entry {
            key: key.as_bytes().to_vec(),
            key_len: None,
            type_id: value.type_id(),
            value: bytes,
        });
        let last = self.entries.len() - 1;
        &mut self.entries[last]
    }

    /// The entry with this key, to be spoiled. Panics if there is none.
    pub fn entry(&mut self, key: &str) -> &mut Entry {
        let found = self.entries.iter_mut().find(|e| e.key == key.as_bytes());
        found.unwrap_or_else(|| panic!("the file has no key {key}"))
    }

    /// Replaces the value of an entry, or adds it.
    pub fn replace(&mut self, key: &str, value: impl Into<Value>) {
        self.remove(key);
        self.set(key, value);
    }

    /// Takes an entry out, if it is there.
    pub fn remove(&mut self, key: &str) {
        self.entries.retain(|e| e.key != key.as_bytes());
    }

    /// Sets the alignment and the entry that announces it.
    pub fn align(&mut self, alignment: u32) {
        self.alignment = alignment.into();
        self.replace("general.alignment", alignment);
    }

    /// Adds a tensor. `dims` are fastest first: a matrix is `[cols, rows]`.
    pub fn tensor(&mut self, name: &str, dims: &[u64], type_id: u32, data: Data) -> &mut Tensor {
        self.tensors.push(Tensor {
            name: name.as_bytes().to_vec(),
            name_len: None,
            dims: dims.to_vec(),
            dim_count: None,
            type_id,
            offset: None,
            data,
        });
        let last = self.tensors.len() - 1;
        &mut self.tensors[last]
    }

    /// The tensor with this name, to be spoiled. Panics if there is none.
    pub fn tensor_named(&mut self, name: &str) -> &mut Tensor {
        let found = self.tensors.iter_mut().find(|t| t.name == name.as_bytes());
        found.unwrap_or_else(|| panic!("the file has no tensor {name}"))
    }

    /// Where each tensor's data really goes, from the start of the data section.
    fn offsets(&self) -> Vec<u64> {
        let mut next = 0u64;
        let mut offsets = Vec::with_capacity(self.tensors.len());
        for t in &self.tensors {
            offsets.push(next);
            next = (next + t.data.len()).next_multiple_of(self.alignment.max(1));
        }
        offsets
    }

    /// Everything before the tensor data.
    pub fn header(&self) -> Header {
        let mut h = Header { bytes: Vec::new(), fields: Vec::new() };
        h.put("magic", &self.magic);
        h.put("version", &self.version.to_le_bytes());
        h.put("n_tensors", &self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        h.put("n_entries", &self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for e in &self.entries {
            let name = String::from_utf8_lossy(&e.key).into_owned();
            h.put(format!("{name}/key_len"), &e.key_len.unwrap_or(e.key.len() as u64).to_le_bytes());
            h.put(format!("{name}/key"), &e.key);
            h.put(format!("{name}/type"), &e.type_id.to_le_bytes());
            h.put(format!("{name}/value"), &e.value);
        }
        for (t, offset) in self.tensors.iter().zip(self.offsets()) {
            let name = String::from_utf8_lossy(&t.name).into_owned();
            h.put(format!("{name}/name_len"), &t.name_len.unwrap_or(t.name.len() as u64).to_le_bytes());
            h.put(format!("{name}/name"), &t.name);
            h.put(format!("{name}/n_dims"), &t.dim_count.unwrap_or(t.dims.len() as u32).to_le_bytes());
            for (i, dim) in t.dims.iter().enumerate() {
                h.put(format!("{name}/dim{i}"), &dim.to_le_bytes());
            }
            h.put(format!("{name}/type"), &t.type_id.to_le_bytes());
            h.put(format!("{name}/offset"), &t.offset.unwrap_or(offset).to_le_bytes());
        }
        if !self.tensors.is_empty() {
            let padded = h.bytes.len().next_multiple_of(self.alignment.max(1) as usize);
            h.bytes.resize(padded, 0);
        }
        h
    }

    /// The whole file in memory, holes as zeros. Not for files of gigabytes.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut out = self.header().bytes;
        let start = out.len();
        for (t, offset) in self.tensors.iter().zip(self.offsets()) {
            out.resize(start + offset as usize, 0);
            match &t.data {
                Data::Bytes(bytes) => out.extend(bytes),
                Data::Hole(len) => out.resize(out.len() + *len as usize, 0),
                Data::Made(_, make) => make(&mut out)?,
            }
        }
        Ok(out)
    }

    /// Writes the file. Holes are skipped, so a file of many gigabytes of them takes no room and no time.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let header = self.header().bytes;
        let start = header.len() as u64;
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(&header)?;
        let mut end = start;
        for (t, offset) in self.tensors.iter().zip(self.offsets()) {
            out.seek(SeekFrom::Start(start + offset))?;
            match &t.data {
                Data::Bytes(bytes) => out.write_all(bytes)?,
                Data::Hole(_) => {}
                Data::Made(_, make) => make(&mut out)?,
            }
            end = start + offset + t.data.len();
        }
        out.flush()?;
        out.get_ref().set_len(end)
    }

    /// The same model over `count` files, tensors dealt out in order. The first file has the metadata.
    pub fn split(mut self, count: u16) -> Vec<Writer> {
        let total = self.tensors.len();
        let each = total.div_ceil(count.max(1).into()).max(1);
        let mut rest = std::mem::take(&mut self.tensors).into_iter();
        let mut parts = Vec::new();
        for no in 0..count {
            let mut part = Writer::new(self.version);
            part.alignment = self.alignment;
            if no == 0 {
                part.entries = std::mem::take(&mut self.entries);
            } else if self.alignment != 32 {
                part.align(self.alignment as u32);
            }
            part.set("split.no", Value::U16(no));
            part.set("split.count", Value::U16(count));
            part.set("split.tensors.count", Value::I32(total as i32));
            part.tensors = rest.by_ref().take(each).collect();
            parts.push(part);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Writer {
        let mut w = Writer::new(3);
        w.set("general.architecture", "qwen2");
        w.set("n", 7u32);
        w.tensor("a", &[2, 3], 0, Data::Bytes((0..24).collect()));
        w.tensor("b", &[1], 0, Data::Bytes(vec![1, 2, 3, 4]));
        w
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let bytes = small().to_bytes().unwrap();
        assert_eq!(&bytes[..8], b"GGUF\x03\0\0\0");
        assert_eq!((bytes[8], bytes[16], bytes[24]), (2, 2, 20));
        assert_eq!(&bytes[32..52], b"general.architecture");
        assert_eq!(&bytes[52..56], &[8, 0, 0, 0]);
        assert_eq!(bytes.len() % 32, 4);
        assert_eq!(&bytes[bytes.len() - 4..], &[1, 2, 3, 4]);
    }

    #[test]
    fn fields_cover_the_header_and_can_be_overridden() {
        let mut w = small();
        let h = w.header();
        assert_eq!(h.fields.first().map(|f| f.range.start), Some(0));
        assert!(h.fields.windows(2).all(|f| f[0].range.end == f[1].range.start));
        w.tensor_named("b").offset = Some(u64::MAX);
        w.entry("n").key_len = Some(1 << 40);
        let evil = w.header();
        assert_eq!(&evil.bytes[evil.field("b/offset")], &[0xff; 8]);
        assert_eq!(&evil.bytes[evil.field("n/key_len")], &(1u64 << 40).to_le_bytes());
        assert_eq!(evil.bytes.len(), h.bytes.len());
    }

    #[test]
    fn on_disk_and_in_memory_are_the_same_and_holes_are_zeros() {
        let mut w = small();
        w.tensor("hole", &[100], 0, Data::Hole(400));
        w.tensor("made", &[2], 0, Data::Made(8, Box::new(|out| out.write_all(&[9; 8]))));
        let file = tempfile::NamedTempFile::new().unwrap();
        w.write(file.path()).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), w.to_bytes().unwrap());
    }

    #[test]
    fn parts_of_a_split_have_every_tensor_once() {
        let parts = small().split(3);
        let names: Vec<_> = parts.iter().flat_map(|p| p.tensors.iter().map(|t| t.name.clone())).collect();
        assert_eq!(names, [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(parts[0].entries.len(), 2 + 3);
    }
}
