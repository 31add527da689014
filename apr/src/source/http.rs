//! One request of the web: what is sent, whom it may be sent on to, and what a failure means.
//!
//! A token goes to the host that it is for, by https or inside this machine, and never on with a redirect to another.
//! What came by https is not continued by http. Nothing is decompressed: a model arrives as the bytes it is.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::time::Duration;

use engine::error::{printable, quoted, quoted_path};
use engine::{Error, Kind, Place, Result, knobs, limits};
use ureq::http::{HeaderMap, StatusCode};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Timeout};

use super::name::{Address, Commit};
use super::proxy::{Proxies, Proxy};

/// Sends requests.
pub struct Client {
    agent: Agent,
    proxies: Proxies,
    token: Option<Token>,
    /// Silence that ends a connection.
    pub silence: Duration,
}

/// A secret, and whom it is for.
pub struct Token {
    /// Scheme, host and port.
    pub origin: String,
    /// What proves who asks.
    pub secret: String,
}

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For people.
    pub why: String,
    /// What people can do.
    pub hint: Option<String>,
    /// What to do.
    pub next: Next,
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try again, not before this time has passed.
    Again(Duration),
    /// The file is another than before: from the beginning.
    Afresh,
    /// It will not help.
    GiveUp(Kind),
}

impl Failure {
    /// One that may pass.
    pub fn passing(why: impl Into<String>) -> Failure {
        Failure { why: why.into(), hint: None, next: Next::Again(Duration::ZERO) }
    }

    /// One that will not.
    pub fn lasting(kind: Kind, why: impl Into<String>) -> Failure {
        Failure { why: why.into(), hint: None, next: Next::GiveUp(kind) }
    }

    fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }

    /// As the end of a command.
    pub fn error(self, address: &Address) -> Error {
        let kind = if let Next::GiveUp(kind) = self.next { kind } else { Kind::Network };
        Error { hint: self.hint, ..Error::new(kind, format!("{address}: {}", self.why)) }
    }
}

/// A reply whose body is still to come.
pub struct Reply {
    /// 200 or 206.
    pub partial: bool,
    /// Bytes of the body.
    pub length: Option<u64>,
    /// First and last byte, and the size of the whole file.
    pub range: Option<Range>,
    /// What tells this version of the file from another.
    pub validator: Option<String>,
    /// The commit that the hub says this is of.
    pub commit: Option<Commit>,
    body: ureq::BodyReader<'static>,
}

/// `Content-Range: bytes 0-99/1000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub first: u64,
    /// Last byte.
    pub last: u64,
    /// Bytes of the whole file.
    pub of: u64,
}

impl Range {
    fn parse(text: &str) -> Option<Range> {
        let (range, of) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let range = Range { first: first.parse().ok()?, last: last.parse().ok()?, of: of.parse().ok()? };
        (range.first <= range.last && range.last < range.of).then_some(range)
    }
}

impl Read for Reply {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.body.read(into)
    }
}

