//! Everything a developer of maclane runs.

mod bench;
mod command;
mod fuzz;
mod lint;
mod run;
mod setup;
mod soak;
mod test;
mod vm;
mod workspace;

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Everything a developer of maclane runs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need and this machine lacks
    Setup,
    /// Set up, then build the release binary
    Build,
    /// Set up, build, then run every test (as root)
    Test {
        /// On this kernel only: `running`, or Debian's `6.1` or `6.12` in a virtual machine
        #[arg(long = "kernel", value_name = "KERNEL", default_values_t = vm::Kernel::ALL)]
        kernels: Vec<vm::Kernel>,
        /// Lint, unit tests and one integration test of each mechanism, on the running kernel
        #[arg(long, conflicts_with_all = ["kernels", "arguments"])]
        quick: bool,
        /// Arguments of the test programs, such as a filter
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Feed the readers of frames, requests and the store with generated input
    Fuzz {
        /// Only these targets
        targets: Vec<String>,
        /// Seconds of each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Run the long loops at their full length, and write docs/soak.md (as root)
    Soak {
        /// Seconds of each fuzz target
        #[arg(long, default_value_t = fuzz::LONG)]
        fuzz_seconds: u32,
    },
    /// Set up, build, then measure maclane beside the kernel's macvlan and bridge (as root)
    #[command(disable_help_flag = true)]
    Bench {
        /// Options of the benchmarks; `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Check formatting and lints, for this machine and for the BPF target
    Lint,
    /// Set up, build, then prove maclane on a small LAN of namespaces, or run it with ARGS
    Run {
        /// Arguments of `maclane`
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => {
            setup::ensure()?;
            setup::report();
        }
        Task::Build => {
            let binary = workspace::build()?;
            eprintln!("built {}", binary.display());
        }
        Task::Test { quick: true, .. } => test::run_quick()?,
        Task::Test { kernels, arguments, .. } => test::run(&kernels, &arguments)?,
        Task::Fuzz { targets, seconds } => fuzz::fuzz(&targets, seconds)?,
        Task::Soak { fuzz_seconds } => soak::run(fuzz_seconds)?,
        Task::Bench { arguments } => return bench::run(&arguments),
        Task::Lint => lint::run()?,
        Task::Run { arguments } if arguments.is_empty() => return run::proof(),
        Task::Run { arguments } => {
            let binary = workspace::build()?;
            let error = Command::new(&binary).args(arguments).exec();
            return Err(error).with_context(|| format!("cannot start {}", binary.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}
