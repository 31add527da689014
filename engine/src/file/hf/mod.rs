//! HuggingFace's layout: a folder with weights in SafeTensors, in one file or in shards with an index, and JSON files
//! that say what they mean.
//!
//! The files beside the weights become metadata under the keys that GGUF has for the same things, so that nothing above
//! this floor knows where they stood; [`super::Origins`] remembers it for messages. Floor 1: numbers are passed on as
//! they are, and whether they make a model is `model`'s to say.

mod config;
mod tokenizer;
pub(crate) mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use compute::Bytes;

use super::json::Document;
use super::{Checked, Metadata, Origins, Value, at_most, map, safetensors};
use crate::error::{Error, Kind, Place, Result, quoted, quoted_path};
use crate::limits;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Reads the model that lies in a folder, or in a folder below it.
//= F-ST-085
pub(super) fn open_folder(path: &Path) -> Result<Checked> {
    let folder = find(path)?;
    let weights = if folder.join(WEIGHTS).is_file() {
        one_file(&folder.join(WEIGHTS))?
    } else if let Some(index) = Document::read(&folder, INDEX)? {
        shards(&folder, &index)?
    } else {
        let mut files = weights_in(&folder)?;
        match (files.pop(), files.is_empty()) {
            (Some(one), true) => one_file(&folder.join(one))?,
            (last, _) => {
                files.extend(last);
                let what = format!("{} has no {INDEX} to say which of its files are the model", shown(&folder));
                return Err(Error::malformed(what).hint(format!("it has {}", files.join(", "))));
            }
        }
    };
    describe(&folder, weights)
}

/// Reads a SafeTensors file and what stands beside it. A shard stands for the whole model.
pub(super) fn open_file(path: &Path, bytes: Bytes) -> Result<Checked> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let weights = match Document::read(folder, INDEX)? {
        Some(index) if name != WEIGHTS && shard_names(&index)?.values().any(|file| *file == name) => {
            shards(folder, &index)?
        }
        _ => safetensors::parse(bytes)?,
    };
    describe(folder, weights)
}

fn one_file(path: &Path) -> Result<Checked> {
    map(path).and_then(safetensors::parse).map_err(|e| e.in_file(path))
}

/// Adds what the files beside the weights say.
fn describe(folder: &Path, mut checked: Checked) -> Result<Checked> {
    let mut d = Description { metadata: &mut checked.metadata, origins: &mut checked.origins };
    let config = needed(folder, "config.json")?;
    checked.warnings.extend(config::describe(&config, &mut d)?);
    let generation = Document::read(folder, "generation_config.json")?;
    config::sampling(generation.as_ref(), &mut d)?;
    tokenizer::describe(folder, &config, generation.as_ref(), &mut d)?;
    // As converters name a model: by its folder.
    if let Some(name) = folder.file_name().and_then(|n| n.to_str()) {
        d.put("general.name", Value::String(name.into()), "the folder's name");
    }
    Ok(checked)
}

fn needed(folder: &Path, file: &str) -> Result<Document> {
    Document::read(folder, file)?.ok_or_else(|| {
        let path = folder.join(file);
        Error::new(Kind::NotFound, format!("file not found: {}", shown(&path)))
            .in_file(&path)
            .hint("SafeTensors hold numbers only; config.json and tokenizer.json beside them say what they mean")
    })
}

/// Metadata in the making.
struct Description<'a> {
    metadata: &'a mut Metadata,
    origins: &'a mut Origins,
}

impl Description<'_> {
    fn put(&mut self, key: &str, value: Value, origin: impl Into<String>) {
        self.comes_from(key, origin);
        self.metadata.entries.insert(key.into(), value);
    }

    /// Says where a key stands, also if it is not there: then it is what is missing.
    fn comes_from(&mut self, key: &str, origin: impl Into<String>) {
        self.origins.0.insert(key.into(), origin.into());
    }
}

// ---- shards

/// The file of each tensor, as the index says. A file is a plain name: nothing in an index leads to another folder.
fn shard_names(index: &Document) -> Result<BTreeMap<&str, &str>> {
    let mut names = BTreeMap::new();
    let map = index.need("weight_map")?;
    at_most(map.object()?.len() as u64, limits::TENSORS_MAX, "tensors", map.place())?;
    for (tensor, file) in map.object()? {
        let at = || index.place(&format!("weight_map.{tensor}"));
        let file = file.as_str().ok_or_else(|| Error::malformed("expected the name of a file").at(at()))?;
        let mut parts = Path::new(file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None));
        if !plain || file.contains(['/', '\\', '\0', ':']) {
            let what = format!("{} is not the plain name of a file", quoted(file));
            return Err(Error::malformed(what).at(at()).hint("shards lie in the folder of their index"));
        }
        names.insert(tensor.as_str(), file);
    }
    Ok(names)
}

