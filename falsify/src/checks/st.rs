//! F-ST: SafeTensors files and folders in HuggingFace's layout mean what HuggingFace's own code says they mean.
//!
//! Files come from the forge, which shares no code with the engine's reader, and from the folder in which the trained
//! fixture was saved. What they mean is said by golden output of `safetensors` and `transformers`, which read the same
//! files, and by the GGUF files of the same models.

use std::path::{Path, PathBuf};

use compute::program::NormKind;
use engine::file::{self, Checked};
use engine::model::Model;
use engine::text::{ChatTemplate, Segment, Tokenizer};
use engine::{Error, Kind};
use serde_json::{Value as Json, json};

use super::Check;
use super::gguf::mapping_of;
use crate::ask;
use crate::bad::safetensors::{self as bad, Change};
use crate::child::Output;
use crate::forge;
use crate::forge::huggingface::{Folder, reshape};
use crate::lab::{self, Setup, running};
use crate::oracle;
use crate::stamp;
use crate::subject::Subject;
use crate::transformers::{self, trained, weights_of};
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-ST-076", f_st_076),
    ("F-ST-077", f_st_077),
    ("F-ST-078", f_st_078),
    ("F-ST-079", f_st_079),
    ("F-ST-080", f_st_080),
    ("F-ST-081", f_st_081),
    ("F-ST-082", f_st_082),
    ("F-ST-083", f_st_083),
    ("F-ST-084", f_st_084),
    ("F-ST-085", f_st_085),
    ("F-ST-086", f_st_086),
    ("F-ST-087", f_st_087),
    ("F-ST-088", f_st_088),
    ("F-ST-089", f_st_089),
    ("F-ST-090", f_st_090),
];

// ---- where things are

fn folder(path: &Path) -> Result<Folder, Halt> {
    Folder::read(path).map_err(|e| instrument(format!("{}: {e}", path.display())))
}

/// Writes a folder of the check's own.
fn written(s: &Subject, folder: &Folder) -> Result<PathBuf, Halt> {
    let path = s.scratch()?.join("model");
    folder.write(&path).map_err(instrument)?;
    Ok(path)
}

fn opened(path: &Path) -> Result<Checked, Halt> {
    running("the model opens", file::open(path))
}

/// What the engine makes of a folder: everything that is checked before numbers are computed.
fn understood(path: &Path) -> Result<(Model, Tokenizer), Error> {
    let model = Model::new(file::open(path)?)?;
    let explain = |e| model.origins.explain(e);
    let words = Tokenizer::from_metadata(&model.metadata).map_err(explain)?;
    engine::model::check_vocabulary(words.vocab_size(), &model)?;
    ChatTemplate::from_metadata(&model.metadata, &words).map_err(explain)?;
    Ok((model, words))
}

fn apr(s: &Subject, path: &Path, flags: &[&str]) -> Result<Output, Halt> {
    s.apr(["run"]).args([path.as_os_str()]).args(flags).judged()
}

/// The answer of `apr run --json` as ids and text.
fn answered(s: &Subject, path: &Path, flags: &[&str]) -> Result<(Json, String), Halt> {
    let out = apr(s, path, &[flags, &["--json", "--temperature", "0"]].concat())?;
    let json: Json = serde_json::from_slice(&out.stdout).unwrap_or_default();
    match (out.code(), json["text"].as_str()) {
        (Some(0), Some(text)) => Ok((json["tokens"].clone(), text.to_string())),
        (code, _) => Err(out.refute("apr answers", format!("{code:?}: {}", out.err()), "an answer").into()),
    }
}

/// A refusal of this kind that says these words, in process; and by apr in one line.
fn refused(t: &mut Tally, what: &str, met: Result<(), Error>, kind: Kind, words: &[&str]) -> Result<(), Halt> {
    let Err(e) = met else {
        return Err(Refutation::new(format!("refused: {what}"), "accepted", "an error").into());
    };
    t.hold(e.kind == kind, || Refutation::new(format!("refused: {what}"), format!("{e:?}"), format!("{kind:?}")))?;
    let said = e.to_string();
    for word in words {
        t.hold(said.contains(word), || Refutation::new(format!("refused: {what}"), &*said, *word))?;
    }
    Ok(())
}

fn refused_by_apr(t: &mut Tally, s: &Subject, path: &Path, what: &str, code: u8, words: &[&str]) -> Result<(), Halt> {
    let out = apr(s, path, &["2+2?", "--max-tokens", "4"])?;
    let what = format!("apr refuses: {what}");
    t.hold(out.code() == Some(code.into()), || {
        out.refute(&what, format!("{:?}: {}", out.code(), out.err()), format!("exit code {code}"))
    })?;
    let err = out.err();
    t.hold(err.trim_end().lines().count() == 1 && out.stdout.is_empty(), || out.refute(&what, &*err, "one line"))?;
    for word in words {
        t.hold(err.contains(word), || out.refute(&what, &*err, *word))?;
    }
    let peak = out.peak_rss_bytes.unwrap_or_default();
    t.at_most("peak resident bytes of apr on a bad model", peak as f64, (96 << 20) as f64)
}