impl Client {
    /// As the environment says.
    pub fn new(token: Option<Token>) -> Result<Client> {
        let silence = match knobs::read(&knobs::DOWNLOAD_TIMEOUT) {
            None => limits::STALL_TIME,
            Some(said) => {
                let seconds = said.parse::<f64>().ok().filter(|s| (0.05..=3600.0).contains(s));
                Duration::from_secs_f64(seconds.ok_or_else(|| {
                    Error::new(Kind::Usage, format!("{} is no number of seconds from 0.05 to 3600", quoted(&said)))
                        .at(Place::Key(knobs::DOWNLOAD_TIMEOUT.name.into()))
                })?)
            }
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // They are followed here, where a token is.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("apr/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            // Which one depends on the address.
            .proxy(None)
            .timeout_resolve(Some(silence))
            .timeout_connect(Some(limits::CONNECT_TIME.min(silence)))
            .timeout_per_write(Some(silence))
            .timeout_per_read(Some(silence))
            .timeout_recv_response(Some(silence));
        if let Some(file) = knobs::path(&knobs::CERTIFICATES) {
            let pem = std::fs::read(&file).map_err(|e| Error::from_io(&e, &file))?;
            let all = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let all: Vec<Certificate<'static>> = all.collect();
            // With none to trust every certificate would be refused, and each would look like the culprit.
            if all.is_empty() {
                let file = quoted_path(&file);
                return Err(Error::new(Kind::Malformed, format!("SSL_CERT_FILE: there is no certificate in {file}"))
                    .hint("certificates in PEM begin with -----BEGIN CERTIFICATE-----"));
            }
            config = config.tls_config(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&all)).build());
        }
        Ok(Client { agent: config.build().new_agent(), proxies: Proxies::read()?, token, silence })
    }

    /// GET, of this range of bytes if the file is still the one with this validator.
    pub fn get(
        &self,
        address: &Address,
        range: Option<(u64, u64)>,
        validator: Option<&str>,
    ) -> std::result::Result<Reply, Failure> {
        let mut at = address.clone();
        let mut commit = None;
        for _ in 0..=limits::REDIRECTS_MAX {
            let proxy = self.proxies.of(&at);
            let mut request = self.agent.get(at.as_str()).config().proxy(proxy.map(|p| p.to.clone())).build();
            if let Some((first, last)) = range {
                request = request.header("Range", format!("bytes={first}-{last}"));
                if let Some(validator) = validator {
                    request = request.header("If-Range", validator);
                }
            }
            //= F-INT-285
            if let Some(token) = self.token.as_ref().filter(|t| t.origin == at.origin()) {
                request = request.header("Authorization", format!("Bearer {}", token.secret));
            }
            let reply = request.call().map_err(|e| self.failed(&e, proxy))?;
            let headers = reply.headers();
            commit = commit.or_else(|| text(headers, "x-repo-commit").and_then(Commit::parse));
            let location = text(headers, "location").map(str::to_string);
            if let Some(location) = location.filter(|_| reply.status().is_redirection()) {
                at = onward(&at, &location)?;
                continue;
            }
            return accept(reply, commit);
        }
        Err(Failure::lasting(Kind::Network, format!("it is sent on more than {} times", limits::REDIRECTS_MAX)))
    }

    /// GET of a document of at most so many bytes, tried again while that may help.
    pub fn document(&self, address: &Address, most: u64, warn: &dyn Fn(&str)) -> Result<Vec<u8>> {
        let mut tried = 0;
        loop {
            let got = self.get(address, None, None).and_then(|mut reply| {
                let mut bytes = Vec::new();
                reply.by_ref().take(most + 1).read_to_end(&mut bytes).map_err(|e| self.cut(&e, bytes.len() as u64))?;
                match bytes.len() as u64 > most {
                    true => Err(Failure::lasting(Kind::TooLarge, format!("it has more than {most} bytes"))),
                    false => Ok(bytes),
                }
            });
            let failure = match got {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failure,
            };
            match patience(&failure, tried) {
                Some(wait) => {
                    warn(&retried(address, &failure, wait, tried + 1));
                    std::thread::sleep(wait);
                }
                None => return Err(failure.error(address)),
            }
            tried += 1;
        }
    }

    /// What an error of the library means.
    fn failed(&self, e: &ureq::Error, proxy: Option<&Proxy>) -> Failure {
        let failure = match e {
            ureq::Error::Timeout(Timeout::Connect) => Failure::passing("no connection could be made in time"),
            ureq::Error::Timeout(_) => Failure::passing(self.silent()),
            // A certificate that is not trusted will not be trusted a second later.
            ureq::Error::Io(io) if io.kind() == ErrorKind::InvalidData => {
                Failure { hint: distrust(&io.to_string()), ..Failure::lasting(Kind::Network, said(io)) }
            }
            ureq::Error::Io(io) if io.kind() == ErrorKind::UnexpectedEof => {
                Failure::passing("the server closed the connection without an answer")
            }
            ureq::Error::Io(io) => Failure::passing(said(io)),
            ureq::Error::HostNotFound => Failure::passing("no such host"),
            ureq::Error::ConnectProxyFailed(why) if why.contains("407") => {
                Failure::lasting(Kind::Network, "the proxy wants a name and a password, or others")
                    .hint("they stand before its host: http://NAME:PASSWORD@HOST:PORT")
            }
            ureq::Error::ConnectProxyFailed(why) => Failure::passing(printable(why, limits::QUOTED_CHARS_MAX)),
            ureq::Error::Protocol(_) => Failure::passing(printable(&e.to_string(), limits::QUOTED_CHARS_MAX)),
            _ => Failure::lasting(Kind::Network, printable(&e.to_string(), limits::QUOTED_CHARS_MAX * 2)),
        };
        match proxy {
            Some(proxy) => Failure { why: format!("{} (through the proxy {})", failure.why, proxy.shown), ..failure },
            None => failure,
        }
    }

    /// Why a body ended after so many bytes.
    pub fn cut(&self, e: &std::io::Error, after: u64) -> Failure {
        let timed_out = e.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
        match timed_out {
            Some(ureq::Error::Timeout(_)) => Failure::passing(format!("{} after {after} bytes", self.silent())),
            _ if e.kind() == ErrorKind::TimedOut => Failure::passing(format!("{} after {after} bytes", self.silent())),
            _ => Failure::passing(format!("the connection was cut after {after} bytes ({})", said(e))),
        }
    }

    fn silent(&self) -> String {
        format!("not a byte came for {} s", self.silence.as_secs_f64())
    }
}

