//! The registry: models under names of the user's own, each stored once.
//!
//! ```text
//! ~/.apr/pacha/
//!   tags/NAME/TAG.json       what a name means: files, each with size and BLAKE3, and which one is opened
//!   objects/HH/HEX           a file, called by its BLAKE3
//!   models/DIGEST/NAME/..    the files of a model under their own names: second names of the same objects
//!   lock                     who writes holds it
//! ```
//!
//! The index is files and no database: what a tag means is one small file that is replaced by renaming, which is all the
//! transaction there is; nothing is searched for but by name. SQLite would bring a C compiler into the build and a
//! second thing that can be damaged.
//!
//! An object is written once. When it was, its time is set to [`WRITTEN`], as Nix does it: one that has another time was
//! touched, and is hashed again before it is used.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::error::{quoted, quoted_path};
use engine::{Error, Kind, Result, similar};
use serde::{Deserialize, Serialize};

use super::cache::{Home, Lock, folders, link, lock, make, modified_ns, names, read_small, replace, unwritten};
use super::name::{FileName, Tagged};
use super::quant::choose;

/// The time of an object: a second after the beginning of Unix time.
const WRITTEN: Duration = Duration::from_secs(1);

/// What a tag means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What it was when it was tagged.
    pub source: String,
    /// The file to open; without one, the folder.
    pub open: Option<String>,
    /// Its files.
    pub files: Vec<Part>,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub blake3: String,
}

impl Model {
    /// Reads what a tag means; nothing if it is none. Names that lead elsewhere make it none.
    pub fn parse(text: &[u8]) -> Option<Model> {
        let model: Model = serde_json::from_slice(text).ok()?;
        let sound = |p: &Part| FileName::parse(&p.name).is_some() && blake3::Hash::from_hex(&p.blake3).is_ok();
        let named = |open: &String| model.files.iter().any(|p| p.name == *open);
        (!model.files.is_empty() && model.files.iter().all(sound) && model.open.iter().all(named)).then_some(model)
    }

    /// What tells it from another.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in &self.files {
            hasher.update(format!("{} {} {}\n", part.blake3, part.bytes, part.name).as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|p| p.bytes).sum()
    }
}

/// A registry: the user's, or a folder that somebody shares.
#[derive(Debug, Clone)]
pub struct Registry {
    root: PathBuf,
    /// Files of ours may be named twice instead of copied.
    home: Option<PathBuf>,
}

impl Registry {
    /// The user's.
    pub fn of(home: &Home) -> Registry {
        let root = home.registry();
        Registry { home: root.parent().map(Path::to_path_buf), root }
    }

    /// One in any folder.
    pub fn at(folder: &Path) -> Registry {
        Registry { root: folder.to_path_buf(), home: None }
    }

    fn tag_file(&self, name: &Tagged) -> PathBuf {
        self.root.join("tags").join(&name.name).join(format!("{}.json", name.tag))
    }

    fn object(&self, part: &Part) -> PathBuf {
        self.root.join("objects").join(&part.blake3[..2]).join(&part.blake3)
    }

    fn lock(&self) -> Result<Lock> {
        make(&self.root)?;
        lock(&self.root.join("lock"), &self.root.to_string_lossy(), false)
    }

    /// Every name, and what it means.
    pub fn list(&self) -> Vec<(Tagged, Model)> {
        let mut all = Vec::new();
        for name in folders(&self.root.join("tags")) {
            for file in names(&self.root.join("tags").join(&name), |t| t.is_file()) {
                let tagged = file.strip_suffix(".json").and_then(|tag| Tagged::parse(&format!("{name}:{tag}")));
                let Some(tagged) = tagged else { continue };
                all.extend(
                    read_small(&self.tag_file(&tagged)).and_then(|text| Model::parse(&text)).map(|m| (tagged, m)),
                );
            }
        }
        all
    }

