//! Debian's package manager.

use std::{fs, process::Command};

use anyhow::{Result, bail};

use crate::command;

/// apt on this machine. Its lists are refreshed once, before they are first asked.
pub(crate) struct Apt {
    refreshed: bool,
}

impl Apt {
    /// Apt, where this is Debian, Ubuntu or one of their kin.
    pub(crate) fn detect() -> Option<Self> {
        let os_release = fs::read_to_string("/etc/os-release").ok()?;
        (is_debian_like(&os_release) && command::find("apt-get").is_some())
            .then_some(Self { refreshed: false })
    }

    /// Installs packages if the distribution has them all; says whether it has.
    pub(crate) fn install_if_offered(&mut self, packages: &[&str]) -> Result<bool> {
        self.refresh(packages)?;
        let mut apt_cache = Command::new("apt-cache");
        let answer = apt_cache.args(["show", "--no-all-versions"]).args(packages).output();
        // `apt-cache` fails if it does not know one of them, and prints nothing for a name that
        // only other packages mention.
        if !answer.is_ok_and(|output| output.status.success() && !output.stdout.is_empty()) {
            return Ok(false);
        }
        self.install(packages)?;
        Ok(true)
    }

    /// Installs packages, without what they merely recommend.
    pub(crate) fn install(&mut self, packages: &[&str]) -> Result<()> {
        self.refresh(packages)?;
        eprintln!("installing {}", packages.join(", "));
        let mut apt_get = apt_get(packages)?;
        apt_get.args(["install", "--yes", "--no-install-recommends"]).args(packages);
        command::run(&mut apt_get)
    }

    /// Brings the lists up to date, once.
    pub(crate) fn refresh(&mut self, packages: &[&str]) -> Result<()> {
        if !self.refreshed {
            command::run(apt_get(packages)?.arg("update"))?;
            self.refreshed = true;
        }
        Ok(())
    }
}

/// `apt-get` with the rights that it needs, and with nobody to answer its questions. `packages`
/// are what the user should install where those rights are not to be had.
fn apt_get(packages: &[&str]) -> Result<Command> {
    const QUIET: &str = "DEBIAN_FRONTEND=noninteractive";
    let mut command = if command::is_root() {
        Command::new("env")
    } else if command::find("sudo").is_some() {
        let mut sudo = Command::new("sudo");
        sudo.arg("env");
        sudo
    } else {
        bail!(
            "cannot install packages: this is not root and there is no sudo; run as root \
             `apt-get update && apt-get install --no-install-recommends {}`",
            packages.join(" ")
        );
    };
    command.args([QUIET, "apt-get", "--quiet"]);
    Ok(command)
}

fn is_debian_like(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| matches!(*key, "ID" | "ID_LIKE"))
        .flat_map(|(_, value)| value.trim_matches(['"', '\'']).split_whitespace())
        .any(|id| matches!(id, "debian" | "ubuntu"))
}

#[cfg(test)]
mod tests {
    use super::is_debian_like;

    #[test]
    fn debian_and_its_kin_are_known_by_os_release() {
        let cases = [
            ("ID=debian\nVERSION_ID=\"12\"\n", true),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", true),
            ("NAME=\"debian\"\nID=fedora\n", false),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", false),
            ("", false),
        ];
        for (os_release, expected) in cases {
            assert_eq!(is_debian_like(os_release), expected, "{os_release:?}");
        }
    }
}
