//! F-APR: bundles as aprender and realizar write them are read as they were meant, and bad ones are refused.
//!
//! Bundles come from `apr-format`, the crate that aprender itself writes them with (`forge/apr.rs`); what we write is
//! read back by it. The models are the forge's, so llama.cpp's answers to the GGUF file hold for the bundle too.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use apr_format::v2::{AprV2Reader, TensorDType};
use compute::Want;
use compute::backend::RowOutput;
use engine::convert::{Target, convert};
use engine::file::apr::stream::Stream;
use engine::file::{Checked, Tensor, Value};
use engine::model::Model;
use engine::text::Tokenizer;
use engine::{Error, Kind};

use super::Check;
use crate::bad::{self, apr::BadBundle};
use crate::child::Output;
use crate::described::{in_singles, int4, meant};
use crate::forge;
use crate::forge::apr::{TENSORS, name_of, sum_end, values};
use crate::lab::{self, Setup, running};
use crate::oracle;
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-APR-061", f_apr_061),
    ("F-APR-062", f_apr_062),
    ("F-APR-063", f_apr_063),
    ("F-APR-064", f_apr_064),
    ("F-APR-065", f_apr_065),
    ("F-APR-066", f_apr_066),
    ("F-APR-067", f_apr_067),
    ("F-APR-068", f_apr_068),
    ("F-APR-069", f_apr_069),
    ("F-APR-070", f_apr_070),
    ("F-APR-071", f_apr_071),
    ("F-APR-072", f_apr_072),
    ("F-APR-073", f_apr_073),
    ("F-APR-074", f_apr_074),
    ("F-APR-075", f_apr_075),
];

/// Bundles, and the GGUF file of the forge that holds the same model.
const TWINS: &[(&str, &str)] = &[
    ("apr-qwen2-f32", "qwen2-f32"),
    ("apr-qwen2-f16", "qwen2-f16"),
    ("apr-qwen2-bf16", "qwen2-bf16"),
    ("apr-qwen2-q4_k", "qwen2-q4_k"),
    ("apr-qwen2-q6_k", "qwen2-q6_k"),
    ("apr-llama-f16", "llama-f16"),
    ("apr-realizar-f16", "qwen2-f16"),
    ("apr-realizar-q8_0", "qwen2-q8_0"),
    ("apr-realizar-q5_0", "qwen2-q5_0"),
];

fn opened(what: &str, path: &Path) -> Result<Checked, Halt> {
    running(&format!("{what} opens"), engine::file::open(path))
}

fn parsed(bytes: Vec<u8>) -> Result<Checked, Error> {
    engine::file::apr::parse(bytes.into())
}

/// Our own file of a model of the forge.
fn converted(s: &Subject, from: &Path, name: &str) -> Result<PathBuf, Halt> {
    let to = s.scratch()?.join(name);
    let target = Target::of(&to).ok_or_else(|| instrument("no target"))?;
    running("a model is converted", convert(from, &to, target, false, &mut |_, _| Ok(())))?;
    Ok(to)
}

/// Load APR v2 format: bundles of both writers give llama.cpp's tokens, and aprender's crate reads what we write.
pub fn f_apr_061(s: &Subject) -> Attempt {
    let mut t = Tally::new("bundles by apr-format and in realizar's dialect, teacher-forced; ours, read by apr-format");
    for (bundle, gguf) in TWINS.iter().filter(|(_, gguf)| !gguf.ends_with("q5_0")) {
        let golden = oracle::golden(s, gguf)?.up_to(512);
        // Answers to another model than the forge's would be stale.
        golden.model(s)?;
        let path = s.forged(bundle)?;
        let mut model = lab::open(s, &path, Setup::default())?;
        let dialect = if bundle.contains("realizar") { "realizar" } else { "aprender" };
        t.equal(&format!("{bundle}: the dialect"), &model.model.format, &format!("APR v2 ({dialect})"))?;
        oracle::teacher_forced(&mut t, &mut model, &golden, golden.epsilon)?;
        let mut plain = lab::open(s, &path, Setup { oracle: true, ..Setup::default() })?;
        oracle::exact(&mut t, &mut plain, &golden)?;
    }
    for name in ["qwen2-f16", "qwen2-q4_k", "qwen2-q4_0", "llama-f16"] {
        read_by_the_crate(&mut t, s, name)?;
    }
    t.done()
}

