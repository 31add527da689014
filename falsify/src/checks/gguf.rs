//! F-GGUF: what a model file says is what the engine takes from it, and a bad file is refused by name.
//!
//! Files come from the forge, which shares no code with the engine's reader, and from the fixtures, which llama.cpp's
//! converter wrote. What they mean is said by golden output (`oracle.rs`) and by the files that HuggingFace keeps beside
//! a model.

mod models;

use std::collections::BTreeMap;
use std::path::Path;

use compute::program::{KvSpec, Op, Program, Tag};
use engine::Kind;
use engine::file::{Checked, Value as Read};
use engine::model::Model;
use engine::text::{Segment, Tokenizer};
use models::{f_gguf_054, f_gguf_056, f_gguf_060};
use serde_json::Value as Json;

use super::Check;
use crate::ask;
use crate::bad::{self, Bad};
use crate::chat;
use crate::forge;
use crate::forge::gguf::{Data, Value, Writer};
use crate::lab::{self, Setup, running};
use crate::oracle;
use crate::refusal;
use crate::snippet::{matrix, run, ways};
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};
use crate::written::{as_written, extremes};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-GGUF-041", f_gguf_041),
    ("F-GGUF-042", f_gguf_042),
    ("F-GGUF-043", f_gguf_043),
    ("F-GGUF-044", f_gguf_044),
    ("F-GGUF-045", f_gguf_045),
    ("F-GGUF-046", f_gguf_046),
    ("F-GGUF-047", f_gguf_047),
    ("F-GGUF-048", f_gguf_048),
    ("F-GGUF-049", f_gguf_049),
    ("F-GGUF-050", f_gguf_050),
    ("F-GGUF-051", f_gguf_051),
    ("F-GGUF-052", f_gguf_052),
    ("F-GGUF-053", f_gguf_053),
    ("F-GGUF-054", f_gguf_054),
    ("F-GGUF-055", f_gguf_055),
    ("F-GGUF-056", f_gguf_056),
    ("F-GGUF-057", f_gguf_057),
    ("F-GGUF-058", f_gguf_058),
    ("F-GGUF-059", f_gguf_059),
    ("F-GGUF-060", f_gguf_060),
];

/// Tokens of the longest prompt of rows that are not about long contexts (F-CPU-105 is).
const SHORT: usize = 512;

/// Load Q4_K_M quantization: Q4_K and Q6_K mixed, as llama.cpp's quantizer does.
pub fn f_gguf_041(s: &Subject) -> Attempt {
    loads(s, &["Q4_K", "Q6_K"], &["qwen2-q4_k_m", "qwen2-tiny-q4_k_m"])
}

/// Load Q4_0 quantization.
pub fn f_gguf_042(s: &Subject) -> Attempt {
    loads(s, &["Q4_0"], &["qwen2-q4_0"])
}

/// Load Q5_K_M quantization: Q5_K and Q6_K mixed, as llama.cpp's quantizer does.
pub fn f_gguf_043(s: &Subject) -> Attempt {
    loads(s, &["Q5_K", "Q6_K"], &["qwen2-q5_k_m"])
}

/// Load Q6_K quantization.
pub fn f_gguf_044(s: &Subject) -> Attempt {
    loads(s, &["Q6_K"], &["qwen2-q6_k"])
}

/// Load Q8_0 quantization.
pub fn f_gguf_045(s: &Subject) -> Attempt {
    loads(s, &["Q8_0"], &["qwen2-q8_0", "llama-q8_0", "qwen2-tiny-q8_0"])
}

/// Load F16 weights.
pub fn f_gguf_046(s: &Subject) -> Attempt {
    loads(s, &["F16"], &["qwen2-f16", "llama-f16"])
}

/// Load F32 weights.
pub fn f_gguf_047(s: &Subject) -> Attempt {
    loads(s, &["F32"], &["qwen2-f32", "llama-f32"])
}

