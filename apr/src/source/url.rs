//! A model at an address of the web.

use engine::error::quoted;
use engine::{Error, Kind, Result, term};

use super::cache::{Entry, Home, make};
use super::download::{Wanted, download};
use super::http::Client;
use super::name::{Address, FileName};
use super::{Access, Found};

/// What is there already. With a hash in the address, only the file that has it.
pub fn cached(address: &Address, home: &Home, access: &Access) -> Option<Found> {
    let entry = home.url(address);
    let mut whole = entry.whole(access.quiet);
    whole.retain(|(_, sha256)| address.sha256.as_ref().is_none_or(|wanted| wanted == sha256));
    let (name, _) = whole.first()?;
    Some(Found { path: name.below(&entry.files), place: "apr's cache".into() })
}

/// Fetches it.
//= F-INT-288
pub fn fetch(address: &Address, home: &Home, access: &Access) -> Result<Found> {
    let name = address.file_name().ok_or_else(|| {
        Error::new(Kind::Usage, format!("{} does not end in the name of a file", quoted(&address.to_string())))
            .hint("give the address of a model file")
    })?;
    let client = Client::new(None)?;
    let entry = home.url(address);
    make(&entry.files)?;
    if !access.quiet {
        term::note(&format!("downloading {address}, to {}", entry.files.display()));
    }
    let sha256 = address.sha256.clone();
    let wanted = Wanted { address: address.clone(), bytes: None, sha256, git: None, commit: None };
    let partial = home.partial(address.as_str())?;
    place(&client, &wanted, &partial, &entry, &name, access)
}

fn place(
    client: &Client,
    wanted: &Wanted,
    partial: &std::path::Path,
    entry: &Entry,
    name: &FileName,
    access: &Access,
) -> Result<Found> {
    let target = name.below(&entry.files);
    let got = download(client, wanted, partial, &target, access.quiet)?;
    entry.note(&wanted.address.to_string(), &[(name.clone(), got.sha256)])?;
    Ok(Found { path: target, place: "the web, just now".into() })
}
