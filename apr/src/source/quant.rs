//! Quantisations as file names of GGUF repositories spell them, and which file of a repository is the model.

use std::collections::BTreeMap;
use std::fmt;

use engine::error::quoted;
use engine::{Error, Kind, Result};

/// What is taken where nobody said: the first of these that a repository has. Small and good before large, then the
/// rest from large to small; sources for further quantisation last.
const PREFERENCE: &[&str] = &[
    "Q4_K_M", "Q4_K_S", "Q5_K_M", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q5_K_S", "Q6_K", "Q8_0", "Q5_0", "Q5_1", "Q4_K",
    "Q5_K", "Q4_K_L", "Q5_K_L", "Q6_K_L", "Q4_K_XL", "Q5_K_XL", "Q6_K_XL", "Q8_K_XL", "MXFP4", "Q3_K_L", "Q3_K_M",
    "Q3_K_S", "Q3_K", "Q3_K_XL", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "Q2_K_L", "Q2_K_S", "Q2_K_XL", "IQ2_M",
    "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ1_0", "TQ2_0", "BF16", "F16", "F32", "FP16", "FP32",
];

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quant(&'static str);

impl Quant {
    /// Capitals aside.
    pub fn parse(text: &str) -> Option<Quant> {
        PREFERENCE.iter().find(|q| q.eq_ignore_ascii_case(text)).map(|q| Quant(q))
    }

    /// The one that a file's name says, between `-` or `.`: `model-q4_k_m.gguf`, `model.Q8_0-00001-of-00002.gguf`.
    fn of(file: &str) -> Option<Quant> {
        file.rsplit(['-', '.', '/']).find_map(Quant::parse)
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Files that are a model together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which ones, as positions in the list; the first is the one to open.
    pub files: Vec<usize>,
    /// The folder is to be opened.
    pub folder: bool,
}

/// Files beside SafeTensors that say what they mean. Nothing that could be executed is among them: no Python, no pickle.
const COMPANIONS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "model.safetensors.index.json",
];

/// The files of a repository that are the model that was asked for.
pub fn choose(repo: &str, files: &[&str], file: Option<&str>, quant: Option<Quant>) -> Result<Choice> {
    let missing = |what: String| {
        let mut models: Vec<&str> = files.iter().copied().filter(|f| is_model(f)).collect();
        models.sort_unstable();
        let few: Vec<&str> = models.iter().copied().take(12).collect();
        let hint = match few.is_empty() {
            true => "GGUF, SafeTensors and .apr can be read; pickles are not, since they are programs".into(),
            false => format!("it has {}{}", few.join(", "), if few.len() < models.len() { ", .." } else { "" }),
        };
        Err(Error::new(Kind::NotFound, what).hint(hint))
    };
    if let Some(wanted) = file {
        let Some(at) = files.iter().position(|f| *f == wanted) else {
            return missing(format!("{} has no file {}", quoted(repo), quoted(wanted)));
        };
        if !is_model(wanted) {
            return missing(format!("{} is not a model file", quoted(wanted)));
        }
        let mut chosen = vec![at];
        chosen.extend(parts_of(files, wanted).into_iter().filter(|i| *i != at));
        if wanted.ends_with(".safetensors") {
            chosen.extend(companions(files));
        }
        return Ok(Choice { files: chosen, folder: false });
    }
    let by_quant = ggufs(files);
    if let Some(quant) = quant {
        return match by_quant.get(quant.0) {
            Some(chosen) => Ok(Choice { files: chosen.clone(), folder: false }),
            None => missing(format!("{} has no GGUF file of {quant}", quoted(repo))),
        };
    }
    if let Some(chosen) = PREFERENCE.iter().find_map(|q| by_quant.get(q)).or(by_quant.get("")) {
        return Ok(Choice { files: chosen.clone(), folder: false });
    }
    let root =
        |end: &'static str| (0..files.len()).filter(move |i| files[*i].ends_with(end) && !files[*i].contains('/'));
    if let Some(apr) = root(".apr").next() {
        let mut chosen = vec![apr];
        chosen.extend(parts_of(files, files[apr]).into_iter().filter(|i| *i != apr));
        return Ok(Choice { files: chosen, folder: false });
    }
    // One file, or the shards that `model.safetensors.index.json` speaks of.
    let weights: Vec<usize> = match files.iter().position(|f| *f == "model.safetensors") {
        Some(one) => vec![one],
        None => {
            let shards: Vec<usize> = root(".safetensors")
                .filter(|i| files[*i].starts_with("model-") && shard(files[*i]).is_some())
                .collect();
            let all: Vec<usize> = root(".safetensors").collect();
            if shards.is_empty() && all.len() == 1 { all } else { shards }
        }
    };
    if weights.is_empty() || !files.contains(&"config.json") {
        return missing(format!("{} has no model that can be read", quoted(repo)));
    }
    Ok(Choice { files: [weights, companions(files)].concat(), folder: true })
}

fn is_model(file: &str) -> bool {
    [".gguf", ".safetensors", ".apr"].iter().any(|end| file.ends_with(end))
}

fn companions(files: &[&str]) -> Vec<usize> {
    (0..files.len()).filter(|i| COMPANIONS.contains(&files[*i])).collect()
}

/// GGUF models by quantisation, those that say none under "". Of several the first by name; a split one has all its
/// parts in order. Projectors of images and importance matrices are no language models.
fn ggufs<'a>(files: &[&'a str]) -> BTreeMap<&'a str, Vec<usize>> {
    let mut order: Vec<usize> = (0..files.len()).filter(|i| files[*i].ends_with(".gguf")).collect();
    order.sort_by_key(|i| files[*i]);
    let mut found: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for i in order {
        let name = files[i].to_ascii_lowercase();
        let part = shard(files[i]);
        if name.contains("mmproj") || name.contains("imatrix") || part.is_some_and(|(_, n, _)| n != 1) {
            continue;
        }
        let chosen = if part.is_some() { parts_of(files, files[i]) } else { vec![i] };
        // A split model with a part missing is none.
        if part.is_none_or(|(_, _, of)| chosen.len() == of) {
            found.entry(Quant::of(files[i]).map_or("", |q| q.0)).or_insert(chosen);
        }
    }
    found
}