/// What we write, aprender's reader reads: header, checksum, metadata, index and bytes.
fn read_by_the_crate(t: &mut Tally, s: &Subject, name: &str) -> Result<(), Halt> {
    let gguf = s.forged(name)?;
    let ours = std::fs::read(converted(s, &gguf, "ours.apr")?).map_err(instrument)?;
    let refuted = |e: &dyn std::fmt::Display| Refutation::new("apr-format reads our file", e.to_string(), "no error");
    let read = AprV2Reader::from_bytes(&ours).map_err(|e| refuted(&e))?;
    let required = apr_format::v2::required_file_len(&ours).map_err(|e| refuted(&e))?;
    t.equal("the file ends with its checksum", &(ours.len() as u64), &(required + 4))?;
    let mut again = ours.clone();
    sum_end(&mut again);
    t.equal("the checksum is right", &(again == ours), &true)?;
    t.equal("tensors are aligned", &read.verify_alignment(), &true)?;
    let written = forge::model(name).ok_or_else(|| instrument("no such model"))?;
    let m = read.metadata();
    let sizes = [m.hidden_size, m.num_layers, m.num_heads, m.num_kv_heads, m.intermediate_size];
    let want = [written.hidden, written.layers, written.heads, written.kv_heads, written.ffn];
    t.equal(&format!("{name}: sizes in typed fields"), &sizes, &want.map(Some))?;
    t.equal("the architecture", &m.architecture.as_deref(), &Some(written.arch.name()))?;
    let source = opened("the forged file", &gguf)?;
    t.equal("as many tensors", &read.tensor_names().len(), &source.tensors.len())?;
    for (gguf_name, tensor) in &source.tensors {
        let name = name_of(gguf_name);
        let entry = read.get_tensor(&name);
        t.equal(&format!("{name}: its shape"), &entry.map(|e| &e.shape), &Some(&tensor.shape))?;
        let bytes = read.get_tensor_data(&name).unwrap_or_default();
        let same = match entry.map(|e| e.dtype) {
            Some(TensorDType::AprQ4) => int4(bytes, tensor.shape.iter().product()) == tensor.as_weight(&name).to_f32(),
            _ => bytes == &tensor.bytes[..],
        };
        t.equal(&format!("{name}: its numbers"), &same, &true)?;
    }
    Ok(())
}

// ---- numbers

/// Every tensor of a dtype is read as its description says, bit for bit.
fn decodes(t: &mut Tally, s: &Subject, dtypes: &[TensorDType]) -> Result<(), Halt> {
    let read = opened("a bundle of every dtype", &s.forged("apr-tensors")?)?;
    for &(name, dtype, shape) in TENSORS.iter().filter(|(_, d, _)| dtypes.contains(d)) {
        let tensor = tensor_of(&read, name)?;
        t.equal(&format!("{name}: its shape"), &tensor.shape[..], &shape[..])?;
        let (ours, want) = (tensor.as_weight(name).to_f32(), meant(name, dtype, shape.iter().product()));
        t.equal(&format!("{name}: as many values"), &ours.len(), &want.len())?;
        for (i, (ours, want)) in ours.iter().zip(&want).enumerate() {
            // A zero may come out with the scale's sign.
            t.hold(ours.to_bits() == want.to_bits() || *ours == 0.0 && *want == 0.0, || {
                Refutation::new(format!("{name} decodes as described, value {i}"), ours.to_string(), want.to_string())
            })?;
        }
        t.number(&format!("{name}: values compared"), want.len() as f64);
    }
    Ok(())
}

fn tensor_of<'a>(read: &'a Checked, name: &str) -> Result<&'a Tensor, Halt> {
    let found = read.tensors.get(name);
    found.ok_or_else(|| Refutation::new("the tensor is there", format!("no {name}"), name).into())
}

/// The model of a bundle runs on its numbers: the best token of each position is that of the model decoded to F32 by the
/// description of the dtype, wherever that one leads clearly.
fn runs(t: &mut Tally, s: &Subject, bundle: &str) -> Result<(), Halt> {
    let mut ours = lab::open(s, &s.forged(bundle)?, Setup::default())?;
    let mut plain = lab::open(s, &s.forged(bundle)?, Setup { oracle: true, ..Setup::default() })?;
    let ids = lab::probe(&ours, 48)?;
    let (a, b) = (lab::rows(&mut ours, &ids, 48, Want::Logits)?, lab::rows(&mut plain, &ids, 48, Want::Logits)?);
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let mut sorted = b.values.clone();
        sorted.sort_by(f32::total_cmp);
        let lead = sorted[sorted.len() - 1] - sorted[sorted.len() - 2];
        t.hold(a.argmax == b.argmax || lead < 0.5, || {
            Refutation::new(
                format!("{bundle}, position {i}: the plain backend's token"),
                a.argmax.to_string(),
                b.argmax.to_string(),
            )
        })?;
    }
    Ok(())
}