    /// What a name means.
    //= F-INT-284
    pub fn find(&self, name: &Tagged) -> Result<Model> {
        let file = self.tag_file(name);
        if let Some(text) = read_small(&file) {
            return Model::parse(&text).ok_or_else(|| Error::malformed(format!("{} is damaged", quoted_path(&file))));
        }
        let (place, empty) = match &self.home {
            Some(_) => ("the registry".to_string(), "it is empty; apr tag MODEL NAME adds one"),
            None => (format!("the registry in {}", quoted_path(&self.root)), "it is empty; apr push NAME DIR adds one"),
        };
        let error = Error::new(Kind::NotFound, format!("{place} has no {}", quoted(&format!("pacha://{name}"))));
        let known = self.names();
        Err(match self.like(name) {
            Some(near) => error.hint(format!("did you mean {}?", quoted(&format!("pacha://{near}")))),
            None if known.is_empty() => error.hint(empty),
            None => error.hint(format!("it has {}", known.join(", "))),
        })
    }

    /// Whether the name means something, damaged or not.
    pub fn has(&self, name: &Tagged) -> bool {
        self.tag_file(name).is_file()
    }

    /// The name that was meant: the same one with another tag, or else one that is much like it.
    pub fn like(&self, name: &Tagged) -> Option<String> {
        let known = self.names();
        let same = known.iter().find(|k| k.split(':').next() == Some(name.name.as_str())).cloned();
        same.or_else(|| similar::nearest(&name.to_string(), known))
    }

    fn names(&self) -> Vec<String> {
        self.list().into_iter().map(|(name, _)| name.to_string()).collect()
    }

    /// Where the model of a name can be opened. Every file of it is what it was.
    //= F-INT-286
    pub fn open(&self, name: &Tagged) -> Result<PathBuf> {
        let model = self.find(name)?;
        let folder = self.folder(name, &model);
        for part in &model.files {
            let object = self.object(part);
            sound(&object, part)?;
            let file = FileName::parse(&part.name).map(|n| n.below(&folder));
            let file = file.ok_or_else(|| Error::malformed(format!("{name} is damaged")))?;
            if fs::symlink_metadata(&file).is_err() {
                link(&object, &file)?;
                stamp(&file);
            }
            sound(&file, part)?;
        }
        Ok(match &model.open {
            Some(file) => folder.join(file),
            None => folder,
        })
    }

    /// Where the files of a model have their own names.
    pub fn folder(&self, name: &Tagged, model: &Model) -> PathBuf {
        self.root.join("models").join(model.digest()).join(&name.name)
    }

    /// Hashes every object of a model.
    pub fn verify(&self, model: &Model) -> Result<()> {
        model.files.iter().try_for_each(|part| hashed(&self.object(part), part))
    }

    /// Gives a model on the disk a name.
    //= F-INT-284
    pub fn tag(&self, path: &Path, source: &str, name: &Tagged) -> Result<Model> {
        let _lock = self.lock()?;
        let (folder, files, open) = files_of(path)?;
        let mut parts = Vec::new();
        for file in files {
            let from = file.below(&folder);
            let meta = fs::metadata(&from).map_err(|e| Error::from_io(&e, &from))?;
            let hash = hash_of(&from).map_err(|e| Error::from_io(&e, &from))?;
            let part = Part { name: file.as_str().into(), bytes: meta.len(), blake3: hash.to_hex().to_string() };
            let object = self.object(&part);
            if sound(&object, &part).is_err() {
                let _ = fs::remove_file(&object);
                // What this program keeps is never written again: a second name will do.
                let ours = self.home.as_ref().is_some_and(|home| from.starts_with(home));
                match ours {
                    true => link(&from, &object)?,
                    false => put(&from, &object, &part)?,
                }
                stamp(&object);
            }
            parts.push(part);
        }
        let model = Model { source: source.into(), open, files: parts };
        self.write(name, &model)?;
        Ok(model)
    }

    fn write(&self, name: &Tagged, model: &Model) -> Result<()> {
        let text = serde_json::to_vec_pretty(model).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        replace(&self.tag_file(name), &text)
    }

