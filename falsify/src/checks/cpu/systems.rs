//! F-CPU-093, 108, 110: the operating systems and processors that apr runs on.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use compute::cpu::isa::Isa;

use crate::ask::{PROMPTS, answered, ask, report};
use crate::child::Output;
use crate::lab::{self, Setup, chat_ids, open};
use crate::subject::Subject;
use crate::verdict::{Attempt, Halt, Refutation, Tally, instrument};

/// The target whose binaries qemu runs.
const ARM: &str = "aarch64-unknown-linux-gnu";

/// What holds each level to the scalar one, by the names of the tests.
const LAWS: &[&str] = &[
    "cpu::simd::tests::every_level_gives_the_same_floats",
    "cpu::simd::tests::every_level_gives_the_same_integers",
    "cpu::tests::every_format_has_one_arithmetic",
    "cpu::tests::one_arithmetic_per_format",
    "cpu::tests::one_result_for_every_way_of_running",
];

/// NEON works: the property suite of the kernels, and whole answers, on an ARM build in an emulator.
pub fn f_cpu_093(s: &Subject) -> Attempt {
    let mut t = Tally::new("the compute crate's tests and apr, built for aarch64-unknown-linux-gnu, by qemu-aarch64");
    let root = s.sources()?;
    let cargo = |words: &[&str]| {
        let mut command = Command::new("cargo");
        command.current_dir(root).args(words).args(["--locked", "--target", ARM]);
        command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
        command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", "qemu-aarch64 -L /usr/aarch64-linux-gnu");
        command.output().map_err(instrument)
    };
    // One law for every level: here it holds NEON to scalar, and every way of running to one result.
    let tests = cargo(&["test", "-p", "compute", "--lib"])?;
    let said = String::from_utf8_lossy(&tests.stdout).into_owned();
    let passed = said.lines().filter(|l| l.starts_with("test ") && l.ends_with(" ... ok")).count();
    let laws = LAWS.iter().all(|law| said.contains(&format!("test {law} ... ok")));
    t.hold(tests.status.success() && laws, || {
        let err = said + &String::from_utf8_lossy(&tests.stderr);
        let line = err.lines().find(|l| l.contains("FAILED") || l.starts_with("error")).unwrap_or_default().to_string();
        Refutation::new("the properties of the kernels hold on ARM", line, LAWS.join(", "))
    })?;
    t.number("tests of the compute crate", passed as f64);
    let built = cargo(&["build", "-p", "apr-cli"])?;
    t.hold(built.status.success(), || {
        let err = String::from_utf8_lossy(&built.stderr).into_owned();
        let line = err.lines().find(|l| l.starts_with("error")).unwrap_or_default().to_string();
        Refutation::new("apr builds for ARM", line, "exit code 0")
    })?;
    let exe = root.join("target").join(ARM).join("debug/apr");
    let line = format!("exec qemu-aarch64 -L /usr/aarch64-linux-gnu '{}'", exe.display());
    let arm = s.with_apr(script(s, &line)?);
    for model in [s.model()?, s.fixture("q4_k_m")?] {
        for prompt in PROMPTS {
            let tokens = |who: &Subject, isa: &str| -> Result<(serde_json::Value, String, Output), Halt> {
                let run = who.apr(["run"]).args([model.as_os_str()]).args([prompt]);
                let run = run.args(["--temperature", "0", "--max-tokens", "16", "--json", "--no-gpu"]);
                let out = answered(run.env("APR_ISA", isa).deadline(Duration::from_secs(300)))?;
                let json: serde_json::Value = serde_json::from_slice(&out.stdout).map_err(instrument)?;
                Ok((json["tokens"].clone(), json["backend"].as_str().unwrap_or_default().to_string(), out))
            };
            let ((there, backend, out), (here, ..)) = (tokens(&arm, "neon")?, tokens(&s.unspoilt(), "scalar")?);
            t.hold(backend.contains("(neon,"), || out.refute("NEON is what ran", &*backend, "cpu (neon, ..)"))?;
            t.hold(there == here && here[0].is_u64(), || {
                out.refute("the tokens of the scalar level here", there.to_string(), here.to_string())
            })?;
        }
    }
    t.by_ruling("emulated: qemu-aarch64 ran it, not an ARM processor");
    t.done()
}

/// A library of Windows that Debian's Wine does not have yet, and Rust's standard library wants: one function, which
/// draws random bytes. It is found beside the program.
fn system_library(folder: &Path) -> Result<(), Halt> {
    const SOURCE: &str = "#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T n) { return SystemFunction036(bytes, (ULONG)n); }
";
    let source = folder.join("prng.c");
    std::fs::write(&source, SOURCE).map_err(instrument)?;
    let mut gcc = Command::new("x86_64-w64-mingw32-gcc");
    gcc.args(["-shared", "-o"]).arg(folder.join("bcryptprimitives.dll")).arg(&source).arg("-ladvapi32");
    let done = gcc.status().map_err(instrument)?;
    if done.success() { Ok(()) } else { Err(instrument("mingw does not compile bcryptprimitives.dll")) }
}

/// A program that is this line of a shell, with its own arguments behind.
fn script(s: &Subject, line: &str) -> Result<PathBuf, Halt> {
    let at = s.scratch()?.join("apr");
    std::fs::write(&at, format!("#!/bin/sh\n{line} \"$@\"\n")).map_err(instrument)?;
    #[cfg(unix)]
    std::fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(instrument)?;
    Ok(at)
}

/// The target whose binaries Wine runs, made by cargo and mingw.
const WINDOWS: &str = "x86_64-pc-windows-gnu";

