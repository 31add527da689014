//! `falsify`: list, run and prove the rows of the checklist, and write the report.
//!
//! Exit codes: 0 nothing refuted and nothing broken, 1 otherwise, 2 usage.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use falsify::registry::{self, Row, Status, Tier};
use falsify::report::{Report, breaks_the_build, letter, open, readme};
use falsify::stamp::Stamp;
use falsify::suite::{ProofOutcome, Record};
use falsify::verdict::Verdict;
use falsify::{forge, knobs, launch, sabotage, tidy, whereabouts};

#[derive(Parser)]
#[command(name = "falsify", about = "Tries to refute the 300 claims about apr", after_help = environment())]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the rows: id, level, tier, status, claim.
    List,
    /// Runs rows (all of them without IDs) and prints their verdicts.
    Run(Rows),
    /// Runs rows together with their saboteurs and prints the matrix.
    Sabotage(Rows),
    /// Runs every row with all its saboteurs, and writes every form of the report and the README's score.
    ///
    /// With IDS only these: a machine that has what another lacks, whose report is merged with a whole one.
    Report {
        #[command(flatten)]
        rows: Rows,
        #[command(flatten)]
        to: To,
    },
    /// Makes one report of several latest.json; the first says which product counts, verdicts of others are stale.
    ///
    /// Of one file it writes all other forms again.
    Merge {
        /// Reports, such as reports/latest.json.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        to: To,
    },
    /// Says where a row is checked and which lines of the product answer for it.
    Where {
        /// A row, such as F-GGUF-041.
        id: String,
    },
    /// Checks the rules of the house.
    Tidy,
    /// Makes a model file of the forge, or lists what there is to make.
    Forge {
        /// What to make.
        #[arg(required_unless_present = "list")]
        name: Option<String>,
        /// Where to put it: a file, or a folder for the usual name.
        #[arg(default_value = ".")]
        out: PathBuf,
        /// Lists every name.
        #[arg(long)]
        list: bool,
    },
}

#[derive(Args)]
struct Rows {
    /// Rows, such as F-GGUF-041, or the beginnings of their ids: F-GGUF.
    ids: Vec<String>,
    #[command(flatten)]
    watched: Watched,
}

/// What is watched.
#[derive(Args)]
struct Watched {
    /// Also runs this tier (perf, nightly).
    #[arg(long, value_parser = parse_tier)]
    tier: Vec<Tier>,
    /// The apr binary to watch.
    #[arg(long)]
    apr: Option<PathBuf>,
    /// The folder of fixture models.
    #[arg(long)]
    fixtures: Option<PathBuf>,
    /// The folder of oracle output.
    #[arg(long)]
    golden: Option<PathBuf>,
}

/// Where a report goes.
#[derive(Args)]
struct To {
    /// The folder to write to (default: the tree's reports/).
    #[arg(long)]
    out: Option<PathBuf>,
    /// Opens the page when it is written.
    #[arg(long)]
    open: bool,
}

fn parse_tier(word: &str) -> Result<Tier, String> {
    serde_json::from_value(word.into()).map_err(|_| "pure, file, process, socket, device, perf or nightly".to_string())
}

fn environment() -> String {
    let line = |(name, meaning): &(&str, &str)| format!("  {name:18} {meaning}\n");
    "Environment:\n".to_string() + &knobs::TABLE.iter().map(line).collect::<String>()
}

fn main() -> ExitCode {
    let outcome = match Line::parse().command {
        Command::List => list(),
        Command::Run(rows) => run(&rows, false).map(|(_, fine)| fine),
        Command::Sabotage(rows) => run(&rows, true).map(|(records, fine)| matrix(&records) && fine),
        Command::Report { rows, to } => report(&rows, &to),
        Command::Merge { files, to } => merge(&files, &to),
        Command::Where { id } => whereabouts::print(&id),
        Command::Tidy => tidy_tree(),
        Command::Forge { name, out, list } => make(name.filter(|_| !list).as_deref(), &out),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("falsify: {e}");
            ExitCode::from(2)
        }
    }
}

fn list() -> Result<bool, String> {
    for r in registry::rows() {
        let status = if r.status == Status::Live { "live" } else { "-" };
        println!("{:12} {} {:8} {status:5} {}", r.id, r.level, r.tier.name(), r.claim);
    }
    Ok(true)
}

/// The rows that were asked for, by whole id or by a beginning of it that ends at a dash.
fn chosen(rows: &Rows) -> Result<Vec<&'static Row>, String> {
    let mut chosen = Vec::new();
    for id in &rows.ids {
        let id = id.to_uppercase();
        let begins = format!("{}-", id.trim_end_matches('-'));
        let found: Vec<&Row> =
            registry::rows().iter().filter(|r| r.id.to_uppercase() == id || r.id.starts_with(&begins)).collect();
        if found.is_empty() {
            return Err(format!("no row is called {id}"));
        }
        chosen.extend(found);
    }
    Ok(if rows.ids.is_empty() { registry::rows().iter().collect() } else { chosen })
}