// ---- numbers

/// Load .safetensors files.
pub fn f_st_076(s: &Subject) -> Attempt {
    let mut t = Tally::new("a file of every element type, forged models and the trained fixture, in process");
    transformers::numbers(
        &mut t,
        s,
        &["hf-types", "hf-qwen2-f32", "hf-qwen2-f16", "hf-qwen2-bf16", "qwen2-tiny"],
        None,
    )?;
    t.done()
}

/// Load F16 tensors: all 65536 of them.
pub fn f_st_077(s: &Subject) -> Attempt {
    let mut t = Tally::new("every F16 value there is; a forged model in F16 on cpu and plain");
    transformers::numbers(&mut t, s, &["hf-types", "hf-qwen2-f16"], Some("float16"))?;
    transformers::answers(&mut t, s, "hf-qwen2-f16")?;
    t.done()
}

/// Load F32 tensors.
pub fn f_st_078(s: &Subject) -> Attempt {
    let mut t = Tally::new("random F32 bits, one number without a shape; a forged model in F32 on cpu and plain");
    transformers::numbers(&mut t, s, &["hf-types", "hf-qwen2-f32"], Some("float32"))?;
    transformers::answers(&mut t, s, "hf-qwen2-f32")?;
    t.done()
}

/// Load BF16 tensors: all 65536 of them.
pub fn f_st_079(s: &Subject) -> Attempt {
    let mut t = Tally::new("every BF16 value there is; a forged model in BF16 on cpu and plain");
    transformers::numbers(&mut t, s, &["hf-types", "hf-qwen2-bf16"], Some("bfloat16"))?;
    transformers::answers(&mut t, s, "hf-qwen2-bf16")?;
    t.done()
}

/// Read metadata JSON: what the package reads, and nothing that the format forbids.
pub fn f_st_080(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("__metadata__ of forged files and the fixture; bad headers; cuts and flipped bits of a header");
    let golden: Json = serde_json::from_str(&s.golden_text("transformers/tensors.json")?).map_err(instrument)?;
    for name in ["hf-types", "hf-qwen2-f16", "qwen2-tiny"] {
        let bytes = std::fs::read(weights_of(s, name)?).map_err(instrument)?;
        let read = running("a SafeTensors file is read", file::safetensors::parse(bytes.into()))?;
        for (key, theirs) in golden["files"][name]["metadata"].as_object().into_iter().flatten() {
            let ours = read.metadata.string(&format!("safetensors.{key}")).ok().flatten();
            t.equal(&format!("{name}: {key} of __metadata__"), &ours, &theirs.as_str())?;
        }
        let many = golden["files"][name]["metadata"].as_object().map_or(0, serde_json::Map::len);
        t.equal(&format!("{name}: and nothing else"), &read.metadata.entries.len(), &many)?;
    }
    for (what, kind, word, bytes) in bad::FILES {
        refused(&mut t, what, file::safetensors::parse(bytes().into()).map(drop), *kind, &[word])?;
    }
    t.number("bad headers", bad::FILES.len() as f64);
    let w = forge::huggingface::types();
    let (bytes, header) = (w.to_bytes().map_err(instrument)?, 8 + w.header().len());
    for end in (0..header + 64).chain([bytes.len() - 1]) {
        let met = file::safetensors::parse(bytes[..end].to_vec().into());
        t.hold(met.is_err(), || {
            Refutation::new("a file cut short is refused", format!("{end} bytes read"), "an error")
        })?;
    }
    for bit in 0..header * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        // A flipped bit may give a good file; it must not give a panic or a tensor of another size.
        if let Ok(read) = file::safetensors::parse(damaged.into()) {
            let whole = |x: &file::Tensor| x.format.row_bytes(x.shape.iter().product());
            let wrong = read.tensors.iter().find(|(_, x)| whole(x) != Some(x.bytes.len())).map(|(n, _)| n);
            t.equal(&format!("tensors are whole, bit {bit} of the header flipped"), &wrong, &None)?;
        }
    }
    t.number("bits of a header flipped", header as f64 * 8.0);
    t.done()
}

