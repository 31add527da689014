//! The forge: model files by name, made here from nothing but a seed, so that the suite needs no downloads.
//!
//! [`list`] has the names, which say what is special about a file; [`write`] makes one. The same name gives
//! the same bytes on every machine, since answers under `golden/` were computed from them by other engines.
//! The forge follows llama.cpp's conventions and knows none of `engine`'s code; of `compute` it uses the
//! encoders of number formats.

pub mod apr;
pub mod gguf;
pub mod huggingface;
pub mod mixture;
pub mod models;
pub mod random;
pub mod safetensors;
pub mod seeds;
pub mod words;

use std::io;
use std::path::{Path, PathBuf};

use compute::{Format, quant};

use apr::Bundle;
use gguf::Writer;
use huggingface::Folder;
use mixture::{FileType, Mixture};
use models::{Filling, Model, Scaling};
use words::Words;

/// Something that the forge can make.
struct Item {
    name: String,
    what: What,
}

enum What {
    /// A model in one file.
    Model(Model),
    /// A model over so many files.
    Split(Model, u16),
    /// A model in HuggingFace's layout, its weights over so many files.
    Folder(Model, usize),
    /// A SafeTensors file that is no model.
    Numbers(fn() -> safetensors::Writer),
    /// A file for the fuzzer to begin with.
    Seed(fn() -> Writer),
    /// An `.apr` file.
    Bundle(Bundle),
}

/// The name of everything that can be made: small models, full shapes, fuzz seeds.
pub fn list() -> Vec<String> {
    items().into_iter().map(|item| item.name).collect()
}

/// The model behind a name, to be changed and written by hand. `None` for fuzz seeds and unknown names.
pub fn model(name: &str) -> Option<Model> {
    match find(name)?.what {
        What::Model(model) | What::Split(model, _) | What::Folder(model, _) => Some(model),
        What::Seed(_) | What::Numbers(_) | What::Bundle(_) => None,
    }
}

/// The file behind a name, to be spoiled before it is written. `None` for what is no single GGUF file.
pub fn file(name: &str) -> Option<io::Result<Writer>> {
    match find(name)?.what {
        What::Model(model) => Some(model.file()),
        What::Split(..) | What::Folder(..) | What::Numbers(_) | What::Bundle(_) => None,
        What::Seed(make) => Some(Ok(make())),
    }
}

/// Makes the file `name` at `path`. A split model goes to several files: see [`paths`].
pub fn write(name: &str, path: &Path) -> io::Result<()> {
    let item = find(name).ok_or_else(|| unknown(name))?;
    match item.what {
        What::Model(model) => model.file()?.write(path),
        What::Seed(make) => make().write(path),
        What::Numbers(make) => make().write(path),
        What::Folder(model, 1) => Folder::of(&model)?.write(path),
        What::Folder(model, count) => Folder::of(&model)?.write_shards(path, count),
        What::Bundle(bundle) => bundle.write(path),
        What::Split(model, count) => {
            let parts = model.file()?.split(count);
            parts.iter().zip(part_paths(path, count)).try_for_each(|(part, path)| part.write(&path))
        }
    }
}

/// What the file or folder of this name is called: its form, for people. Readers go by what is in it.
pub fn file_name(name: &str) -> String {
    match find(name).map(|item| item.what) {
        Some(What::Folder(..)) => name.into(),
        Some(What::Numbers(_)) => format!("{name}.safetensors"),
        Some(What::Bundle(_)) => format!("{name}.apr"),
        _ => format!("{name}.gguf"),
    }
}

/// The files that [`write`] makes: `path` itself, or `m-00001-of-00003.gguf` and so on for `m.gguf`. The
/// first is the one to open.
pub fn paths(name: &str, path: &Path) -> io::Result<Vec<PathBuf>> {
    let item = find(name).ok_or_else(|| unknown(name))?;
    Ok(match item.what {
        What::Split(_, count) => part_paths(path, count),
        _ => vec![path.to_owned()],
    })
}

fn part_paths(path: &Path, count: u16) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    (1..=count).map(|no| path.with_file_name(format!("{stem}-{no:05}-of-{count:05}.gguf"))).collect()
}

fn unknown(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the forge has no {name}; its list says what it has"))
}

fn find(name: &str) -> Option<Item> {
    items().into_iter().find(|item| item.name == name)
}