/// Works on Windows x86_64: the Windows build runs the command line and answers under Wine.
pub fn f_cpu_110(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr.exe, built by cargo for x86_64-pc-windows-gnu, under Wine");
    let root = s.sources()?;
    let build = ["build", "--locked", "-p", "apr-cli", "--target", WINDOWS];
    let built = Command::new("cargo").current_dir(root).args(build).output().map_err(instrument)?;
    t.hold(built.status.success(), || {
        let err = String::from_utf8_lossy(&built.stderr).into_owned();
        let line = err.lines().find(|l| l.starts_with("error")).unwrap_or_default().to_string();
        Refutation::new("it builds for Windows", line, "exit code 0").repro(format!("cargo {}", build.join(" ")))
    })?;
    let exe = root.join("target").join(WINDOWS).join("debug/apr.exe");
    let head = std::fs::read(&exe).map_err(instrument)?;
    // The magic of DOS, then that of a portable executable where its 60th byte says, then the machine: 0x8664.
    let at = head.get(60..64).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes) as usize;
    t.equal("it is a Windows program for x86-64", &head.get(at..at + 6), &Some(&b"PE\0\0\x64\x86"[..]))?;
    let folder = s.scratch()?;
    let there = folder.join("apr.exe");
    std::fs::copy(&exe, &there).map_err(instrument)?;
    system_library(&folder)?;
    // Wine keeps its registry in a folder of its own, and says much that is of no interest.
    let prefix = folder.join("wine");
    let line = format!("WINEPREFIX='{}' WINEDEBUG=-all exec wine '{}'", prefix.display(), there.display());
    let windows = s.with_apr(script(s, &line)?);
    let patience = Duration::from_secs(300);
    for words in [&["--version"][..], &["--help"], &["run", "--help"]] {
        let out = answered(windows.apr(words).deadline(patience))?;
        let said = out.out();
        let want = answered(s.unspoilt().apr(words))?.out();
        // It is called apr.exe there, and its lines end otherwise.
        let plain = |text: &str| text.replace("apr.exe", "apr").replace('\r', "");
        t.hold(plain(&said) == plain(&want), || out.refute(&format!("{} there", words.join(" ")), said, want))?;
    }
    for model in [s.model()?, s.fixture("q4_k_m")?, s.fixtures.join("qwen2-tiny")] {
        for prompt in PROMPTS {
            let words = ["--temperature", "0", "--max-tokens", "24", "--json"];
            let tokens = |who: &Subject| -> Result<(serde_json::Value, Output), Halt> {
                let run = who.apr(["run"]).args([model.as_os_str()]).args([prompt]).args(words);
                let out = answered(run.deadline(patience))?;
                let json: serde_json::Value = serde_json::from_slice(&out.stdout).map_err(instrument)?;
                Ok((serde_json::json!([json["text"], json["tokens"]]), out))
            };
            let ((there, out), (here, _)) = (tokens(&windows)?, tokens(&s.unspoilt())?);
            t.hold(there == here && here[1][0].is_u64(), || {
                out.refute("the tokens of the Linux build", there.to_string(), here.to_string())
            })?;
        }
    }
    let nowhere = windows.apr(["run", "nowhere.gguf", "2+2?"]).deadline(patience).judged()?;
    t.hold(nowhere.code() == Some(3), || {
        nowhere.refute("a missing file exits 3", format!("{:?}", nowhere.code()), "3")
    })?;
    t.note("bcryptprimitives.dll, which this Wine lacks, was made of its one function");
    t.by_ruling("the Windows build ran under Wine, not on Windows");
    t.done()
}

/// Works on Linux x86_64: the binary is one of this system, and does here what it does anywhere.
pub fn f_cpu_108(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("apr's own header; version, help, answers at every instruction set of this processor, errors");
    let system = std::fs::read_to_string("/proc/sys/kernel/ostype").map_err(instrument)?;
    t.equal("the kernel's name", &system.trim(), &"Linux")?;
    let mut head = [0u8; 20];
    let file = std::fs::File::open(&s.real_apr).and_then(|mut f| f.read_exact(&mut head));
    file.map_err(|e| instrument(format!("apr's header: {e}")))?;
    // The magic, 64 bits, little-endian; 62 is x86-64 (System V ABI).
    t.equal("apr is an ELF file for x86-64", &(&head[..6], &head[18..]), &(&b"\x7fELF\x02\x01"[..], &[62u8, 0][..]))?;
    for words in [&["--version"][..], &["--help"], &["run", "--help"]] {
        let out = answered(s.apr(words))?;
        t.hold(!out.stdout.is_empty(), || out.refute("it says something", "nothing", "text"))?;
    }
    let mut model = open(s, &s.model()?, Setup::default())?;
    let mut levels = Vec::new();
    for isa in Isa::available() {
        for prompt in PROMPTS {
            let ids = chat_ids(&model, prompt)?;
            let want = lab::greedy(&mut model, &ids, 24)?.text;
            let out = answered(ask(s, prompt, &["--max-tokens", "24"])?.env("APR_ISA", isa.name()))?;
            let same = out.out().trim_end_matches('\n') == want.trim_end_matches('\n');
            t.hold(same, || out.refute(&format!("the answer at {}", isa.name()), out.out(), &*want))?;
        }
        levels.push(isa.name());
    }
    let json = report(s, PROMPTS[0], &["--max-tokens", "4"])?.json;
    t.equal("JSON", &json["tokens_generated"].is_u64(), &true)?;
    let nowhere = s.scratch()?.join("nowhere.gguf");
    let out = s.apr(["run"]).args([nowhere.as_os_str()]).args(["2+2?"]).judged()?;
    t.hold(out.code() == Some(3), || out.refute("a missing file exits 3", format!("{:?}", out.code()), "3"))?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").map_err(instrument)?;
    t.note(format!("Linux {}, instruction sets {}", release.trim(), levels.join(", ")));
    t.done()
}
