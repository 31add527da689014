//! One container to another: the same model under other names, byte for byte where the target has the number format.
//!
//! A [`Plan`] says of every tensor what becomes of it, before anything is written:
//!
//! - it is kept as it is, which is the rule;
//! - Q4_0 becomes INT4 in an `.apr` file, the same values in another order, and INT4 becomes Q4_0 when it is read;
//! - other formats that the target has not become F32, which is larger and exact (`.apr` has no Q8_0, for example);
//! - vectors become F32 in GGUF, because llama.cpp computes with no other;
//! - the rows of q and k change places where the target orders them otherwise;
//! - what the target derives from its description is left out: RoPE's frequencies, where a checkpoint has them.
//!
//! So nothing is ever rounded, and a file that went there and back has the same numbers. SafeTensors are written as
//! HuggingFace's readers want them: a folder, with a description that leaves nothing to their defaults ([`described`]).
//! [`convert`] writes to a temporary name beside the target and renames it when all of it is on the disk: under the final
//! name there is the whole file or folder, or none.

mod atomic;
mod described;
mod rows;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use compute::Format;
use compute::program::RopeLayout;

use crate::arch::{Layout, Names};
use crate::error::{Error, Kind, Place, Result, quoted_path};
use crate::file::apr::{index, metadata::ROPE_TYPE};
use crate::file::hf::writer::{Class, Description};
use crate::file::outgoing::Outgoing;
use crate::file::{self, Checked, Metadata, Naming, Tensor, Value};
use crate::model::Model;
use rows::{Encoding, Rows};

/// Where an `.apr` file says what it was made from.
const ORIGIN: &str = "apr.original_format";

/// A container that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// GGUF version 3.
    Gguf,
    /// `.apr` version 2, as aprender writes it.
    Apr,
    /// SafeTensors: a folder in HuggingFace's layout.
    SafeTensors,
}

/// Bytes of tensors in one SafeTensors file. A larger model is split, as HuggingFace's code does it.
const SHARD_BYTES: u64 = 5_000_000_000;

impl Target {
    /// Every target by name.
    pub const ALL: &'static [(&'static str, Target)] =
        &[("gguf", Target::Gguf), ("apr", Target::Apr), ("safetensors", Target::SafeTensors)];

    /// What an output of this name is to be: a folder that is there, or that ends in a separator, gets SafeTensors; a
    /// file what it is called.
    pub fn of(path: &Path) -> Option<Target> {
        if path.is_dir()
            || path.as_os_str().as_encoded_bytes().last().is_some_and(|b| std::path::is_separator(*b as char))
        {
            return Some(Target::SafeTensors);
        }
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Target::ALL.iter().find(|(name, _)| *name == extension).map(|(_, target)| *target)
    }

    /// Its name, in which the names of its files end.
    pub fn name(self) -> &'static str {
        Target::ALL.iter().find(|(_, target)| *target == self).map_or("", |(name, _)| name)
    }
}

/// What becomes of a model.
pub struct Plan {
    target: Target,
    metadata: Metadata,
    /// What stands beside the weights of a folder.
    beside: Option<Description>,
    tensors: Vec<(String, Rows)>,
    /// What it was, for people.
    pub from: String,
}

/// What became of a model.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it was: `GGUF v3`.
    pub from: String,
    /// What it is.
    pub to: &'static str,
    /// Tensors.
    pub tensors: usize,
    /// Those whose bytes are the same.
    pub kept: usize,
    /// The others: from, to, how many.
    pub changed: BTreeMap<(&'static str, &'static str), usize>,
    /// Bytes of the file.
    pub bytes: u64,
}

