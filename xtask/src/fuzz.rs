//! `cargo xtask fuzz`: the fuzz targets, each for a while, from the seeds of the repository.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    command, setup,
    test::nextest,
    workspace::{self, Profile},
};

/// Seconds of each target in `cargo xtask test`.
pub(crate) const SHORT: u32 = 20;

/// Seconds of each target in `cargo xtask soak`.
pub(crate) const LONG: u32 = 300;

/// Programs of fuzz targets, by name.
pub(crate) type Targets = BTreeMap<String, PathBuf>;

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

/// Builds and runs targets, all of them if none is named, each for some seconds.
pub(crate) fn fuzz(wanted: &[String], seconds: u32) -> Result<()> {
    let known = targets()?;
    for name in wanted {
        ensure!(known.contains(name), "no fuzz target \"{name}\"; there are {}", known.join(", "));
    }
    setup::ensure()?;
    setup::ensure_fuzz()?;
    // A quick run tries the seeds and little more, for which optimizing is not worth the minutes.
    let profile = if seconds <= SHORT { Profile::Dev } else { Profile::Soak };
    let built = build(profile)?;
    run(if wanted.is_empty() { &known } else { wanted }, &built, seconds)
}

/// Builds every target, with `control` and `dataplane-common` instrumented for coverage
/// (`tests/fuzz/instrument`), and returns the programs by name.
pub(crate) fn build(profile: Profile) -> Result<Targets> {
    let mut cargo = workspace::cargo("test");
    cargo.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    // The packages and features of the tests, so that nothing else is compiled again.
    cargo.args(nextest::selection()).args(profile.options());
    let names = targets()?;
    for name in &names {
        cargo.args(["--bin", name]);
    }
    cargo.env("RUSTC_WORKSPACE_WRAPPER", dir().join("instrument"));
    let messages = command::streamed_output(&mut cargo)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let programs = messages.filter_map(|message| {
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, message["executable"].as_str()?.into()))
    });
    let programs: Targets = programs.collect();
    let missing = names.iter().find(|name| !programs.contains_key(*name));
    ensure!(missing.is_none(), "cargo names no program for the fuzz target {missing:?}");
    Ok(programs)
}

/// Runs targets, each for some seconds.
pub(crate) fn run(targets: &[String], built: &Targets, seconds: u32) -> Result<()> {
    for target in targets {
        let program = built.get(target).with_context(|| format!("{target} was not built"))?;
        let corpus = workspace::target_dir().join("fuzz-corpus").join(target);
        fs::create_dir_all(&corpus)?;
        let artifacts = workspace::target_dir().join("fuzz-artifacts").join(target);
        fs::create_dir_all(&artifacts)?;
        let mut run = Command::new(program);
        run.arg(&corpus).arg(dir().join("seeds").join(target));
        run.args([&format!("-max_total_time={seconds}"), "-print_final_stats=1"]);
        run.arg(format!("-artifact_prefix={}/", artifacts.display()));
        // What is long is slow, and finds nothing that a shorter input does not.
        run.args(["-max_len=16384", "-verbosity=0"]);
        run.arg(if seconds <= SHORT { "-timeout=180" } else { "-timeout=30" });
        // The store's library makes room for whatever page a damaged one points to before it finds
        // that the file ends earlier: 4 GiB at the most.
        run.arg("-rss_limit_mb=6144");
        command::run(&mut run).with_context(|| {
            format!(
                "the fuzz target {target} has found an input that fails: keep the file that it \
                 names as tests/fuzz/seeds/{target}/NAME, and mend what it shows"
            )
        })?;
    }
    Ok(())
}

fn dir() -> PathBuf {
    workspace::root().join("tests/fuzz")
}
