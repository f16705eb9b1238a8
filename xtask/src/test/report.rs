//! What a run of stages has cost: wall time, CPU time, tests, and the slowest tests.

use std::{
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tabled::{
    builder::Builder,
    settings::{Alignment, Padding, Style, object::Columns},
};

use crate::command;

/// How many of the slowest tests are listed.
const SLOWEST: usize = 10;

/// A test that has run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Case {
    /// Its program and its name, as nextest writes them: `tests::reach host_reaches_…`.
    pub(crate) name: String,
    /// How long it took.
    pub(crate) wall: Duration,
    /// Whether it passed.
    pub(crate) passed: bool,
}

/// What a stage has come to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The tests that have run.
    pub(crate) cases: Vec<Case>,
    /// Why the stage has failed, if it has.
    pub(crate) result: Result<()>,
}

impl From<Result<()>> for Outcome {
    fn from(result: Result<()>) -> Self {
        Self { cases: Vec::new(), result }
    }
}

/// A part of a run.
#[derive(Debug)]
struct Stage {
    name: String,
    /// How long it may take on an idle machine with two CPUs.
    budget: Duration,
    wall: Duration,
    /// CPU time of its commands, without processes that have outlived their parents.
    cpu: Duration,
    cases: Vec<Case>,
    error: Option<String>,
}

/// The stages of a run, in the order in which they have ended. Stages may overlap.
#[derive(Debug)]
pub(crate) struct Report {
    /// How long the whole run may take on an idle machine with two CPUs.
    budget: Duration,
    began: Instant,
    /// CPU time that the machine had used by then.
    busy: Duration,
    stages: Mutex<Vec<Stage>>,
}

impl Report {
    /// A report of a run that begins now.
    pub(crate) fn begin(budget: Duration) -> Self {
        Self {
            budget,
            began: Instant::now(),
            busy: command::machine_cpu_time(),
            stages: Mutex::default(),
        }
    }

