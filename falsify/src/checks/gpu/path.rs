//! F-GPU: who runs, where it runs, and that both backends compute the same.

use std::time::Duration;

use compute::{Interest, Want};
use engine::session::{Loaded, Session};
use engine::twin;

use super::backend;
use crate::ask::{PROMPTS, answered, ask};
use crate::lab::{self, Setup};
use crate::server::serve;
use crate::smi;
use crate::subject::Subject;
use crate::talk::chat;
use crate::verdict::{Attempt, Halt, Refutation, Tally};

/// How long the driver may take to list a process.
const LISTED: Duration = Duration::from_secs(5);

/// The driver lists a server with these flags.
fn server_is_listed(t: &mut Tally, s: &Subject, flags: &[&str]) -> Result<(), Halt> {
    let server = serve(s, flags)?;
    let listed = smi::memory_of(server.child.id(), LISTED)?.is_some();
    t.hold(listed, || server.refute("the driver lists the process", format!("{:?}", smi::processes()), "its id"))
}

/// `--gpu` runs on the GPU: the driver lists the process.
pub fn f_gpu_134(s: &Subject) -> Attempt {
    let mut t = Tally::new("the driver's list of processes while apr serve --gpu and apr run --gpu run");
    server_is_listed(&mut t, s, &["--gpu"])?;
    let model = s.forged("qwen2-q4_k")?;
    let words = ["a", "--raw", "--temperature", "0", "--max-tokens", "1500", "--gpu"];
    let run = s.apr(["run"]).args([model.as_os_str()]).args(words).start()?;
    let listed = smi::memory_of(run.id(), LISTED)?.is_some();
    t.hold(listed, || {
        Refutation::new("the driver lists the process", "it does not", "its id").repro(run.repro.clone())
    })?;
    t.done()
}

/// Without flags, run, chat and serve take the GPU.
pub fn f_gpu_134b(s: &Subject) -> Attempt {
    let mut t = Tally::new("apr run, chat and serve without flags: what runs, and the driver's list of processes");
    server_is_listed(&mut t, s, &[])?;
    let run = answered(ask(s, PROMPTS[0], &["--max-tokens", "4", "--verbose"])?)?;
    let chat = answered(chat(s, &["--verbose"])?.stdin(format!("{}\n", PROMPTS[0])))?;
    for out in [run, chat] {
        let named = backend(&out);
        t.hold(named.starts_with("Backend: cuda"), || out.refute("CUDA runs", named, "Backend: cuda"))?;
    }
    t.done()
}

/// A step copies no K and no V: what it copies grows by the address of a block, once in 64 positions.
pub fn f_gpu_129(s: &Subject) -> Attempt {
    let mut t =
        Tally::new("bytes copied to and from the device by each of 700 steps of one row, counted by the runner");
    let setup = Setup { gpu: true, threads: 1, ..Setup::default() };
    for model in [s.model()?, s.forged("qwen2-gqa4-q4_k")?] {
        let mut model = lab::open(s, &model, setup)?;
        let ids = lab::probe(&model, 700.min(model.context))?;
        let mut session = Session::new(&mut model);
        let mut first = None;
        for (i, id) in ids.iter().enumerate() {
            let was = session.counters().copied_bytes;
            let fed = session.feed(&[*id], Want::Argmax, Want::Argmax, &mut compute::backend::NoTap);
            lab::running("a step runs", fed)?;
            let copied = session.counters().copied_bytes - was;
            let most = first.get_or_insert(copied).saturating_add(8 * (i as u64 / 64));
            t.hold(copied <= most && copied > 0, || {
                Refutation::new(
                    "a step copies no cache",
                    format!("{copied} bytes at position {i}"),
                    format!("at most {most}"),
                )
            })?;
        }
        t.number("bytes of the first step", first.unwrap_or(0) as f64);
    }
    t.done()
}

/// Both backends, operation by operation.
pub fn f_gpu_133(s: &Subject) -> Attempt {
    let mut t = Tally::new("cpu and cuda in step, every operation of both fixtures and six forged models");
    let mut models = vec![s.fixture("q8_0")?, s.fixture("q4_k_m")?];
    for name in ["qwen2-f32", "qwen2-f16", "qwen2-q5_0", "qwen2-yarn-f16", "llama-llama3-f32", "llama-head128-q8_0"] {
        models.push(s.forged(name)?);
    }
    let cpu = compute::cpu::Cpu { isa: compute::cpu::isa::Isa::detect(), threads: 4 };
    for file in models {
        let sound = Loaded::open_rewritten(&file, &cpu, None, &Interest::Everything, |_| {});
        let mut a = lab::running("the CPU opens it", sound)?;
        let mut b = lab::open(s, &file, Setup { gpu: true, watched: true, ..Setup::default() })?;
        // Not one bit may be another: the bound is as small as a distance can be told.
        let told = lab::running("both run", twin::compare(&mut a, &mut b, twin::TEXT, f64::MIN_POSITIVE))?;
        let parted = |o: &twin::Compared| format!("layer {:?}, {:?}, {}", o.layer, o.stage, o.apart);
        t.hold(told.parted.is_none(), || {
            Refutation::new(
                "every operation has the CPU's numbers",
                told.parted.as_ref().map_or(String::new(), parted),
                "the same",
            )
        })?;
        t.equal("the best tokens", &told.agree.0, &told.agree.1)?;
        t.number("operations of the last model", told.operations.len() as f64);
        t.note(format!("{} beside {}", told.backends.0, told.backends.1));
    }
    t.done()
}