/// Memory-map for zero-copy: tensors are the file's pages, and a run needs little beside them.
pub fn f_st_081(s: &Subject) -> Attempt {
    let mut t = Tally::new("hf-shape-0.5b, BF16, a gigabyte: in process, refused by apr after opening, run by apr");
    let folder = s.forged("hf-shape-0.5b")?;
    let path = folder.join("model.safetensors");
    let size = std::fs::metadata(&path).map_err(instrument)?.len();
    t.hold(size > 900 << 20, || Refutation::new("a large file", size.to_string(), "900 MiB"))?;
    let read = opened(&folder)?;
    let copied = read.tensors.iter().find(|(_, x)| !x.bytes.is_mapped()).map(|(name, _)| name);
    t.equal("every tensor lies in the mapping", &copied, &None)?;
    let (mapped, resident) = mapping_of(&path)?;
    t.equal("the whole file is mapped", &mapped, &size.next_multiple_of(4096))?;
    t.at_most("resident bytes of the mapping after opening", resident as f64, (1 << 20) as f64)?;
    let model = running("the shape is a model", Model::new(read))?;
    let program = s.rewritten(engine::program::build(&model));
    let copied = program.weights.iter().find(|w| !w.bytes.is_mapped()).map(|w| &*w.name);
    t.equal("every weight of the program lies in the mapping", &copied, &None)?;
    drop((program, model));
    let out = apr(s, &path, &["x", "--ctx-size", "99999999"])?;
    t.hold(out.code() == Some(2), || out.refute("it opens and refuses the context", out.err(), "exit code 2"))?;
    let peak = |out: &Output| out.peak_rss_bytes.ok_or_else(|| instrument("no VmHWM was seen"));
    let share = peak(&out)? as f64 / size as f64;
    t.at_most("peak resident bytes of apr at open over the file's size", share, 1.0 / 8.0)?;
    let out = apr(s, &path, &["x", "--raw", "--max-tokens", "2", "--ctx-size", "1024", "--temperature", "0"])?;
    t.hold(out.code() == Some(0), || out.refute("it runs", out.err(), "exit code 0"))?;
    t.at_most("peak resident bytes of apr in a run over the file's size", peak(&out)? as f64 / size as f64, 1.3)?;
    t.number("bytes of the file", size as f64);
    t.done()
}

// ---- what stands beside the weights

/// Handle config.json for architecture: what it says is what the model is, in either spelling, and contradictions end.
pub fn f_st_082(s: &Subject) -> Attempt {
    let mut t = Tally::new("hyper-parameters of forged folders; contradictions; fields that are bad or not built");
    for name in ["hf-qwen2-f16", "hf-qwen2-yarn-f16", "hf-llama-f16", "hf-llama-tied-f16", "hf-llama-llama3-f32"] {
        let path = s.forged(name)?;
        let (model, _) = running("a forged folder is a model", understood(&path))?;
        as_forged(&mut t, name, &model)?;
        let mut newer = folder(&path)?;
        rename_for_transformers_5(newer.json("config.json"));
        let (newer, _) = running("the newer spelling is a model", understood(&written(s, &newer)?))?;
        as_forged(&mut t, name, &newer)?;
        t.equal("both spellings give the same angles", &newer.hyper.rope, &model.hyper.rope)?;
        contradicted(&mut t, s, &path)?;
    }
    let beside = bad::BESIDE.iter().filter(|b| b.0.starts_with("41"));
    changed(&mut t, s, &s.forged("hf-qwen2-f16")?, beside)?;
    let mut coded = folder(&s.forged("hf-qwen2-f16")?)?;
    coded.json("config.json")["auto_map"] = json!({"AutoModelForCausalLM": "modeling_x.Model"});
    let out = apr(s, &written(s, &coded)?, &["x", "--raw", "--max-tokens", "1"])?;
    let warned = out.code() == Some(0) && out.err().contains("auto_map");
    t.hold(warned, || out.refute("a model's own code is not run, and that is said", out.err(), "exit 0, auto_map"))?;
    t.done()
}

/// The model is what the forge was told to make.
fn as_forged(t: &mut Tally, name: &str, model: &Model) -> Result<(), Halt> {
    let want = forge::model(name).ok_or_else(|| instrument(format!("the forge has no {name}")))?;
    let h = &model.hyper;
    let sizes = [h.layers, h.hidden, h.ffn, h.heads, h.kv_heads, h.head_dim, h.vocab, h.context];
    let wanted = [
        want.layers,
        want.hidden,
        want.ffn,
        want.heads,
        want.kv_heads,
        want.head_dim(),
        want.rows,
        want.context as usize,
    ];
    t.equal(&format!("{name}: sizes"), &sizes, &wanted)?;
    t.equal(&format!("{name}: architecture"), &model.arch.name, &want.arch.name())?;
    t.equal(&format!("{name}: norm"), &(model.arch.norm, h.norm_eps), &(NormKind::Rms, 1e-6))?;
    t.equal(&format!("{name}: base of the angles"), &h.rope_theta, &f64::from(want.theta))?;
    t.equal(&format!("{name}: tied"), &model.weights.tied, &want.tied)?;
    t.equal(&format!("{name}: scaled"), &(h.rope_scaling != "none"), &(want.scaling != forge::models::Scaling::None))
}

