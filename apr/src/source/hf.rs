//! Models of the hub: which commit, which files, and each of them with the hash that the hub says.

use std::collections::BTreeSet;
use std::path::PathBuf;

use engine::error::quoted;
use engine::{Error, Kind, Result, knobs, limits, term};
use serde::Deserialize;

use super::cache::{Entry, Home, link, make};
use super::download::{Wanted, download, sha256_of};
use super::http::{Client, Token};
use super::name::{Address, Commit, FileName, HubName, Revision, Sha256};
use super::quant::{Choice, choose};
use super::{Access, Found, foreign};

const ENDPOINT: &str = "https://huggingface.co";

/// What the hub says of a repository at a revision.
#[derive(Debug, Deserialize)]
struct Said {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    git: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: Option<String>,
    oid: Option<String>,
    size: Option<u64>,
}

/// What is there already, in our cache or in another program's.
pub fn cached(name: &HubName, home: &Home, access: &Access) -> Option<Found> {
    let revision = name.revision.clone().unwrap_or_else(Revision::main);
    let own = home.commit(&name.repo, &revision).and_then(|commit| {
        let entry = home.snapshot(&name.repo, &commit);
        let whole = entry.whole(access.quiet);
        let files: Vec<&str> = whole.iter().map(|(file, _)| file.as_str()).collect();
        let choice = pick(name, &files).ok()?;
        Some(Found { path: opened(&entry, &choice, &files), place: "apr's cache".into() })
    });
    own.or_else(|| foreign::hub(name))
}

fn pick(name: &HubName, files: &[&str]) -> Result<Choice> {
    choose(&name.repo.to_string(), files, name.file.as_ref().map(FileName::as_str), name.quant)
}

/// What the engine is told to open.
fn opened(entry: &Entry, choice: &Choice, files: &[&str]) -> PathBuf {
    let first = choice.files.first().and_then(|i| FileName::parse(files[*i]));
    match first.filter(|_| !choice.folder) {
        Some(file) => file.below(&entry.files),
        None => entry.files.clone(),
    }
}

/// Fetches it, as the hub has it now. Of files that are there nothing is fetched.
//= F-INT-285
pub fn fetch(name: &HubName, home: &Home, access: &Access) -> Result<Found> {
    let endpoint = endpoint()?;
    let client = Client::new(token(&endpoint)?)?;
    let revision = name.revision.clone().unwrap_or_else(Revision::main);
    let said = ask(&client, &endpoint, name, &revision, access)?;
    let broken =
        |what: String| Error::malformed(format!("{name}: {what}")).hint("the hub, or what is in between, errs");
    let commit = Commit::parse(&said.sha).ok_or_else(|| broken(format!("{} is no commit", quoted(&said.sha))))?;
    if revision.commit().is_some_and(|asked| asked != commit) {
        return Err(broken(format!("the hub answers with commit {commit}")));
    }
    if said.siblings.len() > limits::HUB_FILES_MAX {
        return Err(broken(format!("it has more than {} files", limits::HUB_FILES_MAX)));
    }
    let files: Vec<&str> = said.siblings.iter().map(|s| s.rfilename.as_str()).collect();
    let choice = pick(name, &files)?;
    let entry = home.snapshot(&name.repo, &commit);
    let whole = entry.whole(access.quiet);
    let mut came = Vec::new();
    for i in &choice.files {
        let s = &said.siblings[*i];
        let file =
            FileName::parse(&s.rfilename).ok_or_else(|| broken(format!("{} leads elsewhere", quoted(&s.rfilename))))?;
        if let Some(known) = whole.iter().find(|(f, _)| *f == file) {
            came.push(known.clone());
            continue;
        }
        let lfs = s.lfs.as_ref();
        let sha256 = lfs.and_then(|l| l.sha256.as_deref().or(l.oid.as_deref()));
        let sha256 = match sha256 {
            Some(text) => Some(Sha256::parse(text).ok_or_else(|| broken(format!("{} is no SHA-256", quoted(text))))?),
            None => None,
        };
        let target = file.below(&entry.files);
        make(target.parent().unwrap_or(&entry.files))?;
        // A commit that changes another file does not change this one.
        if let Some(same) = sha256.as_ref().and_then(|sha256| same_elsewhere(name, home, &entry, sha256)) {
            link(&same, &target)?;
            came.push((file, sha256_of(&target).map_err(|e| Error::from_io(&e, &target))?));
            continue;
        }
        let bytes = lfs.and_then(|l| l.size).or(s.size);
        let path = format!("{}/resolve/{commit}/{}", name.repo, encoded(file.as_str()));
        let address = address(&endpoint, &path)?;
        if !access.quiet && bytes.is_none_or(|n| n > 1 << 20) {
            let size = bytes.map_or(String::new(), |n| format!(", {}", term::size(n as f64)));
            term::note(&format!("downloading {file} of hf://{}{size}, to {}", name.repo, entry.files.display()));
        }
        let git = if lfs.is_none() { s.git.clone() } else { None };
        let partial = home.partial(&format!("{} {commit} {file}", name.repo))?;
        let wanted = Wanted { address, bytes, sha256, git, commit: Some(commit.clone()) };
        let got =
            download(&client, &wanted, &partial, &target, access.quiet).map_err(|e| explained(e, name, &endpoint))?;
        came.push((file, got.sha256));
    }
    // Only when all are there: half a model is none.
    entry.note(&format!("hf://{}", name.repo), &came)?;
    home.remember(&name.repo, &revision, &commit)?;
    Ok(Found { path: opened(&entry, &choice, &files), place: "the hub, just now".into() })
}