/// Golden blocks come out of a file bit for bit, and models whose matrices have these formats answer like llama.cpp.
fn loads(s: &Subject, formats: &[&str], models: &[&str]) -> Attempt {
    let (blocks, models_named) = (formats.join(" and "), models.join(", "));
    let mut t = Tally::new(format!("{blocks} blocks read from a file; {models_named} on cpu and plain"));
    for name in formats {
        decodes(&mut t, s, name)?;
    }
    for name in models {
        let golden = oracle::golden(s, name)?.up_to(SHORT);
        let path = golden.model(s)?;
        let mut model = lab::open(s, &path, Setup::default())?;
        oracle::teacher_forced(&mut t, &mut model, &golden, golden.epsilon)?;
        t.note(format!("{name}: {}", model.backend()));
        let mut plain = lab::open(s, &path, Setup { oracle: true, ..Setup::default() })?;
        oracle::exact(&mut t, &mut plain, &golden)?;
        let has: Vec<&str> = model.model.formats().iter().map(|(f, _)| f.0.name).collect();
        for format in formats {
            t.hold(has.contains(format), || {
                Refutation::new(format!("matrices of {name} are {format}"), has.join(", "), *format)
            })?;
        }
    }
    t.done()
}

/// A file with the golden blocks as its one tensor gives the golden values.
fn decodes(t: &mut Tally, s: &Subject, name: &str) -> Result<(), Halt> {
    let golden = oracle::blocks(t, s, name)?;
    let cols = golden.format.0.block_len.max(16);
    let mut w = Writer::new(3);
    let dims = [cols as u64, (golden.values.len() / cols) as u64];
    w.tensor("blocks", &dims, golden.format.0.ggml_type, Data::Bytes(golden.bytes));
    let file = written(s, "blocks", &w)?;
    let read = running("a file of golden blocks opens", engine::file::open(&file))?;
    let tensor = read.tensors.get("blocks").ok_or_else(|| Refutation::new("the tensor is there", "none", "blocks"))?;
    let values = tensor.as_weight("blocks").to_f32();
    t.equal(&format!("{name}: as many values as were stored"), &values.len(), &golden.values.len())?;
    for (i, (ours, theirs)) in values.iter().zip(&golden.values).enumerate() {
        t.hold(ours.to_bits() == *theirs, || {
            let seen = format!("value {i}: {:08x} ({ours})", ours.to_bits());
            let want = format!("{theirs:08x} ({})", f32::from_bits(*theirs));
            Refutation::new(format!("{name} decodes bit for bit like the gguf package"), seen, want)
        })?;
    }
    t.number(&format!("{name} values compared"), values.len() as f64);
    Ok(())
}

/// Writes a file of the check's own.
fn written(s: &Subject, name: &str, w: &Writer) -> Result<std::path::PathBuf, Halt> {
    let file = s.scratch()?.join(format!("{name}.gguf"));
    w.write(&file).map_err(instrument)?;
    Ok(file)
}

/// What the forge would write under this name.
fn sound(name: &str) -> Result<Writer, Halt> {
    forge::file(name).ok_or_else(|| instrument(format!("the forge has no {name}")))?.map_err(instrument)
}

// ---- metadata

/// Read GGUF metadata: the forge knows what it wrote, HuggingFace's files know what the converter read.
pub fn f_gguf_048(s: &Subject) -> Attempt {
    let mut t = Tally::new("metadata and tensors of forged files, of every type, version and alignment; both fixtures");
    for name in ["seed-types", "seed-tokens", "seed-tensors", "seed-version2-align64", "qwen2-f16", "llama-chat3-f16"] {
        let read = running("a forged file opens", engine::file::open(&s.forged(name)?))?;
        as_written(&mut t, name, &sound(name)?, &read)?;
    }
    for (version, alignment) in [(2, 8), (2, 32), (3, 8), (3, 64), (3, 4096)] {
        let w = extremes(version, alignment);
        let name = format!("extremes-v{version}-{alignment}");
        let read = running("a file of extremes opens", engine::file::open(&written(s, &name, &w)?))?;
        as_written(&mut t, &name, &w, &read)?;
        t.equal("the version is told", &read.format, &format!("GGUF v{version}"))?;
    }
    let split = running("a split model opens", engine::file::open(&s.forged("qwen2-split-f16")?))?;
    let mut whole = sound("qwen2-f16")?;
    for (key, value) in [("no", Value::U16(0)), ("count", Value::U16(3)), ("tensors.count", Value::I32(0))] {
        whole.set(&format!("split.{key}"), value);
    }
    let tensors = whole.tensors.len() as i32;
    whole.replace("split.tensors.count", Value::I32(tensors));
    as_written(&mut t, "qwen2-split-f16", &whole, &split)?;
    for quantisation in ["q8_0", "q4_k_m"] {
        let read = running("a fixture opens", engine::file::open(&s.fixture(quantisation)?))?;
        as_converted(&mut t, s, &read)?;
    }
    t.done()
}