/// Load INT4 quantized tensors.
pub fn f_apr_062(s: &Subject) -> Attempt {
    let mut t = Tally::new("INT4 tensors by apr-format, whole rows and running on; a model of them");
    decodes(&mut t, s, &[TensorDType::AprQ4])?;
    runs(&mut t, s, "apr-qwen2-int4")?;
    t.done()
}

/// Load INT8 quantized tensors.
pub fn f_apr_063(s: &Subject) -> Attempt {
    let mut t = Tally::new("INT8 tensors by apr-format; a model of them");
    decodes(&mut t, s, &[TensorDType::AprQ8])?;
    runs(&mut t, s, "apr-qwen2-int8")?;
    t.done()
}

/// Load F16 tensors.
pub fn f_apr_064(s: &Subject) -> Attempt {
    let mut t = Tally::new("F16 tensors by apr-format");
    decodes(&mut t, s, &[TensorDType::F16])?;
    t.done()
}

/// Load F32 tensors.
pub fn f_apr_065(s: &Subject) -> Attempt {
    let mut t = Tally::new("F32 tensors by apr-format");
    decodes(&mut t, s, &[TensorDType::F32])?;
    t.done()
}

/// Auto-dequantize to F32: every dtype within the bound of its rounding from what was stored.
pub fn f_apr_068(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("F32, F16, BF16, INT4 and INT8 tensors against what was stored; Q4_K and Q6_K golden blocks");
    let read = opened("a bundle of every dtype", &s.forged("apr-tensors")?)?;
    for &(name, dtype, shape) in TENSORS {
        let stored = values(name, shape.iter().product());
        let ours = tensor_of(&read, name)?.as_weight(name).to_f32();
        t.equal(&format!("{name}: as many values"), &ours.len(), &stored.len())?;
        let largest = |v: &[f32]| v.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (i, (ours, was)) in ours.iter().zip(&stored).enumerate() {
            let block = &stored[i / 32 * 32..stored.len().min(i / 32 * 32 + 32)];
            let bound = match dtype {
                TensorDType::F32 => 0.0,
                TensorDType::F16 => was.abs() / 2048.0 + 6e-8,
                TensorDType::BF16 => was.abs() / 128.0,
                // Half a step, and the rounding of the scale to a half float.
                TensorDType::AprQ4 => largest(block) / 7.0 * (0.5 + 8.0 / 2048.0),
                _ => largest(&stored) / 127.0 * 0.501,
            };
            t.hold((ours - was).abs() <= bound, || {
                Refutation::new(format!("{name}, value {i}, within {bound}"), ours.to_string(), was.to_string())
            })?;
        }
    }
    for format in ["Q4_K", "Q6_K"] {
        let golden = oracle::blocks(&mut t, s, format)?;
        let (name, dtype) = ("blocks", TensorDType::from_u8(golden.format.0.ggml_type as u8));
        let dtype = dtype.ok_or_else(|| instrument(format!("apr-format has no {format}")))?;
        let mut m = apr_format::v2::AprV2Metadata::new("x");
        m.architecture = Some("x".into());
        (m.hidden_size, m.num_layers, m.num_heads) = (Some(1), Some(1), Some(1));
        (m.intermediate_size, m.max_position_embeddings, m.rms_norm_eps) = (Some(1), Some(1), Some(1e-6));
        let mut w = apr_format::v2::AprV2Writer::new(m);
        w.add_tensor(name, dtype, vec![golden.values.len() / 256, 256], golden.bytes);
        let read = running("golden blocks open", parsed(w.write().map_err(instrument)?))?;
        let bits: Vec<u32> = tensor_of(&read, name)?.as_weight(name).to_f32().iter().map(|x| x.to_bits()).collect();
        t.equal(&format!("{format} decodes like the gguf package"), &bits, &golden.values)?;
    }
    t.done()
}

// ---- words

