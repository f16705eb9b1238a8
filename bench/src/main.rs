//! `cargo xtask bench`: maclane beside the kernel's own macvlan and bridge, in one run.
//!
//! Everything happens in network namespaces that this program makes and removes.

mod chart;
mod children;
mod context;
mod cpu;
mod document;
mod frames;
mod line;
mod load;
mod programs;
mod report;
mod row;
mod scale;
mod series;
mod storm;
mod tcp;

use std::{
    any::Any,
    io::{self, Write as _},
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use tests::{
    daemon::binary,
    interrupt::{self, Interrupt, Interrupted},
};

use context::Context;
use row::{Bench, Finished, Measured};

/// Measure maclane beside the kernel's own macvlan and bridge
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// Only rows with this name, or with this in their name
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Fewer and shorter rounds: the whole within ten minutes
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
    [frames::BENCHES, tcp::BENCHES, children::BENCHES, scale::BENCHES, programs::BENCHES]
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
    let wanted = |name: &str| {
        arguments.only.is_empty() || arguments.only.iter().any(|only| name.contains(only.as_str()))
    };
    let chosen: Vec<&Bench> =
        benches().filter(|bench| bench.rows.iter().any(|row| wanted(row.name))).collect();
    ensure!(!chosen.is_empty(), "no row is called so; `cargo xtask bench --list` lists all");

    let interrupt = Interrupt::watch().context("cannot watch for signals")?;
    context::take_precedence();
    tests::process::shield_from_terminal();
    // The laboratory panics where something fails; what it says is shown as an error.
    panic::set_hook(Box::new(|_| {}));
    let bar = ProgressBar::new(chosen.len() as u64).with_finish(ProgressFinish::AndClear);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?);
    let cx = Context { interrupt: &interrupt, bar, quick: arguments.quick, program: program()? };

    let (mut finished, mut curves, mut failed) = (Vec::new(), Vec::new(), 0);
    for bench in chosen {
        let measured = perform(bench, &cx);
        if let Some(signal) = interrupt.caught() {
            cx.bar.finish_and_clear();
            say(&format!("ended by {}; nothing is left", signal.as_str()));
            return Ok(ExitCode::from(interrupt::exit_code(signal)));
        }
        match measured {
            Ok(measured) => {
                curves.extend(measured.curves);
                let rows = bench.rows.iter().zip(measured.outcomes);
                let rows = rows.map(|(row, outcome)| Finished { row, outcome });
                finished.extend(rows.filter(|finished| wanted(finished.row.name)));
            }
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => {
                failed += 1;
                cx.bar.suspend(|| say(&format!("error: {}: {error:#}", bench.rows[0].name)));
            }
        }
        cx.bar.inc(1);
    }
    cx.bar.finish_and_clear();
    print(&report::table(&finished))?;
    if let Some(file) = &arguments.json {
        report::write_json(&finished, file)?;
    }
    if arguments.only.is_empty() && failed == 0 {
        document::write(&finished, &curves, arguments.quick)?;
        say(&format!("written: {}", document::docs().join("benchmarks.md").display()));
    }
    if failed > 0 {
        bail!("{failed} benchmarks could not be run; see above");
    }
    Ok(ExitCode::SUCCESS)
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