impl Plan {
    /// Works out what becomes of a file. It must hold a whole model that this build understands: only then are the
    /// names of its tensors certain.
    pub fn new(file: Checked, target: Target) -> Result<Plan> {
        let model = Model::new(file.clone())?;
        let (names, order) = match target {
            Target::Gguf => (model.arch.gguf.names, Some(model.arch.gguf.rope)),
            // The file says which order it has.
            Target::Apr => (model.arch.renamed.names, None),
            Target::SafeTensors => (model.arch.huggingface.names, Some(model.arch.huggingface.rope)),
        };
        let order = order.filter(|order| *order != model.layout.rope);
        let mut metadata = file.metadata;
        let divisors = describe(&mut metadata, target, &model, file.naming)?;
        let mut tensors: Vec<(String, Rows)> = Vec::new();
        for (name, tensor) in file.tensors {
            if crate::model::is_derived(&name) {
                continue;
            }
            let role = role_of(&name, model.layout.names);
            let heads = match (&role, order) {
                (Some((role, _)), Some(order)) => heads_of(*role, &model).map(|heads| (heads, order)),
                _ => None,
            };
            let new = match role {
                Some((role, layer)) => role(names).replace("{}", layer.as_deref().unwrap_or("")),
                None if target == Target::SafeTensors => return Err(stranger(name)),
                // What has no part in the model keeps its name.
                None => name,
            };
            // RoPE's divisors, which the target has as numbers.
            if new.is_empty() {
                continue;
            }
            tensors.push((new, Rows { encoding: encoding(&tensor, target), tensor, heads }));
        }
        tensors.extend(divisors.map(|(name, tensor)| (name, Rows { tensor, encoding: Encoding::Kept, heads: None })));
        if tensors.iter().any(|(_, rows)| rows.encoding != Encoding::Kept) {
            // It names the formats of the old file; readers that miss it count for themselves.
            metadata.entries.remove("general.file_type");
        }
        let beside = match target {
            Target::SafeTensors => {
                let class = Class { name: model.arch.class, dtype: described::dtype(&tensors) };
                Some(file::hf::writer::describe(&metadata, class)?)
            }
            Target::Gguf | Target::Apr => None,
        };
        Ok(Plan { target, metadata, beside, tensors, from: file.format })
    }

    /// Bytes of all tensors as they will be written.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|(_, rows)| rows.bytes()).sum()
    }

    /// Writes it. `progress` hears how many bytes of tensors are done, and may stop it. Gives the bytes written.
    fn write(&self, output: &Path, shard_bytes: u64, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<u64> {
        let announced: Vec<Outgoing<'_>> = self.tensors.iter().map(|(name, rows)| rows.announced(name)).collect();
        let mut done = 0;
        let mut data = |i: usize, out: &mut dyn Write| {
            self.tensors[i].1.write(out, &mut |bytes| {
                done += bytes;
                progress(done)
            })
        };
        match (self.target, &self.beside) {
            (Target::SafeTensors, Some(beside)) => {
                atomic::folder(output, |folder| described::write(folder, beside, &announced, shard_bytes, &mut data))
            }
            (Target::Apr, _) => {
                atomic::write(output, |out| file::apr::writer::write(out, &self.metadata, &announced, &mut data))
            }
            _ => atomic::write(output, |out| file::gguf::writer::write(out, &self.metadata, &announced, &mut data)),
        }
    }

    fn report(&self, bytes: u64) -> Report {
        let mut changed = BTreeMap::new();
        let mut kept = 0;
        for (_, rows) in &self.tensors {
            match rows.encoding {
                Encoding::Kept if rows.heads.is_none() => kept += 1,
                encoding => {
                    *changed.entry((rows.tensor.format.0.name, encoding.name(rows.tensor.format))).or_default() += 1
                }
            }
        }
        Report { from: self.from.clone(), to: self.target.name(), tensors: self.tensors.len(), kept, changed, bytes }
    }
}

/// Converts a model file. `target` decides what is written, not the name of `output`.
//= F-APR-075
pub fn convert(
    input: &Path,
    output: &Path,
    target: Target,
    force: bool,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Report> {
    let taken =
        || Error::new(Kind::Usage, format!("{} is there already", quoted_path(output))).hint("--force replaces it");
    if !force && output.symlink_metadata().is_ok() {
        return Err(taken());
    }
    //= F-ST-085
    if target == Target::SafeTensors && output.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
        let what = format!("{} is the name of a file, and SafeTensors are written as a folder", quoted_path(output));
        return Err(Error::new(Kind::Usage, what)
            .hint("readers need config.json and tokenizer.json beside the weights; end the name in / instead"));
    }
    let file = file::open(input)?;
    let origins = file.origins.clone();
    let plan = Plan::new(file, target).map_err(|e| origins.explain(e).in_file(input))?;
    let total = plan.bytes();
    let bytes = plan.write(output, SHARD_BYTES, &mut |done| progress(done, total))?;
    Ok(plan.report(bytes))
}

