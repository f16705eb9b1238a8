//! cargo-nextest: builds the tests once, runs them, and reports on each.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use quick_junit::{Report as JUnit, TestCaseStatus};

use super::report::{Case, Outcome};
use crate::{
    command,
    workspace::{self, Profile},
};

/// Tests, built: programs, and what nextest has to know to run them without cargo.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    /// What `cargo metadata` says of the workspace.
    pub(crate) workspace: PathBuf,
    /// nextest's list of test programs.
    pub(crate) programs: PathBuf,
}

impl Built {
    /// The options of nextest that name them.
    fn arguments(&self) -> [&OsStr; 4] {
        let [workspace, programs] = ["--cargo-metadata", "--binaries-metadata"].map(OsStr::new);
        [workspace, self.workspace.as_os_str(), programs, self.programs.as_os_str()]
    }
}

/// nextest's list of the tests, as JSON.
pub(crate) fn list(built: &Built) -> Result<String> {
    let mut list = workspace::cargo("nextest");
    list.args(["list", "--message-format", "json"]).args(built.arguments());
    command::output(&mut list)
}

/// Builds every test of the workspace, and the daemon with failpoints.
///
/// This is the only build of a test run: the same packages with the same features in the same
/// profile, so that no stage compiles again what another one has compiled.
pub(crate) fn build(profile: Profile) -> Result<Built> {
    let dir = workspace::target_dir().join("nextest");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let built =
        Built { workspace: dir.join("workspace.json"), programs: dir.join("programs.json") };
    let mut metadata = workspace::cargo("metadata");
    metadata.args(["--format-version", "1", "--locked", "--all-features", "--no-deps"]);
    let metadata = command::output(&mut metadata)?;
    fs::write(&built.workspace, metadata)?;
    let mut list = workspace::cargo("nextest");
    list.args(["list", "--list-type", "binaries-only", "--message-format", "json"]);
    list.args(selection()).args(match profile {
        Profile::Dev => &[],
        // `--profile` is nextest's own.
        Profile::Soak => &["--cargo-profile", "soak"][..],
    });
    let programs = command::streamed_output(&mut list)?;
    fs::write(&built.programs, programs)?;
    Ok(built)
}

/// What is built: for `cargo test`, `cargo build` and `cargo nextest` alike.
pub(crate) fn selection() -> [&'static str; 4] {
    ["--locked", "--workspace", "--features", "control/failpoints"]
}

/// A run of tests.
#[derive(Clone, Debug)]
pub(crate) struct Run<'a> {
    /// The profile in `.config/nextest.toml`.
    pub(crate) profile: &'a str,
    /// Which tests (<https://nexte.st/docs/filtersets/reference/>); those of the profile if omitted.
    pub(crate) filter: Option<String>,
    /// More arguments, such as substrings of names of tests.
    pub(crate) arguments: &'a [OsString],
    /// Variables for the tests.
    pub(crate) environment: Vec<(&'static str, OsString)>,
}

impl Run<'_> {
    /// Runs the tests.
    pub(crate) fn run(&self, built: &Built) -> Outcome {
        let report = workspace::nextest_report(self.profile);
        let _ = fs::remove_file(&report);
        let mut nextest = workspace::cargo("nextest");
        nextest.args(["run", "--profile", self.profile]).args(built.arguments());
        nextest.envs(self.environment.iter().cloned());
        if let Some(filter) = &self.filter {
            nextest.arg("-E").arg(filter);
        }
        if !self.arguments.is_empty() {
            nextest.arg("--").args(self.arguments);
        }
        outcome(command::run(&mut nextest), || {
            let xml = fs::read_to_string(&report);
            xml.with_context(|| format!("cannot read {}", report.display()))
        })
    }
}

/// The outcome of a run of nextest that has ended with `result` and written this JUnit report.
pub(crate) fn outcome(result: Result<()>, xml: impl FnOnce() -> Result<String>) -> Outcome {
    let cases = xml().and_then(|xml| cases(&xml));
    match (result, cases) {
        (result, Ok(cases)) => Outcome { cases, result },
        // Why it failed says more than that there is no report.
        (Err(e), Err(_)) | (Ok(()), Err(e)) => Outcome { cases: Vec::new(), result: Err(e) },
    }
}

/// The tests of a JUnit report.
fn cases(xml: &str) -> Result<Vec<Case>> {
    let report = JUnit::deserialize_from_str(xml).context("cannot read nextest's JUnit report")?;
    let mut cases = Vec::new();
    for suite in &report.test_suites {
        for case in &suite.test_cases {
            cases.push(Case {
                name: format!("{} {}", suite.name.as_str(), case.name.as_str()),
                wall: case.time.unwrap_or(Duration::ZERO),
                passed: matches!(case.status, TestCaseStatus::Success { .. }),
            });
        }
    }
    Ok(cases)
}
