//! `apr bench`: how fast a model runs here.

use std::process::ExitCode;

use apr_cli::source;
use engine::bench::{self, machine, replay};
use engine::{Result, term};

use crate::args::BenchArgs;
use crate::interrupt;

/// Measures.
pub fn execute(args: &BenchArgs) -> Result<ExitCode> {
    // Nothing is lost by ending at once.
    let _cancel = interrupt::watch()?;
    let Some(model) = &args.model else {
        let (cpu, peaks) = term::busy("measuring", || machine::run(args.threads))?;
        let object = args.json.then(|| machine::object(cpu, &peaks));
        term::say(&machine::text(cpu, &peaks), object.as_ref())?;
        return Ok(ExitCode::SUCCESS);
    };
    let plan = bench::Plan {
        prompt: args.prompt,
        decode: args.decode,
        context: args.context,
        batch: args.batch.into(),
        repeat: args.repeat,
        threads: args.threads,
        gpu: args.gpu,
        gpu_if_present: !args.no_gpu,
    };
    let model = source::resolve(model, &args.source.access(args.json))?;
    if let Some(workload) = &args.replay {
        let (backend, said) = term::busy("measuring", || replay::run(&model, &plan, &replay::read(workload)?))?;
        let object = args.json.then(|| replay::object(&backend, &said));
        term::say(&replay::text(&backend, &said), object.as_ref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let figures = term::busy("measuring", || bench::run(&model, &plan))?;
    let object = args.json.then(|| figures.object(&plan));
    term::say(&figures.text(&plan), object.as_ref())?;
    Ok(ExitCode::SUCCESS)
}
