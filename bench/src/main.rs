//! `cargo xtask bench`: maclane beside the kernel's own macvlan and bridge, in one run.
//!
//! Everything happens in network namespaces that this program makes and removes.

mod chart;
mod children;
mod context;
mod cpu;
mod docker;
mod document;
mod frames;
mod growing;
mod line;
mod load;
mod programs;
mod report;
mod row;
mod scale;
mod security;
mod series;
mod storm;
mod storms;
mod tcp;

use std::{
    any::Any,
    io::{self, Write as _},
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use tests::{
    daemon::binary,
    interrupt::{self, Interrupt},
};

use chart::Curve;
use context::Context;
use row::{Bench, Finished, Measured};

/// Measure maclane beside the kernel's own macvlan and bridge
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// Only rows with this name, or with this in their name
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Fewer and shorter rounds: the whole within a quarter of an hour
    #[arg(long)]
    quick: bool,
    /// Write the results to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// List the rows, and measure nothing
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = if arguments.list { list() } else { measure(&arguments) };
    match ended {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Every benchmark, in the order in which they are run and shown.
fn benches() -> impl Iterator<Item = &'static Bench> {
    [
        frames::BENCHES,
        tcp::BENCHES,
        security::BENCHES,
        children::BENCHES,
        docker::BENCHES,
        storms::BENCHES,
        scale::BENCHES,
        programs::BENCHES,
    ]
    .into_iter()
    .flatten()
}

fn list() -> Result<ExitCode> {
    let rows = benches().flat_map(|bench| bench.rows);
    let lines = rows.map(|row| {
        let peer = row.peer.map(|peer| format!(", against {peer}")).unwrap_or_default();
        format!("{:<24} {} ({}){peer}\n", row.name, row.what, row.unit)
    });
    print(&lines.collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

fn measure(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "cannot measure: it makes network namespaces and loads eBPF programs, which needs root; \
         run `sudo -E cargo xtask bench`"
    );
    let chosen: Vec<&Bench> =
        benches().filter(|bench| bench.rows.iter().any(|row| arguments.wants(row.name))).collect();
    ensure!(!chosen.is_empty(), "no row is called so; `cargo xtask bench --list` lists all");

    let interrupt = Interrupt::watch().context("cannot watch for signals")?;
    context::take_precedence();
    tests::process::shield_from_terminal();
    // The laboratory panics where something fails; what it says is shown as an error.
    panic::set_hook(Box::new(|_| {}));
    let bar = ProgressBar::new(chosen.len() as u64).with_finish(ProgressFinish::AndClear);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?);
    let cx = Context { interrupt: &interrupt, bar, quick: arguments.quick, program: program()? };

    let results = run(&chosen, &cx);
    cx.bar.finish_and_clear();
    if let Some(signal) = interrupt.caught() {
        say(&format!("ended by {}; nothing is left", signal.as_str()));
        return Ok(ExitCode::from(interrupt::exit_code(signal)));
    }
    let mut results = results?;
    results.finished.retain(|finished| arguments.wants(finished.row.name));
    print(&report::table(&results.finished))?;
    if let Some(file) = &arguments.json {
        report::write_json(&results.finished, file)?;
    }
    ensure!(results.failed == 0, "{} benchmarks could not be run; see above", results.failed);
    if arguments.only.is_empty() {
        document::write(&results.finished, &results.curves, arguments.quick)?;
        say(&format!("written: {}", document::docs().join("benchmarks.md").display()));
    }
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    /// Whether a row was asked for: by its name, or, where no row is called so, by a part of it.
    fn wants(&self, name: &str) -> bool {
        let is_a_name = |only: &str| benches().flat_map(|b| b.rows).any(|row| row.name == only);
        let matches = |only: &String| name == only || !is_a_name(only) && name.contains(only);
        self.only.is_empty() || self.only.iter().any(matches)
    }
}

/// What a run has found.
#[derive(Default)]
struct Results {
    finished: Vec<Finished>,
    curves: Vec<Curve>,
    /// Benchmarks that could not be run.
    failed: usize,
}

/// Runs benchmarks. One that fails does not keep the others from running.
fn run(chosen: &[&Bench], cx: &Context) -> Result<Results> {
    let mut results = Results::default();
    for bench in chosen {
        match perform(bench, cx) {
            Ok(measured) => {
                results.curves.extend(measured.curves);
                let rows = bench.rows.iter().zip(measured.outcomes);
                results.finished.extend(rows.map(|(row, outcome)| Finished { row, outcome }));
            }
            Err(error) => {
                // If it was interrupted, there is nothing more to say.
                cx.check()?;
                results.failed += 1;
                cx.bar.suspend(|| say(&format!("error: {}: {error:#}", bench.rows[0].name)));
            }
        }
        cx.bar.inc(1);
    }
    Ok(results)
}

/// Runs one benchmark; what the laboratory panics with is an error.
fn perform(bench: &Bench, cx: &Context) -> Result<Measured> {
    let names: Vec<_> = bench.rows.iter().map(|row| row.name).collect();
    cx.bar.set_message(format!("{}: setting up", names[0]));
    if cx.bar.is_hidden() {
        say(&names.join(", "));
    }
    panic::catch_unwind(AssertUnwindSafe(|| (bench.run)(cx)))
        .unwrap_or_else(|panic| Err(anyhow!("{}", message(&*panic))))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked")
}

fn program() -> Result<PathBuf> {
    let program = binary();
    program.canonicalize().with_context(|| {
        format!("cannot find {}; run `cargo xtask bench`, which builds it", program.display())
    })
}

/// A line of progress. Nobody is left to tell if standard error is closed.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Results.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot print")
}
