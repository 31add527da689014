//! Bundles made by our writer and by hand, whole and damaged, through [`parse`] and through [`stream::Stream`].

use std::io::Read;

use proptest::prelude::*;

use super::stream::Stream;
use super::writer;
use super::*;
use crate::error::Kind;
use crate::file::outgoing::{Outgoing, unwritten};
use crate::file::{Metadata, Value};

fn metadata() -> Metadata {
    let mut m = Metadata::default();
    let mut set = |key: &str, value: Value| m.entries.insert(key.into(), value);
    set("general.architecture", Value::String("qwen2".into()));
    for key in
        ["embedding_length", "block_count", "attention.head_count", "feed_forward_length", "context_length", "extra"]
    {
        set(&format!("qwen2.{key}"), Value::Unsigned(key.len() as u64));
    }
    set("qwen2.attention.layer_norm_rms_epsilon", Value::Float(1e-6));
    m
}

/// A tensor: name, dtype, shape, bytes.
type Part = (&'static str, u8, Vec<usize>, Vec<u8>);

fn parts() -> Vec<Part> {
    let bytes = |n: u8| (0..n).collect::<Vec<u8>>();
    vec![
        ("z.f32", 0, vec![3, 5], bytes(60)),
        ("a.f16", 1, vec![2], bytes(4)),
        ("m.bf16", 30, vec![1, 32], bytes(64)),
        ("i4", 128, vec![2, 32], bytes(36)),
        ("i8", 129, vec![3, 3], bytes(13)),
    ]
}

/// The file that our writer makes of these.
fn bundle(parts: &[Part]) -> Vec<u8> {
    let mut out = Vec::new();
    let tensors: Vec<Outgoing<'_>> = parts
        .iter()
        .map(|(name, dtype, shape, bytes)| Outgoing { name, dtype: (*dtype).into(), shape, bytes: bytes.len() as u64 })
        .collect();
    writer::write(&mut out, &metadata(), &tensors, &mut |i, out| out.write_all(&parts[i].3).map_err(|e| unwritten(&e)))
        .unwrap();
    out
}

/// The same without what only aprender writes: bit 10 and the checksum.
fn of_realizar(parts: &[Part]) -> Vec<u8> {
    let mut bytes = bundle(parts);
    bytes.truncate(bytes.len() - FOOTER);
    reheaded(&bytes, |h| h.flags = 0x20)
}

/// A file with another header, and everything else as it is.
fn reheaded(bytes: &[u8], change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::parse(bytes).unwrap();
    change(&mut header);
    [&header.to_bytes()[..], &bytes[header::BYTES..]].concat()
}

/// The checksum at the end made right again.
fn resummed(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - FOOTER;
    let sum = crc32fast::hash(&bytes[..body]).to_le_bytes();
    bytes[body..].copy_from_slice(&sum);
    bytes
}

fn read(bytes: &[u8]) -> Result<Checked> {
    parse(bytes.to_vec().into())
}

/// Names, formats and bytes, as a stream hands them out.
fn streamed(reader: impl Read) -> Result<BTreeMap<String, (Storage, Vec<u8>)>> {
    let mut stream = Stream::open(reader)?;
    let mut all = BTreeMap::new();
    while let Some(tensor) = stream.next()? {
        let (name, storage) = (tensor.entry.name.clone(), tensor.entry.storage);
        all.insert(name, (storage, tensor.bytes()?));
    }
    Ok(all)
}

#[test]
fn what_is_written_is_read() {
    let bytes = bundle(&parts());
    assert_eq!(bytes.len() % ALIGNMENT, FOOTER);
    let read = read(&bytes).unwrap();
    assert_eq!(read.format, "APR v2 (aprender)");
    assert_eq!(read.metadata.entries, metadata().entries);
    let names: Vec<(&str, &str)> = read.tensors.iter().map(|(n, t)| (n.as_str(), t.format.0.name)).collect();
    assert_eq!(names, [("a.f16", "F16"), ("i4", "Q4_0"), ("i8", "F32"), ("m.bf16", "BF16"), ("z.f32", "F32")]);
    assert_eq!(read.tensors["z.f32"].bytes[..], parts()[0].3);
    assert_eq!(read.tensors["z.f32"].shape, [3, 5]);
    assert_eq!(read.tensors["i8"].bytes.len(), 36);
    let streamed = streamed(&bytes[..]).unwrap();
    for (name, _, _, bytes) in parts() {
        assert_eq!(streamed[name].1, bytes);
    }
}

#[test]
fn realizars_files_have_no_checksum_and_are_read() {
    let bytes = of_realizar(&parts());
    assert_eq!(read(&bytes).unwrap().format, "APR v2 (realizar)");
    // The padding of the last tensor may be missing; more may not.
    assert!(read(&bytes[..bytes.len() - 4]).is_ok() && streamed(&bytes[..bytes.len() - 4]).is_ok());
    assert!(read(&bytes[..bytes.len() - 5]).is_err() && streamed(&bytes[..bytes.len() - 5]).is_err());
    assert_eq!(streamed(&bytes[..]).unwrap().len(), 5);
    // Aprender never leaves the checksum out: such a file was cut.
    let cut = reheaded(&bytes, |h| h.flags = flag::ROW_MAJOR);
    assert!(read(&cut).is_err() && streamed(&cut[..]).is_err());
}

#[test]
fn damage_anywhere_is_found() {
    let bytes = bundle(&parts());
    for len in 0..bytes.len() {
        let e = read(&bytes[..len]).unwrap_err();
        assert!(e.at.is_some(), "cut to {len}: {e}");
        assert!(streamed(&bytes[..len]).is_err(), "cut to {len}, streamed");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let e = read(&damaged).unwrap_err();
        assert!(e.at.is_some(), "byte {at}: {e}");
        assert!(streamed(&damaged[..]).is_err(), "byte {at}, streamed");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(read(&longer).is_err() && streamed(&longer[..]).is_err());
}

#[test]
fn tensors_overlap_nowhere_and_stay_inside() {
    let two = vec![("a", 0, vec![1], vec![0; 4]), ("b", 0, vec![1], vec![0; 4])];
    let good = bundle(&two);
    let header = Header::parse(&good).unwrap();
    // An entry of one letter and one extent is 2 + 1 + 1 + 1 + 8 + 8 + 8 bytes.
    let offset = header.index + 29 + 13;
    assert_eq!(good[offset], 64);
    let with = |n: u64| {
        let mut bytes = good.clone();
        bytes[offset..offset + 8].copy_from_slice(&n.to_le_bytes());
        resummed(bytes)
    };
    for n in [0, 1, 128, 1 << 40, u64::MAX - 63] {
        let e = read(&with(n)).unwrap_err();
        assert!(e.kind == Kind::Malformed && streamed(&with(n)[..]).is_err(), "{n}: {e}");
    }
    assert_eq!(read(&with(0)).unwrap_err().at, Some(Place::Tensor("b".into())));
}

#[test]
fn a_head_without_bytes_is_a_tied_one() {
    let tied = vec![("lm_head.weight", 0, vec![2, 4], vec![]), ("x", 0, vec![1], vec![1, 2, 3, 4])];
    let read = read(&bundle(&tied)).unwrap();
    assert_eq!(read.tensors.keys().collect::<Vec<_>>(), ["x"]);
    let other = vec![("other", 0, vec![2, 4], vec![])];
    assert!(super::parse(bundle(&other).into()).is_err());
}

#[test]
fn padded_rows_lose_their_padding() {
    // Two rows of 40 in blocks of 32: Q8_0 blocks of scale 1 that count.
    let block = |from: u8| [&[0, 0x3c][..], &(from..from + 32).collect::<Vec<u8>>()].concat();
    let bytes = [block(0), block(32), block(64), block(96)].concat();
    let read = read(&of_realizar(&[("t", 8, vec![2, 40], bytes)])).unwrap();
    let t = &read.tensors["t"];
    let values: Vec<f32> = t.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let want: Vec<f32> = (0..40).chain(64..104).map(|n| n as f32).collect();
    assert_eq!((t.format, values), (Format::F32, want));
}

#[test]
fn parts_of_a_bundle_find_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = |no: usize| dir.path().join(format!("m-{no:05}-of-00002.apr"));
    let part = |no: u64, parts: &[Part]| {
        let mut m = metadata();
        m.entries.insert("sharding.shard_count".into(), Value::Unsigned(2));
        m.entries.insert("sharding.shard_index".into(), Value::Unsigned(no));
        let tensors: Vec<Outgoing<'_>> = parts
            .iter()
            .map(|(name, dtype, shape, b)| Outgoing { name, dtype: (*dtype).into(), shape, bytes: b.len() as u64 })
            .collect();
        let mut out = Vec::new();
        writer::write(&mut out, &m, &tensors, &mut |i, out| out.write_all(&parts[i].3).map_err(|e| unwritten(&e)))
            .unwrap();
        resummed(reheaded(&out, |h| h.flags |= flag::SHARDED))
    };
    std::fs::write(path(1), part(0, &parts()[..2])).unwrap();
    std::fs::write(path(2), part(1, &parts()[2..])).unwrap();
    for no in [1, 2] {
        assert_eq!(crate::file::open(&path(no)).unwrap().tensors.len(), 5);
    }
    std::fs::write(path(2), part(0, &parts()[2..])).unwrap();
    assert!(crate::file::open(&path(1)).unwrap_err().what.contains("is not part 2 of 2"));
    std::fs::remove_file(path(2)).unwrap();
    assert_eq!(crate::file::open(&path(1)).unwrap_err().kind, Kind::NotFound);
}

/// A reader that gives one byte at a time, as pipes may.
struct Dripping<'a>(&'a [u8]);

