//! SafeTensors: the container of HuggingFace's models.
//!
//! Layout: a 64-bit length, a JSON header of that many bytes, the tensor data, which stays in the mapping. The format's
//! own rules are enforced as its reference does, and what it leaves to its JSON parser too: no tensor twice, no overlap,
//! no hole, no byte after the last tensor. A file that keeps them cannot be an archive with something else at its end.
//!
//! What the tensors mean stands in files beside it: `hf` reads those.

pub mod writer;

use std::collections::BTreeMap;
use std::fmt;

use compute::{Bytes, Format};
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::cursor::{Cursor, elements, span};
use super::{Checked, Container, Metadata, Naming, Origins, Tensor, Value, at_most, hf, json};
use crate::error::{Error, Kind, Place, Result, quoted};
use crate::limits;

/// SafeTensors, as [`super::ALL`] lists it. There is no magic: the header's first byte is all there is to know it by.
pub static CONTAINER: Container =
    Container { name: "SafeTensors", sniff: |head| head.get(8) == Some(&b'{'), open: hf::open_file };

/// Prefix of the metadata keys that stand in the header itself.
const OWN: &str = "safetensors.";

/// How an element type is used.
enum Use {
    /// In place.
    As(&'static str),
    /// Each byte becomes the F16 of the same value.
    Widened(fn(u8) -> f32),
    /// Not as a weight.
    Not,
}

/// The element types of the format: name, bits, use.
const DTYPES: &[(&str, u64, Use)] = &[
    ("F32", 32, Use::As("F32")),
    ("F16", 16, Use::As("F16")),
    ("BF16", 16, Use::As("BF16")),
    ("F8_E4M3", 8, Use::Widened(e4m3)),
    ("F8_E5M2", 8, Use::Widened(e5m2)),
    ("F64", 64, Use::Not),
    ("F8_E8M0", 8, Use::Not),
    ("F6_E2M3", 6, Use::Not),
    ("F6_E3M2", 6, Use::Not),
    ("F4", 4, Use::Not),
    ("C64", 64, Use::Not),
    ("BOOL", 8, Use::Not),
    ("U8", 8, Use::Not),
    ("I8", 8, Use::Not),
    ("U16", 16, Use::Not),
    ("I16", 16, Use::Not),
    ("U32", 32, Use::Not),
    ("I32", 32, Use::Not),
    ("U64", 64, Use::Not),
    ("I64", 64, Use::Not),
];

/// Reads one SafeTensors file from memory or a mapping: its tensors, and its `__metadata__` under `safetensors.*`.
//= F-ST-076
//= F-CRIT-301
pub fn parse(bytes: Bytes) -> Result<Checked> {
    let mut c = Cursor::new(&bytes);
    let len = c.u64("the length of the header")?;
    if len == 0 || bytes.get(8) != Some(&b'{') {
        return Err(Error::malformed("not a SafeTensors file: no header begins with '{' there").at(Place::Byte(8)));
    }
    at_most(len, limits::SAFETENSORS_HEADER_BYTES_MAX, "bytes of header", Place::Byte(0))?;
    let header = c.take(len, "the header")?;
    let header = read_header(header)?;
    check_cover(&header, c.remaining())?;

    let start = c.position();
    let mut checked = Checked {
        format: "SafeTensors".into(),
        naming: Naming::HuggingFace,
        metadata: Metadata::default(),
        tensors: BTreeMap::new(),
        others: BTreeMap::new(),
        file_bytes: bytes.len() as u64,
        origins: Origins::default(),
        warnings: Vec::new(),
    };
    for (key, text) in header.metadata {
        checked.metadata.entries.insert(format!("{OWN}{key}"), Value::String(text));
    }
    for info in header.infos {
        let range = span(start, info.begin, info.end - info.begin, bytes.len() as u64);
        let data = range.and_then(|range| bytes.slice(range));
        let data = data.ok_or_else(|| Error::malformed("its data ends beyond the file").at(tensor(&info.name)))?;
        match as_weight(&info, data) {
            Ok(tensor) => drop(checked.tensors.insert(info.name, tensor)),
            Err(why) => drop(checked.others.insert(info.name, why)),
        }
    }
    Ok(checked)
}

fn tensor(name: &str) -> Place {
    Place::Tensor(name.into())
}

/// The tensor, or why it cannot be a weight.
fn as_weight(info: &Info, data: Bytes) -> std::result::Result<Tensor, String> {
    if info.shape.contains(&0) {
        return Err(format!("its shape {:?} has no element", info.shape));
    }
    if info.shape.len() > limits::TENSOR_DIMS_MAX as usize {
        return Err(format!(
            "a weight has at most {} dimensions, it has {}",
            limits::TENSOR_DIMS_MAX,
            info.shape.len()
        ));
    }
    // A single number is a vector of one.
    let shape = if info.shape.is_empty() { vec![1] } else { info.shape.clone() };
    let (name, _, how) = info.dtype;
    match how {
        //= F-ST-077
        //= F-ST-078
        //= F-ST-079
        //= F-ST-081
        Use::As(format) => match Format::from_name(format) {
            Some(format) => Ok(Tensor { format, shape, bytes: data }),
            None => Err(format!("numbers of type {name} are not supported")),
        },
        Use::Widened(value) => Ok(Tensor { format: Format::F16, shape, bytes: widened(&data, *value) }),
        Use::Not => Err(format!("numbers of type {name} are not supported as weights")),
    }
}

// ---- header

/// What the header says.
struct Header {
    metadata: BTreeMap<String, String>,
    infos: Vec<Info>,
}

/// A tensor: its element type, extents (slowest first), and bytes in the data section.
struct Info {
    name: String,
    dtype: &'static (&'static str, u64, Use),
    shape: Vec<usize>,
    begin: u64,
    end: u64,
}