/// Everything. A model that needs a format `compute` has not is left out.
fn items() -> Vec<Item> {
    let mut models = small_models();
    models.extend(full_shapes());
    let models = models.into_iter().filter(|(_, model)| model.has_formats());
    let mut items: Vec<Item> = models.map(|(name, m)| Item { name, what: What::Model(m) }).collect();
    items.push(Item { name: "qwen2-split-f16".into(), what: What::Split(Model::qwen2(Format::F16), 3) });
    let folders = named(FOLDERS).filter(|(_, model)| model.has_formats());
    items.extend(folders.map(|(name, m)| Item { name, what: What::Folder(m, 1) }));
    items.push(Item { name: "hf-shards-f16".into(), what: What::Folder(Model::qwen2(Format::F16), 3) });
    items.push(Item { name: "hf-types".into(), what: What::Numbers(huggingface::types) });
    items.extend(BUNDLES.iter().map(|&(name, bundle)| Item { name: name.into(), what: What::Bundle(bundle) }));
    items.extend(seeds::ALL.iter().map(|&(name, make)| Item { name: name.into(), what: What::Seed(make) }));
    items
}

/// Models of at most two megabytes, each special in one way.
fn small_models() -> Vec<(String, Model)> {
    let mut models = Vec::new();
    for spec in quant::ALL {
        models.push((format!("qwen2-{}", spec.name.to_lowercase()), Model::qwen2(Format(spec))));
    }
    for (file_type, name, ..) in FileType::ALL {
        // Those that are more than one format throughout. Four layers show which of them get more bits.
        let mixture = Mixture::Quantized(file_type);
        if matches!(file_type, FileType::Q4_K_M | FileType::Q5_K_M) {
            models.push((format!("qwen2-{name}"), Model { layers: 4, mixture, ..wide(Model::qwen2(Format::F32)) }));
        }
    }
    models.extend(named(NAMED));
    models
}