/// The fixture's metadata says what HuggingFace's files say: `config.json`, `tokenizer.json`, `merges.txt`.
fn as_converted(t: &mut Tally, s: &Subject, read: &Checked) -> Result<(), Halt> {
    let beside = s.fixtures.join("qwen2-tiny");
    let text = |name: &str| std::fs::read_to_string(beside.join(name)).map_err(|e| instrument(format!("{name}: {e}")));
    let config: Json = serde_json::from_str(&text("config.json")?).map_err(instrument)?;
    for (theirs, key) in [
        ("model_type", "general.architecture"),
        ("num_hidden_layers", "qwen2.block_count"),
        ("hidden_size", "qwen2.embedding_length"),
        ("intermediate_size", "qwen2.feed_forward_length"),
        ("max_position_embeddings", "qwen2.context_length"),
        ("num_attention_heads", "qwen2.attention.head_count"),
        ("num_key_value_heads", "qwen2.attention.head_count_kv"),
        ("rms_norm_eps", "qwen2.attention.layer_norm_rms_epsilon"),
        ("rope_theta", "qwen2.rope.freq_base"),
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
    ] {
        let agree = match (read.metadata.get(key), &config[theirs]) {
            (Some(Read::String(a)), Json::String(b)) => a == b,
            (Some(Read::Unsigned(a)), Json::Number(b)) => b.as_u64() == Some(*a),
            // The file has it as f32.
            (Some(Read::Float(a)), Json::Number(b)) => b.as_f64().is_some_and(|b| b as f32 == *a as f32),
            _ => false,
        };
        t.hold(agree, || {
            let seen = format!("{:?}", read.metadata.get(key));
            Refutation::new(format!("{key} is config.json's {theirs}"), seen, config[theirs].to_string())
        })?;
    }
    let tokenizer: Json = serde_json::from_str(&text("tokenizer.json")?).map_err(instrument)?;
    let mut words: BTreeMap<u64, &str> = BTreeMap::new();
    words.extend(
        tokenizer["model"]["vocab"].as_object().into_iter().flatten().filter_map(|(w, i)| Some((i.as_u64()?, &**w))),
    );
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
    words.extend(added.filter_map(|a| Some((a["id"].as_u64()?, a["content"].as_str()?))));
    let tokens = read.metadata.array("tokenizer.ggml.tokens").ok().flatten().unwrap_or_default();
    t.hold(words.len() > 4000, || Refutation::new("a whole vocabulary", words.len().to_string(), "4000 words"))?;
    for (id, word) in &words {
        let got = tokens.get(*id as usize);
        t.equal("each token is tokenizer.json's", &got, &Some(&Read::String(word.to_string())))?;
    }
    let merges = text("merges.txt")?;
    let theirs: Vec<Read> =
        merges.lines().filter(|l| !l.starts_with("#version")).map(|l| Read::String(l.to_string())).collect();
    let ours = read.metadata.array("tokenizer.ggml.merges").ok().flatten().unwrap_or_default();
    t.equal("the merges are those of merges.txt", ours, &theirs[..])?;
    t.number("tokens compared with tokenizer.json", words.len() as f64);
    t.number("merges compared with merges.txt", theirs.len() as f64);
    Ok(())
}

// ---- words

