//! Debian's kernels: found, fetched and unpacked, not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use dataplane_ebpf::toolchain::tools_dir;

use crate::{command, setup};

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// Its version, such as `6.1`.
    pub(crate) version: String,
    /// Its release, such as `6.1.0-28-cloud-amd64`.
    pub(crate) release: String,
    /// What boots.
    pub(crate) image: PathBuf,
    /// Its modules.
    pub(crate) modules: PathBuf,
}

/// The newest kernel of a version that is unpacked here, else the newest that Debian has.
pub(crate) fn find((major, minor): (u32, u32)) -> Result<Kernel> {
    let tools = tools_dir().context("cannot tell where to keep kernels; set HOME")?;
    let version = format!("{major}.{minor}");
    let root = tools.with_file_name("kernels").join(&version);
    if let Some(kernel) = unpacked(&version, &root) {
        return Ok(kernel);
    }
    let prefix = format!("linux-image-{version}.");
    setup::refresh_packages()?;
    let names = command::output(Command::new("apt-cache").args(["pkgnames", &prefix]))?;
    let Some(package) = newest(names.lines()) else {
        bail!(
            "cannot find a kernel {version}: apt has no package {prefix}*-cloud-amd64; \
             Debian 12 has them, with its security updates in /etc/apt/sources.list"
        )
    };
    eprintln!("fetching {package}");
    let download = tempfile::tempdir_in(tools.parent().unwrap_or(&tools))?;
    let mut apt = Command::new("apt-get");
    // Otherwise apt fetches as a user who may not write here.
    apt.args(["--option", "APT::Sandbox::User=root", "--quiet", "download", package]);
    command::run(apt.current_dir(&download))?;
    let file = fs::read_dir(&download)?.flatten().next().context("apt has fetched nothing")?;
    // Unpacked beside its place, so that what is there is whole.
    let partial = root.with_file_name(format!("{version}.partial"));
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    command::run(Command::new("dpkg").arg("-x").arg(file.path()).arg(&partial))?;
    fs::rename(&partial, &root)
        .with_context(|| format!("cannot keep the kernel in {}", root.display()))?;
    unpacked(&version, &root).with_context(|| format!("no kernel in {package}"))
}

fn unpacked(version: &str, root: &Path) -> Option<Kernel> {
    let name = fs::read_dir(root.join("boot")).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_prefix("vmlinuz-")?.to_owned())
    })?;
    Some(Kernel {
        version: version.to_owned(),
        image: root.join("boot").join(format!("vmlinuz-{name}")),
        modules: root.join("lib/modules").join(&name).join("kernel"),
        release: name,
    })
}

/// The newest of the kernels for virtual machines among some packages: the one with the highest
/// numbers, compared one by one.
fn newest<'a>(packages: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let numbers = |name: &str| -> Vec<u32> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
    };
    packages.filter(|name| name.ends_with("-cloud-amd64")).max_by_key(|name| numbers(name))
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_kernel_for_virtual_machines_is_chosen() {
        let packages = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-28-cloud-amd64",
            "linux-image-6.1.0-28-cloud-amd64-dbg",
            "linux-image-6.1.0-31-amd64",
            "linux-image-6.1.0-29-cloud-amd64-unsigned",
        ];
        assert_eq!(newest(packages.into_iter()), Some("linux-image-6.1.0-28-cloud-amd64"));
        let packages =
            ["linux-image-6.12.9+deb12-cloud-amd64", "linux-image-6.12.43+deb12-cloud-amd64"];
        assert_eq!(newest(packages.into_iter()), Some(packages[1]));
        assert_eq!(newest([].into_iter()), None);
    }
}
