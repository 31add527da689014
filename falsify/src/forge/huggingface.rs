//! Models of the forge in HuggingFace's layout: a folder with `model.safetensors`, `config.json`, `tokenizer.json`,
//! `tokenizer_config.json` and `generation_config.json`, as transformers saves and reads them.
//!
//! The weights are those of the GGUF file of the same model, under their names in HuggingFace's code and in its order of
//! rows. A [`Folder`] is a value: it can be read, changed and written, whole or in shards.

use std::io;
use std::path::Path;

use compute::Format;
use serde_json::{Map, Value as Json, json};

use super::gguf::Data;
use super::models::{Arch, Model, Scaling};
use super::safetensors::{Tensor, Writer};
use super::words::{CONTROL, Joins, UNKNOWN, UNUSED, Words};

/// A model in its folder.
pub struct Folder {
    /// The JSON files by name.
    pub files: Vec<(String, Json)>,
    /// `model.safetensors`.
    pub weights: Writer,
}

/// Names of tensors: in GGUF without the layer, in HuggingFace's models after it.
const BLOCK: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The expressions by which words are cut, as `tokenizer.json` has them.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Folder {
    /// The model as HuggingFace would have it. Vectors keep the precision that GGUF gives them.
    pub fn of(model: &Model) -> io::Result<Folder> {
        let words = (model.words)();
        let files = vec![
            ("config.json".into(), config(model, &words)),
            ("generation_config.json".into(), json!({"do_sample": false, "eos_token_id": [words.eos, words.pad]})),
            ("tokenizer.json".into(), tokenizer(&words)),
            ("tokenizer_config.json".into(), tokenizer_config(&words)),
        ];
        let mut weights = Writer { metadata: vec![("format".into(), "pt".into())], ..Writer::default() };
        for t in model.file()?.tensors {
            let name = String::from_utf8_lossy(&t.name).into_owned();
            let Some(theirs) = their_name(&name) else { continue };
            let format = Format::from_ggml(t.type_id).ok_or_else(|| io::Error::other("an unknown format"))?;
            let shape: Vec<usize> = t.dims.iter().rev().map(|&d| d as usize).collect();
            let rotated = name.contains("attn_q") || name.contains("attn_k.");
            let data = match t.data {
                Data::Bytes(bytes) if rotated && model.arch == Arch::Llama => {
                    Data::Bytes(split_halves(&bytes, shape[0], model.head_dim()))
                }
                data => data,
            };
            weights.tensor(&theirs, format.0.name, &shape, data);
        }
        Ok(Folder { files, weights })
    }

    /// A folder with its weights in one file.
    pub fn read(path: &Path) -> io::Result<Folder> {
        let weights = Writer::read(&std::fs::read(path.join("model.safetensors"))?)?;
        let mut files = Vec::new();
        for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
            if let Ok(text) = std::fs::read(path.join(name)) {
                files.push((name.to_string(), serde_json::from_slice(&text)?));
            }
        }
        Ok(Folder { files, weights })
    }

    /// One of the JSON files, to be changed. Panics if there is none of this name.
    pub fn json(&mut self, name: &str) -> &mut Json {
        let found = self.files.iter_mut().find(|f| f.0 == name);
        &mut found.unwrap_or_else(|| panic!("the folder has no {name}")).1
    }

    /// Writes it, with all weights in `model.safetensors`.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        self.write_files(path)?;
        self.weights.write(&path.join("model.safetensors"))
    }

    /// Writes the JSON files only.
    pub fn write_files(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)?;
        for (name, json) in &self.files {
            std::fs::write(path.join(name), serde_json::to_vec_pretty(json)?)?;
        }
        Ok(())
    }

    /// Writes it with the weights in so many files and their index. Tensors are dealt out in turn.
    pub fn write_shards(mut self, path: &Path, count: usize) -> io::Result<()> {
        self.write_files(path)?;
        let mut shards: Vec<Writer> = (0..count).map(|_| Writer::default()).collect();
        let mut map = Map::new();
        let total: u64 = self.weights.tensors.iter().map(|t| t.data.len()).sum();
        for (i, tensor) in std::mem::take(&mut self.weights.tensors).into_iter().enumerate() {
            map.insert(tensor.name.clone(), shard_name(i % count, count).into());
            shards[i % count].tensors.push(tensor);
        }
        for (i, shard) in shards.iter_mut().enumerate() {
            shard.metadata.clone_from(&self.weights.metadata);
            shard.write(&path.join(shard_name(i, count)))?;
        }
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        std::fs::write(path.join("model.safetensors.index.json"), serde_json::to_vec_pretty(&index)?)
    }
}