fn suite(watched: &Watched) -> Result<falsify::suite::Suite, String> {
    let named = launch::Named {
        apr: watched.apr.clone(),
        fixtures: watched.fixtures.clone(),
        golden: watched.golden.clone(),
        models: None,
    };
    let tiers: Vec<Tier> = Tier::DAILY.iter().chain(&watched.tier).copied().collect();
    launch::suite(named, &tiers)
}

/// Runs the chosen rows one after the other. The flag says whether nothing is refuted or broken.
fn run(rows: &Rows, prove: bool) -> Result<(Vec<Record>, bool), String> {
    let chosen = chosen(rows)?;
    let suite = suite(&rows.watched)?;
    let mut records = Vec::new();
    let mut fine = true;
    for row in chosen {
        let record = suite.record(row, prove);
        show(&record);
        fine &= breaks_the_build(&record).is_none();
        records.push(record);
    }
    Ok((records, fine))
}

fn show(record: &Record) {
    let detail = match &record.verdict {
        Verdict::Survived(e) => {
            let numbers: String = e.numbers().iter().map(|(k, v)| format!("; {k} {v:.4}")).collect();
            format!("{} cases: {}{numbers}", e.cases(), e.ran())
        }
        Verdict::NotAttempted(reason) => reason.to_string(),
        Verdict::Refuted(_) => String::new(),
    };
    let detail = breaks_the_build(record).unwrap_or(detail);
    println!("{} {:12} {:6} ms  {detail}", letter(&record.verdict), record.id, record.took_ms);
}

/// Prints what every saboteur achieved. True if none went unnoticed.
fn matrix(records: &[Record]) -> bool {
    println!("\n{:12} {:24} {:10} by", "row", "saboteur", "outcome");
    for r in records {
        for p in &r.proofs {
            println!("{:12} {:24} {:10} {}", r.id, p.saboteur, format!("{:?}", p.outcome), p.detail);
        }
    }
    let proofs = || records.iter().flat_map(|r| &r.proofs);
    let caught = proofs().filter(|p| p.outcome == ProofOutcome::Caught).count();
    let survived = || records.iter().filter(|r| matches!(r.verdict, Verdict::Survived(_)));
    println!("{caught} of {} caught; {} saboteurs exist", proofs().count(), sabotage::all().count());
    println!("{} of {} rows that survived are proven", survived().filter(|r| r.proven()).count(), survived().count());
    caught == proofs().count()
}

fn report(rows: &Rows, to: &To) -> Result<bool, String> {
    let chosen = chosen(rows)?;
    let suite = suite(&rows.watched)?;
    // Of the tree as it is now: a run takes minutes, in which the tree may change.
    let stamp = Stamp::now(&suite, suite.root.as_deref());
    let records = suite.all(|row| chosen.iter().any(|c| c.id == row.id), show);
    publish(&Report::new(stamp, records), to)
}

fn merge(files: &[PathBuf], to: &To) -> Result<bool, String> {
    let reports: Vec<Report> = files.iter().map(|f| Report::read(f)).collect::<Result<_, _>>()?;
    publish(&falsify::report::merge::merge(reports)?, to)
}

/// Writes the report; in the tree's own folder the README's score too. True if nothing breaks the build.
fn publish(report: &Report, to: &To) -> Result<bool, String> {
    let kept = launch::root().map(|r| r.join("reports"));
    let folder = to.out.clone().or_else(|| kept.clone()).ok_or("no source tree here; name --out")?;
    report.write(&folder)?;
    if to.out.is_none()
        && let Some(root) = launch::root()
    {
        readme::update(&root.join("README.md"), report)?;
    }
    println!("{}\n{}", report.headline(), report.beside());
    let page = folder.join("latest.html");
    println!("{}", page.display());
    if to.open
        && let Err(why) = open::open(&page)
    {
        println!("not opened: {why}");
    }
    Ok(!report.rows.iter().any(|r| breaks_the_build(r).is_some()))
}

fn tidy_tree() -> Result<bool, String> {
    let root = launch::root().ok_or("no source tree here")?;
    let findings = tidy::run(&root);
    print!("{}", tidy::render(&findings));
    Ok(findings.is_empty())
}

/// Makes one file of the forge, or lists them all.
fn make(name: Option<&str>, out: &std::path::Path) -> Result<bool, String> {
    let Some(name) = name else {
        forge::list().iter().for_each(|n| println!("{n}"));
        return Ok(true);
    };
    let file = if out.is_dir() { out.join(forge::file_name(name)) } else { out.to_path_buf() };
    forge::write(name, &file).map_err(|e| e.to_string())?;
    for part in forge::paths(name, &file).map_err(|e| e.to_string())? {
        println!("{}", part.display());
    }
    Ok(true)
}