/// Every shard, each with exactly the tensors that the index says.
//= F-ST-086
fn shards(folder: &Path, index: &Document) -> Result<Checked> {
    let names = shard_names(index)?;
    let files: BTreeSet<&str> = names.values().copied().collect();
    at_most(files.len() as u64, limits::SHARDS_MAX, "files of one model", index.place("weight_map"))?;
    let mut opened = Vec::new();
    for file in files {
        let path = folder.join(file);
        let shard = map(&path).and_then(safetensors::parse).map_err(|e| match e.kind {
            Kind::NotFound => e.hint(format!("{INDEX} names it; fetch the model again")),
            _ => e.in_file(&path),
        })?;
        opened.push((file, shard));
    }
    let mut model: Option<Checked> = None;
    for (file, shard) in opened {
        for tensor in shard.tensors.keys().chain(shard.others.keys()) {
            let said = names.get(tensor.as_str());
            if said != Some(&file) {
                let where_ = said.map_or("nowhere".into(), |file| format!("in {}", quoted(file)));
                let what = format!("it is in {}, but {INDEX} says {where_}", quoted(file));
                return Err(Error::malformed(what).at(Place::Tensor(tensor.clone())));
            }
        }
        match &mut model {
            None => model = Some(shard),
            Some(model) => {
                model.file_bytes = model.file_bytes.saturating_add(shard.file_bytes);
                model.tensors.extend(shard.tensors);
                model.others.extend(shard.others);
            }
        }
    }
    let model = model.ok_or_else(|| Error::malformed("it names no file").at(index.place("weight_map")))?;
    let absent = |name: &&&str| !model.tensors.contains_key(**name) && !model.others.contains_key(**name);
    if let Some(name) = names.keys().find(absent) {
        let what = format!("{INDEX} says it is in {}, and it is not", quoted(names[name]));
        return Err(Error::malformed(what).at(Place::Tensor(name.to_string())));
    }
    Ok(model)
}

// ---- folders

/// The folder that holds the model: this one, or the only one below it at the least depth.
//= F-ST-090
fn find(root: &Path) -> Result<PathBuf> {
    let mut looked_at = 0;
    let mut level = vec![root.to_path_buf()];
    for _ in 0..=limits::FOLDER_DEPTH_MAX {
        let mut found = Vec::new();
        for folder in &level {
            let weights = match weights_in(folder) {
                // What may not be looked into is not where somebody keeps a model to be used.
                Err(_) if folder != root => continue,
                weights => weights?,
            };
            if folder.join(INDEX).is_file() || !weights.is_empty() {
                found.push(folder.clone());
            }
        }
        match &found[..] {
            [one] => return Ok(one.clone()),
            [] => {
                let beside = models_in(root)?;
                let below = folders_below(&level, &mut looked_at)?;
                // What lies in the folder itself is no less meant than what lies deeper.
                if !beside.is_empty() && !below.is_empty() {
                    let what = format!("{} holds files that are models, and folders", shown(root));
                    let many = beside.iter().take(8).map(|f| shown(f)).collect::<Vec<_>>().join(", ");
                    return Err(Error::new(Kind::NotFound, what).hint(format!("give one of them: {many}")));
                }
                level = below;
            }
            many => {
                let names: Vec<String> = many.iter().take(8).map(|f| shown(f)).collect();
                let what = format!("{} holds {} models", shown(root), many.len());
                return Err(Error::malformed(what).hint(format!("give one of them: {}", names.join(", "))));
            }
        }
    }
    let e = Error::new(Kind::NotFound, format!("no model in {}", shown(root)));
    Err(match entries(root)?.iter().find_map(|path| other_model(path)) {
        Some(hint) => e.hint(hint),
        None => e.hint(format!("looked for *.safetensors there and {} folders deep", limits::FOLDER_DEPTH_MAX)),
    })
}

/// Folders in these folders, links followed, each once: a loop of links comes to an end.
fn folders_below(level: &[PathBuf], looked_at: &mut usize) -> Result<Vec<PathBuf>> {
    let mut seen: BTreeSet<PathBuf> = level.iter().filter_map(|f| f.canonicalize().ok()).collect();
    let mut below = Vec::new();
    for folder in level {
        // The first one has been read before.
        for path in entries(folder).unwrap_or_default() {
            *looked_at += 1;
            if *looked_at > limits::FOLDER_ENTRIES_MAX {
                let what = format!("more than {} files and folders to search for a model", limits::FOLDER_ENTRIES_MAX);
                return Err(Error::new(Kind::TooLarge, what).hint("give the model's own folder"));
            }
            if path.is_dir() && path.canonicalize().is_ok_and(|real| seen.insert(real)) {
                below.push(path);
            }
        }
    }
    Ok(below)
}

/// What is in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(folder).map_err(|e| Error::from_io(&e, folder))?;
    let mut paths: Vec<PathBuf> = read.take(limits::FOLDER_ENTRIES_MAX).flatten().map(|e| e.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Names of the SafeTensors files of a folder, sorted.
fn weights_in(folder: &Path) -> Result<Vec<String>> {
    let weights = entries(folder)?.into_iter().filter(|p| p.extension().is_some_and(|x| x == "safetensors"));
    let names = weights.filter(|p| p.is_file()).filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    Ok(names.collect())
}

/// Files of a folder that are a model by themselves, by their names.
fn models_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_model = |p: &PathBuf| p.extension().is_some_and(|x| x == "gguf" || x == "apr") && p.is_file();
    Ok(entries(folder)?.into_iter().filter(is_model).collect())
}

/// What to say of a model that is there in another form.
fn other_model(path: &Path) -> Option<String> {
    match path.extension()?.to_str()? {
        "gguf" | "apr" => Some(format!("there is {}: give that file", shown(path))),
        "bin" | "pt" | "pth" => Some(format!(
            "{} looks like pickled weights, which run code when they are read; convert them to SafeTensors",
            shown(path)
        )),
        _ => None,
    }
}

fn shown(path: &Path) -> String {
    quoted_path(path)
}