/// `rope_theta` and `rope_scaling` in one object, and another name for the type of numbers.
fn rename_for_transformers_5(config: &mut Json) {
    let mut take = |key: &str| config.as_object_mut().and_then(|c| c.remove(key)).unwrap_or_default();
    let (scaling, theta, dtype) = (take("rope_scaling"), take("rope_theta"), take("torch_dtype"));
    let mut rope = if scaling.is_object() { scaling } else { json!({"rope_type": "default"}) };
    rope["rope_theta"] = theta;
    config["rope_parameters"] = rope;
    config["dtype"] = dtype;
}

/// A config.json that its tensors contradict is refused, and the refusal names a tensor or the field.
fn contradicted(t: &mut Tally, s: &Subject, path: &Path) -> Result<(), Halt> {
    let all = bad::contradictions(&folder(path)?);
    for (key, value) in &all {
        let mut other = folder(path)?;
        other.json("config.json")[key] = value.clone();
        let what = format!("{key} = {value} in {}", path.display());
        let Err(e) = understood(&written(s, &other)?) else {
            return Err(Refutation::new(format!("refused: {what}"), "accepted", "an error").into());
        };
        let said = e.to_string();
        let named =
            ["in tensor 'model.", "'lm_head.weight'", "'config.json: "].iter().any(|place| said.contains(place));
        t.hold(named, || Refutation::new(format!("refused by name: {what}"), &*said, "a tensor or the field"))?;
    }
    t.number("contradictions of a config.json", all.len() as f64);
    Ok(())
}

/// Each change of a good folder is refused in process; every third one by apr too.
fn changed<'a>(t: &mut Tally, s: &Subject, good: &Path, changes: impl Iterator<Item = &'a Change>) -> Result<(), Halt> {
    let mut tried = 0;
    for (what, kind, word, change) in changes {
        let path = s.scratch()?.join("model");
        std::fs::create_dir(&path).map_err(instrument)?;
        for file in crate::subject::list(good)? {
            std::fs::copy(&file, path.join(file.file_name().unwrap_or_default())).map_err(instrument)?;
        }
        change(&path).map_err(|e| instrument(format!("{what}: {e}")))?;
        refused(t, what, understood(&path).map(drop), *kind, &[word])?;
        if tried % 3 == 0 {
            refused_by_apr(t, s, &path, what, kind.exit_code(), &[word])?;
        }
        tried += 1;
    }
    t.number("bad files beside the weights", f64::from(tried));
    Ok(())
}

/// Handle tokenizer.json: HuggingFace's ids, in both spellings of merges; every other pipeline is refused by its part.
pub fn f_st_083(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("tokenizer.json of the fixture and of forged folders, against ids of tokenizers and transformers");
    let path = trained(s);
    let (_, words) = running("the fixture's folder is understood", understood(&path))?;
    for case in oracle::spelled(s)? {
        let raw = running("a text encodes", words.encode_raw(&case.text))?;
        t.equal(&format!("{:?} with control tokens: HuggingFace's ids", case.text), &raw, &case.raw)?;
        let content = running("a text encodes", words.encode_text(&case.text))?;
        t.equal(&format!("{:?} as nothing but text: HuggingFace's ids", case.text), &content, &case.content)?;
    }
    for name in ["qwen2-tiny", "hf-qwen2-f16", "hf-llama-f16", "hf-llama-chat3-f16", "hf-llama-spm-f16"] {
        let golden = oracle::transformers(s, name)?;
        let (_, words) = running("a folder is understood", understood(&golden.model(s)?))?;
        for case in &golden.cases {
            let Some(text) = &case.text else { continue };
            let ours = running("the prompt encodes", words.encode_raw(text))?;
            t.equal(&format!("{name}, case {}: ids of transformers", case.name), &ours, &case.prompt)?;
        }
    }
    let mut other = folder(&path)?;
    // The fixture has pairs; older files have texts.
    let merges = other.json("tokenizer.json")["model"]["merges"].as_array_mut();
    for merge in merges.into_iter().flatten() {
        let (left, right) = (merge[0].as_str().unwrap_or_default(), merge[1].as_str().unwrap_or_default());
        *merge = format!("{left} {right}").into();
    }
    let (_, texts) = running("merges as texts are understood", understood(&written(s, &other)?))?;
    for case in oracle::spelled(s)? {
        let ours = running("a text encodes", texts.encode_raw(&case.text))?;
        t.equal("merges as texts give the same ids", &ours, &case.raw)?;
    }
    changed(&mut t, s, &s.forged("hf-qwen2-f16")?, bad::BESIDE.iter().filter(|b| b.0.starts_with("51")))?;
    t.done()
}

