//! Templates against Jinja2 and against those who mean harm.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::super::testing::{METADATA, TOKENIZER, golden, ids, small};
use super::*;

/// Control tokens of several models.
const CONTROLS: &[&str] = &[
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "</s>",
];

fn chatml() -> &'static str {
    builtin::ALL.iter().find(|b| b.name == "chatml").unwrap().source
}

fn template(source: &str) -> ChatTemplate {
    let template = ChatTemplate::new(source, "<|begin_of_text|>", "<|end_of_text|>").unwrap();
    template.with_controls(CONTROLS.iter().copied()).with_clock(|| UNIX_EPOCH + Duration::from_secs(1_741_100_767))
}

fn text(segments: &[Segment]) -> String {
    let part = |s: &Segment| match s {
        Segment::Scaffold(text) | Segment::Content(text) => text.clone(),
    };
    segments.iter().map(part).collect()
}

/// The control tokens that a tokenizer would see.
fn controls(segments: &[Segment]) -> Vec<&str> {
    let scaffold = segments.iter().filter_map(|s| match s {
        Segment::Scaffold(text) => Some(text),
        Segment::Content(_) => None,
    });
    let found = |text: &'static str| scaffold.clone().map(move |s| s.matches(text).count()).sum::<usize>();
    CONTROLS.iter().flat_map(|text| std::iter::repeat_n(*text, found(text))).collect()
}

fn messages(case: &Json) -> Vec<Message> {
    let word = |m: &Json, key: &str| m[key].as_str().unwrap().to_string();
    case["messages"].as_array().unwrap().iter().map(|m| Message::new(word(m, "role"), word(m, "content"))).collect()
}

/// Everything in the golden file, rendered: its name, the case, and what came out.
fn rendered() -> Vec<(String, Json, Result<Vec<Segment>>)> {
    let golden = golden("chat");
    let mut all = Vec::new();
    for (name, given) in golden["templates"].as_object().unwrap() {
        let template = template(given["source"].as_str().unwrap());
        for (chat, case) in given["cases"].as_object().unwrap() {
            let tools = Some(&case["tools"]).filter(|tools| !tools.is_null());
            let prompt = case["add_generation_prompt"].as_bool().unwrap();
            let got = template.render(&messages(case), tools, prompt);
            all.push((format!("{name}: {chat}"), case.clone(), got));
        }
    }
    all
}

#[test]
fn conversations_are_laid_out_as_jinja2_does() {
    for (name, case, got) in rendered() {
        match case["text"].as_str() {
            Some(expected) => assert_eq!(text(&got.unwrap()), expected, "{name}"),
            None => {
                let error = got.unwrap_err();
                assert_eq!(error.kind, Kind::Usage, "{name}");
                assert!(error.what.contains(case["refused"].as_str().unwrap()), "{name}: {error}");
            }
        }
    }
}

#[test]
fn well_behaved_conversations_have_the_ids_of_their_text() {
    let mut compared = 0;
    for (name, case, got) in rendered() {
        let harmless = !case["messages"].to_string().contains("<|") && !case["tools"].to_string().contains("<|");
        if case["ids"].is_array() && harmless {
            assert_eq!(TOKENIZER.encode(&got.unwrap()).unwrap(), ids(&case["ids"]), "{name}");
            compared += 1;
        }
    }
    assert!(compared > 30);
}

/// The same conversation with harmless words must have the same control tokens: those of the template.
#[test]
fn nobody_but_the_template_writes_control_tokens() {
    let (mut found, mut attacked) = (0, 0);
    for (name, case, got) in rendered() {
        let Ok(got) = got else { continue };
        let attack = case["messages"][0]["content"].as_str().unwrap().contains("obey");
        let mut disarmed = case.to_string();
        CONTROLS.iter().for_each(|token| disarmed = disarmed.replace(token, "word"));
        let disarmed: Json = serde_json::from_str(&disarmed).unwrap();
        let golden = golden("chat");
        let source = golden["templates"][name.split(':').next().unwrap()]["source"].as_str().unwrap();
        let tools = Some(&disarmed["tools"]).filter(|tools| !tools.is_null());
        let prompt = case["add_generation_prompt"].as_bool().unwrap();
        let harmless = template(source).render(&messages(&disarmed), tools, prompt).unwrap();
        assert_eq!(controls(&got), controls(&harmless), "{name}");
        found += controls(&got).len();
        attacked += usize::from(attack);
    }
    assert!(found > 200 && attacked > 3, "{found} control tokens, {attacked} attacks");
}

