//! `cargo xtask fuzz`: the fuzz targets, each for a while, from the seeds of the repository.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use dataplane_ebpf::toolchain::tools_dir;

use crate::{command, setup, workspace};

/// Seconds of each target where every test runs.
pub(crate) const SHORT: u32 = 20;

const VERSION: &str = "0.13.2";

/// The targets, which are files of `tests/fuzz/targets`.
pub(crate) fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir().join("targets")).context("cannot list the fuzz targets")? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort_unstable();
    Ok(names)
}

/// Runs targets, all of them if none is named, each for some seconds.
pub(crate) fn run(wanted: &[String], seconds: u32) -> Result<()> {
    let known = targets()?;
    for name in wanted {
        ensure!(known.contains(name), "no fuzz target \"{name}\"; there are {}", known.join(", "));
    }
    setup::ensure_fuzz()?;
    let cargo_fuzz = cargo_fuzz()?;
    let quick = seconds <= SHORT;
    for target in if wanted.is_empty() { &known } else { wanted } {
        let corpus = workspace::target_dir().join("fuzz-corpus").join(target);
        fs::create_dir_all(&corpus)?;
        command::run(&mut fuzz(&cargo_fuzz, "build", target, quick))?;
        let mut run = fuzz(&cargo_fuzz, "run", target, quick);
        run.arg(&corpus).arg(dir().join("seeds").join(target));
        run.args(["--", &format!("-max_total_time={seconds}"), "-print_final_stats=1"]);
        // What is long is slow, and finds nothing that a shorter one does not.
        run.args(["-max_len=16384", "-verbosity=0"]);
        run.arg(if quick { "-timeout=180" } else { "-timeout=30" });
        // The store's library makes room for whatever page a damaged one points to before it finds
        // that the file ends earlier: 4 GiB at the most.
        run.arg("-rss_limit_mb=6144");
        command::run(&mut run).with_context(|| {
            format!(
                "the fuzz target {target} has found something: keep the file that it names as \
                 tests/fuzz/seeds/{target}/NAME, and mend what it shows"
            )
        })?;
    }
    Ok(())
}

/// `cargo fuzz SUBCOMMAND TARGET`.
///
/// A quick run tries the seeds and little more: it is built without optimization, which takes the compiler
/// minutes; see the profile in `tests/fuzz/Cargo.toml`.
fn fuzz(program: &Path, subcommand: &str, target: &str, quick: bool) -> Command {
    let mut fuzz = Command::new(program);
    fuzz.args(["fuzz", subcommand]).args(quick.then_some("--dev"));
    fuzz.args(["--sanitizer", "none", "--fuzz-dir"]);
    fuzz.arg(dir()).arg(target);
    // Coverage is asked for with flags that only nightly takes otherwise.
    fuzz.env("RUSTC_BOOTSTRAP", "1");
    fuzz.env("CARGO_TARGET_DIR", workspace::target_dir().join("fuzz"));
    fuzz.current_dir(workspace::root());
    fuzz
}

fn dir() -> PathBuf {
    workspace::root().join("tests/fuzz")
}

/// `cargo-fuzz`, installed if it is not there.
fn cargo_fuzz() -> Result<PathBuf> {
    if let Some(found) = command::find("cargo-fuzz") {
        return Ok(found);
    }
    let tools = tools_dir().context("cannot tell where to install cargo-fuzz; set HOME")?;
    let program = tools.join("bin/cargo-fuzz");
    if !program.exists() {
        eprintln!("building cargo-fuzz {VERSION}; this takes a minute");
        command::run(
            workspace::cargo("install")
                .args(["cargo-fuzz", "--version", VERSION, "--locked", "--root"])
                .arg(&tools),
        )?;
    }
    Ok(program)
}
