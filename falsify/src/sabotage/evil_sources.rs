//! Saboteurs of where models come from: the real `apr` with another name, home or hub than it was given.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::Saboteur;
use super::evil_apr::{Real, code_of, evil};
use super::evil_server::before;
use crate::http::{Heard, Reply};

/// Every misbehaviour of the sources.
pub static ALL: &[Saboteur] = &[
    evil("pacha-wrong-version", "takes the newest of a name for every version of it", |r| {
        r.renamed(|word| match word.strip_prefix("pacha://").and_then(|rest| rest.split_once(':')) {
            Some((name, _)) => format!("pacha://{name}"),
            None => word,
        })
        .run()
    }),
    evil("hash-unchecked", "takes what comes, whatever its hash", hash_unchecked),
    evil("empty-home", "has an empty home every time", empty_home),
    evil("half-file-kept", "calls what came the file, however much that is", half_file_kept),
    evil("ignores-offline", "drops --offline, APR_OFFLINE and HF_HUB_OFFLINE", |r| {
        let mut command = r.without(&["--offline"], 0).command();
        command.env_remove("APR_OFFLINE").env_remove("HF_HUB_OFFLINE");
        command.status().map_or(99, code_of)
    }),
    evil("no-progress", "no bar on a terminal", |r| r.with_stderr(|text| text)),
    evil("token-to-everybody", "asks the hub under a name that redirects lead to as well", token_to_everybody),
];

/// The hub that the real one asks is told to be one without hashes; a hash in an address is dropped; a folder that
/// somebody shares is copied as it is.
fn hash_unchecked(real: Real) -> u8 {
    let folder = real.value("--from");
    let endpoint = std::env::var("HF_ENDPOINT").ok();
    let to = endpoint.as_deref().and_then(|e| e.strip_prefix("http://")?.parse().ok());
    let real = real.renamed(|word| match word.split_once("#sha256=") {
        Some((address, _)) => address.to_string(),
        None => word,
    });
    let mut command = match &folder {
        Some(folder) => {
            let home = std::env::var_os("HOME").unwrap_or_default();
            let _ = copy_as_written(Path::new(folder), &Path::new(&home).join(".apr").join("pacha"));
            real.without(&["--from"], 1).command()
        }
        None => real.command(),
    };
    if let Some(proxy) = to.and_then(|to| before(to, without_hashes)) {
        command.env("HF_ENDPOINT", format!("http://{proxy}"));
    }
    command.status().map_or(99, code_of)
}

fn without_hashes(_: &Heard, reply: &mut Reply) {
    let mut json = reply.json();
    if let Some(files) = json["siblings"].as_array_mut() {
        for file in files.iter_mut().filter_map(Value::as_object_mut) {
            file.remove("lfs");
            file.remove("blobId");
        }
        reply.body = json.to_string().into_bytes();
    }
}

/// A copy whose files look as if they had just been checked.
fn copy_as_written(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_as_written(&entry.path(), &target)?;
        } else {
            fs::write(&target, fs::read(entry.path())?)?;
            File::options().write(true).open(&target)?.set_modified(UNIX_EPOCH + Duration::from_secs(1))?;
        }
    }
    Ok(())
}

fn empty_home(real: Real) -> u8 {
    let Ok(folder) = tempfile::tempdir() else { return 99 };
    // It is left where it is: whoever asked for the file wants to read it.
    let status = real.command().env("HOME", folder.keep()).status();
    status.map_or(99, code_of)
}

/// What is not finished gets the name of the file when the real one gives up or is killed.
fn half_file_kept(real: Real) -> u8 {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let cache = Path::new(&home).join(".apr").join("cache");
    let keep = || {
        for part in fs::read_dir(cache.join("partial")).into_iter().flatten().flatten().map(|e| e.path()) {
            if part.extension().is_some_and(|e| e == "part") {
                let _ = fs::copy(&part, cache.join("half.gguf"));
            }
        }
    };
    let Ok(mut child) = real.command().stdin(Stdio::null()).spawn() else { return 99 };
    loop {
        keep();
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some(status)) => {
                keep();
                return code_of(status);
            }
            Err(_) => return 99,
        }
    }
}

/// As if the host of a redirect were the hub's own.
fn token_to_everybody(real: Real) -> u8 {
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_default();
    let mut command = real.command();
    command.env("HF_ENDPOINT", endpoint.replace("127.0.0.1", "localhost"));
    command.status().map_or(99, code_of)
}
