//! What a user may call a model, as types. Nothing from outside touches a path or an address before it is one of them.
//!
//! ```text
//! ./model.gguf  folder/                     a local path: whatever is none of the following, and whatever exists
//! hf://org/repo[@revision][/file|:QUANT]    a repository of the hub; also hf.co/.. and https://huggingface.co/..
//! org/repo:QUANT                            the same, for a GGUF file of this quantisation
//! http(s)://host/model.gguf[#sha256=HEX]    a file
//! pacha://name[:tag]                        a model of the registry
//! name[:tag]                                the same, or else a short name of `alias.rs`, or one that Ollama has
//! ```

use std::fmt;
use std::path::{Path, PathBuf};

use engine::error::quoted;
use engine::{Error, Kind, Result, limits};

use super::quant::Quant;

/// A model's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A file or folder of this machine.
    Path(PathBuf),
    /// Of the hub.
    Hub(HubName),
    /// A file of a web server.
    Url(Address),
    /// Of the registry.
    Registry(Tagged),
}

/// A model of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// The repository.
    pub repo: Repo,
    /// Branch, tag or commit; without one, `main`.
    pub revision: Option<Revision>,
    /// This file of it.
    pub file: Option<FileName>,
    /// The GGUF file of this quantisation.
    pub quant: Option<Quant>,
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://{}", self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{}", revision.0.replace('/', "%2F"))?;
        }
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if let Some(quant) = &self.quant {
            write!(f, ":{quant}")?;
        }
        Ok(())
    }
}

/// `org/repo`, each of letters, digits, `-`, `_` and `.`: safe as two folders and in an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repo {
    /// Before the slash.
    pub org: String,
    /// After it.
    pub name: String,
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)
    }
}

impl Repo {
    /// `org/repo`.
    pub fn parse(text: &str) -> Option<Repo> {
        let (org, name) = text.split_once('/')?;
        let part = |s: &str| {
            let ends = |c: char| c == '.' || c == '-';
            is_word(s)
                && is_file_name(s)
                && s.len() <= 96
                && !s.starts_with(ends)
                && !s.ends_with(ends)
                && !s.contains("--")
        };
        (part(org) && part(name)).then(|| Repo { org: org.into(), name: name.into() })
    }
}

/// A branch, tag or commit: words with slashes between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    /// The branch that every repository has.
    pub fn main() -> Revision {
        Revision("main".into())
    }

    /// As it stands after `@`, where a slash is written `%2F`.
    pub fn parse(text: &str) -> Option<Revision> {
        let text = text.replace("%2F", "/").replace("%2f", "/");
        (text.len() <= 128 && text.split('/').all(|s| is_word(s) && is_file_name(s))).then_some(Revision(text))
    }

    /// A commit, if it is one: 40 hexadecimal digits.
    pub fn commit(&self) -> Option<Commit> {
        Commit::parse(&self.0)
    }

    /// Its words, for a path.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// For an address, where it is one part.
    pub fn encoded(&self) -> String {
        self.0.replace('/', "%2F")
    }
}

/// A commit of git.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Commit(String);

