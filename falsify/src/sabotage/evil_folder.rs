//! Saboteurs that change SafeTensors files and the files beside them: a bit, an offset, a field, a shard.

use std::io;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::{Means, Saboteur, edit};
use crate::forge::gguf::Data;
use crate::forge::huggingface::shard_name;
use crate::forge::safetensors::Writer;
use crate::subject::Spoil;

/// An entry that changes folders and SafeTensors files of the forge.
const fn forged(name: &'static str, does: &'static str, how: Spoil) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::EvilForge(how) }
}

/// An entry that changes the fixture's folder.
const fn fixture(name: &'static str, does: &'static str, how: fn(&Path) -> io::Result<()>) -> Saboteur {
    Saboteur { name, does, by_crash: false, means: Means::EvilInput(how) }
}

/// Every evil folder.
pub static ALL: &[Saboteur] = &[
    forged("st-offset-shifted", "two tensors of a size have each other's offsets", |name, path| {
        weights(name, path, |w| {
            let sizes: Vec<u64> = w.tensors.iter().map(|t| t.data.len()).collect();
            let pair = (0..sizes.len()).flat_map(|i| (0..i).map(move |j| (j, i))).find(|&(j, i)| sizes[j] == sizes[i]);
            if let Some((j, i)) = pair {
                swap_data(w, j, i);
            }
        })
    }),
    forged("st-f16-changed", "the last bit of one F16 number of each tensor", |name, path| flip(name, path, "F16")),
    forged("st-bf16-changed", "the last bit of one BF16 number of each tensor", |name, path| flip(name, path, "BF16")),
    forged("st-f32-changed", "the last bit of one F32 number of each tensor", |name, path| flip(name, path, "F32")),
    forged("st-header-changed", "__metadata__ says something else", |name, path| {
        weights(name, path, |w| w.metadata.iter_mut().for_each(|(_, text)| *text = "tf".into()))
    }),
    forged("config-changed", "config.json has another epsilon", |name, path| {
        if !path.is_dir() || name.contains("shape") {
            return Ok(());
        }
        json_file(&path.join("config.json"), |c| c["rms_norm_eps"] = json!(1e-5))
    }),
    forged("shard-swapped", "two tensors of a size change places, each in the other's shard", |name, path| {
        if !name.contains("shards") {
            return Ok(());
        }
        let files = [0, 1].map(|i| path.join(shard_name(i, 3)));
        let [mut a, mut b] = [Writer::read(&std::fs::read(&files[0])?)?, Writer::read(&std::fs::read(&files[1])?)?];
        'search: for x in &mut a.tensors {
            for y in &mut b.tensors {
                if x.data.len() == y.data.len() {
                    std::mem::swap(&mut x.data, &mut y.data);
                    break 'search;
                }
            }
        }
        a.write(&files[0])?;
        b.write(&files[1])
    }),
    fixture("tokenizer-json-changed", "two words of tokenizer.json have each other's id", |fixtures| {
        json_file(&fixtures.join("qwen2-tiny/tokenizer.json"), |t| {
            let vocab = &mut t["model"]["vocab"];
            let (e, i) = (vocab["e"].clone(), vocab["i"].clone());
            vocab["e"] = i;
            vocab["i"] = e;
        })
    }),
    fixture("tokenizer-config-changed", "tokenizer_config.json has a template without a system message", |fixtures| {
        json_file(&fixtures.join("qwen2-tiny/tokenizer_config.json"), |c| {
            c["chat_template"] = crate::forge::words::CHATML.into()
        })
    }),
];

/// Changes the weights of a forged SafeTensors file or folder; other files stay as they are.
fn weights(name: &str, path: &Path, change: impl FnOnce(&mut Writer)) -> io::Result<()> {
    let file = if path.is_dir() { path.join("model.safetensors") } else { path.to_path_buf() };
    // The large one is a hole, and shards are spoiled by a saboteur of their own.
    if !name.starts_with("hf-") || name.contains("shape") || !file.is_file() {
        return Ok(());
    }
    let mut w = Writer::read(&std::fs::read(&file)?)?;
    change(&mut w);
    w.write(&file)
}

fn swap_data(w: &mut Writer, i: usize, j: usize) {
    let taken = std::mem::replace(&mut w.tensors[i].data, Data::Hole(0));
    let other = std::mem::replace(&mut w.tensors[j].data, taken);
    w.tensors[i].data = other;
}

fn flip(name: &str, path: &Path, dtype: &str) -> io::Result<()> {
    weights(name, path, |w| {
        for t in w.tensors.iter_mut().filter(|t| t.dtype == dtype) {
            if let Data::Bytes(bytes) = &mut t.data
                && let Some(byte) = bytes.first_mut()
            {
                *byte ^= 1;
            }
        }
    })
}

/// Changes a JSON file, and has to change something.
fn json_file(file: &Path, change: impl FnOnce(&mut Json)) -> io::Result<()> {
    let mut json: Json = serde_json::from_slice(&std::fs::read(file)?)?;
    let before = json.clone();
    change(&mut json);
    if json == before {
        return Err(io::Error::other(format!("the sabotage of {} changed nothing", file.display())));
    }
    let text = serde_json::to_vec(&json)?;
    edit(file, |bytes| *bytes = text)
}