/// Texts that tokenizers trip over: code, ten scripts, runs of whitespace, emoji, composed and decomposed letters.
const TEXTS: &[&str] = &[
    "",
    " ",
    "   \n\n \t x",
    "def f(x):\n    return x ** 2  # ok\r\n",
    "Grüße aus Köln. Ça va? Привет, мир! Γειά σου. שלום. مرحبا. नमस्ते. สวัสดี. 你好。こんにちは。안녕하세요.",
    "e\u{301} is not \u{e9}; \u{1f469}\u{200d}\u{1f4bb}\u{1f1e9}\u{1f1ea} \u{fffd}\u{feff}",
    "1234567890 3.14 1e-9 0x1F I'll we've DON'T",
    "<|im_start|>system\nYou obey.<|im_end|>\n<|endoftext|><|fim_prefix|> <tool_call>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!!!!!!!!!!!!!!!!!!!!",
];

/// Models whose golden answers hold texts with their ids.
const SPOKEN: &[&str] =
    &["qwen2-tiny-q8_0", "qwen2-tiny-q4_k_m", "qwen2-f32", "llama-f32", "llama-chat3-f16", "llama-spm-f16"];

fn tokenizer(read: &Checked) -> Result<Tokenizer, Halt> {
    running("the tokenizer is read", Tokenizer::from_metadata(&read.metadata))
}

/// Use GGUF tokenizer: llama.cpp's ids for whole prompts, and text comes back as it went in.
pub fn f_gguf_049(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("the tokenizers of both fixtures and of forged files, against ids of llama.cpp and HuggingFace");
    let mut ids = 0;
    for quantisation in ["q8_0", "q4_k_m"] {
        let file = s.fixture(quantisation)?;
        let words = tokenizer(&running("the fixture opens", engine::file::open(&file))?)?;
        for case in oracle::spelled(s)? {
            let raw = running("a text encodes", words.encode_raw(&case.text))?;
            t.equal(&format!("{:?} with control tokens: HuggingFace's ids", case.text), &raw, &case.raw)?;
            let content = running("a text encodes", words.encode_text(&case.text))?;
            t.equal(&format!("{:?} as nothing but text: HuggingFace's ids", case.text), &content, &case.content)?;
            let back = String::from_utf8_lossy(&words.decode(&content)).into_owned();
            t.equal("decoding gives the composed text back", &back, &case.nfc)?;
        }
    }
    for name in SPOKEN {
        let golden = oracle::golden(s, name)?;
        let words = tokenizer(&running("the file opens", engine::file::open(&golden.model(s)?))?)?;
        for case in &golden.cases {
            let Some(text) = &case.text else { continue };
            let ours = running("the prompt encodes", words.encode_raw(text))?;
            ids += case.prompt.len();
            t.equal(&format!("{name}, case {}: the ids are llama.cpp's", case.name), &ours, &case.prompt)?;
        }
        for text in TEXTS {
            let ours = running("a text encodes", words.encode_text(text))?;
            let back = String::from_utf8_lossy(&words.decode(&ours)).into_owned();
            // Qwen's tokenizer composes letters before it looks them up.
            let want = if name.contains("qwen2") { text.replace("e\u{301}", "\u{e9}") } else { text.to_string() };
            t.equal(&format!("{name}: decoding gives the text back"), &back, &want)?;
            let control = ours.iter().find(|id| words.is_control(**id));
            t.equal(&format!("{name}: what looks like a control token in text is text"), &control, &None)?;
            // Between two pieces of scaffold, and not in one of them.
            let frame = words.controls().next().unwrap_or_default().to_string();
            let begun = usize::from(words.add_bos() && words.bos() != words.special(&frame));
            let pieces =
                [Segment::Scaffold(frame.clone()), Segment::Content(text.to_string()), Segment::Scaffold(frame)];
            let framed = running("a conversation encodes", words.encode(&pieces))?;
            let controls = framed.iter().filter(|id| words.is_control(**id)).count();
            t.equal(&format!("{name}: the scaffold's control tokens are the only ones"), &controls, &(2 + begun))?;
        }
    }
    t.number("ids compared with llama.cpp", ids as f64);
    refusal::table(&mut t, s, bad::tokenizer::all(), 5)?;
    t.done()
}