/// Handle tokenizer_config.json: named tokens, whether a prompt begins with BOS, and the chat template.
pub fn f_st_084(s: &Subject) -> Attempt {
    let mut t = Tally::new("the fixture's conversations; forged folders with other named tokens, flags and templates");
    let path = trained(s);
    let mut model = lab::open(s, &path, Setup::default())?;
    let golden = oracle::golden(s, "qwen2-tiny-q8_0")?;
    let mut talks = 0;
    for case in &golden.cases {
        let (Some(text), Some(turns)) = (&case.text, &case.messages) else { continue };
        let turns: Vec<Json> = turns.iter().map(|m| json!({"role": m.role, "content": m.content})).collect();
        let tools = case.tools.clone().unwrap_or_default();
        let segments = lab::rendered(&model, &Json::Array(turns), &tools, true)?;
        t.equal(&format!("case {}: the text of the template", case.name), &lab::text_of_segments(&segments), text)?;
        talks += 1;
    }
    t.number("conversations rendered as by the reference", f64::from(talks));
    let question = lab::chat_ids(&model, "What is 2+2?")?;
    let asked = oracle::transformers(s, "qwen2-tiny")?;
    let case = asked.cases.iter().find(|c| c.name == "chat-1").ok_or_else(|| instrument("no case chat-1"))?;
    t.equal("the ids of apply_chat_template", &question, &case.prompt)?;
    let answer = lab::greedy(&mut model, &question, 24)?;
    t.equal("the answer ends where the file says", &answer.finish, &engine::session::Finish::Eos)?;

    // Each field changed, and what has to change with it.
    let forged = s.forged("hf-qwen2-f16")?;
    let with = |key: &str, value: Json| {
        let mut f = folder(&forged)?;
        f.json("tokenizer_config.json")[key] = value;
        running("a folder is understood", understood(&written(s, &f)?))
    };
    let (_, words) = with("add_bos_token", json!(true))?;
    let bos = words.bos();
    t.equal("add_bos_token puts BOS in front", &running("encodes", words.encode_raw("x"))?.first().copied(), &bos)?;
    let (_, words) = with("add_bos_token", json!(false))?;
    t.hold(running("encodes", words.encode_raw("x"))?.first().copied() != bos, || {
        Refutation::new("add_bos_token: false leaves it out", "BOS", "none")
    })?;
    for (key, text) in [("eos_token", "<|im_start|>"), ("bos_token", "<|im_end|>"), ("pad_token", "<|im_start|>")] {
        for spelled in [json!(text), json!({"content": text, "special": true})] {
            let (_, words) = with(key, spelled)?;
            let ours = match key {
                "eos_token" => words.eos(),
                "bos_token" => words.bos(),
                _ => words.pad(),
            };
            t.equal(&format!("{key} is the token that is named"), &ours, &words.special(text))?;
            let ends = key != "eos_token" || ours.is_some_and(|id| words.is_end(id));
            t.hold(ends, || Refutation::new("the named end token ends an answer", "it does not", "it does"))?;
        }
    }
    let says = |model: &Model, words: &Tokenizer| -> Result<Vec<Segment>, Halt> {
        let template = running("a template is read", ChatTemplate::from_metadata(&model.metadata, words))?;
        let template = template.ok_or_else(|| Refutation::new("there is a template", "none", "one"))?;
        running("it renders", template.render(&[engine::text::Message::new("user", "hi")], None, true))
    };
    let marked = "{{ 'marked: ' + messages[0]['content'] }}";
    let several = json!([{"name": "rag", "template": "no"}, {"name": "default", "template": marked}]);
    for template in [json!(marked), several] {
        let (model, words) = with("chat_template", template)?;
        let text = lab::text_of_segments(&says(&model, &words)?);
        t.equal("the template is the one in the file", &*text, "marked: hi")?;
    }
    let beside = written(s, &folder(&forged)?)?;
    std::fs::write(beside.join("chat_template.jinja"), marked).map_err(instrument)?;
    let (model, words) = running("a folder is understood", understood(&beside))?;
    t.equal("a template file comes first", &*lab::text_of_segments(&says(&model, &words)?), "marked: hi")?;
    t.done()
}

