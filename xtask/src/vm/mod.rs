//! Other kernels: Debian's, booted in QEMU with the integration tests inside.
//!
//! The machine is emulated (TCG), because a virtual machine like those that CI runs on has no
//! hardware acceleration to give. What is measured there means nothing; what happens there does.
//! Everything that the tests need is in the archive from which the kernel boots.

mod archive;
mod image;
mod kernel;
mod qemu;

use std::{ffi::OsString, fmt, panic::resume_unwind, str::FromStr, thread};

use anyhow::{Result, ensure};

use crate::{setup, test::Programs};

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

/// Runs test programs on Debian's newest kernels of these versions, with `arguments` for each of
/// them: all at once, because a machine has one thread to emulate its processors.
pub(crate) fn run(
    versions: &[(u32, u32)],
    programs: &Programs,
    threads: usize,
    arguments: &[OsString],
) -> Result<()> {
    setup::ensure_vm()?;
    let kernels = versions.iter().map(|version| kernel::find(*version));
    let kernels = kernels.collect::<Result<Vec<_>>>()?;
    let failed: Vec<String> = thread::scope(|scope| {
        let boot = |kernel| scope.spawn(move || boot(kernel, programs, threads, arguments));
        let machines: Vec<_> = kernels.iter().map(boot).collect();
        let ends = kernels.iter().zip(machines).filter_map(|(kernel, machine)| {
            let end = machine.join().unwrap_or_else(|panic| resume_unwind(panic));
            let why = match end {
                Ok(true) => return None,
                Ok(false) => "see above".to_owned(),
                Err(e) => format!("{e:#}"),
            };
            Some(format!("tests fail on Linux {}: {why}", kernel.release))
        });
        ends.collect()
    });
    ensure!(
        failed.is_empty(),
        "{}; `cargo xtask test --kernel VERSION -- FILTER` repeats one",
        failed.join("\n")
    );
    Ok(())
}

/// Boots a kernel with the tests, and says whether all of them have succeeded.
fn boot(
    kernel: &kernel::Kernel,
    programs: &Programs,
    threads: usize,
    arguments: &[OsString],
) -> Result<bool> {
    eprintln!("booting Linux {} in QEMU", kernel.release);
    let work = tempfile::tempdir()?;
    let initrd = work.path().join("initrd");
    image::build(&initrd, kernel, programs, threads, arguments)?;
    qemu::boot(&kernel.image, &initrd, work.path(), &kernel.version)
}