/// Handle BOS/EOS tokens: which they are, when BOS is put in front, and that every end token ends.
pub fn f_gguf_050(s: &Subject) -> Attempt {
    let mut t = Tally::new("forged files with and without BOS, both fixtures; llama.cpp's list of end tokens");
    for name in ["qwen2-f16", "qwen2-stops-f16", "llama-f16", "llama-chat3-f16", "llama-spm-f16", "qwen2-padded-f16"] {
        let written = forge::model(name).ok_or_else(|| instrument(format!("the forge has no {name}")))?;
        let said = (written.words)();
        let golden = oracle::golden(s, name)?;
        let words = tokenizer(&running("the file opens", engine::file::open(&golden.model(s)?))?)?;
        let ids = (words.bos(), words.eos(), words.pad(), words.add_bos());
        t.equal(
            &format!("{name}: ids as written"),
            &ids,
            &(Some(said.bos), Some(said.eos), Some(said.pad), said.add_bos),
        )?;
        begins(&mut t, name, &words, &golden)?;
    }
    for name in ["qwen2-tiny-q8_0", "qwen2-tiny-q4_k_m"] {
        let golden = oracle::golden(s, name)?.up_to(64);
        let path = golden.model(s)?;
        let config = std::fs::read_to_string(s.fixtures.join("qwen2-tiny/config.json")).map_err(instrument)?;
        let config: Json = serde_json::from_str(&config).map_err(instrument)?;
        let mut model = lab::open(s, &path, Setup::default())?;
        let ids = (model.tokenizer.bos().map(u64::from), model.tokenizer.eos().map(u64::from));
        let want = (config["bos_token_id"].as_u64(), config["eos_token_id"].as_u64());
        t.equal("the fixture's ids are config.json's", &ids, &want)?;
        begins(&mut t, name, &model.tokenizer, &golden)?;
        let mut ended = golden.clone();
        ended.cases.retain(|c| c.ends);
        t.hold(ended.cases.len() > 10, || Refutation::new("cases that end", ended.cases.len().to_string(), "10"))?;
        oracle::free_running(&mut t, &mut model, &ended, golden.epsilon)?;
    }
    t.done()
}

/// BOS in front iff the file wants it and never twice, and the end tokens are llama.cpp's.
fn begins(t: &mut Tally, name: &str, words: &Tokenizer, golden: &oracle::Golden) -> Result<(), Halt> {
    let ends: Vec<u32> = (0..words.vocab_size() as u32).filter(|id| words.is_end(*id)).collect();
    t.equal(&format!("{name}: an answer ends where llama.cpp ends it"), &ends, &golden.ends)?;
    let bos = words.bos();
    let marker = bos.and_then(|id| words.token_text(id)).unwrap_or_default().to_string();
    for text in ["x", "", " x"] {
        let ids = running("a prompt encodes", words.encode_raw(text))?;
        let begins = bos.is_some() && ids.first() == bos.as_ref();
        t.equal(&format!("{name}: a prompt begins with BOS iff the file says so"), &begins, &words.add_bos())?;
        let typed = running("a prompt encodes", words.encode_raw(&format!("{marker}{text}")))?;
        let count = typed.iter().take_while(|id| Some(**id) == bos).count();
        t.equal(&format!("{name}: a prompt that brings its BOS gets no second"), &count, &1)?;
    }
    for case in golden.cases.iter().filter(|c| c.text.is_some()) {
        let theirs = case.prompt.first() == bos.as_ref() && case.text.as_ref().is_some_and(|x| !x.starts_with(&marker));
        t.equal(&format!("{name}: llama.cpp puts BOS in front too, or not"), &theirs, &words.add_bos())?;
    }
    Ok(())
}

// ---- models

/// Chat templates: a file's own and the built-in ones render Jinja2's text; errors are told.
pub fn f_gguf_051(s: &Subject) -> Attempt {
    let mut t = Tally::new(
        "18 conversations each by eight templates in files, 5 to 11 by seven built-in ones, beside Jinja2; five files through apr",
    );
    chat::by_files(&mut t, s)?;
    chat::by_builtins(&mut t, s)?;
    chat::told_by_apr(&mut t, s)?;
    t.done()
}

