//! F-GPU: the CUDA backend, and what happens where there is none.
//!
//! The reference is the same program with `--no-gpu`: both backends have one arithmetic, so answers are compared to the
//! byte, with no tolerance.

mod memory;
mod path;
mod speed;

use std::path::Path;

pub use memory::*;
pub use path::*;
pub use speed::{f_gpu_120, f_gpu_121, f_gpu_122, f_gpu_123, f_gpu_124, not_slower_than_the_peer};

use super::Check;
use crate::ask::{OPEN_PROMPT, PROMPTS, answered, ask, printed};
use crate::child::Output;
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Tally, instrument};

/// The written rows of this prefix.
pub static CHECKS: &[(&str, Check)] = &[
    ("F-GPU-116", f_gpu_116),
    ("F-GPU-117", f_gpu_117),
    ("F-GPU-118", f_gpu_118),
    ("F-GPU-119", f_gpu_119),
    ("F-GPU-120", f_gpu_120),
    ("F-GPU-121", f_gpu_121),
    ("F-GPU-122", f_gpu_122),
    ("F-GPU-123", f_gpu_123),
    ("F-GPU-124", f_gpu_124),
    ("F-GPU-125", f_gpu_125),
    ("F-GPU-126", f_gpu_126),
    ("F-GPU-127", f_gpu_127),
    ("F-GPU-129", f_gpu_129),
    ("F-GPU-130", f_gpu_130),
    ("F-GPU-131", f_gpu_131),
    ("F-GPU-132", f_gpu_132),
    ("F-GPU-133", f_gpu_133),
    ("F-GPU-134", f_gpu_134),
    ("F-GPU-134b", f_gpu_134b),
    ("F-GPU-135", f_gpu_135),
    ("F-GPU-136", f_gpu_136),
    ("F-GPU-137", f_gpu_137),
    ("F-GPU-138", f_gpu_138),
    ("F-GPU-139", f_gpu_139),
    ("F-GPU-140", f_gpu_140),
];

/// What `--verbose` says runs.
fn backend(out: &Output) -> String {
    out.err().lines().find(|l| l.starts_with("Backend:")).unwrap_or("no Backend line").to_string()
}

/// Small models of the forge: formats and shapes that the fixtures do not have.
const FORGED: &[&str] = &[
    "qwen2-f32",
    "qwen2-f16",
    "qwen2-bf16",
    "qwen2-q4_0",
    "qwen2-q5_0",
    "qwen2-q4_k",
    "qwen2-q6_k",
    "qwen2-uneven-q8_0",
    "qwen2-gqa4-q4_k",
    "qwen2-yarn-f16",
    "llama-llama3-f32",
    "llama-head128-q8_0",
];

/// CUDA acceleration works: it runs, and it answers what the CPU answers.
pub fn f_gpu_116(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --gpu beside --no-gpu, fixtures and forged models, greedy");
    let mut models = vec![s.fixture("q8_0")?, s.fixture("q4_k_m")?];
    for name in FORGED {
        models.push(s.forged(name)?);
    }
    for model in models {
        for prompt in PROMPTS {
            let run = |device: &str| {
                let words = ["--raw", "--temperature", "0", "--max-tokens", "64", "--verbose", device];
                answered(s.apr(["run"]).args([model.as_os_str()]).args([prompt]).args(words))
            };
            let (gpu, cpu) = (run("--gpu")?, run("--no-gpu")?);
            let named = backend(&gpu);
            t.hold(named.starts_with("Backend: cuda"), || gpu.refute("CUDA runs", named, "Backend: cuda"))?;
            t.hold(gpu.out() == cpu.out(), || gpu.refute("the CPU's answer", gpu.out(), cpu.out()))?;
        }
    }
    t.done()
}

/// Runs one compiled form of the kernels, as the driver makes it fit this device, beside the CPU.
fn on_image(s: &Subject, image: &str, compiler: &str) -> Result<Tally, Halt> {
    let mut t = Tally::new(format!("apr run --gpu with APR_CUDA_IMAGE={image} beside --no-gpu, greedy"));
    for prompt in PROMPTS {
        let run = |device: &str| ask(s, prompt, &["--max-tokens", "48", "--verbose", device]);
        // Nothing that the driver kept from another run.
        let gpu = run("--gpu")?.env("APR_CUDA_IMAGE", image).env("CUDA_CACHE_DISABLE", "1");
        let (gpu, cpu) = (answered(gpu)?, answered(run("--no-gpu")?)?);
        let (named, wanted) = (backend(&gpu), format!("{image} by CUDA {compiler}"));
        t.hold(named.contains(&wanted), || gpu.refute("this image runs", &*named, wanted))?;
        t.hold(gpu.out() == cpu.out(), || gpu.refute("the CPU's answer", gpu.out(), cpu.out()))?;
        t.note(named);
    }
    Ok(t)
}

/// Compute capability 7.0: the PTX that such a device gets, on the device present.
pub fn f_gpu_117(s: &Subject) -> Attempt {
    let mut t = on_image(s, "ptx_70", "11")?;
    t.by_ruling("the PTX for 7.0, which assembles for sm_70, was run by the driver on the device present");
    t.done()
}

