//! Files made here byte by byte, valid and not, and what [`parse`] says about each.

use proptest::prelude::*;

use super::*;

const Q8_0: u32 = 8;
const F32: u32 = 0;

fn string(s: &[u8]) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s].concat()
}

fn entry(key: &str, type_id: u32, value: &[u8]) -> Vec<u8> {
    [&string(key.as_bytes())[..], &type_id.to_le_bytes(), value].concat()
}

/// A u32 entry.
fn number(key: &str, n: u32) -> Vec<u8> {
    entry(key, U32, &n.to_le_bytes())
}

fn array(type_id: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&type_id.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

/// `dims` as the file has them: fastest first.
fn info(name: &str, dims: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name.as_bytes());
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
    out.extend(type_id.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

/// A version 3 file of these entries and tensors, with `data_bytes` of tensor data that count upwards.
fn file(entries: &[Vec<u8>], infos: &[Vec<u8>], data_bytes: usize) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((infos.len() as u64).to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    out.extend(entries.concat());
    out.extend(infos.concat());
    if !infos.is_empty() {
        out.resize(out.len().next_multiple_of(32), 0);
    }
    out.extend((0..data_bytes).map(|i| i as u8));
    out
}

/// One entry of every type and two tensors, 32 bytes apart.
fn every_type() -> Vec<u8> {
    let entries = [
        entry("t.u8", 0, &[200]),
        entry("t.i8", 1, &[0xff]),
        entry("t.u16", 2, &60000u16.to_le_bytes()),
        entry("t.i16", 3, &(-2i16).to_le_bytes()),
        entry("t.u32", 4, &u32::MAX.to_le_bytes()),
        entry("t.i32", 5, &7i32.to_le_bytes()),
        entry("t.f32", 6, &1.5f32.to_le_bytes()),
        entry("t.bool", 7, &[1]),
        entry("t.string", 8, &string("né".as_bytes())),
        entry("t.array", 9, &array(STRING, 2, &[string(b"a"), string(&[0xff, 0xfe])].concat())),
        entry("t.nested", 9, &array(ARRAY, 2, &[array(0, 2, &[1, 2]), array(7, 0, &[])].concat())),
        entry("t.u64", 10, &u64::MAX.to_le_bytes()),
        entry("t.i64", 11, &i64::MIN.to_le_bytes()),
        entry("t.f64", 12, &f64::NAN.to_le_bytes()),
    ];
    file(&entries, &[info("m", &[32, 2], Q8_0, 0), info("v", &[3], F32, 96)], 96 + 12)
}

fn refused(bytes: Vec<u8>) -> Error {
    parse(Bytes::from(bytes)).unwrap_err()
}

#[test]
fn every_metadata_type_is_read() {
    let checked = parse(Bytes::from(every_type())).unwrap();
    let get = |key: &str| checked.metadata.get(key).unwrap().clone();
    assert_eq!(checked.format, "GGUF v3");
    assert_eq!(get("t.u8"), Value::Unsigned(200));
    assert_eq!(get("t.i8"), Value::Signed(-1));
    assert_eq!(get("t.u16"), Value::Unsigned(60000));
    assert_eq!(get("t.i16"), Value::Signed(-2));
    assert_eq!(get("t.u32"), Value::Unsigned(u32::MAX.into()));
    assert_eq!(get("t.i32"), Value::Unsigned(7));
    assert_eq!(get("t.f32"), Value::Float(1.5));
    assert_eq!(get("t.bool"), Value::Bool(true));
    assert_eq!(get("t.string"), Value::String("né".into()));
    assert_eq!(get("t.array"), Value::Array(vec![Value::String("a".into()), Value::RawString(vec![0xff, 0xfe])]));
    let inner = vec![Value::Unsigned(1), Value::Unsigned(2)];
    assert_eq!(get("t.nested"), Value::Array(vec![Value::Array(inner), Value::Array(vec![])]));
    assert_eq!(get("t.u64"), Value::Unsigned(u64::MAX));
    assert_eq!(get("t.i64"), Value::Signed(i64::MIN));
    assert!(matches!(get("t.f64"), Value::Float(x) if x.is_nan()));
}

#[test]
fn tensors_have_their_shape_slowest_first_and_exactly_their_bytes() {
    let checked = parse(Bytes::from(every_type())).unwrap();
    let m = &checked.tensors["m"];
    assert_eq!((m.shape.as_slice(), m.format.0.name), (&[2, 32][..], "Q8_0"));
    assert_eq!(&m.bytes[..], &(0..68).collect::<Vec<u8>>()[..]);
    let v = &checked.tensors["v"];
    assert_eq!((v.shape.as_slice(), &v.bytes[..]), (&[3][..], &(96..108).collect::<Vec<u8>>()[..]));
}

#[test]
fn version_2_and_other_alignments_are_read() {
    let mut bytes = every_type();
    bytes[4] = 2;
    assert_eq!(parse(Bytes::from(bytes)).unwrap().format, "GGUF v2");

    // 24 + 37 + 33 bytes of header, so the data of alignment 8 begins at byte 96.
    let aligned = file(&[number(ALIGNMENT_KEY, 8)], &[info("a", &[2], F32, 0), info("b", &[1], F32, 8)], 12);
    assert_eq!(&parse(Bytes::from(aligned)).unwrap().tensors["b"].bytes[..], &[8, 9, 10, 11]);
}

#[test]
fn a_file_without_tensors_needs_no_data_section() {
    let checked = parse(Bytes::from(file(&[number("a", 1)], &[], 0))).unwrap();
    assert!(checked.tensors.is_empty());
}

#[test]
fn foreign_heads_are_refused_by_name() {
    let with = |at: usize, bytes: &[u8]| {
        let mut f = every_type();
        f[at..at + bytes.len()].copy_from_slice(bytes);
        refused(f)
    };
    for (error, kind, says) in [
        (with(0, b"GGML"), Kind::Malformed, "does not begin with 'GGUF'"),
        (with(0, b"FUGG"), Kind::Unsupported, "big-endian"),
        (with(4, &[0, 0, 0, 3]), Kind::Unsupported, "big-endian"),
        (with(4, &[0, 0, 0, 0]), Kind::Malformed, "no GGUF version 0"),
        (with(4, &[1, 0, 0, 0]), Kind::Unsupported, "GGUF version 1"),
        (with(4, &[4, 0, 0, 0]), Kind::Unsupported, "GGUF version 4"),
        (with(4, &[0xff; 4]), Kind::Unsupported, "GGUF version 4294967295"),
        (with(8, &[0xff; 8]), Kind::Malformed, "18446744073709551615 tensors"),
        (with(8, &(1u64 << 32).to_le_bytes()), Kind::Malformed, "4294967296 tensors"),
        (with(16, &[0xff; 8]), Kind::Malformed, "18446744073709551615 metadata entries"),
        (with(24, &[0xff; 8]), Kind::Malformed, "ends inside a metadata key"),
        (with(24, &[0; 8]), Kind::Malformed, "a metadata key is empty"),
        (with(32, &[0xff]), Kind::Malformed, "a metadata key is not valid UTF-8"),
    ] {
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(matches!(error.at, Some(Place::Byte(0..=32))), "{error}");
    }
}

#[test]
fn bad_metadata_is_refused_by_key_or_byte() {
    let one = |e: Vec<u8>| refused(file(&[e], &[], 0));
    // A single entry with key `k` has its value type at 24 + 9 and its value at 24 + 13.
    let byte = |n| Some(Place::Byte(n));
    let alignment = || Some(Place::Key(ALIGNMENT_KEY.into()));
    for (error, kind, at, says) in [
        (one(entry("k", 13, &[0; 64])), Kind::Malformed, byte(33), "no metadata value type 13"),
        (one(entry("k", u32::MAX, &[0; 64])), Kind::Malformed, byte(33), "no metadata value type 4294967295"),
        (one(entry("k", 7, &[2])), Kind::Malformed, byte(37), "its byte is 2"),
        (one(entry("k", 10, &[0; 7])), Kind::Malformed, byte(37), "ends inside a value"),
        (one(entry("k", 8, &u64::MAX.to_le_bytes())), Kind::Malformed, byte(45), "ends inside a string"),
        (one(entry("k", 8, &string(&[0xff]))), Kind::Malformed, Some(Place::Key("k".into())), "not valid UTF-8"),
        (one(entry("k", 9, &array(0, 1 << 60, &[]))), Kind::Malformed, byte(41), "1152921504606846976 array elements"),
        (one(entry("k", 9, &array(13, 0, &[]))), Kind::Malformed, byte(37), "no metadata value type 13"),
        (one(entry("k", 9, &array(8, 2, &[0; 15]))), Kind::Malformed, byte(41), "2 array elements of type string"),
        (one(number(ALIGNMENT_KEY, 0)), Kind::Malformed, alignment(), "0 is not a power of two"),
        (one(number(ALIGNMENT_KEY, 1)), Kind::Malformed, alignment(), "1 is not a power of two of at least 8"),
        (one(number(ALIGNMENT_KEY, 24)), Kind::Malformed, alignment(), "24 is not a power of two"),
        (one(number(ALIGNMENT_KEY, 1 << 31)), Kind::TooLarge, alignment(), "1048576 bytes of alignment"),
        (one(entry(ALIGNMENT_KEY, 5, &[32, 0, 0, 0])), Kind::Malformed, alignment(), "type i32, expected u32"),
        (one(entry(ALIGNMENT_KEY, 8, &string(b"32"))), Kind::Malformed, alignment(), "type string, expected u32"),
        (one(number(&"k".repeat((1 << 16) + 1), 1)), Kind::TooLarge, byte(24), "65536 bytes of a metadata key"),
    ] {
        assert_eq!((error.kind, &error.at), (kind, &at), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn duplicate_keys_are_refused_even_with_another_type() {
    for second in [number("k", 1), entry("k", 7, &[0])] {
        let error = refused(file(&[number("k", 1), second], &[], 0));
        assert_eq!((error.kind, error.at), (Kind::Malformed, Some(Place::Key("k".into()))));
    }
}

#[test]
fn arrays_nest_as_deep_as_the_limit_and_no_deeper() {
    let nested = |depth: usize| {
        let innermost = array(0, 0, &[]);
        let value = (1..depth).fold(innermost, |inner, _| array(ARRAY, 1, &inner));
        parse(Bytes::from(file(&[entry("k", 9, &value)], &[], 0)))
    };
    assert!(nested(limits::ARRAY_DEPTH_MAX).is_ok());
    assert_eq!(nested(limits::ARRAY_DEPTH_MAX + 1).unwrap_err().kind, Kind::TooLarge);
    assert_eq!(nested(100_000).unwrap_err().kind, Kind::TooLarge);
}

#[test]
fn a_header_cannot_claim_more_values_than_the_limit() {
    let half = vec![0; limits::METADATA_VALUES_MAX as usize / 2 + 1];
    let large = |key| entry(key, 9, &array(0, half.len() as u64, &half));
    assert!(parse(Bytes::from(file(&[large("a")], &[], 0))).is_ok());
    let error = refused(file(&[large("a"), large("b")], &[], 0));
    assert_eq!(error.kind, Kind::TooLarge, "{error}");
    assert!(error.what.starts_with("'b': "), "{error}");
}

#[test]
fn bad_tensors_are_refused_by_name_or_byte() {
    let one = |i: Vec<u8>| refused(file(&[], &[i], 256));
    let two = |a: Vec<u8>, b: Vec<u8>| refused(file(&[], &[a, b], 256));
    let t = |dims: &[u64], type_id| one(info("t", dims, type_id, 0));
    let tensor = Some(Place::Tensor("t".into()));
    // The tensor `t` has its number of dimensions at 24 + 9.
    let byte = |n| Some(Place::Byte(n));
    let big = i64::MAX as u64;
    for (error, kind, at, says) in [
        (t(&[], F32), Kind::Malformed, byte(33), "0 dimensions, expected 1 to 4"),
        (t(&[1; 5], F32), Kind::Malformed, byte(33), "5 dimensions"),
        (t(&[4, 0], F32), Kind::Malformed, tensor.clone(), "[0, 4] has an extent of 0"),
        (t(&[1 << 32, 1 << 32], F32), Kind::Malformed, tensor.clone(), "too many elements"),
        (t(&[big, 2, 1, 1], F32), Kind::Malformed, tensor.clone(), "more bytes than can be counted"),
        (t(&[big, 4, 1, 1], F32), Kind::Malformed, tensor.clone(), "too many elements"),
        (t(&[5124095576030431008], 2), Kind::Malformed, tensor.clone(), "ends at byte 2882303761517117506"),
        (
            t(&[48], Q8_0),
            Kind::Malformed,
            tensor.clone(),
            "rows of 48 are not a multiple of 32, the block length of Q8_0",
        ),
        (t(&[4], 4), Kind::Unsupported, tensor.clone(), "Q4_2 (removed from GGUF) (ggml type 4)"),
        (t(&[256], 16), Kind::Unsupported, tensor.clone(), "IQ2_XXS (ggml type 16)"),
        (t(&[4], 99), Kind::Unsupported, tensor.clone(), "ggml type 99 is unknown"),
        (t(&[4], u32::MAX), Kind::Unsupported, tensor.clone(), "ggml type 4294967295 is unknown"),
        (t(&[65], F32), Kind::Malformed, tensor.clone(), "ends at byte 324, but the file has 320 bytes"),
        (one(info("t", &[4], F32, 4)), Kind::Malformed, tensor.clone(), "offset 4 is not a multiple"),
        (
            one(info("t", &[4], F32, u64::MAX - 31)),
            Kind::Malformed,
            tensor.clone(),
            "ends at byte 18446744073709551664",
        ),
        (one(info("t", &[4], F32, 256)), Kind::Malformed, tensor.clone(), "the file has 320 bytes"),
        (one(info("", &[4], F32, 0)), Kind::Malformed, byte(24), "a tensor name is empty"),
        (one(info(&"n".repeat(257), &[4], F32, 0)), Kind::TooLarge, byte(24), "256 bytes of a tensor name"),
        (two(info("t", &[4], F32, 0), info("t", &[4], F32, 32)), Kind::Malformed, tensor.clone(), "twice"),
        (
            two(info("s", &[9], F32, 0), info("t", &[4], F32, 32)),
            Kind::Malformed,
            tensor.clone(),
            "overlaps that of tensor 's'",
        ),
        (
            two(info("t", &[4], F32, 32), info("s", &[9], F32, 0)),
            Kind::Malformed,
            tensor.clone(),
            "overlaps that of tensor 's'",
        ),
        (two(info("s", &[4], F32, 0), info("t", &[4], F32, 0)), Kind::Malformed, tensor, "overlaps that of tensor 's'"),
    ] {
        assert_eq!((error.kind, &error.at), (kind, &at), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn tensors_may_stand_in_any_order() {
    let bytes = file(&[], &[info("b", &[4], F32, 32), info("a", &[8], F32, 0)], 48);
    assert_eq!(&parse(Bytes::from(bytes)).unwrap().tensors["b"].bytes[..2], &[32, 33]);
}

#[test]
fn a_vocabulary_of_real_size_is_read() {
    let words: Vec<u8> = (0..152_000).flat_map(|i| string(format!("word{i}").as_bytes())).collect();
    let checked = parse(Bytes::from(file(&[entry("t", 9, &array(STRING, 152_000, &words))], &[], 0))).unwrap();
    let words = checked.metadata.array("t").unwrap().unwrap();
    assert_eq!((words.len(), &words[151_999]), (152_000, &Value::String("word151999".into())));
}

#[test]
fn no_prefix_of_a_file_is_a_file() {
    let whole = every_type();
    for len in 0..whole.len() {
        let error = refused(whole[..len].to_vec());
        assert_eq!(error.kind, Kind::Malformed, "{len} bytes: {error}");
    }
}

#[test]
fn one_flipped_bit_is_an_answer_or_an_error_but_never_a_panic() {
    let whole = every_type();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        check_claims(bytes);
    }
}

/// Parses, and if that succeeds, holds the result to what [`Checked`] promises.
fn check_claims(bytes: Vec<u8>) {
    let bytes = Bytes::from(bytes);
    match parse(bytes.clone()) {
        Ok(checked) => {
            for (name, tensor) in &checked.tensors {
                assert!(!name.is_empty() && !tensor.shape.is_empty() && !tensor.shape.contains(&0));
                assert_eq!(tensor_bytes(tensor.format, &tensor.shape), Some(tensor.bytes.len()), "{name}");
            }
            let total: usize = checked.tensors.values().map(|t| t.bytes.len()).sum();
            assert!(total < bytes.len());
        }
        Err(error) => assert!(error.at.is_some() && !error.what.is_empty(), "{error}"),
    }
}

/// Any byte; the extremes often.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0u8), Just(0xff), any::<u8>()]
}

proptest! {
    #[test]
    fn mutations_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), byte()), 1..12),
        keep in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let mut bytes = every_type();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if truncate {
            bytes.truncate(keep.index(bytes.len()));
        }
        check_claims(bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..256), small in any::<bool>()) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        if small {
            bytes.extend([1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        }
        bytes.extend(tail);
        check_claims(bytes);
    }
}

/// Part `no` of `count`, holding the tensor `t<no>`.
fn part(no: u32, count: u32, tensors: u32, name: &str) -> Vec<u8> {
    let mut entries =
        vec![number("split.no", no), number("split.count", count), number("split.tensors.count", tensors)];
    if no == 0 {
        entries.push(entry("general.name", 8, &string(b"whole")));
    }
    file(&entries, &[info(name, &[4], F32, 0)], 16)
}

/// Writes files by name and opens one of them.
fn open_in(files: &[(&str, Vec<u8>)], open: &str) -> Result<Checked> {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    crate::file::open(&dir.path().join(open))
}

const PARTS: [&str; 3] = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];

#[test]
fn a_split_model_opens_by_any_of_its_parts() {
    let files = [0, 1, 2].map(|i| (PARTS[i], part(i as u32, 3, 3, &format!("t{i}"))));
    for open in PARTS {
        let checked = open_in(&files, open).unwrap();
        assert_eq!(checked.tensors.keys().collect::<Vec<_>>(), ["t0", "t1", "t2"]);
        assert_eq!(checked.metadata.string("general.name").unwrap(), Some("whole"));
        assert_eq!(checked.file_bytes, files.iter().map(|(_, f)| f.len() as u64).sum::<u64>());
    }
}

#[test]
fn a_split_model_that_does_not_fit_together_is_refused() {
    let good = |i: u32| part(i, 3, 3, &format!("t{i}"));
    let with = |i: usize, bytes: Vec<u8>| {
        let mut files = [0, 1, 2].map(|i| (PARTS[i], good(i as u32)));
        files[i].1 = bytes;
        open_in(&files, PARTS[0]).unwrap_err()
    };
    let missing = open_in(&[(PARTS[0], good(0)), (PARTS[2], good(2))], PARTS[0]).unwrap_err();
    assert_eq!(missing.kind, Kind::NotFound);
    assert!(missing.what.contains(PARTS[1]), "{missing}");
    assert!(missing.hint.unwrap().contains("-00001-of-00003.gguf"));

    let no_first = open_in(&[(PARTS[1], good(1))], PARTS[1]).unwrap_err();
    assert_eq!(no_first.kind, Kind::NotFound);
    assert!(no_first.hint.unwrap().contains("open the file that ends in -00001-of-00003.gguf"));

    let renamed = open_in(&[("m.gguf", good(0))], "m.gguf").unwrap_err();
    assert!(renamed.what.contains("part 1 of 3, but its name does not say so"), "{renamed}");

    for (error, says) in [
        (with(1, good(2)), "is not part 2 of 3"),
        (with(1, part(1, 4, 3, "t1")), "is not part 2 of 3"),
        (with(1, part(1, 3, 9, "t1")), "is not part 2 of 3"),
        (with(1, every_type()), "is not part 2 of 3"),
        (with(1, part(1, 3, 3, "t0")), "two parts of the model have it"),
        (with(1, b"GGUF".to_vec()), "m-00002-of-00003.gguf': the file ends inside the version"),
    ] {
        assert_eq!(error.kind, Kind::Malformed, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn split_numbers_are_held_to_their_ranges() {
    for (no, count, kind) in [(3, 3, Kind::Malformed), (0, 0, Kind::Malformed), (0, 1 << 20, Kind::TooLarge)] {
        let error = open_in(&[(PARTS[0], part(no, count, 1, "t"))], PARTS[0]).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
    assert!(open_in(&[("one.gguf", part(0, 1, 1, "t"))], "one.gguf").is_ok());
}
