//! A client of HTTP/1.1 for checks: it sends exactly the bytes that it is told to, and notes when each piece arrived.
//!
//! It judges nothing. One request, one connection, unless a check opens a stream of its own.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A request in the making.
#[derive(Clone, Debug)]
pub struct Ask {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

/// A reply.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Of the first line.
    pub status: u16,
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Without chunks' frames.
    pub body: Vec<u8>,
    /// Server-sent events with the time since the request was sent.
    pub events: Vec<(Duration, String)>,
    /// From sending to the last byte.
    pub took: Duration,
    /// The peer ended the connection before the reply was whole.
    pub cut: bool,
}

impl Ask {
    /// GET.
    pub fn get(path: &str) -> Ask {
        Ask { method: "GET".into(), path: path.into(), headers: Vec::new(), body: None }
    }

    /// POST with this body, and no Content-Type.
    pub fn post(path: &str, body: impl Into<Vec<u8>>) -> Ask {
        Ask { method: "POST".into(), body: Some(body.into()), ..Ask::get(path) }
    }

    /// POST with JSON.
    pub fn json(path: &str, body: &Value) -> Ask {
        Ask::post(path, body.to_string())
    }

    /// Another method.
    pub fn method(mut self, method: &str) -> Ask {
        self.method = method.into();
        self
    }

    /// One more header; one that is always sent is replaced.
    pub fn header(mut self, name: &str, value: &str) -> Ask {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The bytes that are sent.
    pub fn bytes(&self, to: SocketAddr) -> Vec<u8> {
        let given = |name: &str| self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !given("host") {
            text += &format!("Host: {to}\r\n");
        }
        if !given("connection") {
            text += "Connection: close\r\n";
        }
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = self.body.as_ref().filter(|_| !given("content-length") && !given("transfer-encoding")) {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        [text.as_bytes(), self.body.as_deref().unwrap_or_default()].concat()
    }

    /// Sends it and reads the reply.
    pub fn send(&self, to: SocketAddr, deadline: Duration) -> io::Result<Reply> {
        let mut stream = connect(to, deadline)?;
        let begun = Instant::now();
        let sent = stream.write_all(&self.bytes(to));
        // A server may answer and close before it has read everything: the reply counts.
        let head = self.method == "HEAD";
        match (read(&mut stream, begun, deadline, head), sent) {
            (Ok(reply), _) => Ok(reply),
            (Err(_), Err(e)) | (Err(e), Ok(())) => Err(e),
        }
    }

    /// For people.
    pub fn shown(&self) -> String {
        let body = self.body.as_ref().map(|b| String::from_utf8_lossy(&b[..b.len().min(200)]).into_owned());
        format!("{} {} {:?} {}", self.method, self.path, self.headers, body.unwrap_or_default())
    }
}

/// A connection with this deadline for each of its steps.
pub fn connect(to: SocketAddr, deadline: Duration) -> io::Result<TcpStream> {
    // A process that was stopped and goes on finds its waiting interrupted.
    let stream = loop {
        match TcpStream::connect_timeout(&to, deadline) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            done => break done?,
        }
    };
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(deadline))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads one reply from a stream.
pub fn read(stream: &mut TcpStream, begun: Instant, deadline: Duration, head_only: bool) -> io::Result<Reply> {
    let mut raw = Vec::new();
    let mut reply = Reply::default();
    let mut body_at = None;
    let mut buffer = [0u8; 1 << 14];
    loop {
        if let Some(at) = body_at {
            let (body, whole) = framed(&reply, &raw[at..], head_only);
            reply.body = body;
            reply.note_events(begun.elapsed());
            if whole {
                break;
            }
        }
        if begun.elapsed() > deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        match stream.read(&mut buffer) {
            Ok(0) if body_at.is_none() => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(0) => {
                reply.cut = reply.header("content-length").is_some() || reply.is_chunked();
                break;
            }
            Ok(n) => raw.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // What came before a reset counts.
            Err(e) if e.kind() == ErrorKind::ConnectionReset && body_at.is_some() => {
                reply.cut = true;
                break;
            }
            Err(e) => return Err(e),
        }
        if body_at.is_none() {
            body_at = reply.take_head(&raw)?;
        }
    }
    reply.took = begun.elapsed();
    Ok(reply)
}

/// The body so far, and whether it is whole.
fn framed(reply: &Reply, raw: &[u8], head_only: bool) -> (Vec<u8>, bool) {
    if head_only || reply.status == 204 || reply.status == 304 {
        return (Vec::new(), true);
    }
    if reply.is_chunked() {
        let (mut body, mut rest) = (Vec::new(), raw);
        loop {
            let Some(end) = rest.windows(2).position(|w| w == b"\r\n") else { return (body, false) };
            let size = std::str::from_utf8(&rest[..end]).ok().and_then(|s| usize::from_str_radix(s.trim(), 16).ok());
            let Some(size) = size else { return (body, false) };
            let data = &rest[end + 2..];
            if size == 0 {
                return (body, data.len() >= 2);
            }
            if data.len() < size + 2 {
                body.extend_from_slice(&data[..data.len().min(size)]);
                return (body, false);
            }
            body.extend_from_slice(&data[..size]);
            rest = &data[size + 2..];
        }
    }
    match reply.header("content-length").and_then(|n| n.parse::<usize>().ok()) {
        Some(n) => (raw[..raw.len().min(n)].to_vec(), raw.len() >= n),
        None => (raw.to_vec(), false),
    }
}

impl Reply {
    fn take_head(&mut self, raw: &[u8]) -> io::Result<Option<usize>> {
        let Some(end) = raw.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
        let text = String::from_utf8_lossy(&raw[..end]);
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|l| l.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok());
        self.status = status.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "no status line"))?;
        let header = |l: &str| l.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_string()));
        self.headers = lines.filter_map(header).collect();
        Ok(Some(end + 4))
    }

    fn note_events(&mut self, at: Duration) {
        if self.header("content-type").is_none_or(|t| !t.starts_with("text/event-stream")) {
            return;
        }
        let text = String::from_utf8_lossy(&self.body);
        let whole = text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
        let data = whole.split("\n\n").filter_map(|e| e.strip_prefix("data: "));
        let new: Vec<String> = data.skip(self.events.len()).map(str::to_string).collect();
        self.events.extend(new.into_iter().map(|e| (at, e)));
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding") == Some("chunked")
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The events that are JSON.
    pub fn chunks(&self) -> Vec<Value> {
        self.events.iter().filter_map(|(_, e)| serde_json::from_str(e).ok()).collect()
    }
}

