//! A file or a folder that is there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result, quoted_path};
use crate::file::outgoing::unwritten;

/// Has `make` write a file under a temporary name beside `path`, puts it on the disk, and only then calls it `path`.
/// Gives its size. What was made of a file that was not finished is removed.
pub fn write(path: &Path, make: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<u64> {
    let shown = quoted_path(path);
    let failed = |e: &std::io::Error| Error::new(Kind::Output, format!("cannot write {shown}: {e}"));
    if path.file_name().is_none() || path.is_dir() {
        return Err(Error::new(Kind::Usage, format!("{shown} is not the name of a file")));
    }
    // A rename would put a file in the place of a device or pipe, for everybody.
    if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Err(Error::new(Kind::Usage, format!("{shown} is a device or a pipe, and a model is a file")));
    }
    let draft = Draft(beside(path, "part"));
    let bytes = fill(&draft.0, path, make)?;
    fs::rename(&draft.0, path).map_err(|e| failed(&e))?;
    settle(path);
    Ok(bytes)
}

/// Has `make` fill a folder under a temporary name beside `path`, by [`Folder::write`], and only then calls it `path`.
/// Gives the size of its files. A folder that is there already is replaced if it holds nothing but a model.
pub fn folder(path: &Path, make: impl FnOnce(&mut Folder) -> Result<()>) -> Result<u64> {
    // Without a separator at the end, which is in the way of renaming.
    let path: PathBuf = path.components().collect();
    let shown = quoted_path(&path);
    let failed = |e: &std::io::Error| Error::new(Kind::Output, format!("cannot write {shown}: {e}"));
    if path.file_name().is_none() {
        return Err(Error::new(Kind::Usage, format!("{shown} is not the name of a new folder")));
    }
    let there = path.symlink_metadata().is_ok();
    if there {
        replaceable(&path)?;
    }
    let draft = Draft(beside(&path, "part"));
    fs::create_dir(&draft.0).map_err(|e| failed(&e))?;
    let mut folder = Folder { path: draft.0.clone(), shown: path.clone(), bytes: 0 };
    make(&mut folder)?;
    settle(&draft.0.join("config.json"));
    if there {
        // No call exchanges two folders everywhere. Should the second rename fail, the first is undone.
        let old = beside(&path, "old");
        fs::rename(&path, &old).map_err(|e| failed(&e))?;
        if let Err(e) = fs::rename(&draft.0, &path) {
            let _ = fs::rename(&old, &path);
            return Err(failed(&e));
        }
        fs::remove_dir_all(&old).map_err(|e| failed(&e))?;
    } else {
        fs::rename(&draft.0, &path).map_err(|e| failed(&e))?;
    }
    settle(&path);
    Ok(folder.bytes)
}

/// A folder in the making.
pub struct Folder {
    path: PathBuf,
    /// Its final name.
    shown: PathBuf,
    bytes: u64,
}

impl Folder {
    /// Has `make` write a file in it, and puts that on the disk.
    pub fn write(&mut self, name: &str, make: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        self.bytes += fill(&self.path.join(name), &self.shown.join(name), make)?;
        Ok(())
    }
}

/// Ends of the names of what stands in a folder with a model.
const PARTS: &[&str] = &["json", "safetensors", "jinja", "txt", "model", "md", "gitattributes"];

/// Refuses to remove a folder that may hold something else.
fn replaceable(path: &Path) -> Result<()> {
    let shown = quoted_path(path);
    let refused = |what: String| {
        Err(Error::new(Kind::Usage, what).hint("give another name, or remove it yourself if nothing in it is needed"))
    };
    if !path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
        return refused(format!("{shown} is there already, and it is not a folder"));
    }
    for entry in fs::read_dir(path).map_err(|e| Error::from_io(&e, path))?.flatten() {
        let file = entry.path();
        let known = file.extension().or(file.file_name()).and_then(|e| e.to_str()).map(|e| e.trim_start_matches('.'));
        let part = entry.file_type().is_ok_and(|t| t.is_file()) && known.is_some_and(|e| PARTS.contains(&e));
        if !part {
            let name = quoted_path(entry.file_name());
            return refused(format!("{shown} holds {name}, which is no part of a model"));
        }
    }
    Ok(())
}