fn said(e: &std::io::Error) -> String {
    printable(&e.to_string(), limits::QUOTED_CHARS_MAX)
}

/// What to do about a certificate that is refused.
fn distrust(why: &str) -> Option<String> {
    let why = why.strip_prefix("invalid peer certificate: ")?;
    let hint = match why {
        _ if why.contains("not valid for") => "whoever answers there is not the host that was asked for",
        _ if why.contains("expired") || why.contains("not valid yet") => {
            "its owner has to renew it; is this clock right?"
        }
        _ => "SSL_CERT_FILE names the authorities that you trust; programs that look into https have one of their own",
    };
    Some(hint.into())
}

/// How long to wait before the next try, if there is to be one: twice as long each time, and as long as the server says.
pub fn patience(failure: &Failure, tried: u32) -> Option<Duration> {
    match failure.next {
        Next::Again(at_least) if tried < limits::RETRIES_MAX => {
            Some(at_least.max(Duration::from_millis(250) * 2u32.pow(tried)))
        }
        Next::Again(_) | Next::Afresh | Next::GiveUp(_) => None,
    }
}

/// The line of a log.
//= F-JID-279
pub fn retried(what: &dyn fmt::Display, failure: &Failure, wait: Duration, time: u32) -> String {
    let (wait, most) = (wait.as_secs_f64(), limits::RETRIES_MAX);
    format!("{what}: {}; trying again in {wait} s ({time} of {most})", failure.why)
}

/// Where a redirect leads, if it may.
fn onward(from: &Address, location: &str) -> std::result::Result<Address, Failure> {
    let refused = |why: &str| {
        let to = quoted(location.split('?').next().unwrap_or_default());
        Failure::lasting(Kind::Network, format!("it is sent on to {to}, where it does not follow: {why}"))
    };
    let to = from.join(location).map_err(refused)?;
    if from.is_private() && !to.is_private() {
        return Err(refused("https is not continued by http"));
    }
    // Where machines of a cloud keep their secrets.
    let local = to.host().parse::<IpAddr>().is_ok_and(|ip| match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_unspecified(),
    });
    if local && to.origin() != from.origin() {
        return Err(refused("it is an address of this network alone"));
    }
    Ok(to)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim)
}

