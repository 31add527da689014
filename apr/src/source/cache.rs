//! What was downloaded, on the disk.
//!
//! ```text
//! ~/.apr/cache/                        APR_HOME names another ~/.apr
//!   hf/ORG/REPO/refs/main              the commit that a branch or tag was when it was last asked for
//!   hf/ORG/REPO/COMMIT/manifest.json   which files of a commit are whole: size, SHA-256, time of the last change
//!   hf/ORG/REPO/COMMIT/REPO/..         the files
//!   url/KEY/manifest.json              the same for one address; KEY is the beginning of its SHA-256
//!   url/KEY/files/NAME
//!   partial/KEY.part .journal .lock    what is not finished, and who is at it
//! ```
//!
//! A file gets its name here when it is whole and checked, and an entry of the manifest after that. On use its size and
//! time are held against the entry: a file that was touched since is hashed again. `apr list --verify` hashes them all.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use engine::error::{quoted, quoted_path};
use engine::{Error, Kind, Result, knobs, limits, term};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::download::sha256_of;
use super::name::{Address, Commit, FileName, Repo, Revision, Sha256};

/// The folder of everything that `apr` keeps.
#[derive(Debug, Clone)]
pub struct Home(PathBuf);

impl Home {
    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// As the environment says.
    pub fn find() -> Result<Home> {
        knobs::home()
            .map(Home)
            .ok_or_else(|| Error::new(Kind::Usage, "no folder for downloads is known").hint("name one by APR_HOME"))
    }

    /// The registry's.
    pub fn registry(&self) -> PathBuf {
        self.0.join("pacha")
    }

    fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// The folder of a repository.
    pub fn repo(&self, repo: &Repo) -> PathBuf {
        self.cache().join("hf").join(&repo.org).join(&repo.name)
    }

    /// What is there of a commit.
    pub fn snapshot(&self, repo: &Repo, commit: &Commit) -> Entry {
        let folder = self.repo(repo).join(commit.to_string());
        Entry { files: folder.join(&repo.name), folder }
    }

    /// Every commit of a repository of which there is something.
    pub fn snapshots(&self, repo: &Repo) -> Vec<Entry> {
        let names = folders(&self.repo(repo));
        names.iter().filter_map(|n| Commit::parse(n)).map(|commit| self.snapshot(repo, &commit)).collect()
    }

    /// What is there of an address.
    pub fn url(&self, address: &Address) -> Entry {
        let folder = self.cache().join("url").join(key(address.as_str()));
        Entry { files: folder.join("files"), folder }
    }

    /// The commit that a revision was.
    pub fn commit(&self, repo: &Repo, revision: &Revision) -> Option<Commit> {
        revision.commit().or_else(|| {
            let mut text = String::new();
            File::open(self.reference(repo, revision)).ok()?.take(100).read_to_string(&mut text).ok()?;
            Commit::parse(text.trim())
        })
    }

    /// Remembers it.
    pub fn remember(&self, repo: &Repo, revision: &Revision, commit: &Commit) -> Result<()> {
        match revision.commit() {
            Some(_) => Ok(()),
            None => replace(&self.reference(repo, revision), format!("{commit}\n").as_bytes()),
        }
    }

    fn reference(&self, repo: &Repo, revision: &Revision) -> PathBuf {
        self.repo(repo).join("refs").join(revision.parts().collect::<PathBuf>())
    }

    /// The name of what is not finished of this.
    pub fn partial(&self, of: &str) -> Result<PathBuf> {
        let folder = self.cache().join("partial");
        make(&folder)?;
        Ok(folder.join(key(of)))
    }

    /// Waits until no other process is at this, and keeps others waiting.
    pub fn lock(&self, of: &str, quiet: bool) -> Result<Lock> {
        lock(&self.partial(of)?.with_extension("lock"), of, quiet)
    }