impl Commit {
    /// 40 hexadecimal digits in lower case.
    pub fn parse(text: &str) -> Option<Commit> {
        is_hex(text, 40).then(|| Commit(text.into()))
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SHA-256, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sha256(String);

impl Sha256 {
    /// 64 hexadecimal digits, with `sha256:` before them or not.
    pub fn parse(text: &str) -> Option<Sha256> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
        is_hex(&digits, 64).then_some(Sha256(digits))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The path of a file inside a repository or model: plain names with `/` between them, that mean the same on every
/// system and lead nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName(String);

impl FileName {
    /// A path that leads down only.
    pub fn parse(text: &str) -> Option<FileName> {
        (text.len() <= limits::MODEL_NAME_BYTES_MAX && text.split('/').all(is_file_name)).then(|| FileName(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its last name.
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Below a folder.
    pub fn below(&self, folder: &Path) -> PathBuf {
        folder.join(self.0.split('/').collect::<PathBuf>())
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `name:tag`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tagged {
    /// The name.
    pub name: String,
    /// The tag; `latest` where none was given.
    pub tag: String,
}

impl Tagged {
    /// Words of letters, digits, `-`, `_` and `.`.
    pub fn parse(text: &str) -> Option<Tagged> {
        let (name, tag) = text.split_once(':').unwrap_or((text, "latest"));
        let part = |s: &str| is_word(s) && is_file_name(s) && s.len() <= 128;
        (part(name) && part(tag)).then(|| Tagged { name: name.into(), tag: tag.into() })
    }

    /// Where only a name of a registry can stand: written with `pacha://` or without.
    pub fn registered(text: &str) -> Result<Tagged> {
        Tagged::parse(text.strip_prefix("pacha://").unwrap_or(text)).ok_or_else(|| {
            Error::new(Kind::Usage, format!("{} cannot be the name of a model in a registry", quoted(text)))
                .hint("names and tags have letters, digits, -, _ and .: coder:v1")
        })
    }
}

impl fmt::Display for Tagged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

/// An address of the web, http or https.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Without what follows `#`.
    text: String,
    /// The digest that was asked for after `#`.
    pub sha256: Option<Sha256>,
    host_at: usize,
}

impl Address {
    /// Refuses what is no plain address.
    pub fn parse(text: &str) -> std::result::Result<Address, &'static str> {
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        let sha256 = match fragment.strip_prefix("sha256=") {
            Some(digits) => Some(Sha256::parse(digits).ok_or("a SHA-256 has 64 hexadecimal digits")?),
            None if fragment.is_empty() => None,
            None => return Err("after # only sha256=.. can stand"),
        };
        let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "http" && scheme != "https" {
            return Err("only http and https can be fetched");
        }
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        if host.contains('@') {
            return Err("a name or password in an address would end in logs");
        }
        if host.is_empty() || rest.chars().any(|c| !c.is_ascii_graphic() || "\"<>\\^`{|}".contains(c)) {
            return Err("it has characters that have to be written as %XX");
        }
        let slash = if rest.len() == host.len() { "/" } else { "" };
        let text = format!("{scheme}://{}{}{slash}", host.to_ascii_lowercase(), &rest[host.len()..]);
        let address = Address { host_at: scheme.len() + 3, text, sha256 };
        if address.host().is_empty() { Err("it names no host") } else { Ok(address) }
    }

    /// As it is asked for.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Scheme, host and port: who may see a password.
    pub fn origin(&self) -> &str {
        let rest = &self.text[self.host_at..];
        &self.text[..self.host_at + rest.find(['/', '?']).unwrap_or(rest.len())]
    }

    /// Host without port.
    pub fn host(&self) -> &str {
        let host = &self.origin()[self.host_at..];
        match host.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        }
    }

    /// The port, where none is said that of the scheme.
    pub fn port(&self) -> u16 {
        let after = self.origin().rsplit(']').next().unwrap_or_default();
        let said = after.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        said.unwrap_or(if self.is_private() { 443 } else { 80 })
    }

    /// Whether nobody on the way can read it.
    pub fn is_private(&self) -> bool {
        self.text.starts_with("https://")
    }

    /// The last name of its path, if that can be the name of a file.
    pub fn file_name(&self) -> Option<FileName> {
        let path = self.text[self.origin().len()..].split('?').next().unwrap_or_default();
        FileName::parse(path.rsplit('/').next().unwrap_or_default())
    }

    /// What a redirect from here leads to.
    pub fn join(&self, location: &str) -> std::result::Result<Address, &'static str> {
        let location = location.split('#').next().unwrap_or_default();
        let path = self.text[self.origin().len()..].split('?').next().unwrap_or("/");
        match location {
            absolute if absolute.split(['/', '?']).next().is_some_and(|s| s.contains(':')) => Address::parse(absolute),
            other_host if other_host.starts_with("//") => {
                Address::parse(&format!("{}:{other_host}", &self.text[..self.host_at - 3]))
            }
            rooted if rooted.starts_with('/') => Address::parse(&format!("{}{rooted}", self.origin())),
            relative => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                Address::parse(&format!("{}{folder}/{relative}", self.origin()))
            }
        }
    }
}

/// Without its query, which may hold a signature.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.split('?').next().unwrap_or_default())
    }
}

/// How names of the hub begin: as we write them, as others do, and as a browser shows them.
const HUB: &[&str] = &["hf://", "hf.co/", "https://huggingface.co/", "https://hf.co/", "https://www.huggingface.co/"];

/// Understands a name. What does not exist is found out later.
pub fn parse(typed: &Path) -> Result<Name> {
    let Some(text) = typed.to_str() else { return Ok(Name::Path(typed.into())) };
    let refused = |why: &str, hint: &str| {
        let what = format!("{} is not the name of a model: {why}", quoted(text));
        Err(Error::new(Kind::Usage, what).hint(hint.to_string()))
    };
    const FORM: &str = "hf://org/repo, hf://org/repo:Q4_K_M or hf://org/repo@revision/file.gguf";
    if text.len() > limits::MODEL_NAME_BYTES_MAX && text.contains("://") {
        return refused("it is too long", FORM);
    }
    if let Some(rest) = HUB.iter().find_map(|h| text.strip_prefix(h)) {
        return match hub(rest) {
            Ok(name) => Ok(Name::Hub(name)),
            Err(why) => refused(why, FORM),
        };
    }
    if let Some(rest) = text.strip_prefix("pacha://") {
        return match Tagged::parse(rest) {
            Some(tagged) => Ok(Name::Registry(tagged)),
            None => refused("names and tags have letters, digits, -, _ and .", "pacha://name or pacha://name:tag"),
        };
    }
    if let Some((scheme, _)) = text.split_once("://") {
        if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") {
            return match Address::parse(text) {
                Ok(address) => Ok(Name::Url(address)),
                Err(why) => refused(why, "http://host/model.gguf or https://host/model.gguf#sha256=.."),
            };
        }
        // A file may be called like this, however unlikely.
        if !typed.exists() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("models cannot be had from {}", quoted(&format!("{scheme}://"))),
            )
            .hint("hf://, pacha://, http://, https:// and paths can be given"));
        }
    }
    // A file of this name is what was meant.
    let quantised = text.rsplit_once(':').and_then(|(repo, quant)| Some((Repo::parse(repo)?, Quant::parse(quant)?)));
    Ok(match quantised {
        Some((repo, quant)) if !typed.exists() => {
            Name::Hub(HubName { repo, revision: None, file: None, quant: Some(quant) })
        }
        _ => Name::Path(typed.into()),
    })
}

