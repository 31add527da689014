//! Text to ids and back: nothing is lost, and what users write becomes no control token however it is cut.
//!
//! The trained fixture's byte-level tokenizer, and three small vocabularies made here: SentencePiece, Gemma 4's merges of
//! characters, WordPiece.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use engine::file::{Metadata, Value};
use engine::text::{Segment, Tokenizer};
use libfuzzer_sys::fuzz_target;

/// A tokenizer, and what is left of a text by encoding it.
type Case = (Tokenizer, Kept);

enum Kept {
    /// Everything, in Unicode's composed form (NFC).
    Composed,
    /// Everything, but U+2581 is a space.
    Spaced,
    /// Known words in lower case.
    Words,
}

static CASES: LazyLock<[Case; 4]> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/qwen2-tiny-q8_0.gguf");
    let model = engine::file::open(Path::new(path)).expect("the fixture opens");
    let read = |metadata: &Metadata| Tokenizer::from_metadata(metadata).expect("a sound tokenizer");
    [
        (read(&model.metadata), Kept::Composed),
        (read(&small("llama")), Kept::Spaced),
        (read(&small("gemma4")), Kept::Spaced),
        (read(&small("bert")), Kept::Words),
    ]
});

/// Structure, the 256 bytes, letters, and what can be made of them: `<s` and `</s>` too, which nobody may type.
fn small(model: &str) -> Metadata {
    let structure = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<|im_end|>", 3), ("<tool>", 4)];
    let mut tokens: Vec<(String, u64)> = structure.map(|(name, kind)| (name.into(), kind)).into();
    tokens.extend((0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), 6)));
    let pieces = "\u{2581} a b < > s / | \u{2581}a ab aa abab <s s> </ é \u{2581}\u{2581}";
    tokens.extend(pieces.split(' ').map(|piece| (piece.to_string(), 1)));
    let list = |values: Vec<Value>| Value::Array(values);
    let text = |text: &str| Value::String(text.into());
    let merges = ["a b", "ab ab", "\u{2581} a", "a a", "< s", "s >", "< /", "\u{2581} \u{2581}"];
    let entries = [
        ("model", text(model)),
        ("tokens", list(tokens.iter().map(|t| text(&t.0)).collect())),
        ("token_type", list(tokens.iter().map(|t| Value::Unsigned(t.1)).collect())),
        ("scores", list((0..tokens.len()).map(|i| Value::Float(-((i * 7 % 11) as f64))).collect())),
        ("merges", list(merges.map(text).into())),
        ("unknown_token_id", Value::Unsigned(0)),
        ("bos_token_id", Value::Unsigned(1)),
    ];
    Metadata { entries: entries.map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).into() }
}

fuzz_target!(|input: (String, Vec<(bool, String)>)| {
    let (text, parts) = input;
    for (tok, kept) in &*CASES {
        let ids = tok.encode_text(&text).expect("its vocabulary spells every byte");
        assert!(ids.iter().all(|id| (*id as usize) < tok.vocab_size()));
        // Unknown words are a control token, and WordPiece alone has them.
        let is_control = |id: u32| tok.is_control(id) && tok.token_text(id) != Some("<unk>");
        assert!(!ids.iter().any(|id| is_control(*id)));
        // After a user-defined token SentencePiece's text begins with a space of its own again.
        if !matches!(kept, Kept::Words) && !text.contains("<tool>") {
            let back = String::from_utf8(tok.decode(&ids)).expect("whole characters");
            match kept {
                Kept::Spaced => assert_eq!(back, text.replace('\u{2581}', " ")),
                _ => assert!(!text.is_ascii() || back == text),
            }
            assert_eq!(tok.decode(&tok.encode_text(&back).expect("as before")), back.as_bytes());
        }

        let controls = |prompt: &[Segment]| {
            let ids = tok.encode(prompt).expect("as before");
            let bos = tok.bos().filter(|_| tok.add_bos());
            // BOS begins every prompt, also one that is a part of another here.
            ids.into_iter().filter(|id| is_control(*id) && Some(*id) != bos).count()
        };
        // The dot keeps two stretches of scaffold apart where a user said nothing.
        let segment = |(ours, text): &(bool, String)| match ours {
            true => [Segment::Scaffold(text.clone()), Segment::Content(".".into())],
            false => [Segment::Content(text.clone()), Segment::Content(".".into())],
        };
        let mixed: Vec<Segment> = parts.iter().flat_map(segment).collect();
        let ours = parts.iter().filter(|(ours, _)| *ours);
        let expected: usize = ours.map(|(_, text)| controls(&[Segment::Scaffold(text.clone())])).sum();
        assert_eq!(controls(&mixed), expected);
    }
});
