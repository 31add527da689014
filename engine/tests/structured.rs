//! Tools and structured output over HTTP, with the fixture, which was trained to call tools.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use engine::ServeConfig;
use engine::serve::{Options, Running, start};
use serde_json::{Value, json};

/// One server for all tests. It ends with the process.
fn address() -> SocketAddr {
    static SERVER: OnceLock<Running> = OnceLock::new();
    let start = || {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/qwen2-tiny-q8_0.gguf");
        let config = ServeConfig { model_path: model.into(), host: "127.0.0.1".into(), port: 0, gpu: false };
        start(config, Options { threads: Some(1), ..Options::default() }, |_| Ok(())).unwrap()
    };
    SERVER.get_or_init(start).address()
}

/// Status and body of a conversation.
fn say(body: &Value) -> (u16, String) {
    let mut peer = TcpStream::connect(address()).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    let body = body.to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: ";
    write!(peer, "{head}{}\r\n\r\n{body}", body.len()).unwrap();
    let mut reply = String::new();
    peer.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_string())
}

fn answered(body: &Value) -> Value {
    let (status, reply) = say(body);
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!(status, 200, "{reply}");
    reply["choices"][0].clone()
}

/// The choice that the deltas of a stream make, put together as OpenAI's clients do.
fn streamed(body: &Value) -> Value {
    let mut body = body.clone();
    body["stream"] = true.into();
    let (status, reply) = say(&body);
    assert_eq!(status, 200, "{reply}");
    let (mut content, mut calls, mut reason) = (String::new(), Vec::<Value>::new(), Value::Null);
    let frames = reply.lines().filter_map(|l| l.strip_prefix("data: "));
    for frame in frames.filter(|f| *f != "[DONE]").map(|f| serde_json::from_str::<Value>(f).unwrap()) {
        let choice = &frame["choices"][0];
        content += choice["delta"]["content"].as_str().unwrap_or_default();
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let at = call["index"].as_u64().unwrap() as usize;
            assert!(at <= calls.len(), "{frame}");
            match calls.get_mut(at) {
                None => calls.push(call.clone()),
                Some(known) => {
                    let more = call["function"]["arguments"].as_str().unwrap();
                    known["function"]["arguments"] =
                        (known["function"]["arguments"].as_str().unwrap().to_string() + more).into();
                }
            }
        }
        if !choice["finish_reason"].is_null() {
            assert!(reason.is_null(), "an end after the end: {frame}");
            reason = choice["finish_reason"].clone();
        }
    }
    json!({"content": content, "tool_calls": calls, "finish_reason": reason})
}

fn weather() -> Value {
    json!({"type": "function", "function": {"name": "get_weather", "description": "Get the current weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "The city name"}},
            "required": ["city"]}}})
}

fn asks(words: &str) -> Value {
    json!({"messages": [{"role": "user", "content": words}], "temperature": 0, "max_tokens": 200})
}