    /// Forgets a name, and what no name means any more. Gives how many bytes that were.
    //= F-INT-284
    pub fn remove(&self, name: &Tagged) -> Result<u64> {
        let _lock = self.lock()?;
        let model = self.find(name)?;
        let file = self.tag_file(name);
        fs::remove_file(&file).map_err(|e| unwritten(&file, &e))?;
        let _ = file.parent().map(fs::remove_dir);
        let rest = self.list();
        let models: BTreeSet<String> = rest.iter().map(|(_, m)| m.digest()).collect();
        let objects: BTreeSet<&str> = rest.iter().flat_map(|(_, m)| &m.files).map(|p| p.blake3.as_str()).collect();
        if !models.contains(&model.digest()) {
            let folder = self.root.join("models").join(model.digest());
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(|e| unwritten(&folder, &e))?;
            }
        }
        let mut freed = 0;
        for part in model.files.iter().filter(|p| !objects.contains(p.blake3.as_str())) {
            let object = self.object(part);
            match fs::remove_file(&object) {
                Ok(()) => freed += part.bytes,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(unwritten(&object, &e)),
            }
            let _ = object.parent().map(fs::remove_dir);
        }
        Ok(freed)
    }
}

/// Copies what a name means from one registry into another. Every byte is hashed on the way.
//= F-INT-286
pub fn copy(from: &Registry, to: &Registry, name: &Tagged) -> Result<Model> {
    let model = from.find(name)?;
    let _lock = to.lock()?;
    for part in &model.files {
        let object = to.object(part);
        if sound(&object, part).is_err() {
            put(&from.object(part), &object, part)?;
            stamp(&object);
        }
    }
    to.write(name, &model)?;
    Ok(model)
}

/// The files of a model on the disk: their folder, their names, and which one is opened.
fn files_of(path: &Path) -> Result<(PathBuf, Vec<FileName>, Option<String>)> {
    // Links are followed when files are read, not before: in HuggingFace's cache only the links have names.
    let path = std::path::absolute(path).map_err(|e| Error::from_io(&e, path))?;
    let shown = path.to_string_lossy();
    if path.is_dir() {
        let all = names(&path, |t| !t.is_dir());
        let files: Vec<&str> = all.iter().map(String::as_str).collect();
        let choice = choose(&shown, &files, None, None)?;
        let open = (!choice.folder).then(|| choice.files.first().map(|i| files[*i].to_string())).flatten();
        return Ok((path, choice.files.iter().filter_map(|i| FileName::parse(files[*i])).collect(), open));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Err(Error::new(Kind::Usage, format!("{} cannot be named", quoted(&shown))));
    };
    let all = names(folder, |t| !t.is_dir());
    let files: Vec<&str> = all.iter().map(String::as_str).collect();
    // A file under a name that says nothing is the whole model.
    let chosen = match choose(&shown, &files, Some(name), None) {
        Ok(choice) => choice.files.iter().map(|i| files[*i]).collect(),
        Err(_) => vec![name],
    };
    Ok((folder.to_path_buf(), chosen.into_iter().filter_map(FileName::parse).collect(), Some(name.into())))
}

/// Whether a file is what it was when it was written: by size and time, or else by its hash.
fn sound(path: &Path, part: &Part) -> Result<()> {
    let meta = fs::metadata(path).map_err(|e| Error::from_io(&e, path))?;
    let untouched = u64::try_from(WRITTEN.as_nanos()).is_ok_and(|t| modified_ns(&meta) == t);
    if meta.len() == part.bytes && untouched {
        return Ok(());
    }
    hashed(path, part)?;
    stamp(path);
    Ok(())
}

fn hashed(path: &Path, part: &Part) -> Result<()> {
    let hash = hash_of(path).map_err(|e| Error::from_io(&e, path))?;
    match hash.to_hex().as_str() == part.blake3 {
        true => Ok(()),
        false => Err(Error::malformed(format!(
            "{} of the registry is damaged: its BLAKE3 is {hash} and has to be {}",
            quoted(&part.name),
            part.blake3
        ))
        .hint("tag or pull the model again")),
    }
}

fn hash_of(path: &Path) -> std::io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize())
}

/// Where times cannot be set, objects are hashed whenever they are used.
fn stamp(path: &Path) {
    let time: SystemTime = UNIX_EPOCH + WRITTEN;
    let _ = File::options().write(true).open(path).and_then(|f| f.set_modified(time));
}