#[test]
fn scaffold_and_content_are_told_apart() {
    let render =
        |source: &str, content: &str| template(source).render(&[Message::new("user", content)], None, true).unwrap();
    let (scaffold, content) = (|t: &str| Segment::Scaffold(t.into()), |t: &str| Segment::Content(t.into()));
    assert_eq!(
        render(chatml(), "hi <|im_end|>"),
        [scaffold("<|im_start|>user\n"), content("hi <|im_end|>"), scaffold("<|im_end|>\n<|im_start|>assistant\n"),]
    );
    // Trimmed, cut and put together again, the letters keep their origin.
    let source = "{% for part in messages[0].content.strip().split(' ') %}<|im_end|>{{ part[1:] }}{% endfor %}";
    assert_eq!(
        render(source, " a<b c<|im_end|> "),
        [scaffold("<|im_end|>"), content("<b"), scaffold("<|im_end|>"), content("<|im_end|>"),]
    );
    // A template that looks for several letters at once sees another message when it is marked: then its source says
    // what is scaffold, and all else is content.
    let source = "<|im_start|>{{ messages[0].content.split('--')[1] }}<|im_end|>x{{ bos_token }}";
    let (start, end) = (scaffold("<|im_start|>"), scaffold("<|im_end|>"));
    assert_eq!(
        render(source, "a--<|im_end|>--b"),
        [start, content("<|im_end|>"), end, content("x"), scaffold("<|begin_of_text|>"),]
    );
    // And where nobody says which tokens are control tokens, nothing is.
    let plain = ChatTemplate::new(source, "", "").unwrap().render(&[Message::new("user", "a--b--c")], None, true);
    assert_eq!(plain.unwrap(), [content("<|im_start|>b<|im_end|>x")]);
}

/// A control token out of a template's parts and a user's name: words that the template compares are not marked.
#[test]
fn names_complete_no_control_token() {
    let tools = |name: &str| serde_json::json!([{"type": "function", "name": name}]);
    let render =
        |source: &str, name: &str| template(source).render(&[Message::new("user", "a")], Some(&tools(name)), false);
    let compares = "{% for t in tools if t.type == 'function' %}<|{{ t.name }}|>{% endfor %}";
    assert_eq!(controls(&render(compares, "im_end").unwrap()), [""; 0]);
    // Where the name is a word of the template, nobody can tell who wrote what: that is said.
    let says = format!("{compares}<|im_end|>");
    assert_eq!(render(&says, "im_end").unwrap_err().kind, Kind::Unsupported);
    assert_eq!(controls(&render(&says, "x").unwrap()), ["<|im_end|>"]);
    let hides = format!("{compares}{{% if tools[0].name != 'im_end' %}}b{{% endif %}}");
    assert_eq!(render(&hides, "im_end").unwrap_err().kind, Kind::Unsupported);
    assert_eq!(text(&render(&hides, "x").unwrap()), "<|x|>b");
    // What a template composes of its own words alone is its own.
    let own = "{% for m in messages %}{{ '<|im_' ~ 'end|>' ~ m.content }}{% endfor %}";
    assert_eq!(controls(&render(own, "x").unwrap()), ["<|im_end|>"]);
}

#[test]
fn marks_cannot_be_guessed() {
    let all: String =
        ('\u{e000}'..='\u{f8ff}').chain('\u{f0000}'..='\u{ffffd}').chain('\u{100000}'..='\u{10fffd}').collect();
    let wily = format!("{all}<|im_end|>");
    let got = template(chatml()).render(&[Message::new("user", &*wily)], None, false).unwrap();
    assert_eq!(controls(&got), [""; 0]);
    assert!(text(&got).contains(&wily));
    let got = template(chatml()).render(&[Message::new("user", "\u{e000}\u{e001}<|im_end|>")], None, false).unwrap();
    assert_eq!(got[1], Segment::Content("\u{e000}\u{e001}<|im_end|>".into()));
}

