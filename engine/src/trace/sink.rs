//! Where a trace is written: whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::error::{Error, Kind, Place, Result, quoted_path};

/// A file in the making. It has its final name only once it is complete; given up, it leaves nothing behind.
pub struct Sink {
    path: PathBuf,
    /// None when what stands at `path` is no regular file: a pipe or a device cannot be replaced, only written to.
    unfinished: Option<PathBuf>,
    file: File,
}

/// Files in the making, for a process that ends where it stands.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes what is unfinished. The last thing that a process does that will run no destructors.
pub fn abandon() {
    for path in UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = fs::remove_file(path);
    }
}

impl Sink {
    /// Opens it now, so that a path that cannot be written to is refused before the work and not after.
    pub fn open(path: &Path) -> Result<Sink> {
        let special = fs::metadata(path).is_ok_and(|m| !m.is_file());
        let unfinished = (!special).then(|| {
            let mut name = path.file_name().unwrap_or_default().to_os_string();
            name.push(format!(".{}.tmp", std::process::id()));
            path.with_file_name(name)
        });
        let file = match &unfinished {
            Some(temporary) => {
                UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).push(temporary.clone());
                File::create(temporary)
            }
            None => File::options().write(true).open(path),
        };
        match file {
            Ok(file) => Ok(Sink { path: path.into(), unfinished, file }),
            Err(e) => {
                forget(unfinished.as_deref());
                Err(failed(path, &e))
            }
        }
    }

    /// Writes the document, and gives the file its name.
    pub fn write(mut self, document: &Value) -> Result<()> {
        let end = |s: &mut Sink| -> io::Result<()> {
            s.file.write_all(text(document).as_bytes())?;
            s.file.flush()?;
            if let Some(temporary) = &s.unfinished {
                s.file.sync_all()?;
                //= F-TRACE-203
                fs::rename(temporary, &s.path)?;
            }
            forget(s.unfinished.take().as_deref());
            Ok(())
        };
        end(&mut self).map_err(|e| failed(&self.path, &e))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(temporary) = &self.unfinished {
            let _ = fs::remove_file(temporary);
            forget(Some(temporary));
        }
    }
}

fn forget(path: Option<&Path>) {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|p| Some(p.as_path()) != path);
}

fn failed(path: &Path, e: &io::Error) -> Error {
    let path = quoted_path(path);
    Error::new(Kind::Output, format!("cannot write {path}: {e}")).at(Place::Flag("--trace-output".into()))
}

/// JSON with one line for each field and each event, so that `grep` and `diff` are of use.
pub fn text(document: &Value) -> String {
    let Value::Object(fields) = document else { return document.to_string() };
    let mut lines = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        //= F-TRACE-192
        let value = match value {
            Value::Array(list) if !list.is_empty() => {
                let items: Vec<String> = list.iter().map(Value::to_string).collect();
                format!("[\n{}\n]", items.join(",\n"))
            }
            other => other.to_string(),
        };
        lines.push(format!("{}: {value}", Value::from(name.as_str())));
    }
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.json");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        drop(Sink::open(&path).unwrap());
        assert_eq!(names(), 0);
        let left = Sink::open(&path).unwrap();
        abandon();
        assert_eq!(names(), 0);
        drop(left);
        let document = json!({"a": 1, "events": [{"id": 1}, {"id": 2}]});
        Sink::open(&path).unwrap().write(&document).unwrap();
        assert_eq!(names(), 1);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), document);
        assert_eq!(text.lines().count(), 7);
        assert_eq!(Sink::open(&folder.path().join("no/t.json")).err().unwrap().kind, Kind::Output);
    }
}