type Named = (&'static str, fn() -> Model);

fn named(table: &[Named]) -> impl Iterator<Item = (String, Model)> {
    table.iter().map(|(name, make)| (name.to_string(), make()))
}

fn format(name: &str) -> Format {
    // A name that is not there gives F32, and the test below says so.
    Format::from_name(name).unwrap_or(Format::F32)
}

/// Rows of 256, for formats with blocks of that length.
fn wide(model: Model) -> Model {
    Model { hidden: 256, ffn: 512, ..model }
}

/// The small models that are special in another way than their format.
const NAMED: &[Named] = &[
    ("qwen2-stops-f16", || Model { stops: true, ..Model::qwen2(Format::F16) }),
    ("qwen2-untied-q8_0", || Model { tied: false, ..Model::qwen2(format("Q8_0")) }),
    // Query heads per key/value head: four and one. Two is the rule here.
    ("qwen2-gqa4-q4_k", || Model { kv_heads: 1, ..Model::qwen2(format("Q4_K")) }),
    ("qwen2-mha-q8_0", || Model { kv_heads: 4, ..Model::qwen2(format("Q8_0")) }),
    // Nothing is a power of two, and the head has an odd number of rows.
    ("qwen2-uneven-q8_0", || Model {
        layers: 3,
        hidden: 160,
        ffn: 288,
        heads: 5,
        kv_heads: 1,
        padded: 323,
        rows: 323,
        ..Model::qwen2(format("Q8_0"))
    }),
    // Unused tokens up to the rows of the embedding table, as published files have them.
    ("qwen2-padded-f16", || Model { padded: 352, rows: 352, ..Model::qwen2(Format::F16) }),
    // More rows than tokens, and fewer: files that disagree with themselves. llama.cpp refuses both.
    ("qwen2-morerows-f16", || Model { rows: 352, ..Model::qwen2(Format::F16) }),
    ("qwen2-fewerrows-f16", || Model { rows: 300, ..Model::qwen2(Format::F16) }),
    // Padding that a sampler would take if it could: unused tokens, and rows beyond the tokens.
    ("qwen2-loud-padding-f16", || Model { padded: 352, rows: 352, loud: true, ..Model::qwen2(Format::F16) }),
    ("qwen2-loud-rows-f16", || Model { rows: 352, loud: true, ..Model::qwen2(Format::F16) }),
    // Long enough for contexts of thousands.
    ("llama-long-f16", || Model { context: 4096, ..Model::llama(Format::F16) }),
    ("qwen2-linear-f16", || Model { scaling: Scaling::Linear { factor: 4.0 }, ..Model::qwen2(Format::F16) }),
    ("qwen2-yarn-f16", || Model { scaling: YARN, ..Model::qwen2(Format::F16) }),
    ("llama-f32", || Model::llama(Format::F32)),
    ("llama-f16", || Model::llama(Format::F16)),
    ("llama-q8_0", || Model::llama(format("Q8_0"))),
    ("llama-q4_k", || Model::llama(format("Q4_K"))),
    ("llama-tied-f16", || Model { tied: true, ..Model::llama(Format::F16) }),
    ("llama-linear-f32", || Model { scaling: Scaling::Linear { factor: 4.0 }, ..Model::llama(Format::F32) }),
    ("llama-yarn-f32", || Model { scaling: YARN, ..Model::llama(Format::F32) }),
    ("llama-llama3-f32", || Model {
        scaling: Scaling::Llama3 { factor: 8.0, original: 64.0 },
        ..Model::llama(Format::F32)
    }),
    // The markers and the chat template of Llama 3.
    ("llama-chat3-f16", || Model { words: Words::small_llama3, padded: 322, rows: 322, ..Model::llama(Format::F16) }),
    // SentencePiece, the tokenizer of Llama 2.
    ("llama-spm-f16", || Model { words: Words::small_pieces, padded: 416, rows: 416, ..Model::llama(Format::F16) }),
    // Two heads of 128, as the larger models have them.
    ("llama-head128-q8_0", || Model { heads: 2, kv_heads: 1, ..wide(Model::llama(format("Q8_0"))) }),
];

/// Models in HuggingFace's layout, with the weights of the GGUF models that are called so without `hf-`.
const FOLDERS: &[Named] = &[
    ("hf-qwen2-f32", || Model::qwen2(Format::F32)),
    ("hf-qwen2-f16", || Model::qwen2(Format::F16)),
    ("hf-qwen2-bf16", || Model::qwen2(format("BF16"))),
    ("hf-qwen2-yarn-f16", || Model { scaling: YARN, ..Model::qwen2(Format::F16) }),
    ("hf-llama-f16", || Model::llama(Format::F16)),
    ("hf-llama-tied-f16", || Model { tied: true, ..Model::llama(Format::F16) }),
    ("hf-llama-linear-f32", || Model { scaling: Scaling::Linear { factor: 4.0 }, ..Model::llama(Format::F32) }),
    ("hf-llama-llama3-f32", || Model {
        scaling: Scaling::Llama3 { factor: 8.0, original: 64.0 },
        ..Model::llama(Format::F32)
    }),
    ("hf-llama-chat3-f16", || Model {
        words: Words::small_llama3,
        padded: 322,
        rows: 322,
        ..Model::llama(Format::F16)
    }),
    ("hf-llama-spm-f16", || Model { words: Words::small_pieces, padded: 416, rows: 416, ..Model::llama(Format::F16) }),
    // A header and a hole of a gigabyte, and of three.
    ("hf-shape-0.5b", || {
        Model::full("0.5b", Mixture::Uniform(format("BF16")), Filling::Hole).unwrap_or(Model::qwen2(Format::F16))
    }),
    ("hf-shape-1.5b", || {
        Model::full("1.5b", Mixture::Uniform(format("BF16")), Filling::Hole).unwrap_or(Model::qwen2(Format::F16))
    }),
];

/// `.apr` files of the models that are there as GGUF too. Their names begin with `apr-`.
const BUNDLES: &[(&str, Bundle)] = &[
    ("apr-tensors", Bundle::Tensors),
    ("apr-seed-plain", Bundle::Seed(0)),
    ("apr-seed-lz4", Bundle::Seed(1)),
    ("apr-seed-zstd", Bundle::Seed(2)),
    ("apr-qwen2-f32", Bundle::Aprender(|| Model::qwen2(Format::F32))),
    ("apr-qwen2-f16", Bundle::Aprender(|| Model::qwen2(Format::F16))),
    ("apr-qwen2-bf16", Bundle::Aprender(|| Model::qwen2(format("BF16")))),
    ("apr-qwen2-q4_k", Bundle::Aprender(|| Model::qwen2(format("Q4_K")))),
    ("apr-qwen2-q6_k", Bundle::Aprender(|| Model::qwen2(format("Q6_K")))),
    ("apr-qwen2-int4", Bundle::Int4(|| Model::qwen2(Format::F32))),
    ("apr-qwen2-int8", Bundle::Int8(|| Model::qwen2(Format::F32))),
    ("apr-qwen2-coarse", Bundle::Coarse(|| Model::qwen2(Format::F32))),
    ("apr-qwen2-lz4", Bundle::Lz4(|| Model::qwen2(Format::F32))),
    ("apr-qwen2-zstd", Bundle::Zstd(|| Model::qwen2(Format::F32))),
    ("apr-llama-f16", Bundle::Aprender(|| Model::llama(Format::F16))),
    ("apr-realizar-f16", Bundle::Realizar(|| Model::qwen2(Format::F16))),
    ("apr-realizar-q8_0", Bundle::Realizar(|| Model::qwen2(format("Q8_0")))),
    ("apr-shape-0.5b", Bundle::Realizar(shape)),
    ("apr-realizar-q5_0", Bundle::Realizar(|| Model::qwen2(format("Q5_0")))),
];

/// The shape of 0.5B, all holes.
fn shape() -> Model {
    let q4_k_m = Mixture::Quantized(FileType::Q4_K_M);
    // The size is one of the table; another would be the small model.
    Model::full("0.5b", q4_k_m, Filling::Hole).unwrap_or_else(|| Model::qwen2(Format::F32))
}

/// Short original contexts, so that a prompt of a few tokens already shows whether the scaling is applied.
const YARN: Scaling = Scaling::Yarn { factor: 4.0, original: 64 };

/// `shape-0.5b`: headers and holes. `full-0.5b-q4_k_m`: gigabytes, for benches.
fn full_shapes() -> Vec<(String, Model)> {
    let q4_k_m = Mixture::Quantized(FileType::Q4_K_M);
    let mut kinds: Vec<(&str, Mixture)> = FileType::ALL.iter().map(|row| (row.1, Mixture::Quantized(row.0))).collect();
    kinds.push(("f16", Mixture::Uniform(Format::F16)));
    let mut models = Vec::new();
    for size in Model::sizes() {
        models.extend(Model::full(size, q4_k_m, Filling::Hole).map(|m| (format!("shape-{size}"), m)));
        for &(kind, mixture) in &kinds {
            models.extend(Model::full(size, mixture, Filling::Stock).map(|m| (format!("full-{size}-{kind}"), m)));
        }
    }
    models
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn small() -> impl Iterator<Item = (String, Vec<u8>)> {
        let small = items().into_iter().filter(|i| !i.name.starts_with("full-") && !i.name.starts_with("shape-"));
        small.filter_map(|i| Some((i.name.clone(), file(&i.name)?.unwrap().to_bytes().unwrap())))
    }

    #[test]
    fn names_are_distinct_and_found() {
        let names = list();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(names.iter().all(|n| find(n).is_some()));
        for name in ["qwen2-q8_0", "qwen2-q4_k_m", "llama-yarn-f32", "shape-32b", "full-0.5b-q4_k_m", "seed-types"] {
            assert!(names.iter().any(|n| n == name), "{name}");
        }
        assert_eq!(write("nonesuch", Path::new("/")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn small_models_are_small_and_the_reader_accepts_them() {
        for (name, bytes) in small() {
            assert!(bytes.len() <= 2 << 20, "{name} has {} bytes", bytes.len());
            let read = engine::file::gguf::parse(bytes.into());
            assert!(read.is_ok(), "{name}: {read:?}");
        }
    }

    #[test]
    fn models_are_of_the_format_in_their_name() {
        for (name, make) in NAMED {
            let wanted = name.rsplit('-').next().and_then(Format::from_name);
            assert_eq!(Some(make().mixture), wanted.map(Mixture::Uniform), "{name}");
        }
    }

    #[test]
    fn a_split_model_is_the_whole_model() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        write("qwen2-split-f16", &path).unwrap();
        let parts = paths("qwen2-split-f16", &path).unwrap();
        let split = engine::file::open(&parts[0]).unwrap();
        write("qwen2-f16", &path).unwrap();
        let whole = engine::file::open(&path).unwrap();
        assert_eq!(parts.len(), 3);
        assert!(
            split
                .tensors
                .iter()
                .map(|(n, t)| (n, &t.bytes[..]))
                .eq(whole.tensors.iter().map(|(n, t)| (n, &t.bytes[..])))
        );
    }

    #[test]
    fn a_shape_takes_no_room_and_reads_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        write("shape-7b", file.path()).unwrap();
        let read = engine::file::open(file.path()).unwrap();
        assert_eq!(read.tensors["blk.27.ffn_down.weight"].shape, [3584, 18_944]);
        assert!(read.file_bytes > 4 << 30);
    }
}
