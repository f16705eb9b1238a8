//! What every benchmark is handed: how thorough to be, and where to tell how far it is.

use std::path::PathBuf;

use anyhow::Result;
use indicatif::ProgressBar;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use tests::interrupt::Interrupt;

/// What every benchmark is handed.
pub(crate) struct Context<'a> {
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) bar: ProgressBar,
    pub(crate) quick: bool,
    /// The binary `maclane`.
    pub(crate) program: PathBuf,
}

impl Context<'_> {
    /// Rounds that count.
    pub(crate) const fn rounds(&self) -> usize {
        if self.quick { 9 } else { 21 }
    }

    /// Seconds that one run of a bulk transfer or a storm takes.
    pub(crate) const fn seconds(&self) -> u32 {
        if self.quick { 1 } else { 2 }
    }

    /// Fails if the user has asked to end.
    pub(crate) fn check(&self) -> Result<()> {
        Ok(self.interrupt.check()?)
    }

    /// Shows in which round a benchmark is.
    pub(crate) fn say_round(&self, round: usize) {
        let what = self.bar.message();
        let name = what.split(':').next().unwrap_or_default().to_owned();
        self.bar.set_message(match round {
            0 => format!("{name}: warming up"),
            _ => format!("{name}: round {round} of {}", self.rounds()),
        });
    }

    /// Shows what a benchmark is doing.
    pub(crate) fn say(&self, doing: &str) {
        let what = self.bar.message();
        let name = what.split(':').next().unwrap_or_default().to_owned();
        self.bar.set_message(format!("{name}: {doing}"));
    }
}

/// Frames of one run of the generator. Many short runs in turn bear a noisy neighbour better than
/// few long ones.
pub(crate) const FRAMES: u32 = 1 << 18;

/// The CPU that frames are made and received on.
pub(crate) fn load_cpu() -> usize {
    cpus() - 1
}

/// The CPU that answers.
pub(crate) const ANSWER_CPU: usize = 0;

/// How many CPUs there are.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Keeps the calling thread on one CPU.
pub(crate) fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Goes before everything else on this machine; programs that are started from now on do, too.
/// Without the right to do so everything is measured as well, with more noise.
pub(crate) fn take_precedence() {
    const FIRST: nix::libc::c_int = -20;
    // SAFETY: the call takes no pointers.
    unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, FIRST) };
}
