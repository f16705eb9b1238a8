//! `cargo xtask soak`: the long loops at their full length, on optimized programs, before a release.
//! What came of it is written to `docs/soak.md`.
//!
//! Their lengths stand in `tests/src/length.rs`.

use std::{fmt::Write as _, fs, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use nix::sys::utsname::uname;
use tabled::{builder::Builder, settings::Style};

use crate::{
    command, fuzz, setup,
    test::{self, Programs, report::Report},
    workspace::{self, Profile},
};

/// A loop: what it is in the document, and the filterset of its tests.
struct Loop {
    what: &'static str,
    filter: &'static str,
}

/// The loops that are tests.
const LOOPS: &[Loop] = &[
    Loop {
        what: "200 SIGKILLs of the daemon under traffic: no frame is lost",
        filter: "package(tests) & binary(kills)",
    },
    Loop {
        what: "50 SIGKILLs of dockerd and the daemon in `docker run` and `rm`: nothing is left",
        filter: "package(tests) & test(killed_in_the_middle_of_run_and_rm)",
    },
    Loop {
        what: "100 workers add and remove children for 60 s: no address is given twice",
        filter: "package(tests) & test(children_come_and_go_at_once)",
    },
    Loop {
        what: "1,020 children of one parent: each answers, and hears a broadcast once",
        filter: "package(tests) & binary(scale)",
    },
    Loop {
        what: "power cut at every byte of a change of the store, damage to every byte in use",
        filter: "package(control) & test(/^store::power::/)",
    },
    Loop {
        what: "10^9 frames of each of six kinds through the programs: exact counters",
        filter: "package(tests) & test(every_frame_of_many_is_counted)",
    },
    Loop {
        what: "20,000 cases of each property of the decision, the tables and the pools",
        filter: "package(dataplane-common) | package(control) & test(/^subnet::/)",
    },
];

/// Cases of each property test.
const PROPERTY_CASES: &str = "20000";

/// How long a loop may take.
const BUDGET: Duration = Duration::from_secs(30 * 60);

/// Runs the loops, then each fuzz target for some seconds, and writes the document.
pub(crate) fn run(fuzz_seconds: u32) -> Result<()> {
    test::ensure_root()?;
    let report = Report::begin(BUDGET * 4);
    let (mut programs, mut targets) = (None, None);
    report.stage("build", BUDGET, || {
        setup::ensure_tests()?;
        programs = Some(test::build(Profile::Soak)?);
        targets = Some(fuzz::build(Profile::Soak)?);
        Ok(())
    });
    if let (Some(programs), Some(targets)) = (programs, targets) {
        for Loop { what, filter } in LOOPS {
            report.stage(what, BUDGET, || soak(&programs, filter));
        }
        for name in fuzz::targets()? {
            let what = format!("fuzz target `{name}`, {fuzz_seconds} s");
            report.stage(&what, BUDGET, || fuzz::run(&[name], &targets, fuzz_seconds));
        }
        // A build that fails leaves the page of the last soak.
        let path = workspace::root().join("docs/soak.md");
        fs::write(&path, document(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    report.finish(&workspace::target_dir().join("soak-report.json"))
}

fn soak(programs: &Programs, filter: &str) -> test::report::Outcome {
    let variables = [("MACLANE_SOAK", "1"), ("PROPTEST_CASES", PROPERTY_CASES)];
    programs.run("soak", Some(filter.to_owned()), &[], &variables)
}

/// The document: when, on what, and what came of each loop.
fn document(report: &Report) -> Result<String> {
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        let output = command::output(git.current_dir(workspace::root()).args(words))?;
        Ok::<_, anyhow::Error>(output.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // The document itself is what a soak changes.
    let changed = git(&["status", "--porcelain", "--", ".", ":!docs/soak.md"])?;
    let commit = if changed.is_empty() { commit } else { format!("{commit}, with changes") };
    let name = uname().context("the kernel has no name")?;
    let mut rows = Builder::default();
    rows.push_record(["loop", "result", "time"]);
    for (name, error, time) in report.stages().into_iter().filter(|(name, ..)| name != "build") {
        let seconds = time.as_secs();
        let result = error.map_or("passed".to_owned(), |_| "**failed**".to_owned());
        rows.push_record([name, result, format!("{}:{:02}", seconds / 60, seconds % 60)]);
    }
    let mut text = String::from(
        "# The last soak\n\n\
         `cargo xtask soak` runs the long loops at their full length, before a release, and writes \
         this page. `cargo xtask test` runs each of them short; the lengths stand in\n\
         [tests/src/length.rs](../tests/src/length.rs).\n\n",
    );
    let date = command::output(Command::new("date").args(["--utc", "+%F"]))?;
    writeln!(text, "- date: {}", date.trim())?;
    writeln!(text, "- kernel: Linux {}", name.release().display())?;
    writeln!(text, "- commit: {commit}\n")?;
    writeln!(text, "{}", rows.build().with(Style::markdown()))?;
    Ok(text)
}
