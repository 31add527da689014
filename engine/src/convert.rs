//! One container to another: the same model under other names, byte for byte where the target has the number format.
//!
//! A [`Plan`] says of every tensor what becomes of it, before anything is written:
//!
//! - it is kept as it is, which is the rule;
//! - Q4_0 becomes INT4 in an `.apr` file, the same values in another order, and INT4 becomes Q4_0 when it is read;
//! - other formats that the target has not become F32, which is larger and exact (`.apr` has no Q8_0, for example);
//! - vectors become F32 in GGUF, because llama.cpp computes with no other;
//! - the rows of q and k change places where the target orders them otherwise.
//!
//! So nothing is ever rounded, and a file that went there and back has the same numbers. [`convert`] writes to a
//! temporary name in the target's folder and renames it when all of it is on the disk: under the final name there is
//! the whole file or none.

mod atomic;
mod rows;

use std::collections::BTreeMap;
use std::path::Path;

use compute::Format;
use compute::program::RopeLayout;

use crate::arch::{Arch, Names};
use crate::error::{Error, Kind, Result, quoted};
use crate::file::apr::{index, metadata::ROPE_TYPE};
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
}

impl Target {
    /// Every target, and what its files' names end in.
    pub const ALL: &'static [(&'static str, Target)] = &[("gguf", Target::Gguf), ("apr", Target::Apr)];

    /// What a file of this name is to be.
    pub fn of(path: &Path) -> Option<Target> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Target::ALL.iter().find(|(name, _)| *name == extension).map(|(_, target)| *target)
    }

    /// What its files' names end in.
    pub fn name(self) -> &'static str {
        Target::ALL.iter().find(|(_, target)| *target == self).map_or("", |(name, _)| name)
    }
}

/// What becomes of a model.
pub struct Plan {
    target: Target,
    metadata: Metadata,
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
        let names = match target {
            Target::Gguf => model.arch.gguf.names,
            Target::Apr => model.arch.renamed.names,
        };
        let mut metadata = file.metadata;
        let reorder = match target {
            Target::Gguf => model.layout.rope != model.arch.gguf.rope,
            // The file says which order it has.
            Target::Apr => false,
        };
        describe(&mut metadata, target, model.arch, file.naming);
        let mut tensors = Vec::new();
        for (name, tensor) in file.tensors {
            let role = role_of(&name, model.layout.names);
            let heads = match role {
                Some((role, _)) if reorder => heads_of(role, &model),
                _ => None,
            };
            // What has no part in the model keeps its name.
            let new = role.map_or(name, |(role, layer)| role(names).replace("{}", layer.as_deref().unwrap_or("")));
            tensors.push((new, Rows { encoding: encoding(&tensor, target), tensor, heads }));
        }
        if tensors.iter().any(|(_, rows)| rows.encoding != Encoding::Kept) {
            // It names the formats of the old file; readers that miss it count for themselves.
            metadata.entries.remove("general.file_type");
        }
        Ok(Plan { target, metadata, tensors, from: file.format })
    }

    /// Bytes of all tensors as they will be written.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|(_, rows)| rows.bytes()).sum()
    }

    /// Writes the file. `progress` hears how many bytes of tensors are done, and may stop it.
    pub fn write(&self, out: &mut dyn std::io::Write, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let announced: Vec<Outgoing<'_>> = self.tensors.iter().map(|(name, rows)| rows.announced(name)).collect();
        let mut done = 0;
        let mut data = |i: usize, out: &mut dyn std::io::Write| {
            self.tensors[i].1.write(out, &mut |bytes| {
                done += bytes;
                progress(done)
            })
        };
        match self.target {
            Target::Gguf => file::gguf::writer::write(out, &self.metadata, &announced, &mut data),
            Target::Apr => file::apr::writer::write(out, &self.metadata, &announced, &mut data),
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
    let taken = || {
        Error::new(Kind::Usage, format!("{} is there already", quoted(&output.to_string_lossy())))
            .hint("--force replaces it")
    };
    if !force && output.symlink_metadata().is_ok() {
        return Err(taken());
    }
    let plan = Plan::new(file::open(input)?, target)?;
    let total = plan.bytes();
    let bytes = atomic::write(output, |out| plan.write(out, &mut |done| progress(done, total)))?;
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
        Target::Apr => Encoding::Float,
    }
}

/// What the file says about how it was made.
fn describe(metadata: &mut Metadata, target: Target, arch: &Arch, naming: Naming) {
    metadata.entries.remove(ROPE_TYPE);
    metadata.entries.remove(ORIGIN);
    if target == Target::Apr {
        let (layout, origin) = match naming {
            Naming::Gguf | Naming::Renamed => (&arch.renamed, "gguf"),
            Naming::HuggingFace => (&arch.huggingface, "safetensors"),
        };
        let rope_type = match layout.rope {
            RopeLayout::Interleaved => 0,
            RopeLayout::Split => 2,
        };
        metadata.entries.insert(ROPE_TYPE.into(), Value::Unsigned(rope_type));
        metadata.entries.insert(ORIGIN.into(), Value::String(origin.into()));
    }
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
