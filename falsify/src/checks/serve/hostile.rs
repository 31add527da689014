//! Peers who go away, take their time, or talk nonsense. What they do is their affair: the others are answered.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use serde_json::Value;

use super::{begun_stream, completion};
use crate::bad::wire;
use crate::http::{Ask, connect};
use crate::server::{PATIENCE, Server, serve};
use crate::subject::Subject;
use crate::verdict::{Halt, Tally, instrument};

fn broken(e: impl std::fmt::Display) -> Halt {
    instrument(format!("a hostile client: {e}"))
}

/// Ends a connection without a goodbye: the server's next write or read finds a reset.
fn reset(peer: TcpStream) -> Result<(), Halt> {
    set_socket_linger(&peer, Some(Duration::ZERO)).map_err(broken)
}

/// 67: peers who leave, with a goodbye or a reset: before, in and after their request, before the first byte of the answer
/// (in its prefill, or in a reply that is not streamed) and in the middle of it. Their tokens stop.
pub fn leave(t: &mut Tally, server: &Server, times: usize) -> Result<(), Halt> {
    let begun = Instant::now();
    server.answer("/v1/completions", &completion(server, "def", 4)?)?;
    let baseline = begun.elapsed();
    let whole = completion(server, "def", 2000)?;
    let long = completion(server, &"word ".repeat(1500), 2000)?;
    let asked = |body: &Value, stream: bool| {
        let mut body = body.clone();
        body["stream"] = stream.into();
        Ask::json("/v1/completions", &body).bytes(server.address)
    };
    let (plain, streamed, prefill) = (asked(&whole, false), asked(&whole, true), asked(&long, true));
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    // What is sent, and how long after it the peer leaves.
    let phases: [(&[u8], u64); 7] = [
        (b"", 0),
        (b"POST /v1/completions HTTP/1.1\r\nHost: loc", 0),
        (&half(&plain), 1),
        (&plain, 0),
        (&plain, 20),
        (&prefill, 15),
        (&streamed, 30),
    ];
    for _ in 0..times {
        for (bytes, ms) in &phases {
            for abruptly in [false, true] {
                let mut peer = connect(server.address, PATIENCE).map_err(broken)?;
                peer.write_all(bytes).map_err(broken)?;
                thread::sleep(Duration::from_millis(*ms));
                match abruptly {
                    true => reset(peer)?,
                    false => peer.shutdown(Shutdown::Both).map_err(broken)?,
                }
            }
        }
        drop(begun_stream(server, "/v1/completions", whole.clone())?);
        reset(begun_stream(server, "/v1/completions", whole.clone())?)?;
    }
    let begun = Instant::now();
    server.answer("/v1/completions", &completion(server, "def", 4)?)?;
    let after = begun.elapsed();
    let most = (baseline * 10).max(Duration::from_secs(2));
    t.hold(after <= most, || {
        server.refute("afterwards it answers as before", format!("{after:?}"), format!("at most {most:?}"))
    })?;
    // Nobody listens: what runs has to end long before so many answers of 2000 tokens could.
    let until = Instant::now() + Duration::from_secs(5);
    while server.metric("apr_requests_running")? + server.metric("apr_requests_waiting")? > 0.0 {
        t.hold(Instant::now() < until, || server.refute("who leaves frees his slot", "it runs on", "5 s at most"))?;
        thread::sleep(Duration::from_millis(20));
    }
    let made = server.metric("apr_tokens_generated")?;
    thread::sleep(Duration::from_millis(100));
    t.equal("no more tokens are made", &server.metric("apr_tokens_generated")?, &made)?;
    let used = server.metric("apr_kv_cache_usage")?;
    t.equal("no block is held", &used, &0.0)
}