/// A reply that has what was asked for.
fn accept(reply: ureq::http::Response<ureq::Body>, commit: Option<Commit>) -> std::result::Result<Reply, Failure> {
    let status = reply.status();
    let headers = reply.headers();
    if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return Err(refusal(status, headers));
    }
    if text(headers, "content-encoding").is_some_and(|e| !e.eq_ignore_ascii_case("identity")) {
        return Err(Failure::lasting(Kind::Network, "the server compresses what it was asked for as it is"));
    }
    if text(headers, "content-type").is_some_and(|t| t.to_ascii_lowercase().starts_with("text/html")) {
        return Err(Failure::lasting(Kind::Network, "the server sends a page for a browser, not a file"));
    }
    let strong = text(headers, "etag").filter(|e| e.starts_with('"') && e.len() <= 200);
    let validator = strong.or_else(|| text(headers, "last-modified")).map(str::to_string);
    let range = text(headers, "content-range").and_then(Range::parse);
    let length = text(headers, "content-length").and_then(|n| n.parse().ok());
    let partial = status == StatusCode::PARTIAL_CONTENT;
    if partial && range.is_none() {
        return Err(Failure::lasting(Kind::Network, "the server sends a part and does not say which"));
    }
    Ok(Reply { partial, length, range, validator, commit, body: reply.into_body().into_reader() })
}

/// What a status other than success means.
fn refusal(status: StatusCode, headers: &HeaderMap) -> Failure {
    let why = format!("the server answers {}", printable(&status.to_string(), limits::QUOTED_CHARS_MAX));
    let wait = text(headers, "retry-after").and_then(|s| s.parse().ok()).map_or(Duration::ZERO, Duration::from_secs);
    match status.as_u16() {
        408 | 425 | 429 | 500..=599 if wait <= limits::RETRY_AFTER_MAX => {
            Failure { next: Next::Again(wait), ..Failure::passing(why) }
        }
        429 | 503 => Failure::lasting(Kind::Network, format!("{why} and wants {} s of patience", wait.as_secs())),
        404 | 410 => Failure::lasting(Kind::NotFound, why),
        416 => Failure { next: Next::Afresh, ..Failure::passing(why) },
        _ => Failure::lasting(Kind::Network, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_nonsense_is_none() {
        assert_eq!(Range::parse("bytes 0-99/1000"), Some(Range { first: 0, last: 99, of: 1000 }));
        for bad in ["bytes 0-99/*", "bytes 9-1/100", "bytes 0-100/100", "0-1/2", "bytes -1-2/3", "bytes 0-1"] {
            assert_eq!(Range::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn redirects_do_not_lead_down() {
        let from = Address::parse("https://hub.example/x").unwrap();
        assert_eq!(onward(&from, "https://cdn.example/y").unwrap().host(), "cdn.example");
        for to in ["http://hub.example/x", "file:///etc/passwd", "https://169.254.169.254/x", "https://[fe80::1]/"] {
            assert!(matches!(onward(&from, to).unwrap_err().next, Next::GiveUp(Kind::Network)), "{to}");
        }
        assert!(onward(&Address::parse("http://a/").unwrap(), "http://169.254.169.254/latest").is_err());
    }

    #[test]
    fn patience_grows_and_ends() {
        let passing = Failure::passing("x");
        assert!(patience(&passing, 0) < patience(&passing, 1));
        assert_eq!(patience(&passing, limits::RETRIES_MAX), None);
        let told = Failure { next: Next::Again(Duration::from_secs(9)), ..Failure::passing("x") };
        assert_eq!(patience(&told, 0), Some(Duration::from_secs(9)));
        assert_eq!(patience(&Failure::lasting(Kind::NotFound, "x"), 0), None);
    }
}
