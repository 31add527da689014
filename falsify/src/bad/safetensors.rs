//! SafeTensors files and folders in HuggingFace's layout that are damaged or were never right: families 35 to 41, 44 and
//! 51 of the list of bad inputs (42, loops of links, is in the check of F-ST-090). Each is a good one with one thing changed, with the kind of its refusal and a word that the
//! refusal has to say.

use std::fs;
use std::io;
use std::path::Path;

use engine::Kind;
use serde_json::{Value as Json, json};

use crate::forge::gguf::Data;
use crate::forge::huggingface::{Folder, shard_name};
use crate::forge::safetensors::Writer;

/// A bad file: what is wrong, how it is refused, a word of the refusal, its bytes.
pub type File = (&'static str, Kind, &'static str, fn() -> Vec<u8>);

/// A bad folder: the same, and what is done to a good one (for the index: one of three shards).
pub type Change = (&'static str, Kind, &'static str, fn(&Path) -> io::Result<()>);

/// Two tensors, 12 bytes of data.
fn good() -> Writer {
    let mut w = Writer { metadata: vec![("format".into(), "pt".into())], ..Writer::default() };
    w.tensor("first", "F16", &[2], Data::Bytes(vec![0; 4]));
    w.tensor("second", "F32", &[1, 2], Data::Bytes(vec![0; 8]));
    w
}

fn changed(change: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = good();
    change(&mut w);
    w.to_bytes().unwrap_or_default()
}

fn header(text: &[u8]) -> Vec<u8> {
    changed(|w| w.header = Some(text.to_vec()))
}

/// With other offsets of the second tensor.
fn offsets(offsets: Json) -> Vec<u8> {
    changed(|w| w.named("second").offsets = Some(offsets))
}

