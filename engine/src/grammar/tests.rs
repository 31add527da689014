//! What a grammar lets through is what it says, and never more: against `serde_json`, a validator of schemas, and the
//! stacks without any table.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Course, Grammar, Stacks, schema};
use crate::sample::{Sampler, Sampling};
use crate::session::Understood;

fn model() -> &'static Understood {
    static MODEL: OnceLock<Understood> = OnceLock::new();
    MODEL.get_or_init(|| {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        Understood::open(&fixtures.join("qwen2-tiny-q8_0.gguf"), None).unwrap()
    })
}

fn course(grammar: Grammar) -> Course {
    model().course(Some(&Arc::new(grammar))).unwrap().unwrap()
}

/// Whether a text is an answer from the beginning to the end.
fn takes(grammar: &Grammar, text: &str) -> bool {
    let mut at = grammar.start.clone();
    text.bytes().for_each(|b| at = grammar.rules.read(&at, b));
    at.contains(&Vec::new())
}

/// An answer of tokens that are drawn from those that may come, by a model that knows nothing: where it goes on for
/// long, the shortest tokens are the likeliest, so that it comes to an end.
fn drawn(mut course: Course, seed: u64) -> Option<String> {
    let tokenizer = &model().tokenizer;
    let mut sampler = Sampler::new(Sampling::unfiltered(seed), std::iter::empty());
    let mut text = Vec::new();
    for made in 0..200 {
        let mut logits = vec![0.0; tokenizer.vocab_size()];
        if made > 25 {
            for (id, x) in logits.iter_mut().enumerate() {
                let closes = tokenizer.token_bytes(id as u32).is_some_and(|b| matches!(b, b"\"" | b"}" | b"]" | b"1"));
                *x = if closes || tokenizer.is_end(id as u32) { 12.0 } else { 0.0 };
            }
        }
        course.mask(&mut logits, tokenizer);
        let id = sampler.choose(&logits, &[]);
        assert!(course.allows(id, tokenizer), "a token that may not come was drawn");
        if tokenizer.is_end(id) {
            assert!(course.may_end());
            return String::from_utf8(text).ok();
        }
        let bytes = tokenizer.token_bytes(id).unwrap();
        course.take(bytes);
        text.extend_from_slice(bytes);
        if course.is_over() {
            return Some(String::from_utf8(text).expect("whole characters"));
        }
    }
    None
}

#[test]
fn every_object_that_is_drawn_is_one() {
    let grammar = Arc::new(schema::any_object());
    let mut ended = 0;
    for seed in 0..25 {
        let course = model().course(Some(&grammar)).unwrap().unwrap();
        if let Some(text) = drawn(course, seed) {
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(value.is_object());
            ended += 1;
        }
    }
    assert!(ended >= 20, "{ended} of 25 came to an end");
}

#[test]
fn what_is_json_is_let_through_and_what_is_not_is_not() {
    let grammar = schema::any_object();
    for good in [
        "{}",
        "{ }",
        r#"{"a": [1, -2.5e-3, 0.1E+9, true, false, null, "x", {}, [], [[]]], "b":{"c" :1}}"#.replace(" :", ":").as_str(),
        "{\n  \"a\": [\n    1,\n    2\n  ]\n}",
        r#"{"é🌍\u00e9\ud83c\udf0d\n\"\\\/": "\u0000"}"#,
    ] {
        assert!(serde_json::from_str::<Value>(good).is_ok(), "{good}");
        assert!(takes(&grammar, good), "{good}");
    }
    for bad in [
        "",
        "{",
        "[]",
        "1",
        "{} ",
        "{a: 1}",
        "{'a': 1}",
        r#"{"a": 01}"#,
        r#"{"a": 1.}"#,
        r#"{"a": .5}"#,
        r#"{"a": +1}"#,
        r#"{"a" 1}"#,
        r#"{"a": 1,}"#,
        r#"{"a": [1 2]}"#,
        "{\"a\": \"\n\"}",
        r#"{"a": "\x"}"#,
        r#"{"a": "\ud83c"}"#,
        r#"{"a": "\udf0d"}"#,
        r#"{"a": 1e999}"#,
        r#"{"a": 12345678901234567}"#,
        "{\"a\": nul}",
        r#"{"a": "b}"#,
    ] {
        assert!(!takes(&grammar, bad), "{bad}");
    }
    // No deeper than others read.
    let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
    assert!(takes(&grammar, &deep(15)) && !takes(&grammar, &deep(100)));
}

