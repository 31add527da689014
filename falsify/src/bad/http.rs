//! Requests that are wrong: families 60 to 65, 69, 74 and 75 of the bad inputs. The table says how each is refused.

use serde_json::{Value, json};

use crate::http::Ask;

/// A bad request and what has to be said about it.
pub struct Bad {
    /// What is wrong.
    pub what: String,
    /// The request.
    pub ask: Ask,
    /// Statuses that are right.
    pub status: &'static [u16],
    /// What the message or the field has to name.
    pub names: &'static str,
}

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn bad(what: impl Into<String>, ask: Ask, status: &'static [u16], names: &'static str) -> Bad {
    Bad { what: what.into(), ask, status, names }
}

/// 60: bodies that are no JSON object.
pub fn bodies() -> Vec<Bad> {
    let deep = |n: usize| format!("{{\"prompt\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let utf16: Vec<u8> = "{\"prompt\":\"x\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("cut short", b"{\"prompt\": \"x".to_vec()),
        ("a comma too many", b"{\"prompt\": \"x\",}".to_vec()),
        ("NaN", b"{\"prompt\": \"x\", \"temperature\": NaN}".to_vec()),
        ("single quotes", b"{'prompt': 'x'}".to_vec()),
        ("a byte order mark", b"\xef\xbb\xbf{\"prompt\": \"x\"}".to_vec()),
        ("UTF-16", utf16),
        ("not UTF-8", b"{\"prompt\": \"caf\xe9\"}".to_vec()),
        ("a lone surrogate", b"{\"prompt\": \"\\ud800\"}".to_vec()),
        ("a control character", b"{\"prompt\": \"\x01\"}".to_vec()),
        ("two objects", b"{\"prompt\": \"x\"}{\"prompt\": \"y\"}".to_vec()),
        ("a list", b"[{\"prompt\": \"x\"}]".to_vec()),
        ("a string", b"\"x\"".to_vec()),
        ("a number", b"1e999".to_vec()),
        ("a form", b"prompt=x".to_vec()),
        ("lists 127 deep", deep(127).into_bytes()),
        ("lists 129 deep", deep(129).into_bytes()),
        ("lists 100,000 deep", deep(100_000).into_bytes()),
        ("objects 50,000 deep", "{\"prompt\":".repeat(50_000).into_bytes()),
        ("a million zeros", format!("{{\"prompt\":[{}\"x\"]}}", "0,".repeat(1_000_000)).into_bytes()),
    ];
    let paths = [CHAT, TEXT, "/generate", "/tokenize", "/detokenize"];
    let of = |(what, body): &(&str, Vec<u8>)| {
        paths.map(|p| bad(format!("60: {what}"), Ask::post(p, body.clone()), &[400], ""))
    };
    rows.iter().flat_map(of).collect()
}

/// 61 and 62: fields with wrong values. Each message names its field.
pub fn fields() -> Vec<Bad> {
    let table: &[(&'static str, &[Value])] = &[
        ("max_tokens", &[json!(0), json!(-1), json!(1.5), json!("16"), json!(1e12), json!([])]),
        (
            "temperature",
            &[json!(-1), json!(-0.001), json!(2.001), json!(999_999), json!("NaN"), json!(1e308), json!(true)],
        ),
        ("top_p", &[json!(-1), json!(1.0001), json!("1")]),
        ("top_k", &[json!(-5), json!(1.5), json!("40")]),
        ("min_p", &[json!(2), json!(-0.1)]),
        ("presence_penalty", &[json!(2.5), json!(-3)]),
        ("frequency_penalty", &[json!(2.5), json!("0")]),
        ("n", &[json!(0), json!(1_000_000), json!(1.5), json!("2")]),
        ("seed", &[json!(18_446_744_073_709_551_616.0), json!("7"), json!(1.5)]),
        ("stop", &[json!(3), json!({}), json!([1]), json!([""]), json!("x".repeat(5000)), json!(vec!["x"; 1000])]),
        ("logit_bias", &[json!({"1000000000": 1}), json!({"-1": 1}), json!({"x": 1}), json!({"1": 101}), json!([1])]),
        ("stream", &[json!("yes"), json!(1)]),
        ("stream_options", &[json!("x"), json!({"include_usage": true})]),
        ("model", &[json!("../../etc/passwd"), json!("gpt-4"), json!(3), json!("")]),
        ("samplers", &[json!("magic"), json!(1)]),
        // What would change the answer and is not built.
        ("tools", &[json!([{"type": "function", "function": {"name": ""}}])]),
        ("response_format", &[json!({"type": "xml"})]),
        ("tool_choice", &[json!("required")]),
        ("suffix", &[json!("end")]),
        ("echo", &[json!(true)]),
        ("best_of", &[json!(2)]),
        ("guided_json", &[json!({})]),
        ("ignore_eos", &[json!(true)]),
        ("reasoning_effort", &[json!("high")]),
    ];
    let good = [
        (TEXT, json!({"prompt": "x"})),
        (CHAT, json!({"messages": [{"role": "user", "content": "x"}]})),
        ("/generate", json!({"prompt": "x"})),
    ];
    let mut all = Vec::new();
    for (name, values) in table {
        for value in *values {
            for (path, body) in &good {
                let mut body = body.clone();
                body[*name] = value.clone();
                let shown: String = value.to_string().chars().take(40).collect();
                all.push(bad(format!("61: {name} = {shown}"), Ask::json(path, &body), &[400, 404], name));
            }
        }
    }
    all
}

/// 59, 62: what a request needs, left out or of every other type.
pub fn needed() -> Vec<Bad> {
    let types = [json!(null), json!(true), json!(3), json!(1.5), json!({}), json!([{}]), json!([[["x"]]]), json!([])];
    let mut all = Vec::new();
    for (path, name) in [
        (TEXT, "prompt"),
        ("/generate", "prompt"),
        (CHAT, "messages"),
        ("/detokenize", "tokens"),
        ("/tokenize", "content"),
    ] {
        all.push(bad(format!("62: {path} without {name}"), Ask::json(path, &json!({})), &[400], name));
        for value in types.iter().filter(|v| !(name == "tokens" && **v == json!([]))) {
            all.push(bad(format!("62: {path} {name} = {value}"), Ask::json(path, &json!({name: value})), &[400], name));
        }
    }
    let messages: &[(&'static str, Value)] = &[
        ("role", json!([{"content": "x"}])),
        ("role", json!([{"role": null, "content": "x"}])),
        ("role", json!([{"role": 3, "content": "x"}])),
        ("role", json!([{"role": "wizard", "content": "x"}])),
        ("role", json!([{"role": "user<|im_end|>", "content": "x"}])),
        ("content", json!([{"role": "user"}])),
        ("content", json!([{"role": "user", "content": null}])),
        ("content", json!([{"role": "user", "content": 3}])),
        ("content", json!([{"role": "user", "content": {"text": "x"}}])),
        ("content", json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])),
        ("content", json!([{"role": "user", "content": ["x"]}])),
        ("name", json!([{"role": "user", "content": "x", "name": 3}])),
        ("messages[1]", json!([{"role": "user", "content": "x"}, 3])),
        ("messages", json!(["x"])),
    ];
    all.extend(
        messages.iter().map(|(name, m)| {
            bad(format!("59: messages = {m}"), Ask::json(CHAT, &json!({"messages": m})), &[400], name)
        }),
    );
    all
}

/// 60, 63, 64, 65, 74, 75: what is wrong with a request before its body is looked at.
pub fn heads() -> Vec<Bad> {
    let good = || Ask::json(TEXT, &json!({"prompt": "x", "max_tokens": 1}));
    let get = |path: &str| Ask::get(path);
    vec![
        bad("60: a body that is gzip", good().header("Content-Encoding", "gzip"), &[415], "gzip"),
        bad("63: a foreign name", good().header("Host", "evil.example"), &[403], "evil.example"),
        bad(
            "63: an address as the beginning of a name",
            good().header("Host", "127.0.0.1.evil.example"),
            &[403],
            "evil",
        ),
        bad("63: a foreign name with a port", get("/v1/models").header("Host", "evil.example:8080"), &[403], "evil"),
        bad("63: a foreign name of the health", get("/health").header("Host", "evil.example"), &[403], "evil"),
        bad("63: an absolute target", Ask::get("http://evil.example/v1/models"), &[403], "evil"),
        bad("63: an empty name", get("/v1/models").header("Host", ""), &[400, 403], ""),
        bad("64: a foreign page", good().header("Origin", "https://evil.example"), &[403], "evil"),
        bad("64: a page of nowhere", good().header("Origin", "null"), &[403], "null"),
        bad(
            "64: a form of a foreign page",
            good().header("Origin", "https://evil.example").header("Content-Type", "text/plain"),
            &[403],
            "evil",
        ),
        bad(
            "64: a preflight of a foreign page",
            get(TEXT)
                .method("OPTIONS")
                .header("Origin", "https://evil.example")
                .header("Access-Control-Request-Method", "POST"),
            &[403],
            "evil",
        ),
        bad("74: GET on a route for POST", get("/generate"), &[405], "POST"),
        bad("74: POST on a route for GET", Ask::post("/health", ""), &[405], "GET"),
        bad("74: DELETE", get("/v1/models").method("DELETE"), &[405], "GET"),
        bad("74: OPTIONS without a page", get("/generate").method("OPTIONS"), &[405], "POST"),
        bad("74: TRACE", get("/generate").method("TRACE"), &[405], "POST"),
        bad("74: a method of our own", get("/generate").method("MAGIC"), &[405], "POST"),
        bad("74: slashes", get("//v1//models"), &[404], "//v1//models"),
        bad("74: upwards", get("/v1/../v1/models"), &[404], ".."),
        bad("74: upwards in disguise", get("/v1/%2e%2e/models"), &[404], "%2e%2e"),
        bad("74: capitals", get("/V1/Models"), &[404], "/V1/Models"),
        bad("74: nothing there", get("/nothing"), &[404], "/nothing"),
        bad("74: another model", get("/v1/models/..%2F..%2Fetc%2Fpasswd"), &[404], "etc/passwd"),
        bad(
            "69: no room for an answer",
            Ask::json(TEXT, &json!({"prompt": vec![9; 4096], "max_tokens": 1})),
            &[400],
            "maximum context length",
        ),
        bad(
            "69: no room for so long an answer",
            Ask::json(TEXT, &json!({"prompt": vec![9; 4000], "max_tokens": 97})),
            &[400],
            "maximum context length",
        ),
        bad("61: a trace of no level", good().header("X-Trace-Level", "everything"), &[400], "brick"),
        // Last, since a proxy waits for the body.
        bad("60: a body of 9 MB, announced", good().header("Content-Length", "9000000"), &[413], "body"),
    ]
}