/// `org/repo[@revision][/file|:QUANT]`, or what stands after the host when somebody copies from a browser.
fn hub(rest: &str) -> std::result::Result<HubName, &'static str> {
    let rest = rest.split('?').next().unwrap_or_default().trim_end_matches('/');
    let (org, rest) = rest.split_once('/').ok_or("a repository is org/repo")?;
    let (head, path) = match rest.split_once('/') {
        Some((head, path)) => (head, Some(path)),
        None => (rest, None),
    };
    // A quantisation ends the name, a revision the repository.
    let (head, quant) = match (head.split_once(':'), path) {
        (Some((head, quant)), None) => (head, Some(Quant::parse(quant).ok_or("no such quantisation after the colon")?)),
        (Some(_), Some(_)) => return Err("a file has a quantisation of its own"),
        (None, _) => (head, None),
    };
    let (name, mut revision) = match head.split_once('@') {
        Some((name, revision)) => (name, Some(Revision::parse(revision).ok_or("no such revision can be")?)),
        None => (head, None),
    };
    let repo = Repo::parse(&format!("{org}/{name}")).ok_or("org and repo have letters, digits, -, _ and .")?;
    // What a browser shows: /blob/main/file, /resolve/main/file, /tree/main.
    let mut path = path;
    // Behind a revision of its own, a folder of such a name is one.
    let page = path.filter(|_| revision.is_none()).and_then(|p| p.split_once('/'));
    if let Some((_, rest)) = page.filter(|(k, _)| ["blob", "resolve", "tree"].contains(k)) {
        let (shown, file) = rest.split_once('/').map_or((rest, None), |(shown, file)| (shown, Some(file)));
        revision = Some(Revision::parse(shown).ok_or("no such revision can be")?);
        path = file;
    }
    let file = match path {
        Some(path) if path.contains('%') => return Err("write the file's name without %XX"),
        Some(path) => Some(FileName::parse(path).ok_or("the file's name leads elsewhere")?),
        None => None,
    };
    Ok(HubName { repo, revision, file, quant })
}

/// Letters, digits, `-`, `_` and `.` of ASCII, and not a folder's name for itself or its parent.
fn is_word(s: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !s.is_empty() && s.chars().all(plain) && !s.contains("..") && s != "."
}