    /// Everything that is whole: what it is called, and where.
    pub fn all(&self) -> Vec<(String, Entry)> {
        let hub = self.cache().join("hf");
        let mut all = Vec::new();
        for org in folders(&hub) {
            for name in folders(&hub.join(&org)) {
                let Some(repo) = Repo::parse(&format!("{org}/{name}")) else { continue };
                let current = self.commit(&repo, &Revision::main());
                for commit in folders(&self.repo(&repo)).iter().filter_map(|n| Commit::parse(n)) {
                    let of = if current.as_ref() == Some(&commit) { String::new() } else { format!("@{commit}") };
                    all.push((format!("hf://{repo}{of}"), self.snapshot(&repo, &commit)));
                }
            }
        }
        let urls = self.cache().join("url");
        for key in folders(&urls) {
            let entry = Entry { files: urls.join(&key).join("files"), folder: urls.join(&key) };
            let Some(source) = entry.manifest().map(|m| m.source) else { continue };
            all.push((source, entry));
        }
        all
    }
}

/// Who holds it is alone with what it is for. The system takes it back when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: Option<File>,
}

/// Locks a file, which stays: removing it would give two processes two different files to lock.
pub fn lock(path: &Path, of: &str, quiet: bool) -> Result<Lock> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|e| unwritten(path, &e))?;
    match file.try_lock() {
        Ok(()) => return Ok(Lock { _file: Some(file) }),
        Err(fs::TryLockError::WouldBlock) => {}
        // A file system without locks: then two processes do the same work, and both end with the same file.
        Err(fs::TryLockError::Error(_)) => return Ok(Lock { _file: None }),
    }
    if !quiet {
        term::note(&format!("{}: another apr is at it; waiting", quoted(of)));
    }
    file.lock().map_err(|e| unwritten(path, &e))?;
    Ok(Lock { _file: Some(file) })
}

/// A folder of files, and what is known of them.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where the manifest is.
    pub folder: PathBuf,
    /// Where the files are.
    pub files: PathBuf,
}

/// Which files are whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Where they came from, without secrets.
    pub source: String,
    /// The files.
    pub files: Vec<Whole>,
}

/// A file that was whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whole {
    /// Its path in the folder of files.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub sha256: String,
    /// When it was last changed, in nanoseconds of Unix time.
    pub modified_ns: u64,
}

impl Manifest {
    /// Reads one; nothing if it is none. Names that lead elsewhere make it none.
    pub fn parse(text: &[u8]) -> Option<Manifest> {
        let manifest: Manifest = serde_json::from_slice(text).ok()?;
        let sound = |w: &Whole| FileName::parse(&w.name).is_some() && Sha256::parse(&w.sha256).is_some();
        (manifest.files.len() <= limits::HUB_FILES_MAX && manifest.files.iter().all(sound)).then_some(manifest)
    }
}

impl Entry {
    fn path(&self) -> PathBuf {
        self.folder.join("manifest.json")
    }

    /// What is known.
    pub fn manifest(&self) -> Option<Manifest> {
        Manifest::parse(&read_small(&self.path())?)
    }

    /// Notes that these files are whole.
    pub fn note(&self, source: &str, files: &[(FileName, Sha256)]) -> Result<()> {
        let mut manifest = self.manifest().unwrap_or_default();
        manifest.source = source.into();
        for (name, sha256) in files {
            let path = name.below(&self.files);
            let meta = fs::metadata(&path).map_err(|e| Error::from_io(&e, &path))?;
            manifest.files.retain(|w| w.name != name.as_str());
            manifest.files.push(Whole {
                name: name.as_str().into(),
                bytes: meta.len(),
                sha256: sha256.to_string(),
                modified_ns: modified_ns(&meta),
            });
        }
        let text = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        replace(&self.path(), &text)
    }

    /// Forgets files that are gone.
    pub fn forget(&self) -> Result<()> {
        let mut manifest = self.manifest().unwrap_or_default();
        manifest.files.retain(|w| FileName::parse(&w.name).is_some_and(|n| n.below(&self.files).exists()));
        let text = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        replace(&self.path(), &text)
    }

    /// The files that are there and whole. One that was touched is hashed again, and left out if it is another.
    pub fn whole(&self, quiet: bool) -> Vec<(FileName, Sha256)> {
        let Some(manifest) = self.manifest() else { return Vec::new() };
        let mut touched = Vec::new();
        let mut whole = Vec::new();
        for w in &manifest.files {
            let (Some(name), Some(sha256)) = (FileName::parse(&w.name), Sha256::parse(&w.sha256)) else { continue };
            let path = name.below(&self.files);
            let Ok(meta) = fs::metadata(&path) else { continue };
            if meta.len() != w.bytes || modified_ns(&meta) != w.modified_ns {
                if sha256_of(&path).ok().as_ref() != Some(&sha256) {
                    let what = format!("{} was changed since it was downloaded", quoted_path(path));
                    term::warn_unless(quiet, &what);
                    continue;
                }
                touched.push((name.clone(), sha256.clone()));
            }
            whole.push((name, sha256));
        }
        if !touched.is_empty() {
            // Next time it is hashed again where this cannot be written.
            let _ = self.note(&manifest.source, &touched);
        }
        whole
    }
}

