//! A SafeTensors writer, written from the format's description and with nothing of `engine`: see [`super::gguf`].
//!
//! It writes what it is told. Text of the header, lengths and offsets can be overridden, so a bad input is a good file
//! with one line changed.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use compute::Format;
use serde_json::{Value as Json, json};

use super::gguf::Data;

/// A file to be written. Overrides that are `None` are computed truthfully.
#[derive(Default)]
pub struct Writer {
    /// `__metadata__`, if there is any.
    pub metadata: Vec<(String, String)>,
    /// Tensors, in order of description and of data.
    pub tensors: Vec<Tensor>,
    /// Overrides the text of the header.
    pub header: Option<Vec<u8>>,
    /// Overrides the length in front of it.
    pub header_len: Option<u64>,
    /// Blanks after the header's JSON, beyond those that align the data to eight bytes.
    pub blanks: usize,
    /// What follows the last tensor.
    pub tail: Vec<u8>,
}

/// One tensor: its description and its data.
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Element type: `BF16`.
    pub dtype: String,
    /// Extents, slowest first.
    pub shape: Vec<usize>,
    /// Overrides where the data begins and ends.
    pub offsets: Option<Json>,
    /// What stands there.
    pub data: Data,
}

impl Writer {
    /// Adds a tensor.
    pub fn tensor(&mut self, name: &str, dtype: &str, shape: &[usize], data: Data) {
        let (name, dtype, shape) = (name.into(), dtype.into(), shape.to_vec());
        self.tensors.push(Tensor { name, dtype, shape, offsets: None, data });
    }

    /// The tensor with this name, to be spoiled. Panics if there is none.
    pub fn named(&mut self, name: &str) -> &mut Tensor {
        let found = self.tensors.iter_mut().find(|t| t.name == name);
        found.unwrap_or_else(|| panic!("the file has no tensor {name}"))
    }

    /// The header's JSON, padded so that data begins at a multiple of eight.
    pub fn header(&self) -> Vec<u8> {
        if let Some(text) = &self.header {
            return text.clone();
        }
        let entry = |key: &str, value: Json| format!("{}:{value}", Json::from(key));
        let mut entries = Vec::new();
        if !self.metadata.is_empty() {
            let pairs: Vec<String> = self.metadata.iter().map(|(k, v)| entry(k, Json::from(v.as_str()))).collect();
            entries.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
        }
        let mut at = 0;
        for t in &self.tensors {
            let offsets = t.offsets.clone().unwrap_or_else(|| json!([at, at + t.data.len()]));
            entries.push(entry(&t.name, json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": offsets})));
            at += t.data.len();
        }
        let mut text = format!("{{{}}}", entries.join(",")).into_bytes();
        text.resize(text.len().next_multiple_of(8) + self.blanks, b' ');
        text
    }

    /// The whole file. For files that fit into memory.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut out = io::Cursor::new(Vec::new());
        self.put(&mut out)?;
        Ok(out.into_inner())
    }

    /// Writes the file; holes take no room on the disk.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        self.put(&mut out)?;
        let mut file = out.into_inner()?;
        let end = file.stream_position()?;
        file.set_len(end)
    }

    fn put<W: Write + Seek>(&self, out: &mut W) -> io::Result<()> {
        let header = self.header();
        out.write_all(&self.header_len.unwrap_or(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for t in &self.tensors {
            match &t.data {
                Data::Bytes(bytes) => out.write_all(bytes)?,
                Data::Hole(len) => drop(out.seek(SeekFrom::Current(*len as i64))?),
                Data::Made(_, make) => make(out)?,
            }
        }
        out.write_all(&self.tail)
    }

    /// A good file, taken apart so that it can be changed and written again.
    pub fn read(bytes: &[u8]) -> io::Result<Writer> {
        let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("no SafeTensors file: {what}"));
        let len = bytes.first_chunk().map(|n| u64::from_le_bytes(*n) as usize).ok_or_else(|| broken("too short"))?;
        let text = bytes.get(8..8 + len).ok_or_else(|| broken("its header is cut"))?;
        let header: Json = serde_json::from_slice(text)?;
        let mut w = Writer::default();
        let mut tensors = Vec::new();
        for (name, info) in header.as_object().into_iter().flatten() {
            if name == "__metadata__" {
                let pairs = info.as_object().into_iter().flatten();
                w.metadata = pairs.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().into())).collect();
                continue;
            }
            let number = |v: &Json| v.as_u64().unwrap_or(u64::MAX) as usize;
            let shape: Vec<usize> = info["shape"].as_array().into_iter().flatten().map(number).collect();
            let (begin, end) = (number(&info["data_offsets"][0]), number(&info["data_offsets"][1]));
            let data = begin.checked_add(8 + len).zip(end.checked_add(8 + len));
            let data = data.and_then(|(a, b)| bytes.get(a..b)).ok_or_else(|| broken("data that is not there"))?;
            let dtype = info["dtype"].as_str().unwrap_or_default().to_string();
            tensors.push((begin, name.clone(), dtype, shape, data.to_vec()));
        }
        tensors.sort();
        for (_, name, dtype, shape, data) in tensors {
            w.tensor(&name, &dtype, &shape, Data::Bytes(data));
        }
        Ok(w)
    }

    /// The same numbers in another type; those that it cannot hold are rounded. Holes become holes.
    pub fn convert(&mut self, dtype: &str) -> io::Result<()> {
        let unknown = |name: &str| io::Error::other(format!("no floats of type {name}"));
        let to = Format::from_name(dtype).ok_or_else(|| unknown(dtype))?;
        for t in &mut self.tensors {
            let from = Format::from_name(&t.dtype).ok_or_else(|| unknown(&t.dtype))?;
            let n: usize = t.shape.iter().product();
            t.data = match &t.data {
                Data::Bytes(bytes) => {
                    let mut values = vec![0.0; n];
                    from.decode_row(bytes, &mut values);
                    let mut out = vec![0; n * to.0.block_bytes];
                    to.encode_row(&values, &mut out);
                    Data::Bytes(out)
                }
                _ => Data::Hole((n * to.0.block_bytes) as u64),
            };
            t.dtype = to.0.name.into();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_by_the_engine_too() {
        let mut w = Writer { metadata: vec![("format".into(), "pt \"x\"".into())], ..Writer::default() };
        w.tensor("b\n", "F32", &[1, 2], Data::Bytes(vec![1; 8]));
        w.tensor("a", "F16", &[3], Data::Bytes(vec![2; 6]));
        let bytes = w.to_bytes().unwrap();
        let again = Writer::read(&bytes).unwrap();
        assert_eq!(again.to_bytes().unwrap(), bytes);
        let read = engine::file::safetensors::parse(bytes.into()).unwrap();
        assert_eq!(read.tensors.keys().collect::<Vec<_>>(), ["a", "b\n"]);
        assert_eq!(read.tensors["b\n"].bytes[..], [1; 8]);
    }

    #[test]
    fn numbers_are_the_same_in_a_wider_type() {
        let mut w = Writer::default();
        w.tensor("a", "BF16", &[2], Data::Bytes(vec![0x80, 0x3f, 0x20, 0xc1]));
        w.convert("F32").unwrap();
        let Data::Bytes(bytes) = &w.tensors[0].data else { panic!("a hole") };
        assert_eq!(bytes[..], [1f32.to_le_bytes(), (-10f32).to_le_bytes()].concat());
    }
}
