//! `apr bench`: how fast a model runs here.

use std::process::ExitCode;

use apr_cli::source;
use engine::{Result, bench, term};

use crate::args::BenchArgs;
use crate::interrupt;

/// Measures.
pub fn execute(args: &BenchArgs) -> Result<ExitCode> {
    // Nothing is lost by ending at once.
    let _cancel = interrupt::watch()?;
    let plan = bench::Plan {
        prompt: args.prompt,
        decode: args.decode,
        context: args.context,
        repeat: args.repeat,
        threads: args.threads,
        gpu: args.gpu,
        gpu_if_present: !args.no_gpu,
    };
    let figures = bench::run(&source::resolve(&args.model, &args.source.access(args.json))?, &plan)?;
    let object = args.json.then(|| figures.object(&plan));
    term::say(&figures.text(&plan), object.as_ref())?;
    Ok(ExitCode::SUCCESS)
}
