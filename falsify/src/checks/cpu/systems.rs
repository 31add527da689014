//! F-CPU-108: the operating systems and processors that apr runs on.

use std::io::Read;

use compute::cpu::isa::Isa;

use crate::ask::{PROMPTS, answered, ask, report};
use crate::lab::{self, Setup, chat_ids, open};
use crate::subject::Subject;
use crate::verdict::{Attempt, Tally, instrument};

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
