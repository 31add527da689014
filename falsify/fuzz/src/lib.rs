//! `apr serve` inside the fuzzer: requests reach it over a socket, as from anybody.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use engine::ServeConfig;
use engine::serve::{Options, Running, start};

/// The server. Who generates is timed out at once: what is tried is the way to the model.
fn address() -> SocketAddr {
    static SERVER: OnceLock<Running> = OnceLock::new();
    let begin = || {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/qwen2-tiny-q4_k_m.gguf");
        let config = ServeConfig { model_path: model.into(), host: "127.0.0.1".into(), port: 0, gpu: false };
        let options = Options { timeout: Duration::from_micros(1), threads: Some(1), ..Options::default() };
        start(config, options, |_| Ok(())).expect("it starts")
    };
    SERVER.get_or_init(begin).address()
}

/// Says this on a connection of its own, and gives back what came until the end. Who shows the server that nothing more
/// will come gets no answer that was not ready: it counts as gone.
pub fn say(bytes: &[u8], no_more: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address()).expect("the server accepts");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    // It may answer and close before it has read everything.
    let _ = stream.write_all(bytes);
    if no_more {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut reply = Vec::new();
    if let Err(e) = stream.read_to_end(&mut reply) {
        assert!(e.kind() == std::io::ErrorKind::ConnectionReset, "no end of the reply: {e}");
    }
    reply
}

/// The status and body of a reply, which has to be one.
pub fn split(reply: &[u8]) -> (u16, &[u8]) {
    let end = reply.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let status = reply.strip_prefix(b"HTTP/1.1 ").or(reply.strip_prefix(b"HTTP/1.0 ")).expect("a status line");
    let status = std::str::from_utf8(&status[..3]).ok().and_then(|s| s.parse().ok()).expect("a status");
    (status, &reply[end + 4..])
}