//= F-ST-080
fn read_header(text: &[u8]) -> Result<Header> {
    let place = Place::Byte(8);
    let text = std::str::from_utf8(text)
        .map_err(|e| Error::malformed("the header is not valid UTF-8").at(Place::Byte(8 + e.valid_up_to() as u64)))?;
    let raw: RawHeader = serde_json::from_str(text)
        .map_err(|e| Error::malformed(format!("the header is not good: {}", json::shown(&e))).at(place))?;
    let infos = raw.tensors.into_iter().map(|(name, raw)| check_info(name, raw)).collect::<Result<_>>()?;
    Ok(Header { metadata: raw.metadata, infos })
}

/// Type, shape and extent of one tensor agree.
fn check_info(name: String, raw: RawInfo) -> Result<Info> {
    let bad = |what: String| Error::malformed(what).at(tensor(&name));
    at_most(name.len() as u64, limits::TENSOR_NAME_BYTES_MAX, "bytes of a tensor name", tensor(&name))?;
    let Some(dtype) = DTYPES.iter().find(|d| d.0 == raw.dtype) else {
        let names: Vec<&str> = DTYPES.iter().map(|d| d.0).collect();
        let what = format!("there is no element type {}", quoted(&raw.dtype));
        return Err(Error::new(Kind::Unsupported, what)
            .at(tensor(&name))
            .hint(format!("SafeTensors has {}", names.join(", "))));
    };
    let shape = raw.shape.0;
    let [begin, end] = raw.data_offsets;
    let bits = elements(&shape).and_then(|n| (n as u64).checked_mul(dtype.1));
    let bytes = bits.ok_or_else(|| bad(format!("the shape {shape:?} has too many elements to count")))?;
    if !bytes.is_multiple_of(8) {
        return Err(bad(format!("{shape:?} of {} are not whole bytes", dtype.0)));
    }
    if end.checked_sub(begin) != Some(bytes / 8) {
        let what =
            format!("the shape {shape:?} of {} has {} bytes, its offsets are {begin}..{end}", dtype.0, bytes / 8);
        return Err(bad(what));
    }
    Ok(Info { name, dtype, shape, begin, end })
}

/// The tensors cover the data section: each begins where the one before ends, the last ends with the file.
fn check_cover(header: &Header, data: u64) -> Result<()> {
    let mut sorted: Vec<&Info> = header.infos.iter().collect();
    sorted.sort_by_key(|i| (i.begin, i.end));
    let mut covered = 0;
    for info in sorted {
        if info.begin != covered {
            let what = match info.begin < covered {
                true => {
                    format!("its data begins at {}, inside the tensor before it, which ends at {covered}", info.begin)
                }
                false => format!(
                    "its data begins at {}, with a hole after the tensor before it, which ends at {covered}",
                    info.begin
                ),
            };
            return Err(Error::malformed(what).at(tensor(&info.name)));
        }
        if info.end > data {
            let what = format!("its data ends at {}, but the file has {data} bytes of data", info.end);
            return Err(Error::malformed(what)
                .at(tensor(&info.name))
                .hint("the file is incomplete or damaged; fetch it again"));
        }
        covered = info.end;
    }
    if covered != data {
        let what = format!("{} bytes follow the last tensor", data - covered);
        return Err(Error::malformed(what).at(Place::Byte(covered)).hint("SafeTensors files hold nothing else"));
    }
    Ok(())
}