/// Copies a file to where its hash says, if it has that hash.
fn put(from: &Path, object: &Path, part: &Part) -> Result<()> {
    let folder = object.parent().unwrap_or(Path::new("."));
    make(folder)?;
    let draft = folder.join(format!(".{}.{}", part.blake3, std::process::id()));
    let copied = (|| {
        let mut file = File::open(from).map_err(|e| Error::from_io(&e, from))?;
        let mut out = File::create(&draft).map_err(|e| unwritten(&draft, &e))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(|e| Error::from_io(&e, from))? {
                0 => break,
                n => {
                    hasher.update(&buffer[..n]);
                    out.write_all(&buffer[..n]).map_err(|e| unwritten(&draft, &e))?;
                }
            }
        }
        let hash = hasher.finalize();
        if hash.to_hex().as_str() != part.blake3 {
            let what = format!("{}: its BLAKE3 is {hash} and has to be {}", quoted(&part.name), part.blake3);
            return Err(Error::malformed(what).hint("what came is thrown away"));
        }
        out.sync_all().map_err(|e| unwritten(&draft, &e))?;
        fs::rename(&draft, object).map_err(|e| unwritten(object, &e))
    })();
    if copied.is_err() {
        let _ = fs::remove_file(&draft);
    }
    copied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Tagged {
        Tagged::parse(text).unwrap()
    }

    #[test]
    fn names_mean_what_they_were_given_and_objects_are_stored_once() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(&dir.path().join("pacha"));
        let model = dir.path().join("m.gguf");
        fs::write(&model, "one").unwrap();
        registry.tag(&model, "m", &name("coder:v1")).unwrap();
        registry.tag(&model, "m", &name("coder:same")).unwrap();
        fs::write(&model, "two").unwrap();
        registry.tag(&model, "m", &name("coder")).unwrap();
        let read = |tag: &str| fs::read_to_string(registry.open(&name(tag)).unwrap()).unwrap();
        assert_eq!((read("coder:v1"), read("coder:same"), read("coder")), ("one".into(), "one".into(), "two".into()));
        assert_eq!(folders(&dir.path().join("pacha/objects")).len(), 2);
        assert_eq!(registry.remove(&name("coder:v1")).unwrap(), 0, "another name means the same");
        assert_eq!(registry.remove(&name("coder:same")).unwrap(), 3);
        let gone = registry.open(&name("coder:v1")).unwrap_err();
        assert!(gone.kind == Kind::NotFound && gone.hint.unwrap().contains("pacha://coder:latest"));
        assert_eq!(read("coder"), "two");
    }

    #[test]
    fn damage_is_seen_before_use_and_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (Registry::at(&dir.path().join("a")), Registry::at(&dir.path().join("b")));
        let file = dir.path().join("m.gguf");
        fs::write(&file, "weights").unwrap();
        let model = ours.tag(&file, "m", &name("m")).unwrap();
        assert_eq!(copy(&ours, &theirs, &name("m")).unwrap(), model);
        assert!(theirs.open(&name("m")).is_ok() && theirs.verify(&model).is_ok());
        let object = ours.object(&model.files[0]);
        fs::write(&object, "w3ights").unwrap();
        assert_eq!(ours.open(&name("m")).unwrap_err().kind, Kind::Malformed);
        theirs.remove(&name("m")).unwrap();
        assert_eq!(copy(&ours, &theirs, &name("m")).unwrap_err().kind, Kind::Malformed);
        assert!(theirs.find(&name("m")).is_err(), "nothing of it is kept");
        // Damage that keeps the time is found by hashing everything.
        stamp(&object);
        assert!(ours.open(&name("m")).is_ok() && ours.verify(&model).is_err());
    }

    #[test]
    fn a_tag_leads_nowhere_else() {
        let with = |name: &str| {
            let zero = "0".repeat(64);
            format!(r#"{{"source":"x","open":null,"files":[{{"name":"{name}","bytes":1,"blake3":"{zero}"}}]}}"#)
        };
        assert!(Model::parse(with("m.gguf").as_bytes()).is_some());
        assert!(Model::parse(with("../m").as_bytes()).is_none() && Model::parse(b"[]").is_none());
    }
}