fn is_hex(s: &str, digits: usize) -> bool {
    s.len() == digits && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Names that Windows keeps for devices, whatever follows after a dot.
const DEVICES: &[&str] = &["con", "prn", "aux", "nul", "conin$", "conout$"];

/// One name of a path: it stands for itself on every system.
fn is_file_name(s: &str) -> bool {
    let hostile = |c: char| c.is_control() || "\\:*?\"<>|".contains(c) || ('\u{200e}'..='\u{206f}').contains(&c);
    let stem = s.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    let numbered =
        |port: &str| stem.strip_prefix(port).is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit());
    let device = DEVICES.contains(&stem.as_str()) || numbered("com") || numbered("lpt");
    let shape = !s.is_empty() && s.len() <= 255 && s != "." && s != ".." && !s.ends_with(['.', ' ']);
    shape && !device && !s.contains(hostile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match parse(Path::new(text)) {
            Ok(Name::Path(p)) => format!("path {}", p.display()),
            Ok(Name::Hub(h)) => format!("{h}"),
            Ok(Name::Url(u)) => format!("url {}", u.as_str()),
            Ok(Name::Registry(t)) => format!("pacha {t}"),
            Err(e) => format!("{:?}", e.kind),
        }
    }

    #[test]
    fn each_form_of_a_name() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (typed, meant) in [
            ("model.gguf", "path model.gguf"),
            ("models/qwen.gguf", "path models/qwen.gguf"),
            ("org/repo", "path org/repo"),
            ("C:\\models\\x.gguf", "path C:\\models\\x.gguf"),
            ("org/repo:q4_k_m", "hf://org/repo:Q4_K_M"),
            ("org/repo:latest", "path org/repo:latest"),
            ("hf://org/repo", "hf://org/repo"),
            ("hf://org/repo/", "hf://org/repo"),
            ("hf.co/org/repo:IQ4_XS", "hf://org/repo:IQ4_XS"),
            ("hf://org/repo@v1.0/sub/a b.gguf", "hf://org/repo@v1.0/sub/a b.gguf"),
            ("hf://org/repo@refs%2Fpr%2F1", "hf://org/repo@refs%2Fpr%2F1"),
            ("https://huggingface.co/org/repo/blob/v1/blob/v2/m.gguf", "hf://org/repo@v1/blob/v2/m.gguf"),
            ("hf://org/repo@v1/blob/v2/m.gguf", "hf://org/repo@v1/blob/v2/m.gguf"),
            ("https://huggingface.co/org/repo/blob/main/m.gguf", "hf://org/repo@main/m.gguf"),
            ("https://huggingface.co/org/repo/resolve/main/m.gguf?download=true", "hf://org/repo@main/m.gguf"),
            ("HTTP://Host:80/a/m.gguf?x=1", "url http://host:80/a/m.gguf?x=1"),
            ("http://host", "url http://host/"),
            ("pacha://coder", "pacha coder:latest"),
            ("pacha://coder:v1.2", "pacha coder:v1.2"),
            ("s3://bucket/x", "Unsupported"),
        ] {
            assert_eq!(shown(typed), meant, "{typed}");
        }
        assert_eq!(shown(&format!("hf://org/repo@{commit}/m.gguf")), format!("hf://org/repo@{commit}/m.gguf"));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = format!("hf://org/{}", "x".repeat(10_000));
        for typed in [
            "hf://../../x",
            "hf://a/b/../../c",
            "hf://user/repo/%2e%2e%2f",
            "hf://org/repo@../../main",
            "hf://org",
            "hf://org/repo/\u{1b}[2J",
            "hf://org/repo\u{0}",
            "hf://ｏrg/repo",
            "hf://org/con/x/../y",
            "hf://org/repo/nul",
            "hf://org/repo/com1.gguf",
            "hf://org/repo/a\\b",
            "hf://org/repo/c:x",
            "hf://org/repo/a//b",
            "hf://org/.repo",
            "hf://org/repo:Q4/x",
            "hf://org/repo:nonsense",
            "hf://org/repo/x.",
            "hf://",
            &long,
            "pacha://",
            "pacha://..",
            "pacha://a/b",
            "pacha://a:..",
            "pacha://nul",
            "pacha://a:b:c",
            "http://",
            "http://user:pass@host/x",
            "http://host/a b",
            "http://host/x#md5=1",
            "http://host/x#sha256=12",
            "http://host/\u{7}",
        ] {
            assert_eq!(shown(typed), "Usage", "{typed:.80}");
        }
    }

    #[test]
    fn redirects_join_as_browsers_do_it() {
        let from = Address::parse("https://host:1/a/b?q=1").unwrap();
        for (location, to) in [
            ("/c", "https://host:1/c"),
            ("c?d", "https://host:1/a/c?d"),
            ("//other/x#f", "https://other/x"),
            ("http://other/x", "http://other/x"),
            ("?z", "https://host:1/a/?z"),
        ] {
            assert_eq!(from.join(location).unwrap().as_str(), to);
        }
        for location in ["file:///etc/passwd", "ftp://host/x", "javascript:alert(1)", "http://"] {
            assert!(from.join(location).is_err(), "{location}");
        }
        assert_eq!((from.origin(), from.host()), ("https://host:1", "host"));
        assert_eq!(Address::parse("http://[::1]:8/x").unwrap().host(), "::1");
        assert_eq!(from.to_string(), "https://host:1/a/b", "a query may hold a signature");
    }
}