/// Support HuggingFace model layout: `apr run FOLDER` answers like the files of the same model in other formats do.
pub fn f_st_085(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("the fixture as BF16, F16 and F32 folder, by folder and by file; forged folders and GGUF files");
    let mut folders = vec![("BF16".to_string(), trained(s))];
    for dtype in ["F16", "F32"] {
        let mut other = folder(&trained(s))?;
        other.weights.convert(dtype).map_err(instrument)?;
        folders.push((dtype.into(), written(s, &other)?));
    }
    for prompt in ask::PROMPTS {
        let (tokens, text) = answered(s, &folders[0].1, &[*prompt, "--max-tokens", "64"])?;
        t.hold(!text.is_empty(), || Refutation::new("it answers", "nothing", "an answer"))?;
        for (dtype, path) in &folders[1..] {
            let other = answered(s, path, &[*prompt, "--max-tokens", "64"])?;
            t.equal(&format!("{prompt:?}: the same ids in {dtype}"), &other, &(tokens.clone(), text.clone()))?;
        }
        let file = answered(s, &trained(s).join("model.safetensors"), &[*prompt, "--max-tokens", "64"])?;
        t.equal(&format!("{prompt:?}: the same by the file itself"), &file, &(tokens, text))?;
    }
    // llama.cpp's answers from an F16 GGUF file of the same weights.
    let golden = oracle::golden(s, "qwen2-tiny-f16")?.up_to(128);
    let mut model = lab::open(s, &folders[1].1, Setup::default())?;
    oracle::teacher_forced(&mut t, &mut model, &golden, golden.epsilon)?;
    let mut told = 0;
    for case in golden.cases.iter().filter(|c| c.rows.iter().all(|r| r.margin > golden.epsilon)) {
        let turns: Vec<_> = case.messages.iter().flatten().collect();
        if let ([one], Some(reply), true) = (&turns[..], &case.reply, told < 6)
            && one.role == "user"
        {
            let (_, text) = answered(s, &folders[1].1, &[&one.content, "--max-tokens", "64"])?;
            t.equal(&format!("case {}: llama.cpp's answer from the GGUF file", case.name), &text, reply)?;
            told += 1;
        }
    }
    t.hold(told > 0, || Refutation::new("golden answers that can be asked for", "none", "one"))?;
    for (ours, gguf) in
        [("hf-llama-f16", "llama-f16"), ("hf-qwen2-f16", "qwen2-f16"), ("hf-llama-chat3-f16", "llama-chat3-f16")]
    {
        let flags = ["The cat sat on the mat", "--raw", "--max-tokens", "48"];
        let [a, b] = [answered(s, &s.forged(ours)?, &flags)?, answered(s, &s.forged(gguf)?, &flags)?];
        t.equal(&format!("{ours} and the GGUF file give the same ids"), &a, &b)?;
    }
    converted(&mut t, s, "folders")?;
    converted(&mut t, s, "gguf")?;
    t.done()
}

/// What `apr convert` writes are the very files that another reader answered from, transformers from folders and
/// llama.cpp from GGUF; and we answer like it from what they were made of.
fn converted(t: &mut Tally, s: &Subject, what: &str) -> Result<(), Halt> {
    let golden: Json = serde_json::from_str(&s.golden_text(&format!("converted/{what}.json"))?).map_err(instrument)?;
    for case in golden["cases"].as_array().into_iter().flatten() {
        let name = case["from"].as_str().unwrap_or_default();
        let given = s.forged(name)?;
        let (there, target) = match what {
            "folders" => (s.scratch()?.join("model"), "safetensors"),
            _ => (s.scratch()?.join(format!("{name}.gguf")), "gguf"),
        };
        let paths = [given.as_os_str(), there.as_os_str()];
        let out = s.apr(["convert"]).args(paths).args(["--to", target]).judged()?;
        t.hold(out.code() == Some(0), || out.refute("it converts", out.err(), "exit code 0"))?;
        let files = if there.is_dir() { crate::subject::list(&there)? } else { vec![there.clone()] };
        for file in &files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let hash = stamp::sha256_of(file);
            t.equal(&format!("{name} is the one that was read"), &hash.as_deref(), &case["sha256"][&*name].as_str())?;
        }
        t.equal("nothing is missing", &Some(files.len()), &case["sha256"].as_object().map(serde_json::Map::len))?;
        let mut model = lab::open(s, &given, Setup { oracle: true, ..Setup::default() })?;
        let ids: Vec<Vec<u32>> = serde_json::from_value(case["ids"].clone()).map_err(instrument)?;
        for (text, want) in golden["texts"].as_array().into_iter().flatten().zip(&ids) {
            let ours = running("a text encodes", model.tokenizer.encode_raw(text.as_str().unwrap_or_default()))?;
            t.equal(&format!("{name}: ids of {text}"), &ours, want)?;
        }
        let want: Vec<u32> = serde_json::from_value(case["greedy"].clone()).map_err(instrument)?;
        let answer = lab::greedy(&mut model, &ids[0], want.len())?;
        // The end token is no part of an answer.
        let said: Vec<u32> = want.into_iter().take_while(|id| !model.tokenizer.is_end(*id)).collect();
        t.equal(&format!("{name}: the tokens of the other reader"), &answer.tokens, &said)?;
    }
    Ok(())
}