/// `name-00001-of-00003.gguf`: what stands before, which one, of how many.
fn shard(file: &str) -> Option<(&str, usize, usize)> {
    let stem = file.rsplit_once('.')?.0;
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (stem, n) = rest.rsplit_once('-')?;
    let number = |s: &str| (s.len() == 5).then(|| s.parse::<usize>().ok()).flatten();
    Some((stem, number(n)?, number(of)?))
}

/// Every part of the split model that this file is a part of, in order; nothing if it is whole.
fn parts_of(files: &[&str], file: &str) -> Vec<usize> {
    let Some((stem, _, of)) = shard(file) else { return Vec::new() };
    let end = file.rsplit('.').next();
    let same =
        |f: &str| shard(f).filter(|(s, _, o)| *s == stem && *o == of && f.rsplit('.').next() == end).map(|s| s.1);
    let mut parts: Vec<(usize, usize)> = (0..files.len()).filter_map(|i| Some((same(files[i])?, i))).collect();
    parts.sort_unstable();
    parts.into_iter().map(|(_, i)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str], file: Option<&str>, quant: Option<&str>) -> String {
        match choose("org/repo", files, file, quant.and_then(Quant::parse)) {
            Ok(c) => {
                let names: Vec<&str> = c.files.iter().map(|i| files[*i]).collect();
                format!("{}{}", if c.folder { "folder " } else { "" }, names.join(" "))
            }
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn of_a_gguf_repository_one_file() {
        let files = ["README.md", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-q2_k.gguf", "mmproj-m-f16.gguf", "imatrix.gguf"];
        assert_eq!(chosen(&files, None, None), "m-Q4_K_M.gguf");
        assert_eq!(chosen(&files, None, Some("q8_0")), "m-Q8_0.gguf");
        assert_eq!(chosen(&files, None, Some("Q2_K")), "m-q2_k.gguf");
        assert_eq!(chosen(&files, Some("m-q2_k.gguf"), None), "m-q2_k.gguf");
        assert!(chosen(&files, None, Some("Q6_K")).contains("no GGUF file of Q6_K; it has"));
        assert!(chosen(&files, Some("README.md"), None).contains("not a model file"));
        assert_eq!(chosen(&["odd.gguf"], None, None), "odd.gguf");
    }

    #[test]
    fn of_a_split_model_every_part() {
        let files = ["m-q4_k_m-00002-of-00002.gguf", "m-q4_k_m-00001-of-00002.gguf", "m-q8_0-00001-of-00003.gguf"];
        let both = "m-q4_k_m-00001-of-00002.gguf m-q4_k_m-00002-of-00002.gguf";
        assert_eq!(chosen(&files, None, None), both);
        assert_eq!(chosen(&files, Some(files[1]), None), both);
        assert!(chosen(&files, None, Some("Q8_0")).contains("no GGUF file of Q8_0"), "parts are missing");
    }

    #[test]
    fn of_safetensors_all_that_is_needed_and_no_program() {
        let files = [
            "config.json",
            "modeling_x.py",
            "pytorch_model.bin",
            "model-00001-of-00002.safetensors",
            "tokenizer.json",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors",
        ];
        let all = "folder model-00001-of-00002.safetensors model-00002-of-00002.safetensors config.json tokenizer.json \
                   model.safetensors.index.json";
        assert_eq!(chosen(&files, None, None), all);
        assert!(chosen(&["pytorch_model.bin", "config.json"], None, None).contains("pickles are not"));
        assert!(chosen(&["model.safetensors"], None, None).contains("no model that can be read"));
    }
}
