//! A file that is there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result, quoted};
use crate::file::outgoing::unwritten;

/// Has `make` write a file under a temporary name beside `path`, puts it on the disk, and only then calls it `path`.
/// Gives its size. What was made of a file that was not finished is removed.
pub fn write(path: &Path, make: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<u64> {
    let shown = quoted(&path.to_string_lossy());
    let failed = |e: &std::io::Error| Error::new(Kind::Output, format!("cannot write {shown}: {e}"));
    let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
        return Err(Error::new(Kind::Usage, format!("{shown} is not the name of a file")));
    };
    let draft = Draft(path.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id())));
    let file = OpenOptions::new().write(true).create_new(true).open(&draft.0).map_err(|e| failed(&e))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    make(&mut out)?;
    out.flush().map_err(|e| unwritten(&e))?;
    let file = out.into_inner().map_err(|e| unwritten(e.error()))?;
    file.sync_all().map_err(|e| failed(&e))?;
    let bytes = file.metadata().map_err(|e| failed(&e))?.len();
    fs::rename(&draft.0, path).map_err(|e| failed(&e))?;
    // The name is on the disk too once the folder is. Not every system can do that.
    if let Some(folder) = path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }) {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(bytes)
}

/// A file under its temporary name. After the rename there is nothing left to remove.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
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
        assert!(write(dir.path(), |_| Ok(())).is_err() && write(&dir.path().join("no/where"), |_| Ok(())).is_err());
    }
}
