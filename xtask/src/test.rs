//! `cargo xtask test`: the unit and property tests, then the laboratory.

use std::{ffi::OsString, thread};

use anyhow::{Result, ensure};

use crate::{command, workspace};

/// Runs every test. `arguments` go to each test program.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    ensure!(
        command::is_root(),
        "cannot run the integration tests: they make network namespaces and load eBPF programs, \
         which needs root; run `sudo -E cargo xtask test`, or `cargo test` for the tests that \
         need no rights"
    );
    let binary = workspace::build()?;
    let failpoints = workspace::build_with_failpoints()?;

    command::run(
        workspace::cargo("test")
            .args(["--locked", "--workspace", "--exclude", "tests", "--"])
            .args(arguments),
    )?;

    // Most of a laboratory test is waiting for packets, so two on each CPU do not disturb
    // each other.
    let threads = thread::available_parallelism().map_or(2, |cpus| cpus.get() * 2);
    command::run(
        workspace::cargo("test")
            .env("MACLANE_BIN", binary)
            .env("MACLANE_FAILPOINTS_BIN", failpoints)
            .args(["--locked", "--package", "tests", "--tests", "--"])
            .arg(format!("--test-threads={threads}"))
            .args(arguments),
    )
}
