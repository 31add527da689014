//! Bodies of requests at every dialect: each is answered or refused with an error object, and none is an error of ours.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// The first byte of an input says where it goes.
const DOORS: &[&str] = &["/v1/chat/completions", "/v1/completions", "/generate", "/tokenize", "/detokenize"];

fuzz_target!(|data: &[u8]| {
    let Some((door, body)) = data.split_first() else { return };
    let path = DOORS[*door as usize % DOORS.len()];
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    let reply = fuzz::say(&[head.as_bytes(), body].concat(), false);
    let (status, body) = fuzz::split(&reply);
    match status {
        // A stream says in its last event what went wrong.
        200 => {}
        400 | 404 | 413 | 504 => {
            let told: serde_json::Value = serde_json::from_slice(body).expect("an error is JSON");
            assert!(told["error"]["message"].as_str().is_some_and(|m| !m.is_empty() && !m.contains('\n')), "{told}");
        }
        other => panic!("{path} was answered {other}: {}", String::from_utf8_lossy(body)),
    }
});
