//! `apr convert`: a model in another container.

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use apr_cli::source;
use engine::convert::{Report, Target, convert};
use engine::error::quoted_path;
use engine::term::{self, Progress};
use engine::{Error, Kind, Place, Result};

use crate::args::ConvertArgs;
use crate::interrupt;

/// Converts it.
//= F-APR-075
pub fn execute(args: &ConvertArgs) -> Result<ExitCode> {
    let target = match &args.to {
        Some(name) => Target::ALL.iter().find(|(known, _)| known == name).map(|(_, target)| *target),
        None => Target::of(&args.output),
    };
    let target = target.ok_or_else(|| {
        Error::new(Kind::Usage, format!("{} does not say what to write", quoted_path(&args.output)))
            .at(Place::Flag("--to".into()))
            .hint("end its name in .gguf or .apr, in / for a folder of SafeTensors, or use the flag")
    })?;
    let input = source::resolve(&args.input, &args.source.access(args.quiet))?;
    let cancel = interrupt::watch()?;
    let mut bar = Progress::new("converting", args.quiet);
    let report = convert(&input, &args.output, target, args.force, &mut |done, total| {
        bar.at(done, total);
        match cancel.load(Ordering::Relaxed) {
            true => Err(Error::new(Kind::Interrupted, "interrupted")),
            false => Ok(()),
        }
    });
    drop(bar);
    let report = report?;
    if args.json {
        term::print_line(&json(args, &report).to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.quiet {
        for ((from, to), count) in &report.changed {
            // Nothing is lost, and it may take more room.
            let how = match (*from, *to) {
                (from, to) if from == to => "their rows are in the target's order".to_string(),
                (from, "F32") => format!("{from} is now F32, without loss; the target has no such format"),
                (from, to) => format!("{from} is now {to}"),
            };
            term::note(&format!("{count} tensors: {how}"));
        }
        term::note(&format!(
            "{} is written, {}: {} tensors, {} of them byte for byte as they were",
            quoted_path(&args.output),
            report.to,
            report.tensors,
            report.kept
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn json(args: &ConvertArgs, report: &Report) -> serde_json::Value {
    let changed: Vec<serde_json::Value> = report
        .changed
        .iter()
        .map(|((from, to), count)| serde_json::json!({"from": from, "to": to, "tensors": count}))
        .collect();
    serde_json::json!({
        "input": args.input.to_string_lossy(),
        "output": args.output.to_string_lossy(),
        "from": report.from,
        "to": report.to,
        "tensors": report.tensors,
        "kept": report.kept,
        "changed": changed,
        "bytes": report.bytes,
    })
}
