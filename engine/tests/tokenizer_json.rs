//! Every pipeline of a `tokenizer.json` that is read gives the ids of HuggingFace's `tokenizers` for the same file, and
//! the text back; every other is refused by the name of its part.

use std::path::Path;

use engine::file;
use engine::text::Tokenizer as Ours;
use engine::{Error, Kind};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tokenizers::Tokenizer as Theirs;

/// What of a folder the tokenizer is read from; there is no weight in it.
fn folder(tokenizer: &Json, about: &Json) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    put("config.json", br#"{"model_type": "llama"}"#);
    put("model.safetensors", &[&8u64.to_le_bytes()[..], b"{}      "].concat());
    put("tokenizer.json", tokenizer.to_string().as_bytes());
    put("tokenizer_config.json", about.to_string().as_bytes());
    dir
}

fn ours(tokenizer: &Json) -> Result<Ours, Error> {
    let has_bos = tokenizer["model"]["vocab"].get("<s>").is_some();
    let about = if has_bos { json!({"bos_token": "<s>", "eos_token": "</s>"}) } else { json!({}) };
    let dir = folder(tokenizer, &about);
    Ours::from_metadata(&file::open(dir.path())?.metadata)
}

fn theirs(tokenizer: &Json) -> Theirs {
    Theirs::from_bytes(tokenizer.to_string()).unwrap()
}

fn added(id: usize, content: &str, special: bool, rstrip: bool) -> Json {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": rstrip, "normalized": false,
        "special": special})
}

const SPACE: &str = "\u{2581}";

/// SentencePiece's vocabulary: structure, bytes, pieces and the merges of all pairs that make one.
fn pieces() -> Json {
    let words =
        ["▁", "a", "b", "<", "s", ">", "ab", "▁a", "ba", "▁▁", "▁ab", "aa", "\n", "<s", "日", "ba▁", "▁▁▁▁", "é"];
    let structure = ["<unk>", "<s>", "</s>"].map(String::from).into_iter();
    let bytes = (0..=255u8).map(|b| format!("<0x{b:02X}>"));
    let tokens: Vec<String> = structure.chain(bytes).chain(words.map(String::from)).collect();
    let vocab: serde_json::Map<_, _> = tokens.iter().enumerate().map(|(id, text)| (text.clone(), id.into())).collect();
    let cuts = |text: &'static str| text.char_indices().skip(1).map(move |(at, _)| text.split_at(at));
    let merges = words.into_iter().flat_map(cuts).filter(|(a, b)| vocab.contains_key(*a) && vocab.contains_key(*b));
    let merges: Vec<Json> = merges.map(|(a, b)| json!([a, b])).collect();
    let n = tokens.len();
    json!({
        "version": "1.0",
        "added_tokens": [
            added(0, "<unk>", true, false), added(1, "<s>", true, false), added(2, "</s>", true, false),
            added(n, "<tool>", false, false), added(n + 1, "<|end|>", true, true),
        ],
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": merges},
    })
}

fn replace(from: &str, to: &str) -> Json {
    json!({"type": "Replace", "pattern": {"String": from}, "content": to})
}

/// The pipelines of published files: normalizer, pre-tokenizer, whether a blank is stripped in decoding.
fn pipelines() -> Vec<(&'static str, Json)> {
    let metaspace =
        |scheme: &str| json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false});
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    let legacy = json!({"type": "Sequence", "normalizers": [prepend, replace(" ", SPACE)]});
    let by_blank =
        json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    let all = [
        ("Llama 2, TinyLlama, Phi-3", legacy.clone(), Json::Null, true),
        ("Mistral 0.3", Json::Null, metaspace("first"), true),
        ("always", Json::Null, metaspace("always"), true),
        ("never", Json::Null, metaspace("never"), false),
        ("both", legacy, metaspace("first"), true),
        ("Gemma", replace(" ", SPACE), by_blank, false),
    ];
    all.into_iter()
        .map(|(name, normalizer, pre_tokenizer, strip)| {
            let mut file = pieces();
            (file["normalizer"], file["pre_tokenizer"]) = (normalizer, pre_tokenizer);
            let mut back = vec![replace(SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
            back.extend(strip.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})));
            file["decoder"] = json!({"type": "Sequence", "decoders": back});
            (name, file)
        })
        .collect()
}

fn same(name: &str, ours: &Ours, theirs: &Theirs, text: &str) -> Result<(), TestCaseError> {
    let want = theirs.encode(text, false).unwrap();
    let ids = ours.encode_raw(text).unwrap();
    prop_assert_eq!(&ids, want.get_ids(), "{}: {:?}", name, text);
    let back = ours.decode(&ids);
    if let Ok(back) = std::str::from_utf8(&back) {
        prop_assert_eq!(back, theirs.decode(&ids, true).unwrap(), "{}: decoding {:?}", name, text);
    }
    Ok(())
}

