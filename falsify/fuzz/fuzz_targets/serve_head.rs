//! Anything at all on a connection: the server answers or closes it, says nothing of an error of its own, and goes on.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let reply = fuzz::say(data, true);
    if !reply.is_empty() {
        let (status, body) = fuzz::split(&reply);
        assert!(status != 500 && status < 600, "{status}: {}", String::from_utf8_lossy(body));
    }
});