/// A role of [`Names`].
type Role = fn(&Names) -> &'static str;

/// Every role that a tensor can have.
const ROLES: &[Role] = &[
    |n| n.token_embedding,
    |n| n.output_norm,
    |n| n.output,
    |n| n.rope_freqs.unwrap_or_default(),
    |n| n.attention_norm,
    Q,
    K,
    |n| n.v,
    Q_BIAS,
    K_BIAS,
    |n| n.v_bias,
    |n| n.attention_output,
    |n| n.ffn_norm,
    |n| n.gate,
    |n| n.up,
    |n| n.down,
];
const Q: Role = |n| n.q;
const K: Role = |n| n.k;
const Q_BIAS: Role = |n| n.q_bias;
const K_BIAS: Role = |n| n.k_bias;

/// What a tensor of this name is, and of which layer.
//= F-APR-069
fn role_of(name: &str, names: &Names) -> Option<(Role, Option<String>)> {
    ROLES.iter().find_map(|&role| match role(names).split_once("{}") {
        None => (role(names) == name).then_some((role, None)),
        Some((before, after)) => {
            let layer = name.strip_prefix(before)?.strip_suffix(after)?;
            (!layer.is_empty() && layer.bytes().all(|b| b.is_ascii_digit())).then(|| (role, Some(layer.to_string())))
        }
    })
}

/// How many heads the rows of this tensor make, if they are rotated.
fn heads_of(role: Role, model: &Model) -> Option<usize> {
    let is = |other: Role| role(model.layout.names) == other(model.layout.names);
    if is(Q) || is(Q_BIAS) {
        return Some(model.hyper.heads);
    }
    (is(K) || is(K_BIAS)).then_some(model.hyper.kv_heads)
}

/// What of a tensor is written.
fn encoding(tensor: &Tensor, target: Target) -> Encoding {
    match target {
        Target::Gguf if tensor.shape.len() == 1 && tensor.format != Format::F32 => Encoding::Float,
        Target::Gguf => Encoding::Kept,
        Target::Apr if index::dtype_of(tensor.format).is_some() => Encoding::Kept,
        Target::Apr if tensor.format.0.name == "Q4_0" => Encoding::Int4,
        Target::SafeTensors if matches!(tensor.format.0.name, "F32" | "F16" | "BF16") => Encoding::Kept,
        Target::Apr | Target::SafeTensors => Encoding::Float,
    }
}

/// The description in the words of the target. Gives RoPE's divisors where it has them as a tensor.
fn describe(
    metadata: &mut Metadata,
    target: Target,
    model: &Model,
    naming: Naming,
) -> Result<Option<(String, Tensor)>> {
    metadata.entries.remove(ROPE_TYPE);
    metadata.entries.remove(ORIGIN);
    match target {
        Target::Gguf => return described::for_gguf(metadata, model),
        Target::SafeTensors => described::for_huggingface(metadata, model)?,
        Target::Apr => {
            let (layout, origin): (&Layout, _) = match naming {
                Naming::Gguf | Naming::Renamed => (&model.arch.renamed, "gguf"),
                Naming::HuggingFace => (&model.arch.huggingface, "safetensors"),
            };
            let rope_type = match layout.rope {
                RopeLayout::Interleaved => 0,
                RopeLayout::Split => 2,
            };
            metadata.entries.insert(ROPE_TYPE.into(), Value::Unsigned(rope_type));
            metadata.entries.insert(ORIGIN.into(), Value::String(origin.into()));
        }
    }
    Ok(None)
}