#[test]
fn pieces_of_known_texts_are_theirs() {
    for (name, file) in pipelines() {
        let (ours, theirs) = (ours(&file).unwrap(), theirs(&file));
        for text in [
            "",
            " ",
            "  ",
            "     ",
            "a",
            " a",
            "a ",
            "  ab  ba  ",
            "a\n\nb",
            "\n",
            "▁a",
            "a▁b",
            "日本🚀é",
            "\u{301}",
            "<s>",
            "<s>a",
            "<s> a</s> b",
            "a<s>a<s>",
            "<0x0A>",
            "<tool>a <tool> a",
            "<|end|> \n\u{a0}a<|end|>\u{3000}",
            "\0\u{7f}",
            "<unk>",
            "ab<s",
            "aaaaaaaaaaab",
        ] {
            same(name, &ours, &theirs, text).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn pieces_are_theirs(text in "([ab▁ ]|[ab▁ ]|[\n<s>é日🚀]|<s>|</s>|<tool>|<\\|end\\|>|\\PC){0,24}") {
        thread_local! {
            static BOTH: Vec<(&'static str, Ours, Theirs)> =
                pipelines().into_iter().map(|(name, file)| (name, ours(&file).unwrap(), theirs(&file))).collect();
        }
        BOTH.with(|both| both.iter().try_for_each(|(name, ours, theirs)| same(name, ours, theirs, &text)))?;
    }
}

/// Where theirs says "unknown", ours refuses: a prompt with holes is not the user's prompt.
#[test]
fn bytes_that_are_not_there_are_refused() {
    let (_, mut file) = pipelines().remove(0);
    let vocab = file["model"]["vocab"].as_object_mut().unwrap();
    vocab.remove("<0xA9>");
    let (ours, theirs) = (ours(&file).unwrap(), theirs(&file));
    for text in ["a è", "a ©", "é", "ab"] {
        let unknown = theirs.encode(text, false).unwrap().get_ids().contains(&0);
        assert_eq!(ours.encode_raw(text).is_err(), unknown, "{text}");
    }
    assert_eq!(ours.encode_raw("©").unwrap_err().kind, Kind::Unsupported);
}

/// What is done to a good file, and a word of its refusal.
#[test]
fn other_pipelines_are_refused_by_name() {
    let strip = |n: u64| json!({"type": "Strip", "content": " ", "start": n, "stop": 0});
    let table: &[(&str, Json, &str)] = &[
        ("/normalizer", json!({"type": "NFKC"}), "'NFKC'"),
        ("/normalizer", json!({"type": "Prepend", "prepend": "_"}), "'Prepend'"),
        ("/normalizer", json!({"type": "Prepend", "prepend": SPACE}), "keep spaces"),
        ("/normalizer/normalizers/1/pattern", json!({"Regex": " "}), "'Replace'"),
        ("/normalizer/normalizers/1/content", json!("_"), "'Replace'"),
        (
            "/pre_tokenizer",
            json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first"}),
            "'Metaspace'",
        ),
        ("/pre_tokenizer", json!({"type": "Metaspace", "replacement": "_", "split": false}), "'Metaspace'"),
        ("/pre_tokenizer", json!({"type": "ByteLevel"}), "'ByteLevel'"),
        ("/pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated"}), "'Split'"),
        ("/decoder", Json::Null, "byte_fallback"),
        ("/decoder", json!({"type": "Metaspace"}), "'Metaspace'"),
        ("/decoder/decoders/3", strip(2), "'Strip'"),
        ("/decoder/decoders/3", json!({"type": "Fuse"}), "Fuse, Fuse"),
        ("/added_tokens/1/normalized", json!(true), "'<s>'"),
        ("/added_tokens/1/lstrip", json!(true), "lstrip"),
        ("/model/dropout", json!(0.5), "random"),
        ("/model/type", json!("Unigram"), "'Unigram'"),
    ];
    for (place, value, word) in table {
        let (_, mut file) = pipelines().remove(0);
        match file.pointer_mut(place) {
            Some(here) => *here = value.clone(),
            None => panic!("nothing at {place}"),
        }
        let e = ours(&file).unwrap_err();
        assert!(e.kind == Kind::Unsupported && e.to_string().contains(word), "{place}: {e}");
        assert!(e.at.is_some(), "{e}");
    }
    let (_, mut file) = pipelines().remove(5);
    file["decoder"]["decoders"].as_array_mut().unwrap().push(strip(1));
    assert!(ours(&file).unwrap_err().to_string().contains("Strip"));
}

// ---- byte-level pipelines with parts that have names

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The fixture's vocabulary with another pre-tokenizer.
fn cut_by(parts: Json) -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/qwen2-tiny/tokenizer.json");
    let mut file: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": parts});
    file["normalizer"] = Json::Null;
    file
}

#[test]
fn digits_and_punctuation_are_theirs() {
    let bytes =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |e: &str| json!({"type": "Split", "pattern": {"Regex": e}, "behavior": "Isolated", "invert": false});
    let files = [
        // SmolLM, StarCoder.
        cut_by(json!([{"type": "Digits", "individual_digits": true}, bytes(true)])),
        // Falcon, its steps in another order.
        cut_by(
            json!([{"type": "Punctuation", "behavior": "Contiguous"}, split(GPT2), split("[0-9][0-9][0-9]"), bytes(false)]),
        ),
    ];
    for file in files {
        let (ours, theirs) = (ours(&file).unwrap(), theirs(&file));
        for text in
            ["", "a1 22  333.4444,", "x=1+2*(3-4)/5 != ~`|^<>$", "٣½²①", "«a» — b…", "don't  \n\n 12\t", "$$ ++12345"]
        {
            same("byte-level", &ours, &theirs, text).unwrap();
        }
    }
    for part in [
        json!({"type": "Digits"}),
        json!({"type": "Punctuation"}),
        json!({"type": "Punctuation", "behavior": "Removed"}),
    ] {
        let e = ours(&cut_by(json!([part, bytes(true)]))).unwrap_err();
        assert_eq!(e.kind, Kind::Unsupported, "{e}");
    }
}