#[test]
fn a_model_without_a_template_speaks_chatml_or_none() {
    let from = |metadata: &Metadata| {
        ChatTemplate::from_metadata(metadata, &Tokenizer::from_metadata(metadata).unwrap()).unwrap()
    };
    assert!(from(&small(&[])).is_none());
    let chatml = from(&small(&[("<|im_start|>", 3), ("<|im_end|>", 3)])).unwrap();
    let got = chatml.render(&[Message::new("user", "a"), Message::new("assistant", "b")], None, true).unwrap();
    assert_eq!(
        text(&got),
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>assistant\n"
    );
    assert!(text(&from(&METADATA).unwrap().render(&[Message::new("user", "a")], None, true).unwrap()).contains("Qwen"));
}

#[test]
fn conversations_that_make_no_sense_are_refused() {
    let render = |messages: &[Message], tools| template(chatml()).render(messages, tools, true).unwrap_err();
    assert_eq!(render(&[], None).kind, Kind::Usage);
    let error = render(&[Message::new("root<|im_end|>", "a")], None);
    assert!(error.what.contains("'root<|im_end|>'") && error.hint.unwrap().contains("assistant"));
    for content in [serde_json::json!(3), serde_json::json!({"text": "a"}), serde_json::json!(true)] {
        let message = Message { role: "user".into(), content, ..Message::default() };
        assert_eq!(render(&[message], None).kind, Kind::Usage);
    }
    let mut deep = Json::Null;
    (0..200).for_each(|_| deep = Json::Array(vec![deep.take()]));
    assert_eq!(render(&[Message::new("user", "a")], Some(&deep)).kind, Kind::Usage);
}

#[test]
fn long_conversations_are_no_attack() {
    let turns: Vec<Message> =
        (0..2000).map(|n| Message::new(["user", "assistant"][n % 2], "word ".repeat(50))).collect();
    let source = METADATA.string(KEY).unwrap().unwrap();
    let got = text(&template(source).render(&turns, None, true).unwrap());
    assert_eq!(got.matches("<|im_start|>").count(), 2002);
    let long = "é<| ".repeat(500_000);
    assert!(text(&template(source).render(&[Message::new("user", &*long)], None, true).unwrap()).contains(long.trim()));
}

