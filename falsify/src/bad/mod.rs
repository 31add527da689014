//! Bad inputs, family by family: files that are damaged or were never right, texts and templates that are hard to
//! bear. One file per group of families, each a table. A file is made from a good one of the forge with one thing
//! changed, so that it is that thing which has to be refused: the table says with which kind and at which place. This
//! folder knows no check and no row.
//!
//! The numbers of the families are those of the tables' comments; they stand in the names of the cases too.

pub mod apr;
pub mod command_line;
pub mod damage;
pub mod files;
pub mod header;
pub mod http;
pub mod hub;
pub mod hyper;
pub mod numbers;
pub mod safetensors;
pub mod template;
pub mod tensors;
pub mod text;
pub mod tokenizer;
pub mod weights;
pub mod wire;

use std::io;

use compute::Format;
use engine::{Kind, Place};

use crate::forge::gguf::{Header, Writer};
use crate::forge::models::Model;
use crate::forge::words::{CONTROL, Joins, NORMAL, Words};

/// A bad file, and what has to be said about it.
pub struct Bad {
    /// What is wrong with it.
    pub what: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// The kind of the refusal.
    pub kind: Kind,
    /// Where the refusal points.
    pub at: Place,
}

/// A change of a good file.
type Spoil = fn(&mut Writer);

/// A line of a table: what is wrong, how it is refused, where, and what is done to a good file.
type Row = (&'static str, Kind, At, Spoil);

/// A place, before the bytes of the file are known.
#[derive(Clone, Copy)]
enum At {
    /// Offset in the file.
    Byte(u64),
    /// So many bytes into a field of the header, as `forge::gguf::Field` names it.
    Field(&'static str, u64),
    /// So many bytes into the description of the first tensor.
    FirstTensor(u64),
    /// Behind all that is described: the padding.
    Padding,
    /// The end of the file.
    End,
    /// A metadata key.
    Key(&'static str),
    /// A tensor.
    Tensor(&'static str),
}

impl At {
    fn place(self, w: &Writer, header: &Header, file_bytes: usize) -> Place {
        let first_tensor = || header.fields.get(4 + 4 * w.entries.len()).map_or(0, |f| f.range.start);
        match self {
            At::Byte(n) => Place::Byte(n),
            At::Field(name, n) => Place::Byte(header.field(name).start as u64 + n),
            At::FirstTensor(n) => Place::Byte(first_tensor() as u64 + n),
            At::Padding => Place::Byte(header.fields.last().map_or(0, |f| f.range.end) as u64),
            At::End => Place::Byte(file_bytes as u64),
            At::Key(key) => Place::Key(key.into()),
            At::Tensor(name) => Place::Tensor(name.into()),
        }
    }
}

/// The files of a table.
fn files(family: &str, good: fn() -> io::Result<Writer>, rows: &[Row]) -> io::Result<Vec<Bad>> {
    let file = |(what, kind, at, spoil): &Row| {
        let mut w = good()?;
        spoil(&mut w);
        let bytes = w.to_bytes()?;
        let at = at.place(&w, &w.header(), bytes.len());
        Ok(Bad { what: format!("{family}: {what}"), kind: *kind, at, bytes })
    };
    rows.iter().map(file).collect()
}

/// The file that most tables spoil: a whole model of one layer and twelve tokens, some thousand bytes. The head is the
/// embedding table, and the last tensor is a matrix.
pub fn tiny() -> io::Result<Writer> {
    tiny_of("Q8_0")
}

/// The same with matrices of another format.
pub fn tiny_of(format: &str) -> io::Result<Writer> {
    let format = Format::from_name(format).ok_or_else(|| io::Error::other(format!("compute has no {format}")))?;
    let width = format.0.block_len.max(32);
    let model = Model { layers: 1, hidden: width, ffn: width, heads: 2, kv_heads: 1, ..Model::qwen2(format) };
    Model { words: twelve, padded: 12, rows: 12, context: 64, ..model }.file()
}

fn twelve() -> Words {
    let tokens = ["<|end|>", "<|im_start|>", "<|im_end|>", "a", "b", "s", "Ġ", "ab", "Ġa", "Ċ", "é", "abs"];
    let mut types = vec![CONTROL; 3];
    types.resize(tokens.len(), NORMAL);
    Words {
        pre: "qwen2",
        tokens: tokens.map(String::from).to_vec(),
        types,
        joins: Joins::Merges(["a b", "Ġ a", "ab s"].map(String::from).to_vec()),
        bos: 0,
        eos: 2,
        pad: 0,
        add_bos: false,
        template: "{% for m in messages %}{{ m.content }}{% endfor %}",
    }
}

/// An array of this many elements of a type, with the bytes that stand for them.
fn array(type_id: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&type_id.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

/// Types of metadata values, as files number them.
const STRING: u32 = 8;
const ARRAY: u32 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    /// What is refused must be the change and not the file.
    #[test]
    fn the_file_that_is_spoiled_is_good_and_small() {
        let bytes = tiny().unwrap().to_bytes().unwrap();
        assert!(bytes.len() < 12_000, "{} bytes", bytes.len());
        let read = engine::file::gguf::parse(bytes.into()).unwrap();
        engine::session::understand(read).map(drop).unwrap();
    }
}
