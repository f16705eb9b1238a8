//! `cargo xtask test`: the unit and property tests, then the laboratory, on one kernel after the
//! other.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, process::Stdio, thread};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    command, fuzz, setup,
    vm::{self, Kernel},
    workspace,
};

/// What the integration tests are made of.
pub(crate) struct Programs {
    /// The product.
    pub(crate) maclane: PathBuf,
    /// The product with places at which it can be made to die.
    pub(crate) failpoints: PathBuf,
    /// The folder of the eBPF objects in it.
    pub(crate) objects: PathBuf,
    /// The test programs, by name.
    pub(crate) tests: BTreeMap<String, PathBuf>,
}

/// Runs every test on each of the kernels. `arguments` go to each test program.
pub(crate) fn run(kernels: &[Kernel], arguments: &[OsString]) -> Result<()> {
    ensure!(
        command::is_root(),
        "cannot run the integration tests: they make network namespaces and load eBPF programs, \
         which needs root; run `sudo -E cargo xtask test`, or `cargo test` for the tests that \
         need no rights"
    );
    let maclane = workspace::build()?;
    let failpoints = workspace::build_with_failpoints()?;
    // Most of a laboratory test is waiting for packets, so two on each CPU do not disturb
    // each other.
    let threads = thread::available_parallelism().map_or(2, |cpus| cpus.get() * 2);

    let programs = build(maclane, failpoints)?;
    if kernels.contains(&Kernel::Running) {
        here(&programs, threads, arguments)?;
    }
    let others: Vec<_> = kernels.iter().filter_map(|kernel| kernel.debian()).collect();
    if others.is_empty() { Ok(()) } else { vm::run(&others, &programs, threads, arguments) }
}

/// Every test, on the running kernel.
fn here(programs: &Programs, threads: usize, arguments: &[OsString]) -> Result<()> {
    setup::ensure_docker()?;
    setup::ensure_real()?;
    command::run(
        workspace::cargo("test")
            .args(["--locked", "--workspace", "--exclude", "tests", "--"])
            .args(arguments),
    )?;
    command::run(
        workspace::cargo("test")
            .env("MACLANE_BIN", &programs.maclane)
            .env("MACLANE_FAILPOINTS_BIN", &programs.failpoints)
            .args(["--locked", "--package", "tests", "--tests", "--"])
            .arg(format!("--test-threads={threads}"))
            .args(arguments),
    )?;
    // A filter names tests, of which a fuzz target is none.
    if arguments.is_empty() { fuzz::run(&[], fuzz::SHORT) } else { Ok(()) }
}

/// Builds the integration tests, and says where they are.
fn build(maclane: PathBuf, failpoints: PathBuf) -> Result<Programs> {
    let mut cargo = workspace::cargo("test");
    cargo.args(["--locked", "--package", "tests", "--tests", "--no-run"]);
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let messages = command::output(&mut cargo)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tests = messages.filter_map(|message| {
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, message["executable"].as_str()?.into()))
    });
    let objects = tests::program::built_objects(&maclane);
    Ok(Programs { maclane, failpoints, objects, tests: tests.collect() })
}
