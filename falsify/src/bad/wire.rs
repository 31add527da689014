//! Bytes that are no good HTTP: families 60, 63, 65 and 75 of the bad inputs, below the level of requests. The table says
//! which replies come, in order, before the connection ends.

/// What is sent on a connection.
pub struct Wire {
    /// What is wrong, or odd.
    pub what: &'static str,
    /// All of it.
    pub bytes: Vec<u8>,
    /// The statuses of the replies. One that is missing would be a request lost, one too many a request smuggled in.
    pub statuses: &'static [u16],
    /// Nothing comes after it, and the server can see that.
    pub ends: bool,
}

/// A request for tokens with these headers beside its Host, and a body.
fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /tokenize HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n{body}").into_bytes()
}

const BODY: &str = r#"{"content":"x"}"#;
const CHUNK: &str = "f\r\n{\"content\":\"x\"}\r\n0\r\n\r\n";
/// What somebody would like to have answered in another's name.
const HIDDEN: &str = "0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// All of them.
pub fn all() -> Vec<Wire> {
    let wire = |what, bytes, statuses| Wire { what, bytes, statuses, ends: false };
    let header =
        |what, text: &str, statuses| wire(what, post(&format!("{text}Content-Length: 15\r\n"), BODY), statuses);
    let framed = |what, headers: &str, body: &str, statuses| wire(what, post(headers, body), statuses);
    let plain = |what, text: &str, statuses| wire(what, text.as_bytes().to_vec(), statuses);
    let many: String = (0..10_000).map(|i| format!("X-{i}: y\r\n")).collect();
    let ended = |w: Wire| Wire { ends: true, ..w };
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        header("65: 10,000 headers", &many, &[431]),
        header("65: a header of 1 MB", &format!("X: {}\r\n", "a".repeat(1_000_000)), &[431]),
        header("65: NUL in a header", "X: a\0b\r\n", &[400]),
        header("65: CR in a header", "X: a\rb\r\n", &[400]),
        header("65: a header over two lines", "X: a\r\n b\r\n", &[400]),
        header("65: a blank before the colon", "X : a\r\n", &[400]),
        header("65: a header without a colon", "X\r\n", &[400]),
        header("60: two lengths", "Content-Length: 5\r\n", &[400]),
        framed("60: a negative length", "Content-Length: -5\r\n", BODY, &[400]),
        framed("60: a length with a sign", "Content-Length: +15\r\n", BODY, &[400]),
        framed("60: a list of lengths", "Content-Length: 15, 15\r\n", BODY, &[400]),
        framed("60: a length of 23 digits", "Content-Length: 99999999999999999999999\r\n", BODY, &[400]),
        framed("60: too short a length", "Content-Length: 3\r\n", BODY, &[400, 400]),
        ended(framed("60: too long a length", "Content-Length: 500\r\n", BODY, &[400])),
        framed("60: a chunk whose size is none", chunked, "zz\r\n{}\r\n0\r\n\r\n", &[400]),
        framed("60: a chunk beyond 64 bits", chunked, "ffffffffffffffffff\r\n{}", &[400]),
        framed(
            "60: a chunk with 100 kB of extensions",
            chunked,
            &format!("f;{}\r\n{CHUNK}", "a".repeat(100_000)),
            &[400],
        ),
        ended(framed("60: half a chunk", chunked, "f\r\n{", &[400])),
        framed("65: length and chunks", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", HIDDEN, &[400]),
        framed("65: chunks and length", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", HIDDEN, &[400]),
        framed("65: two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", CHUNK, &[400]),
        framed("65: a coding that nobody knows", "Transfer-Encoding: xchunked\r\n", CHUNK, &[400]),
        ended(plain("63: no Host", "GET /v1/models HTTP/1.1\r\n\r\n", &[403])),
        ended(plain("63: two Hosts", "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", &[403])),
        ended(plain("63: no Host, as of old", "GET /v1/models HTTP/1.0\r\n\r\n", &[403])),
        plain("75: HTTP/1.0", "GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n", &[200]),
        plain("75: HTTP/0.9", "GET /health\r\n", &[400]),
        plain("75: HTTP/9.9", "GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n", &[400]),
        plain("75: HTTP/2 without asking", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[]),
        plain(
            "75: HTTP/2, asked for",
            "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n",
            &[200],
        ),
        plain(
            "75: three at once",
            "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n\
             GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            &[200, 404, 200],
        ),
        plain("75: TLS", "\u{16}\u{3}\u{1}\0hello, I would like to speak TLS\r\n\r\n", &[400]),
        ended(plain("74: a tunnel", "CONNECT evil.example:80 HTTP/1.1\r\nHost: evil.example:80\r\n\r\n", &[403])),
        ended(plain("74: the server itself", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", &[404])),
        plain("74: NUL in the method", "G\0T /health HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        plain("74: a blank in the path", "GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400]),
        plain(
            "65: a path of 70 kB",
            &format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(70_000)),
            &[414],
        ),
    ]
}
