//! Models that other programs have downloaded, read where they are. Nothing of theirs is ever written or removed.
//!
//! | whose | where | names |
//! |---|---|---|
//! | HuggingFace | `~/.cache/huggingface/hub` | `models--ORG--REPO/refs/main`, `snapshots/COMMIT/FILE` |
//! | llama.cpp | `~/.cache/llama.cpp` | `ORG_REPO_FILE` |
//! | LM Studio | `~/.lmstudio/models`, `~/.cache/lm-studio/models` | `ORG/REPO/FILE` |
//! | Ollama | `~/.ollama/models` | `manifests/registry.ollama.ai/library/NAME/TAG`, `blobs/sha256-HEX` |

use std::path::{Path, PathBuf};

use engine::{knobs, limits};
use serde::Deserialize;

use super::Found;
use super::cache::{folders, names, read_json, read_small};
use super::name::{Commit, FileName, HubName, Repo, Revision, Sha256, Tagged};
use super::quant::choose;

const HUGGINGFACE: &str = "HuggingFace";
const LLAMA: &str = "llama.cpp";
const LM_STUDIO: &str = "LM Studio";
const OLLAMA: &str = "Ollama";

/// The folder of HuggingFace's programs.
pub fn huggingface_home() -> Option<PathBuf> {
    knobs::path(&knobs::HUB_HOME).or_else(|| Some(knobs::user_home()?.join(".cache").join("huggingface")))
}

fn huggingface() -> Option<PathBuf> {
    knobs::path(&knobs::HUB_CACHE).or_else(|| Some(huggingface_home()?.join("hub")))
}

fn llama() -> Option<PathBuf> {
    knobs::path(&knobs::LLAMA_CACHE).or_else(|| Some(knobs::user_home()?.join(".cache").join("llama.cpp")))
}

fn ollama() -> Option<PathBuf> {
    knobs::path(&knobs::OLLAMA_MODELS).or_else(|| Some(knobs::user_home()?.join(".ollama").join("models")))
}

fn lmstudio() -> Vec<PathBuf> {
    let Some(home) = knobs::user_home() else { return Vec::new() };
    vec![home.join(".lmstudio").join("models"), home.join(".cache").join("lm-studio").join("models")]
}

/// The folders of other programs that are here, each with whose it is.
pub fn caches() -> Vec<(&'static str, PathBuf)> {
    let one = [(HUGGINGFACE, huggingface()), (LLAMA, llama()), (OLLAMA, ollama())];
    let mut all: Vec<_> = one.into_iter().filter_map(|(whose, folder)| Some((whose, folder?))).collect();
    all.extend(lmstudio().into_iter().map(|folder| (LM_STUDIO, folder)));
    all.retain(|(_, folder)| folder.is_dir());
    all
}

/// A repository as another program has it: its files, each with its path.
struct Held {
    place: &'static str,
    folder: PathBuf,
    files: Vec<(String, PathBuf)>,
}

/// A model of the hub, if another program has it.
pub fn hub(name: &HubName) -> Option<Found> {
    holders(&name.repo, name.revision.as_ref()).into_iter().find_map(|held| {
        let files: Vec<&str> = held.files.iter().map(|(f, _)| f.as_str()).collect();
        let file = name.file.as_ref().map(FileName::as_str);
        let choice = choose("", &files, file, name.quant).ok()?;
        let path = if choice.folder { held.folder } else { held.files[*choice.files.first()?].1.clone() };
        Some(Found { path, place: format!("{}'s cache", held.place) })
    })
}

fn holders(repo: &Repo, revision: Option<&Revision>) -> Vec<Held> {
    let mut held = Vec::new();
    let main = Revision::main();
    if let Some(folder) = huggingface().map(|hub| hub.join(format!("models--{}--{}", repo.org, repo.name))) {
        let revision = revision.unwrap_or(&main);
        let reference = folder.join("refs").join(revision.parts().collect::<PathBuf>());
        let said = || Commit::parse(String::from_utf8(read_small(&reference)?).ok()?.trim());
        if let Some(commit) = revision.commit().or_else(said) {
            let folder = folder.join("snapshots").join(commit.to_string());
            held.push(Held { place: HUGGINGFACE, files: files_below(&folder), folder });
        }
    }
    // These keep no revisions: what they have is what the branch was when they were asked.
    if revision.is_none_or(|r| *r == main) {
        if let Some(folder) = llama() {
            let begin = format!("{}_{}_", repo.org, repo.name);
            let own = |n: String| Some((n.strip_prefix(&begin)?.to_string(), folder.join(&n)));
            let files = names(&folder, |t| t.is_file()).into_iter().filter_map(own).collect();
            held.push(Held { place: LLAMA, folder: folder.clone(), files });
        }
        for folder in lmstudio() {
            let folder = folder.join(&repo.org).join(&repo.name);
            held.push(Held { place: LM_STUDIO, files: files_below(&folder), folder });
        }
    }
    held
}

