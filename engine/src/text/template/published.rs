//! Renders the published templates of llama.cpp's models/templates, which are no part of this repository, and holds the
//! result against what Jinja2 made of the same conversations (`golden/text/templates.json`).

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::super::testing::golden;
use super::*;

fn source(name: &str) -> String {
    let folder = std::env::var_os("APR_TEMPLATES").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/oracle/llama.cpp/models/templates"), PathBuf::from);
    let path = folder.join(name).with_extension("");
    let path = path.with_file_name(format!("{name}.jinja"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
#[ignore = "needs the templates of llama.cpp's source in target/oracle (scripts/golden/setup)"]
fn they_render_as_by_jinja2() {
    let golden = golden("templates");
    let mut wrong = Vec::new();
    let mut n = 0;
    for (name, given) in golden["templates"].as_object().unwrap() {
        let source = source(name);
        let template = match ChatTemplate::new(&source, "<s>", "</s>") {
            Ok(t) => t.with_clock(|| UNIX_EPOCH + Duration::from_secs(1_741_100_767)),
            Err(e) => { wrong.push(format!("{name}: {e}")); continue }
        };
        for ((chat, case), want) in golden["chats"].as_object().unwrap().iter().zip(given["chats"].as_array().unwrap()) {
            let want = want.as_str().unwrap();
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let tools = Some(&case["tools"]).filter(|t| !t.is_null());
            let call = Call { messages: &messages, tools, add_generation_prompt: case["add_generation_prompt"] == true, now: (template.now)() };
            let got = template.run(&template.env, &call, &template.bos, &template.eos, None);
            if let (Err(e), Some(message)) = (&got, want.strip_prefix('!')) {
                n += 1;
                let shown: String = message.chars().take(60).collect();
                if message == "!" || (e.kind == Kind::Usage && e.to_string().contains(&shown)) { continue }
            }
            let text = match &got {
                Ok(text) => format!("{}:{}", text.chars().count(), &hex(&Sha256::digest(text))[..16]),
                Err(e) => e.to_string(),
            };
            n += 1;
            if text != want {
                wrong.push(format!("{name}: {chat}: {text} not {want}"));
                if let Ok(text) = got { std::fs::create_dir_all("/tmp/t").unwrap(); std::fs::write(format!("/tmp/t/{name}__{chat}"), text).unwrap(); }
            }
        }
    }
    panic!("{n}\n{}", wrong.join("\n"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What looks like a control token.
fn tokens(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (open, close) in [("<|", "|>"), ("<｜", "｜>"), ("[", "]"), ("<", ">")] {
        let mut rest = text;
        while let Some(at) = rest.find(open) {
            rest = &rest[at..];
            if let Some(end) = rest[1..].find(close) {
                let t = &rest[..end + 1 + close.len()];
                if t.len() < 40 && !t.contains([' ', '\n', '"', '\'', ',', '{', '=']) && t.len() > 2 && !t[1..].contains(open) {
                    all.push(t.to_string());
                }
            }
            rest = &rest[1..];
        }
    }
    all
}

#[test]
fn tmp_paths() {
    let golden = golden("templates");
    let (mut all, mut by, mut lost) = (0, 0, 0);
    for (name, given) in golden["templates"].as_object().unwrap() {
        let source = source(name);
        let mut controls = std::collections::BTreeSet::from(["<s>".to_string(), "</s>".to_string()]);
        let template = ChatTemplate::new(&source, "<s>", "</s>").unwrap();
        let cases: Vec<_> = golden["chats"].as_object().unwrap().iter().map(|(n, case)| {
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            (n, messages, Some(case["tools"].clone()).filter(|t| !t.is_null()), case["add_generation_prompt"] == true)
        }).collect();
        for (_, m, t, p) in &cases[..6] {
            if let Ok(s) = template.render(m, t.as_ref(), *p) { for x in s { let (Segment::Scaffold(t) | Segment::Content(t)) = x; controls.extend(tokens(&t)); } }
        }
        for (_, m, t, p) in &cases[17..25] {
            if let Ok(s) = template.render(m, t.as_ref(), *p) { for x in s { if let Segment::Scaffold(t) = x { controls.extend(tokens(&t)); } } }
        }
        let template = template.with_controls(controls.iter().map(String::as_str));
        for (n, m, t, p) in &cases {
            let call = Call { messages: m, tools: t.as_ref(), add_generation_prompt: *p, now: (template.now)() };
            let Ok(plain) = template.run(&template.env, &call, &template.bos, &template.eos, None) else { continue };
            let marked = template.run(&template.env, &call, &template.bos, &template.eos, Some('\u{e009}'));
            let err = marked.as_ref().err().map(|e| e.to_string());
            let segments = marked.map(|x| origin::segments(&x, '\u{e009}')).unwrap_or_default();
            all += 1;
            if is_text(&segments, &plain) { continue }
            by += 1;
            let count = |s: &str| { let mut at = 0; let mut v = vec![]; while let Some((r, _)) = template.controls.next(s, at, |_| true) { v.push(s[r.clone()].to_string()); at = r.end; } v };
            let want = count(&plain);
            let got: Vec<String> = match template.render_by_source(&call) { Some(s) => s.iter().flat_map(|s| match s { Segment::Scaffold(t) => count(t), _ => vec![] }).collect(), None => vec![] };
            let l = want.len() - got.len().min(want.len());
            if l > 0 && !n.contains("injection") { lost += 1; println!("{name}: {n}: lost {l} of {} {err:?} ", want.len()); if lost < 4000 { let mut w = want.clone(); for g in &got { if let Some(i) = w.iter().position(|x| x == g) { w.remove(i); } } println!("     {w:?}"); } }
            else { println!("{name}: {n}: by source {err:?}"); }
        }
    }
    panic!("{all} {by} {lost}");
}
