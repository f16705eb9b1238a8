//! `cargo xtask setup`: finds what this machine lacks, and installs only that.

mod apt;
mod bpffs;
mod toolchain;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{command, workspace};
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
    Tool { program: "nft", package: "nftables" },
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

/// Docker, whose services would give the machine a bridge and rules of a firewall; the tests start a
/// dockerd of their own.
const DOCKER: Services = Services {
    tools: DOCKER_TOOLS,
    services: &[
        ("dockerd", "docker.service"),
        ("dockerd", "docker.socket"),
        ("dockerd", "containerd.service"),
    ],
};

/// What the tests run on a LAN of theirs: servers and clients as real as those of others.
const REAL_TOOLS: &[Tool] = &[
    Tool { program: "dnsmasq", package: "dnsmasq-base" },
    Tool { program: "/usr/bin/busybox", package: "busybox-static" },
    Tool { program: "dhclient", package: "isc-dhcp-client" },
    Tool { program: "radvd", package: "radvd" },
    Tool { program: "keepalived", package: "keepalived" },
    Tool { program: "avahi-daemon", package: "avahi-daemon" },
    Tool { program: "tshark", package: "tshark" },
    Tool { program: "arping", package: "iputils-arping" },
    Tool { program: "dhcrelay", package: "isc-dhcp-relay" },
    Tool { program: "nmap", package: "nmap" },
    Tool { program: "ss", package: "iproute2" },
    Tool { program: "iptables", package: "iptables" },
    Tool { program: "wg", package: "wireguard-tools" },
    Tool { program: "wireguard-go", package: "wireguard-go" },
];

/// Servers that would serve, or say on the machine's own LAN who it is.
const REAL: Services = Services {
    tools: REAL_TOOLS,
    services: &[
        ("radvd", "radvd.service"),
        ("keepalived", "keepalived.service"),
        ("avahi-daemon", "avahi-daemon.service"),
        ("avahi-daemon", "avahi-daemon.socket"),
        ("dhcrelay", "isc-dhcp-relay.service"),
    ],
};

/// Programs whose packages bring services along, which Debian starts as soon as it has installed them, and
/// at each boot.
struct Services {
    tools: &'static [Tool],
    /// Each with the program that was there before, if somebody has set the service up.
    services: &'static [(&'static str, &'static str)],
}

/// What boots other kernels.
const VM_TOOLS: &[Tool] = &[
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    Tool { program: "busybox", package: "busybox-static" },
    Tool { program: "strip", package: "binutils" },
    Tool { program: "xz", package: "xz-utils" },
];

/// The newest version that the workspace's `rust-version` compiles.
const NEXTEST_VERSION: &str = "0.9.128";

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

/// Installs what is missing to build and run tests and fuzz targets on the running kernel.
pub(crate) fn ensure_tests() -> Result<()> {
    ensure_to_build_tests()?;
    ensure_docker()?;
    ensure_real()?;
    ensure_fuzz()
}

/// Installs what is missing to build tests, and to run those that need no other programs.
pub(crate) fn ensure_to_build_tests() -> Result<()> {
    ensure()?;
    ensure_nextest()
}

/// Builds cargo-nextest where there is none.
fn ensure_nextest() -> Result<()> {
    if command::find("cargo-nextest").is_some() {
        return Ok(());
    }
    eprintln!("building cargo-nextest {NEXTEST_VERSION}; this takes some minutes");
    // Into cargo's own folder of programs, where cargo finds it as a subcommand.
    command::run(workspace::cargo("install").args([
        "cargo-nextest",
        "--version",
        NEXTEST_VERSION,
        "--locked",
    ]))
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
    without_services(&DOCKER)
}

/// Installs the servers and clients of the tests where they are missing, without their services.
fn ensure_real() -> Result<()> {
    without_services(&REAL)
}

/// Installs what is missing; none of its services is started, now or at the next boot.
fn without_services(of: &Services) -> Result<()> {
    if missing_tools(of.tools).is_empty() {
        return Ok(());
    }
    // What somebody has set up stays so.
    let new = of.services.iter().filter(|(program, _)| command::find(program).is_none());
    let new: Vec<_> = new.map(|(_, service)| *service).collect();
    let is_systemd = Path::new("/run/systemd/system").exists();
    let systemctl = |verb: &[&str]| {
        if new.is_empty() || !is_systemd {
            return Ok(());
        }
        command::run(Command::new("systemctl").args(verb).args(&new))
    };
    let _policy = if is_systemd { None } else { Policy::none_starts()? };
    systemctl(&["mask", "--runtime"])?;
    let installed = tools(of.tools, Apt::detect().as_mut());
    systemctl(&["unmask", "--runtime"])?;
    installed?;
    systemctl(&["disable"])
}

/// The file that says which services Debian may start (`invoke-rc.d(8)`); it goes with this.
struct Policy;

impl Policy {
    const FILE: &str = "/usr/sbin/policy-rc.d";

    /// No service may, unless somebody has said already which may.
    fn none_starts() -> Result<Option<Self>> {
        if !command::is_root() || Path::new(Self::FILE).exists() {
            return Ok(None);
        }
        let doing = || format!("cannot write {}", Self::FILE);
        fs::write(Self::FILE, "#!/bin/sh\nexit 101\n").with_context(doing)?;
        let policy = Self;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(Self::FILE, mode).with_context(doing)?;
        Ok(Some(policy))
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(Self::FILE) {
            eprintln!("cannot remove {}, which lets no service start: {e}", Self::FILE);
        }
    }
}

/// Installs what is missing to build the fuzz targets.
pub(crate) fn ensure_fuzz() -> Result<()> {
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
    for Tool { program, .. } in TOOLS.iter().chain(DOCKER_TOOLS).chain(REAL_TOOLS) {
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
