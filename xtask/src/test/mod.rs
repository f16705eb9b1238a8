//! `cargo xtask test`: every test, on each kernel.
//!
//! One build serves all stages. Then the virtual machines run beside the tests on the running kernel,
//! most of which wait for packets. A table at the end says what each stage took.

pub(crate) mod nextest;
pub(crate) mod report;
pub(crate) mod selection;

use std::{ffi::OsString, path::PathBuf, thread};

use anyhow::{Result, ensure};

use crate::{
    command, fuzz, lint, setup,
    vm::{Kernel, Machines},
    workspace::{self, Profile},
};
use nextest::{Built, Run};
use report::{Outcome, Report};

/// How long stages may take on an idle machine with two CPUs.
mod budget {
    use std::time::Duration;

    const fn minutes(number: u64) -> Duration {
        Duration::from_secs(number * 60)
    }

    /// From a fresh clone, on a machine that lacks everything.
    pub(super) const SETUP: Duration = minutes(5);
    pub(super) const BUILD: Duration = minutes(10);
    pub(super) const FUZZ_BUILD: Duration = minutes(3);
    pub(super) const MACHINE_IMAGE: Duration = minutes(1);
    pub(super) const RUNNING: Duration = minutes(20);
    pub(super) const FUZZ: Duration = minutes(2);
    pub(super) const WHOLE: Duration = minutes(40);
    pub(super) const LINT: Duration = minutes(1);
    pub(super) const QUICK_BUILD: Duration = minutes(1);
    pub(super) const QUICK: Duration = minutes(5);
}

/// What the integration tests are made of.
pub(crate) struct Programs {
    /// The product, with points at which it can be made to die.
    pub(crate) maclane: PathBuf,
    /// The folder of the eBPF objects in it.
    pub(crate) objects: PathBuf,
    /// The test programs.
    pub(crate) built: Built,
}

impl Programs {
    /// Runs tests of a profile of nextest on the running kernel, with the daemon that was built with
    /// them and more variables.
    pub(crate) fn run(
        &self,
        profile: &str,
        filter: Option<String>,
        arguments: &[OsString],
        variables: &[(&'static str, &str)],
    ) -> Outcome {
        let mut environment = vec![("MACLANE_BIN", self.maclane.clone().into_os_string())];
        environment.extend(variables.iter().map(|(name, value)| (*name, OsString::from(value))));
        Run { profile, filter, arguments, environment }.run(&self.built)
    }
}

/// Runs every test on each of the kernels. `arguments` go to each test program.
pub(crate) fn run(kernels: &[Kernel], arguments: &[OsString]) -> Result<()> {
    ensure_root()?;
    let report = Report::begin(budget::WHOLE);
    let others: Vec<_> = kernels.iter().filter_map(|kernel| kernel.debian()).collect();
    let here = kernels.contains(&Kernel::Running);
    let mut programs = None;
    let mut machines = None;
    let ready = report.stage("setup", budget::SETUP, || set_up(here, !others.is_empty()))
        && report.stage("build", budget::BUILD, || {
            build(Profile::Dev).map(|built| programs = Some(built))
        });
    if let Some(programs) = programs.filter(|_| ready) {
        if !others.is_empty() {
            report.stage("image of the machines", budget::MACHINE_IMAGE, || {
                let ready = Machines::prepare(&others, &programs, arguments);
                ready.map(|ready| machines = Some(ready))
            });
        }
        thread::scope(|scope| {
            if let Some(machines) = &machines {
                scope.spawn(|| machines.boot(&report));
            }
            if here {
                run_here(&report, &programs, arguments);
            }
        });
    }
    // A machine without a test of that name is none to complain of: another one may have it.
    let has_cases = report.has_cases();
    finish(report)?;
    ensure!(
        has_cases,
        "no test ran: a filter is a part of a test's name, as `cargo nextest list` shows it"
    );
    Ok(())
}

/// Lint, the unit tests, and one integration test of each mechanism on the running kernel.
pub(crate) fn run_quick() -> Result<()> {
    ensure_root()?;
    let report = Report::begin(budget::QUICK);
    let mut programs = None;
    if !report.stage("setup", budget::SETUP, || set_up(true, false)) {
        return finish(report);
    }
    report.stage("lint", budget::LINT, lint::run);
    if report.stage("build", budget::QUICK_BUILD, || {
        build(Profile::Dev).map(|built| programs = Some(built))
    }) && let Some(programs) = programs
    {
        report.stage("quick tests", budget::QUICK, || {
            let filter = Some(selection::quick());
            programs.run("default", filter, &[], &[])
        });
    }
    finish(report)
}

fn finish(report: Report) -> Result<()> {
    report.finish(&workspace::target_dir().join("test-report.json"))
}

pub(crate) fn ensure_root() -> Result<()> {
    ensure!(
        command::is_root(),
        "cannot run the integration tests: they make network namespaces and load eBPF programs, \
         which needs root; run `sudo -E cargo xtask test`, or `cargo test` for the tests that \
         need no rights"
    );
    Ok(())
}

/// Installs what is missing for the tests on the running kernel (`here`) and in machines.
fn set_up(here: bool, machines: bool) -> Result<()> {
    if here {
        setup::ensure_tests()?;
    } else {
        setup::ensure_to_build_tests()?;
    }
    if machines { setup::ensure_vm() } else { Ok(()) }
}

/// Builds the daemon and the tests.
pub(crate) fn build(profile: Profile) -> Result<Programs> {
    let built = nextest::build(profile)?;
    selection::check(&nextest::list(&built)?)?;
    let maclane = profile.folder().join("maclane");
    let objects = tests::program::built_objects(&maclane);
    Ok(Programs { maclane, objects, built })
}

/// Everything that runs on the running kernel.
fn run_here(report: &Report, programs: &Programs, arguments: &[OsString]) {
    // A filter names tests, of which a fuzz target is none.
    let mut targets = None;
    if arguments.is_empty() {
        report.stage("build of the fuzz targets", budget::FUZZ_BUILD, || {
            fuzz::build(Profile::Dev).map(|built| targets = Some(built))
        });
    }
    report
        .stage("running kernel", budget::RUNNING, || programs.run("default", None, arguments, &[]));
    if let Some(built) = targets {
        report.stage("fuzz targets", budget::FUZZ, || {
            fuzz::run(&fuzz::targets()?, &built, fuzz::SHORT)
        });
    }
}