impl Read for Dripping<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = out.len().min(1);
        self.0.read(&mut out[..n])
    }
}

#[test]
fn a_stream_may_drip_and_tensors_may_be_left_unread() {
    let bytes = bundle(&parts());
    assert_eq!(streamed(Dripping(&bytes)).unwrap(), streamed(&bytes[..]).unwrap());
    let mut stream = Stream::open(&bytes[..]).unwrap();
    let mut seen = 0;
    while let Some(mut tensor) = stream.next().unwrap() {
        let mut two = [0; 2];
        assert_eq!(tensor.read(&mut two).unwrap(), 2);
        seen += 1;
    }
    assert_eq!(seen, stream.entries().len());
}

proptest! {
    /// Whatever a header, an index or metadata says, nothing panics, and what is accepted is whole.
    #[test]
    fn nothing_panics(at in 0usize..700, with in prop::collection::vec(any::<u8>(), 1..12), sums in any::<bool>()) {
        let mut bytes = bundle(&parts());
        for (i, b) in with.iter().enumerate() {
            if let Some(byte) = bytes.get_mut(at + i) {
                *byte = *b;
            }
        }
        if sums {
            if let Ok(header) = Header::parse(&bundle(&parts())) {
                let fresh = header.to_bytes();
                bytes[40..44].copy_from_slice(&fresh[40..44]);
            }
            bytes = resummed(bytes);
        }
        match read(&bytes) {
            Err(e) => prop_assert!(e.at.is_some() && !e.to_string().contains('\n')),
            Ok(read) => for (name, t) in &read.tensors {
                let whole = crate::file::cursor::tensor_bytes(t.format, &t.shape);
                prop_assert_eq!(whole, Some(t.bytes.len()), "{}", name);
            },
        }
        let _met = streamed(&bytes[..]);
    }
}