/// Read APR metadata: everything that was written, with no other file beside it.
pub fn f_apr_066(s: &Subject) -> Attempt {
    let mut t = Tally::new("metadata by apr-format and in realizar's spelling; a bundle alone in its folder");
    for (bundle, gguf) in
        [("apr-qwen2-f16", "qwen2-f16"), ("apr-llama-f16", "llama-f16"), ("apr-realizar-f16", "qwen2-f16")]
    {
        let model = forge::model(gguf).ok_or_else(|| instrument("no such model"))?;
        let words = (model.words)().padded_to(model.padded);
        let read = opened(bundle, &s.forged(bundle)?)?;
        let m = &read.metadata;
        let arch = model.arch.name();
        for (key, want) in [
            ("embedding_length", model.hidden),
            ("block_count", model.layers),
            ("attention.head_count", model.heads),
            ("attention.head_count_kv", model.kv_heads),
            ("feed_forward_length", model.ffn),
            ("context_length", model.context as usize),
            ("vocab_size", model.rows),
        ] {
            let got = m.get(&format!("{arch}.{key}"));
            t.equal(&format!("{bundle}: {key}"), &got, &Some(&Value::Unsigned(want as u64)))?;
        }
        for (key, want) in [("rope.freq_base", model.theta), ("attention.layer_norm_rms_epsilon", 1e-6)] {
            let got = m.float(&format!("{arch}.{key}")).ok().flatten().map(|x| x as f32);
            t.equal(&format!("{bundle}: {key}"), &got, &Some(want))?;
        }
        let texts = |list: &[String]| Value::Array(list.iter().map(|x| Value::String(x.clone())).collect());
        for (key, want) in [
            ("general.architecture", Value::String(arch.into())),
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            ("tokenizer.ggml.pre", Value::String(words.pre.into())),
            ("tokenizer.chat_template", Value::String(words.template.into())),
            ("tokenizer.ggml.tokens", texts(&words.tokens)),
            ("tokenizer.ggml.merges", texts(words.merges())),
            ("tokenizer.ggml.bos_token_id", Value::Unsigned(words.bos.into())),
            ("tokenizer.ggml.eos_token_id", Value::Unsigned(words.eos.into())),
        ] {
            t.equal(&format!("{bundle}: {key}"), &m.get(key), &Some(&want))?;
        }
        running("its tokenizer is read", Tokenizer::from_metadata(m))?;
    }
    let alone = converted(s, &s.model()?, "alone.apr")?;
    let out = s.apr(["run"]).args([alone.as_os_str()]).args(["What is 2+2?", "--temperature", "0"]).judged()?;
    t.hold(out.code() == Some(0) && out.out().contains('4'), || {
        out.refute("a bundle with nothing beside it answers", format!("{}{}", out.out(), out.err()), "4")
    })?;
    t.done()
}

/// Tensor name mapping works: HuggingFace's and GGUF's names lead to the same weights, and strangers are reported.
pub fn f_apr_069(s: &Subject) -> Attempt {
    let mut t = Tally::new("the weights of twins, role by role; tensors that belong nowhere; our own names");
    for (bundle, gguf) in TWINS {
        let model = |path: &Path| running("it is a model", engine::file::open(path).and_then(Model::new));
        let (a, b) = (model(&s.forged(bundle)?)?, model(&s.forged(gguf)?)?);
        let (a, b) = (engine::program::build(&a).weights, engine::program::build(&b).weights);
        t.equal(&format!("{bundle}: as many weights"), &a.len(), &b.len())?;
        for (a, b) in a.iter().zip(&b) {
            let hf = bundle.contains("realizar") || *a.name == *name_of(&b.name);
            t.equal(&format!("{bundle}: {} is {}", a.name, b.name), &(hf, *a.bytes == *b.bytes), &(true, true))?;
        }
    }
    for (bundle, name) in [("apr-qwen2-f16", "model.layers.0.stranger.weight"), ("apr-realizar-f16", "blk.0.stranger")]
    {
        let mut read = opened(bundle, &s.forged(bundle)?)?;
        let some = read.tensors.values().next().cloned().ok_or_else(|| instrument("no tensors"))?;
        read.tensors.insert(name.into(), some);
        let said = match Model::new(read) {
            Ok(model) => model.warnings.join("\n"),
            Err(e) => e.to_string(),
        };
        t.hold(said.contains(name), || Refutation::new("a tensor that belongs nowhere is reported", said, name))?;
    }
    t.done()
}

/// Same output as GGUF (same model): the same bits, for the same numbers run on the same kernels.
pub fn f_apr_074(s: &Subject) -> Attempt {
    let mut t = Tally::new("logits of twins; the fixtures as we convert them");
    let mut pairs = Vec::new();
    for (bundle, gguf) in TWINS {
        pairs.push((bundle.to_string(), s.forged(bundle)?, s.forged(gguf)?));
    }
    pairs.push(("the fixture in Q4_K_M".into(), converted(s, &s.fixture("q4_k_m")?, "k.apr")?, s.fixture("q4_k_m")?));
    for (what, bundle, gguf) in &pairs {
        let (ids, ours) = logits(s, bundle, None)?;
        let (_, theirs) = logits(s, gguf, Some(&ids))?;
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            let bits = |row: &RowOutput| row.values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            t.hold(bits(a) == bits(b), || {
                let seen = format!("token {} against {}", a.argmax, b.argmax);
                Refutation::new(format!("{what}, position {i}: the same logits"), seen, "the same bits")
            })?;
        }
    }
    // Q8_0 becomes F32 in a bundle: the same numbers, other arithmetic.
    let wide = converted(s, &s.fixture("q8_0")?, "wide.apr")?;
    let (mut a, mut b) = (
        lab::open(s, &wide, Setup { oracle: true, ..Setup::default() })?,
        lab::open(s, &s.fixture("q8_0")?, Setup { oracle: true, ..Setup::default() })?,
    );
    let ids = lab::probe(&b, 32)?;
    let (a, b) = (lab::rows(&mut a, &ids, 32, Want::Logits)?, lab::rows(&mut b, &ids, 32, Want::Logits)?);
    let worst = a.iter().zip(&b).flat_map(|(a, b)| a.values.iter().zip(&b.values).map(|(x, y)| (x - y).abs()));
    t.at_most(
        "the fixture in Q8_0, as F32, on the plain backend: largest difference",
        worst.fold(0f32, f32::max).into(),
        0.0,
    )?;
    t.done()
}