fn stranger(name: String) -> Error {
    Error::new(Kind::Unsupported, "no part of the model, and HuggingFace's readers have no place for it")
        .at(Place::Tensor(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(quantisation: &str) -> std::path::PathBuf {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures"));
        let files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        files.into_iter().find(|p| p.to_string_lossy().ends_with(&format!("-{quantisation}.gguf"))).unwrap()
    }

    fn to(input: &Path, output: &Path) -> Report {
        let mut last = 0;
        let mut progress = |done: u64, total: u64| {
            assert!(last < done && done <= total);
            last = done;
            Ok(())
        };
        let report = convert(input, output, Target::of(output).unwrap(), false, &mut progress).unwrap();
        assert_eq!(report.bytes, std::fs::metadata(output).unwrap().len());
        report
    }

    #[test]
    fn there_and_back_is_the_same_model() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (quantisation, all_kept) in [("q4_k_m", true), ("q8_0", false)] {
            let (apr, back, again) = (path("a.apr"), path("b.gguf"), path("c.apr"));
            let report = to(&fixture(quantisation), &apr);
            assert_eq!((report.kept == report.tensors, report.changed.is_empty()), (all_kept, all_kept));
            let report = to(&apr, &back);
            assert_eq!((report.kept, report.to), (report.tensors, "gguf"));
            to(&back, &again);
            assert_eq!(std::fs::read(&apr).unwrap(), std::fs::read(&again).unwrap());
            let (first, last) = (file::open(&fixture(quantisation)).unwrap(), file::open(&back).unwrap());
            assert_eq!(first.tensors.keys().collect::<Vec<_>>(), last.tensors.keys().collect::<Vec<_>>());
            for (name, t) in &first.tensors {
                assert_eq!(t.as_weight(name).to_f32(), last.tensors[name].as_weight(name).to_f32(), "{name}");
            }
            for (key, value) in &first.metadata.entries {
                let lost = !all_kept && key == "general.file_type";
                assert_eq!(last.metadata.get(key), Some(value).filter(|_| !lost), "{key}");
            }
            assert!(last.metadata.entries.keys().all(|key| first.metadata.get(key).is_some()));
            [apr, back, again].iter().for_each(|p| std::fs::remove_file(p).unwrap());
        }
    }

    fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        entries.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(p).unwrap())).collect()
    }

    fn to_folder(input: &Path, output: &Path) -> Report {
        let report = convert(input, output, Target::SafeTensors, false, &mut |_, _| Ok(())).unwrap();
        assert_eq!(report.bytes, files(output).values().map(|bytes| bytes.len() as u64).sum::<u64>());
        report
    }

    #[test]
    fn a_folder_comes_back_from_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let saved = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/qwen2-tiny"));
        let report = to_folder(saved, &path("one/"));
        assert_eq!(report.kept, report.tensors);
        let (was, is) = (file::open(saved).unwrap(), file::open(&path("one")).unwrap());
        for (name, t) in &was.tensors {
            assert!(t.format == is.tensors[name].format && *t.bytes == *is.tensors[name].bytes, "{name}");
        }
        // By the bundle every byte of every file.
        to(&path("one"), &path("a.apr"));
        to_folder(&path("a.apr"), &path("two"));
        assert!(files(&path("one")) == files(&path("two")));
        // By GGUF too, but for the vectors, which are F32 there.
        to(&path("one"), &path("b.gguf"));
        to_folder(&path("b.gguf"), &path("three"));
        let (mut one, mut three) = (files(&path("one")), files(&path("three")));
        for weights in [&mut one, &mut three] {
            weights.remove("model.safetensors").unwrap();
        }
        assert!(one == three);
        let back = file::open(&path("three")).unwrap();
        for (name, t) in &was.tensors {
            let same = if t.shape.len() > 1 { *t.bytes == *back.tensors[name].bytes } else { true };
            assert!(same && t.as_weight(name).to_f32() == back.tensors[name].as_weight(name).to_f32(), "{name}");
        }
    }

    #[test]
    fn shards_are_the_whole_model() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let plan = || Plan::new(file::open(&fixture("q4_k_m")).unwrap(), Target::SafeTensors).unwrap();
        plan().write(&path("whole"), SHARD_BYTES, &mut |_| Ok(())).unwrap();
        plan().write(&path("parts"), 3_000_000, &mut |_| Ok(())).unwrap();
        assert!(path("parts/model.safetensors.index.json").is_file() && files(&path("parts")).len() > 4 + 1 + 2);
        let [a, b] = ["whole", "parts"].map(|name| file::open(&path(name)).unwrap());
        assert!(a.tensors.iter().map(|(n, t)| (n, &t.bytes[..])).eq(b.tensors.iter().map(|(n, t)| (n, &t.bytes[..]))));
        assert_eq!(a.tensors.len(), plan().tensors.len());
        // A part that fails takes the others with it.
        let stop = |done| if done < 4_000_000 { Ok(()) } else { Err(Error::new(Kind::Interrupted, "stop")) };
        assert!(plan().write(&path("half"), 3_000_000, &mut { stop }).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_huggingface_cannot_say_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |key: &str, value: Value| {
            let mut file = file::open(&fixture("q8_0")).unwrap();
            file.metadata.entries.insert(key.into(), value);
            Plan::new(file, Target::SafeTensors).err().map(|e| (e.kind, e.at))
        };
        for (key, value) in [
            ("qwen2.attention.clamp_kqv", Value::Float(8.0)),
            ("qwen2.rope.dimension_count", Value::Unsigned(32)),
            ("tokenizer.ggml.precompiled_charsmap", Value::Array(Vec::new())),
        ] {
            assert_eq!(refused(key, value), Some((Kind::Unsupported, Some(Place::Key(key.into())))));
        }
        for key in ["general.author", "quantize.imatrix.file", "tokenizer.ggml.fim_pre_token_id"] {
            assert_eq!(refused(key, Value::Unsigned(1)), None, "{key}");
        }
        let mut stray = file::open(&fixture("q8_0")).unwrap();
        let tensor = stray.tensors["output_norm.weight"].clone();
        stray.tensors.insert("stray".into(), tensor);
        let e = Plan::new(stray, Target::SafeTensors).err().unwrap();
        assert_eq!(e.at, Some(Place::Tensor("stray".into())));
        let e = convert(
            &fixture("q8_0"),
            &dir.path().join("m.safetensors"),
            Target::SafeTensors,
            false,
            &mut |_, _| Ok(()),
        );
        assert_eq!(e.unwrap_err().kind, Kind::Usage);
    }

    #[test]
    fn targets_are_told_by_their_names() {
        let of = |name: &str| Target::of(Path::new(name));
        assert_eq!(
            [of("a.gguf"), of("a.APR"), of("a/b/")],
            [Some(Target::Gguf), Some(Target::Apr), Some(Target::SafeTensors)]
        );
        assert_eq!([of("a"), of("a.bin"), of("Qwen2.5-0.5B")], [None; 3]);
        assert_eq!(of(env!("CARGO_MANIFEST_DIR")), Some(Target::SafeTensors));
    }

    #[test]
    fn a_file_that_is_there_is_not_replaced_and_a_stop_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("x.apr");
        let stop = |_: u64, _: u64| Err(Error::new(Kind::Interrupted, "stop"));
        let stopped = convert(&fixture("q4_k_m"), &out, Target::Apr, false, &mut { stop }).unwrap_err();
        assert_eq!(stopped.kind, Kind::Interrupted);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        std::fs::write(&out, "mine").unwrap();
        let e = convert(&fixture("q4_k_m"), &out, Target::Apr, false, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!((e.kind, std::fs::read(&out).unwrap()), (Kind::Usage, b"mine".to_vec()));
        assert!(convert(&fixture("q4_k_m"), &out, Target::Apr, true, &mut |_, _| Ok(())).is_ok());
    }

    #[test]
    fn roles_are_told_by_both_names() {
        let (gguf, hf) = (&crate::arch::GGUF_NAMES, &crate::arch::RENAMED_NAMES);
        for role in ROLES {
            let name = role(gguf).replace("{}", "17");
            let (found, layer) = role_of(&name, gguf).unwrap();
            assert_eq!(found(hf), role(hf));
            assert_eq!(layer.as_deref(), role(gguf).contains("{}").then_some("17"));
        }
        for stranger in ["blk..attn_q.weight", "blk.x.attn_q.weight", "blk.1.attn_q.weight.extra", "other"] {
            assert!(role_of(stranger, gguf).is_none(), "{stranger}");
        }
    }
}
