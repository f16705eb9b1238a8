//! `cargo xtask setup`: finds what this machine lacks, and installs only that.

mod apt;
mod bpffs;
mod toolchain;

use anyhow::{Result, bail};

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
];

/// Installs what is missing. Quick, and silent, where nothing is.
pub(crate) fn ensure() -> Result<()> {
    let mut apt = Apt::detect();
    tools(apt.as_mut())?;
    let toolchain = toolchain::ensure(apt.as_mut())?;
    toolchain::ensure_linker(&toolchain, apt.as_mut())?;
    bpffs::ensure()
}

/// Says where everything is that setup looks after.
pub(crate) fn report() {
    for Tool { program, .. } in TOOLS {
        if let Some(path) = command::find(program) {
            eprintln!("{program:<12} {}", path.display());
        }
    }
    toolchain::report();
    eprintln!("{:<12} {}", "bpffs", bpffs::state());
}

fn tools(apt: Option<&mut Apt>) -> Result<()> {
    let missing = missing_tools();
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
    match missing_tools().first() {
        Some(Tool { program, package }) => {
            bail!("cannot find `{program}`, although the package {package} is installed now")
        }
        None => Ok(()),
    }
}

fn missing_tools() -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| command::find(tool.program).is_none()).collect()
}
