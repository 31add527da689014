//! A web server with one file, a proxy before it, and authorities that sign what they are told to.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A certificate and its key.
type Shown = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// Whoever signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// For this host, from that day on until that day, counted from today.
    pub fn signs(&self, host: &str, from: i64, to: i64) -> Shown {
        let mut params = CertificateParams::new(vec![host.into()]).unwrap();
        let day = |n: i64| {
            let days = Duration::from_secs(86_400 * n.unsigned_abs());
            if n < 0 { SystemTime::now() - days } else { SystemTime::now() + days }
        };
        (params.not_before, params.not_after) = (day(from).into(), day(to).into());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.into(), key.into())
    }

    /// A certificate that nobody but itself vouches for.
    pub fn itself(host: &str) -> Shown {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![host.into()]).unwrap().self_signed(&key).unwrap();
        (certificate.into(), key.into())
    }

    /// For `SSL_CERT_FILE`.
    pub fn file(&self, folder: &Path) -> PathBuf {
        let path = folder.join("authority.pem");
        std::fs::write(&path, self.0.pem()).unwrap();
        path
    }
}

/// How the server is reached, and what it says of its file.
pub enum Door {
    Plain,
    Tls(Shown),
    /// Sends the whole file whatever is asked for.
    NoRanges,
    /// Answers every request with 503 until there were so many.
    Late(usize),
    /// Announces so many bytes, in a reply that knows ranges.
    Announces(u64),
    /// The same in one that does not.
    AnnouncesWhole(u64),
}

/// The heads of requests that were heard.
type Heard = Arc<Mutex<Vec<String>>>;

/// A web server whose only file is /m.gguf.
pub struct Server {
    port: u16,
    heard: Heard,
}

impl Server {
    pub fn start(file: Vec<u8>, door: Door) -> Server {
        let heard = Heard::default();
        let (told, door) = (heard.clone(), Arc::new(door));
        let tls = match &*door {
            Door::Tls((certificate, key)) => {
                let config = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into());
                let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
                Some(Arc::new(config.with_single_cert(vec![certificate.clone()], key.clone_key()).unwrap()))
            }
            _ => None,
        };
        let port = listen(move |peer| match &tls {
            Some(config) => {
                answer(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), peer), &file, &door, &told)
            }
            None => answer(peer, &file, &door, &told),
        });
        Server { port, heard }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, scheme: &str, host: &str) -> String {
        format!("{scheme}://{host}:{}/m.gguf", self.port)
    }

    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

/// A proxy that leads to one server, whatever it is asked for.
pub struct Proxy {
    port: u16,
    heard: Heard,
}

impl Proxy {
    /// It answers a CONNECT with this status.
    pub fn start(server: &Server, status: &'static str) -> Proxy {
        let heard = Heard::default();
        let (told, to) = (heard.clone(), server.port);
        let port = listen(move |mut peer| {
            told.lock().unwrap().push(head(&mut peer)?);
            write!(peer, "HTTP/1.1 {status}\r\n\r\n")?;
            if status.starts_with('2') {
                let mut server = TcpStream::connect(("127.0.0.1", to))?;
                let (mut up, mut upwards) = (peer.try_clone()?, server.try_clone()?);
                thread::spawn(move || io::copy(&mut up, &mut upwards));
                io::copy(&mut server, &mut peer)?;
            }
            Ok(())
        });
        Proxy { port, heard }
    }

    /// With `NAME:PASSWORD@` or nothing.
    pub fn url(&self, user: &str) -> String {
        format!("http://{user}127.0.0.1:{}", self.port)
    }

    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

/// Serves every connection on a thread of its own. A client that goes away is not the server's trouble.
fn listen(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, serve) = (listener.local_addr().unwrap().port(), Arc::new(serve));
    thread::spawn(move || {
        for peer in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(peer));
        }
    });
    port
}

/// What stands before the empty line.
fn head(peer: &mut impl Read) -> io::Result<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        peer.read_exact(&mut byte)?;
        text.push(byte[0]);
    }
    Ok(String::from_utf8(text).unwrap())
}

fn answer(mut peer: impl Read + Write, file: &[u8], door: &Door, heard: &Heard) -> io::Result<()> {
    let asked = head(&mut peer)?;
    let before = {
        let mut heard = heard.lock().unwrap();
        heard.push(asked.clone());
        heard.len() - 1
    };
    if let Door::Late(many) = door
        && before < *many
    {
        return write!(peer, "HTTP/1.1 503 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let asked = asked.to_ascii_lowercase();
    let range = asked.lines().find_map(|l| l.strip_prefix("range: bytes=")?.trim().split_once('-'));
    let range = range.map(|(a, b)| (a.parse::<usize>().unwrap(), b.parse::<usize>().unwrap()));
    let (status, more, body) = match (door, range) {
        (Door::Announces(total), _) => ("206", format!("Content-Range: bytes 0-0/{total}\r\n"), &b"x"[..]),
        (Door::AnnouncesWhole(_) | Door::NoRanges, _) | (_, None) => ("200", String::new(), file),
        (_, Some((first, last))) => {
            let last = last.min(file.len() - 1);
            ("206", format!("Content-Range: bytes {first}-{last}/{}\r\n", file.len()), &file[first..=last])
        }
    };
    let length = if let Door::AnnouncesWhole(total) = door { *total } else { body.len() as u64 };
    write!(peer, "HTTP/1.1 {status} x\r\nETag: \"1\"\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n")?;
    peer.write_all(body)?;
    peer.flush()
}