fn logits(s: &Subject, path: &Path, ids: Option<&[u32]>) -> Result<(Vec<u32>, Vec<RowOutput>), Halt> {
    let mut model = lab::open(s, path, Setup::default())?;
    let ids = match ids {
        Some(ids) => ids.to_vec(),
        None => lab::probe(&model, 64)?,
    };
    let rows = lab::rows(&mut model, &ids, 64, Want::Logits)?;
    Ok((ids, rows))
}

// ---- framing

/// Handle compression (LZ4, ZSTD).
pub fn f_apr_067(s: &Subject) -> Attempt {
    let mut t = Tally::new("a bundle in LZ4 and in Zstandard, whole and as a stream; frames that lie, through apr");
    let plain = opened("the bundle as it was", &s.forged("apr-qwen2-coarse")?)?;
    for (name, how) in [("apr-qwen2-lz4", "LZ4"), ("apr-qwen2-zstd", "Zstandard")] {
        let path = s.forged(name)?;
        let read = opened(name, &path)?;
        t.equal("the compression is told", &read.format, &format!("APR v2 (aprender, {how})"))?;
        t.equal(&format!("{how}: the same metadata"), &read.metadata.entries, &plain.metadata.entries)?;
        same_tensors(&mut t, how, &plain.tensors, &read.tensors)?;
        let file = std::fs::File::open(&path).map_err(instrument)?;
        let streamed = running("it streams", streamed(file))?;
        let stored: BTreeMap<String, Vec<u8>> =
            plain.tensors.iter().map(|(n, t)| (n.clone(), t.bytes.to_vec())).collect();
        t.equal(&format!("{how}: the same tensors from a stream"), &(streamed == stored), &true)?;
        t.at_most(
            &format!("{how}: bytes over those of the plain file"),
            read.file_bytes as f64 / plain.file_bytes as f64,
            0.7,
        )?;
    }
    // apr-format has a flag for LZ4, and compresses nothing.
    let mut flagged = std::fs::read(s.forged("apr-qwen2-coarse")?).map_err(instrument)?;
    flagged[6] |= 1;
    forge::apr::sum_header(&mut flagged);
    sum_end(&mut flagged);
    let read = running("a bundle that merely says that it is compressed opens", parsed(flagged))?;
    same_tensors(&mut t, "merely flagged", &plain.tensors, &read.tensors)?;
    for bad in bad::apr::hostile().map_err(instrument)?.iter().filter(|b| b.what.contains("frame")) {
        refused(&mut t, bad, parsed(bad.bytes.clone()).map(drop))?;
        refused_by_apr(&mut t, s, bad)?;
    }
    t.done()
}

fn same_tensors(
    t: &mut Tally,
    what: &str,
    a: &BTreeMap<String, Tensor>,
    b: &BTreeMap<String, Tensor>,
) -> Result<(), Halt> {
    t.equal(&format!("{what}: the same names"), &b.keys().collect::<Vec<_>>(), &a.keys().collect::<Vec<_>>())?;
    for ((name, a), b) in a.iter().zip(b.values()) {
        let same = a.shape == b.shape && a.format == b.format && *a.bytes == *b.bytes;
        t.equal(&format!("{what}: {name} is the same"), &same, &true)?;
    }
    Ok(())
}

fn streamed(reader: impl Read) -> engine::Result<BTreeMap<String, Vec<u8>>> {
    let mut stream = Stream::open(reader)?;
    let mut all = BTreeMap::new();
    while let Some(tensor) = stream.next()? {
        let name = tensor.entry.name.clone();
        all.insert(name, tensor.bytes()?);
    }
    Ok(all)
}