/// When a file was last changed.
pub fn modified_ns(meta: &fs::Metadata) -> u64 {
    let since = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    since.and_then(|d| u64::try_from(d.as_nanos()).ok()).unwrap_or(0)
}

/// A short name for anything.
pub fn key(of: &str) -> String {
    blake3::hash(of.as_bytes()).to_hex()[..32].to_string()
}

/// Names of the folders in a folder, sorted.
pub fn folders(of: &Path) -> Vec<String> {
    names(of, |t| t.is_dir())
}

/// Names of what is in a folder, sorted.
pub fn names(of: &Path, kind: fn(&fs::FileType) -> bool) -> Vec<String> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten().take(limits::HUB_FILES_MAX);
    let mut names: Vec<String> = entries
        .filter(|e| e.file_type().is_ok_and(|t| kind(&t)))
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// A small file, whole.
pub fn read_small(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(limits::HUB_REPLY_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// A small file as JSON.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&read_small(path)?).ok()
}

/// Makes a folder and those above it.
pub fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| unwritten(folder, &e))
}

/// Puts a small file in its place, whole.
pub fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}", std::process::id()));
    let written = File::create(&draft).and_then(|mut f| f.write_all(text).and_then(|()| f.sync_all()));
    let placed = written.and_then(|()| fs::rename(&draft, path));
    placed.map_err(|e| {
        let _ = fs::remove_file(&draft);
        unwritten(path, &e)
    })
}

/// Gives a file a second name; where the system cannot, a copy.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    make(to.parent().unwrap_or(Path::new(".")))?;
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(_) => {
            let draft = to.with_extension(format!("{}.copy", std::process::id()));
            let copied = fs::copy(from, &draft).and_then(|_| fs::rename(&draft, to));
            copied.map_err(|e| {
                let _ = fs::remove_file(&draft);
                unwritten(to, &e)
            })
        }
    }
}

/// The error for a place that takes nothing.
pub fn unwritten(path: &Path, e: &std::io::Error) -> Error {
    Error::new(Kind::Output, format!("cannot write {}: {e}", quoted_path(path)))
        .hint("APR_HOME names another folder for downloads")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_touched_is_hashed_again() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry { folder: dir.path().into(), files: dir.path().join("files") };
        make(&entry.files).unwrap();
        let name = FileName::parse("m.gguf").unwrap();
        let path = name.below(&entry.files);
        fs::write(&path, "weights").unwrap();
        let sha256 = sha256_of(&path).unwrap();
        entry.note("hf://org/repo", &[(name.clone(), sha256.clone())]).unwrap();
        let there = || entry.whole(true);
        assert_eq!(there(), [(name.clone(), sha256.clone())]);
        let before = entry.manifest().unwrap();
        let again = |text: &str| {
            fs::write(&path, text).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(UNIX_EPOCH).unwrap();
        };
        again("weights");
        assert_eq!(there(), [(name.clone(), sha256.clone())]);
        assert_ne!(entry.manifest().unwrap(), before, "its new time is noted");
        File::options().write(true).open(&path).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        fs::write(&path, "w3ights").unwrap();
        assert_eq!(there(), []);
        fs::remove_file(&path).unwrap();
        assert_eq!(there(), []);
    }

    #[test]
    fn a_manifest_leads_nowhere_else() {
        let with = |name: &str| {
            let zero = "0".repeat(64);
            format!(r#"{{"source":"x","files":[{{"name":"{name}","bytes":1,"sha256":"{zero}","modified_ns":0}}]}}"#)
        };
        assert!(Manifest::parse(with("a/b.gguf").as_bytes()).is_some());
        for name in ["../x", "/etc/passwd", "a//b", "C:x", ""] {
            assert!(Manifest::parse(with(name).as_bytes()).is_none(), "{name}");
        }
        assert!(Manifest::parse(b"{").is_none());
    }
}