#[test]
fn the_table_is_what_the_stacks_say() {
    let tokenizer = &model().tokenizer;
    let schema = json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 5},
        "kind": {"enum": ["a", "ab", 1]}, "n": {"type": ["integer", "null"]}}, "required": ["kind"]});
    let mut course = course(schema::compile(&schema).unwrap());
    for bytes in ["{", "\"name", "\": \"", "ab\u{e9}", "\", ", "\"kind\":", "\"a", "\"", ",", " \"n\"", ":", "-12", "}"]
    {
        let mut logits = vec![0.0; tokenizer.vocab_size()];
        course.mask(&mut logits, tokenizer);
        let mut may = 0;
        for (id, x) in logits.iter().enumerate() {
            let bytes = tokenizer.token_bytes(id as u32).filter(|b| !b.is_empty() && !tokenizer.is_control(id as u32));
            let mut at = course.at.clone();
            bytes.unwrap_or_default().iter().for_each(|b| at = course.grammar.rules.read(&at, *b));
            let text = bytes.is_some() && at != Stacks::new() && !tokenizer.is_end(id as u32);
            let want = text || tokenizer.is_end(id as u32) && course.may_end();
            assert_eq!(*x == 0.0, want, "token {id} after {bytes:?}");
            assert_eq!(course.allows(id as u32, tokenizer), want, "token {id}");
            may += usize::from(want);
        }
        assert!(may > 0);
        course.take(bytes.as_bytes());
        assert!(!course.at.is_empty(), "{bytes}");
    }
    assert!(course.is_over() && course.may_end());
}