/// `model-00001-of-00003.safetensors`; `i` counts from 0.
pub fn shard_name(i: usize, count: usize) -> String {
    format!("model-{:05}-of-{count:05}.safetensors", i + 1)
}

fn their_name(gguf: &str) -> Option<String> {
    match gguf {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let theirs = BLOCK.iter().find(|b| b.0 == part)?.1;
    Some(format!("model.layers.{layer}.{theirs}.{kind}"))
}

/// Rows of a projection of heads: GGUF has the two of a rotated pair side by side, HuggingFace half a head apart.
fn split_halves(bytes: &[u8], rows: usize, head_dim: usize) -> Vec<u8> {
    let row_bytes = bytes.len() / rows;
    let half = head_dim / 2;
    let mut out = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let (head, i) = (row / head_dim, row % head_dim);
        let from = head * head_dim + 2 * (i % half) + i / half;
        out.extend_from_slice(&bytes[from * row_bytes..(from + 1) * row_bytes]);
    }
    out
}

fn config(model: &Model, words: &Words) -> Json {
    let (class, kind) = match model.arch {
        Arch::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
        Arch::Llama => ("LlamaForCausalLM", "llama"),
    };
    let scaling = match model.scaling {
        Scaling::None => Json::Null,
        Scaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        Scaling::Yarn { factor, original } => {
            json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original})
        }
        Scaling::Llama3 { factor, original } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": original as u64,
        }),
    };
    let mut config = json!({
        "architectures": [class],
        "model_type": kind,
        "vocab_size": model.rows,
        "hidden_size": model.hidden,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "max_position_embeddings": model.context,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": model.theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": model.tied,
        "torch_dtype": "float32",
        "bos_token_id": words.bos,
        "eos_token_id": words.eos,
        "pad_token_id": words.pad,
    });
    match model.arch {
        Arch::Qwen2 => config["use_sliding_window"] = false.into(),
        Arch::Llama => config["attention_bias"] = model.qkv_bias.into(),
    }
    config
}

fn tokenizer(words: &Words) -> Json {
    let mut vocab = Map::new();
    let mut added = Vec::new();
    for (id, (text, kind)) in words.tokens.iter().zip(&words.types).enumerate() {
        // SentencePiece's own vocabulary has its markers too.
        if matches!(words.joins, Joins::Scores(_)) && *kind != UNUSED {
            vocab.insert(text.clone(), id.into());
        }
        match *kind {
            UNUSED => {}
            CONTROL | UNKNOWN => added.push(json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })),
            _ => drop(vocab.insert(text.clone(), id.into())),
        }
    }
    let bos = &words.tokens[words.bos as usize];
    let front = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [words.bos], "tokens": [bos]}},
    });
    let merges = match &words.joins {
        Joins::Merges(merges) => merges,
        Joins::Scores(scores) => return pieces(words, scores, vocab, added, front),
    };
    let llama = words.pre == "llama-bpe";
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let expression = if llama { LLAMA3 } else { QWEN2 };
    // transformers 5 writes pairs, 4 wrote texts: one kind of model has the one, the other the other.
    let merge = |m: &String| match m.split_once(' ') {
        Some((a, b)) if llama => json!([a, b]),
        _ => json!(m),
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": if llama { Json::Null } else { json!({"type": "NFC"}) },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false}, bytes,
        ]},
        "post_processor": if words.add_bos {
            json!({"type": "Sequence", "processors": [bytes, front]})
        } else {
            bytes.clone()
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": llama,
            "vocab": vocab, "merges": merges.iter().map(merge).collect::<Vec<_>>(),
        },
    })
}