// ---- the header's JSON, read as it comes: nothing is kept that the format does not have

struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, RawInfo>,
}

#[derive(Deserialize)]
struct RawInfo {
    dtype: String,
    shape: Shape,
    data_offsets: [u64; 2],
}

/// Extents, so many and no more.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Shape, D::Error> {
        struct Extents;
        impl<'de> Visitor<'de> for Extents {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of extents")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> std::result::Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(extent) = from.next_element::<usize>()? {
                    shape.push(extent);
                    room(shape.len(), limits::SAFETENSORS_DIMS_MAX as u64, "dimensions")?;
                }
                Ok(Shape(shape))
            }
        }
        from.deserialize_seq(Extents)
    }
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<RawHeader, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> std::result::Result<RawHeader, A::Error> {
                let mut header = RawHeader { metadata: BTreeMap::new(), tensors: BTreeMap::new() };
                let mut described = false;
                while let Some(name) = from.next_key::<String>()? {
                    let wrong = |e: A::Error| A::Error::custom(format!("{}: {e}", quoted(&name)));
                    if name == "__metadata__" {
                        if described {
                            return Err(A::Error::custom("__metadata__ stands there twice"));
                        }
                        described = true;
                        header.metadata = from.next_value_seed(Strings).map_err(wrong)?;
                        continue;
                    }
                    let info = from.next_value().map_err(wrong)?;
                    if header.tensors.contains_key(&name) {
                        return Err(A::Error::custom(format!("the tensor {} stands there twice", quoted(&name))));
                    }
                    header.tensors.insert(name, info);
                    room(header.tensors.len(), limits::TENSORS_MAX, "tensors")?;
                }
                Ok(header)
            }
        }
        from.deserialize_map(Entries)
    }
}

/// Text by text, no key twice.
struct Strings;

impl<'de> DeserializeSeed<'de> for Strings {
    type Value = BTreeMap<String, String>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Strings {
    type Value = BTreeMap<String, String>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> std::result::Result<Self::Value, A::Error> {
        let mut strings = BTreeMap::new();
        while let Some((key, text)) = from.next_entry::<String, String>()? {
            if strings.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {} stands there twice", quoted(&key))));
            }
            strings.insert(key, text);
            room(strings.len(), limits::METADATA_ENTRIES_MAX, "metadata entries")?;
        }
        Ok(strings)
    }
}

fn room<E: serde::de::Error>(n: usize, max: u64, what: &str) -> std::result::Result<(), E> {
    if n as u64 > max { Err(E::custom(format!("more than {max} {what}, the limit of this build"))) } else { Ok(()) }
}

// ---- eight-bit floats (Micikevicius et al. 2022), every value of which is a value of F16

/// Four bits of exponent, three of mantissa; no infinities, one NaN.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7) / 8.0);
    let size = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-6),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { size } else { -size }
}

/// Five bits of exponent, two of mantissa: the upper half of an F16.
fn e5m2(byte: u8) -> f32 {
    let mut value = [0.0];
    Format::F16.decode_row(&[0, byte], &mut value);
    value[0]
}