/// Support sharded models: the same tensors however they are split, and what is missing is named.
pub fn f_st_086(s: &Subject) -> Attempt {
    let mut t = Tally::new("a forged folder of three shards, the fixture in two and five; bad indexes");
    same_tensors(&mut t, "hf-shards-f16", &opened(&s.forged("hf-shards-f16")?)?, &opened(&s.forged("hf-qwen2-f16")?)?)?;
    let whole = opened(&trained(s))?;
    for count in [2, 5] {
        let path = s.scratch()?.join("model");
        folder(&trained(s))?.write_shards(&path, count).map_err(instrument)?;
        same_tensors(&mut t, &format!("the fixture in {count} shards"), &opened(&path)?, &whole)?;
        for i in 0..count {
            let shard = path.join(forge::huggingface::shard_name(i, count));
            same_tensors(&mut t, &format!("by shard {} of {count}", i + 1), &opened(&shard)?, &whole)?;
        }
        let gone = forge::huggingface::shard_name(count - 1, count);
        std::fs::remove_file(path.join(&gone)).map_err(instrument)?;
        refused(&mut t, "a missing shard", understood(&path).map(drop), Kind::NotFound, &[&gone])?;
        refused_by_apr(&mut t, s, &path, "a missing shard", 3, &[&gone])?;
    }
    let good = s.scratch()?.join("good");
    let model = forge::model("hf-qwen2-f16").ok_or_else(|| instrument("the forge has no hf-qwen2-f16"))?;
    Folder::of(&model).and_then(|f| f.write_shards(&good, 3)).map_err(instrument)?;
    changed(&mut t, s, &good, bad::SHARDS.iter())?;
    t.done()
}

fn same_tensors(t: &mut Tally, what: &str, ours: &Checked, want: &Checked) -> Result<(), Halt> {
    t.equal(&format!("{what}: as many tensors"), &ours.tensors.len(), &want.tensors.len())?;
    for (name, tensor) in &want.tensors {
        let same = ours.tensors.get(name).is_some_and(|o| o.shape == tensor.shape && *o.bytes == *tensor.bytes);
        t.hold(same, || Refutation::new(format!("{what}: {name} is that of the whole file"), "another", "the same"))?;
    }
    Ok(())
}

/// Error on missing tensors: each one removed in turn.
pub fn f_st_087(s: &Subject) -> Attempt {
    let mut t = Tally::new("every tensor of forged qwen2 and llama folders removed in turn; some through apr");
    let mut tried = 0u32;
    for name in ["hf-qwen2-f16", "hf-llama-f16"] {
        let path = s.forged(name)?;
        for i in 0..folder(&path)?.weights.tensors.len() {
            let mut less = folder(&path)?;
            let gone = less.weights.tensors.remove(i).name;
            let (what, less) = (format!("{name} without {gone}"), written(s, &less)?);
            let words = [gone.as_str(), "missing"];
            refused(&mut t, &what, understood(&less).map(drop), Kind::Malformed, &words)?;
            if tried.is_multiple_of(6) {
                refused_by_apr(&mut t, s, &less, &what, 5, &words)?;
            }
            tried += 1;
        }
    }
    t.number("tensors removed", f64::from(tried));
    t.done()
}

/// Error on shape mismatch: each dimension of each tensor changed in turn.
pub fn f_st_088(s: &Subject) -> Attempt {
    let mut t = Tally::new("every dimension of every tensor of forged qwen2 and llama folders; some through apr");
    let mut tried = 0u32;
    for name in ["hf-qwen2-f16", "hf-llama-f16"] {
        let path = s.forged(name)?;
        for (tensor, old, new) in reshapes(&folder(&path)?) {
            let mut other = folder(&path)?;
            reshape(other.weights.named(&tensor), &new);
            let (what, other) = (format!("{name}: {tensor} of {new:?}"), written(s, &other)?);
            let (want, found) = (format!("expected shape {old:?}"), format!("found {new:?}"));
            let words = [tensor.as_str(), &want, &found];
            refused(&mut t, &what, understood(&other).map(drop), Kind::Malformed, &words)?;
            if tried.is_multiple_of(20) {
                refused_by_apr(&mut t, s, &other, &what, 5, &words)?;
            }
            tried += 1;
        }
    }
    t.number("shapes tried", f64::from(tried));
    t.done()
}

