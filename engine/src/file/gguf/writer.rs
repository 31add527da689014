//! Writes GGUF version 3, little-endian, alignment 32: what llama.cpp's own tools write.
//!
//! Our metadata does not keep how wide an integer was. Files have `u32`, `i32` and `f32` almost everywhere, readers
//! want exactly these for keys that they know, so the narrowest of them that holds the value is written.

use std::io::Write;

use super::{ALIGNMENT_DEFAULT, ALIGNMENT_KEY, MAGIC};
use crate::error::{Error, Place, Result};
use crate::file::outgoing::{Counted, Data, Outgoing};
use crate::file::{Metadata, Value};

/// Keys, or how they begin, whose integers are signed in every file, whatever they hold.
const SIGNED: &[&str] = &["tokenizer.ggml.token_type", "general.sampling."];

/// Writes a model.
pub fn write(out: &mut dyn Write, metadata: &Metadata, tensors: &[Outgoing<'_>], data: Data<'_>) -> Result<()> {
    // What belongs to the old file and not to the model.
    let own = |key: &str| key == ALIGNMENT_KEY || key.starts_with("split.");
    let mut entries: Vec<_> = metadata.entries.iter().filter(|(key, _)| !own(key)).collect();
    // Other programs want to know first what this is.
    entries.sort_by_key(|(key, _)| !key.starts_with("general."));
    let mut head = MAGIC.to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        put_text(&mut head, key.as_bytes());
        let typed = typed(value, SIGNED.iter().any(|signed| key.starts_with(signed))).ok_or_else(|| {
            Error::malformed("a list of several kinds has no type in GGUF").at(Place::Key(key.clone()))
        })?;
        head.extend(typed.id.to_le_bytes());
        head.extend(typed.bytes);
    }
    let mut offset = 0u64;
    for t in tensors {
        put_text(&mut head, t.name.as_bytes());
        head.extend((t.shape.len() as u32).to_le_bytes());
        t.shape.iter().rev().for_each(|&extent| head.extend((extent as u64).to_le_bytes()));
        head.extend(t.dtype.to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += t.bytes.next_multiple_of(ALIGNMENT_DEFAULT);
    }
    let mut out = Counted::new(out);
    out.section(&head, ALIGNMENT_DEFAULT as usize)?;
    for (i, t) in tensors.iter().enumerate() {
        out.tensor(t, i, data, ALIGNMENT_DEFAULT as usize)?;
    }
    Ok(())
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

/// A value with its type in the file.
struct Typed {
    id: u32,
    bytes: Vec<u8>,
}

/// `None` for a list whose elements have no type in common.
fn typed(value: &Value, signed: bool) -> Option<Typed> {
    let text = |bytes: &[u8]| {
        let mut out = Vec::new();
        put_text(&mut out, bytes);
        Typed { id: super::STRING, bytes: out }
    };
    Some(match value {
        Value::Bool(b) => Typed { id: 7, bytes: vec![u8::from(*b)] },
        Value::String(s) => text(s.as_bytes()),
        Value::RawString(s) => text(s),
        Value::Array(items) => list(items, signed)?,
        number => {
            let kind = Number::of(std::slice::from_ref(number), signed)?;
            Typed { id: kind as u32, bytes: kind.bytes(number) }
        }
    })
}

fn list(items: &[Value], signed: bool) -> Option<Typed> {
    let mut out = Vec::new();
    let number = matches!(items.first(), Some(Value::Unsigned(_) | Value::Signed(_) | Value::Float(_)));
    let (id, elements) = if number {
        let kind = Number::of(items, signed)?;
        (kind as u32, items.iter().map(|item| kind.bytes(item)).collect())
    } else {
        let typed: Vec<Typed> = items.iter().map(|item| typed(item, signed)).collect::<Option<_>>()?;
        // An empty list is one of texts: the lists that are empty in files are those of merges.
        let id = typed.first().map_or(super::STRING, |first| first.id);
        if typed.iter().any(|t| t.id != id) {
            return None;
        }
        (id, typed.into_iter().map(|t| t.bytes).collect::<Vec<_>>())
    };
    out.extend(id.to_le_bytes());
    out.extend((elements.len() as u64).to_le_bytes());
    elements.iter().for_each(|bytes| out.extend(bytes));
    Some(Typed { id: super::ARRAY, bytes: out })
}

/// The types of numbers that are written, by their ids.
#[derive(Clone, Copy)]
enum Number {
    U32 = 4,
    I32 = 5,
    F32 = 6,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Number {
    /// The type that holds all of these. `None` if they are not all numbers.
    fn of(items: &[Value], signed: bool) -> Option<Number> {
        let (mut float, mut negative, mut wide) = (false, signed, false);
        for item in items {
            match item {
                Value::Unsigned(n) => wide |= *n > if signed { i32::MAX as u64 } else { u32::MAX.into() },
                Value::Signed(n) => {
                    negative = true;
                    wide |= i32::try_from(*n).is_err();
                }
                Value::Float(x) => {
                    float = true;
                    wide |= f64::from(*x as f32).to_bits() != x.to_bits() && !x.is_nan();
                }
                _ => return None,
            }
        }
        let beyond = |item: &Value| matches!(item, Value::Unsigned(n) if *n > i32::MAX as u64);
        wide |= negative && items.iter().any(beyond);
        Some(match (float, negative, wide) {
            (true, _, false) => Number::F32,
            (true, _, true) => Number::F64,
            (false, false, false) => Number::U32,
            (false, false, true) => Number::U64,
            (false, true, false) => Number::I32,
            (false, true, true) => Number::I64,
        })
    }

    fn bytes(self, value: &Value) -> Vec<u8> {
        // A u64 beyond i64 among negative numbers is in no file that was ever read: each list came from one type.
        let integer = match *value {
            Value::Unsigned(n) => n as i64,
            Value::Signed(n) => n,
            _ => 0,
        };
        let float = match *value {
            Value::Unsigned(n) => n as f64,
            Value::Signed(n) => n as f64,
            Value::Float(x) => x,
            _ => 0.0,
        };
        match self {
            Number::U32 => (integer as u32).to_le_bytes().to_vec(),
            Number::I32 => (integer as i32).to_le_bytes().to_vec(),
            Number::U64 | Number::I64 => integer.to_le_bytes().to_vec(),
            Number::F32 => (float as f32).to_le_bytes().to_vec(),
            Number::F64 => float.to_le_bytes().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::gguf::parse;

    #[test]
    fn every_kind_of_value_comes_back() {
        let mut m = Metadata::default();
        let ints = |n: &[i64]| {
            Value::Array(n.iter().map(|&n| u64::try_from(n).map_or(Value::Signed(n), Value::Unsigned)).collect())
        };
        for (key, value) in [
            ("general.architecture", Value::String("x".into())),
            ("a", Value::Unsigned(u64::MAX)),
            ("b", Value::Signed(i64::MIN)),
            ("c", Value::Float(0.1)),
            ("d", Value::Float(f64::from(1e-6f32))),
            ("e", Value::Bool(true)),
            ("f", ints(&[1, 2, u32::MAX.into()])),
            ("g", ints(&[-1, 1 << 40])),
            ("h", ints(&[-1, 3_000_000_000])),
            ("tokenizer.ggml.token_type", ints(&[1, 3])),
            ("i", Value::Array(vec![Value::RawString(vec![0xff]), Value::String("y".into())])),
            ("j", Value::Array(Vec::new())),
            ("k", Value::Array(vec![ints(&[1]), ints(&[-1])])),
            ("l", Value::Array(vec![Value::Float(0.5), Value::Float(1.5)])),
            ("general.alignment", Value::Unsigned(64)),
        ] {
            m.entries.insert(key.into(), value);
        }
        let tensors = [
            Outgoing { name: "t", dtype: 0, shape: &[2, 3], bytes: 24 },
            Outgoing { name: "s", dtype: 1, shape: &[1], bytes: 2 },
        ];
        let mut out = Vec::new();
        let mut data = |i: usize, out: &mut dyn Write| {
            out.write_all(&[i as u8 + 1; 24][..tensors[i].bytes as usize])
                .map_err(|e| crate::file::outgoing::unwritten(&e))
        };
        write(&mut out, &m, &tensors, &mut data).unwrap();
        let read = parse(out.into()).unwrap();
        m.entries.remove("general.alignment");
        assert_eq!(read.metadata.entries, m.entries);
        assert_eq!((read.tensors["t"].shape.as_slice(), &read.tensors["s"].bytes[..]), (&[2, 3][..], &[2, 2][..]));
    }

    #[test]
    fn mixtures_have_no_type() {
        let mixed = Value::Array(vec![Value::Bool(true), Value::String("x".into())]);
        assert!(typed(&mixed, false).is_none());
        assert_eq!(typed(&Value::Unsigned(7), false).unwrap().id, 4);
        assert_eq!(typed(&Value::Array(vec![Value::Unsigned(7)]), true).unwrap().bytes[0], 5);
    }
}
