//! A hub on this machine, for checks of downloads: it speaks as much of the hub's protocol as a client needs, counts what
//! it is asked, and misbehaves on command.
//!
//! `/api/models/REPO/revision/REV` says which files a repository has. `/REPO/resolve/COMMIT/FILE` sends on to
//! `/cdn/FILE`, as the real one does; `/files/FILE` is a plain web server. What is wrong is an [`Act`] that a
//! [`Manner`] names for each request.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::http::{Heard, heard};
use crate::verdict::{Halt, instrument};

/// The repository that every hub has.
pub const REPO: &str = "acme/tiny-GGUF";

/// What the server does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// What it should.
    Serve,
    /// Closes the connection without a word.
    Close,
    /// Ends the body after so many bytes.
    Cut(usize),
    /// Sends nothing more after so many bytes, and keeps the connection.
    Stall(usize),
    /// So many bytes every 50 ms.
    Drip(usize),
    /// This status, with one more header.
    Status(u16, &'static str, &'static str),
    /// Sends on to there; `{other}` is a server under another name.
    SendOn(&'static str),
    /// Does not know ranges.
    WholeAlways,
    /// Sends a range that begins a byte later than it was asked to.
    OtherRange,
    /// Says that the file is a byte longer than it is.
    Longer,
    /// Turns a bit of the last byte.
    Flip,
    /// Sends this page.
    Page(&'static str, &'static str),
    /// Sends chunks, without a length and without end.
    Endless,
    /// Has another file from now on.
    Change,
}

/// What it does with the n-th request for the contents of a file, and with requests for anything else.
#[derive(Clone, Copy)]
pub struct Manner {
    /// For `/cdn/..` and `/files/..`, counted from 0.
    pub contents: fn(usize) -> Act,
    /// For `/api/..`, counted from 0.
    pub api: fn(usize) -> Act,
}

/// A server that does everything right.
pub const GOOD: Manner = Manner { contents: |_| Act::Serve, api: |_| Act::Serve };

/// A request that the hub was sent.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its path.
    pub path: String,
    /// Whom it was sent to, as the client says.
    pub host: String,
    /// It brought a token.
    pub token: bool,
}

struct Shared {
    address: SocketAddr,
    /// Files and whether git keeps them elsewhere, so that their SHA-256 is known.
    files: Mutex<BTreeMap<String, (Vec<u8>, bool)>>,
    commit: Mutex<String>,
    manner: Manner,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    contents: AtomicUsize,
    api: AtomicUsize,
    sent: AtomicUsize,
}

/// A running hub. Its threads end with the process.
pub struct Hub(Arc<Shared>);