/// Support streaming read: from a pipe in the memory of one piece; and `apr` reads a large bundle piece by piece too.
pub fn f_apr_072(s: &Subject) -> Attempt {
    let mut t = Tally::new("a bundle of 1 GiB that exists nowhere, read as it is made; a large one converted by apr");
    let bytes = std::fs::read(s.forged("apr-qwen2-f16")?).map_err(instrument)?;
    let whole = running("it opens", parsed(bytes.clone()))?;
    let pieces = running("it streams", streamed(&bytes[..]))?;
    for (name, tensor) in &whole.tensors {
        t.equal(&format!("{name} arrives whole"), &pieces.get(name).map(Vec::as_slice), &Some(&tensor.bytes[..]))?;
    }
    // One tensor of 2^28 numbers, all zeros, behind a header of its own.
    let front = forge::apr::front_of(1 << 28).map_err(instrument)?;
    let before = memory("VmRSS:")?;
    std::fs::write("/proc/self/clear_refs", "5").map_err(instrument)?;
    let zeros = std::io::repeat(0).take(4 << 28);
    let mut stream = running("it begins", Stream::open((&front[..]).chain(zeros)))?;
    let mut seen = 0u64;
    let mut piece = vec![0; 1 << 20];
    while let Some(mut tensor) = running("it goes on", stream.next())? {
        loop {
            match running("a piece arrives", tensor.read(&mut piece))? {
                0 => break,
                n => seen += n as u64,
            }
        }
    }
    t.equal("all of it arrived", &seen, &(4u64 << 28))?;
    t.at_most("memory while 1 GiB went by, MiB", memory("VmHWM:")?.saturating_sub(before) as f64 / 1048576.0, 32.0)?;
    let (large, out) = (s.forged("apr-shape-0.5b")?, s.scratch()?.join("large.gguf"));
    let size = std::fs::metadata(&large).map_err(instrument)?.len();
    t.hold(size > 300 << 20, || Refutation::new("a large bundle", size.to_string(), "300 MiB"))?;
    let ran = s.apr(["convert"]).args([large.as_os_str(), out.as_os_str()]).judged()?;
    t.hold(ran.code() == Some(0), || ran.refute("it converts", ran.err(), "exit code 0"))?;
    let peak = ran.peak_rss_bytes.ok_or_else(|| instrument("no VmHWM was seen"))?;
    t.at_most("peak resident bytes of apr over the file's size", peak as f64 / size as f64, 0.6)?;
    let _ = std::fs::remove_file(&out);
    t.done()
}

/// A line of `/proc/self/status`, in bytes.
fn memory(line: &str) -> Result<u64, Halt> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(instrument)?;
    let found =
        status.lines().find_map(|l| l.strip_prefix(line)?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    found.map(|kib| kib * 1024).ok_or_else(|| instrument(format!("no {line}")))
}

// ---- bad files

/// What the engine makes of a bundle's bytes: everything that is checked before numbers are computed.
fn understood(bytes: Vec<u8>) -> Result<(), Error> {
    let model = Model::new(parsed(bytes)?)?;
    let explain = |e| model.origins.explain(e);
    let words = Tokenizer::from_metadata(&model.metadata).map_err(explain)?;
    engine::model::check_vocabulary(words.vocab_size(), &model)?;
    engine::text::ChatTemplate::from_metadata(&model.metadata, &words).map(drop).map_err(explain)
}

/// The file is refused for being bad, in words that name what is bad.
fn refused(t: &mut Tally, bad: &BadBundle, met: Result<(), Error>) -> Result<(), Halt> {
    let what = || format!("refused: {}", bad.what);
    let Err(e) = met else {
        return Err(Refutation::new(what(), "accepted", "an error").into());
    };
    let files = [Kind::Malformed, Kind::Unsupported, Kind::TooLarge];
    let kind = bad.kind.map_or(files.contains(&e.kind), |kind| e.kind == kind) && e.at.is_some();
    t.hold(kind, || Refutation::new(what(), format!("{e:?}"), format!("{:?}, with a place", bad.kind)))?;
    let named = e.to_string().contains(&bad.names);
    t.hold(named, || Refutation::new(what(), e.to_string(), format!("{:?} in the message", bad.names)))
}

