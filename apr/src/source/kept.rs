//! Everything that is on this machine, listed and removed.

use std::fs;
use std::path::{Path, PathBuf};

use engine::error::quoted;
use engine::{Error, Kind, Result};

use super::cache::{Entry, Home, unwritten};
use super::download::sha256_of;
use super::name::FileName;
use super::pacha::Registry;
use super::{Source, foreign, understood};

/// A model that is here.
#[derive(Debug, Clone)]
pub struct Held {
    /// What commands take.
    pub name: String,
    /// Whose it is: `apr`, the registry, or another program.
    pub place: &'static str,
    /// Its size.
    pub bytes: u64,
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it, as far as that was looked for.
    pub damaged: Option<String>,
}

/// Everything: downloads, the registry, what other programs have. `verify` hashes what is ours.
pub fn list(verify: bool) -> Result<Vec<Held>> {
    let home = Home::find()?;
    let mut all = Vec::new();
    for (name, entry) in home.all() {
        let Some(manifest) = entry.manifest() else { continue };
        for w in manifest.files.iter().filter(|w| is_model(&w.name)) {
            let Some(path) = FileName::parse(&w.name).map(|n| n.below(&entry.files)) else { continue };
            let there = fs::metadata(&path);
            let damaged = match there {
                Err(_) => Some("it is gone".into()),
                Ok(meta) if meta.len() != w.bytes => Some(format!("it has {} bytes of {}", meta.len(), w.bytes)),
                Ok(_) if verify => match sha256_of(&path) {
                    Ok(s) if s.to_string() == w.sha256 => None,
                    Ok(_) => Some("its SHA-256 is another".into()),
                    Err(e) => Some(e.to_string()),
                },
                Ok(_) => None,
            };
            // An address is one file, a repository has several.
            let name = if name.starts_with("hf://") { format!("{name}/{}", w.name) } else { name.clone() };
            all.push(Held { name, place: "apr", bytes: w.bytes, path, damaged });
        }
    }
    let registry = Registry::of(&home);
    for (name, model) in registry.list() {
        let damaged = verify.then(|| registry.verify(&model).err().map(|e| e.what)).flatten();
        let path = registry.folder(&name, &model);
        all.push(Held { name: format!("pacha://{name}"), place: "registry", bytes: model.bytes(), path, damaged });
    }
    for (name, place, path) in foreign::all() {
        let bytes = fs::metadata(&path).map_or(0, |m| m.len());
        all.push(Held { name, place, bytes, path, damaged: None });
    }
    Ok(all)
}

/// A folder of models that is here.
#[derive(Debug)]
pub struct Cache {
    /// Whose it is.
    pub whose: &'static str,
    /// Where.
    pub folder: PathBuf,
    /// Models in it that can be used.
    pub models: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Every folder of models that is here: ours first, then those of other programs.
pub fn caches() -> Result<Vec<Cache>> {
    let all = list(false)?;
    let ours = Some(("apr", Home::find()?.folder().to_path_buf())).filter(|(_, folder)| folder.is_dir());
    let places = ours.into_iter().chain(foreign::caches());
    let counted = places.map(|(whose, folder)| {
        let own = |h: &&Held| h.path.starts_with(&folder);
        let (models, bytes) = all.iter().filter(own).fold((0, 0), |(n, bytes), h| (n + 1, bytes + h.bytes));
        Cache { whose, folder, models, bytes }
    });
    Ok(counted.collect())
}

fn is_model(name: &str) -> bool {
    [".gguf", ".safetensors", ".apr"].iter().any(|end| name.ends_with(end)) || !name.contains('.')
}

/// Removes what was downloaded of a model, or a name of the registry. Gives how many bytes are free then. What others
/// keep is not ours to remove.
pub fn remove(model: &Path) -> Result<u64> {
    let home = Home::find()?;
    let shown = model.to_string_lossy();
    let not_ours = || {
        Error::new(Kind::Usage, format!("{} is not a download of apr", quoted(&shown))).hint("apr list shows what is")
    };
    let freed = match understood(model)? {
        Source::Registry(name) => return Registry::of(&home).remove(&name),
        Source::Path(_) | Source::Found(_) => return Err(not_ours()),
        Source::Url(address) => {
            let _lock = home.lock(address.as_str(), false)?;
            clear(&home.url(&address).folder)?
        }
        Source::Hub(name) => {
            let _lock = home.lock(&name.repo.to_string(), false)?;
            match (&name.file, &name.quant) {
                (None, None) => clear(&home.repo(&name.repo))?,
                _ => home.snapshots(&name.repo).iter().map(|e| of_entry(e, &name)).sum::<Result<u64>>()?,
            }
        }
    };
    match freed {
        0 => Err(Error::new(Kind::NotFound, format!("{} is not here", quoted(&shown))).hint("apr list shows what is")),
        n => Ok(n),
    }
}

/// Some files of a repository.
fn of_entry(entry: &Entry, name: &super::name::HubName) -> Result<u64> {
    let whole = entry.whole(true);
    let files: Vec<&str> = whole.iter().map(|(f, _)| f.as_str()).collect();
    let file = name.file.as_ref().map(FileName::as_str);
    let Ok(choice) = super::quant::choose("", &files, file, name.quant) else { return Ok(0) };
    let mut freed = 0;
    for (file, _) in choice.files.iter().map(|i| &whole[*i]).filter(|(f, _)| is_model(f.as_str())) {
        let path = file.below(&entry.files);
        freed += fs::metadata(&path).map_or(0, |m| m.len());
        fs::remove_file(&path).map_err(|e| unwritten(&path, &e))?;
    }
    entry.forget()?;
    Ok(freed)
}

/// Removes a folder. Gives the size of what was in it.
fn clear(folder: &Path) -> Result<u64> {
    let freed = size_of(folder);
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(unwritten(folder, &e)),
        _ => Ok(freed),
    }
}

fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let one = |e: fs::DirEntry| match e.file_type() {
        Ok(t) if t.is_dir() => size_of(&e.path()),
        _ => e.metadata().map_or(0, |m| m.len()),
    };
    entries.map(one).sum()
}