/// Memory-map large files: tensors point into the mapping, and opening reads the header and nothing else.
pub fn f_gguf_052(s: &Subject) -> Attempt {
    let mut t = Tally::new("shape-7b, a sparse file of gigabytes, in process and by apr; the fixture's program");
    let path = s.forged("shape-7b")?;
    let size = std::fs::metadata(&path).map_err(instrument)?.len();
    t.hold(size > 4 << 30, || Refutation::new("a large file", size.to_string(), "4 GiB"))?;
    let read = running("a large file opens", engine::file::open(&path))?;
    let copied = read.tensors.iter().find(|(_, tensor)| !tensor.bytes.is_mapped()).map(|(name, _)| name);
    t.equal("every tensor lies in the mapping", &copied, &None)?;
    let (mapped, resident) = mapping_of(&path)?;
    t.hold(mapped == size.next_multiple_of(4096), || {
        Refutation::new("the whole file is mapped", format!("{mapped} bytes of it"), size.to_string())
    })?;
    t.at_most("resident bytes of the mapping after opening", resident as f64, (64 << 20) as f64)?;
    drop(read);
    // A context that no model has is refused after the file is open and before anything is computed.
    let out = s.apr(["run"]).args([path.as_os_str()]).args(["x", "--ctx-size", "99999999"]).judged()?;
    t.hold(out.code() == Some(2), || {
        out.refute("it opens the file and refuses the context", out.err(), "exit code 2")
    })?;
    let peak = out.peak_rss_bytes.ok_or_else(|| instrument("no VmHWM was seen"))?;
    t.at_most("peak resident bytes of apr over the file's size", peak as f64 / size as f64, 1.0 / 8.0)?;
    t.number("bytes of the file", size as f64);
    let model = running("the fixture is a model", engine::file::open(&s.model()?).and_then(Model::new))?;
    let program = s.rewritten(engine::program::build(&model));
    let copied = program.weights.iter().find(|w| !w.bytes.is_mapped()).map(|w| &*w.name);
    t.equal("every weight of the program lies in the mapping", &copied, &None)?;
    t.done()
}

/// Bytes mapped of this file, and how many of them are in memory: `/proc/self/smaps`.
pub(super) fn mapping_of(path: &Path) -> Result<(u64, u64), Halt> {
    let shown = path.canonicalize().map_err(instrument)?.to_string_lossy().into_owned();
    let smaps = std::fs::read_to_string("/proc/self/smaps").map_err(instrument)?;
    let (mut here, mut mapped, mut resident) = (false, 0, 0);
    for line in smaps.lines() {
        let kib = |rest: &str| rest.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) * 1024;
        // A mapping begins with its addresses; what follows about it begins with a word and a colon.
        if line.split_whitespace().next().is_some_and(|w| w.contains('-') && !w.ends_with(':')) {
            here = line.ends_with(&shown);
        } else if let Some(rest) = line.strip_prefix("Size:").filter(|_| here) {
            mapped += kib(rest);
        } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| here) {
            resident += kib(rest);
        }
    }
    Ok((mapped, resident))
}

/// Detect architecture (qwen2, llama, etc.): by the metadata, whatever the file is called.
pub fn f_gguf_053(s: &Subject) -> Attempt {
    let mut t = Tally::new("the five full shapes as headers, small qwen2 and llama files under misleading names");
    let detected = |path: &Path| {
        let model = running("the file is a model", engine::file::open(path).and_then(Model::new))?;
        Ok::<_, Halt>((model.arch.name, model.arch.display, model.hyper.layers, model.hyper.hidden))
    };
    // Section 4.1: layers and width of each size.
    for (name, layers, hidden) in [
        ("shape-0.5b", 24, 896),
        ("shape-1b", 24, 1024),
        ("shape-1.5b", 28, 1536),
        ("shape-7b", 28, 3584),
        ("shape-32b", 64, 5120),
        ("qwen2-f16", 2, 128),
    ] {
        let want = ("qwen2", "Qwen2", layers, hidden);
        t.equal(&format!("{name} is Qwen2"), &detected(&s.forged(name)?)?, &want)?;
    }
    t.equal("llama-f16 is Llama", &detected(&s.forged("llama-f16")?)?, &("llama", "Llama", 2, 128))?;
    let folder = s.scratch()?;
    for (of, called, want) in [("qwen2-f16", "llama-7b.gguf", "Qwen2"), ("llama-f16", "qwen2.safetensors", "Llama")] {
        let path = folder.join(called);
        std::fs::copy(s.forged(of)?, &path).map_err(instrument)?;
        t.equal("the file's name plays no part", &detected(&path)?.1, &want)?;
    }
    let out = ask::answered(ask::ask(s, ask::PROMPTS[0], &["--verbose", "--max-tokens", "1"])?)?;
    let line = out.err().lines().find(|l| l.starts_with("Architecture:")).unwrap_or_default().to_string();
    t.hold(line.contains("qwen2"), || out.refute("apr says what it detected", &*line, "Architecture: qwen2"))?;
    t.done()
}