/// The same through `apr run`: an exit code of a bad file, one line, and no memory for it.
fn refused_by_apr(t: &mut Tally, s: &Subject, bad: &BadBundle) -> Result<Output, Halt> {
    let file = s.scratch()?.join("bad.apr");
    std::fs::write(&file, &bad.bytes).map_err(instrument)?;
    let out = s.apr(["run"]).args([file.as_os_str()]).args(["2+2?", "--max-tokens", "4"]).judged()?;
    let what = format!("apr refuses: {}", bad.what);
    t.hold(matches!(out.code(), Some(5..=7)), || {
        out.refute(&what, format!("{:?}: {}", out.code(), out.err()), "exit code 5, 6 or 7")
    })?;
    let err = out.err();
    let line = err.trim_end().lines().count() == 1 && out.stdout.is_empty();
    t.hold(line, || out.refute(&what, &*err, "one line on standard error and nothing else"))?;
    let peak = out.peak_rss_bytes.unwrap_or_default();
    t.at_most("peak resident bytes of apr on a bad file", peak as f64, (64 << 20) as f64)?;
    let _ = std::fs::remove_file(&file);
    Ok(out)
}

/// Error on corrupted bundle: cut anywhere, any bit of a small one flipped, any field made hostile.
pub fn f_apr_070(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("a small bundle cut at every byte and with every bit flipped; hostile fields; some through apr");
    let small = forge::apr::small().map_err(instrument)?;
    running("the small bundle opens", parsed(small.clone()))?;
    for end in 0..small.len() {
        refused(
            &mut t,
            &BadBundle::damaged(format!("cut to {end} bytes"), Vec::new()),
            parsed(small[..end].to_vec()).map(drop),
        )?;
        let stream = streamed(&small[..end]).map(drop);
        refused(&mut t, &BadBundle::damaged(format!("a stream cut to {end} bytes"), Vec::new()), stream)?;
    }
    for bit in 0..small.len() * 8 {
        let mut damaged = small.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let what = format!("bit {} of byte {} flipped", bit % 8, bit / 8);
        refused(&mut t, &BadBundle::damaged(what, Vec::new()), parsed(damaged).map(drop))?;
    }
    let hostile = bad::apr::hostile().map_err(instrument)?;
    for (i, bad) in hostile.iter().enumerate() {
        refused(&mut t, bad, understood(bad.bytes.clone()))?;
        if i % 5 == 0 {
            refused_by_apr(&mut t, s, bad)?;
        }
    }
    let good = bad::apr::good().map_err(instrument)?;
    for part in [3, 63, 64, good.len() / 2, good.len() - 4, good.len() - 1] {
        let bad = BadBundle::damaged(format!("a model cut to {part} bytes"), good[..part].to_vec());
        refused_by_apr(&mut t, s, &bad)?;
    }
    t.number("hostile fields", hostile.len() as f64);
    t.done()
}

/// Error on version mismatch: it says what it found and what it reads.
pub fn f_apr_071(s: &Subject) -> Attempt {
    let mut t = Tally::new("a bundle of versions 0.0, 1.0, 2.1, 3.0 and 255.255, and of other magics, through apr");
    let good = bad::apr::good().map_err(instrument)?;
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (major, minor) in [(0, 0), (1, 0), (2, 1), (3, 0), (255, 255)] {
        let mut bytes = good.clone();
        bytes[4..6].copy_from_slice(&[major, minor]);
        forge::apr::sum_header(&mut bytes);
        sum_end(&mut bytes);
        files.push((format!("version {major}.{minor}"), bytes));
    }
    for magic in [*b"APRN", *b"APR1", *b"APR2"] {
        let mut bytes = good.clone();
        bytes[..4].copy_from_slice(&magic);
        files.push((String::from_utf8_lossy(&magic).into_owned(), bytes));
    }
    for (what, bytes) in files {
        let bad = BadBundle::damaged(what.clone(), bytes);
        let out = refused_by_apr(&mut t, s, &bad)?;
        t.hold(out.code() == Some(6), || out.refute("it exits 6", format!("{:?}", out.code()), "6"))?;
        for word in [what.as_str(), "2.0"] {
            t.hold(out.err().contains(word), || out.refute("the message names both versions", out.err(), word))?;
        }
    }
    t.done()
}

/// Validate checksums: one changed byte anywhere, with everything else as it was.
pub fn f_apr_073(s: &Subject) -> Attempt {
    let mut t = Tally::new("one byte changed in every section of a bundle by apr-format, in process and through apr");
    let path = s.forged("apr-qwen2-f16")?;
    let good = std::fs::read(&path).map_err(instrument)?;
    let at =
        |field: usize| u64::from_le_bytes(good[field..field + 8].first_chunk().copied().unwrap_or_default()) as usize;
    let (index, data, end) = (at(24), at(32), good.len());
    // Bytes whose change no other rule can notice: reserved ones, padding, a digit of a number, weights.
    let digit = good.windows(12).position(|w| w == b"rms_norm_eps").unwrap_or(64) + 14;
    let places = [
        ("header", 50),
        ("header", 41),
        ("file", digit),
        ("file", index - 1),
        ("file", data - 1),
        ("file", data + 8),
        ("file", data + (end - data) / 2),
        ("file", end - 5),
        ("file", end - 1),
    ];
    for (section, place) in places {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        let e = parsed(bytes.clone()).map(drop);
        let what = format!("byte {place} of {end}");
        let said = e.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let named = said.contains(&format!("the checksum of the {section} is wrong"));
        t.hold(named, || Refutation::new(format!("{what}: refused by its checksum"), said, section))?;
        let stream = streamed(&bytes[..]).map(drop);
        t.hold(stream.is_err(), || Refutation::new(format!("{what}: refused as a stream"), "accepted", "an error"))?;
        refused_by_apr(&mut t, s, &BadBundle::damaged(what, bytes))?;
    }
    t.done()
}

