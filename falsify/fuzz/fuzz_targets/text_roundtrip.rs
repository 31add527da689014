//! Text to ids and back: nothing is lost, and what users write becomes no control token however it is cut.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use engine::text::{Segment, Tokenizer};
use libfuzzer_sys::fuzz_target;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/qwen2-tiny-q8_0.gguf");
    let model = engine::file::open(Path::new(path)).expect("the fixture opens");
    Tokenizer::from_metadata(&model.metadata).expect("the fixture's tokenizer")
});

fuzz_target!(|input: (String, Vec<(bool, String)>)| {
    let (text, parts) = input;
    let tok = &*TOKENIZER;
    let ids = tok.encode_text(&text).expect("its vocabulary spells every byte");
    assert!(ids.iter().all(|id| (*id as usize) < tok.vocab_size() && !tok.is_control(*id)));
    // The text comes back composed (NFC), and then stays as it is.
    let back = String::from_utf8(tok.decode(&ids)).expect("whole characters");
    assert!(!text.is_ascii() || back == text);
    assert_eq!(tok.decode(&tok.encode_text(&back).expect("as before")), back.as_bytes());

    let controls = |prompt: &[Segment]| {
        let ids = tok.encode(prompt).expect("as before");
        ids.into_iter().filter(|id| tok.is_control(*id)).count()
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
});
