//! What a machine can have: a closed vocabulary with one probe each. A row's `needs` are words of this table.
//!
//! A probe looks at a [`Host`], a value, so that its test can hide the thing and see it say no: a probe that is wrong
//! skips rows silently, which is the worst thing a suite can do. Probes know no row.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A word that rows may need.
pub struct Capability {
    /// As in the rows.
    pub name: &'static str,
    /// For people.
    pub means: &'static str,
    /// Whether the host has it.
    pub probe: fn(&Host) -> bool,
}

/// What probes look at.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Folders of executables, as in `PATH`.
    pub path: OsString,
    /// Instruction sets that the processor has: `avx2`, `avx512f`, `avx512vnni`, `neon`.
    pub isa: BTreeSet<&'static str>,
    /// `linux`, `macos`, `windows`.
    pub os: &'static str,
    /// `x86_64`, `aarch64`.
    pub arch: &'static str,
    /// Processor cores.
    pub cores: usize,
    /// The folder of devices.
    pub dev: PathBuf,
    /// GPUs that may be used: `CUDA_VISIBLE_DEVICES`, if set.
    pub visible_gpus: Option<OsString>,
    /// The folder of fixture models.
    pub fixtures: PathBuf,
    /// The folder of oracle output.
    pub golden: PathBuf,
    /// The folder of real weights.
    pub models: Option<PathBuf>,
    /// The root of the source tree.
    pub sources: Option<PathBuf>,
    /// Targets that the compiler has a standard library for.
    pub targets: BTreeSet<String>,
}

/// Every capability.
pub static ALL: &[Capability] = &[
    Capability { name: "avx2", means: "AVX2 instructions", probe: |h| h.isa.contains("avx2") },
    Capability { name: "avx512", means: "AVX-512 F, BW, VL, VNNI", probe: |h| h.isa.contains("avx512vnni") },
    Capability { name: "linux-x86_64", means: "Linux on x86-64", probe: |h| h.os == "linux" && h.arch == "x86_64" },
    Capability { name: "macos-arm64", means: "macOS on ARM64", probe: |h| h.os == "macos" && h.arch == "aarch64" },
    Capability { name: "unix", means: "signals, pipes and terminals as on Unix", probe: |h| unix(h) },
    Capability { name: "pty", means: "pseudo-terminals", probe: |h| unix(h) && h.dev.join("ptmx").exists() },
    Capability { name: "cores:4", means: "at least four cores", probe: |h| h.cores >= 4 },
    Capability { name: "gpu", means: "an NVIDIA GPU", probe: |h| gpus(h) >= 1 },
    Capability { name: "gpu:2", means: "two NVIDIA GPUs", probe: |h| gpus(h) >= 2 },
    Capability { name: "no-gpu", means: "a machine without an NVIDIA GPU", probe: |h| gpus(h) == 0 },
    Capability { name: "model:fixture", means: "the trained fixture model", probe: |h| has_gguf(&h.fixtures) },
    Capability { name: "model:full-shape", means: "full-shape files, FALSIFY_MODELS", probe: full_shape },
    Capability {
        name: "golden",
        means: "stored output of the oracle",
        probe: |h| h.golden.join("INDEX.json").is_file(),
    },
    Capability { name: "oracle:llama.cpp", means: "llama-cpp-python", probe: |h| tool(h, "llama-bench") },
    Capability { name: "oracle:ollama", means: "an Ollama binary", probe: |h| tool(h, "ollama") },
    Capability { name: "sources", means: "the source tree", probe: |h| h.sources.is_some() },
    Capability { name: "tool:cargo", means: "cargo", probe: |h| tool(h, "cargo") },
    Capability { name: "tool:curl", means: "curl", probe: |h| tool(h, "curl") },
    Capability { name: "tool:httpie", means: "HTTPie", probe: |h| tool(h, "http") },
    Capability { name: "tool:jq", means: "jq", probe: |h| tool(h, "jq") },
    Capability { name: "tool:python3", means: "Python 3", probe: |h| tool(h, "python3") },
    Capability { name: "tool:valgrind", means: "valgrind", probe: |h| tool(h, "valgrind") },
    Capability { name: "tool:nvidia-smi", means: "nvidia-smi", probe: |h| tool(h, "nvidia-smi") },
    Capability { name: "tool:qemu-aarch64", means: "qemu user emulation of ARM64", probe: |h| tool(h, "qemu-aarch64") },
    Capability { name: "tool:wine", means: "Wine", probe: |h| tool(h, "wine") },
    Capability {
        name: "target:windows",
        means: "a standard library for x86_64-pc-windows-gnu, and mingw",
        probe: |h| h.targets.contains("x86_64-pc-windows-gnu") && tool(h, "x86_64-w64-mingw32-gcc"),
    },
    Capability {
        name: "target:aarch64",
        means: "a standard library for aarch64-unknown-linux-gnu, and its linker",
        probe: |h| h.targets.contains("aarch64-unknown-linux-gnu") && tool(h, "aarch64-linux-gnu-gcc"),
    },
    Capability { name: "tool:nvcc-11", means: "a CUDA 11 compiler", probe: |h| tool(h, "nvcc-11") },
    Capability { name: "tool:nvcc-12", means: "a CUDA 12 compiler", probe: |h| tool(h, "nvcc-12") },
];

