//! What the forge wrote into a GGUF file, held against what the engine read out of it.
//!
//! The forge keeps the bytes of every value; they are read here once more, from the format's description and with none
//! of the engine's code.

use engine::file::{Checked, Value as Read};

use crate::forge::gguf::{Data, Value, Writer};
use crate::verdict::{Halt, Refutation, Tally, instrument};

/// Every key with its value and every tensor with its shape and bytes, and nothing else.
pub fn as_written(t: &mut Tally, file: &str, w: &Writer, read: &Checked) -> Result<(), Halt> {
    let keys: Vec<&String> = read.metadata.entries.keys().collect();
    t.equal(&format!("{file}: as many keys as were written"), &keys.len(), &w.entries.len())?;
    for e in &w.entries {
        let key = String::from_utf8_lossy(&e.key).into_owned();
        let want = value_of(e.type_id, &mut &e.value[..]).ok_or_else(|| instrument(format!("{key} has no value")))?;
        let got = read.metadata.get(&key);
        t.hold(got.is_some_and(|got| same(got, &want)), || {
            Refutation::new(format!("{file}: {key} is what was written"), format!("{got:?}"), format!("{want:?}"))
        })?;
    }
    t.equal(&format!("{file}: as many tensors as were written"), &read.tensors.len(), &w.tensors.len())?;
    for tensor in &w.tensors {
        let name = String::from_utf8_lossy(&tensor.name).into_owned();
        let shape: Vec<usize> = tensor.dims.iter().rev().map(|&d| d as usize).collect();
        let Data::Bytes(bytes) = &tensor.data else { return Err(instrument("a hole")) };
        let got = read.tensors.get(&name).map(|g| (g.shape.clone(), g.format.0.ggml_type, g.bytes[..] == bytes[..]));
        t.equal(&format!("{file}: {name} is what was written"), &got, &Some((shape, tensor.type_id, true)))?;
    }
    Ok(())
}

/// A value as its bytes stand in a file, read from the format's description.
fn value_of(type_id: u32, bytes: &mut &[u8]) -> Option<Read> {
    fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
        let (head, rest) = bytes.split_at_checked(n)?;
        *bytes = rest;
        Some(head)
    }
    fn number<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        take(bytes, N)?.try_into().ok()
    }
    let signed = |n: i64| if n < 0 { Read::Signed(n) } else { Read::Unsigned(n as u64) };
    Some(match type_id {
        0 => Read::Unsigned(u8::from_le_bytes(number(bytes)?).into()),
        1 => signed(i8::from_le_bytes(number(bytes)?).into()),
        2 => Read::Unsigned(u16::from_le_bytes(number(bytes)?).into()),
        3 => signed(i16::from_le_bytes(number(bytes)?).into()),
        4 => Read::Unsigned(u32::from_le_bytes(number(bytes)?).into()),
        5 => signed(i32::from_le_bytes(number(bytes)?).into()),
        6 => Read::Float(f32::from_le_bytes(number(bytes)?).into()),
        7 => Read::Bool(take(bytes, 1)? == [1]),
        8 => {
            let len = u64::from_le_bytes(number(bytes)?) as usize;
            let text = take(bytes, len)?.to_vec();
            String::from_utf8(text).map_or_else(|e| Read::RawString(e.into_bytes()), Read::String)
        }
        9 => {
            let element = u32::from_le_bytes(number(bytes)?);
            let len = u64::from_le_bytes(number(bytes)?);
            Read::Array((0..len).map(|_| value_of(element, bytes)).collect::<Option<_>>()?)
        }
        10 => Read::Unsigned(u64::from_le_bytes(number(bytes)?)),
        11 => signed(i64::from_le_bytes(number(bytes)?)),
        12 => Read::Float(f64::from_le_bytes(number(bytes)?)),
        _ => return None,
    })
}

/// Equal, with NaN equal to itself and the zeros apart.
fn same(a: &Read, b: &Read) -> bool {
    match (a, b) {
        (Read::Float(a), Read::Float(b)) => a.to_bits() == b.to_bits(),
        (Read::Array(a), Read::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b,
    }
}

/// Both ends of every type, alone and in arrays, and tensors that alignment keeps apart.
pub fn extremes(version: u32, alignment: u32) -> Writer {
    let mut w = Writer::new(version);
    w.align(alignment);
    for (key, ends) in [
        ("u8", [Value::U8(0), Value::U8(u8::MAX)]),
        ("i8", [Value::I8(i8::MIN), Value::I8(i8::MAX)]),
        ("u16", [Value::U16(0), Value::U16(u16::MAX)]),
        ("i16", [Value::I16(i16::MIN), Value::I16(i16::MAX)]),
        ("u32", [Value::U32(0), Value::U32(u32::MAX)]),
        ("i32", [Value::I32(i32::MIN), Value::I32(i32::MAX)]),
        ("f32", [Value::F32(-0.0), Value::F32(f32::MIN_POSITIVE / 4.0)]),
        ("bool", [Value::Bool(0), Value::Bool(1)]),
        ("string", ["".into(), "zwei Wörter, 三个字, \u{1f980}\0\n".into()]),
        ("u64", [Value::U64(0), Value::U64(u64::MAX)]),
        ("i64", [Value::I64(i64::MIN), Value::I64(-1)]),
        ("f64", [Value::F64(f64::NAN), Value::F64(f64::NEG_INFINITY)]),
    ] {
        let type_id = ends[0].type_id();
        w.set(&format!("{key}.array"), Value::Array(type_id, ends.to_vec()));
        w.set(&format!("{key}.none"), Value::Array(type_id, Vec::new()));
        let nested = ends.iter().map(|end| Value::Array(type_id, vec![end.clone()])).collect();
        w.set(&format!("{key}.nested"), Value::Array(9, nested));
        let [low, high] = ends;
        w.set(&format!("{key}.low"), low);
        w.set(&format!("{key}.high"), high);
    }
    w.tensor("a", &[3], 0, Data::Bytes((0..12).collect()));
    w.tensor("b", &[1, 2, 1, 3], 1, Data::Bytes((0..12).rev().collect()));
    w
}