#[test]
fn a_schema_is_kept_to_the_letter() {
    let person = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1, "maxItems": 2}}, "required": ["name"],
        "additionalProperties": false});
    let grammar = schema::compile(&person).unwrap();
    let valid = jsonschema::validator_for(&person).unwrap();
    for (text, want) in [
        (r#"{"name": "A"}"#, true),
        (r#"{"name": "A", "age": 3}"#, true),
        (r#"{"name":"A","tags":["x","y"]}"#, true),
        (r#"{"name": "A", "age": 3, "tags": ["y"]}"#, true),
        (r#"{}"#, false),
        (r#"{"age": 3}"#, false),
        (r#"{"name": 1}"#, false),
        (r#"{"name": "A", "age": 3.5}"#, false),
        (r#"{"name": "A", "tags": []}"#, false),
        (r#"{"name": "A", "tags": ["x", "x", "x"]}"#, false),
        (r#"{"name": "A", "tags": ["z"]}"#, false),
        (r#"{"name": "A", "more": 1}"#, false),
    ] {
        assert_eq!(takes(&grammar, text), want, "{text}");
        assert_eq!(valid.is_valid(&serde_json::from_str(text).unwrap()), want, "{text}");
    }
}

#[test]
fn what_is_not_understood_is_named() {
    let deep = (0..40).fold(json!({}), |inner, _| json!({"type": "array", "items": inner}));
    let many: serde_json::Map<String, Value> = (0..2000).map(|i| (i.to_string(), json!({}))).collect();
    for (schema, says) in [
        (json!(3), "is no schema"),
        (json!(false), "nothing fits"),
        (json!({"type": "date"}), "there is no type 'date'"),
        (json!({"type": []}), "names none"),
        (json!({"type": "string", "pattern": "a*"}), "'pattern' is not supported"),
        (json!({"type": "string", "format": "email"}), "'format' is not supported"),
        (json!({"type": "integer", "minimum": 3}), "'minimum' is not supported"),
        (json!({"oneOf": [{}]}), "'oneOf' is not supported"),
        (json!({"type": "integer", "minLength": 3}), "not of the schema's 'type'"),
        (json!({"anyOf": [{}], "type": "object"}), "beside 'anyOf'"),
        (json!({"type": "object", "properties": {"a": {"not": {}}}}), "'not' is not supported (in '#/properties/a')"),
        (json!({"type": "object", "required": ["a"]}), "'a' is required"),
        (json!({"type": "array", "minItems": 3, "maxItems": 2}), "less than the least"),
        (json!({"type": "array", "maxItems": 1_000_000}), "at most 1024"),
        (json!({"type": "object", "properties": many}), "at most 1024"),
        (json!({"enum": []}), "list of some values"),
        (json!({"enum": ["a"], "type": "integer"}), "of its 'type'"),
        (json!({"$ref": "#/$defs/a"}), "lead to a place"),
        (json!({"$ref": "https://example.com"}), "lead to a place"),
        (json!({"$ref": "#"}), "leads back"),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}), "leads back"),
        (json!({"const": "x".repeat(1 << 20)}), "too large"),
        (deep, "nested deeper than 32"),
    ] {
        let e = schema::compile(&schema).map(drop).unwrap_err();
        assert!(e.to_string().contains(says), "{e}: {says}");
        assert_eq!(e.kind, crate::Kind::Usage);
    }
    // References that double what they lead to, fourteen times over.
    let mut defs = serde_json::Map::new();
    for i in 0..14 {
        let next = json!({"$ref": format!("#/$defs/{}", i + 1)});
        defs.insert(i.to_string(), json!({"type": "object", "properties": {"a": next, "b": next}}));
    }
    defs.insert("14".into(), json!({"type": "string"}));
    let doubling = json!({"$ref": "#/$defs/0", "$defs": defs});
    assert!(schema::compile(&doubling).map(drop).unwrap_err().to_string().contains("too large"));
}

/// Schemas of what is understood, a few levels deep.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({})),
        Just(json!({"type": "string"})),
        Just(json!({"type": ["integer", "null"]})),
        Just(json!({"type": "number"})),
        Just(json!({"type": "boolean"})),
        Just(json!({"enum": ["a", "a\"é", 1, null, {"k": [1]}]})),
        Just(json!({"const": "x"})),
        Just(json!({"type": "object"})),
        (0usize..3, 0usize..3).prop_map(|(a, b)| json!({"type": "string", "minLength": a, "maxLength": a + b})),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        let names = prop::collection::btree_map("[a-c]{1,2}", (inner.clone(), any::<bool>()), 0..4);
        prop_oneof![
            (inner.clone(), 0usize..3, prop::option::of(0usize..3)).prop_map(|(item, least, more)| {
                let mut schema = json!({"type": "array", "items": item, "minItems": least});
                if let Some(more) = more {
                    schema["maxItems"] = (least + more).into();
                }
                schema
            }),
            prop::collection::vec(inner.clone(), 1..3).prop_map(|of| json!({"anyOf": of})),
            inner.prop_map(|of| json!({"type": "object", "additionalProperties": of})),
            names.prop_map(|properties| {
                let required: Vec<&String> = properties.iter().filter(|(_, p)| p.1).map(|(name, _)| name).collect();
                let all: serde_json::Map<String, Value> =
                    properties.iter().map(|(name, p)| (name.clone(), p.0.clone())).collect();
                json!({"type": "object", "properties": all, "required": required, "additionalProperties": false})
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever ends by itself fits its schema.
    #[test]
    fn every_answer_fits_its_schema(schema in schemas(), seed in any::<u64>()) {
        let valid = jsonschema::validator_for(&schema).unwrap();
        if let Some(text) = drawn(course(schema::compile(&schema).unwrap()), seed) {
            let value: Value = serde_json::from_str(&text).unwrap();
            prop_assert!(valid.is_valid(&value), "{} is not {}", text, schema);
        }
    }

    /// Nonsense is refused or understood, in little time and without a panic.
    #[test]
    fn any_json_is_refused_or_understood(text in "[{}\\[\\]\":,a-z$#/0-9]{0,80}") {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            let _ = schema::compile(&value);
        }
    }
}
