//! Other kernels: Debian's, booted in QEMU with the integration tests inside.
//!
//! The machine is emulated (TCG), because a virtual machine like those that CI runs on has no
//! hardware acceleration to give. What is measured there means nothing; what happens there does.
//! Everything that the tests need is in one archive, from which each of the kernels boots.

mod archive;
mod image;
mod kernel;
mod qemu;

use std::{ffi::OsString, fmt, fs, str::FromStr, thread, time::Duration};

use anyhow::Result;

use crate::test::{
    Programs,
    report::{Outcome, Report},
};

/// The archive that the machines boot, in their folder.
const INITRD: &str = "initrd";

/// A kernel that the integration tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// The one that is running.
    Running,
    /// Debian's newest of this version, in a virtual machine.
    Debian(u32, u32),
}

impl Kernel {
    /// Those that the tests know.
    pub(crate) const ALL: [Self; 3] = [Self::Running, Self::Debian(6, 1), Self::Debian(6, 12)];

    /// The version, of one that runs in a virtual machine.
    pub(crate) fn debian(self) -> Option<(u32, u32)> {
        match self {
            Self::Running => None,
            Self::Debian(major, minor) => Some((major, minor)),
        }
    }
}

impl FromStr for Kernel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.into_iter().find(|kernel| kernel.to_string() == text);
        known().ok_or_else(|| "it is `running`, `6.1` or `6.12`".to_owned())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Debian(major, minor) => write!(f, "{major}.{minor}"),
        }
    }
}

/// How long the tests of one kernel may take on an idle machine with two CPUs, beside those on the
/// running kernel.
const BUDGET: Duration = Duration::from_secs(30 * 60);

/// Machines that are ready to boot.
pub(crate) struct Machines {
    kernels: Vec<kernel::Kernel>,
    work: tempfile::TempDir,
}

impl Machines {
    /// Fetches Debian's newest kernels of these versions, and packs what all of them boot into.
    /// `arguments` name tests; those of [`selection`](crate::test::selection) if omitted.
    pub(crate) fn prepare(
        versions: &[(u32, u32)],
        programs: &Programs,
        arguments: &[OsString],
    ) -> Result<Self> {
        let kernels = versions.iter().map(|version| kernel::find(*version));
        let kernels = kernels.collect::<Result<Vec<_>>>()?;
        let work = tempfile::tempdir()?;
        image::build(&work.path().join(INITRD), &kernels, programs, arguments)?;
        Ok(Self { kernels, work })
    }

    /// Boots all of them at once, each on a thread of its own, and returns when the last one has
    /// been switched off.
    pub(crate) fn boot(&self, report: &Report) {
        thread::scope(|scope| {
            for kernel in &self.kernels {
                scope.spawn(move || {
                    report.stage(&format!("Linux {}", kernel.version), BUDGET, || {
                        self.boot_one(kernel)
                    })
                });
            }
        });
    }

    fn boot_one(&self, kernel: &kernel::Kernel) -> Outcome {
        eprintln!("booting Linux {} in QEMU", kernel.release);
        let dir = self.work.path().join(&kernel.version);
        match fs::create_dir(&dir) {
            Ok(()) => qemu::boot(kernel, &self.work.path().join(INITRD), &dir),
            Err(e) => Outcome::from(Err(e.into())),
        }
    }
}
