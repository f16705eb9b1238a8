//! `cargo xtask bench`: the benchmarks, which are a program of their own, because they carry an
//! eBPF object and `xtask` has to be built where nothing is set up yet.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{command, setup, workspace};

/// Builds the release binary and the benchmarks, and becomes the benchmarks.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    let binary = workspace::build()?;
    setup::ensure_docker()?;
    command::run(workspace::cargo("build").args(["--release", "--locked", "--package", "bench"]))?;
    let bench = workspace::target_dir().join("release/bench");
    let error = Command::new(&bench).args(arguments).env("MACLANE_BIN", binary).exec();
    Err(error).with_context(|| format!("cannot start {}", bench.display()))
}