/// A file of another commit that is the same.
fn same_elsewhere(name: &HubName, home: &Home, not: &Entry, sha256: &Sha256) -> Option<PathBuf> {
    let others = home.snapshots(&name.repo).into_iter().filter(|e| e.folder != not.folder);
    others
        .flat_map(|e| e.whole(true).into_iter().map(move |(f, s)| (f.below(&e.files), s)))
        .find(|(_, s)| s == sha256)
        .map(|f| f.0)
}

fn ask(client: &Client, endpoint: &Address, name: &HubName, revision: &Revision, access: &Access) -> Result<Said> {
    let path = format!("api/models/{}/revision/{}?blobs=true", name.repo, revision.encoded());
    let address = address(endpoint, &path)?;
    let reply = client.document(&address, limits::HUB_REPLY_BYTES_MAX, &|line| term::warn_unless(access.quiet, line));
    let reply = reply.map_err(|e| explained(e, name, endpoint))?;
    serde_json::from_slice(&reply).map_err(|e| {
        Error::malformed(format!(
            "{}: what the hub says of {} is not understood: {e}",
            quoted(&address.to_string()),
            name.repo
        ))
    })
}

/// The hub answers 401 for what it does not show, whether it is there or not.
fn explained(e: Error, name: &HubName, endpoint: &Address) -> Error {
    let page = format!("{}{}", endpoint.as_str(), name.repo);
    match () {
        () if e.what.contains("answers 401") => {
            let mut e = e.hint(format!("no such repository, or a private one that needs HF_TOKEN: see {page}"));
            e.kind = Kind::NotFound;
            e
        }
        () if e.what.contains("answers 403") => e.hint(format!("accept its terms at {page}, then set HF_TOKEN")),
        () if e.what.contains("answers 404") => e.hint(format!("see {page}")),
        () => e,
    }
}

/// The hub's address, with a slash at the end.
fn endpoint() -> Result<Address> {
    let text = knobs::read(&knobs::HUB_ENDPOINT).unwrap_or_else(|| ENDPOINT.into());
    Address::parse(&format!("{}/", text.trim_end_matches('/')))
        .map_err(|why| Error::new(Kind::Usage, format!("HF_ENDPOINT is {}: {why}", quoted(&text))))
}

fn address(endpoint: &Address, path: &str) -> Result<Address> {
    Address::parse(&format!("{}{path}", endpoint.as_str())).map_err(|why| Error::new(Kind::Internal, why))
}

/// The user's token, if it can be sent so that nobody on the way reads it.
fn token(endpoint: &Address) -> Result<Option<Token>> {
    let kept = || {
        let path = foreign::huggingface_home()?.join("token");
        String::from_utf8(super::cache::read_small(&path)?).ok()
    };
    let Some(secret) = knobs::read(&knobs::HUB_TOKEN).or_else(kept) else { return Ok(None) };
    let secret = secret.trim().to_string();
    if secret.is_empty() {
        return Ok(None);
    }
    if secret.len() > 4096 || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(
            Error::new(Kind::Usage, "the token for the hub has characters that no token has").hint("see HF_TOKEN")
        );
    }
    let own_machine =
        endpoint.host() == "localhost" || endpoint.host().parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match endpoint.is_private() || own_machine {
        true => Ok(Some(Token { origin: endpoint.origin().into(), secret })),
        false => Ok(None),
    }
}

/// A path as it stands in an address.
fn encoded(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Repositories of which something is cached, for messages.
pub fn known(home: &Home) -> BTreeSet<String> {
    let own = home.all().into_iter().filter(|(_, e)| !e.whole(true).is_empty()).map(|(name, _)| name);
    own.chain(foreign::all().into_iter().map(|(name, ..)| name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hub_says_is_read() {
        let text = r#"{"sha":"0123456789abcdef0123456789abcdef01234567","private":false,"siblings":[
            {"rfilename":"m.gguf","size":5,"blobId":"aa","lfs":{"sha256":"bb","size":5,"pointerSize":130}},
            {"rfilename":"README.md"}]}"#;
        let said: Said = serde_json::from_str(text).unwrap();
        assert_eq!(said.siblings[0].lfs.as_ref().unwrap().sha256.as_deref(), Some("bb"));
        assert!(said.siblings[1].lfs.is_none() && said.siblings[1].size.is_none());
    }

    #[test]
    fn paths_are_encoded_for_addresses() {
        assert_eq!(encoded("a b/ü%.gguf"), "a%20b/%C3%BC%25.gguf");
    }
}
