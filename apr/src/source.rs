//! Where a model comes from: today a local path. One file per kind of source will stand in a folder of this name.

use std::path::{Path, PathBuf};

use engine::error::quoted;
use engine::{Error, Kind, Result, similar};

/// The local file behind what the user called the model.
pub fn resolve(model: &Path) -> Result<PathBuf> {
    if let Some(scheme) = model.to_str().and_then(|s| s.split_once("://")).map(|s| s.0) {
        return Err(Error::new(
            Kind::Unsupported,
            format!("model addresses of the form {} are not built yet", quoted(&format!("{scheme}://"))),
        )
        .hint("give the path of a file"));
    }
    //= F-CLI-003 F-INT-287
    //= F-JID-277
    if std::fs::symlink_metadata(model).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        let error = Error::new(Kind::NotFound, format!("file not found: {}", quoted(&model.to_string_lossy())));
        return Err(match neighbour(model) {
            Some(name) => error.hint(format!("did you mean {}?", quoted(&name))),
            None => error,
        });
    }
    Ok(model.to_path_buf())
}

/// The file in the same folder whose name is most like the one asked for, if any is much like it.
fn neighbour(model: &Path) -> Option<String> {
    let wanted = model.file_name()?.to_str()?.to_lowercase();
    let folder = model.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = std::fs::read_dir(folder).ok()?.flatten().take(1000).filter_map(|e| e.file_name().into_string().ok());
    let best = similar::nearest(&wanted, names)?;
    Some(folder.join(best).to_string_lossy().into_owned())
}
