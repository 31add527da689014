//! Templates for files that carry none: chosen by the control tokens of the vocabulary, which a model was taught with
//! its layout. Where tokens say nothing (Llama 2 and the first Mistral have none of their own), by the model's name.
//! What fits nothing here gets no template: a wrong frame is worse than none.
//!
//! Each renders what the published template of the family renders (`golden/text/builtin.json`), in fewer words: no
//! tools, no dates, no default system message.

use crate::error::Result;
use crate::file::Metadata;
use crate::text::Tokenizer;

/// A layout that is known by name.
pub(super) struct Builtin {
    /// Its name.
    pub name: &'static str,
    /// Control tokens that the vocabulary must have.
    tokens: &'static [&'static str],
    /// Control tokens that say that it is another layout.
    without: &'static [&'static str],
    /// `tokenizer.ggml.model`, where two layouts share their tokens.
    model: Option<&'static str>,
    /// Words that `general.name` must have.
    named: &'static [&'static str],
    /// The template.
    pub source: &'static str,
}

const BUILTIN: Builtin = Builtin { name: "", tokens: &[], without: &[], model: None, named: &[], source: "" };

/// The first that fits is taken: those that ask for more stand first.
pub(super) static ALL: &[Builtin] = &[
    Builtin {
        name: "phi-4",
        tokens: &["<|im_start|>", "<|im_sep|>", "<|im_end|>"],
        source: "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
        ..BUILTIN
    },
    Builtin {
        name: "chatml",
        tokens: &["<|im_start|>", "<|im_end|>"],
        source: "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        ..BUILTIN
    },
    // Before Llama 3, whose tokens the distilled Llama has as well.
    Builtin {
        name: "deepseek-r1",
        tokens: &["<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<think>"],
        source: "{{ bos_token }}{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}\
            {% for m in messages if m.role != 'system' %}\
            {% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}\
            {% elif m.role == 'assistant' %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}\
            {% else %}{{ raise_exception('only system, user and assistant may speak') }}{% endif %}{% endfor %}\
            {% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}",
        ..BUILTIN
    },
    Builtin {
        name: "llama-3",
        tokens: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        source: "{{ bos_token }}{% for m in messages %}\
            {{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content|trim + '<|eot_id|>' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        ..BUILTIN
    },
    // A system message goes before the first user's words, as Gemma 3 does; Gemma 2 has none.
    Builtin {
        name: "gemma",
        tokens: &["<start_of_turn>", "<end_of_turn>"],
        source: "{{ bos_token }}{% set system = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}\
            {% for m in (messages[1:] if system else messages) %}\
            {% if m.role != ['user', 'assistant'][loop.index0 % 2] %}\
            {{ raise_exception('roles must alternate, the user first') }}{% endif %}\
            {{ '<start_of_turn>' + ('user' if m.role == 'user' else 'model') + '\\n' + (system if loop.first else '') + \
            m.content|trim + '<end_of_turn>\\n' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        ..BUILTIN
    },
    Builtin {
        name: "phi-3",
        tokens: &["<|user|>", "<|assistant|>", "<|end|>"],
        source: "{% for m in messages if m.content or m.role != 'system' %}\
            {{ {'system': '<|system|>', 'user': '<|user|>', 'assistant': '<|assistant|>'}[m.role] + '\\n' + m.content + '<|end|>\\n' }}\
            {% endfor %}{{ '<|assistant|>\\n' if add_generation_prompt else eos_token }}",
        ..BUILTIN
    },
    Builtin {
        name: "mistral-v3-tekken",
        tokens: &["[INST]", "[/INST]"],
        without: &["[SYSTEM_PROMPT]"],
        model: Some("gpt2"),
        source: "{{ bos_token }}{% set system = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}\
            {% for m in (messages[1:] if system else messages) %}\
            {% if m.role != ['user', 'assistant'][loop.index0 % 2] %}\
            {{ raise_exception('roles must alternate, the user first') }}{% endif %}\
            {% if m.role == 'user' %}{{ '[INST]' + (system if loop.last else '') + m.content + '[/INST]' }}\
            {% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
        ..BUILTIN
    },
    Builtin {
        name: "mistral-v3",
        tokens: &["[INST]", "[/INST]"],
        without: &["[SYSTEM_PROMPT]"],
        model: Some("llama"),
        source: "{{ bos_token }}{% set system = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}\
            {% for m in (messages[1:] if system else messages) %}\
            {% if m.role != ['user', 'assistant'][loop.index0 % 2] %}\
            {{ raise_exception('roles must alternate, the user first') }}{% endif %}\
            {% if m.role == 'user' %}{{ '[INST] ' + (system if loop.last else '') + m.content + '[/INST]' }}\
            {% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        ..BUILTIN
    },
    Builtin {
        name: "llama-2",
        named: &["llama", "2", "chat"],
        without: &["[INST]"],
        model: Some("llama"),
        source: "{% set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' if messages[0].role == 'system' else '' %}\
            {% for m in (messages[1:] if system else messages) %}\
            {% if m.role != ['user', 'assistant'][loop.index0 % 2] %}\
            {{ raise_exception('roles must alternate, the user first') }}{% endif %}\
            {% if m.role == 'user' %}\
            {{ bos_token + '[INST] ' + ((system if loop.first else '') + m.content).strip() + ' [/INST]' }}\
            {% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        ..BUILTIN
    },
    Builtin {
        name: "mistral-v1",
        named: &["mistral", "instruct"],
        without: &["[INST]"],
        model: Some("llama"),
        source: "{{ bos_token }}{% set system = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}\
            {% for m in (messages[1:] if system else messages) %}\
            {% if m.role != ['user', 'assistant'][loop.index0 % 2] %}\
            {{ raise_exception('roles must alternate, the user first') }}{% endif %}\
            {% if m.role == 'user' %}{{ ' [INST] ' + (system if loop.first else '') + m.content + ' [/INST]' }}\
            {% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        ..BUILTIN
    },
];