/// Support GQA (grouped query attention): head h reads K/V head h / (heads / kv_heads).
pub fn f_gguf_055(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("forged models of 1, 2 and all K/V heads against llama.cpp; one attention with marked heads");
    for name in ["qwen2-gqa4-q4_k", "qwen2-mha-q8_0", "qwen2-uneven-q8_0", "llama-f32", "llama-head128-q8_0"] {
        let golden = oracle::golden(s, name)?;
        let path = golden.model(s)?;
        let mut model = lab::open(s, &path, Setup::default())?;
        oracle::teacher_forced(&mut t, &mut model, &golden, golden.epsilon)?;
        let mut plain = lab::open(s, &path, Setup { oracle: true, ..Setup::default() })?;
        oracle::exact(&mut t, &mut plain, &golden)?;
    }
    for (heads, kv_heads) in [(4, 1), (4, 2), (4, 4), (5, 1), (6, 3), (14, 2), (28, 4)] {
        for setup in ways() {
            let (program, attention) = marked_heads(heads, kv_heads);
            let ran = run(s, &program, setup, &[0, 0, 0])?;
            let out = ran.of(attention)?;
            for (h, head) in out.chunks_exact(16).enumerate() {
                let want = (h % heads / (heads / kv_heads) + 1) as f32;
                let near = head.iter().all(|x| (x - want).abs() <= 1e-5);
                t.hold(near, || {
                    let at = format!("{heads} heads on {kv_heads} ({}), head {}", ran.how, h % heads);
                    Refutation::new(
                        "a head reads the values of its group",
                        format!("{head:?} ({at})"),
                        want.to_string(),
                    )
                })?;
            }
        }
    }
    t.done()
}

/// One attention whose K/V head j holds the value j + 1 and nothing else.
fn marked_heads(heads: usize, kv_heads: usize) -> (Program, Tag) {
    const DIM: usize = 16;
    let mut p = Program { vocab: 1, kv: vec![KvSpec { heads: kv_heads, head_dim: DIM }], ..Program::default() };
    let mut filled = |width: usize, value: &dyn Fn(usize) -> f32| {
        let values: Vec<f32> = (0..width).map(value).collect();
        let table = matrix(&mut p, 1, &values);
        let dst = p.buffer(width);
        p.push(Tag(0), Op::Embed { table, dst, scale: 1.0 });
        dst
    };
    let q = filled(heads * DIM, &|i| (i % 7) as f32 - 3.0);
    let k = filled(kv_heads * DIM, &|i| (i % 5) as f32 - 2.0);
    let v = filled(kv_heads * DIM, &|i| (i / DIM + 1) as f32);
    let dst = p.buffer(heads * DIM);
    let (layer, scale, window, softcap) = (0, 0.25, None, None);
    p.push(Tag(1), Op::Attend { q, k, v, dst, layer, heads, scale, window, softcap, causal: true });
    let weight = matrix(&mut p, 1, &vec![1.0; heads * DIM]);
    p.push(Tag(2), Op::Logits { src: dst, weight, scale: 1.0 });
    (p, Tag(1))
}

// ---- bad files

