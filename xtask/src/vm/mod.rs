//! Other kernels: Debian's, booted in QEMU with the integration tests inside.
//!
//! The machine is emulated (TCG), because a virtual machine like those that CI runs on has no
//! hardware acceleration to give. What is measured there means nothing; what happens there does.
//! Everything that the tests need is in the archive from which the kernel boots.

mod archive;
mod image;
mod kernel;
mod qemu;

use std::{ffi::OsString, fmt, str::FromStr};

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

/// Runs test programs on Debian's newest kernel of a version, with `arguments` for each of them.
pub(crate) fn run(
    version: (u32, u32),
    programs: &Programs,
    threads: usize,
    arguments: &[OsString],
) -> Result<()> {
    setup::ensure_vm()?;
    let kernel = kernel::find(version)?;
    eprintln!("booting Linux {} in QEMU", kernel.release);
    let work = tempfile::tempdir()?;
    let initrd = work.path().join("initrd");
    image::build(&initrd, &kernel, programs, threads, arguments)?;
    let done = qemu::boot(&kernel.image, &initrd, work.path())?;
    ensure!(
        done,
        "tests fail on Linux {}: see above; `cargo xtask test --kernel {}.{} -- FILTER` repeats one",
        kernel.release,
        version.0,
        version.1
    );
    Ok(())
}