    /// Runs a stage on this thread and notes what it took; true if it succeeded.
    ///
    /// A failure is printed here and fails the run in [`finish`](Self::finish), so that the other
    /// stages run all the same.
    pub(crate) fn stage<T: Into<Outcome>>(
        &self,
        name: &str,
        budget: Duration,
        run: impl FnOnce() -> T,
    ) -> bool {
        let (began, cpu) = (Instant::now(), command::cpu_so_far());
        let Outcome { cases, result } = run().into();
        let error = result.err().map(|e| format!("{e:#}"));
        if let Some(error) = &error {
            eprintln!("error: {name}: {error}");
        }
        let succeeded = error.is_none();
        let stage = Stage {
            name: name.to_owned(),
            budget,
            wall: began.elapsed(),
            cpu: command::cpu_so_far().saturating_sub(cpu),
            cases,
            error,
        };
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).push(stage);
        succeeded
    }

    /// The stages that have ended: name, error if it failed, and wall time.
    pub(crate) fn stages(&self) -> Vec<(String, Option<String>, Duration)> {
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.iter().map(|stage| (stage.name.clone(), stage.error.clone(), stage.wall)).collect()
    }

    /// True if a test has run.
    pub(crate) fn has_cases(&self) -> bool {
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.iter().any(|stage| !stage.cases.is_empty())
    }

    /// Prints the table, writes it to a file as JSON, and fails if a stage has.
    pub(crate) fn finish(self, file: &Path) -> Result<()> {
        let (wall, cpu) =
            (self.began.elapsed(), command::machine_cpu_time().saturating_sub(self.busy));
        let stages = self.stages.into_inner().unwrap_or_else(PoisonError::into_inner);
        eprintln!("\n{}\n{}", table(&stages, wall, self.budget, cpu), slowest_table(&stages));
        let report = as_json(&stages, wall, self.budget, cpu);
        fs::write(file, format!("{report:#}\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let failed = stages
            .iter()
            .filter_map(|stage| Some(format!("{}: {}", stage.name, stage.error.as_ref()?)));
        let failed: Vec<_> = failed.collect();
        if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
    }
}

/// Minutes and seconds.
fn minutes(time: Duration) -> String {
    let seconds = (time.as_millis() + 500) / 1000;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

fn table(stages: &[Stage], wall: Duration, budget: Duration, cpu: Duration) -> String {
    let mut rows = Builder::default();
    rows.push_record(["STAGE", "WALL", "BUDGET", "CPU", "TESTS", ""]);
    for stage in stages {
        let (count, failed) = (stage.cases.len(), stage.cases.iter().filter(|c| !c.passed).count());
        let mut notes = Vec::new();
        if stage.wall > stage.budget {
            notes.push("warning: over its budget".to_owned());
        }
        if failed > 0 {
            notes.push(format!("{failed} tests failed"));
        } else if stage.error.is_some() {
            notes.push("failed".to_owned());
        }
        rows.push_record([
            stage.name.clone(),
            minutes(stage.wall),
            minutes(stage.budget),
            minutes(stage.cpu),
            if count == 0 { String::new() } else { count.to_string() },
            notes.join(", "),
        ]);
    }
    let tests: usize = stages.iter().map(|stage| stage.cases.len()).sum();
    let note = if wall > budget { "warning: over its budget" } else { "" };
    rows.push_record([
        "whole run".to_owned(),
        minutes(wall),
        minutes(budget),
        minutes(cpu),
        tests.to_string(),
        note.to_owned(),
    ]);
    laid_out(rows, 1..5)
}

/// The slowest tests of all stages, the slowest first.
fn slowest(stages: &[Stage]) -> Vec<(&str, &Case)> {
    let cases =
        stages.iter().flat_map(|stage| stage.cases.iter().map(|case| (stage.name.as_str(), case)));
    let mut cases: Vec<_> = cases.collect();
    cases.sort_by_key(|(_, case)| std::cmp::Reverse(case.wall));
    cases.truncate(SLOWEST);
    cases
}

fn slowest_table(stages: &[Stage]) -> String {
    let mut rows = Builder::default();
    rows.push_record(["SECONDS", "STAGE", "SLOWEST TESTS"]);
    for (stage, case) in slowest(stages) {
        let seconds = format!("{:.1}", case.wall.as_secs_f64());
        rows.push_record([seconds, stage.to_owned(), case.name.clone()]);
    }
    laid_out(rows, 0..1)
}

/// A table with some of its columns aligned to the right.
fn laid_out(rows: Builder, right: std::ops::Range<usize>) -> String {
    let mut table = rows.build();
    table.with(Style::blank()).with(Padding::new(0, 2, 0, 0));
    for column in right {
        table.modify(Columns::one(column), Alignment::right());
    }
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"
}

fn as_json(stages: &[Stage], wall: Duration, budget: Duration, cpu: Duration) -> Value {
    let case = |case: &Case| {
        json!({
            "name": case.name,
            "seconds": case.wall.as_secs_f64(),
            "passed": case.passed,
        })
    };
    let stage = |stage: &Stage| {
        json!({
            "name": stage.name,
            "wall_seconds": stage.wall.as_secs_f64(),
            "budget_seconds": stage.budget.as_secs(),
            "cpu_seconds": stage.cpu.as_secs_f64(),
            "over_budget": stage.wall > stage.budget,
            "error": stage.error,
            "tests": stage.cases.iter().map(case).collect::<Vec<_>>(),
        })
    };
    let slowest = slowest(stages).into_iter().map(|(stage, case)| {
        json!({ "stage": stage, "name": case.name, "seconds": case.wall.as_secs_f64() })
    });
    json!({
        "wall_seconds": wall.as_secs_f64(),
        "budget_seconds": budget.as_secs(),
        "cpu_seconds": cpu.as_secs_f64(),
        "stages": stages.iter().map(stage).collect::<Vec<_>>(),
        "slowest": slowest.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::anyhow;

    use super::{Case, Outcome, Report, table};

    const BUDGET: Duration = Duration::from_secs(60);

    fn case(name: &str, seconds: u64, passed: bool) -> Case {
        Case { name: name.to_owned(), wall: Duration::from_secs(seconds), passed }
    }

    /// A failed stage does not keep the next one from running, and fails the run.
    #[test]
    fn failed_stage_fails_the_run_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("report.json");
        let report = Report::begin(BUDGET);
        let cases = vec![case("a", 3, true), case("b", 5, false)];
        let failed = Outcome { cases, result: Err(anyhow!("a test fails")) };
        assert!(!report.stage("first", BUDGET, || failed));
        assert!(report.stage("second", BUDGET, || Ok(())));
        let error = report.finish(&file).unwrap_err().to_string();
        assert_eq!(error, "first: a test fails");
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(json["stages"][0]["tests"][1]["passed"], false);
        assert_eq!(json["stages"][1]["error"], serde_json::Value::Null);
        assert_eq!(json["slowest"][0]["name"], "b");
    }

    /// A stage over its budget is a warning and no failure.
    #[test]
    fn stage_over_budget_is_a_warning() {
        let report = Report::begin(BUDGET);
        assert!(report.stage("slow", Duration::ZERO, || Ok(())));
        assert!(report.stage("quick", BUDGET, || Ok(())));
        let stages = report.stages.into_inner().unwrap();
        let text = table(&stages, Duration::from_secs(61), BUDGET, Duration::from_secs(90));
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].ends_with("warning: over its budget"), "{text}");
        assert!(!lines[2].contains("warning"), "{text}");
        assert!(lines[3].starts_with("whole run"), "{text}");
        let words: Vec<_> = lines[3].split_whitespace().skip(2).take(4).collect();
        assert_eq!(words, ["1:01", "1:00", "1:30", "0"], "{text}");
    }
}