/// The capability with this name.
pub fn find(name: &str) -> Option<&'static Capability> {
    ALL.iter().find(|c| c.name == name)
}

/// The first of `needs` that the host lacks. A word outside the vocabulary is lacking everywhere (tidy refuses it).
pub fn lacking<'a>(host: &Host, needs: &'a [String]) -> Option<&'a str> {
    needs.iter().map(String::as_str).find(|n| !find(n).is_some_and(|c| (c.probe)(host)))
}

impl Host {
    /// This machine.
    pub fn here(fixtures: &Path, golden: &Path, models: Option<&Path>, sources: Option<&Path>) -> Host {
        Host {
            path: std::env::var_os("PATH").unwrap_or_default(),
            isa: instruction_sets(),
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            dev: PathBuf::from("/dev"),
            visible_gpus: std::env::var_os("CUDA_VISIBLE_DEVICES"),
            fixtures: fixtures.to_path_buf(),
            golden: golden.to_path_buf(),
            models: models.map(Path::to_path_buf),
            sources: sources.map(Path::to_path_buf),
            targets: targets(),
        }
    }

    /// Names of everything it has.
    pub fn capabilities(&self) -> Vec<&'static str> {
        ALL.iter().filter(|c| (c.probe)(self)).map(|c| c.name).collect()
    }
}

/// Targets that the compiler has a standard library for.
fn targets() -> BTreeSet<String> {
    let asked = std::process::Command::new("rustc").args(["--print", "sysroot"]).output();
    let Ok(out) = asked else { return BTreeSet::new() };
    let libraries = Path::new(String::from_utf8_lossy(&out.stdout).trim()).join("lib/rustlib");
    let folders = std::fs::read_dir(libraries).into_iter().flatten().flatten();
    folders.filter(|e| e.path().join("lib").is_dir()).filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// Instruction sets of this processor that rows ask about.
#[cfg(target_arch = "x86_64")]
pub fn instruction_sets() -> BTreeSet<&'static str> {
    let mut isa = BTreeSet::new();
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        isa.insert("avx2");
    }
    let wide = std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vl");
    if wide && std::arch::is_x86_feature_detected!("avx512vnni") {
        isa.insert("avx512vnni");
    }
    isa
}

/// Instruction sets of this processor that rows ask about.
#[cfg(not(target_arch = "x86_64"))]
pub fn instruction_sets() -> BTreeSet<&'static str> {
    if cfg!(target_arch = "aarch64") { BTreeSet::from(["neon"]) } else { BTreeSet::new() }
}

