//! How a test lets a daemon die at one of its failpoints.
//!
//! See `control/src/failpoint.rs` for the other side.

use std::{fs, process::Command, thread, time::Duration};

use tempfile::TempDir;

use crate::{process, program::binary};

/// Longer than the control loop waits for changes to settle.
const QUIET: Duration = Duration::from_millis(200);

/// A folder through which a test and a daemon with failpoints talk.
#[derive(Debug)]
pub struct Failpoints {
    dir: TempDir,
}

/// A point that was reached: its name, and for which time.
pub type Reached = (String, usize);

impl Failpoints {
    /// A folder of which no daemon knows yet.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("maclane-points-").tempdir();
        Self { dir: dir.expect("a temporary folder can be made") }
    }

    /// What a daemon gets into its environment.
    #[must_use]
    pub fn variable(&self) -> (String, String) {
        let dir = self.dir.path().to_str().expect("a path in UTF-8");
        ("MACLANE_FAILPOINTS".to_owned(), dir.to_owned())
    }

    /// Forgets what was reached.
    pub fn clear(&self) {
        self.write("trace", "");
        self.write("kill", "");
    }

    /// Waits until no point is reached any more: the daemon has nothing left to do.
    pub fn wait_for_quiet(&self) {
        let mut before = usize::MAX;
        loop {
            let now = self.reached().len();
            if now == before {
                return;
            }
            before = now;
            thread::sleep(QUIET);
        }
    }

    /// The daemon dies at this point.
    pub fn kill_at(&self, (name, times): &Reached) {
        self.clear();
        self.write("kill", &format!("{name} {times}"));
    }

    /// From now on, these fail: the names of programs, which the kernel then does not take.
    pub fn refuse(&self, what: &[&str]) {
        self.write("refuse", &what.join("\n"));
    }

    /// The points that were reached since [`clear`](Self::clear), in their order.
    #[must_use]
    pub fn reached(&self) -> Vec<Reached> {
        let trace = fs::read_to_string(self.dir.path().join("trace")).unwrap_or_default();
        let names: Vec<&str> = trace.lines().collect();
        let times = |n: usize| names[..=n].iter().filter(|name| **name == names[n]).count();
        (0..names.len()).map(|n| (names[n].to_owned(), times(n))).collect()
    }

    #[track_caller]
    fn write(&self, name: &str, text: &str) {
        // In one step, because the daemon may be reading.
        let begun = self.dir.path().join("begun");
        fs::write(&begun, text).expect("the folder can be written to");
        fs::rename(begun, self.dir.path().join(name)).expect("the folder can be written to");
    }
}

impl Default for Failpoints {
    fn default() -> Self {
        Self::new()
    }
}

/// Every point that the program under test has.
#[track_caller]
#[must_use]
pub fn all() -> Vec<String> {
    let output = process::output(Command::new(binary()).arg("failpoints"));
    assert!(
        output.status.success(),
        "{} has no failpoints; run `cargo xtask test`, or `cargo build --package control --features \
         failpoints` and name the result in MACLANE_BIN",
        binary().display()
    );
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