/// A request, as a server hears it.
#[derive(Clone, Debug)]
pub struct Heard {
    /// GET and its like.
    pub method: String,
    /// With the query.
    pub path: String,
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Of the length that the headers say.
    pub body: Vec<u8>,
}

impl Heard {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// A request as it came; nothing if the peer went away.
pub fn heard(peer: &mut TcpStream) -> io::Result<Option<Heard>> {
    peer.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut raw = Vec::new();
    let mut buffer = [0u8; 1 << 14];
    loop {
        if let Some(end) = raw.windows(4).position(|w| w == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&raw[..end]).into_owned();
            let mut lines = text.split("\r\n");
            let mut first = lines.next().unwrap_or_default().split(' ');
            let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
            let header = |l: &str| l.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_string()));
            let headers: Vec<(String, String)> = lines.filter_map(header).collect();
            let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok());
            if raw.len() - end - 4 >= length.unwrap_or(0usize) {
                let body = raw[end + 4..].to_vec();
                return Ok(Some(Heard { method: method.into(), path: path.into(), headers, body }));
            }
        }
        match peer.read(&mut buffer)? {
            0 => return Ok(None),
            n => raw.extend_from_slice(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What a server's bytes are read as.
    fn heard(bytes: &'static [u8]) -> Reply {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut s, _) = listener.accept().unwrap();
            let _ = s.read(&mut [0; 1024]);
            s.write_all(bytes).unwrap();
        });
        let reply = Ask::get("/").send(to, Duration::from_secs(5)).unwrap();
        server.join().unwrap();
        reply
    }

    #[test]
    fn chunks_and_lengths_and_cut_replies() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n\
            9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n";
        let reply = heard(chunked);
        let events: Vec<&str> = reply.events.iter().map(|(_, e)| e.as_str()).collect();
        assert_eq!((events, reply.cut), (vec!["a", "b"], false));
        assert_eq!(heard(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nhi").text(), "hi");
        assert!(heard(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi").cut);
        assert!(heard(&chunked[..chunked.len() - 5]).cut);
    }
}