// ---- conversion

/// APR → GGUF round-trip preserves accuracy: by `apr convert`, there and back, bit for bit.
pub fn f_apr_075(s: &Subject) -> Attempt {
    let mut t = Tally::new("bundles of every dtype to GGUF and back by apr convert; GGUF files to bundles and back");
    for bundle in [
        "apr-qwen2-f32",
        "apr-qwen2-f16",
        "apr-qwen2-q4_k",
        "apr-qwen2-q6_k",
        "apr-qwen2-int4",
        "apr-qwen2-int8",
        "apr-llama-f16",
    ] {
        let path = s.forged(bundle)?;
        let (gguf, back) = there_and_back(&mut t, s, &path, "gguf")?;
        let (first, middle, last) =
            (opened(bundle, &path)?, opened("the GGUF file", &gguf)?, opened("the way back", &back)?);
        same_tensors(&mut t, bundle, &first.tensors, &last.tensors)?;
        for (name, tensor) in &middle.tensors {
            let was = tensor_of(&first, &name_of(name))?;
            let same = was.shape == tensor.shape && was.as_weight(name).to_f32() == tensor.as_weight(name).to_f32();
            t.equal(&format!("{bundle}: {name} has the same numbers in GGUF"), &same, &true)?;
        }
        for (key, value) in
            first.metadata.entries.iter().filter(|(key, _)| key.contains('.') && !key.starts_with("apr."))
        {
            let back = last.metadata.get(key).map(in_singles);
            t.equal(&format!("{bundle}: {key} comes back"), &back, &Some(in_singles(value)))?;
        }
        // What was native in the bundle has the very bytes again.
        if !bundle.ends_with("int8") {
            let read = |p: &Path| -> Result<BTreeMap<String, Vec<u8>>, Halt> {
                running("it streams", streamed(std::fs::File::open(p).map_err(instrument)?))
            };
            t.equal(&format!("{bundle}: the stored bytes are the same"), &(read(&path)? == read(&back)?), &true)?;
        }
    }
    for name in ["qwen2-q8_0", "qwen2-q4_0", "qwen2-q5_0", "llama-q4_k", "qwen2-yarn-f16", "llama-llama3-f32"] {
        let path = s.forged(name)?;
        let (_, back) = there_and_back(&mut t, s, &path, "apr")?;
        let (first, last) = (opened(name, &path)?, opened("the way back", &back)?);
        t.equal("the same names", &last.tensors.keys().collect::<Vec<_>>(), &first.tensors.keys().collect::<Vec<_>>())?;
        for (name, tensor) in &first.tensors {
            let same = tensor.as_weight(name).to_f32() == tensor_of(&last, name)?.as_weight(name).to_f32();
            t.equal(&format!("{name} has the same numbers"), &same, &true)?;
        }
    }
    t.done()
}

/// `apr convert` to another container and from there back to the first.
fn there_and_back(t: &mut Tally, s: &Subject, from: &Path, by: &str) -> Result<(PathBuf, PathBuf), Halt> {
    let extension = from.extension().unwrap_or_default().to_string_lossy().into_owned();
    let folder = s.scratch()?;
    let (there, back) = (folder.join(format!("there.{by}")), folder.join(format!("back.{extension}")));
    for (from, to) in [(from, there.as_path()), (there.as_path(), back.as_path())] {
        let out = s.apr(["convert"]).args([from.as_os_str(), to.as_os_str()]).args(["--json"]).judged()?;
        t.hold(out.code() == Some(0), || out.refute("it converts", out.err(), "exit code 0"))?;
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).map_err(instrument)?;
        let size = std::fs::metadata(to).map_err(instrument)?.len();
        t.equal("it says how large the file is", &json["bytes"].as_u64(), &Some(size))?;
    }
    let left = std::fs::read_dir(&folder).map_err(instrument)?.count();
    t.equal("nothing else is left in the folder", &left, &2)?;
    Ok((there, back))
}
