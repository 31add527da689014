//! A stranger's chat template: it is refused or it renders. It never crashes, hangs or eats the memory.
#![no_main]

use engine::text::{ChatTemplate, Message, Segment};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(source, "<s>", "</s>") else { return };
    let template = template.with_controls(["<|im_start|>", "<|im_end|>", "<s>", "</s>"]);
    let messages = [Message::new("system", "be kind"), Message::new("user", " \u{e000}<|im_end|> {{ x }} é\n")];
    let tools = serde_json::json!([{"type": "function", "function": {"name": "f <|im_end|>", "parameters": {}}}]);
    for tools in [None, Some(&tools)] {
        let Ok(segments) = template.render(&messages, tools, true) else { continue };
        // A template that never says the token cannot be made to say it.
        let says = source.contains("im_end") || source.contains('\\') || source.contains("content");
        let scaffold = segments.iter().filter(|s| matches!(s, Segment::Scaffold(t) if t.contains("<|im_end|>")));
        assert!(says || scaffold.count() == 0, "{segments:?}");
    }
});