/// Each dimension one more and one less, both changed places, and one dimension more: name, shape, other shape.
fn reshapes(folder: &Folder) -> Vec<(String, Vec<usize>, Vec<usize>)> {
    let mut all = Vec::new();
    for t in &folder.weights.tensors {
        let mut others = vec![[&t.shape[..], &[1]].concat(), t.shape.iter().rev().copied().collect()];
        for i in 0..t.shape.len() {
            for n in [t.shape[i] + 1, t.shape[i] - 1] {
                let mut other = t.shape.clone();
                other[i] = n;
                others.push(other);
            }
        }
        others.retain(|o| *o != t.shape);
        all.extend(others.into_iter().map(|o| (t.name.clone(), t.shape.clone(), o)));
    }
    all
}

// ---- answers

/// Same output as transformers library.
pub fn f_st_089(s: &Subject) -> Attempt {
    let mut t = Tally::new("the trained fixture and ten forged folders against transformers in F32, on cpu and plain");
    for name in [
        "hf-llama-spm-f16",
        "qwen2-tiny",
        "hf-qwen2-f32",
        "hf-qwen2-f16",
        "hf-qwen2-bf16",
        "hf-qwen2-yarn-f16",
        "hf-llama-f16",
        "hf-llama-tied-f16",
        "hf-llama-linear-f32",
        "hf-llama-llama3-f32",
        "hf-llama-chat3-f16",
    ] {
        transformers::answers(&mut t, s, name)?;
        transformers::stages(&mut t, s, name)?;
    }
    t.done()
}

// ---- folders in folders

/// Support nested model directories: as the HuggingFace cache lays them, with links; loops and doubts end in words.
pub fn f_st_090(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("the fixture as the HuggingFace cache lays it, links to blobs and all; loops, two models, none");
    let root = s.scratch()?;
    let snapshots = root.join("hub/models--org--tiny/snapshots");
    let (snapshot, blobs) = (snapshots.join("0123abcd"), root.join("hub/models--org--tiny/blobs"));
    for new in [&snapshot, &blobs] {
        std::fs::create_dir_all(new).map_err(instrument)?;
    }
    for (i, file) in crate::subject::list(&trained(s))?.iter().enumerate() {
        let blob = blobs.join(format!("blob{i}"));
        std::fs::copy(file, &blob).map_err(instrument)?;
        let name = file.file_name().unwrap_or_default();
        link(Path::new(&format!("../../blobs/blob{i}")), &snapshot.join(name))?;
    }
    let want = answered(s, &trained(s), &["What is 2+2?"])?;
    let repository = root.join("hub/models--org--tiny");
    for path in [&snapshot, &snapshots, &repository, &root.join("hub"), &snapshot.join("model.safetensors")] {
        let ours = answered(s, path, &["What is 2+2?"])?;
        t.equal(&format!("{} is found and answers", path.display()), &ours, &want)?;
    }
    // The same folder by another way is the same model.
    link(&snapshot, &snapshots.join("main"))?;
    t.equal("a link beside it is no second model", &answered(s, &repository, &["What is 2+2?"])?, &want)?;

    let loops = s.scratch()?.join("loops");
    std::fs::create_dir_all(loops.join("a/b")).map_err(instrument)?;
    link(&loops, &loops.join("a/b/again"))?;
    link(&loops.join("a"), &loops.join("a/b/here"))?;
    link(Path::new("self"), &loops.join("self"))?;
    refused_by_apr(&mut t, s, &loops, "a loop of links without a model", 3, &["no model in", "loops"])?;
    std::fs::create_dir_all(loops.join("a/b/model")).map_err(instrument)?;
    folder(&trained(s))?.write(&loops.join("a/b/model")).map_err(instrument)?;
    t.equal("a model in a loop of links is found", &answered(s, &loops, &["What is 2+2?"])?, &want)?;

    let two = s.scratch()?.join("two");
    for name in ["one", "other"] {
        folder(&s.forged("hf-qwen2-f16")?)?.write(&two.join(name)).map_err(instrument)?;
    }
    refused_by_apr(&mut t, s, &two, "two models", 5, &["2 models", "two/one", "two/other"])?;
    let none = s.scratch()?.join("none");
    std::fs::create_dir_all(&none).map_err(instrument)?;
    refused_by_apr(&mut t, s, &none, "an empty folder", 3, &["no model in", "none"])?;
    std::fs::write(none.join("pytorch_model.bin"), "x").map_err(instrument)?;
    refused_by_apr(&mut t, s, &none, "pickled weights", 3, &["pytorch_model.bin", "SafeTensors"])?;
    std::fs::write(none.join("m.gguf"), "GGUF").map_err(instrument)?;
    refused_by_apr(&mut t, s, &none, "a GGUF file in a folder", 3, &["m.gguf"])?;
    t.done()
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) -> Result<(), Halt> {
    std::os::unix::fs::symlink(to, at).map_err(instrument)
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> Result<(), Halt> {
    Err(instrument("no links here"))
}