/// Files of a folder and of the folders in it that exist also where they are links.
fn files_below(folder: &Path) -> Vec<(String, PathBuf)> {
    let of = |folder: &Path, before: &str| {
        let all = names(folder, |t| t.is_file() || t.is_symlink());
        let there = all.into_iter().map(|n| (format!("{before}{n}"), folder.join(n))).filter(|(_, p)| p.is_file());
        there.collect::<Vec<_>>()
    };
    let mut files = of(folder, "");
    for sub in folders(folder) {
        files.extend(of(&folder.join(&sub), &format!("{sub}/")));
    }
    files.truncate(limits::HUB_FILES_MAX);
    files
}

/// What Ollama says of a model.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
}

/// The GGUF file of an Ollama manifest.
fn model_layer(manifest: &Manifest) -> Option<Sha256> {
    let model = manifest.layers.iter().find(|l| l.media_type == "application/vnd.ollama.image.model")?;
    Sha256::parse(&model.digest)
}

/// A model by its short name, if Ollama has it.
pub fn short(name: &Tagged) -> Option<Found> {
    let folder = ollama()?;
    let library = folder.join("manifests").join("registry.ollama.ai").join("library");
    let manifest: Manifest = read_json(&library.join(&name.name).join(&name.tag))?;
    let path = folder.join("blobs").join(format!("sha256-{}", model_layer(&manifest)?));
    path.is_file().then(|| Found { path, place: format!("{OLLAMA}'s cache") })
}

/// Everything that other programs have: what it is called, whose it is, and where.
pub fn all() -> Vec<(String, &'static str, PathBuf)> {
    let mut all = Vec::new();
    let mut hub = |repo: Repo| {
        // Their names do not say where a repository's ends.
        for held in holders(&repo, None).into_iter().filter(|h| h.place != LLAMA) {
            let models = held.files.into_iter().filter(|(f, _)| f.ends_with(".gguf") || f.ends_with(".safetensors"));
            all.extend(models.map(|(file, path)| (format!("hf://{repo}/{file}"), held.place, path)));
        }
    };
    for name in huggingface().map(|f| folders(&f)).unwrap_or_default() {
        let repo = name.strip_prefix("models--").and_then(|n| Repo::parse(&n.replacen("--", "/", 1)));
        repo.map(&mut hub).unwrap_or_default();
    }
    for folder in lmstudio() {
        for org in folders(&folder) {
            for name in folders(&folder.join(&org)) {
                Repo::parse(&format!("{org}/{name}")).map(&mut hub).unwrap_or_default();
            }
        }
    }
    all.sort();
    all.dedup();
    if let Some(folder) = llama() {
        let files = names(&folder, |t| t.is_file()).into_iter().filter(|n| n.ends_with(".gguf"));
        all.extend(files.map(|n| (n.clone(), LLAMA, folder.join(n))));
    }
    let library = ollama().map(|f| f.join("manifests").join("registry.ollama.ai").join("library"));
    for name in library.iter().flat_map(|l| folders(l)) {
        for tag in library.iter().flat_map(|l| names(&l.join(&name), |t| t.is_file())) {
            let tagged = Tagged { name: name.clone(), tag };
            all.extend(short(&tagged).map(|found| (tagged.to_string(), OLLAMA, found.path)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ollama_manifest_names_its_model_by_digest() {
        let zero = "0".repeat(64);
        let with = |digest: &str| -> Option<Sha256> {
            let text = format!(
                r#"{{"schemaVersion":2,"layers":[{{"mediaType":"application/vnd.ollama.image.template","digest":"sha256:1"}},
                    {{"mediaType":"application/vnd.ollama.image.model","digest":"{digest}","size":1}}]}}"#
            );
            model_layer(&serde_json::from_str(&text).unwrap())
        };
        assert!(with(&format!("sha256:{zero}")).is_some());
        assert!(with("sha256:../../../etc/passwd").is_none());
    }
}