/// 66: peers who say nothing, half a head, or read nothing. The others do not notice.
pub fn idle(t: &mut Tally, server: &Server, peers: usize) -> Result<(), Halt> {
    let mut kept = Vec::new();
    for i in 0..peers {
        let mut peer = connect(server.address, PATIENCE).map_err(broken)?;
        match i % 3 {
            0 => {}
            1 => peer.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: loc").map_err(broken)?,
            _ => {
                let mut body = completion(server, "def", 40)?;
                body["stream"] = true.into();
                if i % 12 == 2 {
                    peer.write_all(&Ask::json("/v1/completions", &body).bytes(server.address)).map_err(broken)?;
                } else {
                    peer.write_all(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
                        .map_err(broken)?;
                }
            }
        }
        kept.push(peer);
    }
    let begun = Instant::now();
    server.answer("/v1/completions", &completion(server, "def", 4)?)?;
    t.at_most(&format!("seconds of an answer among {peers} idle peers"), begun.elapsed().as_secs_f64(), 10.0)?;
    // Those who only did not read find their answer whole.
    for mut peer in kept.into_iter().skip(2).step_by(12) {
        let mut text = String::new();
        let _ = peer.read_to_string(&mut text);
        t.hold(text.contains("data: [DONE]"), || {
            server.refute("a slow reader gets all of it", text.chars().take(200).collect::<String>(), "[DONE]")
        })?;
    }
    Ok(())
}

/// A stream of some kilobytes a token, asked for by a peer who takes little at once: its bytes pile up in the server.
fn heavy(server: &Server, tokens: usize) -> Result<TcpStream, Halt> {
    let mut body = completion(server, "def", tokens)?;
    (body["stream"], body["n"], body["logprobs"]) = (true.into(), 4.into(), 20.into());
    let mut peer = connect(server.address, PATIENCE).map_err(broken)?;
    set_socket_recv_buffer_size(&peer, 4096).map_err(broken)?;
    peer.write_all(&Ask::json("/v1/completions", &body).bytes(server.address)).map_err(broken)?;
    Ok(peer)
}

/// 66: a peer who reads slowly. Nobody waits for him, and he misses nothing.
pub fn slow(t: &mut Tally, server: &Server) -> Result<(), Halt> {
    let mut peer = heavy(server, 400)?;
    let mut first = [0u8; 200];
    peer.read_exact(&mut first).map_err(broken)?;
    let begun = Instant::now();
    for _ in 0..3 {
        server.answer("/v1/completions", &completion(server, "def", 4)?)?;
    }
    t.at_most("seconds of three answers beside a slow reader", begun.elapsed().as_secs_f64(), 20.0)?;
    thread::sleep(Duration::from_millis(500));
    // With so little room each piece would wait for a delayed acknowledgement: half a minute of nothing.
    set_socket_recv_buffer_size(&peer, 1 << 20).map_err(broken)?;
    let mut rest = Vec::new();
    let read = peer.read_to_end(&mut rest);
    let end = String::from_utf8_lossy(&rest[rest.len().saturating_sub(60)..]).into_owned();
    t.hold(read.is_ok() && end.contains("data: [DONE]"), || {
        server.refute("a slow reader gets all of it", format!("{read:?}, {} bytes, {end}", rest.len()), "[DONE]")
    })?;
    t.number("MB that a slow reader got", rest.len() as f64 / 1e6);
    Ok(())
}

/// 66: peers who read nothing at all of what is more than fits between them and the server. They lose their connection, and
/// what they asked for ends.
pub fn stalled(t: &mut Tally, s: &Subject) -> Result<(), Halt> {
    let server = serve(s, &[])?;
    let peers = (0..8).map(|_| heavy(&server, 3000)).collect::<Result<Vec<_>, _>>()?;
    let cut = |server: &Server| server.metric("apr_requests_ended_total{how=\"cancelled\"}");
    let until = Instant::now() + Duration::from_secs(300);
    while cut(&server)? + server.metric("apr_requests_ended_total{how=\"length\"}")? < 32.0 {
        t.hold(Instant::now() < until, || server.refute("who never reads is cut off", "he is not", "300 s at most"))?;
        thread::sleep(Duration::from_millis(200));
    }
    // Those whose answers were made before they were cut off are cut off later.
    thread::sleep(engine::limits::STALL_TIME + Duration::from_secs(5));
    for mut peer in peers {
        let mut rest = Vec::new();
        let _ = peer.read_to_end(&mut rest);
        let whole = String::from_utf8_lossy(&rest).contains("data: [DONE]");
        t.hold(!whole, || server.refute("a connection that nobody reads is ended", "it is whole", "it is cut"))?;
    }
    server.answer("/v1/completions", &completion(&server, "def", 4)?)?;
    t.equal("no block is held by them", &server.metric("apr_kv_cache_usage")?, &0.0)
}

/// 60, 63, 65, 74 and 75: bytes that are no good HTTP. Each gets the replies that it has to get, and no other.
pub fn nonsense(t: &mut Tally, server: &Server) -> Result<(), Halt> {
    for bad in wire::all() {
        let mut peer = connect(server.address, PATIENCE).map_err(broken)?;
        // It may answer and close before it has read everything.
        let _ = peer.write_all(&bad.bytes);
        if bad.ends {
            let _ = peer.shutdown(Shutdown::Write);
        }
        let mut reply = Vec::new();
        let _ = peer.read_to_end(&mut reply);
        let text = String::from_utf8_lossy(&reply);
        let status = |rest: &str| rest.get(2..5).and_then(|s| s.parse().ok());
        let got: Vec<u16> = text.split("HTTP/1.").skip(1).filter_map(status).collect();
        // Who closes his side may count as gone before his reply is written.
        let gone = bad.ends && got.is_empty();
        t.hold(gone || got == bad.statuses, || {
            let shown: String = text.chars().take(400).collect();
            server.refute(
                &format!("{} is answered with", bad.what),
                format!("{got:?}: {shown}"),
                format!("{:?}", bad.statuses),
            )
        })?;
    }
    server.answer("/v1/completions", &completion(server, "def", 4)?).map(drop)
}
