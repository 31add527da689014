//! Short names of models that are known to run, as data: the name, its tag, and the repository on the hub. The first
//! row of a name is what it means without a tag.

use engine::similar;

use super::name::{HubName, Repo, Tagged};

const TABLE: &[(&str, &str, &str)] = &[
    ("qwen2.5-coder", "1.5b", "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF"),
    ("qwen2.5-coder", "0.5b", "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF"),
    ("qwen2.5-coder", "3b", "Qwen/Qwen2.5-Coder-3B-Instruct-GGUF"),
    ("qwen2.5-coder", "7b", "Qwen/Qwen2.5-Coder-7B-Instruct-GGUF"),
    ("qwen2.5-coder", "14b", "Qwen/Qwen2.5-Coder-14B-Instruct-GGUF"),
    ("qwen2.5-coder", "32b", "Qwen/Qwen2.5-Coder-32B-Instruct-GGUF"),
    ("qwen2.5", "7b", "Qwen/Qwen2.5-7B-Instruct-GGUF"),
    ("qwen2.5", "0.5b", "Qwen/Qwen2.5-0.5B-Instruct-GGUF"),
    ("qwen2.5", "1.5b", "Qwen/Qwen2.5-1.5B-Instruct-GGUF"),
    ("qwen2.5", "3b", "Qwen/Qwen2.5-3B-Instruct-GGUF"),
    ("qwen2.5", "14b", "Qwen/Qwen2.5-14B-Instruct-GGUF"),
    ("qwen2.5", "32b", "Qwen/Qwen2.5-32B-Instruct-GGUF"),
    ("qwen2", "0.5b", "Qwen/Qwen2-0.5B-Instruct-GGUF"),
    ("qwen2", "1.5b", "Qwen/Qwen2-1.5B-Instruct-GGUF"),
    ("qwen2", "7b", "Qwen/Qwen2-7B-Instruct-GGUF"),
    ("llama3.2", "3b", "bartowski/Llama-3.2-3B-Instruct-GGUF"),
    ("llama3.2", "1b", "bartowski/Llama-3.2-1B-Instruct-GGUF"),
    ("llama3.1", "8b", "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"),
    ("smollm2", "1.7b", "bartowski/SmolLM2-1.7B-Instruct-GGUF"),
    ("smollm2", "360m", "bartowski/SmolLM2-360M-Instruct-GGUF"),
    ("smollm2", "135m", "bartowski/SmolLM2-135M-Instruct-GGUF"),
    ("tinyllama", "1.1b", "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF"),
];

/// The repository of a short name.
pub fn find(short: &Tagged) -> Option<HubName> {
    let any = short.tag == "latest";
    let row = TABLE.iter().find(|(name, tag, _)| *name == short.name && (any || *tag == short.tag))?;
    Some(HubName { repo: Repo::parse(row.2)?, revision: None, file: None, quant: None })
}

/// The short name that is most like this one.
pub fn like(typed: &str) -> Option<String> {
    similar::nearest(typed, TABLE.iter().map(|(name, tag, _)| format!("{name}:{tag}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_row_is_a_name_of_its_own_and_a_repository() {
        let names: BTreeSet<String> = TABLE.iter().map(|(name, tag, _)| format!("{name}:{tag}")).collect();
        assert_eq!(names.len(), TABLE.len());
        for name in &names {
            assert!(find(&Tagged::parse(name).unwrap()).is_some(), "{name}");
        }
        let first = find(&Tagged::parse("qwen2.5-coder").unwrap()).unwrap();
        assert!(first.repo.name.contains("1.5B"));
        assert_eq!(like("qwen2.5-coder:0.5").as_deref(), Some("qwen2.5-coder:0.5b"));
        assert_eq!(like("frobnicate"), None);
    }
}