/// SentencePiece's words as HuggingFace's converter writes those of Llama 2: every way to make a token of two is a merge,
/// by its score and then by the length of the left half.
fn pieces(words: &Words, scores: &[f32], vocab: Map<String, Json>, added: Vec<Json>, front: Json) -> Json {
    let mut merges = Vec::new();
    for (text, score) in words.tokens.iter().zip(scores) {
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let halves = cuts.filter(|(a, b)| vocab.contains_key(*a) && vocab.contains_key(*b));
        merges.extend(halves.map(|(a, b)| (-score, a.chars().count(), a, b)));
    }
    merges.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let (space, merges): (_, Vec<Json>) =
        ("\u{2581}", merges.iter().map(|m| json!(format!("{} {}", m.2, m.3))).collect());
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": space}, replace(" ", space)]},
        "pre_tokenizer": null,
        "post_processor": front,
        "decoder": {"type": "Sequence", "decoders": [
            replace(space, " "), {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    })
}

fn tokenizer_config(words: &Words) -> Json {
    let text = |id: u32| words.tokens[id as usize].as_str();
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": text(words.bos),
        "eos_token": {"__type": "AddedToken", "content": text(words.eos), "special": true},
        "pad_token": text(words.pad),
        "chat_template": words.template,
        "clean_up_tokenization_spaces": false,
    })
}

/// All that the two small element types can say, and one tensor of every other kind: what a reader of files meets.
pub fn types() -> Writer {
    let mut w = Writer {
        metadata: vec![("format".into(), "pt".into()), ("ключ".into(), "\"\\\n".into())],
        ..Writer::default()
    };
    let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    let mut random = super::random::Random::new(77, "types");
    let singles: Vec<u8> = (0..4096).flat_map(|_| (random.bits() as u32).to_le_bytes()).collect();
    w.tensor("f16", "F16", &[256, 256], Data::Bytes(halves.clone()));
    // Nothing after this one is aligned.
    w.tensor("odd", "U8", &[1], Data::Bytes(vec![1]));
    w.tensor("bf16", "BF16", &[2, 128, 256], Data::Bytes(halves));
    w.tensor("f32", "F32", &[4096], Data::Bytes(singles));
    w.tensor("f8_e4m3", "F8_E4M3", &[16, 16], Data::Bytes(bytes.clone()));
    w.tensor("f8_e5m2", "F8_E5M2", &[256], Data::Bytes(bytes));
    w.tensor("number", "F32", &[], Data::Bytes(1.5f32.to_le_bytes().to_vec()));
    w.tensor("empty", "F32", &[0, 4], Data::Bytes(Vec::new()));
    w.tensor("ids", "I64", &[3], Data::Bytes(vec![7; 24]));
    w.tensor("doubles", "F64", &[2], Data::Bytes(vec![0; 16]));
    w
}

/// Sizes of one tensor of another shape, or one less: see [`Tensor`].
pub fn reshape(tensor: &mut Tensor, shape: &[usize]) {
    let width = match tensor.dtype.as_str() {
        "F32" => 4,
        _ => 2,
    };
    tensor.shape = shape.to_vec();
    tensor.data = Data::Hole(width * shape.iter().product::<usize>() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_go_half_a_head_apart() {
        // Two heads of four rows, a byte each: pairs (0 1) and (2 3) of each become (0 2) and (1 3).
        assert_eq!(split_halves(&[0, 1, 2, 3, 4, 5, 6, 7], 8, 4), [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn a_folder_opens_whole_and_in_shards() {
        let dir = tempfile::tempdir().unwrap();
        for model in [Model::qwen2(Format::F16), Model::llama(Format::F16)] {
            let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
            Folder::of(&model).unwrap().write(&whole).unwrap();
            Folder::read(&whole).unwrap().write_shards(&parts, 3).unwrap();
            let [a, b] = [&whole, &parts].map(|p| engine::file::open(p).unwrap());
            assert!(
                a.tensors.iter().map(|(n, t)| (n, &t.bytes[..])).eq(b.tensors.iter().map(|(n, t)| (n, &t.bytes[..])))
            );
            engine::model::Model::new(a).unwrap();
            std::fs::remove_dir_all(&whole).unwrap();
            std::fs::remove_dir_all(&parts).unwrap();
        }
    }
}