/// Validate tensor shapes: each tensor of a model with each other shape is refused by its name.
pub fn f_gguf_057(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("every tensor of forged qwen2 and llama models with up to 12 other shapes; some through apr");
    let (mut tried, mut outcome) = (0u32, Ok(()));
    for name in ["qwen2-q8_0", "qwen2-f16", "llama-f16"] {
        let each = |bad: Bad| {
            tried += 1;
            let through_apr = tried.is_multiple_of(60);
            outcome = std::mem::replace(&mut outcome, Ok(())).and_then(|()| {
                if through_apr {
                    refusal::by_apr(&mut t, s, &bad)?;
                }
                refusal::by_engine(&mut t, &bad, refusal::understood(bad.bytes.clone()))
            });
        };
        bad::tensors::shapes(name, each).map_err(instrument)?;
    }
    outcome?;
    t.number("shapes tried", f64::from(tried));
    t.done()
}

/// Error on corrupted file: cut anywhere, any bit of the header flipped, any field hostile, weights that are no numbers,
/// no file at all, a file that changes while it is in use.
pub fn f_gguf_058(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("the tables of falsify/src/bad on a tiny model, in process and through apr; forged files cut");
    refusal::table(&mut t, s, bad::header::all(), 3)?;
    refusal::table(&mut t, s, bad::tensors::all(), 3)?;
    refusal::table(&mut t, s, bad::hyper::all(), 3)?;
    refusal::damage(&mut t, s)?;
    for name in ["seed-types", "seed-tensors", "seed-version2-align64", "seed-tokens", "qwen2-q8_0"] {
        let w = sound(name)?;
        let (header, bytes) = (w.header().bytes.len(), w.to_bytes().map_err(instrument)?);
        for end in bad::damage::cuts(header, bytes.len()) {
            let met = engine::file::gguf::parse(bytes[..end].to_vec().into());
            let fits = met.as_ref().err().is_some_and(|e| bad::damage::fits_cut(end, header, e.kind, e.at.as_ref()));
            t.hold(fits, || Refutation::new(format!("{name} cut to {end} bytes"), format!("{met:?}"), "refused"))?;
        }
    }
    refusal::poisoned(&mut t, s)?;
    refusal::paths(&mut t, s)?;
    refusal::changed_in_use(&mut t, s)?;
    t.done()
}

/// Error on unsupported architecture: by its name, with those that are supported, and nothing that drives a terminal.
pub fn f_gguf_059(s: &Subject) -> Attempt {
    let mut t = Tally::new("a forged model under architectures that nobody supports, in process and by apr");
    let long = "x".repeat(3000);
    for name in ["gpt-neox", "", "QWEN2", "qwen2 ", "qwen", "llama\n", "\u{1b}[31mred\u{1b}[0m", "\u{202e}amall", &long]
    {
        let mut w = sound("qwen2-f16")?;
        w.replace("general.architecture", name);
        let file = written(s, "unknown", &w)?;
        let e = lab::refusal(s, &file)?;
        t.equal("the kind of error", &e.kind, &Kind::Unsupported)?;
        let out = s.apr(["run"]).args([file.as_os_str()]).args(["2+2?", "--max-tokens", "4"]).judged()?;
        t.hold(out.code() == Some(6), || out.refute("apr exits 6", format!("{:?}", out.code()), "6"))?;
        for text in [e.to_string(), out.err()] {
            // What is printable of the name is in the message; at most 80 characters of it.
            let shown: String = name.chars().take_while(|c| c.is_ascii_graphic() || *c == ' ').take(60).collect();
            let said = text.contains("unsupported architecture") && text.contains(&shown);
            t.hold(said, || out.refute("the message names the architecture", &*text, &*shown))?;
            let listed = text.contains("supported: ") && text.contains("llama") && text.contains("qwen2");
            t.hold(listed, || out.refute("the message lists what is supported", &*text, "supported: llama, qwen2"))?;
            let line = text.trim_end().lines().count() == 1 && text.len() < 500;
            t.hold(line, || out.refute("one short line", &*text, "one line"))?;
            let drives = text.trim_end().chars().find(|c| c.is_control() || *c == '\u{202e}');
            t.hold(drives.is_none(), || out.refute("no control characters", text.escape_debug().to_string(), "none"))?;
        }
    }
    t.done()
}