fn widened(bytes: &[u8], value: fn(u8) -> f32) -> Bytes {
    let halves: Vec<[u8; 2]> = (0..=u8::MAX)
        .map(|byte| {
            let mut half = [0; 2];
            Format::F16.encode_row(&[value(byte)], &mut half);
            half
        })
        .collect();
    bytes.iter().flat_map(|b| halves[usize::from(*b)]).collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of this header and so many bytes of data.
    fn file(header: &str, data: usize) -> Result<Checked> {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0x38; data]].concat();
        parse(bytes.into())
    }

    #[test]
    fn a_file_is_what_its_header_says() {
        let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[3],"data_offsets":[8,14]},
            "a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"i":{"dtype":"I64","shape":[],"data_offsets":[14,22]},
            "e":{"dtype":"F32","shape":[0,7],"data_offsets":[22,22]},"s":{"dtype":"BF16","shape":[],"data_offsets":[22,24]}}   "#;
        let read = file(header, 24).unwrap();
        assert_eq!(read.metadata.string("safetensors.format").unwrap(), Some("pt"));
        assert_eq!(read.tensors.keys().collect::<Vec<_>>(), ["a", "b", "s"]);
        assert_eq!((read.tensors["a"].format, &read.tensors["a"].shape[..]), (Format::F32, &[1, 2][..]));
        assert_eq!((read.tensors["b"].bytes.len(), read.tensors["s"].shape.len()), (6, 1));
        assert!(read.others["i"].contains("I64") && read.others["e"].contains("no element"));
    }

    #[test]
    fn each_rule_of_the_format_is_kept() {
        let one = |fields: &str, data: usize| file(&format!("{{\"a\":{{{fields}}}}}"), data);
        let refused = |r: Result<Checked>, word: &str| {
            let e = r.expect_err("refused");
            assert!(e.to_string().contains(word) && e.at.is_some(), "{word}: {e}");
        };
        assert!(one(r#""dtype":"F16","shape":[2],"data_offsets":[0,4]"#, 4).is_ok());
        refused(one(r#""dtype":"F16","shape":[2],"data_offsets":[4,0]"#, 4), "offsets are 4..0");
        refused(one(r#""dtype":"F16","shape":[2],"data_offsets":[2,6]"#, 6), "hole");
        refused(one(r#""dtype":"F16","shape":[2],"data_offsets":[0,4]"#, 3), "has 3 bytes of data");
        refused(one(r#""dtype":"F16","shape":[2],"data_offsets":[0,4]"#, 5), "1 bytes follow");
        refused(one(r#""dtype":"F16","shape":[3],"data_offsets":[0,4]"#, 4), "has 6 bytes");
        refused(one(r#""dtype":"F16","shape":[4294967296,4294967296],"data_offsets":[0,0]"#, 0), "too many elements");
        assert!(one(r#""dtype":"F16","shape":[1,1,1,1,2],"data_offsets":[0,4]"#, 4).unwrap().others.contains_key("a"));
        refused(one(r#""dtype":"Q4","shape":[2],"data_offsets":[0,4]"#, 4), "'Q4'");
        refused(one(r#""dtype":"F4","shape":[3],"data_offsets":[0,2]"#, 2), "whole bytes");
        for offsets in ["[-1,3]", "[0,4,4]", "[0.0,4.0]", "[0]", "null"] {
            refused(one(&format!(r#""dtype":"F16","shape":[2],"data_offsets":{offsets}"#), 4), "'a'");
        }
        refused(one(r#""dtype":"F16","shape":[2]"#, 4), "data_offsets");
        refused(one(r#""dtype":"F16","dtype":"F16","shape":[2],"data_offsets":[0,4]"#, 4), "duplicate");
        let two = |b: &str, c: &str| {
            let info = r#""dtype":"U8","shape":[2],"data_offsets":"#;
            file(&format!(r#"{{"{b}":{{{info}[0,2]}},"{c}":{{{info}[1,3]}}}}"#), 3)
        };
        refused(two("b", "c"), "inside the tensor before");
        refused(two("b", "b"), "twice");
        refused(file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "twice");
        refused(file(r#"{"__metadata__":{"a":1}}"#, 0), "__metadata__");
        refused(file(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0), "twice");
        refused(file(" {}", 0), "begin");
        refused(file("{}\0", 0), "not good");
        refused(file("{", 0), "not good");
        refused(parse(vec![0; 7].into()), "ends inside");
        refused(parse([&9u64.to_le_bytes()[..], b"{}"].concat().into()), "ends inside");
        refused(parse([&u64::MAX.to_le_bytes()[..], b"{}"].concat().into()), "limit");
        refused(parse([&2u64.to_le_bytes()[..], &[b'{', 0xff]].concat().into()), "UTF-8");
    }

    /// Values from the paper's tables.
    #[test]
    fn eight_bit_floats_are_widened_exactly() {
        let all: Vec<u8> = (0..=255).collect();
        let halves = |value: fn(u8) -> f32| {
            let mut out = vec![0.0; 256];
            Format::F16.decode_row(&widened(&all, value), &mut out);
            out
        };
        let (a, b) = (halves(e4m3), halves(e5m2));
        assert_eq!([a[0x7e], a[0x08], a[0x07], a[0x01]], [448.0, 2f32.powi(-6), 0.875 * 2f32.powi(-6), 2f32.powi(-9)]);
        assert!(a[0x7f].is_nan() && a[0xff].is_nan());
        assert_eq!(
            [b[0x7b], b[0x04], b[0x03], b[0x01]],
            [57344.0, 2f32.powi(-14), 0.75 * 2f32.powi(-14), 2f32.powi(-16)]
        );
        assert!(b[0x7c] == f32::INFINITY && b[0xfc] == f32::NEG_INFINITY && b[0x7d].is_nan());
        for (out, value) in [(&a, e4m3 as fn(u8) -> f32), (&b, e5m2)] {
            assert!((0..=255u8).all(|x| out[usize::from(x)].to_bits() == value(x).to_bits() || value(x).is_nan()));
            assert!((0..128).all(|x| out[x] == -out[x + 128] || out[x].is_nan()));
        }
    }
}