impl Hub {
    /// One with these files.
    pub fn start(manner: Manner, files: &[(&str, Vec<u8>)]) -> Result<Hub, Halt> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(instrument)?;
        let small = |name: &str| name.ends_with(".json");
        let files = files.iter().map(|(name, bytes)| (name.to_string(), (bytes.clone(), !small(name)))).collect();
        let shared = Arc::new(Shared {
            address: listener.local_addr().map_err(instrument)?,
            files: Mutex::new(files),
            commit: Mutex::new("1".repeat(40)),
            manner,
            seen: Mutex::new(Vec::new()),
            connections: AtomicUsize::new(0),
            contents: AtomicUsize::new(0),
            api: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
        });
        let hub = Hub(shared.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let shared = shared.clone();
                // A client that goes away is not the hub's trouble.
                thread::spawn(move || shared.answer(stream));
            }
        });
        Ok(hub)
    }

    /// For `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// The address of a file as of a plain web server.
    pub fn url(&self, file: &str) -> String {
        format!("{}/files/{file}", self.endpoint())
    }

    /// Connections that were made.
    pub fn connections(&self) -> usize {
        self.0.connections.load(Ordering::SeqCst)
    }

    /// Bytes of files that were sent.
    pub fn sent(&self) -> usize {
        self.0.sent.load(Ordering::SeqCst)
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The commit that `main` is.
    pub fn commit(&self) -> String {
        lock(&self.0.commit).clone()
    }

    /// What a file is now.
    pub fn file(&self, name: &str) -> Vec<u8> {
        lock(&self.0.files).get(name).map(|(bytes, _)| bytes.clone()).unwrap_or_default()
    }

    /// A new commit: these files are added or replaced.
    pub fn push(&self, commit: &str, files: &[(&str, Vec<u8>)]) {
        *lock(&self.0.commit) = commit.into();
        lock(&self.0.files).extend(files.iter().map(|(name, bytes)| (name.to_string(), (bytes.clone(), true))));
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Shared {
    fn answer(&self, mut peer: TcpStream) -> Option<()> {
        let asked = heard(&mut peer).ok()??;
        let path = asked.path.split('?').next().unwrap_or_default().to_string();
        lock(&self.seen).push(Seen {
            path: asked.path.clone(),
            host: asked.header("host").unwrap_or_default().into(),
            token: asked.header("authorization").is_some(),
        });
        if let Some(rest) = path.strip_prefix("/api/models/") {
            let act = (self.manner.api)(self.api.fetch_add(1, Ordering::SeqCst));
            return match (act, rest.split_once("/revision/")) {
                (Act::Serve, Some((REPO, _))) => page(&mut peer, 200, "", &self.described()).ok(),
                (Act::Serve, _) => page(&mut peer, 404, "", "{}").ok(),
                (act, _) => self.act(&mut peer, &asked, act, &self.described().into_bytes()),
            };
        }
        if let Some((commit, file)) = path.strip_prefix(&format!("/{REPO}/resolve/")).and_then(|r| r.split_once('/')) {
            let head = format!("Location: /cdn/{file}?signature=x\r\nX-Repo-Commit: {commit}\r\n");
            return page(&mut peer, 302, &head, "").ok();
        }
        let name = path.strip_prefix("/cdn/").or_else(|| path.strip_prefix("/files/"))?;
        let known = lock(&self.files).get(name).map(|(bytes, _)| bytes.clone());
        let Some(bytes) = known else { return page(&mut peer, 404, "", "no such file").ok() };
        let act = (self.manner.contents)(self.contents.fetch_add(1, Ordering::SeqCst));
        if act == Act::Change {
            let other: Vec<u8> = bytes.iter().map(|b| b ^ 1).collect();
            lock(&self.files).insert(name.into(), (other.clone(), true));
            return self.act(&mut peer, &asked, Act::Serve, &other);
        }
        self.act(&mut peer, &asked, act, &bytes)
    }

    fn described(&self) -> String {
        let files = lock(&self.files);
        let one = |(name, (bytes, lfs)): (&String, &(Vec<u8>, bool))| {
            let mut file = json!({"rfilename": name, "size": bytes.len()});
            if *lfs {
                file["lfs"] = json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 133});
            }
            file
        };
        let siblings: Vec<_> = files.iter().map(one).collect();
        json!({"id": REPO, "sha": *lock(&self.commit), "siblings": siblings}).to_string()
    }

    fn act(&self, peer: &mut TcpStream, asked: &Heard, act: Act, file: &[u8]) -> Option<()> {
        let etag = format!("\"{}\"", &sha256(file)[..16]);
        let range = asked.header("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
        let range = range.and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()?)));
        let current = asked.header("if-range").is_none_or(|tag| tag == etag);
        let range = range.filter(|_| current && act != Act::WholeAlways);
        let size = file.len() + usize::from(act == Act::Longer);
        let mut body = file.to_vec();
        match act {
            Act::Close => return None,
            Act::Status(status, name, value) => {
                return page(peer, status, &format!("{name}: {value}\r\n"), "no").ok();
            }
            Act::SendOn(to) => {
                let other = format!("localhost:{}", self.address.port());
                let head = format!("Location: {}\r\n", to.replace("{other}", &other));
                return page(peer, 302, &head, "").ok();
            }
            Act::Page(kind, text) => return page(peer, 200, &format!("{kind}\r\n"), text).ok(),
            Act::Endless => {
                let _ = write!(peer, "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
                while peer.write_all(b"4\r\nabcd\r\n").is_ok() {
                    thread::sleep(Duration::from_millis(1));
                }
                return None;
            }
            Act::Flip => *body.last_mut()? ^= 1,
            _ => {}
        }
        let mut head = format!("ETag: {etag}\r\nAccept-Ranges: bytes\r\n");
        let status = match range {
            Some((first, last)) => {
                let last = last.min(file.len().checked_sub(1)?);
                let shift = usize::from(act == Act::OtherRange);
                head += &format!("Content-Range: bytes {}-{last}/{size}\r\n", first + shift);
                body = body.get(first..=last)?.to_vec();
                206
            }
            None => 200,
        };
        let length = body.len() + if range.is_none() { size - file.len() } else { 0 };
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n{head}\r\n");
        peer.write_all(head.as_bytes()).ok()?;
        self.send(peer, &body, act).ok()
    }

    fn send(&self, peer: &mut TcpStream, body: &[u8], act: Act) -> io::Result<()> {
        let whole = match act {
            Act::Cut(most) | Act::Stall(most) => most.min(body.len()),
            _ => body.len(),
        };
        let step = if let Act::Drip(bytes) = act { bytes } else { 1 << 16 };
        for piece in body[..whole].chunks(step) {
            peer.write_all(piece)?;
            self.sent.fetch_add(piece.len(), Ordering::SeqCst);
            if let Act::Drip(_) = act {
                thread::sleep(Duration::from_millis(50));
            }
        }
        if let Act::Stall(_) = act {
            thread::sleep(Duration::from_secs(60));
        }
        Ok(())
    }
}

/// A short reply.
fn page(peer: &mut TcpStream, status: u16, head: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(peer, "HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n{head}\r\n{body}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Ask;

    #[test]
    fn it_serves_ranges_and_counts() {
        let hub = Hub::start(GOOD, &[("a.gguf", b"0123456789".to_vec())]).unwrap();
        let to = hub.0.address;
        let reply = Ask::get("/files/a.gguf").header("Range", "bytes=2-4").send(to, Duration::from_secs(5)).unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (206, "234"));
        assert_eq!(reply.header("content-range"), Some("bytes 2-4/10"));
        let said = Ask::get(&format!("/api/models/{REPO}/revision/main")).send(to, Duration::from_secs(5)).unwrap();
        assert_eq!(said.json()["siblings"][0]["lfs"]["sha256"], sha256(b"0123456789"));
        assert_eq!((hub.connections(), hub.seen().len(), hub.sent()), (2, 2, 3));
    }
}
