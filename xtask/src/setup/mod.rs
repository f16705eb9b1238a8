//! `cargo xtask setup`: finds what this machine lacks, and installs only that.

mod apt;
mod bpffs;
mod toolchain;

use std::{path::Path, process::Command};

use anyhow::{Result, bail, ensure};

use crate::command;
use apt::Apt;

/// A program that building or testing starts, and the Debian package that holds it.
struct Tool {
    program: &'static str,
    package: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool { program: "ip", package: "iproute2" },
    Tool { program: "bpftool", package: "bpftool" },
    Tool { program: "ethtool", package: "ethtool" },
    Tool { program: "ping", package: "iputils-ping" },
    Tool { program: "iperf3", package: "iperf3" },
    Tool { program: "tcpdump", package: "tcpdump" },
    Tool { program: "nsenter", package: "util-linux" },
    Tool { program: "setpriv", package: "util-linux" },
    Tool { program: "tc", package: "iproute2" },
    Tool { program: "bridge", package: "iproute2" },
    Tool { program: "sleep", package: "coreutils" },
    Tool { program: "unshare", package: "util-linux" },
];

/// A real Docker for the tests, and what their containers are made of. `docker` by its path,
/// because another program of that name may come first in PATH.
const DOCKER_TOOLS: &[Tool] = &[
    Tool { program: "dockerd", package: "docker.io" },
    Tool { program: "/usr/bin/docker", package: "docker.io" },
    Tool { program: "containerd", package: "containerd" },
    Tool { program: "runc", package: "runc" },
    Tool { program: "/usr/bin/busybox", package: "busybox-static" },
    Tool { program: "tar", package: "tar" },
];

/// What Debian starts as soon as it has installed Docker, and at each boot. It would give the
/// machine a bridge and rules of a firewall, and the tests start a dockerd of their own.
const DOCKER_SERVICES: [&str; 3] = ["docker.service", "docker.socket", "containerd.service"];

/// What boots other kernels.
const VM_TOOLS: &[Tool] = &[
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    Tool { program: "busybox", package: "busybox-static" },
    Tool { program: "strip", package: "binutils" },
    Tool { program: "xz", package: "xz-utils" },
];

/// What compiles libFuzzer.
const FUZZ_TOOLS: &[Tool] = &[Tool { program: "c++", package: "g++" }];

/// Installs what is missing. Quick, and silent, where nothing is.
pub(crate) fn ensure() -> Result<()> {
    let mut apt = Apt::detect();
    tools(TOOLS, apt.as_mut())?;
    let toolchain = toolchain::ensure(apt.as_mut())?;
    toolchain::ensure_linker(&toolchain, apt.as_mut())?;
    bpffs::ensure()
}

/// Installs what is missing to boot other kernels.
pub(crate) fn ensure_vm() -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "cannot boot Debian's kernels for x86-64 on this machine; use --kernel running"
    );
    tools(VM_TOOLS, Apt::detect().as_mut())
}

/// Installs Docker where it is missing, without its service.
pub(crate) fn ensure_docker() -> Result<()> {
    if missing_tools(DOCKER_TOOLS).is_empty() {
        return Ok(());
    }
    let is_there = command::find("dockerd").is_some();
    let systemctl = |verb: &[&str]| {
        // Elsewhere than under systemd, nothing is started; and what somebody has set up stays so.
        if is_there || !Path::new("/run/systemd/system").exists() {
            return Ok(());
        }
        command::run(Command::new("systemctl").args(verb).args(DOCKER_SERVICES))
    };
    systemctl(&["mask", "--runtime"])?;
    let installed = tools(DOCKER_TOOLS, Apt::detect().as_mut());
    systemctl(&["unmask", "--runtime"])?;
    installed?;
    systemctl(&["disable"])
}

/// Installs what is missing to build the fuzz targets.
pub(crate) fn ensure_fuzz() -> Result<()> {
    ensure()?;
    tools(FUZZ_TOOLS, Apt::detect().as_mut())
}

/// The programs that tests start.
pub(crate) fn test_programs() -> impl Iterator<Item = &'static str> {
    TOOLS.iter().map(|tool| tool.program)
}

/// Brings apt's lists up to date.
pub(crate) fn refresh_packages() -> Result<()> {
    match Apt::detect() {
        Some(mut apt) => apt.refresh(&[]),
        None => bail!(
            "cannot fetch Debian's kernels: this is no Debian or Ubuntu; use --kernel running"
        ),
    }
}

/// Says where everything is that setup looks after.
pub(crate) fn report() {
    for Tool { program, .. } in TOOLS.iter().chain(DOCKER_TOOLS) {
        if let Some(path) = command::find(program) {
            eprintln!("{program:<12} {}", path.display());
        }
    }
    toolchain::report();
    eprintln!("{:<12} {}", "bpffs", bpffs::state());
}

fn tools(wanted: &'static [Tool], apt: Option<&mut Apt>) -> Result<()> {
    let missing = missing_tools(wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let Some(apt) = apt else {
        bail!(
            "cannot install what testing needs: this is no Debian or Ubuntu; install by hand {}",
            missing
                .iter()
                .map(|t| format!("`{}` (Debian has it in {})", t.program, t.package))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    apt.install(&missing.iter().map(|t| t.package).collect::<Vec<_>>())?;
    match missing_tools(wanted).first() {
        Some(Tool { program, package }) => {
            bail!("cannot find `{program}`, although the package {package} is installed now")
        }
        None => Ok(()),
    }
}

fn missing_tools(wanted: &'static [Tool]) -> Vec<&'static Tool> {
    wanted.iter().filter(|tool| command::find(tool.program).is_none()).collect()
}