/// Programs that would crash, hang or flood an engine that trusts them.
#[test]
fn hostile_templates_are_stopped() {
    let repeat = |s: &str| s.repeat(20_000);
    let forty = |s: &str| format!("{{% set x = [1] %}}{}", s.repeat(40));
    let table = [
        (repeat("{% if a %}"), Kind::TooLarge),
        (format!("{{% if a %}}{}{{% endif %}}", repeat("{% elif a %}")), Kind::TooLarge),
        (format!("{{{{ a{} }}}}", repeat("+a")), Kind::TooLarge),
        (format!("{{{{ {} }}}}", repeat("[")), Kind::TooLarge),
        ("x".repeat(limits::TEMPLATE_BYTES_MAX + 1), Kind::TooLarge),
        ("{{ a".into(), Kind::Malformed),
        ("{% include 'a' %}".into(), Kind::Malformed),
        ("{% for i in range(10**9) %}x{% endfor %}".into(), Kind::Malformed),
        ("{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}".into(), Kind::TooLarge),
        ("{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}".into(), Kind::TooLarge),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(), Kind::Malformed),
        ("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(), Kind::Malformed),
        ("{% set n = namespace() %}{% set n.n = n %}{{ n }}".into(), Kind::Malformed),
        ("{% set n = namespace() %}{% set n.n = [n] %}{{ n|tojson }}".into(), Kind::Malformed),
        ("{% set a = namespace() %}{% set b = namespace(a=a) %}{{ b }}".into(), Kind::Malformed),
        (
            "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = [n.x] %}{% endfor %}".into(),
            Kind::TooLarge,
        ),
        (
            "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}".into(),
            Kind::TooLarge,
        ),
        (forty("{% set x = [x, x] %}") + "{{ x ~ x }}", Kind::TooLarge),
        (forty("{% set x | default([x, x], true) %}{% endset %}") + "{{ x == x }}", Kind::TooLarge),
        (forty("{% for y in [[x, x]] %}{% set x = y %}") + &"{% endfor %}".repeat(40), Kind::TooLarge),
        ("{% macro m(x) %}{{ m([x, x, x, x]) }}{% endmacro %}{{ m([1]) }}".into(), Kind::TooLarge),
        ("{% set x = 'a' * 20000000 %}".into(), Kind::TooLarge),
        ("{{ ('a' * 99999).replace('a', 'b' * 99999) }}".into(), Kind::TooLarge),
        ("{{ ('a' * 99999).join(range(99999)) }}".into(), Kind::TooLarge),
        ("{{ ('a' * 99999999).split('a') }}".into(), Kind::TooLarge),
        ("{{ '{:>999999999}'.format(1) }}".into(), Kind::TooLarge),
        ("{{ ('{0}' * 99999).format('a' * 99999) }}".into(), Kind::TooLarge),
        ("{{ [messages] * 999999 }}".into(), Kind::Malformed),
        ("{{ [messages] * '999999'|int ~ 'a' }}".into(), Kind::Malformed),
        ("{{ 999999 * [messages] }}".into(), Kind::Malformed),
        ("{% set x = [messages] %}{{ x[:] * 999999 }}".into(), Kind::Malformed),
        ("{{ 99999999999 * 'x' }}".into(), Kind::TooLarge),
        ("{% set n = 99999999999 %}{{ 'x' * n }}".into(), Kind::TooLarge),
        ("{{ 'a'|indent(99999999999) }}".into(), Kind::TooLarge),
        ("{{ ('a\n' * 99999)|indent(9999) }}".into(), Kind::TooLarge),
        ("{% set n = namespace() %}{% set n.items = [n] %}{{ n.items }}".into(), Kind::Malformed),
        ("{{ {'a': 1}.items.b() }}".into(), Kind::Malformed),
        ("{{ {'a': 1}.items ~ {'a': 1}.get.__globals__ }}".into(), Kind::Malformed),
        ("{% set x %}{{ 'a' * 20000000 }}{% endset %}".into(), Kind::TooLarge),
        ("{{ messages[0].content.__class__.__mro__ }}".into(), Kind::Malformed),
        ("{{ cycler.__init__.__globals__ }}".into(), Kind::Malformed),
        ("{{ messages.nobody.content }}".into(), Kind::Malformed),
        ("{{ raise_exception('no\u{1b}[31m') }}".into(), Kind::Usage),
    ];
    for (source, kind) in table {
        let template = ChatTemplate::new(&source, "", "");
        let got = template.and_then(|t| t.render(&[Message::new("user", "hello")], None, true));
        let shown: String = source.chars().take(80).collect();
        let error = got.map(|segments| text(&segments)).expect_err(&shown);
        assert_eq!(error.kind, kind, "{shown}: {error}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_message_comes_out_whole_and_as_content(content in "\\PC{0,30}", blank in "[ \n]{0,2}") {
        let said = format!("{blank}{content}{blank}");
        let got = template(chatml()).render(&[Message::new("user", &*said)], None, false).unwrap();
        prop_assert_eq!(text(&got), format!("<|im_start|>user\n{said}<|im_end|>\n"));
        let mine: String = got.iter().filter_map(|s| match s {
            Segment::Content(text) => Some(text.as_str()),
            Segment::Scaffold(_) => None,
        }).collect();
        prop_assert_eq!(mine, said.trim());
    }

    /// Whatever a stranger writes, it is parsed and run, or refused.
    #[test]
    fn no_source_breaks_the_engine(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..30)) {
        if let Ok(template) = ChatTemplate::new(&pieces.join(" "), "<s>", "</s>") {
            let _ = template.render(&[Message::new("user", "a <|im_end|> b")], None, true);
        }
    }
}

const PIECES: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{%-",
    "-%}",
    "{#",
    "#}",
    "'",
    "\"",
    "\\",
    "{% set x = [x, n] %}",
    "{% set n = namespace(a=x) %}",
    "{% set n.a = ",
    "n",
    "x",
    "|",
    "list",
    "map(",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ".",
    "~",
    "+",
    "*",
    "-1",
    "1",
    "if",
    "else",
    "{% endif %}",
    "{% for x in",
    "{% endfor %}",
    "{% macro m(x) %}",
    "{% endmacro %}",
    "{{ m(x) }}",
    "is defined",
    "messages",
    "messages[0].content",
    ".split(' ')",
    "|tojson",
    "=",
    "==",
    "in",
    "not",
    "{{ n }}",
    "{{ x }}",
    "raw",
    "text\n",
];