#[test]
fn a_tool_is_called_and_its_result_is_used() {
    let mut body = asks("What is the weather in Paris?");
    body["tools"] = json!([weather()]);
    let choice = answered(&body);
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    assert_eq!(choice["message"]["content"], Value::Null);
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[0]["type"]), (1, &json!("function")));
    assert_eq!(calls[0]["function"], json!({"name": "get_weather", "arguments": r#"{"city":"Paris"}"#}));
    // A stream says the same, but for the id, which is another every time.
    let told = streamed(&body);
    assert_eq!((&told["content"], &told["finish_reason"]), (&json!(""), &json!("tool_calls")));
    assert_eq!(told["tool_calls"][0]["function"], calls[0]["function"]);
    assert_ne!(told["tool_calls"][0]["id"], calls[0]["id"]);
    // The message goes back as it came, with what the tool says.
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(choice["message"].clone());
    let result = r#"{"temperature": 21, "condition": "sunny"}"#;
    messages.push(json!({"role": "tool", "tool_call_id": calls[0]["id"], "content": result}));
    let last = answered(&body);
    assert_eq!(last["finish_reason"], "stop");
    assert_eq!(last["message"]["content"], "It is 21 degrees and sunny in Paris.");
    assert_eq!(last["message"].get("tool_calls"), None);
}

#[test]
fn a_tool_that_has_to_be_called_is() {
    let clock = json!({"type": "function", "function": {"name": "get_time"}});
    let mut body = asks("Tell me a story about Paris.");
    body["tools"] = json!([weather(), clock]);
    for (choice, may) in [
        (json!("required"), &["get_weather", "get_time"][..]),
        (json!({"type": "function", "function": {"name": "get_time"}}), &["get_time"]),
        (json!({"type": "function", "function": {"name": "get_weather"}}), &["get_weather"]),
    ] {
        body["tool_choice"] = choice;
        let choice = answered(&body);
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!((calls.len(), &choice["finish_reason"]), (1, &json!("tool_calls")), "{choice}");
        let (name, arguments) = (calls[0]["function"]["name"].as_str().unwrap(), &calls[0]["function"]["arguments"]);
        assert!(may.contains(&name), "{name}");
        let arguments: Value = serde_json::from_str(arguments.as_str().unwrap()).unwrap();
        assert!(arguments.is_object() && (name != "get_weather" || arguments["city"].is_string()), "{arguments}");
        assert_eq!(streamed(&body)["tool_calls"][0]["function"], calls[0]["function"]);
    }
    // Arguments that cannot be held to their schema are not promised.
    body["tools"][0]["function"]["parameters"]["properties"]["city"]["pattern"] = "P.*".into();
    let (status, reply) = say(&body);
    assert!(status == 400 && reply.contains("'pattern' is not supported") && reply.contains("tools[0]"), "{reply}");
}

#[test]
fn without_need_or_leave_no_tool_is_called() {
    let mut body = asks("What is 2+2?");
    let plain = answered(&body);
    // Not to be called is as if it were not there.
    body["tools"] = json!([weather()]);
    body["tool_choice"] = "none".into();
    assert_eq!(answered(&body), plain);
    assert_eq!(streamed(&body)["content"], plain["message"]["content"]);
    // An answer in words stays one, in the letters that the model chose.
    body["tool_choice"] = "auto".into();
    body["messages"][0]["content"] = "Hello!".into();
    let choice = answered(&body);
    assert_eq!(choice["finish_reason"], "stop", "{choice}");
    assert_eq!(streamed(&body)["content"], choice["message"]["content"]);
}

#[test]
fn an_answer_is_the_object_that_was_asked_for() {
    // In words the model would answer otherwise.
    let mut body = asks("What is the capital of France?");
    assert_eq!(answered(&body)["message"]["content"], "The capital of France is Paris.");
    body["response_format"] = json!({"type": "json_object"});
    body["max_tokens"] = 60.into();
    let (mut ended, mut words) = (0, Vec::new());
    for (seed, temperature) in (0..8).map(|seed| (seed, f64::from(seed % 4) * 0.4)) {
        (body["seed"], body["temperature"]) = (seed.into(), temperature.into());
        let choice = answered(&body);
        let text = choice["message"]["content"].as_str().unwrap();
        assert!(text.starts_with('{'), "{text}");
        if choice["finish_reason"] == "stop" {
            assert!(serde_json::from_str::<Value>(text).unwrap().is_object(), "{text}");
            ended += 1;
        }
        // The same alone, again, and as a stream.
        assert_eq!(answered(&body), choice);
        assert_eq!(streamed(&body)["content"], choice["message"]["content"]);
        words.push(text.to_string());
    }
    assert!(ended > 0, "{words:?}");
    // Beside others, each in its own place of the grammar.
    (body["seed"], body["temperature"], body["n"]) = (0.into(), 0.4.into(), 4.into());
    let (_, together) = say(&body);
    let together: Value = serde_json::from_str(&together).unwrap();
    body["n"] = 1.into();
    for (seed, choice) in together["choices"].as_array().unwrap().iter().enumerate() {
        body["seed"] = seed.into();
        assert_eq!(answered(&body)["message"], choice["message"]);
    }
}

#[test]
fn an_answer_fits_the_schema_that_was_sent() {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer"}, "mood": {"enum": ["good", "bad"]}}, "required": ["name", "age", "mood"],
        "additionalProperties": false});
    let valid = jsonschema::validator_for(&schema).unwrap();
    let mut body = asks("Give me a JSON object with name Anna and age 31");
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "person", "schema": schema}});
    body["logprobs"] = true.into();
    body["top_logprobs"] = 5.into();
    for seed in 0..6 {
        (body["seed"], body["temperature"]) = (seed.into(), (f64::from(seed) * 0.3).into());
        let choice = answered(&body);
        assert_eq!(choice["finish_reason"], "stop", "{choice}");
        let told: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert!(valid.is_valid(&told), "{told}");
        if seed == 0 {
            assert_eq!((&told["name"], &told["age"]), (&json!("Anna"), &json!(31)));
        }
        // What may not come has no probability, and a number that is none is null.
        let probs = choice["logprobs"]["content"].as_array().unwrap();
        let all = probs.iter().flat_map(|p| p["top_logprobs"].as_array().unwrap()).chain(probs);
        assert!(all.clone().count() > probs.len() && all.clone().all(|p| p["logprob"].is_number()));
    }
}