fn unix(h: &Host) -> bool {
    matches!(h.os, "linux" | "macos")
}

/// Whether this machine has a GPU that may be used.
pub fn gpu_here() -> bool {
    let dev = PathBuf::from("/dev");
    gpus(&Host { dev, visible_gpus: std::env::var_os("CUDA_VISIBLE_DEVICES"), ..Host::default() }) > 0
}

/// GPUs that have a device file and are not hidden.
fn gpus(h: &Host) -> usize {
    let devices = (0..16).filter(|i| h.dev.join(format!("nvidia{i}")).exists()).count();
    match &h.visible_gpus {
        None => devices,
        Some(list) => {
            let list = list.to_string_lossy();
            // CUDA stops at the first entry that is no device.
            let named = list.split(',').take_while(|s| !s.trim().is_empty() && s.trim() != "-1").count();
            named.min(devices)
        }
    }
}

fn has_gguf(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|e| e.path().extension().is_some_and(|x| x == "gguf"))
}

fn full_shape(h: &Host) -> bool {
    h.models.as_deref().is_some_and(has_gguf)
}

/// Whether one of the folders of `PATH` holds this executable.
pub fn tool(h: &Host, name: &str) -> bool {
    std::env::split_paths(&h.path).any(|folder| {
        let file = folder.join(name);
        file.is_file() || file.with_extension("exe").is_file()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that has everything, made of files in a folder, except that a Linux one is no Mac.
    fn rich(at: &Path) -> Host {
        for c in ALL {
            if let Some(name) = c.name.strip_prefix("tool:") {
                std::fs::write(at.join(name), "").unwrap();
            }
        }
        for name in ["http", "llama-bench", "ollama", "nvidia0", "nvidia1", "ptmx", "m.gguf", "INDEX.json"]
            .into_iter()
            .chain(["x86_64-w64-mingw32-gcc", "aarch64-linux-gnu-gcc"])
        {
            std::fs::write(at.join(name), "").unwrap();
        }
        Host {
            path: at.as_os_str().to_owned(),
            isa: BTreeSet::from(["avx2", "avx512vnni"]),
            os: "linux",
            arch: "x86_64",
            cores: 8,
            dev: at.to_path_buf(),
            visible_gpus: None,
            fixtures: at.to_path_buf(),
            golden: at.to_path_buf(),
            models: Some(at.to_path_buf()),
            sources: Some(at.to_path_buf()),
            targets: ["x86_64-pc-windows-gnu", "aarch64-unknown-linux-gnu"].map(String::from).into(),
        }
    }

    #[test]
    fn every_probe_says_yes_where_the_thing_is() {
        let dir = tempfile::tempdir().unwrap();
        let linux = rich(dir.path());
        for c in ALL {
            let host = match c.name {
                "macos-arm64" => Host { os: "macos", arch: "aarch64", ..linux.clone() },
                "no-gpu" => Host { visible_gpus: Some("".into()), ..linux.clone() },
                _ => linux.clone(),
            };
            assert!((c.probe)(&host), "{} is there and its probe says no", c.name);
        }
    }

    #[test]
    fn every_probe_says_no_where_the_thing_is_hidden() {
        let bare = Host { dev: "/nowhere".into(), ..Host::default() };
        for c in ALL.iter().filter(|c| c.name != "no-gpu") {
            assert!(!(c.probe)(&bare), "{} is hidden and its probe says yes", c.name);
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(!(find("no-gpu").unwrap().probe)(&rich(dir.path())));
        for hidden in ["", "-1"] {
            let h = Host { visible_gpus: Some(hidden.into()), ..rich(dir.path()) };
            assert!(!(find("gpu").unwrap().probe)(&h), "CUDA_VISIBLE_DEVICES={hidden} hides every GPU");
        }
    }

    #[test]
    fn an_unknown_word_is_lacking_everywhere() {
        assert_eq!(lacking(&Host::default(), &["levitation".to_string()]), Some("levitation"));
    }
}
