//! Other programs: run to their end, or kept running behind a guard.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Output},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use crate::patience;

static SHIELDED: AtomicBool = AtomicBool::new(false);

/// From now on, programs are started in process groups of their own: Ctrl-C on the terminal
/// reaches this process alone, which then has to end them by dropping what it holds.
pub fn shield_from_terminal() {
    SHIELDED.store(true, Ordering::Relaxed);
}

fn shielded(command: &mut Command) -> &mut Command {
    if SHIELDED.load(Ordering::Relaxed) { command.process_group(0) } else { command }
}

/// Runs a command to its end and returns its stdout; panics if it fails.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim(),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end, however that is; panics if it does not start.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    match shielded(command).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot start {command:?}: {error}; run `cargo xtask setup`"),
    }
}

/// A running program, which is killed and reaped when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a command; panics if it does not start.
    #[track_caller]
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        match shielded(command).spawn() {
            Ok(child) => Self { child },
            Err(error) => panic!("cannot start {command:?}: {error}; run `cargo xtask setup`"),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard streams, where the command has piped them.
    pub fn streams(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal. A process that has ended is not reaped before it was waited for, so its
    /// id cannot belong to another one.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids are positive i32");
        signal::kill(Pid::from_raw(id), signal).expect("the process is our child");
    }

    /// Whether it has a handler for a signal by now.
    #[must_use]
    pub fn catches(&self, signal: Signal) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()));
        let caught = status.ok().and_then(|status| {
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        });
        caught.is_some_and(|mask| mask & 1 << (signal as u32 - 1) != 0)
    }

    /// How it ended, if it has.
    #[track_caller]
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process is our child")
    }

    /// Waits for its end; `None` if it did not come in time.
    #[track_caller]
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience(timeout);
        loop {
            match self.ended() {
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                ended => return ended,
            }
        }
    }

    /// Kills it at once (SIGKILL) and reaps it.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if the process has already been reaped, which is what is wanted.
        let _ = self.kill();
    }
}
