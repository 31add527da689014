//! Where a model comes from: a name becomes a local path. One file for each kind of source, and one door,
//! [`resolve`], for every command that takes a model.

pub mod alias;
pub mod cache;
pub mod download;
pub mod foreign;
pub mod hf;
pub mod http;
pub mod journal;
mod kept;
pub mod name;
pub mod pacha;
mod proxy;
pub mod quant;
pub mod url;

use std::path::{Path, PathBuf};

use engine::error::{quoted, quoted_path};
use engine::{Error, Kind, Result, knobs, similar, term};

use cache::Home;
pub use kept::{Cache, Held, caches, list, remove};
use name::{HubName, Name, Repo, Tagged};

/// What may be done to find a model.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// No connection.
    pub offline: bool,
    /// No word but errors.
    pub quiet: bool,
}

impl Access {
    /// As flags and environment say.
    //= F-INT-290
    pub fn new(offline: bool, quiet: bool) -> Access {
        Access { offline: offline || knobs::on(&knobs::OFFLINE) || knobs::on(&knobs::HUB_OFFLINE), quiet }
    }
}

/// A model that is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// A file, or a folder in HuggingFace's layout.
    pub path: PathBuf,
    /// Who had it, for people.
    pub place: String,
}

/// The local file or folder behind what the user called the model. What is cached is used as it is, without asking
/// anybody; what is not is fetched.
pub fn resolve(model: &Path, access: &Access) -> Result<PathBuf> {
    found(model, access).map(|found| found.path)
}

/// The same, and who had it.
pub fn found(model: &Path, access: &Access) -> Result<Found> {
    Ok(match understood(model)? {
        Source::Path(path) => Found { path, place: "local file".into() },
        Source::Found(found) => found,
        Source::Registry(name) => {
            Found { path: pacha::Registry::of(&Home::find()?).open(&name)?, place: "registry".into() }
        }
        Source::Hub(name) => {
            let home = Home::find()?;
            let cached = || hf::cached(&name, &home, access);
            used(&name.to_string(), &home, access, &name.repo.to_string(), cached, || hf::fetch(&name, &home, access))?
        }
        Source::Url(address) => {
            let home = Home::find()?;
            let cached = || url::cached(&address, &home, access);
            used(&address.to_string(), &home, access, address.as_str(), cached, || url::fetch(&address, &home, access))?
        }
    })
}

/// Brings a model into the cache as it is now, whatever is cached. Gives where it is.
pub fn pull(model: &Path, from: Option<&Path>, access: &Access) -> Result<PathBuf> {
    let home = Home::find()?;
    if let Some(folder) = from {
        let name = Tagged::registered(&model.to_string_lossy())?;
        let registry = pacha::Registry::of(&home);
        let copied = || pacha::copy(&pacha::Registry::at(folder), &registry, &name);
        if access.quiet {
            copied()?
        } else {
            term::busy("copying", copied)?
        };
        return registry.open(&name);
    }
    let source = understood(model)?;
    let refuse = |what: &str| {
        Err(Error::new(
            Kind::NotFound,
            format!("{} was not fetched: --offline or APR_OFFLINE forbids it", quoted(what)),
        ))
    };
    match source {
        Source::Path(path) => Ok(path),
        Source::Found(found) => Ok(found.path),
        Source::Registry(name) => pacha::Registry::of(&home).open(&name),
        Source::Hub(name) if access.offline => refuse(&name.to_string()),
        Source::Url(address) if access.offline => refuse(&address.to_string()),
        Source::Hub(name) => {
            let _lock = home.lock(&name.repo.to_string(), access.quiet)?;
            Ok(hf::fetch(&name, &home, access)?.path)
        }
        Source::Url(address) => {
            let _lock = home.lock(address.as_str(), access.quiet)?;
            // What has the hash that was asked for cannot be newer.
            let same = url::cached(&address, &home, access).filter(|_| address.sha256.is_some());
            Ok(same.map_or_else(|| url::fetch(&address, &home, access), Ok)?.path)
        }
    }
}

/// What a name turned out to be.
enum Source {
    Path(PathBuf),
    /// Another program has it.
    Found(Found),
    Hub(HubName),
    Url(name::Address),
    Registry(Tagged),
}

fn understood(model: &Path) -> Result<Source> {
    Ok(match name::parse(model)? {
        Name::Hub(name) => Source::Hub(name),
        Name::Url(address) => Source::Url(address),
        Name::Registry(name) => Source::Registry(name),
        //= F-CLI-003 F-INT-287
        //= F-JID-277
        Name::Path(path) if !is_absent(&path) => Source::Path(path),
        // The user's own names count before those that others gave.
        Name::Path(path) => {
            let tagged = path.to_str().and_then(Tagged::parse);
            let short = path.to_str().and_then(|text| Tagged::parse(&text.to_ascii_lowercase()));
            let own = tagged.filter(|name| registry().is_some_and(|r| r.has(name))).map(Source::Registry);
            let others = |s: Tagged| foreign::short(&s).map(Source::Found).or_else(|| alias::find(&s).map(Source::Hub));
            match own.or_else(|| short.and_then(others)) {
                Some(source) => source,
                None => return Err(not_found(&path)),
            }
        }
    })
}

/// The user's registry, if there can be one.
fn registry() -> Option<pacha::Registry> {
    Home::find().ok().map(|home| pacha::Registry::of(&home))
}

fn is_absent(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// What is cached, or else what is fetched by one process at a time.
fn used(
    name: &str,
    home: &Home,
    access: &Access,
    lock: &str,
    cached: impl Fn() -> Option<Found>,
    fetch: impl FnOnce() -> Result<Found>,
) -> Result<Found> {
    //= F-INT-289
    if let Some(found) = cached() {
        return Ok(found);
    }
    if access.offline {
        return Err(not_cached(name, home));
    }
    let _lock = home.lock(lock, access.quiet)?;
    // Another process may have brought it while this one waited.
    cached().map_or_else(fetch, Ok)
}

/// Says what there is instead.
fn not_cached(name: &str, home: &Home) -> Error {
    let known: Vec<String> = hf::known(home).into_iter().collect();
    let hint = match known.is_empty() {
        true => "nothing is cached".into(),
        false => format!("cached: {}", known.join(", ")),
    };
    Error::new(Kind::NotFound, format!("offline, and {} is not cached", quoted(name))).hint(hint)
}

fn not_found(path: &Path) -> Error {
    let text = path.to_string_lossy();
    let error = Error::new(Kind::NotFound, format!("file not found: {}", quoted_path(path))).in_file(path);
    let own = || registry()?.like(&Tagged::parse(&text)?);
    match neighbour(path).or_else(own).or_else(|| alias::like(&text)) {
        Some(name) => error.hint(format!("did you mean {}?", quoted(&name))),
        None if Repo::parse(&text).is_some() && !text.ends_with(".gguf") => {
            error.hint(format!("of the hub it would be {}", quoted(&format!("hf://{text}"))))
        }
        None => error,
    }
}

/// The file in the same folder whose name is most like the one asked for, if any is much like it.
fn neighbour(model: &Path) -> Option<String> {
    let wanted = model.file_name()?.to_str()?.to_lowercase();
    let folder = model.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = std::fs::read_dir(folder).ok()?.flatten().take(1000).filter_map(|e| e.file_name().into_string().ok());
    let best = similar::nearest(&wanted, names)?;
    Some(folder.join(best).to_string_lossy().into_owned())
}