/// The layout that a file without a template was made for, if its vocabulary or its name says so.
pub(super) fn of(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Option<&'static Builtin>> {
    let model = metadata.string("tokenizer.ggml.model")?;
    let name = metadata.string("general.name")?.unwrap_or("").to_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).collect();
    let has = |token: &&str| tokenizer.special(token).is_some();
    Ok(ALL.iter().find(|b| {
        b.tokens.iter().all(has)
            && !b.without.iter().any(has)
            && b.model.is_none_or(|m| model == Some(m))
            && b.named.iter().all(|word| words.contains(word))
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::super::{ChatTemplate, Message};
    use super::*;
    use crate::error::Kind;
    use crate::file::Value;
    use crate::text::Segment;
    use crate::text::testing::{golden, small, with};

    fn text(segments: &[Segment]) -> String {
        let part = |s: &Segment| match s {
            Segment::Scaffold(text) | Segment::Content(text) => text.clone(),
        };
        segments.iter().map(part).collect()
    }

    /// The name of the layout for a vocabulary with these control tokens.
    fn chosen(tokens: &[&str], model: &str, name: &str) -> Option<&'static str> {
        let tokens: Vec<(&str, u64)> = tokens.iter().map(|t| (*t, 3)).collect();
        let metadata = small(&tokens);
        let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
        let mut metadata = with(metadata, "model", Value::String(model.into()));
        metadata.entries.insert("general.name".into(), Value::String(name.into()));
        of(&metadata, &tokenizer).unwrap().map(|b| b.name)
    }

    #[test]
    fn tokens_say_which_layout_it_is() {
        for builtin in ALL {
            let model = builtin.model.unwrap_or("gpt2");
            assert_eq!(chosen(builtin.tokens, model, &builtin.named.join("-")), Some(builtin.name));
            assert!(!builtin.tokens.is_empty() || !builtin.named.is_empty(), "{} is for everyone", builtin.name);
        }
        assert_eq!(chosen(&[], "gpt2", ""), None);
        assert_eq!(chosen(&["<|im_start|>"], "gpt2", ""), None);
        assert_eq!(chosen(&["[INST]", "[/INST]", "[SYSTEM_PROMPT]"], "gpt2", "mistral instruct"), None);
        assert_eq!(chosen(&["<s>", "</s>"], "llama", "Llama 2 7B"), None);
        assert_eq!(chosen(&["<s>", "</s>"], "llama", "LLaMA v2 7b chat hf"), None);
        assert_eq!(chosen(&["<s>", "</s>"], "llama", "meta-llama_Llama-2-7b-chat-hf"), Some("llama-2"));
        assert_eq!(chosen(&["<s>", "</s>"], "llama", "Mistral 7B Instruct v0.2"), Some("mistral-v1"));
        // The distilled Llama has Llama 3's tokens too.
        let both = [ALL[2].tokens, ALL[3].tokens].concat();
        assert_eq!(chosen(&both, "gpt2", ""), Some("deepseek-r1"));
    }

    #[test]
    fn they_render_what_the_published_ones_do() {
        let (builtins, conversations) = (golden("builtin"), golden("templates"));
        let mut compared = 0;
        for builtin in ALL {
            let template = ChatTemplate::new(builtin.source, "<s>", "</s>").unwrap();
            for (name, want) in builtins["templates"][builtin.name]["chats"].as_object().unwrap() {
                let case = &conversations["chats"][name];
                let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
                let got = template.render(&messages, None, case["add_generation_prompt"] == true);
                match (want, got) {
                    (Json::String(want), Ok(got)) => assert_eq!(text(&got), *want, "{}: {name}", builtin.name),
                    (Json::Null, Err(e)) => assert_eq!(e.kind, Kind::Usage, "{}: {name}: {e}", builtin.name),
                    (want, got) => panic!("{}: {name}: {got:?}, not {want}", builtin.name),
                }
                compared += 1;
            }
        }
        assert!(compared > 80, "{compared} conversations");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// Whatever is said, the control tokens are those of the same conversation in harmless words.
        #[test]
        fn nobody_but_the_template_writes_control_tokens(
            pieces in prop::collection::vec(prop::sample::select(PIECES), 1..8),
            glue in prop::sample::select(&["", " ", "\n", "</think>", "x"][..]),
        ) {
            let tokens: Vec<(&str, u64)> = CONTROLS.iter().map(|t| (*t, 3)).collect();
            let tokenizer = Tokenizer::from_metadata(&small(&tokens)).unwrap();
            let hostile = pieces.join(glue);
            for builtin in ALL {
                let template = ChatTemplate::new(builtin.source, "<s>", "</s>").unwrap();
                let template = template.with_controls(tokenizer.controls());
                let controls = |system: &str, said: &str| {
                    let turns = [("system", system), ("user", said), ("assistant", said), ("user", said)];
                    let messages: Vec<Message> = turns.iter().map(|(role, text)| Message::new(*role, *text)).collect();
                    let ids = tokenizer.encode(&template.render(&messages, None, true).unwrap()).unwrap();
                    ids.into_iter().filter(|id| tokenizer.is_control(*id)).collect::<Vec<_>>()
                };
                let honest = controls("words", "words");
                prop_assert!(honest.len() > 1);
                prop_assert_eq!(controls(&hostile, &hostile), honest, "{}: {}", builtin.name, hostile);
            }
        }
    }

    const CONTROLS: &[&str] = &[
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
        "<|im_sep|>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<｜end▁of▁sentence｜>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|end|>",
        "[INST]",
        "[/INST]",
    ];

    /// Control tokens, parts of them, and what templates look for.
    const PIECES: &[&str] = &[
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
        "<|im_sep|>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<｜end▁of▁sentence｜>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|end|>",
        "[INST]",
        "[/INST]",
        "<|im_",
        "end|>",
        "<",
        "|>",
        "</think>",
        "<<SYS>>",
        "\u{e000}",
        "{{ bos_token }}",
        "system",
        "é",
    ];
}