/// Everything that is wrong with one file by itself.
#[rustfmt::skip]
pub const FILES: &[File] = &[
    // 35: the length in front.
    ("35: a length of 2^64 - 1", Kind::TooLarge, "header", || changed(|w| w.header_len = Some(u64::MAX))),
    ("35: a length of 10^8 + 1", Kind::TooLarge, "header", || changed(|w| w.header_len = Some(100_000_001))),
    ("35: a length beyond the file", Kind::Malformed, "ends inside", || changed(|w| w.header_len = Some(4096))),
    ("35: a length of 0", Kind::Malformed, "begin", || changed(|w| w.header_len = Some(0))),
    ("35: a length that cuts the header", Kind::Malformed, "not good", || changed(|w| w.header_len = Some(20))),
    ("35: a file of 1 byte", Kind::Malformed, "ends inside", || vec![1]),
    ("35: a file of 7 bytes", Kind::Malformed, "ends inside", || vec![0; 7]),
    ("35: a file of 8 bytes", Kind::Malformed, "begin", || vec![0; 8]),
    // 36: the header's text.
    ("36: not UTF-8", Kind::Malformed, "UTF-8", || header(b"{\"\xff\":1}")),
    ("36: not JSON", Kind::Malformed, "not good", || header(b"{tensors}")),
    ("36: an array", Kind::Malformed, "begin", || header(b"[]")),
    ("36: blanks in front", Kind::Malformed, "begin", || header(b"  {}")),
    ("36: zeros behind", Kind::Malformed, "not good", || header(b"{}\0\0\0")),
    ("36: nested without end", Kind::Malformed, "not good", || header(&[b"{\"a\":".to_vec(), vec![b'['; 100_000]].concat())),
    ("36: another object behind", Kind::Malformed, "not good", || header(b"{}{}")),
    // 37: twice, and not what it should be.
    ("37: a tensor twice", Kind::Malformed, "twice", || changed(|w| w.named("second").name = "first".into())),
    ("37: metadata twice", Kind::Malformed, "twice", || header(br#"{"__metadata__":{},"__metadata__":{}}"#)),
    ("37: metadata that is a number", Kind::Malformed, "__metadata__", || header(br#"{"__metadata__":{"a":1}}"#)),
    ("37: a key of the metadata twice", Kind::Malformed, "twice", || header(br#"{"__metadata__":{"a":"b","a":"c"}}"#)),
    ("37: a tensor that is a number", Kind::Malformed, "'a'", || header(br#"{"a":1}"#)),
    ("37: a field twice", Kind::Malformed, "dtype", || header(br#"{"a":{"dtype":"F16","dtype":"F16","shape":[6],"data_offsets":[0,12]}}"#)),
    // 38: offsets.
    ("38: reversed", Kind::Malformed, "second", || offsets(json!([12, 4]))),
    ("38: negative", Kind::Malformed, "second", || offsets(json!([-4, 4]))),
    ("38: three", Kind::Malformed, "second", || offsets(json!([4, 12, 12]))),
    ("38: one", Kind::Malformed, "second", || offsets(json!([4]))),
    ("38: floats", Kind::Malformed, "second", || offsets(json!([4.0, 12.0]))),
    ("38: none", Kind::Malformed, "second", || offsets(Json::Null)),
    ("38: beyond the data", Kind::Malformed, "second", || { let mut bytes = changed(|_| ()); bytes.pop(); bytes }),
    ("38: at the end of all numbers", Kind::Malformed, "second", || offsets(json!([u64::MAX - 7, u64::MAX]))),
    ("38: overlapping", Kind::Malformed, "second", || offsets(json!([2, 10]))),
    ("38: with a hole", Kind::Malformed, "second", || changed(|w| { w.named("second").offsets = Some(json!([8, 16])); w.tail = vec![0; 4]; })),
    ("38: not to the end", Kind::Malformed, "follow", || changed(|w| w.tail = vec![0; 1])),
    // 39: types and shapes.
    ("39: a shape of more bytes", Kind::Malformed, "second", || changed(|w| w.named("second").shape = vec![3])),
    ("39: a shape of fewer bytes", Kind::Malformed, "second", || changed(|w| w.named("second").shape = vec![0, 2])),
    ("39: a shape that overflows", Kind::Malformed, "second", || changed(|w| w.named("second").shape = vec![1 << 40, 1 << 40])),
    ("39: bytes that overflow", Kind::Malformed, "second", || changed(|w| w.named("second").shape = vec![1 << 61, 1])),
    ("39: a hundred dimensions", Kind::Malformed, "dimensions", || changed(|w| w.named("second").shape = [&[2][..], &[1; 99]].concat())),
    ("39: an unknown type", Kind::Unsupported, "'Q4'", || changed(|w| w.named("second").dtype = "Q4".into())),
    ("39: a type in small letters", Kind::Unsupported, "'f32'", || changed(|w| w.named("second").dtype = "f32".into())),
    ("39: half a byte", Kind::Malformed, "second", || changed(|w| { let t = w.named("second"); t.dtype = "F4".into(); t.shape = vec![17] })),
    // 44: an archive behind the tensors.
    ("44: a zip archive behind the tensors", Kind::Malformed, "follow", || changed(|w| w.tail = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec())),
];

const INDEX: &str = "model.safetensors.index.json";
const COUNT: usize = 3;

fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut Json)) -> io::Result<()> {
    let path = folder.join(file);
    let mut json = serde_json::from_slice(&fs::read(&path)?)?;
    change(&mut json);
    fs::write(path, serde_json::to_vec(&json)?)
}

/// Sends the first tensor of the index to another file.
fn send(folder: &Path, to: Json) -> io::Result<()> {
    edit(folder, INDEX, |index| index["weight_map"]["model.embed_tokens.weight"] = to)
}

/// What is done to a folder of three shards.
#[rustfmt::skip]
pub const SHARDS: &[Change] = &[
    ("40: a path upwards", Kind::Malformed, "plain name", |f| send(f, json!("../x.safetensors"))),
    ("40: an absolute path", Kind::Malformed, "plain name", |f| send(f, json!("/etc/passwd"))),
    ("40: a path of another system", Kind::Malformed, "plain name", |f| send(f, json!("a\\b.safetensors"))),
    ("40: the folder itself", Kind::Malformed, "plain name", |f| send(f, json!("."))),
    ("40: no name", Kind::Malformed, "plain name", |f| send(f, json!(""))),
    ("40: a number for a name", Kind::Malformed, "model.embed_tokens.weight", |f| send(f, json!(1))),
    ("40: the index itself", Kind::Malformed, INDEX, |f| send(f, json!(INDEX))),
    ("40: a file that is not there", Kind::NotFound, "x.safetensors", |f| send(f, json!("x.safetensors"))),
    ("40: another shard", Kind::Malformed, "model.embed_tokens.weight", |f| send(f, json!(shard_name(1, COUNT)))),
    ("40: a tensor that no shard has", Kind::Malformed, "ghost", |f| edit(f, INDEX, |i| i["weight_map"]["ghost"] = shard_name(0, COUNT).into())),
    ("40: a tensor that the index leaves out", Kind::Malformed, "model.norm.weight", |f| edit(f, INDEX, |i| drop(i["weight_map"].as_object_mut().and_then(|m| m.remove("model.norm.weight"))))),
    ("40: a missing shard", Kind::NotFound, "model-00002-of-00003", |f| fs::remove_file(f.join(shard_name(1, COUNT)))),
    ("40: a shard cut short", Kind::Malformed, "model-00002-of-00003", |f| fs::File::options().write(true).open(f.join(shard_name(1, COUNT)))?.set_len(9000)),
    ("40: the same tensor in two shards", Kind::Malformed, "is in", |f| fs::copy(f.join(shard_name(0, COUNT)), f.join(shard_name(1, COUNT))).map(drop)),
    ("40: no weight_map", Kind::Malformed, "weight_map", |f| fs::write(f.join(INDEX), "{}")),
    ("40: a weight_map of nothing", Kind::Malformed, "weight_map", |f| fs::write(f.join(INDEX), "{\"weight_map\":{}}")),
    ("40: a list for a weight_map", Kind::Malformed, "weight_map", |f| fs::write(f.join(INDEX), "{\"weight_map\":[]}")),
    ("40: a million tensors", Kind::TooLarge, "tensors", |f| {
        let entries: Vec<String> = (0..1_000_000).map(|i| format!("\"{i}\":\"x\"")).collect();
        fs::write(f.join(INDEX), format!("{{\"weight_map\":{{{}}}}}", entries.join(",")))
    }),
    ("40: no index", Kind::Malformed, INDEX, |f| fs::remove_file(f.join(INDEX))),
];

fn config(folder: &Path, key: &str, value: Json) -> io::Result<()> {
    edit(folder, "config.json", |c| c[key] = value)
}

fn tokenizer(folder: &Path, change: impl FnOnce(&mut Json)) -> io::Result<()> {
    edit(folder, "tokenizer.json", change)
}

/// What is done to the files beside the weights.
#[rustfmt::skip]
pub const BESIDE: &[Change] = &[
    ("41: no config.json", Kind::NotFound, "config.json", |f| fs::remove_file(f.join("config.json"))),
    ("41: config.json of a gigabyte", Kind::TooLarge, "config.json", |f| fs::File::create(f.join("config.json"))?.set_len(1 << 30)),
    ("41: an empty config.json", Kind::Malformed, "config.json", |f| fs::write(f.join("config.json"), "")),
    ("41: a config.json that is a list", Kind::Malformed, "config.json", |f| fs::write(f.join("config.json"), "[]")),
    ("41: a key twice", Kind::Malformed, "hidden_size", |f| fs::write(f.join("config.json"), r#"{"hidden_size":1,"hidden_size":2}"#)),
    ("41: vocab_size as text", Kind::Malformed, "config.json: vocab_size", |f| config(f, "vocab_size", json!("320"))),
    ("41: layers beyond all number", Kind::Malformed, "config.json: num_hidden_layers", |f| config(f, "num_hidden_layers", json!(1e18))),
    ("41: too many layers", Kind::TooLarge, "config.json: num_hidden_layers", |f| config(f, "num_hidden_layers", json!(1_000_000_000_000_000_000u64))),
    ("41: no layers", Kind::Malformed, "config.json: num_hidden_layers", |f| config(f, "num_hidden_layers", json!(0))),
    ("41: negative heads", Kind::Malformed, "config.json: num_attention_heads", |f| config(f, "num_attention_heads", json!(-4))),
    ("41: no hidden_size", Kind::Malformed, "config.json: hidden_size", |f| config(f, "hidden_size", Json::Null)),
    ("41: no epsilon", Kind::Malformed, "config.json: rms_norm_eps", |f| config(f, "rms_norm_eps", Json::Null)),
    ("41: no model_type", Kind::Malformed, "config.json: model_type", |f| config(f, "model_type", Json::Null)),
    ("41: an unknown model_type", Kind::Unsupported, "'nonesuch'", |f| config(f, "model_type", json!("nonesuch"))),
    ("41: weights quantised", Kind::Unsupported, "'gptq'", |f| config(f, "quantization_config", json!({"quant_method": "gptq"}))),
    ("41: no language model", Kind::Unsupported, "'Qwen2ForSequenceClassification'", |f| config(f, "architectures", json!(["Qwen2ForSequenceClassification"]))),
    ("41: a sliding window", Kind::Unsupported, "config.json: sliding_window", |f| { config(f, "use_sliding_window", json!(true))?; config(f, "sliding_window", json!(64)) }),
    ("41: layers of another kind", Kind::Unsupported, "'sliding_attention'", |f| config(f, "layer_types", json!(["full_attention", "sliding_attention"]))),
    ("41: heads rotated in part", Kind::Unsupported, "config.json: partial_rotary_factor", |f| config(f, "partial_rotary_factor", json!(0.5))),
    ("41: dynamic angles", Kind::Unsupported, "'dynamic'", |f| config(f, "rope_scaling", json!({"type": "dynamic", "factor": 2.0}))),
    ("41: angles that are text", Kind::Malformed, "config.json: rope_scaling", |f| config(f, "rope_scaling", json!("yarn"))),
    ("41: two different scalings", Kind::Malformed, "rope_parameters", |f| { config(f, "rope_scaling", json!({"type": "linear", "factor": 2.0}))?; config(f, "rope_parameters", json!({"rope_type": "linear", "factor": 3.0})) }),
    ("41: llama3 without its factors", Kind::Malformed, "low_freq_factor", |f| config(f, "rope_scaling", json!({"type": "llama3", "factor": 2.0}))),
    ("41: another activation", Kind::Unsupported, "'gelu'", |f| config(f, "hidden_act", json!("gelu"))),
    ("51: no tokenizer.json", Kind::NotFound, "tokenizer.json", |f| fs::remove_file(f.join("tokenizer.json"))),
    ("51: another expression", Kind::Unsupported, "(a+)+$", |f| tokenizer(f, |t| t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$".into())),
    ("51: an unknown normalizer", Kind::Unsupported, "'Lowercase'", |f| tokenizer(f, |t| t["normalizer"] = json!({"type": "Lowercase"}))),
    ("51: another model of words", Kind::Unsupported, "'Unigram'", |f| tokenizer(f, |t| t["model"]["type"] = "Unigram".into())),
    ("51: SentencePiece in disguise", Kind::Unsupported, "byte_fallback", |f| tokenizer(f, |t| t["model"]["byte_fallback"] = true.into())),
    ("51: another decoder", Kind::Unsupported, "'Metaspace'", |f| tokenizer(f, |t| t["decoder"] = json!({"type": "Metaspace"}))),
    ("51: another pre-tokenizer", Kind::Unsupported, "'Metaspace'", |f| tokenizer(f, |t| t["pre_tokenizer"] = json!({"type": "Metaspace"}))),
    ("51: a blank in front", Kind::Unsupported, "add_prefix_space", |f| tokenizer(f, |t| t["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true.into())),
    ("51: an added token that eats blanks", Kind::Unsupported, "lstrip", |f| tokenizer(f, |t| t["added_tokens"][0]["lstrip"] = true.into())),
    ("51: two tokens of one id", Kind::Malformed, "'<|endoftext|>'", |f| tokenizer(f, |t| t["added_tokens"][0]["id"] = 7.into())),
    ("51: an id beyond all vocabularies", Kind::TooLarge, "4294967296", |f| tokenizer(f, |t| t["added_tokens"][0]["id"] = (1u64 << 32).into())),
    ("51: a merge of unknown tokens", Kind::Malformed, "tokenizer.json: model.merges", |f| tokenizer(f, |t| t["model"]["merges"][0] = "xyz zyx".into())),
    ("51: a merge of three", Kind::Malformed, "merge 0", |f| tokenizer(f, |t| t["model"]["merges"][0] = json!(["a", "b", "c"]))),
    ("51: more tokens than rows", Kind::Malformed, "model.embed_tokens.weight", |f| tokenizer(f, |t| t["model"]["vocab"]["one too many"] = 320.into())),
    ("51: an end token that is none", Kind::Malformed, "eos_token", |f| edit(f, "tokenizer_config.json", |c| c["eos_token"] = "nonesuch".into())),
    ("51: an end id that is none", Kind::Malformed, "eos_token_id", |f| edit(f, "generation_config.json", |c| c["eos_token_id"] = json!([1, 99_999]))),
    ("51: a template that is a number", Kind::Malformed, "chat_template", |f| edit(f, "tokenizer_config.json", |c| c["chat_template"] = 7.into())),
    ("51: templates without a default", Kind::Malformed, "chat_template", |f| edit(f, "tokenizer_config.json", |c| c["chat_template"] = json!([{"name": "rag", "template": ""}]))),
];

/// Fields of `config.json` with values that its tensors contradict.
pub fn contradictions(folder: &Folder) -> Vec<(String, Json)> {
    let config = folder.files.iter().find(|f| f.0 == "config.json").map(|f| f.1.clone()).unwrap_or_default();
    let mut out = Vec::new();
    let sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_key_value_heads", "vocab_size"];
    for key in sizes {
        let n = config[key].as_u64().unwrap_or(2);
        out.extend([n - 1, n + 1, 2 * n].into_iter().map(|n| (key.to_string(), json!(n))));
    }
    let tied = config["tie_word_embeddings"].as_bool().unwrap_or_default();
    out.push(("tie_word_embeddings".into(), json!(!tied)));
    out.push(("head_dim".into(), json!(16)));
    let other = if config["model_type"] == "llama" { "qwen2" } else { "llama" };
    out.push(("model_type".into(), json!(other)));
    out
}