#[test]
fn a_schema_that_is_not_understood_is_a_400_that_names_the_keyword() {
    let format = |schema: Value| json!({"type": "json_schema", "json_schema": {"schema": schema}});
    let tools = json!([weather()]);
    for (format, tools, param, says) in [
        (format(json!({"type": "string", "pattern": "a"})), None, "response_format.json_schema.schema", "'pattern'"),
        (json!({"type": "json_schema"}), None, "response_format.json_schema.schema", "is missing"),
        (json!({"type": "xml"}), None, "response_format.type", "json_object"),
        (json!("json"), None, "response_format", "an object"),
        (json!({"type": "json_object"}), Some(tools), "response_format", "calls no tool"),
    ] {
        let mut body = asks("x");
        body["response_format"] = format;
        if let Some(tools) = tools {
            body["tools"] = tools;
        }
        let (status, reply) = say(&body);
        let error: Value = serde_json::from_str::<Value>(&reply).unwrap()["error"].clone();
        assert_eq!((status, error["param"].as_str()), (400, Some(param)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
}

#[test]
fn other_dialects_and_choices_refuse_by_name() {
    for (path, field, value) in [
        ("/v1/completions", "tools", json!([weather()])),
        ("/generate", "tools", json!([weather()])),
        ("/v1/completions", "response_format", json!({"type": "json_object"})),
        ("/v1/chat/completions", "functions", json!([{"name": "f"}])),
        ("/v1/chat/completions", "tool_choice", json!("always")),
    ] {
        let mut body = asks("x");
        body["prompt"] = "x".into();
        body[field] = value;
        let body = body.to_string();
        let mut peer = TcpStream::connect(address()).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: ");
        write!(peer, "{head}{}\r\n\r\n{body}", body.len()).unwrap();
        let mut reply = String::new();
        peer.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 400") && reply.contains(&format!("\"param\":\"{field}\"")), "{reply}");
    }
}

/// Drafts are looked at by the same grammar, so they change no token.
#[test]
fn a_grammar_and_drafts_go_together() {
    use engine::grammar::schema;
    use engine::sample::Sampling;
    use engine::session::{Generation, Loaded, Prompt, Session};
    use std::sync::{Arc, atomic::AtomicBool};
    let model = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/qwen2-tiny-q8_0.gguf"));
    let backend = engine::api::backend(Some(1)).unwrap();
    let mut loaded = Loaded::open(model, &backend, None).unwrap();
    let words = "Give me a JSON object with name Anna, city Rome and pet cat, name Anna, city Rome and pet cat.";
    let ids = loaded.encode_prompt(&Prompt { text: words, system: None, raw: false }).unwrap();
    let string = json!({"type": "string"});
    let one = json!({"type": "object", "properties": {"name": string, "city": string, "pet": string},
        "required": ["name", "city", "pet"]});
    let list = json!({"type": "array", "items": one, "minItems": 3, "maxItems": 3});
    let grammar = Arc::new(schema::compile(&list).unwrap());
    let mut drafted = 0;
    for (seed, temperature) in [(0, 0.0), (1, 0.7), (2, 1.2)] {
        let sampling = Sampling { temperature, seed, ..Sampling::default() };
        let mut answers = [0, 7].map(|draft_max| {
            let (sampling, grammar) = (sampling.clone(), Some(grammar.clone()));
            let generation =
                Generation { max_tokens: 150, sampling, stops: Vec::new(), grammar, prefill_chunk: 64, draft_max };
            let cancel = AtomicBool::new(false);
            Session::new(&mut loaded).generate(&ids, &generation, &mut engine::api::Silent, &cancel).unwrap()
        });
        assert_eq!(answers[0].tokens, answers[1].tokens);
        drafted += std::mem::take(&mut answers[1].drafted).0;
    }
    assert!(drafted > 0, "nothing was drafted");
}