/// Compute capability 8.0: the PTX that such a device gets, on the device present.
pub fn f_gpu_118(s: &Subject) -> Attempt {
    let mut t = on_image(s, "ptx_80", "11")?;
    t.by_ruling("the PTX for 8.0, which assembles for sm_80, was run by the driver on the device present");
    t.done()
}

/// Compute capability 8.9: the PTX that such a device gets, on the device present.
pub fn f_gpu_119(s: &Subject) -> Attempt {
    let mut t = on_image(s, "ptx_89", "12")?;
    t.by_ruling("the PTX for 8.9, which assembles for sm_89, was run by the driver on the device present");
    t.done()
}

/// CUDA 11: what its compiler made is loaded and run.
pub fn f_gpu_138(s: &Subject) -> Attempt {
    let mut t = on_image(s, "ptx_80", "11.8")?;
    t.by_ruling("PTX made by CUDA 11.8 was run by the driver present");
    t.done()
}

/// CUDA 12: what its compiler made is loaded and run.
pub fn f_gpu_139(s: &Subject) -> Attempt {
    let mut t = on_image(s, "sm_90", "12.9")?;
    t.by_ruling("machine code made by CUDA 12.9 was run by the driver present");
    t.done()
}

/// PTX kernels compile at run time: the driver's cache is off, and every kernel of the step comes from PTX.
pub fn f_gpu_140(s: &Subject) -> Attempt {
    on_image(s, "ptx_80", "11")?.done()
}

/// Deterministic output: the same seed draws the same answer, again and again, and the one that the CPU draws.
pub fn f_gpu_132(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --gpu --temperature 1, six seeds, three times each, beside --no-gpu");
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let draw = |device: &str| {
            printed(s, OPEN_PROMPT, &["--temperature", "1", "--seed", seed, "--max-tokens", "48", device])
        };
        let first = draw("--gpu")?;
        t.equal("a seed repeats its draw", &draw("--gpu")?, &first)?;
        t.equal("a seed repeats its draw", &draw("--gpu")?, &first)?;
        t.equal("the CPU draws the same", &draw("--no-gpu")?, &first)?;
    }
    t.done()
}

/// A folder with a libcuda that is no driver: a library of this process under that name.
fn broken_driver(s: &Subject) -> Result<std::path::PathBuf, Halt> {
    let folder = s.scratch()?;
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(instrument)?;
    let library = maps.split_whitespace().find(|w| w.starts_with('/') && w.contains("libgcc_s"));
    let library = library.or_else(|| maps.split_whitespace().find(|w| w.starts_with('/') && w.contains("libc.so")));
    let library = library.ok_or_else(|| instrument("this process has no shared library to borrow"))?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::copy(Path::new(library), folder.join(name)).map_err(instrument)?;
    }
    Ok(folder)
}

/// Without a GPU and without flags `apr` answers on the CPU, quietly; a driver that is broken is told.
pub fn f_gpu_135(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run without flags, without a driver and with one that does not work");
    let broken = broken_driver(s)?;
    for prompt in PROMPTS {
        let cpu = answered(ask(s, prompt, &["--no-gpu", "--max-tokens", "24"])?)?;
        let bare = answered(ask(s, prompt, &["--max-tokens", "24"])?)?;
        t.hold(bare.out() == cpu.out(), || bare.refute("it answers on the CPU", bare.out(), cpu.out()))?;
        t.hold(bare.err() == cpu.err(), || bare.refute("no driver is no news", bare.err(), cpu.err()))?;
        let run = ask(s, prompt, &["--max-tokens", "24"])?.env("LD_LIBRARY_PATH", &broken);
        let out = answered(run)?;
        t.hold(out.out() == cpu.out(), || out.refute("it answers on the CPU", out.out(), cpu.out()))?;
        let told = out.err().contains("driver") && out.err().contains("CPU");
        t.hold(told, || out.refute("a broken driver is told", out.err(), "driver, CPU"))?;
    }
    t.done()
}

/// `--gpu` without CUDA: refused in one line that says what is missing and what to do.
pub fn f_gpu_136(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run --gpu without a driver and with one that does not work, as text and as JSON");
    let broken = broken_driver(s)?;
    for prompt in PROMPTS {
        for (library_path, missing) in [(None, "no NVIDIA driver"), (Some(&broken), "cuInit")] {
            for flags in [&["--gpu"][..], &["--gpu", "--json"]] {
                let mut run = ask(s, prompt, flags)?;
                if let Some(folder) = library_path {
                    run = run.env("LD_LIBRARY_PATH", folder);
                }
                let out = run.judged()?;
                let code = out.code();
                t.hold(code == Some(6), || out.refute("it is refused", format!("{code:?}"), "exit code 6"))?;
                let said = out.err() + &out.out();
                let clear = said.contains(missing) && said.contains("--gpu") && said.contains("CPU");
                t.hold(clear, || out.refute("it says what is missing, and what to do", &*said, missing))?;
                let lines = said.trim_end().lines().count();
                t.hold(lines <= 2, || out.refute("an error and its hint", &*said, "at most two lines"))?;
            }
        }
    }
    t.done()
}