/// A new file with what `make` writes, on the disk, which messages call by the name that it will have. Gives its size.
fn fill(path: &Path, named: &Path, make: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<u64> {
    let shown = quoted_path(named);
    let failed = |e: &std::io::Error| Error::new(Kind::Output, format!("cannot write {shown}: {e}"));
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|e| failed(&e))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    make(&mut out)?;
    out.flush().map_err(|e| unwritten(&e))?;
    let file = out.into_inner().map_err(|e| unwritten(e.error()))?;
    file.sync_all().map_err(|e| failed(&e))?;
    Ok(file.metadata().map_err(|e| failed(&e))?.len())
}

/// A name beside `path` that nobody else has.
fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.{what}", std::process::id()))
}

/// A name is on the disk once its folder is. Not every system can do that.
fn settle(path: &Path) {
    if let Some(folder) = path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }) {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}

/// A file or folder under its temporary name. After the rename there is nothing left to remove.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.apr");
        fs::write(&path, "old").unwrap();
        let half = write(&path, |out| {
            out.write_all(&[0; 3 << 20]).unwrap();
            Err(Error::new(Kind::Interrupted, "stop"))
        });
        assert_eq!(half.unwrap_err().kind, Kind::Interrupted);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(write(&path, |out| out.write_all(b"new").map_err(|e| unwritten(&e))).unwrap(), 3);
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(write(dir.path(), |_| Ok(())).is_err());
        #[cfg(unix)]
        {
            let pipe = dir.path().join("pipe");
            let _listener = std::os::unix::net::UnixListener::bind(&pipe).unwrap();
            let link = dir.path().join("link");
            std::os::unix::fs::symlink(&pipe, &link).unwrap();
            for special in [&pipe, &link] {
                assert_eq!(write(special, |_| Ok(())).unwrap_err().kind, Kind::Usage);
                assert!(!fs::metadata(special).unwrap().is_file(), "it is what it was");
            }
        }
        let nowhere = write(&dir.path().join("no/where"), |_| Ok(())).unwrap_err();
        assert!(nowhere.what.contains("no/where'") && !nowhere.what.contains(".part"), "{nowhere}");
    }

    #[test]
    fn a_folder_is_whole_or_not_there_and_replaces_only_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        let put = |text: &'static str| {
            move |f: &mut Folder| {
                f.write("config.json", |out| out.write_all(text.as_bytes()).map_err(|e| unwritten(&e)))
            }
        };
        let half = folder(&path, |f| {
            put("half")(f)?;
            Err(Error::new(Kind::Interrupted, "stop"))
        });
        assert_eq!((half.unwrap_err().kind, fs::read_dir(dir.path()).unwrap().count()), (Kind::Interrupted, 0));
        assert_eq!(folder(&dir.path().join("model/"), put("one")).unwrap(), 3);
        assert_eq!(folder(&path, put("three")).unwrap(), 5);
        assert_eq!(fs::read(path.join("config.json")).unwrap(), b"three");
        fs::write(path.join("thesis.doc"), "years").unwrap();
        let e = folder(&path, put("no")).unwrap_err();
        assert!(e.kind == Kind::Usage && e.what.contains("'thesis.doc'"), "{e}");
        fs::remove_file(path.join("thesis.doc")).unwrap();
        fs::create_dir(path.join("x.json")).unwrap();
        assert!(folder(&path, put("no")).is_err() && folder(&path.join("config.json"), put("no")).is_err());
        assert!(folder(Path::new("/"), put("no")).is_err() && folder(Path::new(".."), put("no")).is_err());
        assert_eq!(fs::read(path.join("config.json")).unwrap(), b"three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
