//! A stranger's vocabulary: it is refused with a place, or it makes a tokenizer that spells and reads any text.
#![no_main]

use std::collections::BTreeMap;

use engine::file::{Metadata, Value};
use engine::text::{ChatTemplate, Segment, Tokenizer};
use libfuzzer_sys::fuzz_target;

/// Tokens with their types, merges as pairs of tokens and as text, ids of markers, flags, a text to encode.
type Input = (Vec<(Vec<u8>, i8)>, Vec<(u8, u8)>, Vec<String>, [i16; 4], [Option<bool>; 3], String);

fuzz_target!(|input: Input| {
    let (tokens, pairs, merges, ids, [add_bos, bytes, llama], text) = input;
    let bytes = bytes.unwrap_or(true);
    let string = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.into()),
        Err(_) => Value::RawString(bytes.into()),
    };
    let integer = |n: i64| u64::try_from(n).map_or(Value::Signed(n), Value::Unsigned);
    // The 256 spellings of GPT-2, so that some vocabularies can spell everything.
    let printable = |b: u32| (33..127).contains(&b) || (161..256).contains(&b) && b != 173;
    let spare = (0..256).filter(|b| !printable(*b)).zip(256..).map(|(_, c)| c);
    let alphabet = (0..256).filter(|b| printable(*b)).chain(spare).filter_map(char::from_u32);
    let alphabet = alphabet.map(|c| (c.to_string().into_bytes(), 1)).filter(|_| bytes);
    let tokens: Vec<(Vec<u8>, i8)> = alphabet.chain(tokens).collect();

    let name = |i: u8| tokens.get(usize::from(i)).map(|(t, _)| String::from_utf8_lossy(t).into_owned());
    let paired = pairs.iter().filter_map(|(a, b)| Some(format!("{} {}", name(*a)?, name(*b)?)));
    let merges: Vec<Value> = paired.chain(merges).map(Value::String).collect();
    let mut entries = BTreeMap::new();
    let mut set = |key: &str, value| entries.insert(format!("tokenizer.ggml.{key}"), value);
    set("model", Value::String("gpt2".into()));
    set("pre", Value::String(if llama == Some(true) { "llama-bpe" } else { "qwen2" }.into()));
    set("tokens", Value::Array(tokens.iter().map(|(t, _)| string(t)).collect()));
    if llama.is_some() {
        set("token_type", Value::Array(tokens.iter().map(|(_, kind)| integer((*kind).into())).collect()));
    }
    set("merges", Value::Array(merges));
    for (key, id) in ["bos_token_id", "eos_token_id", "eot_token_id", "padding_token_id"].iter().zip(ids) {
        if id != i16::MIN {
            set(key, integer(id.into()));
        }
    }
    add_bos.map(|b| set("add_bos_token", Value::Bool(b)));

    let metadata = Metadata { entries };
    let tok = match Tokenizer::from_metadata(&metadata) {
        Ok(tok) => tok,
        Err(e) => return assert!(e.at.is_some() && !e.to_string().contains('\n'), "{e}"),
    };
    let _ = ChatTemplate::from_metadata(&metadata, &tok).expect("the built-in template");
    for prompt in [Segment::Content(text.clone()), Segment::Scaffold(text.clone())] {
        if let Ok(ids) = tok.encode(&[prompt]) {
            assert!(ids.iter().all(|id| (*id as usize) < tok.vocab_size()));
            tok.decode(&ids);
        }
    }
    // Nothing is lost of what is nothing but text, where text is not composed first.
    if llama == Some(true)
        && let Ok(ids) = tok.encode_text(&text)
    {
        assert!(ids.iter().all(|id| !tok.is_control(*id)));
    }
});
